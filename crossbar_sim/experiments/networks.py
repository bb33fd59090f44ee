"""Networks by name: what trainings, searches and experiments build and save."""

import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from crossbar_sim.data import Splits
from crossbar_sim.data.inputs import one_tensor
from crossbar_sim.errors import InputError
from crossbar_sim.nn.detection import detects
from crossbar_sim.nn.files.checkpoint import save_checkpoint
from crossbar_sim.nn.networks import NETWORKS, build

DETECTION: dict[str, Any] = {"epochs": 20, "batch": 8, "lr": 3e-3}
"""Default training of a detector: data sets of scenes are small, and each image has several objects."""


DETECTION_SEARCH: dict[str, Any] = {"epochs": 3, "batch": 8, "training_chips": 4}
"""The same for one trial of a search."""


def validation_in_words(network: object, score: float) -> str:
    """The score that `nn.fit` reports on validation examples, for a network or its class."""
    return (
        f"mAP@[.5:.95] {score:.1%} on validation"
        if detects(network)
        else f"{score:.1%} of the validation examples right"
    )


@dataclass(frozen=True)
class Named:
    """Builds a network by name; `width` is a factor on its hidden widths. It can be sent to workers."""

    network: str
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, network: str, given: Mapping[str, Any], splits: Splits) -> "Named":
        """With the arguments that are given, and those that follow from the data.

        Raises:
            InputError: if the network is unknown, or has other classes than the data.
        """
        if network not in NETWORKS:
            raise InputError(f"network {network!r} is unknown: choose from {', '.join(NETWORKS)}")
        shape = one_tensor(splits.development.train.x, f"network {network!r}").shape[1:]
        follows: dict[str, Any] = {"inputs": shape.numel()}
        if splits.classes is not None:
            follows["classes"] = splits.classes
        if len(shape) == 3:
            follows |= {"channels": shape[0], "size": shape[1]}
        classes = given.get("classes", splits.classes)
        if splits.classes is not None and classes != splits.classes:
            raise InputError(
                f"the network has classes={classes!r} and {splits.name} has {splits.classes} classes"
            )
        parameters = inspect.signature(NETWORKS[network]).parameters
        return cls(
            network, {name: value for name, value in follows.items() if name in parameters} | dict(given)
        )

    def __call__(self, width: float | None = None) -> nn.Module:
        """A fresh network."""
        return build(self.network, **self.at(width))

    def at(self, width: float | None) -> dict[str, Any]:
        """The arguments at a width.

        Raises:
            InputError: if the network has no hidden widths.
        """
        arguments = dict(self.arguments)
        if width is None:
            return arguments
        parameters = inspect.signature(NETWORKS[self.network]).parameters
        if "hidden" not in parameters:
            raise InputError(
                f"--width: network {self.network!r} takes no hidden widths, so there are none to search"
            )
        hidden = arguments.get("hidden", parameters["hidden"].default)
        return {**arguments, "hidden": [max(1, round(n * width)) for n in hidden]}


def save_network(
    path: str | os.PathLike[str], model: nn.Module, data: str, notes: Mapping[str, Any] | None = None
) -> None:
    """Save a network of this package under the name and arguments that rebuild it.

    Raises:
        InputError: if it is another module.
    """
    name = next((known for known, made in NETWORKS.items() if type(model) is made), None)
    arguments: Any = getattr(model, "arguments", None)
    if name is None or arguments is None:
        raise InputError(
            f"{type(model).__name__} is not one of the networks of crossbar_sim.nn.networks: save it with torch.export"
        )
    save_checkpoint(path, model, name, arguments, data, notes)
