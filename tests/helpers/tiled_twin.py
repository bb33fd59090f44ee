"""The slow obvious twin of the tiled read-out, in float64: every conversion by itself, every normal by its name."""

import numpy as np

from helpers.reference import Name


def conversions(x, planes, tile_rows):
    """The sums that the converters see: (s, r, T, b, n)."""
    slices, batch, rows = x.shape
    reads, _, columns = planes.shape
    starts = range(0, rows, tile_rows)
    out = np.zeros((slices, reads, len(starts), batch, columns))
    for t, start in enumerate(starts):
        for k in range(start, min(start + tile_rows, rows)):
            for s in range(slices):
                for r in range(reads):
                    out[s, r, t] += np.outer(x[s, :, k].astype(np.float64), planes[r, k].astype(np.float64))
    return out


def digital(values, quantiser):
    """What the converters make of values (s, r, T, b, n), in float64 with a true division."""
    if quantiser is None:
        return values

    def wide(parameter):
        shape = (values.shape[1], values.shape[2], values.shape[4])
        return np.broadcast_to(np.asarray(parameter, np.float64), shape)[:, :, None, :]

    step, gain, offset = wide(quantiser.step), wide(quantiser.gain), wide(quantiser.offset)
    codes = np.rint((gain * values + offset) / step)
    return step * np.clip(codes, quantiser.low, quantiser.high)


def read_noise(x, variance, tile_rows, stream, first_row=0):
    """z sqrt(sum of x^2 variance), (s, r, T, b, n), each z by its name."""
    squares = conversions(x.astype(np.float64) ** 2, variance, tile_rows)
    slices, reads, tiles, batch, columns = squares.shape
    z = np.zeros(squares.shape)
    for s in range(slices):
        for r in range(reads):
            for t in range(tiles):
                plane = stream.plane + (s * reads + r) * tiles + t
                name = Name(stream.k0, stream.k1, plane, stream.chip, stream.event)
                for b in range(batch):
                    for j in range(columns):
                        z[s, r, t, b, j] = name.normal((first_row + b) * columns + j)
    return z * np.sqrt(squares)


def product(x, planes, tile_rows, weights, input_weights, quantiser=None, noise=None, first_row=0):
    """y (b, n) in float64; `noise` is (variance, stream)."""
    values = conversions(x, planes, tile_rows)
    if noise is not None:
        values = values + read_noise(x, noise[0], tile_rows, noise[1], first_row)
    return np.einsum(
        "s,r,srtbj->bj",
        np.asarray(input_weights, np.float64),
        np.asarray(weights, np.float64),
        digital(values, quantiser),
    )


def patches(x, kernel, stride, padding, dilation):
    """The unfolded images: (s, b, c, h, w) to (s, b h' w', c kh kw); padding is a pair of (before, after)."""
    slices, batch, channels, height, width = x.shape
    lines = (height + sum(padding[0]) - dilation[0] * (kernel[0] - 1) - 1) // stride[0] + 1
    across = (width + sum(padding[1]) - dilation[1] * (kernel[1] - 1) - 1) // stride[1] + 1
    out = np.zeros((slices, batch, lines, across, channels, *kernel), x.dtype)
    for line, column, ky, kx in np.ndindex(lines, across, *kernel):
        y = line * stride[0] + ky * dilation[0] - padding[0][0]
        z = column * stride[1] + kx * dilation[1] - padding[1][0]
        if 0 <= y < height and 0 <= z < width:
            out[:, :, line, column, :, ky, kx] = x[:, :, :, y, z]
    return out.reshape(slices, batch * lines * across, -1), (lines, across)
