"""Designs on the command line: every option acts, every preset and every listed law can be given."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from helpers.cli_runs import QUICK, Command, Files
from torch import nn

from crossbar_sim import Hardware
from crossbar_sim.crossbar.configuration import forms, from_text, to_dict
from crossbar_sim.crossbar.presets import preset, preset_names

IDEAL = "--preset ideal"
DRIFTS = "--preset ideal --sigma 0.5"
RETAINS = "--preset ideal --drift retention:nu=0.3,nu_sigma=0.1,time=10"
NARROW = f"{DRIFTS} --g-min 2e-5"
# name: (a design, the flag that changes it, where the report says so, what it says)
CHANGES: dict[str, tuple[str, str, str, Any]] = {
    "sigma": (DRIFTS, "--sigma 0.8", "drift.sigma", 0.8),
    "drift": (IDEAL, "--drift gamma:sigma=0.3", "drift.kind", "gamma"),
    "time": (RETAINS, "--time 1e6", "drift.time", 1e6),
    "g_min": (DRIFTS, "--g-min 2e-5", "mapping.g_min", 2e-5),
    "g_max": (NARROW, "--g-max 3e-5", "mapping.g_max", 3e-5),
    "levels": (DRIFTS, "--levels 3", "mapping.levels", 3),
    "copies": (DRIFTS, "--copies 4", "mapping.copies", 4),
    "clip": (DRIFTS, "--clip 70", "mapping.clip", 70),
    "scale_per": (f"{DRIFTS} --levels 4", "--scale-per column", "mapping.scale_per", "column"),
    "programming_sigma": (DRIFTS, "--programming-sigma 0.2", "programming.sigma", 0.2),
    "programming": (
        DRIFTS, "--programming polynomial:coefficients=0/1e-5,reference=1e-5",
        "programming.kind", "polynomial",
    ),
    "stuck_off": (DRIFTS, "--stuck-off 0.3", "stuck.off", 0.3),
    "stuck_on": (DRIFTS, "--stuck-on 0.1", "stuck.on", 0.1),
    "drift_per": (NARROW, "--drift-per weight", "drift_per", "weight"),
    "bias row": (DRIFTS, "--bias row", "bias", "row"),
    "bias drifting": (DRIFTS, "--bias drifting", "bias", "drifting"),
    "mapping": (DRIFTS, "--mapping offset:g_min=1e-6,g_max=1e-4", "mapping.kind", "offset"),
    "tile": (DRIFTS, "--tile 16x8", "tile", [16, 8]),
}  # fmt: skip


def told(report: dict[str, Any], where: str) -> Any:
    value: Any = report["hardware"]
    for key in where.split("."):
        value = None if value is None else value.get(key)
    return value


def geometry(report: dict[str, Any]) -> list[tuple[int, ...]]:
    return [tuple(layer[key] for key in ("rows", "tiles", "cells")) for layer in report["layers"]]


@pytest.mark.parametrize("name", CHANGES)
def test_every_option_of_the_design_acts(command: Command, files: Files, name: str):
    design, flag, where, expected = CHANGES[name]
    rest = ("--chips", 3, "--sensitivity-chips", 0, "--json", "-")
    before = command("deploy", files.checkpoint, *design.split(), *rest).report
    after = command("deploy", files.checkpoint, *design.split(), *flag.split(), *rest).report
    assert told(before, where) != expected
    assert told(after, where) == expected
    if name == "tile":
        assert geometry(before) == [(64, 2, 3072), (24, 2, 768), (16, 2, 320)]
        assert geometry(after) == [(64, 4 * 3 * 2, 3072), (24, 2 * 2 * 2, 768), (16, 1 * 2 * 2, 320)]
        assert after["drifted"] == before["drifted"]  # tiles are geometry alone until there are wires
    else:
        assert after["drifted"]["output_error"]["per_chip"] != before["drifted"]["output_error"]["per_chip"]
    assert (geometry(after) != geometry(before)) == (name in ("copies", "bias row", "mapping", "tile"))


def test_normalisation_and_other_act(command: Command, tmp_path: Path):
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
            self.head, self.scale = nn.Linear(144, 3), nn.Parameter(torch.linspace(1, 2, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.norm(self.conv(x)).flatten(1)) * self.scale

    generator = np.random.default_rng(0)
    x = torch.from_numpy(generator.standard_normal((4, 1, 8, 8)).astype(np.float32))
    model = Scaled().train()
    model(x * 3 + 1)
    batch = torch.export.Dim("batch", min=1, max=4096)
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(model.eval(), (x,), dynamic_shapes=({0: batch},)), path)
    rest = ("--preset", "ideal", "--sigma", 0.5, "--chips", 2, "--images", 50, "--json", "-")
    found = {
        choice: command("deploy", path, *rest, *choice.split()).report
        for choice in (
            "--normalisation digital", "--normalisation folded", "--normalisation drifting",
            "--other drifting",
        )
    }  # fmt: skip
    errors = {choice: tuple(r["drifted"]["output_error"]["per_chip"]) for choice, r in found.items()}
    assert len(set(errors.values())) == 4
    for choice, report in found.items():
        key, _, value = choice.removeprefix("--").partition(" ")
        assert report["hardware"][key] == value
    reasons = {layer["name"]: layer["reason"] for layer in found["--normalisation folded"]["layers"]}
    assert "folded into conv" in reasons.values()


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_deploys_and_its_file_is_the_same_design(
    command: Command, files: Files, tmp_path: Path, name: str
):
    rest = ("--chips", 2, "--sensitivity-chips", 0, "--json", "-")
    report = command("deploy", files.checkpoint, "--preset", name, *rest).report
    design = dict(report["hardware"])
    found = design.pop("ranges", None)  # calibrated on the way, where the preset leaves them to the data
    adc = Hardware.preset(name).adc
    assert (found is not None) == (adc is not None and adc.range == "calibrated")
    assert design == to_dict(Hardware.preset(name))
    shown = command("presets", name)
    assert shown.code == 0
    assert preset(name).summary in shown.out
    tomllib.loads(shown.out)
    (tmp_path / "mine.toml").write_text(shown.out)
    (tmp_path / "mine.json").write_text(json.dumps(design))
    for file in ("mine.toml", "mine.json"):
        again = command("deploy", files.checkpoint, "--hardware", tmp_path / file, *rest).report
        assert again == report | {"warnings": again["warnings"]}
    changed = command(
        "deploy", files.checkpoint, "--hardware", tmp_path / "mine.toml", "--copies", 3, *rest
    ).report
    assert changed["hardware"]["mapping"]["copies"] == 3


def test_a_value_outside_a_presets_range_is_warned_of(command: Command, files: Files):
    report = command("deploy", files.checkpoint, "--sigma", 3, *QUICK[2:]).report
    assert any("bayesft" in w and "outside" in w for w in report["warnings"])


def test_presets_are_listed(command: Command):
    result = command("presets")
    assert result.code == 0
    for name in preset_names():
        assert re.search(rf"^{name} +\S", result.out, re.MULTILINE)


def test_every_law_that_is_listed_can_be_given(command: Command, files: Files):
    result = command("presets", "--laws")
    assert result.code == 0
    examples = {
        "cell_bits=INTEGER|none": "cell_bits=none",  # chip files have no slices
        "[g_min=NUMBER]": "g_min=1e-6", "[g_max=NUMBER]": "g_max=1e-4", "NUMBER/NUMBER/...": "1e-6/1e-6",
        ":p=NUMBER": ":p=0.5", "INTEGER|none": "4", "NUMBER|none": "99", "matrix|column": "column",
        "NUMBER": "1.5", "INTEGER": "4", "[": "", "]": "",
    }  # fmt: skip
    for family in ("drift", "mapping", "programming"):
        assert len(forms(family)) >= 2
        for form, _ in forms(family):
            assert form in result.out
            text = form
            for placeholder, value in examples.items():
                text = text.replace(placeholder, value)
            assert from_text(family, text).kind == form.partition(":")[0]
            path = files.folder / "law.h5"
            done = command("export", files.checkpoint, path, "--preset", "ideal", f"--{family}", text)
            assert done.code == 0, done.err
            with h5py.File(path) as file:
                written = file.attrs["hardware"]
            design = Hardware.from_json(written.decode() if isinstance(written, bytes) else written)
            assert getattr(design, family) == from_text(family, text)
