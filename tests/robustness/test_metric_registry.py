"""The registry of metrics: its numbers beside torchmetrics', one block at a time, in the unit that a metric has."""

import functools
import hashlib
import inspect
import math
import os
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics.functional as tm
from torch import nn

import crossbar_sim
from crossbar_sim import CrossbarWarning, Hardware, InputError, Key
from crossbar_sim.nn import set_chip, to_analog
from crossbar_sim.nn.evaluate import outputs
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.report.formatting import Scale
from crossbar_sim.report.page import page_text
from crossbar_sim.robustness import deploy, robustness, score
from crossbar_sim.robustness.metrics import METRICS, described, find_metric, metric
from crossbar_sim.robustness.score import Reference
from crossbar_sim.robustness.statistics import mean_interval

PAPER = Hardware.preset("bayesft", sigma=0.2)
CLASSES, TOKENS = 8, 11


class Tagger(nn.Module):
    """Scores of 11 tokens at every place, classes last, as language models give them."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(TOKENS, 6), nn.Linear(6, TOKENS)

    def forward(self, x):
        return self.head(self.table(x))


@pytest.fixture(scope="module")
def models():
    """Model, inputs and targets by the kind of task."""
    random = np.random.default_rng(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(random.standard_normal(shape)).float()

    def whole(top: int, *shape: int) -> torch.Tensor:
        return torch.from_numpy(random.integers(0, top, shape))

    with seeded(Key(3)):
        plain, tagger, line, several = nn.Linear(5, CLASSES), Tagger(), nn.Linear(5, 1), nn.Linear(5, 3)
        pixels = nn.Conv2d(2, 4, 3, padding=1)
    x, tokens, following = normal(60, 5), whole(TOKENS, 24, 7), whole(TOKENS, 24, 7)
    following[:, -2:] = -100
    images, maps = normal(6, 2, 5, 5), whole(3, 6, 5, 5)
    maps[:, 0] = -100
    with torch.no_grad():
        targets = line(x)[:, 0].double() + 0.1 * normal(60)
    return {
        "classes": (plain, x, whole(CLASSES - 1, 60)),
        "tokens": (tagger, tokens, following),
        "pixels": (pixels, images, maps),
        "line": (line, x, targets),
        "several": (several, x, normal(60, 3).double() * 4 + 7),
        "whole": (line, x, torch.arange(60.0)),
        "labels": (plain, x, whole(2, 60, CLASSES).float()),
    }


def ln_probability(y: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """ln of the probability of each judged token, from the definition."""
    p = (y.double() - y.double().amax(-1, keepdim=True)).exp()
    p = p / p.sum(-1, keepdim=True)
    return p[t >= 0].gather(1, t[t >= 0][:, None]).log()


@pytest.mark.parametrize(
    ("kind", "name", "wanted"),
    [
        ("classes", "top5", lambda y, t: tm.accuracy(y, t, "multiclass", num_classes=CLASSES, top_k=5)),
        ("classes", "top1", lambda y, t: (y.argmax(1) == t).double().mean()),
        ("classes", "f1", lambda y, t: tm.f1_score(y, t, "multiclass", num_classes=CLASSES, average="macro")),
        (
            "pixels", "miou", lambda y, t: tm.jaccard_index(
                y.movedim(1, -1)[t >= 0], t[t >= 0], "multiclass", num_classes=4
            ),
        ),
        ("tokens", "cross-entropy", lambda y, t: -ln_probability(y, t).mean()),
        ("tokens", "perplexity", lambda y, t: (-ln_probability(y, t)).mean().exp()),
        ("tokens", "perplexity", lambda y, t: tm.text.perplexity(y, t, ignore_index=-100)),
        ("line", "rmse", lambda y, t: (y[:, 0] - t).square().mean().sqrt()),
        ("line", "mae", lambda y, t: tm.mean_absolute_error(y[:, 0].double(), t)),
        ("line", "r2", lambda y, t: tm.r2_score(y[:, 0].double(), t)),
        ("several", "rmse", lambda y, t: tm.mean_squared_error(y.double(), t, squared=False)),
        ("several", "r2", lambda y, t: tm.r2_score(y.double(), t, multioutput="uniform_average")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("streamed", [False, True])
def test_a_built_in_metric_gives_the_numbers_of_its_definition(
    models, monkeypatch, kind, name, wanted, streamed
):
    model, x, y = models[kind]
    if streamed:  # outputs that do not fit: blocks of two examples
        monkeypatch.setattr(score, "HELD", 0)
        monkeypatch.setattr(score, "BLOCK_BYTES", 2 * model(x[:1]).numel() * 4)
    done = deploy(model, x, y, PAPER, chips=2, metric=name, sensitivity_chips=1, sensitivity_images=4)
    assert done.metric == name
    reference = Reference.of(model, x, y, judge=find_metric(name))
    assert reference.clean.is_meta == streamed
    judge, analog = METRICS.get(name, described(name)), to_analog(model, PAPER)
    assert judge.shown(done.clean.value(name)) == pytest.approx(float(wanted(model(x), y)), rel=2e-6)
    for chip, found in enumerate(done.main.per_chip):
        set_chip(analog, chip)
        assert judge.shown(found) == pytest.approx(float(wanted(torch.cat(outputs(analog, x)), y)), rel=2e-6)
    assert all(math.isfinite(layer.sensitivity.drop.mean) for layer in done.layers if layer.sensitivity)
    ideal = deploy(model, x, y, Hardware.preset("ideal"), chips=1, metric=name)
    assert ideal.main.mean == pytest.approx(ideal.clean.value(name), rel=1e-5)


def test_equal_outputs_of_a_dead_chip_are_no_luck():
    dead, y = torch.zeros(40, 10), torch.arange(40) % 10
    judge = find_metric("top3")
    assert judge.whole([judge.part(dead, y, None)], y, None) == pytest.approx(0.3)
    broken = torch.full((4, 10), math.nan)
    for name, least in (("top5", 0.0), ("f1", 0.0), ("miou", 0.0)):
        judge = find_metric(name)
        assert judge.whole([judge.part(broken, y[:4], None)], y[:4], None) == least


def test_less_is_better_for_thresholds_drops_and_defaults(models):
    model, x, y = models["line"]
    done = deploy(model, x, y, PAPER, chips=6)  # real targets: judged by rmse
    shown = sorted(-value for value in done.main.per_chip)
    assert done.metric == "rmse"
    clean = -done.clean.value("rmse")
    assert -done.threshold == float(f"{1.1 * clean:.3g}")
    again = deploy(model, x, y, PAPER, chips=6, threshold=shown[2])
    assert again.passing.value == 0.5, "a chip passes at the threshold or below"
    assert again.as_dict()["yield"]["threshold"] == shown[2]
    assert again.as_dict()["drifted"]["rmse"]["mean"] == pytest.approx(-done.main.mean)
    assert max(layer.sensitivity.drop.mean for layer in done.layers if layer.sensitivity) > 0


def test_statistics_of_a_perplexity_are_of_its_logarithm(models):
    model, x, y = models["tokens"]
    done = deploy(model, x, y, PAPER, chips=5, metric="perplexity")
    found = done.as_dict()["drifted"]["perplexity"]
    shown = np.array([math.exp(-value) for value in done.main.per_chip])
    interval = mean_interval(np.log(shown))
    assert found["mean"] == pytest.approx(math.exp(np.log(shown).mean()))
    assert found["ci95"] == pytest.approx([math.exp(interval.low), math.exp(interval.high)])
    assert (found["min"], found["max"]) == pytest.approx((shown.min(), shown.max()))
    assert found["quantiles"]["0.05"] < found["median"] < found["quantiles"]["0.95"]
    sweep = robustness({"a": model}, (x, y), PAPER, [0.0, 0.2], chips=5, metric="perplexity")
    point = sweep.summary()[1]
    assert point["mean"] == pytest.approx(-np.log(shown).mean())
    assert point["shown"]["mean"] == pytest.approx(found["mean"])
    assert "shown" not in robustness({"a": model}, (x, y), PAPER, [0.2], chips=2).summary()[0]
    page = page_text(sweep)
    assert "ln perplexity" in page
    assert f"{found['mean']:.1f}" in page


def test_the_interval_of_a_perplexity_covers_and_one_of_the_scores_themselves_does_less_often():
    random = np.random.default_rng(11)
    chips, sd, mean = 6, 1.0, 3.0
    logs = random.normal(mean, sd, (1500, chips))
    covered = sum(i.low <= mean <= i.high for i in map(mean_interval, logs)) / len(logs)
    plain = [mean_interval(row) for row in np.exp(logs)]
    whole = math.exp(mean + sd * sd / 2)
    raw = sum(i.low <= whole <= i.high for i in plain) / len(logs)
    assert 0.935 < covered < 0.965
    assert raw < 0.9
    assert any(i.low < 1 for i in plain), "an interval of impossible perplexities"


@pytest.mark.parametrize(
    ("kind", "name", "words"),
    [
        ("line", "accuracy", r"'accuracy' needs class numbers, and y holds real values such as .*use metric='rmse'"),
        ("line", "perplexity", "'perplexity' needs class numbers"),
        ("classes", "rmse", r"'rmse' compares .* outputs have shape \(60, 8\) and the targets \(60,\) \(class numbers"),
        ("several", "map", "must be one of"),
        ("classes", "top9", "always 100 % of outputs with 8 classes"),
        ("classes", "perplexty", "did you mean 'perplexity'"),
        ("classes", lambda o, t: float("nan"), "gives nan for the clean model"),
        ("classes", lambda o, t: o[:3, 0], r"returned shape \(3,\).*one per example \(60,\)"),
        ("classes", lambda o, t: torch.zeros(60) * 1j, "returned complex numbers"),
        ("classes", lambda o, t: "good", "returned the text 'good'"),
        ("classes", lambda o, t: {"a": 1.0}, "returned dict"),
        ("classes", lambda o, t, mask: o[:, mask], "failed on outputs"),
        ("classes", lambda o, t: sys.exit(2), "SystemExit: 2"),
        ("classes", lambda o, t, seen=[]: seen.append(1) or len(seen), "gives 1 and then 2 for the same outputs"),
        ("whole", None, r"shape \(60, 1\): give metric='rmse'"),
        ("labels", None, r"y has the shape of the model's outputs, \(60, 8\).*a metric of your own"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_line(models, kind, name, words):
    model, x, y = models[kind]
    with pytest.raises(InputError, match=words) as caught:
        deploy(model, x, y, PAPER, chips=1, metric=name)
    assert "\n" not in str(caught.value)


def test_probabilities_and_constant_targets_are_refused(models):
    model, x, y = models["classes"]
    with pytest.raises(InputError, match="takes logits, and the model's outputs are probabilities"):
        deploy(nn.Sequential(model, nn.Softmax(1)), x, y, PAPER, chips=1, metric="cross-entropy")
    line, x, y = models["line"]
    with pytest.raises(InputError, match="the same in all 60 examples"):
        deploy(line, x, torch.full_like(y, 0.5), PAPER, chips=1, metric="r2")


def test_a_metric_of_torchmetrics_is_updated_block_by_block(models):
    from torchmetrics import MeanSquaredError
    from torchmetrics.classification import MulticlassF1Score

    model, x, y = models["classes"]
    mine = MulticlassF1Score(num_classes=CLASSES)
    done = deploy(model, x, y, PAPER, chips=3, metric=mine, block=16)
    built_in = deploy(model, x, y, PAPER, chips=3, metric="f1")
    assert done.main.per_chip == pytest.approx(built_in.main.per_chip, rel=1e-6)
    line, x, y = models["line"]
    done = deploy(line, x, y, PAPER, chips=3, metric=MeanSquaredError)
    root = deploy(line, x, y, PAPER, chips=3, metric="rmse")
    assert done.metric.startswith("-torchmetrics."), "it says that less is better"
    assert done.main.per_chip == pytest.approx([-(v**2) for v in root.main.per_chip], rel=1e-4)
    with pytest.raises(InputError, match=r"cannot be made without arguments.*name an instance"):
        find_metric(MulticlassF1Score)
    assert find_metric(mine).source != find_metric(MulticlassF1Score(num_classes=9)).source


def judged(outputs, labels, mask):
    """The share of judged places that are right, by the mask alone."""
    return ((outputs.argmax(1) == labels) & mask).sum() / mask.sum()


def test_a_function_with_a_third_parameter_is_given_the_mask(models):
    model, x, y = models["tokens"]
    done = deploy(model, x, y, PAPER, chips=3, metric=judged)
    plain = deploy(model, x, y, PAPER, chips=3, metric="accuracy")
    assert done.main.per_chip == pytest.approx(plain.main.per_chip)


def test_a_declared_metric_has_its_unit_in_every_report(models, command, tmp_path, monkeypatch):
    assert crossbar_sim.metric is metric
    line, x, y = models["line"]
    torch.export.save(torch.export.export(line, (x,)), tmp_path / "line.pt2")
    np.savez(tmp_path / "d.npz", x=x.numpy(), y=y.numpy())
    (tmp_path / "own_units.py").write_text(
        "from crossbar_sim import metric\n\n\n@metric(higher_is_better=False, unit='K', title='temperature error')\n"
        "def kelvin(outputs, targets):\n    return (outputs - targets).abs().mean()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    told = ["--metric", "own_units:kelvin", "--chips", 3, "--data", "d.npz"]
    done = command("deploy", "line.pt2", *told, "--sigma", 0.2, "--plot", "d.png")
    assert done.code == 0, done.err
    assert "temperature error is 0." in done.out
    assert " K, " in done.out or " K)" in done.out
    swept = command("sweep", "line.pt2", *told, "--sigma", "0,0.2", "--results", "r.db", "--plot", "s.png")
    assert swept.code == 0, swept.err
    assert "0.0" in swept.out
    assert " %" not in swept.out.replace("95 %", "").replace("100 % of its multiply-adds", "")
    page = command("report", "r.db", "-o", "r.html", "--figures", "figures")
    assert page.code == 0, page.err
    assert "temperature error (K)" in Path("r.html").read_text()
    again = command("sweep", "line.pt2", *told, "--sigma", "0,0.2", "--results", "r.db", "--json", "-")
    assert again.report["metric"] == "-own_units:kelvin"
    built_in = command(
        "sweep",
        "line.pt2",
        "--data",
        "d.npz",
        "--sigma",
        "0.2",
        "--chips",
        2,
        "--metric",
        "mae",
        "--json",
        "-",
    )
    assert built_in.code == 0, built_in.err
    assert built_in.report["models"][0]["points"][0]["mean"] < 0


def test_shares_alone_are_written_in_per_cent():
    assert Scale.of("accuracy").text(0.5) == "50.0 %"
    assert Scale.of("f1").axis == "macro F1 (%)"
    assert Scale.of("rmse").text(0.01234, 0.0005) == "0.01234"
    assert Scale.of("cross-entropy").text(3.0, 0.1) == "3.00 nats"
    scale = Scale.of("perplexity")
    assert (scale.shown(scale.stored(64.0)), scale.step, scale.loss) == (
        pytest.approx(64.0), "nats", "increase in ln perplexity",
    )  # fmt: skip
    assert scale.span(scale.stored(70.0), scale.stored(60.0)) == pytest.approx((60.0, 70.0))


HELD_BY = """
import functools
import numpy as np
from crossbar_sim.robustness.metrics import find_metric

class Limit:
    def __init__(self, at): self.at = at
    def over(self, v): return v > self.at

def made(*held):
    def hits(outputs, labels):
        return held and outputs.max(1).values > 0
    return hits

def weighted(outputs, labels, weight=1.0):
    return weight * outputs.max(1).values

def sources():
    things = [{"a", "b", "c"}, np.arange(3000.0), Limit(0.5), np.float32, weighted, (1, [2.0, "x"])]
    return [find_metric(made(thing)).source for thing in things] + [
        find_metric(functools.partial(weighted, weight=2.0)).source
    ]

if __name__ == "__main__":
    print("\\n".join(sources()))
"""


def test_the_identity_is_the_same_in_every_process_and_tells_what_is_held(tmp_path, monkeypatch):
    (tmp_path / "held_by.py").write_text(HELD_BY)
    monkeypatch.syspath_prepend(str(tmp_path))
    import held_by

    there = subprocess.run(
        [sys.executable, str(tmp_path / "held_by.py")], capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONHASHSEED": "5"},
    ).stdout.split()  # fmt: skip
    assert there == held_by.sources()
    assert len(set(there)) == 7

    def holds(thing):
        return lambda outputs, labels: (thing, outputs.max(1).values > 0)[1]

    one, other = np.zeros(3000), np.zeros(3000)
    other[1500] = 1e-9  # which no repr shows
    assert find_metric(holds(one)).source != find_metric(holds(other)).source
    with pytest.raises(InputError, match=r"holds a .*lock.* hold numbers, text, arrays or functions"):
        find_metric(holds(threading.Lock()))


def test_the_identity_of_a_plain_function_is_what_it_was():
    def holds(limit):
        return lambda outputs, labels: outputs.max(1).values > limit

    function = holds(0.25)
    text = f"{inspect.getsource(function)}\n[0.25]"
    assert find_metric(function).source == hashlib.sha256(text.encode()).hexdigest()
    assert find_metric(functools.partial(function)).source != find_metric(function).source


def squared_error(outputs, targets):
    return (outputs - targets).square().mean()


def test_less_is_better_of_torchs_losses_and_a_name_that_says_so_is_doubted(models):
    model, x, y = models["line"]
    for loss in (nn.MSELoss(), nn.functional.mse_loss, "torch.nn.functional:mse_loss"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = deploy(model, x, y, PAPER, chips=2, metric=loss, sensitivity_chips=0)
        assert found.metric.startswith("-")
        assert found.scores[0].value(found.metric) < 0
    doubted = find_metric(squared_error)
    assert "its name suggests the contrary" in (doubted.doubt or "")
    with pytest.warns(CrossbarWarning, match="more is taken to be better"):
        deploy(model, x, y, PAPER, chips=2, metric=squared_error, sensitivity_chips=0)
    declared = crossbar_sim.metric(lambda o, t: squared_error(o, t), higher_is_better=False)
    assert find_metric(declared).doubt is None
    assert find_metric("rmse").doubt is None
