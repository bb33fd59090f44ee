"""Decision boundaries of chips over data of two features (Fig. 1 of the BayesFT paper)."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from torch import Tensor, nn

from crossbar_sim.crossbar.layer_designs import Design, at_sigma
from crossbar_sim.data.inputs import Batch, call, first_of, one_tensor
from crossbar_sim.errors import InputError
from crossbar_sim.nn.analog import chips as analog_chips
from crossbar_sim.nn.analog.conversion import map_model
from crossbar_sim.report.figure import SMALL, figure_style, new_figure, save
from crossbar_sim.report.formatting import COLOURS, Names
from crossbar_sim.robustness.examples import Examples
from crossbar_sim.text import visible

SIGMAS = (0.0, 0.2, 0.4, 0.6)
"""The sigmas of the figure in the paper."""

SIDE = 160
"""Grid points along each feature."""

LINES = 5
"""Chips whose boundaries are drawn; the background is of all."""

MOST_CHIPS = 50
DPI = 130
LEAST_WIDTH = 3.4
"""Inches: room for the heading of a figure with one column."""

CHARACTERS = 17
"""Characters of the heading per inch; longer headings are wrapped."""

PALETTE = 96
"""Number of colours in the file."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One network at one sigma.

    Args:
        scores: (chips, classes, side, side) logits on the grid.
        accuracy: (chips,) on the labelled examples; None without labels.
    """

    scores: NDArray[np.float32]
    accuracy: NDArray[np.float64] | None

    @property
    def share(self) -> NDArray[np.float64]:
        """(classes, side, side): the share of chips that decide for each class."""
        classes = self.scores.shape[1]
        winner = self.scores.argmax(axis=1)
        return np.stack([(winner == k).mean(axis=0) for k in range(classes)])


def check_boundaries(examples: Batch, required: bool) -> bool:
    """Whether boundaries can be drawn: examples (n, 2).

    Raises:
        InputError: if they are required and cannot be drawn.
    """
    flat = isinstance(examples, Tensor) and examples.ndim == 2 and examples.shape[1] == 2
    if required and not flat:
        raise InputError(
            f"boundaries are drawn for data of two features, and these examples have shape "
            f"{tuple(first_of(examples).shape[1:])}: leave out the key boundaries"
        )
    return flat


def decisions(
    module: nn.Module,
    hardware: Design,
    sigma: float,
    seed: int,
    chips: Sequence[int],
    grid: Tensor,
    examples: Examples,
) -> Cell:
    """Evaluate every chip on a grid of points.

    Args:
        module: the clean model; not changed.
        hardware: the design; its drift law takes sigma.
        sigma, seed, chips: which chips: those of a sweep with this seed.
        grid: (side, side, 2).
        examples: to count what is right.
    """
    analog, _ = map_model(module, at_sigma(hardware, sigma), examples.x, seed, chips[0])
    side = len(grid)
    scores, right = [], []
    with torch.no_grad():
        for chip in chips:
            analog_chips.set_chip(analog, chip)
            analog_chips.program(analog)
            out = analog(grid.reshape(-1, 2).clone())
            scores.append(out.T.reshape(-1, side, side).numpy())
            if examples.y is not None:
                right.append(
                    float((call(analog, examples.x.clone()).argmax(1) == examples.y).double().mean())
                )
    return Cell(np.stack(scores), np.array(right) if right else None)


def draw_boundaries(
    models: Mapping[str, nn.Module], hardware: Design, examples: Examples, path: str | os.PathLike[str], *,
    sigmas: Sequence[float] = SIGMAS, seed: int = 0, chips: Sequence[int] = tuple(range(20)), title: str = "",
) -> None:  # fmt: skip
    """A row for each model, a column for each sigma: boundaries of some chips, and how the chips vote.

    Args:
        models: by what to call them; clean.
        hardware: the design; its drift law takes each sigma.
        examples: the points that are drawn: x (n, 2), with labels.
        path: of the .png; the same models give the same bytes.
        sigmas: of the columns.
        seed, chips: which chips; the first 50 at most.
        title: above all.

    Raises:
        InputError: if the examples do not have two features, or the file cannot be written.
    """
    check_boundaries(examples.x, required=True)
    chips = list(chips)[:MOST_CHIPS]
    x = one_tensor(examples.x, "a figure of boundaries")
    low, high = x.amin(0), x.amax(0)
    margin = 0.15 * (high - low)
    ends = list(zip((low - margin).tolist(), (high + margin).tolist(), strict=True))
    axes_of_grid = [torch.linspace(a, b, SIDE) for a, b in ends]
    grid = torch.stack(torch.meshgrid(*axes_of_grid, indexing="xy"), dim=-1)
    names = Names.of(list(models)).short
    rows, columns = len(models), len(sigmas)
    width = max(1.75 * columns + 0.3, LEAST_WIDTH)
    legend = (
        f"lines: boundaries of {min(LINES, len(chips))} chips; shade: how {len(chips)} chips vote; dots: examples; "
        f"figures: mean and worst accuracy of the chips"
    )
    wide = int(CHARACTERS * width)
    head = [*textwrap.wrap(visible(title), wide), *textwrap.wrap(legend, wide)]
    tall = 1.45 * rows + 0.3 + 0.13 * len(head)
    with figure_style(SMALL):
        figure = new_figure(width, tall, w_pad=0.03, h_pad=0.03)
        axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for row, (label, module) in enumerate(models.items()):
            for column, sigma in enumerate(sigmas):
                ax = axes[row, column]
                cell = decisions(module, hardware, sigma, seed, chips, grid, examples)
                _draw(ax, cell, [a.numpy() for a in axes_of_grid], examples)
                found = "" if cell.accuracy is None else f"{100 * cell.accuracy.mean():.1f} %"
                worst = "" if cell.accuracy is None else f", worst {100 * cell.accuracy.min():.1f}"
                at = f"sigma {sigma:g}: " if row == 0 else ""
                ax.set_title(f"{at}{found}{worst}", fontsize=6.5, pad=2)
                if column == 0:
                    ax.set_ylabel("\n".join(textwrap.wrap(names[label], 22)), fontsize=7)
        figure.suptitle("\n".join(head), x=0.01, ha="left", fontsize=7)
        save(figure, path, DPI, PALETTE)


def _draw(ax: Axes, cell: Cell, grid: Sequence[NDArray[np.float32]], examples: Examples) -> None:
    share = cell.share
    colours = np.array([to_rgb(COLOURS[k % len(COLOURS)]) for k in range(len(share))])
    tint = 1 - 0.45 * (1 - np.tensordot(share, colours, axes=(0, 0)))
    extent = (float(grid[0][0]), float(grid[0][-1]), float(grid[1][0]), float(grid[1][-1]))
    ax.imshow(tint, origin="lower", extent=extent, aspect="auto", interpolation="bilinear", zorder=0)
    if examples.y is not None:
        labels = examples.y.numpy()
        for k in range(len(share)):
            points = one_tensor(examples.x, "a figure of boundaries")[labels == k].numpy()
            ax.scatter(points[:, 0], points[:, 1], s=1.6, color=colours[k], lw=0, zorder=2)
    for scores in cell.scores[:LINES]:
        for k in range(1 if len(share) == 2 else 0, len(share)):
            lead = scores[k] - np.delete(scores, k, axis=0).max(axis=0)
            if lead.min() < 0 < lead.max():
                ax.contour(grid[0], grid[1], lead, levels=[0.0], colors="black", linewidths=0.6, zorder=3)
    ax.set(xticks=[], yticks=[], xlim=extent[:2], ylim=extent[2:])
