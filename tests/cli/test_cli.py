"""info, doctor, help, and the command line as a real process."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli_runs import Command, Files, strict_json
from torch import nn

import crossbar_sim
from crossbar_sim.cli import COMMANDS, cli

QUICK = ("--sigma", "0.6", "--chips", "4", "--sensitivity-chips", "0", "--json", "-")


def real(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m crossbar_sim ...` as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "crossbar_sim", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, env=os.environ | environment, check=False,
    )  # fmt: skip


# info, doctor, help


def test_info_on_models(command: Command, files: Files):
    for way, words in {
        (files.checkpoint,): ("crossbar-sim checkpoint", "network mlp", "digits", "fc1 (Linear): 64 x 24"),
        (files.dynamic,): ("torch.export archive", "1x8x8", "2,130", "fc1 (Linear)"),
        (files.fixed,): ("torch.export archive", "exactly 7"),
        (files.state_dict, "--arch", "mlp"): ("state_dict", "not stated in the file"),
        (files.pickled, "--trust-pickle"): ("pickled module",),
    }.items():
        result = command("info", *way)
        assert result.code == 0
        for word in words:
            assert word in result.out


def test_info_on_a_model_that_has_nothing_to_map(command: Command, tmp_path: Path):
    torch.export.save(torch.export.export(nn.ReLU(), (torch.zeros(2, 3),)), tmp_path / "relu.pt2")
    result = command("info", tmp_path / "relu.pt2")
    assert result.code == 0
    assert "cannot be deployed" in result.out
    assert command("deploy", tmp_path / "relu.pt2").code == 2


def test_info_on_a_chip_file(command: Command, files: Files, tmp_path: Path):
    command("export", files.checkpoint, tmp_path / "chip.h5", "--sigma", 0.6, "--chip", 3, "--seed", 9)
    result = command("info", tmp_path / "chip.h5")
    assert result.code == 0
    for word in ("seed             9", "chip             3", "lognormal", "fc1.weight", "2 x 64 x 24"):
        assert word in result.out


def test_doctor_finds_this_machine_healthy(command: Command, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CROSSBAR_SIM_DATA", "/somewhere")
    result = command("doctor")
    assert result.code == 0
    assert "BAD" not in result.out
    for word in ("Random123", "M cells/s", importlib.metadata.version("torch"), "/somewhere"):
        assert word in result.out


def test_doctor_says_so_when_the_stream_is_wrong(command: Command, monkeypatch: pytest.MonkeyPatch):
    from crossbar_sim.crossbar.stream import Stream

    monkeypatch.setattr(Stream, "words", lambda self, n, start=0: np.zeros(n, np.uint32))
    result = command("doctor")
    assert result.code == 2
    assert re.search(r"^BAD +random stream", result.out, re.MULTILINE)
    assert result.err.startswith("error:")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_has_an_example_that_is_one(command: Command, name: str):
    result = command(name, "--help")
    assert result.code == 0
    examples = re.findall(rf"^ +crossbar-sim ({name}.*)$", result.out, re.MULTILINE)
    assert examples
    known = {option for parameter in cli.get_command(None, name).params for option in parameter.opts}
    for example in examples:
        assert {word for word in example.split() if word.startswith("--")} <= known


@pytest.mark.parametrize("name", ["deploy", "sweep", "sensitivity", "train", "search"])
@pytest.mark.parametrize("columns", [80, 100])
def test_options_stand_under_headings(
    command: Command, monkeypatch: pytest.MonkeyPatch, name: str, columns: int
):
    monkeypatch.setenv("COLUMNS", str(columns))
    text = command(name, "--help").out
    headings = [line.rstrip(":") for line in text.splitlines() if re.fullmatch(r"[A-Z]\w+:", line)]
    assert headings[:3] == ["Model", "Hardware", "Data"]
    assert headings[-3:] == ["Computation", "Output", "Help"]
    for option, heading in {"--sigma": "Hardware", "--data": "Data", "--threads": "Computation"}.items():
        above = text[: text.index(f"\n  {option} ")].splitlines()
        assert [line for line in above if re.fullmatch(r"[A-Z]\w+:", line)][-1] == f"{heading}:"
    prose = [line for line in text.splitlines() if "crossbar-sim " + name not in line]
    assert max(map(len, prose)) <= columns


@pytest.mark.parametrize("name", ["deploy", "export", "info"])
def test_a_command_alone_shows_its_help(command: Command, name: str):
    result = command(name)
    assert result.code == 2
    assert "Examples:" in result.out or "Example:" in result.out


def test_help_is_quick_and_neither_it_nor_the_package_loads_torch():
    code = (
        "import sys, crossbar_sim\nassert crossbar_sim.Key(0)\n"
        "from crossbar_sim.cli import COMMANDS, run\n"
        "for name in COMMANDS:\n"
        "    assert run([name, '--help']) == 0\n"
        "assert run(['--help']) == run(['--version']) == 0\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'h5py', 'scipy', 'sklearn', 'numba', 'rich', 'pydantic'}\n"
        "assert not heavy & {*sys.modules}, heavy & {*sys.modules}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert crossbar_sim.__version__ in done.stdout
    assert real("deploy", "--help").returncode == 0


def test_the_names_of_devices_and_arrays_load_no_torch():
    code = (
        "import sys, crossbar_sim\nrooms = tuple(f'crossbar_sim.{room}' for room in ('crossbar', 'errors', 'rng'))\n"
        "names = [name for name, (home, _) in crossbar_sim._HOME.items() if home.startswith(rooms)]\n"
        "assert {'Hardware', 'ADC', 'Key'} <= {*names}\n"
        "for name in names:\n    getattr(crossbar_sim, name)\n"
        "assert 'torch' not in sys.modules\nassert crossbar_sim.nn.to_analog\nassert 'torch' in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


# Real processes


def test_a_real_run_writes_all_its_outputs(files: Files, tmp_path: Path):
    json_path, plot, maps = (tmp_path / name for name in ("ö r.json", "ö r.png", "ö r.h5"))
    done = real(
        "deploy", files.checkpoint, "--chips", 3, "--json", json_path, "--plot", plot, "--maps", maps,
        PYTHONIOENCODING="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "On 3 chips the model keeps" in done.stdout
    assert f"wrote {json_path}" in done.stdout
    assert strict_json(json_path.read_text())["chips"] == [0, 1, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["ö r.h5", "ö r.json", "ö r.png"]
    again = real("deploy", files.checkpoint, "--chips", 3, "--json", "-", OMP_NUM_THREADS="2")
    assert again.stdout == json_path.read_text()


def test_a_terminal_without_greek_letters(files: Files):
    done = real("deploy", files.checkpoint, "--chips", 2, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "2 chips" in done.stdout
    assert done.stdout.isascii()


def test_an_archive_in_a_real_run_is_quiet_on_standard_error(files: Files):
    done = real("deploy", files.fixed, "--images", 14, "--chips", 2)
    assert done.returncode == 0
    assert done.stderr == ""


def test_a_reader_that_has_gone_is_no_error_of_ours(files: Files):
    done = subprocess.run(
        ["sh", "-c", '"$0" -m crossbar_sim presets --laws | head -n 1', sys.executable],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stdout == "drift:\n"
    assert done.stderr == ""


def test_a_home_that_is_not_there_and_a_cache_that_cannot_be_written(files: Files, tmp_path: Path):
    (tmp_path / "file").write_text("")
    done = real(
        "deploy", files.checkpoint, "--chips", 2, "--sensitivity-chips", 0,
        "--plot", tmp_path / "p.png", HOME=str(tmp_path / "file" / "home"),
        NUMBA_CACHE_DIR=str(tmp_path / "file" / "x"), MPLCONFIGDIR=str(tmp_path / "file" / "mpl"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "p.png").stat().st_size > 10_000
