"""Effective conductances: by hand, against dense nodal analysis, and what physics demands of them."""

import itertools

import numpy as np
import pytest
from helpers.circuits import Circuit, dense_nodal, random_tile

from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.wires import Wires

METHODS = ("fast", "exact")
CIRCUITS = [
    Circuit(*ohms, inputs)
    for ohms in itertools.product((0.0, 1.5, 30.0), (0.0, 2.5), (0.0, 5.0), (0.0, 7.0))
    for inputs in ("one", "both")
]


def oracle(g: np.ndarray, circuit: Circuit) -> np.ndarray:
    """Effective conductances by dense nodal analysis, one input of 1 V after the other."""
    return np.array([dense_nodal(g, unit, circuit).currents for unit in np.eye(len(g))])


def deviation(found: np.ndarray, expected: np.ndarray) -> float:
    """As `tolerance` means it: against the largest effective conductance of the row, or of the column."""
    rows, cols = np.abs(expected).max(axis=1, keepdims=True), np.abs(expected).max(axis=0, keepdims=True)
    size = np.maximum(rows, cols)
    return float(np.max(np.abs(found - expected) / np.where(size > 0, size, 1)))


def log_uniform(n: int, m: int, seed: int = 0) -> np.ndarray:
    """10 k to 1 M ohm: the tile of the benchmarks."""
    return np.exp(np.random.default_rng(seed).uniform(np.log(1e-6), np.log(1e-4), (n, m)))


@pytest.mark.parametrize("method", METHODS)
class TestByHand:
    def test_one_cell_is_all_in_series(self, method):
        wires = Wires(1, 2, 3, 4, method=method, tolerance=1e-12)
        assert wires.effective(np.array([[0.1]]))[0, 0] == pytest.approx(1 / (1 + 2 + 3 + 4 + 10), rel=1e-12)

    def test_one_cell_driven_from_both_ends_has_half_the_way_in(self, method):
        wires = Wires(1, 2, 3, 4, "both", method=method, tolerance=1e-12)
        assert wires.effective(np.array([[0.1]]))[0, 0] == pytest.approx(1 / (4 / 2 + 2 + 4 + 10), rel=1e-12)

    def test_one_by_two_of_ohms(self, method):
        # Each cell with its bit segment: 2 ohm. From the second node on: 1 + 2 = 3 ohm, beside the first
        # cell 6/5 ohm, with the first segment 11/5: 5/11 A; node voltages 6/11 and 4/11 V.
        found = Wires(1, 1, method=method, tolerance=1e-12).effective(np.ones((1, 2)))
        assert found == pytest.approx(np.array([[3 / 11, 2 / 11]]), rel=1e-12)

    def test_two_by_one_of_ohms_is_that_turned_round(self, method):
        found = Wires(1, 1, method=method, tolerance=1e-12).effective(np.ones((2, 1)))
        assert found == pytest.approx(np.array([[2 / 11], [3 / 11]]), rel=1e-12)

    def test_ideal_word_lines(self, method):
        # 1 V on row 0 only. b0: 1 - b0 = b0 - b1; b1: b0 - b1 = b1 + b1; so b1 = 1/5. On row 1 only:
        # b0: b0 = b1 - b0; b1: 1 - b1 + b0 - b1 = b1; so b1 = 2/5.
        found = Wires(0, 1, method=method, tolerance=1e-12).effective(np.ones((2, 1)))
        assert found == pytest.approx(np.array([[0.2], [0.4]]), rel=1e-12)

    def test_two_by_two_of_ohms(self, method):
        # 1 V on row 0: w = [27 20; 4 5]/44, b = [17 13; 7 6]/44 V. Row 1: w = [4 5; 23 15]/44,
        # b = [7 6; 10 7]/44 V. Kirchhoff's current law holds at all eight nodes of each.
        found = Wires(1, 1, method=method, tolerance=1e-12).effective(np.ones((2, 2)))
        assert found == pytest.approx(np.array([[7, 6], [10, 7]]) / 44, rel=1e-12)


@pytest.mark.parametrize("circuit", CIRCUITS, ids=str)
def test_dense_nodal_analysis_agrees(circuit):
    rng = np.random.default_rng(1)
    for shape in ((1, 1), (1, 3), (4, 1), (3, 5), (5, 3), (9, 9)):
        for short in (0.0, 0.05):
            g = random_tile(rng, *shape, short=short)
            expected = oracle(g, circuit)
            assert deviation(Wires(*circuit, method="exact").effective(g), expected) < 1e-12
            for tolerance in (1e-3, 1e-6, 1e-9):
                found = Wires(*circuit, tolerance=tolerance).effective(g)
                assert deviation(found, expected) <= tolerance


def test_a_coarse_tolerance_is_used_and_kept():
    g = log_uniform(96, 64)
    exact = Wires(3, 3, method="exact").effective(g)
    errors = [deviation(Wires(3, 3, tolerance=t).effective(g), exact) for t in (1e-1, 1e-4, 1e-8)]
    assert all(error <= t for error, t in zip(errors, (1e-1, 1e-4, 1e-8), strict=True))
    assert errors[0] > 10 * errors[1] > 100 * errors[2] > 0  # no more work than was asked for


def test_the_benchmark_tile_is_right_to_a_millionth():
    g = log_uniform(128, 128)
    exact = Wires(1.5, 1.5, method="exact").effective(g)
    assert np.max(np.abs(Wires(1.5, 1.5).effective(g) / exact - 1)) < 1e-6


@pytest.mark.parametrize("method", METHODS)
class TestPhysics:
    def test_zero_resistance_is_a_matmul(self, method):
        g = log_uniform(20, 30).astype(np.float32)
        found = Wires(method=method).effective(g)
        assert found.dtype == np.float64
        assert np.array_equal(found, g.astype(np.float64))

    def test_small_resistances_approach_the_matmul(self, method):
        g = log_uniform(20, 30)
        losses = [np.max(1 - Wires(r, r, method=method).effective(g) / g) for r in (1e-6, 1e-3, 1.0)]
        assert losses[0] < 1e-7
        assert losses[0] < losses[1] < losses[2]
        assert losses[1] / losses[0] == pytest.approx(1e3, rel=0.01)

    @pytest.mark.parametrize("shape", [(30, 20), (20, 30)])
    def test_output_never_exceeds_ideal_for_positive_inputs(self, method, shape):
        g = log_uniform(*shape)
        v = np.random.default_rng(2).uniform(0, 1, (50, shape[0]))
        assert np.all(v @ Wires(5, 5, method=method).effective(g) < v @ g)

    def test_more_resistance_never_helps_the_sum(self, method):
        g = log_uniform(12, 9)
        sums = [Wires(r, r, r, r, method=method).effective(g).sum() for r in (0.0, 0.5, 2.0, 8.0, 32.0)]
        assert sums == sorted(sums, reverse=True)

    def test_far_corner_loses_most_and_near_corner_least(self, method):
        loss = 1 - Wires(2, 2, method=method).effective(np.full((24, 31), 2e-5)) / 2e-5
        # Near the source is the first column, near the sense the last row.
        assert np.unravel_index(np.argmax(loss), loss.shape) == (0, 30)
        assert np.unravel_index(np.argmin(loss), loss.shape) == (23, 0)

    def test_both_ends_lose_less_and_are_symmetric(self, method):
        g = np.full((15, 16), 5e-5)
        one, both = (Wires(2, 2, inputs=ends, method=method).effective(g) for ends in ("one", "both"))
        assert both.sum() > one.sum()
        assert both == pytest.approx(both[:, ::-1], rel=1e-5)
        assert abs(one[0, 0] / one[0, -1] - 1) > 0.01  # the control: from one end it is not

    def test_reciprocity(self, method):
        # A source and a sense terminal may change places: turned round, the tile is transposed.
        g = random_tile(np.random.default_rng(3), 7, 11)
        wires = {"tolerance": 1e-10, "method": method}
        forward = Wires(1, 2, 3, 4, **wires).effective(g)
        backward = Wires(2, 1, 4, 3, **wires).effective(g[::-1, ::-1].T)
        assert forward == pytest.approx(backward[::-1, ::-1].T, rel=1e-7, abs=1e-15)
        assert np.max(np.abs(forward - Wires(2, 1, 4, 3, **wires).effective(g))) > 1e-5  # the control

    def test_an_open_tile_carries_nothing(self, method):
        assert not Wires(1, 1, method=method).effective(np.zeros((4, 3))).any()

    def test_an_open_cell_is_reached_by_detours_only(self, method):
        g = log_uniform(6, 6)
        g[2, 3] = 0.0
        found = Wires(2, 2, method=method, tolerance=1e-9).effective(g)
        assert 0 < found[2, 3] < 1e-3 * g.max()
        assert Wires(0, 2, method=method).effective(g)[2, 3] == 0.0

    def test_one_row_sees_only_its_neighbours_wires(self, method):
        # Ideal word lines: columns know nothing of each other.
        g = log_uniform(10, 4)
        whole = Wires(0, 3, method=method).effective(g)
        alone = np.hstack([Wires(0, 3, method=method).effective(g[:, [j]]) for j in range(4)])
        assert whole == pytest.approx(alone, rel=1e-12)


def test_near_shorts_everywhere_are_eliminated_rather_than_iterated():
    g = np.random.default_rng(4).choice([0.0, 1e-3, 1e3], (12, 10))
    circuit = Circuit(1.5, 2.5)
    assert deviation(Wires(1.5, 2.5).effective(g), oracle(g, circuit)) < 1e-9


def test_planes_in_parallel_are_the_same_bits():
    planes = [log_uniform(n, m, seed=n) for n, m in ((20, 30), (33, 8), (8, 33), (64, 64))]
    planes += [np.zeros((3, 0)), np.zeros((0, 3))]
    wires, before = Wires(1.5, 2.5), threads.threads()
    try:
        results = []
        for count in (1, 3):
            threads.set_threads(count)
            results.append(wires.effective_planes(planes))
    finally:
        threads.set_threads(before)
    for g, one, many in zip(planes, *results, strict=True):
        assert np.array_equal(one, many)
        assert np.array_equal(one, wires.effective(g))
        assert one.shape == g.shape
    stack = np.stack([log_uniform(5, 4, seed=k) for k in range(3)])
    assert np.array_equal(wires.effective_planes(stack), [wires.effective(g) for g in stack])


def test_float32_cells_are_taken_as_they_are():
    g = log_uniform(9, 7).astype(np.float32)
    assert np.array_equal(Wires(1, 1).effective(g), Wires(1, 1).effective(g.astype(np.float64)))
    assert np.array_equal(Wires(1, 1).effective(np.asfortranarray(g)), Wires(1, 1).effective(g))
