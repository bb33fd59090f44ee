"""Reading HDF5 files that nobody has checked: structure, sizes and checksums before any data."""

import math
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from h5py import h5d, h5l, h5o, h5t, h5z
from numpy.typing import NDArray

from crossbar_sim.errors import InputError
from crossbar_sim.files import check_regular, reason
from crossbar_sim.text import visible
from crossbar_sim.validate import show

# Strings of variable length lie in HDF5's global heaps, and a damaged heap makes HDF5 2.0 loop for ever.


_MARK = b"GCOL\x01"
_HEADER = 16


def check_global_heaps(file: h5py.File) -> None:
    """Walk the file's global heaps as HDF5 would, before it does.

    Raises:
        InputError: if one has an object that is smaller than its header or reaches beyond its heap.
    """
    if file.id.get_create_plist().get_sizes() != (8, 8):
        raise InputError("has no 8-byte lengths, as HDF5 files have: write it with h5py")
    status = os.stat(file.filename)
    if not _sound(file.filename, status.st_ino, status.st_size, status.st_mtime_ns):
        raise InputError("has a damaged heap of strings; copy or export it again")


@lru_cache(maxsize=4)
def _sound(filename: str, *_identity: int) -> bool:
    """Whether all heaps of the file, of that state, are as they should be."""
    with (
        open(filename, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        at = data.find(_MARK)
        while at >= 0:
            if not _sound_heap(data, at):
                return False
            at = data.find(_MARK, at + 1)
    return True


def _sound_heap(data: mmap.mmap, at: int) -> bool:
    """One collection: a header with its size, then objects (number, count, size, data); 0 is free space."""
    if at + _HEADER > len(data):
        return False
    end = at + int(struct.unpack_from("<Q", data, at + 8)[0])
    if end > len(data):
        return False
    at += _HEADER
    while at + _HEADER <= end:
        number, size = struct.unpack_from("<H6xQ", data, at)
        step = size if number == 0 else _HEADER + (size + 7) // 8 * 8
        if step < _HEADER or at + step > end:
            return False
        at += step
    return True


# Every access to a chip file goes through `reading`: the file is untrusted, and HDF5 raises anything.


SIGNATURE = b"\x89HDF\r\n\x1a\n"
_MATLAB = b"MATLAB "
_BLOCK = 512
"""MATLAB's save -v7.3 writes HDF5 behind a block of so many bytes, which begins with its name."""
_TEXT_LIMIT = 1 << 16


@contextmanager
def reading(path: Path) -> Iterator[h5py.File]:
    """The file, open for reading; all that goes wrong inside is one sentence that begins with its name.

    Raises:
        InputError: if it is missing, not HDF5 or damaged, or the block inside raises it.
    """
    name = visible(str(path))
    check_regular(path, "a chip file")
    try:
        _check_start(path)
        # A file system without locks, or one mounted read-only, does not matter here.
        with h5py.File(path, "r", locking="best-effort") as file:
            yield file
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    except Exception as error:
        # h5py raises OSError, RuntimeError, KeyError, ValueError, TypeError, UnicodeDecodeError, ...
        # on damaged bytes; what HDF5 says may have many lines.
        raise InputError(
            f"{name}: is damaged or was not written completely ({reason(error)}); copy or export it again"
        ) from None


def _check_start(path: Path) -> None:
    try:
        with open(path, "rb") as file:
            start = file.read(_BLOCK + len(SIGNATURE))
    except OSError as error:
        raise InputError(f"cannot be opened ({reason(error)}); check its permissions") from None
    if not start:
        raise InputError("is empty; export or copy it again")
    # HDF5 would look for its signature further on too, in files that are something else first.
    if not _is_hdf5(start):
        if start.startswith(_MATLAB):
            raise InputError(
                "is a MATLAB file of version 5, not HDF5: read it with scipy.io.loadmat and write its conductances "
                "with h5py (docs/format.md, 'What a reader does')"
            )
        raise InputError("is not an HDF5 file; write one with crossbar-sim export")


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Whether a regular file is HDF5, of MATLAB too; False for what cannot be read."""
    try:
        check_regular(path, "a file")
        with open(path, "rb") as file:
            return _is_hdf5(file.read(_BLOCK + len(SIGNATURE)))
    except (InputError, OSError):
        return False


def _is_hdf5(start: bytes) -> bool:
    return start.startswith(SIGNATURE) or is_matlab(start)


def is_matlab(start: bytes) -> bool:
    """Whether a file begins as MATLAB's HDF5 files (version 7.3) do."""
    return start.startswith(_MATLAB) and start[_BLOCK:].startswith(SIGNATURE)


def text(item: h5py.HLObject, name: str) -> str | None:
    """A string attribute, None if there is none.

    Raises:
        InputError: if it is not a single string, or has more than 64 KiB.
    """
    attribute = _attribute(item, name)
    if attribute is None:
        return None
    if attribute.get_type().get_class() != h5py.h5t.STRING or attribute.shape not in ((), (1,)):
        raise InputError(f"the attribute {name} is not a string; write one string")
    if attribute.get_storage_size() > _TEXT_LIMIT:
        raise InputError(f"the attribute {name} has more than {_TEXT_LIMIT} bytes")
    if attribute.get_type().is_variable_str():
        check_global_heaps(item.file)
    value = item.attrs[name]
    value = value[0] if isinstance(value, np.ndarray) else value
    value = value.decode() if isinstance(value, bytes) else str(value)
    if len(value) > _TEXT_LIMIT:  # of variable length: as long as the file can hold
        raise InputError(f"the attribute {name} has more than {_TEXT_LIMIT} characters")
    return str(value).rstrip("\0")


def numbers(item: h5py.HLObject, name: str, most: int) -> np.ndarray | None:
    """A numeric attribute as an array (n,), None if there is none.

    Raises:
        InputError: if it has more than `most` values or dimensions, or holds anything but finite numbers.
    """
    attribute = _attribute(item, name)
    if attribute is None:
        return None
    shape = attribute.shape
    plain = attribute.get_type().get_class() in (h5py.h5t.INTEGER, h5py.h5t.FLOAT)
    if not plain or shape is None or len(shape) > 1 or int(np.prod(shape, dtype=object)) > most:
        raise InputError(
            f"the attribute {name} of shape {shape} must be a number or a list of up to {most} numbers"
        )
    values = np.atleast_1d(np.asarray(item.attrs[name]))
    if values.dtype.kind not in "iuf" or not np.all(np.isfinite(values)):
        raise InputError(f"the attribute {name} holds a value that is not a finite number")
    return values


def whole(item: h5py.HLObject, name: str, low: int, high: int) -> int | None:
    """An attribute that is one integer in low .. high, None if there is none.

    Raises:
        InputError: if it is anything else.
    """
    values = numbers(item, name, 1)
    if values is None:
        return None
    if values.size != 1 or values[0] != np.floor(values[0]) or not low <= int(values[0]) <= high:
        raise InputError(f"the attribute {name} is not an integer in {low} .. {high}")
    return int(values[0])


def number(item: h5py.HLObject, name: str) -> float | None:
    """An attribute that is one finite number, None if there is none.

    Raises:
        InputError: if it is anything else.
    """
    values = numbers(item, name, 1)
    if values is not None and values.size != 1:
        raise InputError(f"the attribute {name} is not a number")
    return None if values is None else float(values[0])


def _attribute(item: h5py.HLObject, name: str) -> h5py.h5a.AttrID | None:
    if not h5py.h5a.exists(item.id, name.encode()):
        return None
    return h5py.h5a.open(item.id, name.encode())


# HDF5 reads the chunks of a dataset, after their sizes were checked.
#
# HDF5 2.0 unpacks a deflate stream to whatever length it has: a longer one than the chunk fills the memory. Behind a
# stream or a chunk that is shorter it reads on into memory of this process, and returns that as values.


_FILTERS = (h5z.FILTER_DEFLATE, h5z.FILTER_SHUFFLE, h5z.FILTER_FLETCHER32)
_CHECKSUM = 4


def read(dataset: h5py.Dataset, high: slice, wide: slice) -> NDArray[Any]:
    """All planes of some rows and columns.

    Args:
        dataset: (planes, rows, columns), opened and checked by `open_conductances` and the like.
        high, wide: rows and columns.

    Raises:
        ValueError: if a chunk does not have its size; `reading` makes it an InputError.
        OSError: if HDF5 cannot read it, or a chunk does not have its checksum.
    """
    if dataset.chunks is not None:
        filters = _filters(dataset)
        parts = zip((slice(0, dataset.shape[0]), high, wide), dataset.chunks, strict=True)
        for corner in product(*(range(part.start // size * size, part.stop, size) for part, size in parts)):
            _check_chunk(dataset, corner, filters)
    return np.asarray(dataset[:, high, wide])


def _check_chunk(dataset: h5py.Dataset, corner: tuple[int, ...], filters: list[int]) -> None:
    """Raise ValueError unless undoing the filters gives exactly the bytes of a chunk."""
    size = math.prod(dataset.chunks) * dataset.dtype.itemsize
    stored = dataset.id.get_chunk_info_by_coord(corner)
    if stored.byte_offset is None:
        return  # not written: fill values
    length = stored.size
    if length > 2 * size + 1024:  # no compression makes it that much larger
        raise ValueError(f"a chunk of {size} bytes is stored in {length}")
    for index, code in reversed([*enumerate(filters)]):
        skipped = stored.filter_mask >> index & 1  # a writer may skip a compression that does not help
        if skipped and code != h5z.FILTER_DEFLATE:
            raise ValueError("a chunk is exempt from its checksum")
        if code == h5z.FILTER_FLETCHER32:
            length -= _CHECKSUM
        elif code == h5z.FILTER_DEFLATE and not skipped:
            stream = zlib.decompressobj()
            content = dataset.id.read_direct_chunk(corner)[1][: max(length, 0)]
            length = len(stream.decompress(content, size + _CHECKSUM + 1))
            if not stream.eof:
                raise ValueError("a compressed chunk does not end where it must")
    if length != size:
        raise ValueError(f"a chunk has {length} bytes instead of {size}")


def check_filters(dataset: h5py.Dataset, name: str) -> None:
    """Refuse filters that are not checked here, and two compressions on top of each other.

    Raises:
        InputError: naming the filter.
    """
    codes = _filters(dataset)
    unknown = [code for code in codes if code not in _FILTERS]
    if unknown or codes.count(h5z.FILTER_DEFLATE) > 1:
        what = f"HDF5 filter {unknown[0]}" if unknown else "gzip more than once"
        raise InputError(f"{name} is compressed with {what}: save it with gzip, once, or without compression")


def _filters(dataset: h5py.Dataset) -> list[int]:
    """The codes of the filters, in the order in which they were applied."""
    plan = dataset.id.get_create_plist()
    return [plan.get_filter(index)[0] for index in range(plan.get_nfilters())]


# Opening one dataset of an untrusted file: everything is looked at before a value is read.


SIEMENS = {"S": 1.0, "mS": 1e-3, "uS": 1e-6, "µS": 1e-6, "μS": 1e-6, "nS": 1e-9}
"""The units that a file may be in. The micro sign and the Greek letter are two characters."""

CHUNK_LIMIT = 1 << 24
"""Bytes of the largest chunk: HDF5 takes a whole one into memory."""

# No deflate stream unpacks to more than 1032 times its size (zlib's technical notes).
_EXPANSION = 1032

_FLOATS = (h5t.IEEE_F32LE, h5t.IEEE_F32BE, h5t.IEEE_F64LE, h5t.IEEE_F64BE)
_BYTES = (h5t.STD_U8LE, h5t.STD_U8BE)
_INTEGERS = (h5t.STD_I32LE, h5t.STD_I32BE)
_KINDS = {h5o.TYPE_GROUP: "a group", h5o.TYPE_DATASET: "a dataset"}


def child(group: h5py.Group, name: str, kind: int) -> bool:
    """Whether the group has `name`, as an object of this file and of that kind.

    Raises:
        InputError: if it is a link to elsewhere, which is not followed in an untrusted file, or
            another kind of object.
    """
    link = name.encode(errors="surrogateescape")
    if not group.id.links.exists(link):
        return False
    if group.id.links.get_info(link).type != h5l.TYPE_HARD:
        raise InputError(
            f"{show(name)} in {show(group.name)} is a soft or external link, which are not followed: "
            "copy what it points to into the file"
        )
    if h5o.get_info(group.id, link).type != kind:
        raise InputError(f"{show(name)} in {show(group.name)} is not {_KINDS[kind]}")
    return True


def open_conductances(group: h5py.Group, name: str) -> tuple[h5py.Dataset, float] | None:
    """A dataset of conductances and what one of its units is in S; None if there is none.

    Raises:
        InputError: saying what is wrong with it and how it should be.
    """
    dataset = _open(group, name, _FLOATS, "float32 or float64")
    if dataset is None:
        return None
    units = text(dataset, "units")
    if units is None:
        raise InputError(f'has no units: set the attribute units of {name} to "S" or "uS"')
    if units not in SIEMENS:
        raise InputError(f"units {show(units)} of {name} are unknown; known: {', '.join(SIEMENS)}")
    _check_complete(dataset, name)
    return dataset, SIEMENS[units]


def open_faults(group: h5py.Group, name: str) -> h5py.Dataset | None:
    """The map of fault codes, None if there is none; refused like `open_conductances`."""
    return _open(group, name, _BYTES, "uint8")


def open_lines(group: h5py.Group, name: str) -> h5py.Dataset | None:
    """Numbers of word or bit lines, None if there are none; refused like `open_conductances`."""
    dataset = _open(group, name, _INTEGERS, "int32")
    if dataset is not None:
        _check_complete(dataset, name)
    return dataset


def _open(group: h5py.Group, name: str, types: tuple[h5t.TypeID, ...], words: str) -> h5py.Dataset | None:
    if not child(group, name, h5o.TYPE_DATASET):
        return None
    found = h5d.open(group.id, name.encode())
    layout = found.get_create_plist()
    # Checked before the shape: the shape of a virtual dataset may already open other files.
    if layout.get_layout() == h5d.VIRTUAL or layout.get_external_count():
        raise InputError(f"{name} is stored in other files, which are not read: copy it into this one")
    if not any(found.get_type().equal(known) for known in types):
        raise InputError(f"{name} is not {words}: save it as {words}")
    if len(found.shape or ()) != 3:
        shape = "no shape" if found.shape is None else f"shape {found.shape}"
        raise InputError(f"{name} has {shape[:80]}: expected (planes, rows, columns)")
    dataset = h5py.Dataset(found)
    check_filters(dataset, name)
    if dataset.chunks and math.prod(dataset.chunks) * dataset.dtype.itemsize > CHUNK_LIMIT:
        raise InputError(
            f"{name} has chunks {dataset.chunks} of more than {CHUNK_LIMIT >> 20} MiB: save it with "
            "smaller ones"
        )
    return dataset


def _check_complete(dataset: h5py.Dataset, name: str) -> None:
    """Refuse what claims more than its bytes can hold, or was never written as a whole.

    HDF5 reads a missing chunk as fill values, without an error.
    """
    claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size()
    if claimed > _EXPANSION * stored or stored > dataset.file.id.get_filesize():
        raise InputError(
            f"{name} claims shape {dataset.shape} and has {stored} bytes: it was not "
            "written completely, or is damaged; export or copy it again"
        )
    if dataset.chunks is None:
        return
    found = set()
    dataset.id.chunk_iter(lambda chunk: found.add(chunk.chunk_offset))
    sizes = zip(dataset.shape, dataset.chunks, strict=True)
    if len(found) != math.prod(-(-length // chunk) for length, chunk in sizes):
        raise InputError(
            f"{name} lacks some of its chunks or has odd ones: it was not written completely, or is "
            "damaged; export or copy it again"
        )


# Writing HDF5 so that a full disk is an error and not a crash.


class DiskFile:
    """The file that HDF5 writes to. After the first failed write it takes the rest and drops it.

    HDF5 cannot close a file whose last blocks cannot be written: it keeps it open and crashes when the
    process ends. So it does not get the error; `check` raises what went wrong.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def check(self) -> None:
        """Raise the OSError of the first write that failed, if one did."""
        if self.error is not None:
            raise self.error

    def write(self, data: Any) -> int:
        """Write all of `data`, or drop it."""
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.error is None and done < len(view):
                done += self.file.write(view[done:])
        except OSError as error:
            self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Set the length."""
        try:
            if self.error is None:
                return self.file.truncate(size)
        except OSError as error:
            self.error = error
        return size or 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a position."""
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        """The position."""
        return self.file.tell()

    def read(self, size: int = -1) -> bytes:
        """Read what was written before."""
        return self.file.read(size)

    def readinto(self, buffer: Any) -> int:
        """The same, into memory of HDF5's."""
        return int(self.file.readinto(buffer))  # type: ignore[attr-defined]

    def flush(self) -> None:
        """Nothing is buffered; the caller syncs the file when it is complete."""


@contextmanager
def writing(path: Path) -> Iterator[tuple[h5py.File, DiskFile]]:
    """An HDF5 file that any library from 1.8 (2008) on reads, and the disk_file to check while writing.

    Raises:
        OSError: of the first write that failed.
    """
    with open(path, "r+b", buffering=0) as raw:
        disk_file = DiskFile(raw)  # type: ignore[arg-type]
        try:
            # 1.8 is also the first with checksummed headers and attributes above 64 KiB.
            with h5py.File(disk_file, "w", libver=("v108", "v108")) as file:
                yield file, disk_file
        except Exception:
            disk_file.check()  # what HDF5 makes of dropped blocks is not the cause
            raise
        disk_file.check()
