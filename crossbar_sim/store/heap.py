"""Strings of variable length lie in HDF5's global heaps, and a damaged heap makes HDF5 2.0 loop for ever."""

import mmap
import os
import struct
from functools import lru_cache

import h5py

from crossbar_sim.errors import InputError

_MARK = b"GCOL\x01"
_HEADER = 16


def check_heaps(file: h5py.File) -> None:
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
