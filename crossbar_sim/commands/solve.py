"""`crossbar-sim solve`: the circuit of one tile alone, with the resistance of its wires."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from crossbar_sim import __version__
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs, write_json, write_text
from crossbar_sim.tables import is_number, read_lines, unit_scale
from crossbar_sim.text import visible
from crossbar_sim.validate import show, units_caution

if TYPE_CHECKING:
    from crossbar_sim.crossbar.wires import Cell, Wires
    from crossbar_sim.crossbar.wires.wires import Float64


@click.command(no_args_is_help=True)
@click.argument("conductances", type=click.Path())
@click.argument("voltages", type=click.Path())
@click.option("--unit", help="Unit of CONDUCTANCES: S, mS, uS or nS.  [default: S]")
@click.option("--wire-ohm", type=float, help="Resistance of one segment, word lines and bit lines, in ohm.")
@click.option("--word-ohm", type=float, help="Of a word-line segment.  [default: --wire-ohm, or 0]")
@click.option("--bit-ohm", type=float, help="Of a bit-line segment.  [default: --wire-ohm, or 0]")
@click.option("--source-ohm", type=float, default=0.0, show_default=True, help="Of each word line's source.")
@click.option("--sense-ohm", type=float, default=0.0, show_default=True, help="Of each bit line's sense.")
@click.option("--both-sides", is_flag=True, help="Drive word lines from both ends.")
@click.option(
    "--method", type=click.Choice(["fast", "exact"]), default="fast", show_default=True,
    help="Conjugate gradients to --tolerance, or elimination to rounding.",
)  # fmt: skip
@click.option(
    "--tolerance", type=float, default=1e-6, show_default=True,
    help="Largest error of a current, as a part of the largest.",
)  # fmt: skip
@click.option("--nonlinear", help="Cells carry g sinh(a v)/a: this a, per volt; or milo2021.")
@click.option("--plot", type=click.Path(), help="Draw the map of the loss: .png, .pdf or .svg.")
@click.option(
    "--json", "json_path", type=click.Path(), help="Write the solution as JSON (- for standard output)."
)
@click.option("-o", "--output", type=click.Path(), help="Write the column currents here (CSV, A).")
@click.option("--threads", type=int, help="Threads to use; results do not depend on it.")
def solve(
    conductances: str,
    voltages: str,
    unit: str | None,
    wire_ohm: float | None,
    word_ohm: float | None,
    bit_ohm: float | None,
    source_ohm: float,
    sense_ohm: float,
    both_sides: bool,
    method: str,
    tolerance: float,
    nonlinear: str | None,
    plot: str | None,
    json_path: str | None,
    output: str | None,
    threads: int | None,
) -> None:
    """Solve one tile: column currents against those without wires, and where the voltage is lost.

    CONDUCTANCES has a line of numbers, in S or --unit, for each word line (0: open); VOLTAGES a line, in V, for each
    input. The circuit is drawn in docs/wires.md.

    \b
    Examples:
      crossbar-sim solve conductances.csv voltages.csv --wire-ohm 1.0 --plot drop.png
      crossbar-sim solve g.csv v.csv --word-ohm 2 --bit-ohm 1 --source-ohm 50 --both-sides -o currents.csv
      crossbar-sim solve g.csv v.csv --wire-ohm 1 --nonlinear 2.5 --json -
    """
    from crossbar_sim.crossbar.wires import Wires

    both = 0.0 if wire_ohm is None else wire_ohm
    wires = Wires(
        r_word=both if word_ohm is None else word_ohm,
        r_bit=both if bit_ohm is None else bit_ohm,
        r_source=source_ohm,
        r_sense=sense_ohm,
        inputs="both" if both_sides else "one",
        tolerance=tolerance,
        method=method,  # type: ignore[arg-type]
    )
    run_solve(
        conductances, voltages, wires, nonlinear,
        plot=plot, json_path=json_path, output=output, threads=threads, unit=unit,
    )  # fmt: skip


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
    import numpy as np

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
    import numpy as np

    return "".join(",".join(repr(float(x)) for x in row) + "\n" for row in np.atleast_2d(numbers))


def _number(text: str, where: str) -> float:
    import numpy as np

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


AT_ONCE = 2**22
"""Cells times inputs that are solved together: node voltages of all inputs may not fit into memory."""

SHOWN = 12
"""Inputs, and columns, that are printed."""


class Solved(NamedTuple):
    """Of all inputs: currents in A, (inputs, cols); power in W and residual in V, (inputs,)."""

    currents: Float64
    ideal: Float64
    power: Float64
    residual: Float64

    @property
    def worst(self) -> int:
        """The input that loses most, against its largest ideal current."""
        import numpy as np

        size = np.abs(self.ideal).max(axis=1)
        lost = np.abs(self.currents - self.ideal).max(axis=1)
        return int(np.argmax(lost / np.where(size > 0, size, 1)))


def run_solve(
    conductances: str,
    voltages: str,
    wires: Wires,
    nonlinear: str | None,
    *,
    plot: str | None,
    json_path: str | None,
    output: str | None,
    threads: int | None,
    unit: str | None = None,
) -> None:
    """Read, solve, print, write; see `crossbar-sim solve --help`.

    Raises:
        InputError: for anything that cannot be used or solved; then nothing is written.
    """
    from crossbar_sim.crossbar import threads as pool

    check_outputs((json_path, plot, output), (conductances, voltages), stream=json_path)
    if plot is not None:
        from crossbar_sim.report.figure import check_format

        check_format(plot)
    if threads is not None:
        pool.set_threads(threads)
    cell = cell_of(nonlinear)
    g = read_table(conductances, "conductances", unit_scale(unit))
    v = orient(read_table(voltages, "voltages"), len(g), voltages)
    try:
        solved = solve_crossbar(g, v, wires, cell)
    except InputError as error:
        raise InputError(f"{visible(conductances)}, {visible(voltages)}: {error}") from None
    if output is not None:
        write_text(output, format_table(solved.currents))
    if plot is not None:
        from crossbar_sim.report.solve_figure import draw

        draw(g, v, wires, cell, solved.currents, solved.ideal, solved.worst, plot)
    files = {"conductances": conductances, "voltages": voltages}
    write_json(json_path, as_dict(g, v, wires, nonlinear, solved, files))
    to_errors = json_path == "-"
    for line in report(g, v, wires, nonlinear, solved):
        click.echo(visible(line), err=to_errors)
    for line in warnings(v, wires, nonlinear, cell, g):
        click.echo(visible(f"warning: {line}"), err=to_errors)
    for path in (output, plot, json_path):
        if path is not None and path != "-":
            click.echo(f"wrote {visible(path)}", err=to_errors)


def cell_of(nonlinear: str | None) -> Cell | None:
    """`milo2021`, or the a of g sinh(a v)/a as a number; None: ohmic.

    Raises:
        InputError: if it is neither.
    """
    from crossbar_sim.crossbar.wires import Milo2021, Sinh

    if nonlinear is None:
        return None
    if nonlinear == "milo2021":
        return Milo2021()
    try:
        return Sinh(float(nonlinear))
    except InputError:
        raise
    except ValueError:
        raise InputError(
            f"--nonlinear {nonlinear!r}: expected the a of i = g sinh(a v)/a, such as 2.5 (per volt), or milo2021"
        ) from None


def solve_crossbar(g: Float64, v: Float64, wires: Wires, cell: Cell | None) -> Solved:
    """All inputs, (inputs, rows) in V.

    Raises:
        InputError: with the outcome's sentence, if an input cannot be solved.
    """
    import numpy as np

    from crossbar_sim.crossbar.wires import solve_nodes

    step = max(1, AT_ONCE // g.size)
    currents, power, residual = [], [], []
    for start in range(0, len(v), step):
        part = solve_nodes(g, v[start : start + step], wires, cell)
        for k, outcome in enumerate(part.outcomes):
            if not outcome.solved:
                raise InputError(f"input {start + k + 1} is {outcome.value}")
        currents.append(part.column_currents)
        power.append(part.power)
        residual.append(part.residual)
    return Solved(
        np.vstack(currents), ideal_currents(g, v, cell), np.concatenate(power), np.concatenate(residual)
    )


def ideal_currents(g: Float64, v: Float64, cell: Cell | None) -> Float64:
    """Column currents without wires, (inputs, cols) in A."""
    import numpy as np

    if cell is None:
        return np.asarray(v @ g)
    return np.array(
        [cell.current(g, np.repeat(row[:, None], g.shape[1], axis=1))[0].sum(axis=0) for row in v]
    )


def report(g: Float64, v: Float64, wires: Wires, nonlinear: str | None, solved: Solved) -> list[str]:
    """What is printed."""
    import numpy as np

    live, (rows, cols) = g[g > 0], g.shape
    cells = f"{live.min() * 1e6:.4g} .. {live.max() * 1e6:.4g} uS" if live.size else "all open"
    open_ = f", {g.size - live.size} of them open" if 0 < live.size < g.size else ""
    law = {None: "ohmic", "milo2021": "as in Milo 2021"}.get(nonlinear, f"g sinh({nonlinear} v)/{nonlinear}")
    lines = [
        f"tile       {rows} word lines, {cols} bit lines; cells {cells}{open_}; {law}",
        f"wires      {wires.r_word:g} ohm per word segment, {wires.r_bit:g} per bit segment, source "
        f"{wires.r_source:g}, sense {wires.r_sense:g}; driven from {wires.inputs} "
        f"{'ends' if wires.inputs == 'both' else 'end'}",
        f"method     {wires.method}" + (f", tolerance {wires.tolerance:g}" if wires.method == "fast" else ""),
        f"residual   {solved.residual.max():.2g} V at most: by how much Kirchhoff's laws are missed",
    ]
    if len(v) > 1:
        lines += ["", "input   sum of currents    ideal sum       largest loss    power"]
        for k in range(min(len(v), SHOWN)):
            size, lost = np.abs(solved.ideal[k]).max(), np.abs(solved.currents[k] - solved.ideal[k]).max()
            share = f"{100 * lost / size:.4g} %" if size > 0 else "-"
            lines.append(
                f"{k + 1:>5}   {solved.currents[k].sum():<15.6g}    {solved.ideal[k].sum():<12.6g}    {share:<12}    "
                f"{solved.power[k]:.4g} W"
            )
        lines += _more(len(v), "inputs")
    k = solved.worst
    of_input = f" of input {k + 1}, which loses most" if len(v) > 1 else ""
    lines += [
        "",
        f"column currents{of_input} (power {solved.power[k]:.4g} W)",
        "column   current (A)     ideal (A)       loss",
    ]
    for j in range(min(cols, SHOWN)):
        current, ideal = solved.currents[k, j], solved.ideal[k, j]
        lines.append(f"{j + 1:>6}   {current:<15.6g} {ideal:<15.6g} {_loss(current, ideal)}")
    lines += _more(cols, "columns")
    worst = int(np.argmax(np.abs(solved.currents[k] - solved.ideal[k])))
    lines.append(f"largest: column {worst + 1}, {_loss(solved.currents[k, worst], solved.ideal[k, worst])}")
    return lines


def _loss(current: float, ideal: float) -> str:
    return f"{100 * (1 - current / ideal):.4g} %" if ideal else "-"


def _more(count: int, what: str) -> list[str]:
    return [f"  ...    ({count - SHOWN} more {what}; -o or --json has all)"] if count > SHOWN else []


def warnings(v: Float64, wires: Wires, nonlinear: str | None, cell: Cell | None, g: Float64) -> list[str]:
    """Requests that had no effect, by name."""
    import numpy as np

    told = []
    caution = units_caution(float(np.max(g, initial=0.0)), "the largest conductance, {},")
    if caution is not None:
        told.append(caution)
    if wires.ideal:
        told.append(
            "no wire has a resistance: give --wire-ohm, --word-ohm, --bit-ohm, --source-ohm or --sense-ohm"
        )
    if wires.inputs == "both" and wires.ideal_words:
        told.append("--both-sides changes nothing: word lines without resistance need no second source")
    if cell is not None:
        ohmic, bent = v @ g, ideal_currents(g, v, cell)
        if np.max(np.abs(bent - ohmic), initial=0.0) <= 1e-9 * np.max(np.abs(ohmic), initial=0.0):
            told.append(f"--nonlinear {nonlinear} changes nothing at these voltages")
    return told


def as_dict(
    g: Float64, v: Float64, wires: Wires, nonlinear: str | None, solved: Solved, files: dict[str, str]
) -> dict[str, Any]:
    """The report as JSON: SI units."""
    sources = {}
    for name, path in files.items():
        with open(path, "rb") as file:
            sources[name] = {
                "file": os.path.basename(path),
                "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
            }
    return {
        "crossbar_sim": __version__,
        "source": sources,
        "rows": g.shape[0],
        "cols": g.shape[1],
        "inputs": len(v),
        "wires": {name: getattr(wires, name) for name in wires.__dataclass_fields__},
        "nonlinear": nonlinear,
        "currents_A": solved.currents.tolist(),
        "ideal_A": solved.ideal.tolist(),
        "power_W": solved.power.tolist(),
        "residual_V": solved.residual.tolist(),
    }
