"""The figure of an experiment: one line for each group of training seeds, with its band."""

import os
import textwrap
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from crossbar_sim.files import replacing
from crossbar_sim.robustness.curve_figure import looks
from crossbar_sim.robustness.figure import METADATA
from crossbar_sim.robustness.groups import GroupPoint, boundless, group_curve, groups_in
from crossbar_sim.robustness.page.look import Names, Scale, Style, sigma_axis
from crossbar_sim.robustness.sweep import Sweep
from crossbar_sim.text import visible

WIDTH, HEIGHT, DPI = 5.2, 3.3, 160
CHARACTERS = 88
"""Of a line of the title."""

FEW_BANDS = 4
"""With more groups than this, bands are paler."""


def draw_groups(
    sweep: Sweep, path: str | os.PathLike[str], *, title: str | None = None, threshold: float | None = None
) -> None:
    """Mean score over sigma, a line for each group; the text below the title says what the bands are.

    Where a band would cover the figure (`boundless`), the group's networks are drawn as thin lines in its place.

    Args:
        sweep: of one metric.
        path: of the .png; the same sweep gives the same bytes.
        title: above it.
        threshold: drawn as a dotted line, as shown.

    Raises:
        InputError: if the file cannot be written.
    """
    scale, groups = Scale.of(sweep.metric), groups_in(sweep)
    curves = {group: group_curve(sweep, group) for group in groups}
    names, wide = Names.of(list(groups)), boundless(curves)
    with looks():
        figure = Figure(figsize=(WIDTH, HEIGHT), layout=ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.04))
        FigureCanvasAgg(figure)
        ax = figure.subplots()
        drawn = []
        for place, (group, points) in enumerate(curves.items()):
            look = Style.of(place)
            x = np.array([point.sigma for point in points])
            mean = 100 * np.array([scale.shown(point.mean) for point in points])
            ax.plot(
                x, mean, color=look.colour, linestyle=(0, look.dash) if look.dash else "-", marker=look.marker,
                markevery=max(len(points) // 16, 1), label=names.short[group], zorder=3,
            )  # fmt: skip
            drawn += [mean]
            if group in wide:
                for label in groups[group]:
                    at, alone = _network(sweep, label, scale)
                    ax.plot(at, alone, color=look.colour, lw=0.6, alpha=0.7, zorder=2)
                    drawn += [np.array(alone)]
                continue
            bands = [_band(point, scale) for point in points]
            if all(band is None for band in bands):
                continue
            low, high = (
                100 * np.array([np.nan if band is None else band[i] for band in bands]) for i in (0, 1)
            )
            pale = 0.22 if len(groups) <= FEW_BANDS else 0.12
            ax.fill_between(x, low, high, color=look.colour, alpha=pale, lw=0, zorder=2)
        if threshold is not None:
            ax.axhline(100 * threshold, color="#555555", lw=0.7, ls=":", zorder=1)
        _limits(ax, drawn, scale.more_is_better)
        ax.set(ylabel=f"mean {scale.name} (%)", xlabel=sigma_axis(sweep))
        ax.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 3, 5, 10]))
        ax.margins(x=0.02)
        ax.grid(True, color="#e6e6e6", lw=0.5, zorder=0)
        ax.set_axisbelow(True)
        if len(groups) > 1:
            figure.legend(loc="outside right center", borderaxespad=0.2)
        lines = [
            *textwrap.wrap(visible(title or ""), CHARACTERS),
            *textwrap.wrap("; ".join([band_words(curves.values()), *_wide_words(names, wide)]), CHARACTERS),
        ]
        figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=7.5)
        with replacing(path) as temporary:
            figure.savefig(temporary, format="png", metadata=METADATA[".png"], dpi=DPI)


def band_words(curves: Iterable[Sequence[GroupPoint]]) -> str:
    """What the bands are, in words."""
    points = [point for curve in curves for point in curve]
    several = sorted({point.networks for point in points if point.networks > 1})
    alone = [point for point in points if point.networks == 1]
    parts = []
    if several:
        n = str(several[0]) if len(several) == 1 else f"{several[0]} to {several[-1]}"
        parts.append(f"95 % t intervals over n = {n} training seeds")
    if alone and any(point.ci95_chips is not None for point in alone):
        chips = sorted({point.chips for point in alone})
        n = str(chips[0]) if len(chips) == 1 else f"{chips[0]} to {chips[-1]}"
        parts.append(
            f"95 % t intervals over {n} chips" + (" for single networks" if several else ", one network each")
        )
    return f"bands: {'; '.join(parts)}" if parts else "no bands: one chip of one network"


def _wide_words(names: Names, wide: Iterable[str]) -> list[str]:
    """Of groups without a band."""
    said = ", ".join(sorted(names.short[group] for group in wide))
    return [f"{said}: an interval wider than the figure, thin lines are its networks"] if said else []


def _network(sweep: Sweep, label: str, scale: Scale) -> tuple[list[float], list[float]]:
    """Sigmas, and the mean score of one network there in per cent."""
    points = sorted(sweep.curve(label), key=lambda point: point.sigma)
    return [point.sigma for point in points], [100 * scale.shown(point.summary.mean) for point in points]


def _band(point: GroupPoint, scale: Scale) -> tuple[float, float] | None:
    """Over seeds; of a single network over its chips."""
    ends = point.ci95 if point.networks > 1 else point.ci95_chips
    return None if ends is None else scale.span(*ends)


def _limits(ax: Axes, drawn: Sequence[np.ndarray], share: bool) -> None:
    """Wide bands must not press the lines together: the axis is that of all lines, and shares end at 100 %."""
    values = np.concatenate(drawn)
    low, high = float(values.min()), float(values.max())
    pad = 0.12 * (high - low or 1.0)
    top = min(high + pad, 100.5) if share else high + pad
    ax.set_ylim(max(low - pad, -0.5) if share else low - pad, top)
