"""Settings of a training, and the checks of them."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, Protocol, get_args, get_type_hints

import torch
from torch import nn

from crossbar_sim.data.inputs import Batch, Inputs, call, described
from crossbar_sim.errors import InputError
from crossbar_sim.nn.device import Device
from crossbar_sim.nn.evaluate import answer_of
from crossbar_sim.nn.training.augment import Augment
from crossbar_sim.nn.training.losses import Loss, find_loss
from crossbar_sim.validate import check_integer, is_real

# How to train, as a value: what all methods share.


MOMENTUM = 0.9
"""Of SGD and Muon, by default."""


Step = Callable[[nn.Module, Any, torch.Tensor, float], torch.Tensor]
"""A method's part of an optimisation step: (model in training mode, x, y, share of the training done in 0 .. 1).

It leaves the gradient in `.grad` of the parameters, which is None or zero when it begins, and the parameters as they
were; it returns the loss, a mean over the examples, detached. Random numbers come from torch's default generators,
which the loop seeds and its checkpoints keep, or from keys; a step keeps nothing else from call to call.
"""


class Judge(Protocol):
    """What judges validation examples, in place of accuracy or error: `robustness.validation.Validation`."""

    def score(self, model: nn.Module, x: Batch, y: torch.Tensor) -> float:
        """The score of a model in evaluation mode, more being better; y is on the CPU."""

    def shown(self, score: float) -> float:
        """A score as people read it."""

    def in_words(self, shown: float) -> str:
        """Such a number with the name of the metric."""


@dataclass(frozen=True)
class Training:
    """How to train: everything but the method, the model and the data.

    Args:
        epochs: passes over the training examples.
        batch: at most so many examples per step.
        lr: the highest learning rate.
        optimiser: "adam", "sgd", or "muon": torch's Muon (Jordan, 2024) for parameters of two and more dimensions (a
            filter is the matrix of its outputs), Nesterov SGD for the others.
        schedule: "one-cycle" (linear up over 30 % of the steps, cosine down), "triangular" (the same, linear down),
            "linear" (linear down from the start) or "constant".
        weight_decay: decoupled for Adam (AdamW) and for the matrices of Muon, in the gradient for SGD; of Muon's
            other parameters none decays.
        clip: every component of the gradient is held in -clip .. clip; None: not.
        patience: stop after so many epochs without a better validation accuracy, and keep the best weights; None:
            train to the end and keep the last.
        loss: what is minimised: "cross-entropy", "mse", "l1" or "huber", a function of outputs and targets that returns
            a mean over the examples of a batch, its import path `package.module:function`, or a torch loss such as
            `nn.HuberLoss()`; None: cross-entropy of class numbers, "mse" of real targets.
        precision: "float32", or "bfloat16" autocast of the steps (parameters and evaluation stay in float32).
        channels_last: lay images and convolutions' weights out with the channels last in memory, which most
            convolutions are faster on; sums are then taken in another order. A model whose forward calls `view` on
            what a convolution gives cannot be trained so.
        augment: what is done to the training images.
        device: where to train ("cuda"), the model is put back afterwards; None: where the model is.
        momentum: of SGD and Muon.
        nesterov: whether the momentum of SGD is Nesterov's; Muon's always is.
        vector_lr: the highest learning rate of the parameters that Muon leaves to SGD; None: lr.
        label_smoothing: share of a target's probability that is spread over all classes, in [0, 1) (Szegedy et al.,
            2016, arXiv:1512.00567). It acts in the losses of this package's methods, not in a loss of your own.
        metric: what validation examples are judged by after every epoch, and by which `patience` chooses the weights
            that are kept: `robustness.Validation.of("f1")`; `crossbar_sim.train(metric="f1")` makes it. None: accuracy,
            of real targets the root of the mean squared error, of detectors the mean average precision.

    Raises:
        InputError: naming the field, what was given and what is allowed.
    """

    epochs: int = 10
    batch: int = 128
    lr: float = 1e-3
    optimiser: Literal["adam", "sgd", "muon"] = "adam"
    schedule: Literal["one-cycle", "triangular", "linear", "constant"] = "one-cycle"
    weight_decay: float = 0.0
    clip: float | None = None
    patience: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    augment: Augment | None = None
    device: str | None = None
    loss: str | Loss | Callable[..., Any] | None = None
    momentum: float = MOMENTUM
    nesterov: bool = False
    vector_lr: float | None = None
    label_smoothing: float = 0.0
    metric: Judge | None = None

    later: ClassVar[Mapping[str, object]] = {
        "loss": None,
        "momentum": MOMENTUM,
        "nesterov": False,
        "vector_lr": None,
        "label_smoothing": 0.0,
        "metric": None,
    }
    """Fields that came after records of experiments were written, and the values with which these leave them out."""

    def __post_init__(self) -> None:
        for what in ("epochs", "batch", "patience"):
            value = getattr(self, what)
            if what == "patience" and value is None:
                continue
            check_integer(what, value, 1)
        if not is_real(self.lr) or not 0 < self.lr < math.inf:  # NaN is refused too
            raise InputError(f"lr={self.lr!r}: a learning rate is a finite number > 0")
        if not is_real(self.weight_decay) or not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay={self.weight_decay!r}: a finite number >= 0 is needed")
        if self.clip is not None and not (is_real(self.clip) and 0 < self.clip < math.inf):
            raise InputError(f"clip={self.clip!r}: a finite number > 0 is needed, or None")
        for what in ("optimiser", "schedule", "precision"):
            words = get_args(get_type_hints(Training)[what])
            if getattr(self, what) not in words:
                raise InputError(f"{what}={getattr(self, what)!r} must be one of {', '.join(words)}")
        for what in ("channels_last", "nesterov"):
            if not isinstance(getattr(self, what), bool):
                raise InputError(f"{what}={getattr(self, what)!r}: True or False is needed")
        for what in ("momentum", "label_smoothing"):
            if not is_real(getattr(self, what)) or not 0 <= getattr(self, what) < 1:
                raise InputError(f"{what}={getattr(self, what)!r}: a number in [0, 1) is needed")
        self._check_optimiser()
        if self.augment is not None and not isinstance(self.augment, Augment):
            raise InputError(f"augment={self.augment!r}: an Augment is needed, or None")
        if self.device is not None:
            object.__setattr__(self, "device", Device.of(self.device).name)  # auto is one of them
        if self.loss is not None:
            object.__setattr__(self, "loss", find_loss(self.loss))
        if self.metric is not None and not hasattr(self.metric, "in_words"):
            raise InputError(
                f"metric={self.metric!r}: Training takes robustness.Validation.of(...) of it; crossbar_sim.train, "
                "experiment files and --metric take the name itself"
            )

    def _check_optimiser(self) -> None:
        """Refuse settings that the optimiser does not use, and Muon where torch has none."""
        if self.optimiser == "adam" and (self.momentum != MOMENTUM or self.nesterov):
            raise InputError(
                f"momentum={self.momentum!r}, nesterov={self.nesterov} with optimiser='adam': they are settings of sgd "
                "and muon; choose one of these, or leave them out"
            )
        if self.nesterov and not self.momentum:
            raise InputError("nesterov=True with momentum=0: there is no momentum to look ahead with")
        if self.vector_lr is not None:
            if self.optimiser != "muon":
                raise InputError(
                    f"vector_lr={self.vector_lr!r} with optimiser={self.optimiser!r}: it is a setting of muon; "
                    "leave it out"
                )
            if not is_real(self.vector_lr) or not 0 < self.vector_lr < math.inf:
                raise InputError(f"vector_lr={self.vector_lr!r}: a learning rate is a finite number > 0")
        if self.optimiser == "muon" and not hasattr(torch.optim, "Muon"):
            raise InputError(
                f"optimiser='muon': torch {torch.__version__} has no torch.optim.Muon; install torch 2.9 or later, or "
                "train with optimiser='sgd'"
            )

    def __repr__(self) -> str:
        # Checkpoints, studies and experiments are known by this text: a field that came after them is in it only where
        # it acts, so that they stay what they were.
        late = {"channels_last": False, **self.later}
        named = [f.name for f in fields(self) if f.name not in late or getattr(self, f.name) != late[f.name]]
        return f"Training({', '.join(f'{name}={getattr(self, name)!r}' for name in named)})"


# What a training looks at before it begins: examples that have labels and fit the model.


class Examples(Protocol):
    """Examples with targets, e.g. a `Split`: x (n, ...) float32, y (n, ...) int64 or float64."""

    @property
    def x(self) -> Batch: ...  # noqa: D102
    @property
    def y(self) -> torch.Tensor | None: ...  # noqa: D102


def labelled(what: str, examples: Examples, device: torch.device) -> tuple[Batch, torch.Tensor]:
    """x and y on the device, or one sentence."""
    if examples.y is None:
        raise InputError(f"the {what} examples have no labels: training needs y")
    if len(examples.x) == 0 or len(examples.x) != len(examples.y):
        raise InputError(
            f"the {what} examples are {len(examples.x)} and their labels {len(examples.y)}: "
            "as many of both are needed, and at least one"
        )
    return examples.x.to(device), examples.y.to(device)


def near_chance(score: float | None, y: torch.Tensor, x: torch.Tensor) -> Iterator[str]:
    """A sentence with likely causes where a clean model is hardly better than the most frequent class.

    Args:
        score: its accuracy.
        y: labels (n,) or (n, places...); negative ones are not judged.
        x: the inputs, whose range is a likely cause.
    """
    labels = y[y >= 0]
    counts = torch.bincount(labels)
    classes, n = int((counts > 0).sum()), int(labels.numel())
    if score is None or classes < 2 or n < 50:
        return
    chance = max(float(counts.max()) / n, 1 / classes)
    if score > chance + 3 * (chance * (1 - chance) / n) ** 0.5 + 0.02:
        return
    causes = []
    if x.is_floating_point():
        low, high = (float(v) for v in torch.aminmax(x))
        if high > 2:
            causes.append(
                f"the inputs lie in {low:.4g} .. {high:.4g}: a model that was trained on pixels in 0 .. 1 needs them "
                "divided by 255 (save x as uint8, or divide)"
            )
    causes.append(
        "another normalisation or order of the channels than in training, other class numbers, or no training"
    )
    yield (
        f"the clean model is right on {score:.1%}, and the most frequent class is {chance:.1%} of the labels: it is "
        f"near chance before any chip; likely causes: {'; '.join(causes)}"
    )


def check_training(training: object) -> None:
    """Refuse anything but a `Training`.

    Raises:
        InputError: naming what was given.
    """
    if not isinstance(training, Training):
        shown = f"the class {training.__name__}" if isinstance(training, type) else type(training).__name__
        raise InputError(f"training={shown}: expected an instance such as Training(epochs=10)")


def check_fits(model: nn.Module, x: Batch, top: int) -> None:
    """Try one example, so that data of the wrong shape raise an InputError and not an error of torch."""
    model.eval()
    try:
        with torch.no_grad():
            logits = answer_of(call(model, x[:1].clone()))
    except RuntimeError as error:
        shape = described(x) if isinstance(x, Inputs) else f"shape {tuple(x.shape[1:])}"
        line = (str(error).splitlines() or ["no reason given"])[0]
        raise InputError(f"the model does not take examples of {shape}: {line[:160]}") from error
    if logits is None or logits.ndim != 2 or logits.shape[1] <= top:
        raise InputError(
            f"the model gives {'no tensor' if logits is None else tuple(logits.shape)} for one example and the largest "
            f"label is {top}: logits of shape (1, classes) with classes >= {top + 1} are needed"
        )
