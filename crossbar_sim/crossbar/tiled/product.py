"""Products of inputs with planes through converters: matrices and convolutions."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.crossbar.tiled import kernels
from crossbar_sim.crossbar.tiled.planes import Float32, Index, Noise, Part, Quantiser, TiledPlanes, scratch
from crossbar_sim.validate import check_inputs, is_whole, require, show

# Inputs times planes through converters: matrices.


def driven(x: Float32, dimensions: int, shape: str) -> Float32:
    """Inputs as (s, ...) contiguous float32, with one slice if there is no axis of slices.

    Raises:
        InputError: for another number of dimensions, or NaN or infinite values.
    """
    x = np.asarray(x)
    require(
        x.ndim in (dimensions, dimensions + 1), f"inputs of shape {x.shape}: must be {shape}, or slices of it"
    )
    x = np.require(x, np.float32, ["C", "A", "W"])  # Numba compiles each array type
    check_inputs(x)
    return x[None] if x.ndim == dimensions else x


def into(out: Float32 | None, shape: tuple[int, ...]) -> Float32:
    """`out`, or a new array.

    Raises:
        InputError: unless `out` is contiguous float32 of `shape`.
    """
    if out is None:
        return np.empty(shape, np.float32)
    fits = out.shape == shape and out.dtype == np.float32 and out.flags.carray
    require(
        fits, f"out of shape {out.shape}, {out.dtype}: must be contiguous, writeable float32 of shape {shape}"
    )
    return out


def numbered(first_example: int) -> int:
    """`first_example`, checked.

    Raises:
        InputError: unless it is an integer of at least 0.
    """
    fits = is_whole(first_example) and first_example >= 0
    require(fits, f"first_example={show(first_example)}: must be an integer of at least 0")
    return int(first_example)


def product(
    tiled: TiledPlanes,
    x: Float32,
    *,
    input_weights: Sequence[float] | NDArray[np.floating] | None = None,
    stream: Stream | None = None,
    first_example: int = 0,
    out: Float32 | None = None,
) -> Float32:
    """Read every input of a batch: (s, b, m) or (b, m) to (b, n), digital sums.

    The same bits for any number of threads and any split into batches. Without converters and noise it is x times
    the weighted sum of planes, to single precision.

    Args:
        tiled: the planes.
        x: driven inputs, in V or in units of the input; with bit-serial inputs one (b, m) array per slice.
        input_weights: (s,), the digital weight of each input slice; 1 where left out.
        stream: names the read event where there is read noise. Conversion (s, r, t) of input b on column j takes cell
            (first_example + b) n + j of plane `stream.plane + (s r_count + r) T + t`.
        first_example: the number of the first input, so that batches of any size have the same noise.
        out: where to write; must not overlap x.

    Raises:
        InputError: for shapes that do not fit, or inputs that are NaN or infinite.
    """
    x = driven(x, 2, "(batch, word lines)")
    slices, batch, rows = x.shape
    require(rows == tiled.rows, f"inputs of {rows} numbers: the planes have {tiled.rows} word lines")
    weights = tiled.input_weights(slices, input_weights)
    first = numbered(first_example)
    stream = tiled.naming(stream, slices, first + batch)
    result = into(out, (batch, tiled.columns))
    if not x.size or not tiled.columns:
        result[:] = 0
        return result
    offsets, goal = np.arange(rows, dtype=np.int64), result.reshape(-1)
    count = -(-batch // tiled.share(slices))

    def read(share: int) -> None:
        begin, end = batch * share // count, batch * (share + 1) // count
        numbers = np.arange(begin, end, dtype=np.int64)
        places, goals = numbers * rows, numbers * tiled.columns
        part = Part(x.reshape(-1), batch * rows, places, offsets, first + begin, goal, goals, 1)
        tiled.read(part, weights, stream)

    threads.run(read, range(count))
    return result


def tiled_product(
    x: Float32,
    planes: Float32,
    *,
    tile_rows: int,
    weights: Sequence[float] | NDArray[np.floating] | None = None,
    input_weights: Sequence[float] | NDArray[np.floating] | None = None,
    quantiser: Quantiser | None = None,
    noise: Noise | None = None,
    first_example: int = 0,
    out: Float32 | None = None,
) -> Float32:
    """`TiledPlanes` and `product` in one call, for planes that are read once.

    Raises:
        InputError: as those do.
    """
    variance, stream = (None, None) if noise is None else noise
    tiled = TiledPlanes(planes, tile_rows=tile_rows, weights=weights, quantiser=quantiser, variance=variance)
    return product(tiled, x, input_weights=input_weights, stream=stream, first_example=first_example, out=out)


# Inputs times planes through converters: convolutions, without unfolding.


Pair = tuple[int, int]
Padding = tuple[int | Pair, int | Pair]


class _Window(NamedTuple):
    """A kernel on images: every pair is (rows, columns)."""

    kernel: Pair
    stride: Pair
    dilation: Pair
    before: Pair
    full: Pair
    places: Pair

    @classmethod
    def on(cls, size: Pair, kernel: Pair, stride: Pair, padding: Padding, dilation: Pair) -> "_Window":
        """On images of this size.

        Raises:
            InputError: for impossible numbers, or a kernel larger than the padded image.
        """
        kernel, stride, dilation = (
            _pair(value, name, 1)
            for value, name in ((kernel, "kernel"), (stride, "stride"), (dilation, "dilation"))
        )
        require(len(padding) == 2, f"padding={padding}: must be (rows, columns)")
        rows, columns = (_pair((p, p) if is_whole(p) else p, "padding", 0) for p in padding)  # type: ignore[arg-type]
        full = (size[0] + sum(rows), size[1] + sum(columns))
        places = [
            (n - d * (k - 1) - 1) // s + 1 for n, d, k, s in zip(full, dilation, kernel, stride, strict=True)
        ]
        require(
            min(places) > 0,
            f"images of {size[0]}x{size[1]}, padded to {full[0]}x{full[1]}: the kernel of {kernel[0]}x{kernel[1]}, "
            f"dilation {dilation}, is larger",
        )
        return cls(kernel, stride, dilation, (rows[0], columns[0]), full, (places[0], places[1]))

    def offsets(self, channels: int) -> Index:
        """Positions of the numbers of a patch relative to its first: (channels kh kw,)."""
        channel = np.arange(channels, dtype=np.int64)[:, None, None] * (self.full[0] * self.full[1])
        line = np.arange(self.kernel[0], dtype=np.int64)[:, None] * (self.dilation[0] * self.full[1])
        return (channel + line + np.arange(self.kernel[1], dtype=np.int64) * self.dilation[1]).reshape(-1)

    def origins(self) -> Index:
        """Positions of the patches of an image: (h' w',)."""
        line = np.arange(self.places[0], dtype=np.int64)[:, None] * (self.stride[0] * self.full[1])
        return (line + np.arange(self.places[1], dtype=np.int64) * self.stride[1]).reshape(-1)


def _pair(value: Pair, name: str, least: int) -> Pair:
    fits = (
        isinstance(value, tuple | list) and len(value) == 2 and all(is_whole(n) and n >= least for n in value)
    )
    require(fits, f"{name}={value}: must be two integers of at least {least}")
    return int(value[0]), int(value[1])


def convolution(
    tiled: TiledPlanes,
    x: Float32,
    kernel: Pair,
    *,
    stride: Pair = (1, 1),
    padding: Padding = (0, 0),
    dilation: Pair = (1, 1),
    first_channel: int = 0,
    row: Float32 | None = None,
    input_weights: Sequence[float] | NDArray[np.floating] | None = None,
    stream: Stream | None = None,
    first_example: int = 0,
    out: Float32 | None = None,
    first_output: int = 0,
) -> Float32:
    """Read every patch of a batch of images: (s, b, c, h, w) or (b, c, h, w) to (b, n, h', w').

    Word line (channel kh + ky) kw + kx of the planes is driven by that place of the patch, the order of torch's
    flattened weight. The workspace of a thread is a few padded images and one tile of a block of patches.

    Args:
        tiled: the planes, m = channels kh kw word lines (and one for `row`) by n output channels.
        x: driven images.
        kernel, stride, dilation: (rows, columns).
        padding: (rows, columns), each a number or (before, after); padding drives 0.
        first_channel, first_output: for groups: the planes' channels are those of x from first_channel on, and their
            outputs those of `out` from first_output on.
        row: (s, b), or (b,) beside images without slices: drives the last word line in all patches of an image (a
            bias).
        input_weights: as in `product`.
        stream: as in `product`, a patch for an input: pixel p of the image called e has number e h' w' + p.
        first_example: the number of the first image.
        out: where to write, (b, channels, h', w') with at least first_output + n channels; must not overlap x.

    Raises:
        InputError: for shapes that do not fit, or inputs that are NaN or infinite.
    """
    x = driven(x, 4, "(batch, channels, rows, columns)")
    slices, batch, channels, height, width = x.shape
    window = _Window.on((height, width), kernel, stride, padding, dilation)
    extra = int(row is not None)
    area = window.kernel[0] * window.kernel[1]
    used = (tiled.rows - extra) // area
    require(
        used * area + extra == tiled.rows
        and is_whole(first_channel)
        and 0 <= first_channel <= channels - used,
        f"images of {channels} channels from {first_channel} on, a kernel of {window.kernel[0]}x{window.kernel[1]} "
        f"and {extra} bias rows: the planes have {tiled.rows} word lines",
    )
    drives = np.zeros((slices, batch), np.float32) if row is None else driven(row, 1, "(batch,)")
    require(drives.shape == (slices, batch), f"row of shape {drives.shape}: must be {(slices, batch)}")
    weights = tiled.input_weights(slices, input_weights)
    pixels = window.places[0] * window.places[1]
    first = numbered(first_example)
    stream = tiled.naming(stream, slices, (first + batch) * pixels)
    outputs = first_output + tiled.columns if out is None else out.shape[1]
    require(
        0 <= first_output <= outputs - tiled.columns,
        f"out of {outputs} channels: {tiled.columns} from {first_output} on do not fit",
    )
    result = into(out, (batch, outputs, *window.places))
    if not tiled.rows or not tiled.columns:
        result[:, first_output : first_output + tiled.columns] = 0
        return result
    frame, given = window.full[0] * window.full[1], height * width
    offsets, origins = window.offsets(used) + first_channel * frame, window.origins()
    if extra:
        offsets = np.append(offsets, 0)
        offsets[-1] = channels * frame
    framed = bool(extra) or window.full != (height, width)
    image = (channels + extra) * frame
    together = -(-tiled.share(slices) // pixels)  # images that a thread pads at a time
    goal, flat = result.reshape(-1), x.reshape(-1)

    def read(begin: int) -> None:
        count = min(together, batch - begin)
        images = np.arange(count, dtype=np.int64)[:, None]
        source, slice_size = flat[begin * image :], batch * image
        if framed:
            source, slice_size = scratch("framed", slices * count * image), count * image
            for s in range(slices):
                kernels.pad(
                    flat, (s * batch + begin) * channels * given, count, channels, height, width,
                    *window.before, *window.full, drives[s, begin : begin + count], extra, source, s * slice_size,
                )  # fmt: skip
        bases = (images * image + origins).reshape(-1)
        outs = ((images + begin) * outputs + first_output) * pixels + np.arange(pixels, dtype=np.int64)
        number = (first + begin) * pixels
        tiled.read(
            Part(source, slice_size, bases, offsets, number, goal, outs.reshape(-1), pixels), weights, stream
        )

    threads.run(read, range(0, batch, together))
    return result
