"""The tiled read-out of a block of inputs, from driven voltages to digital sums.

The rules of crossbar/kernels.py hold, and these letters: m word lines, n bit lines, T tiles of word lines,
r reads (planes that a converter reads), s input slices. Equation numbers are those of docs/periphery.md.

Inputs are read in blocks that stay in the cache. Which numbers of `x` an input consists of is told by two index
arrays: word line k of input i is driven with x[bases[i] + offsets[k]]. So one kernel serves matrices (a base per
row) and convolutions (a base per pixel and an offset per weight of the patch): nothing is unfolded but one tile of
one block.

Compiled code is cached by this file's time stamp alone: after editing registers.py, micro.py or philox.py, touch it.
"""

from typing import Any

from crossbar_sim.crossbar.kernels import fill_normals
from crossbar_sim.crossbar.philox import GROUP, f32, kernel, u64
from crossbar_sim.crossbar.tiled.micro import LANES, ROWS, WIDTH, accumulate, convert, deviate, move, store

VOLTAGES, SUMS = 1 << 15, 1 << 17
"""Voltages of a tile and sums of a block at most (128 and 512 KiB: the second-level cache), but for one strip."""

_ROWS, _WIDTH = u64(ROWS), u64(WIDTH)  # a signed index keeps LLVM from vectorising

SQUARE = 16
"""Side of the squares in which results are turned: a cache line of float32."""

TILE = ROWS * WIDTH
"""Sums that stay in registers together."""


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
        neighbours = True  # pixels of one line of an image lie side by side
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
