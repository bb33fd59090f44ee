"""Parts in slots of time: nothing that is done is lost, and no part keeps the others from running."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"

SCRIPT = """
import os, sys, time
from pathlib import Path
from slots import Part, Skipped, arguments, main

def counted(place, **more):
    with (place.folder / "calls").open("a") as file:
        file.write("x")
    return {"calls": (place.folder / "calls").stat().st_size, **more}

def fails(place):
    counted(place)
    raise ValueError("no such luck")

def dies(place):
    counted(place)
    os.abort()

def leaves(place):
    counted(place)
    sys.exit("left early")

def lacks(place):
    raise Skipped("no data")

def epochs(place):
    while counted(place)["calls"] < 1000:
        time.sleep(0.02)
    return {"epochs": 1000}

options = arguments(__doc__).parse_args()
raise SystemExit(main([
    Part("first", 0.1, counted),
    Part("fails", 0.1, fails),
    Part("lacks", 0.1, lacks),
    Part("dies", 0.1, dies),
    Part("leaves", 0.1, leaves),
    Part("long", 1000, counted),
    Part("last", 0.1, lambda place: counted(place, folder=place.folder.name)),
    Part("epochs", 0.2, epochs, keeps=True),
], options, lambda options: {"device": "none"}))
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


def start(script: Path, out: Path, *more: str, limit: float = 30) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONPATH": str(BENCHMARKS)}
    return subprocess.Popen(
        [sys.executable, str(script), "--limit", str(limit), "-o", str(out), *more],
        env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def states(out: Path) -> dict[str, dict[str, object]]:
    return json.loads((out / "report.json").read_text())  # type: ignore[no-any-return]


def wait_for_calls(out: Path, part: str, least: int) -> None:
    until = time.monotonic() + 30
    while time.monotonic() < until:
        if (calls := out / part / "calls").exists() and calls.stat().st_size >= least:
            return
        time.sleep(0.02)
    raise AssertionError(f"{part} was not called")


def test_every_part_that_fits_runs_whatever_the_others_do(script: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(script, out, "--skip", "epochs")
    printed, _ = process.communicate()
    assert process.returncode == 1, printed
    found = states(out)
    assert {name: state["state"] for name, state in found.items()} == {
        "first": "done", "fails": "failed", "lacks": "skipped", "dies": "failed", "leaves": "failed", "last": "done",
    }  # fmt: skip
    assert found["last"]["result"] == {"calls": 1, "folder": "last"}
    assert found["last"]["machine"] == {"device": "none"}
    assert "in fails" in str(found["fails"]["error"])
    assert "ValueError: no such luck" in str(found["fails"]["error"])
    assert found["lacks"]["error"] == "no data"
    assert found["lacks"]["process"] == found["dies"]["process"]
    assert "SIGABRT" in str(found["dies"]["error"])
    assert "left early" in str(found["leaves"]["error"])
    assert "not begun: long (takes 1000 s)" in printed
    # Again: what is done is not done again, what failed is tried again; and read-only files are no obstacle.
    for path in [*out.rglob("*"), out]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert start(script, out, "--skip", "epochs").wait() == 1
    assert states(out)["first"]["result"] == {"calls": 1}
    assert (out / "fails/calls").read_text() == "xx"
    # After two attempts a part is tried after all others.
    (out / "first.json").unlink()
    printed, _ = start(script, out, "--skip", "epochs").communicate()
    assert printed.index("first ") < printed.index("fails ")


def test_a_part_that_keeps_its_progress_is_stopped_at_the_limit_and_goes_on(
    script: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    began = time.monotonic()
    assert start(script, out, "--only", "epochs", limit=4).wait() == 0
    assert time.monotonic() - began < 20
    assert states(out)["epochs"]["state"] == "stopped"
    before = (out / "epochs/calls").stat().st_size
    assert 0 < before < 1000
    (out / "epochs/calls").write_text("x" * 998)
    assert start(script, out, limit=30).wait() == 1
    assert states(out)["epochs"]["result"] == {"epochs": 1000}


def test_a_call_killed_in_the_middle_leaves_no_process_and_goes_on(script: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(script, out, "--skip", "fails,dies,leaves")
    wait_for_calls(out, "epochs", 5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert states(out)["first"]["state"] == "done"
    assert start(script, out, "--only", "last").wait() == 0  # waits for what is left of the other
    before = (out / "epochs/calls").stat().st_size
    time.sleep(0.2)
    assert (out / "epochs/calls").stat().st_size == before
    (out / "epochs/calls").write_text("x" * 998)
    assert start(script, out, "--skip", "fails,dies,leaves").wait() == 0
    found = states(out)
    assert found["epochs"]["result"] == {"epochs": 1000}
    assert found["first"]["result"] == {"calls": 1}


def test_a_name_that_no_part_has_is_refused(script: Path, tmp_path: Path) -> None:
    printed, _ = start(script, tmp_path / "out", "--only", "frist").communicate()
    assert "no part is called frist: first, fails" in printed


def test_a_machine_on_which_nothing_can_run_is_said_once(script: Path, tmp_path: Path) -> None:
    script.write_text(SCRIPT.replace('{"device": "none"}', "1 / 0"))
    process = start(script, tmp_path / "out")
    printed, _ = process.communicate()
    assert process.returncode == 1
    assert "no part could begin: exit code 1" in printed
    assert printed.count("ZeroDivisionError") == 1
