"""Scalar building blocks of the kernels: Philox-4x32-10, uniforms, normals, powers of two.

Every function is float32 or uint32 arithmetic in a fixed order of IEEE operations: additions,
multiplications, fused multiply-adds, square roots and conversions, none of which LLVM may reorder without
`fastmath`. So a number has the same bits in every lane, chunk, thread and vector width. The
polynomials are our own minimax fits (Lawson-weighted least squares at 4,000 Chebyshev nodes); the errors
in the comments are those of the fit, `tests/crossbar/test_philox.py` holds those of the arithmetic.

With the JIT off (NUMBA_DISABLE_JIT=1) the same functions run as plain Python on NumPy scalars.
"""

import logging
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

u32, u64, i32, f32 = np.uint32, np.uint64, np.int32, np.float32

LANES = 64
"""Counters per group: four runs of 64 lanes, one run per output word (docs/randomness.md)."""

GROUP = 4 * LANES
"""Cells per group: 64 counters of four words."""


def kernel(function: Callable[..., Any]) -> Any:
    """Compile with Numba: cached on disk where a cache can be written, the GIL released, no fastmath."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # neither the package nor the home directory is writable: compile per process
        logging.getLogger(__name__).info("no writable cache for Numba; compiling in every process")
        return numba.njit(nogil=True, error_model="numpy")(function)


def inlined(function: Callable[..., Any]) -> Any:
    """Compile for use inside kernels: inlined by Numba, since LLVM alone does not and then cannot vectorise."""
    return numba.njit(inline="always", error_model="numpy")(function)


@intrinsic
def _llvm_fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.fma(*args)

    return types.float32(types.float32, types.float32, types.float32), generate


@intrinsic
def _llvm_sqrt(typing_context: Any, x: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        function = builder.module.declare_intrinsic("llvm.sqrt", [ir.FloatType()])
        return builder.call(function, args)

    return types.float32(types.float32), generate


@intrinsic
def _llvm_bits(typing_context: Any, x: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), generate


@intrinsic
def _llvm_float(typing_context: Any, x: Any) -> Any:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


def fma(a: Any, b: Any, c: Any) -> Any:
    """a b + c in float32 with one rounding (Python twin: by way of float64)."""
    return f32(np.float64(a) * np.float64(b) + np.float64(c))


def sqrt(x: Any) -> Any:
    """Square root in float32; np.sqrt would add a branch that keeps LLVM from vectorising."""
    return f32(np.sqrt(f32(x)))


def bits_of(x: Any) -> Any:
    """The bit pattern of a float32, as int32."""
    return f32(x).view(np.int32)


def float_of(b: Any) -> Any:
    """The float32 with the bit pattern of an int32."""
    return i32(b).view(np.float32)


@overload(fma, inline="always")
def _fma(a, b, c):  # type: ignore[no-untyped-def]
    return lambda a, b, c: _llvm_fma(f32(a), f32(b), f32(c))  # type: ignore[call-arg]


@overload(sqrt, inline="always")
def _sqrt(x):  # type: ignore[no-untyped-def]
    return lambda x: _llvm_sqrt(f32(x))  # type: ignore[call-arg]


@overload(bits_of, inline="always")
def _bits_of(x):  # type: ignore[no-untyped-def]
    return lambda x: _llvm_bits(f32(x))  # type: ignore[call-arg]


@overload(float_of, inline="always")
def _float_of(b):  # type: ignore[no-untyped-def]
    return lambda b: _llvm_float(i32(b))  # type: ignore[call-arg]


@inlined
def philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    """Four random 32-bit words of counter (c0, c1, c2, c3) under key (k0, k1), all six as uint64.

    Ten rounds of Philox-4x32 (Salmon et al., SC 2011, section 3.3 and table 2).
    The state is kept in 64-bit lanes with whatever lies above bit 31 left there: a 32 x 32 -> 64 bit vector
    multiply reads the low halves only, so nothing has to be packed between rounds (twice as fast).
    """
    low = u64(0xFFFFFFFF)
    for _ in range(10):
        p0 = u64(0xD2511F53) * (c0 & low)
        p1 = u64(0xCD9E8D57) * (c2 & low)
        c0 = (p1 >> u64(32)) ^ c1 ^ k0
        c2 = (p0 >> u64(32)) ^ c3 ^ k1
        c1 = p1
        c3 = p0
        k0 = k0 + u64(0x9E3779B9)
        k1 = k1 + u64(0xBB67AE85)
    return u32(c0 & low), u32(c1 & low), u32(c2 & low), u32(c3 & low)


@inlined
def uniform(a: Any) -> Any:
    """A word as a float32 in (0, 1]: 2^-32 (a + 1/2), rounded twice."""
    return fma(f32(a), f32(2.0**-32), f32(2.0**-33))


@inlined
def minus_two_ln(u: Any) -> Any:
    """-2 ln(u) of a positive normal float32 (fit: 6e-9 relative)."""
    b = bits_of(u)
    e = i32(i32(b - i32(0x3F3504F3)) >> i32(23))  # mantissa in [sqrt(1/2), sqrt(2))
    x = f32(float_of(i32(b - i32(e << i32(23)))) - f32(1.0))
    p = fma(f32(0.15268986), x, f32(-0.2552315))
    p = fma(p, x, f32(0.26320366))
    p = fma(p, x, f32(-0.28403518))
    p = fma(p, x, f32(0.33246714))
    p = fma(p, x, f32(-0.40002454))
    p = fma(p, x, f32(0.5000164))
    p = fma(p, x, f32(-0.6666666))
    p = fma(p, x, f32(1.0))
    p = fma(f32(p * x), x, f32(f32(-2.0) * x))
    return fma(f32(e), f32(-1.3862944), p)


@inlined
def sin_pi(t: Any) -> Any:
    """sin(pi t) for |t| <= 1/2 (fit: 5e-9 relative)."""
    s = f32(t * t)
    p = fma(f32(0.07756039), s, f32(-0.5982421))
    p = fma(p, s, f32(2.5500698))
    p = fma(p, s, f32(-5.16771))
    p = fma(p, s, f32(3.1415927))
    return f32(p * t)


@inlined
def exp2(high: Any, low: Any, z: Any) -> Any:
    """2^((high + low) z) for exponents within +-120 (fit: 2e-9 relative).

    The rate comes as a sum so that a large exponent costs no accuracy: high z is not rounded before its
    integer part is taken away. Adding 1.5 x 2^23 rounds to the nearest integer and leaves it in the low
    bits, from where the shift moves it into the exponent.
    """
    t = fma(high, z, f32(12582912.0))
    r = fma(low, z, fma(high, z, f32(f32(12582912.0) - t)))
    p = fma(f32(0.00015353362), r, f32(0.0013398875))
    p = fma(p, r, f32(0.009618437))
    p = fma(p, r, f32(0.055503324))
    p = fma(p, r, f32(0.24022648))
    p = fma(p, r, f32(0.6931472))
    p = fma(p, r, f32(1.0))
    return float_of(i32(bits_of(p) + i32(bits_of(t) << i32(23))))


@inlined
def normals(a: Any, b: Any) -> Any:
    """Two words as two independent standard normals (Box and Muller 1958); |z| <= 6.77.

    The angle is pi t plus half a turn if the top bit of b is set; the other 31 bits are t in [-1/2, 1/2).
    The half turn is the sign of the radius.
    """
    radius = sqrt(minus_two_ln(uniform(a)))
    r = float_of(i32(bits_of(radius) | i32(i32(b) & i32(-2147483648))))
    t = f32(f32(i32(u32(b << u32(1)))) * f32(2.0**-32))
    return f32(r * sin_pi(f32(f32(0.5) - f32(abs(t))))), f32(r * sin_pi(t))
