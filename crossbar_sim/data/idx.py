"""MNIST and Fashion-MNIST as their authors publish them: four IDX files, plain or gzipped.

The format (yann.lecun.com/exdb/mnist, "THE IDX FILE FORMAT"): two zero bytes, a type code (0x08:
unsigned byte), the number of dimensions, each dimension as a big-endian 32-bit integer, the values.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from crossbar_sim.data.arrays import scaled
from crossbar_sim.data.catalogue import find_idx
from crossbar_sim.data.dataset import Split, Splits, last_of_each_class
from crossbar_sim.data.images import check_file, check_memory, check_packed
from crossbar_sim.errors import InputError
from crossbar_sim.files import reason

_UNSIGNED_BYTE = 0x08
_GZIP_MAGIC = b"\x1f\x8b"
_SCALED = "pixel values 0 .. 255 divided by 255, nothing subtracted"
_AGAIN = "the file is damaged: fetch it again"


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes.

    Whether it is gzipped is decided by its first bytes, not by its name.

    Args:
        path: the file.
        dimensions: how many dimensions it must have (images 3, labels 1).

    Returns:
        A uint8 array of that many dimensions; it may be read-only.

    Raises:
        InputError: if the file is missing, out of reach, not such an IDX file, truncated, too long or
            larger than this machine's memory; nothing is allocated before the header was checked.
    """
    size = check_file(path)
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            if not packed:
                return _read(path, raw, dimensions, size, packed=False)
            with gzip.open(raw) as stream:
                return _read(path, stream, dimensions, size, packed=True)  # type: ignore[arg-type]
    except (OSError, EOFError, zlib.error) as error:  # BadGzipFile is an OSError
        raise InputError(f"{path}: cannot be read ({reason(error)}); {_AGAIN}") from None


def _read(path: Path, stream: BinaryIO, dimensions: int, size: int, packed: bool) -> np.ndarray:
    """Read the header, check it against `size` bytes of file, then read the values."""
    length = 4 + 4 * dimensions
    header = stream.read(length)
    magic = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if header[:4] != magic:
        raise InputError(
            f"{path}: starts with {header[:4].hex() or 'nothing'} and an IDX file of unsigned "
            f"bytes in {dimensions} dimensions with {magic.hex()}; give the official file"
        )
    if len(header) < length:
        raise InputError(f"{path}: ends inside its header of {length} bytes; {_AGAIN}")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    count = math.prod(shape)
    if packed:
        check_packed(path, length + count, size)
    elif length + count != size:
        raise InputError(
            f"{path}: its header claims shape {shape}, so {length + count} bytes, and it has {size}; {_AGAIN}"
        )
    check_memory(path, 5 * count)  # the bytes and their float32
    # One byte more than claimed, to see that nothing follows; it also makes gzip check its CRC.
    body = stream.read(count + 1)
    if len(body) != count:
        amount = "more" if len(body) > count else f"only {len(body)}"
        raise InputError(
            f"{path}: its header claims shape {shape}, so {count} values, and it holds {amount}; {_AGAIN}"
        )
    return np.frombuffer(body, dtype=np.uint8).reshape(shape)


def load_mnist(data_dir: Path | None = None) -> Splits:
    """MNIST: 60,000 images to develop with and 10,000 to test on.

    Args:
        data_dir: see `catalogue.find_idx`.

    Returns:
        x (n, 1, 28, 28) in 0 .. 1: bytes divided by 255 and nothing else (no mean is subtracted);
        y in 0 .. 9. Validation is the last sixth of the training file: 10,000 of 60,000.

    Raises:
        InputError: if a file is missing or is not what MNIST holds; the sentence names it.
    """
    files = find_idx("mnist", data_dir)
    images, labels = _pair(*files["train"])
    count = len(images) // 6
    if count == 0:
        raise _too_few(files["train"][0])
    train = Split(images[:-count], labels[:-count])
    validation = Split(images[-count:], labels[-count:])
    test = Split(*_pair(*files["test"]))
    notes = (_SCALED, f"validation is the last {count} images of the training file")
    return Splits("mnist", train, validation, test, 10, notes)


def load_fashion_mnist(data_dir: Path | None = None) -> Splits:
    """Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): 60,000 images and 10,000 to test on.

    Args:
        data_dir: see `catalogue.find_idx`.

    Returns:
        x (n, 1, 28, 28) in 0 .. 1: bytes divided by 255 and nothing else; y in 0 .. 9. Validation is
        the last sixth of every class in the order of the training file: 1,000 of 6,000.

    Raises:
        InputError: if a file is missing or is not what Fashion-MNIST holds; the sentence names it.
    """
    files = find_idx("fashion-mnist", data_dir)
    images, labels = _pair(*files["train"])
    indices = last_of_each_class(labels.numpy(), 1 / 6)
    if len(indices[1]) == 0:
        raise _too_few(files["train"][0])
    train, validation = (Split(images[part], labels[part]) for part in indices)
    test = Split(*_pair(*files["test"]))
    notes = (_SCALED, "validation is the last sixth of every class of the training file")
    return Splits("fashion-mnist", train, validation, test, 10, notes)


def _too_few(path: Path) -> InputError:
    return InputError(
        f"{path}: holds too few images; at least 6 are needed (Fashion-MNIST: of one class), of which "
        "the last sixth is the validation split"
    )


def _pair(images_path: Path, labels_path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 1, 28, 28) float32 and labels (n,) int64 that belong together."""
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (28, 28) or len(images) == 0:
        raise InputError(
            f"{images_path}: holds images of shape {images.shape}; they are (n, 28, 28), "
            "other images can be given as .npz or folders"
        )
    if len(images) != len(labels):
        raise InputError(
            f"{labels_path}: holds {len(labels)} labels and {images_path.name} {len(images)} "
            "images; the two files do not belong together"
        )
    if labels.max() > 9:
        raise InputError(f"{labels_path}: holds label {labels.max()}; they are 0 .. 9")
    return scaled(images[:, None]), torch.from_numpy(labels.astype(np.int64))
