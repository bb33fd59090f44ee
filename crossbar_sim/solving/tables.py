"""Numbers in text files: one line for each row, separated by commas, semicolons, tabs or spaces."""

import re
from collections.abc import Iterator

import numpy as np

from crossbar_sim.crossbar.checks import show
from crossbar_sim.crossbar.wires.wires import Float64
from crossbar_sim.errors import InputError
from crossbar_sim.files import opened_table
from crossbar_sim.text import visible

MOST_BYTES = 2**28
MOST_NUMBERS = 2**24


def read_table(path: str, what: str) -> Float64:
    """The numbers of a file, (lines, numbers in a line). Empty lines and those that start with # are skipped.

    Args:
        path: the file.
        what: what it holds, for messages: "conductances".

    Raises:
        InputError: naming the file and the line, if it cannot be read or is no table of finite numbers.
    """
    source = visible(path)
    rows: list[list[float]] = []
    first, count = 0, 0
    for number, line in _lines(path):
        where = f"{source}, line {number}"
        row = [_number(text, where) for text in _split(line)]
        if rows and len(row) != len(rows[0]):
            raise InputError(
                f"{where}: {_numbers(len(row))}, and {_numbers(len(rows[0]))} in line {first}: every line of "
                f"{what} must be as long"
            )
        first, count = first if rows else number, count + len(row)
        if count > MOST_NUMBERS:
            raise InputError(f"{source} holds more than {MOST_NUMBERS} numbers: take one tile at a time")
        rows.append(row)
    if not rows:
        raise InputError(f"{source} holds no numbers: expected {what}, one line for each row")
    return np.array(rows)


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


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines that hold something."""
    with opened_table(path, MOST_BYTES) as file:
        for number, line in enumerate(file, 1):
            if line.strip() and not line.lstrip().startswith("#"):
                yield number, line.strip()


def _split(line: str) -> list[str]:
    """At commas or semicolons, else at white space."""
    mark = next((mark for mark in ",;" if mark in line), None)
    return re.split(r"\s+", line) if mark is None else line.split(mark)


def _number(text: str, where: str) -> float:
    try:
        value = float(text) if "_" not in text else None
    except ValueError:
        value = None
    if value is None:
        raise InputError(
            f"{where}: {show(text.strip())} is no number; write numbers as 2.5e-5, with commas between them, "
            "and begin a line of words with #"
        )
    if not np.isfinite(value):
        raise InputError(f"{where}: {show(text.strip())} is no finite number")
    return value


def _numbers(count: int) -> str:
    return f"{count} number{'s' if count != 1 else ''}"
