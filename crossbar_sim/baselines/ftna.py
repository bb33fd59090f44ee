"""FTNA: classes are encoded as words of an error-correcting code, one output per bit."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from crossbar_sim.baselines import codes
from crossbar_sim.baselines.method import Build, Method, Trained, check_development, fresh, trained
from crossbar_sim.data import Development, Split
from crossbar_sim.data.inputs import Batch, call
from crossbar_sim.errors import InputError
from crossbar_sim.nn.evaluate import outputs
from crossbar_sim.nn.networks import NETWORKS
from crossbar_sim.nn.networks.coded import Coded
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.nn.training.loop import Epoch, fit
from crossbar_sim.nn.training.settings import Training, check_training
from crossbar_sim.rng import Key, as_key
from crossbar_sim.validate import check_integer


@dataclass(frozen=True)
class Ftna(Method):
    """Train one logistic output per bit of the code word, and decode to the nearest word (Liu et al., DAC 2019).

    The code has a large minimum distance d, so that (d - 1) // 2 spoilt outputs do no harm. Classes that a plain
    network, trained briefly on the training images, confuses get words that lie far apart. Any number of classes, and
    of bits that can tell them apart; decoding happens inside the network, see `Coded`.

    Args:
        bits: of a word; None: the shortest with distance 3 (7 for the ten digits, as in the released BayesFT code).
        confusion_epochs: of the short plain training.
        training: how to train.

    Raises:
        InputError: if a number is out of range.
    """

    kind: ClassVar[str] = "ftna"
    citation: ClassVar[str] = (
        "Liu, Wen, Jiang, Wang, Yang, Quan: A Fault-Tolerant Neural Network Architecture, DAC 2019, "
        "doi 10.1145/3316781.3317742"
    )

    bits: int | None = None
    confusion_epochs: int = 2
    training: Training = Training()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        check_training(self.training)
        if self.training.loss is not None:
            raise InputError(
                f"loss={self.training.loss} with ftna: the bits of code words have a loss of their own; leave it out"
            )
        if self.bits is not None:
            codes.check_bits(2, self.bits)
        check_integer("confusion_epochs", self.confusion_epochs, 1)

    def fit(
        self,
        build: Build,
        development: Development,
        key: Key,
        *,
        progress: Callable[[Epoch], None] | None = None,
        checkpoint: str | PathLike[str] | None = None,
    ) -> Trained:
        """See `Method.fit`.

        Raises:
            InputError: if the network does not end in a linear layer of one output per class, or bits cannot tell the
                classes apart.
        """
        development = check_development(development)
        key = as_key(key)
        model = fresh(build, key)
        classes = class_count(model, development.train)
        bits = codes.check_bits(classes, codes.shortest(classes) if self.bits is None else self.bits)
        confusion = self._confusion(build, development.train, key.fold("confusion"))
        code = codes.assign(codes.code(classes, bits, key.fold("code")), confusion, key.fold("code"))
        with seeded(key.fold("outputs")):
            coded = with_bits(model, codes.as_text(code), development.train.x)
        notes = {
            "bits": bits,
            "codes": list(codes.as_text(code)),
            "minimum_distance": codes.minimum_distance(code),
            "distance_bound": codes.distance_bound(classes, bits),
        }
        return trained(
            self,
            coded,
            development,
            key,
            step=partial(step, label_smoothing=self.training.label_smoothing),
            progress=progress,
            checkpoint=checkpoint,
            notes=notes,
        )

    def _confusion(self, build: Build, train: Split, key: Key) -> NDArray[np.float64]:
        """Probability that a plain network predicts class j for training images of class i, (classes, classes)."""
        model = fresh(build, key)
        short = replace(self.training, epochs=self.confusion_epochs, patience=None, metric=None)
        fit(model, train, training=short, key=key)
        assert train.y is not None
        # Probabilities rather than decisions: a good network decides wrongly too rarely to be counted.
        likely = torch.cat([torch.softmax(y.double(), 1).cpu() for y in outputs(model, train.x)])
        found = torch.zeros(likely.shape[1], likely.shape[1], dtype=torch.float64)
        found.index_add_(0, train.y, likely)
        of_class: NDArray[np.float64] = (found / found.sum(1, keepdim=True).clamp_min(1.0)).numpy()
        return of_class


def step(model: nn.Module, x: Batch, y: Tensor, share: float, label_smoothing: float = 0.0) -> Tensor:
    """The gradient of the mean cross-entropy of all bits; see `nn.training.settings.Step`.

    Smoothed labels give each bit the mean of its values over the classes, weighted by the smoothed labels.
    """
    assert isinstance(model, Coded)
    z = call(model.network, x)
    codes = model.codes.to(z.dtype)
    if label_smoothing:
        codes = codes.lerp(codes.mean(0), label_smoothing)
    loss = functional.binary_cross_entropy_with_logits(z, codes[y])
    loss.backward()
    return loss.detach()


def class_count(model: nn.Module, train: Split) -> int:
    """Number of classes of a network: its outputs.

    Raises:
        InputError: if it does not take the images, or does not give one row of outputs per image, or has fewer
            outputs than there are labels.
    """
    if train.y is None:
        raise InputError("the train examples have no labels: training needs y")
    if train.y.is_floating_point() or train.y.dim() != 1:
        kind = "real values" if train.y.is_floating_point() else "classes"
        raise InputError(
            f"ftna encodes one class per example, and the targets are {kind} of shape {tuple(train.y.shape)}: use "
            "another method"
        )
    model.eval()
    y: Any = outputs(model, train.x[:2])[0]
    top = int(train.y.max())
    if y.dim() != 2 or y.shape[1] < 2 or y.shape[1] <= top:
        raise InputError(
            f"the network gives {tuple(y.shape)} for two images and labels go up to {top}: one output per class is "
            "needed, for two classes or more"
        )
    return int(y.shape[1])


def with_bits(model: nn.Module, words: tuple[str, ...], x: Batch) -> Coded:
    """The network with its last linear layer replaced by one with an output per bit, followed by decoding.

    Args:
        model: ends in an `nn.Linear` with one output per class; it is changed.
        words: one per class.
        x: images, of which a few are run to see which layer that is.

    Raises:
        InputError: if there is no such layer.
    """
    name, last = _head(model, x[:2], len(words))
    holder, _, own = name.rpartition(".")
    bits = len(words[0])
    head = nn.Linear(last.in_features, bits, bias=last.bias is not None)
    setattr(model.get_submodule(holder), own, head.to(last.weight.device))
    coded = Coded(model, codes=words)
    arguments = getattr(model, "arguments", None)
    for known, kind in NETWORKS.items():
        if type(model) is kind and isinstance(arguments, dict) and "classes" in arguments:
            coded.arguments = {
                "network": known,
                "arguments": {**arguments, "classes": bits},
                **coded.arguments,
            }
    return coded


def _head(model: nn.Module, few: Batch, classes: int) -> tuple[str, nn.Linear]:
    """The linear layer whose output is the model's, with its name."""
    given: list[tuple[str, nn.Linear, Tensor]] = []

    def hook(name: str) -> Any:
        return lambda module, inputs, y: given.append((name, module, y))

    handles = [
        module.register_forward_hook(hook(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name
    ]
    model.eval()
    try:
        y = outputs(model, few)[0]
    finally:
        for handle in handles:
            handle.remove()
    if not given or given[-1][2].shape != y.shape or not torch.equal(given[-1][2], y):
        raise InputError(
            f"{type(model).__name__} does not end in an nn.Linear with {classes} outputs: FTNA gives the last layer "
            "one output per bit, and must find it"
        )
    return given[-1][:2]
