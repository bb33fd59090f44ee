"""A user's own functions and classes, named by their import path `package.module:name`."""

import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

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
    except (
        Exception,
        SystemExit,
    ) as error:  # of the user's code, of a script that reads its own command line, say
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


# What a function holds, as a text that is the same in every process.

_PLAIN = (type(None), bool, int, float, complex, str, bytes)


def contents_of(function: Any, what: str) -> str:
    """The source of a function, its default arguments, and what it holds: of the scope around it, or as an object.

    Numbers and text stand as they are written, arrays as a hash of their bytes, functions and objects as their source
    and what they hold in turn. Functions that it calls by a global name are left out.

    Args:
        function: a function, a class, `functools.partial` or an object that can be called.
        what: the beginning of an error message, such as "metric my_metrics:top3".

    Raises:
        InputError: if a source cannot be read, or something that is held has no such text.
    """
    return _Contents(what).of_code(function)


class _Contents:
    """One text; objects that hold themselves are written once."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.open: set[int] = set()

    def of_code(self, code: Any) -> str:
        if isinstance(code, functools.partial):
            held = [code.args, dict(sorted(code.keywords.items()))]
            return f"partial {self.of_code(code.func)}\n{self.of(held)}"
        if not (inspect.isroutine(code) or isinstance(code, type)):
            return self.of_object(code)
        text = source_text(code, self.what)
        cells = getattr(code, "__closure__", None) or ()
        held = [cell.cell_contents for cell in cells]
        owner = getattr(code, "__self__", None)  # of a bound method
        for value in (getattr(code, "__defaults__", None), getattr(code, "__kwdefaults__", None), held):
            text += f"\n{self.of(value)}" if value else ""
        if owner is not None and not isinstance(owner, type | types.ModuleType):
            text += f"\n{self.of(owner)}"
        return text

    def of_object(self, value: Any) -> str:
        """The class of an object, and its attributes."""
        kind = type(value)
        held: Mapping[str, Any] = getattr(value, "__dict__", {})
        if any(base.__module__.partition(".")[0] == "torchmetrics" for base in kind.__mro__):
            # besides its settings it holds what it has summed up, and wrapped methods
            held = {k: v for k, v in held.items() if not k.startswith("_") and _plain(v)}
        return f"{source_text(kind, self.what)}" + (
            f"\n{self.of(dict(sorted(held.items())))}" if held else ""
        )

    def of(self, value: Any) -> str:
        """The text of a value."""
        if _plain(value):
            return repr(value)
        if id(value) in self.open:
            return "itself"
        self.open.add(id(value))
        try:
            return self._of(value)
        finally:
            self.open.discard(id(value))

    def _of(self, value: Any) -> str:
        if isinstance(value, list | tuple):
            return f"{type(value).__name__}({', '.join(map(self.of, value))})"
        if isinstance(value, set | frozenset):
            return f"{type(value).__name__}({', '.join(sorted(map(self.of, value)))})"
        if isinstance(value, Mapping):
            return "{" + ", ".join(f"{self.of(k)}: {self.of(v)}" for k, v in value.items()) + "}"
        if isinstance(value, types.ModuleType):
            return f"module {value.__name__}"
        if isinstance(value, functools.partial | type) or inspect.isroutine(value):
            try:
                return self.of_code(value)
            except InputError:
                home, name = getattr(value, "__module__", None), getattr(value, "__qualname__", "")
                if home is None or attribute(sys.modules.get(home), name) is not value:
                    raise
                return f"{home}.{name}"  # of a library, compiled
        if isinstance(value, np.generic):
            return repr(value)
        array = _array(value)
        if array is not None:
            digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
            return f"array {array.dtype.str} {array.shape} {digest}"
        if not hasattr(value, "__dict__") and type(value).__repr__ is not object.__repr__:
            text = repr(value)
            if " at 0x" not in text:  # a date, a fraction, a data type
                return text
        if hasattr(value, "__dict__"):
            return self.of_object(value)
        raise InputError(
            f"{self.what} holds a {type(value).__name__}, of which nothing is known that would be the same in the next "
            "process, so that results could not name it: hold numbers, text, arrays or functions"
        )


def _plain(value: Any) -> bool:
    """Whether the repr of a value says all about it, and is the same in every process."""
    if type(value) in _PLAIN:
        return True
    if type(value) in (list, tuple):
        return all(map(_plain, value))
    return type(value) is dict and all(_plain(k) and _plain(v) for k, v in value.items())


def _array(value: Any) -> np.ndarray | None:
    """The numbers of an array or tensor; None of anything else."""
    if hasattr(value, "detach"):  # a tensor: this module does not import torch
        value = value.detach().cpu()
        if "bfloat16" in str(value.dtype):
            value = value.float()
    if not isinstance(value, np.ndarray) and not (hasattr(value, "__array__") and hasattr(value, "dtype")):
        return None
    found = np.asarray(value)
    return None if found.dtype.hasobject else found
