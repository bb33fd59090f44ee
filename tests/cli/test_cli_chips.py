"""Chip files, maps and figures of deploy."""

import hashlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.cli_runs import QUICK, Command, Files
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


def lab_file(path: Path, network: nn.Module, unit: float = 1.0, scale: bool = True) -> Path:
    """Exact maps of the matrices, with conductances in units of `unit` S under the name S."""
    with h5py.File(path, "w") as file:
        for name, p in network.named_parameters():
            if p.dim() == 2:
                w = p.detach().numpy().T
                per = 1e-4 / np.abs(w).max()
                group = file.create_group(f"layers/{name.removesuffix('.weight')}")
                planes = np.stack([np.maximum(w, 0), np.maximum(-w, 0)]) * per / unit
                group.create_dataset("g_drifted", data=planes).attrs["units"] = "S"
                if scale:
                    group.attrs["scale"] = per
    return path


def test_conductances_in_microsiemens_are_warned_of_wherever_they_come_from(
    command: Command, files: Files, network: nn.Module, tmp_path: Path
):
    """A lab's file, a flag, a design's file, the tables of solve and info."""
    lab = lab_file(tmp_path / "lab.h5", network, unit=1e-6)
    deploy = ("deploy", files.checkpoint, *QUICK, "--json", "-")
    design = tmp_path / "design.toml"
    design.write_text('[mapping]\nkind = "offset"\ng_max = 100.0\n')
    read = command(
        "deploy", files.checkpoint, "--preset", "ideal", "--conductances", lab, "--json", "-"
    ).report
    given = command(*deploy[:-2], "--g-max", 100, "--json", "-").report
    filed = command("deploy", files.checkpoint, "--chips", 2, "--hardware", design, "--json", "-").report
    for report in (read, given, filed):
        assert any("100 S" in warning and "microsiemens?" in warning for warning in report["warnings"])
    (tmp_path / "g.csv").write_text("10,20\n30,50\n")
    (tmp_path / "v.csv").write_text("0.1,0.2\n")
    solved = command("solve", tmp_path / "g.csv", tmp_path / "v.csv", "--wire-ohm", 1)
    assert "warning: the largest conductance, 50 S, is above 0.1 S" in solved.out
    assert "microsiemens?" in " ".join(command("info", lab).out.split())
    right = lab_file(tmp_path / "right.h5", network)
    report = command(
        "deploy", files.checkpoint, "--preset", "ideal", "--conductances", right, "--json", "-"
    ).report
    assert not any("microsiemens" in warning for warning in report["warnings"])


def test_a_scale_that_the_file_does_not_say_is_assumed_aloud(
    command: Command, files: Files, network: nn.Module, tmp_path: Path
):
    lab = lab_file(tmp_path / "lab.h5", network, scale=False)
    rest = ("--sensitivity-chips", 0, "--json", "-")
    for flags, whose in ((), "of preset bayesft"), (("--preset", "ideal"), "the design given"):
        warnings = command("deploy", files.checkpoint, "--conductances", lab, *flags, *rest).report[
            "warnings"
        ]
        (told,) = (w for w in warnings if "no attribute scale for fc1.weight, fc2.weight, fc3.weight" in w)
        assert f"0 .. 100 uS ({whose})" in told
    said = lab_file(tmp_path / "said.h5", network)
    warnings = command("deploy", files.checkpoint, "--conductances", said, *rest).report["warnings"]
    assert not any("attribute scale" in w for w in warnings)


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
