"""The one training loop. A method is its loss step."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional

from crossbar_sim.errors import InputError
from crossbar_sim.nn.seeding import permutation, seeded
from crossbar_sim.rng import Key

WARM_UP = 0.3
"""The share of the steps in which the learning rate rises."""

_EVALUATION_BATCH = 1024


class Examples(Protocol):
    """Labelled examples, e.g. a `Split`: x (n, ...) float32, y (n,) int64."""

    @property
    def x(self) -> torch.Tensor: ...  # noqa: D102
    @property
    def y(self) -> torch.Tensor | None: ...  # noqa: D102


LossStep = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
"""(model in training mode, x of a batch, y of a batch) -> the loss, a scalar to differentiate."""


@dataclass(frozen=True)
class Epoch:
    """One pass over the training examples: its number from 1, its mean loss per example, and the
    validation accuracy after it (`None` without validation examples).
    """

    number: int
    loss: float
    validation_accuracy: float | None


@dataclass(frozen=True)
class FitReport:
    """What a training run did; equal for equal runs, `seconds` apart."""

    history: tuple[Epoch, ...]
    steps: int
    seconds: float = field(compare=False)

    @property
    def epochs(self) -> int:
        """How many passes over the training examples."""
        return len(self.history)

    @property
    def validation_accuracy(self) -> float | None:
        """After the last epoch."""
        return self.history[-1].validation_accuracy


def cross_entropy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The plain loss step (empirical risk minimisation)."""
    return functional.cross_entropy(model(x), y)


def fit(
    model: nn.Module,
    train: Examples,
    validation: Examples | None = None,
    *,
    epochs: int,
    batch: int = 128,
    lr: float = 1e-3,
    key: Key,
    loss_step: LossStep | None = None,
    progress: Callable[[Epoch], None] | None = None,
) -> FitReport:
    """Train a classifier in place: Adam, one-cycle learning rate, data in memory.

    The weights that remain are those of the last step: nothing is selected on the validation
    examples, they are only reported on. Batches are as equal as they can be (no small last one).
    The same key gives the same weights, bit for bit on one kind of processor: a network below a million
    parameters trains on one thread, which is also the fastest; a larger one on torch's threads, whose
    number then matters. Afterwards the model is in eval mode.

    Args:
        model: maps (b, ...) to logits (b, classes); it stays on its device, the data goes there.
        train: what it learns from.
        validation: what its accuracy is reported on after every epoch.
        epochs: passes over the training examples, >= 1.
        batch: at most so many examples per step, >= 1.
        lr: the highest learning rate, > 0.
        key: shuffling and dropout start from it; initialisation is the caller's.
        loss_step: the method; `None` is `cross_entropy`.
        progress: called after every epoch.

    Raises:
        InputError: if an argument is out of range, examples have no labels or do not fit the model,
            nothing can be trained, or the loss stops being finite (the model is then spoilt).
    """
    _check_numbers(epochs, batch, lr)
    started = time.perf_counter()
    with seeded(key.fold("fit")), _few_threads(model):
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        x, y = _labelled("train", train, device)
        held = None if validation is None else _labelled("validation", validation, device)
        if loss_step is None:
            _check_fits(model, x, max(int(y.max()), -1 if held is None else int(held[1].max())))
        trainable = [p for p in model.parameters() if p.requires_grad]
        if not trainable:
            raise InputError("the model has no parameter that requires a gradient: nothing to train")
        optimiser = torch.optim.Adam(trainable, lr=lr, fused=True)
        per_epoch = math.ceil(len(x) / batch)
        history: list[Epoch] = []
        for number in range(1, epochs + 1):
            order = permutation(len(x), key.fold("shuffle", str(number)), device)
            model.train()
            total = torch.zeros((), dtype=torch.float64, device=device)
            for i, chosen in enumerate(order.tensor_split(per_epoch)):
                done = (number - 1) * per_epoch + i
                optimiser.param_groups[0]["lr"] = lr * one_cycle(done, epochs * per_epoch)
                loss = (loss_step or cross_entropy)(model, x[chosen], y[chosen])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                total += loss.detach() * len(chosen)
            # Asked once per epoch: reading a number back stalls a GPU.
            mean = float(total) / len(x)
            if not math.isfinite(mean):
                raise InputError(
                    f"the loss became {mean} in epoch {number} of {epochs} at lr={lr:g}: "
                    "lower the learning rate, or scale the examples to about 0 .. 1"
                )
            score = None if held is None else accuracy(model, *held)
            history.append(Epoch(number, mean, score))
            if progress is not None:
                progress(history[-1])
        model.eval()
    return FitReport(tuple(history), epochs * per_epoch, time.perf_counter() - started)


@contextmanager
def _few_threads(model: nn.Module) -> Iterator[None]:
    """One torch thread for small networks: their steps are shorter than waking the others up."""
    before = torch.get_num_threads()
    if sum(p.numel() for p in model.parameters()) < 1_000_000:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_cycle(step: int, steps: int) -> float:
    """The learning rate of `step` (0 .. steps - 1) as a share of the highest.

    One cycle in the manner of Smith and Topin (arXiv:1708.07120): linear from 1/25 up over the
    first 30 % of the steps, then half a cosine down, never quite to 0.

    >>> one_cycle(3, 10), round(one_cycle(9, 10), 3)
    (1.0, 0.05)
    """
    top = int(WARM_UP * steps)
    if step < top:
        return 0.04 + 0.96 * step / top
    return 0.5 * (1 + math.cos(math.pi * (step - top) / (steps - top)))


def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """The share of examples whose largest logit is their label's. Leaves the model in eval mode."""
    model.eval()
    with torch.no_grad():
        right = sum(
            int((model(a).argmax(1) == b).sum())
            for a, b in zip(x.split(_EVALUATION_BATCH), y.split(_EVALUATION_BATCH), strict=True)
        )
    return right / len(x)


def _check_numbers(epochs: int, batch: int, lr: float) -> None:
    for what, number in (("epochs", epochs), ("batch", batch)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise InputError(f"{what}={number!r}: an integer >= 1 is needed")
    if not 0 < lr < math.inf:  # NaN is refused too
        raise InputError(f"lr={lr!r}: a learning rate is a finite number > 0")


def _labelled(what: str, examples: Examples, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    if examples.y is None:
        raise InputError(f"the {what} examples have no labels: training needs y")
    if len(examples.x) == 0 or len(examples.x) != len(examples.y):
        raise InputError(
            f"the {what} examples are {len(examples.x)} and their labels {len(examples.y)}: "
            "as many of both are needed, and at least one"
        )
    return examples.x.to(device), examples.y.to(device)


def _check_fits(model: nn.Module, x: torch.Tensor, top: int) -> None:
    """Try one example, so that data which does not fit is one sentence and not a failed step."""
    model.eval()
    try:
        with torch.no_grad():
            logits = model(x[:1])
    except RuntimeError as error:
        line = (str(error).splitlines() or ["no reason given"])[0]
        raise InputError(
            f"the model does not take examples of shape {tuple(x.shape[1:])}: {line[:160]}"
        ) from error
    if logits.ndim != 2 or logits.shape[1] <= top:
        raise InputError(
            f"the model gives {tuple(logits.shape)} for one example and the largest label is "
            f"{top}: logits of shape (1, classes) with classes >= {top + 1} are needed"
        )
