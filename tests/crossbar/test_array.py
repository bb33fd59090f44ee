"""The product over tiles, and how many of them there are."""

import numpy as np
import pytest
from helpers import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbar_sim import (
    ALL_MAPPINGS,
    Differential,
    Hardware,
    InputError,
    Key,
    LogNormalDrift,
    Offset,
)
from crossbar_sim.crossbar.array import Geometry

TILES = [(1, 1), (3, 4), (16, 16), (37, 9), (128, 128), (1000, 1)]


def array(mapping, rows, cols, tile, sigma=0.3):
    w = np.sin(np.arange(rows * cols, dtype=np.float32)).reshape(rows, cols)
    hardware = Hardware(mapping, LogNormalDrift(sigma), tile=tile)
    return hardware.program(w, Key(1).fold("fc"), 2)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("cls", ALL_MAPPINGS)
def test_matvec_is_the_product_with_the_weights(cls, tile):
    """To float32 rounding of sums of this length, whatever the tiles."""
    a = array(cls(1e-6, 1e-4, copies=2), 150, 11, tile)
    x = np.cos(np.arange(7 * 150, dtype=np.float32)).reshape(7, 150)
    exact = x.astype(np.float64) @ a.weight.astype(np.float64)
    size = np.abs(x).astype(np.float64) @ np.abs(a.drifted.astype(np.float64)).sum(axis=0)
    size = (size if size.shape[1] == 11 else size[:, :11] + size[:, 11:]) / a.scale / 2
    assert np.all(np.abs(a.matvec(x) - exact) <= 2e-6 * size)
    assert np.array_equal(a.matvec(x[0]), a.matvec(x)[0]), "a vector is a batch of one"


@pytest.mark.parametrize("tile", TILES)
def test_tiles_change_only_the_order_of_the_sum(tile):
    whole = array(Differential(), 150, 11, (1000, 1000))
    tiled = array(Differential(), 150, 11, tile)
    assert np.array_equal(whole.drifted, tiled.drifted), "cells are named without tiles"
    x = np.ones((1, 150), np.float32)
    assert np.allclose(whole.matvec(x), tiled.matvec(x), atol=1e-4), "sums of 150 terms of order 1"


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(0, 3), rows=st.integers(1, 7), cols=st.integers(1, 5), tile=st.integers(1, 9),
    cls=st.sampled_from(ALL_MAPPINGS),
)  # fmt: skip
def test_currents_are_the_twins(batch, rows, cols, tile, cls):
    a = array(cls(1e-6, 1e-4), rows, cols, (tile, 3))
    v = np.cos(np.arange(batch * rows, dtype=np.float32)).reshape(batch, rows)
    i = a.currents(v)
    for p in range(len(a.drifted)):
        expected = reference.tiled_currents(v, a.drifted[p], tile)
        assert i[p].shape == expected.shape
        assert np.allclose(i[p], expected, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("cls", ALL_MAPPINGS)
@pytest.mark.parametrize(("rows", "cols"), [(0, 3), (3, 0), (0, 0), (1, 1), (1, 9), (9, 1)])
@pytest.mark.parametrize("scale_per", ["matrix", "column"])
def test_degenerate_shapes(cls, rows, cols, scale_per):
    mapping = cls(1e-6, 1e-4, scale_per=scale_per, levels=16, copies=2)
    a = array(mapping, rows, cols, (2, 2))
    assert a.weight.shape == (rows, cols)
    assert (a.rows, a.cols) == (rows, cols)
    y = a.matvec(np.ones((4, rows), np.float32))
    assert y.shape == (4, cols)
    assert np.all(np.isfinite(y))
    assert np.all(np.isfinite(a.drifted)), "the reference column too"
    hardware = Hardware(mapping, LogNormalDrift(0.3), tile=(2, 2))
    columns = np.sin(np.arange(rows * cols, dtype=np.float32)).reshape(rows, cols).T
    columns = np.ascontiguousarray(columns)
    effective = hardware.effective_weight(columns, Key(1).fold("fc"), 2)
    assert np.array_equal(effective, a.weight.T)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (1, 2, 4), (5,)])
def test_inputs_of_another_size_are_refused(shape):
    a = array(Differential(), 4, 2, (2, 2))
    with pytest.raises(InputError, match="expected"):
        a.matvec(np.ones(shape, np.float32))


@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)])
def test_only_matrices_are_programmed(shape):
    with pytest.raises(InputError, match="shape"):
        Hardware().program(np.ones(shape, np.float32), Key(0), 0)


# --- geometry, counted by hand --------------------------------------------------------------------


def test_geometry_of_a_differential_pair():
    """784 x 192 on 128 x 128: 7 tiles down, 2 across, 2 planes."""
    g = Hardware(Differential()).geometry(784, 192)
    assert g.cells == 2 * 784 * 192 == 301_056
    assert g.tiles == 2 * 7 * 2 == 28
    assert g.utilisation == pytest.approx(301_056 / (28 * 16_384))


def test_geometry_of_the_reference_column():
    """128 outputs and a reference are 129 columns: a second tile for one column."""
    g = Hardware(Offset()).geometry(128, 128)
    assert g.cells == 128 * 129
    assert g.tiles == 2
    assert Hardware(Offset()).geometry(128, 127).tiles == 1


def test_geometry_of_copies_and_groups():
    g = Hardware(Differential(copies=3), tile=(16, 8)).geometry(9, 4, groups=32)
    assert g == Geometry(9, 4, 32, 6, False, (16, 8))
    assert g.cells == 32 * 6 * 36
    assert g.tiles == 32 * 6
    assert g.utilisation == pytest.approx(36 / 128)


def test_geometry_of_nothing():
    g = Hardware(Differential()).geometry(0, 5)
    assert (g.cells, g.tiles, g.utilisation) == (0, 0, 0.0)


def test_geometry_agrees_with_the_array():
    for mapping in (Differential(copies=2), Offset(copies=3)):
        a = array(mapping, 10, 7, (4, 4))
        hardware = Hardware(mapping, tile=(4, 4))
        assert hardware.geometry(10, 7).cells == a.drifted.size
