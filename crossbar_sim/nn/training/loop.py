"""The training loop: optimiser, schedule, checkpoints, validation."""

import hashlib
import math
import os
import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_sim.data.inputs import Batch, Inputs, first_of, one_tensor
from crossbar_sim.data.load import to_split
from crossbar_sim.errors import InputError, warn
from crossbar_sim.files import check_writable
from crossbar_sim.nn.detection import check_task, task_loss
from crossbar_sim.nn.device import Device, in_float32
from crossbar_sim.nn.evaluate import inputs_for
from crossbar_sim.nn.files.checkpoint import write_tensors
from crossbar_sim.nn.networks.fastconv import whiten
from crossbar_sim.nn.seeding import permutation, seeded
from crossbar_sim.nn.training.losses import PLAIN, Loss, TaskLoss, task_of
from crossbar_sim.nn.training.settings import MOMENTUM as MOMENTUM
from crossbar_sim.nn.training.settings import (
    Judge,
    Step,
    Training,
    check_fits,
    check_training,
    labelled,
    near_chance,
)
from crossbar_sim.rng import Key, as_key
from crossbar_sim.text import check_depth

LossStep = Callable[[nn.Module, Any, torch.Tensor], torch.Tensor]
"""(model in training mode, x of a batch, y of a batch) -> the loss, a scalar to differentiate."""


@dataclass(frozen=True)
class Epoch:
    """One pass over the training examples.

    Args:
        number: from 1.
        loss: the mean over the examples, or over the labels of their tokens or pixels that count.
        validation_accuracy: after it, of a detector the mean average precision; None without validation examples, and
            of real targets.
        validation_error: of real targets the root of the mean squared error after it; None of all others.
        validation_score: by the metric of the training, as people read it; None without one, and then the two above
            are known.
    """

    number: int
    loss: float
    validation_accuracy: float | None
    validation_error: float | None = None
    validation_score: float | None = None


@dataclass(frozen=True)
class FitReport:
    """The record of a training run; equal for equal runs except for `seconds`.

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
    def _kept(self) -> Epoch | None:
        if not self.history:
            return None
        return self.history[-1 if self.kept is None else self.kept - 1]

    @property
    def validation_accuracy(self) -> float | None:
        """Validation accuracy of the weights that were kept."""
        return None if self._kept is None else self._kept.validation_accuracy

    @property
    def validation_error(self) -> float | None:
        """Validation error (RMSE) of the weights that were kept, where targets are real."""
        return None if self._kept is None else self._kept.validation_error

    @property
    def validation_score(self) -> float | None:
        """Validation score of the weights that were kept, by the metric of the training if it has one."""
        return None if self._kept is None else self._kept.validation_score

    @property
    def noted(self) -> dict[str, float | None]:
        """What is known of validation, by the name of its kind, as the notes of a trained network hold it."""
        found = {"validation_score": self.validation_score, "validation_error": self.validation_error}
        name = next((name for name, value in found.items() if value is not None), "validation_accuracy")
        return {name: found.get(name, self.validation_accuracy)}


def cross_entropy(model: nn.Module, x: Batch, y: torch.Tensor) -> torch.Tensor:
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
    loss: str | Loss | Callable[..., Any] | None = None,
    loss_step: LossStep | None = None,
    step: Step | None = None,
    steps: Callable[[TaskLoss], Step] | None = None,
    squared: Sequence[nn.Parameter] = (),
    after_epoch: Callable[[nn.Module, Batch], None] | None = None,
    method: str = "",
    progress: Callable[[Epoch], None] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> FitReport:
    """Train a network in place: Adam and a one-cycle learning rate by default, data in memory.

    The weights that remain are those of the last step, and nothing is selected on the validation examples, unless
    `training.patience` asks for it. Batches are as equal as they can be (no small last one).
    The same key gives the same weights, bit for bit on one kind of processor: a network below a million
    parameters trains on one thread, which is also the fastest; a larger one on torch's threads, whose
    number then matters. On a GPU data, augmentation and chips stay there, and the same kind of GPU gives the same
    weights (docs/gpu.md). Afterwards the model is in eval mode.

    Args:
        model: maps (b, ...) to logits (b, classes), or one for each token or pixel, or to numbers that are compared
            with real targets; it stays on its device, the data goes there.
        train: what it learns from: a `Split`, (x, y), a torch Dataset or DataLoader (`data.load.to_examples`).
        validation: what its accuracy (of real targets its error) is reported on after every epoch, in the same forms.
        epochs, batch, lr, loss: short for `training=Training(epochs, batch, lr, loss=loss)`.
        key: shuffling, dropout and augmentation start from it (an integer: `Key(integer)`); initialisation is the
            caller's.
        training: everything else about how.
        loss_step: the method, as a loss that runs the model itself; None is the loss of `training`.
        step: the method, as a whole gradient step, in place of a loss.
        steps: makes such a step that uses the loss of `training`, once that is known.
        squared: parameters w of the model that are trained as w = u |u|: the optimiser moves u (see `Optimiser`).
        after_epoch: called with the model and all training inputs after each epoch, before it is validated.
        method: what loss_step or step is, settings included, in words: a checkpoint of another is refused.
        progress: called after every epoch.
        checkpoint: a file that is replaced after every epoch. If it is there, training resumes from it and ends
            with the weights it would have had without a stop.

    Raises:
        InputError: if an argument is out of range, examples have no labels or do not fit the model,
            nothing can be trained, the checkpoint is of another training, or the loss stops being finite (the
            model is then spoilt).
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"model={_shown(model)}: expected a torch.nn.Module, an instance and not its class")
    key = as_key(key)
    train = to_split(train, "train")
    validation = None if validation is None else to_split(validation, "validation")
    how = _training(training, epochs=epochs, batch=batch, lr=lr, loss=loss)
    own = [name for name, each in (("loss_step", loss_step), ("step", step)) if each is not None]
    if len(own) > 1:
        raise InputError("a method is either a loss_step or a step: give one of them")
    if how.label_smoothing and not method and (loss_step is not None or step is not None):
        raise InputError(
            f"label_smoothing={how.label_smoothing} does not reach a loss of your own: smooth the labels there"
        )
    if own and how.loss is not None:
        raise InputError(f"loss={how.loss} beside a {own[0]}, which computes its own loss: give one of them")
    if how.patience is not None and validation is None:
        raise InputError(f"patience={how.patience} needs validation examples to judge by")
    if how.metric is not None and validation is None:
        raise InputError(f"metric={how.metric!r} needs validation examples to judge")
    started = time.perf_counter()
    with (
        seeded(key.fold("fit")),
        _few_threads(model),
        _on_device(model, how.device) as device,
        _repeatable(device, how.device),
    ):
        x, y = labelled("train", train, device)
        held = None if validation is None else labelled("validation", validation, device)
        scenes = check_task(model, y)
        if not scenes:
            x = inputs_for(model.eval(), x, y=y)[0]
            held = None if held is None else (inputs_for(model, held[0], y=held[1])[0], held[1])
        if how.metric is not None and scenes:
            raise InputError(
                f"metric={how.metric!r}: a detector is judged by its mean average precision; leave it out"
            )
        judged = None if held is None else (held[0], held[1].cpu())  # by a metric, with their own labels
        task = PLAIN
        if how.loss is not None or not (scenes or (y.dim() == 1 and not y.is_floating_point())):
            if own:
                task = TaskLoss(axis=None)
            else:
                assert how.loss is None or isinstance(how.loss, Loss)  # Training sees to it
                task, (x, y), held = task_of(model, how.loss, (x, y), held)
            if how.patience is not None and how.metric is None and task.axis is None and not task.error:
                raise InputError(
                    f"patience={how.patience} needs a validation score, and these targets have none with this loss: "
                    "leave it out"
                )
        elif not scenes and not own and steps is None:
            check_fits(model, x, max(int(y.max()), -1 if held is None else int(held[1].max())))
        if not own:
            task = task.smoothed(model, how.label_smoothing)
        if how.augment is not None:
            if scenes:
                raise InputError(
                    f"augment={how.augment}: it would move the images and not their objects; leave it out"
                )
            how.augment.check(one_tensor(x, "augment"))
        if how.metric is not None and judged is not None:
            how.metric.score(model.eval(), *judged)  # what does not fit is refused before the training
        whiten(model, x)
        file = None
        if checkpoint is not None:
            settings = {"training": how, "key": key, "method": method or _name(step or steps or loss_step)}
            file = TrainingFile(
                checkpoint, identity(model, settings, {"training data": (x, y), "validation data": held})
            )
        made = step or (_of_loss(loss_step or task) if steps is None else steps(task))
        run = _Run(model, how, made, key, x, y, task, squared)
        try:
            state = State() if file is None else file.read(model, run.optimiser)
            spent = state.seconds
            while not _finished(state, how):
                run.epoch(state)
                if after_epoch is not None:
                    after_epoch(model, x)
                if how.metric is not None and judged is not None:
                    score: float | None = how.metric.score(model.eval(), *judged)
                else:
                    score = None if held is None else task.score(model, *held)
                state.history[-1] = (*state.history[-1][:2], score)
                better = score is not None and (state.best is None or score > state.best[1])
                if how.patience is not None and score is not None and better:
                    state.best = (len(state.history), score, snapshot(model))
                state.seconds = spent + time.perf_counter() - started
                if file is not None:
                    file.write(model, run.optimiser, state)
                if progress is not None:
                    progress(_epoch(task, how.metric, *state.history[-1]))
            if state.best is not None:
                put_back(model, state.best[2])
        finally:
            run.optimiser.close()
            model.eval()
    if held is not None and not scenes and how.metric is None and task.axis is not None and state.history:
        score = state.history[-1 if state.best is None else state.best[0] - 1][2]
        warn(near_chance(score, held[1], first_of(x)))
    history = tuple(_epoch(task, how.metric, *each) for each in state.history)
    kept = None if state.best is None else state.best[0]
    seconds = spent + time.perf_counter() - started
    return FitReport(history, len(history) * run.per_epoch, seconds, kept)


def _epoch(task: TaskLoss, metric: Judge | None, number: int, loss: float, score: float | None) -> Epoch:
    if metric is not None and score is not None:
        return Epoch(number, loss, None, None, metric.shown(score))
    if task.axis is None:
        return Epoch(number, loss, None, None if score is None else -score)
    return Epoch(number, loss, score)


class _Run:
    """The state shared by the steps of one training."""

    def __init__(
        self,
        model: nn.Module,
        training: Training,
        step: Step,
        key: Key,
        x: Batch,
        y: torch.Tensor,
        task: TaskLoss,
        squared: Sequence[nn.Parameter] = (),
    ) -> None:
        self.model, self.training, self.step, self.key, self.x, self.y = model, training, step, key, x, y
        self.task = task
        self.per_epoch = math.ceil(len(x) / training.batch)
        self.steps = self.per_epoch * training.epochs
        self.optimiser = Optimiser(model, training, self.steps, squared)

    def epoch(self, state: "State") -> None:
        """Train for one epoch and add it to the history.

        Raises:
            InputError: if the loss stops being finite.
        """
        x, y, training = self.x, self.y, self.training
        number = len(state.history) + 1
        device = first_of(x).device
        order = permutation(len(x), self.key.fold("shuffle", str(number)), device)
        augment = training.augment
        if augment is not None:
            drawn = augment.draw(len(x), self.key.fold("augment"), number, device)
        # No cache of bfloat16 weights: a method changes them in place within a step.
        half = torch.autocast(
            device.type, torch.bfloat16, enabled=training.precision == "bfloat16", cache_enabled=False
        )
        self.model.train()
        total = torch.zeros((), dtype=torch.float64, device=device)
        for i, chosen in enumerate(order.tensor_split(self.per_epoch)):
            done = (number - 1) * self.per_epoch + i
            images = x[chosen]
            if augment is not None and isinstance(images, Tensor):
                images = augment.apply(images, drawn[chosen])
            if training.channels_last and isinstance(images, Tensor) and images.dim() == 4:
                images = images.contiguous(memory_format=torch.channels_last)
            self.optimiser.zero_grad()
            with half, _view_errors_explained(training):
                loss = self.step(self.model, images, y[chosen], done / self.steps)
            self.optimiser.step(done)
            total += loss.detach() * self.task.weight(y[chosen])
        # Asked once per epoch: reading a number back stalls a GPU.
        mean = float(total) / int(self.task.weight(y))
        if not math.isfinite(mean):
            raise InputError(
                f"the loss became {mean} in epoch {number} of {training.epochs} at lr={training.lr:g}: "
                "lower the learning rate, or scale the examples to about 0 .. 1"
            )
        state.history.append((number, mean, None))


@contextmanager
def _view_errors_explained(training: Training) -> Iterator[None]:
    """Turn torch's error about `view` with channels_last into an InputError."""
    try:
        yield
    except RuntimeError as error:
        if training.channels_last and "view size is not compatible" in str(error):
            raise InputError(
                "the model's forward calls view on what a convolution gives, which channels_last forbids: write "
                "flatten or reshape there, or train without channels_last"
            ) from error
        raise


def _finished(state: "State", training: Training) -> bool:
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
    device = before if name is None else Device.of(name).where
    if device != before:
        model.to(device)
    try:
        yield device
    finally:
        if device != before:
            model.to(before)


@contextmanager
def _repeatable(device: torch.device, given: str | None = None) -> Iterator[None]:
    """On a CUDA GPU: algorithms that give the same bits every time, and float32 in TF32 only if `given` says so.

    An operation of the model that has no such algorithm makes torch warn, with its name.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn, memory = torch.backends.cudnn, torch.utils.deterministic
    flags: list[tuple[Any, str, bool]] = [
        (cudnn, "deterministic", True), (cudnn, "benchmark", False), (memory, "fill_uninitialized_memory", False)
    ]  # fmt: skip
    before = [getattr(owner, name) for owner, name, _ in flags]
    strict = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    try:
        torch.use_deterministic_algorithms(True, warn_only=True)
        for owner, name, value in flags:
            setattr(owner, name, value)
        with in_float32(device) if given is None else Device.of(given).arithmetic():
            yield
    finally:
        for (owner, name, _), value in zip(flags, before, strict=True):
            setattr(owner, name, value)
        torch.use_deterministic_algorithms(strict[0], warn_only=strict[1])


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


def accuracy(model: nn.Module, x: Batch, y: torch.Tensor) -> float:
    """The share of examples whose largest logit is their label's; of a detector its mean average precision.

    Leaves the model in eval mode.
    """
    found = PLAIN.score(model, x, y)
    assert found is not None
    return found


WARM_UP = 0.3
"""The share of the steps in which the learning rate rises."""


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


def triangular(step: int, steps: int) -> float:
    """As `one_cycle`, but in a straight line down.

    >>> triangular(3, 10), round(triangular(9, 10), 3)
    (1.0, 0.143)
    """
    top = int(WARM_UP * steps)
    return one_cycle(step, steps) if step < top else (steps - step) / (steps - top)


SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "one-cycle": one_cycle,
    "triangular": triangular,
    "linear": lambda step, steps: 1 - step / steps,
    "constant": lambda step, steps: 1.0,
}
"""(step, steps) -> the learning rate as a share of the highest."""


class Optimiser:
    """Adam (decoupled weight decay), SGD or Muon, by torch, for the parameters of a model that require a gradient.

    A squared parameter w = u |u| is moved by way of u, whose gradient is 2 |u| that of w: its steps are in proportion
    to sqrt|w|. Rate, decay and clipping act on u. The model holds w, and u is the signed root of it at every step (the
    root of a square is exact in floating point), so that nothing but w need be kept.

    Args:
        model: on its device.
        training: rates, decay, clipping.
        steps: the number of steps in the whole training.
        squared: parameters of the model that are moved so.

    Raises:
        InputError: if no parameter requires a gradient.
    """

    def __init__(
        self, model: nn.Module, training: Training, steps: int, squared: Sequence[nn.Parameter] = ()
    ) -> None:
        self.training, self.steps = training, steps
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise InputError("the model has no parameter that requires a gradient: nothing to train")
        self.original = [p.data for p in self.parameters]
        shared = len({p.untyped_storage().data_ptr() for p in self.parameters}) < len(self.parameters)
        if training.channels_last and not shared:
            for p in self.parameters:
                p.data = _channels_last(p.data)
        # The fused kernels are one pass over memory.
        fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in self.parameters)
        roots = {id(p) for p in squared}
        self.moved = [torch.empty_like(p.data) if id(p) in roots else p for p in self.parameters]
        lr, decay, momentum = training.lr, training.weight_decay, training.momentum
        self.matrices: list[_Matrix] = []
        self.parts: list[torch.optim.Optimizer] = []
        self.rates: list[float] = []
        others: Sequence[Tensor] = self.moved
        if training.optimiser == "muon":
            self.matrices = [_Matrix(u, shared) for u in self.moved if u.dim() > 1]
            others = [u for u in self.moved if u.dim() <= 1]
            if not self.matrices:
                raise InputError(
                    "the model has no parameter of two or more dimensions that requires a gradient, and Muon is for "
                    "matrices: train with optimiser='sgd'"
                )
            self._add(torch.optim.Muon([m.value for m in self.matrices], lr, decay, momentum), lr)
            lr, decay = lr if training.vector_lr is None else training.vector_lr, 0.0
        if training.optimiser == "adam":
            self._add(torch.optim.AdamW(others, lr, weight_decay=decay, fused=fused), lr)
        elif others:
            nesterov = momentum > 0 and (training.nesterov or training.optimiser == "muon")
            self._add(
                torch.optim.SGD(
                    others, lr, momentum=momentum, weight_decay=decay, nesterov=nesterov, fused=fused
                ),
                lr,
            )
        self.zero_grad()

    def _add(self, part: torch.optim.Optimizer, lr: float) -> None:
        self.parts.append(part)
        self.rates.append(lr)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.parameters:
            p.grad = None

    def step(self, done: int) -> None:
        """Take step number `done` (from 0) along the gradients; a missing gradient counts as zero."""
        training = self.training
        share = SCHEDULES[training.schedule](done, self.steps)
        for p, u in zip(self.parameters, self.moved, strict=True):
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            if u is not p:
                magnitude = p.data.abs().sqrt_()
                torch.copysign(magnitude, p.data, out=u)
                u.grad = magnitude.mul_(2).mul_(p.grad)
            if training.clip is not None and u.grad is not None:
                parts = torch.view_as_real(u.grad) if u.is_complex() else u.grad
                parts.clamp_(-training.clip, training.clip)
        for matrix in self.matrices:
            matrix.take_gradient()
        for part, rate in zip(self.parts, self.rates, strict=True):
            part.param_groups[0]["lr"] = rate * share
            part.step()
        for p, u in zip(self.parameters, self.moved, strict=True):
            if u is not p:
                torch.mul(u, u.abs(), out=p.data)

    def state(self) -> dict[str, Any]:
        """The state_dict of torch's optimiser, or those of the two parts of Muon."""
        states = [part.state_dict() for part in self.parts]
        return {"parts": states} if self.matrices else states[0]

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore a `state`, or one of version 0.1.0, which kept all parameters in one flat tensor."""
        if self.matrices:
            for part, its in zip(self.parts, state["parts"], strict=True):
                part.load_state_dict(its)
            return
        flat = state["state"].get(0, {})
        sizes = [p.numel() for p in self.parameters]
        if any(value.shape == (sum(sizes),) != self.parameters[0].shape for value in flat.values()):
            parts = {
                name: value.split(sizes) if value.dim() else [value.clone() for _ in sizes]
                for name, value in flat.items()
            }
            states = {
                i: {
                    name: part[i] if not part[i].dim() else self._unflatten(part[i], p)
                    for name, part in parts.items()
                }
                for i, p in enumerate(self.parameters)
            }
            groups = [{**state["param_groups"][0], "params": list(states)}]
            state = {"state": states, "param_groups": groups}
        self.parts[0].load_state_dict(state)

    def _unflatten(self, part: Tensor, like: Tensor) -> Tensor:
        if not self.training.channels_last or like.dim() != 4:
            return part.view(like.shape)
        rows, channels, height, width = like.shape
        return part.view(rows, height, width, channels).permute(0, 3, 1, 2)

    def close(self) -> None:
        """Put the trained values back into the parameters' original memory, and drop the gradients."""
        for p, original in zip(self.parameters, self.original, strict=True):
            if p.data_ptr() != original.data_ptr():
                original.copy_(p.data)
                p.data = original
            p.grad = None


def _channels_last(weight: Tensor) -> Tensor:
    """A copy of a convolution's weight with the channels last in memory; any other parameter itself."""
    return weight if weight.dim() != 4 else weight.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


class _Matrix:
    """A tensor (outputs, ...) that is trained, as the matrix (outputs, inputs) that Muon moves, in its own memory.

    The order of the inputs does not matter to Muon: it is that of the memory, where the channels may be last.
    """

    def __init__(self, tensor: Tensor, shared: bool) -> None:
        self.tensor = tensor
        self.last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
        if not self.last and not tensor.is_contiguous():
            if shared:
                raise InputError(
                    f"a parameter of shape {tuple(tensor.shape)} is a view of another one's memory, which "
                    "optimiser='muon' cannot move: train with optimiser='sgd'"
                )
            tensor.data = tensor.data.contiguous()
        self.value = self._flat(tensor.data)

    def take_gradient(self) -> None:
        """Give the matrix the gradient of the tensor."""
        assert self.tensor.grad is not None
        self.value.grad = self._flat(self.tensor.grad)

    def _flat(self, value: Tensor) -> Tensor:
        return (value.permute(0, 2, 3, 1) if self.last else value).flatten(1)


# Checkpoints of a training: all that an exact continuation needs.
#
# The file is a `torch.save` of one dict of tensors and plain values, loadable with `weights_only=True`. It holds the
# inputs of the training (as text and digests) and its progress: weights, moments of the optimiser, states of torch's
# generators, the history, the best weights so far. Shuffling and augmentation are drawn by key and need no state.


FORMAT = "crossbar-sim training"
FORMAT_VERSION = 1

# What torch raises for files that it did not write, or that end too early, or that hold more than plain values.
_NO_CHECKPOINT = (
    pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError, TypeError
)  # fmt: skip


@dataclass
class State:
    """The progress of a training.

    Args:
        history: (number, loss, validation accuracy or None) of the epochs done.
        best: (epoch, accuracy, state_dict) of the best weights so far, where they are kept.
        seconds: spent so far.
    """

    history: list[tuple[int, float, float | None]] = field(default_factory=list)
    best: tuple[int, float, dict[str, Tensor]] | None = None
    seconds: float = 0.0


class TrainingFile:
    """The checkpoint of a training at `path`; `identity` describes the run in words.

    Args:
        path: the file; it need not be there.
        identity: what the run is made of: name of a part -> what it is.
    """

    def __init__(self, path: str | os.PathLike[str], identity: Mapping[str, str]) -> None:
        self.path, self.identity = path, dict(identity)

    def write(self, model: nn.Module, optimiser: Optimiser, state: "State") -> None:
        """Replace the file once the new one is complete on disk.

        Raises:
            InputError: with the system's reason; the file is as it was.
        """
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "identity": self.identity,
            "model": snapshot(model),
            "optimiser": optimiser.state(),
            "generators": _generators(),
            "history": state.history,
            "best": state.best,
            "seconds": state.seconds,
        }
        write_tensors(self.path, content)

    def read(self, model: nn.Module, optimiser: Optimiser) -> State:
        """Restore model, optimiser and generators from the file, if there is one.

        Raises:
            InputError: if it is no checkpoint of a training, or of another one, or could not be replaced.
        """
        check_writable(self.path)  # now rather than after an epoch
        if not Path(self.path).exists():
            return State()
        content = _load(self.path)
        for part, ours in self.identity.items():
            if content["identity"].get(part) != ours:
                raise InputError(
                    f"{self.path} is the checkpoint of a training with another {part}: continue that one, or name "
                    "another file; nothing was overwritten"
                )
        try:
            put_back(model, content["model"])
            optimiser.load_state(content["optimiser"])
            state = State(content["history"], content["best"], content["seconds"])
            _set_generators(content["generators"])
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise InputError(f"{self.path} is damaged: remove it and train again") from error
        return state


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in _tensors(model)}


def put_back(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Write a snapshot into the parameters and buffers, in place."""
    with torch.no_grad():
        for name, tensor in _tensors(model):
            tensor.copy_(tensors[name])


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    # Buffers that a state_dict leaves out matter as much to going on.
    return [*model.named_parameters(), *((f"buffer {name}", b) for name, b in model.named_buffers())]


def identity(model: nn.Module, settings: Mapping[str, object], examples: Mapping[str, Any]) -> dict[str, str]:
    """The inputs of a training as text and digests, compared part by part.

    Args:
        model: as it begins.
        settings: name -> anything whose repr describes it: settings, key, method.
        examples: name -> (x, y) tensors, or None.
    """
    shapes = [f"{name} {tuple(t.shape)} {t.dtype}" for name, t in _tensors(model)]
    parts = {"network": _digest([f"{model}", *shapes])}
    parts |= {name: repr(value) for name, value in settings.items()}
    for name, tensors in examples.items():
        parts[name] = "none" if tensors is None else _digest(tensors)
    parts["initial weights"] = _digest([t for _, t in _tensors(model)])
    return parts


def _digest(parts: Any) -> str:
    state = hashlib.sha256()
    for part in parts:
        if isinstance(part, Inputs):
            state.update(_digest([*part.named(), *part.constants()]).encode())
        elif isinstance(part, tuple):
            state.update(_digest(part).encode())
        elif isinstance(part, Tensor):
            raw = part.detach().cpu().contiguous().reshape(-1)
            state.update(f"{part.dtype} {tuple(part.shape)}".encode())
            state.update(raw.view(torch.uint8).numpy().data if raw.numel() else b"")
        else:
            state.update(str(part).encode())
    return state.hexdigest()


def _load(path: str | os.PathLike[str]) -> dict[str, Any]:
    refusal = f"{path} is no checkpoint of a training: name another file; nothing was overwritten"
    try:
        with open(path, "rb") as file:
            try:
                content = torch.load(file, map_location="cpu", weights_only=True)
                check_depth(content)
            except _NO_CHECKPOINT as error:
                raise InputError(refusal) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(refusal)
    if content.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path}: format_version {content.get('format_version')!r} of a training's checkpoint is not the one that "
            f"this crossbar-sim reads ({FORMAT_VERSION}): use the version that wrote it"
        )
    if not isinstance(content.get("identity"), dict):
        raise InputError(refusal)
    return content


def _generators() -> list[Tensor]:
    return [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]


def _set_generators(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    gpus = torch.cuda.device_count()
    if gpus:  # the training may have begun on a machine with more of them
        torch.cuda.set_rng_state_all(states[1 : 1 + gpus])
