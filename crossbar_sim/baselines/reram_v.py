"""ReRAM-V: diagnose the cells of one chip, freeze those that cannot be corrected, retrain the others on that chip."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from os import PathLike
from statistics import fmean
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from crossbar_sim.baselines.drifted_steps import as_deployed
from crossbar_sim.baselines.method import Build, Method, Trained, check_development, fresh, trained
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.layer_designs import Design, as_design
from crossbar_sim.data import Development
from crossbar_sim.data.inputs import Batch
from crossbar_sim.errors import InputError
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.programming import program
from crossbar_sim.nn.evaluate import BLOCK, inputs_for
from crossbar_sim.nn.training.loop import Epoch, fit
from crossbar_sim.nn.training.losses import TaskLoss
from crossbar_sim.nn.training.settings import Step, Training, check_training
from crossbar_sim.rng import Key, as_key, check_chip
from crossbar_sim.robustness.metrics import find_metric
from crossbar_sim.robustness.score import Reference
from crossbar_sim.validate import is_real, show

FRESH = 5
"""Other chips that a retrained network is also tried on."""


@dataclass(frozen=True)
class ReramV(Method):
    """Diagnose a chip, freeze what cannot be corrected, retrain the rest in the loop (after Chen et al., DATE 2017).

    1. Every cell is written to full scale and read: its gain is what is read over what was written.
    2. Weights whose gain is off by more than the threshold are frozen at their value; stuck ones always are.
    3. The others are trained on with the chip in the loop: each step programs the weights into this chip, runs on
       what it makes of them, and takes the gradient through it.

    What varies here belongs to the cells: a weight that is programmed again meets the same factor. The result is for
    this chip alone: on another one it is worse than the network it began with. Where cells change again after each
    programming, read the scores on fresh chips, which the notes hold too.

    Args:
        hardware: the design.
        chip, seed: which sample of it.
        threshold: of |ln gain|, beyond which a weight is frozen. inf: stuck cells only.
        training: of the network that the method begins with, by plain training.
        retraining: of the rest, on the chip; its validation accuracy is the chip's.

    Raises:
        InputError: if a value is out of range, or the retraining would decay frozen weights.
    """

    kind: ClassVar[str] = "reram-v"
    citation: ClassVar[str] = (
        "Chen, Li, Chen, Zhuo: Accelerator-friendly Neural-network Training: Learning Variations and Defects in RRAM "
        "Crossbar, DATE 2017, doi 10.23919/DATE.2017.7926952"
    )

    hardware: Design = field(default_factory=lambda: Hardware.preset("bayesft"))
    chip: int = 0
    seed: int = 0
    threshold: float = 2.0
    training: Training = Training()  # noqa: RUF009 - frozen
    retraining: Training = Training(epochs=10, patience=3)  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        check_training(self.training)
        object.__setattr__(self, "hardware", as_design(self.hardware))
        check_chip(self.chip)
        Key(self.seed)
        if not (is_real(self.threshold) and self.threshold > 0):
            raise InputError(f"threshold={self.threshold!r}: a number > 0 is needed, of |ln gain|, or inf")
        if not isinstance(self.retraining, Training):
            raise InputError(
                f"retraining={show(self.retraining)}: a Training is needed (a table of its fields in --set and files)"
            )
        if self.retraining.loss is None and self.training.loss is not None:
            object.__setattr__(self, "retraining", replace(self.retraining, loss=self.training.loss))
        if self.retraining.metric is None and self.training.metric is not None:
            object.__setattr__(self, "retraining", replace(self.retraining, metric=self.training.metric))
        if self.retraining.weight_decay:
            raise InputError(
                f"retraining.weight_decay={self.retraining.weight_decay:g} would move frozen weights: it must be 0"
            )

    def fit(
        self,
        build: Build,
        development: Development,
        key: Key,
        *,
        progress: Callable[[Epoch], None] | None = None,
        checkpoint: str | PathLike[str] | None = None,
    ) -> Trained:
        """Train plainly, then for the chip; the checkpoint is of the plain training. See `Method.fit`."""
        development = check_development(development)
        key = as_key(key)
        model = fresh(build, key)
        plain = trained(self, model, development, key, progress=progress, checkpoint=checkpoint)
        found = self.retrain(model, development, key.fold("retraining"), progress=progress)
        began = {"epochs": plain.report.epochs, **plain.report.noted}
        return Trained(found.model, found.report, {"plain": began, **found.notes})

    def retrain(
        self,
        model: nn.Module,
        development: Development,
        key: Key,
        *,
        progress: Callable[[Epoch], None] | None = None,
    ) -> Trained:
        """Apply the method to a trained network, which is not changed.

        Args:
            model: clean.
            development: what may be seen; nothing else is.
            key: of shuffling and dropout.
            progress: called after every epoch.

        Returns:
            A clean model, to be programmed into this chip.

        Raises:
            InputError: if model, data and hardware do not go together.
        """
        development = check_development(development)
        key = as_key(key)
        retrained = copy.deepcopy(model)
        x = inputs_for(retrained.eval(), development.train.x[:BLOCK])[0]
        analog, _ = as_deployed(retrained, self.hardware, x, self.seed, self.chip)
        scores = _Scores(analog, development, self.chip)
        before = scores.both()
        frozen = {name: off > self.threshold for name, off in diagnose(analog, retrained).items()}
        kept = dict(retrained.named_parameters())
        free = {name: ~mask for name, mask in frozen.items() if mask.any()}

        def steps(loss: TaskLoss) -> Step:
            def step(model: nn.Module, x: Batch, y: Tensor, share: float) -> Tensor:
                value = loss(model, x, y)
                value.backward()
                for name, mask in free.items():
                    gradient = kept[name].grad
                    if gradient is not None:
                        gradient.mul_(mask.to(gradient.device))
                return value.detach()

            return step

        report = fit(
            analog,
            development.train,
            development.validation,
            training=self.retraining,
            steps=steps,
            key=key,
            progress=progress,
        )
        after = scores.both()
        count = {name: int(mask.sum()) for name, mask in frozen.items()}
        notes: dict[str, Any] = {
            "chip": self.chip,
            "seed": self.seed,
            "threshold": "inf" if math.isinf(self.threshold) else float(self.threshold),
            "frozen": count,
            "frozen_share": sum(count.values()) / sum(mask.numel() for mask in frozen.values()),
            "validation_own_chip": {"before": before[0], "after": after[0]},
            "validation_fresh_chips": {"chips": scores.fresh, "before": before[1], "after": after[1]},
        }
        return Trained(retrained.eval(), report, notes)


def diagnose(analog: nn.Module, model: nn.Module | None = None) -> dict[str, Tensor]:
    """Error of each weight's cells on the current chip: |ln(read / written)|, inf for stuck cells.

    Each array is written to full scale with the signs that its weights have, so that the cells are tested which carry
    them, and what differs from cell to cell stands out from what every cell has. It is undone by reprogramming.

    Args:
        analog: from `to_analog` or `map_model`.
        model: whose names of parameters are used; None: those of `analog`.

    Returns:
        Parameter -> tensor of its shape, for every parameter that has an array.

    Raises:
        InputError: if normalisation is folded into an array: its weights are no parameters that could be retrained
            one by one; or if no parameter has an array.
    """
    shared = chips.analog_state(analog)
    named = {id(p): name for name, p in (analog if model is None else model).named_parameters()}
    found: dict[str, Tensor] = {}
    for slot, module in chips.slots(analog):
        if slot.ideal:
            continue
        if slot.fold is not None:
            raise InputError(
                f"{slot.name} has a normalisation folded into it, which mixes its weights: use "
                "normalisation='digital' or 'drifting' for ReRAM-V"
            )
        columns = slot.columns(module).detach()
        full = columns.abs().max().clamp_min(torch.finfo(columns.dtype).tiny)
        written = torch.where(columns < 0, -full, full)
        gain = program(shared, slot, written) / written
        # a gain below 0 is the other cell's: no factor could bring the weight back
        off = torch.where(gain > 0, gain.clamp_min(1e-30).log().abs(), math.inf)
        for parameter, part in zip(slot.names, slot.split(off), strict=False):
            tensor = module._parameters.get(parameter)  # which never reads the array
            if part is not None and tensor is not None:
                found[named[id(tensor)]] = part.reshape(tensor.shape)
    if not found:
        name = type(analog if model is None else model).__name__
        raise InputError(
            f"{name} has no parameter on an array that its forward reads: there are no cells to test"
        )
    return found


class _Scores:
    """Validation accuracy (of real targets the RMSE) on the chip itself, and its mean over new chips."""

    def __init__(self, analog: nn.Module, development: Development, chip: int) -> None:
        self.analog, self.chip = analog, chip
        self.fresh = [(chip + i) % 2**32 for i in range(1, FRESH + 1)]
        self.x, self.y = development.validation.x, development.validation.y

    def both(self) -> tuple[float, float]:
        self.analog.eval()
        try:
            return self._of(self.chip), fmean(map(self._of, self.fresh))
        finally:
            chips.set_chip(self.analog, self.chip)

    def _of(self, chip: int) -> float:
        chips.set_chip(self.analog, chip)
        if self.y is None:
            raise InputError(
                "the validation examples have no labels: ReRAM-V reports its chip's accuracy on them"
            )
        judge = find_metric("rmse" if self.y.is_floating_point() else "accuracy")
        score = Reference.of(self.analog, self.x, self.y, judge=judge).clean_score()
        return judge.shown(score.value(judge.name))
