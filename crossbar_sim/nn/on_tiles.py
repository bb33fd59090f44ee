"""Weights that know their array: products with them go through converters and read noise, tile by tile.

The programmed weight of such an array is a tensor that knows its array. Where a linear layer or a convolution takes
it, whoever calls, the product goes through the array's converters; every other operator sees the plain effective
weight (and the report says which layers never went through their converters).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from crossbar_sim.nn.reading import next_read
from crossbar_sim.nn.tiled import Tiled
from crossbar_sim.nn.tiled_convolution import Window, convolve


class OnTiles(Tensor):
    """A programmed weight, or the bias that is a row of the same array, which knows its array."""

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
        if isinstance(result, Tensor) and result.is_floating_point():  # and no shape, no device
            for value in torch.utils._pytree.tree_leaves((args, kwargs)):
                if isinstance(value, OnTiles):
                    value.tiled.design.past.add(value.tiled.slot.layer)
        return result

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles are plain tensors."""
        return plain(self).__reduce_ex__(protocol)


def on_tiles(weight: Tensor, tiled: Tiled) -> Tensor:
    """The programmed weight with its array attached; gradients pass."""
    held = weight.as_subclass(OnTiles)
    held.tiled = tiled
    return held


def plain(value: Any) -> Any:
    """A tensor without its array; anything else as it is."""
    return value.as_subclass(Tensor) if isinstance(value, OnTiles) else value


class _Product(torch.autograd.Function):
    """Through the array forward; backward as if it had been linear: straight through every rounding."""

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
    x, weight, bias = named["input"], named["weight"], named.get("bias")
    if not isinstance(weight, OnTiles) or weight.tiled.slot.layout.order != "out_in" or weight.dim() != 2:
        return None
    tiled = weight.tiled

    def forward(value: Tensor, row: bool) -> Tensor:
        flat = value.reshape(
            math.prod(value.shape[:-1]), value.shape[-1]
        )  # no -1: there may be nothing in it
        leading = len(value) if value.dim() > 1 else 1
        event, first = next_read(tiled.design, tiled.slot.name, len(flat), leading)
        vectors, driven = tiled.drive(flat, row)
        y = tiled.read(0, vectors, driven, event, first)
        return torch.from_numpy(y).to(value.dtype).reshape(*value.shape[:-1], y.shape[1])

    return _through(x, weight, bias, forward, F.linear, -1)


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


_ATEN = torch.ops.aten
_RULES: dict[Any, Callable[..., Tensor | None]] = {
    F.linear: _linear,
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
