"""Every drift law and the stuck cells against their distributions, with controls that must fail.

Fixed seeds: these tests are deterministic. A law is accepted if its Kolmogorov-Smirnov test is not
significant at 1 % after Bonferroni's correction for all of them, and a law whose parameter is off by a few
per cent must be told apart.
"""

import itertools
import math

import numpy as np
import pytest
from helpers import reference
from helpers.law_examples import EXAMPLES, KINDS, LAWS, START, WITH_SPREAD
from scipy import special, stats

from crossbar_sim import (
    ALL_DRIFTS,
    BernoulliDrift,
    Differential,
    GammaDrift,
    Hardware,
    InputError,
    Key,
    LaplaceDrift,
    LogNormalDrift,
    MeasuredRelaxation,
    NormalDrift,
    NormalShift,
    ParetoDrift,
    RelaxationShift,
    RetentionDrift,
    StuckCells,
    UniformDrift,
)
from crossbar_sim.crossbar import kernels
from crossbar_sim.crossbar.stream import Stream

N = 100_000
KEY = Key(2024).fold("laws")
CONTINUOUS = [law for law in ALL_DRIFTS if EXAMPLES[law].truth is not None]
ACCEPT = 0.01 / len(CONTINUOUS)
REJECT = 1e-4


def sample(law, chip=0, n=N, key=KEY) -> np.ndarray:
    return law.apply(np.full(n, START, np.float32), key, chip).astype(np.float64)


def all_laws(argument="law"):
    return pytest.mark.parametrize(argument, LAWS, ids=KINDS)


def families(classes):
    return pytest.mark.parametrize("law", classes, ids=[law.kind for law in classes])


# --- distributions --------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.01, 1.05, 1.1, 1.2, 1.5, 2.0, 5.0])
def test_the_pareto_law_has_its_mean_over_all_words(alpha):
    """Eq. (13): mean g. Nearly all of it lies in few words where alpha is small: the first 2^16 words one by one."""
    edges = np.unique(np.geomspace(2**16, 2**32, 20001).astype(np.int64))
    words = np.concatenate([np.arange(2**16), (edges[1:] + edges[:-1]) // 2]).astype(np.uint32)
    counts = np.concatenate([np.ones(2**16), np.diff(edges)])
    out = np.empty(words.size, np.float32)
    half_rate = np.float32(math.log2(math.e) / (2 * alpha))
    kernels.pareto(np.ones(words.size, np.float32), words, np.float32(1 - 1 / alpha), half_rate, out)
    assert float(out.astype(np.float64) @ counts) / 2**32 == pytest.approx(1, rel=2e-3)
    assert out[0] == pytest.approx(2.0 ** (32 / alpha), rel=2e-6)
    twin = [reference.drifted(ParetoDrift(alpha), 1.0, 0.0, int(word)) for word in words[:5]]
    np.testing.assert_allclose(out[:5], twin, rtol=1e-5)


def test_every_law_has_an_example():
    assert set(EXAMPLES) == set(ALL_DRIFTS)
    assert len({law.kind for law in ALL_DRIFTS}) == len(ALL_DRIFTS)


@families(CONTINUOUS)
def test_distribution(law):
    example = EXAMPLES[law]
    assert stats.kstest(sample(example.law), example.truth.cdf).pvalue > ACCEPT


@families(CONTINUOUS)
def test_the_distribution_test_has_power(law):
    """Negative control: a distribution that is slightly off must fail the same test."""
    example = EXAMPLES[law]
    drifted = sample(example.law)
    for wrong in example.wrong:
        assert stats.kstest(drifted, wrong.cdf).pvalue < REJECT


@families(CONTINUOUS)
def test_mean_and_spread(law):
    """Within five standard errors of the analytic mean, and of the analytic spread where it has one."""
    example = EXAMPLES[law]
    x = sample(example.law)
    mean, variance, kurtosis = (float(m) for m in example.truth.stats("mvk"))
    assert abs(x.mean() - mean) < 5 * np.sqrt(variance / N)
    if np.isfinite(kurtosis):  # else the spread of the sample converges too slowly to say anything
        assert abs(x.var() / variance - 1) < 5 * np.sqrt((kurtosis + 2) / N)


@pytest.mark.parametrize(
    "law",
    [GammaDrift(0.8), ParetoDrift(3.0), NormalDrift(0.1), UniformDrift(0.3), LaplaceDrift(0.05)],
    ids=lambda law: law.kind,
)
def test_factors_with_mean_one(law):
    x = sample(law)
    assert abs(x.mean() - 1) < 5 * x.std() / np.sqrt(N)


def test_lognormal_keeps_the_median_and_raises_the_mean():
    """The paper's law is not mean-free: E exp(lambda) = exp(sigma^2 / 2)."""
    x = sample(LogNormalDrift(0.6))
    assert abs(np.median(x) - 1) < 5 * 0.6 * np.sqrt(np.pi / 2 / N)
    assert abs(x.mean() - np.exp(0.18)) < 5 * x.std() / np.sqrt(N)


def test_bernoulli_rate():
    for chip, p in enumerate((0.01, 0.3, 0.5, 0.99)):
        dropped = int(np.count_nonzero(sample(BernoulliDrift(p), chip) == 0))
        assert stats.binomtest(dropped, N, p).pvalue > ACCEPT
        assert stats.binomtest(dropped, N, min(p * 1.2, 0.995)).pvalue < REJECT, "control"
    x = sample(BernoulliDrift(0.3))
    assert set(np.unique(x)) == {0.0, START}, "dropped or untouched, nothing between"


def test_bernoulli_at_the_ends_is_exact():
    assert np.all(sample(BernoulliDrift(0.0)) == START)
    assert np.all(sample(BernoulliDrift(1.0)) == 0.0)


# --- every cell, plane and chip draws for itself --------------------------------------------------


@families(CONTINUOUS)
def test_every_cell_has_its_own_draw(law):
    """A peer draws one scalar per level and tensor: 2 distinct values in 1,000 cells."""
    assert len(np.unique(sample(EXAMPLES[law].law, n=1000))) >= 995


@all_laws()
def test_planes_and_chips_are_independent(law):
    n = N // 5
    planes = law.apply(np.full((3, n, 1), START, np.float32), KEY, 0)[:, :, 0]
    runs = [*planes, *(sample(law, chip, n) for chip in (1, 2, 2**32 - 1))]
    # ranks, so that heavy tails do not blunt the test
    correlation = stats.spearmanr(np.stack(runs), axis=1).statistic - np.eye(len(runs))
    assert np.max(np.abs(correlation)) < 4.5 / np.sqrt(n)
    assert stats.spearmanr(runs[0], sample(law, 0, n)).statistic > 0.999, "control: the same chip"


@all_laws()
def test_neighbours_are_independent(law):
    """At the distances of the stream's layout: next lane, next run, next group."""
    x = stats.rankdata(sample(law))
    for lag in (1, 63, 64, 65, 128, 192, 255, 256):
        assert abs(np.corrcoef(x[:-lag], x[lag:])[0, 1]) < 4.5 / np.sqrt(N), lag


# --- against the twin -----------------------------------------------------------------------------

TOLERANCE = {"gamma": 1e-5}


@all_laws()
def test_twin(law):
    """300 cells: a group, and a tail. The error allowed is of g', or of g where g' is a small difference."""
    g = np.linspace(0, 2, 300, dtype=np.float32)
    got = law.apply(g, Key(9).fold("fc"), 3)
    name = reference.name(9, ("fc", "drift"), 3)
    expected = np.array(
        [reference.drifted(law, float(x), name.normal(i), name.word(i)) for i, x in enumerate(g)]
    )
    error = np.abs(got - expected) / np.maximum(np.abs(expected), g.astype(np.float64) + 1e-3)
    assert np.max(error) < TOLERANCE.get(law.kind, 1e-6)


# --- what every law keeps -------------------------------------------------------------------------


@pytest.mark.parametrize("law", [e.identity for e in EXAMPLES.values() if e.identity], ids=str)
def test_without_spread_nothing_changes(law):
    g = np.linspace(0, 1e-4, 1000, dtype=np.float32)
    assert np.array_equal(law.apply(g, KEY, 0).view(np.uint32), g.view(np.uint32))


LARGE = [
    LogNormalDrift(12.0), NormalDrift(50.0), NormalShift(50.0), UniformDrift(50.0), LaplaceDrift(50.0),
    GammaDrift(3.0), ParetoDrift(1.001), BernoulliDrift(0.5), RetentionDrift(-1.0, 1e9, nu_sigma=0.1),
    RelaxationShift(1e6, -1.0, 1.0, 0.1), MeasuredRelaxation(1e6, 1.0, (-1.0, 2.0), (1.0, 3.0), (0.1, -2.0)),
]  # fmt: skip


@pytest.mark.parametrize("law", LAWS + LARGE, ids=str)
def test_no_conductance_falls_below_zero_or_leaves_float32(law):
    g = np.tile(np.float32([0.0, 1e-45, 1e-12, 1e-6, 1e-4, 1.0]), 20_000)
    drifted = law.apply(g, KEY, 1)
    assert drifted.dtype == np.float32
    assert np.all(np.isfinite(drifted))
    assert np.all(drifted >= 0)
    assert not np.any(np.signbit(drifted))
    if law.multiplicative:
        assert np.all(drifted[::6] == 0), "what conducts nothing gains nothing by a factor"


@all_laws()
def test_multiplicative_laws_scale_and_additive_laws_do_not(law):
    g = np.linspace(1.0, 2.0, 10_000, dtype=np.float32)
    once, twice = law.apply(g, KEY, 0), law.apply(2 * g, KEY, 0)
    thrice = law.apply(3 * g, KEY, 0)
    if law.multiplicative:
        assert np.array_equal(twice, 2 * once)
        assert np.allclose(thrice, 3 * once, rtol=3e-7)
    else:
        same = np.allclose(twice - 2 * g, once - g, atol=1e-6)
        assert same != isinstance(law, MeasuredRelaxation), "the same shift whatever g is, but for one law"
        assert not np.allclose(twice, 2 * once, rtol=1e-2)


@all_laws()
def test_shapes(law):
    g = np.linspace(0.5, 1.5, 24, dtype=np.float32)
    for shape in ((24,), (4, 6), (2, 3, 4), (1, 1), (24, 1), (0,), (0, 3), (3, 0), (0, 2, 2)):
        cells = np.resize(g, shape)
        drifted = law.apply(cells, KEY, 0)
        assert drifted.shape == shape
        assert drifted.dtype == np.float32
        assert drifted.flags.c_contiguous
    assert np.array_equal(law.apply(g.reshape(4, 6), KEY, 0).T.ravel(), law.apply(
        np.ascontiguousarray(g.reshape(4, 6).T).ravel(), KEY, 0)), "bit line by bit line"  # fmt: skip
    for shape in ((), (1, 1, 1, 1)):
        with pytest.raises(InputError, match="shape"):
            law.apply(np.ones(shape, np.float32), KEY, 0)


@all_laws()
def test_the_input_is_left_alone(law):
    g = np.linspace(0.5, 1.5, 300, dtype=np.float32).reshape(3, 100)
    before = g.copy()
    law.apply(g, KEY, 0)
    assert np.array_equal(g, before)


# --- the same chip at every spread ----------------------------------------------------------------


@pytest.mark.parametrize("law", WITH_SPREAD.values(), ids=[law.kind for law in WITH_SPREAD])
def test_a_chip_moves_the_same_way_at_every_spread(law):
    """The normals are shared, so curves over sigma are smooth: the order of the cells stays."""
    low, high = sample(law(0.05), n=20_000), sample(law(0.1), n=20_000)
    assert stats.spearmanr(low, high).statistic > 0.9999
    assert np.array_equal(np.sign(low - START), np.sign(high - START)) or law is GammaDrift


def test_ln_of_the_lognormal_factor_is_linear_in_sigma():
    g = np.ones(20_000, np.float32)
    z = np.log(LogNormalDrift(1.0).apply(g, KEY, 3).astype(np.float64))
    for sigma in (0.1, 0.3, 1.5):
        ratio = np.log(LogNormalDrift(sigma).apply(g, KEY, 3).astype(np.float64))
        assert np.allclose(ratio, sigma * z, atol=3e-7 * max(1, sigma) * 7)


# --- single laws ----------------------------------------------------------------------------------


def test_small_gamma_is_normal():
    """Skewness 2 sigma: the two differ by sigma^2 (z^2 - 1) / 3."""
    sigma = 0.002
    z = (sample(NormalDrift(sigma)) - 1) / sigma
    gamma = sample(GammaDrift(sigma))
    assert np.allclose(gamma, 1 + sigma * z + sigma**2 * (z**2 - 1) / 3, atol=5e-7)
    assert np.max(np.abs(gamma - (1 + sigma * z))) > 1e-5, "control: without the second term"


GAMMA_ERROR = {0.01: 2e-7, 0.03: 2e-7, 0.1: 4e-7, 0.3: 1e-6, 0.5: 2e-6, 1.0: 6e-6, 2.0: 2e-5, 3.0: 3e-5}


@pytest.mark.parametrize(("sigma", "allowed"), GAMMA_ERROR.items())
def test_gamma_table_against_scipy(sigma, allowed):
    """Over the whole range of the normals, down to factors of 2^-115 (the table ends at 2^-120)."""
    z = np.linspace(-6.77, 6.77, 100_001).astype(np.float32)
    x = np.empty_like(z)
    law = GammaDrift(sigma)
    per_unit = np.float32(law.PIECES / (2 * law.Z))
    kernels.by_quantile(np.ones_like(z), z, law.table().ravel(), np.float32(-law.Z), per_unit, x)
    shape, tail = sigma**-2, special.ndtr(-np.abs(z.astype(np.float64)))
    inverse = np.where(z < 0, special.gammaincinv(shape, tail), special.gammainccinv(shape, tail))
    exact = inverse / shape
    seen = exact > 2.0**-115
    assert np.max(np.abs(x[seen] / exact[seen] - 1)) < allowed
    assert np.all(x[~seen] < 2.0**-114)
    assert np.all(np.diff(x[seen]) >= -2 * allowed * x[seen][1:]), "rises with z"


@pytest.mark.parametrize("sigma", [1e-5, 1e-4, 9.99e-4, 1.001e-3])
def test_gamma_table_of_small_spreads(sigma):
    """Either side of the change of formula, against Cornish and Fisher's expansion to the third order."""
    z = np.linspace(-6.77, 6.77, 10_001).astype(np.float32)
    x = np.empty_like(z)
    law = GammaDrift(sigma)
    per_unit = np.float32(law.PIECES / (2 * law.Z))
    kernels.by_quantile(np.ones_like(z), z, law.table().ravel(), np.float32(-law.Z), per_unit, x)
    y = z.astype(np.float64)
    exact = 1 + sigma * y + sigma**2 * (y**2 - 1) / 3 + sigma**3 * (y**3 - 7 * y) / 36
    assert np.max(np.abs(x - exact)) < 2e-7


def test_retention_at_its_reference_time_is_identity():
    g = np.linspace(0, 1e-4, 1000, dtype=np.float32)
    law = RetentionDrift(0.05, time=30.0, t0=30.0, nu_sigma=0.02)
    assert np.array_equal(law.apply(g, KEY, 0), g)


def test_retention_falls_with_time():
    g = np.full(20_000, 1e-5, np.float32)
    times = (1.0, 10.0, 1e3, 1e6)
    clean = [RetentionDrift(0.05, time=t).apply(g, KEY, 0) for t in times]
    assert all(np.all(b < a) for a, b in itertools.pairwise(clean))
    assert np.allclose(clean[2], 1e-5 * 1e3**-0.05, rtol=3e-7)
    spread = [RetentionDrift(0.05, time=t, nu_sigma=0.01).apply(g, KEY, 0) for t in times]
    assert all(np.all(b < a) for a, b in itertools.pairwise(spread)), "nu > 0 for |z| < 5"
    assert np.std(np.log(spread[3])) > np.std(np.log(spread[1])) > 0


def test_retention_over_any_times():
    """The quotient of the times may leave double precision, the change must not."""
    g = np.ones(10, np.float32)
    assert np.array_equal(RetentionDrift(0.0, time=1e-300, t0=1e300).apply(g, KEY, 0), g)
    assert RetentionDrift(0.01, time=1e-300, t0=1e300).apply(g, KEY, 0)[0] == np.float32(1e6)


def test_relaxation_by_conductance_has_the_mean_and_spread_of_each_conductance():
    """Constant polynomials are RelaxationShift; others act at each cell's own conductance."""
    g = np.linspace(0, 4e-5, 1000, dtype=np.float32)
    plain = RelaxationShift(3600.0, -1e-7, 4e-7, 5e-8).apply(g, KEY, 0)
    constant = MeasuredRelaxation(3600.0, 4e-5, (-1e-7,), (4e-7,), (5e-8,)).apply(g, KEY, 0)
    np.testing.assert_allclose(constant, plain, rtol=1e-6, atol=1e-13)
    law = MeasuredRelaxation(3600.0, 4e-5, (0.0, -2e-7), (2e-7, 6e-6, -6e-6), (0.0, 1e-8))
    for at in (1e-5, 2e-5, 4e-5):
        shift = law.apply(np.full(40_000, at, np.float32), KEY, 1).astype(np.float64) - at
        assert shift.std() == pytest.approx(law.sigma(at), rel=0.02)
        assert shift.mean() == pytest.approx(law.mu(at), abs=5 * law.sigma(at) / 200)
    assert law.sigma(2e-5) > 1.5 * law.sigma(4e-5), "largest in the middle of the window"
    with pytest.raises(InputError, match="is the reference given in S"):
        Hardware(drift=MeasuredRelaxation(10.0, 1e-30, (1.0, 1.0, 1.0), (0.0,), (0.0,)))


def test_relaxation_starts_at_one_second():
    g = np.full(1000, 1e-5, np.float32)
    law = RelaxationShift(time=1.0, mean_per_ln=-1e-6, sigma=0.0, sigma_per_ln=1e-7)
    assert np.array_equal(law.apply(g, KEY, 0), g)


# --- stuck cells ----------------------------------------------------------------------------------


def stuck_rates(off: float, on: float, chip: int = 0) -> tuple[int, int]:
    hardware = Hardware(Differential(1e-6, 1e-4), stuck=StuckCells(off, on))
    faults = hardware.program(np.zeros((500, 200), np.float32), KEY, chip).faults[0]
    return int(np.count_nonzero(faults == 1)), int(np.count_nonzero(faults == 2))


@pytest.mark.parametrize(
    ("off", "on"),
    [(0.01, 0.0), (0.0, 0.01), (0.01, 0.01), (0.05, 0.05), (0.3, 0.6), (1e-4, 1e-3)],
)
def test_stuck_rates_are_what_was_asked(off, on):
    """A peer asked for 1 % and 1 % makes 0.021 % and 1.98 %; asked for 1 % and nothing, 0.011 %."""
    for count, p in zip(stuck_rates(off, on), (off, on), strict=True):
        assert stats.binomtest(count, N, p).pvalue > 0.01 / 12


def test_the_rate_test_has_power():
    """Negative control: the peer's rates would not pass."""
    off, on = stuck_rates(0.01, 0.01)
    assert stats.binomtest(off, N, 0.00021).pvalue < REJECT
    assert stats.binomtest(on, N, 0.0198).pvalue < REJECT


def test_stuck_probabilities_at_the_ends_are_exact():
    assert stuck_rates(0.0, 0.0) == (0, 0)
    assert stuck_rates(1.0, 0.0) == (N, 0)
    assert stuck_rates(0.0, 1.0) == (0, N)
    assert sum(stuck_rates(0.25, 0.75)) == N


def test_thresholds_are_where_the_specification_puts_them():
    """A word at a threshold: not below it, so not off or dropped; at the upper one, so on."""
    words = np.array([0, 99, 100, 101, 2**32 - 201, 2**32 - 200, 2**32 - 1], np.uint32)
    g, out = np.full(7, 2.0, np.float32), np.empty(7, np.float32)
    faults = np.empty(7, np.uint8)
    kernels.stick(g, words, 100, 2**32 - 200, np.float32(1), np.float32(3), out, faults)
    assert faults.tolist() == [1, 1, 0, 0, 0, 2, 2]
    assert out.tolist() == [1, 1, 2, 2, 2, 3, 3]
    kernels.drop(g, words, 100, out)
    assert out.tolist() == [0, 0, 2, 2, 2, 2, 2]


def test_stuck_cells_sit_at_the_ends_of_the_window():
    hardware = Hardware(Differential(1e-6, 1e-4), stuck=StuckCells(0.2, 0.1))
    array = hardware.program(np.ones((100, 100), np.float32), KEY, 0)
    assert np.all(array.programmed[array.faults == 1] == np.float32(1e-6)), "off is the low end"
    assert np.all(array.programmed[array.faults == 2] == np.float32(1e-4)), "on is the high end"
    healthy = array.faults == 0
    assert np.array_equal(array.programmed[healthy], array.target[healthy])


def test_stuck_cells_stay_stuck_at_every_rate():
    """Thresholds on one word: a chip's faults at 1 % are among its faults at 5 %."""
    few = Hardware(Differential(), stuck=StuckCells(0.01, 0.01))
    many = Hardware(Differential(), stuck=StuckCells(0.05, 0.05))
    w = np.zeros((100, 100), np.float32)
    some, more = few.program(w, KEY, 0).faults, many.program(w, KEY, 0).faults
    assert np.all(more[some > 0] == some[some > 0])


def test_faults_are_spread_evenly_over_the_cells():
    words = Stream.of(KEY.fold("stuck"), 0, 0).words(N)
    hit = np.flatnonzero(words < int(0.05 * 2**32)) % 256
    counts = np.bincount(hit, minlength=256)
    assert stats.chisquare(counts, np.full(256, len(hit) / 256)).pvalue > 0.001


OUTS = {
    "run": lambda g: np.empty_like(g),
    "matrix": lambda g: np.empty_like(g),
    "transposed": lambda g: np.empty(g.shape[::-1], np.float32).T,
    "strided": lambda g: np.empty((*g.shape[:-1], 2 * g.shape[-1]), np.float32)[..., ::2],
    "reversed": lambda g: np.empty_like(g)[::-1],
    "itself": lambda g: g,
}


@pytest.mark.parametrize(
    "shape", [(150_001,), (300, 401), (70_001, 2), (2, 70_001), (3, 40, 50), (0,), (0, 4)]
)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("out", OUTS)
def test_a_given_output_holds_the_same_bits(shape, order, out):
    """Across chunks of 65536 cells, for runs, matrices and planes, whatever the strides."""
    g = np.asarray(np.random.default_rng(0).random(shape), np.float32, order=order)
    law, expected = LogNormalDrift(0.4), None
    expected = law.apply(g.copy(), Key(3), 5)
    if expected.ndim == 2 and expected.size:  # cells are counted bit line by bit line
        flat = law.apply(np.ascontiguousarray(g.T).ravel(), Key(3), 5)
        assert np.array_equal(expected, flat.reshape(g.shape[::-1]).T)
    given = OUTS[out](g)
    assert law.apply(g, Key(3), 5, out=given) is given
    assert np.array_equal(given, expected)


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.empty((4, 3), np.float32), "shape (4, 3): expected writeable float32 of shape (3, 4)"),
        (np.empty((3, 4)), "float64 of shape (3, 4)"),
        ([0.0], "a list: expected a NumPy array"),
        (np.broadcast_to(np.float32(0), (3, 4)), "read-only float32"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(out, message):
    with pytest.raises(InputError) as caught:
        LogNormalDrift(0.4).apply(np.ones((3, 4), np.float32), Key(0), 0, out=out)
    assert message in str(caught.value)


def test_an_output_that_overlaps_the_input_is_refused():
    memory = np.ones(101, np.float32)
    with pytest.raises(InputError, match="out overlaps g"):
        LogNormalDrift(0.4).apply(memory[:100], Key(0), 0, out=memory[1:])
