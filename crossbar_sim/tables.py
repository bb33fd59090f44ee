"""Tables in text files as instruments, spreadsheets and numpy write them."""

import csv
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from crossbar_sim.errors import InputError
from crossbar_sim.files import opened_table
from crossbar_sim.text import visible

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
