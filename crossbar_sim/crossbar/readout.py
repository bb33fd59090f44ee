"""Products with an array: DACs, currents of tiles, ADCs and digital sums."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.crossbar import kernels
from crossbar_sim.crossbar.converters import (
    ADC,
    DAC,
    DrivenInputs,
    GaussianReadNoise,
    LayerRange,
    TelegraphNoise,
    drive,
    mismatch,
    not_calibrated,
)
from crossbar_sim.crossbar.mapping import Mapping, Offset
from crossbar_sim.crossbar.stream import Float32, Stream
from crossbar_sim.crossbar.tiled import Quantiser, TiledPlanes, convolution, product
from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key
from crossbar_sim.validate import SINGLE

if TYPE_CHECKING:
    from crossbar_sim.crossbar.hardware import Hardware


# The analog part between a digital input and a digital output: DAC, tiles, read noise, ADC, digital sums.
#
# `Readout` is one array with its converters on one chip; every formula is in docs/periphery.md.


EFFECTS = ("dac", "read_noise", "adc")
"""The effects on each product, in their order."""


@dataclass(frozen=True)
class Periphery:
    """The converters and the read noise of one array on one chip.

    Args:
        dac, adc, read_noise: of the design; None is ideal.
        ranges: of this array, if calibrated.
        key, chip: the array's name and the sample: they name its converters' mismatch and its noise.
    """

    dac: DAC | None
    adc: ADC | None
    read_noise: GaussianReadNoise | TelegraphNoise | None
    ranges: LayerRange | None
    key: Key
    chip: int

    @classmethod
    def of(cls, hardware: "Hardware", key: Key, chip: int) -> "Periphery":
        """The periphery of the array called `key` on a chip of the design."""
        ranges = None if hardware.ranges is None or not key.path else hardware.ranges.get(key.path[-1])
        return cls(hardware.dac, hardware.adc, hardware.read_noise, ranges, key, chip)

    @property
    def name(self) -> str:
        """The array's name, for messages."""
        return self.key.path[-1] if self.key.path else "the array"


class ReadPlanes(NamedTuple):
    """The conductances that the converters of an array read: its planes, combined as its mapping and `per` say.

    Args:
        planes: (reads, m, n) in `unit_of` S; with a reference read for itself, that is the last column.
        weights: what each read counts for, (reads,).
        variance: of each read conductance, in squares of that, or None without noise.
    """

    planes: Float32
    weights: Float32
    variance: Float32 | None


def unit_of(mapping: Mapping) -> float:
    """Unit of conductances in S: one level, if there are levels, so that digital sums are of integers."""
    return mapping.cell_step or 1.0


def slices_of(mapping: Mapping, per: str) -> tuple[int, ...]:
    """The weight slice of each read."""
    sides = mapping.planes_per_copy if per == "column" else 1
    return tuple(k for _ in range(mapping.copies) for k in range(mapping.slices) for _ in range(sides))


def weights_of(mapping: Mapping, per: str) -> Float32:
    """What each read counts for, (reads,): Eq. (28), and minus for the second column of a pair read by itself."""
    weights = np.array([2.0 ** (k * (mapping.cell_bits or 0)) for k in slices_of(mapping, per)], np.float32)
    if per == "column" and mapping.planes_per_copy == 2:
        weights[1::2] *= -1
    return weights


def read_planes(
    planes: Float32, mapping: Mapping, per: str, noise: GaussianReadNoise | TelegraphNoise | None
) -> ReadPlanes:
    """Eq. (21): planes (planes, m, physical columns) of one block as its converters read them, in `unit_of` S.

    Cells on a level, to single precision, are an integer number of levels above g_min: then sums are exact,
    and one half-way between two codes of a converter goes to the even one.
    """
    mean = planes if noise is None else noise.mean(planes)
    variance = None if noise is None else noise.variance(planes, mapping.g_max)
    unit = unit_of(mapping)
    if unit != 1 and variance is not None:
        variance = variance / np.float32(unit) / np.float32(unit)
    weights = weights_of(mapping, per)
    if per == "column":
        return ReadPlanes(_in_levels(mean, mapping), weights, variance)
    if mapping.planes_per_copy == 2:
        return ReadPlanes(
            _differences(mean[0::2], mean[1::2], mapping),
            weights,
            None if variance is None else variance[0::2] + variance[1::2],
        )
    spread = None if variance is None else variance[:, :, :-1] + variance[:, :, -1:]
    return ReadPlanes(_differences(mean[:, :, :-1], mean[:, :, -1:], mapping), weights, spread)


def _in_levels(g: Float32, mapping: Mapping) -> Float32:
    """Conductances in `unit_of` S, those on a level exactly there."""
    if mapping.levels is None:
        return g
    out = np.empty(g.shape, np.float32)
    for plane, to in zip(g, out, strict=True):
        kernels.in_levels(plane.reshape(-1), mapping.g_min, unit_of(mapping), to.reshape(-1))
    return out


def _differences(g: Float32, other: Float32, mapping: Mapping) -> Float32:
    """g - other in `unit_of` S; exactly an integer where both are on a level."""
    if mapping.levels is None:
        return g - other
    out = np.empty(g.shape, np.float32)
    for plane, minus, to in zip(g, other, out, strict=True):
        pair = (
            np.ascontiguousarray(np.broadcast_to(cells, to.shape)).reshape(-1) for cells in (plane, minus)
        )
        kernels.level_differences(*pair, mapping.g_min, unit_of(mapping), to.reshape(-1))
    return out


class Converters:
    """The converters of one block of an array: what surrounds its planes, in whatever memory those are.

    Args:
        shape: of the planes that multiply: (planes, m, physical columns).
        mapping, scale: how they read back; scale is (1,), or (n,) of these columns.
        tile_rows: word lines of a tile.
        periphery: what surrounds them.
        first_column: of these columns among all of the array's: names their converters.
        group: the block's number in the array (groups of a convolution): names its noise.
        reference_column: the number of the reference column, which all groups share; None: behind these columns.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        mapping: Mapping,
        scale: Float32,
        tile_rows: int,
        periphery: Periphery,
        first_column: int = 0,
        group: int = 0,
        reference_column: int | None = None,
    ) -> None:
        self.shape, self.mapping, self.scale, self.tile_rows = shape, mapping, scale, tile_rows
        self.periphery, self.first_column, self.group = periphery, first_column, group
        self.reference_column = reference_column
        whole = (mapping.step or 1.0) * mapping.inverse(scale).astype(np.float64)
        self.inverse = whole.astype(np.float32)

    @property
    def per(self) -> str:
        """What one converter reads: a pair of columns or one column."""
        return "pair" if self.periphery.adc is None else self.periphery.adc.per

    @property
    def inverse_columns(self) -> Float32:
        """`inverse` of every column, (n,)."""
        n = self.shape[2] - (self.mapping.planes_per_copy == 1)
        return np.broadcast_to(self.inverse, (n,))

    @property
    def reference(self) -> bool:
        """Whether the reference column has its own conversions and is subtracted digitally."""
        return self.mapping.planes_per_copy == 1 and self.per == "column"

    def noisy(self, effects: tuple[str, ...]) -> bool:
        """Whether reads have noise while these effects act."""
        return "read_noise" in effects and self.periphery.read_noise is not None

    def converting(self, effects: tuple[str, ...]) -> bool:
        """Whether currents are converted while these effects act."""
        return "adc" in effects and self.periphery.adc is not None

    def stream(self, conversions: int, event: int) -> Stream:
        """The name of a read's noise: every group of a convolution has planes of random numbers of its own.

        Args:
            conversions: how many one output takes: input slices times reads times tiles.
            event: the number of this read of the array.
        """
        p = self.periphery
        return Stream.of(p.key.fold("read"), p.chip, self.group * conversions, event)

    @property
    def largest_cell(self) -> float:
        """g_min + g_max, in `unit_of` S: a cell and its complement together."""
        return (self.mapping.g_min + self.mapping.g_max) / unit_of(self.mapping)

    def half_of_tiles(self) -> NDArray[np.float64]:
        """Half of the largest sum of conductances of a column in each tile of word lines, (tiles,) in S.

        Exactly half does not count as more than half, however cells are rounded.
        """
        rows = np.minimum(self.tile_rows, self.shape[1] - np.arange(0, self.shape[1], self.tile_rows))
        return rows * ((self.mapping.g_min + self.mapping.g_max) / 2) * (1 + 1e-6)

    @property
    def turning(self) -> NDArray[np.float64]:
        """What the digital side adds to minus the sum of a flipped column, for each input, (reads,)."""
        adc, mapping = self.periphery.adc, self.mapping
        whole = self.largest_cell
        if adc is not None and adc.range == "granular":  # codes are whole levels, without g_min
            whole = round((mapping.g_max - mapping.g_min) / unit_of(mapping))
        return weights_of(mapping, self.per).astype(np.float64) * whole

    def quantiser(self, full_scale: float) -> Quantiser | None:
        """Eq. (22), (23): the ADCs of every read, row tile and column, for currents in code units.

        Raises:
            InputError: if the range is not calibrated.
        """
        p = self.periphery
        adc, dac = p.adc, p.dac
        if adc is None or (adc.bits is None and adc.gain_sigma == adc.offset_sigma == 0):
            return None
        slices = slices_of(self.mapping, self.per)
        ranges = np.array([self.output_range(k) for k in slices]) * (full_scale / unit_of(self.mapping))
        tiles, n = -(-self.shape[1] // self.tile_rows), len(self.inverse_columns) + self.reference
        reference = self.reference_column if self.reference else None
        gain, offset = mismatch(adc, p.key, p.chip, (len(slices), tiles, n), self.first_column, reference)
        # mismatch alone: steps of a millionth of the range, and codes up to 16 times it
        top, most = (2.0**20, 2.0**24) if adc.bits is None else (float(adc.top(dac)),) * 2
        low = -most if adc.signed(dac) or adc.bits is None else 0.0
        ranges = ranges.reshape(-1, 1, 1)
        return Quantiser(ranges / top, low, most, gain, offset * ranges)

    def output_range(self, k: int) -> float:
        """Eq. (22): the current of the largest code of weight slice k, in A at 1 V."""
        p, mapping = self.periphery, self.mapping
        adc = p.adc
        assert adc is not None
        if not isinstance(adc.range, str):
            return adc.range
        if adc.range == "max":
            largest = mapping.g_max if adc.per == "column" else mapping.g_max - mapping.g_min
            if isinstance(mapping, Offset) and adc.per == "pair" and mapping.cell_bits is None:
                largest = max(mapping.g_max - mapping.middle, mapping.middle - mapping.g_min)
            return min(self.tile_rows, self.shape[1]) * largest
        if adc.range == "granular":
            assert p.dac is not None
            return adc.top(p.dac) * mapping.cell_step / p.dac.full_scale
        if p.ranges is None or len(p.ranges.output) != mapping.slices:
            raise InputError(not_calibrated(p.name, "adc"))
        return p.ranges.output[k]


class Readout(Converters):
    """One block of an array with its converters, computed by the kernels of the CPU.

    Args:
        planes: those that multiply, (planes, m, physical columns) in S.
        mapping, scale, tile_rows, periphery, first_column, group, reference_column: see `Converters`.
    """

    def __init__(
        self,
        planes: Float32,
        mapping: Mapping,
        scale: Float32,
        tile_rows: int,
        periphery: Periphery,
        first_column: int = 0,
        group: int = 0,
        reference_column: int | None = None,
    ) -> None:
        super().__init__(
            planes.shape, mapping, scale, tile_rows, periphery, first_column, group, reference_column
        )
        self.planes = planes
        self._ready: dict[tuple[bool, float | None], TiledPlanes] = {}

    @cached_property
    def silent(self) -> ReadPlanes:
        """The conductances that the converters read, without noise."""
        return self._reads(None)

    @cached_property
    def flipped(self) -> NDArray[np.bool_] | None:
        """Which columns of which tiles are stored as their complement, (reads, tiles, n); None: none are.

        Those whose conductances sum to more than half of the largest sum.
        """
        if self.periphery.adc is None or self.periphery.adc.encoding is None:
            return None
        starts = np.arange(0, self.planes.shape[1], self.tile_rows)
        sums = np.add.reduceat(self.planes.astype(np.float64), starts, axis=1)
        found = sums > self.half_of_tiles()[:, None]
        return found if bool(found.any()) else None

    def _reads(self, noise: GaussianReadNoise | TelegraphNoise | None, flips: bool = True) -> ReadPlanes:
        """The conductances that the converters read; flipped columns as their complement unless `flips` is False."""
        read = read_planes(self.planes, self.mapping, self.per, noise)
        if self.flipped is None or not flips:
            return read
        planes = np.where(
            self._of_rows(self.flipped), self.largest_cell - read.planes.astype(np.float64), read.planes
        )
        return read._replace(planes=planes.astype(np.float32))

    def _of_rows(self, tiles: NDArray[Any]) -> NDArray[Any]:
        """Values of each tile (reads, tiles, n), repeated for each word line (reads, m, n)."""
        return np.repeat(tiles, self.tile_rows, axis=1)[:, : self.planes.shape[1]]

    @cached_property
    def _turning(self) -> TiledPlanes | None:
        """What the digital side adds to minus a flipped column: the largest sum times the inputs, slices added up."""
        if self.flipped is None:
            return None
        each = np.einsum("r,rtn->tn", self.turning, self.flipped)
        return TiledPlanes(
            self._of_rows(each[None]).astype(np.float32), tile_rows=max(self.planes.shape[1], 1)
        )

    def drive(self, x: Float32, effects: tuple[str, ...] = EFFECTS) -> DrivenInputs:
        """Inputs (b, ...) after the DACs."""
        p = self.periphery
        return drive(x, p.dac if "dac" in effects else None, p.ranges, p.name)

    def product(
        self, x: Float32, event: int = 0, first: int = 0, effects: tuple[str, ...] = EFFECTS
    ) -> Float32:
        """Outputs (b, n) for inputs (b, m), in weight units.

        Args:
            x: inputs.
            event: the number of this read of the array: names its noise.
            first: number of the first input vector within the event.
            effects: those that act; of the ones that the design has.

        Raises:
            InputError: if a range is not calibrated, or the inputs hold NaN or infinite values.
        """
        return self.read(self.drive(x, effects), event, first, effects)

    def read(
        self, driven: DrivenInputs, event: int = 0, first: int = 0, effects: tuple[str, ...] = EFFECTS
    ) -> Float32:
        """As `product`, for driven input vectors (reads, b, m)."""
        if not self.planes.shape[1]:  # no word lines, no current, and no range for one
            return np.zeros((driven.codes.shape[1], len(self.inverse_columns)), np.float32)
        planes = self.ready(driven.full_scale, effects)
        stream = self._stream(planes, driven, event, effects)
        y = product(planes, driven.codes, input_weights=driven.weights, stream=stream, first_example=first)
        if planes.converts and self._turning is not None:
            y += product(self._turning, np.tensordot(driven.weights, driven.codes, 1))
        if self.reference:
            y = y[:, :-1] - y[:, -1:]
        y *= driven.unit[:, None]
        y *= self.inverse
        return y

    def images(
        self,
        driven: DrivenInputs,
        window: dict[str, Any],
        first_channel: int,
        event: int,
        first: int,
        out: Float32,
        first_output: int,
        effects: tuple[str, ...] = EFFECTS,
    ) -> None:
        """Write the outputs of a convolution into `out` (b, channels, h', w'), from channel `first_output` on.

        Args:
            driven: of images (b, c, h, w).
            window: kernel, stride, padding, dilation: (rows, columns).
            first_channel: of this block's inputs.
            event, first, effects: as for `product`; patch p of image e is the input vector e h' w' + p.
        """
        planes, n = self.ready(driven.full_scale, effects), len(self.inverse_columns)
        goal, at = out, first_output
        if self.reference or first_output + n != out.shape[1] or at != 0:
            goal, at = np.empty((len(out), n + self.reference, *out.shape[2:]), np.float32), 0
        convolution(
            planes, driven.codes, **window, first_channel=first_channel, input_weights=driven.weights,
            stream=self._stream(planes, driven, event, effects), first_example=first, out=goal, first_output=at,
        )  # fmt: skip
        if planes.converts and self._turning is not None:
            codes = np.tensordot(driven.weights, driven.codes, 1)[None]
            turned = np.empty((len(out), n + self.reference, *out.shape[2:]), np.float32)
            convolution(
                self._turning, codes, **window, first_channel=first_channel, input_weights=np.ones(1, np.float32),
                stream=None, first_example=first, out=turned, first_output=0,
            )  # fmt: skip
            goal[:, at : at + n + self.reference] += turned
        factor = driven.unit[:, None] * self.inverse_columns
        if goal is out:
            out *= factor[:, :, None, None]
            return
        y = goal[:, :-1] - goal[:, -1:] if self.reference else goal
        np.multiply(y, factor[:, :, None, None], out=out[:, first_output : first_output + n])

    def _stream(
        self, planes: TiledPlanes, driven: DrivenInputs, event: int, effects: tuple[str, ...]
    ) -> Stream | None:
        conversions = len(driven.codes) * planes.reads * planes.tiles
        return self.stream(conversions, event) if self.noisy(effects) else None

    def ready(self, full_scale: float, effects: tuple[str, ...] = EFFECTS) -> TiledPlanes:
        """Planes and converters in the layout of the kernels, for inputs whose code `full_scale` is 1 V; cached."""
        noisy, converts = self.noisy(effects), self.converting(effects)
        name = (noisy, full_scale if converts else None)
        if name not in self._ready:
            noise = self.periphery.read_noise if noisy else None
            quantiser = self.quantiser(full_scale) if converts else None
            flipped = self.flipped if quantiser is not None else None
            flips = flipped is not None
            reads = (
                self.silent
                if noise is None and flips == (self.flipped is not None)
                else self._reads(noise, flips)
            )
            self._ready[name] = TiledPlanes(
                reads.planes, tile_rows=self.tile_rows, weights=reads.weights, variance=reads.variance,
                quantiser=quantiser, signs=1.0 if flipped is None else np.where(flipped, -1.0, 1.0),
            )  # fmt: skip
            self.__dict__.pop("silent", None)  # packed now
        return self._ready[name]


# Currents at the converters of an array and the use of their ranges, for calibration. Simple and slow.


_SHIFT = 13
"""Bits of a float32 that a histogram leaves out: magnitudes are kept to 1 in 1024."""

_SMALLEST = 1 / SINGLE
"""Smaller values count as 0: no range is that small."""

_ZEROS = int(np.array([_SMALLEST], np.float32).view(np.int32)[0]) >> _SHIFT
"""Number of bins below _SMALLEST."""


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
    """Use of converters: the number of conversions, of clipped ones, and the codes that occurred.

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
        """Clipped conversions in percent of all."""
        return 100.0 * self.clipped / self.total if self.total else 0.0

    @property
    def used_percent(self) -> float:
        """Used codes in percent of all codes."""
        return 100.0 * float(np.mean(self.seen))


def currents(readout: Readout, driven: DrivenInputs) -> Iterator[tuple[int, int, int, Float32]]:
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


def count_inputs(x: Float32, driven: DrivenInputs, usage: Usage) -> None:
    """Add the DAC conversions of inputs x (b, m) to `usage`; codes are of the magnitude, before slicing."""
    usage.add(x / driven.unit[:, None])


def count_outputs(readout: Readout, driven: DrivenInputs, usage: Usage) -> None:
    """Add the ADC conversions of driven input vectors to `usage`."""
    quantiser, unit = readout.quantiser(1.0), np.float32(unit_of(readout.mapping))
    if quantiser is None:
        return
    step, gain, offset = (
        np.broadcast_to(a, np.shape(quantiser.gain))
        for a in (quantiser.step, quantiser.gain, quantiser.offset)
    )
    for r, t, _, i in currents(readout, driven):
        usage.add((gain[r, t] * i / unit + offset[r, t]) / step[r, t])
