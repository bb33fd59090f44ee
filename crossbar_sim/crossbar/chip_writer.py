"""One matrix on many chips: the bits of `Hardware.effective_weight`, without what that costs per call.

For small networks the checks, keys and calls of one array on one chip take longer than its weights.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.kernels import lognormal_weights
from crossbar_sim.crossbar.philox import kernel
from crossbar_sim.crossbar.stream import Float32, Stream
from crossbar_sim.rng import Key


@kernel
def lognormal_chips(
    w: Any, out: Any, scale: Any, inverse: Any, factor: Any, high: Any, low: Any, k0: Any, k1: Any, chips: Any
) -> None:
    """`lognormal_weights` of chip after chip: `out` is (chips, weights) flat.

    Cached by this file's time stamp alone: after editing kernels.py or philox.py, touch this file.
    """
    n = w.size
    for i in range(chips.size):
        mine = out[i * n : (i + 1) * n]
        lognormal_weights(w, mine, scale, inverse, factor, high, low, 0, k0, k1, 0, chips[i], 0)


class ChipWriter:
    """Writes what a matrix is on chips of one design; made once per design and matrix.

    Args:
        hardware: the design.
        columns: the transposed matrix (cols, rows), C-contiguous float32, finite.
        key: the array's name.
        scale: `hardware.mapping.scale(columns)`.
    """

    def __init__(self, hardware: Hardware, columns: Float32, key: Key, scale: Float32) -> None:
        self.hardware, self.columns, self.key, self.scale = hardware, columns, key, scale
        self.rates: tuple[Any, ...] | None = None
        if hardware._one_pass(scale):
            inverse = hardware.mapping.inverse(scale)
            name = Stream.of(key.fold("drift"), 0)
            self.rates = (scale[0], inverse[0], *hardware.drift.rates, name.k0, name.k1)  # type: ignore[union-attr]

    def write(self, chips: NDArray[np.uint32], out: Float32) -> None:
        """The effective weights of chips into the first places of out (places, cols, rows), C-contiguous."""
        if self.rates is None:
            for chip, one in zip(chips.tolist(), out, strict=False):
                self.hardware.effective_weight(self.columns, self.key, chip, one, self.scale)
        else:
            lognormal_chips(self.columns.reshape(-1), out.reshape(-1), *self.rates, chips)
