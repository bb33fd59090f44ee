"""What must not be pooled, ranked or paired, and what drawn images owe their intervals."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers import made_sweeps

from crossbar_sim.errors import InputError
from crossbar_sim.report.headline import answer, crossing_words
from crossbar_sim.report.rows import conditions
from crossbar_sim.robustness.comparisons import paired
from crossbar_sim.robustness.curves import area, crossing
from crossbar_sim.robustness.drawn_scores import rule_of_three
from crossbar_sim.robustness.groups import group_curve, group_tests, groups_in, seeded
from crossbar_sim.robustness.point import Point
from crossbar_sim.robustness.statistics import summarise
from crossbar_sim.robustness.sweep import Sweep, comparable_details, labels_of
from crossbar_sim.store.records import Task, Trial

SEEDS = ("plain, seed 0", "plain, seed 1", "aware, seed 0", "aware, seed 1")
DRAWN = {"count": 10_000, "drawn": True}


def changed(task: Task, **identity: Any) -> Task:
    return Task(task.label, {**task.identity, **identity}, task.clean, task.about)


def otherwise(made: Sweep, which: Mapping[str, dict[str, Any]]) -> Sweep:
    """The sweep with other identities of some of its models."""
    tasks = {label: changed(task, **which.get(label, {})) for label, task in made.tasks.items()}
    return Sweep(tasks, made.curves, made.details)


@pytest.mark.parametrize("what", [{"seed": 7}, {"data": {"fingerprint": "aa"}}, {"hardware": {"kind": "b"}}])
def test_networks_that_were_not_measured_alike_are_no_group(what: dict[str, Any]) -> None:
    made = made_sweeps.sweep(SEEDS)
    assert seeded(made)
    assert set(groups_in(made)) == {"plain", "aware"}
    mixed = otherwise(made, {"aware, seed 1": what})
    assert set(groups_in(mixed)) == {"plain", "aware, seed 0", "aware, seed 1"}
    with pytest.raises(InputError, match="aware were not measured alike"):
        group_curve(mixed, "aware")


@pytest.mark.parametrize("what", [{"seed": 7}, {"hardware": {"kind": "b"}}, {"skip": ["fc1"]}])
def test_groups_that_were_not_measured_alike_are_told_and_not_tested(what: dict[str, Any]) -> None:
    made = made_sweeps.sweep(SEEDS)
    assert group_tests(made, "plain")
    mixed = otherwise(made, dict.fromkeys(SEEDS[2:], what))
    assert group_tests(mixed, "plain") == ()
    first, last = answer(mixed, None)
    assert f"not measured alike ({next(iter(what))} differ) and are not compared" in first
    assert "chance" not in first
    assert "significant" not in first
    assert last.endswith(f"What differs between them: {next(iter(what))}.")


def test_what_a_chip_costs_the_plan_is_the_models() -> None:
    made = made_sweeps.sweep(SEEDS)
    plans = {label: {"images": {**DRAWN, "chip_cost": float(i // 2)}} for i, label in enumerate(SEEDS)}
    assert group_tests(otherwise(made, plans), "plain")


def parted(labels: tuple[str, ...], later: int) -> Sweep:
    """Models of which those from `later` on were measured at other sigmas."""
    one, other = made_sweeps.sweep(labels, (0.1, 0.2)), made_sweeps.sweep(labels, (0.5, 0.6))
    curves = {label: (one if i < later else other).curves[label] for i, label in enumerate(labels)}
    return Sweep(one.tasks, curves, one.details)


def test_without_a_common_sigma_nothing_is_compared() -> None:
    (said,) = answer(parted(SEEDS, 2), None)
    assert said == "plain, aware were measured at no common sigma, so that they are not compared."
    pair = parted(("a", "b"), 1)
    said = answer(pair, None)[0]
    assert "at no common sigma and are not compared" in said
    assert "other data" not in said
    found = pair.as_dict()
    assert found["paired"] == []
    assert found["not_paired"] == [{"a": "a", "b": "b", "differ": ["sigmas"]}]


def test_duplicate_labels_say_what_differs() -> None:
    plain = made_sweeps.task("erm")
    drawn = changed(plain, images={**DRAWN, "count": 1000, "half": 0.005})
    assert labels_of([plain, drawn]) == ["erm (all images)", "erm (images drawn)"]
    design = json.loads(json.dumps(plain.identity["hardware"]))
    design["mapping"]["levels"] = 16
    assert labels_of([plain, changed(plain, hardware=design)]) == ["erm (no levels)", "erm (levels 16)"]
    model = changed(plain, model={"sha256": "ff"})
    assert labels_of([plain, model]) == [f"erm [{plain.id[:6]}]", f"erm [{model.id[:6]}]"]


def test_one_model_measured_twice_is_neither_ranked_nor_paired() -> None:
    made = made_sweeps.sweep(("whole", "drawn", "other"))
    model = made.tasks["whole"].identity["model"]
    twice = otherwise(made, {"drawn": {"model": model, "images": DRAWN}})
    assert twice.unlike("whole", "drawn") == ("images",)
    assert twice.unlike("whole", "other") == ()
    with pytest.raises(InputError, match="images differ"):
        twice.paired("whole", "drawn")
    said = " ".join(answer(twice, None))
    assert "other is the most robust" in said
    assert "than that of whole" in said
    assert "Measured on other images as well, and not ranked: drawn." in said


def drawn_sweep(exact: bool = True) -> Sweep:
    """A budget with three chips where nothing is random, and fifty elsewhere."""
    task = changed(made_sweeps.task("a"), images=DRAWN)
    rows = [(0.0, 3, not exact), (0.3, 50, True), (0.6, 60, True)]
    points = tuple(
        Point("a", "accuracy", s, 1.0, 10_000, tuple(Trial(s, c, 1.0, 100) for c in range(n)), random)
        for s, n, random in rows
    )
    return Sweep({"a": task}, {"a": points}, {"a": {}})


def test_a_sigma_where_nothing_is_random_leaves_no_chip_out() -> None:
    sigmas, chips, table = drawn_sweep().scores("a")
    assert (sigmas, len(chips), table.shape) == ((0.0, 0.3, 0.6), 50, (50, 3))
    assert len(drawn_sweep(exact=False).scores("a")[1]) == 3  # the control
    assert len(drawn_sweep(exact=False).scores("a", (0.3, 0.6))[1]) == 50
    whole = drawn_sweep().area("a")
    assert whole is not None
    assert whole.half_width == pytest.approx(np.sqrt(0.99) * -np.log(0.05) / (50 * 100))


def test_rare_errors_of_drawn_images_are_covered_and_plain_intervals_do_not_cover() -> None:
    rng = np.random.default_rng(5)
    unseen = float(rule_of_three(32, 100, 10_000))
    covered = np.zeros(4)
    for _ in range(1000):
        a, b = (1 - rng.binomial(100, wrong, (32, 2)) / 100 for wrong in (0.00025, 0.0005))
        found = [area([0.3, 0.6], a), area([0.3, 0.6], a, unseen=[unseen] * 2)]
        found += [paired(a[:, 0], b[:, 0], unseen=u).interval for u in (0.0, 2 * unseen)]
        truths = (0.99975, 0.99975, 0.00025, 0.00025)
        covered += [i is not None and i.low <= t <= i.high for i, t in zip(found, truths, strict=True)]
    print(covered / 1000)
    assert covered[0] < 900
    assert covered[1] > 940
    assert covered[2] < 930
    assert covered[3] > 940


def test_a_p_value_and_its_interval_agree_about_zero() -> None:
    b = np.r_[np.full(6, 0.99), np.ones(26)]
    assert (paired(np.ones(32), b).p_value or 1) < 0.05
    unseen = 2 * float(rule_of_three(32, 100, 10_000))
    found = paired(np.ones(32), b, unseen=unseen)
    assert found.interval is not None
    assert found.p_value is not None
    assert found.interval.low < 0
    assert found.p_value > 0.05
    edge = paired(np.ones(32), b, 1 - found.p_value, unseen * (np.log(found.p_value) / np.log(0.05)) ** 2)
    assert edge.interval is not None
    assert edge.interval.low == pytest.approx(0, abs=1e-9)


def test_a_crossing_of_scores_without_spread_has_a_width() -> None:
    found = crossing([0.0, 1.0], [[1.0, 0.98]] * 4, 0.99, unseen=[0.0, 1e-4])
    assert found.low is not None
    assert found.sigma == pytest.approx(0.5)
    assert found.low < 0.45
    assert crossing([0.0, 1.0], [[1.0, 0.98]] * 4, 0.99).low == pytest.approx(0.5)


def test_a_curve_that_starts_below_is_told_with_its_interval() -> None:
    scores = np.array([0.49, 0.52, 0.47, 0.45, 0.55, 0.44])[:, None] + np.array([0, -0.02, -0.3])
    found = crossing([0.1, 0.2, 0.5], scores, 0.5)
    assert found.high is not None
    assert crossing_words(found) == f"before sigma 0.1, the first one (below 0.1 to {found.high:.3g})"
    below = crossing_words(crossing([0.1, 0.2, 0.5], scores - 0.3, 0.5))
    assert below == "before sigma 0.1, the first one"


def test_details_are_those_that_most_models_share_by_number() -> None:
    names = {s: f"sensitivity sigma={s!r} chips=5" for s in (0.5, 2.0, 10.0)}
    found = comparable_details(
        {"a": {names[2.0]: 1, names[10.0]: 2}, "b": {names[2.0]: 3, names[0.5]: 4}, "c": {names[0.5]: 5}}
    )
    assert found == {"a": {"sensitivity": 1}, "b": {"sensitivity": 3}, "c": {"sensitivity": 5}}
    assert comparable_details({"a": {names[2.0]: 1, names[10.0]: 2}}) == {"a": {"sensitivity": 2}}
    made = made_sweeps.sweep()
    details = {label: json.loads(json.dumps(of)) for label, of in made.details.items()}
    details["erm"]["sensitivity"]["sigma"] = 0.9
    (said,) = conditions(Sweep(made.tasks, made.curves, details), "sensitivity")
    assert "sigma 0.9, 3 chips, 500 examples (erm); sigma 0.6, 3 chips, 500 examples (bayesft)" in said


def test_scores_beyond_floats_are_one_sentence() -> None:
    with pytest.raises(InputError, match="nothing can be computed"):
        summarise([-1.7e308] * 4)
    made = made_sweeps.sweep(("a",), metric="output_error")
    huge = tuple(
        replace(p, trials=tuple(replace(t, value=-1.7e308) for t in p.trials)) for p in made.curve("a")
    )
    with pytest.raises(InputError, match="nothing can be computed"):
        answer(Sweep(made.tasks, {"a": huge}, {"a": {}}), 0.5)
