"""Recipes: default training of the built-in networks, the same in `train`, `search` and Python."""

from collections.abc import Iterable, Mapping
from typing import Any

from crossbar_sim.baselines.settings import TRAINING, setting
from crossbar_sim.errors import InputError
from crossbar_sim.nn.detection import detects
from crossbar_sim.nn.networks import NETWORKS
from crossbar_sim.nn.training.augment import Augment
from crossbar_sim.search import BayesFT
from crossbar_sim.validate import show

DETECTION: dict[str, Any] = {"epochs": 20, "batch": 8, "lr": 3e-3}
"""Of a detector: data sets of scenes are small, and each image has several objects."""

DETECTION_SEARCH: dict[str, Any] = {"epochs": 3, "batch": 8}
"""The same for one trial of a search."""

DETECTION_CHIPS = 4
"""Per gradient step of a search on a detector."""

RECIPES: dict[str, dict[str, Any]] = {
    "fastconv": {
        "epochs": 8, "batch": 1000, "optimiser": "muon", "lr": 0.1, "schedule": "linear", "label_smoothing": 0.2,
        "channels_last": True, "augment": Augment(2, "alternating", "reflect"),
    }
}  # fmt: skip
"""Of a network by name, whatever the method."""

_OF_OPTIMISER = ("lr", "schedule", "vector_lr", "momentum", "nesterov")
"""Settings of a recipe that are for its optimiser."""


def with_recipe(
    network: object, method: str, settings: Mapping[str, Any], training: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a method and of its training, with the network's recipe for what is not given.

    Settings of a recipe's optimiser are left out where another optimiser is given, its label smoothing where another
    loss is, and its number of epochs in a search whose trials continue from one another.

    Args:
        network: its name; one without a recipe changes nothing, and neither does anything else.
        method: its name.
        settings, training: what is given, as for `search.by_name.any_method`.
    """
    known = NETWORKS.get(network) if isinstance(network, str) else None
    searched = method == BayesFT.kind
    settings, training = dict(settings), dict(training)
    if detects(known):
        if searched:
            settings.setdefault("training_chips", DETECTION_CHIPS)
        return settings, {**(DETECTION_SEARCH if searched else DETECTION), **training}
    recipe = dict(RECIPES.get(network, {})) if isinstance(network, str) else {}
    left = set()
    if training.get("optimiser", recipe.get("optimiser")) != recipe.get("optimiser"):
        left |= set(_OF_OPTIMISER)
    if training.get("loss") not in (None, "cross-entropy"):
        left.add("label_smoothing")
    if searched and settings.get("algorithm") != "restart":
        left.add("epochs")
    return settings, {**{name: value for name, value in recipe.items() if name not in left}, **training}


def given_training(options: Mapping[str, Any], texts: Iterable[str]) -> dict[str, Any]:
    """Fields of `Training` from options, and from those NAME=VALUE of --set that are such fields.

    Args:
        options: name -> value; None: not given.
        texts: of --set; settings of the method are skipped.

    Raises:
        InputError: if both give the same field.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in map(setting, texts):
        if name not in TRAINING:
            continue
        if name in given:
            raise InputError(
                f"--set {name}={show(value)} and the option of the same setting ({show(given[name])}): give one of them"
            )
        given[name] = Augment.of(value, "augment") if name == "augment" and value is not None else value
    return given
