"""Finding the arrays of an open chip file, and checking what it says of each."""

from collections.abc import Iterator
from typing import NamedTuple

import h5py
import numpy as np
from h5py import h5l, h5o

from crossbar_sim.crossbar.checks import show, unknown
from crossbar_sim.crossbar.mapping import Differential
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.errors import InputError
from crossbar_sim.store import guard
from crossbar_sim.store.dataset import child, open_conductances, open_faults, open_lines
from crossbar_sim.store.layout import (
    BIT_LINES,
    DRIFTED,
    FAULTS,
    LAYERS,
    STAGES,
    WORD_LINES,
    group_of,
    name_of,
    path_of,
)
from crossbar_sim.store.stored_array import MAPPINGS, StoredArray


class Placement(NamedTuple):
    """Where the weights of a remapped array lie: datasets of word and bit lines, and word lines of a tile."""

    words: h5py.Dataset
    bits: h5py.Dataset
    height: int


class Opened(NamedTuple):
    """An array with its datasets: `unit` is what one unit of `drifted` is in S."""

    array: StoredArray
    drifted: h5py.Dataset
    unit: float
    faults: h5py.Dataset | None
    placement: Placement | None = None


def open_arrays(file: h5py.File) -> Iterator[Opened]:
    """Every array of the file, in its order.

    Raises:
        InputError: if there is none, or one cannot be used.
    """
    if not child(file, LAYERS, h5o.TYPE_GROUP):
        names = [show(name)[1:-1] for _, name in zip(range(4), file, strict=False)]
        raise InputError(
            f"holds no group /layers (it has {', '.join(names) or 'nothing'}) and so no conductances of a network; "
            "write a chip file with crossbar-sim export, or see docs/format.md for one of your own"
        )
    layers, found = file[LAYERS], False
    for outer in layers:
        child(layers, outer, h5o.TYPE_GROUP)
        group, here = layers[outer], False
        if any(name in group for name in (*STAGES, FAULTS)):
            here = True
            yield open_array(file, (outer,))
        for inner in group:
            if _is_array(group, inner):
                here = True
                yield open_array(file, (outer, inner))
        if not here:
            raise InputError(f"{show(path_of((outer,)))} holds no dataset {DRIFTED}: add it")
        found = True
    if not found:
        raise InputError("its group /layers is empty: it has no conductances; export it again")


def open_array(file: h5py.File, groups: tuple[str, ...]) -> Opened:
    """One array, checked as far as it can be without reading its planes.

    Raises:
        InputError: saying what is wrong with it and how it should be.
    """
    path = show(path_of(groups))[1:-1]
    try:
        group = file
        for part in (LAYERS, *groups):
            if not child(group, part, h5o.TYPE_GROUP):
                raise InputError("is not there any more")
            group = group[part]
        return _open_array(group, groups)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _is_array(group: h5py.Group, name: str) -> bool:
    """Whether `name` is an array of another parameter of the layer; anything may lie beside."""
    link = name.encode(errors="surrogateescape")
    if group.id.links.get_info(link).type != h5l.TYPE_HARD:
        child(group, name, h5o.TYPE_GROUP)  # refuses it
    if h5o.get_info(group.id, link).type != h5o.TYPE_GROUP:
        return False
    return any(dataset in group[name] for dataset in (*STAGES, FAULTS))


def _open_array(group: h5py.Group, groups: tuple[str, ...]) -> Opened:
    stages, units = {}, {}
    for name in STAGES:
        opened = open_conductances(group, name)
        if opened is not None:
            stages[name], units[name] = opened
    if DRIFTED not in stages:
        raise InputError(f"holds no dataset {DRIFTED}, the conductances that compute: add it")
    drifted = stages[DRIFTED]
    faults = open_faults(group, FAULTS)
    for name, dataset in (*stages.items(), (FAULTS, faults)):
        if dataset is not None and dataset.shape != drifted.shape:
            raise InputError(
                f"{name} has shape {dataset.shape} and {DRIFTED} {drifted.shape}: make them alike"
            )
    array = StoredArray(
        name=_parameter(group, groups),
        groups=groups,
        shape=drifted.shape,
        stages=tuple(stages),
        kind=_kind(group),
        window=_window(group),
        copies=guard.whole(group, "copies", 1, 1024),
        scale=_scale(group, drifted.shape[2]),
        **_code(group),
        blocks=guard.whole(group, "groups", 1, 2**31) or 1,
    )
    reference = 0
    if array.kind is not None:
        reference = int(array.mapping(None).planes_per_copy == 1)
    cols = {drifted.shape[2] - reference, drifted.shape[2] - int(array.kind is None)}
    for name, allowed in (("rows", {drifted.shape[1]}), ("cols", cols)):
        value = guard.whole(group, name, 0, 2**63 - 1)
        if value is not None and value not in allowed:
            raise InputError(f"the attribute {name} says {value} and the shape is {drifted.shape}")
    return Opened(array, drifted, units[DRIFTED], faults, _placement(group, array.shape))


def _placement(group: h5py.Group, shape: tuple[int, int, int]) -> Placement | None:
    """The datasets that say where the weights of a remapped array lie, None if it is not remapped."""
    words, bits = open_lines(group, WORD_LINES), open_lines(group, BIT_LINES)
    if words is None and bits is None:
        return None
    tile = guard.numbers(group, "tile", 2)
    if words is None or bits is None or tile is None or tile.size != 2 or not 1 <= tile[0] < 2**31:
        raise InputError(f"{WORD_LINES}, {BIT_LINES} and the attribute tile go together: give all of them")
    height, (_, rows, physical) = int(tile[0]), shape
    blocks = -(-rows // height)
    if words.shape != (1, rows, 1) or bits.shape[:2] != (blocks, 1) or physical - bits.shape[2] not in (0, 1):
        raise InputError(
            f"{WORD_LINES} and {BIT_LINES} have shapes {words.shape} and {bits.shape}, and the array {shape} on tiles "
            f"of {height} word lines needs (1, {rows}, 1) and ({blocks}, 1, columns)"
        )
    return Placement(words, bits, height)


def _parameter(group: h5py.Group, groups: tuple[str, ...]) -> str:
    parameter = guard.text(group, "parameter")
    if parameter is None:
        return name_of(groups)
    if group_of(parameter) != groups:
        raise InputError(
            f"the attribute parameter says {show(parameter)}, whose place is "
            f"{show(path_of(group_of(parameter)))}: mend one of the two"
        )
    return parameter


def _kind(group: h5py.Group) -> str | None:
    kind = guard.text(group, "mapping")
    if kind is not None and kind not in MAPPINGS:
        raise InputError(unknown("mapping", kind, MAPPINGS))
    return kind


def _window(group: h5py.Group) -> tuple[float, float] | None:
    low, high = guard.number(group, "g_min"), guard.number(group, "g_max")
    if (low is None) != (high is None):
        raise InputError("the attributes g_min and g_max go together: give both, in S")
    if low is None or high is None:
        return None
    Differential(low, high)  # refuses an empty window
    return low, high


def _code(group: h5py.Group) -> dict[str, int | None]:
    """Levels of a weight and bits of a cell."""
    cell_bits = guard.whole(group, "cell_bits", 1, 20)
    levels = None if cell_bits is None else guard.whole(group, "levels", 2, 2**20)
    if cell_bits is not None and levels is None:
        raise InputError("the attribute cell_bits slices the code of a weight: give the attribute levels too")
    return {"levels": levels, "cell_bits": cell_bits}


def _scale(group: h5py.Group, physical: int) -> Float32 | None:
    values = guard.numbers(group, "scale", max(physical, 1))
    if values is None:
        return None
    if not np.all((values > 1e-37) & (values < 1e37)):
        raise InputError("the attribute scale must lie above 0, in S per weight unit")
    if values.size not in (1, physical - 1, physical):
        raise InputError(f"{values.size} scales for {physical} columns: give one, or one per column")
    return values.astype(np.float32)
