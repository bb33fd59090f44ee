"""Figures: their style, and how they are written. The same numbers give the same bytes."""

import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from crossbar_sim.errors import InputError
from crossbar_sim.files import replacing
from crossbar_sim.report.figure_formats import METADATA, check_format

STYLE: dict[str, Any] = {
    "font.size": 8, "axes.titlesize": 8.5, "axes.titlelocation": "left", "axes.titlepad": 8, "axes.linewidth": 0.6,
    "axes.spines.top": False, "axes.spines.right": False, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
    "text.parse_math": False,  # a layer may be called $x$
    "pdf.fonttype": 42, "svg.hashsalt": "crossbar-sim",
}  # fmt: skip
SMALL: dict[str, Any] = {
    "font.size": 7.5, "axes.labelsize": 7.5, "axes.titlesize": 7.5, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "legend.frameon": False, "legend.handlelength": 2.6, "lines.linewidth": 1.1,
    "lines.markersize": 3, "svg.fonttype": "none",
}  # fmt: skip
"""For one column of a paper. Text in SVG stays text: it takes the font of the paper and can be searched."""

BLUE, PALE, GREY, RED = "#4f81ad", "#b9cddd", "#555555", "#b5482f"
WIDTH = 7.2
"""Inches: the width of a page of two columns."""


@contextmanager
def figure_style(*more: dict[str, Any]) -> Iterator[None]:
    """The style of the figures, independent of the user's own settings."""
    with style.context(["default", STYLE, *more]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in a script that the font lacks
        yield


def new_figure(width: float, height: float, **padding: Any) -> Figure:
    """An empty figure, sizes in inches; `padding` as `ConstrainedLayoutEngine` takes it."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(**padding))
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, path: str | os.PathLike[str], dpi: int, colours: int | None = None) -> None:
    """Write a figure in the format of the suffix; what was there stays if that fails.

    Args:
        figure: to write, within `figure_style`.
        path: of the file.
        dpi: dots per inch.
        colours: reduce a .png to so many colours, which keeps photographs and shades small; None: do not.

    Raises:
        InputError: if the format is unknown or the file cannot be written.
    """
    suffix = check_format(path)
    with replacing(path) as temporary:
        if colours is None or suffix != ".png":
            figure.savefig(temporary, format=suffix[1:], metadata=METADATA[suffix], dpi=dpi)
            return
        content = io.BytesIO()
        figure.savefig(content, format="png", metadata=METADATA[suffix], dpi=dpi)
        with Image.open(content) as image:
            few = image.convert("RGB").quantize(colours, dither=Image.Dither.NONE)
            few.save(temporary, format="png", optimize=True)


def figure_with(ax: Axes, path: str | os.PathLike[str] | None, drawing: Callable[[Axes], None]) -> Figure:
    """Draw into axes of the caller's own figure.

    Args:
        ax: axes of a figure.
        path: where to write the whole figure; None: nowhere.
        drawing: called with the axes.

    Returns:
        Their figure.

    Raises:
        InputError: for what is no axes, an unknown suffix, or if the file cannot be written.
    """
    if not isinstance(ax, Axes):
        raise InputError(
            f"ax is {type(ax).__name__}: expected axes of matplotlib, such as fig, ax = plt.subplots()"
        )
    if path is not None:
        check_format(path)
    drawing(ax)
    figure: Any = ax.get_figure(root=True)
    if path is not None:
        save(figure, path, dpi=200)
    return figure  # type: ignore[no-any-return]
