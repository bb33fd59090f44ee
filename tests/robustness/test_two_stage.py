import math
from collections.abc import Callable

import numpy as np
import pytest

from crossbar_sim import Key
from crossbar_sim.errors import InputError
from crossbar_sim.robustness.drawn_scores import (
    Components,
    Cost,
    best_images,
    chips_for,
    components,
    drawn_interval,
    half_width,
    plain_protocol,
    yield_drawn,
)
from crossbar_sim.robustness.evaluator import MOST_CLASSES, Strata, allocate, draw, estimate
from crossbar_sim.robustness.statistics import mean_interval, yield_at
from crossbar_sim.robustness.two_stage import Done, Measure, Plan
from crossbar_sim.store.records import Trial

LABELS = np.repeat([7, 3, 5, 4], [500, 300, 190, 10])
KEY = Key(2021)

# Images ------------------------------------------------------------------------------------------


def test_allocation_by_hand() -> None:
    # quotas of 20: 10, 6, 3.8, 0.2; the last is raised to 2, and 18 are shared: 9.09, 5.45, 3.45
    assert allocate([500, 300, 190, 10], 20).tolist() == [9, 6, 3, 2]
    assert allocate([10, 10, 10], 8).tolist() == [3, 3, 2]
    assert allocate([1, 3, 1], 2).tolist() == [1, 2, 1]  # raised to the minimum
    assert allocate([4, 2], 100).tolist() == [4, 2]  # lowered to what there is


def test_allocation_keeps_its_bounds_and_its_sum() -> None:
    generator = np.random.default_rng(0)
    for _ in range(500):
        counts = generator.integers(1, generator.integers(2, 400), generator.integers(1, 20))
        m = int(generator.integers(1, counts.sum() + 5))
        least = np.minimum(counts, 2)
        found = allocate(counts, m)
        assert ((least <= found) & (found <= counts)).all()
        assert found.sum() == min(max(m, least.sum()), counts.sum())
        share = found[least * counts.sum() < m * counts] / counts[least * counts.sum() < m * counts]
        assert len(share) == 0 or np.ptp(share) <= 2 / counts.min()


def test_strata_are_the_labels() -> None:
    strata = Strata.of(LABELS, 1000)
    assert strata.counts.tolist() == [300, 10, 190, 500]  # of labels 3, 4, 5, 7
    assert sorted(strata.members.tolist()) == list(range(1000))
    assert (np.diff(strata.of_image[strata.members]) >= 0).all()
    assert (strata.population, strata.minimum) == (1000, 8)
    assert Strata.of(None, 5).counts.tolist() == [5]
    assert Strata.of(np.arange(MOST_CLASSES + 1), MOST_CLASSES + 1).minimum == 2


def test_a_draw_has_every_class_no_image_twice_and_is_sorted() -> None:
    strata = Strata.of(LABELS, 1000)
    found = draw(strata, 40, KEY, 3)
    assert found.dtype == np.int64
    assert (np.diff(found) > 0).all()
    assert np.bincount(strata.of_image[found]).tolist() == allocate(strata.counts, 40).tolist()


def test_a_draw_depends_on_its_name_only() -> None:
    strata = Strata.of(LABELS, 1000)
    first = [draw(strata, 40, KEY, chip).tolist() for chip in range(5)]
    draw(strata, 100, KEY, 1)
    again = [draw(Strata.of(LABELS, 1000), 40, Key(2021), chip).tolist() for chip in reversed(range(5))]
    assert first == again[::-1]
    assert len({tuple(images) for images in first}) == 5
    assert draw(strata, 40, Key(1), 0).tolist() != first[0]
    # frozen: changing these changes every result of an interval budget
    assert draw(Strata.of(None, 20), 5, Key(0), 0).tolist() == [6, 9, 11, 15, 19]


def test_all_images_are_all_images() -> None:
    strata = Strata.of(LABELS, 1000)
    assert draw(strata, 1000, KEY, 0).tolist() == list(range(1000))
    assert draw(strata, 5000, KEY, 0).tolist() == list(range(1000))


def chi_square(counts: np.ndarray, expected: float) -> float:
    """In standard deviations from its mean."""
    freedom = len(counts) - 1
    return (((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom)


def test_every_image_of_a_class_and_every_pair_is_equally_likely() -> None:
    strata = Strata.of(np.repeat([0, 1], [12, 8]), 20)
    images, pairs = np.zeros(20), np.zeros((20, 20))
    draws = 20_000
    for chip in range(draws):
        found = draw(strata, 10, KEY, chip)  # six and four
        images[found] += 1
        pairs[np.ix_(found, found)] += 1
    upper = pairs[np.triu_indices(12, 1)]
    # without replacement sums vary less than independent draws would: only an excess is suspicious
    assert chi_square(images[:12], draws / 2) < 3
    assert chi_square(images[12:], draws / 2) < 3
    assert chi_square(upper, draws * 6 * 5 / (12 * 11)) < 3
    worse = images[:12] + np.where(np.arange(12) < 6, 300, -300)  # the control: 3 % more of the first half
    assert chi_square(worse, draws / 2) > 3


# Estimates ---------------------------------------------------------------------------------------


def test_estimate_by_hand() -> None:
    # class 0: 3 of 6 images, 1 1 0: mean 2/3, s^2 = 1/3; class 1: 2 of 2: 0.5, no variance left
    strata = Strata.of(np.array([0, 0, 0, 0, 0, 0, 1, 1]), 8)
    value, variance = estimate([1, 1, 0, 0, 1], np.array([0, 2, 5, 6, 7]), strata)
    assert value == pytest.approx(6 / 8 * 2 / 3 + 2 / 8 * 0.5)
    assert variance == pytest.approx((6 / 8) ** 2 * (1 - 3 / 6) * (1 / 3) / 3)


def test_all_images_leave_no_variance_and_give_the_plain_share() -> None:
    right = np.random.default_rng(0).random(1000) < 0.7
    assert estimate(right, np.arange(1000), Strata.of(LABELS, 1000)) == (right.sum() / 1000, 0.0)


def test_all_right_is_1_exactly() -> None:
    strata = Strata.of(np.repeat([0, 1, 2], [33, 35, 37]), 105)
    assert estimate(np.ones(21), draw(strata, 21, KEY, 0), strata) == (1.0, 0.0)


def test_value_and_variance_are_unbiased_over_draws() -> None:
    """One fixed chip, 20,000 draws; the control takes the plain mean of a draw that is not proportional."""
    strata = Strata.of(LABELS, 1000)
    right = (
        np.random.default_rng(1).random(1000)
        < np.array([0.97, 0.6, 0.8, 0.1])[np.searchsorted([3, 4, 5, 7], LABELS)]
    )
    found, plain = np.empty((20_000, 2)), np.empty(20_000)
    for chip in range(len(found)):
        images = draw(strata, 20, KEY, chip)
        found[chip] = estimate(right[images], images, strata)
        plain[chip] = right[images].mean()
    values, variances = found.T
    assert abs(values.mean() - right.mean()) < 4 * values.std() / math.sqrt(len(values))
    assert abs(plain.mean() - right.mean()) > 4 * plain.std() / math.sqrt(len(plain))
    assert variances.mean() == pytest.approx(values.var(), rel=0.05)


# Components --------------------------------------------------------------------------------------


def test_components_by_hand() -> None:
    found = components([0.5, 0.7, 0.9], [0.01, 0.02, 0.03])
    assert (found.mean, found.total, found.within) == pytest.approx((0.7, 0.04, 0.02))
    assert (found.between, found.chips) == (pytest.approx(0.02), 3)
    assert found.spread == pytest.approx(math.sqrt(0.02))
    assert components([0.5, 0.5], [0.1, 0.1]).between == 0.0


def test_components_are_those_that_scores_were_made_of() -> None:
    generator = np.random.default_rng(2)
    truth = generator.normal(0.8, 0.04, 200_000)
    measured = generator.binomial(100, truth) / 100
    found = components(measured, measured * (1 - measured) / 99)
    assert found.spread == pytest.approx(0.04, rel=0.01)
    assert measured.std() > 0.054  # the control: what is seen without the correction


def test_the_best_number_of_images_is_the_cheapest() -> None:
    found = Components(mean=0.87, total=0.0016 + 0.0011, within=0.0011, between=0.0016, chips=32)
    best = best_images(found, 100, 100.0, 20, 10_000)
    within = 0.0011 / (1 / 100 - 1 / 10_000)

    def cost(m: int) -> float:
        """Of a given precision: cost per chip times variance per chip."""
        return (100 + m) * (0.0016 + within * (1 / m - 1 / 10_000))

    assert best == min(range(20, 10_001), key=cost)
    assert best_images(found, 100, 100.0, 200, 10_000) == 200
    assert best_images(found, 100, 1e9, 20, 10_000) == 10_000
    assert best_images(Components(0.9, 0.001, 0.001, 0.0, 32), 100, 100.0, 20, 10_000) == 10_000
    assert best_images(Components(0.5, 0.25, 0.0, 0.25, 32), 100, 100.0, 20, 10_000) == 20


@pytest.mark.parametrize("half", [0.3, 0.05, 0.005, 0.0005])
@pytest.mark.parametrize("std", [0.0, 1e-3, 0.05])
def test_chips_for_is_the_fewest(std: float, half: float) -> None:
    n = int(chips_for(std, half, 100, 10_000))
    assert half_width(n, std, 100, 10_000) <= half
    assert n == 2 or half_width(n - 1, std, 100, 10_000) > half


def test_chips_of_the_plain_protocol_reach_the_half_width() -> None:
    values = np.random.default_rng(0).normal(0.8, 0.05, 30)
    n = int(chips_for(values.std(ddof=1), 0.004))
    assert n == pytest.approx((1.9645 * values.std(ddof=1) / 0.004) ** 2, abs=2)
    assert chips_for(0.0, 0.01) == 2
    found = components(values, np.zeros(30))
    assert plain_protocol(found, 0.004, 10_000) == Cost(n, n * 10_000)


def test_chips_that_are_all_right_keep_the_rule_of_three() -> None:
    found = drawn_interval([1.0] * 32, 100, 10_000)
    assert found is not None
    assert found.half_width == pytest.approx(3 / 3200, rel=0.01)
    assert drawn_interval([1.0] * 32, 10_000, 10_000) == mean_interval([1.0] * 32)
    assert drawn_interval([1.0], 100, 10_000) is None


def test_the_rule_of_three_does_not_show_where_images_differ() -> None:
    scores = np.random.default_rng(0).binomial(100, 0.9, 32) / 100
    found, plain = drawn_interval(scores, 100, 10_000), mean_interval(scores)
    assert found is not None
    assert plain is not None
    assert found.half_width == pytest.approx(plain.half_width, rel=0.01)
    assert found.half_width > plain.half_width


# Yield -------------------------------------------------------------------------------------------


def test_yield_of_scores_on_all_images_is_counted() -> None:
    scores = np.random.default_rng(0).normal(0.8, 0.05, 50)
    assert yield_drawn(scores, np.zeros(50), 0.8) == yield_at(scores, 0.8)
    assert yield_drawn([1.0] * 32, [0.0] * 32, 0.9) == yield_at([1.0] * 32, 0.9)
    assert yield_drawn([0.7], [0.01], 0.6) == yield_at([0.7], 0.6)
    assert yield_drawn([0.7, 0.7], [0.01, 0.01], 0.6).value == 1.0


def test_yield_falls_with_the_threshold_and_stays_inside() -> None:
    generator = np.random.default_rng(0)
    measured = generator.binomial(80, generator.normal(0.87, 0.04, 60)) / 80
    found = [yield_drawn(measured, measured * (1 - measured) / 79, t) for t in np.linspace(0, 1, 101)]
    values = np.array([one.value for one in found])
    assert (np.diff(values) <= 1e-12).all()
    assert (values[0], values[-1]) == pytest.approx((1, 0), abs=1e-6)
    for one in found:
        assert 0 <= one.ci95[0] <= one.value + 1e-9
        assert one.value - 1e-9 <= one.ci95[1] <= 1


def test_chips_that_may_not_differ_at_all_have_a_wide_yield() -> None:
    measured = np.random.default_rng(0).binomial(100, 0.9, 32) / 100
    found = yield_drawn(measured, measured * (1 - measured) / 99, measured.mean() - 1e-4)
    assert found.ci95[1] - found.ci95[0] > 0.7


# The plan ----------------------------------------------------------------------------------------


class Laboratory:
    """Chips of a design with a known spread, measured on images that they draw themselves."""

    def __init__(self, spread: float, accuracy: float = 0.87, seed: int = 0) -> None:
        self.strata = Strata.of(np.arange(10_000) % 10, 10_000)
        self.key, self.spread, self.accuracy = Key(seed), spread, accuracy
        self.levels = np.random.default_rng(seed).normal(size=20_000)

    def measure(self, chip: int, images: int) -> Trial:
        share = min(max(self.accuracy + self.spread * self.levels[chip], 0.0), 1.0)
        chosen = draw(self.strata, images, self.key, chip)
        right = np.random.default_rng(chip).random(10_000) < share  # the same images are right at every visit
        value, variance = estimate(right[chosen], chosen, self.strata)
        return Trial(0.6, chip, value, len(chosen), variance)

    def run(self, plan: Plan, trials: list[Trial] | None = None) -> tuple[Done, list[Trial]]:
        trials = [] if trials is None else trials
        for _ in range(200):
            step = plan.next_step(trials)
            if isinstance(step, Done):
                return step, trials
            assert step.chips
            trials += [self.measure(chip, step.images) for chip in step.chips]
        raise AssertionError("the plan does not end")


PLAN = Plan(0.01, 10_000, 20)


def test_a_plan_reaches_its_half_width_at_far_less_than_the_plain_protocols_cost() -> None:
    done, trials = Laboratory(0.05).run(PLAN)
    assert done.reached
    counted = [t for t in trials if t.images == done.images]
    assert [t.chip for t in counted] == list(range(done.chips))
    assert done.interval == drawn_interval([t.value for t in counted], done.images, 10_000)
    assert done.interval.half_width <= 0.01
    assert done.components.spread == pytest.approx(0.05, rel=0.3)
    assert done.spent == Cost(len(trials), sum(t.images for t in trials))
    assert done.plain.images > 40 * done.spent.images
    assert done.interval.low < 0.87 < done.interval.high


def test_a_killed_run_ends_the_same_whatever_was_written() -> None:
    laboratory = Laboratory(0.05)
    expected, trials = laboratory.run(PLAN)
    generator = np.random.default_rng(0)
    for _ in range(20):
        # any part of the trials in any order, and some that another plan asked for
        kept = [trials[i] for i in generator.permutation(len(trials))[: generator.integers(len(trials))]]
        strays = [laboratory.measure(chip, 333) for chip in range(5)] + [
            laboratory.measure(900, expected.images)
        ]
        again, all_trials = laboratory.run(PLAN, kept + strays)
        assert again == expected
        assert {t.place for t in trials} <= {t.place for t in all_trials}


def test_the_first_step_is_the_pilot_and_only_what_is_missing_is_asked_for() -> None:
    assert PLAN.next_step([]) == Measure(100, tuple(range(32)))
    laboratory = Laboratory(0.05)
    some = [laboratory.measure(chip, 100) for chip in (0, 2, 31)]
    assert PLAN.next_step(some) == Measure(100, tuple(c for c in range(32) if c not in (0, 2, 31)))


def test_a_pilot_at_another_number_of_images_does_not_count() -> None:
    done, trials = Laboratory(0.2, accuracy=0.5).run(Plan(0.01, 10_000, 20))
    assert done.images < 100 / 1.5  # chips differ much: few images each
    assert done.chips == sum(t.images == done.images for t in trials)
    assert done.spent.chips == done.chips + 32


def test_a_pilot_that_would_cost_more_than_it_is_worth_is_kept() -> None:
    done, trials = Laboratory(0.2, accuracy=0.5).run(Plan(0.03, 10_000, 20))
    assert done.images == 100  # fewer images each would save less than 32 chips on 100 images
    assert done.spent.chips == done.chips == len(trials)


def test_a_clean_network_stops_after_the_pilot() -> None:
    done, trials = Laboratory(0.0, accuracy=1.0).run(Plan(0.005, 10_000, 20))
    assert (done.reached, done.chips, len(trials)) == (True, 32, 32)
    assert done.components.total == 0
    assert 0 < done.interval.half_width < 0.001  # the rule of three, not 0
    assert done.plain == Cost(2, 20_000)


def test_a_clean_network_asked_for_more_than_the_rule_of_three_gives() -> None:
    done, _ = Laboratory(0.0, accuracy=1.0).run(Plan(0.0002, 10_000, 20))
    assert done.reached
    assert 0 < done.interval.half_width <= 0.0002


def test_chips_that_do_not_differ_get_more_images_and_not_more_chips() -> None:
    done, _ = Laboratory(0.0, accuracy=0.9, seed=3).run(Plan(0.005, 10_000, 20))
    assert done.reached
    assert done.images > 300
    assert done.chips <= 64


def test_a_plan_gives_up_and_says_so() -> None:
    done, _ = Laboratory(0.05).run(Plan(0.001, 10_000, 20, most_chips=100))
    assert (done.reached, done.chips) == (False, 100)
    assert done.interval.half_width > 0.001


def test_few_images_are_all_used() -> None:
    plan = Plan(0.02, 60, 20)
    assert plan.next_step([]) == Measure(60, tuple(range(32)))
    generator = np.random.default_rng(0)
    trials = [Trial(0.6, chip, float(generator.normal(0.8, 0.01)), 60) for chip in range(32)]
    done = plan.next_step(trials)
    assert isinstance(done, Done)
    assert done.interval == mean_interval([t.value for t in trials])


@pytest.mark.parametrize(
    "call",
    [
        lambda: allocate([], 3),
        lambda: allocate([3, 0], 3),
        lambda: allocate([3], 0),
        lambda: Strata.of(None, 0),
        lambda: Strata.of([1, 2], 3),
        lambda: Strata.of([0.5, 1.5], 2),
        lambda: draw(Strata.of(None, 9), 0, KEY, 0),
        lambda: draw(Strata.of(None, 9), 3, KEY, -1),
        lambda: draw(Strata.of(None, 9), 9, KEY, -1),
        lambda: estimate([1.0], [1, 2], Strata.of(None, 9)),
        lambda: estimate([1.0], [1], Strata.of(None, 9)),
        lambda: estimate([1.0, float("nan")], [1, 2], Strata.of(None, 9)),
        lambda: components([1.0], [0.0]),
        lambda: components([1.0, 2.0], [0.0, -1.0]),
        lambda: components([1.0, float("inf")], [0.0, 0.0]),
        lambda: components([1.0, 2.0], [0.0]),
        lambda: best_images(components([1, 2], [0, 0]), 100, 0.0, 20, 10_000),
        lambda: best_images(components([1, 2], [0, 0]), 100, 1.0, 20, 10),
        lambda: chips_for(1.0, 0.0),
        lambda: chips_for(-1.0, 0.1),
        lambda: chips_for(1.0, 0.1, level=1.0),
        lambda: drawn_interval([1, 2], 11, 10),
        lambda: yield_drawn([], [], 0.5),
        lambda: yield_drawn([1, 2], [0.1, 0.1], float("nan")),
        lambda: Plan(0.0, 100),
        lambda: Plan(0.1, 10, minimum=11),
        lambda: Plan(0.1, 100, pilot_chips=1),
        lambda: Plan(0.1, 100, chip_cost=math.inf),
        lambda: Plan(0.1, 100, level=95),
    ],
)
def test_what_cannot_be_planned_is_refused(call: Callable[[], object]) -> None:
    with pytest.raises(InputError):
        call()
