"""Boxes that chips detect, drawn over images (Fig. 4 of the BayesFT paper)."""

import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from crossbar_sim.crossbar.layer_designs import Design, at_sigma
from crossbar_sim.data.inputs import one_tensor
from crossbar_sim.errors import InputError
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.conversion import map_model
from crossbar_sim.nn.detection import BLOCK, check_task, truth
from crossbar_sim.nn.evaluate import outputs
from crossbar_sim.report.figure import SMALL, figure_style, new_figure, save
from crossbar_sim.report.figure_formats import check_format
from crossbar_sim.report.formatting import shorten
from crossbar_sim.robustness.groups import groups_of
from crossbar_sim.robustness.tasks import Model
from crossbar_sim.text import visible

LEAST = 0.5
"""Boxes with lower scores are not drawn."""

IMAGES, COLUMNS, CELL, DPI = 2, 5, 1.15, 100
"""Images and sigmas that are drawn, at most; inches of one; dots of an inch."""

FOUND, TRUE = "#e8590c", "#ffffff"


def draw_boxes(
    models: Mapping[str, nn.Module],
    x: Tensor,
    y: Tensor,
    hardware: Design,
    sigmas: Sequence[float],
    path: str | os.PathLike[str] | None = None,
    *,
    images: Sequence[int] | None = None,
    seed: int = 0,
    chip: int = 0,
    only: tuple[str, ...] | None = None,
    skip: tuple[str, ...] = (),
) -> Figure:
    """A row for each model and image, a column for each sigma: detections of one chip beside the true boxes.

    Found boxes are solid, with their scores, where these are at least `LEAST`; the objects' own are dashed.

    Args:
        models: label -> detector; they are left in evaluation mode.
        x, y: scenes, see `data.Scenes`.
        hardware: the design; its drift takes each sigma.
        sigmas: drawn where they are few, else `COLUMNS` of them from first to last.
        path: where to; its suffix is the format: .png, .pdf or .svg.
        images: numbers of images in x; None: the first `IMAGES`.
        seed, chip: which chip; the same for all models and sigmas.
        only, skip: see `to_analog`.

    Raises:
        InputError: if a model is no detector, there is nothing to draw, or the file cannot be written.
    """
    if path is not None:
        check_format(path)
    chosen = list(range(min(IMAGES, len(x)))) if images is None else list(images)
    if not models or not chosen or not sigmas or not all(0 <= i < len(x) for i in chosen):
        raise InputError(
            f"{len(models)} models, {len(sigmas)} sigmas and images {chosen} of {len(x)}: nothing to draw"
        )
    columns = spread(sigmas)
    pictures, true_boxes = x[chosen], truth(y[chosen])
    names = shorten(list(models), 22)
    with figure_style(SMALL):
        rows = len(models) * len(chosen)
        figure = new_figure(
            0.25 + CELL * len(columns), 0.25 + CELL * rows, w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01
        )
        axes = figure.subplots(rows, len(columns), squeeze=False)
        for m, (name, model) in enumerate(zip(names, models.values(), strict=True)):
            check_task(model, y)
            analog, _ = map_model(
                model.eval(), at_sigma(hardware, columns[0]), pictures, seed, chip, only, skip
            )
            for j, sigma in enumerate(columns):
                chips.set_hardware(analog, at_sigma(hardware, sigma))
                found = [t for block in outputs(analog, pictures, BLOCK) for t in block.cpu()]
                for i in range(len(chosen)):
                    ax = axes[m * len(chosen) + i, j]
                    _cell(ax, pictures[i], found[i], true_boxes[i])
                    if m == i == 0:
                        ax.set_title(f"σ = {sigma:g}", loc="center", pad=3)
                    if j == 0:
                        ax.set_ylabel(visible(name) if i == 0 else "")
        if path is not None:
            save(figure, path, DPI, colours=256)
    return figure


def draw_models(
    models: Sequence[Model],
    hardware: Design,
    sigmas: Sequence[float],
    path: str | os.PathLike[str],
    *,
    seed: int = 0,
    only: tuple[str, ...] | None = None,
    skip: tuple[str, ...] = (),
) -> None:
    """The same for models of a sweep, on the examples of the first; of networks that differ in their seed, one each.

    Raises:
        InputError: as `draw_boxes`.
    """
    examples = models[0].examples
    if examples.y is None:
        raise InputError(
            "boxes need the true objects for comparison: give scenes with objects, such as pennfudan"
        )
    by_label = {model.label: model.module for model in models}
    firsts = {group: by_label[members[0]] for group, members in groups_of([*by_label]).items()}
    draw_boxes(
        firsts,
        one_tensor(examples.x, "a figure of boxes"),
        examples.y,
        hardware,
        sorted(sigmas),
        path,
        seed=seed,
        only=only,
        skip=skip,
    )


def spread(sigmas: Sequence[float]) -> list[float]:
    """At most `COLUMNS` of them, evenly from first to last.

    >>> spread([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8])
    [0.0, 0.2, 0.4, 0.6, 0.8]
    """
    n = min(len(sigmas), COLUMNS)
    return [sigmas[i] for i in np.linspace(0, len(sigmas) - 1, n).round().astype(int)]


def _cell(ax: Axes, image: Tensor, found: Tensor, true_boxes: Tensor) -> None:
    """One image, cut to what is not the canvas, with its boxes."""
    filled = image.amax(0) > 0
    height, width = _size(filled)
    ax.imshow(image[:, :height, :width].permute(1, 2, 0).numpy(), interpolation="bilinear")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    for box in true_boxes.tolist():
        _box(ax, box, TRUE, 0.7, (0, (2, 1.5)))
    for *box, score, _ in found.tolist():
        if score >= LEAST and np.isfinite(box).all():
            _box(ax, box, FOUND, 1.1, "-")
            ax.text(
                box[0], box[1], f"{score:.2f}", color=TRUE, fontsize=4.5, va="bottom", clip_on=True,
                bbox={"facecolor": FOUND, "edgecolor": "none", "pad": 0.6},
            )  # fmt: skip


def _size(filled: Tensor) -> tuple[int, int]:
    """Height and width up to the last row and column with a pixel that is not black."""
    rows, columns = filled.any(1).nonzero().flatten().tolist(), filled.any(0).nonzero().flatten().tolist()
    return (rows[-1] if rows else 0) + 1, (columns[-1] if columns else 0) + 1


def _box(ax: Axes, box: Sequence[float], colour: str, width: float, line: object) -> None:
    left, top, right, bottom = box
    ax.add_patch(
        Rectangle(
            (left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor=colour, linewidth=width,
            linestyle=line,
        )
    )  # fmt: skip
