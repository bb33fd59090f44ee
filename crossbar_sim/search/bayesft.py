"""BayesFT: Bayesian optimisation of dropout rates by the score under drift, alternating with training."""

import hashlib
import math
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import nn

from crossbar_sim.baselines.calibrated import check_shares
from crossbar_sim.baselines.drift_aware import Parameters, check_parameters
from crossbar_sim.baselines.method import (
    Build,
    Method,
    Trained,
    check_development,
    check_switch,
    shown,
)
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.layer_designs import Design, as_design, at_sigma, identity_of, sources
from crossbar_sim.data import Development
from crossbar_sim.errors import InputError, silenced_warnings, warn
from crossbar_sim.files import check_writable
from crossbar_sim.nn.analog.chips import layers
from crossbar_sim.nn.analog.conversion import map_model
from crossbar_sim.nn.dropout_sites import remove_found
from crossbar_sim.nn.evaluate import inputs_for
from crossbar_sim.nn.files.checkpoint import write_tensors
from crossbar_sim.nn.multinomial import from_multinomial, to_multinomial
from crossbar_sim.nn.training.loop import Epoch, FitReport
from crossbar_sim.nn.training.settings import Training, check_training
from crossbar_sim.rng import Key, as_key
from crossbar_sim.robustness.calibration import Calibration
from crossbar_sim.robustness.metrics import METRICS, PER_CENT, Metric, find_metric
from crossbar_sim.robustness.score import of_operands
from crossbar_sim.robustness.tasks import fingerprint
from crossbar_sim.search.network import SIGMA, WIDTH, SearchedNetwork
from crossbar_sim.search.space import HIGH, LOW
from crossbar_sim.search.study import Best, Study, TrialCallback, check_workers, drive
from crossbar_sim.search.study_file import Trial
from crossbar_sim.search.surrogate import Acquisition, check_acquisition, check_installed
from crossbar_sim.search.trial import (
    ALGORITHMS,
    Algorithm,
    DriftedScore,
    FromScratchTrial,
    ScoredTrial,
    ScoreSample,
    Trainer,
    WarmStartTrial,
    Weights,
    weights_of,
)
from crossbar_sim.search.workers import Workers, workers_of
from crossbar_sim.store.records import canonical
from crossbar_sim.text import check_depth
from crossbar_sim.validate import check_integer, is_real

Bounds = tuple[float, float]
Path = str | PathLike[str]

TRIAL = Training(epochs=1, batch=256, lr=3e-3, clip=0.1)
"""Of a trial. Gradients through drift are noisy: their components are held in bounds (docs/search.md)."""

POLISH = replace(TRIAL, epochs=10)

CALIBRATION = 500
"""Training images, without labels, whose statistics each chip gets in the objective of a calibrated search."""


Noise = Literal["dropout", "multinomial"]
NOISES: tuple[str, ...] = get_args(Noise)


@dataclass(frozen=True)
class BayesFT(Method):
    """Search for dropout rates that make the network robust to drift (Algorithm 1 of the paper).

    Each trial trains with the rates that the surrogate proposes, and measures the mean accuracy over chips on
    validation examples. The winner is the trial with the largest posterior mean; it is measured again on chips that
    were not used in the search, and all validation examples, on some or all of which the trials were measured too.

    Args:
        sigma: of the drift in the objective, to which the network shall be robust.
        trials: how many, made up to whole batches.
        algorithm: how theta is moved. "literal", Algorithm 1 as written: in turns with the rates, one theta carried
            from trial to trial, drift inside its gradient (Eqs. 3 and 4). "clean", the released code's way: the same
            without drift in the gradient. "restart": each trial trains a fresh network, through drift.
        training_sigma: of the drift inside the gradient; None: sigma; (low, high): searched with the rates.
        training_chips: drawn for each gradient step; 0 with "restart": a clean gradient. "clean" draws none.
        rates: bounds of every dropout rate.
        width: (low, high) of the network's width, searched with the rates by "restart"; `build` is then called
            with `width=...`.
        acquisition: "lognei", or the paper's "mean".
        chips, images: of the objective: chips of a measurement, and validation examples (None: all).
        training: of one trial.
        polish: training of theta with the winner's rates after the last trial of "literal" and "clean"; None: none.
        batch: trials proposed together, for workers.
        initial: first points; None: by the number of dimensions.
        fresh_chips: for the final measurement.
        hardware: the design; None: the preset "bayesft". Its drift law takes sigma.
        parameters: how weight matrices are trained, "plain" or "square", see `DriftAware`.
        calibrated: train for chips that are calibrated, see `DriftAware`: in the objective every chip has statistics of
            its own, from CALIBRATION training images without labels.
        metric: what the objective is the mean of over chips, see `robustness.metrics.find_metric`; None: accuracy, of
            real targets RMSE, of scenes mAP. Where less is better, minus the score is maximised, and of a perplexity
            minus its logarithm.
        noise: "dropout", or "multinomial": dropout that also halves values (`nn.multinomial`), whose rates are then
            searched as BayesMulti does (arXiv:2412.02779).

    Raises:
        InputError: naming the setting, what was given and what is allowed.
    """

    kind: ClassVar[str] = "bayesft"
    later: ClassVar[Mapping[str, object]] = {
        "parameters": "plain", "metric": None, "calibrated": False, "noise": "dropout",
    }  # fmt: skip
    citation: ClassVar[str] = "Ye et al., BayesFT, DAC 2021, doi 10.1109/DAC18074.2021.9586115"

    sigma: float = 0.6
    trials: int = 20
    algorithm: Algorithm = "literal"
    training_sigma: float | Bounds | None = None
    training_chips: int = 8
    rates: Bounds = (LOW, HIGH)
    width: Bounds | None = None
    acquisition: Acquisition = "lognei"
    chips: int = 20
    images: int | None = 2000
    training: Training = TRIAL
    polish: Training | None = POLISH
    batch: int = 1
    initial: int | None = None
    fresh_chips: int = 100
    hardware: Design | None = None
    parameters: Parameters = "plain"
    metric: str | Metric | Callable[..., Any] | None = None
    calibrated: bool = False
    noise: Noise = "dropout"

    def __repr__(self) -> str:
        return shown(self)

    def __post_init__(self) -> None:
        if self.hardware is not None:
            object.__setattr__(self, "hardware", as_design(self.hardware))
        check_parameters(self.parameters)
        check_switch("calibrated", self.calibrated)
        if self.noise not in NOISES:
            raise InputError(f"noise={self.noise!r} must be one of {', '.join(NOISES)}")
        for training in (self.training, self.polish):
            if training is not None:
                check_training(training)
                if training.metric is not None:
                    raise InputError(
                        f"metric={training.metric!r} of a training of bayesft: trials are judged on chips, by the "
                        "metric of the method: give it there (search --metric, settings.metric in a file, "
                        "BayesFT(metric=...))"
                    )
        if self.polish is not None and self.polish.loss is None and self.training.loss is not None:
            object.__setattr__(self, "polish", replace(self.polish, loss=self.training.loss))
        if self.metric is not None:
            object.__setattr__(self, "metric", find_metric(self.metric))
        check_integer("trials", self.trials, 1)
        check_acquisition(self.acquisition, self.batch)
        if self.algorithm not in ALGORITHMS:
            raise InputError(f"algorithm={self.algorithm!r} must be one of {', '.join(ALGORITHMS)}")
        given = self.training_sigma
        for what, sigma in (("sigma", self.sigma), *(("training_sigma", s) for s in _numbers(given))):
            if not (is_real(sigma) and 0 <= sigma < math.inf):
                raise InputError(f"{what}={sigma!r}: a sigma is a finite number from 0 on")
        if given is not None and self.algorithm == "clean":
            raise InputError(
                "training_sigma would do nothing: algorithm='clean' has no drift in the gradient"
            )
        if self.algorithm != "clean" and self.training_chips and 0 in (_numbers(given) or (self.sigma,)):
            raise InputError(
                f"algorithm={self.algorithm!r} trains through drift, and its sigma is 0: give training_sigma > 0, or "
                "algorithm='clean'"
            )
        if self.width is not None and (self.algorithm != "restart" or not 0 < self.width[0] < self.width[1]):
            raise InputError(
                f"width={self.width!r}: 0 < low < high is needed, and algorithm='restart', since a theta that is "
                "carried along has one shape"
            )
        least = 0 if self.algorithm == "restart" else 1
        for what, number, low in (
            ("training_chips", self.training_chips, least),
            ("fresh_chips", self.fresh_chips, 2),
        ):
            check_integer(what, number, low)
        if self.training_chips == 0 and given is not None:
            raise InputError(
                f"training_chips=0 trains without drift, and training_sigma={given!r} is of the drift: give one of them"
            )
        at_sigma(self.design, self.sigma)
        for training in (self.training, self.polish) if self.algorithm != "clean" else ():
            if training is not None and self.training_chips > training.batch:
                raise InputError(
                    f"training_chips={self.training_chips} with batch={training.batch}: every chip needs an example"
                )
            if training is not None and self.calibrated:
                check_shares("training_chips", self.training_chips, training.batch)

    def judge(self, development: Development) -> Metric:
        """The metric of the objective on these data."""
        y = development.validation.y
        real = y is not None and y.is_floating_point()
        return self._metric or METRICS["rmse" if real else "accuracy"]

    @property
    def _metric(self) -> Metric | None:
        assert self.metric is None or isinstance(self.metric, Metric)  # since it was made
        return self.metric

    @property
    def design(self) -> Design:
        """The hardware, or the preset."""
        return Hardware.preset("bayesft") if self.hardware is None else self.hardware

    def fit(
        self,
        build: Build,
        development: Development,
        key: Key,
        *,
        study: Path | None = None,
        progress: Callable[[Epoch], None] | None = None,
        checkpoint: Path | None = None,
        workers: int | None = None,
        scheduler: str | None = None,
        device: str | None = None,
        on_trial: TrialCallback | None = None,
    ) -> Trained:
        """Search, and train the winner.

        Args:
            build: makes the network.
            development: what may be seen.
            key: of everything random; the chips of search and final measurement are streams of it.
            study: the file that keeps the trials; an interrupted search resumes from it, with the same result. Theta is
                kept beside it, in `study` + ".theta".
            progress: called after every epoch of the final training.
            checkpoint: a study without that name, as for other methods; beside `study`, where theta is kept.
            workers, scheduler: Dask, for the trials of a batch.
            device: where to train and to compute chips, in place of that of the trainings ("cuda", docs/gpu.md).
            on_trial: called after every trial.

        Returns:
            The trained network; notes: rates, searched and fresh score with their intervals, all trials.

        Raises:
            InputError: if a setting, the network and the data do not go together, or a file cannot be used.
        """
        if device is not None:
            polish = None if self.polish is None else replace(self.polish, device=device)
            there = replace(self, training=replace(self.training, device=device), polish=polish)
            return there.fit(
                build, development, key, study=study, progress=progress, checkpoint=checkpoint,
                workers=workers, scheduler=scheduler, on_trial=on_trial,
            )  # fmt: skip
        development = check_development(development, detection=True)
        key = as_key(key)
        check_installed()
        check_workers(workers, scheduler, self.batch)
        judge = self.judge(development)
        if workers is not None or scheduler is not None:
            judge.check_importable()
        study, theta = _files(study, checkpoint)
        sigmas = self.training_sigma if isinstance(self.training_sigma, tuple) else None
        examples = development.train.x if self.calibrated else None
        given = self.noise == "dropout" or isinstance(build, nn.Module)  # which is refused
        made = build if given else _WithMultinomial(build)
        network = SearchedNetwork.of(made, key, self.rates, sigmas, self.width, examples)
        trainer = Trainer(network, development, *self._gradient(), self.design, self.parameters)
        score = DriftedScore.of(
            development.validation, self.design, self.sigma, self.chips, self.images, key.fold("search"),
            self._metric, self.training.device, self._calibration(development),
        )  # fmt: skip
        first = network.make(network.space.point([0.0] * len(network.space)), key)
        analog, seen = map_model(
            first.eval(), at_sigma(self.design, self.sigma), inputs_for(first.eval(), score.x, y=score.y)[0]
        )  # warns of what cannot act
        warn(of_operands(layers(analog), seen))
        with silenced_warnings():
            clean = score.measure(first)  # what does not fit is refused before the search
        identity = {
            "bayesft": self._identity(),
            "network": fingerprint(first),
            "data": development.fingerprint,
        }
        with (
            Study(
                network.space, key.fold("search"), study, acquisition=self.acquisition, initial=self.initial,
                batch=self.batch, extra=True, identity=identity,
            ) as opened,
            workers_of(workers, scheduler) as pool,
            ExitStack() as stack,
        ):  # fmt: skip
            stack.enter_context(silenced_warnings())  # of trials, which are not what is returned
            if self.algorithm == "restart":
                model, report, best = self._restart(
                    FromScratchTrial(trainer, self.training, score, key), opened, pool, on_trial, progress
                )
            else:
                trial = WarmStartTrial(trainer, self.training, score, key)
                file = ThetaFile(theta, opened.identity)
                model, report, best = self._alternate(trial, first, opened, file, pool, on_trial, progress)
            notes = self._notes(network, best, opened, clean, judge)
        model.to("cpu").eval()
        from_multinomial(model)
        with silenced_warnings():
            notes["fresh"] = _summary(self._fresh(development, key).measure(model), judge)
        return Trained(model, report, notes)

    def _gradient(self) -> tuple[Algorithm, float, int]:
        """(algorithm, training sigma, chips) of a Trainer."""
        sigma = self.training_sigma
        number = self.sigma if sigma is None or isinstance(sigma, tuple) else sigma
        return self.algorithm, 0.0 if self.training_chips == 0 else float(number), max(1, self.training_chips)

    def _restart(
        self, trial: FromScratchTrial, study: Study, pool: Workers,
        on_trial: TrialCallback | None, progress: Callable[[Epoch], None] | None,
    ) -> tuple[nn.Module, FitReport, Best]:  # fmt: skip
        drive(study, self.trials, ScoredTrial(trial), pool, on_trial)
        best = study.best()
        model, report = trial.model(best.trial.number, best.point, progress=progress, report=True)
        return model, report, best

    def _alternate(
        self, trial: WarmStartTrial, first: nn.Module, study: Study, file: "ThetaFile", pool: Workers,
        on_trial: TrialCallback | None, progress: Callable[[Epoch], None] | None,
    ) -> tuple[nn.Module, FitReport, Best]:  # fmt: skip
        weights = alternate(study, file, weights_of(first), self.trials, trial, pool, on_trial)
        best = study.best()
        model = trial.model(best.point, weights)
        trial.trainer.network.set_rates(model, best.point)
        report = FitReport((), 0, 0.0)
        if self.polish is not None:
            # Named by what it starts from: another polish, or one after more trials, is another training.
            digest = hashlib.sha256(f"{study.done} {self.polish}".encode()).hexdigest()[:8]
            kept = None if file.path is None else f"{os.fspath(file.path)}.polish-{digest}"
            report = trial.trainer.train(
                model, best.point, self.polish, trial.key.fold("polish"), progress=progress, checkpoint=kept,
                report=True,
            )  # fmt: skip
            if kept is not None:
                os.unlink(kept)
        remove_found(model)
        return model, report, best

    def _fresh(self, development: Development, key: Key) -> DriftedScore:
        """The objective on held-out chips and all validation examples."""
        return DriftedScore.of(
            development.validation, self.design, self.sigma, self.fresh_chips, None, key.fold("fresh"),
            self._metric, self.training.device, self._calibration(development),
        )  # fmt: skip

    def _calibration(self, development: Development) -> tuple[Calibration, Development] | None:
        """Of the chips that a network is scored on."""
        if not self.calibrated:
            return None
        return Calibration("statistics", min(CALIBRATION, len(development.train))), development

    def _notes(
        self, network: SearchedNetwork, best: Best, study: Study, clean: ScoreSample, judge: Metric
    ) -> dict[str, Any]:
        point, trials = dict(best.point), study.trials
        return {
            "method": self.kind,
            "algorithm": self.algorithm,
            "sigma": float(self.sigma),
            "rates": network.rates(point),
            "training_sigma": point.get(SIGMA, self._gradient()[1] if self.algorithm != "clean" else 0.0),
            "width": point.get(WIDTH),
            "trial": best.trial.number,
            "trials": len(trials),
            "untrained": clean.mean,
            "searched": _summary(ScoreSample(_scores(best.trial)), judge),
            "posterior": {"mean": best.mean, "sd": best.sd},
            "history": [
                {"number": t.number, "point": dict(t.point), "value": t.value, "variance": t.variance}
                for t in trials
            ],
            **({} if judge.unit == PER_CENT and self.metric is None else {"metric": repr(judge)}),
        }

    def _identity(self) -> dict[str, Any]:
        """The settings that determine the trials, without their number and the final training."""
        algorithm, sigma, chips = self._gradient()
        return {
            "algorithm": algorithm, "sigma": float(self.sigma), "training_sigma": sigma, "training_chips": chips,
            "chips": self.chips, "images": self.images, "training": repr(replace(self.training, device=None)),
            "hardware": identity_of(at_sigma(self.design, self.sigma)),
            **sources(self.design),
            **({} if self.parameters == "plain" else {"parameters": self.parameters}),
            **({"calibrated": True} if self.calibrated else {}),
            **({} if self._metric is None else {"metric": repr(self._metric)}),
            **({} if self.noise == "dropout" else {"noise": self.noise}),
        }  # fmt: skip


@dataclass(frozen=True)
class _WithMultinomial:
    """Makes the network with multinomial dropout."""

    build: Any

    def __call__(self, **width: float) -> nn.Module:
        made = self.build(**width)
        return to_multinomial(made) if isinstance(made, nn.Module) else made  # type: ignore[no-any-return]


def _summary(found: ScoreSample, judge: Metric) -> dict[str, Any]:
    interval = found.interval
    ci95 = None if interval is None else [interval.low, interval.high]
    summary: dict[str, Any] = {"mean": found.mean, "ci95": ci95, "chips": len(found.scores)}
    if judge.sign < 0:  # as people read it
        ends = None if ci95 is None else sorted(map(judge.shown, ci95))
        summary["shown"] = {"mean": judge.shown(found.mean), "ci95": ends}
    return summary


def _scores(trial: Trial) -> tuple[float, ...]:
    """The scores of a trial's chips; a damaged study file may lack them.

    Raises:
        InputError: if it is.
    """
    scores = trial.notes.get("scores")
    if (
        not isinstance(scores, list)
        or not scores
        or not all(isinstance(score, int | float) for score in scores)
    ):
        raise InputError(
            f"the study is damaged: trial {trial.number} has no scores; search again into a new file"
        )
    return tuple(map(float, scores))


def _numbers(given: float | Bounds | None) -> tuple[float, ...]:
    return () if given is None else given if isinstance(given, tuple) else (given,)


def _files(study: Path | None, checkpoint: Path | None) -> tuple[Path | None, Path | None]:
    """(study file, file of theta)."""
    if study is None:
        study, checkpoint = checkpoint, None
    return study, checkpoint if study is None or checkpoint is not None else f"{os.fspath(study)}.theta"


# Theta between the trials of an alternating search: one set of weights, kept in a file beside the study.
#
# The file is replaced before the study is updated, and holds the outcomes that the study will get: whenever a search
# is killed, both files together determine how to continue. It is a `torch.save` of tensors and plain values, read
# with `weights_only=True`.


FORMAT = "crossbar-sim theta"
FORMAT_VERSION = 1


@dataclass
class Theta:
    """The weights between trials, and the trials that they have been through.

    Args:
        weights: a state_dict.
        done: the trials that they have been through.
        outcomes: of the last batch, as `Study.tell_all` takes them.
    """

    weights: Weights
    done: int = 0
    outcomes: list[tuple[int, float, float | None, float, dict[str, Any]]] = field(default_factory=list)


class ThetaFile:
    """The file of theta between trials; path None: no file.

    Raises:
        InputError: if it could not be written there.
    """

    def __init__(self, path: str | os.PathLike[str] | None, identity: Mapping[str, Any]) -> None:
        self.path = path
        self.identity = hashlib.sha256(canonical(dict(identity)).encode()).hexdigest()
        if path is not None:
            check_writable(path)

    def write(self, theta: Theta) -> None:
        """Replace the file once the new one is complete on disk."""
        if self.path is None:
            return
        content = {
            "format": FORMAT, "format_version": FORMAT_VERSION, "study": self.identity, "weights": theta.weights,
            "done": theta.done, "outcomes": theta.outcomes,
        }  # fmt: skip
        write_tensors(self.path, content)

    def read(self) -> Theta | None:
        """The stored theta; None if there is no file.

        Raises:
            InputError: if it is something else, or belongs to another study.
        """
        if self.path is None or not os.path.exists(self.path):
            return None
        refusal = f"{self.path} holds no weights of a search: move it away, or name another study"
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            check_depth(content)
            if content["format"] != FORMAT or content["format_version"] != FORMAT_VERSION:
                raise InputError(refusal)
            if content["study"] != self.identity:
                raise InputError(
                    f"{self.path} holds the weights of another study: move it away, or name another study"
                )
            outcomes = [_outcome(*each) for each in content["outcomes"]]
            return Theta(_tensors(content["weights"]), int(content["done"]), outcomes)
        except InputError:
            raise
        except OSError as error:
            raise InputError(f"cannot read {self.path}: {error.strerror or error}") from error
        except (
            pickle.UnpicklingError,
            RuntimeError,
            EOFError,
            OverflowError,
            KeyError,
            TypeError,
            ValueError,
            AttributeError,
        ) as error:
            raise InputError(refusal) from error


def _outcome(number: int, value: float, variance: float | None, seconds: float, notes: Any) -> Any:
    return (
        int(number),
        float(value),
        None if variance is None else float(variance),
        float(seconds),
        dict(notes),
    )


def _tensors(weights: Any) -> Weights:
    if not all(isinstance(name, str) and torch.is_tensor(value) for name, value in weights.items()):
        raise TypeError("weights are tensors by name")
    return dict(weights)


def alternate(
    study: Study,
    file: ThetaFile,
    first: Weights,
    trials: int,
    trial: WarmStartTrial,
    pool: Workers,
    progress: TrialCallback | None,
) -> Weights:
    """Algorithm 1: update theta and alpha alternately.

    With one trial at a time that is the paper's. The trials of a larger batch start from the same theta, and the
    theta of the one that scored best goes on.

    Args:
        study: may hold trials already.
        file: where theta is kept.
        first: theta before the first trial.
        trials: how many there shall be, made up to whole batches.
        trial: what one does.
        pool: where.
        progress: called after every trial.

    Returns:
        Theta after the last trial.

    Raises:
        InputError: if study and weights do not belong together.
    """
    theta = _agreed(study, file, Theta(first))
    while study.done < trials:
        pending = study.ask()
        items = [(number, point, theta.weights) for number, point in pending]
        outcomes: list[Any] = [None] * len(pending)
        after: list[Weights] = [{}] * len(pending)
        for i, (measured, weights), seconds in pool.run(trial, items):
            scores = {"scores": list(measured.scores)}
            outcomes[i] = (pending[i][0], measured.mean, measured.variance, seconds, scores)
            after[i] = weights
        best = max(range(len(pending)), key=lambda i: (outcomes[i][1], -i))
        theta = Theta(after[best], pending[-1][0] + 1, outcomes)
        file.write(theta)
        _tell(study, theta.outcomes, progress)
    return theta.weights


def _agreed(study: Study, file: ThetaFile, first: Theta) -> Theta:
    """Theta in agreement with the study, which gets the outcomes that it lacks."""
    theta, done = file.read() or first, study.done
    shapes = [
        {name: (value.shape, value.dtype, value.layout) for name, value in one.weights.items()}
        for one in (theta, first)
    ]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"{file.path} holds the weights of another network: move it away, or name another study"
        )
    if theta.done == done:
        return theta
    missed: Sequence[Any] = [each for each in theta.outcomes if each[0] >= done]
    if theta.done == done + len(missed):
        study.tell_all(missed)
        return theta
    raise InputError(
        f"the study holds {done} trials and the weights beside it ({file.path}) have been through {theta.done}: an "
        "alternating search goes on with both; put both together, or search again into new files"
    )


def _tell(study: Study, outcomes: Sequence[Any], progress: TrialCallback | None) -> None:
    for trial in study.tell_all(outcomes):
        if progress is not None:
            progress(trial, study)
