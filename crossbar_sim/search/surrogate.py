"""The surrogate model of a noisy function, and its next points, by BoTorch.

A Gaussian process (Eqs. 5 to 8 of Ye et al., DAC 2021) with the squared-exponential kernel of Eq. 9, one length
scale per dimension. Outcomes are standardised here, and with them the variances that are known of them. The length
scales are those of the largest posterior density under BoTorch's prior for d dimensions (Hvarfner et al., "Vanilla
Bayesian optimization performs great in high dimensions", ICML 2024).
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from crossbar_sim.errors import InputError
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.rng import Key

Acquisition = Literal["lognei", "mean"]
ACQUISITIONS: tuple[str, ...] = get_args(Acquisition)

LEAST = 1e-6
"""The least variance of a standardised outcome: below it GPyTorch would warn and raise it itself."""

PRECISION = 1e-6
"""Of the log density at which its climb ends: in 20 dimensions a smaller one takes twice as long and moves nothing."""

SAMPLES, RESTARTS, RAW, STEPS = 64, 4, 64, 60
"""Of the acquisition's optimisation: draws of the posterior, climbs, places they may start from, steps of each."""


@dataclass(frozen=True, eq=False)
class Hyperparameters:
    """Fitted hyperparameters of the GP, for the unit cube and standardised outcomes."""

    lengthscales: tuple[float, ...]
    mean: float
    noise: float
    """Fitted on top of the variances that are known, or in their place; 0 where it is not fitted."""


class Surrogate:
    """A Gaussian process over the unit cube, fitted to trials.

    Args:
        x: (n, d) float64 in 0 .. 1, where it was tried.
        y: (n,) what came out, more being better.
        variance: (n,) of each y, where that is known (the Monte Carlo variance of a mean over chips); None: one
            variance for all is fitted.
        extra: fit also a variance of the outcomes that comes on top of the known ones: what training the same
            network again would change, which a mean over chips does not know of.

    Raises:
        InputError: if BoTorch is missing, or a number is not finite.
    """

    def __init__(self, x: Tensor, y: Tensor, variance: Tensor | None = None, *, extra: bool = False) -> None:
        n = len(x)
        if y.shape != (n,) or (variance is not None and variance.shape != (n,)) or n == 0:
            raise InputError(
                f"{n} points and {tuple(y.shape)} outcomes: one of each per trial, and at least one"
            )
        known = [t for t in (x, y, variance) if t is not None]
        if not all(bool(t.isfinite().all()) for t in known) or (
            variance is not None and bool((variance < 0).any())
        ):
            raise InputError("outcomes and their variances are finite numbers, and variances >= 0")
        self.x, self.offset = x.double(), float(y.double().mean())
        self.scale = float(y.double().std(correction=0)) or 1.0  # all alike: nothing to scale
        self.y = (y.double() - self.offset) / self.scale
        self.noise = None if variance is None else (variance.double() / self.scale**2).clamp(min=LEAST)
        with _quiet():
            self.model = _fitted(self.x, self.y, self.noise, extra)

    @property
    def hyperparameters(self) -> Hyperparameters:
        """The fitted hyperparameters."""
        kernel, likelihood = self.model.covar_module, self.model.likelihood
        noise = 0.0
        if self.noise is None:
            noise = float(likelihood.noise.detach())
        elif getattr(likelihood, "second_noise_covar", None) is not None:
            noise = float(likelihood.second_noise.detach())
        scales = tuple(kernel.lengthscale.detach().flatten().tolist())
        return Hyperparameters(scales, float(self.model.mean_module.constant.detach()), noise)

    def posterior(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance (m,) of the function itself, without noise, at places (m, d); in the units of y."""
        with _quiet(), torch.no_grad():
            found = self.model.posterior(points.double())
            return found.mean[:, 0] * self.scale + self.offset, found.variance[:, 0] * self.scale**2

    def propose(self, acquisition: Acquisition, count: int, key: Key) -> Tensor:
        """The next points, (count, d) in the unit cube; deterministic for given trials and key on one machine.

        Args:
            acquisition: "mean", the paper's: where the posterior mean is largest; "lognei": where the improvement
                over the best, noise taken into account, is expected to be largest (Letham et al. 2019; Ament et al.
                2023).
            count: places to be tried at the same time.
            key: of the draws.

        Raises:
            InputError: for more than one place by "mean", which knows one.
        """
        check_acquisition(acquisition, count)
        from botorch.acquisition.analytic import PosteriorMean
        from botorch.acquisition.logei import qLogNoisyExpectedImprovement
        from botorch.optim import optimize_acqf
        from botorch.sampling.normal import SobolQMCNormalSampler

        d = self.x.shape[1]
        with _quiet(), seeded(key):
            if acquisition == "mean":
                function: Any = PosteriorMean(self.model)
            else:
                sampler = SobolQMCNormalSampler(torch.Size([SAMPLES]), seed=key.integer() % 2**31)
                function = qLogNoisyExpectedImprovement(
                    self.model, self.x, sampler=sampler, prune_baseline=True
                )
            bounds = torch.tensor([[0.0] * d, [1.0] * d], dtype=torch.float64)
            found, _ = optimize_acqf(
                function, bounds, q=count, num_restarts=RESTARTS, raw_samples=RAW, sequential=True,
                options={"maxiter": STEPS, "batch_limit": RESTARTS},
            )  # fmt: skip
        result: Tensor = found.detach().clamp(0.0, 1.0).reshape(count, d)
        return result


def check_acquisition(acquisition: str, batch: int) -> None:
    """Refuse an unknown acquisition, or a batch that it cannot fill.

    Raises:
        InputError: with what is allowed.
    """
    if acquisition not in ACQUISITIONS:
        raise InputError(f"acquisition={acquisition!r} must be one of {', '.join(ACQUISITIONS)}")
    if acquisition == "mean" and batch > 1:
        raise InputError(
            f"acquisition='mean' knows one place to try and batch={batch} asks for more: take batch=1, or 'lognei'"
        )


def first_points(count: int, dimensions: int, key: Key) -> Tensor:
    """The first points of a search, (count, d) in the unit cube: a scrambled Sobol sequence named by the key.

    A longer one begins with a shorter one.
    """
    engine = torch.quasirandom.SobolEngine(dimensions, scramble=True, seed=key.integer() % 2**31)
    points: Tensor = engine.draw(count, dtype=torch.float64)
    return points


def check_installed() -> None:
    """Refuse to start a search without BoTorch.

    Raises:
        InputError: if BoTorch is missing.
    """
    try:
        import botorch  # noqa: F401
    except ImportError:
        raise InputError("the search needs BoTorch: pip install '.[search]' in a clone") from None


def _fitted(x: Tensor, y: Tensor, noise: Tensor | None, extra: bool) -> Any:
    check_installed()
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.models.utils.gpytorch_modules import get_covar_module_with_dim_scaled_prior
    from gpytorch.likelihoods import FixedNoiseGaussianLikelihood
    from gpytorch.mlls import ExactMarginalLogLikelihood

    kernel = get_covar_module_with_dim_scaled_prior(ard_num_dims=x.shape[1], use_rbf_kernel=True)
    column, known = y.unsqueeze(-1), None if noise is None else noise.unsqueeze(-1)
    if noise is not None and extra:
        likelihood = FixedNoiseGaussianLikelihood(noise=noise, learn_additional_noise=True)
        model = SingleTaskGP(x, column, likelihood=likelihood, covar_module=kernel, outcome_transform=None)
    else:
        model = SingleTaskGP(x, column, train_Yvar=known, covar_module=kernel, outcome_transform=None)
    # Its restarts, should the first fit fail, draw from torch's generator.
    with seeded(Key(0).fold("surrogate")):
        fit_gpytorch_mll(
            ExactMarginalLogLikelihood(model.likelihood, model),
            optimizer_kwargs={"options": {"ftol": PRECISION}},
        )
    model.eval()
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """One thread, since matrices of a few dozen rows are small and bits must not depend on the number; no warnings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(before)
