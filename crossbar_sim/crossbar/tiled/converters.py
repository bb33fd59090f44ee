"""What stands between a tile's current and its digital value: converters and read noise, as plain arrays."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.crossbar.checks import require
from crossbar_sim.crossbar.stream import Stream

Float32 = NDArray[np.float32]


class Quantiser(NamedTuple):
    """The converters of every read, row tile and column: code = clip(rint((gain i + offset) / step), low, high).

    Ties go to the even code. The value is step code. i is in single precision, gain / step is taken to 48 bits and
    offset / step to 24; their sum, (gain / step) i + offset / step, is rounded to single precision and then to a code.

    Attributes:
        step: the value of one code, above 0, in units of the product; broadcasts to (r, T, n).
        low, high: the least and the greatest code, whole numbers of at most 2^24.
        gain, offset: mismatch of a converter (1 and 0 are ideal); broadcast to (r, T, n); the offset is in units
            of the product.
    """

    step: NDArray[np.floating] | float
    low: float
    high: float
    gain: NDArray[np.floating] | float = 1.0
    offset: NDArray[np.floating] | float = 0.0

    def check(self) -> None:
        """Refuse converters that cannot be.

        Raises:
            InputError: unless every step is above 0, all is finite and low <= high are whole numbers.
        """
        step = np.asarray(self.step)
        usable = bool(np.all(np.isfinite(step) & (step > 0)))
        require(
            usable, f"a converter's step must be above 0 and finite; the least is {np.min(step, initial=0)}"
        )
        for name, values in (("gain", self.gain), ("offset", self.offset)):
            require(bool(np.all(np.isfinite(values))), f"a converter's {name} must be finite")
        whole = float(self.low).is_integer() and float(self.high).is_integer()
        require(
            whole and -(2**24) <= self.low <= self.high <= 2**24,
            f"codes {self.low} .. {self.high}: must be whole numbers of at most 2^24, the lower one first",
        )


class Noise(NamedTuple):
    """Read noise: normal, fresh at every conversion, its variance the sum of the cells'.

    Attributes:
        variance: of each read conductance, in S^2 (in squares of the unit of `planes`), shape (r, m, n).
        stream: names the read event; how its numbers are counted is said in `TiledPlanes.product`.
    """

    variance: Float32
    stream: Stream
