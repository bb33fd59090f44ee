"""Triton kernels of converters: DACs, and products tile by tile with their ADCs and digital sums.

Imported only where Triton is used. Equation numbers are those of docs/periphery.md. Roundings are those of product.py:
the quotient of a converter in float64, rounded to single precision, and half to even; adding and taking away
1.5 x 2^52 (2^23 in single precision) rounds so, on every device that computes as IEEE 754 says.
"""

import triton
import triton.language as tl

_ROUND64, _ROUND32 = tl.constexpr(6755399441055744.0), tl.constexpr(12582912.0)


@triton.jit
def drive(
    x, out, unit, largest_of, n, full, top, DYNAMIC: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Eq. (18), one read of signed codes: a program for each input x (n,).

    Args:
        out: codes (b, n); unit: units of the input per code, (b,).
        largest_of: set to NaN where an input is NaN or infinite.
        full: the input at full scale, unless each has its own (DYNAMIC); top: the largest code.
    """
    b = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    largest = tl.full((BLOCK,), 0.0, tl.float32)
    bad = tl.full((BLOCK,), 0, tl.int32)
    for start in range(0, n, BLOCK):
        v = tl.abs(tl.load(x + b * n + start + lane, mask=start + lane < n, other=0.0))
        bad = bad | (1 - (v <= 3.4028234e38).to(tl.int32))
        largest = tl.maximum(largest, v)
    if tl.reduce(bad, 0, tl.standard._elementwise_max) != 0:
        tl.store(largest_of, float("nan"))
    scale = tl.full((), 0.0, tl.float32) + full
    if DYNAMIC:
        own = tl.reduce(largest, 0, tl.standard._elementwise_max)
        scale = tl.where(own > 1e-30, own, 1.0)
    most = tl.full((), 0.0, tl.float32) + top
    tl.store(unit + b, tl.div_rn(scale, most))
    for start in range(0, n, BLOCK):
        v = tl.load(x + b * n + start + lane, mask=start + lane < n, other=0.0)
        quotient = v.to(tl.float64) * most.to(tl.float64) / scale.to(tl.float64)
        quotient = tl.minimum(tl.maximum(quotient, -most.to(tl.float64)), most.to(tl.float64))
        code = ((quotient + _ROUND64) - _ROUND64).to(tl.float32)
        tl.store(out + b * n + start + lane, code, mask=start + lane < n)


@triton.jit
def read(
    codes, planes, quotient, shift, factors, unit, inverse, out,
    b, m, n, by_input, by_line, tiles, tile_rows, units, inverses, low, high,
    PARTS: tl.constexpr, READS: tl.constexpr, SHIFTED: tl.constexpr, TOGETHER: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Eq. (21), (22), (29): outputs (b, n) in weight units for codes (b, m), one input slice.

    Codes are whole numbers of at most 2048, exact in float16, and a conductance is the sum of PARTS numbers of float16:
    so every product is exact, and only their sums in float32 are rounded.

    Args:
        codes: the one of input i on word line k is at i by_input + k by_line.
        planes: (PARTS, m, READS n).
        quotient, shift, factors: of every conversion, (tiles, READS, n), float64; no shift unless SHIFTED.
        unit, inverse: of every input and output; with units or inverses 0, the first one is that of all.
    """
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) * BN + tl.arange(0, BN)
    row, column = rows[:, None].to(tl.int64), columns[None, :].to(tl.int64)
    k = tl.arange(0, BK)
    wide = READS * n
    total = tl.full((BM, BN), 0.0, tl.float32)
    for t in range(tiles):
        first = t * tile_rows
        end = tl.minimum(first + tile_rows, m)
        for r in range(READS):
            current = tl.full((BM, BN), 0.0, tl.float32)
            for start in range(first, end, BK):
                line = start + k
                place = codes + row * by_input + line[None, :].to(tl.int64) * by_line
                a = tl.load(place, mask=(row < b) & (line[None, :] < end), other=0.0).to(tl.float16)
                for part in tl.static_range(PARTS):
                    cell = planes + (part * m + line[:, None]).to(tl.int64) * wide + r * n + column
                    g = tl.load(cell, mask=(line[:, None] < end) & (column < n), other=0.0)
                    current = tl.dot(a, g, current)
            conversion = (t * READS + r) * n + column
            inside = column < n
            ideal = current.to(tl.float64) * tl.load(quotient + conversion, mask=inside, other=0.0)
            if SHIFTED:
                ideal += tl.load(shift + conversion, mask=inside, other=0.0)
            code = tl.minimum(tl.maximum(ideal.to(tl.float32), low), high)
            code = ((code + _ROUND32) - _ROUND32).to(tl.float64)
            factor = tl.load(factors + conversion, mask=inside, other=0.0)
            total = (code * factor + total.to(tl.float64)).to(tl.float32)
    of_row = tl.load(unit + row * units, mask=row < b, other=0.0)
    of_column = tl.load(inverse + column * inverses, mask=column < n, other=0.0)
    total = total * (of_row * of_column) if TOGETHER else total * of_row * of_column
    tl.store(out + row * n + column, total, mask=(row < b) & (column < n))
