"""Reading chunks without HDF5's own filters, which believe what a chunk says of itself.

HDF5 2.0 unpacks a deflate stream to whatever length it has: a longer one than the chunk fills the memory,
and behind a shorter one it reads on into memory of this process. Here every stream is cut at the size that
the chunk must have, and refused unless it ends there. It is also faster: chunks are unpacked on all threads.
"""

import zlib
from itertools import product
from typing import Any

import h5py
import numpy as np
from h5py import h5z
from numpy.typing import NDArray

from crossbar_sim.crossbar import threads
from crossbar_sim.errors import InputError

FILTERS = (h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32)
"""Those that are undone here."""

_SUM = 4


class DamagedChunkError(Exception):
    """A chunk is not what it must be; `guard.reading` makes it a sentence."""


def read(dataset: h5py.Dataset, high: slice, wide: slice) -> NDArray[Any]:
    """All planes of some rows and columns.

    Args:
        dataset: (planes, rows, columns), opened and checked by `dataset`.
        high, wide: rows and columns.

    Raises:
        DamagedChunkError: if a chunk does not have its checksum or its size.
        OSError: if HDF5 cannot read it at all.
    """
    if dataset.chunks is None:
        return np.asarray(dataset[:, high, wide])
    wanted = (slice(0, dataset.shape[0]), high, wide)
    sizes = dataset.chunks
    out = np.empty([part.stop - part.start for part in wanted], dataset.dtype)
    filters = _filters(dataset)

    def copy(corner: tuple[int, ...]) -> None:
        chunk = _chunk(dataset, corner, filters)
        there, here = [], []
        for first, size, part in zip(corner, sizes, wanted, strict=True):
            start, stop = max(first, part.start), min(first + size, part.stop)
            there.append(slice(start - part.start, stop - part.start))
            here.append(slice(start - first, stop - first))
        out[tuple(there)] = chunk[tuple(here)]

    starts = (
        range(part.start // size * size, part.stop, size) for part, size in zip(wanted, sizes, strict=True)
    )
    threads.run(copy, product(*starts))
    return out


def check_filters(dataset: h5py.Dataset, name: str) -> None:
    """Refuse filters that are not undone here, and two compressions on top of each other.

    Raises:
        InputError: naming the filter.
    """
    codes = [code for code, _ in _filters(dataset)]
    unknown = [code for code in codes if code not in FILTERS]
    if unknown or codes.count(h5z.FILTER_DEFLATE) > 1:
        what = f"HDF5 filter {unknown[0]}" if unknown else "gzip more than once"
        raise InputError(f"{name} is compressed with {what}: save it with gzip, once, or without compression")


def _filters(dataset: h5py.Dataset) -> list[tuple[int, tuple[int, ...]]]:
    """(code, values) of the filters, in the order in which they were applied."""
    plan = dataset.id.get_create_plist()
    found = (plan.get_filter(index) for index in range(plan.get_nfilters()))
    return [(entry[0], tuple(entry[2])) for entry in found]


def _chunk(
    dataset: h5py.Dataset, corner: tuple[int, ...], filters: list[tuple[int, tuple[int, ...]]]
) -> NDArray[Any]:
    dtype, shape = dataset.dtype, dataset.chunks
    size = int(np.prod(shape)) * dtype.itemsize
    stored = dataset.id.get_chunk_info_by_coord(corner)
    if stored.byte_offset is None:
        return np.full(shape, dataset.fillvalue, dtype)
    if stored.size > 2 * size + 1024:  # no compression makes it that much larger
        raise DamagedChunkError(f"a chunk of {size} bytes is stored in {stored.size}")
    mask, data = dataset.id.read_direct_chunk(corner)
    for index in reversed(range(len(filters))):
        code, values = filters[index]
        if mask >> index & 1:
            # A writer may skip a compression that does not help; never a checksum.
            if code != h5z.FILTER_DEFLATE:
                raise DamagedChunkError("a chunk is exempt from its checksum")
        elif code == h5z.FILTER_DEFLATE:
            data = _inflate(data, size + _SUM)
        elif code == h5z.FILTER_SHUFFLE:
            data = _unshuffle(data, values[0] if values else dtype.itemsize)
        else:
            data = _verify(data)
    if len(data) != size:
        raise DamagedChunkError(f"a chunk has {len(data)} bytes instead of {size}")
    return np.frombuffer(data, dtype).reshape(shape)


def _inflate(data: bytes, most: int) -> bytes:
    stream = zlib.decompressobj()
    unpacked = stream.decompress(data, most + 1)
    if len(unpacked) > most or not stream.eof:
        raise DamagedChunkError("a compressed chunk does not end where it must")
    return unpacked


def _unshuffle(data: bytes, width: int) -> bytes:
    """Undo the shuffle filter: all first bytes of the values, all second bytes, ...; a rest stays."""
    count = len(data) // width if width else 0
    if width < 2 or count < 2:
        return data
    whole = np.frombuffer(data, np.uint8, count * width).reshape(width, count)
    return whole.T.tobytes() + data[count * width :]


def _verify(data: bytes) -> bytes:
    """Check and cut off Fletcher's checksum: ones' complement sums of 16-bit words, high byte first."""
    content, given = data[:-_SUM], int.from_bytes(data[-_SUM:], "little")
    padded = content + b"\0" if len(content) % 2 else content
    words = np.frombuffer(padded, ">u2").astype(np.uint64)
    total = int(words.sum())
    twice = int((words * np.arange(len(words), 0, -1, dtype=np.uint64)).sum())
    if len(data) < _SUM or _ones(twice) << 16 | _ones(total) != given:
        raise DamagedChunkError("a chunk does not have its checksum")
    return content


def _ones(value: int) -> int:
    """Reduced to 16 bits by adding the carries: multiples of 65535 other than 0 become 65535."""
    return (value - 1) % 65535 + 1 if value else 0
