"""crossbar-sim merge and crossbar-sim results."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.cli_runs import Command

from crossbar_sim.store.records import Task, Trial
from crossbar_sim.store.results import Results


def fill(path: Path, label: str = "erm", chips: int = 3, value: float = 0.5) -> Path:
    identity = {"metric": "accuracy", "images": {"count": 10, "drawn": False}, "model": {"sha256": "ab"}}
    one = Task(label, identity, 0.75)
    with Results.open(path) as results:
        results.add_task(one)
        results.add(one.id, [Trial(0.5, c, value, 10) for c in range(chips)])
    return path


def test_merge(command: Command, tmp_path: Path) -> None:
    a, b = fill(tmp_path / "a.db"), fill(tmp_path / "b.db", chips=5)
    result = command("merge", a, b, "-o", tmp_path / "all.db")
    assert (result.code, result.err) == (0, "")
    assert result.out == f"{tmp_path / 'all.db'}: 1 task (1 new), 5 trials (5 new)\n"
    result = command("merge", a, "-o", tmp_path / "all.db")
    assert result.out.endswith(": 1 task (0 new), 5 trials (0 new)\n")


def test_merge_refuses_with_one_line(command: Command, tmp_path: Path) -> None:
    a, b = fill(tmp_path / "a.db"), fill(tmp_path / "b.db", value=0.25)
    result = command("merge", a, b, "-o", tmp_path / "all.db")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"error: {a} and {b} disagree: task 'erm'")
    assert result.err.count("\n") == 1
    assert not (tmp_path / "all.db").exists()
    for arguments in ((), (a,), ("-o", "x.db"), (tmp_path / "none.db", "-o", "x.db")):
        assert command("merge", *arguments).code == 2


def test_the_listing(command: Command, tmp_path: Path) -> None:
    path = fill(tmp_path / "runs.db", label="µ\x1b[2J")
    result = command("results", path)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[0] == f"{path}: 1 task, 3 trials"
    assert "µ\\x1b[2J  accuracy  1 (0.5)  3      10      0.7500  0.5000" in result.out


@pytest.mark.parametrize("form", ["csv", "json"])
def test_tables(command: Command, tmp_path: Path, form: str) -> None:
    path, output = fill(tmp_path / "runs.db", label="µ"), tmp_path / f"runs.{form}"
    shown = command("results", path, "--format", form)
    assert (shown.code, shown.err) == (0, "")
    assert command("results", path, "--format", form, "-o", "-") == shown
    if form == "csv":
        assert command("results", path, "-o", "-") == shown
    assert command("results", path, "--format", form, "-o", output).out == ""
    assert output.read_text("utf-8") == shown.out
    output.unlink()
    assert command("results", path, "-o", output).code == 0  # the name says the format
    assert output.read_text("utf-8") == shown.out
    if form == "json":
        assert [row["chip"] for row in json.loads(shown.out)] == [0, 1, 2]


def test_parquet(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, output = fill(tmp_path / "runs.db"), tmp_path / "runs.parquet"
    if pytest.importorskip("pyarrow"):
        assert command("results", path, "--format", "parquet", "-o", output).code == 0
        assert output.read_bytes()[:4] == b"PAR1"
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = command("results", path, "--format", "parquet", "-o", output)
    assert result.code == 2
    assert "pip install '.[tables]'" in result.err


def test_bad_input(command: Command, tmp_path: Path) -> None:
    path = fill(tmp_path / "runs.db")
    before = path.read_bytes()
    (tmp_path / "link.db").symlink_to(path)
    for arguments, words in (
        (("results", tmp_path / "none.db"), "there is no such file"),
        (("results", tmp_path), "is a directory"),
        (("results", path, "--format", "xlsx"), "xlsx"),
        (("results", path, "--format", "parquet"), "-o FILE"),
        (("results", path, "-o", "runs.xls"), "format of runs.xls is unknown"),
        (("results", path, "--format", "csv", "-o", path), "is the results file itself"),
        (("results", path, "--format", "csv", "-o", tmp_path / "link.db"), "is the results file itself"),
        (("results", path, "--format", "csv", "-o", tmp_path / "no" / "x.csv"), "make it first"),
        (("results", path, "--format", "csv", "-o", tmp_path), "is a directory"),
    ):
        result = command(*arguments)
        assert result.code == 2
        assert result.out == ""
        assert words in result.err
        assert result.err.startswith("error: ")
        assert result.err.count("\n") == 1
    assert path.read_bytes() == before


def test_listing_loads_nothing_heavy(tmp_path: Path) -> None:
    path = fill(tmp_path / "runs.db", chips=10_000)
    code = (
        "import sys; from crossbar_sim.cli import run\n"
        "assert run(sys.argv[1:]) == 0; assert not {'torch', 'h5py', 'numpy'} & set(sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "results", str(path)], check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    assert b"10000" in done.stdout or b"10,000" in done.stdout
