import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from crossbar_sim.errors import InputError
from crossbar_sim.robustness.statistics import (
    Interval,
    mean_interval,
    percentile,
    quantiles,
    summarise,
    tail_caution,
    wilson,
    yield_at,
)

EXPERIMENTS = 10_000


def interval(values: object, level: float = 0.95) -> Interval:
    found = mean_interval(values, level)  # type: ignore[arg-type]
    assert found is not None
    return found


# Values ------------------------------------------------------------------------------------------


def test_t_interval_by_hand() -> None:
    # mean 3, s = sqrt(10 / 4); t(4 df, 0.975) = 2.776 (NIST e-Handbook, table 1.3.6.7.2);
    # 2.776 * sqrt(2.5) / sqrt(5) = 1.963
    found = interval([1, 2, 3, 4, 5])
    assert found.estimate == 3
    assert found.half_width == pytest.approx(1.963, abs=5e-4)
    assert (found.low, found.high) == pytest.approx((1.037, 4.963), abs=5e-4)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("n", [2, 3, 20, 1000])
def test_t_interval_is_scipys(n: int, level: float) -> None:
    values = np.random.default_rng(n).normal(0.8, 0.1, n)
    expected = stats.t.interval(level, n - 1, loc=values.mean(), scale=stats.sem(values))
    found = interval(values, level)
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17:857 (1998), table I, method 3 (score, uncorrected).
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_the_published_table(successes: int, n: int, low: float, high: float) -> None:
    found = wilson(successes, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_wilson_bounds_solve_the_equation_they_come_from() -> None:
    # |p - bound| = z sqrt(bound (1 - bound) / n) at both ends.
    z = stats.norm.ppf(0.995)
    found = wilson(7, 40, level=0.99)
    for bound in (found.low, found.high):
        assert abs(7 / 40 - bound) == pytest.approx(z * math.sqrt(bound * (1 - bound) / 40))


@pytest.mark.parametrize("n", [1, 2, 19, 20, 1000, 10**9])
def test_wilson_stays_inside_and_has_a_width_at_the_ends(n: int) -> None:
    none, every = wilson(0, n), wilson(n, n)
    assert none.low == 0.0 < none.high < 1
    assert every.high == 1.0 > every.low > 0
    assert every.low == pytest.approx(1 - none.high)


def test_quantiles_interpolate_linearly() -> None:
    assert quantiles([4, 1, 3, 2], (0, 0.5, 0.9, 1)) == {"0": 1, "0.5": 2.5, "0.9": 3.7, "1": 4}


# Summaries ---------------------------------------------------------------------------------------


def test_summary_of_chips() -> None:
    found = summarise([0.5, 0.7, 0.9, 0.7])
    assert found.mean == pytest.approx(0.7)
    assert found.std == pytest.approx(math.sqrt(0.08 / 3))
    assert (found.min, found.max, found.median) == (0.5, 0.9, 0.7)
    assert found.per_chip == (0.5, 0.7, 0.9, 0.7)
    assert list(found.quantiles) == ["0.05", "0.25", "0.5", "0.75", "0.95"]
    assert found.ci95 is not None
    assert found.ci95[0] < 0.7 < found.ci95[1]


def test_one_chip_has_no_interval_and_no_spread() -> None:
    found = summarise([0.8])
    assert (found.ci95, found.std, found.mean, found.median) == (None, None, 0.8, 0.8)
    assert mean_interval([0.8]) is None
    text = json.dumps(found.as_dict(), allow_nan=False)
    assert '"ci95": null' in text
    assert '"std": null' in text


def test_summary_survives_json() -> None:
    found = summarise([0.5, 0.75]).as_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize("n", range(2, 60))
def test_equal_chips_have_no_spread_at_all(n: int) -> None:
    # 0.1 added up and divided again is not 0.1 for many n; that must not become a spread of 1e-17.
    found = summarise([0.1] * n)
    assert (found.mean, found.std, found.ci95) == (0.1, 0.0, (0.1, 0.1))


def test_the_order_of_chips_does_not_matter() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.2, 200)
    forwards, backwards = summarise(values), summarise(values[::-1])
    assert (forwards.mean, forwards.std, forwards.ci95) == (
        backwards.mean,
        backwards.std,
        backwards.ci95,
    )


def test_a_tiny_spread_beside_a_large_mean_is_kept() -> None:
    # The textbook formula sum(x^2) - n mean^2 would give 0 or less here.
    assert summarise([1e8, 1e8 + 1, 1e8 + 2]).std == 1.0


def test_the_t_interval_is_not_cut_at_1() -> None:
    assert interval([1.0, 1.0, 0.9]).high > 1


def test_yield_counts_chips_that_reach_the_threshold() -> None:
    found = yield_at([0.90, 0.89, 0.95, 0.2], 0.9)
    assert found.value == 0.5
    assert found.ci95 == (wilson(2, 4).low, wilson(2, 4).high)
    assert found.as_dict() == {"threshold": 0.9, "value": 0.5, "ci95": list(found.ci95)}


@pytest.mark.parametrize(
    "call",
    [
        lambda: mean_interval([]),
        lambda: mean_interval([1, float("nan")]),
        lambda: summarise([float("inf"), 1]),
        lambda: mean_interval([1, 2], level=1.0),
        lambda: mean_interval([1, 2], level=float("nan")),
        lambda: mean_interval([1], level=0),
        lambda: wilson(1, 0),
        lambda: wilson(-1, 3),
        lambda: wilson(4, 3),
        lambda: wilson(1.5, 3),  # type: ignore[arg-type]
        lambda: wilson(True, 3),
        lambda: quantiles([1.0], [1.5]),
        lambda: yield_at([1.0], float("nan")),
    ],
)
def test_what_cannot_be_summarised_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        call()


# Coverage ----------------------------------------------------------------------------------------
# 95 % of intervals must cover the truth. Over 10,000 experiments the standard error is 0.2 points,
# so 94 .. 96 % is +- 4.6 of them: wide enough for chance, and too narrow for the wrong formula.


def coverage(make: Callable[[np.ndarray], tuple[float, float]], n: int) -> float:
    samples = np.random.default_rng(2021).normal(0.7, 0.05, (EXPERIMENTS, n))
    covered = 0
    for sample in samples:
        low, high = make(sample)
        covered += low <= 0.7 <= high
    return covered / EXPERIMENTS


def student(sample: np.ndarray) -> tuple[float, float]:
    found = interval(sample)
    return found.low, found.high


def normal_in_place_of_t(sample: np.ndarray) -> tuple[float, float]:
    half = 1.959964 * sample.std(ddof=1) / math.sqrt(len(sample))
    return sample.mean() - half, sample.mean() + half


def population_deviation(sample: np.ndarray) -> tuple[float, float]:
    found = interval(sample)
    half = found.half_width * math.sqrt((len(sample) - 1) / len(sample))
    return found.estimate - half, found.estimate + half


@pytest.mark.parametrize("n", [2, 5, 20])
def test_95_percent_of_t_intervals_cover_the_mean(n: int) -> None:
    assert 0.94 < coverage(student, n) < 0.96


@pytest.mark.parametrize("wrong", [normal_in_place_of_t, population_deviation])
def test_the_wrong_intervals_are_seen_to_be_wrong(
    wrong: Callable[[np.ndarray], tuple[float, float]],
) -> None:
    """The negative control: the same test must fail for these two."""
    assert not 0.94 < coverage(wrong, 5) < 0.96


def exact_coverage(make: Callable[[int, int], tuple[float, float]], n: int, p: float) -> float:
    """The sum of the binomial probabilities of the counts whose interval covers p."""
    bounds = [make(k, n) for k in range(n + 1)]
    weights = stats.binom.pmf(np.arange(n + 1), n, p)
    return float(sum(w for w, (low, high) in zip(weights, bounds, strict=True) if low <= p <= high))


def score(k: int, n: int) -> tuple[float, float]:
    found = wilson(k, n)
    return found.low, found.high


def wald(k: int, n: int) -> tuple[float, float]:
    half = 1.959964 * math.sqrt(k / n * (1 - k / n) / n)
    return k / n - half, k / n + half


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5, 0.8, 0.9, 0.95])
@pytest.mark.parametrize("n", [20, 50, 200])
def test_wilson_covers_about_95_percent_at_every_p(n: int, p: float) -> None:
    # Counts are whole numbers, so coverage jumps around its nominal value (Brown, Cai and DasGupta,
    # Statistical Science 16:101, 2001): at each p within a few points, in the mean within one.
    assert 0.91 < exact_coverage(score, n, p) < 0.985


def test_wilson_covers_95_percent_in_the_mean_and_wald_does_not() -> None:
    grid = np.linspace(0.01, 0.99, 197)
    assert 0.94 < np.mean([exact_coverage(score, 20, p) for p in grid]) < 0.96
    assert not 0.94 < np.mean([exact_coverage(wald, 20, p) for p in grid]) < 0.96  # the control


def test_wilson_in_simulated_experiments() -> None:
    counts = np.random.default_rng(7).binomial(50, 0.8, EXPERIMENTS)
    covered = np.mean([score(int(k), 50)[0] <= 0.8 <= score(int(k), 50)[1] for k in counts])
    assert covered == pytest.approx(exact_coverage(score, 50, 0.8), abs=0.01)
    assert 0.93 < covered < 0.97


# Long tails --------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [4, 5, 10, 20, 50])
def test_normal_scores_get_a_caution_once_in_a_thousand_times_at_most(n: int) -> None:
    scores = 0.9 + 0.02 * np.random.default_rng(20 + n).standard_normal((3000, n))
    # 3 of 3000 are expected at most; 10 or more have a probability below 0.2 %
    assert sum(tail_caution(one.tolist()) is not None for one in scores) < 10


@pytest.mark.parametrize(("n", "dead"), [(6, 1), (10, 1), (20, 1), (20, 2), (20, 3), (50, 2), (50, 5)])
def test_dead_chips_in_the_sample_get_a_caution(n: int, dead: int) -> None:
    for seed in range(30):
        scores = 0.9 + 0.02 * np.random.default_rng(seed).standard_normal(n)
        scores[:dead] = 0.1
        found = tail_caution(scores.tolist())
        assert found is not None
        assert found.startswith(f"{dead} of {n} chips lie")
        assert "far from the others (at 0.1 where the median is 0.9" in found or "is 0.8" in found


def test_a_caution_needs_a_tail_that_matters() -> None:
    rng = np.random.default_rng(3)
    assert tail_caution([0.5]) is None
    assert tail_caution([0.9] * 20) is None
    assert tail_caution([0.9] * 19 + [0.8999]) is None, "an interval of less than 0.1 points"
    assert tail_caution([0.1, 0.9] * 10) is None, "two equal halves are no tail"
    skewed = 0.95 - 0.02 * rng.gamma(2.0, size=(200, 50))
    assert sum(tail_caution(one.tolist()) is not None for one in skewed) < 25, "t covers 94 % there"


def test_the_t_interval_of_a_design_with_dead_chips_covers_far_too_little_and_the_caution_says_so() -> None:
    """63 % at 20 chips, where a third of the samples has no dead chip; among those without a caution it is less."""
    rng = np.random.default_rng(4)
    scores = np.where(rng.random((2000, 20)) < 0.05, 0.1, 0.9 + 0.02 * rng.standard_normal((2000, 20)))
    held = np.array([i.low <= 0.86 <= i.high for i in map(interval, scores)])
    told = np.array([tail_caution(one.tolist()) is not None for one in scores])
    seen = (scores == 0.1).any(axis=1)
    assert 0.58 < held.mean() < 0.68
    assert told[seen].mean() > 0.95
    assert told[~seen].mean() < 0.005, "what no chip shows no rule can see"


@pytest.mark.parametrize(
    ("n", "known"), [(1, (False, False)), (20, (False, True)), (71, (False, True)), (72, (True, True))]
)
def test_a_percentile_has_an_end_only_where_there_are_chips_enough(n, known):
    found = percentile([i / n for i in range(n)], 5)
    assert tuple(end is not None for end in found.ci95) == known
    assert found.needed == 72
    mirrored = percentile([-i / n for i in range(n)], 95)
    assert mirrored.ci95 == tuple(None if end is None else -end for end in reversed(found.ci95))
    assert percentile([0.5] * n, 5).value == 0.5


@pytest.mark.parametrize(("percent", "n"), [(5, 100), (50, 9), (90, 60)])
def test_intervals_of_percentiles_contain_the_true_one_in_95_of_100_samples(percent, n):
    """Of exponential scores: the t interval of the mean would say nothing about them."""
    samples = np.random.default_rng(n).exponential(size=(2000, n))
    true = -math.log(1 - percent / 100)
    hits = sum(low <= true <= high for low, high in (percentile(s, percent).ci95 for s in samples))
    assert 0.945 <= hits / 2000 <= 0.995
    # one order statistic narrower at both ends is not enough
    places = [sorted(s) for s in samples]
    ends = percentile(range(n), percent).ci95
    narrower = sum(s[int(ends[0]) + 1] <= true <= s[int(ends[1]) - 1] for s in places)
    assert narrower / 2000 < 0.95


@pytest.mark.parametrize("percent", [0, 100, -5, math.nan, "5", True])
def test_what_is_no_percentile_is_refused(percent):
    with pytest.raises(InputError, match="between 0 and 100"):
        percentile([0.5, 0.6], percent)
