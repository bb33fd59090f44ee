"""Tiny files in the official layouts."""

import gzip
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


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


@pytest.fixture(scope="session")
def write_cifar10() -> Callable[..., dict[str, np.ndarray]]:
    """write_cifar10(folder, n=20) -> the pixels written, by file name; label i % 10 for image i."""

    def write(folder: Path, n: int = 20) -> dict[str, np.ndarray]:
        folder.mkdir(parents=True, exist_ok=True)
        written = {}
        for b, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
            pixels = ((np.arange(n * 3072) * 7 + b) % 256).astype(np.uint8).reshape(n, 3072)
            batch = {"data": pixels, "labels": [i % 10 for i in range(n)], "batch_label": name}
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
            written[name] = pixels
        return written

    return write


@pytest.fixture(scope="session")
def write_picture() -> Callable[..., np.ndarray]:
    """write_picture(path, height, width, seed=0, grey=False) -> the pixels written, (h, w, 3) or (h, w)."""

    def write(path: Path, height: int, width: int, seed: int = 0, grey: bool = False) -> np.ndarray:
        path.parent.mkdir(parents=True, exist_ok=True)
        count = height * width * (1 if grey else 3)
        values = ((np.arange(count) * 37 + seed * 101) % 256).astype(np.uint8)
        pixels = values.reshape((height, width) if grey else (height, width, 3))
        Image.fromarray(pixels).save(path)
        return pixels

    return write


HEAD = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"


@pytest.fixture(scope="session")
def write_gtsrb(write_picture: Callable[..., np.ndarray]) -> Callable[..., None]:
    """write_gtsrb(folder, classes=3, tracks=3, frames=4, small=False): GTSRB below folder/GTSRB.

    Images have 8 + track by 9 + frame pixels (width by height); test image i has class i % classes.
    """

    def write(
        folder: Path, classes: int = 3, tracks: int = 3, frames: int = 4, small: bool = False, test: int = 6
    ) -> None:
        for label in range(classes):
            home = folder / "GTSRB" / "Final_Training" / "Images" / f"{label:05}"
            lines = [HEAD]
            for track in range(tracks):
                for frame in range(frames):
                    name, width, height = f"{track:05}_{frame:05}.ppm", 8 + track, 9 + frame
                    write_picture(home / name, height, width, seed=label * 100 + track * 10 + frame)
                    lines.append(f"{name};{width};{height};1;2;{width - 1};{height - 2};{label}")
            (home / f"GT-{label:05}.csv").write_text("\r\n".join(lines) + "\r\n")
        home = folder / "GTSRB" / ("Final_Test_32x32" if small else "Final_Test") / "Images"
        lines = [HEAD]
        for i in range(test):
            width, height = (32, 32) if small else (10, 11)
            write_picture(home / f"{i:05}.ppm", height, width, seed=i)
            lines.append(
                f"{i:05}.ppm;50;51;5;6;45;46;{i % classes}"
                if small
                else f"{i:05}.ppm;10;11;1;1;9;9;{i % classes}"
            )
        (home / "GT-final_test.csv").write_text("\r\n".join(lines) + "\r\n")

    return write
