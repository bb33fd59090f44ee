"""Products through converters, against the twin that does one conversion after the other."""

import numpy as np
import pytest
from helpers import tiled_twin as twin
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from crossbar_sim import Key
from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.crossbar.tiled import Noise, Quantiser, TiledPlanes, product, tiled_product

STREAM = Stream.of(Key(7).fold("read"), chip=3, plane=2, event=5)


def numbers(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def whole(rng, high, *shape):
    return rng.integers(-high, high + 1, shape).astype(np.float32)


@st.composite
def cases(draw):
    """Any shape: tiles that do not divide the rows, one column, one input, more columns than a panel."""
    s, b, m, r = (draw(st.integers(1, top)) for top in (2, 19, 40, 3))
    n = draw(st.sampled_from([1, 2, 15, 16, 17, 31, 48, 49, 100]))
    return s, b, m, n, r, draw(st.integers(1, m + 3)), draw(st.integers(0, 2**32 - 1))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_ideal_converters_give_the_plain_product(case):
    s, b, m, n, r, tile_rows, seed = case
    rng = np.random.default_rng(seed)
    x, planes = numbers(rng, s, b, m), numbers(rng, r, m, n)
    weights, inputs = numbers(rng, r), numbers(rng, s)
    y = tiled_product(x, planes, tile_rows=tile_rows, weights=weights, input_weights=inputs)
    exact = np.einsum("s,r,sbm,rmn->bn", *(a.astype(np.float64) for a in (inputs, weights, x, planes)))
    size = np.einsum("s,r,sbm,rmn->bn", *(np.abs(a).astype(np.float64) for a in (inputs, weights, x, planes)))
    assert np.all(np.abs(y - exact) <= size * 2.0**-24 * (m + 4 * s * r + 4))


@settings(max_examples=60, deadline=None)
@given(cases())
def test_every_conversion_is_the_twins(case):
    """Whole numbers and steps of powers of two: nothing is rounded but by the converters, so all is exact."""
    s, b, m, n, r, tile_rows, seed = case
    rng = np.random.default_rng(seed)
    x, planes = whole(rng, 3, s, b, m), whole(rng, 3, r, m, n)
    weights, inputs = 2.0 ** rng.integers(-1, 3, r), 2.0 ** rng.integers(0, 3, s)
    tiles = -(-m // tile_rows)
    quantiser = Quantiser(
        step=2.0 ** rng.integers(-1, 4, (r, tiles, n)), low=-5, high=9,
        gain=2.0 ** rng.integers(-1, 2, (r, tiles, n)), offset=0.5 * rng.integers(-6, 7, (r, tiles, n)),
    )  # fmt: skip
    y = tiled_product(
        x, planes, tile_rows=tile_rows, weights=weights, input_weights=inputs, quantiser=quantiser
    )
    assert np.array_equal(y, twin.product(x, planes, tile_rows, weights, inputs, quantiser))


@settings(max_examples=15, deadline=None)
@given(cases())
def test_read_noise_is_the_named_one(case):
    s, b, m, n, r, tile_rows, seed = case
    b, n = min(b, 9), min(n, 17)
    rng = np.random.default_rng(seed)
    x, planes, variance = numbers(rng, s, b, m), numbers(rng, r, m, n), rng.random((r, m, n), np.float32)
    weights, inputs = numbers(rng, r), numbers(rng, s)
    first = int(rng.integers(0, 10**6))
    y = tiled_product(
        x, planes, tile_rows=tile_rows, weights=weights, input_weights=inputs,
        noise=Noise(variance, STREAM), first_example=first,
    )  # fmt: skip
    exact = twin.product(x, planes, tile_rows, weights, inputs, None, (variance, STREAM), first)
    assert np.allclose(y, exact, rtol=1e-4, atol=1e-4)


def test_noise_comes_before_the_converter():
    rng = np.random.default_rng(3)
    x, planes = whole(rng, 3, 1, 5, 30), whole(rng, 3, 2, 30, 11)
    variance = rng.random((2, 30, 11), np.float32)
    quantiser = Quantiser(2.0, -8, 8)
    noise = Noise(variance, STREAM)
    y = tiled_product(x[0], planes, tile_rows=8, weights=(1, -0.5), quantiser=quantiser, noise=noise)
    assert np.array_equal(y, twin.product(x, planes, 8, (1, -0.5), (1,), quantiser, noise))


def test_rows_are_inputs_and_columns_outputs():
    """2 V on word line 1 of 3, which holds 5 and 7 on bit lines 0 and 1."""
    planes = np.array([[1, 2], [5, 7], [11, 13]], np.float32)
    x = np.array([[0, 2, 0]], np.float32)
    assert np.array_equal(tiled_product(x, planes, tile_rows=2), [[10, 14]])


def test_each_tile_and_column_has_its_converter():
    """Tiles of 2 word lines hold 3, 3 and 1; the converters count in 2s, 1s and 4s, the second column clips at 1."""
    planes = np.array([[[1, 1], [2, 2], [1, 1], [2, 2], [1, 1]]], np.float32)
    step = np.array([[[2, 2], [1, 1], [4, 4]]])
    gain = np.array([[[1, 1], [1, 1], [3, 1]]])
    quantiser = Quantiser(step, -1, 2, gain)
    y = tiled_product(np.ones((1, 5), np.float32), planes, tile_rows=2, quantiser=quantiser)
    # 3/2 -> 2 (tie to even), 3 -> 2 (clipped), 3/4 -> 1 or 1/4 -> 0
    assert np.array_equal(y, [[2 * 2 + 2 + 4, 2 * 2 + 2 + 0]])


def test_ties_go_to_the_even_code():
    x = np.array([[-2.5], [-1.5], [-0.5], [0.5], [1.5], [2.5]], np.float32)
    y = tiled_product(x, np.ones((1, 1), np.float32), tile_rows=1, quantiser=Quantiser(1.0, -9, 9))
    assert np.array_equal(y[:, 0], [-2, -2, 0, 0, 2, 2])


def test_finer_steps_never_hurt():
    rng = np.random.default_rng(0)
    x, planes = numbers(rng, 40, 100), numbers(rng, 100, 20)
    exact = x.astype(np.float64) @ planes
    errors = []
    for bits in range(3, 13):
        top = 2 ** (bits - 1) - 1
        y = tiled_product(x, planes, tile_rows=32, quantiser=Quantiser(30 / top, -top, top))
        errors.append(np.sqrt(np.mean((y - exact) ** 2)))
    assert np.all(np.diff(errors) < 0)
    # four uniform errors of variance step^2 / 12 in a sum, at the finest step
    assert errors[-1] == pytest.approx(np.sqrt(4 / 12) * 30 / (2**11 - 1), rel=0.05)


def test_bit_slices_are_integer_arithmetic():
    """8-bit inputs bit by bit, 8-bit weights in cells of 2 bits, and converters that hold every sum: exact."""
    rng = np.random.default_rng(1)
    x, w = rng.integers(0, 256, (6, 300)), rng.integers(0, 256, (300, 50))
    slices = np.stack([(x >> k) & 1 for k in range(8)]).astype(np.float32)
    cells = np.stack([(w >> 2 * k) & 3 for k in range(4)]).astype(np.float32)
    y = tiled_product(
        slices, cells, tile_rows=128, weights=4.0 ** np.arange(4), input_weights=2.0 ** np.arange(8),
        quantiser=Quantiser(1.0, 0, 3 * 128),
    )  # fmt: skip
    assert np.array_equal(y, x @ w)


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("converts", [False, True])
def test_batches_and_threads_change_no_bit(noisy, converts):
    rng = np.random.default_rng(2)
    b, m, n = 1300, 70, 333
    x, planes = numbers(rng, b, m), numbers(rng, 2, m, n)
    tiled = TiledPlanes(
        planes, tile_rows=32, weights=(1, -1), quantiser=Quantiser(0.37, -20, 19) if converts else None,
        variance=rng.random((2, m, n), np.float32) if noisy else None,
    )  # fmt: skip
    stream = STREAM if noisy else None
    before = threads.threads()
    try:
        threads.set_threads(1)
        y = product(tiled, x, stream=stream, first_example=40)
        threads.set_threads(3)
        assert np.array_equal(product(tiled, x, stream=stream, first_example=40), y)
    finally:
        threads.set_threads(before)
    for begin, end in ((0, 1), (1, 500), (500, 1300)):
        part = product(tiled, x[begin:end], stream=stream, first_example=40 + begin)
        assert np.array_equal(part, y[begin:end])


def test_another_event_chip_or_plane_is_another_noise():
    x, planes = np.ones((4, 3), np.float32), np.zeros((3, 5), np.float32)
    tiled = TiledPlanes(planes, tile_rows=2, variance=np.ones((3, 5), np.float32))
    key = Key(7).fold("read")
    streams = [Stream.of(key, *name) for name in ((0, 0, 0), (0, 0, 1), (1, 0, 0), (0, 2, 0))]
    reads = [product(tiled, x, stream=s) for s in streams]
    assert np.array_equal(reads[0], product(tiled, x, stream=streams[0]))
    for i, a in enumerate(reads):
        assert all(np.all(a != b) for b in reads[:i])


def test_noise_is_normal_of_the_summed_variance():
    """Kolmogorov-Smirnov at 1 %; half a per mille of wrong variance per cent would pass, 5 % more must not."""
    rng = np.random.default_rng(4)
    x, variance = numbers(rng, 1, 10), rng.random((10, 30000), np.float32)
    tiled = TiledPlanes(np.zeros((10, 30000), np.float32), tile_rows=4, variance=variance)
    y = product(tiled, x, stream=STREAM)[0]
    z = y / np.sqrt(x[0].astype(np.float64) ** 2 @ variance)
    assert stats.kstest(z, "norm").pvalue > 0.01
    assert stats.kstest(z * 1.05, "norm").pvalue < 1e-4
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 4 / np.sqrt(z.size)


def test_no_inputs_no_rows_no_columns():
    planes = np.ones((3, 4), np.float32)
    assert tiled_product(np.ones((0, 3), np.float32), planes, tile_rows=2).shape == (0, 4)
    assert tiled_product(np.ones((5, 3), np.float32), planes[:, :0], tile_rows=2).shape == (5, 0)
    assert np.array_equal(
        tiled_product(np.ones((5, 0), np.float32), planes[:0], tile_rows=2), np.zeros((5, 4))
    )


def test_results_go_where_they_are_wanted():
    rng = np.random.default_rng(5)
    x, planes = numbers(rng, 9, 20), numbers(rng, 20, 7)
    tiled, out = TiledPlanes(planes, tile_rows=8), np.full((9, 7), np.nan, np.float32)
    assert product(tiled, x, out=out) is out
    assert np.array_equal(out, product(tiled, x))


def test_any_array_will_do():
    """Read-only, strided, unaligned, double precision."""
    rng = np.random.default_rng(6)
    x, planes = numbers(rng, 9, 20), numbers(rng, 20, 7)
    y = tiled_product(x, planes, tile_rows=8)
    frozen = np.broadcast_to(x, x.shape)
    unaligned = np.frombuffer(b" " + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    weights = np.broadcast_to(np.ones(1), (1,))
    assert not unaligned.flags.aligned
    for other in (
        frozen,
        unaligned,
        x.astype(np.float64),
        np.asfortranarray(x),
        np.repeat(x, 2, axis=1)[:, ::2],
    ):
        assert np.array_equal(tiled_product(other, planes, tile_rows=8, weights=weights), y)
    assert np.array_equal(tiled_product(x, np.broadcast_to(planes, (1, 20, 7)), tile_rows=8), y)


def test_planes_are_copied():
    planes = np.ones((3, 4), np.float32)
    tiled = TiledPlanes(planes, tile_rows=2)
    planes[:] = 5
    assert np.array_equal(product(tiled, np.ones((1, 3), np.float32)), [[3, 3, 3, 3]])
