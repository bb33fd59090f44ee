"""Drift-aware training: the network learns on chips, several fresh ones in every step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import ClassVar

from torch import nn

from crossbar_sim.baselines.analog_step import AnalogStep
from crossbar_sim.baselines.drifted_step import DriftedStep
from crossbar_sim.baselines.dropout import check_rates
from crossbar_sim.baselines.method import (
    Build,
    Method,
    Trained,
    check_development,
    check_switch,
    fresh,
    trained,
)
from crossbar_sim.crossbar.drift import LogNormalDrift
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.mapping import Differential
from crossbar_sim.crossbar.overrides import at_sigma
from crossbar_sim.crossbar.presets import design_given
from crossbar_sim.data import Development
from crossbar_sim.errors import InputError
from crossbar_sim.nn.detection_task import detects
from crossbar_sim.nn.dropout_sites import rates, remove_found, set_rates
from crossbar_sim.nn.matrices import matrices
from crossbar_sim.nn.seeding import uniforms
from crossbar_sim.nn.train import Epoch
from crossbar_sim.nn.train_checks import check_training
from crossbar_sim.nn.training import Step, Training
from crossbar_sim.rng import Key, as_key

RECIPE = Training(epochs=40, batch=256, lr=3e-3, clip=0.1)
"""Steps small enough for gradients as noisy as these, and components held in bounds (docs/methods.md)."""


@dataclass(frozen=True)
class DriftAware(Method):
    """Every step is taken on `chips` fresh chips, each with its part of the batch, and averages their gradients.

    Without `hardware`, a chip multiplies every parameter by exp(sigma z), as in BayesFT's protocol, and the gradient
    goes through that factor (reparametrisation). With a design, the network is mapped onto its arrays, and the
    gradient takes their slope; rounding to levels is passed straight through.

    Args:
        sigma: of ln g; or (low, high): each chip's is uniform between them; None: the design as it is.
        chips: per step.
        ramp: the share of the training over which sigma rises from 0 in a straight line; 0: fixed from the start.
        temperature: whether the logits of a chip are multiplied by exp(-K sigma^2 / 2), K weight layers in a row,
            which undoes the growth that drift of mean exp(sigma^2 / 2) gives them (log-normal drift only).
        dropout: rates, as for `Dropout`; None: those that `build` gives.
        hardware: the design to train for; sigma goes into its drift law.
        training: how.

    Raises:
        InputError: if a setting is out of range, or has nothing to act on.
    """

    sigma: float | tuple[float, float] | None = 1.0
    chips: int = 8
    ramp: float = 0.5
    temperature: bool = True
    dropout: float | tuple[float, ...] | None = None
    hardware: Hardware | None = None
    training: Training = RECIPE
    kind: ClassVar[str] = "drift-aware"
    citation: ClassVar[str] = (
        "Joshi et al., Accurate deep neural network inference using computational phase-change memory, Nature "
        "Communications 11 (2020) 2473 (noise in training); several chips per step, the reparametrised gradient and "
        "the temperature are ours"
    )

    def __post_init__(self) -> None:
        check_training(self.training)
        if self.hardware is not None:
            object.__setattr__(self, "hardware", design_given(self.hardware))
        if isinstance(self.chips, bool) or not isinstance(self.chips, int) or self.chips < 1:
            raise InputError(f"chips={self.chips!r}: an integer >= 1 is needed")
        if self.chips > self.training.batch:
            raise InputError(
                f"chips={self.chips} with batch={self.training.batch}: every chip needs an example at least"
            )
        if isinstance(self.ramp, bool) or not isinstance(self.ramp, int | float) or not 0 <= self.ramp <= 1:
            raise InputError(f"ramp={self.ramp!r}: a share of the training in 0 .. 1")
        check_switch("temperature", self.temperature)
        if self.dropout is not None:
            check_rates("dropout", self.dropout)
        self._check_sigma()

    def _check_sigma(self) -> None:
        if self.sigma is None:
            if self.hardware is None:
                raise InputError(
                    "sigma=None means the design as it is, but there is no hardware: give one of them"
                )
            if self.ramp or self.temperature:
                raise InputError(
                    "sigma=None trains on the design as it is: ramp and temperature have nothing to act on, "
                    "set ramp=0 and temperature=False"
                )
            return
        low, high = limits = _limits(self.sigma)
        for sigma in limits:
            LogNormalDrift(sigma)  # refuses what is no sigma
            if self.hardware is not None:
                at_sigma(self.hardware, sigma)
        if low > high or high == 0:
            raise InputError(f"sigma={self.sigma!r}: low <= high and above 0 are needed, or nothing drifts")
        law = None if self.hardware is None else at_sigma(self.hardware, high).drift
        if self.temperature and law is not None and not isinstance(law, LogNormalDrift):
            raise InputError("temperature is for log-normal drift: set temperature=False for other laws")

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
        known = check_development(development, detection=True)
        key = as_key(key)
        model = fresh(build, key)
        notes: dict[str, object] = {"sigma": self.sigma, "chips": self.chips}
        if self.dropout is not None:
            set_rates(model, self.dropout)
            notes["rates"] = rates(model)
        done = trained(
            self,
            model,
            known,
            key,
            step=self.step(model, key),
            progress=progress,
            checkpoint=checkpoint,
            notes=notes,
        )
        if self.dropout is not None:
            remove_found(model)
        return done

    def step(self, model: nn.Module, key: Key) -> Step:
        """What `nn.fit` is to do with the model in every step: for loops and searches of one's own."""
        if self.temperature and detects(model):
            raise InputError(
                "temperature multiplies logits, and a detector's loss is made of more: set temperature=false"
            )
        layers = weight_layers(model) if self.temperature else 0
        copies = factor_copies(self.hardware)
        if copies is not None:
            design = Hardware.preset("bayesft") if self.hardware is None else self.hardware
            return DriftedStep(self.sigmas, self.chips, layers, key, copies=copies, hardware=design)
        assert self.hardware is not None
        return AnalogStep(self.hardware, None if self.sigma is None else self.sigmas, self.chips, layers, key)

    def sigmas(self, share: float, chips: int) -> Sequence[float]:
        """Each chip's sigma when `share` of the training is done."""
        assert self.sigma is not None
        low, high = _limits(self.sigma)
        rise = min(1.0, share / self.ramp) if self.ramp else 1.0
        if low == high:
            return [low * rise] * chips
        return [rise * (low + (high - low) * u) for u in uniforms(chips)]


def _limits(sigma: float | tuple[float, float]) -> tuple[float, float]:
    if isinstance(sigma, tuple):
        if len(sigma) != 2:
            raise InputError(f"sigma={sigma!r}: a number, or (low, high)")
        return sigma
    return sigma, sigma


def weight_layers(model: nn.Module) -> int:
    """How many weight layers a signal passes in a row, taken as the number of layers with weight matrices.

    An upper limit where there are branches: residual networks do better with `temperature=False`.
    """
    return sum(1 for module in model.modules() if matrices(module))


def factor_copies(hardware: Hardware | None) -> int | None:
    """Parallel cells per weight, if all that the design does is to multiply each parameter by log-normal factors.

    Then a chip is a vector of factors, and needs no arrays. None: it does more.
    """
    if hardware is None:
        return 1
    mapping = hardware.mapping
    plain = (
        isinstance(mapping, Differential)
        and mapping.g_min == 0
        and mapping.levels is None
        and mapping.clip is None
        and hardware.programming is None
        and hardware.stuck is None
        and (hardware.drift is None or isinstance(hardware.drift, LogNormalDrift))
        and hardware.bias == hardware.normalisation == hardware.other == "drifting"
    )
    return mapping.copies if plain else None
