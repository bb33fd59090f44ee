"""Losses: what training minimises. Some by name, those of torch, and functions of a user's own."""

import copy
import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from crossbar_sim.data.inputs import Batch, first_of
from crossbar_sim.errors import InputError, warn
from crossbar_sim.nn.class_axis import class_axis, labelled_axes, traced_axis
from crossbar_sim.nn.detection import detector_precision, detects, task_loss
from crossbar_sim.nn.evaluate import logits, outputs
from crossbar_sim.nn.next_tokens import judged_labels
from crossbar_sim.user_code import attribute, contents_of, fingerprint, import_module
from crossbar_sim.validate import unknown

Targets = Literal["classes", "real", "any"]
Function = Callable[[Tensor, Tensor], Tensor]

IGNORED = -100
"""The label of a token or pixel that is not learnt; any negative label is taken as such."""


class Loss:
    """A loss: one entry of the registry, or a function of a user's own.

    Args:
        name: built in, or `package.module:function`.
        function: (outputs, targets) of a batch -> a mean over its examples, which torch can differentiate. Outputs are
            (b, classes, places...) for class numbers (b, places...), else of the shape of the targets.
        targets: "classes", class numbers, of which -100 are not learnt; "real", a number for each output; "any".
        source: SHA-256 (hex) of the function's source; None for built-in losses.
    """

    def __init__(self, name: str, function: Function, targets: Targets, source: str | None = None) -> None:
        self.name, self.function, self.targets, self.source = name, function, targets, source

    def __repr__(self) -> str:
        # part of what names checkpoints, studies and experiments
        return self.name if self.source is None else f"{self.name} (source {self.source})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Loss) and repr(self) == repr(other)

    def __hash__(self) -> int:
        return hash(repr(self))

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch, a scalar."""
        return self.function(outputs, targets)


LOSSES = {
    loss.name: loss
    for loss in (
        Loss("cross-entropy", functional.cross_entropy, "classes"),
        Loss("mse", functional.mse_loss, "real"),
        Loss("l1", functional.l1_loss, "real"),
        Loss("huber", functional.huber_loss, "real"),
    )
}
"""The built-in losses: a new one is one entry."""

_CLASSES = (nn.CrossEntropyLoss, nn.NLLLoss, nn.MultiMarginLoss)
_REAL = (
    nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.BCELoss, nn.BCEWithLogitsLoss, nn.PoissonNLLLoss,
    nn.SoftMarginLoss, nn.MultiLabelSoftMarginLoss,
)  # fmt: skip
_TARGETS: dict[Any, Targets] = {
    functional.cross_entropy: "classes",
    functional.nll_loss: "classes",
    functional.mse_loss: "real",
    functional.l1_loss: "real",
    functional.smooth_l1_loss: "real",
    functional.huber_loss: "real",
    functional.binary_cross_entropy: "real",
    functional.binary_cross_entropy_with_logits: "real",
}


def check_loss_name(loss: object) -> None:
    """Refuse a name that is neither built in nor an import path; no code is imported.

    Raises:
        InputError: with the most similar name.
    """
    if not (isinstance(loss, str) and (loss in LOSSES or ":" in loss)):
        raise InputError(f"{unknown('the loss', loss, LOSSES)}, or package.module:function")


def find_loss(loss: Any) -> Loss:
    """A loss by its name or import path, or of a function or a torch module.

    Args:
        loss: a key of `LOSSES`, `package.module:function` (its module is imported, which runs its code), a function of
            outputs and targets, or a torch loss such as `nn.HuberLoss()`.

    Raises:
        InputError: if there is no such loss, its source cannot be read, or it is not a mean over examples.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str):
        check_loss_name(loss)
        if loss in LOSSES:
            return LOSSES[loss]
        path, what = loss, f"loss={loss!r}"
        module, _, names = path.partition(":")
        function = attribute(import_module(module, what), names)
        if function is None:
            raise InputError(f"{what}: {module} has no {names}")
    else:
        function = loss
        named = function.func if isinstance(function, functools.partial) else function
        name = getattr(named, "__qualname__", type(named).__qualname__)
        path = f"{getattr(named, '__module__', None) or '__main__'}:{name}"
    if isinstance(function, type) and issubclass(function, nn.Module):
        try:
            function = function()
        except TypeError as error:
            raise InputError(
                f"loss {path} cannot be made without arguments ({error}): give an instance of it"
            ) from error
    if not callable(function) or isinstance(function, type):
        raise InputError(
            f"loss={loss!r}: expected a name such as mse, a function of outputs and targets, or a torch loss"
        )
    if isinstance(function, nn.Module):
        _check_module(function, path)
    targets: Targets = _TARGETS.get(function, "any") if not isinstance(function, nn.Module) else "any"
    if isinstance(function, _CLASSES):
        targets = "classes"
    elif isinstance(function, _REAL):
        targets = "real"
    return Loss(path, function, targets, fingerprint(contents_of(function, f"loss {path}")))


def _check_module(module: nn.Module, path: str) -> None:
    trained = [name for name, p in module.named_parameters() if p.requires_grad]
    if trained:
        raise InputError(
            f"loss {path} has parameters of its own ({', '.join(trained[:3])}), which would not be trained: make them "
            "parameters of the network, or set requires_grad=False"
        )
    reduction = getattr(module, "reduction", "mean")
    if reduction != "mean":
        raise InputError(
            f"loss {path} has reduction={reduction!r}: a loss is a mean over the examples of a batch, of which "
            "a method may give each chip a part; use reduction='mean'"
        )


@dataclass(frozen=True, eq=False)
class TaskLoss:
    """The loss of one model on its data: a `LossStep`.

    Args:
        loss: what is computed of outputs and targets; None: the cross-entropy of one class per example, or the loss
            that a detector brings.
        axis: of the classes in the model's outputs (b, ...); None: outputs are compared with numbers.
        error: whether the root of the mean squared error says how good the model is.
        places: whether there are several labels per example.
        size: numbers that the model gives for an example.
    """

    loss: Loss | None = None
    axis: int | None = 1
    error: bool = False
    places: bool = False
    size: int = 1

    @property
    def batched(self) -> bool:
        """Whether the loss of several parts of a batch is the mean of their losses."""
        return self.loss is None or self.loss.source is None

    def __call__(self, model: nn.Module, x: Batch, y: Tensor, temperature: float = 1.0) -> Tensor:
        """The loss of a batch.

        Args:
            model: in training mode.
            x, y: a batch.
            temperature: multiplies the logits; 1 for detectors and for numbers.
        """
        if self.loss is None:
            return task_loss(model, x, y, temperature)
        found = self.judged(model, x)
        return self.loss(found * temperature if temperature != 1.0 else found, y)

    def judged(self, model: nn.Module, x: Batch) -> Tensor:
        """What the loss compares with its targets: (b, classes, places...), or the outputs as they are."""
        return self._in_place(logits(model, x))

    def _in_place(self, found: Tensor) -> Tensor:
        return found if self.axis in (None, 1) else found.movedim(self.axis, 1)

    def smoothed(self, model: nn.Module, share: float) -> "TaskLoss":
        """With smoothed labels, see `Training.label_smoothing`; 0: as it is.

        Raises:
            InputError: if it is not the cross-entropy of classes.
        """
        if not share:
            return self
        if detects(model) or (self.loss is not None and self.loss.name != "cross-entropy"):
            name = "a detector" if self.loss is None else f"the loss {self.loss.name}"
            raise InputError(
                f"label_smoothing={share} is for the cross-entropy of classes, and not for {name}: leave it out"
            )
        function = functools.partial(functional.cross_entropy, label_smoothing=share)
        return replace(self, loss=Loss("cross-entropy", function, "classes"))

    def weight(self, y: Tensor) -> Any:
        """How much a batch counts beside others: its examples, or its labels that are not ignored."""
        return (y >= 0).sum() if self.places else len(y)

    def score(self, model: nn.Module, x: Batch, y: Tensor) -> float | None:
        """How good a model is, more being better: accuracy, a detector's precision, minus the RMSE; None: unknown.

        Leaves the model in evaluation mode.
        """
        if detects(model):
            return detector_precision(model, x, y).map
        model.eval()
        if self.axis is None and not self.error:
            return None
        block = max(1, min(1024, 2**24 // self.size))
        first = y.new_zeros((), dtype=torch.float64 if self.axis is None else torch.int64)
        total, count = first, first.clone()
        with torch.no_grad():
            for i in range(0, len(x), block):
                meant = y[i : i + block]
                found = self.judged(model, x[i : i + block].clone())  # a forward may write to its input
                if self.axis is None:
                    total += (found.double() - meant.double()).square().sum()
                    count += meant.numel()
                else:
                    total += (found.argmax(1) == meant).sum()
                    count += self.weight(meant)
        share = float(total) / float(count)  # asked once: reading a number back stalls a GPU
        return share if self.axis is not None else -(share**0.5)


PLAIN = TaskLoss()
"""Of one class per example, and of detectors."""

Data = tuple[Batch, Tensor]


def task_of(
    model: nn.Module, loss: Loss | None, train: Data, validation: Data | None
) -> tuple[TaskLoss, Data, Data | None]:
    """The loss of a model on its data, and the data with targets in the form that it compares outputs with.

    Class numbers become (n, places...) in the place of the model's classes, with -100 where they are negative; those of
    a causal language model whose labels are its tokens are shifted by one (`nn.next_tokens`), and examples without any
    label that counts are left out. Real targets get the shape of the outputs.

    Args:
        model: takes x; it is left in evaluation mode.
        loss: None: cross-entropy of class numbers, mean squared error of real targets.
        train, validation: x in the types that the model takes, and y.

    Raises:
        InputError: if model, targets and loss do not go together.
    """
    y = train[1]
    if detects(model):
        if loss is not None:
            raise InputError(
                f"loss={loss.name}: {type(model).__name__} finds objects, and brings a loss of its own; leave it out"
            )
        return PLAIN, train, validation
    model.eval()
    few = train[0][: min(len(y), 3)]
    out = outputs(model, few, len(few), fast=False)[0]
    axis = None if y.is_floating_point() else _class_axis(model, loss, out, *train)
    if axis is not None:
        loss = loss or LOSSES["cross-entropy"]
        if loss.targets == "real":
            raise InputError(
                f"loss {loss.name} compares each output with a number, and y holds class numbers of shape "
                f"{tuple(y.shape)} for outputs {_each(out)}: use cross-entropy"
            )
        task = TaskLoss(loss, axis, places=y.dim() > 1, size=out[0].numel())
        shape = (*out.shape[1:axis], *out.shape[axis + 1 :])
        train = _classes(model, task, out.shape[axis], shape, *train, "training")
        if validation is not None:
            validation = _classes(model, task, out.shape[axis], shape, *validation, "validation")
    else:
        task = _numbers(loss, y, out)
        to = torch.float32 if out.element_size() < 4 else out.dtype

        def shaped(data: Data) -> Data:
            found = data[1].to(to)
            return data[0], found.reshape(len(found), *out.shape[1:]) if task.error else found

        train = shaped(train)
        validation = None if validation is None else shaped(validation)
    assert task.loss is not None
    device = first_of(train[0]).device
    function = task.loss.function
    if isinstance(function, nn.Module):  # which may hold the weights of classes
        function = copy.deepcopy(function).to(device)
        task = replace(task, loss=Loss(task.loss.name, function, task.loss.targets, task.loss.source))
    if task.loss is not None and task.loss.source is not None:
        _try(task, out, train[1][: len(out)].to(out.device))
    return task, train, validation


def _class_axis(model: nn.Module, loss: Loss | None, out: Tensor, x: Batch, y: Tensor) -> int | None:
    """Where the classes are in the outputs; None: y counts as numbers."""
    whole = torch.empty(len(y), *out.shape[1:], device="meta")
    found = [axis for axis in labelled_axes(tuple(whole.shape), tuple(y.shape)) if whole.shape[axis] > 1]
    alike = _sides(out.shape[1:]) == _sides(y.shape[1:])
    if not found and alike and loss is not None and loss.targets != "classes":
        return None
    if not found and loss is not None and loss.targets == "real":
        raise InputError(_no_numbers(loss.name, y, out))
    return class_axis(whole, y, None, x, lambda: traced_axis(model, x))


def _classes(
    model: nn.Module, task: TaskLoss, classes: int, shape: tuple[int, ...], x: Batch, y: Tensor, what: str
) -> Data:
    labels, _ = judged_labels(model, x, y)
    assert labels is not None
    labels = labels.to(y.device).reshape(len(y), *shape) if task.places else labels
    if int(labels.max()) >= classes:
        raise InputError(
            f"the {what} labels go up to {int(labels.max())} and the model has {classes} outputs: places that are not "
            "to be learnt need a negative label, -100"
        )
    labels = torch.where(labels < 0, IGNORED, labels)
    if not task.places:
        return x, labels
    learnt = (labels >= 0).flatten(1).any(1)
    missing = int((~learnt).sum())
    if missing == len(y):
        raise InputError(f"all {what} labels are negative: nothing would be learnt")
    if missing:
        warn(
            [
                f"{missing} of {len(y)} {what} examples have no label that counts (all are negative): they are left out"
            ]
        )
        kept = learnt.nonzero().flatten()
        return x[kept], labels[kept]
    return x, labels


def _numbers(loss: Loss | None, y: Tensor, out: Tensor) -> TaskLoss:
    """The loss of real targets.

    Raises:
        InputError: if the loss takes classes, or there is not one target per output.
    """
    loss = loss or LOSSES["mse"]
    if loss.targets == "classes":
        raise InputError(
            f"loss {loss.name} takes class numbers, and y holds real values such as {float(y.flatten()[0]):g}: use "
            "mse, l1 or huber, or a loss of your own"
        )
    alike = _sides(out.shape[1:]) == _sides(y.shape[1:])
    if not alike and loss.targets == "real":
        raise InputError(_no_numbers(loss.name, y, out))
    return TaskLoss(loss, None, error=alike, size=out[0].numel())


def _sides(shape: tuple[int, ...]) -> list[int]:
    return [side for side in shape if side != 1]


def _each(out: Tensor) -> str:
    return f"(n, {', '.join(map(str, out.shape[1:]))})" if out.dim() > 1 else "(n,)"


def _no_numbers(name: str, y: Tensor, out: Tensor) -> str:
    return (
        f"loss {name} compares each output with a target, and the outputs have shape {_each(out)} and the targets "
        f"{tuple(y.shape)}: give one real target per output"
    )


def _try(task: TaskLoss, out: Tensor, y: Tensor) -> None:
    """Call a user's loss on the outputs of a few examples.

    Raises:
        InputError: if it fails, or does not return one number that torch can differentiate.
    """
    loss = task.loss
    assert loss is not None
    found = task._in_place(out.detach().clone()).requires_grad_()
    on = f"outputs of shape {tuple(found.shape)} and targets of shape {tuple(y.shape)}"
    try:
        with torch.enable_grad(), warnings.catch_warnings():
            # torch computes an (n, n) table of what it warns of
            warnings.filterwarnings("error", message="Using a target size")
            value: Any = loss(found, y)
    except Exception as error:  # of the user's own code
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"loss {loss.name} failed on {on}: {why}") from error
    if not isinstance(value, Tensor) or value.shape != ():
        what = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise InputError(
            f"loss {loss.name} returned {what} for {on}: expected one number, such as a mean over examples"
        )
    if not value.requires_grad:
        raise InputError(
            f"loss {loss.name} returned a number without a gradient: compute it from the outputs by torch, without "
            "detach(), item() or argmax()"
        )
