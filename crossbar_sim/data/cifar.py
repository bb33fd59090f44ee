"""CIFAR-10 as its authors publish it: six pickled batches of Python 2, in a folder or in their `.tar.gz`.

https://www.cs.toronto.edu/~kriz/cifar.html, "Python version".
"""

import gzip
import io
import math
import pickle
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch

from crossbar_sim.data.arrays import scaled
from crossbar_sim.data.catalogue import CIFAR10_FILES, CIFAR10_FOLDER, find_cifar10
from crossbar_sim.data.dataset import Split, Splits, last_of_each_class
from crossbar_sim.data.images import check_file, check_memory
from crossbar_sim.errors import InputError
from crossbar_sim.files import reason
from crossbar_sim.validate import show

# Batches are pickles, and a pickle can call any function. Here it can name five, none of which is imported or called:
# a call is recorded, and only the recorded array of pixels becomes an array.

_NAMED = {
    ("numpy.core.multiarray", "_reconstruct"): "array",
    ("numpy._core.multiarray", "_reconstruct"): "array",
    ("numpy", "ndarray"): "ndarray",
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
}
"""The names that a batch may contain, and what the recorded call is."""

_OPCODES = b"\x80\x95(N\x88\x89KMJUT\x8cXCB}])t\x85\x86\x87aesuqr\x94hjc\x93Rb."
"""Those of arrays of bytes, lists, dicts, strings and integers in protocols 2 to 4."""


class _Call:
    """What a file calls, by the kind of `_NAMED`, with its first argument and the state that is set on the result."""

    kind = ""

    def __init__(self, first: Any, second: Any = None, third: Any = None) -> None:
        # No more and no sequence of arguments: a file could repeat a long one without end.
        self.first, self.second, self.state = first, second, None

    def __setstate__(self, state: Any) -> None:
        self.state = state


_CALLS = {name: type("_Call", (_Call,), {"kind": kind}) for name, kind in _NAMED.items()}


_PythonUnpickler: Any = pickle._Unpickler


class _Unpickler(_PythonUnpickler):
    """Python's unpickler with few instructions and five names.

    The one written in Python: the one in C allocates the length that a string claims and a table as long as the
    largest number of an object, and overflows the stack on a dict whose key is a deeply nested tuple.
    """

    dispatch: ClassVar[dict[int, Any]] = {code: _PythonUnpickler.dispatch[code] for code in _OPCODES}

    def find_class(self, module: str, name: str) -> Any:
        """The recorder of a known name."""
        if (module, name) not in _CALLS:
            found = f"{module}.{name}"[:80]
            raise InputError(f"is a pickle that names {found!r}, which is refused: data needs no code")
        return _CALLS[module, name]

    def load_setitems(self) -> None:
        """Put keys and values into a dict; only strings are keys."""
        self._fill(self.pop_mark())

    def load_setitem(self) -> None:
        """The same for one key."""
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def _fill(self, items: list[Any]) -> None:
        if not all(isinstance(key, str) for key in items[::2]):
            raise InputError("is a pickle of a dict whose keys are not strings")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.SETITEM[0]] = load_setitem


def read_pickle(path: Path, content: bytes) -> Any:
    """What a pickle of dicts, lists, tuples, strings, integers and arrays of bytes holds.

    Args:
        path: what errors call it.
        content: the whole pickle.

    Returns:
        The object. If it is a dict with an array `data`, that is a uint8 `numpy.ndarray` (read-only). Strings of
        Python 2 are `str` in Latin-1.

    Raises:
        InputError: if it is damaged, or names or does anything else; nothing of it has run then.
    """
    stream = io.BytesIO(content)
    try:
        found = _Unpickler(stream, encoding="latin-1").load()
        if stream.read(1):
            raise InputError("continues behind the end of its pickle")
        if isinstance(found, dict) and isinstance(found.get("data"), _Call):
            found["data"] = _array(found["data"])
    except InputError as error:
        raise InputError(f"{path}: {error}; give the official file") from None
    except Exception as error:
        # The unpickler raises nearly anything on hostile bytes.
        raise InputError(
            f"{path}: cannot be unpickled ({type(error).__name__}: {reason(error)}); "
            "the file is damaged: fetch it again"
        ) from None
    return found


def _array(call: _Call) -> np.ndarray:
    """The array of bytes that a file describes, if it has exactly as many as its shape says."""
    state = call.state
    if call.kind != "array" or type(state) is not tuple or len(state) != 5:
        raise InputError("is a pickle with an array that has no values")
    _, shape, dtype, fortran, data = state
    name = dtype.first if isinstance(dtype, _Call) and dtype.kind == "dtype" else None
    if name not in ("u1", "|u1"):
        raise InputError(f"is a pickle with an array of {show(name)}; pixels are 'u1'")
    if isinstance(data, _Call) and data.kind == "encode" and data.second in ("latin1", "latin-1"):
        data = data.first
    if isinstance(data, str):
        data = data.encode("latin-1")
    length = len(data) if isinstance(data, bytes) else 0
    sides = type(shape) is tuple and all(type(side) is int and 0 <= side < 2**40 for side in shape[:9])
    if not sides or len(shape) > 8 or not isinstance(data, bytes) or math.prod(shape) != length:
        raise InputError(f"holds an array that claims shape {show(shape)} and has {length} bytes")
    return np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran is True else "C")


VALIDATION = 0.1
_PIXELS = 3 * 32 * 32
_LARGEST = 64 * 2**20
"""No batch is larger than this (the official ones have 31 MB): it bounds what a hostile one can cost."""


def load_cifar10(data_dir: Path | None = None) -> Splits:
    """CIFAR-10 (Krizhevsky, 2009): 50,000 images to develop with and 10,000 to test on.

    Args:
        data_dir: see `catalogue.find_cifar10`.

    Returns:
        x (n, 3, 32, 32) in 0 .. 1: bytes divided by 255 and nothing else; y in 0 .. 9. Validation is
        the last tenth of every class in the order of the files: 500 of 5,000.

    Raises:
        InputError: if a file is missing or is not what CIFAR-10 holds; the sentence names it.
    """
    place = find_cifar10(data_dir)
    images: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    labels: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    with _batches(place) as batches:
        for part, path, content in batches:
            pixels, classes = _batch(path, content)
            images[part].append(pixels)
            labels[part].append(classes)
    x = {part: np.concatenate(each).reshape(-1, 3, 32, 32) for part, each in images.items()}
    y = {part: np.concatenate(each) for part, each in labels.items()}
    check_memory(place, 5 * (x["train"].size + x["test"].size))
    train_indices, validation_indices = last_of_each_class(y["train"], VALIDATION)
    if len(validation_indices) == 0:
        raise InputError(
            f"{place}: holds too few images; 10 of one class are enough, of which the last "
            "is the validation split"
        )
    train, validation = (
        Split(scaled(x["train"][part]), torch.from_numpy(y["train"][part]))
        for part in (train_indices.numpy(), validation_indices.numpy())
    )
    test = Split(scaled(x["test"]), torch.from_numpy(y["test"]))
    notes = (
        "pixel values 0 .. 255 divided by 255, nothing subtracted",
        "validation is the last tenth of every class of the training batches",
    )
    return Splits("cifar10", train, validation, test, 10, notes)


def _batch(path: Path, content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """A batch's pixels (n, 3072) uint8 and labels (n,) int64."""
    batch = read_pickle(path, content)
    if not isinstance(batch, dict) or not {"data", "labels"} <= batch.keys():
        raise InputError(f"{path}: has no data and labels; give the official file")
    pixels, labels = batch["data"], batch["labels"]
    if (
        not isinstance(pixels, np.ndarray)
        or pixels.ndim != 2
        or pixels.shape[1] != _PIXELS
        or not len(pixels)
    ):
        shape = pixels.shape if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise InputError(f"{path}: its data is {shape}; CIFAR-10's is (n, 3072) bytes, 3 x 32 x 32 pixels")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise InputError(f"{path}: its labels are not a list of integers; give the official file")
    if len(labels) != len(pixels):
        raise InputError(
            f"{path}: holds {len(labels)} labels and {len(pixels)} images; give the official file"
        )
    wrong = next((label for label in labels if not 0 <= label <= 9), None)
    if wrong is not None:
        raise InputError(f"{path}: holds label {str(wrong)[:20]}; CIFAR-10's are 0 .. 9")
    return pixels, np.array(labels, dtype=np.int64)


@contextmanager
def _batches(place: Path) -> Iterator[Iterator[tuple[str, Path, bytes]]]:
    """The batches as (train or test, path, bytes), in their order."""
    if place.is_dir():
        yield ((part, place / name, _content(place / name)) for part, name in _NAMES)
        return
    try:
        members = dict(_archived(place))
    except InputError:
        raise
    except Exception as error:
        # tarfile and gzip raise a dozen kinds on hostile bytes: TarError, EOFError, zlib.error, ...
        raise InputError(f"{place}: is not a readable .tar.gz ({reason(error)}); fetch it again") from None
    missing = [name for _, name in _NAMES if name not in members]
    if missing:
        raise InputError(f"{place}: has no {', '.join(missing)} in {CIFAR10_FOLDER}; fetch it again")
    yield ((part, place / name, members[name]) for part, name in _NAMES)


_NAMES = [(part, name) for part, names in CIFAR10_FILES.items() for name in names]


def _content(path: Path) -> bytes:
    """The bytes of a batch in a folder."""
    _check_size(path, check_file(path))
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)})") from None


def _check_size(path: Path, size: int) -> None:
    if size > _LARGEST:
        raise InputError(
            f"{path}: has {size} bytes; a batch of CIFAR-10 has 31 million: give the official file"
        )


def _archived(place: Path) -> Iterator[tuple[str, bytes]]:
    """The batches in the archive, which is read from front to end and nothing of it written."""
    check_file(place)
    wanted = {f"{CIFAR10_FOLDER}/{name}": name for _, name in _NAMES}
    with gzip.open(place) as stream:
        limited: Any = _Limited(place, stream, 16 * _LARGEST)  # type: ignore[arg-type]
        with tarfile.open(fileobj=limited, mode="r|") as archive:
            for member in archive:
                name = wanted.get(member.name)
                if name is None or not member.isreg():
                    continue
                _check_size(place / name, member.size)
                file = archive.extractfile(member)
                yield name, b"" if file is None else file.read()


class _Limited(io.RawIOBase):
    """A stream that refuses to give more than `most` bytes: an archive may unpack without end."""

    def __init__(self, path: Path, stream: BinaryIO, most: int) -> None:
        self.path, self.stream, self.left, self.most = path, stream, most, most

    def read(self, size: int = -1) -> bytes:
        """The next bytes."""
        chunk = self.stream.read(min(size, 2**20) if size >= 0 else 2**20)
        self.left -= len(chunk)
        if self.left < 0:
            raise InputError(f"{self.path}: unpacks to more than {self.most} bytes; give the official file")
        return chunk
