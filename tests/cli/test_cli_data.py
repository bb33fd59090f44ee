"""crossbar-sim data list, check and fetch."""

from pathlib import Path

import numpy as np
import pytest
from helpers.cli_runs import Command, Result
from PIL import Image

from crossbar_sim.commands.data import data
from crossbar_sim.data import load_data, make_pedestrians
from crossbar_sim.data.catalogue import CATALOGUE


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CROSSBAR_SIM_DATA", raising=False)


def failed(result: Result) -> str:
    """The one sentence of a command that failed as it should."""
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1
    assert "Traceback" not in result.err
    return result.err


def pictures(folder: Path) -> Path:
    for name in ("cats", "dogs"):
        (folder / name).mkdir(parents=True)
        for i in range(8):
            values = ((np.arange(60) * 7 + i) % 256).astype(np.uint8).reshape(4, 5, 3)
            Image.fromarray(values).save(folder / name / f"{i}.png")
    return folder


def test_every_set_is_listed_with_where_it_is(command: Command, tmp_path: Path) -> None:
    result = command("data", "list")
    assert result.code == 0
    assert result.err == ""
    assert "give --data-dir or set CROSSBAR_SIM_DATA" in result.out
    lines = {line.split()[0]: line for line in result.out.splitlines() if line}
    for name, about in CATALOGUE.items():
        assert about.images in lines[name]
        assert about.layout in lines[name]
    assert " yes " in lines["digits"]
    make_pedestrians(tmp_path, 8, height=32)
    lines = {
        line.split()[0]: line
        for line in command("data", "list", "--data-dir", tmp_path).out.splitlines()
        if line
    }
    assert " yes " in lines["pennfudan"]
    assert " no " in lines["mnist"]


def test_the_environment_names_the_folder(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CROSSBAR_SIM_DATA", str(tmp_path))
    assert f"Looked in {tmp_path}." in command("data", "list").out


def test_check_says_what_a_set_holds(command: Command) -> None:
    result = command("data", "check", "digits")
    assert result.code == 0
    for text in (
        "train        1,078 of shape 1 x 8 x 8, values 0 .. 1, 10 classes, 104 to 110 of each",
        "validation   269 of shape",
        "test         450 of shape",
        "divided by 16",
        f"fingerprint  {load_data('digits').fingerprint}",
        "official     yes",
    ):
        assert text in result.out


def test_check_says_when_it_is_not_the_official_release(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = CATALOGUE["digits"]
    changed = type(about)(about.what, about.images, about.layout, about.find, "0" * 64)
    monkeypatch.setitem(CATALOGUE, "digits", changed)
    assert "official     no" in command("data", "check", "digits").out


def test_check_of_own_files(command: Command, tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=np.zeros((4, 3), np.float32), y=[0, 1, 1, 0])
    result = command("data", "check", tmp_path / "mine.npz")
    assert result.code == 0
    assert "test         4 of shape 3, values 0 .. 0, 2 classes, 2 of each" in result.out
    assert "train" not in result.out
    np.save(tmp_path / "x.npy", np.zeros((4, 3), np.float32))
    assert "no labels" in command("data", "check", tmp_path / "x.npy").out


def test_check_of_a_folder_and_a_size(command: Command, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pets")
    result = command("data", "check", folder)
    assert result.code == 0
    assert "3 x 4 x 5" in result.out
    assert "'cats', 'dogs'" in result.out
    assert "3 x 7 x 7" in command("data", "check", folder, "--size", "7").out
    assert "3 x 7 x 9" in command("data", "check", folder, "--size", "7x9").out
    assert "--size '7by9'" in failed(command("data", "check", folder, "--size", "7by9"))
    assert "size=" in failed(command("data", "check", folder, "--size", "0"))


def test_check_of_the_detection_set(command: Command, tmp_path: Path) -> None:
    make_pedestrians(tmp_path, 8, height=32)
    result = command("data", "check", "pennfudan", "--data-dir", tmp_path)
    assert result.code == 0
    assert "train        4 images of 3 x " in result.out
    assert "objects" in result.out
    assert "drawings" in result.out


def test_bad_data_is_one_sentence(command: Command, tmp_path: Path) -> None:
    assert "--data-dir DIR" in failed(command("data", "check", "mnist"))
    assert str(tmp_path) in failed(command("data", "check", "cifar10", "--data-dir", tmp_path))
    assert "did you mean mnist?" in failed(command("data", "check", "mnits"))
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no archive")
    assert "bad.npz" in failed(command("data", "check", tmp_path / "bad.npz"))
    folder = pictures(tmp_path / "pets")
    (folder / "cats" / "3.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert "3.png: is not a readable image" in failed(command("data", "check", folder))


def test_fetch_refuses_in_one_sentence(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    assert "--data-dir" in failed(command("data", "fetch", "mnist"))
    assert "no checksum" in failed(command("data", "fetch", "pennfudan", "--data-dir", tmp_path))
    assert "needs no fetching" in failed(command("data", "fetch", "digits", "--data-dir", tmp_path))
    gone = failed(command("data", "fetch", "mnist", "--data-dir", tmp_path, "--url", "http://127.0.0.1:9/"))
    assert "cannot be fetched" in gone
    assert "--url" in gone


def test_fetch_leaves_what_is_there(command: Command, tmp_path: Path) -> None:
    make_pedestrians(tmp_path, 8, height=32)
    result = command("data", "fetch", "pennfudan", "--data-dir", tmp_path)
    assert result.code == 0
    assert "is there already" in result.out
    assert "crossbar-sim data check pennfudan" in result.out


@pytest.mark.parametrize("name", sorted(data.commands))
def test_every_command_has_help_with_an_example(command: Command, name: str) -> None:
    result = command("data", name, "--help")
    assert result.code == 0
    assert f"crossbar-sim data {name}" in result.out
    for parameter in data.commands[name].params:
        if parameter.param_type_name == "option" and parameter.name != "help":
            assert parameter.help  # type: ignore[attr-defined]
