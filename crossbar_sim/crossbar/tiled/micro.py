"""The innermost product: a strip of input rows times a panel of columns over one tile, converter included.

A strip holds ROWS inputs' voltages word line by word line, a panel WIDTH columns' conductances word line by
word line. The vector width is the processor's own; the bits do not depend on it, since every sum is one chain of fused
multiply-adds in the order of the word lines.

Compiled code calls registers.py; with the JIT off the plain functions below run instead. Equation numbers are those
of docs/periphery.md.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba.extending import overload

from crossbar_sim.crossbar.tiled.registers import (
    LANES,
    ROWS,
    VECTORS,
    WIDTH,
    Shape,
    deviate_code,
    make_accumulate,
    make_convert,
    make_store,
    move_code,
)


def _family(make: Callable[[Shape, int], Any]) -> tuple[Any, Any, Any]:
    """The intrinsics for 1, 2 and 3 vectors of a panel (the third is the second where a panel has two)."""
    one, *more = (make(Shape(ROWS, v, LANES), WIDTH) for v in range(1, VECTORS + 1))
    return one, more[0], more[-1]


_store_1, _store_2, _store_3 = _family(make_store)
_accumulate_1, _accumulate_2, _accumulate_3 = _family(make_accumulate)
_convert_1, _convert_2, _convert_3 = _family(make_convert)


def _sums(a: Any, a0: Any, b: Any, b0: Any, depth: Any, first: Any, vectors: Any) -> Any:
    """The twin of `_Tile.sums`, (ROWS, columns): float64 holds a product of two float32 exactly."""
    columns = vectors * LANES
    total = first[: ROWS * WIDTH].reshape(ROWS, WIDTH)[:, :columns]
    for k in range(depth):
        x = a[a0 + k * ROWS :][:ROWS].astype(np.float64)
        g = b[b0 + k * WIDTH :][:columns].astype(np.float64)
        total = (x[:, None] * g + total).astype(np.float32)
    return total


def _add(out: Any, o0: Any, factor: Any, values: Any) -> None:
    """The twin of `_Tile.add_to`."""
    view = out[o0:][: ROWS * WIDTH].reshape(ROWS, WIDTH)[:, : values.shape[1]]
    view[:] = (np.float64(factor) * values + view).astype(np.float32)


def deviate(z: Any, z0: Any, n: Any, vectors: Any, tile: Any) -> None:
    """Eq. (24): tile[i, j] = z[z0 + i n + j] sqrt(tile[i, j]), a tile of (ROWS, WIDTH); all of z is readable.

    Of WIDTH the first `vectors` vectors count; the others are left to chance.
    """
    columns = vectors * LANES
    rows = np.stack([z[z0 + i * n :][:columns] for i in range(ROWS)])
    view = tile.reshape(ROWS, WIDTH)[:, :columns]
    view[:] = rows * np.sqrt(view)


@overload(deviate, inline="always")
def _deviated(z, z0, n, vectors, tile):  # type: ignore[no-untyped-def]
    return lambda z, z0, n, vectors, tile: deviate_code(z, z0, n, tile)  # type: ignore[call-arg]


def move(x: Any, x0: Any, a: Any, a0: Any) -> None:
    """a[a0 ..] = x[x0 ..], ROWS numbers at once."""
    a[a0 : a0 + ROWS] = x[x0 : x0 + ROWS]


@overload(move, inline="always")
def _moved(x, x0, a, a0):  # type: ignore[no-untyped-def]
    return lambda x, x0, a, a0: move_code(x, x0, a, a0)  # type: ignore[call-arg]


def store(a: Any, a0: Any, b: Any, b0: Any, depth: Any, first: Any, vectors: Any, out: Any, o0: Any) -> None:
    """Eq. (21): out[o0 ..] = first + sum over `depth` word lines of a x b, a tile of (ROWS, WIDTH).

    `a` is (depth, ROWS) from a0, `b` (depth, WIDTH) from b0; of WIDTH the first `vectors` vectors count.
    """
    values = _sums(a, a0, b, b0, depth, first, vectors)
    out[o0:][: ROWS * WIDTH].reshape(ROWS, WIDTH)[:, : vectors * LANES] = values


def accumulate(
    a: Any, a0: Any, b: Any, b0: Any, depth: Any, first: Any, vectors: Any, out: Any, o0: Any, weight: Any
) -> None:
    """Eq. (21), (29) without a converter: out += weight (first + sum of a x b)."""
    _add(out, o0, weight, _sums(a, a0, b, b0, depth, first, vectors).astype(np.float64))


def convert(
    a: Any, a0: Any, b: Any, b0: Any, depth: Any, first: Any, vectors: Any, out: Any, o0: Any, weight: Any,
    scale: Any, fine: Any, shift: Any, step: Any, q0: Any, low: Any, high: Any,
) -> None:  # fmt: skip
    """Eq. (21), (22), (29): out += weight step min(max(rint((scale + fine) sum + shift), low), high).

    `fine` is what rounding takes from `scale`: together they are the quotient to 48 bits, so that a sum half-way
    between two codes is seen to be just that, whatever the step.
    """
    values = _sums(a, a0, b, b0, depth, first, vectors).astype(np.float64)
    columns = slice(q0, q0 + values.shape[1])
    rest = (values * fine[columns] + shift[columns]).astype(np.float32)
    whole = np.rint((values * scale[columns] + rest).astype(np.float32))
    codes = np.minimum(np.maximum(whole, low), high)
    _add(out, o0, np.float32(weight) * step[columns], codes.astype(np.float64))


@overload(store, inline="always")
def _store(a, a0, b, b0, depth, first, vectors, out, o0):  # type: ignore[no-untyped-def]
    def code(a, a0, b, b0, depth, first, vectors, out, o0):  # type: ignore[no-untyped-def]
        if vectors == 1:
            _store_1(a, a0, b, b0, depth, first, out, o0)
        elif vectors == 2:
            _store_2(a, a0, b, b0, depth, first, out, o0)
        else:
            _store_3(a, a0, b, b0, depth, first, out, o0)

    return code


@overload(accumulate, inline="always")
def _accumulate(a, a0, b, b0, depth, first, vectors, out, o0, weight):  # type: ignore[no-untyped-def]
    def code(a, a0, b, b0, depth, first, vectors, out, o0, weight):  # type: ignore[no-untyped-def]
        if vectors == 1:
            _accumulate_1(a, a0, b, b0, depth, first, out, o0, weight)
        elif vectors == 2:
            _accumulate_2(a, a0, b, b0, depth, first, out, o0, weight)
        else:
            _accumulate_3(a, a0, b, b0, depth, first, out, o0, weight)

    return code


@overload(convert, inline="always")
def _convert(  # type: ignore[no-untyped-def]
    a, a0, b, b0, depth, first, vectors, out, o0, weight, scale, fine, shift, step, q0, low, high
):
    def code(a, a0, b, b0, depth, first, vectors, out, o0, weight, scale, fine, shift, step, q0, low, high):  # type: ignore[no-untyped-def]
        if vectors == 1:
            _convert_1(a, a0, b, b0, depth, first, out, o0, weight, scale, fine, shift, step, q0, low, high)
        elif vectors == 2:
            _convert_2(a, a0, b, b0, depth, first, out, o0, weight, scale, fine, shift, step, q0, low, high)
        else:
            _convert_3(a, a0, b, b0, depth, first, out, o0, weight, scale, fine, shift, step, q0, low, high)

    return code
