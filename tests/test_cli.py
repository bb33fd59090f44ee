"""The command line as its user meets it. Most runs are in this process; some are real ones."""

import hashlib
import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from cli_runs import ARGUMENTS, Files, Result, strict_json
from torch import nn

import crossbar_sim
from crossbar_sim.cli import cli
from crossbar_sim.crossbar.config import from_dict, from_json, to_dict
from crossbar_sim.crossbar.config_text import forms, from_text
from crossbar_sim.crossbar.presets import preset, preset_names
from crossbar_sim.data import Splits

Command = Callable[..., Result]
QUICK = ("--sigma", "0.6", "--chips", "4", "--sensitivity-chips", "0", "--json", "-")


def real(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m crossbar_sim ...` as a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "crossbar_sim", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, env=os.environ | environment, check=False,
    )  # fmt: skip


# Models


def test_a_checkpoint_brings_its_own_data(command: Command, files: Files):
    result = command("deploy", files.checkpoint, *QUICK)
    report = result.report
    assert result.code == 0
    assert report["metric"] == "accuracy"
    assert report["data"]["name"] == "digits"
    assert report["clean"]["accuracy"] > 0.9
    assert 0.2 < report["drifted"]["accuracy"]["mean"] < report["clean"]["accuracy"]
    assert report["model"]["source"] == "crossbar-sim checkpoint"


def test_the_same_network_from_every_kind_of_file_has_the_same_scores(
    command: Command, files: Files, tmp_path: Path
):
    (tmp_path / "my_networks.py").write_text(
        "from crossbar_sim.nn.networks import MLP\n"
        "def make(hidden=(1,)):\n    return MLP(inputs=64, hidden=tuple(hidden), classes=10)\n"
    )
    ways: dict[str, tuple[Any, ...]] = {
        "checkpoint": (files.checkpoint,),
        "dynamic": (files.dynamic,),
        "fixed": (files.fixed,),
        "state_dict": (files.state_dict, "--arch", "mlp"),
        "factory": (
            files.state_dict, "--arch", "my_networks:make",
            "--arch-arguments", json.dumps({"hidden": ARGUMENTS["hidden"]}),
        ),
        "pickle": (files.pickled, "--trust-pickle"),
    }  # fmt: skip
    sys.path.insert(0, str(tmp_path))
    try:
        reports = {
            name: command("deploy", *way, "--data", files.labelled, *QUICK).report
            for name, way in ways.items()
        }
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("my_networks", None)
    scores = {name: report["drifted"]["accuracy"]["per_chip"] for name, report in reports.items()}
    for name, score in scores.items():
        # One image of 450 may lie on the edge of a class: batches of 7 are summed in another order.
        assert score == pytest.approx(scores["checkpoint"], abs=1.01 / 450), name
    assert [reports[n]["model"]["source"] for n in ("dynamic", "state_dict", "pickle")] == [
        "torch.export archive", "state_dict", "pickled module",
    ]  # fmt: skip


def test_without_labels_it_is_agreement_and_says_so(command: Command, files: Files):
    report = command("deploy", files.checkpoint, "--data", files.unlabelled, *QUICK).report
    assert report["metric"] == "agreement"
    assert report["clean"]["accuracy"] is None
    assert report["drifted"]["accuracy"] is None
    assert 0.2 < report["drifted"]["agreement"]["mean"] < 1
    assert report["drifted"]["output_error"]["mean"] > 0
    assert report["data"]["labelled"] is False
    text = command("deploy", files.checkpoint, "--data", files.unlabelled, *QUICK[:-2])
    assert "agreement with the clean model, not accuracy" in text.out


def test_without_data_inputs_are_random_and_it_says_so(command: Command, files: Files):
    result = command("deploy", files.dynamic, *QUICK)
    assert result.report["data"] == {
        "name": "random inputs", "fingerprint": None, "images": 1000, "labelled": False,
    }  # fmt: skip
    assert "1000 standard normal inputs of shape 1x8x8" in result.report["notes"][0]
    text = command("deploy", files.dynamic, *QUICK[:-2])
    assert "agreement with the clean model, not accuracy" in text.out
    assert "no data given" in text.out
    fewer = command(
        "deploy", files.state_dict, "--arch", "mlp", "--input-shape", "1,4,16", "--images", 30, *QUICK
    )
    assert fewer.report["data"]["images"] == 30


def test_tokens_are_taken_as_whole_numbers(command: Command, tmp_path: Path):
    model = nn.Sequential(nn.Embedding(300, 8), nn.Flatten(), nn.Linear(40, 3)).eval()
    tokens = np.random.default_rng(0).integers(0, 300, (50, 5))
    with torch.no_grad():
        labels = model(torch.from_numpy(tokens)).argmax(1)
    np.savez(tmp_path / "tokens.npz", x=tokens, y=labels)
    torch.save(model, tmp_path / "model.pt")
    torch.export.save(
        torch.export.export(model, (torch.zeros(2, 5, dtype=torch.int32),)), tmp_path / "model.pt2"
    )
    for way in ((tmp_path / "model.pt", "--trust-pickle"), (tmp_path / "model.pt2",)):
        result = command("deploy", *way, "--data", tmp_path / "tokens.npz", *QUICK)
        assert result.report["clean"]["accuracy"] == 1.0
        without = command("deploy", *way, *QUICK)
        assert without.code == 2
        assert "whole numbers" in without.err
    np.savez(tmp_path / "halves.npz", x=tokens / 2)
    refused = command("deploy", tmp_path / "model.pt2", "--data", tmp_path / "halves.npz", *QUICK)
    assert refused.code == 2
    assert "int64" in refused.err


def test_wide_types_are_taken_as_float32(command: Command, files: Files, digits: Splits, tmp_path: Path):
    assert digits.test.y is not None
    np.savez(tmp_path / "wide.npz", x=digits.test.x.double().numpy(), y=digits.test.y.numpy().astype(float))
    wide = command("deploy", files.checkpoint, "--data", tmp_path / "wide.npz", *QUICK).report
    assert wide["drifted"] == command("deploy", files.checkpoint, *QUICK).report["drifted"]
    assert any("float64" in note for note in wide["notes"])


# The report


def test_the_report_has_what_it_promises(command: Command, files: Files):
    report = command("deploy", files.checkpoint, "--sigma", 0.6, "--chips", 5, "--json", "-").report
    assert {
        "clean",
        "drifted",
        "yield",
        "layers",
        "hardware",
        "seed",
        "chips",
        "model",
        "data",
        "version",
    } <= {*report}
    assert {"mean", "ci95", "std", "min", "max", "per_chip", "quantiles"} <= {*report["drifted"]["accuracy"]}
    assert {"threshold", "value", "ci95"} == {*report["yield"]}
    for layer in report["layers"]:
        keys = {"name", "kind", "analog", "rows", "cols", "tiles", "cells", "effects", "sensitivity"}
        assert keys <= {*layer}
        assert layer["effects"]["drift"] > 0.1
        assert len(layer["sensitivity"]["per_chip"]) == 5
    assert [layer["name"] for layer in report["layers"]] == ["fc1", "fc2", "fc3"]
    assert [(layer["rows"], layer["cols"]) for layer in report["layers"]] == [(64, 24), (24, 16), (16, 10)]
    assert [layer["cells"] for layer in report["layers"]] == [2 * 64 * 24, 2 * 24 * 16, 2 * 16 * 10]
    assert report["chips"] == [0, 1, 2, 3, 4]
    assert report["seed"] == 0
    assert report["version"] == crossbar_sim.__version__
    assert from_dict(report["hardware"]).drift == crossbar_sim.LogNormalDrift(0.6)
    accuracy = report["drifted"]["accuracy"]
    assert accuracy["min"] == min(accuracy["per_chip"])
    assert accuracy["ci95"][0] < accuracy["mean"] < accuracy["ci95"][1]
    threshold = report["yield"]["threshold"]
    assert threshold == round(report["clean"]["accuracy"] - 0.05, 4)
    assert report["yield"]["value"] == sum(a >= threshold for a in accuracy["per_chip"]) / 5


def test_with_json_on_standard_output_all_else_is_on_standard_error(command: Command, files: Files):
    result = command("deploy", files.checkpoint, *QUICK)
    assert result.out.startswith("{")
    assert result.out.endswith("}\n")
    assert "chips the model keeps" in result.err
    assert "chips the model keeps" not in result.out


def test_one_chip_has_null_for_its_interval(command: Command, files: Files):
    report = command("deploy", files.checkpoint, "--chips", "3:4", "--images", 1, "--json", "-").report
    assert report["chips"] == [3]
    assert report["drifted"]["accuracy"]["ci95"] is None
    assert report["drifted"]["accuracy"]["std"] is None
    assert report["data"]["images"] == 1


def test_huge_drift_is_strict_json_too(command: Command, files: Files):
    result = command("deploy", files.checkpoint, "--sigma", 12, "--chips", 2, "--json", "-")
    assert result.report["drifted"]["output_error"] is None
    assert result.report["drifted"]["accuracy"]["mean"] < 0.5


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_threads(
    command: Command, files: Files, tmp_path: Path
):
    written = []
    for threads in (1, 2, 3, None, 2):
        path = tmp_path / "report.json"
        extra = () if threads is None else ("--threads", threads)
        result = command("deploy", files.checkpoint, "--sigma", 0.6, "--chips", 6, "--json", path, *extra)
        assert result.code == 0
        written.append(path.read_bytes())
    assert len(set(written)) == 1
    assert len(written[0]) > 1000
    other = command("deploy", files.checkpoint, "--sigma", 0.6, "--chips", 6, "--json", "-", "--seed", 1)
    assert other.report["drifted"] != strict_json(written[0].decode())["drifted"]


def test_many_blocks_of_images_do_not_depend_on_threads_either(command: Command, files: Files):
    reports = [
        command(
            "deploy", files.dynamic, "--images", 3210, "--chips", 3, "--preset", "reram_wan2022", "--seed", 5,
            "--threads", threads, "--json", "-",
        ).out
        for threads in (1, 3)
    ]  # fmt: skip
    assert reports[0] == reports[1]
    assert strict_json(reports[0])["data"]["images"] == 3210


def test_a_range_of_chips_continues_another(command: Command, files: Files):
    def per_chip(chips: str) -> list[float]:
        arguments = ("--sigma", 0.9, "--sensitivity-chips", 0, "--chips", chips, "--json", "-")
        return command("deploy", files.checkpoint, *arguments).report["drifted"]["accuracy"]["per_chip"]

    assert per_chip("0:10") + per_chip("10:20") == per_chip("0:20") == per_chip("20")


def test_sigma_0_changes_nothing_and_is_warned_of_by_name(command: Command, files: Files):
    result = command("deploy", files.checkpoint, "--sigma", 0, "--chips", 2, "--json", "-")
    report = result.report
    assert any("drift" in warning and "changed nothing" in warning for warning in report["warnings"])
    assert "drift" in result.err
    assert "changed nothing" in result.err
    assert report["drifted"]["accuracy"]["per_chip"] == [report["clean"]["accuracy"]] * 2
    assert not command("deploy", files.checkpoint, *QUICK).report["warnings"]


def test_only_and_skip(command: Command, files: Files):
    def mapped(*arguments: str) -> list[str]:
        report = command("deploy", files.checkpoint, *QUICK, *arguments).report
        return [layer["name"] for layer in report["layers"] if layer["analog"]]

    assert mapped("--only", "fc2") == ["fc2"]
    assert mapped("--only", "fc1", "--only", "fc3") == ["fc1", "fc3"]
    assert mapped("--skip", "fc[12]") == ["fc3"]
    assert mapped("--only", "fc*", "--skip", "fc1") == ["fc2", "fc3"]
    skipped = command("deploy", files.checkpoint, *QUICK, "--skip", "fc1").report["layers"][0]
    assert skipped["reason"] == "skipped as asked"
    assert skipped["cells"] == 0


def test_threshold(command: Command, files: Files):
    report = command("deploy", files.checkpoint, *QUICK).report
    values = sorted(report["drifted"]["accuracy"]["per_chip"])
    found = command("deploy", files.checkpoint, *QUICK, "--threshold", values[1]).report["yield"]
    assert found["value"] == sum(v >= values[1] for v in values) / 4
    assert command("deploy", files.checkpoint, *QUICK, "--threshold", 0).report["yield"]["value"] == 1
    assert command("deploy", files.checkpoint, *QUICK, "--threshold", 1).report["yield"]["value"] == 0


def test_sensitivity_can_be_left_out(command: Command, files: Files):
    report = command("deploy", files.checkpoint, "--chips", 3, "--json", "-", "--sensitivity-chips", 0).report
    assert [layer["sensitivity"] for layer in report["layers"]] == [None] * 3
    report = command("deploy", files.checkpoint, "--chips", 3, "--json", "-", "--sensitivity-chips", 2).report
    assert [len(layer["sensitivity"]["per_chip"]) for layer in report["layers"]] == [2] * 3


def test_images_are_drawn_by_the_seed(command: Command, files: Files):
    def first(seed: int) -> Any:
        return command("deploy", files.checkpoint, *QUICK, "--images", 100, "--seed", seed).report

    assert first(0)["data"]["images"] == 100
    assert first(0) == first(0)
    assert first(0)["drifted"] != first(1)["drifted"]
    more = command("deploy", files.checkpoint, *QUICK, "--images", 9999).report
    assert more["data"]["images"] == 450
    assert any("9999" in note for note in more["notes"])


# Designs

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
    adc = preset(name).hardware.adc
    assert (found is not None) == (adc is not None and adc.range == "calibrated")
    assert design == to_dict(preset(name).hardware)
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
            design = from_json(written.decode() if isinstance(written, bytes) else written)
            assert getattr(design, family) == from_text(family, text)


# Chip files and figures


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


# info, doctor, help


def test_info_on_models(command: Command, files: Files):
    for way, words in {
        (files.checkpoint,): ("crossbar-sim checkpoint", "network mlp", "digits", "fc1 (Linear): 64 x 24"),
        (files.dynamic,): ("torch.export archive", "1x8x8", "2,130", "fc1 (Linear)"),
        (files.fixed,): ("torch.export archive", "exactly 7"),
        (files.state_dict, "--arch", "mlp"): ("state_dict", "not told by the file"),
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


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_help_of_every_command_has_an_example_that_is_one(command: Command, name: str):
    result = command(name, "--help")
    assert result.code == 0
    examples = re.findall(rf"^ +crossbar-sim ({name}.*)$", result.out, re.MULTILINE)
    assert examples
    known = {option for parameter in cli.commands[name].params for option in parameter.opts}
    for example in examples:
        assert {word for word in example.split() if word.startswith("--")} <= known


@pytest.mark.parametrize("name", ["deploy", "export", "info"])
def test_a_command_alone_shows_its_help(command: Command, name: str):
    result = command(name)
    assert result.code == 2
    assert "Examples:" in result.out or "Example:" in result.out


def test_help_is_quick_and_neither_it_nor_the_package_loads_torch():
    code = (
        "import sys, crossbar_sim\nassert crossbar_sim.Key(0)\n"
        "from crossbar_sim.cli import run\n"
        "for name in ('deploy', 'export', 'info', 'presets', 'doctor'):\n"
        "    assert run([name, '--help']) == 0\n"
        "assert run(['--help']) == run(['--version']) == 0\n"
        "heavy = {'torch', 'matplotlib', 'h5py', 'scipy', 'sklearn', 'numba', 'rich', 'pydantic'}\n"
        "assert not heavy & {*sys.modules}, heavy & {*sys.modules}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert crossbar_sim.__version__ in done.stdout
    assert real("deploy", "--help").returncode == 0


def test_the_names_of_the_package_load_no_torch():
    code = (
        "import sys, crossbar_sim\nfor name in crossbar_sim.__all__:\n    getattr(crossbar_sim, name)\n"
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


@pytest.mark.skipif(
    "CROSSBAR_SIM_DATA" not in os.environ, reason="$CROSSBAR_SIM_DATA does not say where MNIST is"
)
def test_real_mnist(command: Command, tmp_path: Path):
    path = tmp_path / "model.pt"
    with torch.random.fork_rng(devices=[]):
        crossbar_sim.nn.save_checkpoint(
            path, crossbar_sim.nn.networks.build("mlp", inputs=784, hidden=(8,), classes=10),
            "mlp", {"inputs": 784, "hidden": (8,), "classes": 10}, "nothing",
        )  # fmt: skip
    where = os.environ["CROSSBAR_SIM_DATA"]
    report = command("deploy", path, "--data", "mnist", "--data-dir", where, *QUICK).report
    assert report["data"]["images"] == 10_000
    assert report["data"]["name"] == "mnist"
    again = command("deploy", path, "--data", "mnist", *QUICK).report
    assert again == report
