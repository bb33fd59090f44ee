"""`Key`: the name of a stream of random numbers, a seed and a path of names without any state.

A random number is a pure function of (seed, names, chip, plane, cell, event): the seed and the names
are hashed to the 64-bit key of a Philox-4x32-10 generator (Salmon et al., "Parallel random numbers: as
easy as 1, 2, 3", SC 2011) and the rest is its 128-bit counter. docs/randomness.md is the specification.
"""

import functools
import hashlib
import operator
from dataclasses import dataclass

from crossbar_sim.errors import InputError

STREAM_VERSION = 1
"""Part of every result's identity: increased whenever any random number changes."""

_UINT32 = 2**32


@dataclass(frozen=True)
class Key:
    """The name of a stream of random numbers.

    Args:
        seed: any non-negative integer below 2**64.
        path: the names below the seed, outermost first; extended with `fold`, never by hand.

    Raises:
        InputError: if the seed is not an integer in 0 .. 2**64 - 1, or a name is not a string.

    >>> Key(0).fold("fc1").fold("drift")
    Key(seed=0, path=('fc1', 'drift'))
    >>> Key(0).fold("fc1").words() == Key(0).fold("fc2").words()
    False
    """

    seed: int
    path: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        seed = _whole(self.seed)
        if seed is None:
            raise InputError(f"seed={self.seed!r}: a seed is an integer in 0 .. 2**64 - 1")
        if not 0 <= seed < 2**64:
            raise InputError(f"seed={seed}: a seed must be in 0 .. 2**64 - 1")
        object.__setattr__(self, "seed", seed)
        for name in self.path:
            if not isinstance(name, str):
                raise InputError(f"name {name!r} of a stream: a name is a string")

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
        return _words(self)

    def integer(self) -> int:
        """A 63-bit integer to seed another library's generator (bytes 8 .. 15 of `digest`)."""
        return int.from_bytes(self.digest()[8:16], "little") >> 1


@functools.lru_cache(maxsize=4096)
def _words(key: Key) -> tuple[int, int]:
    """`Key.words`, cached, because every chip uses the same keys."""
    value = int.from_bytes(key.digest()[:8], "little")
    return value % _UINT32, value // _UINT32


def as_key(key: "Key | int") -> Key:
    """The key itself, or `Key(key)` of an integer.

    Raises:
        InputError: if it is anything else.
    """
    if isinstance(key, Key):
        return key
    if _whole(key) is None:
        shown = f"the class {key.__name__}" if isinstance(key, type) else repr(key)[:60]
        raise InputError(f"key={shown}: expected a Key such as Key(0), or an integer seed")
    return Key(key)


def check_chip(chip: int) -> int:
    """Check a chip's number and return it as a plain int.

    Raises:
        InputError: if it is not an integer in 0 .. 2**32 - 1.
    """
    number = _whole(chip)
    if number is None or not 0 <= number < _UINT32:
        raise InputError(f"chip={chip!r}: a chip is an integer in 0 .. 2**32 - 1")
    return number


def _whole(value: object) -> int | None:
    """`value` as a plain int if it is an integer of any kind (NumPy's too, but not a boolean), else None."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None
