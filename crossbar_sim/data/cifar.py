"""CIFAR-10 as its authors publish it: six pickled batches of Python 2, in a folder or in their `.tar.gz`.

https://www.cs.toronto.edu/~kriz/cifar.html, "Python version".
"""

import gzip
import io
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from crossbar_sim.data.arrays import scaled
from crossbar_sim.data.dataset import Split, Splits
from crossbar_sim.data.files import check_file, check_memory, reason
from crossbar_sim.data.pickles import read_pickle
from crossbar_sim.data.places import CIFAR10_FILES, CIFAR10_FOLDER, find_cifar10
from crossbar_sim.data.splitting import last_of_each_class
from crossbar_sim.errors import InputError

VALIDATION = 0.1
_PIXELS = 3 * 32 * 32
_LARGEST = 64 * 2**20
"""No batch is larger than this (the official ones have 31 MB): it bounds what a hostile one can cost."""


def load_cifar10(data_dir: Path | None = None) -> Splits:
    """CIFAR-10 (Krizhevsky, 2009): 50,000 images to develop with and 10,000 to test on.

    Args:
        data_dir: see `places.find_cifar10`.

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
    kept, held = last_of_each_class(y["train"], VALIDATION)
    if len(held) == 0:
        raise InputError(
            f"{place}: holds too few images; 10 of one class are enough, of which the last "
            "is the validation split"
        )
    train, validation = (
        Split(scaled(x["train"][part]), torch.from_numpy(y["train"][part]))
        for part in (kept.numpy(), held.numpy())
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
        raise InputError(f"{path}: its labels are no list of whole numbers; give the official file")
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
        raise InputError(f"{place}: is no readable .tar.gz ({reason(error)}); fetch it again") from None
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
