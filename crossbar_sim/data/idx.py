"""MNIST as its authors publish it: four IDX files, plain or gzipped.

The format (yann.lecun.com/exdb/mnist, "THE IDX FILE FORMAT"): two zero bytes, a type code (0x08:
unsigned byte), the number of dimensions, each dimension as a big-endian 32-bit integer, the values.
"""

import gzip
import math
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from crossbar_sim.data.dataset import Split, Splits
from crossbar_sim.data.files import check_file, check_memory, check_packed, reason
from crossbar_sim.errors import InputError

DATA_VARIABLE = "CROSSBAR_SIM_DATA"
MNIST_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_FOLDERS = ("MNIST/raw", "raw", ".")
_UNSIGNED_BYTE = 0x08
_GZIP_MAGIC = b"\x1f\x8b"
_AGAIN = "the file is damaged: fetch it again"
_FETCH = "torchvision.datasets.MNIST(DIR, download=True) writes this layout"


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes.

    Whether it is gzipped is seen from its first bytes, not from its name.

    Args:
        path: the file.
        dimensions: how many dimensions it must have (images 3, labels 1).

    Returns:
        A uint8 array of that many dimensions; it may be read-only.

    Raises:
        InputError: if the file is missing, out of reach, no such IDX file, truncated, too long or
            larger than this machine's memory; nothing is allocated on the word of a header.
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


def find_mnist(data_dir: Path | None) -> dict[str, tuple[Path, Path]]:
    """Where the four files are: split -> (images, labels); a plain file goes before a `.gz`.

    Args:
        data_dir: DIR of DIR/MNIST/raw, DIR/raw or DIR itself; `None` asks $CROSSBAR_SIM_DATA.

    Raises:
        InputError: if no folder is given, or no place holds all four files.
    """
    named = str(data_dir) if data_dir is not None else os.environ.get(DATA_VARIABLE, "")
    if not named:
        raise InputError(
            f"mnist needs its four IDX files: give --data-dir DIR (data_dir in Python) or set "
            f"{DATA_VARIABLE}=DIR; {_FETCH}"
        )
    fewest: list[str] | None = None
    for folder in (Path(named) / below for below in _FOLDERS):
        found = {name: _either(folder, name) for pair in MNIST_FILES.values() for name in pair}
        missing = [name for name, path in found.items() if path is None]
        if not missing:
            paths = {name: path for name, path in found.items() if path is not None}
            return {part: (paths[a], paths[b]) for part, (a, b) in MNIST_FILES.items()}
        if fewest is None or len(missing) < len(fewest):
            fewest = missing
    raise InputError(
        f"mnist: no {', '.join(fewest or ())} (plain or .gz) in {named} or its MNIST/raw or raw; "
        f"check --data-dir and {DATA_VARIABLE}; {_FETCH}"
    )


def _either(folder: Path, name: str) -> Path | None:
    candidates = (folder / name, folder / f"{name}.gz")
    return next((path for path in candidates if os.path.isfile(path)), None)


def load_mnist(data_dir: Path | None = None) -> Splits:
    """MNIST: 60,000 images to develop with and 10,000 to test on.

    Args:
        data_dir: see `find_mnist`.

    Returns:
        x (n, 1, 28, 28) in 0 .. 1: bytes divided by 255 and nothing else (no mean is subtracted);
        y in 0 .. 9. Validation is the last sixth of the training file: 10,000 of 60,000.

    Raises:
        InputError: if a file is missing or is not what MNIST holds; the sentence names it.
    """
    files = find_mnist(data_dir)
    images, labels = _pair(*files["train"])
    held = len(images) // 6
    if held == 0:
        raise InputError(
            f"{files['train'][0]}: holds {len(images)} images; at least 6 are needed, of which "
            "the last sixth is the validation split"
        )
    train = Split(images[:-held], labels[:-held])
    validation = Split(images[-held:], labels[-held:])
    test = Split(*_pair(*files["test"]))
    notes = (
        "pixel values 0 .. 255 divided by 255, nothing subtracted",
        f"validation is the last {held} images of the training file",
    )
    return Splits("mnist", train, validation, test, 10, notes)


def _pair(images_path: Path, labels_path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Images (n, 1, 28, 28) float32 and labels (n,) int64 that belong together."""
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (28, 28) or len(images) == 0:
        raise InputError(
            f"{images_path}: holds images of shape {images.shape}; MNIST is (n, 28, 28), "
            "other images can be given as .npz"
        )
    if len(images) != len(labels):
        raise InputError(
            f"{labels_path}: holds {len(labels)} labels and {images_path.name} {len(images)} "
            "images; the two files do not belong together"
        )
    if labels.max() > 9:
        raise InputError(f"{labels_path}: holds label {labels.max()}; MNIST's are 0 .. 9")
    x = torch.from_numpy(images.astype(np.float32)).div_(255).unsqueeze(1)
    return x, torch.from_numpy(labels.astype(np.int64))
