"""One trial of BayesFT: train at a point, then measure. Self-contained, so that it runs on any worker."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from crossbar_sim.baselines.calibrated import estimate_clean
from crossbar_sim.baselines.drift_aware import DriftAware, Parameters, squared
from crossbar_sim.crossbar.drift import LogNormalDrift
from crossbar_sim.crossbar.layer_designs import Design, at_sigma, designs_of, is_deterministic
from crossbar_sim.data import Development, Split
from crossbar_sim.data.inputs import Batch
from crossbar_sim.errors import InputError
from crossbar_sim.nn.detection import detects
from crossbar_sim.nn.device import on_device
from crossbar_sim.nn.dropout_sites import remove_found
from crossbar_sim.nn.seeding import permutation
from crossbar_sim.nn.training.loop import Epoch, FitReport, fit
from crossbar_sim.nn.training.losses import TaskLoss
from crossbar_sim.nn.training.settings import Step, Training
from crossbar_sim.rng import Key
from crossbar_sim.robustness.calibration import Calibration
from crossbar_sim.robustness.evaluator import Job, Subject
from crossbar_sim.robustness.metrics import METRICS, PER_CENT, Metric
from crossbar_sim.robustness.statistics import Interval, mean_interval
from crossbar_sim.search.network import SIGMA, SearchedNetwork
from crossbar_sim.validate import check_integer

# What a search is after: the mean score over chips of a design, on validation examples, and how sure it is.


@dataclass(frozen=True)
class ScoreSample:
    """The scores of chips."""

    scores: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over chips: the Monte Carlo estimate of Eq. 4 of the paper."""
        return sum(self.scores) / len(self.scores)

    @property
    def variance(self) -> float:
        """Variance of the mean: the variance between chips over their number; 0 where all chips are equal."""
        mean, n = self.mean, len(self.scores)
        return sum((score - mean) ** 2 for score in self.scores) / (n - 1) / n if n > 1 else 0.0

    @property
    def interval(self) -> Interval | None:
        """95 % Student-t interval of the mean; None for one chip."""
        return mean_interval(self.scores)


@dataclass(frozen=True, eq=False)
class DriftedScore:
    """The objective: the mean score over chips. All trials are measured on the same chips and examples.

    What the chips have in common for all networks then cancels between trials, so the variance that is passed to the
    surrogate is an upper bound.

    Args:
        x, y: the examples: (n, ...) and labels (n,).
        hardware: the design, whose drift law takes sigma.
        sigma: of the drift.
        chips: how many.
        seed: names the chips: 0 .. chips - 1 of this seed, which is no user's.
        metric: what chips are judged by; None: accuracy, of real targets RMSE, of scenes mAP.
        device: where chips are computed; None: where the network is.
        calibration: of each chip, and the data whose training images it is fitted to; None: none.
    """

    x: Batch
    y: Tensor
    hardware: Design
    sigma: float
    chips: int
    seed: int
    metric: Metric | None = None
    device: str | None = None
    calibration: tuple[Calibration, Development] | None = None

    @classmethod
    def of(
        cls,
        split: Split,
        hardware: Design,
        sigma: float,
        chips: int,
        images: int | None,
        key: Key,
        metric: Metric | None = None,
        device: str | None = None,
        calibration: tuple[Calibration, Development] | None = None,
    ) -> "DriftedScore":
        """On `images` examples of a split, drawn by the key, or all (None).

        Raises:
            InputError: if there are no labels, a number is impossible, or the design has no such sigma.
        """
        if split.y is None:
            raise InputError("the validation examples have no labels: the search needs y")
        for what, number, least in (("chips", chips, 2), ("images", images, 1)):
            if number is not None:
                check_integer(what, number, least)
        at_sigma(hardware, sigma)
        x, y = split.x, split.y
        if images is not None and images < len(x):
            chosen = permutation(len(x), key.fold("images"))[:images].sort().values
            x, y = x[chosen], y[chosen]
        return cls(x, y, hardware, sigma, chips, key.fold("chips").integer(), metric, device, calibration)

    def measure(self, model: nn.Module) -> ScoreSample:
        """Score a clean model, in evaluation mode, on the chips: more is better, so an error has a minus sign.

        Raises:
            InputError: if the model does not take the examples, or its outputs are not finite.
        """
        with on_device(self.device, model) as where:
            subject, analog = Subject.prepared(
                model, self.hardware, self.x, self.y,
                sigma=self.sigma, seed=self.seed, metric=self.metric, device=where,
            )  # fmt: skip
            if self.calibration is not None:
                subject.calibrate(analog, *self.calibration)
            once = is_deterministic(at_sigma(self.hardware, self.sigma))
            trials = subject.evaluator.measure(Job(self.sigma, tuple(range(1 if once else self.chips))))
        return ScoreSample(tuple(trial.value for trial in trials))


def as_text(scores: Sequence[float], judge: Metric = METRICS["accuracy"]) -> str:
    """The mean over chips with its interval: `93.21 % +- 0.40`."""
    found = ScoreSample(tuple(scores))
    return score_text(found.mean, None if found.interval is None else found.interval.half_width, judge, "+-")


def score_text(mean: float, half: float | None, judge: Metric, sign: str = "±") -> str:
    """A stored score as people read it, with the half-width of its interval; of a logarithm with both ends.

    >>> score_text(-0.25, 0.125, METRICS["rmse"]), score_text(0.9, None, METRICS["f1"])
    ('0.25 ± 0.12', '90.00 %')
    """
    if judge.unit == PER_CENT:
        return f"{100 * judge.shown(mean):.2f} %" + ("" if half is None else f" {sign} {100 * half:.2f}")
    if judge.logarithm:
        ends = "" if half is None else f" ({judge.shown(mean + half):.4g} to {judge.shown(mean - half):.4g})"
        return f"{judge.shown(mean):.4g}{ends}"
    unit = f" {judge.unit}" if judge.unit else ""
    return f"{judge.shown(mean):.4g}{unit}" + ("" if half is None else f" {sign} {half:.2g}")


Algorithm = Literal["literal", "clean", "restart"]
ALGORITHMS: tuple[str, ...] = get_args(Algorithm)

Weights = dict[str, Tensor]


@dataclass(frozen=True, eq=False)
class Trainer:
    """Trains a network at a point of the search space, as the chosen algorithm does.

    Args:
        network: and its space.
        development: what it learns from.
        algorithm: "clean" trains without drift, the others through it.
        sigma: of the drift in the gradient, where the point has none.
        chips: per gradient step.
        hardware: the design that the gradient goes through.
        parameters: of `DriftAware`.
    """

    network: SearchedNetwork
    development: Development
    algorithm: Algorithm
    sigma: float
    chips: int
    hardware: Design
    parameters: Parameters = "plain"

    def train(
        self,
        model: nn.Module,
        point: Mapping[str, float],
        training: Training,
        key: Key,
        *,
        progress: Callable[[Epoch], None] | None = None,
        checkpoint: str | PathLike[str] | None = None,
        report: bool = False,
    ) -> FitReport:
        """Train in place with the rates of a point; afterwards it is ready to be measured.

        Args:
            report: whether to look at the validation accuracy after every epoch, which decides nothing.
        """
        self.network.set_rates(model, point)
        validation = self.development.validation if report or training.patience is not None else None
        sigma = point.get(SIGMA, self.sigma)
        method = (
            f"BayesFT {self.algorithm}, rates {self.network.rates(point)}, sigma {sigma}, {self.chips} chips"
        )
        if self.parameters != "plain":
            method += f", parameters {self.parameters}"
        own = self.network.calibrated is not None
        if own:
            method += ", calibrated"
        try:
            return fit(
                model, self.development.train, validation, training=training, key=key, method=method,
                steps=self._steps(model, sigma, training, key), squared=squared(model, self.parameters),
                after_epoch=estimate_clean if own else None,
                progress=progress, checkpoint=checkpoint,
            )  # fmt: skip
        finally:
            remove_found(model)  # hooks would keep the evaluation from its faster routes

    def _steps(
        self, model: nn.Module, sigma: float, training: Training, key: Key
    ) -> Callable[[TaskLoss], Step] | None:
        """The gradient of the drifted loss, Eqs. 3 and 4 of the paper; None: that of the clean one."""
        if self.algorithm == "clean" or sigma == 0:
            return None

        def steps(loss: TaskLoss) -> Step:
            # From scratch, drift rises over the first half. Theta that is carried along is past that.
            drifted = DriftAware(
                sigma=sigma, chips=self.chips, ramp=0.5 if self.algorithm == "restart" else 0.0,
                temperature=_lognormal(self.hardware) and not detects(model) and loss.axis is not None,
                hardware=self.hardware,
                training=training,
            )  # fmt: skip
            return drifted.step(model, key, loss)

        return steps


@dataclass(frozen=True, eq=False)
class FromScratchTrial:
    """An independent trial: a new network, trained at its point."""

    trainer: Trainer
    training: Training
    score: DriftedScore
    key: Key

    def model(self, number: int, point: Mapping[str, float], **more: object) -> tuple[nn.Module, FitReport]:
        """The network of a trial; repeated calls return the same bits."""
        key = self.key.fold("trial", str(number))
        model = self.trainer.network.make(point, key)
        return model, self.trainer.train(model, point, self.training, key, **more)  # type: ignore[arg-type]

    def __call__(self, number: int, point: Mapping[str, float]) -> ScoreSample:
        """The scores of its chips."""
        return self.score.measure(self.model(number, point)[0])


@dataclass(frozen=True, eq=False)
class ScoredTrial:
    """A trial in the form that `drive` calls."""

    trial: FromScratchTrial

    def __call__(self, number: int, point: dict[str, float]) -> tuple[float, float | None, Mapping[str, Any]]:
        """(mean, variance, notes with the scores of chips)."""
        found = self.trial(number, point)
        return found.mean, found.variance, {"scores": list(found.scores)}


@dataclass(frozen=True, eq=False)
class WarmStartTrial:
    """A trial that starts from given weights: lines 3 to 5 of Algorithm 1."""

    trainer: Trainer
    training: Training
    score: DriftedScore
    key: Key

    def model(self, point: Mapping[str, float], weights: Weights) -> nn.Module:
        """A network with these weights, in evaluation mode."""
        model = self.trainer.network.make(point, self.key)
        remove_found(model)
        model.load_state_dict(weights)
        return model.eval()

    def __call__(
        self, number: int, point: Mapping[str, float], weights: Weights
    ) -> tuple[ScoreSample, Weights]:
        """The scores of its chips, and the weights to continue from."""
        model = self.model(point, weights)
        self.trainer.train(model, point, self.training, self.key.fold("trial", str(number)))
        return self.score.measure(model), weights_of(model)


def weights_of(model: nn.Module) -> Weights:
    """Copies of all tensors of the state_dict, on the CPU."""
    return {
        name: value.detach().cpu().clone()
        for name, value in model.state_dict().items()
        if torch.is_tensor(value)
    }


def _lognormal(design: Design) -> bool:
    return all(isinstance(hardware.drift, LogNormalDrift | None) for hardware in designs_of(design))
