"""Kernels between weights and planes, and the tiled analog product. The rules are those of kernels.py.

`scale` has one entry for the whole matrix or one for each column.
"""

from typing import Any

import numpy as np

from crossbar_sim.crossbar.philox import f32, fma, inlined, kernel


@inlined
def _cell_target(a: Any, base: Any, low: Any, high: Any) -> Any:
    """base + a held to the window [low, high]."""
    return min(max(f32(base + a), low), high)


@kernel
def to_cells(
    w: Any, scale: Any, rows: Any, start: Any, sign: Any, base: Any, low: Any, high: Any, out: Any
) -> None:
    """Eq. (2), (3), and (4) without levels: out = base + sign s w inside [low, high]."""
    if scale.size == 1:
        s = f32(sign * scale[0])
        for i in range(out.size):
            out[i] = _cell_target(f32(w[i] * s), base, low, high)
        return
    i = 0
    while i < out.size:
        column = (start + i) // rows
        end = min(out.size, (column + 1) * rows - start)
        s = f32(sign * scale[column])
        for k in range(i, end):
            out[k] = _cell_target(f32(w[k] * s), base, low, high)
        i = end


_UP = 1.0 + 2.0**-23 + 2.0**-40
"""A scale is rounded towards zero to single precision: the exact one is at most this many times as large."""


@inlined
def _level(w: Any, steps: Any, base: Any, top: Any) -> Any:
    """Eq. (4): floor(x + 1/2) in 0 .. top, with x = base + w steps in units of a level.

    x is the largest number that the rounded scale may stand for, so that what lies half-way between two levels goes
    up whatever the window is: in single precision the window would decide.
    """
    x = np.float64(w) * steps
    x = base + max(x, x * _UP)
    return f32(min(max(np.floor(x + 0.5), 0.0), top))


@kernel
def to_levels(
    w: Any, scale: Any, rows: Any, start: Any, per_step: Any, base: Any, top: Any, out: Any
) -> None:
    """Eq. (2) to (4) in levels: out = the level of each weight, whole numbers in 0 .. top.

    `per_step` is the sign of the plane over the step, 1/S, `base` the level of weight 0; both in double precision.
    """
    if scale.size == 1:
        steps = np.float64(scale[0]) * per_step
        for i in range(out.size):
            out[i] = _level(w[i], steps, base, top)
        return
    i = 0
    while i < out.size:
        column = (start + i) // rows
        end = min(out.size, (column + 1) * rows - start)
        steps = np.float64(scale[column]) * per_step
        for k in range(i, end):
            out[k] = _level(w[k], steps, base, top)
        i = end


@kernel
def at_levels(step: Any, low: Any, high: Any, out: Any) -> None:
    """Eq. (4): levels to conductances, in place.

    The minimum keeps the highest level from passing `high` by a rounding.
    """
    for i in range(out.size):
        out[i] = min(fma(out[i], step, low), high)


@inlined
def _near(g: Any, low: Any, unit: Any) -> Any:
    """The level that g lies on, counted from `low` in units of `unit`, as far as single precision shows; else -1."""
    g = np.float64(g)
    level = np.floor((g - low) / unit + 0.5)
    return level if abs(g - (low + level * unit)) <= 2.0**-22 * g else -1.0


@kernel
def in_levels(g: Any, low: Any, unit: Any, out: Any) -> None:
    """out = g / unit; exactly level + low / unit where g is on a level."""
    per, offset = f32(unit), low / unit
    for i in range(out.size):
        level = _near(g[i], low, unit)
        out[i] = f32(level + offset) if level >= 0.0 else f32(g[i] / per)


@kernel
def level_differences(plus: Any, minus: Any, low: Any, unit: Any, out: Any) -> None:
    """out = (plus - minus) / unit; exactly the whole number where both are on a level."""
    per = f32(unit)
    for i in range(out.size):
        a, b = _near(plus[i], low, unit), _near(minus[i], low, unit)
        there = a >= 0.0 and b >= 0.0
        out[i] = f32(a - b) if there else f32(f32(plus[i] / per) - f32(minus[i] / per))


@kernel
def add_difference(plus: Any, minus: Any, fresh: Any, out: Any) -> None:
    """Eq. (5): out = plus - minus if `fresh`, else out + (plus - minus)."""
    if fresh:
        for i in range(out.size):
            out[i] = f32(plus[i] - minus[i])
    else:
        for i in range(out.size):
            out[i] = f32(out[i] + f32(plus[i] - minus[i]))


@kernel
def add_against_reference(g: Any, reference: Any, start: Any, fresh: Any, out: Any) -> None:
    """Eq. (5): the same against the reference column: reference[r] belongs to every cell of row r."""
    rows = reference.size
    i = 0
    while i < out.size:
        column = (start + i) // rows
        first = start + i - column * rows
        end = min(out.size, (column + 1) * rows - start)
        for k in range(i, end):
            d = f32(g[k] - reference[first + k - i])
            out[k] = d if fresh else f32(out[k] + d)
        i = end


@kernel
def add_slice(difference: Any, weight: Any, fresh: Any, out: Any) -> None:
    """Eq. (29): out = weight difference if `fresh`, else out + weight difference: shift and add."""
    if fresh:
        for i in range(out.size):
            out[i] = f32(weight * difference[i])
    else:
        for i in range(out.size):
            out[i] = f32(out[i] + f32(weight * difference[i]))


@kernel
def unscale(out: Any, inverse: Any, rows: Any, start: Any) -> None:
    """Eq. (5): out = out inverse, S back to weights, one inverse per matrix or per column.

    Adding 0 makes an underflow of either sign the same +0.
    """
    if inverse.size == 1:
        for i in range(out.size):
            out[i] = f32(out[i] * inverse[0]) + f32(0.0)
        return
    i = 0
    while i < out.size:
        column = (start + i) // rows
        end = min(out.size, (column + 1) * rows - start)
        for k in range(i, end):
            out[k] = f32(out[k] * inverse[column]) + f32(0.0)
        i = end


@kernel
def tiled_currents(v: Any, g: Any, tile_rows: Any, scratch: Any, out: Any) -> None:
    """Eq. (17): out[b, c] = sum over tiles of sum over the tile's rows of v[b, r] g[r, c], in A.

    v is (batch, rows) in V, g (rows, cols) in S, out (batch, cols) in A, scratch (cols,). The bit lines of a
    tile sum its own rows; the sum over tiles is the digital one.
    """
    batch, rows = v.shape
    cols = g.shape[1]
    for b in range(batch):
        for c in range(cols):
            out[b, c] = f32(0.0)
        for first in range(0, rows, tile_rows):
            for c in range(cols):
                scratch[c] = f32(0.0)
            for r in range(first, min(rows, first + tile_rows)):
                voltage = v[b, r]
                for c in range(cols):
                    scratch[c] = fma(voltage, g[r, c], scratch[c])
            for c in range(cols):
                out[b, c] = f32(out[b, c] + scratch[c])
