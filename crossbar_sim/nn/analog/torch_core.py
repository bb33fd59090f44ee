"""The conductances of `crossbar.hardware` in plain torch, for any device: the same random numbers and physics.

The integer words are the core's bit for bit. Logarithms, cosines and exponentials are torch's, in float64, so
conductances agree with the CPU kernels to the last float32 places (tested on the CPU: relative 5e-7 for the
log-normal law). Drift laws and programming noise without a form here are computed on the CPU by their `cells`.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossbar_sim.crossbar import drift as laws
from crossbar_sim.crossbar.devices import MeasuredNoise, PolynomialNoise, ProgrammingModel, ProgrammingNoise
from crossbar_sim.crossbar.drift import DriftModel
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.mapping import Mapping
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key

_LOW = 0xFFFFFFFF


def _times(m: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of m x for 32-bit m and x held in int64, without overflow into the sign."""
    low = (m & 0xFFFF) * x
    high = (m >> 16) * x + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def words(n: int, stream: Stream, device: torch.device | str = "cpu", start: int = 0) -> Tensor:
    """The uint32 of cells start .. start + n as int64, shape (n,), start a multiple of 256; docs/randomness.md."""
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


def _lognormal(law: laws.LogNormalDrift, g: Tensor, stream: Stream) -> Tensor:
    return g * torch.exp(law.sigma * normals(g.numel(), stream, g.device)).float()


def _retention(law: laws.RetentionDrift, g: Tensor, stream: Stream) -> Tensor:
    exponent = law.nu + law.nu_sigma * normals(g.numel(), stream, g.device)
    return g * torch.pow(torch.tensor(law.time / law.t0, device=g.device).double(), -exponent).float()


def _relaxation(law: laws.RelaxationShift, g: Tensor, stream: Stream) -> Tensor:
    return (g + law.mean + law.spread * normals(g.numel(), stream, g.device)).clamp(min=0).float()


def _measured_relaxation(law: laws.MeasuredRelaxation, g: Tensor, stream: Stream) -> Tensor:
    r = g.double() / law.reference
    mean, spread = (sum(c * r**k for k, c in enumerate(part)) for part in law.at_time)
    z = normals(g.numel(), stream, g.device)
    return (g + mean + torch.as_tensor(spread).abs() * z).clamp(min=0).float()


def _gamma(law: laws.GammaDrift, g: Tensor, stream: Stream) -> Tensor:
    table = torch.from_numpy(law.table()).to(g.device)
    position = (normals(g.numel(), stream, g.device) + law.Z) * (law.PIECES / (2 * law.Z))
    piece = position.long().clamp(0, law.PIECES - 1)
    c, t = table[piece].double(), position - piece
    return g * torch.exp2(c[:, 0] + t * (c[:, 1] + t * (c[:, 2] + t * c[:, 3]))).float()


def _pareto(law: laws.ParetoDrift, g: Tensor, stream: Stream) -> Tensor:
    w = words(g.numel(), stream, g.device)
    x = (1 - 1 / law.alpha) * uniform(w) ** (-1 / law.alpha)
    return g * torch.where(w == 0, torch.full_like(x, 2.0 ** (32 / law.alpha)), x).float()


def _bernoulli(law: laws.BernoulliDrift, g: Tensor, stream: Stream) -> Tensor:
    return torch.where(words(g.numel(), stream, g.device) < int(law.p * 2**32), torch.zeros_like(g), g)


def _uniform(n: int, stream: Stream, device: torch.device) -> Tensor:
    """Uniform numbers of mean 0 and variance 1."""
    return (uniform(words(n, stream, device)) - 0.5) * math.sqrt(12)


def _laplace(n: int, stream: Stream, device: torch.device) -> Tensor:
    """Laplace numbers of mean 0 and variance 1."""
    w = words(n, stream, device)
    magnitude = -torch.log(uniform((w << 1) & _LOW)) / math.sqrt(2)
    return torch.where(w >= 2**31, -magnitude, magnitude)


def _spread(draws: Callable[[int, Stream, torch.device], Tensor]) -> Callable[[Any, Tensor, Stream], Tensor]:
    """Eq. (9) or (10) with these draws."""

    def drifted(law: Any, g: Tensor, stream: Stream) -> Tensor:
        d = law.sigma * draws(g.numel(), stream, g.device)
        return (g * (1 + d) if law.multiplicative else g + d).clamp(min=0).float()

    return drifted


_DRIFTS: dict[type[DriftModel], Callable[[Any, Tensor, Stream], Tensor]] = {
    laws.LogNormalDrift: _lognormal,
    laws.NormalDrift: _spread(normals),
    laws.NormalShift: _spread(normals),
    laws.UniformDrift: _spread(_uniform),
    laws.UniformShift: _spread(_uniform),
    laws.LaplaceDrift: _spread(_laplace),
    laws.LaplaceShift: _spread(_laplace),
    laws.GammaDrift: _gamma,
    laws.ParetoDrift: _pareto,
    laws.BernoulliDrift: _bernoulli,
    laws.RetentionDrift: _retention,
    laws.RelaxationShift: _relaxation,
    laws.MeasuredRelaxation: _measured_relaxation,
}
"""Laws that are computed on the device of the weights; all others by their `cells`, on the CPU."""


def drift(law: DriftModel, g: Tensor, stream: Stream) -> Tensor:
    """Conductances (n,) after drift, as `law.cells` computes them for a whole plane."""
    if type(law) in _DRIFTS:  # a subclass has its own `cells`
        return _DRIFTS[type(law)](law, g, stream)
    before = g.detach().cpu().contiguous().numpy()
    after = np.empty_like(before)
    law.apply_plane(before, after, stream)
    return torch.from_numpy(after).to(g.device)


def _program(noise: ProgrammingModel, g: Tensor, z: Tensor, g_max: float) -> Tensor:
    """Eq. (6) for a whole plane, or the `cells` of a noise that has no form in torch, on the CPU."""
    if type(noise) is ProgrammingNoise:
        return (g + noise.sigma * g_max * z).clamp(min=0).float()
    if type(noise) in (PolynomialNoise, MeasuredNoise):
        assert isinstance(noise, PolynomialNoise)
        r = g.double() / noise.reference
        sigma = sum(c * r**k for k, c in enumerate(noise.coefficients))
        mean = sum(c * r**k for k, c in enumerate(getattr(noise, "mean", ())))  # of MeasuredNoise alone
        return (g + mean + torch.as_tensor(sigma).clamp(min=0) * z).clamp(min=0).float()
    after = np.empty(g.numel(), np.float32)
    noise.cells(g.detach().cpu().contiguous().numpy(), z.float().cpu().numpy(), g_max, after)
    return torch.from_numpy(after).to(g.device)


def _target(mapping: Mapping, columns: Tensor, scale: Tensor, sign: float) -> Tensor:
    """Eq. (2) to (4): the plane's targets, flat; the reference column is appended by the caller."""
    if mapping.levels is None:
        g = mapping.middle + sign * scale.reshape(-1, 1) * columns
        return g.clamp(mapping.g_min, mapping.g_max).reshape(-1)
    # Double precision and the rounding rule of the core: a tie rounded differently would be a whole step off.
    x = columns.double() * (scale.double() * (sign / mapping.step)).reshape(-1, 1)
    x = mapping.middle_level + torch.maximum(x, x * (1 + 2**-23 + 2**-40))
    level = torch.floor(x + 0.5).clamp(0, mapping.levels - 1)
    low, step = float(np.float32(mapping.g_min)), float(np.float32(mapping.step))
    return (level * step + low).float().clamp(max=mapping.g_max).reshape(-1)


def _scale(mapping: Mapping, columns: Tensor) -> Tensor:
    """Eq. (1), computed by the core."""
    scale = mapping.scale(columns.detach().cpu().contiguous().numpy())
    return torch.from_numpy(scale).to(columns.device)


def _planes(
    hardware: Hardware, columns: Tensor, scale: Tensor, key: Key, chip: int, plane: int
) -> tuple[Tensor, Tensor, Tensor]:
    """One plane after drift, its healthy cells, and the drift factor of each cell: flat."""
    mapping, device = hardware.mapping, columns.device
    sign = -1.0 if mapping.planes_per_copy == 2 and plane % 2 else 1.0
    g = _target(mapping, columns, scale, sign)
    if mapping.planes_per_copy == 1:
        zeros = torch.zeros(1, columns.shape[1], device=device)
        g = torch.cat([g, _target(mapping, zeros, scale[:1], 1.0)])
    n = g.numel()
    healthy = torch.ones(n, dtype=torch.bool, device=device)
    if hardware.programming is not None:
        z = normals(n, Stream.of(key.fold("programming"), chip, plane), device)
        g = _program(hardware.programming, g, z, mapping.g_max)
    if hardware.stuck is not None:
        w = words(n, Stream.of(key.fold("stuck"), chip, plane), device)
        off, on = w < int(hardware.stuck.off * 2**32), w >= 2**32 - int(hardware.stuck.on * 2**32)
        g = torch.where(on, torch.full_like(g, mapping.g_max), g)
        g, healthy = torch.where(off, torch.full_like(g, mapping.g_min), g), ~(on | off)
    factor = torch.ones(n, device=device)
    if hardware.drift is not None:
        together = plane - plane % mapping.planes_per_copy if hardware.drift_per == "weight" else plane
        stream = Stream.of(key.fold("drift"), chip, together)
        g = drift(hardware.drift, g, stream)
        if hardware.drift.multiplicative:
            factor = drift(hardware.drift, factor, stream)
    return g, healthy, factor


def check(hardware: Hardware) -> None:
    """Refuse designs that only the CPU can simulate.

    Raises:
        InputError: naming what is simulated on the CPU only.
    """
    alone = [*hardware.readout_effects]
    alone += ["wires"] * (hardware.wires is not None) + ["cell_bits"] * (
        hardware.mapping.cell_bits is not None
    )
    if alone:
        raise InputError(f"{', '.join(alone)}: simulated on the CPU only, use --device cpu")


def effective_weight(hardware: Hardware, columns: Tensor, key: Key, chip: int) -> Tensor:
    """`Hardware.effective_weight` on the device of `columns` (cols, rows) float32.

    Raises:
        InputError: for effects that only the CPU simulates.
    """
    check(hardware)
    mapping = hardware.mapping
    scale = _scale(mapping, columns)
    total = torch.zeros_like(columns)
    for first in range(0, mapping.planes, mapping.planes_per_copy):
        g = _planes(hardware, columns, scale, key, chip, first)[0]
        if mapping.planes_per_copy == 2:
            minus = _planes(hardware, columns, scale, key, chip, first + 1)[0]
            total += (g - minus).reshape(columns.shape)
        else:
            total += g[: columns.numel()].reshape(columns.shape) - g[columns.numel() :]
    return total / (scale.reshape(-1, 1) * mapping.copies)


def slope(hardware: Hardware, columns: Tensor, key: Key, chip: int) -> Tensor:
    """`crossbar.hardware.slope` on the device of `columns`, in their shape."""
    mapping = hardware.mapping
    scale = _scale(mapping, columns)
    total = torch.zeros(columns.numel(), device=columns.device)
    for first in range(0, mapping.planes, mapping.planes_per_copy):
        parts = []
        for plane in range(first, first + mapping.planes_per_copy):
            _, healthy, factor = _planes(hardware, columns, scale, key, chip, plane)
            parts.append((factor * healthy)[: columns.numel()])
        total += torch.where(columns.reshape(-1) >= 0, parts[0], parts[-1])
    limit = mapping.span * (mapping.g_max - mapping.g_min) / scale.reshape(-1, 1)
    return total.reshape(columns.shape) / mapping.copies * (columns.abs() <= limit * (1 + 1e-6))
