"""Digital calibration of each chip: what a few labelled images, run on the chip itself, can put right.

Training knows only how chips spread; a chip that is there can be asked. Two fixes that need no reprogramming, only a
little digital arithmetic behind the arrays: `readout` (see `readout.py`) and `affine` (see `affine.py`).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.data import Development, Split
from crossbar_sim.errors import InputError
from crossbar_sim.nn import chips as handle
from crossbar_sim.nn.operands import mapped
from crossbar_sim.nn.seeding import permutation
from crossbar_sim.rng import Key
from crossbar_sim.robustness.affine import Affine
from crossbar_sim.robustness.readout import Readout
from crossbar_sim.robustness.score import Reference, Score, finite_score

KINDS = ("readout", "affine", "both")

STREAM = "calibration images"
"""Below the seed: the name of the draw of images, the same for every chip and model."""


@dataclass(frozen=True)
class Calibration:
    """How each chip is calibrated.

    Args:
        kind: "readout": the last linear layer is computed digitally, with weights fitted to the chip; "affine": a
            digital scale and shift per channel after each layer on arrays; "both": affine, and then the refit.
        images: training images that are run on each chip for it.

    Raises:
        InputError: if the kind is unknown, or there are fewer than two images.
    """

    kind: Literal["readout", "affine", "both"] = "readout"
    images: int = 500

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"calibration {self.kind!r} must be one of {', '.join(KINDS)}")
        if isinstance(self.images, bool) or not isinstance(self.images, int) or self.images < 2:
            raise InputError(f"calibration images={self.images!r}: an integer >= 2 is needed")

    def draw(self, development: Development, seed: int = 0) -> Split:
        """The images: of the training split, each class in its share, the same for every chip.

        Raises:
            InputError: if data with a test split is given, or there are too few training images, or no labels.
        """
        if not isinstance(development, Development):
            raise InputError(
                f"calibration takes Development (train and validation), not {type(development).__name__}: give "
                "data.development, so that no chip is calibrated on test images"
            )
        train = development.train
        if train.y is None:
            raise InputError("the training images have no labels: calibration draws its images by class")
        if len(train) < self.images:
            raise InputError(f"calibration images={self.images}, but there are {len(train)} training images")
        order = permutation(len(train), Key(seed).fold(STREAM))
        by_class = order[torch.argsort(train.y[order], stable=True)]
        # every so many of a list sorted by class: each class as often as it is in the data
        chosen = by_class[torch.arange(self.images) * len(train) // self.images]
        return Split(train.x[chosen], train.y[chosen])

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a report or an identity."""
        return {"kind": self.kind, "images": self.images}


@dataclass(frozen=True)
class Cost:
    """What a calibration needs beside the arrays.

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
    """What calibrating any chip of one model needs: made once, and used for every chip. It can be pickled.

    Args:
        calibration: which.
        images: drawn.
        affine, readout: what the clean model makes of them; None: not asked for.
        fixed: the one batch size that the model accepts, if there is one.
    """

    calibration: Calibration
    images: Split
    affine: Affine | None
    readout: Readout | None
    fixed: int | None = None

    @classmethod
    def of(
        cls,
        analog: nn.Module,
        calibration: Calibration,
        development: Development,
        seed: int = 0,
        fixed: int | None = None,
    ) -> "Calibrator":
        """Draw the images and run the clean model on them.

        Args:
            analog: of `to_analog`, in evaluation mode, whatever its chip.
            calibration: how.
            development: whose training images are drawn from: a test split has no way in.
            seed: of the draw.
            fixed: see `nn.evaluate.outputs`.

        Raises:
            InputError: if the model has no layer that can be calibrated like this, or `draw` refuses.
        """
        images = calibration.draw(development, seed)
        kind = calibration.kind
        with handle.only_layers(analog, ()):
            affine = None if kind == "readout" else Affine.of(analog, images.x)
            readout = None if kind == "affine" else _readout(analog, images, fixed)
        return cls(calibration, images, affine, readout, fixed)

    @contextmanager
    def fitted(self, analog: nn.Module) -> Iterator[nn.Module]:
        """Inside, a model that is calibrated for the chip on which `analog` is at present.

        Neither the clean parameters nor the arrays change, and at the end nothing is left of it.
        """
        x, y = self.images.x, self.images.y
        with nullcontext(analog) if self.affine is None else self.affine.fitted(analog, x) as corrected:
            if self.readout is None:
                yield corrected
            else:
                assert y is not None
                yield self.readout.fit(corrected, x, y, self.fixed)

    @property
    def cost(self) -> Cost:
        """What it takes."""
        products = words = 0
        if self.affine is not None:
            products, words = self.affine.products, 2 * self.affine.channels
        if self.readout is not None:
            weights = self.readout.classes * self.readout.features
            products, words = products + weights, words + weights + self.readout.classes
        return Cost(products, words, self.calibration.images)


def _readout(analog: nn.Module, images: Split, fixed: int | None) -> Readout:
    readout = Readout.of(analog, images.x, fixed)
    assert images.y is not None
    top = int(images.y.max())
    if top >= readout.classes:
        raise InputError(
            f"labels go up to {top} but the model has {readout.classes} outputs: is this the data it was trained on?"
        )
    return readout


def calibrated_scores(
    model: nn.Module,
    reference: Reference,
    hardware: Hardware,
    calibration: Calibration,
    development: Development,
    *,
    seed: int = 0,
    chips: Iterable[int] = range(20),
    metric: str | None = None,
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
) -> list[Score]:
    """The scores of chips, each calibrated by itself.

    Args:
        model: clean; it is left in evaluation mode.
        reference: the examples that scores are of, `Reference.of(model, x, y)`.
        hardware: the design.
        calibration, development: how, and whose training images are used.
        seed, chips: which chips; the seed also names the draw of images.
        metric, only, skip: see `deploy`.

    Raises:
        InputError: if model, data, design and calibration do not go together.
    """
    with suppress(NotImplementedError):  # an exported graph knows one mode
        model.eval()
    metric = reference.metric(metric)
    reference.check_metric(metric)
    analog, _ = mapped(model, hardware, reference.x, seed, 0, only, skip, reference.few, reference.fixed)
    calibrator = Calibrator.of(analog, calibration, development, seed, reference.fixed)
    scores = []
    with handle.frozen(analog):
        for chip in chips:
            handle.set_chip(analog, chip)
            handle.program(analog)
            with calibrator.fitted(analog) as calibrated:
                scores.append(finite_score(reference.score(calibrated), metric, chip))
    return scores
