"""Figures of a sweep and of groups: score over sigma, yields, differences."""

import os
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from crossbar_sim.errors import InputError
from crossbar_sim.files import replacing
from crossbar_sim.report.figure import METADATA, STYLE
from crossbar_sim.report.look import Names, Scale, Style, law_of, sigma_axis, sigma_text
from crossbar_sim.report.rows import (
    default_threshold,
    drops,
    layer_names,
    most_sensitive,
    narrowed,
    telling,
    thresholds,
    yield_curve,
)
from crossbar_sim.robustness.groups import GroupPoint, boundless, group_curve, groups_in
from crossbar_sim.robustness.sweep import Sweep
from crossbar_sim.text import visible

# A sweep as figures for papers, one column wide: curves, differences, yield, sensitivity of layers.


COLUMN = 3.4
"""Inches: the width of one column of a two-column page."""

LOOK = [*STYLE, {
    "font.size": 7.5, "axes.labelsize": 7.5, "axes.titlesize": 7.5, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "legend.frameon": False, "legend.handlelength": 2.6, "lines.linewidth": 1.1,
    "lines.markersize": 3, "svg.fonttype": "none",
}]  # fmt: skip
"""Text in SVG stays text: it takes the font of the paper and can be searched."""

FORMATS = (".pdf", ".png", ".svg")
"""Of `draw_figures`."""

MOST_STEPS = 2000
"""Of a yield curve: different scores of chips."""

MOST_LAYERS = 15
"""Layers in the figure of sensitivity, the most sensitive first."""


def draw_curves(
    sweep: Sweep, path: str | os.PathLike[str] | None = None, *, threshold: float | None = None
) -> Figure:
    """Mean score over sigma, with its 95 % band where there is more than one chip.

    Args:
        sweep: of one metric.
        path: where to; its suffix is the format: .png, .pdf or .svg. The same sweep gives the same bytes.
        threshold: drawn as a dotted line, as shown (an output error is positive); None: not.

    Raises:
        InputError: for another suffix, if nothing was measured yet, or if the file cannot be written.
    """
    return _figure(_curves, narrowed(sweep, None), threshold, path)


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
    if threshold is None:
        threshold = default_threshold(sweep)
    drawings: dict[str, Callable[[Axes, Sweep, float | None], None]] = {"curves": _curves}
    if _compared(sweep):
        drawings["differences"] = _differences
    if any(len(p.trials) > 1 for points in sweep.curves.values() for p in points):
        drawings["yield"] = _yield
    if drops(sweep):
        drawings["sensitivity"] = _sensitivity
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the directory {directory}: {error.strerror or error}") from error
    written = []
    for name, drawing in drawings.items():
        for suffix in FORMATS:
            written.append(folder / f"{name}{suffix}")
            _figure(drawing, sweep, threshold, written[-1])
    return written


def _figure(
    drawing: Callable[[Axes, Sweep, float | None], None],
    sweep: Sweep,
    threshold: float | None,
    path: str | os.PathLike[str] | None,
) -> Figure:
    suffix = "" if path is None else Path(path).suffix.lower()
    if path is not None and suffix not in METADATA:
        raise InputError(f"{path}: a figure is written as {', '.join(METADATA)}, chosen by the suffix")
    with looks():
        figure = Figure(figsize=(COLUMN, 2.4), layout=ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03))
        FigureCanvasAgg(figure)
        drawing(figure.subplots(), sweep, threshold)
        if path is not None:
            with replacing(path) as temporary:
                figure.savefig(temporary, format=suffix[1:], metadata=METADATA[suffix], dpi=300)
    return figure


@contextmanager
def looks() -> Iterator[None]:
    """The style of the figures, whatever the user has set for their own."""
    with style.context(LOOK), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in a script that the font lacks
        yield


def _curves(ax: Axes, sweep: Sweep, threshold: float | None) -> None:
    scale, names = Scale.of(sweep.metric), Names.of(sweep.labels)
    count = max(len(points) for points in sweep.curves.values())
    for place, label in enumerate(sweep.labels):
        points, look = sweep.curve(label), Style.of(place)
        x = np.array([p.sigma for p in points]) * _unit(sweep)
        mean = 100 * np.array([scale.shown(p.summary.mean) for p in points])
        spans = [None if p.summary.ci95 is None else scale.span(*p.summary.ci95) for p in points]
        known = np.array([span is not None for span in spans])
        low, high = (100 * np.array([np.nan if span is None else span[i] for span in spans]) for i in (0, 1))
        ax.plot(
            x, mean, color=look.colour, linestyle=(0, look.dash) if look.dash else "-", marker=look.marker,
            markevery=max(count // 16, 1), label=names.short[label], zorder=3,
        )  # fmt: skip
        if len(points) == 1 and known.all():
            ax.vlines(x, low, high, color=look.colour, lw=1, zorder=2)
        elif known.any():
            ax.fill_between(x, low, high, where=known.tolist(), color=look.colour, alpha=0.22, lw=0, zorder=2)
    if threshold is not None:
        ax.axhline(100 * threshold, color="#555555", lw=0.7, ls=":", zorder=1)
    ax.set_ylabel(f"{scale.name} (%)")
    _sigmas(ax, sweep)
    _legend(ax, len(sweep.labels))


def _differences(ax: Axes, sweep: Sweep, threshold: float | None) -> None:
    """Every other model less the first; open marks are not significant, or one chip."""
    scale, names = Scale.of(sweep.metric), Names.of(sweep.labels)
    first, others = sweep.labels[0], _compared(sweep)
    sigmas = [p.sigma for p in sweep.curve(first)]
    step = _unit(sweep) * (sigmas[-1] - sigmas[0] or 1.0) / max(len(sigmas), 2)
    ax.axhline(0, color="#777777", lw=0.7, zorder=1)
    exact = False
    for place, label in enumerate(others):
        look = Style.of(sweep.labels.index(label))
        aside = 0.5 * step * ((place + 0.5) / len(others) - 0.5)
        for sigma, pair in sweep.paired(label, first):
            x, shown = sigma * _unit(sweep) + aside, 100 * scale.shown(pair.difference)
            if pair.interval is not None:
                span = scale.span(pair.interval.low, pair.interval.high)
                ax.vlines(x, 100 * span[0], 100 * span[1], color=look.colour, lw=0.8, zorder=2)
            exact = exact or pair.exact
            clear = pair.exact or (pair.adjusted is not None and pair.adjusted < 0.05)
            ax.plot(
                x,
                shown,
                look.marker,
                color=look.colour,
                mfc=look.colour if clear else "white",
                mew=0.8,
                zorder=3,
            )
        ax.plot([], [], look.marker, color=look.colour, label=names.short[label])
    ax.set_ylabel(f"{scale.name} less that of\n{names.short[first]} (points)")
    known = "filled: p < 0.05 after Holm" + (", or exact (nothing random)" if exact else "")
    _sigmas(ax, sweep, f"{known};\nlines: 95 % intervals" if exact else f"{known}; lines: 95 % intervals")
    _legend(ax, len(others) + 1)


def _yield(ax: Axes, sweep: Sweep, threshold: float | None) -> None:
    """Against the threshold, at the sigma that tells most."""
    scale, names = Scale.of(sweep.metric), Names.of(sweep.labels)
    sigmas = sorted({p.sigma for points in sweep.curves.values() for p in points})
    sigma = telling(sweep, sigmas, None if threshold is None else scale.shown(threshold))
    points = [(label, p) for label in sweep.labels for p in sweep.curve(label) if p.sigma == sigma]
    limits = thresholds([value for _, point in points for value in point.values], scale, 80)
    side: Literal["pre", "post"] = "pre" if scale.more_is_better else "post"
    for label, point in points:
        look = Style.of(sweep.labels.index(label))
        found = yield_curve(point, limits, scale, MOST_STEPS)
        x = 100 * np.array([limit for limit, _ in found])
        ax.plot(
            x, [100 * f.value for _, f in found], color=look.colour, linestyle=(0, look.dash) if look.dash else "-",
            marker="", drawstyle="default" if point.drawn else f"steps-{side}", label=names.short[label], zorder=3,
        )  # fmt: skip
        low, high = ([100 * f.ci95[i] for _, f in found] for i in (0, 1))
        ax.fill_between(
            x, low, high, step=None if point.drawn else side, color=look.colour, alpha=0.18, lw=0, zorder=2
        )
    if threshold is not None:
        ax.axvline(100 * threshold, color="#555555", lw=0.7, ls=":", zorder=1)
    word = "least" if scale.more_is_better else "largest"
    ax.set(xlabel=f"threshold: {word} {scale.name} (%)", ylabel="yield (%)", ylim=(-2, 102))
    ax.set_title(f"{sigma_axis(sweep).removesuffix(' (S)')} {sigma_text(sigma)}")
    _legend(ax, len(points))


def _sensitivity(ax: Axes, sweep: Sweep, threshold: float | None) -> None:
    """What each layer costs alone."""
    scale, names, found = Scale.of(sweep.metric), Names.of(sweep.labels), drops(sweep)
    kept = most_sensitive(found)[:MOST_LAYERS]
    models = [label for label in sweep.labels if any(d.label == label for d in found)]
    figure = ax.figure
    assert isinstance(figure, Figure)
    figure.set_figheight(max(1.6, 0.9 + len(kept) * (0.08 + 0.1 * len(models))))
    high = 0.84 / len(models)
    for drop in found:
        if drop.layer not in kept:
            continue
        place = models.index(drop.label)
        look = Style.of(sweep.labels.index(drop.label))
        y = kept.index(drop.layer) + (place - (len(models) - 1) / 2) * high
        ax.barh(y, 100 * drop.mean, 0.92 * high, color=look.colour, alpha=0.75, lw=0)
        if drop.span is not None:
            ax.hlines(y, 100 * drop.span[0], 100 * drop.span[1], color="black", lw=0.8, zorder=3)
        if len(models) > 1:
            ax.plot(100 * drop.mean, y, look.marker, color="black", ms=2.4, zorder=4)
    if len(models) > 1:
        for label in models:
            look = Style.of(sweep.labels.index(label))
            ax.plot([], [], look.marker, color=look.colour, label=names.short[label])
    ax.axvline(0, color="black", lw=0.6)
    ax.set_yticks(range(len(kept)), layer_names(kept))
    ax.set_ylim(len(kept) - 0.45, -0.55)
    ax.tick_params(axis="y", length=0)
    what = f"drop in {scale.name}" if scale.more_is_better else scale.name
    ax.set_xlabel(f"{what} with this layer alone on arrays (points)")
    _legend(ax, len(models))


def _compared(sweep: Sweep) -> list[str]:
    """The models that share a chip and the data with the first one at any sigma."""
    first, *others = sweep.labels
    return [other for other in others if not sweep.not_paired(first, other)]


def _unit(sweep: Sweep) -> float:
    """What sigmas are multiplied by: those in siemens are drawn in microsiemens."""
    return 1e6 if all(_in_siemens(task.identity) for task in sweep.tasks.values()) else 1.0


def _in_siemens(identity: object) -> bool:
    return isinstance(identity, dict) and (law_of(identity)[1] or law_of(identity)[0] == "relaxation")


def _sigmas(ax: Axes, sweep: Sweep, more: str = "") -> None:
    title = sigma_axis(sweep).replace("(S)", "(µS)")
    ax.set_xlabel(f"{title}\n{more}" if more else title)
    values = sorted({p.sigma * _unit(sweep) for points in sweep.curves.values() for p in points})
    if len(values) == 1:
        ax.set(xlim=(values[0] - 0.5, values[0] + 0.5), xticks=values)
    else:
        ax.margins(x=0.02)
        ax.xaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]))
    ax.grid(True, color="#e6e6e6", lw=0.5, zorder=0)
    ax.set_axisbelow(True)


def _legend(ax: Axes, models: int) -> None:
    """Above the axes, where it hides nothing; none for a single model."""
    if models < 2:
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
