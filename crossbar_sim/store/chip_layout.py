"""The layout of a chip file: groups, attributes, and one stored array."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from urllib.parse import unquote

import h5py
import numpy as np

from crossbar_sim.crossbar.array import read_weight
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.mapping import ALL_MAPPINGS, Mapping
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.errors import InputError
from crossbar_sim.store.hdf5 import read
from crossbar_sim.validate import show

# The layout of a chip file: names of groups and datasets, and how arrays are cut into chunks.
#
# docs/format.md is the specification; this is the one place that knows its names.


FORMAT = "crossbar-sim chip"
FORMAT_VERSION = 1

LAYERS = "layers"
LAYER_HARDWARE = "layer_hardware"
"""The design of an array's layer, as JSON: an attribute of arrays in files with a design per layer."""

TARGET, PROGRAMMED, DRIFTED, FAULTS = "g_target", "g_programmed", "g_drifted", "faults"
STAGES = (TARGET, PROGRAMMED, DRIFTED)
WORD_LINES, BIT_LINES = "word_lines", "bit_lines"
"""Where the weights of a remapped matrix lie: see docs/format.md."""

CELLS = 1 << 20
"""Cells that are computed or read at a time: 4 MiB per stage."""

_CHUNK = 1 << 16
_RESERVED = frozenset((*STAGES, FAULTS, WORD_LINES, BIT_LINES))


def group_of(name: str) -> tuple[str, ...]:
    """The groups, below /layers, of the array of the parameter called `name` in the model.

    >>> group_of("encoder.fc1.weight"), group_of("lstm.weight_ih_l0"), group_of("scale")
    (('encoder.fc1',), ('lstm', 'weight_ih_l0'), ('scale',))
    """
    module, _, parameter = name.rpartition(".")
    if not module:
        return (_escape(parameter),)
    if parameter == "weight":
        return (_escape(module),)
    # A parameter may be called like a dataset of the module's own array.
    if parameter in _RESERVED:
        return _escape(module), f"%{ord(parameter[0]):02X}{parameter[1:]}"
    return _escape(module), _escape(parameter)


def name_of(groups: tuple[str, ...]) -> str:
    """The likeliest parameter of an array that does not say it.

    One group may also be a parameter of the model itself, so arrays are looked up with `group_of`.
    """
    parts = [unquote(part) for part in groups]
    return f"{parts[0]}.weight" if len(parts) == 1 else ".".join(parts)


def path_of(groups: tuple[str, ...]) -> str:
    """The same as a path in the file."""
    return "/".join(("", LAYERS, *groups))


def chunk_shape(rows: int, cols: int) -> tuple[int, int]:
    """Rows and columns of a chunk of a plane: about 256 KiB, all of one size, none much beyond the edge.

    A chunk has so few columns that whole columns of it stay within `CELLS`: cells are simulated bit
    line by bit line, and every chunk is to be compressed once.
    """
    wide = min(cols, max(256, _CHUNK // rows), max(1, CELLS // rows))
    high = min(rows, max(1, _CHUNK // wide))
    return _even(rows, high), _even(cols, wide)


def runs(rows: int, cols: int) -> Iterator[tuple[slice, slice]]:
    """A plane cut into (rows, columns) of at most `CELLS` cells, whole chunks each.

    Bit line by bit line, every piece is one run of cells: it has all rows, or it is in one column.
    """
    high, wide = chunk_shape(rows, cols)
    if rows <= CELLS:
        step = wide * max(1, CELLS // (rows * wide))
        for first in range(0, cols, step):
            yield slice(0, rows), slice(first, min(first + step, cols))
        return
    step = high * max(1, CELLS // high)
    for column in range(cols):
        for first in range(0, rows, step):
            yield slice(first, min(first + step, rows)), slice(column, column + 1)


def _even(length: int, most: int) -> int:
    """`length` in the fewest equal parts of at most `most`."""
    return math.ceil(length / math.ceil(length / most))


def _escape(part: str) -> str:
    """A name as one link: HDF5 reads "/" as the next group and "." as this one; NUL ends a name."""
    escaped = part.replace("%", "%25").replace("/", "%2F").replace("\0", "%00")
    return "%2E" if escaped == "." else escaped


# Reading conductances a few megabytes at a time, and refusing values that are not conductances.


def conductances(dataset: h5py.Dataset, unit: float, high: slice, wide: slice) -> Float32:
    """The planes of some rows and columns, in S.

    Args:
        dataset: (planes, rows, physical columns).
        unit: what one unit of it is in S.
        high, wide: the rows and columns.

    Raises:
        InputError: if a value is NaN, infinite or negative.
    """
    stored = read(dataset, high, wide)
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which is refused below
        exact = stored if unit == 1.0 else stored.astype(np.float64) * unit
        g = np.ascontiguousarray(exact, np.float32)
    if g.size and not (g.min() >= 0 and np.isfinite(g.max())):
        bad = int(np.count_nonzero(~np.isfinite(g)))
        what = f"{bad} NaN or infinite values" if bad else f"negative values such as {g.min():.3g} S"
        raise InputError(
            f"{show(dataset.name)} holds {what}: a conductance is finite and at least 0; write 0 for "
            "an open cell"
        )
    return g


def blocks(dataset: h5py.Dataset, cols: int) -> Iterator[tuple[slice, slice]]:
    """The first `cols` columns in pieces (rows, columns): whole chunks where they are not too large.

    All planes of a piece together have at most `4 CELLS` cells (16 MiB), or one row of a chunk.
    """
    planes, rows, _ = dataset.shape
    if not planes * rows * cols:
        return
    _, high, wide = dataset.chunks or (1, 1, cols)
    area = max(1, 4 * CELLS // planes)
    wide = min(wide, cols) * max(1, area // (min(wide, cols) * high))
    wide = min(wide, cols)
    high = high * max(1, area // (wide * high)) if wide * high <= area else max(1, area // wide)
    for top in range(0, rows, high):
        for left in range(0, cols, wide):
            yield slice(top, min(top + high, rows)), slice(left, min(left + wide, cols))


# One array of a chip file: what it is, and the weights that its planes stand for.


MAPPINGS = {cls.kind: cls for cls in ALL_MAPPINGS}
"""The mappings by the name that a file gives them."""


@dataclass(frozen=True, eq=False)
class StoredArray:
    """What a file says of one array; the planes stay in the file.

    Args:
        name: the parameter in the model, or the likeliest one if the file does not say.
        groups: where it lies below /layers.
        shape: (planes, rows, physical columns).
        stages: which of g_target, g_programmed and g_drifted are there; g_drifted always is.
        kind: of the mapping, if the file says it.
        window: (g_min, g_max) in S, if the file says it.
        copies: parallel cells per weight, if the file says it.
        levels, cell_bits: of a weight's code and of the cells that it is sliced over, if the file says them.
        blocks: blocks of columns that have tiles of their own (groups of a convolution); 1 if the file does not say.
        scale: S per weight unit, (1,) or (cols,), if the file says it.
        hardware: the design of its layer, in a file with a design per layer.
    """

    name: str
    groups: tuple[str, ...]
    shape: tuple[int, int, int]
    stages: tuple[str, ...]
    kind: str | None
    window: tuple[float, float] | None
    copies: int | None
    scale: Float32 | None
    levels: int | None = None
    cell_bits: int | None = None
    blocks: int = 1
    hardware: Hardware | None = None

    @property
    def path(self) -> str:
        """Its path in the file."""
        return path_of(self.groups)

    def mapping(self, hardware: Hardware | None) -> Mapping:
        """How the planes read back: the file's word, else the hardware's if it fits, else by their number.

        Raises:
            InputError: if none of them explains the planes.
        """
        planes = self.shape[0]
        given = hardware.mapping if hardware is not None else None
        kind = self.kind
        if kind is None and given is not None and given.planes == planes:
            kind = given.kind
        if kind is None:
            kind = {1: "offset", 2: "differential"}.get(planes)
        if kind is None or planes % MAPPINGS[kind].planes_per_copy:
            raise InputError(
                f"{self.path} has {planes} planes{f' of mapping {kind}' if self.kind else ''}: "
                "two are a differential pair, one is read against a reference column; for parallel "
                "copies give the attributes mapping and copies, or hardware with them"
            )
        base = given if given is not None and given.kind == kind else MAPPINGS[kind]()
        if self.cell_bits is not None:
            base = replace(base, levels=self.levels, cell_bits=self.cell_bits)
        elif base.cell_bits is not None and planes != base.planes:
            base = replace(base, cell_bits=None)  # sliced by the hardware, but not in this file
        copies, left = divmod(planes, base.planes_per_weight)
        if left or self.copies not in (None, copies):
            sliced = f" of {base.slices} slices" if base.slices > 1 else ""
            raise InputError(
                f"{self.path} has {planes} planes, which are not {self.copies or 'whole'} copies{sliced}"
            )
        window = self.window
        if window is None:
            window = (base.g_min, base.g_max) if given is None else (given.g_min, given.g_max)
        return replace(base, copies=copies, g_min=window[0], g_max=window[1])

    def _why(self, *needed: int) -> str:
        if self.shape[::-1] == needed:  # MATLAB writes the dimensions of its arrays backwards
            return "its dimensions are in reverse order; from MATLAB, write permute(g, [3 2 1])"
        return "is it the chip of another model or other hardware?"

    def weights(
        self, dataset: h5py.Dataset, unit: float, columns: Float32, hardware: Hardware | None
    ) -> Float32:
        """The matrix (cols, rows) that the drifted planes stand for, read a few megabytes at a time.

        Args:
            dataset, unit: as `open_conductances` gives them.
            columns: the clean matrix (cols, rows), for the shape and, without a scale in the file, for it.
            hardware: what the file does not say.

        Raises:
            InputError: if the planes do not fit the matrix, hold values that are not conductances, or neither the
                file nor the hardware gives the scale.
        """
        mapping, scale = self._fitting(columns, hardware)
        cols, rows = columns.shape
        physical = self.shape[2]
        out = np.empty((cols, rows), np.float32)
        for high, wide in blocks(dataset, cols):
            planes = conductances(dataset, unit, high, wide)
            if physical > cols:
                reference = conductances(dataset, unit, high, slice(cols, physical))
                planes = np.concatenate([planes, reference], axis=2)
            part = scale if scale.size == 1 else scale[wide]
            out[wide, high] = read_weight(planes, mapping, part).T
        return out

    def planes(
        self, dataset: h5py.Dataset, unit: float, columns: Float32, hardware: Hardware | None
    ) -> tuple[Float32, Mapping, Float32]:
        """The drifted planes (planes, physical columns, rows) in S, how they read back, and their scale.

        Args and Raises: as `weights`.
        """
        mapping, scale = self._fitting(columns, hardware)
        planes, rows, physical = self.shape
        out = np.empty((planes, physical, rows), np.float32)
        for high, wide in blocks(dataset, physical):
            out[:, wide, high] = conductances(dataset, unit, high, wide).transpose(0, 2, 1)
        return out, mapping, scale

    def largest(self, dataset: h5py.Dataset, unit: float) -> float:
        """The largest conductance in S of a sample of the cells: a wrong unit shows in any."""
        for high, wide in blocks(dataset, self.shape[2]):
            return float(conductances(dataset, unit, high, wide).max())
        return 0.0

    def _fitting(self, columns: Float32, hardware: Hardware | None) -> tuple[Mapping, Float32]:
        """How the planes read back, and the scale, if they fit the matrix (cols, rows)."""
        mapping = self.mapping(hardware)
        cols, rows = columns.shape
        physical = cols + (mapping.planes_per_copy == 1)
        if self.shape != (mapping.planes, rows, physical):
            last = " (the last is the reference column)" if physical > cols else ""
            raise InputError(
                f"{self.path} has shape {self.shape} and {self.name} of the model needs "
                f"{(mapping.planes, rows, physical)}, planes, rows and columns{last} of mapping "
                f"{mapping.kind}: {self._why(mapping.planes, rows, physical)}"
            )
        scale = self.scale
        if scale is None:
            if hardware is None and self.window is None:
                raise InputError(
                    f"{self.path} has no attribute scale (S per weight unit): add it, or give the "
                    "hardware whose conductance window the weights were mapped to"
                )
            scale = mapping.scale(columns)
        elif scale.size not in (1, cols):
            raise InputError(f"{self.path}: {scale.size} scales for {cols} columns: expected 1 or {cols}")
        return mapping, scale
