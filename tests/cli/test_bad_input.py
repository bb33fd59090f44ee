"""Every bad input: one clear line on standard error, exit code 2, existing files as they were."""

import json
import os
from pathlib import Path

import pytest
import torch
from helpers.bad_files import Marked
from helpers.bad_lines import CASES
from helpers.cli_runs import Command, Files


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_line(
    command: Command,
    files: Files,
    bad: Path,
    chip_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str,
):
    line, why = CASES[name]
    monkeypatch.syspath_prepend(str(bad))
    monkeypatch.delenv("CROSSBAR_SIM_DATA", raising=False)
    good = {
        "MODEL": files.checkpoint, "STATE": files.state_dict, "PICKLE": files.pickled,
        "ARCHIVE": files.dynamic,
        "LABELLED": files.labelled, "CHIP": chip_file, "BAD": bad,
    }  # fmt: skip
    arguments = ["" if word == "''" else word for word in line.split()]
    for key, path in good.items():
        arguments = [
            str(path) + word.removeprefix(key) if word.partition("/")[0] == key else word
            for word in arguments
        ]
    # Outputs that are not the bad input exist already: they must keep their bytes.
    kept = {
        flag: tmp_path / f"kept{suffix}"
        for flag, suffix in (("--json", ".json"), ("--plot", ".png"), ("--maps", ".h5"))
    }
    for path in kept.values():
        path.write_text("as it was")
    if arguments[0] == "deploy":
        for flag, path in kept.items():
            if flag not in arguments and not (flag == "--maps" and "--conductances" in arguments):
                arguments += [flag, str(path)]
    before = {path: path.read_bytes() for path in (*bad.iterdir(), *files.folder.iterdir()) if path.is_file()}
    result = command(*arguments)
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("error: ")
    assert why in lines[0]
    assert len(lines[0]) < 700
    assert "Traceback" not in result.err
    assert result.code == 2
    assert result.out == ""
    assert not (bad / "mark").exists()
    assert [path.read_text() for path in kept.values()] == ["as it was"] * 3
    after = {path: path.read_bytes() for path in (*bad.iterdir(), *files.folder.iterdir()) if path.is_file()}
    assert after == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["kept.h5", "kept.json", "kept.png"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_no_gpu(command: Command, files: Files, device: str):
    result = command("deploy", files.checkpoint, "--device", device)
    assert result.code == 2
    assert result.out == ""
    assert result.err.count("\n") == 1
    assert "no GPU" in result.err


def test_the_mark_would_be_seen(bad: Path, tmp_path: Path):
    """The negative control: what the hostile files carry does run where pickles are trusted."""
    torch.save({"x": Marked(tmp_path / "mark")}, tmp_path / "hostile.pt")
    torch.load(tmp_path / "hostile.pt", weights_only=False)
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "name",
    [
        "with space",
        "nëw µ",
        "two\nlines",
        "-dash",
        "[red]x[bold]",
        "q'uote\"",
        b"\xff".decode(errors="surrogateescape"),
    ],
)
def test_odd_names(
    command: Command, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.chdir(tmp_path)
    Path(f"{name}.pt").write_bytes(files.checkpoint.read_bytes())
    outputs = ("--json", f"./{name}.json", "--plot", f"./{name}.png", "--maps", f"./{name}.h5")
    result = command("deploy", *outputs, "--chips", 2, "--sensitivity-chips", 0, "--", f"{name}.pt")
    assert result.code == 0, result.err
    assert result.err == ""
    assert sorted(p.suffix for p in Path().iterdir()) == [".h5", ".json", ".png", ".pt"]
    assert json.loads(Path(f"{name}.json").read_text())["model"]["sha256"]
    again = command("deploy", f"./{name}.pt", "--conductances", f"./{name}.h5", "--json", "-")
    assert again.code == 0, again.err
    assert command("info", "--", f"{name}.pt").code == command("info", f"./{name}.h5").code == 0
    missing = command("deploy", "--", f"{name}{name}.pt")
    assert missing.code == 2
    assert len(missing.err.splitlines()) == 1
    assert os.listdir() != []
