"""What one weight matrix became on one chip: planes of conductances, ready to multiply."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.crossbar import mapping_kernels as kernels
from crossbar_sim.crossbar.mapping import Mapping
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.errors import InputError


@dataclass(frozen=True)
class Geometry:
    """How many cells and tiles a weight matrix takes.

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
    """

    target: Float32
    programmed: Float32
    drifted: Float32
    faults: NDArray[np.uint8]
    mapping: Mapping
    scale: Float32
    tile: tuple[int, int]

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
        """Eq. (5): the weights that the drifted planes stand for, shape (rows, cols)."""
        return read_weight(self.drifted, self.mapping, self.scale)

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
        planes, _, physical = self.drifted.shape
        out = np.empty((planes, len(v), physical), np.float32)
        scratch = np.empty(physical, np.float32)
        for p in range(planes):
            kernels.tiled_currents(v, self.drifted[p], self.tile[0], scratch, out[p])
        return out

    def matvec(self, x: Float32) -> Float32:
        """The product as the array does it: currents tile by tile, digital sums, back to weight units.

        Args:
            x: inputs, shape (batch, rows) or (rows,); one unit of input is one volt.

        Returns:
            float32, shape (batch, cols) or (cols,): x @ weight up to float32 rounding.

        Raises:
            InputError: if x has another number of rows.
        """
        x = np.asarray(x, np.float32)
        i = self.currents(np.atleast_2d(x))
        if self.mapping.planes_per_copy == 2:
            total = (i[0::2] - i[1::2]).sum(axis=0)
        else:
            total = (i[:, :, :-1] - i[:, :, -1:]).sum(axis=0)
        y = total * self.mapping.inverse(self.scale)
        return y[0] if x.ndim == 1 else y


def read_weight(planes: Float32, mapping: Mapping, scale: Float32) -> Float32:
    """Eq. (5): the weights (rows, cols) that planes (planes, rows, physical columns) in S stand for.

    The operations are those of `Hardware.effective_weight`, cell by cell, so the bits are the same.
    """
    flat = [np.ascontiguousarray(plane.T, np.float32) for plane in planes]
    rows = flat[0].shape[1]
    cols = len(flat[0]) - int(mapping.planes_per_copy == 1)
    out = np.empty(rows * cols, np.float32)
    for copy in range(mapping.copies):
        if mapping.planes_per_copy == 2:
            kernels.add_difference(flat[2 * copy].ravel(), flat[2 * copy + 1].ravel(), copy == 0, out)
        else:
            plane = flat[copy]
            kernels.add_against_reference(plane[:cols].ravel(), plane[cols], 0, copy == 0, out)
    kernels.unscale(out, mapping.inverse(scale), rows, 0)
    return out.reshape(cols, rows).T
