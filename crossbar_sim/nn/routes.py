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
    return all(t is None or (t.device.type == "cpu" and t.dtype == torch.float32) for t in tensors) and not (
        torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear by the machine's fastest float32 GEMM: x (..., in), weight (out, in), bias (out,)."""
    if onednn_works() and x.dim() >= 2 and x.numel() and weight.dim() == 2 and _plain_cpu(x, weight, bias):
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return y
    return F.linear(x, weight, bias)


def _pair(value: Any) -> tuple[int, int]:
    items = list(value) if isinstance(value, list | tuple) else [value]
    return (items[0], items[-1])


def max_pool2d(
    x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """F.max_pool2d as maxima of slices, rows first: x (..., c, h, w)."""
    stride = kernel_size if stride is None or stride == [] else stride
    (kh, kw), (sh, sw), (ph, pw) = _pair(kernel_size), _pair(stride), _pair(padding)
    plain = _pair(dilation) == (1, 1) and not ceil_mode and not return_indices and kh * kw > 1
    if not (plain and x.dim() in (3, 4) and _plain_cpu(x) and min(x.shape) > 0):
        return F.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    if 2 * ph > kh or 2 * pw > kw:  # torch refuses it, in its own words
        return F.max_pool2d(x, kernel_size, stride, padding)
    if ph or pw:
        x = F.pad(x, (pw, pw, ph, ph), value=float("-inf"))
    rows, cols = (x.shape[-2] - kh) // sh + 1, (x.shape[-1] - kw) // sw + 1
    if rows < 1 or cols < 1:
        return F.max_pool2d(x, kernel_size, stride, padding)
    y = _slices(x, -2, rows, kh, sh)
    return _slices(y, -1, cols, kw, sw).contiguous()


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
    """Inside, torch's linear and max_pool2d take the fast routes, whoever calls them (this thread only)."""

    def __init__(self) -> None:
        super().__init__()
        self.routes = _routes()

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the route of `func`, or `func` itself."""
        return self.routes.get(func, func)(*args, **(kwargs or {}))
