"""The one training loop. A method is its loss step."""

import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from crossbar_sim.data.given import split_given
from crossbar_sim.errors import InputError, warn
from crossbar_sim.nn.detection_map import detector_precision
from crossbar_sim.nn.detection_task import check_task, detects, task_loss
from crossbar_sim.nn.inputs import inputs_for
from crossbar_sim.nn.optimiser import Optimiser
from crossbar_sim.nn.optimiser import one_cycle as one_cycle
from crossbar_sim.nn.seeding import permutation, seeded
from crossbar_sim.nn.train_checks import check_fits, check_training, labelled, near_chance
from crossbar_sim.nn.train_state import State, TrainingFile, identity, put_back, snapshot
from crossbar_sim.nn.training import Step, Training
from crossbar_sim.rng import Key, as_key

_EVALUATION_BATCH = 1024


LossStep = Callable[[nn.Module, torch.Tensor, torch.Tensor], torch.Tensor]
"""(model in training mode, x of a batch, y of a batch) -> the loss, a scalar to differentiate."""


@dataclass(frozen=True)
class Epoch:
    """One pass over the training examples: its number from 1, its mean loss per example, and the
    validation accuracy after it (`None` without validation examples), of a detector its mean average precision.
    """

    number: int
    loss: float
    validation_accuracy: float | None


@dataclass(frozen=True)
class FitReport:
    """What a training run did; equal for equal runs, `seconds` apart.

    `kept` is the epoch whose weights were kept because they were the best; None: those of the last.
    """

    history: tuple[Epoch, ...]
    steps: int
    seconds: float = field(compare=False)
    kept: int | None = None

    @property
    def epochs(self) -> int:
        """How many passes over the training examples."""
        return len(self.history)

    @property
    def validation_accuracy(self) -> float | None:
        """Of the weights that were kept."""
        return self.history[-1 if self.kept is None else self.kept - 1].validation_accuracy


def cross_entropy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The plain loss step (empirical risk minimisation); a detector brings its own loss."""
    return task_loss(model, x, y)


def fit(
    model: nn.Module,
    train: Any,
    validation: Any = None,
    *,
    epochs: int | None = None,
    batch: int | None = None,
    lr: float | None = None,
    key: Key | int = 0,
    training: Training | None = None,
    loss_step: LossStep | None = None,
    step: Step | None = None,
    method: str = "",
    progress: Callable[[Epoch], None] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> FitReport:
    """Train a network in place: Adam and a one-cycle learning rate unless told otherwise, data in memory.

    The weights that remain are those of the last step, and nothing is selected on the validation examples, unless
    `training.patience` asks for it. Batches are as equal as they can be (no small last one).
    The same key gives the same weights, bit for bit on one kind of processor: a network below a million
    parameters trains on one thread, which is also the fastest; a larger one on torch's threads, whose
    number then matters. Afterwards the model is in eval mode.

    Args:
        model: maps (b, ...) to logits (b, classes); it stays on its device, the data goes there.
        train: what it learns from: a `Split`, (x, y), a torch Dataset or DataLoader (`data.given`).
        validation: what its accuracy is reported on after every epoch, in the same forms.
        epochs, batch, lr: short for `training=Training(epochs, batch, lr)`.
        key: shuffling, dropout and augmentation start from it (an integer: `Key(integer)`); initialisation is the
            caller's.
        training: everything else about how.
        loss_step: the method, as a loss; None is `cross_entropy`.
        step: the method, as a whole gradient step, in place of a loss.
        method: what loss_step or step is, settings included, in words: a checkpoint of another is refused.
        progress: called after every epoch.
        checkpoint: a file that is replaced after every epoch. If it is there, training goes on from it and ends
            with the weights it would have had without a stop.

    Raises:
        InputError: if an argument is out of range, examples have no labels or do not fit the model,
            nothing can be trained, the checkpoint is of another training, or the loss stops being finite (the
            model is then spoilt).
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model={_shown(model)}: expected a torch.nn.Module, an instance and not its class")
    key = as_key(key)
    train = split_given(train, "train")
    validation = None if validation is None else split_given(validation, "validation")
    how = _training(training, epochs=epochs, batch=batch, lr=lr)
    if loss_step is not None and step is not None:
        raise InputError("a method is either a loss_step or a step: give one of them")
    if how.patience is not None and validation is None:
        raise InputError(f"patience={how.patience} needs validation examples to judge by")
    started = time.perf_counter()
    with seeded(key.fold("fit")), _few_threads(model), _on_device(model, how.device) as device:
        x, y = labelled("train", train, device)
        held = None if validation is None else labelled("validation", validation, device)
        scenes = check_task(model, y)
        if not scenes:
            x = inputs_for(model.eval(), x)[0]
            held = None if held is None else (inputs_for(model, held[0])[0], held[1])
        if not scenes and loss_step is None and step is None:
            check_fits(model, x, max(int(y.max()), -1 if held is None else int(held[1].max())))
        if how.augment is not None:
            if scenes:
                raise InputError(
                    f"augment={how.augment}: it would move the images and not their objects; leave it out"
                )
            how.augment.check(x)
        file = None
        if checkpoint is not None:
            told = {"training": how, "key": key, "method": method or _name(step or loss_step)}
            file = TrainingFile(
                checkpoint, identity(model, told, {"training data": (x, y), "validation data": held})
            )
        run = _Run(model, how, step or _of_loss(loss_step or cross_entropy), key, x, y)
        try:
            state = State() if file is None else file.read(model, run.optimiser)
            spent = state.seconds
            while not _finished(state, how):
                run.epoch(state)
                score = None if held is None else accuracy(model, *held)
                state.history[-1] = (*state.history[-1][:2], score)
                better = score is not None and (state.best is None or score > state.best[1])
                if how.patience is not None and score is not None and better:
                    state.best = (len(state.history), score, snapshot(model))
                state.seconds = spent + time.perf_counter() - started
                if file is not None:
                    file.write(model, run.optimiser, state)
                if progress is not None:
                    progress(Epoch(*state.history[-1]))
            if state.best is not None:
                put_back(model, state.best[2])
        finally:
            run.optimiser.close()
            model.eval()
    if held is not None and not scenes and state.history:
        score = state.history[-1 if state.best is None else state.best[0] - 1][2]
        warn(near_chance(score, held[1], x))
    history = tuple(Epoch(*each) for each in state.history)
    kept = None if state.best is None else state.best[0]
    seconds = spent + time.perf_counter() - started
    return FitReport(history, len(history) * run.per_epoch, seconds, kept)


class _Run:
    """What the steps of one training share."""

    def __init__(
        self, model: nn.Module, training: Training, step: Step, key: Key, x: torch.Tensor, y: torch.Tensor
    ) -> None:
        self.model, self.training, self.step, self.key, self.x, self.y = model, training, step, key, x, y
        self.per_epoch = math.ceil(len(x) / training.batch)
        self.steps = self.per_epoch * training.epochs
        self.optimiser = Optimiser(model, training, self.steps)

    def epoch(self, state: State) -> None:
        """Go once over the examples, and add the epoch to the history.

        Raises:
            InputError: if the loss stops being finite.
        """
        x, y, training = self.x, self.y, self.training
        number = len(state.history) + 1
        order = permutation(len(x), self.key.fold("shuffle", str(number)), x.device)
        augment = training.augment
        if augment is not None:
            drawn = augment.draw(len(x), self.key.fold("augment", str(number)), x.device)
        # No cache of bfloat16 weights: a method changes them in place within a step.
        half = torch.autocast(
            x.device.type, torch.bfloat16, enabled=training.precision == "bfloat16", cache_enabled=False
        )
        self.model.train()
        total = torch.zeros((), dtype=torch.float64, device=x.device)
        for i, chosen in enumerate(order.tensor_split(self.per_epoch)):
            done = (number - 1) * self.per_epoch + i
            images = x[chosen] if augment is None else augment.apply(x[chosen], drawn[chosen])
            if training.channels_last and images.dim() == 4:
                images = images.contiguous(memory_format=torch.channels_last)
            self.optimiser.zero()
            with half, _views_told(training):
                loss = self.step(self.model, images, y[chosen], done / self.steps)
            self.optimiser.step(done)
            total += loss.detach() * len(chosen)
        # Asked once per epoch: reading a number back stalls a GPU.
        mean = float(total) / len(x)
        if not math.isfinite(mean):
            raise InputError(
                f"the loss became {mean} in epoch {number} of {training.epochs} at lr={training.lr:g}: "
                "lower the learning rate, or scale the examples to about 0 .. 1"
            )
        state.history.append((number, mean, None))


@contextmanager
def _views_told(training: Training) -> Iterator[None]:
    """A `view` that channels in the last place forbid, in a sentence."""
    try:
        yield
    except RuntimeError as error:
        if training.channels_last and "view size is not compatible" in str(error):
            raise InputError(
                "the model's forward calls view on what a convolution gives, which channels_last forbids: write "
                "flatten or reshape there, or train without channels_last"
            ) from error
        raise


def _finished(state: State, training: Training) -> bool:
    done = len(state.history)
    waited = (
        training.patience is not None and state.best is not None and done - state.best[0] >= training.patience
    )
    return done >= training.epochs or waited


def _of_loss(loss_step: LossStep) -> Step:
    """The gradient step of a loss."""

    def step(model: nn.Module, x: torch.Tensor, y: torch.Tensor, share: float) -> torch.Tensor:
        loss = loss_step(model, x, y)
        loss.backward()
        return loss.detach()

    return step


def _shown(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def _name(function: object) -> str:
    return getattr(function, "__qualname__", type(function).__qualname__)


def _training(training: Training | None, **short: Any) -> Training:
    given = {name: value for name, value in short.items() if value is not None}
    if training is not None:
        check_training(training)
        if given:
            raise InputError(f"{', '.join(given)} beside training: put it into the Training")
        return training
    if "epochs" not in given:
        raise InputError("epochs is missing: give epochs, or training=Training(...)")
    return Training(**given)


@contextmanager
def _on_device(model: nn.Module, name: str | None) -> Iterator[torch.device]:
    """Train on another device, and bring the model back."""
    before = next((p.device for p in model.parameters()), torch.device("cpu"))
    device = before if name is None else torch.device(name)
    if device != before:
        model.to(device)
    try:
        yield device
    finally:
        if device != before:
            model.to(before)


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


def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    """The share of examples whose largest logit is their label's; of a detector its mean average precision.

    Leaves the model in eval mode.
    """
    if detects(model):
        return detector_precision(model, x, y).map
    model.eval()
    with torch.no_grad():
        right = sum(
            int((model(a.clone()).argmax(1) == b).sum())  # a forward may write to its input
            for a, b in zip(x.split(_EVALUATION_BATCH), y.split(_EVALUATION_BATCH), strict=True)
        )
    return right / len(x)
