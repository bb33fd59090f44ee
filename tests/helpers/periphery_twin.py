"""The slow obvious twin of docs/periphery.md: one input, one bit line, one cell after the other, in float64.

Nothing is imported from the package; designs are read by their fields alone.
"""

import math
from typing import Any

import numpy as np

from helpers import reference


def even(x: float) -> int:
    """Rounding to the nearest whole number, half to even."""
    return round(x)


def drive(
    x: list[float], dac: Any, full: float | None
) -> tuple[list[list[int | float]], list[float], float, float]:
    """Eq. (18) to (20): codes of every read, what each counts for, the code at 1 V, and the input of one code."""
    if dac is None:
        return [list(x)], [1.0], 1.0, 1.0
    signed = dac.signed == "sign-magnitude"
    bits = 0 if dac.bits is None else dac.bits - signed
    top = 1 if dac.bits is None else 2**bits - 1
    if full is None:
        full = max(abs(value) for value in x) or 1.0
    codes = [min(max(value * top / full, -top), top) for value in x]
    if dac.bits is not None:
        codes = [even(code) for code in codes]
    phases = [(codes, 1.0)]
    if not signed:
        phases = [([max(c, 0) for c in codes], 1.0), ([max(-c, 0) for c in codes], -1.0)]
    if dac.slice_bits is None:
        return [p for p, _ in phases], [sign for _, sign in phases], float(top), full / top
    reads, weights, base = [], [], 2**dac.slice_bits
    for phase, sign in phases:
        for k in range(math.ceil(bits / dac.slice_bits)):
            digits = [(abs(c) // base**k % base) * (1 if c >= 0 else -1) for c in phase]
            reads.append(digits)
            weights.append(sign * base**k)
    return reads, weights, float(base - 1), full / top


def converter(adc: Any, dac: Any, full: float, gain: float, offset: float, i: float) -> float:
    """Eq. (22), (23): the current that the code of i stands for."""
    if adc is None or adc.bits is None:
        return gain * i + offset
    signed = adc.per == "pair" or dac is None or dac.signed == "sign-magnitude"
    top = 2 ** (adc.bits - signed) - 1
    step = full / top
    code = even((gain * i + offset) / step)
    return step * min(max(code, -top if signed else 0), top)


def product(
    planes: np.ndarray,
    mapping: Any,
    scale: float,
    tile_rows: int,
    dac: Any,
    adc: Any,
    x: list[float],
    full_input: float | None,
    full_output: list[float],
    mismatch: tuple[float, float, int, tuple[str, ...], int] | None = None,
) -> list[float]:
    """The outputs for one input vector.

    Args:
        planes: (copies slices cells, rows, physical columns) in S.
        full_input: the input driven at full scale; None: the largest |x|.
        full_output: of every weight slice, in A at 1 V.
        mismatch: (gain_sigma, offset_sigma, seed, names, chip) of the converters.
    """
    pair = mapping.kind == "differential"
    per_set = 2 if pair else 1
    slices = 1
    if mapping.cell_bits is not None:
        slices = math.ceil(math.ceil(math.log2(mapping.levels)) / mapping.cell_bits)
    rows, physical = planes.shape[1:]
    cols = physical if pair else physical - 1
    reads, weights, at_volt, unit = drive(x, dac, full_input)
    column = adc is not None and adc.per == "column"

    def code(read: int, tile: int, col: int, k: int, i: float) -> float:
        gain, offset = 1.0, 0.0
        full = full_output[k] * at_volt
        if mismatch is not None:
            gain_sigma, offset_sigma, seed, names, chip = mismatch
            place = col // adc.share
            gain += gain_sigma * reference.name(seed, (*names, "adc gain"), chip, read, tile).normal(place)
            draw = reference.name(seed, (*names, "adc offset"), chip, read, tile).normal(place)
            offset = offset_sigma * full * draw
        return converter(adc, dac, full, gain, offset, i)

    y = []
    for col in range(cols):
        total = 0.0
        for codes, weight in zip(reads, weights, strict=True):
            for number in range(len(planes) // per_set):
                k = number % slices
                share = 1.0
                if mapping.cell_bits is not None:
                    bits = math.ceil(math.log2(mapping.levels))
                    cell = 2 ** min(mapping.cell_bits, bits) - 1
                    share = 2 ** (k * mapping.cell_bits) * cell / (mapping.levels - 1)
                for tile, start in enumerate(range(0, rows, tile_rows)):
                    own = range(start, min(start + tile_rows, rows))

                    def current(plane: int, c: int, own: range = own, codes: Any = codes) -> float:
                        return math.fsum(codes[r] * float(planes[plane, r, c]) for r in own)

                    first = number * per_set
                    other, c = (first + 1, col) if pair else (first, cols)
                    if column:
                        there = 2 * number + 1 if pair else number
                        a = code(2 * number if pair else number, tile, col, k, current(first, col))
                        found = a - code(there, tile, c, k, current(other, c))
                    else:
                        found = code(number, tile, col, k, current(first, col) - current(other, c))
                    total += weight * share * found
        y.append(total * unit / (scale * mapping.copies))
    return y
