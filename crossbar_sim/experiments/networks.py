"""Networks by name: what trainings, searches and experiments build and save."""

import inspect
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from crossbar_sim.baselines.ftna import Ftna
from crossbar_sim.baselines.method import Build, Trained
from crossbar_sim.data import Split, Splits
from crossbar_sim.data.inputs import Inputs, one_tensor
from crossbar_sim.errors import InputError
from crossbar_sim.nn.detection import detects
from crossbar_sim.nn.files.architectures import names_code, user_factory, user_network
from crossbar_sim.nn.files.checkpoint import save_checkpoint
from crossbar_sim.nn.files.loading import weights_of_file
from crossbar_sim.nn.files.state_dict import fill
from crossbar_sim.nn.networks import NETWORKS, build
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.nn.standardised import Standardisation, standardisation_of
from crossbar_sim.nn.training.loop import Epoch, FitReport
from crossbar_sim.nn.training.settings import Judge
from crossbar_sim.rng import Key
from crossbar_sim.robustness.tasks import fingerprint
from crossbar_sim.validate import unknown


def validation_in_words(
    network: object, found: Epoch | FitReport, places: bool = False, judge: Judge | None = None
) -> str | None:
    """What `nn.fit` reports on validation examples; None: nothing.

    Args:
        network: or its class.
        found: the report, or an epoch of it.
        places: whether there are several labels per example.
        judge: the metric of the training.
    """
    if judge is not None and found.validation_score is not None:
        return f"{judge.in_words(found.validation_score)} on validation"
    if found.validation_error is not None:
        return f"RMSE {found.validation_error:.4g} on validation"
    score = found.validation_accuracy
    if score is None:
        return None
    if detects(network):
        return f"mAP@[.5:.95] {score:.1%} on validation"
    return f"{score:.1%} of the validation {'labels' if places else 'examples'} right"


def outputs_for(split: Split, classes: int | None) -> int | None:
    """How many outputs a network for these examples has: its classes, or one for each real target of an example."""
    y = split.y
    return classes if y is None or not y.is_floating_point() else math.prod(y.shape[1:])


@dataclass(frozen=True)
class Named:
    """Builds a network by name; `width` is a factor on its hidden widths. It can be sent to workers.

    Args:
        network: a name of `nn.networks.NETWORKS`, or the import path `package.module:factory` of a class or function
            of the user's own.
        arguments: plain values, given to it.
    """

    network: str
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, network: str, given: Mapping[str, Any], splits: Splits) -> "Named":
        """With the arguments that are given, and those that follow from the data: inputs, classes, channels, size.

        A factory of the user's own gets those that it has parameters of these names for.

        Raises:
            InputError: if the network is unknown, or has other classes than the data.
        """
        classes = given.get("classes", splits.classes)
        if splits.classes is not None and classes != splits.classes:
            raise InputError(
                f"the network has classes={classes!r} and {splits.name} has {splits.classes} classes"
            )
        x = splits.development.train.x
        several = names_code(network) and isinstance(x, Inputs)
        shape = None if several else one_tensor(x, f"network {network!r}").shape[1:]
        return cls.for_examples(network, given, shape, outputs_for(splits.development.train, splits.classes))

    @classmethod
    def for_examples(
        cls, network: str, given: Mapping[str, Any], shape: Sequence[int] | None, classes: int | None
    ) -> "Named":
        """With the arguments that are given, and those that follow from the shape of an example.

        Args:
            network, given: see `of`.
            classes: or the number of real targets of an example.
            shape: of an example; None: it has several inputs, and nothing follows from their shapes.

        Raises:
            InputError: if the network is unknown.
        """
        if network not in NETWORKS and not names_code(network):
            raise InputError(
                unknown("the network", network, NETWORKS)
                + "; a network of your own is package.module:factory"
            )
        follows: dict[str, Any] = {} if shape is None else {"inputs": math.prod(shape)}
        if classes is not None:
            follows["classes"] = classes
        if shape is not None and len(shape) == 3:
            follows |= {"channels": shape[0], "size": shape[1]}
        parameters = _parameters(network)
        return cls(
            network, {name: value for name, value in follows.items() if name in parameters} | dict(given)
        )

    def check_method(self, method: str) -> None:
        """Refuse, before the training, a method whose result could not be saved.

        Raises:
            InputError: for FTNA with a network of the user's own: it exchanges the last layer, which the factory knows
                nothing of.
        """
        if method == Ftna.kind and names_code(self.network):
            raise InputError(
                f"ftna gives {self.network} another last layer, so that a checkpoint could not rebuild it: train a "
                "built-in network, or call Ftna.fit in Python"
            )

    def __call__(self, width: float | None = None) -> nn.Module:
        """A fresh network, at a width."""
        if names_code(self.network):
            return user_network(self.network, self.at(width), "--network")
        return build(self.network, **self.at(width))

    def at(self, width: float | None) -> dict[str, Any]:
        """The arguments at a width.

        Raises:
            InputError: if the network has no hidden widths.
        """
        arguments = dict(self.arguments)
        if width is None:
            return arguments
        parameters = _parameters(self.network)
        if "hidden" not in parameters or parameters["hidden"].default is inspect.Parameter.empty:
            raise InputError(
                f"--width: network {self.network!r} takes no hidden widths, so there are none to search"
            )
        hidden = arguments.get("hidden", parameters["hidden"].default)
        return {**arguments, "hidden": [max(1, round(n * width)) for n in hidden]}


def _parameters(network: str) -> Mapping[str, inspect.Parameter]:
    """The parameters of a network by name; none where Python cannot tell them."""
    made: Any = user_factory(network, "--network") if names_code(network) else NETWORKS[network]
    try:
        return inspect.signature(made).parameters
    except (TypeError, ValueError):
        return {}


Start = str | os.PathLike[str] | nn.Module | Trained | Mapping[str, Tensor]
"""What a training may start from: a model file, a network, the result of a training, or weights by name."""


@dataclass(frozen=True, eq=False)
class Started:
    """Builds a network that begins with given weights; it can be sent to workers. Made by `started`.

    Args:
        build: makes the network.
        weights: all its parameters and buffers, by name.
        sha256: of the network with these weights, without its dropout rates.
        origin: where they are from, for messages.
        standardised: what calibrated training inserted into the network that they are of; None: nothing.
    """

    build: Build
    weights: Mapping[str, Any]
    sha256: str
    origin: str
    standardised: Standardisation | None = None

    def __call__(self, **more: Any) -> nn.Module:
        """A network with these weights.

        Raises:
            InputError: if they are of another shape.
        """
        model = self.build(**more)
        remedy = (
            "a width is not searched with weights that have one" if more
            else "train the network that they are of, with the same arguments"
        )  # fmt: skip
        try:
            if self.standardised is not None:
                self.standardised.insert(model)
            fill(model, self.weights, f"the {type(model).__name__} to be trained", remedy=remedy)
        except InputError as error:
            raise InputError(f"from {self.origin}: {error}") from error
        return model


def started(build: Build, start: Start) -> Started:
    """A `Build` whose networks begin with the weights of `start`, which are tried on one of them.

    Raises:
        InputError: if the file cannot be read, or names or shapes differ; one sentence.
    """
    with seeded(Key(0)):
        model = build()
    if isinstance(start, Trained):
        start = start.model
    standardised = standardisation_of(start) if isinstance(start, nn.Module) else None
    if isinstance(start, nn.Module):
        weights: Mapping[str, Any] = dict(nn.Module.state_dict(start))
        origin = f"this {type(start).__name__}"
    elif isinstance(start, Mapping):
        weights, origin = dict(start), "these weights"
    else:
        origin = os.fspath(start)
        try:
            weights, standardised = weights_of_file(start, model)
        except InputError as error:
            said = str(error)
            raise InputError(said if said.startswith(origin) else f"from {origin}: {said}") from error
    kept = {name: w.detach().cpu().clone() if isinstance(w, Tensor) else w for name, w in weights.items()}
    with seeded(Key(0)):
        tried = Started(build, kept, "", origin, standardised)()
    return Started(build, kept, fingerprint(tried), origin, standardised)


def save_network(
    path: str | os.PathLike[str],
    model: nn.Module,
    data: str,
    notes: Mapping[str, Any] | None = None,
    made: Named | None = None,
) -> None:
    """Save a network under the name and arguments that rebuild it.

    Args:
        path: of the checkpoint.
        model: a network of this package, or of the factory that `made` names.
        data: name of the data set that it was trained on.
        notes: of the training.
        made: what built the network.

    Raises:
        InputError: if it is another module.
    """
    if made is not None and names_code(made.network) and type(model) is type(made()):
        save_checkpoint(path, model, made.network, made.arguments, data, notes)
        return
    name = next((known for known, made in NETWORKS.items() if type(model) is made), None)
    arguments: Any = getattr(model, "arguments", None)
    if name is None or arguments is None:
        raise InputError(
            f"{type(model).__name__} is not one of the networks of crossbar_sim.nn.networks: save it with torch.export"
        )
    save_checkpoint(path, model, name, arguments, data, notes)
