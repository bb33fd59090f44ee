"""Every file that cannot be used gives one sentence with its name and the cause, and stays as it was."""

import os
import random
from pathlib import Path

import pytest
from helpers.results_files import SHA, changed, made, task, trials

from crossbar_sim import InputError
from crossbar_sim.store.records import Trial
from crossbar_sim.store.results import Results


def reading(path: Path) -> None:
    with Results.open(path, readonly=True) as results:
        for one in results.tasks():
            results.trials(one.id)
            results.places(one.id)
            results.counts(one.id)
            results.details(one.id)


def refused(path: Path, *parts: str) -> None:
    """Reading and writing both refuse it, and do not change it."""
    before = path.read_bytes()
    for readonly in (True, False):
        with pytest.raises(InputError) as caught:
            Results.open(path, readonly=readonly)
        for part in (str(path), *parts):
            assert part in str(caught.value)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


SCHEMAS = {
    "a view": ("DROP TABLE details", "CREATE VIEW details AS SELECT 1 AS task, 2 AS name, 3 AS content"),
    "a trigger": ("CREATE TRIGGER more AFTER INSERT ON trials BEGIN DELETE FROM tasks; END",),
    "an index": ("CREATE INDEX more ON trials (abs(chip))",),
    "a table more": ("CREATE TABLE more (x)",),
    "a virtual table": ("CREATE VIRTUAL TABLE more USING fts5(x)",),
    "a table less": ("DROP TABLE details",),
    "a column more": ("ALTER TABLE trials ADD COLUMN more REAL",),
    "a view for trials": (
        "ALTER TABLE trials RENAME TO hidden",
        "CREATE VIEW trials AS SELECT * FROM hidden, (WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i FROM n) "
        "SELECT i FROM n)",
    ),
}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_other_tables(tmp_path: Path, kind: str) -> None:
    path = changed(made(tmp_path / "runs.db"), "PRAGMA foreign_keys = OFF", *SCHEMAS[kind])
    refused(path, "does not have the tables of crossbar-sim results")


VALUES = {
    "value": ("'high'", "x'00ff'", "9e999", "-9e999"),
    "sigma": ("-0.5", "'x'", "9e999"),
    "chip": ("-1", "0.5", "'a'", "x'01'"),
    "images": ("0", "-5", "1.5"),
    "variance": ("-1e-9", "9e999", "'x'"),
    "seconds": ("'now'",),
    "metric": ("x'61'",),
}


@pytest.mark.parametrize(("column", "bad"), [(c, v) for c, all_bad in VALUES.items() for v in all_bad])
def test_impossible_values(tmp_path: Path, column: str, bad: str) -> None:
    path = changed(
        made(tmp_path / "runs.db"), f"UPDATE trials SET {column} = {bad} WHERE sigma = 0.1 AND chip = 2"
    )
    refused(path, "is damaged (")


TASKS = {
    "another seed": ("UPDATE tasks SET identity = replace(identity, '\"seed\":0', '\"seed\":1')", "has the SHA-256"),
    "another id": (f"UPDATE tasks SET id = '{SHA}'", "has the SHA-256"),
    "other spacing": ("UPDATE tasks SET identity = replace(identity, ',', ', ')", "has the SHA-256"),
    "no JSON": ("UPDATE tasks SET identity = '{'", "cannot be read as JSON"),
    "deep JSON": (f"UPDATE tasks SET identity = '{'[' * 100_000}'", "cannot be read as JSON"),
    "NaN": ("UPDATE tasks SET about = '{\"x\":NaN}'", "NaN is not a JSON number"),
    "huge number": (f"UPDATE tasks SET about = '{'9' * 5000}'", "cannot be read as JSON"),
    "no object": ("UPDATE tasks SET identity = '[1]'", "identity of task 'erm' has metric None"),
    "no metric": ("UPDATE tasks SET identity = '{}'", "identity of task 'erm' has metric None"),
    "about no object": ("UPDATE tasks SET about = '[]'", "text and an object"),
    "bytes": ("UPDATE tasks SET label = x'ff00'", "is damaged"),
    "no characters": ("UPDATE tasks SET label = CAST(x'ff41' AS TEXT)", "is damaged"),
    "clean in words": ("UPDATE tasks SET clean = 'good'", "is damaged"),
    "clean infinite": ("UPDATE tasks SET clean = 9e999", "is damaged"),
    "a huge text": ("UPDATE tasks SET about = CAST(zeroblob(20000000) AS TEXT)", "more than 16 MiB"),
}  # fmt: skip


@pytest.mark.parametrize("kind", TASKS)
def test_tasks_that_are_not_what_they_say(tmp_path: Path, kind: str) -> None:
    statement, part = TASKS[kind]
    path = changed(made(tmp_path / "runs.db"), "PRAGMA foreign_keys = OFF", statement)
    refused(path, part)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (f"[{'1,' * 9_000_000}1]", "more than 16 MiB"),
        ("[", "detail 'x' cannot be read"),
        ("NaN", "NaN is not a JSON number"),
    ],
)
def test_details_that_are_none(tmp_path: Path, content: str, part: str) -> None:
    """They are looked at when they are asked for."""
    path = changed(made(tmp_path / "runs.db"), f"INSERT INTO details SELECT id, 'x', '{content}' FROM tasks")
    with pytest.raises(InputError, match=part), Results.open(path, readonly=True) as results:
        results.details(task().id)


def test_orphans_are_not_seen(tmp_path: Path) -> None:
    path = changed(
        made(tmp_path / "runs.db"),
        "INSERT INTO trials SELECT 'nobody', sigma, chip, metric, images, value, variance, seconds FROM trials",
        "INSERT INTO trials SELECT task, sigma, chip, 'other', images, value, variance, seconds FROM trials",
    )
    with Results.open(path) as results:
        assert results.trials(task().id) == tuple(trials())
        assert len(results.places(task().id)) == sum(c.chips for c in results.counts(task().id)) == 12


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"\x00" * 5000, "not an SQLite file"),
        (b"label,value\n" * 500, "not an SQLite file"),
        (b"SQLite format 3\x00" + b"\xff" * 4080, ""),
        (random.Random(1).randbytes(10_000), "not an SQLite file"),
        (b"x", "not an SQLite file"),
    ],
)
def test_no_sqlite_file(tmp_path: Path, content: bytes, part: str) -> None:
    path = tmp_path / "runs.db"
    path.write_bytes(content)
    refused(path, part)


def test_an_sqlite_file_of_another_program(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    changed(path, "CREATE TABLE notes (x)")
    refused(path, "not of crossbar-sim results")
    changed(path, "DROP TABLE notes", "PRAGMA application_id = 7")
    refused(path, "not of crossbar-sim results")


def test_an_empty_file_is_taken_as_new(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    path.touch()
    with pytest.raises(InputError, match="holds no results"):
        Results.open(path, readonly=True)
    assert made(path).stat().st_size > 0


@pytest.mark.parametrize("readonly", [True, False])
def test_names_that_cannot_be_used(tmp_path: Path, readonly: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, part in (
        (tmp_path, "is a directory"),
        (tmp_path / "pipe", "not a regular file"),
        ("/dev/null", "not a regular file"),
        ("", "is empty: name a file"),
        ("a\0b", "is not the name of a file"),
        (tmp_path / ("x" * 300), "name too long"),
        (tmp_path / "no" / "runs.db", "no such file" if readonly else "make it first"),
    ):
        with pytest.raises(InputError, match=f"(?i){part}"):
            Results.open(name, readonly=readonly)
    with pytest.raises(InputError, match="no such file"):
        Results.open(tmp_path / "runs.db", create=False)
    assert [p.name for p in tmp_path.iterdir()] == ["pipe"]


def test_truncated_files(tmp_path: Path) -> None:
    whole = made(tmp_path / "whole.db", chips=200).read_bytes()
    path = tmp_path / "runs.db"
    for size in (1, 15, 16, 99, 100, 511, 512, 4095, 4096, 5000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match=r"runs\.db"):
            reading(path)


def test_damaged_files(tmp_path: Path) -> None:
    """Whatever byte is wrong: values, or one sentence; never another error."""
    whole = made(tmp_path / "whole.db", chips=60).read_bytes()
    path, draw, told = tmp_path / "runs.db", random.Random(2), 0
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(draw.choice((1, 1, 8, 64))):
            damaged[draw.randrange(len(damaged) if draw.random() < 0.5 else 600)] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            reading(path)
        except InputError as error:
            told += str(path) in str(error)
    assert told > 100


def test_the_sentence_shows_what_a_terminal_would_obey(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    one = task("a\x1b[31m\nb")
    with Results.open(path) as results:
        results.add_task(one)
        results.add(one.id, trials(chips=1))
        with pytest.raises(InputError) as caught:
            results.add(one.id, [Trial(0.0, 0, 0.5, 10000)])
    assert str(caught.value).isprintable()
