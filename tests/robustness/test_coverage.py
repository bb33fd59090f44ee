"""How often 95 % intervals hold the truth, over 10,000 experiments each; docs/statistics.md has the table.

    python -m pytest tests/robustness/test_coverage.py -s        prints every figure

The standard error of a share of 95 % over 10,000 is 0.22 points, so 94 .. 96 % is +- 4.6 of them. Each family has a
wrong interval too, which must be seen to be wrong. The t interval of one sample and Wilson's interval have their
tests in test_statistics.py.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import betaincinv

from crossbar_sim.robustness.comparisons import paired
from crossbar_sim.robustness.curves import Crossing, area, crossing
from crossbar_sim.robustness.drawn_scores import (
    Components,
    chips_for,
    drawn_interval,
    half_width,
    yield_drawn,
)
from crossbar_sim.robustness.statistics import mean_interval, yield_at
from crossbar_sim.robustness.two_stage import Done, Plan
from crossbar_sim.store.records import Trial

EXPERIMENTS = 10_000
IMAGES = 10_000
Z = 1.959964


def said(what: str, share: float) -> float:
    print(f"  {what:<88} {100 * share:6.2f} %")
    return share


def good(share: float) -> bool:
    return 0.94 < share < 0.96


def mean_holds(truth: float, sample: np.ndarray) -> bool:
    found = mean_interval(sample)
    assert found is not None
    return found.low <= truth <= found.high


# Paired ------------------------------------------------------------------------------------------


def two_models(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Two models whose chips are alike; a is better by 0.02."""
    generator = np.random.default_rng(11)
    chip = generator.normal(0.8, 0.06, (EXPERIMENTS, n))
    own = generator.normal(0, 0.02, (2, EXPERIMENTS, n))
    return chip + 0.02 + own[0], chip + own[1]


@pytest.mark.parametrize("n", [4, 20])
def test_paired_differences(n: int) -> None:
    a, b = two_models(n)
    found = [paired(x, y) for x, y in zip(a, b, strict=True)]
    covered = np.mean([p.interval.low <= 0.02 <= p.interval.high for p in found])  # type: ignore[union-attr]
    assert good(said(f"paired difference, {n} chips", float(covered)))
    # and the p-value is uniform where there is no difference
    rejected = np.mean([paired(x - 0.02, y).p_value < 0.05 for x, y in zip(a, b, strict=True)])  # type: ignore[operator]
    assert good(said(f"paired p-value >= 0.05 without a difference, {n} chips", 1 - float(rejected)))


def test_two_samples_in_place_of_pairs_are_wrong() -> None:
    a, b = two_models(20)
    half = 2.024394 * np.sqrt((a.var(1, ddof=1) + b.var(1, ddof=1)) / 20)  # t, 38 degrees of freedom
    covered = np.abs(a.mean(1) - b.mean(1) - 0.02) <= half
    assert not good(
        said("CONTROL: chips of the two models taken for unrelated, 20 chips", float(covered.mean()))
    )


# Curves ------------------------------------------------------------------------------------------

SIGMAS = np.linspace(0, 1.5, 7)


def curves(n: int, experiments: int = EXPERIMENTS) -> tuple[np.ndarray, np.ndarray]:
    """Scores (experiments, n, 7) and their expectation (7,): a chip's scores go together."""
    generator = np.random.default_rng(12)
    mean = 0.1 + 0.88 / (1 + np.exp((SIGMAS - 0.8) / 0.2))
    spread = 0.06 * np.sqrt(SIGMAS)
    common = generator.normal(size=(experiments, n, 1))
    own = generator.normal(size=(experiments, n, len(SIGMAS)))
    return mean + spread * (0.8 * common + 0.6 * own), mean


@pytest.mark.parametrize("n", [4, 20])
def test_area_under_the_curve(n: int) -> None:
    scores, mean = curves(n)
    truth = float(((mean[1:] + mean[:-1]) / 2).mean())
    found = [area(SIGMAS, one) for one in scores]
    covered = np.mean([a.low <= truth <= a.high for a in found])  # type: ignore[union-attr]
    assert good(said(f"area under the curve, {n} chips", float(covered)))


def test_the_area_with_sigmas_taken_for_independent_is_wrong() -> None:
    scores, mean = curves(20)
    weights = np.full(len(SIGMAS), 1 / 6) * np.where(np.isin(SIGMAS, SIGMAS[[0, -1]]), 0.5, 1)
    half = 2.093 * np.sqrt((scores.var(axis=1, ddof=1) / 20) @ weights**2)
    covered = np.abs((scores.mean(axis=1) - mean) @ weights) <= half
    assert not good(
        said("CONTROL: area, a chip's scores at the sigmas taken for unrelated", float(covered.mean()))
    )


def crossing_holds(found: Crossing, truth: float) -> bool:
    return (found.low is None or found.low <= truth) and (found.high is None or truth <= found.high)


@pytest.mark.parametrize(("n", "threshold"), [(4, 0.6), (20, 0.6), (20, 0.9)])
def test_crossing(n: int, threshold: float) -> None:
    scores, mean = curves(n)
    truth = crossing(SIGMAS, mean[None], threshold).sigma
    assert truth is not None
    covered = np.mean([crossing_holds(crossing(SIGMAS, one, threshold), truth) for one in scores])
    assert good(said(f"sigma at which the mean falls below {threshold}, {n} chips", float(covered)))


def test_crossing_with_z_in_place_of_t_is_wrong() -> None:
    scores, mean = curves(4, 4000)
    truth = crossing(SIGMAS, mean[None], 0.6).sigma
    assert truth is not None
    level = 0.8551  # the t interval of 4 chips has z = 1.96 at this level
    covered = np.mean([crossing_holds(crossing(SIGMAS, one, 0.6, level), truth) for one in scores])
    assert not good(said("CONTROL: crossing with z in place of t, 4 chips", float(covered)))


# Two stages --------------------------------------------------------------------------------------


def chips(kind: str, spread: float, mean: float, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Accuracies of chips: normal, Beta (what a share in 0 .. 1 may look like), or with a long tail below."""
    generator = np.random.default_rng(seed)
    if kind == "normal":
        return np.clip(generator.normal(mean, spread, shape), 0, 1)
    if kind == "tail":  # the skewness of -1.4 is that of a gamma law of shape 2
        return np.clip(mean - spread * (generator.gamma(2.0, size=shape) - 2) / math.sqrt(2), 0, 1)
    total = mean * (1 - mean) / spread**2 - 1
    return generator.beta(mean * total, (1 - mean) * total, shape)


def measured(truth: np.ndarray, m: np.ndarray | int, seed: int) -> np.ndarray:
    """Scores on m images, drawn without stratification."""
    return np.random.default_rng(seed).binomial(m, truth) / m


@pytest.mark.parametrize(("spread", "mean"), [(0.02, 0.95), (0.04, 0.87), (0.06, 0.6)])
def test_the_mean_of_stratified_draws_on_a_fixed_number_of_chips(spread: float, mean: float) -> None:
    """20 chips, ten classes of 1000 images of different difficulty, 8 images of each class without replacement."""
    generator = np.random.default_rng(13)
    truth = chips("normal", spread, mean, (EXPERIMENTS, 20), 14)
    classes = 1 - (1 - truth[..., None]) * np.linspace(0.2, 1.8, 10)
    right = np.clip(np.rint(1000 * classes), 0, 1000).astype(int)
    scores = generator.hypergeometric(right, 1000 - right, 8).mean(axis=-1) / 8
    centre = float(
        np.clip(
            1 - (1 - chips("normal", spread, mean, (10**6,), 15)[:, None]) * np.linspace(0.2, 1.8, 10), 0, 1
        ).mean()
    )
    found = [drawn_interval(one, 80, IMAGES) for one in scores]
    covered = np.mean([i.low <= centre <= i.high for i in found])  # type: ignore[union-attr]
    assert good(
        said(f"mean of drawn scores, 20 chips x 80 images, spread {spread}, mean {mean}", float(covered))
    )
    error = scores.mean() - centre
    assert abs(error) < 4 * scores.mean(axis=1).std() / math.sqrt(EXPERIMENTS) + 1e-4


def test_images_taken_for_the_random_unit_are_wrong() -> None:
    scores = measured(chips("normal", 0.04, 0.87, (EXPERIMENTS, 20), 16), 80, 17)
    mean = scores.mean(axis=1)
    covered = np.abs(mean - 0.87) <= Z * np.sqrt(mean * (1 - mean) / (20 * 80))
    assert not good(said("CONTROL: 20 x 80 images taken for 1600 unrelated ones", float(covered.mean())))


@pytest.mark.parametrize(("wrong", "n"), [(0.0005, 32), (0.001, 32), (0.003, 32)])
def test_nearly_perfect_chips(wrong: float, n: int) -> None:
    """Some two, three and ten wrong of 3200 images: a t interval alone is too narrow, the rule of three helps."""
    generator = np.random.default_rng(18)
    scores = 1 - generator.binomial(100, wrong, (EXPERIMENTS, n)) / 100
    half = half_width(n, scores.std(axis=1, ddof=1), 100, IMAGES)
    plain = 2.0395 * scores.std(axis=1, ddof=1) / math.sqrt(n)
    error = np.abs(scores.mean(axis=1) - (1 - wrong))
    assert (
        said(f"chips with {wrong:.2%} of images wrong, {n} x 100 images", float((error <= half).mean()))
        > 0.94
    )
    if wrong < 0.002:
        assert said("CONTROL: without the rule of three", float((error <= plain).mean())) < 0.94


def budget(plan: Plan, truth: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(mean, half-width, chips, images) of each experiment: what `Plan.next_step` does, for all of them at once."""
    rows = np.arange(len(truth))
    pilot = measured(truth[:, : plan.pilot_chips], plan.first, seed)
    total = pilot.var(axis=1, ddof=1)
    within = (1 - plan.first / IMAGES) * (pilot * (1 - pilot)).mean(axis=1) / (plan.first - 1)
    enough = half_width(plan.pilot_chips, np.sqrt(total), plan.first, IMAGES) <= plan.half
    m = np.array(
        [
            plan.first if done else plan.images(Components(0.0, s, w, max(s - w, 0.0), plan.pilot_chips))
            for done, s, w in zip(enough, total, within, strict=True)
        ]
    )
    scores = measured(truth, m[:, None], seed + 1)
    scores[m == plan.first, : plan.pilot_chips] = pilot[m == plan.first]
    sums, squares = np.cumsum(scores, axis=1), np.cumsum((scores - 0.5) ** 2, axis=1)
    n = np.full(len(truth), plan.pilot_chips)
    while True:
        mean = sums[rows, n - 1] / n
        std = np.sqrt(np.maximum(squares[rows, n - 1] - n * (mean - 0.5) ** 2, 0) / (n - 1))
        further = np.minimum(plan.chips(n, std, m), truth.shape[1])
        if (further == n).all():
            return mean, half_width(n, std, m, IMAGES), n, m
        n = further


SETTINGS = [
    # kind, spread, mean, half-width, chips that surely suffice
    ("normal", 0.02, 0.95, 0.005, 400),
    ("normal", 0.04, 0.87, 0.010, 260),
    ("normal", 0.04, 0.87, 0.005, 1600),
    ("normal", 0.06, 0.50, 0.010, 500),
    ("beta", 0.06, 0.50, 0.020, 160),
    ("beta", 0.04, 0.87, 0.005, 1600),
]


@pytest.mark.parametrize(("kind", "spread", "mean", "half", "most"), SETTINGS)
def test_the_interval_budget(kind: str, spread: float, mean: float, half: float, most: int) -> None:
    plan = Plan(half, IMAGES, 20)
    covered, errors, counts = [], [], []
    for part in range(10):
        truth = chips(kind, spread, mean, (EXPERIMENTS // 10, most), 100 + part)
        found, halves, n, _ = budget(plan, truth, 200 + 2 * part)
        assert (n < most).all()
        assert (halves <= half).all()
        errors.append(found - mean)
        covered.append(np.abs(found - mean) <= halves)
        counts.append(n)
    error = np.concatenate(errors)
    bias = error.mean() / half
    what = f"budget +-{half}, {kind} spread {spread} mean {mean} ({np.mean(counts):.0f} chips, bias {bias:+.3f} h)"
    assert good(said(what, float(np.mean(covered))))
    # unbiased for symmetric scores; where the spread goes with the score a stopping rule leaves a little (see docs)
    allowed = 4 * error.std() / math.sqrt(EXPERIMENTS) + (0.0 if kind == "normal" else 0.03 * half)
    assert abs(error.mean()) < allowed


def test_a_long_tail_costs_coverage_and_leaves_a_bias_and_the_documents_say_how_much() -> None:
    for half, most, least in ((0.005, 1600, 0.935), (0.01, 500, 0.91)):
        truth = chips("tail", 0.04, 0.87, (EXPERIMENTS // 4, most), 300)
        found, halves, n, _ = budget(Plan(half, IMAGES, 20), truth, 301)
        expected = float(chips("tail", 0.04, 0.87, (10**7,), 302).mean())
        bias = (found.mean() - expected) / half
        what = f"budget +-{half}, long tail, spread 0.04 mean 0.87 ({n.mean():.0f} chips, bias {bias:+.3f} h)"
        assert least < said(what, float((np.abs(found - expected) <= halves).mean())) < 0.96
        assert abs(bias) < 0.1


def test_stopping_whenever_it_looks_good_from_two_chips_on_is_wrong() -> None:
    plan = Plan(0.02, IMAGES, 20, pilot_chips=2, batch=1)
    truth = chips("normal", 0.04, 0.87, (EXPERIMENTS, 200), 400)
    found, halves, _, _ = budget(plan, truth, 401)
    assert not good(
        said(
            "CONTROL: a pilot of two chips, stopped as soon as it looks good",
            float((np.abs(found - 0.87) <= halves).mean()),
        )
    )


@pytest.mark.parametrize(
    ("spread", "mean", "half"),
    [(0.02, 0.95, 0.005), (0.04, 0.87, 0.005), (0.06, 0.33, 0.005), (0.04, 0.87, 0.01), (0.05, 0.6, 0.02)],
)
def test_what_a_budget_saves(spread: float, mean: float, half: float) -> None:
    plan = Plan(half, IMAGES, 20)
    *_, n, m = budget(plan, chips("beta", spread, mean, (300, 2600), 700), 701)
    pilot = np.where(m == plan.first, 0, plan.pilot_chips)
    images, programmed = (n * m + pilot * plan.first).mean(), (n + pilot).mean()
    plain = int(chips_for(spread, half))
    fewer = plain * IMAGES / images
    cheaper = plain * (IMAGES + plan.chip_cost) / (images + plan.chip_cost * programmed)
    low, high = np.quantile(m, (0.05, 0.95))
    print(
        f"  +-{half}, spread {spread}, mean {mean}: {n.mean():.0f} chips x {low:.0f} .. {high:.0f} images, "
        f"{images:.0f} in all; plain {plain} x {IMAGES}; {fewer:.0f} x fewer, {cheaper:.0f} x cheaper"
    )
    assert fewer >= 20
    assert cheaper >= 8


def test_all_at_once_is_what_the_plan_does_step_by_step() -> None:
    plan = Plan(0.01, IMAGES, 20)
    truth = chips("normal", 0.04, 0.87, (12, 400), 500)
    means, halves, n, m = budget(plan, truth, 501)
    pilot, scores = measured(truth[:, :32], 100, 501), measured(truth, m[:, None], 502)
    for i in range(len(truth)):
        trials: list[Trial] = []
        while not isinstance(step := plan.next_step(trials), Done):
            for chip in step.chips:
                value = (pilot if step.images == 100 else scores)[i, chip] if chip < 32 else scores[i, chip]
                variance = (1 - step.images / IMAGES) * value * (1 - value) / (step.images - 1)
                trials.append(Trial(0.6, chip, float(value), step.images, float(variance)))
        assert (step.chips, step.images) == (n[i], m[i])
        assert step.interval.estimate == pytest.approx(means[i])
        assert step.interval.half_width == pytest.approx(halves[i])


# Yield -------------------------------------------------------------------------------------------


def beta_threshold(spread: float, mean: float, share: float) -> float:
    total = mean * (1 - mean) / spread**2 - 1
    return float(betaincinv(mean * total, (1 - mean) * total, 1 - share))


def yields(
    kind: str, spread: float, mean: float, m: int, n: int, threshold: float, experiments: int
) -> tuple[float, Callable]:
    scores = measured(chips(kind, spread, mean, (experiments, n), 600), m, 601)
    found = [yield_drawn(y, y * (1 - y) / (m - 1), threshold) for y in scores]
    raw = [yield_at(y, threshold) for y in scores]

    def covered(truth: float, corrected: bool = True) -> float:
        return float(np.mean([y.ci95[0] <= truth <= y.ci95[1] for y in (found if corrected else raw)]))

    return float(np.mean([y.value for y in found])), covered


@pytest.mark.parametrize(("spread", "mean", "m"), [(0.06, 0.85, 100), (0.04, 0.87, 75), (0.02, 0.95, 75)])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_yield_of_beta_chips(spread: float, mean: float, m: int, share: float) -> None:
    """The interval is approximate: 94 .. 97.5 %, and the yield itself within half a point."""
    threshold = beta_threshold(spread, mean, share)
    value, covered = yields("beta", spread, mean, m, 200, threshold, EXPERIMENTS // 2)
    what = f"yield {share}, Beta chips of spread {spread}, mean {mean}, 200 x {m} images (mean yield {value:.3f})"
    assert 0.94 < said(what, covered(share)) < 0.975
    assert value == pytest.approx(share, abs=0.006)


def test_yield_of_few_chips_that_hardly_differ_or_hardly_fail() -> None:
    for spread, mean, m, share, least in ((0.01, 0.9, 100, 0.9, 0.97), (0.02, 0.95, 75, 0.99, 0.9)):
        _, covered = yields("beta", spread, mean, m, 32, beta_threshold(spread, mean, share), 2000)
        what = f"yield {share}, Beta chips of spread {spread}, mean {mean}, 32 x {m} images"
        assert said(what, covered(share)) > least


def test_yield_without_the_correction_is_wrong() -> None:
    threshold = beta_threshold(0.02, 0.95, 0.9)
    _, covered = yields("beta", 0.02, 0.95, 75, 200, threshold, 2000)
    assert not good(
        said("CONTROL: yield 0.9 counted on scores of 75 images, uncorrected", covered(0.9, corrected=False))
    )


def test_yield_of_other_shapes_is_off_by_what_the_documents_say() -> None:
    for kind in ("normal", "tail"):
        for share in (0.5, 0.9):
            threshold = float(np.quantile(chips(kind, 0.04, 0.87, (10**6,), 602), 1 - share))
            value, covered = yields(kind, 0.04, 0.87, 75, 200, threshold, 2000)
            said(
                f"yield {share}, {kind} chips of spread 0.04, 200 x 75 images (mean yield {value:.3f})",
                covered(share),
            )
            assert abs(value - share) < 0.06
            assert covered(share) > 0.75
