"""Chip files, maps and figures of deploy."""

import hashlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from cli_runs import QUICK, Command, Files
from torch import nn


@pytest.mark.parametrize("design", [("--sigma", "0.6"), ("--preset", "reram_wan2022", "--bias", "row")])
def test_a_chip_file_reproduces_its_chip(
    command: Command, files: Files, tmp_path: Path, design: tuple[str, ...]
):
    chip = tmp_path / "chip3.h5"
    simulated = command("deploy", files.checkpoint, *design, "--chips", "0:5", "--json", "-").report
    result = command("export", files.checkpoint, chip, *design, "--chip", 3)
    assert result.code == 0
    assert f"wrote {chip}: chip 3" in result.out
    measured = command("deploy", files.checkpoint, "--conductances", chip, "--json", "-").report
    assert measured["conductances"]["sha256"] == hashlib.sha256(chip.read_bytes()).hexdigest()
    for name in ("accuracy", "agreement", "output_error"):
        values = simulated["drifted"][name]["per_chip"]
        assert measured["drifted"][name]["per_chip"] == [values[3]]
        assert len(set(values)) > 1
    assert measured["chips"] == [3]
    assert measured["hardware"] == simulated["hardware"]
    assert measured["warnings"] == []


def test_maps_are_those_of_the_first_chip(command: Command, files: Files, tmp_path: Path):
    maps, exported = tmp_path / "maps.h5", tmp_path / "exported.h5"
    assert command("deploy", files.checkpoint, *QUICK[:-2], "--chips", "7:9", "--maps", maps).code == 0
    assert command("export", files.checkpoint, exported, "--sigma", 0.6, "--chip", 7).code == 0
    assert maps.read_bytes() == exported.read_bytes()
    with h5py.File(maps) as file:
        assert file.attrs["chip"] == 7
        assert {*file["layers"]} == {"fc1", "fc2", "fc3"}


def test_a_labs_own_file_needs_conductances_alone(
    command: Command, files: Files, network: nn.Module, tmp_path: Path
):
    weights = {name: p.detach().numpy() for name, p in network.named_parameters() if p.dim() == 2}
    with h5py.File(tmp_path / "lab.h5", "w") as file:
        for name, w in weights.items():
            scale = 1e-4 / np.abs(w).max()
            planes = np.stack([np.maximum(w, 0), np.maximum(-w, 0)]).transpose(0, 2, 1) * scale * 1e6
            dataset = file.create_dataset(f"layers/{name.removesuffix('.weight')}/g_drifted", data=planes)
            dataset.attrs["units"] = "uS"
    report = command(
        "deploy", files.checkpoint, "--conductances", tmp_path / "lab.h5", "--preset", "ideal", "--json", "-"
    ).report
    assert report["drifted"]["accuracy"]["per_chip"] == pytest.approx(
        [report["clean"]["accuracy"]], abs=1.01 / 450
    )
    assert report["drifted"]["output_error"]["max"] < 1e-4
    partial = command(
        "deploy", files.checkpoint, "--conductances", tmp_path / "lab.h5", "--sigma", 0.6, "--json", "-"
    ).report
    assert any("fc1.bias" in warning and "clean weights" in warning for warning in partial["warnings"])


def test_conductances_and_what_would_do_nothing_beside_them(command: Command, files: Files, tmp_path: Path):
    chip = tmp_path / "chip.h5"
    command("export", files.checkpoint, chip, "--sigma", 0.6)
    assert command("deploy", files.checkpoint, "--conductances", chip, "--sigma", 0.6).code == 0
    for extra, why in (
        (("--sigma", 0.9), "another design"),
        (("--chips", 5), "--chips"),
        (("--maps", tmp_path / "m.h5"), "--maps"),
    ):
        refused = command("deploy", files.checkpoint, "--conductances", chip, *extra)
        assert refused.code == 2
        assert why in refused.err
    other = command("deploy", files.dynamic, "--data", "digits", "--conductances", chip, "--json", "-").report
    assert any("another model file" in warning for warning in other["warnings"])


def test_a_figure(command: Command, files: Files, tmp_path: Path):
    for suffix, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")):
        path = tmp_path / f"report.{suffix}"
        result = command("deploy", files.checkpoint, "--chips", 3, "--plot", path)
        assert result.code == 0
        assert f"wrote {path}" in result.out
        assert path.read_bytes().startswith(magic)
    assert command("deploy", files.checkpoint, *QUICK[:-2], "--plot", path).code == 0  # without sensitivity
