"""The user's own examples: an `.npz` with `x` and, for scores, `y`; `x_train` and `y_train` to calibrate or train on.

The archive is untrusted. Its members are read by hand and not by `numpy.load`: that allocates what
a header claims before it looks at how much there is, and an object array is a pickle.
"""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np

from crossbar_sim.data.arrays import HEAD, as_test_split, read_header
from crossbar_sim.data.dataset import Splits
from crossbar_sim.data.files import check_file, check_memory, check_packed, reason
from crossbar_sim.errors import InputError

_WRITE = "write it with numpy.savez(path, x=x, y=y)"


def load_npz(path: Path) -> Splits:
    """Examples of the user's own: `x` is the test split, `x_train` what may be trained or calibrated on.

    Args:
        path: an `.npz` with `x` (n, ...) of floats, integers, booleans or bytes and, optionally, `y`
            of class numbers from 0 up, (n,) or one per token or pixel (there -100 is not judged), or the like under one
            of `_OTHER_NAMES`. Bytes (uint8) are taken for pixels and divided by 255; everything else is taken as it
            is, as float32. `notes` says which. `x_train` and `y_train`, `x_val` and `y_val` may lie beside them;
            without `x_val` the last 15 % of each class of `x_train` are the validation split.

    Returns:
        `Splits`; train and validation are `None` without `x_train`; `classes` is the largest label + 1, or `None`.

    Raises:
        InputError: if the file is missing, damaged, hostile or holds something else.
    """
    check_file(path)
    names = None
    try:
        with zipfile.ZipFile(path) as archive:
            x = _member(path, archive, "x")
            y, names = _member(path, archive, "y"), None
            parts: list[tuple[np.ndarray, np.ndarray | None] | None] = []
            for part in ("train", "val"):
                taken = _member(path, archive, f"x_{part}")
                parts.append(None if taken is None else (taken, _member(path, archive, f"y_{part}")))
            if x is None:
                names, (x, y) = _called_otherwise(path, archive)
    except InputError:
        raise
    except Exception as error:
        # zipfile raises a dozen kinds on hostile bytes: BadZipFile, zlib.error, NotImplementedError
        # (a method it lacks), RuntimeError (a password), struct.error, UnicodeDecodeError, ...
        raise InputError(f"{path}: is no readable .npz ({reason(error)}); {_WRITE}") from None
    splits = as_test_split(path, x, y, parts[0], parts[1])
    return splits if names is None else dataclasses.replace(splits, notes=(*splits.notes, names))


_OTHER_NAMES = (
    ("x_test", "y_test"), ("X_test", "y_test"), ("test_x", "test_y"), ("X", "y"), ("X", "Y"),
    ("test_images", "test_labels"), ("test_data", "test_labels"), ("images", "labels"), ("images", "targets"),
    ("inputs", "labels"), ("inputs", "targets"), ("features", "labels"), ("data", "labels"), ("data", "target"),
    ("data", "targets"), ("arr_0", "arr_1"),
)  # fmt: skip
"""What others call examples and labels: of MNIST's own archive, MedMNIST, scikit-learn, and savez without names."""


def _called_otherwise(
    path: Path, archive: zipfile.ZipFile
) -> tuple[str, tuple[np.ndarray, np.ndarray | None]]:
    """A sentence on the names, and the examples and labels under the first pair of other names that is there."""
    there = {name.removesuffix(".npy") for name in archive.namelist()}
    both = [pair for pair in _OTHER_NAMES if there.issuperset(pair)]
    alone = [pair for pair in _OTHER_NAMES if pair[0] in there]
    for one, other in both or alone:
        x = _member(path, archive, one)
        if x is not None:
            y = _member(path, archive, other)
            said = f"{one} was taken as x" + (
                f" and {other} as y" if y is not None else ", and there are no labels"
            )
            return said, (x, y)
    names = ", ".join(repr(name[:32]) for name in archive.namelist()[:6]) or "nothing"
    raise InputError(f"{path}: holds {names} and no array x; {_WRITE}")


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray | None:
    """The array called `name`, or `None` where the archive has none."""
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        return None
    with archive.open(info) as stream:
        header = read_header(path, name, stream.read(HEAD), _WRITE)
    if header.offset + header.nbytes != info.file_size:
        raise InputError(
            f"{path}: {name} claims shape {header.shape} of {header.dtype}, so {header.nbytes} "
            f"bytes, and has {info.file_size - header.offset}; {_WRITE}"
        )
    check_packed(path, info.file_size, info.compress_size)
    check_memory(path, header.needed)
    with archive.open(info) as stream:
        stream.read(header.offset)
        body = stream.read(header.nbytes)  # to the end, so that zipfile checks the CRC
    if len(body) != header.nbytes:
        raise InputError(f"{path}: {name} ends after {len(body)} of {header.nbytes} bytes; {_WRITE}")
    return header.array(body)
