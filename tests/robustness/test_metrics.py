"""Metrics that are functions of a user's own: the same numbers by hand, in sweeps, on workers, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from crossbar_sim import Hardware, InputError
from crossbar_sim.data import Split
from crossbar_sim.nn import set_chip, to_analog
from crossbar_sim.nn.evaluate import outputs
from crossbar_sim.robustness import deploy, robustness
from crossbar_sim.robustness.metrics import METRICS, find_metric
from crossbar_sim.store.results import Results

PAPER = Hardware.preset("bayesft", sigma=0.6)

SOURCE = '''
"""Metrics of a user's own."""

import torch
import torch.nn.functional as F


def top3(outputs, labels):
    """Whether the label is among the three largest outputs, per example."""
    return (outputs.topk(3, 1).indices == labels[:, None]).any(1)


def cross_entropy(outputs, labels):
    """One number of which less is better."""
    return F.cross_entropy(outputs, labels)


cross_entropy.larger_is_better = False


def distance(outputs, targets):
    """Per example, beyond 1; without labels the targets are the clean model's outputs."""
    return (outputs - targets).norm(dim=1)


def pairs(outputs, labels):
    return torch.zeros(len(outputs), 2)


def fails(outputs, labels):
    raise RuntimeError("no such\\nthing")


def endless(outputs, labels):
    return float("inf")


number = 3
'''


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The module `own_metrics` in the current directory."""
    (tmp_path / "own_metrics.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(__import__("sys").modules, "own_metrics", raising=False)
    import own_metrics

    return own_metrics


def by_hand(network, x, function, targets, chips) -> list[float]:
    analog, found = to_analog(network, PAPER), []
    for chip in chips:
        set_chip(analog, chip)
        found.append(function(torch.cat(outputs(analog, x)), targets).double().mean().item())
    return found


@pytest.mark.parametrize(("name", "sign"), [("top3", 1), ("cross_entropy", -1)])
def test_deploy_and_sweep_give_the_numbers_of_the_function(network, digits, own, name, sign):
    x, y = digits.test.x, digits.test.y
    function = getattr(own, name)
    wanted = by_hand(network, x, function, y, range(4))
    path = f"own_metrics:{name}"
    done = deploy(network, x, y, PAPER, chips=4, metric=path, sensitivity_chips=1)
    assert done.metric == (path if sign > 0 else f"-{path}")
    assert done.main.per_chip == pytest.approx([sign * value for value in wanted], rel=1e-6)
    assert done.as_dict()["drifted"][done.metric]["mean"] == pytest.approx(sum(wanted) / 4, rel=1e-6)
    assert done.as_dict()["clean"][done.metric] == pytest.approx(
        function(network(x), y).double().mean().item()
    )
    assert done.layers[0].sensitivity.drop.mean != 0
    sweep = robustness({"a": network}, (x, y), PAPER, [0.6], chips=4, metric=function)
    assert sweep.curve("a")[0].values == done.main.per_chip
    assert sweep.curve("a")[0].summary.ci95 == done.main.ci95
    assert sweep.metric == done.metric


def test_a_threshold_of_a_metric_with_less_being_better(network, digits, own):
    x, y = digits.test.x, digits.test.y
    done = deploy(network, x, y, PAPER, chips=3, metric="own_metrics:cross_entropy", threshold=100.0)
    assert (done.passing.value, done.as_dict()["yield"]["threshold"]) == (1.0, 100.0)
    assert deploy(network, x, y, PAPER, chips=3, metric=own.cross_entropy, threshold=0.0).passing.value == 0.0
    assert deploy(network, x, y, PAPER, chips=3, metric=own.cross_entropy).passing is None


def test_without_labels_the_targets_are_the_clean_outputs(network, digits, own):
    done = deploy(network, digits.test.x, None, PAPER, chips=3, metric="-own_metrics:distance")
    assert done.clean.value(done.metric) == 0.0
    assert all(value < -1 for value in done.main.per_chip)


def test_the_identity_holds_name_and_source_and_that_of_built_in_metrics_is_as_it_was(
    network, digits, own, tmp_path
):
    def task(metric):
        with Results.open(tmp_path / "runs.db") as results:
            robustness({"a": network}, digits, sigmas=[0.5], chips=2, metric=metric, results=results)
            return results.tasks()[-1]

    assert "metric_source" not in task("accuracy").identity
    first = task(own.top3)
    assert first.identity["metric"] == "own_metrics:top3"
    assert len(first.identity["metric_source"]) == 64
    assert task("own_metrics:top3").id == first.id  # by name and as an object: one task

    def held(threshold):
        return lambda outputs, labels: outputs.max(1).values > threshold

    sources = {find_metric(function).source for function in (held(0.1), held(0.2), own.top3)}
    assert len(sources) == 3


def test_a_half_width_takes_a_function_with_values_per_example(network, digits, own):
    data = digits.test.x, digits.test.y
    sweep = robustness({"a": network}, data, PAPER, [0.6], half_width=0.04, metric=own.top3)
    (point,) = sweep.curve("a")
    assert point.drawn
    low, high = point.summary.ci95
    assert high - low <= 0.08
    exact = robustness({"a": network}, data, PAPER, [0.6], chips=60, metric=own.top3).curve("a")[0].summary
    assert abs(point.summary.mean - exact.mean) < 0.08
    unbounded = Split(data[0], None), lambda o, t: o.norm(dim=1), 4.0
    for part, metric, half in (
        (data, own.cross_entropy, 0.3),
        unbounded,
    ):  # no part of the examples can estimate them
        (point,) = robustness({"a": network}, part, PAPER, [0.6], half_width=half, metric=metric).curve("a")
        assert point.images == len(part[0] if isinstance(part, tuple) else part.x)
        assert point.variances == (0.0,) * len(point.chips)
        assert np.ptp(point.summary.ci95) <= 2 * half


def test_workers_import_the_function(network, digits, own):
    pytest.importorskip("distributed")
    data = digits.test.x[:60], digits.test.y[:60]
    here = robustness({"a": network}, data, sigmas=[0.6], chips=3, metric="own_metrics:cross_entropy")
    there = robustness({"a": network}, data, sigmas=[0.6], chips=3, metric=own.cross_entropy, workers=1)
    assert there.curve("a")[0].values == here.curve("a")[0].values
    with pytest.raises(InputError, match="cannot be sent to workers: define it with def"):
        robustness({"a": network}, data, metric=lambda outputs, labels: 1.0, workers=1)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("own_metrics:nothing", "has no function nothing"),
        ("own_metrics:number", "has no function number"),
        ("no_such_module:f", "cannot be imported"),
        ("this:s", "module of Python itself"),
        ("own_metrics:pairs", r"returned shape \(\d+, 2\)"),
        ("own_metrics:fails", "RuntimeError: no such thing"),
        ("own_metrics:endless", "metric own_metrics:endless gives inf for the clean model"),
        (
            "acuracy",
            "metric 'acuracy' is unknown: did you mean 'accuracy'.* or package.module:function",
        ),
        ("map", "must be one of accuracy, agreement, output_error"),
        (3, "a name such as accuracy, or a function"),
        (max, "source of metric builtins:max cannot be read"),
    ],
)
def test_what_is_no_metric_is_refused_in_one_line(network, digits, own, metric, words):
    with pytest.raises(InputError, match=words) as caught:
        deploy(network, digits.test.x, digits.test.y, PAPER, chips=2, metric=metric)
    assert "\n" not in str(caught.value)


def test_every_built_in_metric_names_its_task():
    assert {name: metric.task for name, metric in METRICS.items() if metric.task != "classification"} == {
        "map": "detection", "map50": "detection",
    }  # fmt: skip
    assert all(metric.identity == {} for metric in METRICS.values())


def test_the_command_line_and_experiments_take_an_import_path(command, files, own, tmp_path: Path):
    path = "own_metrics:cross_entropy"
    deployed = command(
        "deploy",
        files.checkpoint,
        "--data",
        "digits",
        "--sigma",
        "0.5",
        "--chips",
        2,
        "--metric",
        path,
        "--json",
        "-",
    )
    assert deployed.code == 0, deployed.err
    assert deployed.report["metric"] == f"-{path}"
    assert "own_metrics:cross_entropy is " in deployed.err
    swept = command(
        "sweep", files.checkpoint, "--data", "digits", "--sigma", "0.2,0.8", "--chips", 2, "--metric", path,
        "--threshold", 50, "--json", "-", "--results", tmp_path / "runs.db",
    )  # fmt: skip
    assert swept.code == 0, swept.err
    first, last = swept.report["models"][0]["points"]
    assert 0 > first["mean"] > last["mean"]
    assert first["yield"]["value"] == 1.0
    page = command("report", tmp_path / "runs.db", "-o", tmp_path / "report.html")
    assert page.code == 0, page.err
    wrong = command("sweep", files.checkpoint, "--sigma", "0.2", "--chips", 2, "--metric", "acuracy")
    assert (wrong.code, "did you mean 'accuracy'" in wrong.err) == (2, True)
    experiment = tmp_path / "e.toml"
    experiment.write_text(
        f'data = "digits"\nmetric = "{path}"\nsigmas = [0.3]\nchips = 2\n'
        f"[models]\na = {json.dumps(str(files.checkpoint))}\n"
    )
    refused = command("run", experiment, "-o", tmp_path / "out")
    assert refused.code == 2
    assert "metric='own_metrics:cross_entropy' names code" in refused.err
    assert "--trust-code" in refused.err
    trusted = command("run", experiment, "-o", tmp_path / "out", "--trust-code")
    assert trusted.code == 0, trusted.err
