import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.cli_runs import Command
from helpers.made_sweeps import SIGMAS, details, task, trials

from crossbar_sim.commands.report import _named
from crossbar_sim.store import Results, Task


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "runs.db"
    with Results.open(path) as file:
        for place, label in enumerate(("erm", "bayes, ft")):
            made = task(label)
            file.add_task(made)
            file.add(made.id, trials(place, SIGMAS, 6))
            for name, content in details(place).items():
                file.set_detail(made.id, name, content)
    return path


def test_a_results_file_becomes_a_page(command: Command, results: Path, tmp_path: Path) -> None:
    before = results.read_bytes()
    done = command("report", results, "-o", tmp_path / "out.html")
    assert (done.code, done.err) == (0, "")
    assert "bayes, ft is the most robust" in done.out
    assert f"wrote {tmp_path / 'out.html'}" in done.out
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert page.endswith("</html>\n")
    assert str(tmp_path) not in page
    assert results.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["out.html", "runs.db"]


def test_the_page_is_the_same_bytes_in_another_process(
    command: Command, results: Path, tmp_path: Path
) -> None:
    assert command("report", results, "-o", tmp_path / "a.html").code == 0
    arguments = ["report", str(results), "-o", str(tmp_path / "b.html")]
    subprocess.run(
        [sys.executable, "-m", "crossbar_sim", *arguments],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_figures_title_threshold_and_models(command: Command, results: Path, tmp_path: Path) -> None:
    done = command(
        "report", results, "-o", tmp_path / "out.html", "--figures", tmp_path / "figures", "--title", "A <title>",
        "--threshold", 0.5, "--models", "bayes, ft",
    )  # fmt: skip
    assert done.code == 0
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "<h1>A &lt;title&gt;</h1>" in page
    assert "below 50&nbsp;%" in page
    assert "chart-differences" not in page
    assert {"curves.png", "curves.svg", "yield.svg", "sensitivity.svg"} <= set(
        os.listdir(tmp_path / "figures")
    )
    assert "differences.svg" not in os.listdir(tmp_path / "figures")


def make_empty(path: Path) -> None:
    with Results.open(path):
        pass


def make_untried(path: Path) -> None:
    with Results.open(path) as file:
        file.add_task(task("a"))


def make_mixed(path: Path) -> None:
    with Results.open(path) as file:
        for made in (task("a"), task("b", "output_error")):
            file.add_task(made)
            file.add(made.id, trials(0, SIGMAS, 2, made.metric))


def make_damaged(path: Path) -> None:
    with Results.open(path) as file:
        made = Task("a", task("a").identity, 0.97)
        file.add_task(made)
        file.add(made.id, trials(0, SIGMAS, 2))
        file.set_detail(made.id, "sensitivity", {"layers": 3})


def make_another(path: Path) -> None:
    sqlite3.connect(path).execute("CREATE TABLE t (a)").connection.close()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.write_bytes(b""), "no results"),
        (lambda path: path.write_bytes(b"text\n" * 99), "runs.db"),
        (make_another, "runs.db"),
        (make_empty, "no results"),
        (make_untried, "no trial"),
        (make_mixed, "several metrics"),
        (make_damaged, "the sensitivity of a cannot be read"),
    ],
)
def test_a_file_that_cannot_be_reported_is_one_line(
    make: Callable[[Path], object], said: str, command: Command, tmp_path: Path
) -> None:
    make(tmp_path / "runs.db")
    (tmp_path / "out.html").write_text("old")
    done = command("report", tmp_path / "runs.db", "-o", tmp_path / "out.html")
    assert done.code == 2
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1
    assert said in done.err
    assert (tmp_path / "out.html").read_text() == "old"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--models", "erm,bayesft"], "'bayesft'"),
        (["--models", "erm,erm"], "twice"),
        (["--threshold", "90"], "0 .. 1"),
        (["-o", "missing/out.html"], "missing is not a directory"),
        (["-o", "."], "is a directory"),
        (["-o", "runs.db"], "it is an input"),
        (["--figures", "runs.db"], "this is a file"),
    ],
)
def test_what_cannot_be_done_is_one_line_before_anything_is_written(
    arguments: list[str], said: str, command: Command, results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(results.parent)
    before = results.read_bytes()
    done = command("report", "runs.db", *arguments)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert said in done.err
    assert os.listdir(results.parent) == ["runs.db"]
    assert results.read_bytes() == before


def test_without_altair_one_line_says_what_to_install(
    command: Command, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "altair", None)
    done = command("report", results, "-o", tmp_path / "out.html")
    assert done.code == 2
    assert "pip install altair vl-convert-python" in done.err


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from crossbar_sim.commands.report import report; "
        "report.main(['--help'], standalone_mode=False); "
        "print(sorted({'torch', 'altair', 'matplotlib', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("plain, seed 0,plain, seed 1", ["plain, seed 0", "plain, seed 1"]),
        ("aware,plain, seed 1", ["aware, seed 0", "aware, seed 1", "plain, seed 1"]),
        ("other, a,b", ["other, a,b"]),
        ("erm , plain, seed 0", ["erm", "plain, seed 0"]),
        ("eem,erm", ["eem", "erm"]),  # what is no name is left to be refused
    ],
)
def test_models_are_named_with_the_commas_in_their_labels(text: str, found: list[str]) -> None:
    labels = ["plain, seed 0", "plain, seed 1", "aware, seed 0", "aware, seed 1", "erm", "other, a,b"]
    assert _named(text, labels) == found
