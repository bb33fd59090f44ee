"""Tables in text files as instruments, spreadsheets and numpy write them."""

import csv
import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.errors import InputError
from crossbar_sim.files import opened_table
from crossbar_sim.text import visible
from crossbar_sim.validate import show

if TYPE_CHECKING:
    import pandas

Float64 = NDArray[np.float64]

UNITS = {"S": 1.0, "mS": 1e-3, "uS": 1e-6, "nS": 1e-9}
"""What a conductance in each unit is in S. The micro sign and the Greek letter count as u (`unit_of`)."""

_REMARKS = ("#", "%")
_LOOKED_AT = 20
_LONGEST = 2**20
# Numbers with a decimal comma; digits alone are numbers too, but say nothing.
_COMMA = re.compile(r"[+-]?\d+,\d+(?:[eE][+-]?\d+)?|[+-]?,\d+(?:[eE][+-]?\d+)?")
_POINT = re.compile(r"[+-]?(?:\d+\.\d*|\.\d+)(?:[eE][+-]?\d+)?")
_WHOLE = re.compile(r"[+-]?\d+(?:[eE][+-]?\d+)?")
_REST = re.compile(r"\d+[eE][+-]?\d+")


@dataclass(frozen=True)
class Line:
    """One line of a table: its number in the file (the first is 1), its cells, and whether it is a remark's words."""

    number: int
    cells: list[str]
    remark: bool = False


def read_lines(path: str | os.PathLike[str], most_bytes: int) -> Iterator[Line]:
    """The lines of a table that hold something.

    Columns are separated by semicolons, tabs, commas or spaces, which is found from the first lines; numbers may have a
    decimal comma where commas do not separate columns (they are given with a point). Lines that begin with # or % are
    remarks: of these only the last one before the numbers is returned, which may name the columns.

    Args:
        path: a regular file of UTF-8 text.
        most_bytes: the largest file that is read.

    Raises:
        InputError: if it cannot be read.
    """
    source = visible(os.fspath(path))
    _refuse_others(path, source)
    with opened_table(path, most_bytes) as file:
        numbered = _numbered(file, source)
        first: list[tuple[int, str]] = []
        remark: tuple[int, str] | None = None
        for number, text in numbered:
            bare = text.strip()
            if bare.startswith(_REMARKS):
                if not first:
                    remark = number, bare.lstrip("#% \t")
            elif bare:
                first.append((number, text))
                if len(first) == _LOOKED_AT:
                    break
        mark, comma = _separator([text for _, text in first], source)
        if remark is not None and remark[1]:
            yield Line(remark[0], _cells(remark[1], mark, False, source), True)
        for number, text in itertools.chain(first, numbered):
            bare = text.strip()
            if bare and not bare.startswith(_REMARKS):
                yield Line(number, _cells(text.rstrip("\r\n"), mark, comma, f"{source}, line {number}"))


def _refuse_others(path: str | os.PathLike[str], source: str) -> None:
    """Say what to do with the files of other programs, where a table is looked for."""
    if not os.path.isfile(path):
        return  # `opened_table` says why
    try:
        with open(path, "rb") as file:
            start = file.read(16)
    except OSError:
        return
    for begins, what, then in (
        (b"MATLAB ", "a MATLAB file", "write it there as text, with writematrix(g, 'g.csv') or writetable"),
        (b"\x89HDF", "an HDF5 file", "write its numbers as text, with numpy.savetxt"),
        (b"PK\x03\x04", "a zip file (a spreadsheet, or .npz)", "save the sheet as CSV, or use numpy.savetxt"),
        (b"\xd0\xcf\x11\xe0", "a spreadsheet", "save the sheet as CSV"),
        (b"\x93NUMPY", "a NumPy array", "write it with numpy.savetxt"),
        (b"\xff\xfe", "UTF-16 text", "save it as CSV in UTF-8"),
        (b"\xfe\xff", "UTF-16 text", "save it as CSV in UTF-8"),
    ):
        if start.startswith(begins):
            raise InputError(f"{source} is {what}, not a table in UTF-8 text: {then}")


def _numbered(file: Iterable[str], source: str) -> Iterator[tuple[int, str]]:
    for number, text in enumerate(file, 1):
        if len(text) > _LONGEST:
            raise InputError(
                f"{source}, line {number} has more than {_LONGEST} characters: it is not a table"
            )
        yield number, text


def _separator(lines: list[str], source: str) -> tuple[str | None, bool]:
    """What separates the columns (None: spaces), and whether commas are decimal."""
    for mark in (";", "\t"):
        if any(mark in line for line in lines):
            cells = [cell.strip() for line in lines for cell in line.split(mark)]
            return mark, _decimal_commas(cells, source)
    words = [word for line in lines for word in line.split()]
    if not any("," in word for word in words):
        return None, False
    # "1,5 2,5": as many commas as words, and nothing else could be meant.
    spaced = any(len(line.split()) > 1 for line in lines)
    if spaced and all(_COMMA.fullmatch(word) or _WHOLE.fullmatch(word) for word in words):
        return None, True
    pairs = [line.strip().split(",") for line in lines]
    if all(len(p) == 2 and p[0].lstrip("+-").isdigit() and _REST.fullmatch(p[1]) for p in pairs):
        raise InputError(
            f"{source}: {lines[0].strip()[:40]!r} may be one number with a decimal comma, or two: write a decimal "
            "point, or separate columns with semicolons"
        )
    return ",", False


def _decimal_commas(cells: list[str], source: str) -> bool:
    commas = next((cell for cell in cells if _COMMA.fullmatch(cell)), None)
    points = next((cell for cell in cells if _POINT.fullmatch(cell)), None)
    if commas is not None and points is not None:
        raise InputError(
            f"{source} has numbers with a decimal comma ({commas}) and a decimal point ({points}): use one of them"
        )
    return commas is not None


def _cells(text: str, mark: str | None, comma: bool, where: str) -> list[str]:
    if mark is None:
        cells = text.split()
    elif '"' not in text:
        cells = text.split(mark)
    else:
        try:
            (cells,) = csv.reader([text], delimiter=mark, strict=True)
        except (csv.Error, ValueError) as error:
            raise InputError(f"{where}: is not CSV that can be read: {visible(str(error))}") from None
    cells = [cell.strip() for cell in cells]
    if comma:
        cells = [cell.replace(",", ".") if _COMMA.fullmatch(cell) else cell for cell in cells]
    return cells


def is_number(text: str) -> bool:
    """Whether a cell is a number as Python reads it (nan and inf count), without underscores."""
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def unit_of(text: str) -> float | None:
    """What one of a unit of conductance is in S; None for another text.

    >>> unit_of("µS")
    1e-06
    """
    return UNITS.get(text.strip().replace("µ", "u").replace("μ", "u"))


def unit_scale(unit: str | None) -> float:
    """What one of `--unit` is in S; 1 for None.

    Raises:
        InputError: if the unit is unknown.
    """
    scale = 1.0 if unit is None else unit_of(unit)
    if scale is None:
        raise InputError(f"--unit {unit!r}: expected one of {', '.join(UNITS)}")
    return scale


# Tables of numbers alone

MOST_BYTES = 2**28
MOST_NUMBERS = 2**24


def read_table(path: str, what: str, scale: float = 1.0) -> Float64:
    """The numbers of a file, (lines, numbers in a line). Empty lines, remarks and a first line of words are skipped.

    Args:
        path: text, see `read_lines`.
        what: what it holds, for messages: "conductances".
        scale: what each number is multiplied by, for files in other units.

    Raises:
        InputError: naming the file and the line, if it cannot be read or is not a table of finite numbers.
    """
    source = visible(path)
    rows: list[list[float]] = []
    first, count, titles = 0, 0, 0
    for line in read_lines(path, MOST_BYTES):
        where = f"{source}, line {line.number}"
        if line.remark:
            continue
        words = line.cells if line.cells[-1:] != [""] else line.cells[:-1]  # some writers end each line so
        if not rows and not titles and words and not any(is_number(text) or not text for text in words):
            titles = len(words)
            continue
        row = [_number(text, where) for text in words]
        if titles and len(row) != titles:
            raise InputError(f"{where}: {_numbers(len(row))} below a first line of {titles} names")
        if rows and len(row) != len(rows[0]):
            raise InputError(
                f"{where}: {_numbers(len(row))}, and {_numbers(len(rows[0]))} in line {first}: every line of "
                f"{what} must be as long"
            )
        first, count = first if rows else line.number, count + len(row)
        if count > MOST_NUMBERS:
            raise InputError(f"{source} holds more than {MOST_NUMBERS} numbers: give one tile at a time")
        rows.append(row)
    if not rows:
        raise InputError(f"{source} holds no numbers: expected {what}, one line for each row")
    return np.array(rows) if scale == 1 else np.array(rows) * scale


def orient(voltages: Float64, rows: int, source: str) -> Float64:
    """Voltages as (inputs, rows): a line is an input; one column of `rows` numbers is one input too.

    Raises:
        InputError: if they are neither.
    """
    if voltages.shape[1] == rows:
        return voltages
    if voltages.shape == (rows, 1):
        return voltages.T
    raise InputError(
        f"{visible(source)} has {len(voltages)} lines of {_numbers(voltages.shape[1])}, but there are {rows} word "
        f"lines (lines of conductances): give one line of {_numbers(rows)} for each input"
    )


def format_table(numbers: Float64) -> str:
    """Lines of numbers with commas, each as short as it reads back the same."""
    return "".join(",".join(repr(float(x)) for x in row) + "\n" for row in np.atleast_2d(numbers))


def _number(text: str, where: str) -> float:
    if not is_number(text):
        raise InputError(
            f"{where}: {show(text)} is not a number; write numbers as 2.5e-5, with commas between them, "
            "and begin a line of words with #"
        )
    value = float(text)
    if not math.isfinite(value):
        raise InputError(f"{where}: {show(text.strip())} is not a finite number")
    return value


def _numbers(count: int) -> str:
    return f"{count} number{'s' if count != 1 else ''}"


def data_frame(rows: list[dict[str, Any]]) -> "pandas.DataFrame":
    """Rows as a pandas data frame.

    Raises:
        InputError: if pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise InputError("a data frame needs pandas: pip install '.[tables]' in a clone") from None
    return pandas.DataFrame(rows)
