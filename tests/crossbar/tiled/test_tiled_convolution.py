"""Convolutions through converters are products of their patches."""

import numpy as np
import pytest
from helpers import tiled_twin as twin
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbar_sim import Key
from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.crossbar.tiled import Quantiser, TiledPlanes, convolution, product

STREAM = Stream.of(Key(9).fold("read"), chip=1)


@st.composite
def windows(draw):
    pair = st.tuples(st.integers(1, 3), st.integers(1, 3))
    sides = st.tuples(st.integers(0, 2), st.integers(0, 2))
    kernel, stride, dilation, rows, columns = (draw(s) for s in (pair, pair, pair, sides, sides))
    least = [
        max(1, d * (k - 1) + 1 - sum(p)) for d, k, p in zip(dilation, kernel, (rows, columns), strict=True)
    ]
    size = [n + draw(st.integers(0, 12)) for n in least]
    return size, kernel, stride, (rows, columns), dilation, draw(st.integers(0, 2**32 - 1))


@settings(max_examples=40, deadline=None)
@given(windows(), st.integers(1, 3), st.integers(1, 20), st.booleans(), st.booleans())
def test_a_convolution_is_the_product_of_its_patches(window, channels, n, noisy, biased):
    size, kernel, stride, padding, dilation, seed = window
    rng = np.random.default_rng(seed)
    s, b = 2, 3
    x = rng.standard_normal((s, b, channels, *size)).astype(np.float32)
    m = channels * kernel[0] * kernel[1] + biased
    planes, variance = (rng.random((2, m, n), np.float32) for _ in range(2))
    tiled = TiledPlanes(
        planes,
        tile_rows=5,
        weights=(1, -1),
        quantiser=Quantiser(0.25, -20, 20),
        variance=variance if noisy else None,
    )
    row = rng.standard_normal((s, b)).astype(np.float32) if biased else None
    options = {"input_weights": (1, 2), "stream": STREAM if noisy else None}
    y = convolution(
        tiled,
        x,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        row=row,
        first_example=4,
        **options,
    )
    patches, places = twin.patches(x, kernel, stride, padding, dilation)
    pixels = places[0] * places[1]
    if biased:
        patches = np.concatenate([patches, np.repeat(row, pixels, axis=1)[:, :, None]], axis=2)
    z = product(tiled, patches, first_example=4 * pixels, **options)
    assert y.shape == (b, n, *places)
    assert np.array_equal(y, z.reshape(b, *places, n).transpose(0, 3, 1, 2))


def test_word_lines_are_in_the_order_of_torchs_weight():
    """A weight that picks channel 1, line 2, column 0 of a patch shifts that channel; even padding as a number."""
    x = np.arange(2 * 4 * 5, dtype=np.float32).reshape(1, 2, 4, 5)
    weight = np.zeros((1, 2, 3, 2), np.float32)
    weight[0, 1, 2, 0] = 1
    tiled = TiledPlanes(np.ascontiguousarray(weight.reshape(1, -1).T), tile_rows=4)
    y = convolution(tiled, x, (3, 2), padding=(1, 0))
    assert np.array_equal(y[0, 0, :3], x[0, 1, 1:, :4])
    assert np.array_equal(y[0, 0, 3], np.zeros(4))


def test_groups_share_images_and_outputs():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 6, 9, 8)).astype(np.float32)
    out = np.full((2, 8, 9, 8), np.nan, np.float32)
    for group in range(2):
        tiled = TiledPlanes(rng.standard_normal((27, 4)).astype(np.float32), tile_rows=10)
        convolution(
            tiled, x, (3, 3), padding=(1, 1), first_channel=3 * group, out=out, first_output=4 * group
        )
        alone = convolution(tiled, x[:, 3 * group : 3 * group + 3], (3, 3), padding=(1, 1))
        assert np.array_equal(out[:, 4 * group : 4 * group + 4], alone)
    assert np.all(np.isfinite(out))


@pytest.mark.parametrize("padding", [(0, 0), (1, 1)])
def test_batches_and_threads_change_no_bit(padding):
    """Large enough for several shares of several blocks; every image's noise keeps its name."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((6, 16, 30, 30)).astype(np.float32)
    planes = rng.standard_normal((144, 100)).astype(np.float32)
    tiled = TiledPlanes(planes, tile_rows=64, quantiser=Quantiser(0.5, -60, 60), variance=planes**2)
    before = threads.threads()
    try:
        threads.set_threads(1)
        y = convolution(tiled, x, (3, 3), padding=padding, stream=STREAM)
        threads.set_threads(3)
        assert np.array_equal(convolution(tiled, x, (3, 3), padding=padding, stream=STREAM), y)
    finally:
        threads.set_threads(before)
    part = convolution(tiled, x[4:], (3, 3), padding=padding, stream=STREAM, first_example=4)
    assert np.array_equal(part, y[4:])


def test_no_images_no_channels():
    tiled = TiledPlanes(np.ones((9, 4), np.float32), tile_rows=4)
    assert convolution(tiled, np.ones((0, 1, 5, 5), np.float32), (3, 3)).shape == (0, 4, 3, 3)
    empty = TiledPlanes(np.ones((0, 4), np.float32), tile_rows=4)
    assert np.array_equal(
        convolution(empty, np.ones((2, 0, 5, 5), np.float32), (3, 3)), np.zeros((2, 4, 3, 3))
    )
