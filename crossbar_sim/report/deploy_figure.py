"""The report of `deploy` as one figure: scores of the chips, sensitivity of the layers, a map of cells."""

import os
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from torch import nn

from crossbar_sim.crossbar.layer_designs import designs_of
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.nn.analog import chips
from crossbar_sim.report.deployment_rows import DeploymentView
from crossbar_sim.report.figure import (
    BLUE,
    GREY,
    PALE,
    RED,
    WIDTH,
    figure_style,
    figure_with,
    new_figure,
    save,
)
from crossbar_sim.report.figure_formats import check_format
from crossbar_sim.report.formatting import Scale, fit, shorten
from crossbar_sim.robustness.deploy import Deployment
from crossbar_sim.text import visible

LAYERS_SHOWN, CELLS_SHOWN, NAME_SHOWN = 15, 128, 30


class ConductanceMap(NamedTuple):
    """Cells of one plane before and after drift, in S, shape (rows, cols)."""

    name: str
    before: Float32
    after: Float32


def conductance_maps(model: nn.Module, layer_name: str | None = None) -> ConductanceMap | None:
    """The first tile of a layer's first plane, as the model's present chip has it.

    Args:
        model: analog.
        layer_name: a layer with a matrix on arrays; None, or another name: the first such layer.

    Returns:
        Programmed and drifted conductances (without a drift law: target and programmed), or None where
        the conductances come from a file, which gives weights only.
    """
    design = chips.analog_state(model)
    arrays = [(s, m) for s, m in chips.slots(model) if s.layout.order != "vector" and not s.ideal]
    if design.maps is not None or not arrays:
        return None
    slot, module = next((a for a in arrays if a[0].layer == layer_name), arrays[0])
    hardware, columns = (
        design.of(slot.layer),
        slot.columns(module).detach().float().cpu().contiguous().numpy(),
    )
    rows = columns.shape[1]
    high, wide = (min(side, CELLS_SHOWN) for side in hardware.tile)
    wide = min(wide, slot.layout.cols)  # of the first group: the others are on tiles of their own
    # Whole bit lines of the whole matrix with its scale: a cell's number is that of the chip.
    stages = hardware.stages(
        columns, hardware.mapping.scale(columns), design.key(slot.name), design.chip, 0, slice(0, wide * rows)
    )
    drifts = hardware.drift is not None
    before, after = (stages.programmed, stages.drifted) if drifts else (stages.target, stages.programmed)
    several = sum(other.layer == slot.layer for other, _ in arrays) > 1
    return ConductanceMap(
        slot.name if several else slot.layer,
        np.ascontiguousarray(before.reshape(wide, rows).T[:high]),
        np.ascontiguousarray(after.reshape(wide, rows).T[:high]),
    )


def draw(
    deployment: Deployment,
    path: str | os.PathLike[str],
    maps: tuple[str, Float32, Float32] | None = None,
) -> None:
    """Draw the report.

    Args:
        deployment: what `deploy` found.
        path: where to; its suffix is the format: .png, .pdf or .svg. The same deployment gives the
            same bytes.
        maps: (layer, before, after), cells (rows, cols) in S of the first of the deployment's chips, see
            `conductance_maps`; None: two panels only.

    Raises:
        InputError: for another suffix, or if the file cannot be written; what was there is unchanged.
    """
    check_format(path)
    with figure_style():
        save(_figure(deployment, maps), path, dpi=200)


def draw_deployment(
    deployment: Deployment, path: str | os.PathLike[str] | None = None, *, ax: Axes | None = None
) -> Figure:
    """The report as a figure for Python and notebooks.

    Args:
        deployment: what `deploy` found.
        path: also written here; its suffix is the format: .png, .pdf or .svg.
        ax: only the scores of the chips, drawn into these axes of a figure of yours.

    Raises:
        InputError: for another suffix, or if the file cannot be written.
    """
    if ax is not None:
        return figure_with(ax, path, lambda ax: _scores(ax, deployment))
    with figure_style():
        figure = _figure(deployment, None)
        if path is not None:
            check_format(path)
            save(figure, path, dpi=200)
    return figure


def _figure(deployment: Deployment, maps: tuple[str, Float32, Float32] | None) -> Figure:
    reports = [r for r in deployment.layers if r.sensitivity]
    top = max(2.5, 0.7 + 0.19 * min(len(reports), LAYERS_SHOWN))
    heights = [top, 2.6] if maps is not None else [top]
    figure = new_figure(WIDTH, sum(heights), w_pad=0.06, h_pad=0.06)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    long = max((len(r.layer.name) for r in reports), default=0) > 16
    # Each panel lays itself out: the lines below panel b would leave as much blank space below panel a.
    left, right = parts[0].subfigures(1, 2, width_ratios=(1, 1.5 if long else 1.15))
    _scores(left.subplots(), deployment)
    _sensitivity(right.subplots(), deployment)
    if maps is not None:
        _cells(parts[1], deployment, *maps)
    return figure


def _scores(ax: Axes, deployment: Deployment) -> None:
    """Panel a: every chip, their mean with its interval, the clean score, the threshold."""
    view = DeploymentView(deployment)
    total, passing, limit = view.total, deployment.passing, view.limit
    scale = view.scale
    n, digits, factor = len(total.per_chip), scale.digits_of(total), scale.factor
    scores = factor * np.asarray(total.per_chip)
    # Golden-section steps spread neighbours evenly, and the same way every time.
    x = np.zeros(1) if n == 1 else 0.24 * ((np.arange(n) * 0.6180339887498949) % 1 - 0.5)
    size = float(np.clip(400 / n, 4, 22))
    ax.scatter(x, scores, s=size, color=BLUE, alpha=0.65, linewidths=0, zorder=3, rasterized=n > 2000)
    labels: list[tuple[float, str, str]] = []
    if total.ci95 is not None:
        mean, (low, high) = factor * total.mean, (factor * bound for bound in total.ci95)
        ax.errorbar(
            0.24, mean, [[mean - low], [high - mean]],
            fmt="D", ms=4, color="black", capsize=3, lw=1.1, zorder=4,
        )  # fmt: skip
        interval = f"95 %: {scale.fixed(total.ci95[0], digits)} to {scale.fixed(total.ci95[1], digits)}"
        labels.append((mean, f"mean {scale.fixed(total.mean, digits)}{scale.unit}\n({interval})", "black"))
    else:
        labels.append(
            (scores[0], f"{scale.fixed(total.mean, digits)}{scale.unit}\n(one chip: no interval)", "black")
        )
    ax.axhline(factor * view.clean, color=GREY, lw=0.9, zorder=1)
    clean = f"clean {scale.fixed(view.clean, max(digits, 1))}{scale.unit}"
    labels.append((factor * view.clean, clean, GREY))
    if passing is not None and limit is not None:
        ax.axhline(factor * limit, color=RED, lw=0.9, ls=(0, (4, 3)), zorder=1)
        text = f"threshold {scale.limit_text(limit, digits)}\n(yield {100 * passing.value:.0f} %)"
        labels.append((factor * limit, text, RED))
    seen = np.concatenate([scores, [height for height, _, _ in labels]])
    if total.ci95 is not None:
        seen = np.concatenate([seen, factor * np.asarray(total.ci95)])
    pad = 0.06 * (max(float(np.ptp(seen)), 1.0) if scale.per_cent else float(np.ptp(seen)) or 1.0)
    ax.set(xlim=(-0.2, 0.36), ylim=(float(seen.min()) - pad, float(seen.max()) + pad), xticks=[])
    ax.spines["bottom"].set_visible(False)
    _beside(ax, labels)
    ax.set_ylabel(textwrap.fill(scale.axis, 24))
    ax.set_title(f"(a)  {n} chips" if n > 1 else f"(a)  chip {deployment.chips[0]}")


def _beside(ax: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Labels to the right of the axes at their heights, moved apart where they would overlap."""
    low, high = ax.get_ylim()
    wanted = sorted(((y - low) / (high - low), text, colour) for y, text, colour in labels)
    sizes = [0.085 * (text.count("\n") + 1) for _, text, _ in wanted]
    places = [place for place, _, _ in wanted]
    for _ in range(200):
        places[0] = max(places[0], sizes[0] / 2)
        places[-1] = min(places[-1], 1.02 - sizes[-1] / 2)
        for i in range(len(places) - 1):
            overlap = (sizes[i] + sizes[i + 1]) / 2 - (places[i + 1] - places[i])
            if overlap > 0:
                places[i], places[i + 1] = places[i] - overlap / 2, places[i + 1] + overlap / 2
    for place, (_, text, colour) in zip(places, wanted, strict=True):
        ax.text(1.02, place, text, color=colour, transform=ax.transAxes, va="center", fontsize=7.5)


def _sensitivity(ax: Axes, deployment: Deployment) -> None:
    """Panel b: what every layer costs alone, the most sensitive first."""
    scale = Scale.of(deployment.judge)
    ranked = [r for r in DeploymentView(deployment).by_sensitivity if r.sensitivity]
    shown = ranked[:LAYERS_SHOWN]
    ax.set_title("(b)  each layer alone")
    if not shown:
        ax.set_axis_off()
        ax.text(0.5, 0.5, "sensitivity was not measured", ha="center", color=GREY)
        return
    for place, report in enumerate(shown):
        assert report.sensitivity is not None
        drop = report.sensitivity.drop
        ax.barh(place, scale.factor * drop.mean, 0.68, color=BLUE if report.layer.analog else PALE)
        if drop.ci95 is not None:
            ends = [scale.factor * bound for bound in scale.difference_span(*drop.ci95)]
            ax.plot(ends, [place, place], color="black", lw=0.9, solid_capstyle="butt")
    ax.axvline(0, color="black", lw=0.6)
    ax.set_yticks(range(len(shown)), fit([visible(r.layer.name) for r in shown], NAME_SHOWN))
    ax.set_ylim(max(len(shown), 4) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    sensitivity = shown[0].sensitivity
    assert sensitivity is not None
    n = len(sensitivity.drop.per_chip)
    step = f"{scale.step}, " if scale.step else ""
    lines = textwrap.wrap(f"{scale.loss} ({step}{n} chip{'s'[: n > 1]})", 36)
    lines.append("bars: mean, lines: 95 % interval" if n > 1 else "one chip: no interval")
    if not all(r.layer.analog for r in shown):
        lines.append("pale: digital, drifts per parameter")
    if len(shown) < len(ranked):
        lines.append(f"the {len(shown)} most sensitive of {len(ranked)} layers")
    ax.set_xlabel("\n".join(lines))
    if scale.per_cent and np.ptp(ax.get_xlim()) < 1:  # nothing but rounding: no reason to magnify it
        ax.set_xlim(-0.5, 0.5)


def _cells(figure: SubFigure, deployment: Deployment, name: str, before: Float32, after: Float32) -> None:
    """Panel c: one tile before and after, in one scale of colours."""
    axes = figure.subplots(1, 2, sharey=True)
    own = (r.hardware for r in deployment.layers if name in (r.layer.name, *(s.name for s in r.layer.slots)))
    hardware = next(own, designs_of(deployment.hardware)[0])
    # A few cells far out would leave no colour for the rest: they are beyond the end of the bar.
    top = 1e6 * max(float(np.max(before)), float(np.quantile(after, 0.99)))
    bottom = 1e6 * min(float(np.min(before)), float(np.quantile(after, 0.01)))
    over, under = 1e6 * float(np.max(after)) > top, 1e6 * float(np.min(after)) < bottom
    stages = ("programmed", "after drift") if hardware.drift is not None else ("target", "programmed")
    rows, cols = before.shape
    for ax, cells, stage in zip(axes, (before, after), stages, strict=True):
        image = ax.imshow(
            1e6 * cells, cmap="viridis", vmin=bottom, vmax=top if top > bottom else bottom + 1,
            aspect="auto", interpolation="nearest", extent=(-0.5, cols - 0.5, rows - 0.5, -0.5),
        )  # fmt: skip
        for spine in ax.spines.values():
            spine.set_visible(True)
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(7, integer=True, min_n_ticks=1))
        ax.set_xlabel("bit line (column)")
        ax.set_title(stage)
    axes[0].set_ylabel("word line (row)")
    extend = {(1, 1): "both", (1, 0): "max", (0, 1): "min"}.get((int(over), int(under)), "neither")
    figure.colorbar(image, ax=list(axes), label="conductance (µS)", extend=extend, pad=0.02)
    plane = "plane + of the pair, " if hardware.mapping.kind == "differential" else ""
    plane += "first copy, " if hardware.mapping.copies > 1 else ""
    layer = shorten([visible(name)], 36)[0]
    title = f"(c)  layer {layer}, chip {deployment.chips[0]}: {plane}{rows}×{cols} cells of the first tile"
    figure.suptitle(title, x=0.01, ha="left", fontsize=8.5)
