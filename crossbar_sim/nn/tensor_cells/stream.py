"""The random numbers of docs/randomness.md on tensors, for any device: words bit for bit, normals in float32.

Plain torch: int64 products that wrap around, and buffers that are written in place.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.stream import Stream

_LOW = 0xFFFFFFFF
_M0, _M1 = 0xD2511F53, 0xCD9E8D57


def parts(n: int, device: torch.device | str) -> list[slice]:
    """0 .. n cut where chunks of cells begin: on the CPU their buffers fit the cache, elsewhere the memory."""
    return threads.chunks(n, 1 << (17 if torch.device(device).type == "cpu" else 25))


def in_parts(n: int, device: torch.device | str, part: Callable[[slice], object]) -> None:
    """Call `part` on every chunk of 0 .. n, on all threads where that is the CPU."""
    if torch.device(device).type == "cpu":
        threads.run(part, parts(n, device))
        return
    for chunk in parts(n, device):
        part(chunk)


def _counters(first: int, count: int, stream: Stream, device: torch.device | str) -> list[Tensor]:
    """The four words of `count` counters from `first` on: int64, right in their lower halves alone.

    In the first two rounds parts of the state are the same for all counters, and plain integers.
    """
    c0, c1, c2, c3, high = (torch.empty(count, dtype=torch.int64, device=device) for _ in range(5))
    k0, k1 = stream.k0, stream.k1
    torch.arange(first, first + count, out=c0)
    a0, a1 = (_M1 * stream.chip >> 32) ^ stream.plane ^ k0, _M1 * stream.chip & _LOW
    c0.mul_(_M0)
    torch.bitwise_right_shift(c0, 32, out=c2).bitwise_xor_(stream.event ^ k1)
    k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    c2.bitwise_and_(_LOW).mul_(_M1)
    torch.bitwise_right_shift(c2, 32, out=c1).bitwise_xor_(a1 ^ k0)
    c0.bitwise_xor_((_M0 * a0 >> 32) ^ k1)
    c0, c1, c2, c3 = c1, c2, c0, c3.fill_(_M0 * a0 & _LOW)
    for _ in range(8):
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
        c0.bitwise_and_(_LOW).mul_(_M0)
        c2.bitwise_and_(_LOW).mul_(_M1)
        c1.bitwise_xor_(k0).bitwise_xor_(torch.bitwise_right_shift(c2, 32, out=high))
        c3.bitwise_xor_(k1).bitwise_xor_(torch.bitwise_right_shift(c0, 32, out=high))
        c0, c1, c2, c3 = c1, c2, c3, c0
    return [c0, c1, c2, c3]


def _drawn(
    n: int, start: int, device: torch.device | str, kind: torch.dtype, fill: Callable[[int, int, Any], None]
) -> Tensor:
    """The cells start .. start + n, by groups: `fill(first counter, counters, out (groups, 4, 64))`."""
    out = torch.empty(-(-n // 256), 4, 64, dtype=kind, device=device)

    def part(cells: slice) -> None:
        mine = out[cells.start // 256 : cells.stop // 256]
        fill((start + cells.start) // 4, 64 * len(mine), mine)

    in_parts(256 * len(out), device, part)
    return out.view(-1)[:n]


def words(n: int, stream: Stream, device: torch.device | str = "cpu", start: int = 0) -> Tensor:
    """The uint32 of cells start .. start + n as int64, shape (n,); start is a multiple of 256."""

    def fill(first: int, count: int, out: Tensor) -> None:
        for k, c in enumerate(_counters(first, count, stream, device)):
            torch.bitwise_and(c.view(-1, 64), _LOW, out=out[:, k])

    return _drawn(n, start, device, torch.int64, fill)


def normals(n: int, stream: Stream, device: torch.device | str = "cpu", start: int = 0) -> Tensor:
    """Standard normals of cells start .. start + n, float32, shape (n,); start is a multiple of 256.

    The core's operations, with torch's logarithm and sine: within 1e-6 of max(abs(z), 1).
    """

    def fill(first: int, count: int, out: Tensor) -> None:
        four = _counters(first, count, stream, device)
        radius, t, other = (torch.empty(count, device=device) for _ in range(3))
        b = torch.empty(count, dtype=torch.int32, device=device)
        for k in (0, 2):
            radius.copy_(four[k].bitwise_and_(_LOW))
            radius.mul_(2.0**-32).add_(2.0**-33).log_().mul_(-2).sqrt_()
            b.copy_(four[k + 1])
            t.copy_(b << 1).mul_(2.0**-32)
            radius.view(torch.int32).bitwise_or_(b.bitwise_and_(-(2**31)))  # half a turn
            torch.abs(t, out=other).neg_().add_(0.5).mul_(math.pi).sin_()
            torch.mul(other.view(-1, 64), radius.view(-1, 64), out=out[:, k])
            t.mul_(math.pi).sin_()
            torch.mul(t.view(-1, 64), radius.view(-1, 64), out=out[:, k + 1])

    return _drawn(n, start, device, torch.float32, fill)


def uniform(w: Tensor) -> Tensor:
    """Words as float32 values in (0, 1]; the product and the sum are rounded once each, as the core's are."""
    return w.float().mul_(2.0**-32).add_(2.0**-33)


def symmetric_uniform(n: int, stream: Stream, device: torch.device | str = "cpu", start: int = 0) -> Tensor:
    """Uniform numbers of mean 0 and variance 1, float32."""
    return uniform(words(n, stream, device, start)).sub_(0.5).mul_(math.sqrt(12))


def laplace(n: int, stream: Stream, device: torch.device | str = "cpu", start: int = 0) -> Tensor:
    """Laplace numbers of mean 0 and variance 1, float32."""
    w = words(n, stream, device, start)
    magnitude = uniform((w << 1) & _LOW).log_().mul_(-math.sqrt(0.5))
    return torch.where(w >= 2**31, -magnitude, magnitude)
