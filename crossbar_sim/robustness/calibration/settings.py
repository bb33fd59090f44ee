"""Which calibration, and the images that it is fitted to, as a user gives them."""

import os
from dataclasses import dataclass
from typing import Any

import torch

from crossbar_sim.data import Development, Split, Splits, load_data
from crossbar_sim.data.load import to_development
from crossbar_sim.errors import InputError
from crossbar_sim.nn.seeding import permutation
from crossbar_sim.rng import Key
from crossbar_sim.robustness.calibration.low_rank import HELD_OUT, VARIANTS
from crossbar_sim.validate import is_int, unknown

PARTS = ("statistics", "affine", *VARIANTS, "readout")
"""What a calibration is put together from, in the order in which it is fitted."""

KINDS = (*PARTS, "both")

MOST_RANK = 4096

STREAM = "calibration images"
"""Below the seed: the name of the draw of images, the same for every chip and model."""


@dataclass(frozen=True)
class Calibration:
    """How each chip is calibrated.

    Args:
        kind: "statistics": running statistics of batch and instance normalisations are estimated again on the chip;
            "affine": a digital scale and shift per channel after each layer on arrays; "lora:rank=4", "dora:rank=4" or
            "vera:rank=64": a digital correction of low rank beside each array; "readout": the last linear layer is
            computed digitally, with weights fitted to the chip. Several with +, such as "statistics+lora:rank=2", are
            fitted in this order; "both" is affine+readout.
        images: training images that are run on each chip for it.

    Raises:
        InputError: if the kind is unknown, or there are fewer than two images (five for a correction of low rank).
    """

    kind: str = "readout"
    images: int = 500

    def __post_init__(self) -> None:
        found = parts_of(self.kind)
        words = [name if rank is None else f"{name}:rank={rank}" for name, rank in found.items()]
        object.__setattr__(self, "kind", "both" if words == ["affine", "readout"] else "+".join(words))
        least = HELD_OUT if set(VARIANTS) & set(found) else 2
        if not is_int(self.images) or self.images < least:
            raise InputError(f"calibration images={self.images!r}: an integer >= {least} is needed")

    @property
    def parts(self) -> dict[str, int | None]:
        """Its parts in their order, each with its rank if it has one."""
        return parts_of(self.kind)

    def draw(self, development: Development, seed: int = 0) -> Split:
        """The images: from the training split, stratified by class, the same for every chip.

        Where there is not one class for each image, every image is as likely as any other.

        Raises:
            InputError: if data with a test split is given, or there are too few training images, or no labels and the
                calibration needs them.
        """
        if not isinstance(development, Development):
            raise InputError(
                f"calibration takes Development (train and validation), not {type(development).__name__}: give "
                "data.development, so that no chip is calibrated on test images"
            )
        train = development.train
        labelled = train.y is not None and not train.y.is_floating_point()
        if not labelled and "readout" in self.parts:
            raise InputError("the training images have no labels of classes, and a readout is fitted to them")
        if len(train) < self.images:
            raise InputError(
                f"calibration images={self.images}, but there are {len(train)} training images: give fewer, "
                f"Calibration({self.kind!r}, images={len(train)}) or --calibration-images {len(train)}"
            )
        order = permutation(len(train), Key(seed).fold(STREAM))
        if train.y is not None and train.y.dim() == 1:
            order = order[torch.argsort(train.y[order], stable=True)]
        # every so many of a list sorted by class: each class as often as it is in the data
        chosen = order[torch.arange(self.images) * len(train) // self.images]
        return Split(train.x[chosen], None if train.y is None else train.y[chosen])

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a report or an identity."""
        return {"kind": self.kind, "images": self.images}


def parts_of(text: str) -> dict[str, int | None]:
    """The parts of a calibration in the order in which they are fitted, with the ranks of those that have one.

    >>> parts_of("readout+lora:rank=2")
    {'lora': 2, 'readout': None}

    Raises:
        InputError: for an unknown part, one that is given twice, two of low rank, or an impossible rank.
    """
    if not isinstance(text, str):
        raise InputError(f"calibration {text!r}: expected a text such as 'lora:rank=4'")
    found: dict[str, int | None] = {}
    for word in text.split("+"):
        name, colon, option = (piece.strip() for piece in word.partition(":"))
        if name not in KINDS:
            raise InputError(unknown("the calibration", name, KINDS))
        rank = VARIANTS.get(name)
        if colon:
            key, _, number = (piece.strip() for piece in option.partition("="))
            if rank is None or key != "rank" or not number.isdecimal() or not 1 <= int(number) <= MOST_RANK:
                ranks = f"lora, dora and vera take a rank of 1 to {MOST_RANK}, such as lora:rank=4"
                raise InputError(f"calibration {word.strip()!r}: {ranks}")
            rank = int(number)
        for part in ("affine", "readout") if name == "both" else (name,):
            if part in found:
                raise InputError(f"calibration {text!r}: {part} is given twice")
            found[part] = rank
    two = [name for name in VARIANTS if name in found]
    if len(two) > 1:
        raise InputError(
            f"calibration {text!r}: {' and '.join(two)} both correct every array: give one of them"
        )
    return {name: found[name] for name in PARTS if name in found}


def calibration_of(
    calibrate: str | Calibration | None, data: Any, examples: Any
) -> tuple[Calibration, Development] | None:
    """A calibration and the data whose training images it is fitted to, from the arguments of a user.

    Args:
        calibrate: the kind, or all settings; None: no calibration.
        data: for it: `Development`, {"train": ..., "validation": ...}, or a data set's name or path; None: the training
            images of `examples`.
        examples: what the model is scored on.

    Raises:
        InputError: if there are no training images, or data without calibrate.
    """
    if calibrate is None:
        if data is not None:
            raise InputError("calibration_data has no effect without calibrate: give calibrate='readout'")
        return None
    how = calibrate if isinstance(calibrate, Calibration) else Calibration(calibrate)
    if data is None and isinstance(examples, Splits):
        data = examples.development
    if data is None and isinstance(examples, str | os.PathLike):
        data = load_data(examples).development
    if data is None:
        raise InputError(
            f"calibrate={how.kind!r} fits each chip to training images, and the examples have none beside those that "
            "are scored: give calibration_data={'train': (x, y), 'validation': (x, y)}"
        )
    return how, to_development(data)
