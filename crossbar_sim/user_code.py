"""A user's own functions and classes, named by their import path `package.module:name`."""

import hashlib
import importlib
import inspect
import sys
from pathlib import Path
from typing import Any

from crossbar_sim.errors import InputError


def attribute(holder: Any, names: str) -> Any:
    """The attribute of an object by its dotted name; None if it has none."""
    for name in names.split("."):
        holder = getattr(holder, name, None)
    return holder


def import_module(module: str, what: str) -> Any:
    """A module that the user named; it may be a file in the current directory. Its code runs.

    Args:
        module: its import name.
        what: the beginning of an error message, such as "metric='my_metrics:top3'".

    Raises:
        InputError: if the import fails.
    """
    if (here := str(Path.cwd())) not in sys.path:  # as for `python -m`; it stays, so that workers get it too
        sys.path.append(here)
    try:
        return importlib.import_module(module)
    except Exception as error:  # any error of the user's code
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"{what}: {module} cannot be imported ({why})") from error


def source_text(code: Any, what: str) -> str:
    """The source of a function or class.

    Raises:
        InputError: if it cannot be read, beginning with `what`.
    """
    try:
        return inspect.getsource(code)
    except (OSError, TypeError) as error:
        raise InputError(
            f"the source of {what} cannot be read, so that results could not name it: define it in a file"
        ) from error


def fingerprint(text: str) -> str:
    """SHA-256 of a source text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
