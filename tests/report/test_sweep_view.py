"""What a sweep says of itself on a terminal and on its page."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from helpers import made_sweeps
from rich.console import Console
from torch import nn

from crossbar_sim import CrossbarWarning, Hardware, InputError, Key
from crossbar_sim.data import Split, load_data
from crossbar_sim.nn import seeded
from crossbar_sim.nn.networks import build
from crossbar_sim.report import page_text
from crossbar_sim.report.headline import answer, shares
from crossbar_sim.report.page import notes
from crossbar_sim.report.ranking import ahead
from crossbar_sim.report.rows import View
from crossbar_sim.report.tables import downloads, of_groups, of_points
from crossbar_sim.report.terminal import show_groups, show_sweep
from crossbar_sim.robustness import Point, Sweep, robustness
from crossbar_sim.robustness.drawn_scores import MOST_CHIPS, Cost
from crossbar_sim.robustness.metrics import described
from crossbar_sim.robustness.plans import exact, plan_of
from crossbar_sim.store.records import Task, Trial, canonical


def net(seed: int = 0):
    with seeded(Key(seed)):
        return build("mlp", inputs=64, hidden=(8,), classes=10)


def shown(sweep: Sweep, threshold: float | None = None) -> str:
    out = io.StringIO()
    show_sweep(sweep, Console(file=out, width=300), threshold)
    return out.getvalue()


def changed(task: Task, **identity) -> Task:
    return Task(task.label, {**task.identity, **identity}, task.clean, task.about)


def far_apart(metric: str = "accuracy") -> Sweep:
    """Three chips whose t interval reaches beyond the scores that there can be."""
    task = made_sweeps.task("erm", metric)
    scores = (0.2, 0.95, 0.9) if metric == "accuracy" else (-0.1, -0.2, -1.5)
    trials = [Trial(0.5, chip, score, 1000) for chip, score in enumerate(scores)]
    return Sweep({"erm": task}, {"erm": Point.of_trials("erm", task, trials)}, {})


def test_intervals_are_printed_and_drawn_within_the_possible_scores_and_kept_in_files_as_computed():
    sweep = far_apart()
    mean, (low, high) = sweep.curve("erm")[0].summary.mean, sweep.curve("erm")[0].summary.ci95
    assert low < 0
    assert high > 1
    assert View(sweep).curves["erm"][0].mean.span == (0.0, 1.0)
    assert "68 % (0 to 100)" in shown(sweep)
    assert "cut at 0 and 100 %" in shown(sweep)
    assert "95 % interval 0 to 100 %" in answer(sweep, None)[0]
    assert sweep.as_dict()["models"][0]["points"][0]["ci95"] == [low, high]
    (row,) = csv.DictReader(downloads(View(sweep))["curves.csv"].splitlines())
    assert (float(row["low95"]), float(row["high95"])) == (low, high)
    assert "cut" in " ".join(notes(View(sweep)))
    drawn = sweep.plot().axes[0].collections[0]
    heights = (
        drawn.get_segments()[0][:, 1]
        if hasattr(drawn, "get_segments")
        else drawn.get_paths()[0].vertices[:, 1]
    )
    assert (min(heights), max(heights)) == (0, 100)
    assert (low + high) / 2 == pytest.approx(mean)


def test_an_interval_of_errors_begins_at_zero_and_one_inside_is_as_it_is():
    errors = View(far_apart("output_error")).curves["erm"][0].mean
    assert errors.low == 0
    assert errors.high > 1
    inside = View(made_sweeps.sweep()).curves["erm"][2].mean
    assert not inside.is_cut
    assert "(" not in shown(made_sweeps.sweep()).split("sigma", 3)[3].split("±")[1]


@pytest.mark.parametrize(
    ("name", "ends", "value", "cut"),
    [
        ("accuracy", (-0.1, 1.2), 0.55, (0, 1)),
        ("perplexity", (0.5, 9), 2, (1, 9)),
        ("rmse", (-1, 3), 1, (0, 3)),
        ("r2", (-2, 1.5), -0.25, (-2, 1)),
        ("my.module:degrees", (-2, 9), 3, (-2, 9)),
    ],
)
def test_what_is_cut_depends_on_the_metric(name, ends, value, cut):
    assert described(name).cut(*ends, value) == cut


def test_a_declared_share_beyond_one_is_not_cut():
    assert described("my.module:gain", {"unit": "%"}).cut(0.9, 1.7, 1.3) == (0.9, 1.7)


def test_the_share_of_the_work_on_arrays_is_in_the_headlines():
    made = made_sweeps.sweep()
    works = {"erm": 1.0, "bayesft": 0.355}
    tasks = {
        label: Task(
            label, t.identity, t.clean, {**t.about, "multiply_adds": {"share_on_arrays": works[label]}}
        )
        for label, t in made.tasks.items()
    }
    sweep = Sweep(tasks, made.curves, made.details)
    assert "erm: 100 % of its multiply-adds run on arrays." in answer(sweep, None)
    little = (
        "bayesft: only 35.5 % of its multiply-adds run on arrays, so the score says little about the rest."
    )
    assert little in answer(sweep, None)
    assert little in shown(sweep)
    page = page_text(sweep)
    assert f'<p class="warn">{little}' in page
    assert '<p class="lead">erm: 100&nbsp;% of its' in page
    unreadable = Task("erm", tasks["erm"].identity, 0.9, {"multiply_adds": {"share_on_arrays": "all"}})
    odd = Sweep({**tasks, "erm": unreadable}, made.curves, {})
    assert shares(odd)[0] == []


def test_a_percentile_is_in_tables_and_files_where_it_is_requested():
    made = made_sweeps.sweep(chips=80)
    rows = [dict(p.percentile(5).as_dict()) for points in made.curves.values() for p in points]
    listed = [p["percentile"] for m in made.as_dict(percent=5)["models"] for p in m["points"]]
    assert listed == rows
    assert "percentile" not in json.dumps(made.as_dict())
    lines = list(csv.DictReader(downloads(View(made, percent=5))["curves.csv"].splitlines()))
    assert [float(line["percentile_high95"]) for line in lines] == [row["ci95"][1] for row in rows]
    assert "percentile" not in downloads(View(made))["curves.csv"]
    table = of_points(View(made, percent=5))
    assert "all but 5 % of chips reach (95 %)" in table.header
    assert all(len(row) == len(table.header) for _, group in table.groups for row in group)
    out = io.StringIO()
    show_sweep(made, Console(file=out, width=300), percent=5)
    assert "all but 5 %: the score that 95 % of the chips reach" in out.getvalue()


def test_a_percentile_of_training_seeds_is_the_mean_over_networks():
    labels = (
        "plain, seed 0",
        "plain, seed 1",
        "plain, seed 2",
        "aware, seed 0",
        "aware, seed 1",
        "aware, seed 2",
    )
    made = made_sweeps.sweep(labels, chips=40)
    view = View(made, percent=5)
    for group, rows in view.group_curves.items():
        for at, row in enumerate(rows):
            found = [np.quantile(made.curves[f"{group}, seed {n}"][at].values, 0.05) for n in range(3)]
            half = 4.302653 * np.std(found, ddof=1) / 3**0.5  # Student's t, two degrees of freedom
            assert row.percentile.value == pytest.approx(np.mean(found))
            assert row.percentile.low == pytest.approx(max(0.0, np.mean(found) - half), abs=1e-6)
    (line, *_) = csv.DictReader(downloads(view)["groups.csv"].splitlines())
    assert float(line["percentile"]) == pytest.approx(view.group_curves["plain"][0].percentile.value)
    table = of_groups(view)
    assert table.header[-1] == "all but 5 % of chips reach (95 %, over seeds)"
    assert all(len(row) == len(table.header) for _, group in table.groups for row in group)
    out = io.StringIO()
    show_groups(made, Console(file=out, width=300), "plain", percent=5)
    assert (
        "all but 5 %: the score that 95 % of a network's chips reach, its mean over networks"
        in out.getvalue()
    )
    assert "reach, its mean over networks" in page_text(made, percentile=5)
    assert "percentile" not in downloads(View(made))["groups.csv"]
    assert "all but 5 %" not in page_text(made)


def test_a_percentile_of_errors_is_of_the_largest_ones():
    made = made_sweeps.sweep(metric="output_error", chips=20)
    errors = sorted(-value for value in made.curves["erm"][2].values)
    row = View(made, percent=5).curves["erm"][2].percentile
    assert errors[-3] < row.value <= errors[-1]
    assert row.high is None
    assert row.low < row.value


def of_two(**identity) -> Sweep:
    """Two models, the second measured otherwise."""
    made = made_sweeps.sweep()
    tasks = {**made.tasks, "bayesft": changed(made.tasks["bayesft"], **identity)}
    return Sweep(tasks, made.curves, made.details)


@pytest.mark.parametrize(
    ("identity", "what"),
    [
        ({"seed": 7}, "seed"),
        ({"stream": 2}, "stream"),
        ({"data": {"fingerprint": "aa", "images": 1000, "labelled": True}}, "data"),
    ],
)
def test_models_on_other_chips_or_data_are_not_compared_chip_by_chip(identity, what):
    sweep = of_two(**identity)
    assert sweep.unlike("erm", "bayesft") == (what,)
    with pytest.raises(
        InputError, match=f"not measured alike .{what} differ.: a paired comparison takes the same"
    ):
        sweep.paired("erm", "bayesft")
    assert ahead(sweep, "bayesft", "erm") is None
    assert "differ on the same chips" not in shown(sweep)
    assert f"not compared chip by chip: they were not measured alike, {what} differ" in shown(sweep)
    (headline, *_) = answer(sweep, None)
    assert "other chips or other data" in headline
    assert "on the same chips" not in headline
    found = sweep.as_dict()
    assert found["paired"] == []
    assert found["not_paired"] == [{"a": "erm", "b": "bayesft", "differ": [what]}]


def test_models_measured_alike_are_compared_and_so_are_designs():
    """The negative control: chip i of another design has the same random numbers."""
    for sweep in (made_sweeps.sweep(), of_two(hardware={"kind": "another"})):
        assert sweep.unlike("erm", "bayesft") == ()
        assert len(sweep.paired("erm", "bayesft")) == len(made_sweeps.SIGMAS)
        assert "differ on the same chips at" in shown(sweep)
        assert ahead(sweep, "bayesft", "erm") is not None


def test_an_error_rises_above_its_limit_and_a_score_falls_below_it():
    assert "it falls below 90.0 % at sigma" in shown(made_sweeps.sweep(), 0.9)
    text = shown(made_sweeps.sweep(metric="output_error"), 0.5)
    assert "it rises above 50.0 % at sigma" in text
    assert "falls below" not in text


def test_a_yield_has_its_interval():
    (point,) = [p for p in made_sweeps.sweep(("erm",)).curve("erm") if p.sigma == 0.6]
    passed = point.passing(0.5)
    assert f"{100 * passed.value:.0f} % ({100 * passed.ci95[0]:.0f} to {100 * passed.ci95[1]:.0f})" in shown(
        made_sweeps.sweep(("erm",)), 0.5
    )


@pytest.mark.parametrize("threshold", [1.5, -0.1, float("nan")])
def test_a_threshold_that_no_score_has_is_refused(threshold):
    with pytest.raises(InputError, match="threshold="):
        shown(made_sweeps.sweep(), threshold)


def test_one_chip_and_one_sigma_are_told_as_one():
    text = shown(made_sweeps.sweep(("a", "b"), sigmas=(0.6,), chips=1))
    assert "one chip has no interval" in text
    assert "1 chips" not in text
    assert "0 sigmas" not in text
    assert "1 sigmas" not in shown(made_sweeps.sweep(("a", "b"), sigmas=(0.6,)))


def test_several_metrics_are_refused_with_whose_they_are():
    one, other = made_sweeps.sweep(("a",)), made_sweeps.sweep(("b",), metric="output_error")
    both = Sweep({**one.tasks, **other.tasks}, {**one.curves, **other.curves}, {"a": {}, "b": {}})
    with pytest.raises(InputError, match=r"accuracy of a; output_error of b.*report --models"):
        _ = both.metric


def test_what_counting_chips_ended_at_is_not_shown_as_a_cost():
    sweep = robustness({"a": net()}, "digits", sigmas=[0.1], half_width=0.1)
    (point,) = sweep.curve("a")
    assert "times as many" in shown(sweep)
    assert point.as_dict()["plain"]["chips"] == point.done.plain.chips
    object.__setattr__(point.done, "plain", Cost(MOST_CHIPS, MOST_CHIPS * 450))
    assert "times as many" not in shown(sweep)
    assert f"would be more than {MOST_CHIPS:,} chips" in shown(sweep)
    assert point.as_dict()["plain"] is None


def test_notes_and_cautions_are_told_and_kept():
    design = Hardware.preset("bayesft", normalisation="folded")
    with pytest.warns(CrossbarWarning, match="normalisation=folded"):
        sweep = robustness({"a": net(0), "b": net(1)}, "digits", design, sigmas=[0.3], chips=2)
    text = shown(sweep)
    assert text.count("warning: normalisation=folded was requested, but no batch normalisation") == 1
    assert "note: pixel values 0 .. 16 divided by 16" in text
    assert any("normalisation=folded" in line for line in sweep.as_dict()["models"][0]["warnings"])
    plain = robustness({"a": net(0)}, "digits", sigmas=[0.0, 0.3], chips=2)
    assert "warning" not in shown(plain), "nothing was asked for that does not act"


def test_a_caution_of_one_model_names_it():
    flat = net(1)
    with torch.no_grad():
        flat.get_submodule("fc2").bias[3] = 1e6
    good = nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
    with torch.no_grad():
        good[1].weight.copy_(torch.eye(64)[2::6][:10])  # the brightest of ten pixels
    x = load_data("digits").test.x[:50]
    with pytest.warns(CrossbarWarning, match="flat: the clean model"):
        sweep = robustness({"good": good, "flat": flat}, Split(x), sigmas=[0.3], chips=2)
    assert "warning: flat: the clean model gives all 50 examples one class" in shown(sweep)


def test_an_idle_effect_is_named():
    design = Hardware.preset("bayesft", stuck_off=1e-12)
    with pytest.warns(CrossbarWarning, match="stuck"):
        sweep = robustness({"a": net()}, "digits", design, sigmas=[0.3], chips=1)
    assert "stuck" in shown(sweep).split("warning:")[1]


def test_errors_of_several_models_name_the_model():
    huge = nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Linear(1, 1, bias=False))
    fine = nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        huge[1].weight.fill_(1e17)
        huge[2].weight.fill_(1e18)
    data = Split(load_data("digits").test.x)
    with pytest.raises(InputError, match=r"^huge: sigma 6, chip \d"):
        robustness({"fine": fine, "huge": huge}, data, sigmas=[6.0], chips=4)
    with pytest.raises(InputError, match=r"^sigma 6, chip \d"):
        robustness({"huge": huge}, data, sigmas=[6.0], chips=4)
    with pytest.raises(InputError, match=r"^b: no layer is called 'fc9'"):
        robustness({"b": net(), "c": net(1)}, "digits", sigmas=[0.1], chips=1, only=["fc9"])


def crafted(**images) -> Task:
    made = robustness({"a": net()}, "digits", sigmas=[0.0], half_width=0.1).tasks["a"]
    identity = json.loads(canonical(made.identity))
    identity["images"] |= images
    return Task("a", identity, 0.9)


@pytest.mark.parametrize(
    "images",
    [
        {"half": "x"}, {"population": []}, {"batch": 2.5}, {"more": 1}, {"pilot_chips": 2**40, "most_chips": 2**41},
        {"population": 7}, {"batch": 2**70}, {"level": None}, {"chip_cost": 1e300},
    ],
)  # fmt: skip
def test_a_crafted_plan_is_one_sentence(images):
    with pytest.raises(InputError, match="the identity of task 'a'"):
        plan_of(crafted(**images))


@pytest.mark.parametrize("hardware", [None, "x", [], {}, {"drift": 3}, {"drift": {"kind": "nope"}}])
def test_a_crafted_design_is_one_sentence(hardware):
    task = changed(crafted(), hardware=hardware)
    with pytest.raises(InputError, match="a hardware that is not a design"):
        exact(task, 0.1)
    with pytest.raises(InputError, match="a hardware that is not a design"):
        Point.of_trials("a", task, made_sweeps.trials(0, (0.1,), 2))
