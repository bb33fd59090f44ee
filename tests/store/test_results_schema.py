"""docs/results-file.md is true: its examples run, its tables are ours, and files of every version are read for ever."""

import hashlib
import re
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from helpers.make_results_example import DETAIL, FIRST, FIRST_TRIALS, SECOND, SECOND_TRIALS, make
from helpers.results_files import changed, content, made, task, trials

from crossbar_sim import InputError
from crossbar_sim.store import results_file
from crossbar_sim.store.results import Results

DOCUMENT = (Path(__file__).parents[2] / "docs" / "results-file.md").read_text("utf-8")
EXAMPLE = Path(__file__).parents[1] / "data" / "v0.1.0" / "results.db"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


def test_the_file_of_version_1_reads_for_ever() -> None:
    """If this fails, do not write the file again: mend the reader."""
    with Results.open(EXAMPLE, readonly=True) as results:
        first, second = results.tasks()
        assert (first.id, first.label, first.clean) == (FIRST.id, "erm", 0.9703)
        assert first.id == "1f390614f762b64ea1c95b25fef14680a688be97a86409944b88a69187e92353"
        assert (second.label, second.drawn, second.metric) == ("dropout 0.5, µ", True, "output_error")
        assert (second.identity, second.about) == (SECOND.identity, {"file": "dropout 0.5, µ.pt"})
        assert results.trials(first.id) == FIRST_TRIALS
        assert results.trials(second.id) == SECOND_TRIALS
        assert results.details(first.id) == {"sensitivity": DETAIL}


def test_the_file_of_version_1_can_be_added_to(tmp_path: Path) -> None:
    path = Path(shutil.copy(EXAMPLE, tmp_path / "runs.db"))
    with Results.open(path) as results:
        results.add_task(task("new", seed=7))
        results.add(FIRST.id, [*FIRST_TRIALS, *trials(sigmas=(1.5,))])
        assert len(results.tasks()) == 3
        assert len(results.trials(FIRST.id)) == 8


def test_today_gives_the_same_file(tmp_path: Path) -> None:
    assert content(make(tmp_path / "results.db")) == content(EXAMPLE)


def test_the_document_has_the_schema() -> None:
    (shown,) = blocks("sql")
    assert " ".join(shown.split()) == " ".join("; ".join((*results_file.SCHEMA, "")).split()).rstrip()
    assert f"0x{results_file.APPLICATION_ID:08x}" in DOCUMENT
    assert f"`user_version` | {results_file.version()} " in DOCUMENT


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_the_reading_examples(number: int, tmp_path: Path, monkeypatch, capsys) -> None:
    """They need sqlite3, or pandas, alone."""
    code = blocks("python")[number]
    if "pandas" in code:
        pytest.importorskip("pandas")
    assert "crossbar_sim" not in code
    shutil.copy(EXAMPLE, tmp_path / "runs.db")
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    printed = capsys.readouterr().out
    assert "erm" in printed
    assert str(sum(t.value for t in FIRST_TRIALS[2:]) / 2)[:6] in printed


def test_the_identity_can_be_read_and_checked_without_us() -> None:
    connection = sqlite3.connect(f"{EXAMPLE.as_uri()}?mode=ro&immutable=1", uri=True)
    for key, identity in connection.execute("SELECT id, identity FROM tasks"):
        assert hashlib.sha256(identity.encode()).hexdigest() == key
    (drift,) = connection.execute(
        "SELECT json_extract(identity, '$.hardware.drift.kind') FROM tasks"
    ).fetchone()
    assert drift == "log_normal"
    connection.close()


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    path = changed(
        made(tmp_path / "runs.db"), "PRAGMA user_version = 2", "ALTER TABLE trials ADD COLUMN more"
    )
    before = path.read_bytes()
    for readonly in (True, False):
        with pytest.raises(
            InputError, match=r"schema version 2, and this crossbar-sim reads up to 1: upgrade"
        ):
            Results.open(path, readonly=readonly)
    assert path.read_bytes() == before


def test_an_older_file_than_the_first_is_refused(tmp_path: Path) -> None:
    path = changed(made(tmp_path / "runs.db"), "PRAGMA user_version = 0")
    for readonly in (True, False):
        with pytest.raises(InputError, match=r"schema version 0, older than the first release's \(1\)"):
            Results.open(path, readonly=readonly)


def old(path: Path) -> Path:
    """A file of a version 0 that never was: trials had no variance, and there were no details."""
    made(path)
    trials_table = results_file.SCHEMA[1]
    without = "\n".join(line for line in trials_table.splitlines() if "variance" not in line)
    return changed(
        path,
        "ALTER TABLE trials RENAME TO kept",
        without,
        "INSERT INTO trials SELECT task, sigma, chip, metric, images, value, seconds FROM kept",
        "DROP TABLE kept",
        "DROP TABLE details",
        "PRAGMA user_version = 0",
    )


def upgrade(connection: sqlite3.Connection) -> None:
    connection.execute("ALTER TABLE trials RENAME TO kept")
    connection.execute(results_file.SCHEMA[1])
    connection.execute(
        "INSERT INTO trials SELECT task, sigma, chip, metric, images, value, 0.0, seconds FROM kept"
    )
    connection.execute("DROP TABLE kept")
    connection.execute(results_file.SCHEMA[2])


def fail(connection: sqlite3.Connection) -> None:
    upgrade(connection)
    raise sqlite3.OperationalError("on purpose")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(*migrations: Any) -> None:
        monkeypatch.setattr(results_file, "OLDEST", 1 - len(migrations))
        monkeypatch.setattr(results_file, "MIGRATIONS", migrations)

    return use


def test_an_older_file_is_migrated(tmp_path: Path, steps: Any) -> None:
    path = old(tmp_path / "runs.db")
    before = path.read_bytes()
    steps(upgrade)
    with Results.open(path, readonly=True) as results:  # reading changes nothing
        assert results.trials(task().id) == tuple(trials())
    assert path.read_bytes() == before
    with Results.open(path) as results:
        assert results.trials(task().id) == tuple(trials())
        results.add(task().id, trials(chips=5))
    steps()
    assert len(content(path)[task().id][4]) == 15


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, steps: Any) -> None:
    path = old(tmp_path / "runs.db")
    before = path.read_bytes()
    for wrong in (fail, lambda connection: None):  # an error; tables that are not what they should be
        steps(wrong)
        for readonly in (True, False):
            with pytest.raises(InputError, match=r"runs\.db"):
                Results.open(path, readonly=readonly)
    assert path.read_bytes() == before
