"""Which axis of a model's outputs holds the classes: found from labels, from the model's operations, or from shapes.

Outputs (n, classes) have one such axis. A tagger or a language model gives (n, time, classes), a segmentation network
(n, classes, height, width), and the largest value along a wrong axis compares positions with one another.
"""

import operator
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from crossbar_sim.data.inputs import Batch, first_of
from crossbar_sim.errors import InputError
from crossbar_sim.nn.evaluate import answer_of, run_over

_LAST = {
    "linear", "bilinear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "baddbmm", "addbmm", "embedding",
    "lstm", "gru", "rnn_tanh", "rnn_relu", "mv", "chain_matmul", "multi_dot", "_embedding_bag", "embedding_bag",
}  # fmt: skip
"""Operations whose features are the last axis of their result, by the name of the function or operator."""

_CONVOLUTIONS = {
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution",
    "_convolution", "conv_tbc",
}  # fmt: skip

_MOVES = {
    "view", "reshape", "permute", "transpose", "transpose_", "swapaxes", "swapdims", "movedim", "moveaxis", "flatten",
    "unflatten", "squeeze", "unsqueeze", "contiguous", "clone", "__getitem__", "select", "narrow", "slice", "chunk",
    "split", "unbind", "T", "mT", "H", "mH", "t", "adjoint", "expand", "expand_as", "view_as", "reshape_as", "alias",
    "detach", "_unsafe_view", "unfold", "stack", "roll", "flip", "index_select", "pixel_shuffle", "repeat", "tile",
    "squeeze_", "unsqueeze_", "t_", "tensor_split", "split_with_sizes", "select_copy", "_reshape_alias",
}  # fmt: skip
"""Operations that only move values about."""

_OPAQUE = {"einsum", "tensordot", "cdist", "outer", "kron", "scatter", "gather", "index", "take_along_dim"}
"""Operations that may exchange axes without saying so by a shape."""


def labelled_axes(shape: tuple[int, ...], labels: tuple[int, ...]) -> list[int]:
    """The axes (1, 2, ...) of outputs of this shape whose removal gives the shape of the labels.

    Axes of length one count as if they were not there: labels (n,) fit outputs (n, classes, 1, 1).

    >>> labelled_axes((8, 12, 40), (8, 12))
    [2]
    >>> labelled_axes((8, 12, 12), (8, 12))
    [1, 2]
    """
    places = [side for side in labels[1:] if side != 1]
    found = []
    for axis in range(1, len(shape)):
        rest = [side for i, side in enumerate(shape) if i not in (0, axis) and side != 1]
        if rest == places and shape[0] == labels[0]:
            found.append(axis)
    return [axis for axis in found if shape[axis] > 1] or found


def traced_axis(model: nn.Module, x: Batch, fixed: int | None = None) -> int | None:
    """The axis that holds the features of the model's last product, followed through all that comes after it.

    Args:
        model: in evaluation mode; it is run on the first examples.
        x: inputs (n, ...).
        fixed: the one batch size that the model accepts.

    Returns:
        The axis (from 0) of the output that is judged; None where it cannot be followed.
    """
    answers: list[Any] = []
    hook = model.register_forward_hook(lambda _, __, answer: answers.append(answer))
    try:
        with _Trace() as trace:
            run_over(model, x[: fixed or 2], fixed or 2, fixed)
    finally:
        hook.remove()
    judged = answer_of(answers[0]) if answers else None
    return None if judged is None else trace.axis(judged)


def shaped_axis(shape: tuple[int, ...], inputs: tuple[int, ...]) -> int | None:
    """The axis of outputs that inputs do not have: inputs (n, places...), (n, channels, places...), (n, places..., f).

    None if more than one axis could be it, or none.
    """
    places = {inputs[1:], inputs[2:], inputs[1:-1]}
    found = [i for i in range(1, len(shape)) if shape[1:i] + shape[i + 1 :] in places]
    return found[0] if len(found) == 1 else None


def class_axis(
    clean: Tensor, y: Tensor | None, asked: int | None, x: Batch, trace: Callable[[], int | None]
) -> int | None:
    """The axis of a model's outputs along which the largest value is its class.

    Args:
        clean: the outputs (n, ...).
        y: labels (n,) or (n, places...), or None.
        asked: the axis that the user names, counted from 0 (the batch) or from the end; None: find it.
        x: the inputs.
        trace: gives `traced_axis`; called only where it is needed.

    Returns:
        1, 2, ...; None where outputs without labels leave it open.

    Raises:
        InputError: if `asked` is not an axis of the outputs, or outputs and labels do not go together.
    """
    shape = tuple(clean.shape)
    if clean.dim() < 2:
        if y is not None:
            raise InputError(_no_match(shape, tuple(y.shape)))
        return None
    if asked is not None:
        return _requested_axis(asked, shape, y)
    if y is not None:
        found = labelled_axes(shape, tuple(y.shape))
        if not found:
            raise InputError(_no_match(shape, tuple(y.shape)))
        found = [axis for axis in found if shape[axis] > int(y.max())] or found
        if len(found) == 1:
            return found[0]
        for axis in (trace(), shaped_axis(shape, tuple(first_of(x).shape))):
            if axis in found:
                return axis
        raise InputError(
            f"labels of shape {tuple(y.shape)} fit outputs of shape {shape} with the classes along axis "
            f"{' or '.join(map(str, found))}: name it with --class-axis (class_axis=... in Python)"
        )
    if clean.dim() == 2:
        return 1
    for axis in (trace(), shaped_axis(shape, tuple(first_of(x).shape))):
        if axis:
            return axis
    return 1 if clean.dim() > 3 else None  # images have their channels there; the report names the axis


def undecided(shape: tuple[int, ...]) -> str:
    """The sentence for outputs whose axis of classes is not known."""
    return (
        f"the model's outputs have shape {shape} and it is not clear along which axis the classes are: name it with "
        "--class-axis (class_axis=... in Python, -1 for the last axis), or use --metric output_error for outputs that "
        "are not scores of classes"
    )


def _requested_axis(requested: object, shape: tuple[int, ...], y: Tensor | None) -> int:
    try:
        axis = -len(shape) if isinstance(requested, bool) else operator.index(requested)  # type: ignore[arg-type]
    except TypeError:
        axis = -len(shape)
    axis += len(shape) * (axis < 0)
    if not 0 < axis < len(shape):
        raise InputError(
            f"class_axis={requested!r}: outputs of shape {shape} have the axes 1 to {len(shape) - 1} beside the batch "
            f"(or -1 to -{len(shape) - 1})"
        )
    if y is not None and axis not in labelled_axes(shape, tuple(y.shape)):
        raise InputError(
            f"class_axis={requested}: outputs of shape {shape} have {shape[axis]} classes there, and labels of shape "
            f"{tuple(y.shape)} do not fit the other axes"
        )
    return axis


def _no_match(shape: tuple[int, ...], labels: tuple[int, ...]) -> str:
    if len(labels) == 3 and len(shape) == 2:
        return (
            f"these labels have shape {labels} (classes of pixels, or scenes with objects) and the model gives one "
            f"class per example, outputs {shape}: give a detector, such as mask-rcnn, or labels ({shape[0]},)"
        )
    if shape == labels:
        return (
            f"labels need one output per class, and y has the shape of the model's outputs, {shape}: give "
            "metric='rmse' if these are numbers to be predicted, y.argmax(1) if they are one-hot, and a metric of your "
            "own (docs/metrics.md) if they are several labels of each example"
        )
    return (
        f"labels need one output per class, but the model's outputs have shape {shape} and the labels {labels}: give "
        "one class number per example (or per token or pixel that the model decides), or data without y to compare "
        "outputs instead"
    )


class _Trace(TorchFunctionMode):
    """Context that tracks which axis of every tensor holds the features of the last product."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, tuple[Tensor, int]] = {}  # the tensor is kept, so that its id stays its own

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func` and follow the axis through it."""
        answer = func(*args, **(kwargs or {}))
        name = _name(func)
        for result in _tensors(answer):
            axis = self._axis(func, name, args, kwargs or {}, answer, result)
            self.known.pop(id(result), None)
            if axis is not None:
                self.known[id(result)] = (result, axis)
        return answer

    def axis(self, tensor: Tensor) -> int | None:
        """The tracked axis of a tensor."""
        kept = self.known.get(id(tensor))
        return None if kept is None else kept[1]

    def _axis(
        self, func: Any, name: str, args: Any, kwargs: dict[str, Any], answer: Any, result: Tensor
    ) -> int | None:
        if name in _LAST:
            return result.dim() - 1 if result.dim() else None
        if name == "conv_tbc":
            return 2
        if name in _CONVOLUTIONS:
            weight = kwargs.get("weight", args[1] if len(args) > 1 else None)
            return None if weight is None else max(result.dim() - weight.dim() + 1, 0)
        if name in _OPAQUE:
            return None
        given = [t for t in _tensors((args, kwargs)) if id(t) in self.known]
        if not given:
            return None
        if name in _MOVES:
            return self._moved(func, args, kwargs, answer, result)
        for tensor in given:
            axis = self.known[id(tensor)][1]
            if result.dim() == tensor.dim() and result.shape[axis] == tensor.shape[axis]:
                return axis
        return None

    def _moved(self, func: Any, args: Any, kwargs: dict[str, Any], answer: Any, result: Tensor) -> int | None:
        """Apply the operation to a tensor that numbers the axis, and find the axis of the numbers in the result."""
        try:
            numbers = func(*_replaced(args, self._numbered), **_replaced(kwargs, self._numbered))
        except Exception:  # whatever cannot be done with numbers is not followed
            return None
        which = next(i for i, t in enumerate(_tensors(answer)) if t is result)
        where = list(_tensors(numbers))[which]
        if where.shape != result.shape:
            return None
        found = [i for i in range(where.dim()) if torch.equal(where, _numbers(where, i))]
        return found[-1] if found else None

    def _numbered(self, tensor: Tensor) -> Tensor:
        kept = self.known.get(id(tensor))
        return tensor if kept is None else _numbers(tensor, kept[1]).contiguous()


def _numbers(like: Tensor, axis: int) -> Tensor:
    """0, 1, ... along one axis of a tensor's shape, the same along all others."""
    sides = [1] * like.dim()
    sides[axis] = like.shape[axis]
    return torch.arange(like.shape[axis], device=like.device).view(sides).expand(like.shape)


def _name(func: Any) -> str:
    """`linear` of torch.nn.functional.linear and of torch.ops.aten.linear.default alike; `T` of a tensor's T."""
    name = str(getattr(func, "__name__", ""))
    if name == "__get__":
        name = str(getattr(getattr(func, "__self__", None), "__name__", ""))
    return name.partition(".")[0]


def _tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _tensors(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _tensors(each)


def _replaced(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _replaced(each, change) for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_replaced(each, change) for each in value)
    return value
