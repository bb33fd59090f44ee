"""A simulated chip into a file, a few megabytes at a time."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from torch import nn

from crossbar_sim.crossbar import configuration, threads
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.layer_designs import Design, design_at, to_json
from crossbar_sim.crossbar.remapping import Remapping, remap_chip
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.errors import InputError
from crossbar_sim.files import replacing
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.programming import check_finite
from crossbar_sim.nn.analog.state import ArraySlot
from crossbar_sim.rng import STREAM_VERSION, Key, check_chip
from crossbar_sim.store.chip_layout import (
    BIT_LINES,
    DRIFTED,
    FAULTS,
    FORMAT,
    FORMAT_VERSION,
    LAYER_HARDWARE,
    LAYERS,
    PROGRAMMED,
    STAGES,
    TARGET,
    WORD_LINES,
    chunk_shape,
    group_of,
    runs,
)
from crossbar_sim.store.hdf5 import writing

# One array of a chip into its group of a file, a few megabytes at a time.


# gzip at level 1 with bytes shuffled: level 4 saves 2 % more at half the speed, and lzf, at about
# the speed of level 1, saves half as much and is readable by h5py alone.
_FILTERS = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "fletcher32": True}


@dataclass(frozen=True)
class ArrayToWrite:
    """A slot of a model, the module that has its parameters, and its layer's design.

    Args:
        remap: whether the weights are placed by the stuck cells.
        stated: whether the file says the design here, for other layers have others.
    """

    slot: ArraySlot
    module: nn.Module
    hardware: Hardware
    remap: bool = False
    stated: bool = False

    @property
    def groups(self) -> tuple[str, ...]:
        """Where it goes, below /layers."""
        return group_of(self.slot.name)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, cols) of the matrix, all groups together."""
        return self.slot.rows, self.slot.layout.groups * self.slot.layout.cols

    @property
    def cells(self) -> int:
        """Cells of all planes, reference columns included."""
        return int(np.prod(_shape(self.hardware, *self.shape)))

    def columns(self) -> Float32:
        """The matrix (cols, rows): the weight's own memory where that is its transpose in float32."""
        columns = self.slot.columns(self.module).detach()
        check_finite(columns, self.slot.name)
        return np.asarray(columns.float().cpu().contiguous().numpy(), np.float32)


def write_attributes(item: h5py.HLObject, values: dict[str, Any]) -> None:
    """Set attributes; strings get a fixed length.

    So they are in the checksummed header. What h5py does by default puts them into a heap without a
    checksum, and a damaged one makes HDF5 2.0 loop for ever.
    """
    for name, value in values.items():
        if isinstance(value, str):
            encoded = value.encode()
            text = h5py.string_dtype("utf-8", max(len(encoded), 1))
            item.attrs.create(name, np.array(encoded, text), dtype=text)
        else:
            item.attrs[name] = value


def _shape(hardware: Hardware, rows: int, cols: int) -> tuple[int, int, int]:
    """(planes, rows, physical columns): a mapping of single cells adds its reference column."""
    return hardware.mapping.planes, rows, cols + (hardware.mapping.planes_per_copy == 1)


def write_array(group: h5py.Group, array: ArrayToWrite, key: Key, chip: int) -> Iterator[int]:
    """Write one array into its group; yields the cells of each piece after writing it.

    Raises:
        InputError: if a weight has no conductance, or a conductance leaves single precision.
    """
    columns, hardware = array.columns(), array.hardware
    scale = hardware.mapping.scale(columns)
    if array.remap:
        found = remap_chip(hardware, columns, key, chip, array.slot.layout.groups)
        columns = np.ascontiguousarray(found.place(columns.T).T)
        scale = scale if scale.size == 1 else np.ascontiguousarray(scale[found.columns[0]])
        _write_lines(group, found)
    write_attributes(group, _attributes(array, hardware, scale))
    shape = _shape(hardware, columns.shape[1], columns.shape[0])
    datasets = _datasets(group, shape, hardware)
    for plane in range(shape[0]):
        for rows, cols in runs(*shape[1:]) if 0 not in shape else ():
            wide, high = cols.stop - cols.start, rows.stop - rows.start
            first = cols.start * shape[1] + rows.start
            part = slice(first, first + wide * high)
            stages = _stages(hardware, columns, scale, key, chip, plane, part)
            for dataset, values in zip(datasets, stages, strict=True):
                if dataset is not None:
                    dataset[plane, rows, cols] = values.reshape(wide, high).T
            yield wide * high


def _write_lines(group: h5py.Group, found: Remapping) -> None:
    """The matrix row on each word line; the column on each bit line, from 1, below 0 where its pair is turned."""
    bits = (found.columns + 1) * found.signs
    for name, values in ((WORD_LINES, found.rows[None, :, None]), (BIT_LINES, bits[:, None, :])):
        layout = {} if 0 in values.shape else {"chunks": (1, *values.shape[1:]), **_FILTERS}
        group.create_dataset(name, data=values.astype("<i4"), track_times=False, **layout)


def _datasets(
    group: h5py.Group, shape: tuple[int, int, int], hardware: Hardware
) -> tuple[h5py.Dataset | None, ...]:
    """The datasets to fill, None for those that are there without filling.

    A stage that changes nothing is a second hard link to the one before; without stuck cells, the
    fault map is never written and reads as its fill value 0.
    """
    layout = {} if 0 in shape else {"chunks": (1, *chunk_shape(*shape[1:])), **_FILTERS}

    def create(name: str, dtype: str, fill: float) -> h5py.Dataset:
        dataset = group.create_dataset(name, shape, dtype, fillvalue=fill, track_times=False, **layout)
        for axis, label in zip(dataset.dims, ("plane", "row", "column"), strict=True):
            axis.label = label
        return dataset

    acts = {
        TARGET: True,
        PROGRAMMED: hardware.programming is not None or hardware.stuck is not None,
        DRIFTED: hardware.drift is not None,
    }
    filled: list[h5py.Dataset | None] = []
    for name in STAGES:
        if acts[name]:
            # Filled with NaN, so that a chunk that gets lost does not read as open cells.
            latest = create(name, "<f4", np.nan)
            write_attributes(latest, {"units": "S"})
            filled.append(latest)
        else:
            group[name] = latest
            filled.append(None)
    faults = create(FAULTS, "|u1", 0)
    return *filled, None if hardware.stuck is None else faults


def _attributes(array: ArrayToWrite, hardware: Hardware, scale: Float32) -> dict[str, Any]:
    """What a reader needs to make weights of the planes, and the parameter of the weights."""
    slot, mapping = array.slot, hardware.mapping
    rows, cols = array.shape
    levels = {} if mapping.levels is None else {"levels": np.int64(mapping.levels)}
    if mapping.cell_bits is not None:
        levels["cell_bits"] = np.int64(mapping.cell_bits)
    return {
        "parameter": slot.name,
        "layout": slot.layout.order,
        "parameter_shape": np.array(slot.layout.shape, np.int64),
        "bias_row": np.int64(slot.bias is not None),
        "rows": np.int64(rows),
        "cols": np.int64(cols),
        "groups": np.int64(slot.layout.groups),
        "tile": np.array(hardware.tile, np.int64),
        "mapping": mapping.kind,
        "g_min": np.float64(mapping.g_min),
        "g_max": np.float64(mapping.g_max),
        **levels,
        "copies": np.int64(mapping.copies),
        "scale": scale,
        **({LAYER_HARDWARE: configuration.to_json(hardware)} if array.stated else {}),
    }


def _stages(
    hardware: Hardware, columns: Float32, scale: Float32, key: Key, chip: int, plane: int, part: slice
) -> tuple[NDArray[Any], ...]:
    """`Hardware.stages` for any run of cells, on all threads.

    Raises:
        InputError: if a conductance leaves single precision, which no reader would take.
    """
    start = part.start - part.start % 256  # where `stages` can begin; what is too much is dropped
    pieces = [slice(start + c.start, start + c.stop) for c in threads.chunks(part.stop - start)]
    n = part.stop - start
    whole = (*(np.empty(n, np.float32) for _ in range(3)), np.empty(n, np.uint8))

    def compute(piece: slice) -> None:
        found = hardware.stages(columns, scale, key, chip, plane, piece)
        for out, values in zip(whole, found, strict=True):
            out[piece.start - start : piece.stop - start] = values

    threads.run(compute, pieces)
    stages = tuple(values[part.start - start :] for values in whole)
    if not all(np.isfinite(g.max()) for g in stages[:3]):
        raise InputError(
            f"{key.path[-1]}: a conductance leaves single precision; lower the spread or the window"
        )
    return stages


Progress = Callable[[int, int], object]


def export_chip(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    hardware: Design,
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
    counter = _Counter(sum(array.cells for array in arrays), progress)
    with replacing(path) as temporary, writing(temporary) as (file, disk_file):
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
            for done in write_array(group, array, key.fold(array.slot.name), chip):
                disk_file.check()
                counter.add(done)


class _Counter:
    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def add(self, cells: int) -> None:
        self.done += cells
        if self.progress is not None:
            self.progress(self.done, self.total)


def _arrays(model: nn.Module, hardware: Design) -> list[ArrayToWrite]:
    """The arrays, those that layers share once."""
    design = chips.analog_state(model)
    chips.check_same_mapping(design, hardware, "map it again")
    if design.maps is not None:
        raise InputError(
            "the model computes with the conductances of a chip file, and an export simulates: "
            "call set_maps(None) on its design first"
        )
    arrays: dict[tuple[str, ...], ArrayToWrite] = {}
    for slot, module in chips.slots(model):
        own = design_at(hardware, slot.layer)
        assert own is not None  # a digital layer has no slot
        array = ArrayToWrite(slot, module, own, design.remap, not isinstance(hardware, Hardware))
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
