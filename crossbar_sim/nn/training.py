"""How to train, as a value: what all methods share."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import nn

from crossbar_sim.errors import InputError
from crossbar_sim.nn.augment import Augment

Step = Callable[[nn.Module, torch.Tensor, torch.Tensor, float], torch.Tensor]
"""A method's part of an optimisation step: (model in training mode, x, y, share of the training done in 0 .. 1).

It leaves the gradient in `.grad` of the parameters, which is None or zero when it begins, and the parameters as they
were; it returns the loss, a mean over the examples, detached. Random numbers come from torch's default generators,
which the loop seeds and its checkpoints keep, or from keys; a step keeps nothing else from call to call.
"""


@dataclass(frozen=True)
class Training:
    """How to train: everything but the method, the model and the data.

    Args:
        epochs: passes over the training examples.
        batch: at most so many examples per step.
        lr: the highest learning rate.
        optimiser: "adam" or "sgd" (momentum 0.9).
        schedule: "one-cycle" (linear up over 30 % of the steps, cosine down) or "constant".
        weight_decay: decoupled for Adam (AdamW), in the gradient for SGD.
        clip: every component of the gradient is held in -clip .. clip; None: not.
        patience: stop after so many epochs without a better validation accuracy, and keep the best weights; None:
            train to the end and keep the last.
        precision: "float32", or "bfloat16" autocast of the steps (parameters and evaluation stay in float32).
        channels_last: lay images and convolutions' weights out with the channels last in memory, which most
            convolutions are faster on; sums are then taken in another order. A model whose forward calls `view` on
            what a convolution gives cannot be trained so.
        augment: what is done to the training images.
        device: where to train ("cuda"), the model is put back afterwards; None: where the model is.

    Raises:
        InputError: naming the field, what was given and what is allowed.
    """

    epochs: int = 10
    batch: int = 128
    lr: float = 1e-3
    optimiser: Literal["adam", "sgd"] = "adam"
    schedule: Literal["one-cycle", "constant"] = "one-cycle"
    weight_decay: float = 0.0
    clip: float | None = None
    patience: int | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    augment: Augment | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        for what in ("epochs", "batch", "patience"):
            value = getattr(self, what)
            if what == "patience" and value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{what}={value!r}: an integer >= 1 is needed")
        if not _number(self.lr) or not 0 < self.lr < math.inf:  # NaN is refused too
            raise InputError(f"lr={self.lr!r}: a learning rate is a finite number > 0")
        if not _number(self.weight_decay) or not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay={self.weight_decay!r}: a finite number >= 0 is needed")
        if self.clip is not None and not (_number(self.clip) and 0 < self.clip < math.inf):
            raise InputError(f"clip={self.clip!r}: a finite number > 0 is needed, or None")
        for what, words in (
            ("optimiser", ("adam", "sgd")),
            ("schedule", ("one-cycle", "constant")),
            ("precision", ("float32", "bfloat16")),
        ):
            if getattr(self, what) not in words:
                raise InputError(f"{what}={getattr(self, what)!r} must be one of {', '.join(words)}")
        if not isinstance(self.channels_last, bool):
            raise InputError(f"channels_last={self.channels_last!r}: True or False is needed")
        if self.augment is not None and not isinstance(self.augment, Augment):
            raise InputError(f"augment={self.augment!r}: an Augment is needed, or None")
        if self.device is not None:
            _check_device(self.device)

    def __repr__(self) -> str:
        # Checkpoints, studies and experiments are known by this text: a field that came after them is in it only where
        # it acts, so that they stay what they were.
        named = [f.name for f in fields(self) if f.name != "channels_last" or self.channels_last]
        return f"Training({', '.join(f'{name}={getattr(self, name)!r}' for name in named)})"


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_device(name: object) -> None:
    try:
        device = torch.device(name)  # type: ignore[call-overload]
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device={name!r} is no device: cpu, cuda or cuda:1, say") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device={name!r}: torch sees {torch.cuda.device_count()} GPUs here")
