"""CorrectNet: a penalty that keeps every layer from amplifying the errors of the layers before it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike
from typing import ClassVar

import torch
from torch import Tensor, nn

from crossbar_sim.baselines.method import Build, Method, Trained, check_development, fresh, trained
from crossbar_sim.crossbar.drift import LogNormalDrift
from crossbar_sim.data import Development
from crossbar_sim.data.inputs import Batch
from crossbar_sim.errors import InputError
from crossbar_sim.nn.analog.matrices import trained_weights
from crossbar_sim.nn.training.loop import Epoch
from crossbar_sim.nn.training.losses import TaskLoss
from crossbar_sim.nn.training.settings import Step, Training, check_training
from crossbar_sim.rng import Key, as_key
from crossbar_sim.validate import is_real


@dataclass(frozen=True)
class CorrectNet(Method):
    """Minimise the clean loss + beta sum |W^T W - lambda^2 I|^2 over the weight matrices W of all layers.

    With lambda = k / (mu + 3 s), mu and s the mean and standard deviation of the drift factor exp(sigma z), a layer's
    Lipschitz constant stays about k or less when its weights drift (Eldebiky et al., DATE 2023). The norm is
    Frobenius's. The digital compensation of the paper's second half is not part of it: see `deploy --calibrate`.

    Args:
        sigma: of the drift.
        beta: strength of the penalty.
        k: the Lipschitz constant that a drifted layer shall have.
        training: how.

    Raises:
        InputError: if a setting is out of range.
    """

    sigma: float = 0.5
    beta: float = 1e-3
    k: float = 1.0
    training: Training = Training()  # noqa: RUF009 - frozen
    kind: ClassVar[str] = "correctnet"
    citation: ClassVar[str] = (
        "Eldebiky et al., CorrectNet: robustness enhancement of analog in-memory computing for neural networks by "
        "error suppression and compensation, DATE 2023, arXiv 2211.14917 (its error suppression)"
    )

    def __post_init__(self) -> None:
        check_training(self.training)
        LogNormalDrift(self.sigma)  # refuses what is not a sigma
        for name in ("beta", "k"):
            value = getattr(self, name)
            if not (is_real(value) and 0 < value < math.inf):
                raise InputError(f"{name}={value!r}: a finite number > 0 is needed")

    @property
    def bound(self) -> float:
        """lambda, the spectral norm that clean weights are drawn to.

        >>> round(CorrectNet(sigma=0.5).bound, 4)
        0.3396
        """
        mean = math.exp(self.sigma**2 / 2)
        spread = math.sqrt(math.expm1(self.sigma**2)) * mean
        return self.k / (mean + 3 * spread)

    def fit(
        self,
        build: Build,
        development: Development,
        key: Key,
        *,
        progress: Callable[[Epoch], None] | None = None,
        checkpoint: str | PathLike[str] | None = None,
    ) -> Trained:
        """See `Method.fit`."""
        known = check_development(development)
        key = as_key(key)
        model = fresh(build, key)
        weights = trained_weights(model)
        if not weights:
            raise InputError("correctnet: the model has no layer with a weight matrix that is trained")
        notes = {"lambda": self.bound}
        return trained(
            self,
            model,
            known,
            key,
            steps=lambda loss: self._step(loss, weights),
            progress=progress,
            checkpoint=checkpoint,
            notes=notes,
        )

    def _step(self, loss: TaskLoss, weights: list[nn.Parameter]) -> Step:
        def step(model: nn.Module, x: Batch, y: Tensor, share: float) -> Tensor:
            total = loss(model, x, y) + self.beta * penalty(weights, self.bound)
            total.backward()
            return total.detach()

        return step


def penalty(weights: list[nn.Parameter], bound: float) -> Tensor:
    """Sum of |W W^T - bound^2 I|^2 over weights (out, ...), read as matrices of (out, all the rest).

    Of W W^T and W^T W the smaller is used: the two penalties differ by a constant.
    """
    total = weights[0].new_zeros(())
    for weight in weights:
        matrix = weight.flatten(1)
        small = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        gram = small @ small.T
        total = total + (gram - bound**2 * torch.eye(len(gram), device=gram.device)).square().sum()
    return total
