"""Fault-aware mapping: place weights on the cells of a tile so that the chip's stuck cells change them least.

Within a tile the inputs may enter in any order and the outputs be read in any order; the digital part undoes both. A
differential pair may also be turned, so that its column reads -w. Rows are permuted within each row of tiles, columns
(and turns) within each tile. Given the rows, the best columns are an assignment problem, solved exactly (Crouse, IEEE
Trans. Aerosp. Electron. Syst. 52, 1679, 2016: SciPy's `linear_sum_assignment`), and so are the best rows given the
columns; the two alternate until neither helps. No step can be worse than staying, so the error never grows. It ends
in a local optimum; small matrices, where that matters, are begun from several orders of their rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from crossbar_sim.crossbar.array import multiplying
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.mapping import Mapping
from crossbar_sim.crossbar.stream import Float32, Stream
from crossbar_sim.rng import Key
from crossbar_sim.validate import check_weights, require

# Kernels: the squared error of every placement of a tile's columns or rows. No allocation, no exceptions.
#
# Arrays are bit line by bit line: targets (planes, columns, rows) of the weights w and, for the
# turned orientation, of -w, in S; faults (planes, columns, rows), 0 healthy, 1 off, 2 on.


@njit(cache=True, nogil=True)
def deviation(
    target: Any,
    faults: Any,
    stuck: Any,
    counts: Any,
    turned: bool,
    column: int,
    row: int,
    bit: int,
    word: int,
) -> float:
    """The error of weight (column, row) at the cells (bit, word), in S of the summed differences.

    `counts` (planes,) is what a plane's conductance counts for in Eq. (5); `stuck` (3,) that of a fault code.
    """
    total = 0.0
    for plane in range(counts.size):
        code = faults[plane, bit, word]
        if code != 0:
            total += counts[plane] * (stuck[code] - target[plane, column, row])
    return -total if turned else total


@njit(cache=True, nogil=True)
def column_costs(
    target: Any,
    turned: Any,
    faults: Any,
    off: Any,
    stuck: Any,
    counts: Any,
    unit: Any,
    first: int,
    rows: Any,
    words: Any,
    cost: Any,
) -> None:
    """Add to cost[o, column, bit] the squared error of putting logical `column` on `bit`, in weight units.

    Args:
        target, turned: targets of w and of -w, (planes, columns, rows), of the whole matrix.
        faults: of the whole array, reference columns left out.
        off: (rows,) what the reference of each word line adds to every weight of it, in S.
        unit: (columns,) weight units per S.
        first: the tile's first column; its width is that of `cost` (orientations, width, width).
        rows: (words,) the logical row on each word line of the tile.
        words: (words,) those word lines.
    """  # fmt: skip
    width = cost.shape[1]
    for bit in range(width):
        for i in range(words.size):
            word, row = words[i], rows[i]
            healthy = off[word] == 0.0
            for plane in range(counts.size):
                healthy = healthy and faults[plane, first + bit, word] == 0
            if healthy:
                continue
            for column in range(width):
                j = first + column
                error = deviation(target, faults, stuck, counts, False, j, row, first + bit, word) + off[word]
                cost[0, column, bit] += (error * unit[j]) ** 2
                if cost.shape[0] == 2:
                    error = deviation(turned, faults, stuck, counts, True, j, row, first + bit, word)
                    cost[1, column, bit] += (error * unit[j]) ** 2


@njit(cache=True, nogil=True)
def row_costs(
    target: Any,
    turned: Any,
    faults: Any,
    off: Any,
    stuck: Any,
    counts: Any,
    unit: Any,
    columns: Any,
    signs: Any,
    first: int,
    cost: Any,
) -> None:
    """Add to cost[row, word] the squared error of putting logical row `first + row` on word line `first + word`.

    `columns` and `signs` (columns,) say what is on each bit line in these rows.
    """  # fmt: skip
    height = cost.shape[0]
    for bit in range(columns.size):
        j, flipped = columns[bit], signs[bit] < 0
        for word in range(height):
            healthy = off[first + word] == 0.0
            for plane in range(counts.size):
                healthy = healthy and faults[plane, bit, first + word] == 0
            if healthy:
                continue
            for row in range(height):
                source = turned if flipped else target
                error = deviation(source, faults, stuck, counts, flipped, j, first + row, bit, first + word)
                cost[row, word] += ((error + off[first + word]) * unit[j]) ** 2


# Placements of one matrix, and their inverse.


Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Remapping:
    """The placement of one matrix's weights on one chip.

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
        """The matrix (rows, cols) in the order in which it is programmed on word and bit lines."""
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


# The search: costs of placements of one matrix on one chip, and the alternation that lowers them.


ROUNDS = 8
MOST_STARTS, ENOUGH = 8, 65_536
"""Most weights of all starting orders together; the first order is that of the matrix."""

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
        """The best placement found: never worse than the original order."""
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
        """Another order of the rows within each row of tiles, the same for the same `start`."""
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
            column_costs(
                self.target, self.turned, self.faults, self.off, self.stuck, self.counts, self.unit,
                tile.start, self.rows[self.parts[b]], words, cost,
            )  # fmt: skip
        flat, turn = cost.min(axis=0), cost.argmin(axis=0)
        column, bit = linear_sum_assignment(flat)
        for b in blocks:
            now = self.columns[b, tile] - tile.start
            sign = (self.signs[b, tile] < 0).astype(np.intp)
            if flat[column, bit].sum() >= cost[sign, now, np.arange(width)].sum():
                return  # no move without a gain
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
        row_costs(
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


__all__ = ["Remapping", "fault_map", "remap", "remap_chip", "remapped_planes", "remapped_weight"]


def fault_map(hardware: Hardware, rows: int, cols: int, key: Key, chip: int) -> Faults:
    """The stuck cells of an array of that shape on a chip, as a test of the chip would find them.

    Args:
        rows, cols: of the weight matrix.
        key: the array's name, as for `Hardware.program`.

    Returns:
        0 healthy, 1 off, 2 on, shape (planes, rows, physical columns): those of `Array.faults`.
    """
    mapping = hardware.mapping
    physical = cols + (mapping.planes_per_copy == 1)
    out = np.zeros((mapping.planes, physical, rows), np.uint8)
    if hardware.stuck is not None:
        g = np.zeros(physical * rows, np.float32)
        for plane in range(mapping.planes):
            stream = Stream.of(key.fold("stuck"), chip, plane)
            hardware.stuck.cells(g, stream, 0, (0.0, 1.0), np.empty_like(g), out[plane].reshape(-1))
    return out.transpose(0, 2, 1)


def remap(w: Float32, faults: Faults, hardware: Hardware, groups: int = 1) -> Remapping:
    """Find where to put the weights so that stuck cells change them least.

    Args:
        w: weights, (rows, cols).
        faults: fault codes, (planes, rows, physical columns), as `Array.faults` has them.
        hardware: the design: mapping, levels and tile.
        groups: blocks of columns that have tiles of their own (a grouped convolution's).

    Raises:
        InputError: if the shapes do not go together, or w holds NaN or infinite values.
    """
    w = np.asarray(w, np.float32)
    require(w.ndim == 2, f"w has shape {w.shape}: expected a matrix (rows, cols)")
    check_weights(w)
    mapping, (rows, cols) = hardware.mapping, w.shape
    expected = (mapping.planes, rows, cols + (mapping.planes_per_copy == 1))
    require(
        faults.shape == expected,
        f"faults has shape {faults.shape}: expected {expected}, (planes, rows, physical columns) of this mapping",
    )
    problem = Problem(
        np.ascontiguousarray(w.T), np.ascontiguousarray(faults.transpose(0, 2, 1)), hardware, groups
    )
    return problem.solve()


def remapped_weight(hardware: Hardware, columns: Float32, key: Key, chip: int, groups: int = 1) -> Float32:
    """`Hardware.effective_weight` of a matrix placed where the chip's stuck cells change it least.

    Args:
        columns: the transposed matrix (cols, rows), C-contiguous.

    Returns:
        (cols, rows), in the logical order: without stuck cells exactly `effective_weight`.
    """
    found = remap_chip(hardware, columns, key, chip, groups)
    placed = np.ascontiguousarray(found.place(columns.T).T)
    effective = hardware.effective_weight(placed, key, chip, groups=groups)
    return np.ascontiguousarray(found.restore(effective.T).T)


def remapped_planes(
    hardware: Hardware, columns: Float32, scale: Float32, key: Key, chip: int, groups: int = 1
) -> Float32:
    """The conductances of a matrix placed where stuck cells change it least, in the logical order.

    A tile keeps its cells, so what its converters see is the same up to which of them sees which column.
    """
    found = remap_chip(hardware, columns, key, chip, groups)
    placed = np.ascontiguousarray(found.place(columns.T).T)
    placed_scale = scale if scale.size == 1 else np.ascontiguousarray(scale[found.columns[0]])
    planes = multiplying(hardware, placed, placed_scale, key, chip, groups).transpose(0, 2, 1)
    return np.ascontiguousarray(found.restore_planes(planes, hardware.mapping).transpose(0, 2, 1))


def remap_chip(hardware: Hardware, columns: Float32, key: Key, chip: int, groups: int = 1) -> Remapping:
    """`remap` of a transposed matrix (cols, rows) for the stuck cells of one chip."""
    cols, rows = columns.shape
    return remap(columns.T, fault_map(hardware, rows, cols, key, chip), hardware, groups)
