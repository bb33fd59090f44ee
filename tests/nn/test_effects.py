"""What every effect did, by hand; and a sentence for each that did nothing."""

import numpy as np
import pytest
import torch
from torch import nn

from crossbar_sim import (
    Differential,
    Hardware,
    Key,
    LogNormalDrift,
    NormalShift,
    ProgrammingNoise,
    StuckCells,
)
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.nn import set_chip, to_analog
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.effects import idle_effects, layer_effects


def tiny() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0, 3.0], [-0.5, 0.25, 4.0]]))
    return model.eval()


def test_drift_of_a_tiny_layer_by_hand():
    analog = to_analog(tiny(), Hardware(drift=LogNormalDrift(0.3), drift_per="weight"), 7, 5)
    z = Stream.of(Key(7).fold("0.weight", "drift"), 5).normals(6).astype(np.float64)
    w = np.array([1.0, -2.0, 3.0, -0.5, 0.25, 4.0])  # cell by cell: bit line by bit line
    change = np.linalg.norm(w * (np.exp(0.3 * z) - 1)) / np.linalg.norm(w)
    effects = layer_effects(analog)
    assert list(effects) == ["0", "2"]
    assert effects["0"] == {"drift": pytest.approx(change, rel=1e-5)}
    assert change > 0.05
    set_chip(analog, 6)
    assert layer_effects(analog)["0"]["drift"] != pytest.approx(change, rel=1e-3)


def test_levels_and_clip_by_hand():
    hardware = Hardware(Differential(levels=3, clip=50.0))  # the median of |w| is 1.5: levels 0, 0.75, 1.5
    effects = layer_effects(to_analog(tiny(), hardware))["0"]
    w = np.array([1.0, -2.0, 3.0, -0.5, 0.25, 4.0])
    clipped = np.clip(w, -1.5, 1.5)
    levelled = np.array([0.75, -1.5, 1.5, -0.75, 0.0, 1.5])
    assert list(effects) == ["clip", "levels"]
    assert effects["clip"] == pytest.approx(np.linalg.norm(clipped - w) / np.linalg.norm(w), rel=1e-5)
    assert effects["levels"] == pytest.approx(
        np.linalg.norm(levelled - clipped) / np.linalg.norm(w), rel=1e-5
    )


def test_all_effects_in_their_order():
    hardware = Hardware(
        Differential(1e-6, levels=8, clip=90.0), drift=LogNormalDrift(0.2),
        programming=ProgrammingNoise(0.02), stuck=StuckCells(0.3, 0.1),
    )  # fmt: skip
    effects = layer_effects(to_analog(tiny(), hardware))
    assert list(effects["0"]) == ["clip", "levels", "programming", "stuck", "drift"]
    assert idle_effects({"0": effects["0"]}, hardware, 0) == []


IDLE = {
    "drift": (Hardware(drift=LogNormalDrift(1e-9)), r"drift (LogNormalDrift(sigma=1e-09))"),
    "shift": (Hardware(drift=NormalShift(1e-20)), "drift (NormalShift(sigma=1e-20))"),
    "no drift": (Hardware(drift=LogNormalDrift(0.0)), "drift (LogNormalDrift(sigma=0.0))"),
    "stuck": (Hardware(stuck=StuckCells(1e-9, 0.0)), "stuck (StuckCells(off=1e-09, on=0.0))"),
    "levels": (Hardware(Differential(levels=2**20)), "levels (1048576)"),
    "clip": (Hardware(Differential(clip=100.0)), "clip (100.0)"),
    "programming": (
        Hardware(programming=ProgrammingNoise(1e-9)), "programming (ProgrammingNoise(sigma=1e-09))"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", IDLE)
def test_an_effect_that_did_nothing_is_named(name):
    hardware, words = IDLE[name]
    analog = to_analog(tiny(), hardware, chip=3)
    (sentence,) = idle_effects(layer_effects(analog), hardware, 3)
    assert sentence == f"{words} was requested but changed nothing in any layer on chip 3"


def test_an_effect_that_did_nothing_in_one_layer():
    hardware = Hardware(Differential(levels=3))
    model = tiny()
    with torch.no_grad():
        model[2].weight.copy_(torch.tensor([[1.0, 0.5], [-1.0, 0.0]]))  # on the levels already
    (sentence,) = idle_effects(layer_effects(to_analog(model, hardware)), hardware, 0)
    assert sentence == "levels (3) was requested but changed nothing in 2 on chip 0"


def test_a_layer_of_zeros_has_no_relative_change():
    model = tiny()
    with torch.no_grad():
        model[2].weight.zero_()
    assert list(layer_effects(to_analog(model, Hardware(drift=LogNormalDrift(0.3))))) == ["0"]


def test_maps_in_place_of_effects():
    analog = to_analog(tiny(), Hardware(drift=LogNormalDrift(0.3)))
    chips.analog_state(analog).set_maps(lambda name, w: w * 1.5 if name == "0.weight" else None)
    assert layer_effects(analog) == {"0": {"map": pytest.approx(0.5)}, "2": {"map": 0.0}}
    x = torch.ones(1, 3)
    with torch.no_grad():
        torch.testing.assert_close(analog[0](x), 1.5 * tiny()[0](x))
    torch.testing.assert_close(analog[0](x), 1.5 * tiny()[0](x))
