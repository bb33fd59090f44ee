"""Faster ways through two torch operators on the CPU, with the plain operator wherever they do not apply.

Linear layers go through oneDNN, which uses the whole core where torch's default GEMM leaves up to half of an AMD
one idle; max pooling becomes maxima of slices, equal to the bit and several times faster than torch's own. The
routes are chosen once per process by rule, not by a stopwatch, so that the same machine gives the same bits, and
checked against the plain route before use.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from crossbar_sim.nn.analog.products import OnTiles


@functools.cache
def onednn_works() -> bool:
    """Whether oneDNN's linear exists here and agrees with F.linear; it is a private operator of torch."""
    try:
        x = (torch.arange(7 * 33, dtype=torch.float32) % 17 - 8).reshape(7, 33) / 8
        w = (torch.arange(5 * 33, dtype=torch.float32) % 13 - 6).reshape(5, 33) / 8
        b = torch.arange(5, dtype=torch.float32)
        y = torch.ops.mkldnn._linear_pointwise(x, w, b, "none", [], "")
        return bool(torch.allclose(y, x @ w.T + b, rtol=1e-5, atol=1e-5))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def _plain_cpu(*tensors: Tensor | None) -> bool:
    if any(isinstance(t, OnTiles) for t in tensors):  # a product through converters
        return False
    return all(t is None or (t.device.type == "cpu" and t.dtype == torch.float32) for t in tensors) and not (
        torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    )


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear by the machine's fastest float32 GEMM: input (..., in), weight (out, in), bias (out,)."""
    if isinstance(weight, OnTiles):
        return F.linear(input, weight, bias)
    fits = input.dim() >= 2 and weight.dim() == 2 and input.shape[-1] == weight.shape[1]
    fits = fits and input.numel() > 0 and weight.numel() > 0
    # oneDNN reads a bias with strides as if it had none, and wrong shapes are for torch to refuse.
    fits = fits and (bias is None or (bias.shape == weight.shape[:1] and bias.is_contiguous()))
    if fits and _plain_cpu(input, weight, bias):
        return product(input, weight, bias)
    return F.linear(input, weight, bias)


SMALL = 1 << 21
"""Multiply-adds up to which torch's own product is the faster one: oneDNN takes 10 us to begin."""


def product(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`linear` without checks: float32 on the CPU, no gradient, contiguous weight and bias."""
    if input.numel() * weight.shape[0] <= SMALL or not onednn_works():
        return F.linear(input, weight, bias)
    y: Tensor = torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")
    return y


def _pair(value: Any) -> tuple[int, int] | None:
    """(rows, cols) from torch's n, [n] or [rows, cols]; None for anything else."""
    items = list(value) if isinstance(value, list | tuple) else [value]
    return (items[0], items[-1]) if len(items) in (1, 2) and all(type(n) is int for n in items) else None


def max_pool2d(
    input: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """F.max_pool2d as maxima of slices, rows first: input (..., c, h, w); torch refuses what is impossible."""
    stride = kernel_size if stride is None or stride in ([], ()) else stride
    kernel, step, pad = _pair(kernel_size), _pair(stride), _pair(padding)
    plain = _pair(dilation) == (1, 1) and not ceil_mode and not return_indices
    plain = plain and input.dim() in (3, 4) and _plain_cpu(input) and min(input.shape) > 0
    if not plain or kernel is None or step is None or pad is None or not _possible(input, kernel, step, pad):
        torchs: Any = F.max_pool2d
        return torchs(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    (kh, kw), (sh, sw), (ph, pw), x = kernel, step, pad, input
    if ph or pw:
        x = F.pad(x, (pw, pw, ph, ph), value=float("-inf"))
    rows, cols = (x.shape[-2] - kh) // sh + 1, (x.shape[-1] - kw) // sw + 1
    y = _slices(x, -2, rows, kh, sh)
    return _slices(y, -1, cols, kw, sw).contiguous()


def _possible(x: Tensor, kernel: tuple[int, int], step: tuple[int, int], pad: tuple[int, int]) -> bool:
    """Whether torch accepts the arguments, and the window has more than one value."""
    per_side = zip(x.shape[-2:], kernel, step, pad, strict=True)
    fits = all(k > 0 and s > 0 and 0 <= 2 * p <= k <= n + 2 * p for n, k, s, p in per_side)
    return fits and kernel != (1, 1)


def _slices(x: Tensor, dim: int, n: int, k: int, stride: int) -> Tensor:
    """The maximum over k neighbours along `dim`, n outputs `stride` apart."""
    span = (n - 1) * stride + 1
    parts = [x.narrow(dim, i, span) for i in range(k)]
    steps = [slice(None)] * x.dim()
    steps[dim] = slice(None, None, stride)
    parts = [part[tuple(steps)] for part in parts]
    y = torch.maximum(parts[0], parts[1]) if k > 1 else parts[0]
    for part in parts[2:]:
        torch.maximum(y, part, out=y)
    return y


def _routes() -> dict[Any, Callable[..., Any]]:
    routes: dict[Any, Callable[..., Any]] = {
        F.linear: linear,
        torch.ops.aten.linear.default: linear,
        F.max_pool2d: max_pool2d,
        torch.max_pool2d: max_pool2d,
        torch.ops.aten.max_pool2d.default: max_pool2d,
    }
    return routes


class FastRoutes(TorchFunctionMode):
    """Context in which torch's linear and max_pool2d take the fast routes (this thread only)."""

    def __init__(self) -> None:
        super().__init__()
        self.routes = _routes()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the route of `func`, or `func` itself."""
        return self.routes.get(func, func)(*args, **(kwargs or {}))
