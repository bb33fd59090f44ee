"""Eight doubles at a time: the two operations from which the sweeps over many right-hand sides are made.

LLVM does not find these vectors by itself, since any two arrays might overlap. Written as vectors of eight they
become one 512-bit instruction, two of 256 bits or four of 128, whatever the machine has, and a product with its
sum is fused where it can be. With the JIT off the same functions are plain NumPy.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, overload

LANES = 8
"""Right-hand sides that are solved together."""

_VECTOR = ir.VectorType(ir.DoubleType(), LANES)
_ALIGN = 8  # bytes: an array of doubles is aligned to no more


def set_to(out: Any, k: Any, a: Any, x: Any, i: Any) -> None:
    """out[k : k + LANES] = a x[i : i + LANES]; out and x are flat, k and i multiples of LANES."""
    out[k : k + LANES] = a * x[i : i + LANES]


def set_to_sum(out: Any, k: Any, a: Any, x: Any, i: Any, b: Any, y: Any, j: Any) -> None:
    """out = a x + b y, in lanes from k, i and j on."""
    out[k : k + LANES] = a * x[i : i + LANES] + b * y[j : j + LANES]


def _vector_operation(terms: int) -> tuple[Any, Callable[..., Any]]:
    """Signature and code of an intrinsic: arguments out, k, then (factor, array, index) for each term."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> Any:
        def address(array: int) -> Any:
            data = context.make_array(signature.args[array])(context, builder, args[array]).data
            place = builder.gep(data, [args[array + 1]])
            return builder.bitcast(place, _VECTOR.as_pointer())

        fused = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_VECTOR, [_VECTOR] * 3), f"llvm.fmuladd.v{LANES}f64"
        )
        total = None
        for term in range(terms):
            factor = 2 + 3 * term
            value = builder.load(address(factor + 1), align=_ALIGN)
            single = builder.insert_element(
                ir.Constant(_VECTOR, ir.Undefined), args[factor], cgutils.int32_t(0)
            )
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
            everywhere = builder.shuffle_vector(single, ir.Constant(_VECTOR, ir.Undefined), zeros)
            if total is None:
                total = builder.fmul(everywhere, value)
            else:
                total = builder.call(fused, [everywhere, value, total])
        builder.store(total, address(0), align=_ALIGN)
        return context.get_dummy_value()

    flat, at = types.Array(types.float64, 1, "C"), types.int64
    return types.void(flat, at, *(types.float64, flat, at) * terms), generate


@intrinsic
def _one(typing_context: Any, out: Any, k: Any, a: Any, x: Any, i: Any) -> Any:
    return _vector_operation(1)


@intrinsic
def _two(typing_context: Any, out: Any, k: Any, a: Any, x: Any, i: Any, b: Any, y: Any, j: Any) -> Any:
    return _vector_operation(2)


@overload(set_to, inline="always")
def _set_to(out, k, a, x, i):  # type: ignore[no-untyped-def]
    return lambda out, k, a, x, i: _one(out, k, a, x, i)  # type: ignore[call-arg]


@overload(set_to_sum, inline="always")
def _set_to_sum(out, k, a, x, i, b, y, j):  # type: ignore[no-untyped-def]
    return lambda out, k, a, x, i, b, y, j: _two(out, k, a, x, i, b, y, j)  # type: ignore[call-arg]
