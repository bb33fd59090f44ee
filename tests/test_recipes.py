"""Recipes of networks: one place for the commands and Python, and what a user gives wins."""

import pytest
import torch

import crossbar_sim.experiments.trainings as trainings
from crossbar_sim.data import Split, Splits
from crossbar_sim.errors import InputError
from crossbar_sim.experiments.recipes import RECIPES, with_recipe

FAST = RECIPES["fastconv"]
MATRIX = ("lr", "schedule")


@pytest.mark.parametrize(
    ("method", "settings", "given", "left"),
    [
        ("erm", {}, {}, ()),
        ("drift-aware", {"sigma": 0.5}, {}, ()),
        ("erm", {}, {"lr": 0.01, "epochs": 1, "augment": None}, ()),
        ("erm", {}, {"optimiser": "adam"}, MATRIX),
        ("erm", {}, {"optimiser": "muon"}, ()),
        ("erm", {}, {"loss": "mse"}, ("label_smoothing",)),
        ("erm", {}, {"loss": "cross-entropy"}, ()),
        ("erm", {}, {"loss": None}, ()),
        ("bayesft", {}, {}, ("epochs",)),
        ("bayesft", {"algorithm": "clean"}, {"epochs": 2}, ()),
        ("bayesft", {"algorithm": "restart"}, {}, ()),
    ],
)
def test_what_is_given_wins_and_takes_its_company_with_it(method, settings, given, left):
    found = with_recipe("fastconv", method, settings, given)
    kept = {name: value for name, value in FAST.items() if name not in left}
    assert found == (settings, {**kept, **given})
    for other in ("mlp", "my.code:Net", torch.nn.Linear):
        assert with_recipe(other, method, settings, given) == (settings, given)


def test_a_detector_in_a_search_has_its_own_chips():
    assert with_recipe("mask-rcnn", "erm", {}, {"lr": 1}) == ({}, {"epochs": 20, "batch": 8, "lr": 1})
    assert with_recipe("mask-rcnn", "bayesft", {}, {}) == ({"training_chips": 4}, {"epochs": 3, "batch": 8})
    assert with_recipe("mask-rcnn", "bayesft", {"training_chips": 2}, {})[0] == {"training_chips": 2}


@pytest.mark.parametrize(
    ("method", "given"),
    [("erm", {"lr": 0.02}), ("bayesft", {"label_smoothing": 0.1, "lr": 0.02, "batch": 30})],
)
def test_commands_and_python_train_alike(method, given, monkeypatch, command, tmp_path):
    """Whatever begins a training of fastconv, its method has the same settings."""
    found = []

    def fit(self, build, *rest, **more):
        found.append(self.training)
        raise InputError("reached")

    from crossbar_sim.baselines import Erm
    from crossbar_sim.search import BayesFT

    monkeypatch.setattr(BayesFT if method == "bayesft" else Erm, "fit", fit)
    x = torch.sin(torch.arange(40 * 3 * 100.0)).reshape(40, 3, 10, 10)
    parts = [Split(x, torch.arange(40) % 2)] * 3
    splits = Splits("made", *parts, 2)
    with pytest.raises(InputError, match="reached"):
        trainings.train_network(
            "fastconv", splits, method, **({"sigma": 0.6} if method == "bayesft" else {}), **given
        )
    monkeypatch.setattr("crossbar_sim.data.load_data", lambda *args, **more: splits)
    texts = [word for name, value in given.items() for word in ("--set", f"{name}={value}")]
    name = ("search", "--sigma", 0.6) if method == "bayesft" else ("train", "--method", method)
    command(*name, "--network", "fastconv", "--data", "cifar10", *texts, "-o", tmp_path / "n.pt")
    assert len(found) == 2
    assert found[0] == found[1]
    expected = {**FAST, **given}
    if method == "bayesft":
        expected = {**expected, "epochs": 1, "clip": 0.1}
    assert all(getattr(found[0], key) == value for key, value in expected.items())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("epoch=3", "'epoch' is unknown: did you mean 'epochs'"),
        ("metric=f1", "search --metric"),
        ("patience=3", "patience with bayesft"),
    ],
)
def test_a_setting_that_a_search_cannot_use_is_one_sentence(command, tmp_path, given, words):
    done = command(
        "search", "--network", "mlp", "--data", "digits", "--sigma", 0.6, "--set", given, "-o", tmp_path / "n.pt"
    )  # fmt: skip
    assert done.code == 2
    assert words in done.err
