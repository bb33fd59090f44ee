"""The same tiles in ngspice, a circuit simulator by others."""

from pathlib import Path

import numpy as np
import pytest
from helpers.circuits import Circuit, ngspice, random_tile, spice_currents

from crossbar_sim.crossbar.wires import Sinh, Wires, solve_nodes

pytestmark = pytest.mark.skipif(ngspice() is None, reason="ngspice is not installed (Debian package ngspice)")

TILES = {
    "asymmetric": ((3, 5), Circuit(1.5, 2.5, 5, 7), 0.0, 0.0),
    "more rows than columns": ((11, 4), Circuit(3, 1, 2, 4), 0.0, 0.0),
    "open cells": ((6, 7), Circuit(1.5, 2.5), 0.4, 0.0),
    "near-shorts": ((7, 6), Circuit(1.5, 2.5, 0, 3), 0.1, 0.2),
    "ideal word lines": ((9, 4), Circuit(0, 2.5), 0.1, 0.1),
    "ideal bit lines": ((4, 9), Circuit(2.5, 0), 0.1, 0.1),
    "terminals only": ((5, 5), Circuit(0, 0, 10, 20), 0.1, 0.0),
    "both ends": ((6, 6), Circuit(3, 1, 2, 4, "both"), 0.1, 0.05),
    "larger": ((24, 24), Circuit(1.5, 1.5), 0.1, 0.01),
}


@pytest.mark.parametrize("name", TILES)
def test_column_currents(name, tmp_path: Path):
    shape, circuit, open_, short = TILES[name]
    rng = np.random.default_rng(sorted(TILES).index(name))
    g, v = random_tile(rng, *shape, open_=open_, short=short), rng.uniform(-1, 1, shape[0])
    expected = spice_currents(g, v, circuit, tmp_path)
    size = np.max(np.abs(expected))
    fast, exact = Wires(*circuit, tolerance=1e-9), Wires(*circuit, method="exact")
    assert np.max(np.abs(v @ exact.effective(g) - expected)) < 1e-11 * size
    assert np.max(np.abs(v @ fast.effective(g) - expected)) < 1e-8 * size
    for wires, limit in ((exact, 1e-11), (fast, 1e-9)):
        assert np.max(np.abs(solve_nodes(g, v, wires).column_currents - expected)) < limit * size


@pytest.mark.parametrize("inputs", ["one", "both"])
def test_cells_that_are_not_ohmic(inputs, tmp_path: Path):
    rng = np.random.default_rng(7)
    g, v, circuit = random_tile(rng, 6, 5), rng.uniform(-1, 1, 6), Circuit(10, 15, 5, 5, inputs)
    expected = spice_currents(g, v, circuit, tmp_path, sinh=3.0)
    found = solve_nodes(g, v, Wires(*circuit, tolerance=1e-10), Sinh(3.0)).column_currents
    assert found == pytest.approx(expected, rel=1e-7)
    ohmic = solve_nodes(g, v, Wires(*circuit)).column_currents
    assert np.max(np.abs(ohmic / expected - 1)) > 0.05  # the control
