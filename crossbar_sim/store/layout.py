"""Where things lie in a chip file: names of groups and datasets, and how arrays are cut into chunks.

docs/format.md is the specification; this is the one place that knows its names.
"""

import math
from collections.abc import Iterator
from urllib.parse import unquote

FORMAT = "crossbar-sim chip"
FORMAT_VERSION = 1

LAYERS = "layers"
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
    """Rows and columns of a chunk of a plane: about 256 KiB, all alike, none much beyond the edge.

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
