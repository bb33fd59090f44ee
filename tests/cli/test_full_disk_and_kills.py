"""Disks that are full and processes that are killed or interrupted: outputs whole, one line, no traceback."""

import os
import resource
import signal
import subprocess
import sys
import time
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from helpers.cli_runs import Files, strict_json

TRAIN = ("--network", "mlp", "--data", "digits", "--network-arguments", '{"hidden": [8]}', "--epochs", "1")


def process(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "crossbar_sim", *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "limit"),
    [
        (("deploy", "MODEL", "--chips", "40", "--json", "OUT"), 1000),
        (("deploy", "MODEL", "--chips", "2", "--maps", "OUT"), 9000),
        (("deploy", "MODEL", "--chips", "2", "--plot", "OUT"), 9000),
        (("train", *TRAIN, "-o", "OUT"), 900),
    ],
    ids=["json", "maps", "plot", "train"],
)
def test_a_full_disk(files: Files, tmp_path: Path, arguments: tuple[str, ...], limit: int):
    out = tmp_path / ("out.png" if "--plot" in arguments else "out")
    out.write_text("as it was")

    def full() -> None:
        signal.signal(
            signal.SIGXFSZ, signal.SIG_IGN
        )  # so that writing beyond it is an error, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    words = {"MODEL": files.checkpoint, "OUT": out}
    # Compiled kernels and fonts go to caches, which the limit would keep from being written too.
    run = process(*(words.get(word, word) for word in arguments), preexec_fn=full)
    written, error = run.communicate(timeout=120)
    lines = error.splitlines()
    assert run.returncode == 2, error
    assert len(lines) == 1
    assert lines[0].startswith(f"error: cannot write {out}: File too large")
    assert "Traceback" not in written
    assert out.read_text() == "as it was"
    assert [p.name for p in tmp_path.iterdir()] == [out.name]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("buffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("arguments", [("deploy", "MODEL", "--chips", "2", "--json", "-"), ("presets",)])
def test_standard_output_onto_a_full_disk(files: Files, arguments: tuple[str, ...], buffered: str):
    words = [word.replace("MODEL", str(files.checkpoint)) for word in arguments]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "crossbar_sim", *words],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=120, check=False,
            env={**os.environ, "PYTHONUNBUFFERED": buffered},
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error:")
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("written", [0, 1])
def test_killed_before_an_output_has_its_name_all_outputs_are_whole(
    files: Files, tmp_path: Path, written: int
):
    """A file takes its name last: the process kills itself there, when `written` outputs are new."""
    report, chip = tmp_path / "r.json", tmp_path / "r.h5"
    for path in (report, chip):
        path.write_bytes(b"as it was")
    arguments = ["deploy", files.checkpoint, "--sigma", "0.6", "--chips", "2", "--sensitivity-chips", "0"]
    words = [str(word) for word in (*arguments, "--json", report, "--maps", chip)]
    code = f"""
import os, signal, sys
from crossbar_sim.__main__ import main
replace, left = os.replace, [{written}]
def killed(source, target):
    if str(target) in {[str(report), str(chip)]!r}:
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
    replace(source, target)
os.replace = killed
sys.argv[1:] = {words!r}
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    contents = [report.read_bytes(), chip.read_bytes()]
    new = [content for content in contents if content != b"as it was"]
    assert len(new) == written
    assert all(
        strict_json(report.read_text())["chips"] == [0, 1] for content in new if content == contents[0]
    )
    others = {path.name for path in tmp_path.iterdir()} - {report.name, chip.name}
    assert len(others) == 1  # what was to take the name, complete
    assert all(name.startswith(".") for name in others)


def test_interrupted_it_says_so_in_one_line(files: Files, tmp_path: Path):
    out = tmp_path / "r.json"
    out.write_text("as it was")
    # a shell starts what it puts in the background with SIGINT ignored, and children inherit that
    heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    run = process("deploy", files.checkpoint, "--chips", "500000", "--json", out, **heard)
    try:
        time.sleep(5)
        assert run.poll() is None
        run.send_signal(signal.SIGINT)
        written, error = run.communicate(timeout=60)
    finally:
        run.kill()
    assert run.returncode == 130
    assert error.split() == ["stopped"]
    assert written == ""
    assert out.read_text() == "as it was"
    assert [p.name for p in tmp_path.iterdir()] == ["r.json"]


@pytest.mark.parametrize("while_it_loads", ["crossbar_sim.cli", "click", "crossbar_sim.commands.sweep"])
def test_interrupted_while_it_loads_it_says_so_in_one_line(while_it_loads: str):
    code = f"""
import signal, sys
from crossbar_sim.__main__ import main
assert "click" not in sys.modules and "crossbar_sim.cli" not in sys.modules
class Interrupts:
    def find_spec(self, name, *_):
        if name == {while_it_loads!r}:
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupts())
sys.argv[1:] = ["sweep", "--help"]
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert (done.returncode, done.stdout, done.stderr.strip()) == (130, "", "stopped")


def test_the_installed_command_starts_where_ctrl_c_is_heard():
    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"crossbar-sim": "crossbar_sim.__main__:main"}


@pytest.mark.parametrize(
    ("number", "seconds", "arguments"),
    [
        (signal.SIGINT, 2.5, ("sweep", "MODEL", "--chips", "100000", "--results", "r.db", "--workers", "2")),
        (
            signal.SIGTERM,
            4,
            (
                "train",
                "--network",
                "mlp",
                "--data",
                "digits",
                "--epochs",
                "99999",
                "-o",
                "t.pt",
                "--checkpoint",
                "t.ck",
            ),
        ),
    ],
    ids=["while workers start", "SIGTERM in a training"],
)
def test_stopped_at_any_moment_it_ends_within_seconds(
    files: Files, tmp_path: Path, number: signal.Signals, seconds: float, arguments: tuple[str, ...]
):
    words = [word.replace("MODEL", str(files.checkpoint)) for word in arguments]
    run = process(
        *words,
        cwd=tmp_path,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        time.sleep(seconds)
        (os.killpg if number == signal.SIGINT else os.kill)(
            run.pid, number
        )  # a terminal's Ctrl-C reaches them all
        _, error = run.communicate(timeout=20)
        assert error.split() == ["stopped"]
        assert run.returncode == 128 + number
        time.sleep(0.5)
        assert not living(run.pid)
        assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()


def living(session: int) -> list[str]:
    """The processes of a session that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, itself = stat.read_text().rpartition(")")[2].split()[:4]
            if int(itself) == session and state not in "ZX":
                found.append(stat.parent.name)
    return found
