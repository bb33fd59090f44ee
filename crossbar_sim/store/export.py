"""A simulated chip into a file, a few megabytes at a time."""

import os
from collections.abc import Callable

import numpy as np
from torch import nn

from crossbar_sim.crossbar.config import to_json
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.errors import InputError
from crossbar_sim.files import replacing
from crossbar_sim.nn import chips
from crossbar_sim.rng import STREAM_VERSION, Key, check_chip
from crossbar_sim.store.export_array import ArrayToWrite, write_array, write_attributes
from crossbar_sim.store.layout import FORMAT, FORMAT_VERSION, LAYERS
from crossbar_sim.store.sink import writing

Progress = Callable[[int, int], object]


def export_chip(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    hardware: Hardware,
    seed: int,
    chip: int,
    model_sha256: str,
    version: str,
    progress: Progress | None = None,
) -> None:
    """Write every array of an analog model, as one chip has it, into an HDF5 file (docs/format.md).

    The same arguments give the same bytes, whatever the number of threads. The file appears complete
    or not at all. Beyond the model, one array's transposed copy at most is in memory.

    Args:
        model: from `to_analog`.
        path: the file; an existing one is replaced once the new one is complete on disk.
        hardware, seed, chip: the design and the sample of it.
        model_sha256: of the model's file, in hexadecimal.
        version: of crossbar-sim.
        progress: called after every piece with the cells written and the cells in all.

    Raises:
        InputError: if the model is not analog, was mapped for other hardware or computes with a chip
            file itself, a weight is NaN or infinite, or the file cannot be written.
    """
    arrays = _arrays(model, hardware)
    key, chip = Key(seed), check_chip(chip)
    counter = _Counter(sum(array.cells(hardware) for array in arrays), progress)
    with replacing(path) as temporary, writing(temporary) as (file, sink):
        write_attributes(
            file,
            {
                "format": FORMAT,
                "format_version": np.uint32(FORMAT_VERSION),
                "hardware": to_json(hardware),
                "seed": np.uint64(key.seed),
                "chip": np.uint64(chip),
                "model_sha256": model_sha256,
                "version": version,
                "stream_version": np.uint32(STREAM_VERSION),
            },
        )
        layers = file.create_group(LAYERS, track_order=True)
        for array in arrays:
            group = layers
            for part in array.groups:
                group = group.require_group(part)
            for done in write_array(group, array, hardware, key.fold(array.slot.name), chip):
                sink.check()
                counter.add(done)


class _Counter:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def add(self, cells: int) -> None:
        self.done += cells
        if self.progress is not None:
            self.progress(self.done, self.total)


def _arrays(model: nn.Module, hardware: Hardware) -> list[ArrayToWrite]:
    """The arrays, those that layers share once."""
    design = chips.design(model)
    for field in ("bias", "normalisation", "other"):
        old, new = getattr(design.hardware, field), getattr(hardware, field)
        if old != new:
            raise InputError(f"{field}={new!r} where the model was mapped with {old!r}: map it again")
    if design.maps is not None:
        raise InputError(
            "the model computes with the conductances of a chip file, and an export simulates: "
            "call set_maps(None) on its design first"
        )
    arrays: dict[tuple[str, ...], ArrayToWrite] = {}
    for slot, module in chips.slots(model):
        array = ArrayToWrite(slot, module, design.remap)
        first = None if slot.ideal else arrays.setdefault(array.groups, array)
        if first is None or first is array:
            continue
        if first.slot.name != slot.name or not np.array_equal(first.columns(), array.columns()):
            raise InputError(
                f"{slot.name} of {slot.layer} and {first.slot.name} of {first.slot.layer} share a name "
                "and differ in their matrix (a bias row or a folded normalisation of its own): a chip "
                "file has one array for it; keep bias and normalisation digital, or skip one layer"
            )
    return list(arrays.values())
