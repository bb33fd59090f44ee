"""Arrays in `.npy` and `.npz` files, and how they become examples and labels."""

import dataclasses
import io
import math
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.lib import format as npy

from crossbar_sim.data.dataset import Split, Splits, last_of_each_class
from crossbar_sim.data.images import check_file, check_memory, check_packed
from crossbar_sim.data.inputs import Batch, Inputs
from crossbar_sim.errors import InputError
from crossbar_sim.files import reason

_HEAD = 64 * 1024
"""No header of an array of plain numbers is longer."""
_PLAIN_KINDS = "biuf"
_CHUNK = 2**20


def _remedy(dtype: np.dtype[Any]) -> str:
    if dtype.kind == "c":
        return (
            "real numbers are needed: save real and imaginary parts as two features, such as "
            "np.stack([x.real, x.imag], axis=1)"
        )
    return "numbers are needed: save x.astype('f4')"


def _read_array(
    path: Path, name: str, open_file: Callable[[], IO[bytes]], size: int, write: str
) -> np.ndarray:
    """The array of plain numbers in an `.npy`, whose header is compared with the file's size before it is read.

    Args:
        path: the file, for messages.
        name: of the array in it.
        open_file: opens the `.npy` from its beginning.
        size: its bytes.
        write: how to write such a file, for messages.

    Raises:
        InputError: if the header cannot be read, or describes anything but at least one number and `size` bytes.
    """
    with open_file() as file:
        head = io.BytesIO(file.read(_HEAD))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy comments on headers written by Python 2
        try:
            version = npy.read_magic(head)
            read_header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
            shape, _, dtype = read_header(head)
        except Exception as error:
            # The header is a Python literal: parsing a hostile one can raise nearly anything.
            text = f"{path}: the header of {name} cannot be read ({reason(error)}); {write}"
            raise InputError(text) from None
        if dtype.kind not in _PLAIN_KINDS or dtype.fields is not None or dtype.subdtype is not None:
            what = "Python objects, which are not loaded" if dtype.hasobject else f"{str(dtype)[:60]}"
            raise InputError(f"{path}: {name} holds {what}; {_remedy(dtype)}")
        if any(length <= 0 for length in shape):
            raise InputError(f"{path}: {name} has shape {shape}; at least one example is needed")
        count = math.prod(shape)
        claimed, available = count * dtype.itemsize, size - head.tell()
        if claimed != available:
            raise InputError(
                f"{path}: {name} claims shape {shape} of {dtype}, so {claimed} bytes, and has {available}; {write}"
            )
        check_memory(path, claimed + 4 * count)  # the values and their float32
        with open_file() as file:
            values = npy.read_array(file, allow_pickle=False)
            if file.read(1):  # at its end, zipfile compares the checksum
                raise InputError(f"{path}: {name} is longer than its {size} bytes; {write}")
            return values


VALIDATION_SHARE = 0.15
"""Of training examples without a validation split: the last of each class are held back."""


Arrays = np.ndarray | Mapping[str, np.ndarray]
"""Examples in a file: one array, or several inputs by name."""


def as_test_split(
    path: Path,
    x: Arrays,
    y: np.ndarray | None,
    train: tuple[Arrays, np.ndarray | None] | None = None,
    validation: tuple[Arrays, np.ndarray | None] | None = None,
) -> Splits:
    """The user's examples: `x` is the test split, and `notes` says how they were converted.

    Args:
        path: where they come from; its name is the data's.
        x: (n, ...) of plain numbers, or several arrays by name; bytes (uint8) are taken for pixels and divided by 255.
        y: (n,) class numbers, or (n, places...) for models that decide at several places; `None` without labels.
        train, validation: examples to train or calibrate on, of the same kind; without validation examples the last
            15 % of each class of the training examples are the validation split.

    Raises:
        InputError: naming the file, if they are not examples and labels.
    """
    examples, notes = _examples(x, path)
    test = _split(path, examples, y)
    parts: list[Split | None] = [None, None]
    for i, part in enumerate((train, validation)):
        if part is not None:
            inputs, more_notes = _examples(part[0], path)
            parts[i] = _split(path, inputs, part[1])
            notes += tuple(text.replace("x is", f"x_{('train', 'val')[i]} is", 1) for text in more_notes)
    if parts[0] is not None and parts[1] is None:
        labels = parts[0].y
        one = labels is not None and labels.dim() == 1 and not labels.is_floating_point()
        flat = labels.numpy() if labels is not None and one else np.zeros(len(parts[0]), np.int64)
        indices = last_of_each_class(flat, VALIDATION_SHARE)
        if len(indices[1]):
            whole = parts[0]
            parts = [Split(whole.x[part], None if whole.y is None else whole.y[part]) for part in indices]
    given = [split.y for split in (test, *parts) if split is not None and split.y is not None]
    real = any(y.is_floating_point() for y in given)
    classes = None if real or not given else max(int(y.max()) for y in given) + 1
    return Splits(path.name, parts[0], parts[1], test, classes, notes)


def _split(path: Path, examples: Batch, y: np.ndarray | None) -> Split:
    try:
        return Split(examples, None if y is None else labels_of(y, path))
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(f"{path}: ") else f"{path}: {text}") from None


def scaled(x: np.ndarray) -> torch.Tensor:
    """Bytes divided by 255, as float32: pixels in 0 .. 1.

    In pieces that stay in the cache, so that memory is passed once: a third of the time for CIFAR-10.

    Args:
        x: (n, ...) uint8.
    """
    out = np.empty(x.shape, dtype=np.float32)
    step = max(1, _CHUNK // max(1, math.prod(x.shape[1:])))
    for start in range(0, len(x), step):
        piece = out[start : start + step]
        piece[...] = x[start : start + step]
        piece /= np.float32(255)
    return torch.from_numpy(out)


def _examples(x: Arrays, path: Path) -> tuple[Batch, tuple[str, ...]]:
    """`x` as float32, and what was done to it; of several inputs integers stay integers."""
    if isinstance(x, Mapping):
        return _inputs(x, path)
    if x.dtype == np.uint8 and x.ndim:
        return scaled(x), ("x is uint8: taken for pixels and divided by 255",)
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which Split refuses
        values = np.array(x, dtype=np.float32, order="C")
    if x.dtype == np.float32:
        return torch.from_numpy(values), ()
    return torch.from_numpy(values), (f"x is {x.dtype.name}: taken as it is, as float32",)


def _inputs(arrays: Mapping[str, np.ndarray], path: Path) -> tuple[Inputs, tuple[str, ...]]:
    found: dict[str, Any] = {}
    notes: list[str] = []
    for name, array in arrays.items():
        if array.ndim == 0:
            found[name] = array.item()  # the same for all examples
            continue
        kind = {"f": np.float32, "i": np.int64, "u": np.int64}.get(array.dtype.kind, array.dtype.type)
        whole = torch.from_numpy(
            np.ascontiguousarray(array, array.dtype if array.dtype == np.uint8 else kind)
        )
        found[name], note = in_type(whole)
        notes += [f"{name} {note}"] if note else []
    try:
        return Inputs(kwargs=found), tuple(notes)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def in_type(x: torch.Tensor) -> tuple[torch.Tensor, str]:
    """One of several inputs in the type that models take, and what was done to it.

    Integers become int64, truth values and floats stay; bytes (uint8) of three axes or more are pixels.
    """
    if x.dtype == torch.uint8 and x.dim() > 2:
        return scaled(x.cpu().numpy()), "is uint8: taken for pixels and divided by 255"
    if x.is_floating_point() or x.dtype == torch.bool:
        return x, ""
    return x.long(), ""


def labels_of(y: np.ndarray, path: Path | None = None) -> torch.Tensor:
    """`y` as int64; whole floats count as class numbers, because many files hold them so; others are real targets.

    Labels of several places (n, places...) may be negative where a place is not judged (-100: padding).

    Returns:
        int64, or float64 where `y` holds real values that are not class numbers: the targets of a regression.

    Raises:
        InputError: naming the file, if there is one, and the value that is neither.
    """
    where = "" if path is None else f"{path}: "
    if y.dtype.kind == "f":
        odd = y[~np.isfinite(y)]
        if odd.size:
            raise InputError(
                f"{where}y holds {odd.flat[0]!s}: targets are class numbers or finite real values"
            )
        if (y != np.floor(y)).any() or (y.ndim == 1 and y.min() < 0):
            values = np.array(y, dtype=np.float64, order="C")
            return torch.from_numpy(values[:, 0] if y.ndim == 2 and y.shape[1] == 1 else values)
    if (
        y.dtype.kind == "f"
        and y.ndim == 2
        and y.shape[1] > 1
        and bool(((y != 0).sum(1) == 1).all() and (y.max(1) == 1).all())
    ):
        raise InputError(f"{where}y of shape {y.shape} holds one-hot rows: give class numbers, y.argmax(1)")
    # Compared before the cast, which would wrap; no network has 2**31 classes.
    low, high = int(y.min()), int(y.max())
    if (low < 0 and y.ndim == 1) or low < -(2**31) or high >= 2**31:
        bad = low if low < 0 else high
        raise InputError(f"{where}y holds {bad}; labels are class numbers from 0 up")
    return torch.from_numpy(np.array(y, dtype=np.int64, order="C"))


# The user's examples as `.npy` files: NAME_x.npy (or x.npy) and, for scores, NAME_y.npy beside it.


_WRITE = "write it with numpy.save(path, x)"


def labels_path(path: Path) -> Path | None:
    """Where the labels of a file of examples would be: the last `x` of its name turned into `y`.

    >>> labels_path(Path("mine_x.npy"))
    PosixPath('mine_y.npy')
    >>> labels_path(Path("mine.npy"))
    """
    match = re.fullmatch(r"(.*_)?(x|X)", path.stem)
    if match is None:
        return None
    return path.with_name(f"{match[1] or ''}{'y' if match[2] == 'x' else 'Y'}{path.suffix}")


def load_npy(path: Path) -> Splits:
    """The user's examples. All of them are the test split.

    Args:
        path: an `.npy` of examples (n, ...), as `load_npz` takes them. If it is called x.npy or
            NAME_x.npy and there is a y.npy or NAME_y.npy beside it, that one has the labels.

    Returns:
        `Splits` without train and validation; `classes` is the largest label + 1, or `None`.

    Raises:
        InputError: if a file is missing, damaged, hostile or holds something else.
    """
    x = read_npy(path, "x")
    beside = labels_path(path)
    if beside is None or not beside.exists():
        return as_test_split(path, x, None)
    return as_test_split(path, x, read_npy(beside, "y"))


def read_npy(path: Path, name: str) -> np.ndarray:
    """The array of plain numbers in an `.npy`; nothing is allocated before its header was checked.

    Args:
        path: the file.
        name: what errors call the array.

    Raises:
        InputError: if it is missing, damaged or holds something else.
    """
    size = check_file(path)
    try:
        return _read_array(path, name, lambda: open(path, "rb"), size, _WRITE)
    except (OSError, ValueError) as error:  # ValueError: it became shorter meanwhile
        raise InputError(f"{path}: cannot be read ({reason(error)})") from None


# The user's own examples: an `.npz` with `x` and, for scores, `y`; `x_train` and `y_train` to calibrate or train on.
#
# The archive is untrusted: `numpy.load` would allocate what a header claims before it looks at how much there is.


_WRITE_NPZ = "write it with numpy.savez(path, x=x, y=y)"


def load_npz(path: Path, inputs: Sequence[str] = ()) -> Splits:
    """The user's examples: `x` is the test split, `x_train` may be trained or calibrated on.

    Without `x` and the usual other names, every array but the labels is an input of the model, by the name that its
    forward gives it: `input_ids`, `attention_mask`, ...; labels are `labels`, `y` or `targets`. There, integers stay
    integers, and `input_ids_train`, `labels_train` and the like are the training examples.

    Args:
        path: an `.npz` with `x` (n, ...) of floats, integers, booleans or bytes and, optionally, `y`
            of class numbers from 0 up, (n,) or one per token or pixel (there -100 is not judged), or the like under one
            of `_OTHER_NAMES`. Bytes (uint8) are taken for pixels and divided by 255; everything else is taken as it
            is, as float32. `notes` says which. `x_train` and `y_train`, `x_val` and `y_val` may lie beside them;
            without `x_val` the last 15 % of each class of `x_train` are the validation split.
        inputs: what the model's forward needs, by name: where it needs several and the file has them all, those are
            the inputs.

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
            parts: list[tuple[Arrays, np.ndarray | None] | None] = []
            for part in ("train", "val"):
                more = _member(path, archive, f"x_{part}")
                parts.append(None if more is None else (more, _member(path, archive, f"y_{part}")))
            there = {info.filename.removesuffix(".npy") for info in archive.infolist()}
            wanted = len(inputs) > 1 and there.issuperset(inputs)
            if wanted or (x is None and not any(one in there for one, _ in _OTHER_NAMES)):
                return _by_name(path, archive, inputs if wanted else ())
            if x is None:
                names, (x, y) = _called_otherwise(path, archive)
    except InputError:
        raise
    except Exception as error:
        # zipfile raises a dozen kinds on hostile bytes: BadZipFile, zlib.error, NotImplementedError
        # (a method it lacks), RuntimeError (a password), struct.error, UnicodeDecodeError, ...
        raise InputError(f"{path}: is not a readable .npz ({reason(error)}); {_WRITE_NPZ}") from None
    splits = as_test_split(path, x, y, parts[0], parts[1])
    return splits if names is None else dataclasses.replace(splits, notes=(*splits.notes, names))


_OTHER_NAMES = (
    ("x_test", "y_test"), ("X_test", "y_test"), ("test_x", "test_y"), ("X", "y"), ("X", "Y"),
    ("test_images", "test_labels"), ("test_data", "test_labels"), ("images", "labels"), ("images", "targets"),
    ("inputs", "labels"), ("inputs", "targets"), ("features", "labels"), ("data", "labels"), ("data", "target"),
    ("data", "targets"), ("arr_0", "arr_1"),
)  # fmt: skip
"""What others call examples and labels: of MNIST's own archive, MedMNIST, scikit-learn, and savez without names."""


_LABELS = ("labels", "y", "targets", "label", "target", "y_true")
"""What labels are called beside inputs with names."""


def _by_name(path: Path, archive: zipfile.ZipFile, inputs: Sequence[str]) -> Splits:
    """Several inputs by the names of the model's forward, and labels; with `_train` and `_val` after them, for those.

    Args:
        inputs: names that are inputs whatever they are; beside them, every array that is not called as labels are.

    Raises:
        InputError: if there is none.
    """
    parts: dict[str, dict[str, np.ndarray]] = {"test": {}, "train": {}, "val": {}}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        base, _, part = name.rpartition("_")
        base, part = (base, part) if base and part in parts and name not in inputs else (name, "test")
        array = _member(path, archive, name)
        if array is None or base in parts[part]:
            raise InputError(f"{path}: holds {name[:32]!r} twice, or no array of that name; {_WRITE_NPZ}")
        parts[part][base] = array
    found: dict[str, tuple[dict[str, np.ndarray], np.ndarray | None]] = {}
    for part, arrays in parts.items():
        labels = [name for name in _LABELS if name in arrays and name not in inputs]
        if len(labels) > 1:
            raise InputError(f"{path}: holds the labels {' and '.join(labels)}: keep one of them")
        y = arrays.pop(labels[0]) if labels else None
        if arrays:
            found[part] = arrays, y
        elif part == "test":
            names = ", ".join(repr(name[:32]) for name in archive.namelist()[:6]) or "nothing"
            raise InputError(f"{path}: holds {names} and no array x; {_WRITE_NPZ}")
    return as_test_split(path, *found["test"], found.get("train"), found.get("val"))


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
            note = f"{one} was taken as x" + (
                f" and {other} as y" if y is not None else ", and there are no labels"
            )
            return note, (x, y)
    names = ", ".join(repr(name[:32]) for name in archive.namelist()[:6]) or "nothing"
    raise InputError(f"{path}: holds {names} and no array x; {_WRITE_NPZ}")


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> np.ndarray | None:
    """The array called `name`, or `None` where the archive has none."""
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        return None
    check_packed(path, info.file_size, info.compress_size)
    return _read_array(path, name, lambda: archive.open(info), info.file_size, _WRITE_NPZ)
