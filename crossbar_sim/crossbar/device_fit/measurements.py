"""Measurements of a device: one row for each reading of a cell, from arrays or from a CSV file."""

import itertools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.errors import InputError
from crossbar_sim.tables import UNITS, Line, is_number, read_lines, unit_of, unit_scale
from crossbar_sim.text import visible
from crossbar_sim.validate import show

Float64 = NDArray[np.float64]

COLUMNS = ("target_S", "measured_S", "time_s")
OPTIONAL = ("cell",)
MOST_BYTES = 2**27
MOST_ROWS = 500_000
LEAST_ROWS = 8
OFFSET, MOST_FAR = 0.1, 0.01
"""Largest offset of negative readings, a fraction of the largest target; and largest share of readings below it."""
LARGEST = 1.0
"""S. Larger numbers are refused as microsiemens or resistances: no memristor has less than 1 ohm."""


@dataclass(frozen=True, eq=False)
class Measurements:
    """Readings of cells, n of them, each of a cell that was programmed to a target.

    Args:
        target: what the cell was programmed to, in S, (n,).
        measured: what was read, in S, (n,). Readings below 0 S, which an instrument's offset makes of a small
            current, are kept as 0 S and counted in `negative`.
        time: seconds from programming to the reading, (n,); 0 is the reading that ended programming.
        cell: which cell it was, (n,) integers; None: every reading is of another cell.

    Raises:
        InputError: for other shapes, fewer than 8 rows, and values that are no conductances or times, naming
            the row (the first is 1).
    """

    target: Float64
    measured: Float64
    time: Float64
    cell: NDArray[np.int64] | None = None
    negative: int = field(init=False, default=0)
    lowest: float = field(init=False, default=0.0)

    def __post_init__(self) -> None:
        for name in ("target", "measured", "time"):
            object.__setattr__(self, name, np.asarray(getattr(self, name), np.float64))
        n = self.target.shape
        for name in ("measured", "time", *(("cell",) if self.cell is not None else ())):
            shape = np.shape(getattr(self, name))
            if shape != n or len(n) != 1:
                raise InputError(
                    f"{name} has shape {shape} and target {n}: expected two vectors of one length"
                )
        if not LEAST_ROWS <= self.target.size <= MOST_ROWS:
            raise InputError(
                f"{self.target.size} rows of measurements: a fit takes {LEAST_ROWS} .. {MOST_ROWS} "
                f"({'measure more cells' if self.target.size < LEAST_ROWS else 'draw a random part of them'})"
            )
        self._check("target", "S, from 0 S to 1 S (40 uS is 40e-6)", 0.0, LARGEST)
        self._check("measured", "S, at most 1 S (40 uS is 40e-6)", -LARGEST, LARGEST)
        self._check("time", "s, at least 0 s", 0.0, np.inf)
        if not np.any(self.target > 0):
            raise InputError("every target_S is 0: there is no window of conductances to fit")
        if np.array_equal(self.target, self.measured):
            raise InputError("measured_S equals target_S in every row: there is no error to fit")
        self._cut_off()

    def _cut_off(self) -> None:
        """Readings below 0 S become 0 S; many readings far below 0 S are refused as a wrong sign."""
        below = self.measured < 0
        if not below.any():
            return
        limit = OFFSET * self.g_max
        far = np.flatnonzero(self.measured < -limit)
        if far.size > max(1, MOST_FAR * self.measured.size):
            raise InputError(
                f"{far.size} of {self.measured.size} readings lie more than {limit:.3g} S ({OFFSET:.0%} of the largest "
                f"target) below 0 S, the first in row {far[0] + 1} with measured_S={self.measured[far[0]]:g}: an "
                "offset of the instrument is smaller; check the sign of voltage and current, or delete these rows"
            )
        object.__setattr__(self, "negative", int(below.sum()))
        object.__setattr__(self, "lowest", float(self.measured.min()))
        object.__setattr__(self, "measured", np.maximum(self.measured, 0.0))

    def _check(self, name: str, rule: str, least: float, most: float) -> None:
        values = getattr(self, name)
        bad = np.flatnonzero(~(np.isfinite(values) & (values >= least) & (values <= most)))
        if bad.size:
            column = next(c for c in COLUMNS if c.startswith(name))
            raise InputError(f"row {bad[0] + 1}: {column}={values[bad[0]]:g} must be in {rule}")

    @property
    def floored(self) -> NDArray[np.bool_]:
        """Readings at 0 S or below are censored: the value of the law may be anywhere below."""
        floored: NDArray[np.bool_] = self.measured == 0
        return floored

    @property
    def g_max(self) -> float:
        """The largest target, in S."""
        return float(self.target.max())


def scattered(n: int, most: int) -> NDArray[np.bool_]:
    """Mask (n,) that selects about `most` of n rows.

    Every k-th row might hit the same targets again and again; the golden ratio meets no table's own period.
    """
    golden = 0.6180339887498949
    taken: NDArray[np.bool_] = (np.arange(n) * golden) % 1 < most / n
    return taken


def read_measurements(path: str | os.PathLike[str], unit: str | None = None) -> Measurements:
    """The measurements in a table whose first line names the columns target_S, measured_S, time_s.

    The last part of a name is its unit: target_uS, time_ms. A column `cell` (any text) says which readings are of one
    cell; other columns are left alone. The names may be a remark, as `numpy.savetxt` writes them ("# target_S,...").

    Args:
        path: text, see `crossbar_sim.tables.read_lines`.
        unit: of the conductances, where the names give none ("uS").

    Raises:
        InputError: naming the file, the line and the column, if it cannot be read or used.
    """
    source = visible(str(path))
    values: dict[str, list[float]] = {name: [] for name in COLUMNS}
    cells: list[int] = []
    numbers: dict[str, int] = {}
    lines = read_lines(path, MOST_BYTES)
    header, first = _header(lines)
    columns = _columns(header, source, unit)
    for line in itertools.chain(first, lines):
        row = line.cells
        if len(row) != len(header):
            raise InputError(f"{source}, line {line.number}: {len(row)} values under {len(header)} columns")
        if len(values["target_S"]) == MOST_ROWS:
            raise InputError(f"{source} has more than {MOST_ROWS} rows: draw a random part of them")
        for name in COLUMNS:
            place, scale = columns[name]
            number = _value(row[place], name, f"{source}, line {line.number}")
            values[name].append(number if scale == 1 else number * scale)
        if "cell" in columns:
            cells.append(numbers.setdefault(row[columns["cell"][0]], len(numbers)))
    try:
        target, measured, time = (np.array(values[name]) for name in COLUMNS)
        return Measurements(target, measured, time, np.array(cells, np.int64) if "cell" in columns else None)
    except InputError as error:
        raise InputError(f"{source}: {error}") from None


_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0}


def _header(lines: Iterator[Line]) -> tuple[list[str], list[Line]]:
    """The names of the columns, and the line of numbers that was read while looking for them."""
    first = next(lines, None)
    if first is None or not first.remark:
        return ([] if first is None else first.cells), []
    after = next(lines, None)
    if after is None or any(_name_and_unit(cell)[0] in ("target", "measured") for cell in after.cells):
        return ([] if after is None else after.cells), []
    return first.cells, [after]


def _name_and_unit(text: str) -> tuple[str, str]:
    """`Target (uS)`, `target_uS` and `target [uS]` as ("target", "uS")."""
    name, unit = re.fullmatch(r"\s*([A-Za-z]*)[\s_\[(,/]*(.*?)[\s\])]*", text, re.DOTALL).groups()  # type: ignore
    return name.lower(), unit


def _columns(header: list[str], source: str, unit: str | None) -> dict[str, tuple[int, float]]:
    """The position of each column, and its unit in S or s."""
    if not header:
        raise InputError(f"{source} is empty: expected a first line {','.join(COLUMNS)} and rows of numbers")
    given = unit_scale(unit)
    found: dict[str, list[int]] = {}
    for place, text in enumerate(header):
        found.setdefault(_name_and_unit(text)[0], []).append(place)
    wanted = {name: name.rpartition("_")[0] or name for name in (*COLUMNS, *OPTIONAL)}
    missing = [name for name in COLUMNS if wanted[name] not in found]
    if missing:
        raise InputError(
            f"{source} lacks the column{'s' if missing[1:] else ''} {', '.join(missing)}; its first line is "
            f"{show(','.join(header))}, expected {','.join(COLUMNS)} and, if you have it, cell"
        )
    columns: dict[str, tuple[int, float]] = {}
    for name, short in wanted.items():
        if len(found.get(short, ())) > 1:
            raise InputError(f"{source}: the column {name} is there twice")
        for place in found.get(short, ()):
            columns[name] = (
                place,
                1.0 if name in OPTIONAL else _scale(header[place], name, unit, given, source),
            )
    return columns


def _scale(text: str, name: str, unit: str | None, given: float, source: str) -> float:
    own = _name_and_unit(text)[1]
    if name == "time_s":
        if own not in _SECONDS:
            known = ", ".join(_SECONDS)
            raise InputError(
                f"{source}: the column {show(text)} must end in its unit, such as time_s ({known})"
            )
        return _SECONDS[own]
    scale = unit_of(own) if own else None
    if own and scale is None:
        raise InputError(f"{source}: the column {show(text)} must end in its unit: {', '.join(UNITS)}")
    if scale is None and unit is None:
        raise InputError(f"{source}: the column {show(text)} has no unit: name it {name}, or give --unit uS")
    if scale is not None and unit is not None and scale != given:
        raise InputError(
            f"{source}: the column {show(text)} is in {own} and --unit says {unit}: rename it or leave out --unit"
        )
    return given if scale is None else scale


def _value(text: str, name: str, where: str) -> float:
    if not is_number(text):
        raise InputError(f"{where}: {name}={show(text)} is no number")
    return float(text)
