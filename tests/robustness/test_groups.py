"""Networks that differ in their training seed, as groups: intervals and tests over networks."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from helpers import made_sweeps
from helpers.made_sweeps import task
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from crossbar_sim.errors import InputError
from crossbar_sim.report import page_text
from crossbar_sim.report.headline import answer
from crossbar_sim.report.sweep_figures import band_words, draw_groups
from crossbar_sim.robustness.groups import (
    boundless,
    compared,
    group_curve,
    group_of,
    group_tests,
    groups_of,
    seeded,
)
from crossbar_sim.robustness.point import Point
from crossbar_sim.robustness.sweep import Sweep
from crossbar_sim.store.records import Trial

Scores = Mapping[str, Mapping[float, Sequence[float]]]

# Student (Biometrika 6:1, 1908): hours of additional sleep of ten patients under two drugs
DEXTRO = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
LAEVO = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]


def sweep_of(scores: Scores) -> Sweep:
    """A sweep of these scores: label -> sigma -> one score per chip."""
    tasks = {label: task(label) for label in scores}
    curves = {
        label: Point.of_trials(
            label,
            tasks[label],
            [Trial(s, chip, v, 1000) for s, values in by_sigma.items() for chip, v in enumerate(values)],
        )
        for label, by_sigma in scores.items()
    }
    return Sweep(tasks, curves, {label: {} for label in scores})


def networks(name: str, means: Sequence[float], sigma: float = 0.6) -> dict[str, dict[float, list[float]]]:
    """Networks of two chips each, around these means."""
    return {f"{name}, seed {i}": {sigma: [m - 0.01, m + 0.01]} for i, m in enumerate(means)}


def test_a_label_tells_its_group() -> None:
    labels = ["plain", "aware, seed 0", "aware, seed 12", "a, b, seed 3", "x, seed one", "plain, seed 1"]
    assert groups_of(labels) == {
        "plain": ("plain",),
        "aware": ("aware, seed 0", "aware, seed 12"),
        "a, b": ("a, b, seed 3",),
        "x, seed one": ("x, seed one",),
        "plain, seed 1": ("plain, seed 1",),  # a model of its own is called "plain"
    }
    assert group_of("aware, seed 12", labels) == "aware"
    assert seeded(labels)
    assert not seeded(["plain", "aware, seed 0"])


def test_a_group_of_three_by_hand() -> None:
    scores: Scores = {
        "g, seed 0": {0.6: [0.70, 0.90]},
        "g, seed 1": {0.6: [0.85, 0.95]},
        "g, seed 2": {0.6: [1.00, 1.00], 0.9: [0.5, 0.5]},
    }
    (point,) = group_curve(sweep_of(scores), "g", 0.9)
    # means 0.8, 0.9, 1.0; t(2) = 4.302653; spreads of chips 0.1414, 0.0707, 0; 4 of 6 chips reach 0.9
    assert (point.sigma, point.networks, point.chips) == (0.6, 3, 2)
    assert point.mean == pytest.approx(0.9)
    assert point.std == pytest.approx(0.1)
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert point.ci95 == pytest.approx((0.9 - half, 0.9 + half), abs=1e-6)
    assert (point.lowest, point.highest) == pytest.approx((0.8, 1.0))
    assert point.spread == pytest.approx(math.sqrt((0.02 + 0.005 + 0) / 3))
    assert point.worst == 0.70
    assert point.passing == pytest.approx(4 / 6)
    # chips as the unit: 0.85 and 0.95, t(1) = 12.7062
    assert point.ci95_chips == pytest.approx((0.9 - 12.7062 * 0.05, 0.9 + 12.7062 * 0.05), abs=1e-4)


def test_one_network_has_no_interval_over_seeds() -> None:
    (point,) = group_curve(sweep_of(networks("g", [0.9])), "g")
    assert (point.ci95, point.std, point.networks) == (None, None, 1)
    assert point.ci95_chips is not None


def test_an_unknown_group_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean 'aware'"):
        group_curve(sweep_of(networks("aware", [0.9])), "awar")
    with pytest.raises(InputError, match="reference 'plain'"):
        group_tests(sweep_of(networks("aware", [0.9])), "plain")


def test_the_test_is_welchs() -> None:
    # R: t.test(extra ~ group, data = sleep): t = -1.8608, df = 17.776, p = 0.07939, -3.3654832 .. 0.2054832
    sweep = sweep_of({**networks("dextro", DEXTRO), **networks("laevo", LAEVO)})
    (test,) = group_tests(sweep, "laevo")
    assert (test.group, test.reference, test.networks) == ("dextro", "laevo", (10, 10))
    assert test.difference == pytest.approx(-1.58)
    assert test.p_value == pytest.approx(0.07939, abs=5e-6)
    assert test.ci95 == pytest.approx((-3.3654832, 0.2054832), abs=1e-6)
    assert test.adjusted == pytest.approx(test.p_value)


def test_the_correction_is_over_sigmas_and_groups() -> None:
    """Six tests with one small p: Holm multiplies it by six."""
    scores: dict[str, dict[float, list[float]]] = {}
    rng = np.random.default_rng(1)
    for name, gain in (("reference", 0.0), ("same", 0.0), ("better", 0.02)):
        for seed in range(4):
            scores[f"{name}, seed {seed}"] = {
                s: [0.8 - 0.2 * s + gain * (s == 0.6) + 0.002 * rng.standard_normal()] * 2
                for s in (0.0, 0.3, 0.6)
            }
    tests = group_tests(sweep_of(scores), "reference")
    assert [(t.group, t.sigma) for t in tests] == [
        (g, s) for g in ("same", "better") for s in (0.0, 0.3, 0.6)
    ]
    smallest = min(tests, key=lambda t: t.p_value or 1)
    assert (smallest.group, smallest.sigma) == ("better", 0.6)
    assert smallest.p_value is not None
    assert smallest.adjusted == pytest.approx(6 * smallest.p_value)
    assert [t.adjusted is not None and t.adjusted < 0.05 for t in tests] == [t is smallest for t in tests]


def test_no_spread_is_no_test() -> None:
    """Networks that all score alike say nothing of how another training would score: no p, and no p of 0."""
    sweep = sweep_of({**networks("a", [0.9, 0.9, 0.9]), **networks("b", [0.8, 0.8, 0.8])})
    (test,) = group_tests(sweep, "a")
    assert (test.p_value, test.adjusted, test.ci95) == (None, None, None)
    assert test.difference == pytest.approx(-0.1)
    one = sweep_of({**networks("a", [0.9, 0.8, 0.85]), **networks("b", [0.8])})
    assert group_tests(one, "a")[0].p_value is None


def test_alike_groups_are_rarely_called_different_and_uncorrected_tests_call_them_so() -> None:
    """Three groups of four trainings at four sigmas that differ by chance alone: eight tests in each of 250 families.

    At most 5 % of families may have an error (plus 4 standard errors). The controls: the same tests uncorrected, and
    chips of all networks taken for independent observations.
    """
    rng = np.random.default_rng(7)
    corrected = plain = pooled = 0
    for _ in range(250):
        trained = 0.8 + 0.02 * rng.standard_normal((3, 4, 4))  # group, sigma, network
        chips = trained[..., None] + 0.01 * rng.standard_normal((3, 4, 4, 6))
        means = {
            name: {0.3 * s: list(chips[g, s].mean(axis=-1)) for s in range(4)} for g, name in enumerate("abc")
        }
        tests = compared(means, "a")
        corrected += any(t.adjusted is not None and t.adjusted < 0.05 for t in tests)
        plain += any(t.p_value is not None and t.p_value < 0.05 for t in tests)
        pooled += stats.ttest_ind(chips[1, 0].ravel(), chips[0, 0].ravel(), equal_var=False).pvalue < 0.05
    assert corrected / 250 < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 250)
    assert plain / 250 > 0.20
    assert pooled / 250 > 0.20


def test_the_interval_over_seeds_covers_and_that_over_all_chips_does_not() -> None:
    """What the next training would score is uncertain by the spread of trainings, whatever the number of chips."""
    rng = np.random.default_rng(3)
    covered = wrong = 0
    for _ in range(300):
        means = 0.8 + 0.02 * rng.standard_normal(3)
        scores = {
            f"g, seed {i}": {0.6: list(m + 0.01 * rng.standard_normal(10))} for i, m in enumerate(means)
        }
        (point,) = group_curve(sweep_of(scores), "g")
        assert point.ci95 is not None
        assert point.ci95_chips is not None
        covered += point.ci95[0] <= 0.8 <= point.ci95[1]
        wrong += point.ci95_chips[0] <= 0.8 <= point.ci95_chips[1]
    assert abs(covered / 300 - 0.95) < 4 * math.sqrt(0.05 * 0.95 / 300)
    assert wrong / 300 < 0.6


def test_the_figure_and_the_page_say_what_the_bands_are(tmp_path) -> None:
    sweep = made_sweeps.sweep(("plain, seed 0", "plain, seed 1", "aware, seed 0", "aware, seed 1", "alone"))
    curves = [group_curve(sweep, group) for group in groups_of(sweep.labels)]
    words = band_words(curves)
    assert "n = 2 training seeds" in words
    assert "8 chips" in words
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    draw_groups(sweep, first, title="Two ways", threshold=0.9)
    draw_groups(sweep, second, title="Two ways", threshold=0.9)
    assert first.read_bytes() == second.read_bytes()
    assert 10_000 < first.stat().st_size < 150_000
    page = page_text(sweep)
    assert "over n = 1 to 2 training seeds" in page
    assert "over n =" not in page_text(made_sweeps.sweep(("plain", "aware")))


def test_a_band_that_would_cover_everything_is_left_out_and_said(tmp_path, monkeypatch) -> None:
    scores = {
        "plain": ([0.93, 0.5], [0.92, 0.52], [0.94, 0.49]),
        "failed": ([0.9, 0.4], [0.1, 0.1], [0.1, 0.1]),
    }
    labelled = {
        f"{group}, seed {i}": {0.0: [means[0]] * 3, 0.6: [means[1], means[1] + 0.01, means[1] - 0.01]}
        for group, seeds in scores.items()
        for i, means in enumerate(seeds)
    }
    sweep = sweep_of(labelled)
    curves = {group: group_curve(sweep, group) for group in groups_of(sweep.labels)}
    assert boundless(curves) == {"failed"}
    assert boundless({"plain": curves["plain"]}) == frozenset()
    bands, lines, titles = [], [], []
    plot = Axes.plot
    monkeypatch.setattr(Axes, "fill_between", lambda *_, color, **__: bands.append(color))
    monkeypatch.setattr(Axes, "plot", lambda *a, **k: [lines.append(k.get("lw")), plot(*a, **k)][1])
    monkeypatch.setattr(Figure, "suptitle", lambda _, text, **__: titles.append(text))
    draw_groups(sweep, tmp_path / "a.png")
    assert len(bands) == 1
    assert lines.count(0.6) == 3
    assert "failed: an interval wider than the figure, thin lines are its networks" in " ".join(
        titles[0].split()
    )
    assert "failed: no band" in page_text(sweep)


def test_the_page_says_which_way_to_train_holds_best() -> None:
    scores = {
        **networks("plain", [0.50, 0.52, 0.51]),
        **networks("aware", [0.80, 0.82, 0.81]),
        **networks("found", [0.79, 0.83, 0.80]),
        "lone": {0.6: [0.7, 0.72]},
    }
    (said,) = answer(sweep_of(scores), None)
    assert said == (
        "aware has the highest mean accuracy at sigma 0.6, 81.0 % (95 % interval over 3 training seeds 78.5 to 83.5 "
        "%), but does not differ significantly from found (Welch's t over networks, Holm's correction); lone "
        "cannot be tested without a spread between networks."
    )
    two = {label: by_sigma for label, by_sigma in scores.items() if label.startswith(("plain", "aware"))}
    (clear,) = answer(sweep_of(two), None)
    assert "differs significantly from the other way to train (Welch's t over networks)" in clear
    alone = {label: by_sigma for label, by_sigma in scores.items() if label.startswith(("aware", "lone"))}
    (open_,) = answer(sweep_of(alone), None)
    assert open_.endswith("%); lone cannot be tested without a spread between networks.")
    none = sweep_of({**networks("a", [0.5, 0.52, 0.51]), **networks("b", [0.5, 0.51, 0.52])})
    assert "does not differ significantly from" in answer(none, None)[0]  # the control: two ways that are one


@pytest.mark.parametrize("metric", ["accuracy", "output_error"])
def test_an_error_is_drawn_positive(tmp_path, metric) -> None:
    sweep = made_sweeps.sweep(("a, seed 0", "a, seed 1"), metric=metric)
    point = group_curve(sweep, "a")[-1]
    assert (point.mean < 0) == (metric == "output_error")
    draw_groups(sweep, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5_000
