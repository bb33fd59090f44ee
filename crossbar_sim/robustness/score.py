"""The scores of one chip: accuracy against labels, agreement with the clean model, error of the outputs."""

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossbar_sim.crossbar import threads
from crossbar_sim.data.inputs import Batch, first_of, tensors_of
from crossbar_sim.errors import InputError
from crossbar_sim.nn import device as devices
from crossbar_sim.nn.analog.conversion import NO_OPERAND, NOTHING_TO_MAP
from crossbar_sim.nn.analog.effects import of_design as of_design
from crossbar_sim.nn.analog.multiply_adds import LITTLE, ArrayShare
from crossbar_sim.nn.analog.operands import Operands
from crossbar_sim.nn.analog.state import Layer
from crossbar_sim.nn.class_axis import class_axis, traced_axis, undecided
from crossbar_sim.nn.detection import detects
from crossbar_sim.nn.device import Device
from crossbar_sim.nn.evaluate import (
    BLOCK,
    check_alone,
    check_repeats,
    few_of,
    inputs_for,
    outputs,
    several,
)
from crossbar_sim.nn.next_tokens import NOTE as NEXT_TOKENS
from crossbar_sim.nn.next_tokens import attended, judged_labels
from crossbar_sim.nn.tensor_cells.planes import has_double
from crossbar_sim.nn.training.settings import near_chance
from crossbar_sim.robustness.metric_sums import nats
from crossbar_sim.robustness.metrics import (
    METRICS,
    PER_CENT,
    Metric,
    built_in,
    check_name,
    described,
    names_code,
    names_of,
)
from crossbar_sim.robustness.statistics import tail_caution

FIELDS = ("accuracy", "agreement", "output_error")
"""The built-in metrics that every score of a classifier has: fields of `Score`."""

HELD = 2**30
"""Bytes of clean outputs beyond which they are not held, where the metric needs no more than a block of them."""

BLOCK_BYTES = 2**28
"""Of the outputs of a block where they are not held."""

NO_DETECTORS = "this command judges classifiers: a detector is judged by crossbar-sim sweep"


@dataclass(frozen=True)
class Score:
    """The scores of one chip, or of the clean model.

    Args:
        accuracy: share of examples whose largest output is the label's; None without labels. Of sequences and
            segmentations the share of all tokens or pixels that have a label.
        agreement: share of examples (tokens, pixels) whose largest output is the clean model's; None for one output or
            less.
        output_error: |y - y_clean| / |y_clean|, Euclidean over all outputs; None where it is not finite.
        broken: share of examples with an output that is not finite; they count as wrong.
        custom: the value of a metric that is computed from outputs and targets (of a perplexity its logarithm); None:
            there is none.
    """

    accuracy: float | None
    agreement: float | None
    output_error: float | None
    broken: float = 0.0
    custom: float | None = None

    def value(self, metric: str) -> float:
        """The score that statistics are about, more being better: an output error counts with a minus.

        NaN where the score does not exist.
        """
        known = described(metric)
        held = metric in METRICS and not known.computed
        value: float | None = getattr(self, metric) if held else self.custom
        return math.nan if value is None else known.sign * value


@dataclass(frozen=True, eq=False)
class Reference:
    """The examples and the clean model's outputs for them, computed once and compared with every chip's.

    Args:
        x: (n, ...) inputs; y: labels (n,), or (n, places...) for models that decide at several places, or None.
            Places with a negative label (-100: padding) are not judged.
        clean: the clean model's outputs, (n, classes, places...): the axis of classes is moved to the second place. On
            the device "meta", which holds a shape alone, where they would not fit into memory.
        block, fixed: see `nn.evaluate.outputs`.
        several: how many outputs the model returns where the first of them is judged for being the first, else 1.
        axis: where the classes are in what the model returns; None: not known, and outputs are left unchanged.
        notes: on the type that the inputs were given to the model in.
        few: the first inputs, and the clean model's outputs for them as `few_outputs` gives them; None: not known.
        mixed: by how much the outputs for an example depend on the others of its batch, relative to the largest
            output; 0.0: no more than by rounding.
        function: the metric, where that is computed from outputs and targets.
        numbers: targets that are not class numbers: real values of the shape of the outputs; or, for a function of the
            user's own, what it alone can read.
        found: the clean model's classes, and what the metric keeps of each example, where `clean` holds a shape alone.
        mask: without labels: (n, places...) bool, which places are no padding by the attention mask; None: all.
        shifted: whether labels are the next tokens, see `nn.next_tokens`.
    """

    x: Batch
    y: Tensor | None
    clean: Tensor
    block: int = BLOCK
    fixed: int | None = None
    several: int = 1
    axis: int | None = 1
    notes: tuple[str, ...] = ()
    few: tuple[Batch, Tensor] | None = None
    mixed: float = 0.0
    function: Metric | None = None
    numbers: Tensor | None = None
    found: tuple[Tensor, tuple[Any, ...]] | None = None
    mask: Tensor | None = None
    shifted: bool = False

    @classmethod
    def of(
        cls,
        model: nn.Module,
        x: Batch,
        y: Tensor | None,
        block: int = BLOCK,
        fixed: int | None = None,
        axis: int | None = None,
        judge: Metric | None = None,
    ) -> "Reference":
        """Run the clean model on the examples.

        Args:
            model: in evaluation mode.
            x, y, block, fixed: see the class; y may hold real values.
            axis: of the classes in the model's outputs; None: found as `nn.class_axis` says.
            judge: the requested metric, which decides what y is taken for; None: that is found from y.

        Raises:
            InputError: if the model cannot take them, returns too few outputs for the labels, or outputs that
                are not finite, draws random numbers, or normalises by the statistics of a batch.
        """
        if detects(model):
            raise InputError(NO_DETECTORS)
        x, notes = inputs_for(model, x, y=y)
        required = judge is not None and judge.task == "classification" and judge.targets == "classes"
        y, shifted = judged_labels(model, x, y, required, fixed)
        notes = (*notes, NEXT_TOKENS) if shifted else notes
        counts: list[int] = []
        if judge is not None and judge.streams:
            large = cls._streamed(model, x, y, block, fixed, axis, judge, notes, shifted)
            if large is not None:
                return large
        hook = model.register_forward_hook(lambda _, __, answer: counts.append(several(answer)))
        try:
            clean = torch.cat([t.cpu() for t in outputs(model, x, block, fixed)])
        finally:
            hook.remove()
        few = check_repeats(model, x, fixed)
        mixed = check_alone(model, few, clean)
        numbers: Tensor | None = None
        given = y
        if y is not None and (y.is_floating_point() or (judge is not None and judge.targets == "real")):
            numbers, y = _numbers(y, tuple(clean.shape), judge), None
        try:
            found = class_axis(clean, y, axis, x, lambda: traced_axis(model, x, fixed))
            y = None if y is None else _labels(y, clean if found is None else clean.movedim(found, 1))
        except InputError:
            if judge is None or judge.targets != "any" or axis is not None or y is None:
                raise
            found, y, numbers = None, None, given  # the user's function knows what its targets are
        if found is not None:
            clean = clean.movedim(found, 1)
        mask = attended(x) if y is None and numbers is None and found is not None else None
        if mask is not None and mask.shape != (len(clean), *clean.shape[2:]):
            mask = None
        kept = mask if y is None else y >= 0 if int(y.min()) < 0 else None
        if kept is not None:  # what a model makes of padding does not count
            clean = torch.where(kept.unsqueeze(1), clean, 0.0)
        if not clean.isfinite().all():
            raise InputError(NOT_FINITE)
        seen = (few_of(x, fixed), few)
        return cls(
            x, y, clean, block, fixed, max(counts, default=1), found, notes, seen, mixed,
            judge if judge is not None and judge.computed else None, numbers, mask=mask, shifted=shifted,
        )  # fmt: skip

    @classmethod
    def _streamed(
        cls,
        model: nn.Module,
        x: Batch,
        y: Tensor | None,
        block: int,
        fixed: int | None,
        axis: int | None,
        judge: Metric,
        notes: tuple[str, ...],
        shifted: bool,
    ) -> "Reference | None":
        """The same without the clean outputs of all examples, where those are too many; None: they are few."""
        few = check_repeats(model, x, fixed)
        each = few[0].numel() * few.element_size()
        if y is None or each * len(x) <= HELD:
            return None
        block = max(min(block, BLOCK_BYTES // each), 1)
        shape = torch.empty(len(x), *few.shape[1:], dtype=few.dtype, device="meta")
        numbers: Tensor | None = None
        found: int | None = None
        if y.is_floating_point() or judge.targets == "real":
            numbers, y = _numbers(y, tuple(shape.shape), judge), None
        else:
            found = class_axis(shape, y, axis, x, lambda: traced_axis(model, x, fixed))
            shape = shape if found is None else shape.movedim(found, 1)
            y = _labels(y, shape)
        seen = (few_of(x, fixed), few)
        made = cls(x, y, shape, block, fixed, 1, found, notes, seen, 0.0, judge, numbers, shifted=shifted)
        parts: dict[int, tuple[Tensor, list[Any]]] = {}
        first: dict[int, Tensor] = {}

        def reduce(out: Tensor, part: slice) -> None:
            if part.start < len(few):
                first[part.start] = out[: len(few) - part.start].cpu().clone()
            out = made._in_place(out.cpu(), part)
            if not out.isfinite().all():
                raise InputError(NOT_FINITE)
            parts[part.start] = (out.argmax(1) if made.classes else out[:, :0], made._kept(out, part))

        outputs(model, x, block, fixed, reduce)
        order = [parts[start] for start in sorted(parts)]
        return replace(
            made,
            found=(
                torch.cat([classes for classes, _ in order]),
                tuple(each for _, kept in order for each in kept),
            ),
            mixed=check_alone(model, few, torch.cat([first[start] for start in sorted(first)])),
        )

    def part(self, indices: Tensor) -> "Reference":
        """The same for some of the examples."""
        y = None if self.y is None else self.y[indices]
        numbers = None if self.numbers is None else self.numbers[indices]
        clean, found = self.clean, self.found
        if found is None:
            clean = clean[indices]
        else:
            clean = torch.empty(len(indices), *clean.shape[1:], dtype=clean.dtype, device="meta")
            found = (found[0][indices], tuple(found[1][i] for i in indices.tolist()))
        mask = None if self.mask is None else self.mask[indices]
        return replace(self, x=self.x[indices], y=y, clean=clean, numbers=numbers, found=found, mask=mask)

    @property
    def where(self) -> torch.device:
        """Where outputs are compared: on the device of the clean model's."""
        return self.clean.device if self.found is None else self.found[0].device

    def on(self, device: Device) -> "Reference":
        """The same with inputs, targets and clean outputs on a device, if they take at most half of its memory."""
        if device.where == self.where or not has_double(device.where):  # errors are summed in float64
            return self
        tensors = [*tensors_of(self.x), *(t for t in (self.y, self.numbers, self.mask) if t is not None)]
        size = sum(t.numel() * t.element_size() for t in (*tensors, self.clean))
        free = devices.free_memory(device.where)
        if free is not None and size > free / 2:
            return self

        def there(t: Tensor | None) -> Any:
            return None if t is None else t.to(device.where)

        moved = replace(
            self,
            x=self.x.to(device.where), y=there(self.y), numbers=there(self.numbers), mask=there(self.mask),
            clean=self.clean if self.found is not None else there(self.clean),
            found=None if self.found is None else (there(self.found[0]), self.found[1]),
        )  # fmt: skip
        vars(moved)["norm"] = self.norm  # summed on the CPU, as for every device
        return moved

    @property
    def classes(self) -> bool:
        """Whether outputs are scores of classes, of which the largest counts."""
        return self.axis is not None and self.clean.dim() >= 2 and self.clean.shape[1] >= 2

    @functools.cached_property
    def predicted(self) -> Tensor:
        """The clean model's classes, (n,) or (n, places...)."""
        return self.clean.argmax(1) if self.found is None else self.found[0]

    @functools.cached_property
    def norm(self) -> float:
        """Sum of the squares of all clean outputs."""
        if self.clean.is_meta:
            return math.nan
        # by NumPy, which never splits a sum over threads: the bits must not depend on their number
        return float(np.sum(np.square(self.clean.cpu().numpy(), dtype=np.float64)))

    @functools.cached_property
    def judged(self) -> Tensor | None:
        """Which places count, (n, places...) bool: those with a label, that are not padding; None: all."""
        if self.y is None:
            return self.mask
        return None if int(self.y.min()) >= 0 else self.y >= 0

    @functools.cached_property
    def _places(self) -> float:
        """Judged classes per example: 1, or the pixels of a segmentation; the mean where some are not judged."""
        if self.judged is not None:
            return max(int(self.judged.sum()), 1) / len(self.x)
        return max(self.predicted[:1].numel(), 1)

    @property
    def unit(self) -> str:
        """The name of what is judged, in the singular: example, token, pixel or position."""
        places = self.clean.dim() - 2 if self.classes else 0
        if places <= 0:
            return "example"
        if places == 1:
            return "position" if first_of(self.x).is_floating_point() else "token"
        return "pixel" if places == 2 else "position"

    def about(self) -> dict[str, Any] | None:
        """How outputs with several places are judged, for a report; None where an example has one class."""
        if self.unit == "example":
            return None
        total = self.predicted.numel()
        judged = total if self.judged is None else int(self.judged.sum())
        return {
            "unit": self.unit, "class_axis": self.axis, "classes": int(self.clean.shape[1]), "count": judged,
            "ignored": total - judged, **({"next_token": True} if self.shifted else {}),
        }  # fmt: skip

    def _in_place(self, out: Tensor, part: slice | Tensor) -> Tensor:
        """A block's outputs with the classes in the second place, and the clean ones where nothing is judged."""
        if self.axis is not None and self.axis != 1:
            out = out.movedim(self.axis, 1)
        mask = self.mask_of(part)
        return out if mask is None else torch.where(mask.to(out.device).unsqueeze(1), out, 0.0)

    def mask_of(self, part: slice | Tensor) -> Tensor | None:
        """Which targets of a block are judged; None: all."""
        return None if self.judged is None else self.judged[part]

    def metric(self, requested: str | None) -> str:
        """The metric of a report: the requested one, else the first that labels and outputs allow.

        Raises:
            InputError: if the requested metric is unknown, or needs labels or classes that are not there.
        """
        if requested is None and self.numbers is not None:
            return "rmse"
        if requested in (None, "agreement") and self.axis is None and self.clean.dim() > 2:
            raise InputError(undecided(tuple(self.clean.shape)))
        if requested is None:
            return "accuracy" if self.y is not None else "agreement" if self.classes else "output_error"
        if names_code(requested):
            return requested
        check_name(requested)
        known = built_in(requested)
        assert known is not None
        if known.task != "classification":
            raise InputError(
                f"metric={requested!r} must be one of {', '.join(names_of('classification'))}, or a function: "
                "package.module:function"
            )
        if known.targets == "classes" and self.y is None:
            if self.numbers is not None:
                raise InputError(
                    f"metric={requested!r} needs class numbers, and y holds real values of shape "
                    f"{tuple(self.numbers.shape)}: use metric='rmse', 'mae' or 'r2'"
                )
            raise InputError(f"metric={requested!r} needs labels: give data with y")
        if known.targets == "real" and self.numbers is None:
            raise InputError(
                f"metric={requested!r} needs targets, real values of the shape of the outputs: give data with y"
            )
        if requested == "agreement" and not self.classes:
            raise InputError(
                f"metric='agreement' compares largest outputs, but there is one output: {tuple(self.clean.shape)}"
            )
        return requested

    def check_metric(self, metric: str) -> None:
        """Refuse an output error where there is nothing that it could be relative to, and a metric that is random.

        Raises:
            InputError: if all outputs of the clean model are 0, or they are probabilities where a metric takes logits,
                or a function of the user's own gives two numbers for the same outputs.
        """
        known = built_in(metric)
        if known is not None and known.sums is nats and self.few is not None:
            few = self.few[1].movedim(self.axis or 1, 1)
            ones = few.sum(1) - 1
            if bool((few >= 0).all()) and float(ones.abs().max()) < 1e-3:
                raise InputError(
                    f"metric={metric!r} takes logits, and the model's outputs are probabilities (0 or more, adding up "
                    "to 1): return what goes into the softmax, or its logarithm"
                )
        if self.function is not None and self.function.function is not None:
            first, again = self._clean_custom(), self._clean_custom()
            if first != again and not math.isnan(first):
                raise InputError(
                    f"metric {metric} gives {first:g} and then {again:g} for the same outputs: it draws random numbers "
                    "or keeps state, and what a chip changes could not be distinguished from that"
                )
        if metric == "output_error" and self.norm == 0:
            raise InputError(
                "the clean model's outputs are all 0 on these inputs, and an output error is relative to them: give a "
                "trained model (a last layer that starts from zero gives 0 until it is trained)"
            )

    def clean_score(self) -> Score:
        """The clean model's own score.

        Raises:
            InputError: if the metric gives no finite number for it.
        """
        accuracy = None if self.y is None else self._share(self.predicted == self.y)
        custom = None
        if self.function is not None:
            custom = self._clean_custom()
            if not math.isfinite(custom):
                raise InputError(
                    f"metric {self.function.name} gives {custom} for the clean model, and a score is finite"
                )
        return Score(accuracy, 1.0 if self.classes else None, 0.0, custom=custom)

    def _clean_custom(self) -> float:
        """What the metric gives for the clean model's outputs, block by block as for a chip's."""
        assert self.function is not None
        if self.found is not None:
            return self.function.whole(self.found[1], self.targets, self.judged)
        blocks = threads.chunks(len(self.x), self.fixed or self.block)
        kept = [each for part in blocks for each in self._kept(self.clean[part], part)]
        return self.function.whole(kept, self.targets, self.judged)

    def _kept(self, out: Tensor, part: slice) -> list[Any]:
        """What the metric keeps of a block of outputs; of each example alone where clean outputs are not held."""
        assert self.function is not None
        if not self.clean.is_meta:
            return [self.function.part(out, self.targets[part], self.mask_of(part))]
        targets, mask = self.targets[part], self.mask_of(part)
        return [
            self.function.part(out[i : i + 1], targets[i : i + 1], None if mask is None else mask[i : i + 1])
            for i in range(len(out))
        ]

    @property
    def targets(self) -> Tensor:
        """What a metric compares outputs with: labels or numbers, or else the clean model's outputs."""
        return next(t for t in (self.y, self.numbers, self.clean) if t is not None)

    def score(self, model: nn.Module) -> Score:
        """The score of a programmed model.

        Sums are kept per block and added in the order of blocks: the same for any number of threads.
        """

        kept: dict[int, list[Any]] = {}  # for a metric that is a function

        def reduce(y: Tensor, part: slice) -> Tensor:
            out = self._in_place(y.to(self.where), part)
            right = agree = out.new_zeros((), dtype=torch.int64)
            if self.function is not None:
                kept[part.start] = self._kept(out, part)
            # where there are no clean outputs, the sum tells what is not finite
            away = out if self.clean.is_meta else (out - self.clean[part]).square_()
            square = away.sum(dtype=torch.float64)
            broken: Tensor | None = None
            # on a GPU looking at a number would wait for all that is queued
            if out.device.type != "cpu" or not math.isfinite(float(square)):
                broken = ~out.reshape(len(out), -1).isfinite().all(1)
            if self.classes:
                predicted = out.argmax(1)
                if broken is not None:  # outputs that are not finite belong to no class
                    predicted = torch.where(broken.view(-1, *[1] * (predicted.dim() - 1)), -1, predicted)
                alike = predicted == self.predicted[part]
                judged = None if self.judged is None else self.judged[part]
                agree = torch.count_nonzero(alike if judged is None else alike & judged)
                if self.y is not None:
                    hit = predicted == self.y[part]
                    right = torch.count_nonzero(hit if judged is None else hit & judged)
            lost = torch.zeros_like(right) if broken is None else torch.count_nonzero(broken)
            return torch.stack([right.double(), agree.double(), square, lost.double()])

        rows = devices.numbers(torch.stack(outputs(model, self.x, self.block, self.fixed, reduce)))
        places = self._places if self.classes else 1.0
        rows = [(right / places, agree / places, square, broken) for right, agree, square, broken in rows]
        right, agree, square, broken = (math.fsum(column) for column in zip(*rows, strict=True))
        error = math.sqrt(square / self.norm) if self.norm > 0 and math.isfinite(square) else None
        return Score(
            accuracy=None if self.y is None else right / len(self.x),
            agreement=agree / len(self.x) if self.classes else None,
            output_error=error,
            broken=broken / len(self.x),
            custom=None
            if self.function is None
            else self.function.whole(
                [each for start in sorted(kept) for each in kept[start]], self.targets, self.judged
            ),
        )

    def right(self, model: nn.Module, images: Tensor, metric: str) -> NDArray[np.float64]:
        """Whether each of some images is right: 0 or 1, or a share of its places; a function's value per example.

        Args:
            model: programmed.
            images: (m,) int64, which.
            metric: "accuracy" or "agreement", or the name of the function.

        Returns:
            (m,); an output that is not finite is wrong. Where some places are not judged, an image counts by how many
            of its places are: the mean over all images is the share of the judged places.
        """
        # no more than a few outputs of each chip: counted on the CPU
        y = torch.cat([t.cpu() for t in outputs(model, self.x[images], self.block, self.fixed)])
        if self.function is not None and self.function.function is not None and metric == self.function.name:
            values = self.function.evaluate(
                self._in_place(y, images), _some(self.targets, images), self.mask_of(images)
            )
            check_shares(metric, values)
            return self.function.sign * values
        out, judge = self._in_place(y, images), self.function
        if judge is not None and judge.each is not None and metric == judge.name:
            found = judge.each(out, _some(self.targets, images))
        else:
            meant = self.y if metric == "accuracy" else self.predicted
            assert meant is not None
            found = hits(out, _some(meant, images))
        if self.judged is not None:
            found &= _some(self.judged, images)
        each = found.reshape(len(y), -1).double()
        shares: NDArray[np.float64] = (
            each.mean(1) if self.judged is None else each.sum(1) / self._places
        ).numpy()
        return shares

    def estimable(self, metric: str) -> bool:
        """Whether some of the examples can estimate a chip's score: a mean over examples of values in 0 .. 1.

        Args:
            metric: the name of a built-in metric, or that of the function.
        """
        if self.function is None or self.function.function is None:
            return bool(described(metric).mean)
        if self.function.accumulates:
            return False
        values = self.function.evaluate(self.clean, self.targets, self.judged)
        return values.ndim == 1 and bool(((values >= 0) & (values <= 1)).all())

    def _share(self, hits: Tensor) -> float:
        if self.judged is not None:
            return float((hits & self.judged).sum()) / int(self.judged.sum())
        return float(hits.sum()) / hits.numel()


def _some(values: Tensor, images: Tensor) -> Tensor:
    """Those of some of the images, on the CPU."""
    return values[images.to(values.device)].cpu()


def check_shares(metric: str, values: NDArray[np.float64]) -> None:
    """Refuse values of a function that cannot be estimated from some of the examples.

    Raises:
        InputError: if there is not one value in 0 .. 1 for each example.
    """
    if values.ndim == 0:
        raise InputError(
            f"half_width needs one number per example, and {metric} gives one for all: give chips"
        )
    if not ((values >= 0) & (values <= 1)).all():
        raise InputError(
            f"half_width needs values per example in 0 .. 1, and {metric} gives {values.min():g} to {values.max():g}: "
            "give chips"
        )


NOT_FINITE = "the clean model's outputs are not finite on these inputs: nothing to compare with"


def _labels(y: Tensor, clean: Tensor) -> Tensor:
    """Labels in the shape of the model's classes, (n, places...).

    Args:
        y: class numbers, of which negative ones are not judged.
        clean: outputs (n, classes, places...), of which the shape counts.

    Raises:
        InputError: if they are not labels of these outputs.
    """
    y = y.reshape(len(clean), *clean.shape[2:])
    if clean.shape[1] < 2:
        raise InputError(
            f"labels need one output per class, but the model's outputs have shape "
            f"{tuple(clean.shape)}: give metric='rmse' if y holds numbers to be predicted, or data without y to "
            "compare outputs instead"
        )
    if int(y.max()) >= clean.shape[1]:
        raise InputError(_outside(y, clean.shape[1]))
    if int(y.max()) < 0:
        raise InputError(f"all labels are {int(y.max())} or less: nothing would be judged")
    return y


def _numbers(y: Tensor, shape: tuple[int, ...], judge: Metric | None) -> Tensor:
    """Real targets in the shape of the outputs; axes of length one need not agree.

    Raises:
        InputError: if there is not one target per output, or the metric takes classes.
    """
    needs = None if judge is None else judge.targets
    if needs == "classes":
        assert judge is not None
        odd = y.reshape(-1)
        odd = odd[odd != odd.floor()]
        shown = f"{float(odd[0] if len(odd) else y.reshape(-1)[0]):g}"
        raise InputError(
            f"metric={judge.name!r} needs class numbers, and y holds real values such as {shown}: use metric='rmse', "
            "'mae' or 'r2'"
        )
    if needs in ("outputs", "any"):  # which do not look at them, or alone know how
        return y
    if [side for side in y.shape if side != 1] == [side for side in shape if side != 1] and len(y) == shape[
        0
    ]:
        return y.double().reshape(shape)
    if y.is_floating_point():
        odd = y.reshape(-1)[y.reshape(-1) != y.reshape(-1).floor()]
        kind = f" (real values such as {float(odd[0] if len(odd) else y.reshape(-1)[0]):g})"
    else:
        kind = " (class numbers? use metric='accuracy')"
    raise InputError(
        f"metric={'rmse' if judge is None else judge.name!r} compares each output with a target, and the outputs have "
        f"shape {shape} and the targets {tuple(y.shape)}{kind}: give one real target per output"
    )


def hits(y: Tensor, meant: Tensor) -> Tensor:
    """Whether the largest of each example's outputs is the one meant: (b, places...) bool from (b, classes, places...).

    False where an example has an output that is not finite.
    """
    found = y.argmax(1) == meant
    if not math.isfinite(float(y.sum())):  # one pass; a sum may overflow where no output does
        found[~y.reshape(len(y), -1).isfinite().all(1)] = False
    return found


def collect(scores: Iterable[Score], name: str) -> list[float]:
    """One field of every score; empty if any chip lacks it."""
    values = [getattr(score, name) for score in scores]
    return [] if any(value is None for value in values) else values


def _outside(y: Tensor, classes: int) -> str:
    """The error message for labels outside the classes."""
    top = int(y.max())
    base = f"labels go up to {top} but the model has {classes} outputs: "
    outside = y[y >= classes]
    if y.dim() == 1 or len(outside.unique()) > 1:
        not_judged = "; places that are not to be judged need a negative label, -100" if y.dim() > 1 else ""
        return f"{base}is this the data it was trained on?{not_judged}"
    return (
        f"{base}if {top} marks places that are not to be judged ({outside.numel() / y.numel():.1%} of them here), give "
        f"those a negative label, y[y == {top}] = -100 with y of a signed integer type"
    )


# Warnings for the report: effects that were requested and do not act, and scores that say little.


def of_operands(layers: tuple[Layer, ...], seen: Operands | None) -> Iterator[str]:
    """Weights that a forward does not multiply its inputs with, although their kind of layer should.

    Args:
        layers: of the model as it is deployed.
        seen: what its forward does with its parameters; None: that could not be seen.
    """
    if seen is None:
        yield (
            "which weights the forward multiplies its inputs with could not be seen (it fails when its operators are "
            "watched): every layer is taken for what its class usually does"
        )
    whose: dict[str, list[str]] = {}
    for layer in layers:
        reason = layer.reason.removesuffix("; drifts per parameter")
        if reason in NOTHING_TO_MAP:
            continue
        if not layer.analog and any(cause in reason for cause in NO_OPERAND):
            whose.setdefault(reason, []).append(layer.name)
        for parameter, why in layer.left:
            if any(cause in why for cause in NO_OPERAND):
                whose.setdefault(why.removesuffix("; drifts per parameter"), []).append(
                    f"{layer.name}.{parameter}"
                )
    for reason, names in whose.items():
        yield f"{_listed(names)}: {reason}"
    if seen is None:
        return
    named = {name for names in whose.values() for name in names}
    past = [
        name
        for name, operand in seen.by_name.items()
        if (operand.also_bypassed or operand.way in ("past", "kept")) and name.rpartition(".")[0] not in named
    ]
    if past and named != {layer.name for layer in layers}:
        yield f"{_listed(past)}: the forward also takes the clean values, past the array, which do not drift"
    share = ArrayShare.of(layers, seen.work)
    if share is not None and share.share < LITTLE and any(layer.analog for layer in layers):
        yield f"only {share.sentence}: the score says little about the rest"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def of_state(names: tuple[str, ...]) -> Iterator[str]:
    """Notes on a forward that leaves state on its model."""
    if names:
        yield (
            f"the forward leaves {_listed([*names])} on the model: that is put back after every evaluation, and "
            "blocks of examples run one after the other"
        )


def of_reference(reference: Reference, metric: str, requested: object) -> Iterator[str]:
    """A clean model that cannot disagree with itself, and outputs that may be no classes, or not the ones meant."""
    clean, n = reference.clean, len(reference.x)
    if reference.function is not None and reference.function.doubt is not None:
        yield reference.function.doubt
    if reference.several > 1:
        yield (
            f"the model returns {reference.several} outputs: the first, of shape {_returned(reference)}, is judged; "
            "wrap the model to return the one that counts"
        )
    if reference.mixed:
        yield (
            f"the outputs for an example depend on the others of its batch, by {reference.mixed:.1%} of the largest "
            f"output: scores depend on the size of the blocks of examples ({reference.fixed or reference.block} here)"
        )
    if reference.norm == 0:
        yield "the clean model's outputs are all zero on these inputs: nothing can differ from them"
    elif metric == "agreement" and n > 1 and bool((reference.predicted == reference.predicted[:1]).all()):
        yield f"the clean model gives all {n} examples one class: agreement with it says little (give --data)"
    inputs = first_of(reference.x)
    unscaled = inputs.is_floating_point() and float(inputs.max()) > 2
    if (
        metric == "accuracy" and reference.y is not None and unscaled
    ):  # untrained networks are swept on purpose
        yield from near_chance(reference.clean_score().accuracy, reference.y, inputs)
    if requested is None and metric == "agreement" and reference.unit in ("pixel", "position"):
        places = "x".join(map(str, clean.shape[2:]))
        yield (
            f"outputs of shape {_returned(reference)} are taken for scores of {clean.shape[1]} classes (axis "
            f"{reference.axis}) at each of {places} places; if they are not (an image, a signal), use --metric "
            "output_error, and name another axis with --class-axis"
        )


def of_tail(scores: tuple[Score, ...], metric: str) -> Iterator[str]:
    """Scores with a long tail, with which the interval of their mean is not exact (docs/statistics.md, section 8)."""
    found = tail_in((score.value(metric) for score in scores), metric)
    if found is not None:
        yield found


def tail_in(values: Iterable[float], metric: str) -> str | None:
    """The caution about stored scores with a long tail; None: nothing is known of one."""
    known = described(metric)
    # an error is shown as the error it is
    found = tail_caution((known.sign * value for value in values), relative=known.unit != PER_CENT)
    return f"natural logarithms of the scores: {found}" if found is not None and known.logarithm else found


def of_places(reference: Reference) -> Iterator[str]:
    """Notes on how outputs with several places are judged."""
    yield from reference.notes
    judged = reference.about()
    if judged is None:
        return
    left_out = "of padding" if reference.mask is not None else "with a negative label"
    probable = reference.function is not None and reference.function.sums is nats
    yield (
        f"each {judged['unit']} is judged by {'the softmax' if probable else 'the largest'} of its {judged['classes']} "
        f"outputs, along axis "
        f"{judged['class_axis']} of the model's outputs: {judged['count']:,} {judged['unit']}s"
        + (f", {judged['ignored']:,} {left_out} are not judged" if judged["ignored"] else "")
    )
    if reference.unit == "token" and reference.judged is None and reference.y is None:
        yield "without labels every token counts, padding too: give y with the label -100 at padding to leave it out"


def _returned(reference: Reference) -> tuple[int, ...]:
    """The shape of what the model returns for one example."""
    shape = reference.clean[:1]
    return tuple((shape if reference.axis is None else shape.movedim(1, reference.axis)).shape[1:])


def of_scores(scores: tuple[Score, ...], chips: tuple[int, ...]) -> Iterator[str]:
    """A warning about outputs that are not finite."""
    broken = [(chip, score.broken) for chip, score in zip(chips, scores, strict=True) if score.broken > 0]
    if broken:
        yield (
            f"outputs are not finite for up to {max(share for _, share in broken):.1%} of the examples, on "
            f"{len(broken)} of {len(scores)} chips (chip {broken[0][0]} first): those examples count as wrong"
        )
