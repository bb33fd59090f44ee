"""What currents an array's converters see, and how much of their range they use: for calibration, slow and plain."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.crossbar.checks import SINGLE
from crossbar_sim.crossbar.drive import Driven
from crossbar_sim.crossbar.periphery import Readout, slices_of, unit_of
from crossbar_sim.crossbar.stream import Float32

_SHIFT = 13
"""Bits of a float32 that a histogram leaves out: magnitudes are kept to 1 in 1024."""

_SMALLEST = 1 / SINGLE
"""What is smaller counts as 0: no range can be."""

_ZEROS = int(np.array([_SMALLEST], np.float32).view(np.int32)[0]) >> _SHIFT
"""Bins of these."""


@dataclass
class Magnitudes:
    """A histogram of |x| that takes values batch by batch: bins of equal relative width, 0.1 %."""

    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(1 << (31 - _SHIFT), np.int64))
    largest: float = 0.0

    def add(self, x: Float32) -> None:
        """Count some more values."""
        if not x.size:
            return
        size = np.abs(np.ascontiguousarray(x, np.float32)).reshape(-1)
        self.largest = max(self.largest, float(size.max()))
        bins = size.view(np.int32) >> _SHIFT
        # Values span few of the bins, zeros aside: only these are allocated and added to.
        before = int(bins.min(where=bins > 0, initial=self.counts.size)) - 1
        found = np.bincount(np.maximum(bins - before, 0))
        self.counts[0] += found[0]
        self.counts[before + 1 : before + len(found)] += found[1:]

    def percentile(self, p: float) -> float:
        """The value that p percent of all do not exceed, to 0.1 % and never too small; 100: the largest.

        The largest too where that is 0, as in a slice that few weights use; 0 if all are, or as good as 0.
        """
        largest = self.largest if self.largest >= _SMALLEST else 0.0
        wanted = np.ceil(self.counts.sum() * p / 100)
        if p >= 100 or wanted < 1:
            return largest
        i = int(np.searchsorted(np.cumsum(self.counts), wanted))
        if i < _ZEROS:
            return largest
        edge = np.array([(i + 1) << _SHIFT], np.int32).view(np.float32)[0]
        return min(float(edge), largest)


@dataclass
class Usage:
    """How converters were used: how many conversions, how many clipped, and which codes came up.

    Args:
        top: the largest code; signed: whether there are negative ones.
    """

    top: int
    signed: bool
    total: int = 0
    clipped: int = 0
    seen: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.seen = np.zeros(2 * self.top + 1 if self.signed else self.top + 1, np.bool_)

    def add(self, ideal: Float32) -> None:
        """Count conversions of values in units of a step, before rounding."""
        code = np.rint(ideal)
        low = -self.top if self.signed else 0
        self.total += code.size
        self.clipped += int(np.count_nonzero((code > self.top) | (code < low)))
        self.seen[(np.clip(code, low, self.top) - low).astype(np.int64)] = True

    @property
    def clipped_percent(self) -> float:
        """Of all conversions."""
        return 100.0 * self.clipped / self.total if self.total else 0.0

    @property
    def used_percent(self) -> float:
        """Codes that came up, of all there are."""
        return 100.0 * float(np.mean(self.seen))


def currents(readout: Readout, driven: Driven) -> Iterator[tuple[int, int, int, Float32]]:
    """(read, row tile, weight slice, currents (b, n) in A at 1 V) of every conversion, without read noise.

    Args:
        readout: a block of an array.
        driven: input vectors (reads, b, m).
    """
    planes = readout.silent.planes
    slices = slices_of(readout.mapping, readout.per)
    for codes in driven.codes:
        for r in range(len(planes)):
            for t, first in enumerate(range(0, planes.shape[1], readout.tile_rows)):
                rows = slice(first, first + readout.tile_rows)
                i = codes[:, rows] @ planes[r, rows]
                yield r, t, slices[r], i * np.float32(unit_of(readout.mapping) / driven.full_scale)


def count_inputs(x: Float32, driven: Driven, usage: Usage) -> None:
    """Add what the DACs make of inputs x (b, m) to `usage`; codes are of the magnitude, before slicing."""
    usage.add(x / driven.unit[:, None])


def count_outputs(readout: Readout, driven: Driven, usage: Usage) -> None:
    """Add what the ADCs make of driven input vectors to `usage`."""
    quantiser, unit = readout.quantiser(1.0), np.float32(unit_of(readout.mapping))
    if quantiser is None:
        return
    step, gain, offset = (
        np.broadcast_to(a, np.shape(quantiser.gain))
        for a in (quantiser.step, quantiser.gain, quantiser.offset)
    )
    for r, t, _, i in currents(readout, driven):
        usage.add((gain[r, t] * i / unit + offset[r, t]) / step[r, t])
