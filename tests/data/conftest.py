"""Tiny files in the official layouts."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


def idx_bytes(values: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes, written from the format's description."""
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return head + values.astype(np.uint8).tobytes()


@pytest.fixture(scope="session")
def idx() -> Callable[[np.ndarray], bytes]:
    return idx_bytes


@pytest.fixture(scope="session")
def write_mnist() -> Callable[..., dict[str, np.ndarray]]:
    """write_mnist(folder, packed=False, train=12, test=5) -> the arrays written, by file name."""

    def write(folder: Path, packed: bool = False, train: int = 12, test: int = 5) -> dict[str, np.ndarray]:
        folder.mkdir(parents=True, exist_ok=True)
        written = {}
        for part, n in (("train", train), ("t10k", test)):
            images = (np.arange(n * 784) * 7 % 256).astype(np.uint8).reshape(n, 28, 28)
            written[f"{part}-images-idx3-ubyte"] = images
            written[f"{part}-labels-idx1-ubyte"] = (np.arange(n) * 3 % 10).astype(np.uint8)
        for name, values in written.items():
            content = idx_bytes(values)
            path = folder / (f"{name}.gz" if packed else name)
            path.write_bytes(gzip.compress(content, mtime=0) if packed else content)
        return written

    return write
