"""Names of random numbers. A `Key` is a seed and a path of names; it holds no state.

A random number is a pure function of (seed, names, chip, plane, cell, event): the seed and the names
are hashed to the 64-bit key of a Philox-4x32-10 generator (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", SC 2011) and the rest is its 128-bit counter. docs/randomness.md is the specification.
"""

import hashlib
from dataclasses import dataclass

from crossbar_sim.errors import InputError

STREAM_VERSION = 1
"""Part of every result's identity: raised whenever any number of the stream would change."""

_UINT32 = 2**32


@dataclass(frozen=True)
class Key:
    """The name of a stream of random numbers.

    Args:
        seed: any non-negative integer below 2**64.
        path: the names below the seed, outermost first; extended with `fold`, never by hand.

    Raises:
        InputError: if the seed is no integer in 0 .. 2**64 - 1.

    >>> Key(0).fold("fc1").fold("drift")
    Key(seed=0, path=('fc1', 'drift'))
    >>> Key(0).fold("fc1").words() == Key(0).fold("fc2").words()
    False
    """

    seed: int
    path: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise InputError(f"seed={self.seed!r}: a seed is an integer in 0 .. 2**64 - 1")
        if not 0 <= self.seed < 2**64:
            raise InputError(f"seed={self.seed}: a seed lies in 0 .. 2**64 - 1")

    def fold(self, *names: str) -> "Key":
        """The stream called `names` inside this one."""
        return Key(self.seed, (*self.path, *names))

    def digest(self) -> bytes:
        """SHA-256 of the version, the seed and the length-prefixed names: 32 bytes.

        Length prefixes keep ("ab", "c") and ("a", "bc") apart.
        """
        state = hashlib.sha256(b"crossbar-sim stream %d" % STREAM_VERSION)
        state.update(self.seed.to_bytes(8, "little"))
        for name in self.path:
            text = name.encode()
            state.update(len(text).to_bytes(8, "little"))
            state.update(text)
        return state.digest()

    def words(self) -> tuple[int, int]:
        """The two 32-bit key words of Philox-4x32: the first eight bytes of `digest`."""
        value = int.from_bytes(self.digest()[:8], "little")
        return value % _UINT32, value // _UINT32

    def integer(self) -> int:
        """A 63-bit integer for seeding somebody else's generator (bytes 8 .. 15 of `digest`)."""
        return int.from_bytes(self.digest()[8:16], "little") >> 1


def check_chip(chip: int) -> int:
    """Return the chip's number, refusing what cannot be a counter word.

    Raises:
        InputError: if it is no integer in 0 .. 2**32 - 1.
    """
    if isinstance(chip, bool) or not isinstance(chip, int) or not 0 <= chip < _UINT32:
        raise InputError(f"chip={chip!r}: a chip is an integer in 0 .. 2**32 - 1")
    return chip
