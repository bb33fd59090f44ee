"""The search: costs of placements of one matrix on one chip, and the alternation that lowers them."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.mapping import Mapping
from crossbar_sim.crossbar.remapping import kernels
from crossbar_sim.crossbar.remapping.placement import Index, Remapping
from crossbar_sim.crossbar.stream import Float32, Stream
from crossbar_sim.rng import Key

ROUNDS = 8
MOST_STARTS, ENOUGH = 8, 65_536
"""Orders to begin with: as many as fit into this many weights, the first being the matrix as it is."""

Faults = NDArray[np.uint8]


class Problem:
    """One matrix on one chip.

    Args:
        columns: the transposed matrix (cols, rows), C-contiguous.
        faults: fault codes, (planes, physical columns, rows), C-contiguous.
        hardware, groups: as for `remap`.
    """

    def __init__(self, columns: Float32, faults: Faults, hardware: Hardware, groups: int) -> None:
        mapping = hardware.mapping
        cols, rows = columns.shape
        self.height, wide = hardware.tile
        self.size = rows, cols
        scale = mapping.scale(columns)
        self.unit = np.broadcast_to(mapping.inverse(scale).astype(np.float64), (cols,)).copy()
        self.norm = float(np.linalg.norm(columns.astype(np.float64)))
        self.target = _targets(mapping, columns, scale)
        self.pairs = mapping.planes_per_copy == 2
        self.turned = _targets(mapping, -columns, scale) if self.pairs else self.target
        self.counts = np.array(
            [mapping.weight_of(p) * (-1.0 if self.pairs and p % 2 else 1.0) for p in range(mapping.planes)]
        )
        self.stuck = np.array([0.0, mapping.g_min, mapping.g_max])
        self.faults = np.ascontiguousarray(faults[:, :cols])
        self.off = np.zeros(rows)
        if not self.pairs:
            middle = _targets(mapping, np.zeros((1, 1), np.float32), np.ones(1, np.float32))[:, 0, 0]
            codes = faults[:, cols]
            self.off -= (
                self.counts[:, None] * np.where(codes > 0, self.stuck[codes] - middle[:, None], 0)
            ).sum(axis=0)
        block = cols if not self.pairs else max(cols // max(groups, 1), 1)
        self.tiles = [
            slice(left, min(left + wide, first + block))
            for first in range(0, cols, block)
            for left in range(first, first + block, wide)
        ]
        self.parts = [slice(top, min(top + self.height, rows)) for top in range(0, rows, self.height)]
        # One scale per column goes with the whole bit line: then its tiles must hold the same columns.
        self.together = scale.size > 1

    def solve(self) -> Remapping:
        """The best placement found: never worse than the matrix as it lies."""
        rows, cols = self.size
        self._begin(np.arange(rows))
        before = self._error()
        norm = self.norm or 1.0
        best: Remapping | None = None
        starts = min(max(ENOUGH // max(rows * cols, 1), 1), MOST_STARTS) if before > 0 else 1
        for start in range(starts):
            if start > 0:
                self._begin(self._shuffled(start))
            error = self._alternate(before if start == 0 else np.inf)
            if best is None or np.sqrt(error) / norm < best.after:
                best = Remapping(
                    self.rows, self.columns, self.signs, self.height,
                    float(np.sqrt(before)) / norm, float(np.sqrt(error)) / norm,
                )  # fmt: skip
        assert best is not None
        return best

    def _begin(self, rows: Index) -> None:
        cols = self.size[1]
        self.rows = rows
        self.columns = np.tile(np.arange(cols), (len(self.parts), 1))
        self.signs = np.ones((len(self.parts), cols), np.int8)

    def _shuffled(self, start: int) -> Index:
        """Another order of the rows within each row of tiles: always the same one for the same start."""
        words = Stream.of(Key(0).fold("remap", f"start {start}"), 0).words(self.size[0])
        return np.concatenate([part.start + np.argsort(words[part]) for part in self.parts])

    def _alternate(self, error: float) -> float:
        """Columns, rows, columns, ... until neither helps; the squared error that is left."""
        for _ in range(ROUNDS if error > 0 else 0):
            self._improve_columns()
            last, error = error, self._improve_rows()
            if error > last * (1 - 1e-4):
                break
        return error

    def _improve_columns(self) -> None:
        groups = [range(len(self.parts))] if self.together else [[b] for b in range(len(self.parts))]
        for tile in self.tiles:
            for blocks in groups:
                self._assign_columns(tile, blocks)

    def _assign_columns(self, tile: slice, blocks: "range | list[int]") -> None:
        width = tile.stop - tile.start
        cost = np.zeros((2 if self.pairs else 1, width, width))
        for b in blocks:
            words = np.arange(self.parts[b].start, self.parts[b].stop)
            kernels.column_costs(
                self.target, self.turned, self.faults, self.off, self.stuck, self.counts, self.unit,
                tile.start, self.rows[self.parts[b]], words, cost,
            )  # fmt: skip
        flat, turn = cost.min(axis=0), cost.argmin(axis=0)
        column, bit = linear_sum_assignment(flat)
        for b in blocks:
            now = self.columns[b, tile] - tile.start
            sign = (self.signs[b, tile] < 0).astype(np.intp)
            if flat[column, bit].sum() >= cost[sign, now, np.arange(width)].sum():
                return  # as good as it is: nothing moves without a gain
        for b in blocks:
            self.columns[b, tile.start + bit] = tile.start + column
            self.signs[b, tile.start + bit] = np.where(turn[column, bit] == 1, -1, 1)

    def _improve_rows(self) -> float:
        """Returns the squared error that is left."""
        error = 0.0
        for b, part in enumerate(self.parts):
            cost = self._row_costs(b)
            row, word = linear_sum_assignment(cost)
            best = float(cost[row, word].sum())
            now = float(cost[self.rows[part] - part.start, np.arange(len(cost))].sum())
            if best < now:
                self.rows[part.start + word] = part.start + row
            error += min(best, now)
        return error

    def _row_costs(self, b: int) -> NDArray[np.float64]:
        height = self.parts[b].stop - self.parts[b].start
        cost = np.zeros((height, height))
        kernels.row_costs(
            self.target, self.turned, self.faults, self.off, self.stuck, self.counts, self.unit,
            self.columns[b], self.signs[b], self.parts[b].start, cost,
        )  # fmt: skip
        return cost

    def _error(self) -> float:
        """The squared error of the present placement."""
        return float(
            sum(
                self._row_costs(b)[self.rows[part] - part.start, np.arange(part.stop - part.start)].sum()
                for b, part in enumerate(self.parts)
            )
        )


def _targets(mapping: Mapping, columns: Float32, scale: Float32) -> Float32:
    """Target conductances of every plane, (planes, cols, rows) in S."""
    w = np.ascontiguousarray(columns)
    out = np.empty((mapping.planes, *w.shape), np.float32)
    for plane in range(mapping.planes):
        mapping.target(w.reshape(-1), scale, w.shape[1], 0, plane, out[plane].reshape(-1))
    return out
