"""What every access to a chip file goes through: the file is untrusted, and HDF5 raises anything."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from crossbar_sim.crossbar.checks import show
from crossbar_sim.errors import InputError
from crossbar_sim.store.heap import check_heaps

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MATLAB = b"MATLAB "
_BLOCK = 512
"""MATLAB's save -v7.3 writes HDF5 behind a block of so many bytes, which begins with its name."""
_TEXT_LIMIT = 1 << 16


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """The file, open for reading; all that goes wrong inside is one sentence that begins with its name.

    Raises:
        InputError: if it is missing, no HDF5, damaged, or the block inside refuses it.
    """
    name = str(path) if str(path).isprintable() else show(str(path))
    try:
        _check_file(path)
        # A file system without locks, or one mounted read-only, is none of the reader's business.
        with h5py.File(path, "r", locking="best-effort") as file:
            yield file
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except Exception as error:
        # h5py raises OSError, RuntimeError, KeyError, ValueError, TypeError, UnicodeDecodeError, ...
        # on damaged bytes; what HDF5 says may have many lines.
        reason = " ".join((getattr(error, "strerror", None) or str(error)).split())[:160]
        raise InputError(
            f"{name}: is damaged or was not written completely "
            f"({reason or type(error).__name__}); copy or export it again"
        ) from None


def _check_file(path: Path) -> None:
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # reading a pipe or a device may never end
            kind = "a directory" if stat.S_ISDIR(mode) else "no regular file"
            raise InputError(f"is {kind}; name a chip file")
        with open(path, "rb") as file:
            start = file.read(_BLOCK + len(SIGNATURE))
    except FileNotFoundError:
        raise InputError("there is no such file; check the path") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"cannot be opened ({why}); check the path and its permissions") from None
    if not start:
        raise InputError("is empty; export or copy it again")
    # HDF5 would look for its signature further on too, in files that are something else first.
    if not _is_hdf5(start):
        if start.startswith(_MATLAB):
            raise InputError(
                "is a MATLAB file of version 5, not HDF5: read it with scipy.io.loadmat and write its conductances "
                "with h5py (docs/format.md, 'What a reader does')"
            )
        raise InputError("is not an HDF5 file; write one with crossbar-sim export")


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Whether a regular file is HDF5, of MATLAB too; False for what cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb") as file:
            return _is_hdf5(file.read(_BLOCK + len(SIGNATURE)))
    except (OSError, ValueError):
        return False


def _is_hdf5(start: bytes) -> bool:
    return start.startswith(SIGNATURE) or is_matlab(start)


def is_matlab(start: bytes) -> bool:
    """Whether a file begins as MATLAB's HDF5 files (version 7.3) do."""
    return start.startswith(_MATLAB) and start[_BLOCK:].startswith(SIGNATURE)


def text(item: h5py.HLObject, name: str) -> str | None:
    """A string attribute, None if there is none.

    Raises:
        InputError: if it is no single string, or has more than 64 KiB.
    """
    attribute = _attribute(item, name)
    if attribute is None:
        return None
    if attribute.get_type().get_class() != h5py.h5t.STRING or attribute.shape not in ((), (1,)):
        raise InputError(f"the attribute {name} is no string; write one string")
    if attribute.get_storage_size() > _TEXT_LIMIT:
        raise InputError(f"the attribute {name} has more than {_TEXT_LIMIT} bytes")
    if attribute.get_type().is_variable_str():
        check_heaps(item.file)
    value = item.attrs[name]
    value = value[0] if isinstance(value, np.ndarray) else value
    value = value.decode() if isinstance(value, bytes) else str(value)
    if len(value) > _TEXT_LIMIT:  # of variable length: as long as the file can hold
        raise InputError(f"the attribute {name} has more than {_TEXT_LIMIT} characters")
    return str(value).rstrip("\0")


def numbers(item: h5py.HLObject, name: str, most: int) -> np.ndarray | None:
    """A numeric attribute as an array (n,), None if there is none.

    Raises:
        InputError: if it has more than `most` values or dimensions, or holds anything but finite numbers.
    """
    attribute = _attribute(item, name)
    if attribute is None:
        return None
    shape = attribute.shape
    plain = attribute.get_type().get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT)
    if not plain or shape is None or len(shape) > 1 or int(np.prod(shape, dtype=object)) > most:
        raise InputError(
            f"the attribute {name} of shape {shape} must be a number or a list of up to {most} numbers"
        )
    values = np.atleast_1d(np.asarray(item.attrs[name]))
    if values.dtype.kind not in "iuf" or not np.all(np.isfinite(values)):
        raise InputError(f"the attribute {name} holds what is no finite number")
    return values


def whole(item: h5py.HLObject, name: str, low: int, high: int) -> int | None:
    """An attribute that is one whole number in low .. high, None if there is none.

    Raises:
        InputError: if it is anything else.
    """
    values = numbers(item, name, 1)
    if values is None:
        return None
    if values.size != 1 or values[0] != np.floor(values[0]) or not low <= int(values[0]) <= high:
        raise InputError(f"the attribute {name} is no whole number in {low} .. {high}")
    return int(values[0])


def number(item: h5py.HLObject, name: str) -> float | None:
    """An attribute that is one finite number, None if there is none.

    Raises:
        InputError: if it is anything else.
    """
    values = numbers(item, name, 1)
    if values is not None and values.size != 1:
        raise InputError(f"the attribute {name} is no number")
    return None if values is None else float(values[0])


def _attribute(item: h5py.HLObject, name: str) -> h5py.h5a.AttrID | None:
    if not h5py.h5a.exists(item.id, name.encode()):
        return None
    return h5py.h5a.open(item.id, name.encode())
