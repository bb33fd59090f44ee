"""`Array`: one weight matrix programmed on one chip, as planes of conductances."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.crossbar import kernels, threads
from crossbar_sim.crossbar.mapping import Mapping
from crossbar_sim.crossbar.readout import Periphery, Readout
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key

if TYPE_CHECKING:
    from crossbar_sim.crossbar.hardware import Hardware


# Whole planes of an array: every stage of every cell, and effective conductances with wires, tile by tile.


class Stages(NamedTuple):
    """Cells after each stage: float32 in S, and uint8 fault codes; a run (n,) or whole planes."""

    target: Float32
    programmed: Float32
    drifted: Float32
    faults: NDArray[np.uint8]


def all_stages(hardware: "Hardware", columns: Float32, scale: Float32, key: Key, chip: int) -> Stages:
    """Every plane of the array of `columns` (cols, rows): (planes, physical columns, rows), bit line by bit line."""
    cols, rows = columns.shape
    mapping = hardware.mapping
    shape = (mapping.planes, cols + (mapping.planes_per_copy == 1), rows)
    target, programmed, drifted = (np.empty(shape, np.float32) for _ in range(3))
    whole = Stages(target, programmed, drifted, np.empty(shape, np.uint8))

    def chunk(item: tuple[int, slice]) -> None:
        plane, part = item
        pieces = hardware.stages(columns, scale, key, chip, plane, part)
        both: Any = zip(whole, pieces, strict=True)
        for array, piece in both:
            array[plane].reshape(-1)[part] = piece

    parts = threads.chunks(shape[1] * rows)
    threads.run(chunk, [(p, part) for p in range(shape[0]) for part in parts])
    return whole


def through_wires(hardware: "Hardware", drifted: Float32, groups: int) -> Float32:
    """The effective conductances of every tile of `drifted` (planes, physical columns, rows); the same shape.

    Args:
        hardware: with wires.
        groups: blocks of columns that have tiles of their own. With a reference column, which they share, they
            lie side by side on the same word lines.
    """
    wires: Any = hardware.wires
    planes, physical, rows = drifted.shape
    block = physical if hardware.mapping.planes_per_copy == 1 else physical // groups
    high, wide = hardware.tile
    out = np.empty_like(drifted)
    tiles = [
        (plane, slice(left, min(left + wide, first + block)), slice(top, min(top + high, rows)))
        for plane in range(planes)
        for first in range(0, physical, block or 1)
        for left in range(first, first + block, wide)
        for top in range(0, rows, high)
    ]

    solved = wires.effective_planes([drifted[tile].T for tile in tiles])  # side by side on all threads
    for tile, g in zip(tiles, solved, strict=True):
        out[tile] = g.T
    return out


def multiplying(
    hardware: "Hardware", columns: Float32, scale: Float32, key: Key, chip: int, groups: int = 1
) -> Float32:
    """The conductances of the products (planes, physical columns, rows) in S: after drift and, if any, wires."""
    drifted = all_stages(hardware, columns, scale, key, chip).drifted
    return drifted if hardware.wires is None else through_wires(hardware, drifted, groups)


@dataclass(frozen=True)
class Geometry:
    """Number of cells and tiles of a weight matrix.

    Args:
        rows, cols: of the weight matrix; for a grouped layer, of one group.
        groups: independent blocks (groups of a convolution): each on tiles of its own; or, where they share a
            reference column, side by side on the same word lines, driven and read one group after the other.
        planes: planes of the mapping.
        reference: whether each plane carries a reference column.
        tile: (rows, cols) of a tile.
    """

    rows: int
    cols: int
    groups: int
    planes: int
    reference: bool
    tile: tuple[int, int]

    @property
    def cells(self) -> int:
        """Cells in use, reference columns included."""
        return self.planes * self.rows * (self.groups * self.cols + self.reference)

    @property
    def tiles(self) -> int:
        """Tiles needed, planes (and groups without a reference column) on separate ones."""
        high = math.ceil(self.rows / self.tile[0])
        if self.reference:
            return self.planes * high * math.ceil((self.groups * self.cols + 1) / self.tile[1])
        return self.groups * self.planes * high * math.ceil(self.cols / self.tile[1])

    @property
    def utilisation(self) -> float:
        """Cells in use as a fraction of the tiles' cells."""
        return self.cells / (self.tiles * self.tile[0] * self.tile[1]) if self.tiles else 0.0


@dataclass(frozen=True, eq=False)
class Array:
    """The conductances of one weight matrix on one chip.

    Args:
        target: after mapping and levels, in S, shape (planes, rows, cols); with a reference column
            (`Offset`) the planes are (rows, cols + 1).
        programmed: after programming noise and stuck cells, same shape.
        drifted: after drift, same shape: the planes that multiply.
        faults: uint8, same shape: 0 healthy, 1 stuck off, 2 stuck on.
        mapping: how they read back as weights.
        scale: S per weight unit, (1,) or (cols,).
        tile: (rows, cols) of a tile.
        effective: what wires make of the drifted planes, same shape; None without wires.
        periphery: converters and read noise around the array; None: a linear read-out.
    """

    target: Float32
    programmed: Float32
    drifted: Float32
    faults: NDArray[np.uint8]
    mapping: Mapping
    scale: Float32
    tile: tuple[int, int]
    effective: Float32 | None = None
    periphery: Periphery | None = None

    @property
    def multiplying(self) -> Float32:
        """The planes used in products: the effective conductances where there are wires."""
        return self.drifted if self.effective is None else self.effective

    @property
    def rows(self) -> int:
        """Word lines (inputs)."""
        return int(self.drifted.shape[1])

    @property
    def cols(self) -> int:
        """Bit lines (outputs), reference column not counted."""
        return int(self.drifted.shape[2]) - int(self.mapping.planes_per_copy == 1)

    @property
    def weight(self) -> Float32:
        """Eq. (5): the weights that the planes stand for, read without converters, shape (rows, cols)."""
        return read_weight(self.multiplying, self.mapping, self.scale)

    def currents(self, v: Float32) -> Float32:
        """Eq. (17): bit-line currents.

        Args:
            v: word-line voltages in V, shape (batch, rows).

        Returns:
            A, shape (planes, batch, physical columns), each summed over tiles.
        """
        v = np.ascontiguousarray(v, np.float32)
        if v.ndim != 2 or v.shape[1] != self.rows:
            raise InputError(
                f"v has shape {v.shape}: expected (batch, {self.rows}), one voltage per word line"
            )
        planes, _, physical = self.multiplying.shape
        out = np.empty((planes, len(v), physical), np.float32)
        scratch = np.empty(physical, np.float32)
        for p in range(planes):
            kernels.tiled_currents(v, self.multiplying[p], self.tile[0], scratch, out[p])
        return out

    def matvec(self, x: Float32, event: int = 0, first: int = 0) -> Float32:
        """The product as the array computes it: currents tile by tile, digital sums, conversion to weight units.

        Args:
            x: inputs, shape (batch, rows) or (rows,); without a DAC one unit of input is one volt.
            event: the number of this read: names its read noise.
            first: the number of the first input vector within the event.

        Returns:
            float32, shape (batch, cols) or (cols,): x @ weight up to float32 rounding where nothing surrounds the
            array, else what its converters make of it (docs/periphery.md).

        Raises:
            InputError: if x has another number of rows, or a converter's range is not calibrated.
        """
        x = np.asarray(x, np.float32)
        if self.periphery is not None:
            batch = np.ascontiguousarray(np.atleast_2d(x))
            if batch.ndim != 2 or batch.shape[1] != self.rows:
                raise InputError(
                    f"x has shape {x.shape}: expected (batch, {self.rows}), one input per word line"
                )
            y = self.readout.product(batch, event, first)
            return y[0] if x.ndim == 1 else y
        i = self.currents(np.atleast_2d(x))
        pairs = self.mapping.planes_per_copy == 2
        sets = i[0::2] - i[1::2] if pairs else i[:, :, :-1] - i[:, :, -1:]
        if self.mapping.weighted:
            weights = np.array(self.mapping.slice_weights * self.mapping.copies, np.float32)
            sets = weights[:, None, None] * sets
        y = sets.sum(axis=0) * self.mapping.inverse(self.scale)
        return y[0] if x.ndim == 1 else y

    @cached_property
    def readout(self) -> Readout:
        """The array with its converters.

        Raises:
            InputError: if it has none.
        """
        if self.periphery is None:
            raise InputError("the design has no dac, adc or read_noise: the array is read linearly")
        return Readout(self.multiplying, self.mapping, self.scale, self.tile[0], self.periphery)


def read_weight(planes: Float32, mapping: Mapping, scale: Float32) -> Float32:
    """Eq. (5): the weights (rows, cols) that planes (planes, rows, physical columns) in S stand for.

    The operations are those of `Hardware.effective_weight`, cell by cell, so the bits are the same.
    """
    flat = [np.ascontiguousarray(plane.T, np.float32) for plane in planes]
    rows = flat[0].shape[1]
    cols = len(flat[0]) - int(mapping.planes_per_copy == 1)
    out = np.empty(rows * cols, np.float32)
    sliced, step = mapping.weighted, mapping.planes_per_copy
    for first in range(0, mapping.planes, step):
        to, fresh = np.empty_like(out) if sliced else out, sliced or first == 0
        if step == 2:
            kernels.add_difference(flat[first].ravel(), flat[first + 1].ravel(), fresh, to)
        else:
            plane = flat[first]
            kernels.add_against_reference(plane[:cols].ravel(), plane[cols], 0, fresh, to)
        if sliced:
            kernels.add_slice(to, np.float32(mapping.weight_of(first)), first == 0, out)
    kernels.unscale(out, mapping.inverse(scale), rows, 0)
    return out.reshape(cols, rows).T
