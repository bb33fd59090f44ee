"""Weights sliced over cells: digits, shift and add, and integer arithmetic to the bit."""

import itertools
from dataclasses import replace

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
import torch
from helpers import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from crossbar_sim import Differential, Hardware, Key, LogNormalDrift, Offset
from crossbar_sim.crossbar.converters import ADC, DAC
from crossbar_sim.crossbar.hardware import slope
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.nn import to_analog

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


@pytest.mark.parametrize("kind", [Differential, Offset])
@pytest.mark.parametrize(
    ("levels", "cell_bits"), [(3, 2), (17, 5), (15, 4), (5, 3), (255, 8), (100, 8), (2, 3)]
)
def test_one_slice_of_levels_that_are_no_power_of_two_reads_back(kind, levels, cell_bits):
    """A cell has more levels than the weight: one of its levels is less than one of the weight's."""
    w = integers(30, 5, 1000, "w").astype(np.float32)
    for whole in (
        kind(1e-6, 6e-5, levels=levels),
        kind(0.0, 6e-5, levels=levels, scale_per="column", copies=2),
    ):
        sliced = Hardware(replace(whole, cell_bits=cell_bits))
        expected = Hardware(whole).program(w, KEY, 0).weight
        array = sliced.program(w, KEY, 0)
        np.testing.assert_allclose(array.weight, expected, atol=0.02)
        columns = np.ascontiguousarray(w.T)
        np.testing.assert_array_equal(sliced.effective_weight(columns, KEY, 0).T, array.weight)
        x = integers(3, 30, 10, "x").astype(np.float32)
        np.testing.assert_allclose(array.matvec(x), x @ expected, atol=1.0)


WEIGHTS = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=6),
    elements=st.floats(-4, 4, width=32, allow_subnormal=False) | st.integers(-8, 8).map(float),
)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    w=WEIGHTS,
    kind=st.sampled_from([Differential, Offset, "twos_complement"]),
    window=st.sampled_from([(0.0, 1e-4), (1e-6, 5e-5), (5e-7, 5e-4), (4e-5, 6e-5)]),
    levels=st.integers(2, 300) | st.sampled_from([1000, 4096, 65535, 65536]),
    cell_bits=st.none() | st.integers(1, 20),
    scale_per=st.sampled_from(["matrix", "column"]),
    copies=st.integers(1, 3),
    clip=st.sampled_from([None, 70.0, 100.0]),
    bias=st.booleans(),
    rows=st.integers(1, 8),
)
def test_every_way_to_read_is_the_exact_twin(
    w, kind, window, levels, cell_bits, scale_per, copies, clip, bias, rows
):
    """Weights in exact fractions, by Eq. (1) to (5) and (28), against `weight`, `effective_weight`, `matvec`, the
    products of the converters' path, and a layer."""
    keys = {"levels": levels, "cell_bits": cell_bits, "scale_per": scale_per, "copies": copies, "clip": clip}
    if kind == "twos_complement":
        mapping = Offset(*window, **keys | {"levels": levels + levels % 2}, encoding=kind)
    else:
        mapping = kind(*window, **keys)
    columns = np.ascontiguousarray(w.T)
    tops = np.broadcast_to(reference.largest(mapping, w), w.shape[1])
    low, high = (np.zeros(w.shape) for _ in range(2))
    for r, c in np.ndindex(w.shape):
        of_step = {"differential": 1.0, "offset": mapping.span}[mapping.kind] * (mapping.levels - 1) / tops[c]
        size, value = float(tops[c]), float(w[r, c])
        if mapping.kind == "differential":
            plus = reference.code_range(mapping, max(value, 0.0), size, 1)
            minus = reference.code_range(mapping, max(-value, 0.0), size, 1)
            ends = plus[0] - minus[1], plus[1] - minus[0]
        else:
            zero = reference.code_range(mapping, 0.0, size, 1)[0]
            ends = tuple(code - zero for code in reference.code_range(mapping, value, size, 1))
        low[r, c], high[r, c] = ends[0] / of_step, ends[1] / of_step
    # single precision of g_max in each slice, in units of the weight
    rounding = 8 * copies * mapping.g_max * 2.0**-23 / (mapping.span * (window[1] - window[0]))
    slack = rounding * max(1.0, sum(mapping.slice_weights)) * tops + 1e-6 * np.abs(w)
    hardware = Hardware(mapping, tile=(rows, 4), bias="row" if bias else "digital")

    def right(found, extra=0.0):
        assert np.all(found >= low - slack - extra)
        assert np.all(found <= high + slack + extra)

    array = hardware.program(w, KEY, 0)
    right(array.weight)
    np.testing.assert_array_equal(hardware.effective_weight(columns, KEY, 0).T, array.weight)
    one = np.eye(len(w), dtype=np.float32)
    right(array.matvec(one))
    for per in ("pair", "column"):
        converted = replace(hardware, dac=DAC(bits=None, range=1.0), adc=ADC(per=per, range=1.0))
        right(converted.program(w, KEY, 0).matvec(one))
    layer = nn.Linear(w.shape[0] - bias, w.shape[1], bias=bool(bias)) if w.shape[0] > bias else None
    if layer is not None:
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(columns[:, : w.shape[0] - bias].copy()))
            if bias:
                layer.bias.copy_(torch.from_numpy(columns[:, -1].copy()))
            analog = to_analog(nn.Sequential(layer), hardware)
            inputs = torch.eye(w.shape[0] - bias)
            outputs = analog(inputs).numpy()
            last = analog(inputs[:1] * 0).numpy() if bias else 0
        found = np.concatenate([outputs - last, np.broadcast_to(last, (1, w.shape[1]))]) if bias else outputs
        right(found, extra=1e-6 * float(np.abs(w).max()))


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
