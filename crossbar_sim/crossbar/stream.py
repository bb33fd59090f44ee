"""Random numbers of consecutive cells by name: words and normals (docs/randomness.md)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.crossbar import kernels
from crossbar_sim.rng import Key, check_chip

Float32 = NDArray[np.float32]
UInt32 = NDArray[np.uint32]


@dataclass(frozen=True)
class Stream:
    """One stream of one chip: the key's two words and the counter's three upper words.

    `plane` separates the planes of an array, `event` repeated draws of one cell, such as reads.
    """

    k0: int
    k1: int
    plane: int
    chip: int
    event: int = 0

    @classmethod
    def of(cls, key: Key, chip: int, plane: int = 0, event: int = 0) -> "Stream":
        """The stream called `key` on chip number `chip`."""
        return cls(*key.words(), plane, check_chip(chip), event)

    @property
    def name(self) -> tuple[int, int, int, int, int]:
        """The arguments that every drawing kernel ends with."""
        return self.k0, self.k1, self.plane, self.chip, self.event

    def words(self, n: int, start: int = 0) -> UInt32:
        """Uniform uint32 of cells start .. start + n, shape (n,); start is a multiple of 256."""
        out = np.empty(n, np.uint32)
        kernels.fill_words(out, start, *self.name)
        return out

    def normals(self, n: int, start: int = 0) -> Float32:
        """Standard normals of cells start .. start + n, shape (n,); start is a multiple of 256."""
        out = np.empty(n, np.float32)
        kernels.fill_normals(out, start, *self.name)
        return out
