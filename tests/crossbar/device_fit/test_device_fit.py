"""Fitting a device: what went in comes out, with intervals that mean what they say, and a bad fit says so."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from made_devices import G_MAX, NOISE, RELAXATION, RETENTION, TIMES, TRUTH, US, measure

from crossbar_sim import (
    Hardware,
    InputError,
    Key,
    MeasuredNoise,
    PolynomialNoise,
    RelaxationShift,
    RetentionDrift,
)
from crossbar_sim.crossbar import config
from crossbar_sim.crossbar.device_fit import Measurements, fit_device
from crossbar_sim.crossbar.device_fit.measurements import scattered

OWN = {"none": {}, "relaxation": RELAXATION, "retention": RETENTION}


def truth_of(kind: str) -> dict[str, float]:
    return TRUTH | {f"drift.{name}": value for name, value in OWN[kind].items()}


@pytest.mark.parametrize("kind", OWN)
def test_the_law_and_its_parameters_are_recovered(kind):
    fit = fit_device(measure(kind, cells=150))
    assert fit.law == kind
    found = {p.name: p for p in fit.parameters}
    assert {*found} == {*truth_of(kind)}
    for name, value in truth_of(kind).items():
        p = found[name]
        assert p.low < p.value < p.high
        assert p.value == pytest.approx(value, rel=0.25), name
        # Three half-widths of the 95 % interval: six standard errors.
        assert abs(p.value - value) < 3 * (p.high - p.low) / 2, name
    assert fit.quality.grade == "good"
    assert fit.quality.sentence.startswith("The fit is good: in all ")
    noise = fit.hardware.programming
    assert isinstance(noise, MeasuredNoise)
    for g in (0.0, G_MAX / 2, G_MAX):
        assert noise.mu(g) == pytest.approx(NOISE.mu(g), abs=0.1 * US)
        assert noise.sigma(g) == pytest.approx(NOISE.sigma(g), rel=0.15)
    law = {"none": type(None), "relaxation": RelaxationShift, "retention": RetentionDrift}[kind]
    assert isinstance(fit.hardware.drift, law)
    if kind != "none":
        assert fit.hardware.drift.time == TIMES[-1]


def coverage(chips: range, factor: float) -> tuple[int, int]:
    """How many intervals hold `factor` times the truth, of how many."""
    inside = total = 0
    for chip in chips:
        for p in fit_device(measure("retention", cells=20, chip=chip), "retention").parameters:
            value = truth_of("retention").get(p.name)
            if value is not None:
                total += 1
                inside += p.low <= factor * value <= p.high
    return inside, total


def test_intervals_hold_the_truth_as_often_as_they_claim():
    inside, total = coverage(range(8), 1.0)
    assert total >= 44
    # 95 % of 48 is 45.6 with a standard deviation of about 2 (parameters of one fit go together).
    assert inside >= 0.85 * total


def test_the_intervals_would_not_hold_something_else():
    inside, total = coverage(range(3), 1.3)
    assert inside < 0.6 * total


def test_a_wrong_law_is_said_to_be_poor():
    """The negative control: the other law forced on the data, and no law at all."""
    data = measure("retention", cells=60)
    for law in ("relaxation", "none"):
        fit = fit_device(data, law)
        assert fit.law == law
        assert fit.quality.grade == "poor"
        assert "the law misses the measurements, worst at" in fit.quality.sentence
        assert any(group.off for group in fit.quality.groups)
    assert fit_device(data).quality.grade == "good"


def test_a_mean_that_no_polynomial_follows_is_said_to_be_poor():
    data = measure("none", cells=60)
    bump = np.where(np.isclose(data.target, G_MAX / 4), 6 * US, 0.0)
    fit = fit_device(Measurements(data.target, data.measured + bump, data.time))
    assert fit.quality.grade == "poor"
    assert any(group.off and group.target == pytest.approx(10 * US) for group in fit.quality.groups)


def test_errors_that_are_not_normal_are_said_to_be_so():
    rng = np.random.default_rng(5)
    target = np.repeat([10 * US, 20 * US, 30 * US], 400)
    skewed = target + (rng.exponential(1.0, target.size) ** 2 - 1) * US
    fit = fit_device(Measurements(target, skewed, np.zeros_like(target)))
    assert fit.quality.grade != "good"
    assert "not normal" in fit.quality.sentence


def test_two_wild_cells_in_a_hundred_change_little_and_are_reported():
    clean, wild = fit_device(measure("relaxation", 100)), fit_device(measure("relaxation", 100, wild=0.02))
    for before, after in zip(clean.parameters, wild.parameters, strict=True):
        assert abs(after.value - before.value) < 1.5 * (before.high - before.low), after.name
    assert 0.01 < wild.quality.wild < 0.02
    assert "beyond 5 spreads" in wild.quality.sentence
    assert clean.quality.wild == 0
    # A plain least-squares fit of the same: the spread at full conductance more than doubles.
    data = measure("relaxation", 100, wild=0.02)
    low = data.target < G_MAX / 4
    plain = np.std((data.measured - data.target)[low])
    assert plain > 2 * max(wild.spread[low])


def test_readings_of_one_cell_go_together_in_the_intervals():
    """The same programming error read ten times is not ten programming errors."""
    rng = np.random.default_rng(2)
    cell = np.repeat(np.arange(300), 10)
    target = np.linspace(5, 40, 10)[np.arange(300) % 10][cell] * US
    error = (rng.standard_normal(300)[cell] + 0.1 * rng.standard_normal(cell.size)) * US
    time = np.zeros(cell.size)
    alone = fit_device(Measurements(target, target + error, time), "none")
    together = fit_device(Measurements(target, target + error, time, cell), "none")
    widths = [f.parameters[-1].high - f.parameters[-1].low for f in (alone, together)]
    assert widths[1] / widths[0] == pytest.approx(np.sqrt(10), rel=0.35)
    assert "300 cells" in together.notes[1]
    assert "every row counts as another cell" in alone.notes[1]


def test_readings_that_are_cut_off_at_0_do_not_bend_the_law():
    """At target 0 half of the cells would lie below 0 S; the law is that of the cells, not of the cut."""
    noise = PolynomialNoise((1.0 * US,), G_MAX)
    fit = fit_device(measure("none", 100, noise=noise))
    assert (fit.data.measured == 0).mean() > 0.04
    assert fit.hardware.programming.sigma(0) == pytest.approx(1.0 * US, rel=0.06)
    assert isinstance(fit.hardware.programming, PolynomialNoise)
    assert fit.quality.grade == "good"


def test_the_device_is_a_design_like_any_other():
    fit = fit_device(measure("relaxation"))
    text = fit.to_toml("measured.csv")
    assert config.from_toml(text) == fit.hardware
    assert text.startswith(
        "# fitted to measured.csv\n# measured: 1800 rows, targets 0 .. 4e-05 S, 0 .. 86400 s\n"
    )
    assert fit.quality.sentence in text
    for p in fit.parameters:
        assert f"#   {p.name} = " in text
    hardware = fit.hardware
    w = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)
    assert not np.array_equal(hardware.program(w, Key(0), 0).weight, hardware.program(w, Key(0), 1).weight)
    assert isinstance(hardware, Hardware)


def test_the_same_measurements_give_the_same_bytes():
    assert fit_device(measure("retention", 20)).to_toml("x") == fit_device(measure("retention", 20)).to_toml(
        "x"
    )


def test_one_target_gives_a_constant_spread_from_0():
    data = measure("none", 60)
    one = np.isclose(data.target, G_MAX)
    fit = fit_device(Measurements(data.target[one], data.measured[one], data.time[one]))
    assert fit.hardware.mapping.g_min == 0
    assert len(fit.hardware.programming.coefficients) == 1


def test_a_law_that_the_times_do_not_determine_is_refused():
    data = measure("none", times=(0.0,))
    for law in ("relaxation", "retention"):
        with pytest.raises(InputError, match="needs readings at several times"):
            fit_device(data, law)
    assert fit_device(data).law == "none"
    with pytest.raises(InputError, match="known: auto, none, relaxation, retention"):
        fit_device(data, "lognormal")


@pytest.mark.parametrize("period", [2, 9, 45, 100])
def test_a_part_of_a_table_keeps_its_proportions(period):
    taken = scattered(90_000, 10_000)
    assert taken.sum() == pytest.approx(10_000, rel=0.01)
    counts = np.bincount(np.flatnonzero(taken) % period, minlength=period)
    assert counts.min() > 0.7 * counts.mean()


def test_measurements_without_any_scatter_are_a_poor_fit_and_no_traceback():
    target = np.linspace(1e-6, 4e-5, 40)[:8]
    fit = fit_device(Measurements(target, target * np.linspace(0.9, 1.1, 8), np.zeros(8)))
    assert fit.quality.grade == "poor"
    assert "did not settle" in fit.quality.sentence
