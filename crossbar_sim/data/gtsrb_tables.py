"""GTSRB's tables: a CSV file with a line for each image, `;` between the columns."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from crossbar_sim.data.files import check_file, reason
from crossbar_sim.errors import InputError

COLUMNS = ("Filename", "Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId")
_LARGEST = 16 * 2**20
"""The largest official table has half a megabyte."""


@dataclass(frozen=True)
class Row:
    """A line of a table.

    Args:
        name: the image's file name, a plain one.
        width, height: of the image, in pixels.
        roi: left, top, right and bottom of the sign in pixels, the last two excluded (its publishers do not
            say; taken so, the margins around a sign are the same on both sides).
        label: its class.
    """

    name: str
    width: int
    height: int
    roi: tuple[int, int, int, int]
    label: int


def read_table(path: Path, classes: int) -> list[Row]:
    """Read a table of GTSRB, in its order.

    Args:
        path: a `GT-*.csv`.
        classes: how many there are.

    Raises:
        InputError: if a column is missing, a value impossible, or a name given twice.
    """
    if check_file(path) > _LARGEST:
        raise InputError(
            f"{path}: has more than {_LARGEST} bytes; the official tables have fewer than a million"
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=";", strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table ({reason(error)}); fetch it again") from None
    head = [name.strip() for name in lines[0]] if lines else []
    missing = [name for name in COLUMNS if name not in head]
    if missing:
        raise InputError(f"{path}: {_why_missing(head, missing)}")
    where = [head.index(name) for name in COLUMNS]
    rows = [_row(path, i, cells, where, classes) for i, cells in enumerate(lines[1:], 2) if cells]
    seen: set[str] = set()
    for row in rows:
        if row.name in seen:
            raise InputError(f"{path}: lists {row.name} twice; fetch it again")
        seen.add(row.name)
    if not rows:
        raise InputError(f"{path}: lists no image; fetch it again")
    return rows


def _why_missing(head: list[str], missing: list[str]) -> str:
    found = ";".join(head)[:80]
    if len(head) == 1 and ("," in found or "\t" in found):
        return f"begins with {found!r}: its columns must be separated by ; and not by another sign"
    if missing == ["ClassId"]:
        return "has no column ClassId; the table with classes is in GTSRB_Final_Test_GT.zip"
    return f"has no column {', '.join(missing)}; it begins with {found!r}"


def _row(path: Path, line: int, cells: list[str], where: list[int], classes: int) -> Row:
    """One line as a `Row`, its values checked against each other."""
    if len(cells) <= max(where):
        raise InputError(f"{path}: line {line} has {len(cells)} columns of {max(where) + 1}; fetch it again")
    name, *texts = (cells[i].strip() for i in where)
    if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
        raise InputError(f"{path}: line {line} names {name[:60]!r}, which is no plain file name")
    try:
        # At most nine digits: int() of a longer text could take long.
        width, height, left, top, right, bottom, label = (int(text[:10]) for text in texts)
    except ValueError:
        raise InputError(
            f"{path}: line {line} has {';'.join(texts)[:60]!r}, which are no whole numbers"
        ) from None
    if not 0 <= label < classes:
        raise InputError(f"{path}: line {line} has class {label}; classes are 0 .. {classes - 1}")
    if not (0 <= left < right <= width and 0 <= top < bottom <= height):
        raise InputError(
            f"{path}: line {line} has a Roi of columns {left} .. {right} and rows {top} .. {bottom} in an image "
            f"of {width} x {height}; fetch it again"
        )
    return Row(name, width, height, (left, top, right, bottom), label)
