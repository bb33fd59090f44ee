"""The figure of a trade-off: scores with intervals against a cost, and the front."""

import os

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from crossbar_sim.report.figure import BLUE, GREY, PALE, figure_style, figure_with, new_figure, save
from crossbar_sim.report.figure_formats import check_format
from crossbar_sim.report.tradeoff_rows import COSTS, TradeOffRow, TradeOffView
from crossbar_sim.robustness.tradeoff import TradeOff

MOST_NAMED = 24
"""Points of the front that are named."""


def draw_trade_off(
    result: TradeOff, path: str | os.PathLike[str] | None = None, *, ax: Axes | None = None
) -> Figure:
    """Draw every combination, those on the front in blue and joined by a line.

    Args:
        result: what was measured.
        path: where to; its suffix is the format: .png, .pdf or .svg.
        ax: drawn into these axes of a figure of yours, instead of a new figure.

    Raises:
        InputError: for another suffix, or if the file cannot be written; what was there is unchanged.
    """
    view = TradeOffView(result)
    if ax is not None:
        return figure_with(ax, path, lambda ax: _draw(ax, view))
    if path is not None:
        check_format(path)
    with figure_style():
        figure = new_figure(5.2, 3.6)
        _draw(figure.subplots(), view)
        if path is not None:
            save(figure, path, dpi=200)
    return figure


def _draw(axes: Axes, view: TradeOffView) -> None:
    scale, against = view.scale, view.against
    factor = 100.0 if scale.per_cent else 1.0
    there = [row for row in view.rows if row.score is not None]
    size, prefix = _prefix(max(row.cost(against) for row in there)) if against != "area" else (1.0, "")
    named: dict[tuple[float, float], list[str]] = {}
    for row in there:
        assert row.score is not None
        place = row.cost(against) / size, factor * row.score.value
        low, high = (factor * end for end in row.score.span or (row.score.value, row.score.value))
        colour, edge, z = (BLUE, BLUE, 4) if row.front else (PALE, GREY, 2)
        axes.plot([place[0]] * 2, [low, high], color=edge, lw=0.8, zorder=z)
        axes.plot(*place, "o", color=colour, mec=edge, mew=0.6, ms=4.5, zorder=z + 1)
        if row.front:
            named.setdefault(place, []).append(_name(row, view))
    steps = sorted(named)
    axes.plot(
        [x for x, _ in steps], [y for _, y in steps], color=PALE, lw=1.4, drawstyle="steps-post", zorder=1
    )
    for place in steps[:MOST_NAMED]:
        text = "\n".join(named[place][:3]) + ("\n..." if len(named[place]) > 3 else "")
        axes.annotate(
            text, place, xytext=(5, -4), textcoords="offset points", fontsize=6.5, color=GREY, va="top"
        )
    costs = [row.cost(against) / size for row in there]
    if min(costs) > 0 and max(costs) > 5 * min(costs):
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())
        if len([tick for tick in axes.get_xticks() if min(costs) <= tick <= max(costs)]) < 2:
            axes.set_xticks(sorted({min(costs), max(costs)}))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axes.margins(x=0.14, y=0.1)
    unit = prefix + {"mm2": "mm²"}.get(COSTS[against][0], COSTS[against][0])
    axes.set_xlabel(f"area ({unit})" if against == "area" else f"{against} of one inference ({unit})")
    axes.set_ylabel(scale.axis)
    axes.set_title(f"{scale.name} against {against}; lines are 95 % intervals over chips")


def _prefix(value: float) -> tuple[float, str]:
    for size, prefix in ((1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n")):
        if value >= size:
            return size, prefix
    return 1e-12, "p"


def _name(row: TradeOffRow, view: TradeOffView) -> str:
    """The values of a combination; without the parameter's name where there is one parameter."""
    if len(view.result.names) == 1:
        return next(iter(row.values.values()))
    return ", ".join(row.values.values())
