"""Products with arrays in tiles: linear layers, convolutions, and whole models of them."""

import math
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossbar_sim.crossbar.array import read_weight
from crossbar_sim.crossbar.converters import DrivenInputs
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.readout import EFFECTS, Readout
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.errors import InputError
from crossbar_sim.nn.analog.state import AnalogState, ArraySlot, next_read

# An array of a layer with its converters, and the products of linear layers with it.


Probe = Callable[["Tiled", int, Float32, DrivenInputs, int], None]
"""Called with the array, the group, its input vectors (b, rows), what the DACs make of them, the first one's number."""


@dataclass(eq=False)
class Tiled:
    """One array of a layer with its converters, on one chip.

    Args:
        slot: which parameters it stands for.
        design: what the model shares.
        blocks: one readout for each group.
    """

    slot: ArraySlot
    design: AnalogState
    blocks: tuple[Readout, ...]

    @property
    def own(self) -> Hardware:
        """The design of its layer."""
        return self.design.of(self.slot.layer)

    @property
    def effects(self) -> tuple[str, ...]:
        """The currently active effects."""
        return EFFECTS if self.design.effects is None else self.design.effects

    def weight(self) -> Tensor:
        """The effective weights that the planes stand for, (groups cols, rows): those of the linear read-out."""
        found = [read_weight(block.planes, block.mapping, block.scale).T for block in self.blocks]
        return torch.from_numpy(np.concatenate(found))

    def drive(self, x: Tensor, row: bool) -> tuple[Float32, DrivenInputs]:
        """Inputs (b, n) as float32, with the 1 (or 0) of a bias row at the end, and the outputs of the DACs."""
        if x.device.type != "cpu":
            raise InputError(
                f"{self.slot.name}: converters and read noise are simulated on the CPU: use --device cpu"
            )
        flat = x.detach().float()
        if self.slot.bias is not None:
            flat = torch.cat([flat, torch.full((len(flat), 1), 1.0 if row else 0.0)], dim=1)
        vectors = flat.contiguous().numpy()
        return vectors, self.blocks[0].drive(vectors, self.effects)

    def read(self, group: int, x: Float32, driven: DrivenInputs, event: int, first: int) -> Float32:
        """Outputs (b, cols) of one group for input vectors (b, rows)."""
        if self.design.probe is not None:
            self.design.probe(self, group, x, driven, first)
        return self.blocks[group].read(driven, event, first, self.effects)


# Convolutions through an array's converters, without unfolding a whole batch.


WORKSPACE = 1 << 22
"""Floats that are unfolded at a time where the kernel cannot read images as they lie: 16 MB."""


@dataclass(frozen=True)
class Window:
    """The arguments of a convolution, one value for each dimension; padding before and after."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int

    def places(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Outputs along each dimension for inputs of these sizes."""
        each = zip(sizes, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple((n + sum(p) - (k - 1) * d - 1) // s + 1 for n, k, s, p, d in each)

    @property
    def flat(self) -> dict[str, tuple[int, int]] | None:
        """The arguments in two dimensions; None where there are more, or padding is unlike on the two sides."""
        if len(self.kernel) > 2 or any(before != after for before, after in self.padding):
            return None
        missing = 2 - len(self.kernel)
        return {
            "kernel": _two(self.kernel, 1, missing), "stride": _two(self.stride, 1, missing),
            "padding": _two(tuple(p for p, _ in self.padding), 0, missing),
            "dilation": _two(self.dilation, 1, missing),
        }  # fmt: skip

    def patches(self, images: Float32) -> Float32:
        """Input vectors (b places, c kernel) of images (b, c, *sizes), in the order of torch's flattened weight."""
        padded = F.pad(torch.from_numpy(images), [p for pair in reversed(self.padding) for p in pair])
        windows, dims = padded, len(self.kernel)
        for i, (k, s, d) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True)):
            windows = windows.unfold(2 + i, (k - 1) * d + 1, s)
        windows = windows[(..., *(slice(None, None, d) for d in self.dilation))]  # type: ignore[index]
        channels = images.shape[1]
        vectors = windows.movedim(1, 1 + dims)  # (b, *places, c, *kernel)
        return np.ascontiguousarray(vectors.reshape(-1, channels * math.prod(self.kernel)).numpy())


def _two(values: tuple[int, ...], fill: int, missing: int) -> tuple[int, int]:
    first, last = (fill,) * missing + tuple(values)
    return first, last


def convolve(x: Tensor, tiled: Tiled, window: Window, row: bool) -> Tensor:
    """Images (b, c, *sizes) to (b, groups cols, *places), through the converters of every group.

    Raises:
        InputError: as `Readout.product`.
    """
    event, first = next_read(tiled.design, tiled.slot.name, len(x), len(x))
    sizes, cols = tuple(x.shape[2:]), tiled.slot.layout.cols
    places = window.places(sizes)
    out = np.empty((len(x), window.groups * cols, *places), np.float32)
    if min(places) < 1 or not len(x):  # torch says what is wrong, or gives nothing
        return x.new_empty(out.shape)
    vectors, driven = tiled.drive(x.reshape(len(x), -1), row)
    flat = window.flat
    if flat is not None and tiled.slot.bias is None and tiled.design.probe is None:
        lines = sizes if len(sizes) == 2 else (1, *sizes)
        images = driven._replace(codes=driven.codes.reshape(-1, *x.shape[:2], *lines))
        result = out.reshape(*out.shape[:2], *(places if len(places) == 2 else (1, *places)))
        for g in range(window.groups):
            channels = g * x.shape[1] // window.groups
            tiled.blocks[g].images(images, flat, channels, event, first, result, g * cols, tiled.effects)
    else:
        _by_patches(x, vectors, driven, tiled, window, event, first, out)
    return torch.from_numpy(out).to(x.dtype)


def _by_patches(
    x: Tensor,
    vectors: Float32,
    driven: DrivenInputs,
    tiled: Tiled,
    window: Window,
    event: int,
    first: int,
    out: Float32,
) -> None:
    """Unfold a few images at a time: for bias rows, three dimensions, uneven padding, and probes."""
    cols, rows, (b, c) = tiled.slot.layout.cols, tiled.slot.rows, x.shape[:2]
    places = out.shape[2:]
    pixels, size, each = math.prod(places), math.prod(x.shape[1:]), c // window.groups
    has_row = tiled.slot.bias is not None
    step = max(1, WORKSPACE // max(pixels * rows * len(driven.codes), 1))
    for start in range(0, b, step):
        part = slice(start, min(start + step, b))
        n = part.stop - start

        def unfolded(values: Float32, group: int, n: int = n) -> Float32:
            images = np.ascontiguousarray(values[:, :size]).reshape(n, c, *x.shape[2:])
            patches = window.patches(np.ascontiguousarray(images[:, group * each : (group + 1) * each]))
            if not has_row:
                return patches
            return np.concatenate([patches, np.repeat(values[:, size:], pixels, axis=0)], axis=1)

        unit = driven.unit if len(driven.unit) == 1 else np.repeat(driven.unit[part], pixels)
        for g in range(window.groups):
            codes = np.stack([unfolded(read[part], g) for read in driven.codes])
            seen = unfolded(vectors[part], g) if tiled.design.probe is not None else codes[0]
            y = tiled.read(g, seen, driven._replace(codes=codes, unit=unit), event, (first + start) * pixels)
            y = np.moveaxis(y.reshape(n, *places, cols), -1, 1)
            out[part, g * cols : (g + 1) * cols] = y


# Weights that know their array: products with them go through converters and read noise, tile by tile.
#
# The programmed weight of such an array is a tensor that knows its array. Where a linear layer or a convolution
# takes it, the product goes through the array's converters; every other operator sees the plain effective
# weight (and the report says which layers never went through their converters).


class OnTiles(Tensor):
    """A programmed weight, or a bias that is a row of the same array, with a reference to its array."""

    tiled: Tiled

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Products through the array; anything else on the plain weight."""
        kwargs = kwargs or {}
        rule = _RULES.get(func)
        if rule is not None:
            y = rule(func, args, kwargs)
            if y is not None:
                return y
        bare, named = torch.utils._pytree.tree_map(plain, (args, kwargs))
        result = func(*bare, **named)
        views = _views(result, args)
        if views is not None:
            return views
        if isinstance(result, Tensor) and result.is_floating_point():  # and no shape, no device
            for value in torch.utils._pytree.tree_leaves((args, kwargs)):
                if isinstance(value, OnTiles):
                    value.tiled.design.bypassed.add(value.tiled.slot.layer)
        return result

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles are plain tensors."""
        return plain(self).__reduce_ex__(protocol)


def _views(result: Any, args: Any) -> Any:
    """Views of a weight with a reference to its array: transposes, slices, chunks; None for any other result."""
    weight = args[0] if args and isinstance(args[0], OnTiles) else None
    found = result if isinstance(result, list | tuple) else (result,)
    if weight is None or not found or not all(isinstance(v, Tensor) for v in found):
        return None
    held = weight.untyped_storage()._cdata
    if any(v.untyped_storage()._cdata != held or v.dtype != weight.dtype for v in found):
        return None
    kept = [on_tiles(v, weight.tiled) for v in found]
    return (
        kept[0]
        if isinstance(result, Tensor)
        else type(result)(kept)
        if type(result) in (list, tuple)
        else None
    )


def _part(weight: OnTiles, into: int, out: int) -> tuple[int, int] | None:
    """The first word line and bit line of a 2-D view of a weight; None where it is not a part of one matrix.

    Args:
        weight: the view.
        into, out: its dimensions for inputs and outputs.
    """
    layout = weight.tiled.slot.layout
    if weight.dim() != 2 or layout.groups != 1 or layout.order not in ("out_in", "in_out"):
        return None
    rows, cols = layout.rows, layout.cols
    by_column = layout.order == "out_in"
    line = rows if by_column else cols
    steps = (1, line) if by_column else (line, 1)  # from a word line to the next, from a bit line to the next
    fits = [
        weight.shape[d] < 2 or weight.stride(d) == step for d, step in zip((into, out), steps, strict=True)
    ]
    across, along = divmod(int(weight.storage_offset()), line) if line else (0, 0)
    row, col = (along, across) if by_column else (across, along)
    inside = row + weight.shape[into] <= rows and col + weight.shape[out] <= cols
    return (row, col) if all(fits) and inside else None


def on_tiles(weight: Tensor, tiled: Tiled) -> Tensor:
    """The programmed weight with its array attached; gradients pass."""
    held = weight.as_subclass(OnTiles)
    held.tiled = tiled
    return held


def plain(value: Any) -> Any:
    """A tensor without its array; anything else unchanged."""
    return value.as_subclass(Tensor) if isinstance(value, OnTiles) else value


class _Product(torch.autograd.Function):
    """Forward: through the array. Backward: as if it were linear, straight through every rounding."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, row: Tensor | None, tiled: Tiled, forward: Any, linear: Any
    ) -> Tensor:
        ctx.save_for_backward(x, weight, row)
        ctx.linear = linear
        return forward(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        saved = ctx.saved_tensors
        with torch.enable_grad():
            inputs: list[Any] = [None if t is None else t.detach().requires_grad_(True) for t in saved]
            y = ctx.linear(*inputs)
            wanted = [t for t, need in zip(inputs, ctx.needs_input_grad[:3], strict=True) if need]
            found = iter(torch.autograd.grad(y, wanted, grads[0])) if wanted else iter(())
        needs = ctx.needs_input_grad[:3]
        return (*(next(found) if need else None for need in needs), None, None, None)


def _through(
    x: Tensor, weight: OnTiles, bias: Tensor | None, forward: Any, linear: Any, channel: int
) -> Tensor:
    """The product through the array plus a digital bias along dimension `channel`."""
    tiled = weight.tiled
    row = bias if isinstance(bias, OnTiles) and bias.tiled.slot is tiled.slot else None
    has_row = row is not None
    y = _Product.apply(
        plain(x), plain(weight), plain(row), tiled, lambda value: forward(value, has_row), linear
    )
    if bias is not None and row is None:
        shape = [1] * y.dim()
        shape[channel] = -1
        y = y + plain(bias).reshape(shape)
    return y


def _linear(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    named = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    return _with_part(named["input"], named["weight"], named.get("bias"), 1, F.linear)


def _matmul(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    if kwargs or len(args) != 2 or isinstance(args[0], OnTiles):
        return None
    return _with_part(args[0], args[1], None, 0, torch.matmul)


def _addmm(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    if kwargs or len(args) != 3 or isinstance(args[1], OnTiles) or args[0].dim() != 1:
        return None  # with factors, or with an added matrix
    return _with_part(args[1], args[2], args[0], 0, torch.matmul)


def _with_part(x: Tensor, weight: Any, bias: Tensor | None, into: int, linear: Any) -> Tensor | None:
    """Inputs (..., n) times a view of a weight whose dimension `into` is theirs; None where an array cannot read it."""
    part = _part(weight, into, 1 - into) if isinstance(weight, OnTiles) else None
    if part is None or (x.dim() == 0 or x.shape[-1] != weight.shape[into]):
        return None
    tiled, (first_row, first_col), count = weight.tiled, part, weight.shape[1 - into]
    layout = tiled.slot.layout
    whole = count == layout.cols
    if isinstance(bias, OnTiles) and not (whole and bias.numel() == count):
        bias = plain(bias)  # what its row holds for these columns, added digitally

    def forward(value: Tensor, row: bool) -> Tensor:
        flat = value.reshape(
            math.prod(value.shape[:-1]), value.shape[-1]
        )  # no -1: there may be nothing in it
        leading = len(value) if value.dim() > 1 else 1
        event, first = next_read(tiled.design, tiled.slot.name, len(flat), leading)
        if flat.shape[1] != layout.rows:  # the other word lines are not driven
            flat = F.pad(flat, (first_row, layout.rows - first_row - flat.shape[1]))
        vectors, driven = tiled.drive(flat, row)
        y = tiled.read(0, vectors, driven, event, first)
        y = y if whole else np.ascontiguousarray(y[:, first_col : first_col + count])
        return torch.from_numpy(y).to(value.dtype).reshape(*value.shape[:-1], y.shape[1])

    def same(value: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        return linear(value, w) if b is None else linear(value, w) + b  # type: ignore[no-any-return]

    return _through(x, weight, bias, forward, same, -1)


def _convolution(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
    named = dict(zip(names, args, strict=False)) | kwargs
    return _convolve(named, lambda x, w, b: func(x, w, b, *args[3:], **_rest(kwargs)))


def _general_convolution(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor | None:
    """aten.convolution, with `transposed` and `output_padding` before the groups."""
    names = (
        "input", "weight", "bias", "stride", "padding", "dilation", "transposed", "output_padding", "groups"
    )  # fmt: skip
    named = dict(zip(names, args, strict=False)) | kwargs
    if named["transposed"]:
        return None
    return _convolve(named, lambda x, w, b: func(x, w, b, *args[3:], **_rest(kwargs)))


def _rest(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in kwargs.items() if k not in ("input", "weight", "bias")}


def _convolve(named: dict[str, Any], same: Callable[..., Tensor]) -> Tensor | None:
    x, weight, bias = named["input"], named["weight"], named.get("bias")
    if not isinstance(weight, OnTiles) or weight.tiled.slot.layout.order != "out_in":
        return None
    if math.prod(weight.shape) != math.prod(weight.tiled.slot.layout.shape) or not weight.is_contiguous():
        return None  # a part of it
    dims = weight.dim() - 2
    if x.dim() == dims + 1:  # one image without a batch
        y = _convolve(named | {"input": x.unsqueeze(0)}, same)
        return None if y is None else y.squeeze(0)
    kernel = tuple(weight.shape[2:])
    dilation = _each(named.get("dilation", 1), dims)
    how = Window(
        kernel, _each(named.get("stride", 1), dims), _padding(named.get("padding", 0), kernel, dilation),
        dilation, int(named.get("groups", 1)),
    )  # fmt: skip
    tiled = weight.tiled
    return _through(
        x, weight, bias, lambda value, row: convolve(value, tiled, how, row),
        lambda x, w, b=None: same(x, w, b), 1,
    )  # fmt: skip


def _each(value: Any, dims: int) -> tuple[int, ...]:
    values = list(value) if isinstance(value, list | tuple) else [value]
    return tuple(int(v) for v in (values * dims if len(values) == 1 else values))


def _padding(value: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    if value == "valid":
        return ((0, 0),) * len(kernel)
    if value == "same":  # torch puts what is odd at the end
        totals = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((p, p) for p in _each(value, len(kernel)))


# torch hands the whole of attention to a tensor of another class: with this name replaced, its products come singly.
attention_by_products = types.FunctionType(
    F.multi_head_attention_forward.__code__,
    {**vars(F), "has_torch_function": lambda _: False},
    argdefs=F.multi_head_attention_forward.__defaults__,
)


def _attention(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    return attention_by_products(*args, **kwargs)


_ATEN = torch.ops.aten
_RULES: dict[Any, Callable[..., Any]] = {
    F.linear: _linear,
    F.multi_head_attention_forward: _attention,
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm), _matmul),
    **dict.fromkeys((_ATEN.matmul.default, _ATEN.mm.default), _matmul),
    **dict.fromkeys((torch.addmm, Tensor.addmm, _ATEN.addmm.default), _addmm),
    _ATEN.linear.default: _linear,
    _ATEN.convolution.default: _general_convolution,
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d, F.conv1d, F.conv2d, F.conv3d), _convolution),
    **{
        getattr(getattr(_ATEN, f"conv{d}d"), kind): _convolution
        for d in (1, 2, 3)
        for kind in ("default", "padding")
    },
}
"""Operators that go through the array, by what calls them."""
