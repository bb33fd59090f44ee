"""`crossbar-sim solve`: the circuit of one tile alone, with the resistance of its wires."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import click

from crossbar_sim import __version__
from crossbar_sim.commands.options import PATH, JsonOptions, ThreadOptions, argument, command, option
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs, sha256_of, write_json, write_text
from crossbar_sim.report.figure_formats import check_format
from crossbar_sim.text import visible

if TYPE_CHECKING:
    from crossbar_sim.crossbar.wires import Cell, SolvedInputs, Wires
    from crossbar_sim.crossbar.wires.wires import Float64

SHOWN = 12
"""Inputs, and columns, that are printed."""


@dataclass(frozen=True)
class SolveRequest(ThreadOptions, JsonOptions):
    """What `solve` is to do."""

    HEADING: ClassVar = "Circuit"

    conductances: str = argument(type=PATH)
    voltages: str = argument(type=PATH)
    unit: str | None = option("Unit of CONDUCTANCES: S, mS, uS or nS.  [default: S]")
    wire_ohm: float | None = option(
        "Resistance of one wire segment, on word lines and bit lines, in ohm.  [default: 0]"
    )
    word_ohm: float | None = option("Resistance of one word-line segment, in ohm.  [default: --wire-ohm]")
    bit_ohm: float | None = option("Resistance of one bit-line segment, in ohm.  [default: --wire-ohm]")
    source_ohm: float = option("Resistance of the source of each word line, in ohm.", default=0.0)
    sense_ohm: float = option("Resistance of the sense circuit of each bit line, in ohm.", default=0.0)
    both_sides: bool = option("Drive word lines from both ends.")
    nonlinear: str | None = option(
        "Current-voltage law of the cells: a, in 1/V, for i = g sinh(a v)/a, or milo2021.  [default: ohmic]"
    )
    method: Literal["fast", "exact"] = option(
        "fast: conjugate gradients up to --tolerance; exact: elimination.",
        heading="Computation",
        default="fast",
    )
    tolerance: float = option(
        "Largest error of a current, relative to the largest current.", heading="Computation", default=1e-6
    )
    output: str | None = option(
        "Write the column currents to this file (CSV, in A).", "-o", "--output", heading="Output", type=PATH
    )
    plot: str | None = option(
        "Draw a map of the voltage loss in this file: .png, .pdf or .svg.", heading="Output", type=PATH
    )


@command(SolveRequest)
def solve(request: SolveRequest) -> None:
    """Compute the column currents of one crossbar tile with wire resistance, and show where voltage is lost.

    CONDUCTANCES is a text file with one line of numbers for each word line, in S or --unit (0: open). VOLTAGES has one
    line for each input, in V. The circuit is drawn in docs/wires.md.

    \b
    Examples:
      crossbar-sim solve conductances.csv voltages.csv --wire-ohm 1.0 --plot drop.png
      crossbar-sim solve g.csv v.csv --word-ohm 2 --bit-ohm 1 --source-ohm 50 --both-sides -o currents.csv
      crossbar-sim solve g.csv v.csv --wire-ohm 1 --nonlinear 2.5 --json -
    """
    from crossbar_sim.crossbar.wires import Wires, solve_inputs
    from crossbar_sim.tables import format_table, orient, read_table, unit_scale

    both = request.wire_ohm or 0.0
    wires = Wires(
        r_word=both if request.word_ohm is None else request.word_ohm,
        r_bit=both if request.bit_ohm is None else request.bit_ohm,
        r_source=request.source_ohm,
        r_sense=request.sense_ohm,
        inputs="both" if request.both_sides else "one",
        tolerance=request.tolerance,
        method=request.method,
    )
    files = {"conductances": request.conductances, "voltages": request.voltages}
    outputs = (request.output, request.plot, request.json_path)
    check_outputs(outputs, (*files.values(),), stream=request.json_path)
    check_format(request.plot)
    request.set_threads()
    nonlinear = request.nonlinear
    cell = cell_of(nonlinear)
    g = read_table(request.conductances, "conductances", unit_scale(request.unit))
    v = orient(read_table(request.voltages, "voltages"), len(g), request.voltages)
    try:
        solved = solve_inputs(g, v, wires, cell)
    except InputError as error:
        raise InputError(f"{', '.join(map(visible, files.values()))}: {error}") from None
    if request.output is not None:
        write_text(request.output, format_table(solved.currents))
    if request.plot is not None:
        from crossbar_sim.report.solve_figure import draw

        draw(g, v, wires, cell, solved.currents, solved.ideal, solved.worst, request.plot)
    sources = {
        name: {"file": os.path.basename(path), "sha256": sha256_of(path)} for name, path in files.items()
    }
    inputs = {"crossbar_sim": __version__, "source": sources}
    write_json(request.json_path, inputs | solved.as_dict(len(g), wires, nonlinear))
    to_errors = request.json_path == "-"
    for line in report(g, v, wires, nonlinear, solved):
        click.echo(visible(line), err=to_errors)
    for line in warnings(v, wires, nonlinear, cell, g):
        click.echo(visible(f"warning: {line}"), err=to_errors)
    for path in outputs:
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


def report(g: Float64, v: Float64, wires: Wires, nonlinear: str | None, solved: SolvedInputs) -> list[str]:
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
    """Options that had no effect, by name."""
    import numpy as np

    from crossbar_sim.crossbar.wires import ideal_currents
    from crossbar_sim.validate import units_caution

    found = []
    caution = units_caution(float(np.max(g, initial=0.0)), "the largest conductance, {},")
    if caution is not None:
        found.append(caution)
    if wires.ideal:
        found.append(
            "no wire has a resistance: give --wire-ohm, --word-ohm, --bit-ohm, --source-ohm or --sense-ohm"
        )
    if wires.inputs == "both" and wires.ideal_words:
        found.append("--both-sides changes nothing: word lines without resistance need no second source")
    if cell is not None:
        ohmic, bent = v @ g, ideal_currents(g, v, cell)
        if np.max(np.abs(bent - ohmic), initial=0.0) <= 1e-9 * np.max(np.abs(ohmic), initial=0.0):
            found.append(f"--nonlinear {nonlinear} changes nothing at these voltages")
    return found
