"""Drift laws and programming noise on tensors; one without a form here is computed on the CPU by its `cells`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossbar_sim.crossbar import drift as laws
from crossbar_sim.crossbar.devices import MeasuredNoise, PolynomialNoise, ProgrammingModel, ProgrammingNoise
from crossbar_sim.crossbar.drift import DriftModel
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.nn.tensor_cells.stream import laplace, normals, symmetric_uniform, uniform, words


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
    laws.UniformDrift: _spread(symmetric_uniform),
    laws.UniformShift: _spread(symmetric_uniform),
    laws.LaplaceDrift: _spread(laplace),
    laws.LaplaceShift: _spread(laplace),
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


def program(noise: ProgrammingModel, g: Tensor, z: Tensor, g_max: float) -> Tensor:
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
