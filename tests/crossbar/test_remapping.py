"""Fault-aware mapping: exact without faults, never worse with them, and better than chance."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbar_sim import Differential, Hardware, InputError, Key, LogNormalDrift, Offset, StuckCells
from crossbar_sim.crossbar.array import read_weight
from crossbar_sim.crossbar.remapping import fault_map, remap, remapped_planes, remapped_weight

STUCK = StuckCells(0.03, 0.02)
MAPPINGS = [
    Differential(1e-6, 1e-4),
    Differential(0.0, 1e-4, levels=16, scale_per="column", copies=2),
    Differential(1e-6, 1e-4, levels=64, cell_bits=3),
    Offset(1e-6, 1e-4),
    Offset(1e-6, 1e-4, levels=256, cell_bits=4),
    Offset(1e-6, 1e-4, levels=8, scale_per="column"),
]
KEY = Key(4).fold("layer.weight")


def weights(rows: int, cols: int, seed: int = 0) -> np.ndarray:
    w = np.random.default_rng(seed).standard_normal((rows, cols)) * np.linspace(0.1, 1, cols)
    return w.astype(np.float32)


def columns_of(w: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(w.T)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@pytest.mark.parametrize("mapping", MAPPINGS, ids=str)
def test_the_map_of_faults_is_the_chips(mapping):
    hardware = Hardware(mapping, stuck=STUCK)
    w = weights(37, 21)
    array = hardware.program(w, KEY, 5)
    assert array.faults.any()
    np.testing.assert_array_equal(fault_map(hardware, 37, 21, KEY, 5), array.faults)
    assert not fault_map(Hardware(mapping), 37, 21, KEY, 5).any()


@pytest.mark.parametrize("mapping", MAPPINGS, ids=str)
def test_without_faults_nothing_moves_and_not_a_bit_changes(mapping):
    hardware = Hardware(mapping, LogNormalDrift(0.3), tile=(16, 16))
    w = weights(37, 21)
    found = remap(w, fault_map(hardware, 37, 21, KEY, 0), hardware)
    np.testing.assert_array_equal(found.place(w), w)
    assert (found.before, found.after) == (0, 0)
    plain = hardware.effective_weight(columns_of(w), KEY, 0)
    np.testing.assert_array_equal(remapped_weight(hardware, columns_of(w), KEY, 0), plain)


@pytest.mark.parametrize("mapping", MAPPINGS, ids=str)
@pytest.mark.parametrize("tile", [(16, 16), (64, 8), (8, 64)])
def test_the_error_told_is_the_error_had_and_it_falls(mapping, tile):
    hardware = Hardware(mapping, stuck=STUCK, tile=tile)
    w = weights(45, 38)
    columns, ideal = columns_of(w), hardware.up_to("levels").effective_weight(columns_of(w), KEY, 2)
    found = remap(w, fault_map(hardware, 45, 38, KEY, 2), hardware)
    norm = np.linalg.norm(w)
    before = np.linalg.norm(hardware.effective_weight(columns, KEY, 2) - ideal) / norm
    after = np.linalg.norm(remapped_weight(hardware, columns, KEY, 2) - ideal) / norm
    assert found.before == pytest.approx(before, rel=1e-4)
    assert found.after == pytest.approx(after, rel=1e-4)
    assert found.after < 0.98 * found.before
    if mapping.planes_per_copy == 2:
        assert (found.signs == -1).any()
    else:
        assert (found.signs == 1).all()


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 14), cols=st.integers(1, 14), high=st.integers(1, 16), wide=st.integers(1, 16),
    off=st.floats(0, 0.5), on=st.floats(0, 0.5), kind=st.sampled_from(range(len(MAPPINGS))), chip=st.integers(0, 99),
)  # fmt: skip
def test_the_error_never_grows_and_the_way_back_is_exact(rows, cols, high, wide, off, on, kind, chip):
    hardware = Hardware(MAPPINGS[kind], stuck=StuckCells(off, on), tile=(high, wide))
    w = weights(rows, cols, chip)
    found = remap(w, fault_map(hardware, rows, cols, KEY, chip), hardware)
    assert found.after <= found.before
    np.testing.assert_array_equal(found.restore(found.place(w)), w)
    assert sorted(found.rows.tolist()) == list(range(rows))
    for block in found.columns:
        assert sorted(block.tolist()) == list(range(cols))


def test_rows_stay_in_their_row_of_tiles_and_columns_in_their_tile():
    hardware = Hardware(Differential(1e-6, 1e-4), stuck=STUCK, tile=(16, 12))
    found = remap(weights(40, 30), fault_map(hardware, 40, 30, KEY, 1), hardware)
    assert not np.array_equal(found.rows, np.arange(40))
    np.testing.assert_array_equal(found.rows // 16, np.arange(40) // 16)
    np.testing.assert_array_equal(found.columns // 12, np.tile(np.arange(30) // 12, (3, 1)))
    grouped = remap(weights(40, 30), fault_map(hardware, 40, 30, KEY, 1), hardware, groups=3)
    np.testing.assert_array_equal(grouped.columns // 10, np.tile(np.arange(30) // 10, (3, 1)))


def test_one_scale_per_column_moves_with_the_whole_bit_line():
    hardware = Hardware(Differential(1e-6, 1e-4, scale_per="column"), stuck=STUCK, tile=(16, 12))
    found = remap(weights(40, 30), fault_map(hardware, 40, 30, KEY, 1), hardware)
    assert (found.columns == found.columns[0]).all()
    assert (found.columns[0] != np.arange(30)).any()


def test_a_hand_made_tile():
    """Bit line 0 conducts fully on g+ of word line 1: the column whose weight there is largest belongs on it."""
    hardware = Hardware(Differential(0.0, 1e-4), tile=(2, 3))
    w = np.array([[0.5, 0.2, -0.1], [0.0, -0.25, 1.0]], np.float32)
    faults = np.zeros((2, 2, 3), np.uint8)
    faults[0, 1, 0] = 2
    found = remap(w, faults, hardware)
    norm = np.linalg.norm(w)
    assert found.before == pytest.approx(1.0 / norm)  # a weight of 0 reads 1
    assert found.after == pytest.approx(0.0, abs=1e-6)  # a weight of 1 reads 1
    assert found.columns[0, 0] == 2 or found.rows[1] == 0  # the largest weight has moved there


def test_turning_a_pair_alone_can_mend_it():
    """One column, one row: g+ is stuck off, so a positive weight is lost unless the pair is turned."""
    hardware = Hardware(Differential(0.0, 1e-4), tile=(1, 1))
    w = np.array([[0.5]], np.float32)
    faults = np.zeros((2, 1, 1), np.uint8)
    faults[0] = 1
    found = remap(w, faults, hardware)
    assert (found.before, found.after) == (pytest.approx(1.0), 0)
    assert found.signs.tolist() == [[-1]]
    np.testing.assert_array_equal(found.place(w), -w)


def test_a_small_tile_is_solved_as_well_as_by_trying_everything():
    """All orders of columns, rows and turns of a 3 x 3 tile: the alternation comes near the best."""
    hardware = Hardware(Differential(0.0, 1e-4), tile=(3, 3))
    found, best = [], []
    for seed in range(12):
        w = weights(3, 3, seed)
        rng = np.random.default_rng(seed)
        faults = rng.choice(np.array([0, 1, 2], np.uint8), (2, 3, 3), p=[0.75, 0.15, 0.1])
        found.append(remap(w, faults, hardware).after)
        scale = hardware.mapping.scale(columns_of(w))
        errors = []
        for rows, cols, signs in itertools.product(
            itertools.permutations(range(3)),
            itertools.permutations(range(3)),
            itertools.product([1, -1], repeat=3),
        ):
            placed = w[list(rows)][:, list(cols)] * np.array(signs, np.float32)
            g = np.stack([np.maximum(placed, 0), np.maximum(-placed, 0)]) * scale[0]
            g = np.where(faults == 1, 0, np.where(faults == 2, 1e-4, g))
            errors.append(np.linalg.norm((g[0] - g[1]) / scale[0] - placed) / np.linalg.norm(w))
        best.append(min(errors))
    assert all(f >= b - 1e-6 for f, b in zip(found, best, strict=True))
    assert np.mean(found) <= 1.1 * np.mean(best) + 0.01


@pytest.mark.parametrize("mapping", MAPPINGS, ids=str)
def test_planes_come_back_in_the_logical_order(mapping):
    hardware = Hardware(mapping, LogNormalDrift(0.2), stuck=STUCK, tile=(16, 12))
    w = weights(40, 30)
    columns = columns_of(w)
    scale = mapping.scale(columns)
    planes = remapped_planes(hardware, columns, scale, KEY, 3)
    read = read_weight(np.ascontiguousarray(planes.transpose(0, 2, 1)), mapping, scale)
    np.testing.assert_allclose(read, remapped_weight(hardware, columns, KEY, 3).T, atol=1e-6)


def test_shapes_and_weights_that_cannot_be_are_refused():
    hardware = Hardware(Differential())
    with pytest.raises(InputError, match=r"expected \(2, 3, 4\)"):
        remap(weights(3, 4), np.zeros((1, 3, 4), np.uint8), hardware)
    with pytest.raises(InputError, match="expected a matrix"):
        remap(np.zeros(3, np.float32), np.zeros((2, 3, 1), np.uint8), hardware)
    with pytest.raises(InputError, match="NaN"):
        remap(np.full((3, 4), np.nan, np.float32), np.zeros((2, 3, 4), np.uint8), hardware)
