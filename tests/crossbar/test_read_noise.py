"""Noise that is fresh at every read: named by its event, and of the variance that the cells add up to."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from crossbar_sim import Differential, Hardware, Key, Offset
from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.converters import GaussianReadNoise, TelegraphNoise
from crossbar_sim.crossbar.stream import Stream

KEY = Key(11).fold("fc1")
ROWS, COLS = 24, 3
CHANCE = 1e-6


def matrix(rows: int, cols: int, name: str) -> np.ndarray:
    return Stream.of(Key(2).fold(name), 0).normals(rows * cols).reshape(rows, cols)


W, X = matrix(ROWS, COLS, "w"), matrix(1, ROWS, "x")
HARDWARE = Hardware(Differential(1e-6, 5e-5), tile=(10, 4), read_noise=GaussianReadNoise(0.05))


def test_a_read_is_named_and_depends_on_nothing_else():
    x = matrix(50, ROWS, "batch")
    array = HARDWARE.program(W, KEY, 4)
    whole = array.matvec(x, event=3)
    np.testing.assert_array_equal(whole, HARDWARE.program(W, KEY, 4).matvec(x, event=3))
    pieces = [array.matvec(x[i : i + 7], event=3, first=i) for i in range(0, 50, 7)]
    np.testing.assert_array_equal(whole, np.concatenate(pieces))
    before = threads.threads()
    try:
        threads.set_threads(3)
        np.testing.assert_array_equal(whole, array.matvec(x, event=3))
    finally:
        threads.set_threads(before)
    for other in (array.matvec(x, event=4), HARDWARE.program(W, KEY, 5).matvec(x, event=3)):
        assert np.all(other != whole)
    assert len(np.unique(array.matvec(np.repeat(X, 20, axis=0)), axis=0)) == 20


@pytest.mark.parametrize("of", ["g_max", "g"])
@pytest.mark.parametrize("mapping", [Differential(1e-6, 5e-5), Offset(1e-6, 5e-5)])
def test_the_variance_is_the_sum_over_cells(mapping, of):
    n, hardware = 4000, replace(HARDWARE, mapping=mapping, read_noise=GaussianReadNoise(0.05, of))
    array = hardware.program(W, KEY, 0)
    y = array.matvec(np.repeat(X, n, axis=0)).astype(np.float64)
    g = array.drifted.astype(np.float64)
    cells = (0.05 * (np.full_like(g, mapping.g_max) if of == "g_max" else g)) ** 2
    pairs = cells[0] + cells[1] if len(g) == 2 else cells[0, :, :-1] + cells[0, :, -1:]
    variance = (X.astype(np.float64) ** 2 @ pairs)[0] / float(array.scale[0]) ** 2

    def chance(expected: np.ndarray) -> float:
        chi2 = ((y - y.mean(axis=0)) ** 2).sum(axis=0) / expected
        return float(min(2 * np.minimum(stats.chi2.cdf(chi2, n - 1), stats.chi2.sf(chi2, n - 1))))

    mean = (X @ array.weight)[0]
    z = (y.mean(axis=0) - mean) / np.sqrt(variance / n)
    assert np.abs(z).max() < stats.norm.isf(CHANCE)
    assert chance(variance) > CHANCE
    assert chance(1.2 * variance) < CHANCE  # the test would see a tenth of the spread
    assert stats.kstest((y[:, 0] - mean[0]) / np.sqrt(variance[0]), "norm").pvalue > CHANCE


def test_two_states_have_the_mean_and_variance_of_cells_that_switch_one_by_one():
    noise, n = TelegraphNoise(amplitude=0.3, occupancy=0.25), 4000
    array = replace(HARDWARE, read_noise=noise).program(W, KEY, 0)
    y = array.matvec(np.repeat(X, n, axis=0)).astype(np.float64)
    g = array.drifted.astype(np.float64)
    uniform = Stream.of(Key(9).fold("traps"), 0).words(n * g.size).reshape(n, *g.shape) / 2.0**32
    switched = g * np.where(uniform < 0.25, 0.7, 1.0)
    slow = np.einsum("r,nrc->nc", X[0].astype(np.float64), switched[:, 0] - switched[:, 1])
    slow /= float(array.scale[0])
    expected = 0.925 * (X @ array.weight)[0]
    for sample in (y, slow):
        z = (sample.mean(axis=0) - expected) / (sample.std(axis=0) / np.sqrt(n))
        assert np.abs(z).max() < stats.norm.isf(CHANCE)
    ratio = y.var(axis=0) / slow.var(axis=0)
    limit = stats.f.isf(CHANCE, n - 1, n - 1)
    assert np.all((ratio < limit) & (ratio > 1 / limit))
    doubled = replace(HARDWARE, read_noise=replace(noise, amplitude=0.33)).program(W, KEY, 0)
    other = doubled.matvec(np.repeat(X, n, axis=0)).var(axis=0) / slow.var(axis=0)
    assert np.any((other > limit) | (other < 1 / limit))  # the control: a tenth more amplitude is seen


def test_no_noise_is_no_noise():
    x = matrix(5, ROWS, "batch")
    linear = replace(HARDWARE, read_noise=None).program(W, KEY, 0)
    for still in (GaussianReadNoise(0.0), TelegraphNoise(0.0), TelegraphNoise(0.5, 0.0)):
        found = replace(HARDWARE, read_noise=still).program(W, KEY, 0).matvec(x)
        np.testing.assert_allclose(found, linear.matvec(x), rtol=1e-5, atol=1e-5)
    always = replace(HARDWARE, read_noise=TelegraphNoise(0.5, 1.0)).program(W, KEY, 0).matvec(x)
    np.testing.assert_allclose(always, linear.matvec(x) / 2, rtol=1e-5, atol=1e-5)
