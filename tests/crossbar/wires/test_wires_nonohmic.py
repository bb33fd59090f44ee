"""Cells that are not ohmic: one cell by hand, limits, Newton's outcomes."""

import numpy as np
import pytest
from helpers.circuits import random_tile
from scipy.optimize import brentq

from crossbar_sim import InputError
from crossbar_sim.crossbar.wires import (
    Milo2021,
    Outcome,
    Sinh,
    Wires,
    currents_by_solving_each_input,
    nodes,
    solve_nodes,
)

WIRES = Wires(2, 3, 4, 5, tolerance=1e-9)
RNG = np.random.default_rng(0)


@pytest.mark.parametrize("method", ["fast", "exact"])
def test_one_cell_in_series_with_its_wires(method):
    g, a, v, ohms = 1e-2, 4.0, 0.8, 2 + 3 + 4 + 5
    expected = brentq(lambda i: i - g * np.sinh(a * (v - i * ohms)) / a, 0, 1, xtol=1e-15)
    found = solve_nodes(np.array([[g]]), [v], Wires(2, 3, 4, 5, tolerance=1e-9, method=method), Sinh(a))
    assert found.column_currents[0] == pytest.approx(expected, rel=1e-8)
    assert found.residual < 1e-9


def test_without_wires_each_cell_has_its_whole_input():
    g, v = random_tile(RNG, 5, 4), RNG.uniform(-1, 1, (3, 5))
    found = currents_by_solving_each_input(g, v, Wires(), Sinh(2.0))
    assert found == pytest.approx(np.sinh(2 * v) / 2 @ g, rel=1e-12)


def test_small_voltages_are_ohmic():
    g, v = random_tile(RNG, 5, 4), RNG.uniform(-1e-4, 1e-4, (3, 5))
    found = currents_by_solving_each_input(g, v, WIRES, Sinh(1.0))
    assert found == pytest.approx(v @ WIRES.effective(g), rel=1e-6)
    assert currents_by_solving_each_input(g, v, WIRES, None) == pytest.approx(
        v @ WIRES.effective(g), rel=1e-6
    )


def test_the_array_is_no_longer_linear():
    g, v = random_tile(RNG, 5, 4), RNG.uniform(0.3, 1, 5)
    half, whole = (currents_by_solving_each_input(g, k * v, WIRES, Sinh(3.0)) for k in (0.5, 1.0))
    assert np.all(whole > 2.05 * half)
    half, whole = (currents_by_solving_each_input(g, k * v, WIRES, None) for k in (0.5, 1.0))
    assert whole == pytest.approx(2 * half, rel=1e-6)


def test_kirchhoff_holds_with_strong_non_linearity():
    g, v = random_tile(RNG, 12, 9), RNG.uniform(-1, 1, 12)
    found = solve_nodes(g, v, WIRES, Sinh(12.0))
    assert found.outcome is Outcome.SOLVED
    assert found.residual < 1e-8
    drops = found.word_voltages - found.bit_voltages
    assert found.cell_currents == pytest.approx(g * np.sinh(12 * drops) / 12, rel=1e-12)
    assert found.column_currents == pytest.approx(found.cell_currents.sum(axis=0), rel=1e-6)


def test_milo_2021_polynomial():
    g = np.array([[62.5e-6, 76.2e-6, 110e-6, 0.0]])
    current, slope = Milo2021().current(g, np.full_like(g, 0.4))
    decades = np.log10(g[0, :3])
    second = 0.0001388 * decades**3 + 0.001541 * decades**2 + 0.005711 * decades + 0.007063
    third = 8.8710e-05 * decades**2 + 6.7919e-04 * decades + 1.2968e-03
    assert current[0, :3] == pytest.approx(0.4 * g[0, :3] + 0.16 * second + 0.064 * third, rel=1e-9)
    assert current[0, 3] == slope[0, 3] == 0
    for cell in (Milo2021(), Sinh(3.0)):
        up, down = (cell.current(g, np.full_like(g, 0.4 + h))[0] for h in (1e-6, -1e-6))
        assert cell.current(g, np.full_like(g, 0.4))[1] == pytest.approx((up - down) / 2e-6, rel=1e-6)


def test_milo_2021_current_rises_with_voltage_wherever_it_is_allowed():
    g = np.linspace(50e-6, 225e-6, 60)[:, None] * np.ones(41)
    assert np.all(Milo2021().current(g, np.linspace(-0.5, 0.5, 41) * np.ones_like(g))[1] > 0)


def test_milo_2021_in_a_tile_is_not_symmetric_in_sign():
    g, v = np.full((4, 4), 62.5e-6), np.full(4, 0.4)
    plus, minus = (currents_by_solving_each_input(g, k * v, WIRES, Milo2021()) for k in (1, -1))
    assert np.max(np.abs(plus + minus)) > 0.01 * np.max(plus)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Sinh(0), "a=0"),
        (lambda: Sinh(float("nan")), "a=nan"),
        (lambda: solve_nodes(np.ones((1, 1)), [100.0], WIRES, Sinh(1.0)), "lower the voltages or a"),
        (lambda: solve_nodes(np.full((1, 1), 1e-4), [0.6], WIRES, Milo2021()), "0.5 V"),
        (lambda: solve_nodes(np.full((1, 1), 1e-6), [0.1], WIRES, Milo2021()), "50 .. 225 uS"),
    ],
)
def test_what_a_law_does_not_hold_for_is_refused(make, text):
    with pytest.raises(InputError, match=text):
        make()


def test_running_out_of_newton_steps_is_said(monkeypatch):
    monkeypatch.setattr(nodes, "MOST_NEWTON", 1)
    g, v = np.full((3, 3), 1e-3), np.ones(3)
    assert solve_nodes(g, v, WIRES, Sinh(5.0)).outcome is Outcome.NEWTON
    with pytest.raises(InputError, match="Newton"):
        currents_by_solving_each_input(g, v, WIRES, Sinh(5.0))


class Wavy:
    """i = g (v - 0.09 sin(v / 0.1)): it rises throughout, but its tangent is nearly flat again and again."""

    def check(self, g, volts):
        pass

    def current(self, g, v):
        return g * (v - 0.09 * np.sin(v / 0.1)), g * (1 - 0.9 * np.cos(v / 0.1))


@pytest.mark.parametrize("seed", range(4))
def test_a_step_that_makes_the_mismatch_larger_is_made_shorter(seed):
    """Whole steps alone go round in circles here (with two of these seeds)."""
    rng = np.random.default_rng(seed)
    g, v = rng.uniform(1e-6, 1e-4, (6, 5)), rng.uniform(-1, 1, (1, 6))
    found = solve_nodes(g, v, Wires(r_word=1e4, r_bit=1e4), Wavy())
    assert found.outcome.solved
    assert found.residual.max() < 1e-6
