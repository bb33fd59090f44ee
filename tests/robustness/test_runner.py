"""Sweeps: what is measured, in which pieces, and that none of that changes a number."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from crossbar_sim import Hardware, InputError, Key
from crossbar_sim.crossbar import threads
from crossbar_sim.data import Split, load_data
from crossbar_sim.nn import seeded
from crossbar_sim.nn.networks import build
from crossbar_sim.robustness import Sweep, deploy, evaluator, robustness, runner
from crossbar_sim.robustness.plans import EveryImage
from crossbar_sim.store.results import Results

SIGMAS = (0.0, 0.5, 1.0)


@pytest.fixture(scope="module")
def data():
    return load_data("digits")


def net(seed: int = 0) -> nn.Module:
    with seeded(Key(seed)):
        return build("mlp", inputs=64, hidden=(24,), classes=10)


def trials(sweep):
    return {label: [t for p in sweep.curve(label) for t in p.trials] for label in sweep.labels}


def test_a_point_of_a_sweep_is_what_deploy_says(data):
    sweep = robustness({"a": net()}, data, sigmas=SIGMAS, chips=6)
    for point in sweep.curve("a"):
        hardware = Hardware.preset("bayesft", sigma=point.sigma)
        alone = deploy(net(), data.test.x, data.test.y, hardware, chips=range(6), sensitivity_chips=0)
        assert point.values == alone.main.per_chip
        assert point.summary == alone.main


def test_order_threads_blocks_and_company_change_nothing(data, monkeypatch):
    models = {"a": net(0), "b": net(1)}
    first = trials(robustness(models, data, sigmas=SIGMAS, chips=9))
    before = threads.threads()
    try:
        for count, grown in itertools.product((1, 3), (lambda n, s: 1, lambda n, s: 2 * n)):
            threads.set_threads(count)
            monkeypatch.setattr(evaluator, "_grown", grown)
            assert trials(robustness(models, data, sigmas=SIGMAS[::-1], chips=range(9))) == first
    finally:
        threads.set_threads(before)
    alone = trials(robustness({"b": net(1)}, data, sigmas=SIGMAS[1:], chips=(8, 3)))
    assert alone["b"] == [t for t in first["b"] if t.chip in (3, 8) and t.sigma > 0]


def test_what_is_in_the_file_is_not_measured_again(data, tmp_path, monkeypatch):
    path = tmp_path / "runs.db"
    robustness({"a": net()}, data, sigmas=SIGMAS[:2], chips=4, results=path)
    asked = []
    whole = runner.InProcess.run

    def spy(self, work, done):
        asked.extend((item.job.sigma, item.job.chips) for item in work)
        whole(self, work, done)

    monkeypatch.setattr(runner.InProcess, "run", spy)
    grown = robustness({"a": net()}, data, sigmas=SIGMAS, chips=6, results=path)
    assert asked == [(0.0, (4, 5)), (0.5, (4, 5)), (1.0, (0, 1, 2, 3, 4, 5))]
    asked.clear()
    again = robustness({"a": net()}, data, sigmas=SIGMAS, chips=6, results=path)
    assert asked == []
    fresh = robustness({"a": net()}, data, sigmas=SIGMAS, chips=6)
    assert trials(fresh) == trials(grown) == trials(again)
    fewer = robustness({"a": net()}, data, sigmas=SIGMAS[1:2], chips=3, results=path)
    assert [p.chips for p in fewer.curve("a")] == [(0, 1, 2)]


def test_what_changes_the_numbers_changes_the_task(data, tmp_path):
    def task(**changes):
        options = {"sigmas": [0.5], "chips": 1, "seed": 0, "hardware": Hardware.preset("bayesft"), **changes}
        model = options.pop("model", net())
        some = options.pop("data", data)
        return robustness({"a": model}, some, **options).tasks["a"].id

    first = task()
    assert task(sigmas=[0.1, 0.7], chips=3) == first
    assert task(hardware=Hardware.preset("bayesft", sigma=0.9)) == first, "the swept sigma is no part of it"
    others = [
        task(seed=1),
        task(metric="agreement"),
        task(model=net(1)),
        task(data=Split(data.test.x[:50], data.test.y[:50])),
        task(hardware=Hardware.preset("bayesft", levels=16)),
        task(skip=["layers.0"]) if any(n == "layers.0" for n, _ in net().named_modules()) else task(seed=2),
        task(half_width=0.2, chips=None),
    ]
    assert len({first, *others}) == 1 + len(others)


def test_the_sigma_of_any_law_is_swept(data):
    from crossbar_sim import GammaDrift, ParetoDrift

    sweep = robustness({"a": net()}, data, Hardware(drift=GammaDrift(0.0)), [0.2, 0.4], chips=2)
    alone = deploy(
        net(), data.test.x, data.test.y, Hardware(drift=GammaDrift(0.4)), chips=range(2), sensitivity_chips=0
    )
    assert sweep.curve("a")[1].values == alone.main.per_chip
    with pytest.raises(InputError, match="pareto drift, which has no sigma"):
        robustness({"a": net()}, data, Hardware(drift=ParetoDrift(3.0)), [0.2], chips=2)


def test_nothing_random_is_measured_once_and_told_for_every_chip(data):
    (point,) = robustness({"a": net()}, data, sigmas=[0.0], chips=5).curve("a")
    assert len(set(point.values)) == 1
    assert point.values[0] == point.clean
    assert sum(trial.seconds > 0 for trial in point.trials) == 1
    noisy = Hardware.preset("bayesft", programming_sigma=0.1)
    (point,) = robustness({"a": net()}, data, noisy, [0.0], chips=5).curve("a")
    assert len(set(point.values)) > 1, "sigma is 0, but programming noise differs from chip to chip"


def test_models_are_compared_on_the_same_chips(data):
    sweep = robustness({"a": net(0), "b": net(1)}, data, sigmas=SIGMAS, chips=8)
    table = dict(sweep.paired("a", "b"))
    a, b = (np.array([p.values for p in sweep.curve(label)]) for label in "ab")
    assert [found.difference for found in table.values()] == pytest.approx((a - b).mean(axis=1))
    assert table[0.0].p_value is None, "at sigma 0 all chips are one chip"
    assert all(table[s].adjusted >= table[s].p_value for s in SIGMAS[1:])
    reverse = dict(sweep.paired("b", "a"))
    assert reverse[0.5].difference == pytest.approx(-table[0.5].difference)


def test_an_interval_budget_is_met_and_is_about_the_same_mean(data):
    models = {"a": net()}
    sweep = robustness(models, data, sigmas=[0.3], half_width=0.02)
    (point,) = sweep.curve("a")
    assert point.drawn
    assert point.done is not None
    assert point.done.reached
    low, high = point.summary.ci95
    assert (high - low) / 2 <= 0.02
    (whole,) = robustness(models, data, sigmas=[0.3], chips=400).curve("a")
    assert abs(whole.summary.mean - point.summary.mean) < 0.02 * 1.6
    with pytest.raises(InputError, match=r"0\.005 is half a point"):
        robustness(models, data, sigmas=[0.3], half_width=0.5)


@pytest.mark.parametrize(("metric", "half"), [("output_error", 0.03), ("perplexity", 0.003), ("f1", 0.02)])
def test_numbers_of_the_whole_data_set_get_chips_until_their_interval_is_narrow_enough(data, metric, half):
    def curve(**more):
        (point,) = robustness({"a": net()}, data, sigmas=[0.3], metric=metric, **more).curve("a")
        return point

    point = curve(half_width=half)
    assert point.done is not None
    assert point.done.reached
    assert point.images == len(data.test.x)
    low, high = point.summary.ci95  # of a perplexity, of its logarithm
    assert (high - low) / 2 <= half
    assert point.values == curve(chips=len(point.chips)).values
    assert len(curve(half_width=half / 4).chips) > len(point.chips) >= 16


def test_a_budget_measures_a_chip_that_is_all_chips_once_and_on_all_images(data):
    (point,) = robustness({"a": net()}, data, sigmas=[0.0], half_width=0.01).curve("a")
    assert not point.drawn
    assert point.images == len(data.test.x)
    assert point.summary.mean == point.clean
    assert point.summary.ci95 == (point.clean, point.clean)
    assert sum(trial.seconds > 0 for trial in point.trials) == 1


def test_an_interrupted_budget_ends_where_an_uninterrupted_one_does(data, tmp_path):
    models, path = {"a": net()}, tmp_path / "runs.db"
    whole = robustness(models, data, sigmas=[0.3], half_width=0.01)

    class Stop(Exception):
        pass

    def stop_after(n):
        def progress(done, total, what):
            if done >= n:
                raise Stop

        return progress

    stops = 0
    for n in (1, 3, 20):
        try:
            robustness(models, data, sigmas=[0.3], half_width=0.01, results=path, progress=stop_after(n))
        except Stop:
            stops += 1
    assert stops == 3
    with Results.open(path) as results:
        assert results.tasks()
    ended = robustness(models, data, sigmas=[0.3], half_width=0.01, results=path)
    assert trials(ended) == trials(whole)


def test_a_score_that_does_not_exist_names_sigma_and_chip(data):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        model[1].weight.fill_(1e17)
        model[2].weight.fill_(1e18)
    with pytest.raises(InputError, match=r"sigma 6, chip \d: the outputs are not finite"):
        robustness({"a": model}, Split(data.test.x), sigmas=[6.0], chips=4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sigmas": []}, "at least one sigma"),
        ({"sigmas": [0.1, 0.1]}, "none twice"),
        ({"sigmas": [-0.1]}, "0 .. 12"),
        ({"chips": 0}, "at least one chip"),
        ({"chips": (1, 1)}, "none twice"),
        ({"half_width": 0.0, "chips": None}, "half"),
        ({"half_width": float("nan"), "chips": None}, "half"),
        ({"half_width": "x", "chips": None}, "half"),
        ({"half_width": 0.1}, "chips and half_width are two budgets"),
        ({"plan": EveryImage((0,))}, "chips and plan are two budgets"),
        ({"chips": 2.5}, "expected a number of chips"),
        ({"chips": True}, "numbered from 0"),
        ({"chips": [-1]}, "numbered from 0"),
        ({"sigmas": 0.5}, "expected a list of numbers"),
        ({"hardware": "bayesfd"}, "bayesfd.*bayesft"),
        ({"hardware": 3}, "expected a design"),
        ({"sensitivity_chips": -1}, "0 .none. or more"),
        ({"sensitivity_chips": 0.5}, "0 .none. or more"),
        ({"workers": 1.5}, "expected an integer >= 1"),
        ({"scheduler": 8786}, "expected an address"),
        ({"results": 3}, "the path of a results file"),
        ({"results": ""}, "is empty"),
        ({"metric": "f0"}, "is unknown; known: accuracy"),
        ({"workers": 0}, "expected an integer >= 1"),
        ({"workers": 1, "scheduler": "tcp://127.0.0.1:1"}, "exclude each other"),
    ],
)
def test_bad_requests_are_one_sentence(data, options, words):
    with pytest.raises(InputError, match=words):
        robustness({"a": net()}, data, **{"sigmas": [0.1], "chips": 1, **options})


@pytest.mark.parametrize(
    ("models", "words"),
    [
        (type(net()), "label -> module"),
        ([net()], "label -> module"),
        ({"a": "model.pt"}, "'a' is str"),
        ({" ": net()}, "a name"),
    ],
)
def test_what_is_no_model_is_one_sentence(data, models, words):
    with pytest.raises(InputError, match=words):
        robustness(models, data, sigmas=[0.1], chips=1)


def test_numbers_of_numpy_are_numbers(data):
    sweep = robustness({"a": net()}, data, sigmas=np.array([0.1]), chips=np.int64(3))
    assert sweep.curve("a")[0].chips == (0, 1, 2)
    sweep = robustness({"a": net()}, data, sigmas=[0.1], chips=np.array([4, 7]), skip="fc2")
    assert sweep.curve("a")[0].chips == (4, 7)
    assert sweep.tasks["a"].identity["skip"] == ["fc2"]


def test_the_same_model_twice_is_refused(data):
    with pytest.raises(InputError, match="a and b are the same model"):
        robustness({"a": net(), "b": net()}, data, sigmas=[0.1], chips=1)
    with pytest.raises(InputError, match="no model"):
        robustness({}, data, sigmas=[0.1], chips=1)


def test_a_plan_names_what_is_missing():
    plan = EveryImage((3, 5, 9))
    assert plan.missing(None, 0.1, ()).chips == (3, 5, 9)


def test_details_of_other_sigmas_and_chips_go_into_one_file(data, tmp_path):
    path = tmp_path / "runs.db"
    for sigmas, chips in (([0.3], 2), ([0.9], 2), ([0.9], 3)):
        robustness({"a": net()}, data, sigmas=sigmas, chips=1, results=path, sensitivity_chips=chips)
    with Results.open(path) as results:
        assert len(results.details(results.tasks()[0].id)) == 5
    assert set(Sweep.read(Results.open(path)).details["a"]) == {"sensitivity", "conductances"}


class Scaled(nn.Module):
    """With a parameter of its own on the root, which no chain has."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(64, 10), nn.Parameter(torch.ones(10))

    def forward(self, x):
        return self.layer(x.flatten(1)) * self.scale


def test_a_root_with_a_parameter_of_its_own_is_swept_on_threads(data):
    before = threads.threads()
    try:
        threads.set_threads(2)
        (point,) = robustness({"a": Scaled()}, data, sigmas=[0.3], chips=4).curve("a")
    finally:
        threads.set_threads(before)
    assert len(point.values) == 4
