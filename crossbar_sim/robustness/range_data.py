"""Inputs for the calibration of converter ranges, and designs with ranges calibrated on them."""

import os
from collections.abc import Mapping
from typing import Any

from torch import nn

from crossbar_sim.crossbar.layer_designs import Design
from crossbar_sim.data import Development, Split, Splits, load_data
from crossbar_sim.data.inputs import Inputs
from crossbar_sim.data.load import to_development
from crossbar_sim.errors import InputError
from crossbar_sim.nn.analog.range_calibration import calibrate_ranges, needs_calibration
from crossbar_sim.nn.evaluate import bound, inputs_for, needed_inputs
from crossbar_sim.nn.files.loading import LoadedModel
from crossbar_sim.nn.seeding import permutation
from crossbar_sim.rng import Key
from crossbar_sim.robustness.examples import RANDOM, find_examples

IMAGES = 512
"""Examples that converters are calibrated on."""


def calibrated_for(
    loaded: LoadedModel,
    hardware: Design,
    *,
    data: str | None,
    data_dir: str | None,
    input_shape: tuple[int, ...] | None,
    seed: int,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    own: str | None = None,
) -> tuple[Design, tuple[str, ...]]:
    """The design itself where no range is to be calibrated, else with ranges, and sentences for the report."""
    if not needs_calibration(hardware):
        if own is not None:
            raise InputError(
                "--calibration-data has nothing to act on: no converter has the range 'calibrated'"
            )
        return hardware, ()
    if own is None:
        x, inputs = calibration_inputs(loaded, data, data_dir, IMAGES, input_shape, seed)
    else:
        x, inputs = chosen_inputs(loaded, own, data_dir, IMAGES, seed)
    loaded.module.eval()
    calibrated, reports = calibrate_ranges(
        loaded.module, hardware, x, only=only or None, skip=skip, seed=seed, fixed=loaded.batch
    )
    worst = max((r.output_clipped or 0.0 for r in reports), default=0.0)
    used = [r.output_used for r in reports if r.output_used is not None]
    codes = f", {min(used):.0f} to {max(used):.0f} % of the codes used" if used else ""
    return calibrated, (
        f"converter ranges were calibrated on {inputs}: up to {worst:.2g} % of the conversions clipped{codes} "
        "(crossbar-sim calibrate says more, and keeps them)",
    )


def with_ranges(
    module: nn.Module,
    hardware: Design,
    data: Any,
    seed: int,
    only: tuple[str, ...] | None,
    skip: tuple[str, ...],
) -> Design:
    """The design with ranges for a model in memory, from `IMAGES` training images, the same as on the command line.

    Args:
        module: in evaluation mode.
        hardware: returned as it is where no range is to be calibrated.
        data: `Splits`, `Development`, {"train": ..., "validation": ...}, or a data set's name or path.
        seed, only, skip: as for `calibrate_ranges`.

    Raises:
        InputError: if there are no training images.
    """
    if not needs_calibration(hardware):
        return hardware
    if isinstance(data, Splits):
        data = data.development
    if not isinstance(data, Development | Mapping | str | os.PathLike):
        raise InputError(
            "the range of a converter is 'calibrated', on training images, and the examples have none beside those "
            "that are scored: give calibration_data={'train': (x, y), 'validation': (x, y)}, or a range such as "
            "adc_range='max'"
        )
    train = to_development(data).train
    calibrated, _ = calibrate_ranges(
        module, hardware, _drawn(module, train, seed), only=only, skip=skip, seed=seed
    )
    return calibrated


def _drawn(module: nn.Module, split: Split, seed: int, images: int = IMAGES) -> Any:
    """So many inputs of a split, in their order there, in the type that the model takes."""
    chosen = permutation(len(split.x), Key(seed).fold("converter images"))[:images].sort().values
    return inputs_for(module, split.x[chosen], y=None if split.y is None else split.y[chosen])[0]


def calibration_inputs(
    loaded: LoadedModel,
    data: str | None,
    data_dir: str | None,
    images: int,
    input_shape: tuple[int, ...] | None,
    seed: int,
) -> tuple[Any, str]:
    """Inputs (n, ...) that no score is reported on, and what they are, in words.

    Training examples drawn by the seed; without data, random inputs.

    Raises:
        InputError: if the data have test examples alone.
    """
    if images < 1:
        raise InputError(f"--images {images}: at least one example is needed")
    name = data or loaded.data
    if name is None or input_shape is not None:
        found = find_examples(loaded, data, data_dir, min(images, RANDOM), input_shape, seed + 1)
        return found.x, f"{len(found.x)} random inputs"
    splits: Splits = load_data(name, data_dir, inputs=needed_inputs(loaded.module))
    split = splits.train or splits.validation
    if split is None:
        raise InputError(
            f"{splits.name} has test examples alone, and converters are not calibrated on those that scores are "
            "reported on: add x_train (and y_train) to the .npz, give deploy and sweep other "
            "examples with --calibration-data FILE, or set a range such as --adc-range max"
        )
    chosen = permutation(len(split.x), Key(seed).fold("converter images"))[:images].sort().values
    which = "training" if splits.train is not None else "validation"
    x = split.x[chosen]
    if isinstance(x, Inputs):
        x = bound(loaded.module, x, None if split.y is None else split.y[chosen])
    return x, f"{len(chosen)} {which} examples of {splits.name}"


def chosen_inputs(
    loaded: LoadedModel, own: str, data_dir: str | None, images: int, seed: int
) -> tuple[Any, str]:
    """Inputs of data that the user names for calibration alone: of its training split, or all that there is."""
    splits: Splits = load_data(own, data_dir, inputs=needed_inputs(loaded.module))
    split = splits.train or splits.test
    x = _drawn(loaded.module, split, seed, images)
    return x, f"{len(x)} examples of {splits.name}"
