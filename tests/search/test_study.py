"""Studies: ask and tell, files that survive, files that are refused."""

import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crossbar_sim import InputError, Key
from crossbar_sim.search import Dimension, Space, Study, search

WORKER = str(Path(__file__).parents[1] / "helpers" / "search_worker.py")
SPACE = Space.of({"a": (0.0, 1.0), "b": (10.0, 20.0)})


def value(point: dict[str, float]) -> float:
    return -((point["a"] - 0.7) ** 2) - ((point["b"] - 12) / 10) ** 2


def done(study: Study, trials: int) -> list[dict[str, float]]:
    while study.done < trials:
        for number, point in study.ask():
            study.tell(number, value(point), 1e-4)
    return [dict(trial.point) for trial in study.trials]


def test_ask_and_tell_find_the_maximum():
    with Study(SPACE, Key(0)) as study:
        done(study, 15)
        best = study.best()
    assert abs(best.point["a"] - 0.7) < 0.1
    assert abs(best.point["b"] - 12) < 1
    assert abs(best.mean - value(dict(best.point))) < 0.01


def test_a_trial_depends_on_key_and_history_only(tmp_path):
    with Study(SPACE, Key(0)) as study:
        whole = done(study, 9)
    for stop in (2, 5, 7):
        path = tmp_path / f"{stop}.db"
        with Study(SPACE, Key(0), path) as study:
            done(study, stop)
            study.ask()  # asking alone changes nothing
        with Study(SPACE, Key(0), path) as study:
            assert done(study, 9) == whole
    with Study(SPACE, Key(1)) as study:
        assert done(study, 2) != whole[:2]


def test_a_batch_does_not_depend_on_the_order_of_its_trials(tmp_path):
    def points(backwards: bool, stop: bool) -> list[dict[str, float]]:
        path = tmp_path / f"{backwards}{stop}.db"
        study = Study(SPACE, Key(3), path, batch=3, initial=4)
        while study.done < 9:
            asked = study.ask()[:: -1 if backwards else 1]
            for number, point in asked:
                study.tell(number, value(point), 1e-4)
                if stop:
                    study.close()
                    study = Study(SPACE, Key(3), path, batch=3, initial=4)
        study.close()
        return [dict(trial.point) for trial in study_trials(path)]

    def study_trials(path: Path):
        with Study(SPACE, Key(3), path, batch=3, initial=4) as study:
            assert [trial.number for trial in study.trials] == list(range(9))
            return study.trials

    assert points(False, False) == points(True, False) == points(True, True)


def test_a_study_goes_on_to_more_trials(tmp_path):
    path = tmp_path / "study.db"

    def objective(point, key):
        return value(point)

    search(objective, SPACE, 6, Key(0), study=path)
    more = search(objective, SPACE, 8, Key(0), study=path)
    assert more == search(objective, SPACE, 8, Key(0))


@pytest.mark.parametrize("what", ["function", "literal"])
def test_a_killed_search_ends_the_same(tmp_path, what):
    trials = {"function": 9, "literal": 7}[what]

    def start(name: str, seconds: float) -> subprocess.Popen[str]:
        arguments = [sys.executable, WORKER, str(tmp_path / name), what, str(trials), str(seconds)]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)

    whole = start("whole.db", 0).communicate()[0].splitlines()[-1]
    assert whole.startswith("end")
    pick, kills = random.Random(7), 0
    for _ in range(2):
        process = start("killed.db", 0.05)
        assert process.stdout is not None
        for _ in range(pick.choice([1, 2])):
            process.stdout.readline()
        time.sleep(pick.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        kills += process.returncode == -signal.SIGKILL
    assert kills
    assert start("killed.db", 0).communicate()[0].splitlines()[-1] == whole
    rows = [
        sqlite3.connect(tmp_path / name)
        .execute("SELECT number, point, value, variance FROM trials")
        .fetchall()
        for name in ("whole.db", "killed.db")
    ]
    assert rows[0] == rows[1]
    assert len(rows[0]) == trials


def test_a_study_of_another_search_is_refused_and_kept(tmp_path):
    path = tmp_path / "study.db"
    with Study(SPACE, Key(0), path, identity={"sigma": 0.6}) as study:
        done(study, 3)
    before = path.read_bytes()
    others = [
        (SPACE, Key(0), {"identity": {"sigma": 0.9}}, "sigma is 0.6 there and 0.9 here"),
        (SPACE, Key(1), {"identity": {"sigma": 0.6}}, "key.seed is 0 there and 1 here"),
        (SPACE, Key(0), {"identity": {"sigma": 0.6}, "batch": 2}, "search.batch is 1 there and 2 here"),
        (Space.of({"a": (0, 1)}), Key(0), {"identity": {"sigma": 0.6}}, "search.initial|search.space.b"),
    ]
    for space, key, more, sentence in others:
        with pytest.raises(InputError, match=sentence):
            Study(space, key, path, **more)
    assert path.read_bytes() == before
    with Study(SPACE, Key(0), path, identity={"sigma": 0.6}) as study:
        assert study.done == 3


def test_files_that_are_no_study_are_refused_and_kept(tmp_path):
    text, other, cut, one = (tmp_path / name for name in ("a.txt", "other.db", "cut.db", "one"))
    text.write_text("no database, but rather long " * 100)
    one.write_bytes(b"x")
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    with Study(SPACE, Key(0), cut) as study:
        done(study, 3)
    cut.write_bytes(cut.read_bytes()[:6000])
    for path, sentence in (
        (text, "not a study"),
        (other, "not of a crossbar-sim study"),
        (cut, "damaged"),
        (one, "not a study"),
    ):
        before = path.read_bytes()
        with pytest.raises(InputError, match=sentence):
            Study(SPACE, Key(0), path)
        assert path.read_bytes() == before
    with pytest.raises(InputError, match="directory"):
        Study(SPACE, Key(0), tmp_path)
    with pytest.raises(InputError, match="make it first"):
        Study(SPACE, Key(0), tmp_path / "none" / "study.db")


def test_a_changed_identity_is_damage(tmp_path):
    path = tmp_path / "study.db"
    Study(SPACE, Key(0), path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE study SET identity = replace(identity, '20.0', '30.0')")
    connection.close()
    with pytest.raises(InputError, match="damaged"):
        Study(SPACE, Key(0), path)


def test_what_cannot_be_told_is_refused():
    with Study(SPACE, Key(0)) as study:
        with pytest.raises(InputError, match="no trial yet"):
            study.best()
        for number, what, variance, sentence in (
            (1, 0.5, None, "was not asked for"),
            (0, float("nan"), None, "finite"),
            (0, 0.5, -1.0, "variance"),
        ):
            with pytest.raises(InputError, match=sentence):
                study.tell(number, what, variance)
        study.tell(0, 0.5, 0.1)
        with pytest.raises(InputError, match="some trials only"):
            study.tell(1, 0.5)
        assert study.done == 1


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Space(()), "no dimension"),
        (lambda: Space((Dimension("a"), Dimension("a"))), "alike"),
        (lambda: Dimension("a", 1.0, 1.0), "low < high"),
        (lambda: Dimension("a", 0.0, float("inf")), "finite"),
        (lambda: Dimension("", 0.0, 1.0), "name is text"),
        (lambda: Study(SPACE, Key(0), batch=0), "batch=0"),
        (lambda: Study(SPACE, Key(0), acquisition="mean", batch=2), "batch=1"),
        (lambda: SPACE.unit([{"a": 0.5}]), "the point names a"),
        (lambda: SPACE.unit([{"a": 0.5, "b": 9.0}]), "outside"),
        (lambda: search(lambda p, k: 0.0, SPACE, 0, Key(0)), "trials=0"),
        (lambda: search(lambda p, k: 0.0, SPACE, 4, Key(0), workers=2), "give batch"),
    ],
)
def test_impossible_searches_are_one_sentence(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()


def test_points_go_to_the_unit_cube_and_back():
    point = {"a": 0.123456789, "b": 17.25}
    (place,) = SPACE.unit([point]).tolist()
    assert SPACE.point(place) == pytest.approx(point)
    assert SPACE.point([0, 1]) == {"a": 0.0, "b": 20.0}


def changed_study(path: Path, *statements: str) -> Path:
    """A study of three trials in which somebody has run these statements."""
    with Study(SPACE, Key(0), path) as study:
        done(study, 3)
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()
    return path


ENDLESS = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT"
HIDDEN = "ALTER TABLE trials RENAME TO hidden"
BY_HAND = "PRAGMA writable_schema = ON"
SCHEMAS = {
    "an endless view for trials": (
        HIDDEN,
        f"CREATE VIEW trials AS {ENDLESS} i, '{{}}', 0.5, 0.1, 0.0, '{{}}' FROM n",
    ),
    "an endless view for study": (
        "ALTER TABLE study RENAME TO hidden",
        f"CREATE VIEW study AS {ENDLESS} 1 AS id, max(i) AS sha256, '' AS identity FROM n",
    ),
    "a trigger": (f"CREATE TRIGGER more AFTER INSERT ON trials BEGIN {ENDLESS} max(i) FROM n; END",),
    "a generated column": ("ALTER TABLE trials ADD COLUMN more TEXT AS (hex(zeroblob(1000000)))",),
    "an index on an expression": ("CREATE INDEX more ON trials (length(zeroblob(1000000)))",),
    "a partial index": ("CREATE INDEX more ON trials (value) WHERE length(hex(zeroblob(1000000))) > 1",),
    "a virtual table": ("CREATE VIRTUAL TABLE more USING fts5(x)",),
    "a table more": ("CREATE TABLE more (x)",),
    "a table less": (HIDDEN,),
    "a view that looks like statistics": (
        BY_HAND,
        f"INSERT INTO sqlite_master VALUES ('view', 'sqlite_stat9', 'sqlite_stat9', 0, "
        f"'CREATE VIEW sqlite_stat9 AS {ENDLESS} i FROM n')",
    ),
    "a check of its own": (
        BY_HAND,
        "UPDATE sqlite_master SET sql = replace(sql, 'notes TEXT', 'notes TEXT CHECK (length(zeroblob(9)))')",
    ),
    "a default that counts": (
        BY_HAND,
        "UPDATE sqlite_master SET sql = replace(sql, 'seconds REAL', 'seconds REAL DEFAULT (abs(-9))')",
    ),
}


@pytest.mark.parametrize("kind", SCHEMAS)
def test_a_study_that_declares_anything_of_its_own_is_refused_before_it_is_queried(tmp_path, kind):
    path = changed_study(tmp_path / "study.db", *SCHEMAS[kind])
    before = path.read_bytes()
    with pytest.raises(InputError, match="does not have the tables of a crossbar-sim study"):
        Study(SPACE, Key(0), path)
    assert path.read_bytes() == before


VALUES = {
    "deep notes": f"notes = '{'[' * 3000}{']' * 3000}'",
    "notes 70 deep": f"notes = '{'[' * 70}{']' * 70}'",
    "notes of another kind": "notes = '[1]'",
    "notes that are bytes": "notes = x'ff'",
    "a deep point": f"point = '{'[' * 3000}{']' * 3000}'",
    "a point of another kind": "point = '[0.5, 15.0]'",
    "a point of other names": "point = '{\"a\": 0.5}'",
    "a point outside": 'point = \'{"a": 0.5, "b": 50.0}\'',
    "a point of words": 'point = \'{"a": "x", "b": 15.0}\'',
    "a point of infinities": 'point = \'{"a": 1e999, "b": 15.0}\'',
    "an infinite value": "value = 9e999",
    "an infinite variance": "variance = 9e999",
    "a variance of words": "variance = 'x'",
    "one variance less": "variance = NULL",
    "seconds of words": "seconds = 'x'",
    "a huge text": "notes = CAST(zeroblob(20000000) AS TEXT)",
}


@pytest.mark.parametrize("kind", VALUES)
def test_values_that_no_search_writes_are_damage(tmp_path, kind):
    path = changed_study(
        tmp_path / "study.db",
        "PRAGMA ignore_check_constraints = ON",
        f"UPDATE trials SET {VALUES[kind]} WHERE number = 1",
    )
    with pytest.raises(InputError, match=r"damaged|more than 16 MiB") as caught:
        Study(SPACE, Key(0), path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_study_whose_statistics_were_gathered_is_read(tmp_path):
    with Study(SPACE, Key(0), changed_study(tmp_path / "study.db", "ANALYZE")) as study:
        assert study.done == 3
