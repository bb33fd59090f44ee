"""A chip file that was read: what it says, and its conductances in place of simulated ones."""

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from crossbar_sim.crossbar.array import read_weight
from crossbar_sim.crossbar.checks import UnitWarning, show, units_caution
from crossbar_sim.crossbar.config import from_json
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.mapping import Mapping
from crossbar_sim.crossbar.planes import through_wires
from crossbar_sim.crossbar.remapping import Remapping
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.errors import InputError
from crossbar_sim.nn.design import CellMaps, Cells, Design
from crossbar_sim.rng import Key
from crossbar_sim.store import guard
from crossbar_sim.store.chunks import read
from crossbar_sim.store.contents import Opened, open_array, open_arrays
from crossbar_sim.store.layout import BIT_LINES, FORMAT, FORMAT_VERSION, WORD_LINES, group_of, path_of
from crossbar_sim.store.stored_array import StoredArray


@dataclass(frozen=True)
class ChipFile:
    """What a chip file says; the conductances are read from it when they are needed.

    Everything but `path` and `arrays` is None where the file does not say it, as a lab's own may not.

    Args:
        path: the file.
        arrays: what it holds, in its order.
        format_version: of docs/format.md.
        hardware, seed, chip: the simulated design and the sample of it.
        model_sha256: of the model's file.
        version: of the crossbar-sim that wrote it.
        stream_version: of its random numbers.
    """

    path: Path
    arrays: tuple[StoredArray, ...]
    format_version: int | None = None
    hardware: Hardware | None = None
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

    def maps(self, hardware: Hardware | None = None) -> "FileMaps":
        """The file's conductances for `Design.set_maps`.

        Args:
            hardware: for what the file leaves open: its mapping's kind, window and scale, its wires. A file that
                crossbar-sim wrote leaves nothing open.

        Returns:
            (name of an array, its clean matrix (cols, rows)) -> the matrix (cols, rows) that the drifted
            planes stand for, through the wires of the design, or None for an array that the file lacks. It raises
            InputError if the planes do not fit the matrix, hold what is no conductance, or the file is damaged.
        """
        return FileMaps(self, hardware)

    def without_scale(self) -> tuple[str, ...]:
        """Arrays whose scale is computed from the clean weights and an assumed window: the file says neither."""
        said = self.hardware is not None
        return tuple(a.name for a in self.arrays if not said and a.scale is None and a.window is None)


class FileMaps(CellMaps):
    """The conductances of a chip file in place of simulated ones; see `ChipFile.maps`.

    Args:
        chip: the file.
        hardware: for what it leaves open.
    """

    def __init__(self, chip: ChipFile, hardware: Hardware | None = None) -> None:
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
        with guard.reading(self.chip.path) as file:
            opened = open_array(file, group_of(name))
            array = opened.array
            wires = None if self.assumed is None else self.assumed.wires
            if wires is None and opened.placement is None:
                found = array.weights(opened.drifted, opened.unit, columns, self.assumed)
                largest = array.largest(opened.drifted, opened.unit)
            else:
                cells, largest = self._cells(opened, columns, self.assumed, groups or array.blocks)
                found = np.ascontiguousarray(read_weight(cells[0].transpose(0, 2, 1), *cells[1:]).T)
        self._look_at(name, largest)
        return found

    def array(self, name: str, columns: Float32, groups: int, design: Design) -> Cells:
        """See `CellMaps`. Noise and mismatch are named as in the simulation that the file says it is from."""
        with guard.reading(self.chip.path) as file:
            opened = open_array(file, group_of(name))
            hardware = self.assumed if self.assumed is not None else design.hardware
            cells, largest = self._cells(opened, columns, hardware, groups)
        self._look_at(name, largest)
        key = design.key(name) if self.chip.seed is None else Key(self.chip.seed).fold(name)
        number = design.chip if self.chip.chip is None else self.chip.chip
        return Cells(*cells, hardware.tile[0], key, number)

    def _cells(
        self, opened: Opened, columns: Float32, hardware: Hardware | None, groups: int
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
        """Warn of conductances that no cell has, once."""
        sentence = units_caution(largest, f"{self.chip.path}, {name}: the largest conductance, {{}},")
        if sentence is not None and sentence not in self.cautions:
            self.cautions = (*self.cautions, sentence)
            warnings.warn(sentence, UnitWarning, stacklevel=2)


def placement(opened: Opened, size: tuple[int, ...], mapping: Mapping, together: bool) -> Remapping:
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
    with guard.reading(path) as file:
        _check_format(file)
        hardware = guard.text(file, "hardware")
        return ChipFile(
            path,
            tuple(opened.array for opened in open_arrays(file)),
            guard.whole(file, "format_version", 1, FORMAT_VERSION),
            None if hardware is None else from_json(hardware, "the attribute hardware"),
            guard.whole(file, "seed", 0, 2**64 - 1),
            guard.whole(file, "chip", 0, 2**32 - 1),
            guard.text(file, "model_sha256"),
            guard.text(file, "version"),
            guard.whole(file, "stream_version", 0, 2**32 - 1),
        )


def _check_format(file: h5py.File) -> None:
    """A file may leave format out; one that names another, or a newer version, is another's."""
    found = guard.text(file, "format")
    if found not in (None, FORMAT):
        raise InputError(f"is of format {show(found)} and no chip file ({FORMAT!r})")
    version = guard.whole(file, "format_version", 1, 2**32 - 1)
    if version is not None and version > FORMAT_VERSION:
        raise InputError(
            f"has format_version {version} and this crossbar-sim reads up to {FORMAT_VERSION}: update "
            "crossbar-sim"
        )
    if found is not None and version is None:
        raise InputError("has no format_version: it is damaged; export or copy it again")
