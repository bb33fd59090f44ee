"""Scratch memory of the kernels: one set per thread, grown when needed, kept for the next call."""

import threading

import numpy as np
from numpy.typing import NDArray

_LINE = 16
"""Numbers of a cache line: vectors that straddle two lines load at half speed."""


class _Scratch(threading.local):
    """The calling thread's arrays by name."""

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray[np.float32]] = {}


_scratch = _Scratch()


def scratch(name: str, size: int) -> NDArray[np.float32]:
    """At least `size` float32 of the calling thread, at a cache line's begin, with whatever lies in them.

    The same name gives the same memory: two arrays in use together have two names.
    """
    kept = _scratch.arrays.get(name)
    if kept is None or kept.size < size:
        memory = np.zeros(size + _LINE, np.float32)
        begin = -(memory.ctypes.data // 4) % _LINE
        kept = _scratch.arrays[name] = memory[begin : begin + size]
    return kept
