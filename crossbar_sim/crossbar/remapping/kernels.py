"""What every placement of a tile's columns or rows would cost, given its stuck cells. No allocation, no exceptions.

Arrays are bit line by bit line, like everything inside: targets (planes, columns, rows) of the weights w and, for the
turned orientation, of -w, in S; faults (planes, columns, rows), 0 healthy, 1 off, 2 on.
"""

from typing import Any

from numba import njit


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
    """By how much weight (column, row) is off at the cells (bit, word), in S of the summed differences.

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
