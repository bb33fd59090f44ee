"""The random numbers of docs/randomness.md on tensors, for any device: words bit for bit, normals in float64."""

import math

import torch
from torch import Tensor

from crossbar_sim.crossbar.stream import Stream

_LOW = 0xFFFFFFFF


def _times(m: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of m x for 32-bit m and x held in int64, without overflow into the sign."""
    low = (m & 0xFFFF) * x
    high = (m >> 16) * x + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def words(n: int, stream: Stream, device: torch.device | str = "cpu", start: int = 0) -> Tensor:
    """The uint32 of cells start .. start + n as int64, (n,), start a multiple of 256; docs/randomness.md."""
    counters = start // 4 + torch.arange(-(-n // 256) * 64, device=device, dtype=torch.int64)
    c0 = counters
    c1, c2, c3 = (torch.full_like(counters, value) for value in (stream.plane, stream.chip, stream.event))
    k0, k1 = stream.k0, stream.k1
    for _ in range(10):
        high0, low0 = _times(0xD2511F53, c0)
        high1, low1 = _times(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    runs = torch.stack([c.reshape(-1, 64) for c in (c0, c1, c2, c3)], dim=1)
    return runs.reshape(-1)[:n]


def uniform(w: Tensor) -> Tensor:
    """Words as float32 values in (0, 1], rounded as the core does, in float64."""
    rounded = w.float().double()
    return (rounded * 2.0**-32 + 2.0**-33).float().double()


def normals(n: int, stream: Stream, device: torch.device | str = "cpu", start: int = 0) -> Tensor:
    """Standard normals of cells start .. start + n, float64, shape (n,); start is a multiple of 256."""
    whole = -(-n // 256) * 256
    runs = words(whole, stream, device, start).reshape(-1, 4, 64)
    a, b = runs[:, 0::2], runs[:, 1::2]
    radius = torch.sqrt(-2 * torch.log(uniform(a)))
    signed = (b << 1) & _LOW
    angle = torch.where(signed >= 2**31, signed - 2**32, signed).float().double() * 2.0**-32 * math.pi
    radius = torch.where(b >= 2**31, -radius, radius)
    pairs = torch.stack([radius * torch.cos(angle), radius * torch.sin(angle)], dim=2)
    return pairs.reshape(-1)[:n]


def symmetric_uniform(n: int, stream: Stream, device: torch.device) -> Tensor:
    """Uniform numbers of mean 0 and variance 1."""
    return (uniform(words(n, stream, device)) - 0.5) * math.sqrt(12)


def laplace(n: int, stream: Stream, device: torch.device) -> Tensor:
    """Laplace numbers of mean 0 and variance 1."""
    w = words(n, stream, device)
    magnitude = -torch.log(uniform((w << 1) & _LOW)) / math.sqrt(2)
    return torch.where(w >= 2**31, -magnitude, magnitude)
