"""The formats of figures, without what draws them: commands check a file's name before the work."""

import os
from pathlib import Path
from typing import Any

from crossbar_sim.errors import InputError
from crossbar_sim.text import visible

METADATA: dict[str, dict[str, Any]] = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    ".svg": {"Date": None, "Creator": None},
}
"""The formats by suffix, each with the metadata that would differ between two drawings left out."""


def check_format(path: str | os.PathLike[str] | None) -> str:
    """The suffix of a figure's file; empty for None, which is no figure.

    Raises:
        InputError: if no figure is written in this format.
    """
    if path is None:
        return ""
    suffix = Path(path).suffix.lower()
    if suffix not in METADATA:
        raise InputError(
            f"{visible(os.fspath(path))}: figures are written as {', '.join(METADATA)}; "
            "the suffix of the file name selects the format"
        )
    return suffix
