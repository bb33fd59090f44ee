"""Kernels of the tiled read-out: from word-line voltages to digital sums, for a block of inputs.

The rules of crossbar/kernels.py hold, and these letters: m word lines, n bit lines, T tiles of word lines,
r reads (planes that a converter reads), s input slices. Equation numbers are those of docs/periphery.md.

Inputs are read in blocks that stay in the cache. The numbers of `x` that belong to an input are given by two index
arrays: word line k of input i is driven with x[bases[i] + offsets[k]]. So one kernel serves matrices (a base per
row) and convolutions (a base per pixel and an offset per weight of the patch): nothing is unfolded but one tile of
one block.

Compiled code is cached by this file's time stamp alone: after editing registers.py, micro.py or philox.py, touch it.
"""

import platform
from collections.abc import Callable
from typing import Any, NamedTuple

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from crossbar_sim.crossbar.kernels import GROUP, f32, fill_normals, kernel, u64

# LLVM code of the innermost product, with explicit vectors in the shape of the registers.
#
# Numba's loops vectorise one sum at a time; here ROWS x WIDTH sums stay in registers for a whole tile, and what
# follows the sum (a converter and the digital accumulator) works on those registers. The functions that the kernels
# call, and their plain Python versions, are below.


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


_ARM = platform.machine() in ("aarch64", "arm64")  # LLVM does not always list features that all of them have
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
    """The intrinsic: out = sums (see `store`)."""

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
    """The intrinsic: out += weight sums (see `accumulate`)."""

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
    """The intrinsic: out += weight step code(sums) (see `convert`)."""

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
    """See `deviate`; writes every vector of the panel, unused ones too."""

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
    """See `move`."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, x0, a, a0 = _data(context, builder, signature, args)
        tile = _Tile(builder, Shape(1, 1, ROWS), ROWS)
        builder.store(tile.load(x, x0), tile.address(a, a0), align=4)
        return context.get_dummy_value()

    return types.void(*(types.float32[::1], types.int64) * 2), generate


# The innermost product: a strip of input rows times a panel of columns over one tile, converter included.
#
# A strip holds ROWS inputs' voltages word line by word line, a panel WIDTH columns' conductances word line by
# word line. The vector width is the processor's own; the bits do not depend on it, since every sum is one chain
# of fused multiply-adds in the order of the word lines.
#
# With the JIT off the plain Python functions below run instead of the LLVM code. Equation numbers are those of
# docs/periphery.md.


def _family(make: Callable[[Shape, int], Any]) -> tuple[Any, Any, Any]:
    """The intrinsics for 1, 2 and 3 vectors of a panel (the third is the second where a panel has two)."""
    one, *more = (make(Shape(ROWS, v, LANES), WIDTH) for v in range(1, VECTORS + 1))
    return one, more[0], more[-1]


_store_1, _store_2, _store_3 = _family(make_store)
_accumulate_1, _accumulate_2, _accumulate_3 = _family(make_accumulate)
_convert_1, _convert_2, _convert_3 = _family(make_convert)


def _sums(a: Any, a0: Any, b: Any, b0: Any, depth: Any, first: Any, vectors: Any) -> Any:
    """`_Tile.sums` in plain Python, (ROWS, columns): float64 holds a product of two float32 exactly."""
    columns = vectors * LANES
    total = first[: ROWS * WIDTH].reshape(ROWS, WIDTH)[:, :columns]
    for k in range(depth):
        x = a[a0 + k * ROWS :][:ROWS].astype(np.float64)
        g = b[b0 + k * WIDTH :][:columns].astype(np.float64)
        total = (x[:, None] * g + total).astype(np.float32)
    return total


def _add(out: Any, o0: Any, factor: Any, values: Any) -> None:
    """`_Tile.add_to` in plain Python."""
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


VOLTAGES, SUMS = 1 << 15, 1 << 17
"""Most voltages of a tile and sums of a block (128 and 512 KiB: the second-level cache), except with one strip."""

_ROWS, _WIDTH = u64(ROWS), u64(WIDTH)  # a signed index keeps LLVM from vectorising

SQUARE = 16
"""Side of the squares in which results are transposed: a cache line of float32."""

TILE = ROWS * WIDTH
"""Number of sums that stay in registers together."""


@kernel
def gather(x: Any, slice_start: Any, bases: Any, offsets: Any, k0: Any, depth: Any, a: Any) -> None:
    """a[strip, k, i] = x[slice_start + bases[ROWS strip + i] + offsets[k0 + k]], 0 beyond the last input."""
    rows = bases.size
    for strip in range((rows + ROWS - 1) // ROWS):
        row = strip * ROWS
        place = u64(strip * depth * ROWS)
        here = min(ROWS, rows - row)
        if here < ROWS:
            for k in range(depth):
                start = u64(slice_start + offsets[k0 + k])
                for i in range(ROWS):
                    a[place + u64(i)] = x[start + u64(bases[row + i])] if i < here else f32(0.0)
                place += u64(ROWS)
            continue
        neighbours = True  # pixels of one image line are contiguous
        for i in range(1, ROWS):
            neighbours = neighbours and bases[row + i] == bases[row] + i
        if neighbours:
            start = slice_start + bases[row]
            to = strip * depth * ROWS
            for k in range(depth):
                move(x, start + offsets[k0 + k], a, to + k * ROWS)
        else:
            for k in range(depth):
                start = u64(slice_start + offsets[k0 + k])
                for i in range(_ROWS):
                    a[place + i] = x[start + u64(bases[u64(row) + i])]
                place += _ROWS


@kernel
def square(a: Any, size: Any, out: Any) -> None:
    """out = a^2: the variance of a sum of currents weighs the cells by the voltages' squares."""
    for i in range(u64(size)):
        out[i] = f32(a[i] * a[i])


@kernel
def pack(planes: Any, m: Any, n: Any, tile_rows: Any, out: Any) -> None:
    """out[r, t, panel, k, j] = planes[r, t tile_rows + k, panel WIDTH + j], 0 beyond the last column.

    A panel of a tile lies together as the product reads it; a tile's depth is that of its own word lines.
    """
    panels = (n + WIDTH - 1) // WIDTH
    place = u64(0)
    for r in range(planes.size // (m * n)):
        for begin in range(0, m, tile_rows):
            depth = min(tile_rows, m - begin)
            for p in range(panels):
                columns = u64(min(WIDTH, n - p * WIDTH))
                source = u64((r * m + begin) * n + p * WIDTH)
                for _ in range(depth):
                    if columns == _WIDTH:
                        for j in range(_WIDTH):
                            out[place + j] = planes[source + j]
                    else:
                        for j in range(_WIDTH):
                            out[place + j] = planes[source + j] if j < columns else f32(0.0)
                    place += _WIDTH
                    source += u64(n)


@kernel
def pad(
    x: Any, start: Any, images: Any, channels: Any, height: Any, width: Any,
    top: Any, left: Any, full_height: Any, full_width: Any, row: Any, extra: Any, out: Any, place: Any,
) -> None:  # fmt: skip
    """Copy images (channels, height, width) from x[start] on into frames of zeros from out[place] on.

    `extra` is 1 where image i gets one more channel, filled with row[i]: what drives a bias's word line.
    """
    frame, source = full_height * full_width, start
    for image in range(images):
        for _ in range(channels):
            for i in range(u64(place), u64(place + frame)):
                out[i] = f32(0.0)
            for line in range(height):
                begin, goal = u64(source), u64(place + (top + line) * full_width + left)
                for j in range(u64(width)):
                    out[goal + j] = x[begin + j]
                source += width
            place += frame
        if extra:
            for i in range(u64(place), u64(place + frame)):
                out[i] = row[image]
            place += frame


@kernel
def scatter(sums: Any, n: Any, out: Any, out_bases: Any, out_step: Any) -> None:
    """out[out_bases[i] + j out_step] = sums[panel, strip, i, j], in squares of LANES: whole cache lines both ways."""
    rows = out_bases.size
    strips, panels = (rows + ROWS - 1) // ROWS, (n + WIDTH - 1) // WIDTH
    step = u64(out_step)
    for p in range(panels):
        columns = min(WIDTH, n - p * WIDTH)
        for row in range(0, rows, SQUARE):
            end = min(row + SQUARE, rows)
            for j0 in range(0, columns, SQUARE):
                j1 = min(j0 + SQUARE, columns)
                if out_step == 1:
                    for i in range(row, end):
                        place = u64((p * strips * ROWS + i) * WIDTH)
                        goal = u64(out_bases[i] + p * WIDTH)
                        for j in range(u64(j0), u64(j1)):
                            out[goal + j] = sums[place + j]
                else:
                    for j in range(j0, j1):
                        goal = u64(p * WIDTH + j) * step
                        place = u64((p * strips * ROWS + row) * WIDTH + j)
                        for i in range(row, end):
                            out[goal + u64(out_bases[i])] = sums[place]
                            place += _WIDTH


@kernel
def read_block(
    x: Any, slice_size: Any, input_weights: Any, bases: Any, offsets: Any,
    planes: Any, n: Any, tile_rows: Any, weights: Any,
    converts: Any, scale: Any, fine: Any, shift: Any, step: Any, low: Any, high: Any,
    noisy: Any, variance: Any, first_cell: Any, k0: Any, k1: Any, plane: Any, chip: Any, event: Any,
    a: Any, squares: Any, z: Any, zeros: Any, noise: Any, sums: Any,
    out: Any, out_bases: Any, out_step: Any,
) -> None:  # fmt: skip
    """Eq. (21) to (29) of one block: out[out_bases[i] + j out_step] = y[i, j].

    Sums run over tiles, then slices, then reads, then columns; `planes` and `variance` are (r, m, n) flat, the
    converters' arrays (r, T, whole panels) flat. The arrays of the line before the last are workspace.
    """
    rows, m, reads = bases.size, offsets.size, weights.size
    strips, panels = (rows + ROWS - 1) // ROWS, (n + WIDTH - 1) // WIDTH
    tiles = (m + tile_rows - 1) // tile_rows
    for i in range(u64(panels * strips * TILE)):
        sums[i] = f32(0.0)
    skip = first_cell % GROUP
    drawn = (skip + rows * n + GROUP - 1) // GROUP * GROUP  # whole groups are the fast ones
    for t in range(tiles):
        begin = t * tile_rows
        depth = min(tile_rows, m - begin)
        for s in range(input_weights.size):
            gather(x, s * slice_size, bases, offsets, begin, depth, a)
            if noisy:
                square(a, strips * ROWS * depth, squares)
            for r in range(reads):
                factor = f32(input_weights[s] * weights[r])
                if noisy:
                    number = plane + (s * reads + r) * tiles + t
                    fill_normals(z[:drawn], first_cell - skip, k0, k1, number, chip, event)
                for p in range(panels):
                    columns = min(WIDTH, n - p * WIDTH)
                    vectors = (columns + LANES - 1) // LANES
                    b0 = ((r * m + begin) * panels + p * depth) * WIDTH
                    q0 = ((r * tiles + t) * panels + p) * WIDTH
                    for strip in range(strips):
                        a0, o0 = strip * ROWS * depth, (p * strips + strip) * TILE
                        first = zeros
                        if noisy:
                            first = noise
                            store(squares, a0, variance, b0, depth, zeros, vectors, noise, 0)
                            deviate(z, skip + strip * ROWS * n + p * WIDTH, n, vectors, noise)
                        if converts:
                            convert(
                                a, a0, planes, b0, depth, first, vectors, sums, o0, factor,
                                scale, fine, shift, step, q0, low, high,
                            )  # fmt: skip
                        else:
                            accumulate(a, a0, planes, b0, depth, first, vectors, sums, o0, factor)
    scatter(sums, n, out, out_bases, out_step)


@kernel
def read(
    block_rows: Any, x: Any, slice_size: Any, input_weights: Any, bases: Any, offsets: Any,
    planes: Any, n: Any, tile_rows: Any, weights: Any,
    converts: Any, scale: Any, fine: Any, shift: Any, step: Any, low: Any, high: Any,
    noisy: Any, variance: Any, first_cell: Any, k0: Any, k1: Any, plane: Any, chip: Any, event: Any,
    a: Any, squares: Any, z: Any, zeros: Any, noise: Any, sums: Any,
    out: Any, out_bases: Any, out_step: Any,
) -> None:  # fmt: skip
    """`read_block` for one block of inputs after the other."""
    for begin in range(0, bases.size, block_rows):
        end = min(begin + block_rows, bases.size)
        read_block(
            x, slice_size, input_weights, bases[begin:end], offsets, planes, n, tile_rows, weights,
            converts, scale, fine, shift, step, low, high,
            noisy, variance, first_cell + begin * n, k0, k1, plane, chip, event,
            a, squares, z, zeros, noise, sums, out, out_bases[begin:end], out_step,
        )  # fmt: skip
