"""The user's own examples: an `.npz` with `x` and, for scores, `y`.

The archive is untrusted. Its members are read by hand and not by `numpy.load`: that allocates what
a header claims before it looks at how much there is, and an object array is a pickle.
"""

import io
import math
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.lib import format as npy

from crossbar_sim.data.dataset import Split, Splits
from crossbar_sim.data.files import check_file, check_memory, check_packed, reason
from crossbar_sim.errors import InputError

_WRITE = "write it with numpy.savez(path, x=x, y=y)"
_HEAD = 64 * 1024
_PLAIN_KINDS = "biuf"


@dataclass(frozen=True)
class _Header:
    """What the head of an `.npy` claims; `offset` is where its values begin."""

    shape: tuple[int, ...]
    order: str
    dtype: np.dtype
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def load_npz(path: Path) -> Splits:
    """Examples of the user's own. All of them are the test split.

    Args:
        path: an `.npz` with `x` (n, ...) of floats, integers, booleans or bytes and, optionally,
            `y` (n,) of class numbers from 0 up. Bytes (uint8) are taken for pixels and divided by
            255; everything else is taken as it is, as float32. `notes` says which.

    Returns:
        `Splits` without train and validation; `classes` is the largest label + 1, or `None`.

    Raises:
        InputError: if the file is missing, damaged, hostile or holds something else.
    """
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            x = _member(path, archive, "x")
            if x is None:
                names = ", ".join(repr(name[:32]) for name in archive.namelist()[:6]) or "nothing"
                raise InputError(f"{path}: holds {names} and no array x; {_WRITE}")
            y = _member(path, archive, "y")
    except InputError:
        raise
    except Exception as error:
        # zipfile raises a dozen kinds on hostile bytes: BadZipFile, zlib.error, NotImplementedError
        # (a method it lacks), RuntimeError (a password), struct.error, UnicodeDecodeError, ...
        raise InputError(f"{path}: is no readable .npz ({reason(error)}); {_WRITE}") from None
    examples, notes = _examples(path, x)
    labels = None if y is None else _labels(path, y)
    try:
        test = Split(examples, labels)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    classes = None if labels is None else int(labels.max()) + 1
    return Splits(path.name, None, None, test, classes, notes)


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray | None:
    """The array called `name`, or `None` where the archive has none."""
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        return None
    with archive.open(info) as stream:
        header = _header(path, name, stream.read(_HEAD))
    if header.offset + header.nbytes != info.file_size:
        raise InputError(
            f"{path}: {name} claims shape {header.shape} of {header.dtype}, so {header.nbytes} "
            f"bytes, and has {info.file_size - header.offset}; {_WRITE}"
        )
    check_packed(path, info.file_size, info.compress_size)
    check_memory(path, header.nbytes + 4 * math.prod(header.shape))
    with archive.open(info) as stream:
        stream.read(header.offset)
        body = stream.read(header.nbytes)  # to the end, so that zipfile checks the CRC
    if len(body) != header.nbytes:
        raise InputError(f"{path}: {name} ends after {len(body)} of {header.nbytes} bytes; {_WRITE}")
    flat = np.frombuffer(body, dtype=header.dtype)
    return flat.reshape(header.shape, order="F" if header.order == "F" else "C")


def _header(path: Path, name: str, head: bytes) -> _Header:
    """Parse the head of an `.npy` and refuse what is no plain array of numbers."""
    stream = io.BytesIO(head)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy comments on headers written by Python 2
            version = npy.read_magic(stream)
            read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
            shape, fortran, dtype = read(stream)
    except Exception as error:
        # The header is a Python literal: parsing a hostile one can raise nearly anything.
        raise InputError(f"{path}: the header of {name} cannot be read ({reason(error)}); {_WRITE}") from None
    if dtype.kind not in _PLAIN_KINDS or dtype.fields is not None or dtype.subdtype is not None:
        what = "Python objects, which are not loaded" if dtype.hasobject else f"{str(dtype)[:60]}"
        raise InputError(f"{path}: {name} holds {what}; numbers are needed: save x.astype('f4')")
    if any(length <= 0 for length in shape):
        raise InputError(f"{path}: {name} has shape {shape}; at least one example is needed")
    return _Header(shape, "F" if fortran else "C", dtype, stream.tell())


def _examples(path: Path, x: np.ndarray) -> tuple[torch.Tensor, tuple[str, ...]]:
    """`x` as float32, and what was done to it."""
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which Split refuses
        values = np.array(x, dtype=np.float32, order="C")
    if x.dtype == np.uint8:
        values /= 255
        return torch.from_numpy(values), ("x is uint8: taken for pixels and divided by 255",)
    if x.dtype == np.float32:
        return torch.from_numpy(values), ()
    return torch.from_numpy(values), (f"x is {x.dtype.name}: taken as it is, as float32",)


def _labels(path: Path, y: np.ndarray) -> torch.Tensor:
    """`y` as int64; whole floats count as class numbers, because many files hold them so."""
    if y.dtype.kind == "f":
        odd = y[~(np.isfinite(y) & (y == np.floor(y)))]
        if odd.size:
            raise InputError(
                f"{path}: y holds {odd.flat[0]!s}; labels are whole class numbers from 0 up "
                "(for one-hot rows save y.argmax(1))"
            )
    # Compared before the cast, which would wrap; no network has 2**31 classes.
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= 2**31:
        bad = low if low < 0 else high
        raise InputError(f"{path}: y holds {bad}; labels are class numbers from 0 up")
    return torch.from_numpy(np.array(y, dtype=np.int64, order="C"))
