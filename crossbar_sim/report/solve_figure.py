"""One tile's loss as a figure: what the wires take from each cell, and from each column."""

from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from crossbar_sim.crossbar.wires import Cell, Wires, solve_nodes
from crossbar_sim.crossbar.wires.wires import Float64
from crossbar_sim.report.figure import BLUE, GREY, WIDTH, figure_style, save


def draw(
    g: Float64,
    v: Float64,
    wires: Wires,
    cell: Cell | None,
    currents: Float64,
    ideal: Float64,
    worst: int,
    path: str,
) -> None:
    """Draw the map of lost cell voltage and the column currents of one input.

    Args:
        g: cells, (rows, cols) in S.
        v: (inputs, rows) in V.
        wires, cell: the circuit.
        currents, ideal: (inputs, cols) in A.
        worst: which input.
        path: .png, .pdf or .svg. The same solution gives the same bytes.

    Raises:
        InputError: if the file cannot be written; what was there is unchanged.
    """
    solution = solve_nodes(g, v[worst], wires, cell)
    lost = v[worst][:, None] - (solution.word_voltages - solution.bit_voltages)
    with figure_style():
        figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2, width_ratios=(1.15, 1))
        _map(figure, left, lost, wires)
        _columns(right, currents[worst], ideal[worst])
        of_input = f", input {worst + 1} of {len(v)}" if len(v) > 1 else ""
        figure.suptitle(
            f"{g.shape[0]}×{g.shape[1]} cells, word segments {wires.r_word:g} Ω, bit segments {wires.r_bit:g} Ω"
            f"{of_input}",
            x=0.01, ha="left", fontsize=8.5,
        )  # fmt: skip
        save(figure, path, dpi=200)


def _map(figure: Any, ax: Any, lost: Float64, wires: Wires) -> None:
    """Panel a: volts that each cell lacks; with inputs of both signs some have too much."""
    rows, cols = lost.shape
    largest = float(np.abs(lost).max())
    unit, factor = ("mV", 1e3) if largest >= 1e-3 else ("µV", 1e6)
    both_signs = float(lost.min()) < -1e-6 * largest
    top = factor * largest if largest > 0 else 1.0
    image = ax.imshow(
        factor * lost, cmap="RdBu_r" if both_signs else "viridis", vmin=-top if both_signs else 0.0, vmax=top,
        aspect="auto", interpolation="nearest", extent=(0.5, cols + 0.5, rows + 0.5, 0.5),
    )  # fmt: skip
    for spine in ax.spines.values():
        spine.set_visible(True)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1))
    driven = "driven from both ends" if wires.inputs == "both" else "driven from the left"
    ax.set(
        xlabel="bit line (sensed at the bottom)",
        ylabel=f"word line ({driven})",
        title="(a)  voltage lost at each cell",
    )
    figure.colorbar(image, ax=ax, label=f"source voltage less cell voltage ({unit})", pad=0.02)


def _columns(ax: Any, current: Float64, ideal: Float64) -> None:
    """Panel b: column currents with and without wire resistance."""
    columns = np.arange(1, current.size + 1)
    size = max(float(np.abs(ideal).max()), float(np.abs(current).max()))
    unit, factor = next(
        ((unit, factor) for unit, factor in (("A", 1.0), ("mA", 1e3), ("µA", 1e6)) if size * factor >= 1),
        ("nA", 1e9),
    )
    few = current.size <= 40
    ax.plot(columns, factor * ideal, "_" if few else "-", ms=9, lw=0.9, color=GREY, label="without wires")
    ax.plot(columns, factor * current, "o" if few else "-", ms=3.5, lw=1.3, color=BLUE, label="with wires")
    ax.xaxis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1))
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, 0), max(high, 0) + 0.14 * (max(high, 0) - min(low, 0)))
    if ideal.min() < 0 < ideal.max():
        ax.axhline(0, color="black", lw=0.6)
    deviation = float(np.abs(current - ideal).max() / np.abs(ideal).max()) if np.abs(ideal).max() > 0 else 0.0
    ax.set(
        xlabel="bit line", ylabel=f"column current ({unit})",
        title=f"(b)  loss of up to {100 * deviation:.3g} % of the largest",
    )  # fmt: skip
    ax.legend(frameon=False, fontsize=7.5, loc="upper right", ncols=2)
