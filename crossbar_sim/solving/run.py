"""Solve a tile for given inputs, print what its wires cost, and write what was asked for."""

import hashlib
import os
from typing import Any, NamedTuple

import click
import numpy as np

from crossbar_sim import __version__
from crossbar_sim.crossbar import threads as pool
from crossbar_sim.crossbar.checks import units_caution
from crossbar_sim.crossbar.wires import Cell, Milo2021, Sinh, Wires, solve_nodes
from crossbar_sim.crossbar.wires.wires import Float64
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs, write_json, write_text
from crossbar_sim.solving.tables import format_table, orient, read_table
from crossbar_sim.tables import unit_scale
from crossbar_sim.text import visible

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
    check_outputs((json_path, plot, output), (conductances, voltages), stream=json_path)
    if plot is not None:
        from crossbar_sim.solving.figure import check_suffix

        check_suffix(plot)
    if threads is not None:
        pool.set_threads(threads)
    cell = cell_of(nonlinear)
    g = read_table(conductances, "conductances", unit_scale(unit))
    v = orient(read_table(voltages, "voltages"), len(g), voltages)
    try:
        solved = solve(g, v, wires, cell)
    except InputError as error:
        raise InputError(f"{visible(conductances)}, {visible(voltages)}: {error}") from None
    if output is not None:
        write_text(output, format_table(solved.currents))
    if plot is not None:
        from crossbar_sim.solving.figure import draw

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


def solve(g: Float64, v: Float64, wires: Wires, cell: Cell | None) -> Solved:
    """All inputs, (inputs, rows) in V.

    Raises:
        InputError: with the outcome's sentence, if an input cannot be solved.
    """
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
    if cell is None:
        return np.asarray(v @ g)
    return np.array(
        [cell.current(g, np.repeat(row[:, None], g.shape[1], axis=1))[0].sum(axis=0) for row in v]
    )


def report(g: Float64, v: Float64, wires: Wires, nonlinear: str | None, solved: Solved) -> list[str]:
    """What is printed."""
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
