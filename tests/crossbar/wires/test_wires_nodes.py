"""Node voltages and currents: dense nodal analysis, Kirchhoff's laws, energy, outcomes."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from helpers.circuits import Circuit, dense_nodal, random_tile

from crossbar_sim.crossbar.wires import Outcome, Wires, nodes, solve_nodes

METHODS = ("fast", "exact")
CIRCUITS = [
    Circuit(*ohms, inputs)
    for ohms in itertools.product((0.0, 1.5), (0.0, 2.5), (0.0, 5.0), (0.0, 7.0))
    for inputs in ("one", "both")
]


@pytest.mark.parametrize("circuit", CIRCUITS, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_dense_nodal_analysis_agrees(circuit, method):
    rng = np.random.default_rng(2)
    for shape in ((1, 1), (1, 4), (4, 1), (3, 5), (9, 6)):
        g, v = random_tile(rng, *shape, short=0.05), rng.uniform(-1, 1, shape[0])
        expected = dense_nodal(g, v, circuit)
        found = solve_nodes(g, v, Wires(*circuit, tolerance=1e-10, method=method))
        size = np.max(np.abs(expected.currents))
        assert found.outcome is (Outcome.SOLVED if method == "fast" else Outcome.EXACT)
        assert found.column_currents == pytest.approx(expected.currents, abs=2e-10 * size)
        assert found.word_voltages == pytest.approx(expected.words, abs=1e-8)
        assert found.bit_voltages == pytest.approx(expected.bits, abs=1e-8)
        assert found.residual < 1e-8


@pytest.mark.parametrize("method", METHODS)
def test_several_inputs_are_each_alone_and_agree_with_effective(method):
    rng = np.random.default_rng(3)
    g, v = random_tile(rng, 8, 5), rng.uniform(0, 1, (4, 8))
    wires = Wires(2, 3, 1, 1, tolerance=1e-10, method=method)
    together = solve_nodes(g, v, wires)
    assert together.word_voltages.shape == together.cell_currents.shape == (4, 8, 5)
    assert together.power.shape == together.residual.shape == (4,)
    for k in range(4):
        alone = solve_nodes(g, v[k], wires)
        # LAPACK solves several right-hand sides in another order than one.
        rounding = 0.0 if method == "fast" else 1e-13
        assert alone.bit_voltages == pytest.approx(together.bit_voltages[k], rel=rounding, abs=0)
        assert alone.power == pytest.approx(together.power[k], rel=rounding, abs=0)
    assert together.column_currents == pytest.approx(v @ wires.effective(g), rel=1e-8)


def test_kirchhoff_and_energy_balance():
    rng = np.random.default_rng(4)
    g, v = random_tile(rng, 6, 7), rng.uniform(-1, 1, 6)
    found = solve_nodes(g, v, Wires(2, 3, 4, 5, method="exact"))
    words, bits = found.word_voltages, found.bit_voltages
    assert found.column_currents == pytest.approx(found.cell_currents.sum(axis=0), rel=1e-9)
    heat = np.sum(found.cell_currents * (words - bits))
    heat += np.sum((v - words[:, 0]) ** 2) / 6 + np.sum(np.diff(words, axis=1) ** 2) / 2
    heat += np.sum(bits[-1] ** 2) / 8 + np.sum(np.diff(bits, axis=0) ** 2) / 3
    assert found.power == pytest.approx(heat, rel=1e-12)


def test_ideal_wires_leave_voltages_and_currents_alone():
    g, v = random_tile(np.random.default_rng(5), 4, 3), np.array([0.1, -0.2, 0.3, 0.0])
    found = solve_nodes(g, v, Wires())
    assert np.array_equal(found.word_voltages, np.repeat(v[:, None], 3, axis=1))
    assert not found.bit_voltages.any()
    assert found.residual == 0
    assert found.column_currents == pytest.approx(v @ g, rel=1e-14)


def test_the_residual_sees_a_coarse_solution():
    g, v = np.full((32, 32), 1e-3), np.ones(32)
    residuals = [solve_nodes(g, v, Wires(1, 1, tolerance=t)).residual for t in (0.1, 1e-4, 1e-10)]
    assert residuals[0] > 10 * residuals[1] > 100 * residuals[2] > 0


def test_no_input_gives_no_current():
    found = solve_nodes(random_tile(np.random.default_rng(6), 4, 3), np.zeros(4), Wires(1, 1))
    assert not found.column_currents.any()
    assert found.outcome is Outcome.SOLVED


def test_running_out_of_steps_is_said(monkeypatch):
    monkeypatch.setattr(nodes, "MOST_STEPS", 2)
    monkeypatch.setattr(nodes, "fits_memory", lambda *_: False)
    g, v = np.full((40, 40), 1e-2), np.ones(40)
    found = solve_nodes(g, v, Wires(5, 5))
    assert found.outcome is Outcome.STEPS
    assert not found.outcome.solved
    assert "ran out of steps" in found.outcome.value
    assert found.residual > 1e-5
    assert solve_nodes(g, v, Wires(5, 5, method="exact")).outcome.solved


def test_the_worst_outcome_of_several_inputs_is_the_whole_one(monkeypatch):
    monkeypatch.setattr(nodes, "MOST_STEPS", 2)
    monkeypatch.setattr(nodes, "fits_memory", lambda *_: False)
    inputs = np.stack([np.zeros(40), np.ones(40)])
    found = solve_nodes(np.full((40, 40), 1e-2), inputs, Wires(5, 5))
    assert found.outcomes == (Outcome.SOLVED, Outcome.STEPS)
    assert found.outcome is Outcome.STEPS


def test_every_outcome_is_a_sentence_that_names_the_remedy():
    for outcome in Outcome:
        assert outcome.value.startswith("solved" if outcome.solved else "not solved")
        assert outcome.solved or any(word in outcome.value for word in ("use", "allow", "lower"))
        json.dumps(outcome.value)


def test_a_tile_of_realistic_size_in_few_steps():
    g = np.exp(np.random.default_rng(0).uniform(np.log(1e-6), np.log(1e-4), (128, 128)))
    v = np.random.default_rng(1).uniform(0, 1, 128)
    fast, exact = (solve_nodes(g, v, Wires(1.5, 1.5, method=method)) for method in METHODS)
    assert fast.steps <= 5
    assert fast.column_currents == pytest.approx(exact.column_currents, rel=1e-6)
    assert exact.residual < 1e-13


@pytest.mark.parametrize("seed", range(24))
def test_near_shorts_of_any_size_are_solved_to_the_tolerance_or_by_elimination(seed):
    rng = np.random.default_rng(seed)
    g, v = 10 ** rng.uniform(-6, 2, (16, 12)), rng.uniform(0, 1, 16)
    wires = Wires(r_word=1.0, r_sense=1e4)
    fast, exact = solve_nodes(g, v, wires), solve_nodes(g, v, replace(wires, method="exact"))
    assert fast.outcome.solved
    error = np.abs(fast.column_currents - exact.column_currents).max()
    assert error <= 1.01e-6 * np.abs(exact.column_currents).max()
