"""Drift-aware training: every gradient step uses several newly drawn chips."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase

from crossbar_sim.baselines.calibrated import OwnStatistics, calibrated, estimate_clean, standardised_by_chip
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
from crossbar_sim.crossbar import kernels, threads
from crossbar_sim.crossbar.drift import LogNormalDrift
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.layer_designs import Design, as_design, at_sigma, designs_of
from crossbar_sim.crossbar.mapping import Differential
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.data import Development
from crossbar_sim.data.inputs import Batch, call, first_of, split
from crossbar_sim.errors import InputError, silenced_warnings, warn
from crossbar_sim.nn.analog.chips import layers, set_chip, set_hardware, slots
from crossbar_sim.nn.analog.conversion import map_model
from crossbar_sim.nn.analog.matrices import DIGITAL_BY_TRAINING, matrices, trained_weights
from crossbar_sim.nn.analog.operands import Operands
from crossbar_sim.nn.analog.sequential import TracedStep, flatten, trace_sequential
from crossbar_sim.nn.detection import detects
from crossbar_sim.nn.dropout_sites import rates, remove_found, set_rates
from crossbar_sim.nn.seeding import normals, permutation, seeded, uniforms
from crossbar_sim.nn.standardised import digital_parameters, standardisation_of
from crossbar_sim.nn.training.loop import Epoch
from crossbar_sim.nn.training.losses import PLAIN, TaskLoss
from crossbar_sim.nn.training.settings import Training, check_training
from crossbar_sim.rng import Key, as_key
from crossbar_sim.robustness.score import of_operands
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
        if self.calibrated and self.training.batch < 2 * self.chips:
            raise InputError(
                f"calibrated: chips={self.chips} with batch={self.training.batch}: every chip needs two examples at "
                "least for statistics of its own"
            )
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
            LogNormalDrift(sigma)  # refuses what is no sigma
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
        model = fresh(build, key)
        notes: dict[str, object] = {"sigma": self.sigma, "chips": self.chips}
        if self.calibrated:
            if detects(model):
                raise InputError("calibrated is for classifiers: a detector's read-out is several layers")
            made = calibrated(model, known.train.x)
            notes |= {"standardised": [*made.layers], "read-out": made.readout}
            if made.left:
                notes["not standardised"] = [*made.left]
        if self.dropout is not None:
            set_rates(model, self.dropout)
            notes["rates"] = rates(model)
        if self.statistics == "population" and not _normalisations(model):
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
        device = torch.device(self.training.device or "cpu")
        model.to(device)
        rows = min(self.training.batch, len(x))
        order = [permutation(len(x), key.fold(str(i)))[:rows] for i in range(POPULATION)]
        for norm in _normalisations(model):
            norm.reset_running_stats()
        with seeded(key.fold("chips")):
            for start in range(0, POPULATION, self.chips):
                parts = [x[chosen].to(device) for chosen in order[start : start + self.chips]]
                step.forward(model, parts)
        model.to("cpu").eval()

    def step(
        self, model: nn.Module, key: Key, loss: TaskLoss = PLAIN
    ) -> "DriftedStep | AnalogStep | OwnStatistics":
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
        step: DriftedStep | AnalogStep
        if copies is not None:
            design = Hardware.preset("bayesft") if self.hardware is None else self.hardware
            step = DriftedStep(
                self.sigmas, self.chips, layers, key,
                copies=copies, hardware=design, loss=loss, censor=self.censor,
            )  # fmt: skip
        else:
            assert self.hardware is not None
            sigmas = None if self.sigma is None else self.sigmas
            step = AnalogStep(self.hardware, sigmas, self.chips, layers, key, loss)
        return OwnStatistics(step, self.chips) if own else step

    def sigmas(self, share: float, chips: int) -> Sequence[float]:
        """Each chip's sigma when `share` of the training is done."""
        assert self.sigma is not None
        low, high = _limits(self.sigma)
        rise = min(1.0, share / self.ramp) if self.ramp else 1.0
        if low == high:
            return [low * rise] * chips
        return [rise * (low + (high - low) * u) for u in uniforms(chips)]


def _normalisations(model: nn.Module) -> list[_NormBase]:
    """Normalisations with running statistics, each once."""
    return [m for m in model.modules() if isinstance(m, _NormBase) and m.running_mean is not None]


@contextmanager
def _averaging(model: nn.Module) -> Iterator[None]:
    """Context in which the model evaluates, and its normalisations average the statistics of all batches equally."""
    norms = [(norm, norm.momentum) for norm in _normalisations(model)]
    model.eval()
    try:
        for norm, _ in norms:
            norm.momentum = None
            norm.train()
        with torch.no_grad():
            yield
    finally:
        for norm, momentum in norms:
            norm.momentum = momentum
        model.eval()


def check_parameters(given: object) -> None:
    """Refuse what is no way to train weights.

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


class BatchedSequence:
    """A network as its linear layers, activations and dropout in order; `of` recognises one.

    Args:
        parts: linear layers, activations (modules or functions), dropout modules, and the digital normalisations of
            calibrated training.
        flattens: whether images are flattened before the first of them.
    """

    def __init__(self, parts: list[TracedStep], flattens: bool) -> None:
        self.parts, self.flattens = parts, flattens

    @classmethod
    def of(cls, model: nn.Module) -> "BatchedSequence | None":
        """The sequence of a sequential model that flattens its inputs first, if at all; None for any other model."""
        steps = trace_sequential(model, nn.BatchNorm1d)
        if steps is None:
            return None
        if any(DIGITAL_BY_TRAINING not in vars(step) for step in steps if isinstance(step, nn.BatchNorm1d)):
            return None
        parts = [step for step in steps if step is not flatten]
        flattens = len(steps) - len(parts)
        return None if flatten in steps[flattens:] else cls(parts, flattens > 0)

    def takes(self, x: Tensor) -> bool:
        """Whether images (b, ...), once flattened, have the size that the first layer needs."""
        first = next(part for part in self.parts if isinstance(part, nn.Linear))
        flat = x.dim() == 2 or (x.dim() > 2 and self.flattens)
        return flat and x[:1].numel() == first.in_features

    def __call__(self, x: Tensor, drifted: Callable[[Tensor], Tensor], weights: Tensor) -> Tensor:
        """Outputs (chips, b, classes) for inputs (chips, b, features).

        Args:
            x: each chip's own inputs.
            drifted: gives a parameter as the chips have it, (chips, *shape).
            weights: (chips, 1, b), of the inputs in a chip's statistics.
        """
        for part in self.parts:
            if isinstance(part, nn.BatchNorm1d):
                x = standardised_by_chip(x, part, weights)
            elif isinstance(part, nn.Linear) and DIGITAL_BY_TRAINING not in vars(part):
                weight = drifted(part.weight).transpose(1, 2)
                x = (
                    torch.bmm(x, weight)
                    if part.bias is None
                    else torch.baddbmm(drifted(part.bias)[:, None, :], x, weight)
                )
            else:
                x = part(x)
        return x


# Training chips: newly drawn in every step, and different from those of every evaluation.
#
# A chip multiplies every parameter by exp(sigma z), z standard normal (Eq. (1) of BayesFT, DAC 2021). On the CPU z
# comes from the counter stream, under a key of its own and with a number that the step draws from torch's generator:
# the loop seeds that generator, and its checkpoints keep it. On GPUs z comes from the device's generator.


def numbers(n: int) -> list[int]:
    """Numbers below 2**31 from torch's generator on the CPU."""
    return torch.randint(2**31, (n,)).tolist()


class TrainingChips:
    """Drift factors of all parameters of a model, in reused memory.

    Args:
        model: whose parameters drift, tied ones once, frozen ones too; those of layers that were made to stay digital
            do not.
        chips: how many there are at a time.
        key: of the training.
        copies: cells per weight: its factor is the mean of so many.
        censor: of `DriftAware`; of each cell.
    """

    def __init__(
        self, model: nn.Module, chips: int, key: Key, copies: int = 1, censor: float | None = None
    ) -> None:
        digital = digital_parameters(model)
        self.parameters = [p for p in model.parameters() if id(p) not in digital]
        self.censor = censor
        self.key, self.chips, self.copies = key.fold("training chips"), chips, copies
        self.count = sum(p.numel() for p in self.parameters)
        first = self.parameters[0]
        self.device = first.device
        self.all = torch.empty(chips, self.count, device=self.device)
        # One view per parameter: (chips, *shape).
        self.factors: list[Tensor] = []
        start = 0
        for p in self.parameters:
            self.factors.append(self.all[:, start : start + p.numel()].view(chips, *p.shape))
            start += p.numel()
        self.ones = np.ones(min(self.count, threads.CHUNK), np.float32)

    def draw(self, sigmas: Sequence[float]) -> None:
        """Fill `all`, and so `factors`, for one chip per sigma; the remaining rows are undefined."""
        if self.device.type != "cpu":
            sigma = torch.ones(self.chips, 1, device=self.device)
            sigma[: len(sigmas), 0] = torch.tensor(sigmas, device=self.device)
            self._mean(
                lambda out: torch.exp(normals(out.numel(), self.device).view_as(out).mul_(sigma), out=out),
                sigmas,
            )
            return
        self._mean(lambda out: self._draw_on_cpu(out, sigmas), sigmas)

    def _mean(self, draw: Callable[[Tensor], object], sigmas: Sequence[float]) -> None:
        """The mean of as many draws as there are copies, into the first rows of `all`."""
        draw(self.all)
        self._cut(self.all, sigmas)
        if self.copies > 1:
            more = torch.empty_like(self.all)
            for _ in range(self.copies - 1):
                draw(more)
                self._cut(more, sigmas)
                self.all.add_(more)
            self.all.div_(self.copies)

    def _cut(self, factors: Tensor, sigmas: Sequence[float]) -> None:
        """Censor the factors of one cell each."""
        if self.censor is not None:
            for row, sigma in zip(factors, sigmas, strict=False):  # the remaining rows are undefined
                row.clamp_(max=math.exp(sigma * self.censor))

    def _draw_on_cpu(self, target: Tensor, sigmas: Sequence[float]) -> None:
        out = target.numpy()
        plane, event = numbers(2)
        for chip, sigma in enumerate(sigmas):
            rates = LogNormalDrift(sigma).rates
            name = Stream.of(self.key, chip, plane, event).name
            for part in threads.chunks(self.count):
                row = out[chip, part]
                kernels.lognormal(self.ones[: row.size], row, *rates, part.start, *name)


# Gradient steps through simulated arrays: hardware-aware training for any design.


def as_deployed(
    model: nn.Module, hardware: Design, x: Batch, seed: int, chip: int = 0
) -> tuple[nn.Module, Operands | None]:
    """Map a model for training exactly as an evaluation maps it: the same layers are on arrays.

    The model runs in evaluation mode and keeps its mode, and no random number of the training is used.

    Args:
        model: clean; its parameters are shared.
        hardware, seed, chip: see `to_analog`.
        x: inputs (n, ...), of which the first few are run.

    Returns:
        The analog model, and what its forward does with its parameters, as `map_model` returns them.

    Warns:
        CrossbarWarning: of what the design asks for and cannot act, and of weights that stay digital although
            their kind of layer multiplies with them.

    Raises:
        InputError: as `map_model`.
    """
    modes = [(module, module.training) for module in model.modules()]
    device = first_of(x).device
    cuda = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=cuda), torch.autocast(device.type, enabled=False):
            analog, seen = map_model(model.eval(), hardware, x, seed, chip)
    finally:
        for module, training in modes:
            module.training = training
    warn(of_operands(layers(analog), seen))
    return analog, seen


class AnalogStep:
    """A `Step` on newly drawn chips of a design, one after another; `to_analog` describes the gradient.

    Args:
        hardware: the design.
        sigmas: gives each chip's sigma, as in `DriftedStep`; None: the design as it is.
        chips: per step.
        layers: as in `DriftedStep`.
        key: its seed and names tell training chips from all others.
        loss: of the model's outputs.
    """

    def __init__(
        self,
        hardware: Design,
        sigmas: Callable[[float, int], Sequence[float]] | None,
        chips: int,
        layers: int,
        key: Key,
        loss: TaskLoss = PLAIN,
    ) -> None:
        self.hardware, self.sigmas, self.chips, self.layers = hardware, sigmas, chips, layers
        self.loss = loss
        self.seed = key.fold("training chips").integer()
        self._of: tuple[nn.Module, torch.device, nn.Module, int] | None = None

    def __call__(self, model: nn.Module, x: Batch, y: Tensor, share: float) -> Tensor:
        """See `Step`."""
        analog, layers = self._analog(model, x)
        analog.train()
        chips = min(self.chips, len(x))
        sigmas = None if self.sigmas is None else self.sigmas(share, chips)
        total = torch.zeros((), device=y.device)
        parts = zip(split(x, chips), y.tensor_split(chips), numbers(chips), strict=True)
        for i, (images, labels, chip) in enumerate(parts):
            temperature = 1.0
            if sigmas is not None:
                set_hardware(analog, at_sigma(self.hardware, sigmas[i]))
                temperature = math.exp(-layers * sigmas[i] ** 2 / 2)
            set_chip(analog, chip)
            share = self.loss.weight(labels) / self.loss.weight(y)
            loss = self.loss(analog, images, labels, temperature) * share
            loss.backward()
            total += loss.detach()
        return total

    def forward(self, model: nn.Module, parts: Sequence[Batch]) -> None:
        """Run the normalisations' statistics over new chips of the last sigma, one for each part of the inputs."""
        analog, _ = self._analog(model, parts[0])
        chips = len(parts)
        sigmas = None if self.sigmas is None else self.sigmas(1.0, chips)
        with _averaging(analog):
            for i, (x, chip) in enumerate(zip(parts, numbers(chips), strict=True)):
                if sigmas is not None:
                    set_hardware(analog, at_sigma(self.hardware, sigmas[i]))
                set_chip(analog, chip)
                call(analog, x)

    def _analog(self, model: nn.Module, x: Batch) -> tuple[nn.Module, int]:
        """The analog model, which shares parameters and buffers, and the number of its weight layers in series.

        Made once per model and device.
        """
        device = next(model.parameters()).device
        if self._of is None or self._of[0] is not model or self._of[1] != device:
            hardware = self.hardware if self.sigmas is None else at_sigma(self.hardware, 0.0)
            analog, _ = as_deployed(model, hardware, x, self.seed)
            self._of = (model, device, analog, max(0, self.layers - _digital(model, analog)))
        return self._of[2:]


def _digital(model: nn.Module, analog: nn.Module) -> int:
    """Number of layers that have a weight matrix by their class but are on no array."""
    holders = dict(model.named_modules())
    found = [holders.get(layer.name, model) for layer in layers(analog) if not layer.analog]
    return sum(1 for module in found if matrices(module))


# Gradient steps through drift: several chips per step, each with its own part of the batch.
#
# The loss of a step is the mean over examples, each computed with the parameters theta exp(sigma z) of one chip. Its
# gradient is exact for the draws made (reparametrisation): d/dtheta = exp(sigma z) d/d(theta exp(sigma z)).


Sigmas = Callable[[float, int], Sequence[float]]
"""(share of the training done, chips) -> a sigma for each chip."""


class DriftedStep:
    """A `Step` on newly drawn chips; the parameters are restored bit for bit afterwards.

    Args:
        sigmas: gives each chip's sigma.
        chips: per step, at most as many as there are examples.
        layers: weight layers in a row: logits are multiplied by exp(-layers sigma^2 / 2), which undoes the growth
            that drift of mean exp(sigma^2 / 2) per layer gives them; 0: not.
        key: names the chips.
        batched: whether a plain sequence of linear layers runs by batched products; otherwise, and for all other
            networks, chip by chip.
        copies: cells per weight.
        hardware: the design that the factors are of, on whose arrays a network trains that takes parameters past
            their cells (a copy kept in a cache, `functional_call`); None: the factors are all there is.
        loss: of the model's outputs.
        censor: of `DriftAware`.
    """

    def __init__(
        self,
        sigmas: Sigmas,
        chips: int,
        layers: int,
        key: Key,
        batched: bool = True,
        copies: int = 1,
        hardware: Design | None = None,
        loss: TaskLoss = PLAIN,
        censor: float | None = None,
    ) -> None:
        self.censor = censor
        self.sigmas, self.chips, self.layers, self.key, self.loss = sigmas, chips, layers, key, loss
        self.batched, self.copies, self.hardware = batched, copies, hardware
        self._of: tuple[nn.Module, TrainingChips, BatchedSequence | None, AnalogStep | None] | None = None

    def __call__(self, model: nn.Module, x: Batch, y: Tensor, share: float) -> Tensor:
        """See `Step`."""
        drawn, sequence, arrays = self._prepared(model, x)
        if arrays is not None:
            return arrays(model, x, y, share)
        chips = min(self.chips, len(x))
        sigmas = self.sigmas(share, chips)
        drawn.draw(sigmas)
        temperatures = [math.exp(-self.layers * sigma**2 / 2) for sigma in sigmas]
        even = self.loss.loss is None or (self.loss.batched and len(x) % chips == 0)
        if sequence is not None and even and isinstance(x, Tensor) and sequence.takes(x):
            return batched(sequence, drawn, x, y, temperatures, self.loss)
        return chip_by_chip(model, drawn, x, y, temperatures, self.loss)

    def forward(self, model: nn.Module, parts: Sequence[Batch]) -> None:
        """Run the normalisations' statistics over new chips of the last sigma, one for each part of the inputs."""
        drawn, _, arrays = self._prepared(model, parts[0])
        if arrays is not None:
            return arrays.forward(model, parts)
        drawn.draw(self.sigmas(1.0, len(parts)))
        clean = [p.detach().clone() for p in drawn.parameters]
        try:
            with _averaging(model):
                for chip, x in enumerate(parts):
                    _drift(drawn, clean, chip)
                    call(model, x)
        finally:
            with torch.no_grad():
                for p, before in zip(drawn.parameters, clean, strict=True):
                    p.copy_(before)

    def _prepared(
        self, model: nn.Module, x: Batch
    ) -> tuple[TrainingChips, BatchedSequence | None, AnalogStep | None]:
        """Memory for the draws, the batched sequence (if any), and the step on arrays where factors do not suffice.

        Looked up once.
        """
        known = self._of
        device = next(model.parameters()).device
        if known is None or known[0] is not model or known[1].device != device:
            sequence = BatchedSequence.of(model) if self.batched else None
            arrays = None
            if sequence is None and self.hardware is not None and not _all_drift(model, self.hardware, x):
                if self.censor is not None:
                    raise InputError(
                        "censor cuts the factors of parameters, and this network takes some of its parameters past "
                        "their cells, so that it is trained on arrays: leave it out"
                    )
                arrays = AnalogStep(self.hardware, self.sigmas, self.chips, self.layers, self.key, self.loss)
            known = self._of = (
                model,
                TrainingChips(model, self.chips, self.key, self.copies, self.censor),
                sequence,
                arrays,
            )
        return known[1:]


def _all_drift(model: nn.Module, hardware: Design, x: Batch) -> bool:
    """Whether every parameter that an evaluation on the design reads is read with drift, everywhere.

    Where the network cannot be mapped at all, so that no evaluation says more, every parameter drifts.
    """
    try:
        with silenced_warnings():  # the step on arrays will say it
            analog, seen = as_deployed(model, at_sigma(hardware, 0.0), x, 0)
    except InputError:
        return True
    if seen is None:
        return True
    drifting = {
        id(module._parameters.get(name))
        for slot, module in slots(analog)
        if not slot.ideal
        for name in slot.names
    }
    unused = {name for name, operand in seen.by_name.items() if operand.way == "unused"}
    digital = digital_parameters(model)
    past = any(operand.also_bypassed for operand in seen.by_name.values())
    return not past and all(
        id(p) in drifting or id(p) in digital for name, p in model.named_parameters() if name not in unused
    )


def batched(
    sequence: BatchedSequence,
    drawn: TrainingChips,
    x: Tensor,
    y: Tensor,
    temperatures: Sequence[float],
    task: TaskLoss = PLAIN,
) -> Tensor:
    """Run all chips by batched products. Sets the gradients and returns the loss.

    A loss other than the plain one needs parts of one size.
    """
    chips, n = len(temperatures), len(x)
    rows = -(-n // chips)
    x = x.flatten(1)
    if rows * chips != n:  # the parts of `tensor_split`, the shorter ones filled up with their first example
        starts = [part[0] for part in torch.arange(n).tensor_split(chips)]
        first = torch.stack(starts).to(x.device)
        ends = torch.cat([first[1:], first.new_tensor([n])])
        index = first[:, None] + torch.arange(rows, device=x.device)
        real = index < ends[:, None]
        index = torch.where(real, index, first[:, None])
        x, y = x[index], y[index]
    else:
        real = None
        x, y = x.view(chips, rows, -1), y.view(chips, rows, *y.shape[1:])
    factor = {id(p): f[:chips] for p, f in zip(drawn.parameters, drawn.factors, strict=True)}
    judged = x.new_ones(chips, 1, rows) if real is None else real[:, None].to(x.dtype)
    logits = sequence(x, lambda p: _Drifted.apply(p, factor[id(p)]), judged / judged.sum(2, keepdim=True))
    logits = logits * logits.new_tensor(temperatures)[:, None, None]
    if task.loss is not None:
        loss = task.loss(logits.flatten(0, 1), y.flatten(0, 1))
    elif real is None:
        loss = functional.cross_entropy(logits.flatten(0, 1), y.flatten())
    else:
        each = functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")
        loss = each.view_as(real).mul(real).sum() / n
    loss.backward()
    return loss.detach()


class _Drifted(torch.autograd.Function):
    """p (shape) and factors (chips, shape) -> p times each; the backward sums over the chips as it multiplies."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, factors: Tensor) -> Tensor:
        ctx.factors = factors  # constants, and memory that outlives the step
        return factors * p

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0][0] * ctx.factors[0]
        for grad, factor in zip(grads[0][1:], ctx.factors[1:], strict=True):
            total.addcmul_(grad, factor)
        return total, None


def _drift(drawn: TrainingChips, clean: Sequence[Tensor], chip: int) -> None:
    """Give the parameters the values of a chip."""
    with torch.no_grad():
        for p, before, factors in zip(drawn.parameters, clean, drawn.factors, strict=True):
            torch.mul(before, factors[chip], out=p.detach())


def chip_by_chip(
    model: nn.Module,
    drawn: TrainingChips,
    x: Batch,
    y: Tensor,
    temperatures: Sequence[float],
    task: TaskLoss = PLAIN,
) -> Tensor:
    """Run any model with the parameters of one chip after another. Sets the gradients and returns the loss."""
    chips = len(temperatures)
    parameters = drawn.parameters
    clean = [p.detach().clone() for p in parameters]
    gradients = [torch.zeros_like(p) for p in parameters]
    total = torch.zeros((), device=y.device)
    try:
        parts = zip(split(x, chips), y.tensor_split(chips), temperatures, strict=True)
        for chip, (images, labels, temperature) in enumerate(parts):
            _drift(drawn, clean, chip)
            share = task.weight(labels) / task.weight(y)
            loss = task(model, images, labels, temperature) * share
            loss.backward()
            total += loss.detach()
            for p, gradient, factors in zip(parameters, gradients, drawn.factors, strict=True):
                if p.grad is not None:
                    gradient.addcmul_(p.grad, factors[chip])
                    p.grad.zero_()
    finally:
        with torch.no_grad():
            for p, before in zip(parameters, clean, strict=True):
                p.copy_(before)
    for p, gradient in zip(parameters, gradients, strict=True):
        if p.grad is not None:
            p.grad.copy_(gradient)
    return total
