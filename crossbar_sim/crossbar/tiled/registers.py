"""The machine code of the innermost product: LLVM vectors written out by hand, in the shape of the registers.

Numba's loops vectorise one sum at a time; here ROWS x WIDTH sums stay in registers for a whole tile, and what follows
the sum (a converter and the digital accumulator) works on those registers. The functions that the kernels call,
and their plain twins, are in micro.py.
"""

import platform
from typing import Any, NamedTuple

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.extending import intrinsic


class Shape(NamedTuple):
    """The registers' shape: `rows` inputs by `vectors` vectors of `lanes` columns."""

    rows: int
    vectors: int
    lanes: int

    @property
    def width(self) -> int:
        """Columns of a panel."""
        return self.vectors * self.lanes


def shape_for(features: dict[str, bool]) -> Shape:
    """The shape that fills the vector registers of a processor with these features, and spills none.

    Sums + one panel row + one input: 24 + 3 + 1 of AVX-512's and NEON's 32, 12 + 2 + 1 of AVX's 16.
    """
    if features.get("avx512f"):
        return Shape(8, 3, 16)
    if features.get("avx"):
        return Shape(6, 2, 8)
    return Shape(8, 3, 4) if features.get("neon") else Shape(4, 2, 4)


_ARM = platform.machine() in ("aarch64", "arm64")  # where LLVM does not always list what all of them have
SHAPE = shape_for(dict(llvmlite.binding.get_host_cpu_features()) | ({"neon": True} if _ARM else {}))
ROWS, VECTORS, LANES = SHAPE
WIDTH = SHAPE.width

_F32, _I64 = ir.FloatType(), ir.IntType(64)


class _Tile:
    """Writes the LLVM code of one product: `shape` here is what this product covers of a panel."""

    def __init__(self, builder: ir.IRBuilder, shape: Shape, panel: int) -> None:
        self.builder, self.shape, self.panel = builder, shape, panel
        self.vector = ir.VectorType(_F32, shape.lanes)

    def spread(self, scalar: Any) -> Any:
        """A vector with `scalar` in every lane."""
        none = ir.Constant(self.vector, ir.Undefined)
        one = self.builder.insert_element(none, scalar, ir.Constant(ir.IntType(32), 0))
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), self.shape.lanes), [0] * self.shape.lanes)
        return self.builder.shuffle_vector(one, none, lanes)

    def address(self, data: Any, index: Any, add: int = 0) -> Any:
        """The vector's place at data[index + add]."""
        place = self.builder.gep(data, [self.builder.add(index, ir.Constant(_I64, add))])
        return self.builder.bitcast(place, self.vector.as_pointer())

    def load(self, data: Any, index: Any, add: int = 0) -> Any:
        """The vector data[index + add ..]."""
        return self.builder.load(self.address(data, index, add), align=4)

    def call(self, name: str, *arguments: Any) -> Any:
        """The LLVM intrinsic `name` on vectors."""
        kind = ir.FunctionType(self.vector, [self.vector] * len(arguments))
        full = f"llvm.{name}.v{self.shape.lanes}f32"
        function = self.builder.module.globals.get(full) or ir.Function(self.builder.module, kind, full)
        return self.builder.call(function, arguments)

    def cells(self) -> list[tuple[int, int, int]]:
        """(row, vector, offset in the tile's memory) of every vector of sums."""
        rows, vectors, lanes = self.shape
        return [(i, v, i * self.panel + v * lanes) for i in range(rows) for v in range(vectors)]

    def sums(self, a: Any, a0: Any, b: Any, b0: Any, depth: Any, first: Any) -> list[Any]:
        """Eq. (21): the sums over `depth` word lines, begun at `first`; depth is at least 1."""
        builder, (rows, vectors, lanes) = self.builder, self.shape
        begin = [self.load(first, ir.Constant(_I64, 0), offset) for _, _, offset in self.cells()]
        entry = builder.block
        loop, done = (builder.function.append_basic_block(name) for name in ("word_line", "summed"))
        builder.branch(loop)
        builder.position_at_end(loop)
        k = builder.phi(_I64)
        k.add_incoming(ir.Constant(_I64, 0), entry)
        old = [builder.phi(self.vector) for _ in begin]
        for phi, value in zip(old, begin, strict=True):
            phi.add_incoming(value, entry)
        line = builder.add(b0, builder.mul(k, ir.Constant(_I64, self.panel)))
        g = [self.load(b, line, v * lanes) for v in range(vectors)]
        place = builder.add(a0, builder.mul(k, ir.Constant(_I64, rows)))
        new = []
        for i in range(rows):
            x = builder.load(builder.gep(a, [builder.add(place, ir.Constant(_I64, i))]))
            volts = self.spread(x)
            new += [self.call("fma", volts, g[v], old[i * vectors + v]) for v in range(vectors)]
        following = builder.add(k, ir.Constant(_I64, 1))
        k.add_incoming(following, loop)
        for phi, value in zip(old, new, strict=True):
            phi.add_incoming(value, loop)
        builder.cbranch(builder.icmp_signed("<", following, depth), loop, done)
        builder.position_at_end(done)
        return new

    def clip(self, x: Any, low: Any, high: Any) -> Any:
        """min(max(x, low), high)."""
        x = self.builder.select(self.builder.fcmp_ordered("<", x, low), low, x)
        return self.builder.select(self.builder.fcmp_ordered(">", x, high), high, x)

    def add_to(self, out: Any, o0: Any, offset: int, factor: Any, value: Any) -> None:
        """Eq. (29): out += factor value, rounded once."""
        total = self.call("fma", factor, value, self.load(out, o0, offset))
        self.builder.store(total, self.address(out, o0, offset), align=4)


_PRODUCT = (types.float32[::1], types.int64) * 2 + (types.int64, types.float32[::1])
_OUT = (types.float32[::1], types.int64)


def _data(context: Any, builder: ir.IRBuilder, signature: Any, args: Any) -> list[Any]:
    """The arguments with each array replaced by the pointer to its data."""
    return [
        context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, args, strict=True)
    ]


def make_store(shape: Shape, panel: int) -> Any:
    """The intrinsic: out = sums (see `micro.store`)."""

    @intrinsic
    def code(typing: Any, a: Any, a0: Any, b: Any, b0: Any, depth: Any, first: Any, out: Any, o0: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            *product, out, o0 = _data(context, builder, signature, args)
            tile = _Tile(builder, shape, panel)
            for (_, _, offset), value in zip(tile.cells(), tile.sums(*product), strict=True):
                builder.store(value, tile.address(out, o0, offset), align=4)
            return context.get_dummy_value()

        return types.void(*_PRODUCT, *_OUT), generate

    return code


def make_accumulate(shape: Shape, panel: int) -> Any:
    """The intrinsic: out += weight sums (see `micro.accumulate`)."""

    @intrinsic
    def code(
        typing: Any, a: Any, a0: Any, b: Any, b0: Any, depth: Any, first: Any, out: Any, o0: Any, weight: Any
    ) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            *product, out, o0, weight = _data(context, builder, signature, args)
            tile = _Tile(builder, shape, panel)
            values = tile.sums(*product)
            factor = tile.spread(weight)
            for (_, _, offset), value in zip(tile.cells(), values, strict=True):
                tile.add_to(out, o0, offset, factor, value)
            return context.get_dummy_value()

        return types.void(*_PRODUCT, *_OUT, types.float32), generate

    return code


def make_convert(shape: Shape, panel: int) -> Any:
    """The intrinsic: out += weight step code(sums) (see `micro.convert`)."""

    @intrinsic
    def code(
        typing: Any, a: Any, a0: Any, b: Any, b0: Any, depth: Any, first: Any, out: Any, o0: Any, weight: Any,
        scale: Any, fine: Any, shift: Any, step: Any, q0: Any, low: Any, high: Any,
    ) -> Any:  # fmt: skip
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            *product, out, o0, weight, scale, fine, shift, step, q0, low, high = _data(
                context, builder, signature, args
            )
            tile = _Tile(builder, shape, panel)
            values = tile.sums(*product)
            factor, low, high = tile.spread(weight), tile.spread(low), tile.spread(high)
            columns = [v * shape.lanes for v in range(shape.vectors)]
            scales = [tile.load(scale, q0, c) for c in columns]
            fines = [tile.load(fine, q0, c) for c in columns]
            shifts = [tile.load(shift, q0, c) for c in columns]
            steps = [builder.fmul(factor, tile.load(step, q0, c)) for c in columns]
            for (_, v, offset), value in zip(tile.cells(), values, strict=True):
                rest = tile.call("fma", value, fines[v], shifts[v])
                whole = tile.call("rint", tile.call("fma", value, scales[v], rest))
                tile.add_to(out, o0, offset, steps[v], tile.clip(whole, low, high))
            return context.get_dummy_value()

        arrays = (types.float32[::1],) * 4
        ends = (types.int64, types.float32, types.float32)
        return types.void(*_PRODUCT, *_OUT, types.float32, *arrays, *ends), generate

    return code


@intrinsic
def deviate_code(typing: Any, z: Any, z0: Any, n: Any, tile: Any) -> Any:
    """See `micro.deviate`; here every vector of the panel, those that do not count too."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        z, z0, n, data = _data(context, builder, signature, args)
        tile, zero = _Tile(builder, SHAPE, WIDTH), ir.Constant(_I64, 0)
        for i, v, offset in tile.cells():
            row = builder.add(z0, builder.mul(n, ir.Constant(_I64, i)))
            deviation = tile.call("sqrt", tile.load(data, zero, offset))
            value = builder.fmul(tile.load(z, row, v * LANES), deviation)
            builder.store(value, tile.address(data, zero, offset), align=4)
        return context.get_dummy_value()

    return types.void(types.float32[::1], types.int64, types.int64, types.float32[::1]), generate


@intrinsic
def move_code(typing: Any, x: Any, x0: Any, a: Any, a0: Any) -> Any:
    """See `micro.move`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, x0, a, a0 = _data(context, builder, signature, args)
        tile = _Tile(builder, Shape(1, 1, ROWS), ROWS)
        builder.store(tile.load(x, x0), tile.address(a, a0), align=4)
        return context.get_dummy_value()

    return types.void(*(types.float32[::1], types.int64) * 2), generate
