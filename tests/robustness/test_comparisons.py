from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from crossbar_sim.errors import InputError
from crossbar_sim.robustness.comparisons import adjusted, holm, paired
from crossbar_sim.robustness.statistics import mean_interval

# Student (Biometrika 6:1, 1908): hours of additional sleep of ten patients under two drugs
DEXTRO = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
LAEVO = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def test_paired_is_students_sleep() -> None:
    # mean 1.58; t = 4.0621 with 9 degrees of freedom, p = 0.002833 (R's help page of t.test, data `sleep`)
    found = paired(LAEVO, DEXTRO)
    assert found.difference == pytest.approx(1.58)
    assert found.p_value == pytest.approx(0.002833, abs=5e-7)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-6)
    assert (found.chips, found.adjusted) == (10, None)


@pytest.mark.parametrize("n", [2, 3, 20, 500])
def test_paired_is_scipys(n: int) -> None:
    generator = np.random.default_rng(n)
    a, b = generator.normal(0.8, 0.1, n), generator.normal(0.79, 0.1, n)
    assert paired(a, b).p_value == pytest.approx(stats.ttest_rel(a, b).pvalue, rel=1e-9)


def test_swapping_the_models_turns_the_sign_only() -> None:
    one, other = paired(LAEVO, DEXTRO), paired(DEXTRO, LAEVO)
    assert (one.difference, one.p_value) == (-other.difference, other.p_value)
    assert one.interval is not None
    assert other.interval is not None
    assert one.interval.low == -other.interval.high


def test_what_both_models_share_cancels() -> None:
    generator = np.random.default_rng(0)
    chips, noise = generator.normal(0.7, 0.1, 30), generator.normal(0, 0.001, 30)
    found, alone = paired(chips + 0.01 + noise, chips), mean_interval(chips)
    assert found.interval is not None
    assert alone is not None
    assert found.interval.half_width < alone.half_width / 50


def test_one_chip_has_a_difference_and_nothing_else() -> None:
    found = paired([0.9], [0.8])
    assert found.difference == pytest.approx(0.1)
    assert (found.interval, found.p_value, found.chips) == (None, None, 1)


def test_models_that_never_differ() -> None:
    found = paired([0.9, 0.8, 0.7], [0.9, 0.8, 0.7])
    assert (found.difference, found.p_value) == (0.0, 1.0)


@pytest.mark.parametrize("n", [2, 5, 20])
def test_a_difference_that_is_the_same_on_every_chip_is_no_certainty(n: int) -> None:
    # 0.8 - 0.7 and 0.9 - 0.8 differ in the last place: that is no spread of chips
    b = np.linspace(0.1, 0.8, n)
    assert paired(b + 0.1, b).p_value == 2.0 ** (1 - n)


# Holm --------------------------------------------------------------------------------------------


def test_holm_by_hand() -> None:
    # sorted .005 .01 .03 .04; times 4 3 2 1: .02 .03 .06 .04, and the last is raised to .06
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))


def test_holm_passes_none_through_and_does_not_count_it() -> None:
    assert holm([None, 0.02, None, 0.5]) == (None, 0.04, None, 0.5)
    assert holm([]) == ()


def test_holm_is_monotone_and_never_above_1() -> None:
    p = np.random.default_rng(3).random(200)
    found = np.array(holm(p), dtype=float)
    assert (np.diff(found[np.argsort(p)]) >= 0).all()
    assert (found >= p).all()
    assert found.max() == 1.0


def test_holm_keeps_false_alarms_of_a_family_at_5_percent_and_raw_p_values_do_not() -> None:
    p = np.random.default_rng(1).random((4000, 10))  # ten true hypotheses
    assert np.mean([min(holm(row)) < 0.05 for row in p]) == pytest.approx(0.05, abs=0.012)  # type: ignore[type-var]
    assert np.mean(p.min(axis=1) < 0.05) > 0.35  # the control


# Families ----------------------------------------------------------------------------------------


def test_a_family_is_adjusted_by_holm_and_nothing_else_of_it_changes() -> None:
    generator = np.random.default_rng(5)
    a, b = generator.normal(0.8, 0.1, (12, 3)), generator.normal(0.75, 0.1, (12, 3))
    alone = [paired(a[:, j], b[:, j]) for j in range(3)]
    found = adjusted(alone)
    assert tuple(one.adjusted for one in found) == holm(one.p_value for one in alone)
    assert [replace(one, adjusted=None) for one in found] == alone


@pytest.mark.parametrize(
    "call",
    [
        lambda: paired([], []),
        lambda: paired([1, 2], [1]),
        lambda: paired([1, float("nan")], [1, 2]),
        lambda: paired([[1.0]], [[1.0]]),
        lambda: paired([1, 2], [2, 3], level=1.0),
        lambda: holm([1.5]),
        lambda: holm([float("nan")]),
    ],
)
def test_what_cannot_be_compared_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        call()
