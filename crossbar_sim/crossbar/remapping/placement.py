"""Where the weights of one matrix lie, there and back."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.crossbar.mapping import Mapping
from crossbar_sim.crossbar.stream import Float32

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Remapping:
    """Where the weights of one matrix lie on one chip.

    Args:
        rows: the logical row on each word line, (rows,); permuted within each row of tiles.
        columns: the logical column on each bit line, for each row of tiles, (tile rows, cols).
        signs: -1 where the pair is turned, (tile rows, cols).
        height: word lines of a tile.
        before, after: relative error of the weights by stuck cells alone, |W' - W| / |W| (Frobenius), as the matrix
            lies without remapping, and with it.
    """

    rows: Index
    columns: Index
    signs: NDArray[np.int8]
    height: int
    before: float
    after: float

    def place(self, w: Float32) -> Float32:
        """The matrix (rows, cols) as it is programmed: what lies on each word and bit line."""
        out = np.empty_like(w)
        for block, part in self._blocks():
            out[part] = w[self.rows[part]][:, self.columns[block]] * self.signs[block]
        return out

    def restore(self, placed: Float32) -> Float32:
        """The inverse of `place`, exactly: no arithmetic but signs."""
        out = np.empty_like(placed)
        for block, part in self._blocks():
            out[self.rows[part][:, None], self.columns[block]] = placed[part] * self.signs[block]
        return out

    def restore_planes(self, planes: Float32, mapping: Mapping) -> Float32:
        """Planes (planes, rows, physical columns) of the placed matrix as those of the logical one.

        The planes of a turned pair swap.
        """
        out = planes.copy()
        per, cols = mapping.planes_per_copy, self.columns.shape[1]
        for block, part in self._blocks():
            rows, columns = self.rows[part][:, None], self.columns[block]
            for plane in range(len(planes)):
                other = planes[plane ^ 1] if per == 2 else planes[plane]
                cells = np.where(self.signs[block] < 0, other[part, :cols], planes[plane, part, :cols])
                out[plane][rows, columns] = cells
            if per == 1:  # the reference column moves with its word lines
                out[:, self.rows[part], cols] = planes[:, part, cols]
        return out

    def _blocks(self) -> list[tuple[int, slice]]:
        n = self.rows.size
        return [(b, slice(b * self.height, min((b + 1) * self.height, n))) for b in range(len(self.columns))]
