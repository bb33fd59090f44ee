"""Drift-aware training: every gradient step uses several newly drawn chips."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import ClassVar, Literal, get_args

from torch import nn

from crossbar_sim.baselines.calibrated import OwnStatistics, calibrated, check_shares, estimate_clean
from crossbar_sim.baselines.drifted_steps import AnalogStep, DriftedStep, normalisations
from crossbar_sim.baselines.dropout import check_rates
from crossbar_sim.baselines.method import (
    Build,
    Method,
    Trained,
    check_development,
    check_switch,
    fresh,
    shown,
    trained,
)
from crossbar_sim.crossbar.drift import LogNormalDrift
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.layer_designs import Design, as_design, at_sigma, designs_of
from crossbar_sim.crossbar.mapping import Differential
from crossbar_sim.data import Development
from crossbar_sim.data.inputs import Batch
from crossbar_sim.errors import InputError
from crossbar_sim.nn.analog.matrices import matrices, trained_weights
from crossbar_sim.nn.detection import detects
from crossbar_sim.nn.device import Device
from crossbar_sim.nn.dropout_sites import rates, remove_found, set_rates
from crossbar_sim.nn.seeding import permutation, seeded, uniforms
from crossbar_sim.nn.standardised import standardisation_of
from crossbar_sim.nn.training.loop import Epoch
from crossbar_sim.nn.training.losses import PLAIN, TaskLoss
from crossbar_sim.nn.training.settings import Training, check_training
from crossbar_sim.rng import Key, as_key
from crossbar_sim.validate import check_integer, is_real

RECIPE = Training(epochs=40, batch=256, lr=3e-3, clip=0.1)
"""Steps small enough for gradients as noisy as these, and components held in bounds (docs/methods.md)."""

Parameters = Literal["plain", "square"]
PARAMETERS: tuple[str, ...] = get_args(Parameters)

Statistics = Literal["running", "population"]
STATISTICS: tuple[str, ...] = get_args(Statistics)

POPULATION = 100
"""Chips over which the statistics of normalisations are averaged."""


@dataclass(frozen=True)
class DriftAware(Method):
    """Each step draws `chips` new chips, gives each a part of the batch, and averages their gradients.

    Without `hardware`, a chip multiplies every parameter by exp(sigma z), as in BayesFT's protocol, and the gradient
    goes through that factor (reparametrisation). With a design, the network is mapped onto its arrays, and the
    gradient takes their slope; rounding to levels is passed straight through.

    Args:
        sigma: of ln g; or (low, high), also as the text "low:high": each chip's is uniform between them; None: the
            design as it is.
        chips: per step.
        ramp: the share of the training over which sigma rises from 0 in a straight line; 0: fixed from the start.
        temperature: whether the logits of a chip are multiplied by exp(-K sigma^2 / 2), K weight layers in a row,
            which undoes the growth that drift of mean exp(sigma^2 / 2) gives them (log-normal drift only).
        dropout: rates, as for `Dropout`; None: those that `build` gives.
        hardware: the design to train for; sigma goes into its drift law.
        training: how.
        parameters: "square": every weight matrix of a layer that arrays can carry is trained as w = u |u|, so that a
            step changes w in proportion to sqrt|w|; biases, normalisations and the rest stay as they are. The network
            begins with its usual w, and what is saved is w. "plain": w itself is trained.
        statistics: of batch and instance normalisations. "running": as the last steps of the training left them.
            "population": estimated again when the training is done, as the mean over POPULATION new chips of the last
            sigma, each with a batch of training examples of its own.
        censor: draws z above it count as it, so that no factor of a training chip exceeds exp(sigma censor): noise
            that is right-censored (Yan et al., TRICE, ICCAD 2023, arXiv 2307.15853); None: not. For designs that only
            multiply parameters.
        calibrated: train for chips that are calibrated (`deploy --calibrate statistics`): behind every layer on arrays
            but the last there is a digital batch normalisation with each chip's own statistics, arrays have no biases
            there, and the last layer is digital. Nothing is left for the temperature to undo.

    Raises:
        InputError: if a setting is out of range, or has nothing to act on.
    """

    sigma: float | tuple[float, float] | str | None = 1.0
    chips: int = 8
    ramp: float = 0.5
    temperature: bool = True
    dropout: float | tuple[float, ...] | None = None
    hardware: Design | None = None
    training: Training = RECIPE
    parameters: Parameters = "plain"
    statistics: Statistics = "running"
    censor: float | None = None
    calibrated: bool = False
    kind: ClassVar[str] = "drift-aware"
    later: ClassVar[Mapping[str, object]] = {
        "parameters": "plain", "statistics": "running", "censor": None, "calibrated": False,
    }  # fmt: skip
    citation: ClassVar[str] = (
        "Joshi et al., Accurate deep neural network inference using computational phase-change memory, Nature "
        "Communications 11 (2020) 2473 (noise in training); several chips per step, the reparametrised gradient and "
        "the temperature are ours"
    )

    def __post_init__(self) -> None:
        check_training(self.training)
        if self.hardware is not None:
            object.__setattr__(self, "hardware", as_design(self.hardware))
        if isinstance(self.sigma, str):
            object.__setattr__(self, "sigma", _range(self.sigma))
        check_integer("chips", self.chips, 1)
        if self.chips > self.training.batch:
            raise InputError(
                f"chips={self.chips} with batch={self.training.batch}: every chip needs an example at least"
            )
        if not (is_real(self.ramp) and 0 <= self.ramp <= 1):
            raise InputError(f"ramp={self.ramp!r}: a share of the training in 0 .. 1")
        check_switch("temperature", self.temperature)
        check_parameters(self.parameters)
        if self.statistics not in STATISTICS:
            raise InputError(f"statistics={self.statistics!r} must be one of {', '.join(STATISTICS)}")
        check_switch("calibrated", self.calibrated)
        if self.calibrated:
            check_shares("chips", self.chips, self.training.batch)
        if self.calibrated and self.statistics != "running":
            raise InputError(
                f"calibrated with statistics={self.statistics!r}: every chip gets statistics of its own, and the saved "
                "ones are those of the weights without drift; leave statistics out"
            )
        if self.dropout is not None:
            check_rates("dropout", self.dropout)
        self._check_sigma()
        if self.censor is not None:
            if not (is_real(self.censor) and math.isfinite(self.censor)):
                raise InputError(
                    f"censor={self.censor!r}: a finite number of standard deviations, such as 1.5"
                )
            if factor_copies(self.hardware) is None:
                raise InputError(
                    f"censor={self.censor!r} cuts the factors of log-normal drift, and this design does more than "
                    "multiply by them: leave it out, or train without hardware"
                )

    def __repr__(self) -> str:
        return shown(self)

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
            LogNormalDrift(sigma)  # refuses what is not a sigma
            if self.hardware is not None:
                at_sigma(self.hardware, sigma)
        if low > high or high == 0:
            raise InputError(f"sigma={self.sigma!r}: low <= high and above 0 are needed, or nothing drifts")
        laws = () if self.hardware is None else designs_of(at_sigma(self.hardware, high))
        if self.temperature and not all(isinstance(each.drift, LogNormalDrift | None) for each in laws):
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
        model = fresh(build, key, self.calibrated)
        notes: dict[str, object] = {"sigma": self.sigma, "chips": self.chips}
        if self.calibrated:
            made = calibrated(model, known.train.x)
            notes |= {"standardised": [*made.layers], "read-out": made.readout}
            if made.left:
                notes["not standardised"] = [*made.left]
        if self.dropout is not None:
            set_rates(model, self.dropout)
            notes["rates"] = rates(model)
        if self.statistics == "population" and not normalisations(model):
            raise InputError(
                "statistics='population' has nothing to act on: the model has no batch or instance normalisation with "
                "running statistics; leave it out"
            )
        done = trained(
            self,
            model,
            known,
            key,
            steps=lambda loss: self.step(model, key, loss),
            squared=squared(model, self.parameters),
            after_epoch=estimate_clean if self.calibrated else None,
            progress=progress,
            checkpoint=checkpoint,
            notes=notes,
        )
        if self.dropout is not None:
            remove_found(model)
        if self.statistics == "population":
            self._population(model, known.train.x, key.fold("population"))
        return done

    def _population(self, model: nn.Module, x: Batch, key: Key) -> None:
        """Set the statistics of all normalisations to their mean over chips."""
        step = self.step(model, key)
        assert not isinstance(step, OwnStatistics)  # refused
        device = Device.of(self.training.device)
        model.to(device.where)
        rows = min(self.training.batch, len(x))
        order = [permutation(len(x), key.fold(str(i)))[:rows] for i in range(POPULATION)]
        for norm in normalisations(model):
            norm.reset_running_stats()
        with seeded(key.fold("chips")), device.arithmetic():
            for start in range(0, POPULATION, self.chips):
                parts = [x[chosen].to(device.where) for chosen in order[start : start + self.chips]]
                step.forward(model, parts)
        model.to("cpu").eval()

    def step(
        self, model: nn.Module, key: Key, loss: TaskLoss = PLAIN
    ) -> DriftedStep | AnalogStep | OwnStatistics:
        """The gradient step for `nn.fit`, also for custom training loops and searches."""
        own = standardisation_of(model) is not None
        if self.temperature and not own and (detects(model) or loss.axis is None):
            of = (
                "a detector's loss is made of more"
                if detects(model)
                else "outputs are compared with real targets"
            )
            raise InputError(f"temperature multiplies logits, and {of}: set temperature=false")
        layers = weight_layers(model) if self.temperature and not own else 0
        copies = factor_copies(self.hardware)
        tensors = Device.of(self.training.device).tensors
        step: DriftedStep | AnalogStep
        if copies is not None:
            design = Hardware.preset("bayesft") if self.hardware is None else self.hardware
            step = DriftedStep(
                self.sigmas, self.chips, layers, key,
                copies=copies, hardware=design, loss=loss, censor=self.censor, tensors=tensors,
            )  # fmt: skip
        else:
            assert self.hardware is not None
            sigmas = None if self.sigma is None else self.sigmas
            step = AnalogStep(self.hardware, sigmas, self.chips, layers, key, loss, tensors)
        return OwnStatistics(step, self.chips) if own else step

    def sigmas(self, share: float, chips: int) -> Sequence[float]:
        """Each chip's sigma when `share` of the training is done."""
        assert self.sigma is not None
        low, high = _limits(self.sigma)
        rise = min(1.0, share / self.ramp) if self.ramp else 1.0
        if low == high:
            return [low * rise] * chips
        return [rise * (low + (high - low) * u) for u in uniforms(chips)]


def check_parameters(given: object) -> None:
    """Refuse what is not a way to train weights.

    Raises:
        InputError: naming what was given and what is allowed.
    """
    if given not in PARAMETERS:
        raise InputError(f"parameters={given!r} must be one of {', '.join(PARAMETERS)}")


def squared(model: nn.Module, parameters: Parameters) -> list[nn.Parameter]:
    """The parameters that are trained as w = u |u|: weight matrices of layers that arrays can carry, tied ones once.

    Raises:
        InputError: if there is none that is trained.
    """
    if parameters == "plain":
        return []
    found = trained_weights(model)
    if not found:
        raise InputError(
            "parameters='square' has nothing to act on: the model has no layer with a weight matrix that is trained "
            "(nn.Linear, convolutions, recurrent and attention layers); leave it out"
        )
    return found


def _range(text: str) -> tuple[float, float]:
    """`0.27:0.9` as (0.27, 0.9).

    Raises:
        InputError: if it is something else.
    """
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        raise InputError(f"sigma={text!r}: a number, or low:high such as 0.27:0.9") from None
    return low, high


def _limits(sigma: float | tuple[float, float] | str) -> tuple[float, float]:
    assert not isinstance(sigma, str)  # __post_init__ has read it
    if isinstance(sigma, tuple):
        if len(sigma) != 2:
            raise InputError(f"sigma={sigma!r}: a number, or (low, high)")
        return sigma
    return sigma, sigma


def weight_layers(model: nn.Module) -> int:
    """Number of weight layers in series, taken as the number of layers with weight matrices.

    An upper limit where there are branches: residual networks do better with `temperature=False`.
    """
    return sum(1 for module in model.modules() if matrices(module))


def factor_copies(hardware: Design | None) -> int | None:
    """Parallel cells per weight, if the design only multiplies each parameter by log-normal factors; else None.

    Then a chip is a vector of factors, and needs no arrays. None: it does more.
    """
    if hardware is None:
        return 1
    if not isinstance(hardware, Hardware):  # layers differ
        return None
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
