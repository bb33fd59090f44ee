"""A user's own functions and classes, named by their import path `package.module:name`."""

import hashlib
import importlib
import importlib.util
import inspect
import os
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
        InputError: if it is one of Python's own, or the import fails.
    """
    here = str(Path.cwd())
    sys.path.insert(0, here)  # first, as for `python -m`
    try:
        _refuse_standard_library(module, what)
        return importlib.import_module(module)
    except InputError:
        raise
    except Exception as error:  # any error of the user's code
        why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"{what}: {module} cannot be imported ({why})") from error
    finally:
        sys.path.remove(here)
        if (
            here not in sys.path
        ):  # last from now on: what the code imports later and what workers import is found
            sys.path.append(here)


def _refuse_standard_library(module: str, what: str) -> None:
    """Refuse it before the import, which has side effects for some modules: `antigravity` opens a browser.

    Raises:
        InputError: if the module is one of Python's own, wherever its name comes from.
    """
    top = module.partition(".")[0]
    if top not in sys.stdlib_module_names:
        return
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # ValueError: a module without a spec
        spec = None
    places = spec.submodule_search_locations if spec is not None else None
    file = Path(next(iter(places)) if places else (spec.origin or "")) if spec is not None else Path()
    # A file of the user's may have the name of a module of Python's, and come first.
    if spec is None or not file.exists() or in_standard_library(file):
        raise InputError(f"{what}: {top} is a module of Python itself: name code of your own")


def in_standard_library(file: Path) -> bool:
    """Whether a file of Python code is one of Python's own."""
    home, file = Path(os.__file__).resolve().parent, file.resolve()
    return file.is_relative_to(home) and not {"site-packages", "dist-packages"} & set(file.parts)


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
