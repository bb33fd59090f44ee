"""The command train, and what it shares with searches and experiments: networks by name."""

import inspect
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from crossbar_sim.baselines.drift_aware import DriftAware
from crossbar_sim.baselines.settings import METHODS, setting
from crossbar_sim.crossbar import threads as pool
from crossbar_sim.crossbar.checks import show
from crossbar_sim.crossbar.drift import LogNormalDrift
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.data import Splits, load_data
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs
from crossbar_sim.nn.augment import Augment
from crossbar_sim.nn.checkpoint import save_checkpoint
from crossbar_sim.nn.detection_task import detects
from crossbar_sim.nn.networks import NETWORKS, build
from crossbar_sim.nn.train import Epoch
from crossbar_sim.rng import Key
from crossbar_sim.robustness.wording import say, terminal
from crossbar_sim.search import BayesFT
from crossbar_sim.search.by_name import any_method
from crossbar_sim.text import parse_json

DETECTION: dict[str, Any] = {"epochs": 20, "batch": 8, "lr": 3e-3}
"""How a detector is trained unless told otherwise: data sets of scenes are small, and each has several objects."""

DETECTION_SEARCH: dict[str, Any] = {"epochs": 3, "batch": 8, "training_chips": 4}
"""The same of a trial of a search."""


def run_train(
    hardware: Hardware | None,
    warnings: tuple[str, ...],
    *,
    sigma: float | None,
    designed: bool,
    inputs: tuple[str | None, ...],
    network: str,
    network_arguments: str | None,
    data: str,
    data_dir: str | None,
    method: str,
    settings: tuple[str, ...],
    seed: int,
    checkpoint: str | None,
    threads: int | None,
    output: str,
    **training: Any,
) -> None:
    """Train, say how well it went on the validation examples, save; see `crossbar-sim train --help`.

    Args:
        hardware: the design, if the command names one.
        sigma: what --sigma gave: also a setting of methods that have a sigma.
        designed: whether anything but --sigma describes the design.
        training: settings that all methods share; None where not given.

    Raises:
        InputError: for anything that cannot be used; outputs are checked before the long work.
    """
    check_outputs((output, checkpoint), (*inputs, data))
    if threads is not None:
        pool.set_threads(threads)
    if method == BayesFT.kind:
        raise InputError("bayesft is a search: use crossbar-sim search, whose options are its settings")
    own = dict(map(setting, settings))
    kind = METHODS.get(method)
    takes = {f.name for f in fields(kind)} if kind is not None else set()  # type: ignore[arg-type]
    if sigma is not None and "sigma" in takes:
        if "sigma" in own:
            raise InputError(
                f"--sigma {sigma:g} and --set sigma={show(own['sigma'])} are one setting: give one of them"
            )
        own["sigma"] = sigma
    if method == DriftAware.kind and designed and hardware is not None and "sigma" not in own:
        _ask_for_sigma(hardware)
    given = {name: value for name, value in training.items() if value is not None}
    if given.get("crop") is not None or given.get("flip"):
        given["augment"] = Augment(given.pop("crop", 0), bool(given.pop("flip", False)))
    given.pop("flip", None)
    if "clip_gradient" in given:
        given["clip"] = given.pop("clip_gradient")
    if detects(NETWORKS.get(network)):
        given = {**DETECTION, **given}
    needs = designed or (sigma is not None and "sigma" not in takes)
    way = any_method(method, own, given, hardware if needs else None)
    splits = load_data(data, data_dir)
    made = Named.of(network, parsed_arguments(network_arguments), splits)
    console = terminal()

    def tell(epoch: Epoch) -> None:
        score = epoch.validation_accuracy
        held = "" if score is None else f", {validation_in_words(NETWORKS[network], score)}"
        say(console, f"epoch {epoch.number}: loss {epoch.loss:.4g}{held}")

    say(console, f"{method}: {way.citation}", "dim")
    done = way.fit(made, splits.development, Key(seed), progress=tell, checkpoint=checkpoint)
    for warning in warnings if needs else ():
        say(console, f"warning: {warning}", "yellow")
    for name, value in done.notes.items():
        text = json.dumps(value, default=str)
        say(console, f"{name}: {text if len(text) <= 120 else text[:117] + '...'}")
    save_network(output, done.model, data)
    then = f"sweep {output}" if detects(done.model) else f"deploy {output} --sigma 0.6"
    say(console, f"wrote {output}: crossbar-sim {then}")


def _ask_for_sigma(hardware: Hardware) -> None:
    """Refuse to train for a design without log-normal drift at the method's own sigma, which nobody asked for.

    Raises:
        InputError: saying how to ask for it, or for the design alone.
    """
    if not isinstance(hardware.drift, LogNormalDrift):
        law = "no drift" if hardware.drift is None else f"{hardware.drift.kind} drift"
        raise InputError(
            f"the design has {law}: say with --sigma what drift to train for, or train on the design as it is with "
            "--set sigma=null --set ramp=0 --set temperature=false"
        )


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
        shape = splits.development.train.x.shape[1:]
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
    """Save a network of ours under the name and arguments that rebuild it.

    Raises:
        InputError: if it is none of ours.
    """
    name = next((known for known, made in NETWORKS.items() if type(model) is made), None)
    arguments: Any = getattr(model, "arguments", None)
    if name is None or arguments is None:
        raise InputError(f"{type(model).__name__} is no network of ours: save it with torch.export")
    save_checkpoint(path, model, name, arguments, data, notes)


def parsed_arguments(text: str | None) -> dict[str, Any]:
    """--network-arguments as a dictionary.

    Raises:
        InputError: if it is no JSON object.
    """
    try:
        arguments = parse_json(text) if text else {}
    except ValueError as error:
        raise InputError(f"--network-arguments {show(text)} is no JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise InputError(
            f'--network-arguments {show(text)}: expected an object such as {{"hidden": [64, 32]}}'
        )
    return arguments
