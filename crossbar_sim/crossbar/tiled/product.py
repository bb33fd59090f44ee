"""Inputs times planes through converters: matrices."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.checks import check_inputs, is_whole, require, show
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.crossbar.tiled.converters import Float32, Noise, Quantiser
from crossbar_sim.crossbar.tiled.planes import Part, TiledPlanes


def driven(x: Float32, dimensions: int, shape: str) -> Float32:
    """Inputs as (s, ...) contiguous float32, one slice where none are told apart.

    Raises:
        InputError: for another number of dimensions, or NaN or infinite values.
    """
    x = np.asarray(x)
    require(
        x.ndim in (dimensions, dimensions + 1), f"inputs of shape {x.shape}: must be {shape}, or slices of it"
    )
    x = np.require(x, np.float32, ["C", "A", "W"])  # one kind of array for Numba: others compile anew
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
        InputError: unless it is a whole number of at least 0.
    """
    fits = is_whole(first_example) and first_example >= 0
    require(fits, f"first_example={show(first_example)}: must be a whole number of at least 0")
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
