"""Fault-aware mapping of a model: its function without faults, a smaller error with them, and what it says."""

import numpy as np
import pytest
import torch
from helpers.cli_runs import Files
from torch import nn

from crossbar_sim import Differential, Hardware, InputError, Key, LogNormalDrift, Offset, StuckCells
from crossbar_sim.crossbar.converters import ADC, DAC
from crossbar_sim.nn import seeded, to_analog
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.chips import remap_arrays, remap_errors, remap_sentence
from crossbar_sim.nn.analog.effects import layer_effects

STUCK = StuckCells(0.04, 0.02)


def model() -> nn.Module:
    with seeded(Key(3)):
        return nn.Sequential(
            nn.Conv2d(2, 6, 3, groups=2), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2), nn.Flatten(), nn.Linear(196, 10)
        ).eval()  # fmt: skip


X = torch.linspace(0, 1, 3 * 2 * 64).reshape(3, 2, 8, 8) ** 2


def outputs(hardware: Hardware, remap: bool, chip: int = 1) -> torch.Tensor:
    analog = to_analog(model(), hardware, chip=chip)
    if remap:
        remap_arrays(analog)
    with torch.inference_mode():
        return analog(X)


@pytest.mark.parametrize(
    "mapping", [Differential(1e-6, 1e-4), Offset(1e-6, 1e-4, scale_per="column")], ids=str
)
def test_without_faults_the_function_is_unchanged_to_the_bit(mapping):
    hardware = Hardware(mapping, LogNormalDrift(0.3), tile=(16, 8), bias="row")
    assert torch.equal(outputs(hardware, True), outputs(hardware, False))


@pytest.mark.parametrize(
    "reading", [{}, {"dac": DAC(8), "adc": ADC(9, range="max")}], ids=["linear", "converters"]
)
@pytest.mark.parametrize("mapping", [Differential(1e-6, 1e-4), Offset(1e-6, 1e-4)], ids=["pair", "offset"])
def test_with_faults_outputs_are_nearer_to_the_clean_ones(mapping, reading):
    hardware = Hardware(mapping, stuck=STUCK, tile=(32, 8), **reading)
    with torch.inference_mode():
        clean = model()(X)
    plain, remapped = (
        np.mean([float((outputs(hardware, r, chip) - clean).norm()) for chip in range(4)])
        for r in (False, True)
    )
    assert remapped < 0.9 * plain


def test_the_errors_told_are_those_of_the_weights():
    hardware = Hardware(Differential(1e-6, 1e-4), stuck=STUCK, tile=(32, 8))
    analog = to_analog(model(), hardware, chip=1)
    plain = layer_effects(analog)
    remap_arrays(analog)
    errors, remapped = remap_errors(analog), layer_effects(analog)
    assert {*errors} == {"0", "2", "4", "*"}
    for layer in ("0", "2", "4"):
        assert errors[layer]["before"] == pytest.approx(plain[layer]["stuck"], rel=1e-4)
        assert errors[layer]["after"] == pytest.approx(remapped[layer]["stuck"], rel=1e-4, abs=1e-6)
        assert errors[layer]["after"] < errors[layer]["before"]
    sentence, helped = remap_sentence(analog, errors)
    assert helped
    assert f"to {errors['*']['after']:.1%} on chip 1" in sentence


def test_a_chip_of_its_own_has_a_placement_of_its_own():
    hardware = Hardware(Differential(1e-6, 1e-4), stuck=STUCK, tile=(32, 8))
    analog = to_analog(model(), hardware, chip=0)
    remap_arrays(analog)
    with torch.inference_mode():
        first = analog(X)
        chips.set_chip(analog, 1)
        assert torch.equal(analog(X), outputs(hardware, True, 1))
        chips.set_chip(analog, 0)
        assert torch.equal(analog(X), first)


def test_where_nothing_is_stuck_it_says_that_nothing_moved():
    analog = to_analog(model(), Hardware(Differential(), LogNormalDrift(0.1)))
    remap_arrays(analog)
    sentence, helped = remap_sentence(analog, remap_errors(analog))
    assert (sentence, helped) == (
        "remap was requested but moved nothing: the design has no stuck cells",
        False,
    )


def test_conductances_from_a_file_cannot_be_remapped():
    analog = to_analog(model(), Hardware(Differential()))
    chips.analog_state(analog).set_maps(lambda name, columns: None)
    with pytest.raises(InputError, match="cannot be remapped"):
        remap_arrays(analog)


def test_deploy_remaps_and_reports_the_error_before_and_after(command, files: Files, tmp_path):
    stuck = ("--preset", "ideal", "--stuck-off", 0.05, "--stuck-on", 0.05)
    few = ("--chips", 3, "--images", 100, "--sensitivity-chips", 0, "--json", "-")
    plain = command("deploy", files.checkpoint, *stuck, *few)
    remapped = command("deploy", files.checkpoint, *stuck, *few, "--remap")
    assert remapped.code == 0, remapped.err
    assert "remap" not in plain.report
    errors = remapped.report["remap"]["layers"]
    assert 0 < errors["*"]["after"] < 0.8 * errors["*"]["before"]
    assert any(
        "remapping lowered the weights' error by stuck cells" in note for note in remapped.report["notes"]
    )
    scores = [r.report["drifted"]["accuracy"]["mean"] for r in (plain, remapped)]
    assert scores[1] > scores[0]
    idle = command("deploy", files.checkpoint, "--sigma", 0.3, *few, "--remap")
    assert any("the design has no stuck cells" in warning for warning in idle.report["warnings"])
    for flag, path in (("--maps", tmp_path / "m.h5"), ("--conductances", tmp_path / "c.h5")):
        refused = command("deploy", files.checkpoint, *stuck, "--remap", flag, path)
        assert refused.code == 2
        assert all(part in refused.err for part in ("--remap", flag, "leave out one"))
