"""Many chips of one matrix: the bits of one chip at a time."""

import numpy as np
import pytest

from crossbar_sim import Differential, Hardware, Key, LogNormalDrift, Offset, RetentionDrift, StuckCells
from crossbar_sim.nn.analog.sequential import ChipWriter

DESIGNS = {
    "in one pass": Hardware.preset("bayesft", sigma=0.8),
    "nothing drifts": Hardware.preset("bayesft", sigma=0),
    "retention": Hardware(drift=RetentionDrift(0.1, 3600.0, nu_sigma=0.02), drift_per="weight"),
    "cell by cell": Hardware(drift=LogNormalDrift(0.8)),
    "stuck cells": Hardware(
        Differential(1e-6, levels=8), stuck=StuckCells(0.1, 0.1), drift=LogNormalDrift(0.3)
    ),
    "offset": Hardware(Offset(1e-6), drift=LogNormalDrift(0.3)),
    "a scale per column": Hardware(
        Differential(scale_per="column"), drift=LogNormalDrift(0.3), drift_per="weight"
    ),
}


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 33), (70, 1000)])
@pytest.mark.parametrize("name", DESIGNS)
def test_the_bits_of_one_chip_at_a_time(name, shape):
    hardware, key = DESIGNS[name], Key(3).fold("fc.weight")
    w = np.sin(np.arange(np.prod(shape), dtype=np.float32) * 1.7).reshape(shape)
    scale = hardware.mapping.scale(w)
    writer = ChipWriter(hardware, w, key, scale)
    chips = np.array([5, 0, 2**32 - 1], np.uint32)
    out = np.full((4, *shape), -7, np.float32)
    writer.write(chips, out)
    for chip, one in zip(chips.tolist(), out, strict=False):
        assert one.tobytes() == hardware.effective_weight(w, key, chip).tobytes()
    assert (out[3] == -7).all()  # a place for which there is no chip is left alone
