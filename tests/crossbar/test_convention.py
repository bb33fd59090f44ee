"""Which way round: one asymmetric example for every convention, so that a swapped pair cannot pass."""

import numpy as np
import pytest

from crossbar_sim import (
    ALL_MAPPINGS,
    Differential,
    Hardware,
    Key,
    LogNormalDrift,
    Offset,
    StuckCells,
)
from crossbar_sim.crossbar.stream import Stream

W = np.float32([[1.0, 2.0, 3.0], [4.0, 5.0, -6.0]])  # two inputs, three outputs


@pytest.mark.parametrize("mapping", ALL_MAPPINGS)
def test_rows_are_inputs_and_columns_are_outputs(mapping):
    array = Hardware(mapping(1e-6, 1e-4)).program(W, Key(0), 0)
    assert (array.rows, array.cols) == (2, 3)
    assert array.weight.shape == (2, 3)
    y = array.matvec(np.float32([10.0, 1.0]))
    assert y.shape == (3,)
    assert np.allclose(y, [14, 25, 24], rtol=1e-5)


def test_word_lines_carry_voltages_and_bit_lines_add_currents():
    array = Hardware(Differential(0.0, 6e-6)).program(W, Key(0), 0)
    i = array.currents(np.float32([[1.0, 0.0], [0.0, 1.0]]))  # 1 V on one word line at a time
    assert i.shape == (2, 2, 3), "(planes, batch, bit lines)"
    assert np.allclose(i[0] * 1e6, [[1, 2, 3], [4, 5, 0]], rtol=1e-5), "the + plane, in uA"
    assert np.allclose(i[1] * 1e6, [[0, 0, 0], [0, 0, 6]], rtol=1e-5), "the - plane"


def test_planes_alternate_plus_and_minus_copy_by_copy():
    array = Hardware(Differential(0.0, 6e-6, copies=2)).program(W, Key(0), 0)
    assert array.target.shape == (4, 2, 3)
    assert array.target[0, 1, 2] == array.target[2, 1, 2] == 0
    assert array.target[1, 1, 2] == array.target[3, 1, 2] == np.float32(6e-6)


def test_the_offset_reference_is_the_last_column():
    array = Hardware(Offset(1e-6, 5e-6, copies=2)).program(W, Key(0), 0)
    assert array.target.shape == (2, 2, 4)
    assert np.allclose(array.target[:, :, 3], 3e-6, rtol=1e-6)
    assert array.cols == 3


def test_cells_are_counted_bit_line_by_bit_line():
    """Cell (r, c) is c rows + r, which is the memory of torch's (out, in) weight."""
    key = Key(3).fold("fc")
    factor = LogNormalDrift(1.0).apply(np.ones((2, 3), np.float32), key, 5)
    z = Stream.of(key.fold("drift"), 5).normals(6)
    assert np.allclose(np.log(factor), [[z[0], z[2], z[4]], [z[1], z[3], z[5]]], atol=1e-6)


def test_effective_weight_takes_and_gives_outputs_first():
    hardware = Hardware(Differential(1e-6, 1e-4), LogNormalDrift(0.5))
    columns = np.ascontiguousarray(W.T)
    assert columns.shape == (3, 2), "as torch keeps it"
    drifted = hardware.effective_weight(columns, Key(0), 0)
    assert np.array_equal(drifted, hardware.program(W, Key(0), 0).weight.T)


def test_off_is_the_low_conductance():
    w = np.ones((50, 50), np.float32)
    off = Hardware(Differential(1e-6, 5e-6), stuck=StuckCells(off=1.0)).program(w, Key(0), 0)
    on = Hardware(Differential(1e-6, 5e-6), stuck=StuckCells(on=1.0)).program(w, Key(0), 0)
    assert np.all(off.drifted == np.float32(1e-6))
    assert np.all(off.faults == 1)
    assert np.all(on.drifted == np.float32(5e-6))
    assert np.all(on.faults == 2)


def test_a_tile_is_rows_by_cols():
    """130 x 3 on tiles of (64, 8) takes three tiles down the word lines, not one."""
    geometry = Hardware(Differential(), tile=(64, 8)).geometry(130, 3)
    assert geometry.tiles == 2 * 3 * 1
    geometry = Hardware(Differential(), tile=(8, 64)).geometry(130, 3)
    assert geometry.tiles == 2 * 17 * 1
