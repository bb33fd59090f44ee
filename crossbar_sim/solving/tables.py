"""Numbers in text files: one line for each row (`crossbar_sim.tables` reads the lines)."""

import numpy as np

from crossbar_sim.crossbar.checks import show
from crossbar_sim.crossbar.wires.wires import Float64
from crossbar_sim.errors import InputError
from crossbar_sim.tables import is_number, read_lines
from crossbar_sim.text import visible

MOST_BYTES = 2**28
MOST_NUMBERS = 2**24


def read_table(path: str, what: str, scale: float = 1.0) -> Float64:
    """The numbers of a file, (lines, numbers in a line). Empty lines, remarks and a first line of words are skipped.

    Args:
        path: text, see `crossbar_sim.tables.read_lines`.
        what: what it holds, for messages: "conductances".
        scale: what each number is multiplied by, for files in other units.

    Raises:
        InputError: naming the file and the line, if it cannot be read or is no table of finite numbers.
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
            raise InputError(f"{source} holds more than {MOST_NUMBERS} numbers: take one tile at a time")
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
            f"{where}: {show(text)} is no number; write numbers as 2.5e-5, with commas between them, "
            "and begin a line of words with #"
        )
    value = float(text)
    if not np.isfinite(value):
        raise InputError(f"{where}: {show(text.strip())} is no finite number")
    return value


def _numbers(count: int) -> str:
    return f"{count} number{'s' if count != 1 else ''}"
