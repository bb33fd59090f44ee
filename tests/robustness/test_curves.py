import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.optimize import brentq

from crossbar_sim.errors import InputError
from crossbar_sim.robustness.curves import area, crossing
from crossbar_sim.robustness.statistics import mean_interval

SIGMAS = np.linspace(0, 1.5, 7)


def chips(n: int, seed: int = 0) -> np.ndarray:
    """Falling curves whose chips differ in where and how fast they fall."""
    generator = np.random.default_rng(seed)
    place, width = generator.normal(0.8, 0.05, (n, 1)), generator.uniform(0.15, 0.25, (n, 1))
    return 0.1 + 0.88 / (1 + np.exp((SIGMAS - place) / width))


def test_area_by_hand() -> None:
    # widths 1 and 3: ((1 + .8) / 2 + 3 (.8 + .4) / 2) / 4 = .675; the other chip is .1 lower
    found = area([0, 1, 4], [[1.0, 0.8, 0.4], [0.9, 0.7, 0.3]])
    assert found is not None
    assert found.estimate == pytest.approx(0.625)
    expected = mean_interval([0.675, 0.575])
    assert expected is not None
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_area_of_a_constant_is_the_constant_and_one_chip_has_no_interval() -> None:
    found = area(SIGMAS, np.full((3, 7), 0.7))
    assert found is not None
    assert (found.estimate, found.half_width) == (pytest.approx(0.7), pytest.approx(0, abs=1e-12))
    assert area(SIGMAS, np.full((1, 7), 0.7)) is None


def test_crossing_by_hand() -> None:
    found = crossing([0, 1, 2], [[1.0, 0.8, 0.4]], 0.5)
    assert found.sigma == pytest.approx(1.75)
    assert (found.where, found.low, found.high, found.known) == ("inside", None, None, False)
    assert str(found) == "1.75"


def test_the_ends_are_where_the_t_interval_of_the_mean_touches_the_threshold() -> None:
    scores = chips(12)
    found = crossing(SIGMAS, scores, 0.6, level=0.9)

    def limit(sigma: float, side: str) -> float:
        there = mean_interval([float(np.interp(sigma, SIGMAS, chip)) for chip in scores], level=0.9)
        assert there is not None
        return getattr(there, side) - 0.6

    assert found.low == pytest.approx(brentq(limit, 0, 1.5, args=("low",)), abs=1e-9)
    assert found.sigma == pytest.approx(brentq(limit, 0, 1.5, args=("estimate",)), abs=1e-9)
    assert found.high == pytest.approx(brentq(limit, 0, 1.5, args=("high",)), abs=1e-9)


def test_ends_outside_the_sigmas_are_open_and_said() -> None:
    scores = chips(4)
    never, below = crossing(SIGMAS, scores, 0.05), crossing(SIGMAS, scores, 0.99)
    assert (never.sigma, never.where, never.low, never.high) == (None, "beyond", 1.5, None)
    assert str(never) == "beyond 1.5 (1.5 to beyond 1.5)"
    assert (below.sigma, below.where, below.low, below.high) == (None, "below", None, 0.0)
    assert str(below) == "below 0 (below 0 to 0)"
    wide = crossing([0, 1], [[0.9, 0.2], [0.8, 0.6]], 0.45)
    assert wide.where == "inside"
    assert (wide.low, wide.high) == (None, None)
    assert str(wide) == "0.889 (below 0 to beyond 1)"


@pytest.mark.parametrize("threshold", [0.8, 0.75, 0.5, 0.31])
def test_equal_chips_cross_at_one_place(threshold: float) -> None:
    scores = np.tile([0.9, 0.8, 0.5, 0.3], (5, 1))
    found = crossing([0, 0.1, 0.7, 1.1], scores, threshold)
    assert found.low is not None
    assert found.high is not None
    assert found.low == pytest.approx(found.sigma, abs=1e-6)
    assert found.high == pytest.approx(found.sigma, abs=1e-6)


def test_a_mean_that_only_touches_the_threshold_does_not_fall_below() -> None:
    assert crossing([0, 1, 2], [[0.9, 0.5, 0.7]], 0.5).where == "beyond"
    assert crossing([0, 1, 2], [[0.9, 0.5, 0.4]], 0.5).sigma == 1.0


def test_the_first_of_several_crossings_counts() -> None:
    found = crossing([0, 1, 2, 3], [[0.9, 0.5, 0.9, 0.5], [0.9, 0.51, 0.9, 0.5]], 0.7)
    assert found.sigma == pytest.approx(0.5, abs=0.02)
    assert found.high is not None
    assert found.high < 1


def test_the_interval_holds_the_estimate_and_grows_with_the_level() -> None:
    for seed in range(50):
        scores = chips(3, seed)
        narrow, broad = (crossing(SIGMAS, scores, 0.55, level) for level in (0.5, 0.99))
        assert narrow.sigma is not None
        inner = (
            -math.inf if narrow.low is None else narrow.low,
            math.inf if narrow.high is None else narrow.high,
        )
        outer = (
            -math.inf if broad.low is None else broad.low,
            math.inf if broad.high is None else broad.high,
        )
        assert outer[0] <= inner[0] <= narrow.sigma <= inner[1] <= outer[1]


@pytest.mark.parametrize(
    "call",
    [
        lambda: area([0], [[1.0]]),
        lambda: area([0, 0], [[1.0, 2.0]]),
        lambda: area([1, 0], [[1.0, 2.0]]),
        lambda: area([0, 1], [[1.0, float("nan")]]),
        lambda: area([0, 1], [1.0, 2.0]),
        lambda: area([0, 1], np.empty((0, 2))),
        lambda: crossing([0, 1], [[1.0, 2.0, 3.0]], 0.5),
        lambda: crossing([0, 1], [[1.0, 0.0]], float("inf")),
        lambda: crossing([0, 1], [[1.0, 0.0]], 0.5, level=0.0),
    ],
)
def test_what_is_no_curve_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        call()
