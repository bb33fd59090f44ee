"""Drift laws and programming noise on tensors, chunk by chunk: `cells` of `crossbar.drift` and `crossbar.devices`.

Everything is float32, in the core's order. A law or noise without a form here is computed on the CPU by its `cells`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossbar_sim.crossbar import drift as laws
from crossbar_sim.crossbar.devices import MeasuredNoise, PolynomialNoise, ProgrammingModel, ProgrammingNoise
from crossbar_sim.crossbar.drift import DriftModel
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.nn.tensor_cells import fused
from crossbar_sim.nn.tensor_cells.stream import in_parts, laplace, normals, symmetric_uniform, uniform, words

Law = Callable[[Any, Tensor, Stream, int], Tensor]
"""(law, conductances (n,), stream, number of the first cell) to conductances (n,)."""


def _lognormal(
    law: laws.LogNormalDrift | laws.RetentionDrift, g: Tensor, stream: Stream, start: int
) -> Tensor:
    factor, high, low = (float(rate) for rate in law.rates)
    z = normals(g.numel(), stream, g.device, start)
    z = z.mul_((high + low) * math.log(2)).exp_()
    return z.mul_(g) if factor == 1 else z.mul_(g * factor)


def _polynomial(coefficients: Sequence[float], r: Tensor) -> Tensor:
    """sum_k coefficients[k] r^k, lowest power first."""
    total = torch.full_like(r, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        total.mul_(r).add_(c)
    return total


def _relaxation(law: laws.RelaxationShift, g: Tensor, stream: Stream, start: int) -> Tensor:
    z = normals(g.numel(), stream, g.device, start)
    return z.mul_(law.spread).add_(law.mean).add_(g).clamp_(min=0)


def _measured_relaxation(law: laws.MeasuredRelaxation, g: Tensor, stream: Stream, start: int) -> Tensor:
    r = g * (1 / law.reference)
    mean, spread = (_polynomial(part, r) for part in law.at_time)
    z = normals(g.numel(), stream, g.device, start)
    return z.mul_(spread.abs_()).add_(mean).add_(g).clamp_(min=0)


def _gamma(law: laws.GammaDrift, g: Tensor, stream: Stream, start: int) -> Tensor:
    table = torch.from_numpy(laws.gamma_table(law)).to(g.device).view(-1, 4)
    position = normals(g.numel(), stream, g.device, start).add_(law.Z).mul_(law.PIECES / (2 * law.Z))
    piece = position.long().clamp_(0, law.PIECES - 1)
    c, t = table[piece], position.sub_(piece)
    q = c[:, 0] + t * (c[:, 1] + t * (c[:, 2] + t * c[:, 3]))
    return q.clamp_(-120, 120).exp2_().mul_(g)


def _pareto(law: laws.ParetoDrift, g: Tensor, stream: Stream, start: int) -> Tensor:
    w = words(g.numel(), stream, g.device, start)
    x = uniform(w).pow_(-1 / law.alpha).mul_(1 - 1 / law.alpha)
    return x.masked_fill_(w == 0, 2.0 ** (32 / law.alpha)).mul_(g)


def _bernoulli(law: laws.BernoulliDrift, g: Tensor, stream: Stream, start: int) -> Tensor:
    return g.masked_fill(words(g.numel(), stream, g.device, start) < int(law.p * 2**32), 0)


def _spread(draws: Callable[[int, Stream, torch.device, int], Tensor]) -> Law:
    """Eq. (9) or (10) with these draws."""

    def drifted(law: Any, g: Tensor, stream: Stream, start: int) -> Tensor:
        d = draws(g.numel(), stream, g.device, start).mul_(law.sigma)
        return (d.add_(1).mul_(g) if law.multiplicative else d.add_(g)).clamp_(min=0)

    return drifted


_DRIFTS: dict[type[DriftModel], Law] = {
    laws.LogNormalDrift: _lognormal,
    laws.NormalDrift: _spread(normals),
    laws.NormalShift: _spread(normals),
    laws.UniformDrift: _spread(symmetric_uniform),
    laws.UniformShift: _spread(symmetric_uniform),
    laws.LaplaceDrift: _spread(laplace),
    laws.LaplaceShift: _spread(laplace),
    laws.GammaDrift: _gamma,
    laws.ParetoDrift: _pareto,
    laws.BernoulliDrift: _bernoulli,
    laws.RetentionDrift: _lognormal,
    laws.RelaxationShift: _relaxation,
    laws.MeasuredRelaxation: _measured_relaxation,
}
"""Laws that are computed on the device of the weights; all others by their `cells`, on the CPU."""


def drifted(law: DriftModel, g: Tensor, stream: Stream, start: int) -> Tensor:
    """Conductances of a chunk of cells after drift, as `law.cells` computes them; g is (n,) float32."""
    if type(law) in _DRIFTS:  # a subclass has its own `cells`
        return _DRIFTS[type(law)](law, g, stream, start)
    before = g.cpu().contiguous().numpy()
    after = np.empty_like(before)
    law.cells(before, after, stream, start)
    return torch.from_numpy(after).to(g.device)


def drift(law: DriftModel, g: Tensor, stream: Stream) -> Tensor:
    """Conductances (n,) of a whole plane after drift: by a kernel where there is one."""
    out = torch.empty_like(g)
    if fused.usable_for(law, g, out):
        fused.drift(law, g, stream, out)
        return out

    def part(cells: slice) -> None:
        out[cells] = drifted(law, g[cells], stream, cells.start)

    in_parts(g.numel(), g.device, part)
    return out


def programmed(noise: ProgrammingModel, g: Tensor, z: Tensor, g_max: float) -> Tensor:
    """Eq. (6) for a chunk: targets g and standard normals z, both (n,), to conductances; z is overwritten."""
    if type(noise) is ProgrammingNoise:
        return z.mul_(noise.sigma * g_max).add_(g).clamp_(min=0)
    if type(noise) in (PolynomialNoise, MeasuredNoise):
        assert isinstance(noise, PolynomialNoise)
        r = g * (1 / noise.reference)
        moved = z.mul_(_polynomial(noise.coefficients, r).clamp_(min=0)).add_(g)
        if isinstance(noise, MeasuredNoise):
            moved.add_(_polynomial(noise.mean, r))
        return moved.clamp_(min=0)
    after = np.empty(g.numel(), np.float32)
    noise.cells(g.cpu().contiguous().numpy(), z.cpu().numpy(), g_max, after)
    return torch.from_numpy(after).to(g.device)
