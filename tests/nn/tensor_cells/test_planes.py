"""Cells on tensors: the core's words bit for bit, its conductances to float32 rounding."""

import numpy as np
import pytest
import torch
from helpers.analog_models import numbers
from helpers.law_examples import LAWS

from crossbar_sim import (
    Differential,
    Hardware,
    Key,
    LogNormalDrift,
    MeasuredNoise,
    NormalDrift,
    NormalShift,
    Offset,
    PolynomialNoise,
    ProgrammingNoise,
    StuckCells,
)
from crossbar_sim.crossbar import hardware as gradient
from crossbar_sim.crossbar.drift import DriftModel
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.nn.tensor_cells import laws, planes
from crossbar_sim.nn.tensor_cells import stream as tensors

SIZES = (1, 63, 64, 255, 256, 257, 1000)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize(
    ("key", "chip", "plane", "event"),
    [
        (Key(0), 0, 0, 0), (Key(2**64 - 1).fold("a", "b"), 2**32 - 1, 7, 2**32 - 1),
        (Key(5).fold("drift"), 3, 1, 2),
    ],
)  # fmt: skip
def test_words_are_the_cores(n, key, chip, plane, event):
    stream = Stream.of(key, chip, plane, event)
    assert np.array_equal(tensors.words(n, stream).numpy(), stream.words(n).astype(np.int64))
    other = Stream.of(key.fold("other"), chip, plane, event)
    assert not np.array_equal(tensors.words(n, other).numpy(), stream.words(n).astype(np.int64))


def test_normals_are_the_cores_to_their_accuracy():
    stream = Stream.of(Key(1), 2)
    exact, single = tensors.normals(100_000, stream).numpy(), stream.normals(100_000)
    assert np.abs(exact - single).max() < 2e-6


G = np.abs(numbers(7, 90).numpy()).astype(np.float32) * np.float32(1e-4)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.kind)
def test_every_law_is_the_cores(law: DriftModel):
    g = np.ones(50_000, np.float32)
    stream = Stream.of(Key(4).fold("drift"), 2)
    core = law.apply(g, Key(4), 2)
    ours = laws.drift(law, torch.from_numpy(g), stream).numpy()
    assert ours.dtype == np.float32
    # Draws are good to 2e-6 of a sigma below 1, the gamma table to the same once more.
    np.testing.assert_allclose(ours, core, rtol=4e-6, atol=2e-6)
    assert not np.allclose(core, g)


def test_the_lognormal_law_to_the_accuracy_that_the_docs_state():
    g = np.ones(50_000, np.float32)
    core = LogNormalDrift(0.6).apply(g, Key(4), 2)
    ours = laws.drift(LogNormalDrift(0.6), torch.from_numpy(g), Stream.of(Key(4).fold("drift"), 2))
    np.testing.assert_allclose(ours.numpy(), core, rtol=5e-7)


_MAPPINGS = [
    mapping(1e-6, 1e-4, **kw)
    for mapping in (Differential, Offset)
    for kw in (
        {}, {"levels": 8}, {"levels": 7}, {"copies": 3}, {"scale_per": "column"}, {"clip": 90.0},
        {"levels": 16, "scale_per": "column", "copies": 2, "clip": 95.0},
    )
]  # fmt: skip
_EFFECTS = {
    "ideal": {},
    "drift": {"drift": LogNormalDrift(0.5)},
    "drift per weight": {"drift": LogNormalDrift(0.5), "drift_per": "weight"},
    "shift": {"drift": NormalShift(5e-6)},
    "programming": {"programming": ProgrammingNoise(0.03)},
    "polynomial": {"programming": PolynomialNoise((1e-6, 2e-6, -1e-6), 5e-5)},
    "measured": {"programming": MeasuredNoise((1e-6, 2e-6), 5e-5, (2e-6, -3e-6))},
    "stuck": {"stuck": StuckCells(0.1, 0.05)},
    "all": {
        "drift": NormalDrift(0.2), "programming": ProgrammingNoise(0.03), "stuck": StuckCells(0.1, 0.05)
    },
}  # fmt: skip
W = numbers(37, 29) * 0.3


@pytest.mark.parametrize("effect", _EFFECTS)
@pytest.mark.parametrize("mapping", _MAPPINGS, ids=str)
def test_effective_weights_and_slopes_are_the_cores(mapping, effect):
    hardware, key = Hardware(mapping, **_EFFECTS[effect]), Key(2).fold("w")
    core = hardware.effective_weight(W.numpy(), key, 3)
    ours = planes.effective_weight(hardware, W, key, 3).numpy()
    # Rounding of the larger conductances of a pair: 1e-6 of the largest weight they can stand for.
    np.testing.assert_allclose(ours, core, rtol=1e-5, atol=3e-6)
    slope = gradient.slope(hardware, W.numpy(), key, 3)
    np.testing.assert_allclose(planes.slope(hardware, W, key, 3).numpy(), slope, rtol=1e-5, atol=3e-6)
    if effect != "ideal":
        assert np.abs(core - W.numpy()).max() > 1e-3


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (1, 1), (300, 1), (1, 300)])
def test_odd_shapes(shape):
    hardware = Hardware(Offset(1e-6, 1e-4), drift=LogNormalDrift(0.5))
    w = numbers(*shape) if 0 not in shape else torch.empty(shape)
    core = hardware.effective_weight(w.numpy(), Key(2), 3)
    np.testing.assert_allclose(
        planes.effective_weight(hardware, w, Key(2), 3).numpy(), core, rtol=1e-5, atol=1e-5
    )
