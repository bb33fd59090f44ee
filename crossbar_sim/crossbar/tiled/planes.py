"""Planes of conductances and their converters in the layout of the kernels, prepared once for many reads."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.crossbar.kernels import GROUP
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.crossbar.tiled import kernels
from crossbar_sim.crossbar.tiled.kernels import ROWS, WIDTH
from crossbar_sim.validate import SINGLE, check_weights, is_whole, require, show

# Converters and read noise between a tile's current and its digital value, as plain arrays.


Float32 = NDArray[np.float32]


class Quantiser(NamedTuple):
    """The converters of every read, row tile and column: code = clip(rint((gain i + offset) / step), low, high).

    Ties go to the even code. The value is step code. i is in single precision, gain / step is taken to 48 bits and
    offset / step to 24; their sum, (gain / step) i + offset / step, is rounded to single precision and then to a code.

    Attributes:
        step: the value of one code, above 0, in units of the product; broadcasts to (r, T, n).
        low, high: the least and the greatest code, integers of at most 2^24.
        gain, offset: mismatch of a converter (1 and 0 are ideal); broadcast to (r, T, n); the offset is in units
            of the product.
    """

    step: NDArray[np.floating] | float
    low: float
    high: float
    gain: NDArray[np.floating] | float = 1.0
    offset: NDArray[np.floating] | float = 0.0

    def check(self) -> None:
        """Refuse impossible converters.

        Raises:
            InputError: unless every step is above 0, all is finite and low <= high are integers.
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
            f"codes {self.low} .. {self.high}: must be integers of at most 2^24, the lower one first",
        )


class Steps(NamedTuple):
    """The numbers of every read, row tile and column, (r, T, n), that turn a current into a code and back.

    code = clip(rint((scale + fine) i + shift)), and it counts for `step`.
    """

    scale: Float32
    fine: Float32
    shift: Float32
    step: Float32

    @classmethod
    def of(
        cls, quantiser: Quantiser, signs: NDArray[np.floating] | float, shape: tuple[int, int, int]
    ) -> "Steps":
        """Of converters; `signs` are -1 where a code counts negatively.

        Raises:
            InputError: for impossible converters, shapes that do not fit, or numbers beyond single precision.
        """

        def each(values: NDArray[np.floating] | float, what: str) -> NDArray[np.float64]:
            given = np.asarray(values, np.float64)
            fits = given.ndim <= 3 and all(
                g in (1, n) for g, n in zip(given.shape[::-1], shape[::-1], strict=False)
            )
            require(
                fits,
                f"a converter's {what} of shape {given.shape}: must fit (reads, row tiles, bit lines) = {shape}",
            )
            return np.broadcast_to(given, shape)

        def single(values: NDArray[np.float64], what: str) -> Float32:
            usable = not values.size or float(np.abs(values).max()) <= SINGLE
            require(usable, f"a converter's {what}, or its share of a step, leaves single precision")
            return values.astype(np.float32)

        quantiser.check()
        step = each(quantiser.step, "step")
        per_step = each(quantiser.gain, "gain") / step
        scale = single(per_step, "gain")
        return cls(
            scale,
            single(per_step - scale, "gain"),
            single(each(quantiser.offset, "offset") / step, "offset"),
            single(step * each(signs, "sign"), "step"),
        )


class Noise(NamedTuple):
    """Read noise: normal, fresh at every conversion, its variance the sum of the cells'.

    Attributes:
        variance: of each read conductance, in S^2 (in squares of the unit of `planes`), shape (r, m, n).
        stream: names the read event; how its numbers are counted is said in `TiledPlanes.product`.
    """

    variance: Float32
    stream: Stream


# Scratch memory of the kernels: one set per thread, grown when needed, kept for the next call.


_LINE = 16
"""Numbers per cache line: vectors across two lines load at half speed."""


class _Scratch(threading.local):
    """The calling thread's arrays by name."""

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray[np.float32]] = {}


_scratch = _Scratch()


def scratch(name: str, size: int) -> NDArray[np.float32]:
    """At least `size` uninitialised float32 of the calling thread, aligned to a cache line.

    The same name gives the same memory: two arrays in use together have two names.
    """
    kept = _scratch.arrays.get(name)
    if kept is None or kept.size < size:
        memory = np.zeros(size + _LINE, np.float32)
        begin = -(memory.ctypes.data // 4) % _LINE
        kept = _scratch.arrays[name] = memory[begin : begin + size]
    return kept


Index = NDArray[np.int64]

_SILENT = Stream(0, 0, 0, 0)
_NONE = np.zeros(1, np.float32)


SHARE = 1 << 24
"""Fewest multiply-adds for a call in another thread: about 0.3 ms."""


@dataclass(frozen=True, eq=False)
class Part:
    """Some inputs of a call and the positions of their numbers; see `kernels.read`.

    Attributes:
        x: the driven inputs, flat; slice s begins at s slice_size.
        bases, offsets: input i is driven on word line k with x[bases[i] + offsets[k]].
        first_row: the number of the first input, for the noise.
        out: flat; column j of input i goes to out[out_bases[i] + j out_step].
    """

    x: Float32
    slice_size: int
    bases: Index
    offsets: Index
    first_row: int
    out: Float32
    out_bases: Index
    out_step: int


class TiledPlanes:
    """r planes of m word lines by n bit lines, cut into row tiles, each read by its converters.

    y[b, j] = sum_t sum_s input_weights[s] sum_r weights[r] D_rtj(sum_{i in tile t} x[s, b, i] planes[r, i, j] + noise)

    Nothing of the arguments is kept but a packed copy, padded to the processor's panels.
    """

    def __init__(
        self,
        planes: Float32,
        *,
        tile_rows: int,
        weights: Sequence[float] | NDArray[np.floating] | None = None,
        quantiser: Quantiser | None = None,
        variance: Float32 | None = None,
        signs: NDArray[np.floating] | float = 1.0,
    ) -> None:
        """Check and pack.

        Args:
            planes: (r, m, n) or (m, n), what each converter reads: conductances in S, or weights.
            tile_rows: word lines of a tile; the last tile may have fewer.
            weights: (r,), the digital weight of each read; 1 where left out.
            quantiser: the converters; None converts ideally.
            variance: (r, m, n), of each read conductance, for read noise.

        Raises:
            InputError: for shapes that do not fit, values that are NaN, infinite or impossible.
        """
        planes = planes[None] if planes.ndim == 2 else planes
        require(planes.ndim == 3, f"planes of shape {planes.shape}: must be (reads, word lines, bit lines)")
        require(
            is_whole(tile_rows) and tile_rows >= 1,
            f"tile_rows={show(tile_rows)}: must be an integer above 0",
        )
        self.reads, self.rows, self.columns = planes.shape
        self.tile_rows = int(min(tile_rows, max(self.rows, 1)))
        self.tiles = -(-self.rows // self.tile_rows)
        self.panels = -(-self.columns // WIDTH)
        self.weights = np.array(np.ones(self.reads) if weights is None else weights, np.float32)
        require(
            self.weights.shape == (self.reads,) and bool(np.isfinite(self.weights).all()),
            f"weights of shape {self.weights.shape}: must be {self.reads} finite numbers, one per plane",
        )
        self._planes = self._packed(planes, "a plane")
        self.noisy = variance is not None
        self._variance = _NONE
        if variance is not None:
            variance = variance[None] if variance.ndim == 2 else variance
            require(
                variance.shape == planes.shape,
                f"variance of shape {variance.shape}: must be that of the planes, {planes.shape}",
            )
            self._variance = self._packed(variance, "the variance of read noise")
            require(not np.any(variance < 0), "the variance of read noise must be at least 0 S^2")
        self.converts = quantiser is not None
        self._scale = self._fine = self._shift = self._step = _NONE
        self._low = self._high = np.float32(0)
        if quantiser is not None:
            self._set(quantiser, signs)

    def _packed(self, planes: Float32, what: str) -> Float32:
        flat = np.require(planes, np.float32, ["C", "A", "W"]).reshape(-1)
        check_weights(flat, what)
        out = np.empty(self.reads * self.rows * self.panels * WIDTH, np.float32)
        if out.size:
            kernels.pack(flat, self.rows, self.columns, self.tile_rows, out)
        return out

    def _set(self, quantiser: Quantiser, signs: NDArray[np.floating] | float) -> None:
        own = Steps.of(quantiser, signs, (self.reads, self.tiles, self.columns))
        self._scale, self._fine, self._shift, self._step = map(self._padded, own)
        self._low, self._high = np.float32(quantiser.low), np.float32(quantiser.high)

    def _padded(self, values: Float32) -> Float32:
        """(r, T, whole panels), flat."""
        out = np.zeros((self.reads, self.tiles, self.panels * WIDTH), np.float32)
        out[:, :, : self.columns] = values
        return out.reshape(-1)

    def input_weights(self, slices: int, given: Sequence[float] | NDArray[np.floating] | None) -> Float32:
        """The weights (s,) as float32; 1 where left out.

        Raises:
            InputError: unless there is one finite number per input slice.
        """
        weights = np.array(np.ones(slices) if given is None else given, np.float32)
        require(
            weights.shape == (slices,) and bool(np.isfinite(weights).all()),
            f"input_weights of shape {weights.shape}: must be {slices} finite numbers, one per input slice",
        )
        return weights

    def naming(self, stream: Stream | None, slices: int, last_row: int) -> Stream:
        """The stream of a call's read noise.

        Raises:
            InputError: if there is noise and no stream, or a stream and no noise, or too many numbers.
        """
        require(
            (stream is not None) == self.noisy,
            "read noise needs both a variance, at programming, and a stream, at reading; one of them is missing",
        )
        if stream is None:
            return _SILENT
        require(
            last_row * self.columns < 1 << 34,
            f"{last_row} inputs of {self.columns} columns: read noise has 2^34 numbers per event; "
            "evaluate fewer examples at a time, or give the rest of the inputs another event",
        )
        groups = slices * self.reads * self.tiles
        require(stream.plane + groups <= 1 << 32, f"{groups} conversions per output: must be below 2^32")
        return stream

    def block_rows(self) -> int:
        """Number of inputs of a block: its sums and voltages stay in the second-level cache."""
        rows = min(kernels.SUMS // max(self.columns, 1), kernels.VOLTAGES // self.tile_rows)
        return max(rows // ROWS, 1) * ROWS

    def share(self, slices: int) -> int:
        """Number of inputs per call of a thread: some blocks, whatever the number of threads."""
        work = max(slices * self.reads * self.rows * self.columns, 1)
        block = self.block_rows()
        return max(SHARE // work // block, 1) * block

    def read(self, part: Part, input_weights: Float32, stream: Stream) -> None:
        """Read some inputs, on the calling thread."""
        rows = min(part.bases.size, self.block_rows())
        strips = -(-rows // ROWS)
        voltages = strips * ROWS * self.tile_rows
        noise = strips * ROWS * self.columns + 2 * GROUP + WIDTH if self.noisy else 1
        kernels.read(
            rows, part.x, part.slice_size, input_weights, part.bases, part.offsets,
            self._planes, self.columns, self.tile_rows, self.weights,
            self.converts, self._scale, self._fine, self._shift, self._step, self._low, self._high,
            self.noisy, self._variance, part.first_row * self.columns, *stream.name,
            scratch("a", voltages), scratch("squares", voltages if self.noisy else 1), scratch("z", noise),
            _ZEROS, scratch("noise", kernels.TILE), scratch("sums", self.panels * strips * kernels.TILE),
            part.out, part.out_bases, part.out_step,
        )  # fmt: skip


_ZEROS = np.zeros(kernels.TILE, np.float32)
