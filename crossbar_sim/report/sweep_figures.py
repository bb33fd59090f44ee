"""Figures of a sweep and of groups: score over sigma, yields, differences."""

import os
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from crossbar_sim.errors import InputError
from crossbar_sim.report.figure import SMALL, figure_style, figure_with, new_figure, save
from crossbar_sim.report.figure_formats import check_format
from crossbar_sim.report.formatting import Names, Style, fit, sigma_text
from crossbar_sim.report.ranking import narrowed
from crossbar_sim.report.rows import Estimate, PointRow, View, default_threshold
from crossbar_sim.robustness.groups import GroupPoint
from crossbar_sim.robustness.sweep import Sweep
from crossbar_sim.text import visible

# A sweep as figures for papers, one column wide: curves, differences, yield, sensitivity of layers.


COLUMN = 3.4
"""Inches: the width of one column of a two-column page."""

FORMATS = (".pdf", ".png", ".svg")
"""Of `draw_figures`."""

MOST_STEPS = 2000
"""Of a yield curve: different scores of chips."""

MOST_LAYERS = 15
"""Layers in the figure of sensitivity, the most sensitive first."""


def draw_curves(
    sweep: Sweep,
    path: str | os.PathLike[str] | None = None,
    *,
    threshold: float | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Mean score over sigma, with its 95 % band where there is more than one chip.

    Args:
        sweep: of one metric.
        path: where to; its suffix is the format: .png, .pdf or .svg. The same sweep gives the same bytes.
        threshold: drawn as a dotted line, as shown (an output error is positive); None: not.
        ax: drawn into these axes of a figure of yours, instead of a new figure.

    Raises:
        InputError: for another suffix, if nothing was measured yet, or if the file cannot be written.
    """
    if ax is not None:
        return figure_with(
            ax, path, lambda ax: _curves(ax, View(narrowed(sweep, None), threshold), inside=True)
        )
    return _figure(_curves, View(narrowed(sweep, None), threshold), path)


def draw_figures(
    sweep: Sweep, directory: str | os.PathLike[str], *, threshold: float | None = None
) -> list[Path]:
    """Write curves, differences, yield and sensitivity as .pdf, .png and .svg, each whole or not at all.

    Args:
        sweep: of one metric.
        directory: made if it is missing. Files are named curves, differences (of several models), yield (of
            several chips), sensitivity (where it was measured).
        threshold: as for `draw_curves`; None: as the page has it.

    Returns:
        What was written.

    Raises:
        InputError: if the directory cannot be made or written to.
    """
    sweep, folder = narrowed(sweep, None), Path(directory)
    view = View(sweep, default_threshold(sweep) if threshold is None else threshold)
    drawings: dict[str, Callable[[Axes, View], None]] = {"curves": _curves}
    if view.differences:
        drawings["differences"] = _differences
    if view.several_chips:
        drawings["yield"] = _yield
    if view.layers:
        drawings["sensitivity"] = _sensitivity
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the directory {directory}: {error.strerror or error}") from error
    written = []
    for name, drawing in drawings.items():
        for suffix in FORMATS:
            written.append(folder / f"{name}{suffix}")
            _figure(drawing, view, written[-1])
    return written


def _figure(drawing: Callable[[Axes, View], None], view: View, path: str | os.PathLike[str] | None) -> Figure:
    if path is not None:
        check_format(path)
    with figure_style(SMALL):
        figure = new_figure(COLUMN, 2.4, w_pad=0.03, h_pad=0.03)
        drawing(figure.subplots(), view)
        if path is not None:
            save(figure, path, dpi=300)
    return figure


def _line(
    ax: Axes, place: int, x: np.ndarray, y: np.ndarray, name: str, factor: float = 100.0, **look: Any
) -> None:
    """A line in the style of the model at this place; `y` is multiplied by the factor, as shares of 1 are by 100."""
    style = Style.of(place)
    known: dict[str, Any] = {
        "color": style.colour, "linestyle": (0, style.dash) if style.dash else "-", "marker": style.marker,
        "markevery": max(len(x) // 16, 1), "label": name, "zorder": 3,
    }  # fmt: skip
    ax.plot(x, factor * y, **(known | look))


def _ends(found: Sequence[Estimate], factor: float = 100.0) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of intervals, of shares in per cent; NaN where there is none."""
    low, high = (
        factor * np.array([np.nan if e is None else e for e in ends])
        for ends in zip(*((f.low, f.high) for f in found), strict=True)
    )
    return low, high


def _threshold(ax: Axes, view: View) -> None:
    if view.threshold is not None:
        ax.axhline(view.scale.factor * view.threshold, color="#555555", lw=0.7, ls=":", zorder=1)


def _curves(ax: Axes, view: View, inside: bool = False) -> None:
    every = max(max(map(len, view.curves.values())) // 16, 1)
    for place, (label, rows) in enumerate(view.curves.items()):
        colour, x = Style.of(place).colour, _sigmas_of(view, rows)
        mean = np.array([row.mean.value for row in rows])
        _line(ax, place, x, mean, view.names.short[label], view.scale.factor, markevery=every)
        low, high = _ends([row.mean for row in rows], view.scale.factor)
        known = np.isfinite(low)
        if len(rows) == 1 and known.all():
            ax.vlines(x, low, high, color=colour, lw=1, zorder=2)
        elif known.any():
            ax.fill_between(x, low, high, where=known.tolist(), color=colour, alpha=0.22, lw=0, zorder=2)
    _threshold(ax, view)
    ax.set_ylabel(view.scale.axis)
    if _spans_decades(view):
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_formatter(NullFormatter())
    _sigmas(ax, view)
    _legend(ax, len(view.labels), inside)


def _spans_decades(view: View) -> bool:
    """Whether scores of which less is better, and which are no shares, differ by more than a factor of 300."""
    means = [row.mean.value for row in view.points]
    wide = not view.scale.more_is_better and not view.scale.per_cent and min(means) > 0
    return wide and max(means) > 300 * min(means)


def _differences(ax: Axes, view: View) -> None:
    """Every other model minus the first; open marks are not significant, or one chip."""
    first, unit, factor = view.labels[0], view.sigma_unit, view.scale.factor
    sigmas = [row.sigma for row in view.curves[first]]
    step = unit * (sigmas[-1] - sigmas[0] or 1.0) / max(len(sigmas), 2)
    ax.axhline(0, color="#777777", lw=0.7, zorder=1)
    for place, (label, rows) in enumerate(view.differences.items()):
        look = Style.of(view.labels.index(label))
        aside = 0.5 * step * ((place + 0.5) / len(view.differences) - 0.5)
        for row in rows:
            x = row.sigma * unit + aside
            if row.difference.span is not None:
                low, high = row.difference.span
                ax.vlines(x, factor * low, factor * high, color=look.colour, lw=0.8, zorder=2)
            fill = look.colour if row.exact or row.significant else "white"
            y = factor * row.difference.value
            ax.plot(x, y, look.marker, color=look.colour, mfc=fill, mew=0.8, zorder=3)
        ax.plot([], [], look.marker, color=look.colour, label=view.names.short[label])
    ax.set_ylabel(f"{view.scale.compared} minus that of\n{view.names.short[first]}{view.scale.steps}")
    exact = any(row.exact for rows in view.differences.values() for row in rows)
    known = "filled: p < 0.05 after Holm" + (", or exact (nothing random)" if exact else "")
    _sigmas(ax, view, f"{known};\nlines: 95 % intervals" if exact else f"{known}; lines: 95 % intervals")
    _legend(ax, len(view.differences) + 1)


def _yield(ax: Axes, view: View) -> None:
    """Against the threshold, at the sigma where the yield of the first model is nearest to a half."""
    scale, sigma = view.scale, view.telling_sigma(view.sigmas)
    curves = view.yields(sigma, 80, MOST_STEPS)
    side: Literal["pre", "post"] = "pre" if scale.more_is_better else "post"
    for label, rows in curves.items():
        place, smooth = view.labels.index(label), rows[0].drawn
        x = scale.factor * np.array([row.limit for row in rows])
        share = np.array([row.passing.value for row in rows])
        drawn = "default" if smooth else f"steps-{side}"
        _line(ax, place, x, share, view.names.short[label], marker="", markevery=None, drawstyle=drawn)
        low, high = _ends([row.passing for row in rows])
        ax.fill_between(
            x, low, high, step=None if smooth else side, color=Style.of(place).colour, alpha=0.18, lw=0, zorder=2
        )  # fmt: skip
    if view.threshold is not None:
        ax.axvline(scale.factor * view.threshold, color="#555555", lw=0.7, ls=":", zorder=1)
    word = "least" if scale.more_is_better else "largest"
    ax.set(xlabel=f"threshold: {word} {scale.axis}", ylabel="yield (%)", ylim=(-2, 102))
    ax.set_title(f"{view.sigma_axis.removesuffix(' (S)')} {sigma_text(sigma)}")
    _legend(ax, len(curves))


def _sensitivity(ax: Axes, view: View) -> None:
    """What each layer costs alone."""
    kept = view.most_sensitive[:MOST_LAYERS]
    measured = {row.label for row in view.layers}
    models = [label for label in view.labels if label in measured]
    figure = ax.figure
    assert isinstance(figure, Figure)
    figure.set_figheight(max(1.6, 0.9 + len(kept) * (0.08 + 0.1 * len(models))))
    high = 0.84 / len(models)
    for row in view.layers:
        if row.layer not in kept:
            continue
        look, mean = Style.of(view.labels.index(row.label)), view.scale.factor * row.drop.value
        y = kept.index(row.layer) + (models.index(row.label) - (len(models) - 1) / 2) * high
        ax.barh(y, mean, 0.92 * high, color=look.colour, alpha=0.75, lw=0)
        if row.drop.span is not None:
            left, right = (view.scale.factor * end for end in row.drop.span)
            ax.hlines(y, left, right, color="black", lw=0.8, zorder=3)
        if len(models) > 1:
            ax.plot(mean, y, look.marker, color="black", ms=2.4, zorder=4)
    if len(models) > 1:
        for label in models:
            look = Style.of(view.labels.index(label))
            ax.plot([], [], look.marker, color=look.colour, label=view.names.short[label])
    ax.axvline(0, color="black", lw=0.6)
    ax.set_yticks(range(len(kept)), fit([visible(layer) for layer in kept], 24))
    ax.set_ylim(len(kept) - 0.45, -0.55)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(f"{view.scale.loss} with this layer alone on arrays{view.scale.steps}")
    _legend(ax, len(models))


def _sigmas_of(view: View, rows: Sequence[PointRow]) -> np.ndarray:
    """Sigmas in the unit of the axis."""
    return np.array([row.sigma for row in rows]) * view.sigma_unit


def _sigmas(ax: Axes, view: View, more: str = "") -> None:
    title = view.sigma_axis.replace("(S)", "(µS)")
    ax.set_xlabel(f"{title}\n{more}" if more else title)
    values = [sigma * view.sigma_unit for sigma in view.sigmas]
    if len(values) == 1:
        ax.set(xlim=(values[0] - 0.5, values[0] + 0.5), xticks=values)
    else:
        ax.margins(x=0.02)
        ax.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
    _grid(ax)


def _grid(ax: Axes) -> None:
    ax.grid(True, color="#e6e6e6", lw=0.5, zorder=0)
    ax.set_axisbelow(True)


def _legend(ax: Axes, models: int, inside: bool = False) -> None:
    """Above the axes, where it hides nothing, or inside those of a caller's figure; none for a single model."""
    if models < 2:
        return
    if inside:
        ax.legend(frameon=False)
        return
    texts: Sequence[str] = ax.get_legend_handles_labels()[1]
    columns = max(1, min(len(texts), 52 // (max(map(len, texts)) + 8)))
    figure = ax.figure
    assert isinstance(figure, Figure)
    rows = -(-len(texts) // columns)
    figure.set_figheight(figure.get_figheight() + 0.14 * rows)
    figure.legend(loc="outside upper left", ncols=columns, borderaxespad=0.1, columnspacing=1.4)


# The figure of an experiment: one line for each group of training seeds, with its band.


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
    view = View(sweep, threshold)
    names, factor = Names.of(list(view.groups)).short, view.scale.factor
    with figure_style(SMALL):
        figure = new_figure(WIDTH, HEIGHT, w_pad=0.04, h_pad=0.04)
        ax = figure.subplots()
        drawn = []
        for place, (group, rows) in enumerate(view.group_curves.items()):
            colour = Style.of(place).colour
            x, mean = np.array([row.sigma for row in rows]), np.array([row.mean.value for row in rows])
            _line(ax, place, x, mean, names[group], factor)
            drawn += [factor * mean]
            if group in view.wide:
                for label in view.groups[group]:
                    at = [row.sigma for row in view.curves[label]]
                    alone = factor * np.array([row.mean.value for row in view.curves[label]])
                    ax.plot(at, alone, color=colour, lw=0.6, alpha=0.7, zorder=2)
                    drawn += [alone]
                continue
            # Over seeds; of a single network over its chips.
            low, high = _ends([row.mean if row.networks > 1 else row.over_chips for row in rows], factor)
            if np.isfinite(low).any():
                pale = 0.22 if len(view.groups) <= FEW_BANDS else 0.12
                ax.fill_between(x, low, high, color=colour, alpha=pale, lw=0, zorder=2)
        _threshold(ax, view)
        _limits(ax, drawn, view.scale.more_is_better and view.scale.per_cent)
        ax.set(ylabel=f"mean {view.scale.axis}", xlabel=view.sigma_axis)
        ax.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 3, 5, 10]))
        ax.margins(x=0.02)
        _grid(ax)
        if len(view.groups) > 1:
            figure.legend(loc="outside right center", borderaxespad=0.2)
        bands = band_words(view.group_points.values())
        if wide := ", ".join(sorted(names[group] for group in view.wide)):
            bands += f"; {wide}: an interval wider than the figure, thin lines are its networks"
        lines = [*textwrap.wrap(visible(title or ""), CHARACTERS), *textwrap.wrap(bands, CHARACTERS)]
        figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=7.5)
        save(figure, path, DPI)


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


def _limits(ax: Axes, drawn: Sequence[np.ndarray], share: bool) -> None:
    """Wide bands must not press the lines together: the axis is that of all lines, and shares end at 100 %."""
    values = np.concatenate(drawn)
    low, high = float(values.min()), float(values.max())
    pad = 0.12 * (high - low or 1.0)
    top = min(high + pad, 100.5) if share else high + pad
    ax.set_ylim(max(low - pad, -0.5) if share else low - pad, top)
