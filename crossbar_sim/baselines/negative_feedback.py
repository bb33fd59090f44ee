"""NeFT: outputs of chips that vary more, or of intermediate layers, are subtracted from a drifted chip's output."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from crossbar_sim.baselines.awp import statistics_kept
from crossbar_sim.baselines.drifted_steps import ChipByChip, TrainingChips
from crossbar_sim.baselines.method import Build, Method, Trained, check_development, fresh, shown, trained
from crossbar_sim.baselines.snapshots import WithHeads
from crossbar_sim.crossbar.drift import LogNormalDrift
from crossbar_sim.data import Development
from crossbar_sim.data.inputs import Batch
from crossbar_sim.errors import InputError
from crossbar_sim.nn.device import Device
from crossbar_sim.nn.training.loop import Epoch
from crossbar_sim.nn.training.losses import PLAIN, TaskLoss
from crossbar_sim.nn.training.settings import Step, Training, check_training
from crossbar_sim.rng import Key, as_key
from crossbar_sim.validate import is_real

Feedback = Literal["forwards", "snapshots"]
FEEDBACKS: tuple[str, ...] = get_args(Feedback)

FURTHER = (0.15, 0.1, 0.05)
"""What the authors' release adds to sigma."""


@dataclass(frozen=True)
class NegativeFeedback(Method):
    """Minimise the loss of (y - beta sum_i 10^-i y_i) / (n + 1), i = 0 .. n - 1: oriented variational forward of NeFT.

    y are the outputs for the batch on a new chip of `sigma`, and y_i those of another new chip of the larger sigma
    `sigma + further[i]`; gradients go through all of them. A chip multiplies every parameter by exp(sigma z), and the
    gradient goes through that factor. Every chip runs the whole batch.

    With feedback="snapshots", the intermediate representation snapshots of NeFT, there is one chip, and y_i are the
    logits of a head on the i-th layer (`baselines.snapshots`); heads drift too, and are not part of the result.

    Args:
        sigma: of the drift to train for.
        further: what is added to sigma for each further forward, the one of the largest weight first.
        beta: strength of the feedback.
        training: how.
        feedback: where y_i come from, "forwards" or "snapshots".

    Raises:
        InputError: if a setting is out of range or has no effect.
    """

    sigma: float = 0.6
    further: tuple[float, ...] = FURTHER
    beta: float = 1e-3
    training: Training = Training()  # noqa: RUF009 - frozen
    feedback: Feedback = "forwards"
    kind: ClassVar[str] = "neft"
    later: ClassVar[Mapping[str, object]] = {"feedback": "forwards"}
    citation: ClassVar[str] = (
        "Qin et al., NeFT: negative feedback training to improve robustness of compute-in-memory DNN accelerators, "
        "IEEE TCAD 2025, arXiv 2305.14561"
    )

    def __post_init__(self) -> None:
        check_training(self.training)
        LogNormalDrift(self.sigma)  # refuses what is not a sigma
        further = self.further if isinstance(self.further, tuple) else (self.further,)
        if not further or not all(is_real(each) and 0 < each < math.inf for each in further):
            raise InputError(
                f"further={self.further!r}: one or several finite numbers > 0, each of which sigma is raised by"
            )
        object.__setattr__(self, "further", further)
        if not (is_real(self.beta) and 0 < self.beta < 0.9):
            raise InputError(
                f"beta={self.beta!r}: a number above 0 and below 0.9 is needed, where the feedback, beta (1 + 1/10 + "
                "...), would outweigh the output"
            )
        if self.feedback not in FEEDBACKS:
            raise InputError(f"feedback={self.feedback!r} must be one of {', '.join(FEEDBACKS)}")
        if self.feedback == "snapshots" and further != FURTHER:
            raise InputError(f"further={further!r} has no effect with feedback=snapshots: leave it out")

    def __repr__(self) -> str:
        return shown(self)

    def weights(self, n: int) -> list[float]:
        """What each of n further outputs is multiplied by, before it is subtracted.

        >>> NegativeFeedback(beta=0.5).weights(3)
        [0.5, 0.05, 0.005]
        """
        return [self.beta * 10.0**-i for i in range(n)]

    @property
    def sigmas(self) -> list[float]:
        """Of the chip to train for, and of the further ones."""
        return [self.sigma, *(self.sigma + each for each in self.further)]

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
        notes: dict[str, Any] = {"sigmas": self.sigmas, "weights": self.weights(len(self.further))}
        if self.feedback == "snapshots":
            model = WithHeads(model, known.train.x, key)
            notes = {"sigma": self.sigma, "weights": self.weights(len(model.names)), "heads": model.names}
        done = trained(
            self,
            model,
            known,
            key,
            steps=lambda loss: self.step(key, loss),
            progress=progress,
            checkpoint=checkpoint,
            notes=notes,
        )
        return done if not isinstance(model, WithHeads) else replace(done, model=model.remove())

    def step(self, key: Key, loss: TaskLoss = PLAIN) -> Step:
        """The gradient step for `nn.fit`.

        Args:
            key: names the chips.
            loss: of the model's outputs; with snapshots the model is one `WithHeads`.

        Raises:
            InputError: if the outputs are compared with numbers.
        """
        if loss.axis is None:
            raise InputError(
                "neft subtracts logits of classes from logits, and these targets are real numbers"
            )
        return _Snapshots(self, key, loss) if self.feedback == "snapshots" else _Step(self, key, loss)


class _Chips:
    """Memory for the draws of a step, made once per model and device."""

    def __init__(self, key: Key, chips: int, training: Training) -> None:
        self.key, self.chips, self.tensors = key, chips, Device.of(training.device).tensors
        self._of: tuple[nn.Module, TrainingChips] | None = None

    def of(self, model: nn.Module) -> TrainingChips:
        known = self._of
        if known is None or known[0] is not model or known[1].device != next(model.parameters()).device:
            made = TrainingChips(model, self.chips, self.key, tensors=self.tensors)
            known = self._of = (model, made)
        return known[1]


class _Step:
    """See `NegativeFeedback`; a `Step`.

    The chips run one after another and twice: first for the slope of the loss in the combined output, then for their
    gradients, with the same dropout and the same statistics.
    """

    def __init__(self, method: NegativeFeedback, key: Key, loss: TaskLoss) -> None:
        self.loss = loss
        self.sigmas = method.sigmas
        self.weights = [
            1 / len(self.sigmas),
            *(-w / len(self.sigmas) for w in method.weights(len(method.further))),
        ]
        self.chips = _Chips(key, len(self.sigmas), method.training)

    def __call__(self, model: nn.Module, x: Batch, y: Tensor, share: float) -> Tensor:
        drawn = self.chips.of(model)
        drawn.draw(self.sigmas)
        cuda = [drawn.device] if drawn.device.type == "cuda" else []
        with ChipByChip(drawn) as each:
            with torch.random.fork_rng(devices=cuda), statistics_kept(model), torch.no_grad():
                combined = torch.zeros(())
                for chip, weight in enumerate(self.weights):
                    each.program(chip)
                    combined = combined.to(y.device) + weight * self.loss.judged(model, x.clone())
            combined.requires_grad_()
            loss = (self.loss.loss or functional.cross_entropy)(combined, y)
            (slope,) = torch.autograd.grad(loss, combined)
            for chip, weight in enumerate(self.weights):
                each.program(chip)
                self.loss.judged(model, x.clone()).backward(weight * slope)
                each.gather(chip)
        return loss.detach()


class _Snapshots:
    """The step of a `WithHeads`: one chip, and the logits of its heads as feedback."""

    def __init__(self, method: NegativeFeedback, key: Key, loss: TaskLoss) -> None:
        self.method, self.loss = method, loss
        self.chips = _Chips(key, 1, method.training)

    def __call__(self, model: nn.Module, x: Batch, y: Tensor, share: float) -> Tensor:
        assert isinstance(model, WithHeads)
        drawn = self.chips.of(model)
        drawn.draw([self.method.sigma])
        with ChipByChip(drawn) as each:
            each.program(0)
            own = self.loss.judged(model, x)
            others = model.snapshots()
            for weight, other in zip(self.method.weights(len(others)), others, strict=True):
                own = own - weight * other
            loss = (self.loss.loss or functional.cross_entropy)(own / (1 + len(others)), y)
            loss.backward()
            each.gather(0)
        model.seen.clear()
        return loss.detach()
