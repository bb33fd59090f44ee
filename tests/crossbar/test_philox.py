"""The generator against Random123's known answers, the arithmetic against float64.

The accuracies below are those that docs/randomness.md states; each is a little above what was measured.
"""

import numba
import numpy as np
import pytest
from helpers import reference
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbar_sim import Key
from crossbar_sim.crossbar import kernels
from crossbar_sim.crossbar.stream import Stream

LN_ULP, SIN_ULP, EXP_ULP = 0.9, 3.0, 1.2
LN_RELATIVE, SIN_RELATIVE, EXP_RELATIVE = 8.5e-8, 1.7e-7, 1.0e-7
NORMAL_ERROR = 3e-7  # of max(|z|, 1)
FACTOR_ERROR = {0.6: 7e-7, 12.0: 1.2e-5}  # sigma of ln g -> relative error of exp(sigma z)
LARGEST_NORMAL = 6.77

# Random123, tests/kat_vectors, lines "philox4x32 10": counter, key, answer
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


def integers(text: str) -> tuple[int, ...]:
    return tuple(int(word, 16) for word in text.split())


def ulps(got: np.ndarray, exact: np.ndarray) -> float:
    """Largest error in units of the last float32 place of the exact value."""
    return float(np.max(np.abs(got - exact) / np.spacing(np.abs(exact).astype(np.float32))))


def relative(got: np.ndarray, exact: np.ndarray) -> float:
    return float(np.max(np.abs(got / exact - 1)))


def each(function):
    """`function` of one float32 over an array: compiled on its own, never cached, so never stale."""

    @numba.njit(error_model="numpy")
    def loop(x, out):
        for i in range(x.size):
            out[i] = function(x[i])

    def apply(x):
        out = np.empty(x.size, np.float32)
        loop(x, out)
        return out.astype(np.float64)

    return apply


@pytest.fixture(scope="module")
def minus_two_ln():
    return each(kernels.minus_two_ln)


@pytest.fixture(scope="module")
def sin_pi():
    return each(kernels.sin_pi)


@pytest.fixture(scope="module")
def exp2():
    @numba.njit(error_model="numpy")
    def loop(high, low, z, out):
        for i in range(z.size):
            out[i] = kernels.exp2(high, low, z[i])

    def apply(rate, z):
        out = np.empty(z.size, np.float32)
        high = np.float32(rate)
        loop(high, np.float32(rate - float(high)), z, out)
        return out.astype(np.float64)

    return apply


@pytest.fixture(scope="module")
def normals():
    @numba.njit(error_model="numpy")
    def loop(a, b, out):
        for i in range(a.size):
            out[0, i], out[1, i] = kernels.normals(a[i], b[i])

    def apply(a, b):
        out = np.empty((2, a.size), np.float32)
        loop(a, b, out)
        return out

    return apply


def exact_normals(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """reference.box_muller over arrays."""
    u = (a.astype(np.float32).astype(np.float64) * 2.0**-32 + 2.0**-33).astype(np.float32)
    radius = np.sqrt(-2 * np.log(u.astype(np.float64))) * np.where(b >= 2**31, -1, 1)
    low = (b << np.uint32(1)).view(np.int32).astype(np.float32)
    t = low.astype(np.float64) * 2.0**-32
    return np.stack([radius * np.cos(np.pi * t), radius * np.sin(np.pi * t)])


# --- words --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_known_answers_of_random123(counter, key, answer):
    assert reference.philox4x32(integers(counter), integers(key)) == integers(answer)


@pytest.mark.parametrize("n", [256, 255])
@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_known_answers_of_random123_in_the_kernel(counter, key, answer, n):
    """By way of the kernel that every number goes through: its vector loop (256) and its tail (255)."""
    (c0, plane, chip, event), (k0, k1) = integers(counter), integers(key)
    out = np.empty(n, np.uint32)
    kernels.fill_words(out, c0 // 64 * 256, k0, k1, plane, chip, event)
    lanes = [i for i in range(c0 % 64, 256, 64) if i < n]
    assert [int(out[i]) for i in lanes] == list(integers(answer)[: len(lanes)])


word32 = st.integers(0, 2**32 - 1)


@settings(max_examples=40, deadline=None)
@given(
    k0=word32, k1=word32, plane=word32, chip=word32, event=word32,
    group=st.integers(0, 2**26 - 4), n=st.integers(1, 600),
)  # fmt: skip
def test_words_are_the_twins(k0, k1, plane, chip, event, group, n):
    out = np.empty(n, np.uint32)
    kernels.fill_words(out, 256 * group, k0, k1, plane, chip, event)
    name = reference.Name(k0, k1, plane, chip, event)
    cells = sorted({0, n // 3, n // 2, n - 1})
    assert [int(out[i]) for i in cells] == [name.word(256 * group + i) for i in cells]


def test_a_whole_group_is_the_twins():
    stream = Stream.of(Key(11).fold("fc1"), chip=5, plane=2, event=9)
    twin = reference.name(11, ("fc1",), 5, 2, 9)
    assert stream.words(300, 512).tolist() == [twin.word(512 + i) for i in range(300)]


@pytest.mark.parametrize("start", [0, 256, 256 * 1023])
def test_tails_equal_the_vector_loop(start):
    """The same cell by both routes: the length of a run never changes a number in it."""
    stream = Stream.of(Key(1), chip=3)
    words, z = stream.words(768, start), stream.normals(768, start)
    for n in range(1, 601):
        assert np.array_equal(stream.words(n, start), words[:n])
        assert np.array_equal(stream.normals(n, start).view(np.uint32), z[:n].view(np.uint32))


def test_the_bits_of_words_are_fair_and_uncorrelated():
    words = Stream.of(Key(2), chip=0).words(2**17)
    bits = np.unpackbits(words.view(np.uint8)).reshape(-1, 32).astype(np.float64)
    threshold = 5 / np.sqrt(len(bits))  # 5 sigma: 528 comparisons
    assert np.max(np.abs(bits.mean(axis=0) - 0.5)) < threshold / 2
    correlation = np.corrcoef(bits.T) - np.eye(32)
    assert np.max(np.abs(correlation)) < threshold


# --- polynomials --------------------------------------------------------------------------------


def test_accuracy_of_the_logarithm(minus_two_ln):
    """Every float32 of [1/4, 1), and each binade of the uniforms below it."""
    quarter, one = np.float32([0.25, 1.0]).view(np.int32)
    mantissas = np.linspace(1, 2, 20_001)[:-1]
    u = np.concatenate(
        [
            np.arange(quarter, one, dtype=np.int32).view(np.float32),
            (mantissas * 2.0 ** np.arange(-33, -2)[:, None]).astype(np.float32).ravel(),
        ]
    )
    got, exact = minus_two_ln(u), -2 * np.log(u.astype(np.float64))
    assert ulps(got, exact) < LN_ULP
    assert relative(got, exact) < LN_RELATIVE


def test_accuracy_of_the_sine(sin_pi):
    small = 10.0 ** np.linspace(-9.6, -0.302, 300_001)
    t = np.concatenate([np.linspace(-0.5, 0.5, 1_000_001), small, -small]).astype(np.float32)
    t = t[t != 0]
    got, exact = sin_pi(t), np.sin(np.pi * t.astype(np.float64))
    assert ulps(got, exact) < SIN_ULP
    assert relative(got, exact) < SIN_RELATIVE


@pytest.mark.parametrize("rate", [1.0, 0.3, 17.3])
def test_accuracy_of_the_power_of_two(exp2, rate):
    z = np.linspace(-120 / rate, 120 / rate, 2_000_001).astype(np.float32)
    z = z[np.abs(rate * z.astype(np.float64)) <= 120]
    got, exact = exp2(rate, z), np.exp2(rate * z.astype(np.float64))
    assert ulps(got, exact) < EXP_ULP
    assert relative(got, exact) < EXP_RELATIVE


def test_exact_where_it_must_be(minus_two_ln, sin_pi, exp2):
    assert minus_two_ln(np.float32([1.0])) == [0.0]
    assert sin_pi(np.float32([0.0])) == [0.0]
    whole = np.arange(-120, 121, dtype=np.float32)
    assert np.array_equal(exp2(1.0, whole), 2.0 ** whole.astype(np.float64))
    assert np.all(exp2(0.0, np.linspace(-6.77, 6.77, 1001).astype(np.float32)) == 1.0)


def test_accuracy_of_the_normals(normals):
    words = Stream.of(Key(3), chip=0).words(4_000_000)
    a, b = words[:2_000_000], words[2_000_000:]
    got, exact = normals(a, b).astype(np.float64), exact_normals(a, b)
    assert np.max(np.abs(got - exact) / np.maximum(np.abs(exact), 1)) < NORMAL_ERROR


@pytest.mark.parametrize("sigma", [0.6, 12.0])
def test_accuracy_of_the_lognormal_factor(sigma):
    """From the words to the factor: the error of z is multiplied by sigma."""
    from crossbar_sim import LogNormalDrift

    n = 2**20
    key = Key(4)
    factor = LogNormalDrift(sigma).apply(np.ones(n, np.float32), key, 0).astype(np.float64)
    words = Stream.of(key.fold("drift"), 0).words(n).reshape(-1, 4, 64)
    z = np.stack([exact_normals(words[:, i], words[:, i + 1]) for i in (0, 2)])
    z = z.transpose(2, 0, 1, 3).reshape(-1)
    assert relative(factor, np.exp(sigma * z)) < FACTOR_ERROR[sigma]


# --- extremes -----------------------------------------------------------------------------------

EXTREMES = np.array(
    sorted({0, 1, 2, 2**24, 2**30, 2**31 - 2, 2**31 - 1, 2**31, 2**31 + 1, 2**32 - 2, 2**32 - 1}),
    np.uint32,
)


def test_extreme_words_give_finite_bounded_normals(normals):
    a, b = (grid.ravel() for grid in np.meshgrid(EXTREMES, EXTREMES))
    z = normals(a, b)
    assert np.all(np.isfinite(z))
    assert np.max(np.abs(z)) <= LARGEST_NORMAL
    assert np.max(np.abs(z)) > 6.76, "word 0 is the far tail"
    assert np.max(np.abs(z - exact_normals(a, b))) < NORMAL_ERROR * LARGEST_NORMAL


def test_no_word_pair_leaves_the_range(normals):
    words = Stream.of(Key(5), chip=1).words(2_000_000)
    far = words & np.uint32(0xFF)  # the far tail: u below 2^-24
    z = normals(far[:1_000_000], words[1_000_000:])
    assert np.all(np.isfinite(z))
    assert np.max(np.abs(z)) <= LARGEST_NORMAL


def test_uniforms_never_reach_zero_and_stay_within_one():
    uniform = each(kernels.uniform)
    u = uniform(EXTREMES)
    assert u.tolist() == [reference.uniform(int(word)) for word in EXTREMES]
    assert u[0] == np.float32(2.0**-33)
    assert u[-1] == 1.0


def test_extreme_words_keep_every_kernel_finite():
    """All laws at the words 0 and 2^32 - 1, which a run of cells will hardly ever meet."""
    words = np.tile(EXTREMES, 3)
    g = np.full(words.size, 1e-4, np.float32)
    out = np.empty_like(g)
    z = np.linspace(-LARGEST_NORMAL, LARGEST_NORMAL, words.size).astype(np.float32)
    kernels.symmetric_uniform(words, out)
    assert np.max(np.abs(out)) <= np.float32(np.sqrt(3))
    kernels.laplace(words, out)
    assert np.max(np.abs(out)) < 16.2
    kernels.pareto(g, words, np.float32(0.01), np.float32(np.log2(np.e) / 2.02), out)
    assert np.all(np.isfinite(out))
    assert np.all(out > 0)
    for sigma in (1e-4, 0.1, 1.0, 3.0):
        from crossbar_sim import GammaDrift

        table = GammaDrift(sigma).table().ravel()
        per_unit = np.float32(GammaDrift.PIECES / (2 * GammaDrift.Z))
        kernels.by_quantile(g, z, table, np.float32(-GammaDrift.Z), per_unit, out)
        assert np.all(np.isfinite(out))
        assert np.all(out >= 0)
