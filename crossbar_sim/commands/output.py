"""What commands do alike with the files that they write."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from crossbar_sim.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

FIGURES = (".png", ".pdf", ".svg")
"""Suffixes of the formats that `report.figure` writes: importing that would load matplotlib."""


def check_figure(path: str | None) -> None:
    """Refuse, before the work, a figure in an unknown format.

    Raises:
        InputError: naming the formats.
    """
    if path is not None and os.path.splitext(path)[1].lower() not in FIGURES:
        raise InputError(
            f"{path}: figures are written as {', '.join(FIGURES)}; the suffix of the file name selects the format"
        )


def say_end(console: Console, warnings: tuple[str, ...], *written: str | None) -> None:
    """Print warnings, and the files that were written."""
    from crossbar_sim.report.console import say

    for warning in warnings:
        say(console, f"warning: {warning}", "yellow")
    for path in written:
        if path is not None and path != "-":
            say(console, f"wrote {path}")
