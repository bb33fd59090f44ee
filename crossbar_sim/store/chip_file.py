"""A chip file that was read: what it says, and its conductances in place of simulated ones."""

import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from h5py import h5l, h5o

from crossbar_sim.crossbar.array import read_weight, through_wires
from crossbar_sim.crossbar.configuration import to_dict
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.layer_designs import Design, LayerDesigns, from_json
from crossbar_sim.crossbar.mapping import Differential, Mapping
from crossbar_sim.crossbar.remapping import Remapping
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.errors import InputError
from crossbar_sim.nn.analog.state import AnalogState, CellMaps, Cells
from crossbar_sim.rng import Key
from crossbar_sim.store import hdf5
from crossbar_sim.store.chip_layout import (
    BIT_LINES,
    DRIFTED,
    FAULTS,
    FORMAT,
    FORMAT_VERSION,
    LAYER_HARDWARE,
    LAYERS,
    MAPPINGS,
    STAGES,
    WORD_LINES,
    StoredArray,
    blocks,
    conductances,
    group_of,
    name_of,
    path_of,
)
from crossbar_sim.store.hdf5 import child, open_conductances, open_faults, open_lines, read
from crossbar_sim.validate import UnitWarning, show, units_caution, unknown

# Finding the arrays of an open chip file, and checking what it says of each.


class Placement(NamedTuple):
    """Where the weights of a remapped array lie: datasets of word and bit lines, and word lines of a tile."""

    words: h5py.Dataset
    bits: h5py.Dataset
    height: int


class OpenArray(NamedTuple):
    """An array with its datasets: `unit` is what one unit of `drifted` is in S."""

    array: StoredArray
    drifted: h5py.Dataset
    unit: float
    faults: h5py.Dataset | None
    placement: Placement | None = None


def open_arrays(file: h5py.File) -> Iterator[OpenArray]:
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


def open_array(file: h5py.File, groups: tuple[str, ...]) -> OpenArray:
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


def _open_array(group: h5py.Group, groups: tuple[str, ...]) -> OpenArray:
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
                f"{name} has shape {dataset.shape} and {DRIFTED} {drifted.shape}: give both the same shape"
            )
    array = StoredArray(
        name=_parameter(group, groups),
        groups=groups,
        shape=drifted.shape,
        stages=tuple(stages),
        kind=_kind(group),
        window=_window(group),
        copies=hdf5.whole(group, "copies", 1, 1024),
        scale=_scale(group, drifted.shape[2]),
        **_code(group),
        blocks=hdf5.whole(group, "groups", 1, 2**31) or 1,
        hardware=_hardware(group),
    )
    reference = 0
    if array.kind is not None:
        reference = int(array.mapping(None).planes_per_copy == 1)
    cols = {drifted.shape[2] - reference, drifted.shape[2] - int(array.kind is None)}
    for name, allowed in (("rows", {drifted.shape[1]}), ("cols", cols)):
        value = hdf5.whole(group, name, 0, 2**63 - 1)
        if value is not None and value not in allowed:
            raise InputError(f"the attribute {name} says {value} and the shape is {drifted.shape}")
    return OpenArray(array, drifted, units[DRIFTED], faults, _placement(group, array.shape))


def _placement(group: h5py.Group, shape: tuple[int, int, int]) -> Placement | None:
    """The datasets that say where the weights of a remapped array lie, None if it is not remapped."""
    words, bits = open_lines(group, WORD_LINES), open_lines(group, BIT_LINES)
    if words is None and bits is None:
        return None
    tile = hdf5.numbers(group, "tile", 2)
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
    parameter = hdf5.text(group, "parameter")
    if parameter is None:
        return name_of(groups)
    if group_of(parameter) != groups:
        raise InputError(
            f"the attribute parameter says {show(parameter)}, whose place is "
            f"{show(path_of(group_of(parameter)))}: mend one of the two"
        )
    return parameter


def _kind(group: h5py.Group) -> str | None:
    kind = hdf5.text(group, "mapping")
    if kind is not None and kind not in MAPPINGS:
        raise InputError(unknown("mapping", kind, MAPPINGS))
    return kind


def _window(group: h5py.Group) -> tuple[float, float] | None:
    low, high = hdf5.number(group, "g_min"), hdf5.number(group, "g_max")
    if (low is None) != (high is None):
        raise InputError("the attributes g_min and g_max go together: give both, in S")
    if low is None or high is None:
        return None
    Differential(low, high)  # refuses an empty window
    return low, high


def _hardware(group: h5py.Group) -> Hardware | None:
    text = hdf5.text(group, LAYER_HARDWARE)
    return None if text is None else Hardware.from_json(text, f"the attribute {LAYER_HARDWARE}")


def _code(group: h5py.Group) -> dict[str, int | None]:
    """Levels of a weight and bits of a cell."""
    cell_bits = hdf5.whole(group, "cell_bits", 1, 20)
    levels = None if cell_bits is None else hdf5.whole(group, "levels", 2, 2**20)
    if cell_bits is not None and levels is None:
        raise InputError("the attribute cell_bits slices the code of a weight: give the attribute levels too")
    return {"levels": levels, "cell_bits": cell_bits}


def _scale(group: h5py.Group, physical: int) -> Float32 | None:
    values = hdf5.numbers(group, "scale", max(physical, 1))
    if values is None:
        return None
    if not np.all((values > 1e-37) & (values < 1e37)):
        raise InputError("the attribute scale must be above 0, in S per weight unit")
    if values.size not in (1, physical - 1, physical):
        raise InputError(f"{values.size} scales for {physical} columns: give one, or one per column")
    return values.astype(np.float32)


@dataclass(frozen=True)
class ChipFile:
    """What a chip file says; the conductances are read from it when they are needed.

    Everything but `path` and `arrays` is None where the file does not say it, as a lab's own may not.

    Args:
        path: the file.
        arrays: what it holds, in its order.
        format_version: of docs/format.md.
        hardware, seed, chip: the simulated design, or the design per layer, and the sample of it.
        model_sha256: of the model's file.
        version: of the crossbar-sim that wrote it.
        stream_version: of its random numbers.
    """

    path: Path
    arrays: tuple[StoredArray, ...]
    format_version: int | None = None
    hardware: Design | None = None
    seed: int | None = None
    chip: int | None = None
    model_sha256: str | None = None
    version: str | None = None
    stream_version: int | None = None

    def check_against(self, names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Compare the file's arrays with a model's.

        Args:
            names: of the model's arrays: `slot.name` of every slot that is not ideal.

        Returns:
            (missing, unused): arrays of the model that the file lacks, which compute with clean weights,
            and arrays of the file that the model lacks, which are ignored.

        Raises:
            InputError: if they have none in common.
        """
        wanted = {group_of(name): name for name in names}
        there = {array.groups: array for array in self.arrays}
        if not wanted.keys() & there.keys():
            have = ", ".join(show(array.path)[1:-1] for array in self.arrays[:4])
            need = ", ".join(path_of(groups) for groups in list(wanted)[:4]) or "none at all"
            raise InputError(
                f"{self.path}: none of its arrays is one of the model: it has {have} and the model needs "
                f"{need}; is it the chip of another model?"
            )
        missing = tuple(name for groups, name in wanted.items() if groups not in there)
        unused = tuple(array.name for groups, array in there.items() if groups not in wanted)
        return missing, unused

    def maps(self, hardware: Design | None = None) -> "FileMaps":
        """The file's conductances for `Design.set_maps`.

        Args:
            hardware: for what the file leaves open: its mapping's kind, window and scale, its wires. A file that
                crossbar-sim wrote leaves nothing open.

        Returns:
            (name of an array, its clean matrix (cols, rows)) -> the matrix (cols, rows) that the drifted
            planes stand for, through the wires of the design, or None for an array that the file lacks. It raises
            InputError if the planes do not fit the matrix or hold values that are not conductances, or if the
            file is damaged.
        """
        return FileMaps(self, hardware)

    def without_scale(self) -> tuple[str, ...]:
        """Arrays whose scale is computed from the clean weights and an assumed window: the file says neither."""
        described = self.hardware is not None
        return tuple(a.name for a in self.arrays if not described and a.scale is None and a.window is None)


class FileMaps(CellMaps):
    """The conductances of a chip file in place of simulated ones; see `ChipFile.maps`.

    Args:
        chip: the file.
        hardware: for what it leaves open.
    """

    def __init__(self, chip: ChipFile, hardware: Design | None = None) -> None:
        self.chip, self.own = chip, chip.hardware
        self.assumed = self.own if self.own is not None else hardware
        self._there = {array.groups for array in chip.arrays}

    def __contains__(self, name: object) -> bool:
        """Whether the file has the array of that name."""
        return isinstance(name, str) and group_of(name) in self._there

    def __call__(self, name: str, columns: Float32, groups: int | None = None) -> Float32 | None:
        """See `ChipFile.maps`; `groups` are blocks of columns on tiles of their own, None: as the file says."""
        if name not in self:
            return None
        with hdf5.reading(self.chip.path) as file:
            opened = open_array(file, group_of(name))
            array = opened.array
            hardware = self._hardware(array, name)
            if (hardware is None or hardware.wires is None) and opened.placement is None:
                found = array.weights(opened.drifted, opened.unit, columns, hardware)
                largest = array.largest(opened.drifted, opened.unit)
            else:
                cells, largest = self._cells(opened, columns, hardware, groups or array.blocks)
                found = np.ascontiguousarray(read_weight(cells[0].transpose(0, 2, 1), *cells[1:]).T)
        self._look_at(name, largest)
        return found

    def array(self, name: str, columns: Float32, groups: int, design: AnalogState) -> Cells:
        """See `CellMaps`. Noise and mismatch are named as in the simulation that the file says it is from."""
        with hdf5.reading(self.chip.path) as file:
            opened = open_array(file, group_of(name))
            hardware = self._hardware(opened.array, name) or _of_array(design, name)
            cells, largest = self._cells(opened, columns, hardware, groups)
        self._look_at(name, largest)
        key = design.key(name) if self.chip.seed is None else Key(self.chip.seed).fold(name)
        number = design.chip if self.chip.chip is None else self.chip.chip
        return Cells(*cells, hardware.tile[0], key, number)

    def _hardware(self, array: StoredArray, name: str) -> Hardware | None:
        """The design of an array's layer, as far as the file and the caller say it."""
        if array.hardware is not None:
            return array.hardware
        if not isinstance(self.assumed, LayerDesigns):
            return self.assumed
        found = self.assumed.at(name.rpartition(".")[0] or name)
        if found is None:
            raise InputError(f"{name}: its layer is digital by its design: which design has it on arrays?")
        return found

    def _cells(
        self, opened: OpenArray, columns: Float32, hardware: Hardware | None, groups: int
    ) -> tuple[tuple[Float32, Mapping, Float32], float]:
        """The planes that multiply, in the order of the matrix, with mapping and scale; the largest conductance."""
        planes, mapping, scale = opened.array.planes(opened.drifted, opened.unit, columns, hardware)
        largest = float(planes.max(initial=0.0))
        if hardware is not None and hardware.wires is not None:
            plain = replace(hardware, mapping=mapping, adc=None, dac=None, ranges=None)
            planes = through_wires(plain, planes, groups)
        if opened.placement is not None:
            found = placement(opened, columns.shape, mapping, scale.size > 1)
            logical = found.restore_planes(planes.transpose(0, 2, 1), mapping)
            planes = np.ascontiguousarray(logical.transpose(0, 2, 1))
            if scale.size > 1:
                scale = scale[np.argsort(found.columns[0])]
        return (planes, mapping, scale), largest

    def _look_at(self, name: str, largest: float) -> None:
        """Warn of conductances above those of any cell, once."""
        sentence = units_caution(largest, f"{self.chip.path}, {name}: the largest conductance, {{}},")
        if sentence is not None and sentence not in self.cautions:
            self.cautions = (*self.cautions, sentence)
            warnings.warn(sentence, UnitWarning, stacklevel=2)


def _of_array(design: AnalogState, name: str) -> Hardware:
    """The design of the layer that has the array of that name."""
    return design.of(next(layer.name for layer in design.layers for slot in layer.slots if slot.name == name))


def placement(opened: OpenArray, size: tuple[int, ...], mapping: Mapping, together: bool) -> Remapping:
    """Where the weights of a remapped array lie.

    Args:
        opened: with a placement.
        size: (cols, rows) of the matrix.
        mapping: only a pair can be turned.
        together: whether each bit line has a scale of its own, and so one column in all its tiles.

    Raises:
        InputError: if a line is missing or twice in its tile.
    """
    assert opened.placement is not None
    words, bits, height = opened.placement
    cols, rows = size
    lines = read(words, slice(0, rows), slice(0, 1))[0, :, 0].astype(np.int64)
    signed = read(bits, slice(0, 1), slice(0, bits.shape[2]))[:, 0].astype(np.int64)
    columns, signs = np.abs(signed) - 1, np.where(signed < 0, -1, 1).astype(np.int8)
    right = columns.shape[1] == cols and bool(np.all(np.sort(columns, axis=1) == np.arange(cols)))
    for top in range(0, rows, height):
        own = np.arange(top, min(top + height, rows))
        right = right and np.array_equal(np.sort(lines[own]), own)
    right = right and (mapping.planes_per_copy == 2 or bool(np.all(signed > 0)))
    if not right or (together and bool(np.any(columns != columns[:1]))):
        raise InputError(
            f"{opened.array.path}: {WORD_LINES} and {BIT_LINES} must name each row of a tile, and each column, once"
        )
    return Remapping(lines, columns, signs, height, 0.0, 0.0)


def read_chip(path: str | os.PathLike[str]) -> ChipFile:
    """Open a chip file, of crossbar-sim or of a lab (docs/format.md), and check all but the planes.

    The planes are checked, against their checksums too, when they are read: before they compute.

    Raises:
        InputError: in one sentence with the path, the cause and the remedy: if the file is missing, no
            chip file, of a newer format, damaged, points to other files, or holds an array that cannot
            be used.
    """
    path = Path(path)
    with hdf5.reading(path) as file:
        _check_format(file)
        text = hdf5.text(file, "hardware")
        hardware = None if text is None else from_json(text, "the attribute hardware")
        arrays = tuple(opened.array for opened in open_arrays(file))
        for array in arrays:
            if (array.hardware is not None) != isinstance(hardware, LayerDesigns):
                raise InputError(
                    f"{show(array.path)[1:-1]}: the attribute {LAYER_HARDWARE} goes with a design per layer "
                    "(`layers` in the attribute hardware of the file): give both, or neither"
                )
        return ChipFile(
            path,
            arrays,
            hdf5.whole(file, "format_version", 1, FORMAT_VERSION),
            hardware,
            hdf5.whole(file, "seed", 0, 2**64 - 1),
            hdf5.whole(file, "chip", 0, 2**32 - 1),
            hdf5.text(file, "model_sha256"),
            hdf5.text(file, "version"),
            hdf5.whole(file, "stream_version", 0, 2**32 - 1),
        )


def _check_format(file: h5py.File) -> None:
    """A file may leave format out; one that names another, or a newer version, is another's."""
    found = hdf5.text(file, "format")
    if found not in (None, FORMAT):
        raise InputError(f"has the format {show(found)} and is not a chip file ({FORMAT!r})")
    version = hdf5.whole(file, "format_version", 1, 2**32 - 1)
    if version is not None and version > FORMAT_VERSION:
        raise InputError(
            f"has format_version {version} and this crossbar-sim reads up to {FORMAT_VERSION}: update "
            "crossbar-sim"
        )
    if found is not None and version is None:
        raise InputError("has no format_version: it is damaged; export or copy it again")


# A chip file in words, for `crossbar-sim info`.


_SAMPLE = 1 << 20


def describe_chip(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """What a chip file holds, as (key, value) lines; reads all of its drifted planes.

    Conductances are in µS. The median of an array of more than a million cells is that of a sample.

    Raises:
        InputError: as `read_chip`, and if a plane is damaged or holds a value that is not a conductance.
    """
    chip = read_chip(path)
    version = chip.format_version
    lines = [
        ("format", "a chip file of a lab's own" if version is None else f"chip file, version {version}"),
        *_said("hardware", chip.hardware and hardware_in_words(chip.hardware)),
        *_said("seed", chip.seed),
        *_said("chip", chip.chip),
        *_said("model SHA-256", chip.model_sha256),
        *_said("written by", chip.version and f"crossbar-sim {chip.version}"),
        ("arrays", str(len(chip.arrays))),
    ]
    with hdf5.reading(Path(path)) as file:
        for array in chip.arrays:
            opened = open_array(file, array.groups)
            lines.append((array.name, _array_in_words(opened)))
            caution = units_caution(
                array.largest(opened.drifted, opened.unit), "the largest conductance, {},"
            )
            lines += _said("warning", caution)
    return [(_plain(key), _plain(value)) for key, value in lines]


def hardware_in_words(hardware: Design) -> str:
    """One line: the mapping with its window in µS, every effect that is not ideal, then what each pattern changes."""
    if isinstance(hardware, LayerDesigns):
        layers = (f"layers {pattern}: {words}" for pattern, words in hardware.in_words())
        return "; ".join([hardware_in_words(hardware.base), *layers])
    mapping = hardware.mapping
    words = [f"{mapping.kind}, {mapping.g_min * 1e6:.4g} to {mapping.g_max * 1e6:.4g} µS"]
    words += [f"{mapping.levels} levels"] if mapping.levels is not None else []
    words += [f"{mapping.copies} copies"] if mapping.copies > 1 else []
    words += ["a scale per column"] if mapping.scale_per == "column" else []
    words += [f"clipped at percentile {mapping.clip:g}"] if mapping.clip is not None else []
    words += [f"{mapping.cell_bits} bits a cell"] if mapping.cell_bits is not None else []
    words += ["two's complement"] if getattr(mapping, "encoding", None) is not None else []
    for effect in ("programming", "stuck", "drift", "wires", "dac", "read_noise", "adc"):
        part = to_dict(hardware).get(effect)
        if part is not None:
            values = ", ".join(f"{key} {value}" for key, value in part.items() if key != "kind")
            per = f" per {hardware.drift_per}" if effect == "drift" else ""
            words.append(f"{effect} {part['kind']} ({values}){per}")
    words += [f"{what} {getattr(hardware, what)}" for what in ("bias", "normalisation", "other")]
    return "; ".join(words)


def _array_in_words(opened: OpenArray) -> str:
    planes, rows, cols = opened.array.shape
    words = f"{planes} x {rows} x {cols}"
    spread = _spread(opened)
    if spread is not None:
        low, middle, high = (f"{1e6 * g:.4g}" for g in spread)
        words += f", {low} / {middle} / {high} µS (min / median / max)"
    if opened.faults is None:
        return words
    off, on = _faults(opened.faults)
    return f"{words}, {off + on} stuck cells" + (f" ({off} off, {on} on)" if off + on else "")


def _spread(opened: OpenArray) -> tuple[float, float, float] | None:
    """Least, median and greatest drifted conductance in S; None without cells."""
    dataset = opened.drifted
    step = max(1, dataset.size // _SAMPLE)
    low, high, sample = np.inf, -np.inf, []
    for rows, cols in blocks(dataset, dataset.shape[2]):
        g = conductances(dataset, opened.unit, rows, cols)
        low, high = min(low, float(g.min())), max(high, float(g.max()))
        sample.append(g.reshape(-1)[::step].copy())
    return (low, float(np.median(np.concatenate(sample))), high) if sample else None


def _faults(dataset: h5py.Dataset) -> tuple[int, int]:
    """Cells stuck off and stuck on."""
    if not dataset.id.get_storage_size() and not dataset.fillvalue:
        return 0, 0  # never written: no faults
    counts = np.zeros(256, np.int64)
    for rows, cols in blocks(dataset, dataset.shape[2]):
        counts += np.bincount(read(dataset, rows, cols).reshape(-1), minlength=256)
    if counts[3:].any():
        raise InputError(
            f"{FAULTS} holds codes above 2: 0 is a healthy cell, 1 one stuck off, 2 one stuck on"
        )
    return int(counts[1]), int(counts[2])


def _said(key: str, value: object) -> list[tuple[str, str]]:
    return [] if value is None else [(key, str(value))]


def _plain(text: str) -> str:
    """On one line and without control characters, which a hostile file could send to a terminal."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in text)
    return clean if len(clean) <= 1000 else f"{clean[:997]}..."
