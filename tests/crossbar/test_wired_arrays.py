"""Wires around programmed tiles: what the array multiplies with is what `Wires.effective` says of each tile."""

from dataclasses import replace

import numpy as np
import pytest

from crossbar_sim import Differential, Hardware, Key, LogNormalDrift, Offset
from crossbar_sim.crossbar.configuration import to_toml
from crossbar_sim.crossbar.converters import ADC, DAC
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.crossbar.wires import Wires

KEY = Key(5).fold("w")
WIRES = Wires(2.0, 3.0, method="exact")


def matrix(rows: int, cols: int) -> np.ndarray:
    return Stream.of(Key(1).fold("m"), 0).normals(rows * cols).reshape(rows, cols)


@pytest.mark.parametrize("mapping", [Differential(1e-6, 1e-4), Offset(1e-6, 1e-4, copies=2)])
def test_every_tile_of_every_plane_is_solved_by_itself(mapping):
    hardware = Hardware(mapping, LogNormalDrift(0.3), tile=(5, 4), wires=WIRES)
    array = hardware.program(matrix(12, 9), KEY, 1)
    expected = np.zeros_like(array.drifted)
    for p in range(len(expected)):
        for top in range(0, 12, 5):
            for left in range(0, expected.shape[2], 4):
                tile = (p, slice(top, top + 5), slice(left, left + 4))
                expected[tile] = WIRES.effective(array.drifted[tile].astype(np.float64))
    np.testing.assert_array_equal(array.effective, expected)
    assert np.all(array.effective < array.drifted)
    far, near = (array.effective / array.drifted)[0, 0, 3], (array.effective / array.drifted)[0, 4, 0]
    assert far < near  # the first tile's far corner loses most
    x = matrix(3, 12)
    np.testing.assert_allclose(array.matvec(x), x @ array.weight, rtol=1e-4, atol=1e-5)
    fast = hardware.effective_weight(np.ascontiguousarray(matrix(12, 9).T), KEY, 1)
    np.testing.assert_array_equal(fast.T, array.weight)


def test_ideal_wires_are_none():
    w = matrix(12, 9)
    plain = Hardware(drift=LogNormalDrift(0.3), drift_per="weight")
    ideal = replace(plain, wires=Wires()).program(w, KEY, 1)
    np.testing.assert_array_equal(ideal.weight, plain.program(w, KEY, 1).weight)


def test_groups_have_tiles_of_their_own_unless_they_share_a_reference():
    w = matrix(6, 8)  # two groups of four columns
    columns = np.ascontiguousarray(w.T)
    for mapping in (Differential(1e-6, 1e-4), Offset(1e-6, 1e-4)):
        hardware = Hardware(mapping, tile=(6, 16), wires=WIRES)
        one = hardware.effective_weight(columns, KEY, 0)
        two = hardware.effective_weight(columns, KEY, 0, groups=2)
        if mapping.kind == "offset":
            np.testing.assert_array_equal(one, two)
            continue
        narrow = replace(hardware, tile=(6, 4)).effective_weight(columns, KEY, 0)
        np.testing.assert_array_equal(two, narrow)
        assert not np.array_equal(one, two)


def test_converters_read_what_the_wires_leave():
    w, x = matrix(12, 9), matrix(3, 12)
    wired = Hardware(tile=(6, 4), wires=WIRES, dac=DAC(), adc=ADC(range="max"))
    array = wired.program(w, KEY, 0)
    np.testing.assert_allclose(array.matvec(x), x @ array.weight, rtol=1e-4, atol=1e-5)
    assert Hardware.from_toml(to_toml(wired)) == wired
