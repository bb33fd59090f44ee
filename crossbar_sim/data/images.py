"""Image files: finding and decoding them."""

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image

from crossbar_sim.errors import InputError
from crossbar_sim.files import check_regular, memory, reason

DEFLATE_LIMIT = 1032
"""No deflate stream unpacks to more than 1032 times its size (zlib's technical notes)."""


def check_file(path: Path) -> int:
    """The size in bytes of a regular file; raises InputError as `check_regular`."""
    return check_regular(path, "a file").st_size


def check_memory(path: Path, needed: int) -> None:
    """Refuse, before anything is allocated, what cannot fit into this machine.

    Args:
        path: the file that claims to hold so much.
        needed: bytes that reading it would take.

    Raises:
        InputError: if that is more than the machine's memory.
    """
    if needed > memory():
        raise InputError(
            f"{path}: its header claims data that needs {needed / 2**30:.3g} GiB of memory and "
            f"there are {memory() / 2**30:.3g} GiB; the file is damaged, or take a part of it"
        )


def check_packed(path: Path, claimed: int, packed: int) -> None:
    """Refuse a compressed stream that claims to unpack to more than its bytes can hold.

    Raises:
        InputError: if `claimed` bytes cannot come out of `packed` compressed ones.
    """
    if claimed > DEFLATE_LIMIT * packed:
        raise InputError(
            f"{path}: claims that {packed} compressed bytes unpack to {claimed}, more than "
            f"{DEFLATE_LIMIT} times as many; the file is damaged: fetch or write it again"
        )


# Image files to arrays of bytes by Pillow, and what is refused before it decodes.


FORMATS = ("PNG", "JPEG", "BMP", "PPM", "WEBP", "TIFF")
"""What is decoded. Pillow knows more, some of which start other programs (EPS) or are hardly tested."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff")
MOST_PIXELS = 2**26
"""Of one image: 8192 x 8192. A file of a few kilobytes can claim a thousand times as many."""
_GREY, _COLOUR = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """An image file whose header has been read and found harmless; its pixels are not decoded yet.

    Raises:
        InputError: if it is not such an image, has too many pixels or frames, or decoding it fails.
    """
    check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about metadata, of which nothing is used
            with Image.open(path, formats=FORMATS) as image:
                width, height = image.size
                if width * height > MOST_PIXELS or width * height == 0:
                    raise InputError(
                        f"{path}: claims {width} x {height} pixels; images of 1 to {MOST_PIXELS} pixels are read"
                    )
                # MPO is how some cameras write a JPEG with a preview behind it.
                if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
                    raise InputError(f"{path}: holds several frames; give images of one frame each")
                if image.mode not in _GREY + _COLOUR:
                    raise InputError(
                        f"{path}: has pixels of kind {image.mode!r}; 8-bit grey or colour images are read: "
                        "convert it, or give the values as .npz"
                    )
                yield image
    except (InputError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise InputError(f"{path}: claims more pixels than the {MOST_PIXELS} that are read") from None
    except Exception as error:
        # Pillow raises many kinds on hostile bytes: UnidentifiedImageError, OSError, SyntaxError, ...
        text = reason(error).replace(str(path), "it").replace(repr(str(path)), "it")
        raise InputError(f"{path}: is not a readable image ({text}); remove it or write it again") from None


def header(path: Path) -> tuple[int, int, bool]:
    """Height, width, and whether it is grey, of an image file; nothing is decoded.

    Raises:
        InputError: see `opened`.
    """
    with opened(path) as image:
        return image.height, image.width, image.mode in _GREY


def pixels(image: Image.Image, grey: bool, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode an image that `opened` gave.

    Args:
        image: of any kind that `opened` lets pass; transparency is dropped.
        grey: one channel (of a grey image) or three.
        size: height and width to resize to, bilinear over all pixels that fall into one (Pillow's);
            `None`: as it is.

    Returns:
        (channels, height, width) uint8.
    """
    plain = image.convert("L" if grey else "RGB")
    if size is not None and size != (plain.height, plain.width):
        plain = plain.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    array = np.asarray(plain, dtype=np.uint8)
    return array[None] if grey else array.transpose(2, 0, 1)


def resize_sampled(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize like OpenCV's bilinear `resize` of bytes: four neighbours, no averaging, aspect not kept.

    Bit for bit OpenCV's fixed-point arithmetic (weights in 1/2048), with which the 32x32 copies of GTSRB
    that are in use were made: a network must be trained on images resized as those it is tested on.

    Args:
        image: (h, w, c) uint8.
        size: height and width to resize to.

    Returns:
        (height, width, c) uint8.
    """
    if image.shape[:2] == size:
        return image
    left, right, w0, w1 = _columns(image.shape[1], size[1])
    top, bottom, v0, v1 = _rows(image.shape[0], size[0])
    values = image.astype(np.int32)
    lines = (values[:, left] * w0[:, None] + values[:, right] * w1[:, None]) >> 4
    upper = (v0[:, None, None] * lines[top]) >> 16
    lower = (v1[:, None, None] * lines[bottom]) >> 16
    return ((upper + lower + 2) >> 2).astype(np.uint8)


_Axis = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _positions(given: int, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """The positions of the wanted pixels' centres: the pixel before, and the distance from it, in float32."""
    at = ((np.arange(wanted) + 0.5) * (given / wanted) - 0.5).astype(np.float32)
    before = np.floor(at)
    return before.astype(np.int64), at - before


def _weights(part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    one, scale = np.float32(1), np.float32(2048)
    return np.rint((one - part) * scale).astype(np.int32), np.rint(part * scale).astype(np.int32)


@functools.lru_cache(maxsize=1024)
def _columns(given: int, wanted: int) -> _Axis:
    """Neighbours and weights of columns: at the edges all weight is on the one that is there."""
    before, part = _positions(given, wanted)
    part = np.where((before < 0) | (before >= given - 1), np.float32(0), part)
    before = np.clip(before, 0, given - 1)
    return before, np.clip(before + 1, 0, given - 1), *_weights(part)


@functools.lru_cache(maxsize=1024)
def _rows(given: int, wanted: int) -> _Axis:
    """Neighbours and weights of rows: at the edges both are the same row, which rounds otherwise."""
    before, part = _positions(given, wanted)
    return np.clip(before, 0, given - 1), np.clip(before + 1, 0, given - 1), *_weights(part)
