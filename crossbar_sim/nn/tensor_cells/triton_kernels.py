"""Triton kernels of cells: the kernels of `crossbar.kernels`, operation by operation, for all arrays of a chip at once.

The same IEEE operations in the same order (additions, products, fused multiply-adds, square roots, conversions; the
compiler may not contract them), so on a card that rounds as IEEE 754 says the bits are those of the CPU kernels.

Imported only where Triton is used. Each program of a launch takes 64 `GROUPS` counters, 256 `GROUPS` cells, of one
segment. A segment is a row of two tables, which `segments.py` writes: whole numbers (addresses, keys, thresholds)
and real numbers (parameters of mapping, noise and law, which are single precision where the core's are).
"""

import triton
import triton.language as tl

from crossbar_sim.nn.tensor_cells.segments import INTEGERS, REALS

_NI, _NR = tl.constexpr(len(INTEGERS)), tl.constexpr(REALS["end"])
_W, _OUT, _SCALE, _INVERSE = (tl.constexpr(INTEGERS.index(name)) for name in ("w", "out", "scale", "inverse"))
_REFERENCE, _TABLE = (tl.constexpr(INTEGERS.index(name)) for name in ("reference", "table"))
_FIRST, _END, _WEIGHTS, _ROWS = (tl.constexpr(INTEGERS.index(k)) for k in ("first", "end", "weights", "rows"))
_PLANE, _COPIES, _CHIP = (tl.constexpr(INTEGERS.index(name)) for name in ("plane", "copies", "chip"))
_PROGRAMMING, _STUCK, _DRIFT = (tl.constexpr(INTEGERS.index(k)) for k in ("programming", "stuck", "drift"))
_OFF, _ON, _DROP = (tl.constexpr(INTEGERS.index(name)) for name in ("off_below", "on_from", "drop_below"))
_BLOCK, _EVENT = tl.constexpr(INTEGERS.index("block")), tl.constexpr(INTEGERS.index("event"))
_MIDDLE, _LOW, _HIGH = (tl.constexpr(REALS[name]) for name in ("middle", "low", "high"))
_STEP, _TOP, _LEVEL, _PER_STEP = (tl.constexpr(REALS[k]) for k in ("step", "top", "level", "per_step"))
_LAW0, _LAW1, _LAW2 = (
    tl.constexpr(REALS["law"]),
    tl.constexpr(REALS["law"] + 1),
    tl.constexpr(REALS["law"] + 2),
)
_NOISE, _SIGMA, _MEAN = (tl.constexpr(REALS[name]) for name in ("noise", "sigma", "mean"))
_RELAX, _DRIFTED_MEAN, _SPREAD = (tl.constexpr(REALS[name]) for name in ("relax", "drifted_mean", "spread"))
_UP = tl.constexpr(1.0 + 2.0**-23 + 2.0**-40)


# Scalar building blocks, as in crossbar/kernels.py.


@triton.jit
def philox(c0, c1, c2, c3, k0, k1):
    """Ten rounds of Philox-4x32 on uint32."""
    for _ in tl.static_range(10):
        p0, p1 = c0, c2
        c0 = tl.umulhi(p1, 0xCD9E8D57) ^ c1 ^ k0
        c2 = tl.umulhi(p0, 0xD2511F53) ^ c3 ^ k1
        c1 = p1 * 0xCD9E8D57
        c3 = p0 * 0xD2511F53
        k0 = k0 + 0x9E3779B9
        k1 = k1 + 0xBB67AE85
    return c0, c1, c2, c3


@triton.jit
def uniform(a):
    """A word as a float32 in (0, 1]."""
    return tl.fma(a.to(tl.float32), 2.0**-32, 2.0**-33)


@triton.jit
def minus_two_ln(u):
    """-2 ln(u) of a positive normal float32."""
    b = u.to(tl.int32, bitcast=True)
    e = (b - 0x3F3504F3) >> 23
    x = (b - (e << 23)).to(tl.float32, bitcast=True) - 1.0
    p = tl.fma(x, 0.15268986, -0.2552315)
    p = tl.fma(p, x, 0.26320366)
    p = tl.fma(p, x, -0.28403518)
    p = tl.fma(p, x, 0.33246714)
    p = tl.fma(p, x, -0.40002454)
    p = tl.fma(p, x, 0.5000164)
    p = tl.fma(p, x, -0.6666666)
    p = tl.fma(p, x, 1.0)
    p = tl.fma(p * x, x, -2.0 * x)
    return tl.fma(e.to(tl.float32), -1.3862944, p)


@triton.jit
def sin_pi(t):
    """sin(pi t) for |t| <= 1/2."""
    s = t * t
    p = tl.fma(s, 0.07756039, -0.5982421)
    p = tl.fma(p, s, 2.5500698)
    p = tl.fma(p, s, -5.16771)
    p = tl.fma(p, s, 3.1415927)
    return p * t


@triton.jit
def exp2(high, low, z):
    """2^((high + low) z)."""
    t = tl.fma(z, high, 12582912.0)
    r = tl.fma(z, low, tl.fma(z, high, 12582912.0 - t))
    p = tl.fma(r, 0.00015353362, 0.0013398875)
    p = tl.fma(p, r, 0.009618437)
    p = tl.fma(p, r, 0.055503324)
    p = tl.fma(p, r, 0.24022648)
    p = tl.fma(p, r, 0.6931472)
    p = tl.fma(p, r, 1.0)
    shifted = t.to(tl.int32, bitcast=True) << 23
    return (p.to(tl.int32, bitcast=True) + shifted).to(tl.float32, bitcast=True)


@triton.jit
def pair(a, b):
    """Two words as two independent standard normals."""
    radius = tl.sqrt_rn(minus_two_ln(uniform(a)))
    half_turn = (b & 0x80000000).to(tl.int32, bitcast=True)
    r = (radius.to(tl.int32, bitcast=True) | half_turn).to(tl.float32, bitcast=True)
    t = (b << 1).to(tl.int32, bitcast=True).to(tl.float32) * (2.0**-32)
    return r * sin_pi(0.5 - tl.abs(t)), r * sin_pi(t)


@triton.jit
def laplace(word):
    """A word as a Laplace number of variance 1."""
    magnitude = minus_two_ln(uniform(word << 1)) * 0.35355339
    sign = (word & 0x80000000).to(tl.int32, bitcast=True)
    return (magnitude.to(tl.int32, bitcast=True) | sign).to(tl.float32, bitcast=True)


@triton.jit
def _real(reals, i):
    """A parameter in single precision."""
    return tl.load(reals + i).to(tl.float32)


@triton.jit
def _fused_polynomial(reals, first: tl.constexpr, degree: tl.constexpr, r):
    p = r * 0.0 + _real(reals, first + degree)
    for k in tl.static_range(degree):
        p = tl.fma(p, r, _real(reals, first + degree - 1 - k))
    return p


@triton.jit
def _polynomial(reals, first: tl.constexpr, degree: tl.constexpr, r):
    """NumPy's polyval, in which product and sum are rounded by themselves."""
    p = r * 0.0 + _real(reals, first + degree)
    for k in tl.static_range(degree):
        p = p * r + _real(reals, first + degree - 1 - k)
    return p


# One cell after another effect: g and the draw z (a normal) or w (a word) of each cell.


@triton.jit
def _noisy(g, z, reals, NOISE: tl.constexpr, SIGMA: tl.constexpr, MEAN: tl.constexpr):
    """Eq. (6), (6b)."""
    r = g * _real(reals, _NOISE)
    if NOISE == "measured":
        mean = _polynomial(reals, _MEAN, MEAN, r)
        sigma = tl.maximum(_polynomial(reals, _SIGMA, SIGMA, r), 0.0)
        moved = g + mean + sigma * z
    else:
        sigma = tl.maximum(_fused_polynomial(reals, _SIGMA, SIGMA, r), 0.0)
        moved = tl.fma(sigma, z, g)
    return tl.maximum(moved, 0.0)


@triton.jit
def _stuck(g, word, off_below, on_from, reals):
    """Eq. (7)."""
    w = word.to(tl.int64)
    g = tl.where(w >= on_from, _real(reals, _HIGH), g)
    return tl.where(w < off_below, _real(reals, _LOW), g)


@triton.jit
def _by_draw(g, d, reals, table, LAW: tl.constexpr, MEAN: tl.constexpr, SPREAD: tl.constexpr):
    """The laws of a standardised draw d."""
    if LAW == "lognormal":
        moved = g * _real(reals, _LAW0) * exp2(_real(reals, _LAW1), _real(reals, _LAW2), d)
    elif LAW == "factor":
        moved = tl.maximum(g * tl.fma(d, _real(reals, _LAW0), 1.0), 0.0) + 0.0
    elif LAW == "shift":
        moved = tl.maximum(g + tl.fma(d, _real(reals, _LAW1), _real(reals, _LAW0)), 0.0)
    elif LAW == "relax":
        r = g * _real(reals, _RELAX)
        m = _fused_polynomial(reals, _DRIFTED_MEAN, MEAN, r)
        s = _fused_polynomial(reals, _SPREAD, SPREAD, r)
        moved = tl.maximum(g + tl.fma(tl.maximum(s, -s), d, m), 0.0)
    else:
        tl.static_assert(LAW == "gamma")
        position = (d - _real(reals, _LAW0)) * _real(reals, _LAW1)
        piece = tl.minimum(tl.maximum(position.to(tl.int32), 0), 2047)
        t = position - piece.to(tl.float32)
        c = table + piece * 4
        q = tl.fma(tl.load(c + 3), t, tl.load(c + 2))
        q = tl.fma(tl.fma(q, t, tl.load(c + 1)), t, tl.load(c))
        moved = g * exp2(1.0, 0.0, tl.minimum(tl.maximum(q, -120.0), 120.0))
    return moved


@triton.jit
def _by_word(g, word, drop_below, reals, LAW: tl.constexpr):
    """The laws of a word."""
    if LAW == "bernoulli":
        moved = tl.where(word.to(tl.int64) < drop_below, 0.0, g)
    else:
        tl.static_assert(LAW == "pareto")
        rate = _real(reals, _LAW1)
        moved = g * _real(reals, _LAW0) * exp2(rate, 0.0, minus_two_ln(uniform(word)))
        moved = tl.where(word == 0, g * exp2(rate, 0.0, g * 0.0 + 44.361420), moved)
    return moved


@triton.jit
def _target(w, scale, sign: tl.constexpr, reals, LEVELS: tl.constexpr):
    """Eq. (2) to (4)."""
    if LEVELS:
        x = w.to(tl.float64) * (scale.to(tl.float64) * (sign * tl.load(reals + _PER_STEP)))
        x = tl.load(reals + _LEVEL) + tl.maximum(x, x * _UP)
        level = tl.minimum(tl.maximum(tl.floor(x + 0.5), 0.0), tl.load(reals + _TOP)).to(tl.float32)
        g = tl.minimum(tl.fma(level, _real(reals, _STEP), _real(reals, _LOW)), _real(reals, _HIGH))
    else:
        g = _real(reals, _MIDDLE) + w * (sign * scale)
        g = tl.minimum(tl.maximum(g, _real(reals, _LOW)), _real(reals, _HIGH))
    return g


@triton.jit
def _words(integers, key, counter, plane):
    k0 = tl.load(integers + key).to(tl.uint32)
    k1 = tl.load(integers + key + 1).to(tl.uint32)
    chip = tl.load(integers + _CHIP).to(tl.uint32)
    event = tl.load(integers + _EVENT).to(tl.uint32)
    zero = counter * 0
    return philox(counter, zero + plane, zero + chip, zero + event, zero + k0, zero + k1)


@triton.jit
def _moved(
    g0, g1, g2, g3, counter, together, integers, reals,
    LAW: tl.constexpr, DRAW: tl.constexpr, DRIFTED_MEAN: tl.constexpr, SPREAD: tl.constexpr,
):  # fmt: skip
    """Conductances after drift, by runs of 64 cells."""
    a, b, c, d = _words(integers, _DRIFT, counter, together)
    if DRAW == "word":
        drop = tl.load(integers + _DROP)
        g0, g1 = _by_word(g0, a, drop, reals, LAW), _by_word(g1, b, drop, reals, LAW)
        g2, g3 = _by_word(g2, c, drop, reals, LAW), _by_word(g3, d, drop, reals, LAW)
    else:
        if DRAW == "normal":
            z0, z1 = pair(a, b)
            z2, z3 = pair(c, d)
        elif DRAW == "uniform":
            z0, z1 = (uniform(a) - 0.5) * 3.4641016, (uniform(b) - 0.5) * 3.4641016
            z2, z3 = (uniform(c) - 0.5) * 3.4641016, (uniform(d) - 0.5) * 3.4641016
        else:
            tl.static_assert(DRAW == "laplace")
            z0, z1, z2, z3 = laplace(a), laplace(b), laplace(c), laplace(d)
        table = tl.load(integers + _TABLE).to(tl.pointer_type(tl.float32))
        g0 = _by_draw(g0, z0, reals, table, LAW, DRIFTED_MEAN, SPREAD)
        g1 = _by_draw(g1, z1, reals, table, LAW, DRIFTED_MEAN, SPREAD)
        g2 = _by_draw(g2, z2, reals, table, LAW, DRIFTED_MEAN, SPREAD)
        g3 = _by_draw(g3, z3, reals, table, LAW, DRIFTED_MEAN, SPREAD)
    return g0, g1, g2, g3


@triton.jit
def _plane(
    w0, w1, w2, w3, s0, s1, s2, s3, sign: tl.constexpr, counter, plane, together, integers, reals,
    LEVELS: tl.constexpr, NOISE: tl.constexpr, SIGMA: tl.constexpr, MEAN: tl.constexpr, STUCK: tl.constexpr,
    LAW: tl.constexpr, DRAW: tl.constexpr, DRIFTED_MEAN: tl.constexpr, SPREAD: tl.constexpr,
):  # fmt: skip
    """The conductances of one plane after drift, by runs of 64 cells."""
    g0, g1 = _target(w0, s0, sign, reals, LEVELS), _target(w1, s1, sign, reals, LEVELS)
    g2, g3 = _target(w2, s2, sign, reals, LEVELS), _target(w3, s3, sign, reals, LEVELS)
    if NOISE != "":
        a, b, c, d = _words(integers, _PROGRAMMING, counter, plane)
        z0, z1 = pair(a, b)
        z2, z3 = pair(c, d)
        g0, g1 = _noisy(g0, z0, reals, NOISE, SIGMA, MEAN), _noisy(g1, z1, reals, NOISE, SIGMA, MEAN)
        g2, g3 = _noisy(g2, z2, reals, NOISE, SIGMA, MEAN), _noisy(g3, z3, reals, NOISE, SIGMA, MEAN)
    if STUCK:
        a, b, c, d = _words(integers, _STUCK, counter, plane)
        off, on = tl.load(integers + _OFF), tl.load(integers + _ON)
        g0, g1 = _stuck(g0, a, off, on, reals), _stuck(g1, b, off, on, reals)
        g2, g3 = _stuck(g2, c, off, on, reals), _stuck(g3, d, off, on, reals)
    if LAW != "":
        g0, g1, g2, g3 = _moved(
            g0, g1, g2, g3, counter, together, integers, reals, LAW, DRAW, DRIFTED_MEAN, SPREAD
        )
    return g0, g1, g2, g3


@triton.jit
def _address(integers, i: tl.constexpr, cell, KIND: tl.constexpr, ALIGNED: tl.constexpr):
    """Where cells lie in memory."""
    there = tl.load(integers + i).to(tl.pointer_type(KIND)) + cell
    if ALIGNED:
        there = tl.multiple_of(there, 16)
    return there


@triton.jit
def _weights(integers, cell, weights, KIND: tl.constexpr, ALIGNED: tl.constexpr):
    there = _address(integers, _W, cell, KIND, ALIGNED)
    return tl.load(there, mask=cell < weights, other=0.0).to(tl.float32)


@triton.jit
def _scale(integers, cell, i: tl.constexpr, PER_COLUMN: tl.constexpr, mask):
    scale = tl.load(integers + i).to(tl.pointer_type(tl.float32))
    if PER_COLUMN:  # noqa: SIM108 - decided when it is compiled
        found = tl.load(scale + cell // tl.load(integers + _ROWS), mask=mask, other=1.0)
    else:
        found = tl.load(scale)
    return found


@triton.jit
def _keep(integers, g, cell, weights, end):
    """The conductances of cells past the weights."""
    there = tl.load(integers + _OUT).to(tl.pointer_type(tl.float32)) + (cell - weights)
    tl.store(there, g, mask=(cell >= weights) & (cell < end))


@triton.jit
def _read(integers, g, cell, end, PER_COLUMN: tl.constexpr, KIND: tl.constexpr, ALIGNED: tl.constexpr):
    """Eq. (5): differences of conductances as weights; adding 0 makes -0 the +0."""
    inside = cell < end
    w = g * _scale(integers, cell, _INVERSE, PER_COLUMN, inside) + 0.0
    tl.store(_address(integers, _OUT, cell, KIND, ALIGNED), w.to(KIND), mask=inside)


@triton.jit
def program_arrays(
    integers, reals, segment_of,
    FORM: tl.constexpr, PER_COLUMN: tl.constexpr, LEVELS: tl.constexpr, NOISE: tl.constexpr, SIGMA: tl.constexpr,
    MEAN: tl.constexpr, STUCK: tl.constexpr, LAW: tl.constexpr, DRAW: tl.constexpr, DRIFTED_MEAN: tl.constexpr,
    SPREAD: tl.constexpr, PER_WEIGHT: tl.constexpr, KIND: tl.constexpr, ALIGNED: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """Program, drift and read back the weights of every segment.

    FORM: "pair": weights of pairs of cells; "reference": weights against a reference column, whose conductances are
    there; "plane": conductances of one plane of an array with a reference column (cells past the weights); "cells":
    conductances as they are, which only drift.
    """
    block = tl.program_id(0)
    segment = tl.load(segment_of + block)
    integers += segment * _NI
    reals += segment * _NR
    block -= tl.load(integers + _BLOCK).to(tl.int32)
    lane = tl.arange(0, 64 * GROUPS)
    first = tl.multiple_of(tl.load(integers + _FIRST), 256) + block.to(tl.int64) * (256 * GROUPS)
    counter = (first // 4).to(tl.uint32) + lane.to(tl.uint32)
    cell = first + ((lane // 64) * 256 + lane % 64)
    end, weights = tl.load(integers + _END), tl.load(integers + _WEIGHTS)
    if ALIGNED:  # whole vectors are loaded and stored
        end, weights = tl.multiple_of(end, 8), tl.multiple_of(weights, 8)
    w0 = _weights(integers, cell, weights, KIND, ALIGNED)
    w1 = _weights(integers, cell + 64, weights, KIND, ALIGNED)
    w2 = _weights(integers, cell + 128, weights, KIND, ALIGNED)
    w3 = _weights(integers, cell + 192, weights, KIND, ALIGNED)
    plane = tl.load(integers + _PLANE).to(tl.uint32)
    if FORM != "cells":
        s0 = _scale(integers, cell, _SCALE, PER_COLUMN, cell < weights)
        s1 = _scale(integers, cell + 64, _SCALE, PER_COLUMN, cell + 64 < weights)
        s2 = _scale(integers, cell + 128, _SCALE, PER_COLUMN, cell + 128 < weights)
        s3 = _scale(integers, cell + 192, _SCALE, PER_COLUMN, cell + 192 < weights)
    if FORM == "cells":
        g0, g1, g2, g3 = _moved(
            w0, w1, w2, w3, counter, plane, integers, reals, LAW, DRAW, DRIFTED_MEAN, SPREAD
        )
        tl.store(_address(integers, _OUT, cell, KIND, ALIGNED), g0.to(KIND), mask=cell < end)
        tl.store(_address(integers, _OUT, cell + 64, KIND, ALIGNED), g1.to(KIND), mask=cell + 64 < end)
        tl.store(_address(integers, _OUT, cell + 128, KIND, ALIGNED), g2.to(KIND), mask=cell + 128 < end)
        tl.store(_address(integers, _OUT, cell + 192, KIND, ALIGNED), g3.to(KIND), mask=cell + 192 < end)
    elif FORM == "plane":
        g0, g1, g2, g3 = _plane(
            w0, w1, w2, w3, s0, s1, s2, s3, 1.0, counter, plane, plane, integers, reals,
            LEVELS, NOISE, SIGMA, MEAN, STUCK, LAW, DRAW, DRIFTED_MEAN, SPREAD,
        )  # fmt: skip
        _keep(integers, g0, cell, weights, end)
        _keep(integers, g1, cell + 64, weights, end)
        _keep(integers, g2, cell + 128, weights, end)
        _keep(integers, g3, cell + 192, weights, end)
    else:
        d0, d1, d2, d3 = w0 * 0.0, w1 * 0.0, w2 * 0.0, w3 * 0.0
        copies = tl.load(integers + _COPIES).to(tl.int32)
        for copy in range(copies):
            if FORM == "pair":
                plus, minus, together = 2 * copy, 2 * copy + 1, 2 * copy + 1
                if PER_WEIGHT:
                    together = plus
                g0, g1, g2, g3 = _plane(
                    w0, w1, w2, w3, s0, s1, s2, s3, 1.0, counter, plus, plus, integers, reals,
                    LEVELS, NOISE, SIGMA, MEAN, STUCK, LAW, DRAW, DRIFTED_MEAN, SPREAD,
                )  # fmt: skip
                m0, m1, m2, m3 = _plane(
                    w0, w1, w2, w3, s0, s1, s2, s3, -1.0, counter, minus, together, integers, reals,
                    LEVELS, NOISE, SIGMA, MEAN, STUCK, LAW, DRAW, DRIFTED_MEAN, SPREAD,
                )  # fmt: skip
            else:
                g0, g1, g2, g3 = _plane(
                    w0, w1, w2, w3, s0, s1, s2, s3, 1.0, counter, copy, copy, integers, reals,
                    LEVELS, NOISE, SIGMA, MEAN, STUCK, LAW, DRAW, DRIFTED_MEAN, SPREAD,
                )  # fmt: skip
                rows = tl.load(integers + _ROWS)
                column = tl.load(integers + _REFERENCE).to(tl.pointer_type(tl.float32)) + copy * rows
                m0, m1 = tl.load(column + cell % rows), tl.load(column + (cell + 64) % rows)
                m2, m3 = tl.load(column + (cell + 128) % rows), tl.load(column + (cell + 192) % rows)
            d0, d1, d2, d3 = d0 + (g0 - m0), d1 + (g1 - m1), d2 + (g2 - m2), d3 + (g3 - m3)
        _read(integers, d0, cell, end, PER_COLUMN, KIND, ALIGNED)
        _read(integers, d1, cell + 64, end, PER_COLUMN, KIND, ALIGNED)
        _read(integers, d2, cell + 128, end, PER_COLUMN, KIND, ALIGNED)
        _read(integers, d3, cell + 192, end, PER_COLUMN, KIND, ALIGNED)
