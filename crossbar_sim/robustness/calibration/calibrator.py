"""The corrections of any chip of one model, put together: what is known of the model for them, and what they cost."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_sim.data import Development, Split
from crossbar_sim.data.inputs import Batch, first_of
from crossbar_sim.errors import InputError
from crossbar_sim.nn.analog.chips import only_layers
from crossbar_sim.nn.device import Device
from crossbar_sim.nn.evaluate import BLOCK, inputs_for, outputs
from crossbar_sim.robustness.calibration.affine import Affine
from crossbar_sim.robustness.calibration.low_rank import VARIANTS, LowRank
from crossbar_sim.robustness.calibration.norm_statistics import NormStatistics
from crossbar_sim.robustness.calibration.readout import Readout
from crossbar_sim.robustness.calibration.settings import Calibration

OVERLAP = 0.1
"""The share of calibration images among the scored examples from which reports warn: small inputs repeat by chance."""


@dataclass(frozen=True)
class Cost:
    """The hardware that a calibration needs besides the arrays.

    Args:
        multiplications: digital ones per image.
        words: numbers to be kept per chip.
        images: run on the chip once.
    """

    multiplications: int
    words: int
    images: int

    def __str__(self) -> str:
        return (
            f"{self.multiplications:,} digital multiplications per image and {self.words:,} numbers per chip, fitted "
            f"to {self.images:,} training images that are run on it"
        )


@dataclass(frozen=True, eq=False)
class Calibrator:
    """The data for calibrating any chip of one model, made once and used for every chip. It can be pickled.

    Args:
        calibration: which.
        images: drawn.
        affine, readout, statistics, low_rank: what is known of the model for them; None: this correction is not used.
        fixed: the one batch size that the model accepts, if there is one.
        wanted: the clean model's outputs for the images, to which corrections of low rank are fitted.
        axis: of the classes in the outputs; None: they are no scores of classes.
        parameters: of the model.
        inputs: the images in the type that the model takes; None: as they are.
    """

    calibration: Calibration
    images: Split
    affine: Affine | None
    readout: Readout | None
    fixed: int | None = None
    statistics: NormStatistics | None = None
    low_rank: LowRank | None = None
    wanted: Tensor | None = None
    axis: int | None = None
    parameters: int = 0
    inputs: Batch | None = None

    @classmethod
    def of(
        cls,
        analog: nn.Module,
        calibration: Calibration,
        development: Development,
        seed: int = 0,
        fixed: int | None = None,
        axis: int | None = 1,
    ) -> "Calibrator":
        """Draw the images and run the clean model on them.

        Args:
            analog: of `to_analog`, in evaluation mode, whatever its chip.
            calibration: how.
            development: whose training images are drawn from: a test split has no way in.
            seed: of the draw.
            fixed: see `nn.evaluate.outputs`.
            axis: of the classes in the model's outputs; None: they are no scores of classes.

        Raises:
            InputError: if the model has no layer that can be calibrated like this, or `draw` refuses.
        """
        images, parts = calibration.draw(development, seed), calibration.parts
        inputs, _ = inputs_for(analog, images.x)  # tokens are kept as floats
        x = inputs.to(Device.of_model(analog).where)
        affine = readout = statistics = low_rank = wanted = None
        variants: list[Any] = [name for name in VARIANTS if name in parts]
        with only_layers(analog, ()):
            if "affine" in parts:
                affine = Affine.of(analog, x)
            if "readout" in parts:
                readout = _readout(analog, x, images.y, fixed)
            if variants:
                wanted = torch.cat([y.cpu() for y in outputs(analog, x, BLOCK, fixed)])
        if "statistics" in parts:
            statistics = NormStatistics.of(analog, x, fixed)
        for name in variants:
            rank = parts[name]
            assert rank is not None
            low_rank = LowRank.of(analog, x, name, rank, seed, fixed)
        parameters = sum(p.numel() for p in analog.parameters())
        return cls(
            calibration,
            images,
            affine,
            readout,
            fixed,
            statistics,
            low_rank,
            wanted,
            axis,
            parameters,
            inputs,
        )

    @contextmanager
    def fitted(self, analog: nn.Module) -> Iterator[nn.Module]:
        """Context with a model that is calibrated for the current chip of `analog`.

        Neither the clean parameters nor the arrays change, and at the end nothing is left of it.
        """
        x, y = self.images.x if self.inputs is None else self.inputs, self.images.y
        x = x.to(Device.of_model(analog).where)
        with ExitStack() as stack:
            model = analog
            if self.statistics is not None:
                model = stack.enter_context(self.statistics.fitted(model, x))
            if self.affine is not None:
                model = stack.enter_context(self.affine.fitted(model, x))
            if self.low_rank is not None:
                model = self.low_rank.fit(model, x, self._loss())
            if self.readout is not None:
                assert y is not None
                model = self.readout.fit(model, x, y, self.fixed)
            yield model

    def _loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Of outputs and the numbers of their images: how far they are from those of the clean model.

        Cross-entropy with the clean model's probabilities where outputs are scores of classes, else the squared error.
        Places that have a negative label (-100: padding) do not count.
        """
        wanted, axis, y = self.wanted, self.axis, self.images.y
        assert wanted is not None
        real = y is not None and y.is_floating_point()
        if axis is None or real or wanted.dim() < 2 or wanted.shape[axis] < 2:
            scale = float(wanted.double().var(correction=0).clamp_min(1e-30))
            return lambda out, some: (out - wanted[some].to(out)).square().mean() / scale
        axis %= wanted.dim()
        judged = None if y is None or int(y.min()) >= 0 else y >= 0

        def loss(out: Tensor, some: Tensor) -> Tensor:
            clean = wanted[some].to(out).clamp(-1e4, 1e4)
            logs = torch.log_softmax(out.clamp(-1e4, 1e4), axis)
            each = -(torch.softmax(clean, axis) * logs).sum(axis)
            if judged is None:
                return each.mean()
            here = judged[some].to(out.device)
            return each[here].mean() if here.any() else each.sum() * 0  # nothing but padding

        return loss

    @property
    def cost(self) -> Cost:
        """What it takes."""
        products = words = 0
        if self.statistics is not None:
            words = self.statistics.words
        if self.affine is not None:
            products, words = products + self.affine.products, words + 2 * self.affine.channels
        if self.low_rank is not None:
            products, words = products + self.low_rank.multiplications, words + self.low_rank.words
        if self.readout is not None:
            weights = self.readout.classes * self.readout.features
            products, words = products + weights, words + weights + self.readout.classes
        return Cost(products, words, self.calibration.images)

    @property
    def share(self) -> float | None:
        """The numbers kept per chip as a share of the model's parameters; None for affine and readout alone."""
        if self.statistics is None and self.low_rank is None:
            return None
        return self.cost.words / max(self.parameters, 1)

    def overlap(self, x: Batch) -> Iterator[str]:
        """A sentence where examples that are scored are among the images.

        Args:
            x: the examples (n, ...).
        """
        mine, scored = first_of(self.images.x).flatten(1), first_of(x).flatten(1)
        if mine.shape[1] != scored.shape[1]:
            return
        few = torch.linspace(
            0, mine.shape[1] - 1, min(mine.shape[1], 64)
        ).long()  # whole rows only where these agree
        known: dict[bytes, list[int]] = {}
        for i, row in enumerate(mine[:, few].cpu().double().numpy()):
            known.setdefault(row.tobytes(), []).append(i)
        found = {
            i
            for j, row in enumerate(scored[:, few].cpu().double().numpy())
            for i in known.get(row.tobytes(), ())
            if torch.equal(mine[i].cpu().double(), scored[j].cpu().double())
        }
        if len(found) > OVERLAP * len(mine):
            yield (
                f"{len(found)} of the {len(mine)} images of the calibration are among the examples that are scored, so "
                "scores of calibrated chips are too good: calibrate with other images (x_train in the data, "
                "calibration_data= in Python)"
            )

    def __str__(self) -> str:
        notes = f"{self.calibration.kind}: {self.cost}"
        return (
            notes if self.share is None else f"{notes} ({100 * self.share:.2f} % of the model's parameters)"
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its numbers; recurrent layers were not always corrected."""
        recurrent = self.low_rank is not None and any(p.recurrent for p in self.low_rank.products)
        return {**self.calibration.as_dict(), **({"recurrent": True} if recurrent else {})}

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence on arrays that a correction of low rank leaves as they are."""
        if self.low_rank is None or not self.low_rank.left:
            return ()
        left = self.low_rank.left
        more = f" and {len(left) - 4} more" if len(left) > 4 else ""
        return (
            f"{', '.join(left[:4])}{more}: not corrected by {self.low_rank.variant}, for no linear layer or "
            "convolution multiplies with it",
        )


def _readout(analog: nn.Module, x: Batch, y: Tensor | None, fixed: int | None) -> Readout:
    readout = Readout.of(analog, x, fixed)
    assert y is not None
    if y.dim() != 1:
        raise InputError(
            f"a readout is fitted to one class for each image, and these labels have shape {tuple(y.shape)}: calibrate "
            "with affine or lora"
        )
    top = int(y.max())
    if top >= readout.classes:
        raise InputError(
            f"labels go up to {top} but the model has {readout.classes} outputs: is this the data it was trained on?"
        )
    return readout
