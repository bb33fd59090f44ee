"""Weights sliced over cells: digits, shift and add, and integer arithmetic to the bit."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from crossbar_sim import Differential, Hardware, Key, LogNormalDrift, Offset
from crossbar_sim.crossbar.converters import ADC, DAC
from crossbar_sim.crossbar.gradient import slope
from crossbar_sim.crossbar.stream import Stream

KEY = Key(5).fold("w")


def integers(rows: int, cols: int, top: int, name: str) -> np.ndarray:
    """Whole numbers in -top .. top, with both ends among them."""
    words = Stream.of(Key(1).fold(name), 0).words(rows * cols).astype(np.int64)
    w = words % (2 * top + 1) - top
    w[:2] = top, -top
    return w.reshape(rows, cols)


@pytest.mark.parametrize(
    ("kind", "cell_bits", "per"),
    list(itertools.product((Differential, Offset), (1, 2, 3, 5, 8), ("pair", "column"))),
)
def test_ideal_devices_and_enough_bits_are_integer_arithmetic_exactly(kind, cell_bits, per):
    # differential: |w| up to 127 in 7 bits; offset: codes 0 .. 255 around 127, of which w = 128 saturates no one
    levels, top = (128, 127) if kind is Differential else (255, 127)
    step = 2.0**-20
    mapping = kind(0.0, (levels - 1) * step, levels=levels, cell_bits=cell_bits)
    dac = DAC(bits=5, range=15.0, slice_bits=2)
    hardware = Hardware(mapping, tile=(16, 8), dac=dac, adc=ADC(bits=16, range="granular", per=per))
    w, x = integers(37, 6, top, "w"), integers(9, 37, 15, "x")
    array = hardware.program(w.astype(np.float32), KEY, 0)
    assert len(array.drifted) == mapping.planes == (2 if kind is Differential else 1) * mapping.slices
    np.testing.assert_array_equal(np.rint(array.weight), w)
    found = array.matvec(x.astype(np.float32))
    exact = x @ w
    np.testing.assert_array_equal(np.rint(found), exact)
    np.testing.assert_allclose(found, exact, rtol=3e-7, atol=0)  # whole numbers, scaled once
    too_few = replace(hardware, adc=replace(hardware.adc, bits=4)).program(w.astype(np.float32), KEY, 0)
    assert not np.array_equal(np.rint(too_few.matvec(x.astype(np.float32))), exact)


def test_digits_are_of_the_code_least_significant_first():
    mapping = Differential(0.0, 15e-6, levels=16, cell_bits=2)  # cells of 0, 5, 10, 15 uS
    w = np.array([[11.0], [-6.0], [15.0]], np.float32)  # 11 = 3 + 4 * 2, 6 = 2 + 4 * 1
    planes = Hardware(mapping).program(w, KEY, 0).target * 1e6
    expected = [[15, 0, 15], [0, 10, 0], [10, 0, 15], [0, 5, 0]]
    np.testing.assert_allclose(planes[:, :, 0], expected, atol=1e-4)
    assert mapping.slice_weights == pytest.approx((0.2, 0.8))


@pytest.mark.parametrize("kind", [Differential, Offset])
@pytest.mark.parametrize("copies", [1, 2])
def test_without_variation_slices_read_back_as_one_cell_of_all_levels(kind, copies):
    w = integers(30, 5, 1000, "w").astype(np.float32) / 313
    for per in ("matrix", "column"):
        whole = kind(1e-6, 6e-5, levels=256, scale_per=per, copies=copies)
        sliced = replace(whole, cell_bits=3)
        expected = Hardware(whole).program(w, KEY, 0).weight
        found = Hardware(sliced).program(w, KEY, 0)
        np.testing.assert_allclose(found.weight, expected, atol=2e-5)
        columns = np.ascontiguousarray(w.T)
        np.testing.assert_array_equal(Hardware(sliced).effective_weight(columns, KEY, 0).T, found.weight)
        x = integers(3, 30, 10, "x").astype(np.float32)
        np.testing.assert_allclose(found.matvec(x), x @ expected, atol=2e-3)


def test_drift_per_weight_moves_all_cells_of_a_weight_together():
    mapping = Differential(0.0, 6e-5, levels=256, cell_bits=3)
    w = integers(30, 5, 255, "w").astype(np.float32)
    drifted = Hardware(mapping, LogNormalDrift(0.5), drift_per="weight").program(w, KEY, 1)
    plain = Hardware(Differential(0.0, 6e-5), LogNormalDrift(0.5), drift_per="weight").program(w, KEY, 1)
    np.testing.assert_allclose(drifted.weight, plain.weight, rtol=1e-4, atol=1e-4)
    per_cell = Hardware(mapping, LogNormalDrift(0.5)).program(w, KEY, 1)
    assert not np.allclose(per_cell.weight, plain.weight, rtol=0.01, atol=0.01)
    columns = np.ascontiguousarray(w.T)
    factor = slope(Hardware(mapping, LogNormalDrift(0.5), drift_per="weight"), columns, KEY, 1)
    busy = np.abs(columns) > 0
    np.testing.assert_allclose((factor * columns)[busy], drifted.weight.T[busy], rtol=1e-3)


def test_an_error_of_the_top_slice_weighs_most():
    mapping = Differential(0.0, 6e-5, levels=256, cell_bits=4)
    assert mapping.slice_weights[1] / mapping.slice_weights[0] == pytest.approx(16)
    assert sum(mapping.slice_weights) == pytest.approx(1.0)
