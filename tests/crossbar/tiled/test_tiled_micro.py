"""The innermost product has the same bits for every shape of the registers."""

import numba
import numpy as np
import pytest

from crossbar_sim.crossbar.tiled import kernels
from crossbar_sim.crossbar.tiled.kernels import Shape, make_accumulate, make_convert, make_store, shape_for

DEPTH, COLUMNS, INPUTS = 7, 48, 8
F32 = np.float32


@pytest.mark.parametrize(
    ("features", "shape"),
    [
        ({"avx512f": True, "avx": True}, Shape(8, 3, 16)),
        ({"avx512f": False, "avx": True}, Shape(6, 2, 8)),
        ({"neon": True}, Shape(8, 3, 4)),
        ({}, Shape(4, 2, 4)),
    ],
)
def test_the_shape_fills_the_registers(features, shape):
    kernels = 32 if "neon" in features or features.get("avx512f") else 16
    assert shape_for(features) == shape
    assert shape.rows * shape.vectors + shape.vectors + 1 <= kernels


def test_this_processors_shape_is_one_of_them():
    assert Shape(kernels.ROWS, kernels.VECTORS, kernels.LANES) in (
        Shape(8, 3, 16), Shape(6, 2, 8), Shape(8, 3, 4), Shape(4, 2, 4),
    )  # fmt: skip
    assert kernels.SHAPE.width == kernels.WIDTH


def read(shape, data):
    """(store, accumulate, convert) of all inputs and columns with registers of this shape."""
    x, g, first, scale, fine, shift, step = data
    rows, width = shape.rows, shape.width
    store, accumulate, convert = (make(shape, width) for make in (make_store, make_accumulate, make_convert))

    @numba.njit
    def tile(a, b, start, s, f, h, t, stored, added, converted):
        store(a, 0, b, 0, DEPTH, start, stored, 0)
        accumulate(a, 0, b, 0, DEPTH, start, added, 0, F32(0.3))
        convert(a, 0, b, 0, DEPTH, start, converted, 0, F32(0.7), s, f, h, t, 0, F32(-5), F32(6))

    results = np.ones((3, INPUTS, COLUMNS), np.float32)
    for i in range(0, INPUTS, rows):
        for j in range(0, COLUMNS, width):
            a = np.zeros((DEPTH, rows), np.float32)
            start = np.zeros((rows, width), np.float32)
            here = min(rows, INPUTS - i)
            a[:, :here], start[:here] = x[i : i + here].T, first[i : i + here, j : j + width]
            columns = [np.ascontiguousarray(v[j : j + width]) for v in (scale, fine, shift, step)]
            b = np.ascontiguousarray(g[:, j : j + width])
            outs = [np.ones(rows * width, np.float32) for _ in range(3)]
            tile(a.reshape(-1), b.reshape(-1), start.reshape(-1), *columns, *outs)
            for result, out in zip(results, outs, strict=True):
                result[i : i + here, j : j + width] = out.reshape(rows, width)[:here]
    return results


def test_bits_do_not_depend_on_the_vector_width():
    rng = np.random.default_rng(0)
    x, g, first = (
        rng.standard_normal(n).astype(np.float32)
        for n in ((INPUTS, DEPTH), (DEPTH, COLUMNS), (INPUTS, COLUMNS))
    )
    scale, shift, step = (rng.random(COLUMNS, np.float32) + F32(0.5) for _ in range(3))
    fine = scale * F32(2.0**-25) * rng.standard_normal(COLUMNS).astype(np.float32)
    data = x, g, first, scale, fine, shift, step
    results = [
        read(shape, data) for shape in (Shape(8, 3, 16), Shape(6, 2, 8), Shape(8, 3, 4), Shape(4, 2, 4))
    ]
    for other in results[1:]:
        assert np.array_equal(other, results[0])
    stored, added, converted = results[0]
    exact = first + x.astype(np.float64) @ g
    assert np.allclose(stored, exact, atol=1e-5)
    assert np.allclose(added, 1 + 0.3 * exact, atol=1e-5)
    codes = np.clip(np.rint(exact * scale + shift), -5, 6)
    assert np.allclose(converted, 1 + 0.7 * step * codes, atol=1e-5)
