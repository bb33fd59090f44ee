"""The objective of a search and its trials, each by itself."""

import pytest
import torch
from torch import nn

from crossbar_sim import Hardware, InputError, Key
from crossbar_sim.data import Split
from crossbar_sim.search import DriftedScore, ScoreSample
from crossbar_sim.search.trial import as_text, weights_of

BAYESFT = Hardware.preset("bayesft")
X = torch.linspace(-1, 1, 80).reshape(20, 4)
SPLIT = Split(X, torch.arange(20) % 3)


@pytest.mark.parametrize(
    ("scores", "mean", "variance", "half_width", "text"),
    [
        ((0.5,), 0.5, 0.0, None, "50.00 %"),
        ((0.5, 0.5), 0.5, 0.0, 0.0, "50.00 % +- 0.00"),
        # variance of the mean: 0.02 / 2; t of one degree of freedom is 12.7062
        ((0.4, 0.6), 0.5, 0.01, 1.27062, "50.00 % +- 127.06"),
        # 0.01 / 3; t of two degrees of freedom is 4.30265
        ((0.7, 0.8, 0.9), 0.8, 0.01 / 3, 0.248414, "80.00 % +- 24.84"),
    ],
)
def test_mean_variance_and_interval_of_scores(scores, mean, variance, half_width, text):
    sample = ScoreSample(scores)
    assert sample.mean == pytest.approx(mean)
    assert sample.variance == pytest.approx(variance)
    assert (sample.interval is None) == (half_width is None)
    if sample.interval is not None:
        assert sample.interval.half_width == pytest.approx(half_width, rel=1e-5)
    assert as_text(scores) == text


@pytest.mark.parametrize(
    ("split", "chips", "images", "sentence"),
    [
        (Split(X, None), 4, None, "the validation examples have no labels"),
        (SPLIT, 1, None, "chips=1: an integer >= 2 is needed"),
        (SPLIT, True, None, "chips=True: an integer >= 2 is needed"),
        (SPLIT, 4, 0, "images=0: an integer >= 1 is needed"),
        (SPLIT, 4, 2.5, "images=2.5: an integer >= 1 is needed"),
    ],
)
def test_an_impossible_objective_is_refused(split, chips, images, sentence):
    with pytest.raises(InputError) as caught:
        DriftedScore.of(split, BAYESFT, 0.5, chips, images, Key(0))
    assert sentence in str(caught.value)


@pytest.mark.parametrize(("images", "count"), [(None, 20), (5, 5), (20, 20), (1000, 20)])
def test_the_examples_of_an_objective_are_a_subset_named_by_the_key(images, count):
    first, again = (DriftedScore.of(SPLIT, BAYESFT, 0.5, 4, images, Key(0)) for _ in range(2))
    other = DriftedScore.of(SPLIT, BAYESFT, 0.5, 4, images, Key(1))
    assert len(first.x) == len(first.y) == count
    assert torch.equal(first.x, again.x)
    assert first.seed == again.seed != other.seed
    rows = {tuple(x.tolist()): int(y) for x, y in zip(SPLIT.x, SPLIT.y, strict=True)}
    assert all(rows[tuple(x.tolist())] == int(y) for x, y in zip(first.x, first.y, strict=True))
    assert torch.equal(first.x, other.x) == (count == 20)


@pytest.mark.parametrize(("sigma", "chips"), [(0.0, 1), (0.5, 4)])
def test_a_model_is_scored_on_every_chip_or_once_if_all_are_the_same(sigma, chips):
    score = DriftedScore.of(SPLIT, BAYESFT, sigma, 4, None, Key(0))
    model = nn.Linear(4, 3).eval()
    with torch.no_grad():
        model.weight.copy_(torch.arange(12.0).reshape(3, 4) - 6)
        model.bias.zero_()
    sample = score.measure(model)
    assert len(sample.scores) == chips
    assert all(0 <= value <= 1 for value in sample.scores)
    assert score.measure(model) == sample
    if sigma == 0:
        right = (model(score.x).argmax(1) == score.y).float().mean()
        assert sample.mean == pytest.approx(float(right))


def test_weights_are_copies_of_parameters_and_buffers():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    weights = weights_of(model)
    assert weights.keys() == model.state_dict().keys()
    model[0].weight.data.fill_(7)
    assert not (weights["0.weight"] == 7).any()
