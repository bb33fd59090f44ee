"""The whole simulator of one matrix: order of effects, identities, and the fast route against the planes."""

import itertools

import numpy as np
import pytest
from helpers import reference
from helpers.law_examples import KINDS, LAWS
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats

from crossbar_sim import (
    ALL_MAPPINGS,
    BernoulliDrift,
    Differential,
    Hardware,
    InputError,
    Key,
    LogNormalDrift,
    NormalDrift,
    NormalShift,
    Offset,
    PolynomialNoise,
    ProgrammingNoise,
    RetentionDrift,
    StuckCells,
)

KEY = Key(17).fold("fc1")

DRIFTS = [
    None,
    LogNormalDrift(0.6),
    RetentionDrift(0.05, 1e4, nu_sigma=0.02),
    NormalShift(3e-6),
    BernoulliDrift(0.2),
]


def weights(rows, cols):
    return np.sin(np.arange(rows * cols, dtype=np.float32) * 0.7).reshape(rows, cols)


def bits(x):
    return np.ascontiguousarray(x, np.float32).view(np.uint32)


def effective(hardware, w, key=KEY, chip=0):
    columns = np.ascontiguousarray(np.asarray(w, np.float32).T)
    return hardware.effective_weight(columns, key, chip).T


def assert_both_routes_agree(hardware, w, chip=0):
    """`program(...).weight` and `effective_weight`, bit for bit, signs of zeros included."""
    planes = hardware.program(w, KEY, chip).weight
    assert np.array_equal(bits(planes), bits(effective(hardware, w, chip=chip)))
    return planes


def test_chip_0_is_the_one_that_is_not_named():
    w = weights(3, 2)
    hardware = Hardware(drift=LogNormalDrift(0.6))
    assert np.array_equal(bits(hardware.program(w, KEY).weight), bits(hardware.program(w, KEY, 0).weight))
    assert not np.array_equal(hardware.program(w, KEY).weight, hardware.program(w, KEY, 1).weight)


# --- the two routes -------------------------------------------------------------------------------


@pytest.mark.parametrize("drift_per", ["cell", "weight"])
@pytest.mark.parametrize("scale_per", ["matrix", "column"])
@pytest.mark.parametrize("g_min", [0.0, 2e-6])
@pytest.mark.parametrize("cls", ALL_MAPPINGS)
def test_the_fast_route_is_the_planes(cls, g_min, scale_per, drift_per):
    for levels, clip, copies, drift in itertools.product((None, 16), (None, 95.0), (1, 3), DRIFTS):
        mapping = cls(g_min, 1e-4, levels=levels, scale_per=scale_per, clip=clip, copies=copies)
        assert_both_routes_agree(Hardware(mapping, drift, drift_per=drift_per), weights(19, 31))


@pytest.mark.parametrize("law", LAWS, ids=KINDS)
@pytest.mark.parametrize("cls", ALL_MAPPINGS)
def test_the_fast_route_is_the_planes_with_every_effect(cls, law):
    for drift_per in ("cell", "weight"):
        hardware = Hardware(
            cls(1e-6, 1e-4, levels=64, copies=2),
            law,
            PolynomialNoise((1e-7, 5e-6, -3e-6), 1e-4),
            StuckCells(0.05, 0.03),
            drift_per=drift_per,
        )
        assert_both_routes_agree(hardware, weights(33, 40), chip=3)


sizes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20)
numbers = st.floats(width=32, min_value=-(2.0**60), max_value=2.0**60, allow_subnormal=True)


@settings(max_examples=200, deadline=None)
@given(
    w=hnp.arrays(np.float32, sizes, elements=numbers),
    sigma=st.sampled_from([0.0, 0.6, 12.0]),
    g_max=st.floats(1e-9, 1.0),
    chip=st.integers(0, 2**32 - 1),
)
def test_the_one_pass_kernel_is_the_planes_for_any_weights(w, sigma, g_max, chip):
    """The largest weight may sit on the end of the window; an underflow is +0 on both routes."""
    hardware = Hardware(Differential(0.0, g_max), LogNormalDrift(sigma), drift_per="weight")
    assert hardware._one_pass(hardware.mapping.scale(w.T))
    assert_both_routes_agree(hardware, w, chip)


def test_every_design_of_the_one_pass_kernel():
    """What it must not take: a floor, levels, clip, copies, other effects, a scale per column, other laws."""
    one = Hardware(Differential(), LogNormalDrift(0.6), drift_per="weight")
    w = weights(4, 3)

    def takes(hardware):
        return hardware._one_pass(hardware.mapping.scale(w.T))

    assert takes(one)
    assert takes(Hardware(Differential(), RetentionDrift(0.1, 10.0), drift_per="weight"))
    for mapping in (
        Differential(1e-6), Differential(levels=2**20), Differential(clip=100.0),
        Differential(copies=2), Differential(scale_per="column"), Offset(),
    ):  # fmt: skip
        assert not takes(Hardware(mapping, LogNormalDrift(0.6), drift_per="weight"))
    assert not takes(Hardware(drift=LogNormalDrift(0.6), drift_per="cell"))
    assert not takes(Hardware(drift=NormalDrift(0.6), drift_per="weight"))
    for extra in ({"programming": ProgrammingNoise(0.0)}, {"stuck": StuckCells()}):
        assert not takes(Hardware(drift=LogNormalDrift(0.6), drift_per="weight", **extra))


def test_out_is_written_and_returned():
    hardware = Hardware(drift=LogNormalDrift(0.5))
    columns = np.ascontiguousarray(weights(5, 7).T)
    out = np.full((7, 5), np.nan, np.float32)
    before = columns.copy()
    assert hardware.effective_weight(columns, KEY, 0, out) is out
    assert np.array_equal(out, hardware.effective_weight(columns, KEY, 0))
    scale = hardware.mapping.scale(columns)
    assert np.array_equal(out, hardware.effective_weight(columns, KEY, 0, scale=scale))
    assert np.array_equal(columns, before)


def test_arrays_that_would_be_copied_behind_the_back_are_refused():
    """`reshape` of such an `out` makes a copy, and the result would never arrive."""
    hardware = Hardware(drift=LogNormalDrift(0.5))
    columns = np.ascontiguousarray(weights(5, 7).T)
    for bad in (columns.astype(np.float64), columns[:, ::2], weights(7, 5).T, columns.ravel()):
        with pytest.raises(InputError, match="C-contiguous float32"):
            hardware.effective_weight(bad, KEY, 0)
    for bad in (np.empty((5, 7), np.float32), np.empty((7, 5)), np.empty((5, 7), np.float32).T):
        with pytest.raises(InputError, match="C-contiguous float32"):
            hardware.effective_weight(columns, KEY, 0, bad)


# --- the identity that ties the levels together ---------------------------------------------------


@pytest.mark.parametrize("sigma", [0.1, 0.6, 1.5])
@pytest.mark.parametrize("drift_per", ["cell", "weight"])
def test_without_a_floor_the_weight_is_multiplied_exactly(sigma, drift_per):
    """g_min = 0 and a scale that is a power of two: w exp(lambda) bit for bit."""
    w = weights(40, 30)
    w[0, 0] = 1.0
    hardware = Hardware(Differential(0.0, 2.0**-13), LogNormalDrift(sigma), drift_per=drift_per)
    factor = LogNormalDrift(sigma).apply(np.ones((2, 40, 30), np.float32), KEY, 4)
    own = factor[0] if drift_per == "weight" else np.where(w >= 0, factor[0], factor[1])
    assert np.array_equal(effective(hardware, w, chip=4), w * own)
    assert np.array_equal(hardware.program(w, KEY, 4).weight, w * own)


@pytest.mark.parametrize("g_max", [1e-4, 3.3e-5, 0.7])
def test_without_a_floor_any_scale_costs_four_roundings(g_max):
    """w s, times the factor, times 1/s, and 1/s itself: 2^-24 each."""
    w = weights(100, 80) * np.float32(1.7)
    law = LogNormalDrift(0.6)
    hardware = Hardware(Differential(0.0, g_max), law, drift_per="weight")
    exact = w.astype(np.float64) * law.apply(np.ones_like(w), KEY, 0).astype(np.float64)
    error = np.abs(effective(hardware, w) - exact)
    assert np.all(error <= 4 * 2.0**-24 * np.abs(exact))


def test_the_papers_law_in_distribution():
    """ln(w'/w) ~ N(0, sigma^2), and a wrong sigma is told apart."""
    w = np.full((200, 200), -0.3, np.float32)
    hardware = Hardware(Differential(), LogNormalDrift(0.6), drift_per="weight")
    ratio = np.log((effective(hardware, w) / w).ravel().astype(np.float64))
    assert stats.kstest(ratio, stats.norm(0, 0.6).cdf).pvalue > 0.01
    assert stats.kstest(ratio, stats.norm(0, 0.63).cdf).pvalue < 1e-4


def test_the_worked_example_of_the_model_page():
    """The numbers of docs/model.md, to the digits printed there."""
    w = np.float32([[1.0, -0.25], [0.5, 0.0]])
    key, law = Key(0).fold("fc1"), LogNormalDrift(0.6)
    array = Hardware(Differential(1e-6, 5e-6), law).program(w, key, 7)
    plus, minus = [[4.587, 1.056], [1.545, 1.742]], [[0.558, 1.613], [1.213, 0.406]]
    assert np.allclose(array.drifted * 1e6, [plus, minus], atol=6e-4)
    assert np.allclose(array.weight, [[1.007, -0.139], [0.083, 0.334]], atol=6e-4)
    assert np.allclose(array.matvec(np.float32([1, 1])), [1.090, 0.195], atol=6e-4)
    together = Hardware(Differential(1e-6, 5e-6), law, drift_per="weight").program(w, key, 7)
    factor = [[0.917, 1.056], [0.515, 1.742]]
    assert np.allclose(law.apply(np.ones_like(w), key, 7), factor, atol=6e-4)
    assert np.allclose(together.weight, [[0.917, -0.264], [0.258, 0]], atol=6e-4)


# --- per cell or per weight -----------------------------------------------------------------------


def test_drift_per_weight_multiplies_even_with_a_floor():
    """Both cells of a pair get one factor, so the difference gets it too: w' = w exp(lambda)."""
    w, law = weights(50, 40), LogNormalDrift(0.5)
    hardware = Hardware(Differential(2e-5, 1e-4), law, drift_per="weight")
    array = hardware.program(w, KEY, 1)
    factor = law.apply(np.ones_like(w), KEY, 1)
    assert np.allclose(array.weight, w * factor, rtol=1e-5, atol=1e-5)


def test_drift_per_cell_with_a_floor_disturbs_even_zero_weights():
    """Each cell has its own factor: w' = w e^a + (g_min / s)(e^a - e^b) for w >= 0: harsher."""
    w, law = weights(50, 40), LogNormalDrift(0.5)
    hardware = Hardware(Differential(2e-5, 1e-4), law, drift_per="cell")
    array = hardware.program(w, KEY, 1)
    a, b = law.apply(np.ones((2, 50, 40), np.float32), KEY, 1)
    floor = 2e-5 / array.scale[0]
    expected = w * np.where(w >= 0, a, b) + floor * (a - b)
    assert np.allclose(array.weight, expected, rtol=1e-5, atol=1e-5)
    zero = Hardware(Differential(2e-5, 1e-4), law).program(np.zeros((50, 40)), KEY, 1)
    assert np.std(zero.weight) > 0.05
    together = Hardware(Differential(2e-5, 1e-4), law, drift_per="weight")
    assert np.all(together.program(np.zeros((50, 40)), KEY, 1).weight == 0)


def test_a_common_loss_cancels_at_the_floor_and_scales_the_rest():
    """Retention without spread: the floors cancel, the weight shrinks by the same factor."""
    hardware = Hardware(Differential(2e-5, 1e-4), RetentionDrift(0.1, 1e3))
    w = weights(20, 10)
    assert np.allclose(effective(hardware, w), w * 1e3**-0.1, atol=1e-6)


def test_per_weight_is_per_cell_for_the_offset_mapping():
    """It has one cell for each weight, and its reference column drifts by itself."""
    w = weights(20, 10)
    both = [Hardware(Offset(1e-6), LogNormalDrift(0.3), drift_per=p) for p in ("cell", "weight")]
    assert np.array_equal(effective(both[0], w), effective(both[1], w))


def test_the_offset_reference_is_as_imperfect_as_the_rest():
    """Every weight of a row shares the error of its reference cell."""
    hardware = Hardware(Offset(1e-6, 1e-4), LogNormalDrift(0.3))
    array = hardware.program(np.zeros((300, 200), np.float32), KEY, 0)
    by_row = array.weight.mean(axis=1)
    reference_error = -(array.drifted[0][:, -1] - array.target[0][:, -1]) / array.scale[0]
    assert np.corrcoef(by_row, reference_error)[0, 1] > 0.99


# --- order of effects -----------------------------------------------------------------------------


def stages(**effects):
    return Hardware(Differential(1e-6, 1e-4, levels=16), **effects).program(weights(60, 50), KEY, 2)


def test_a_stuck_cell_still_drifts():
    array = stages(stuck=StuckCells(0.3, 0.3), drift=LogNormalDrift(0.5))
    stuck = array.faults > 0
    assert stuck.mean() > 0.5
    assert np.all(array.drifted[stuck] != array.programmed[stuck])
    ends = np.where(array.faults == 1, np.float32(1e-6), np.float32(1e-4))
    assert np.array_equal(array.programmed[stuck], ends[stuck])


def test_programming_noise_does_not_revive_a_stuck_cell():
    array = stages(stuck=StuckCells(0.3, 0.3), programming=ProgrammingNoise(0.1))
    ends = np.where(array.faults == 1, np.float32(1e-6), np.float32(1e-4))
    stuck = array.faults > 0
    assert np.array_equal(array.drifted[stuck], ends[stuck])
    assert np.mean(array.drifted[~stuck] != array.target[~stuck]) > 0.99


def test_noise_comes_after_the_levels():
    array = stages(programming=ProgrammingNoise(0.01))
    assert len(np.unique(array.target)) == 16
    assert len(np.unique(array.programmed)) > 1000


def test_drift_multiplies_what_was_really_programmed():
    array = stages(programming=ProgrammingNoise(0.05), drift=LogNormalDrift(0.4))
    factor = LogNormalDrift(0.4).apply(np.ones_like(array.target), KEY, 2)
    assert np.allclose(array.drifted, array.programmed * factor, rtol=3e-7)


def test_faults_do_not_depend_on_the_weights_or_the_other_effects():
    one = stages(stuck=StuckCells(0.1, 0.1))
    other = stages(stuck=StuckCells(0.1, 0.1), programming=ProgrammingNoise(0.1), drift=LogNormalDrift(1.0))
    assert np.array_equal(one.faults, other.faults)


def test_effects_and_designs_up_to_one():
    hardware = Hardware(
        Differential(levels=16, clip=99.0), LogNormalDrift(0.1), ProgrammingNoise(0.1), StuckCells(0.1)
    )  # fmt: skip
    order = ("clip", "levels", "programming", "stuck", "drift")
    assert hardware.effects == order
    for k, effect in enumerate(order):
        assert hardware.up_to(effect).effects == order[: k + 1]
    assert hardware.up_to(None).effects == ()
    assert hardware.up_to("drift") == hardware
    assert Hardware().effects == ()
    w = weights(30, 20)
    assert np.allclose(effective(hardware.up_to(None), w), w, rtol=1e-6)
    stuck = hardware.up_to("stuck").program(w, KEY, 0)
    assert np.array_equal(stuck.drifted, hardware.program(w, KEY, 0).programmed)


# --- programming noise ----------------------------------------------------------------------------


def test_programming_noise_is_a_fraction_of_g_max():
    hardware = Hardware(Differential(0.0, 1e-4), programming=ProgrammingNoise(0.03))
    array = hardware.program(np.full((200, 200), 1.0, np.float32), KEY, 0)
    error = (array.programmed[0] - array.target[0]).astype(np.float64).ravel() / 1e-4
    assert stats.kstest(error, stats.norm(0, 0.03).cdf).pvalue > 0.01
    assert stats.kstest(error, stats.norm(0, 0.0315).cdf).pvalue < 1e-3, "control"
    minus = array.programmed[1] / 1e-4  # programmed to 0 S: half of them cannot go below
    assert np.all(minus >= 0)
    assert stats.binomtest(int(np.count_nonzero(minus == 0)), 40_000, 0.5).pvalue > 0.01


# Wan et al., Nature 608 (2022), 1 s after programming: aihwkit's fit in uS over g / 40 uS
WAN = tuple(c * 1e-6 for c in (0.348, 16.030, -43.853, 45.393, -16.815))


@pytest.mark.parametrize(
    ("fraction", "sigma"),
    [(0, 0.348), (0.1, 1.556), (0.25, 2.258), (0.5, 2.023), (0.75, 1.533), (1, 1.103)],
)
def test_a_polynomial_spread_keeps_its_reference(fraction, sigma):
    """A peer scales the fit to its own g_max: 1.6 times too much at 25 uS. Values from the published fit."""
    noise = PolynomialNoise(WAN, 40e-6)
    g = 40e-6 * fraction
    assert noise.sigma(g) * 1e6 == pytest.approx(sigma, abs=1e-3)
    for g_max in (40e-6, 80e-6):
        hardware = Hardware(Differential(0.0, g_max), programming=noise)
        w = np.full((100, 400), g / g_max, np.float32)
        w[0, 0] = 1.0  # keeps the scale
        planes = hardware.program(w, KEY, 0)
        error = (planes.programmed[0] - planes.target[0])[1:] * 1e6
        if g > 0:
            assert np.std(error) == pytest.approx(sigma, rel=0.02)


# --- redundancy -----------------------------------------------------------------------------------


def rms_error(copies, law, chip=0):
    w = weights(100, 100)
    hardware = Hardware(Differential(0.0, 1e-4, copies=copies), law)
    return float(np.sqrt(np.mean((effective(hardware, w, chip=chip) - w) ** 2)))


def test_copies_average_out_independent_drift():
    """The error falls as 1 / sqrt(copies); a common factor, as control, stays."""
    one = rms_error(1, NormalDrift(0.1))
    for copies in (4, 16):
        assert rms_error(copies, NormalDrift(0.1)) == pytest.approx(one / copies**0.5, rel=0.05)
    common = RetentionDrift(0.05, 1e3)
    assert rms_error(16, common) == pytest.approx(rms_error(1, common), rel=1e-4)


def test_copies_do_not_remove_the_mean_of_the_lognormal_factor():
    """The mean of exp(lambda) is exp(sigma^2 / 2): many copies converge there, not to the weight."""
    w = np.ones((100, 100), np.float32)
    hardware = Hardware(Differential(0.0, 1e-4, copies=64), LogNormalDrift(0.6))
    assert np.mean(effective(hardware, w)) == pytest.approx(np.exp(0.18), rel=0.01)


def test_each_copy_is_a_plane_of_its_own():
    hardware = Hardware(Differential(1e-6, 1e-4, copies=3), LogNormalDrift(0.5), drift_per="weight")
    array = hardware.program(np.zeros((20, 20), np.float32), KEY, 0)
    for p, q in itertools.combinations(range(6), 2):
        same = np.array_equal(array.drifted[p], array.drifted[q])
        assert same == (p // 2 == q // 2), "per weight: a pair shares, copies never do"
    per_cell = Hardware(Differential(1e-6, 1e-4, copies=3), LogNormalDrift(0.5))
    array = per_cell.program(np.zeros((20, 20), np.float32), KEY, 0)
    assert not any(
        np.array_equal(array.drifted[p], array.drifted[q]) for p, q in itertools.combinations(range(6), 2)
    )


# --- chips ----------------------------------------------------------------------------------------


def test_chips_differ_and_a_chip_is_the_same_again():
    """A peer makes a new device whenever the same one is read again."""
    hardware = Hardware(
        Differential(1e-6), LogNormalDrift(0.5), ProgrammingNoise(0.02), StuckCells(0.01, 0.01)
    )
    w = weights(30, 20)
    chips = [effective(hardware, w, chip=chip) for chip in (0, 1, 2, 2**32 - 1)]
    for a, b in itertools.combinations(chips, 2):
        assert np.mean(a != b) > 0.99
        assert abs(np.corrcoef((a - w).ravel(), (b - w).ravel())[0, 1]) < 0.2
    assert np.array_equal(effective(hardware, w, chip=2), chips[2])


def test_a_chip_has_the_same_normals_at_every_sigma():
    """ln of the ratio scales with sigma, weight by weight: curves over sigma are smooth."""
    w = weights(40, 30)[:, 1:] + np.float32(0.01)

    def logs(sigma):
        hardware = Hardware(Differential(), LogNormalDrift(sigma), drift_per="weight")
        return np.log((effective(hardware, w, chip=9) / w).astype(np.float64))

    for sigma in (0.1, 0.3, 1.2):
        assert np.allclose(logs(sigma), sigma * logs(1.0), atol=5e-6)


# --- against the twin -----------------------------------------------------------------------------


@pytest.mark.parametrize("drift_per", ["cell", "weight"])
@pytest.mark.parametrize("cls", ALL_MAPPINGS)
@pytest.mark.parametrize("law", LAWS, ids=KINDS)
def test_program_is_the_twin(law, cls, drift_per):
    """Every stage of 6 x 5 weights, cell by cell, at 1 S so that one set of laws does for all."""
    hardware = Hardware(
        cls(0.25, 2.0, scale_per="column", copies=2),
        law,
        PolynomialNoise((0.01, 0.05, -0.02), 1.5),
        StuckCells(0.15, 0.1),
        drift_per=drift_per,
    )
    w = weights(6, 5)
    got, expected = hardware.program(w, KEY, 6), reference.program(hardware, w, 17, ("fc1",), 6)
    for stage in ("target", "programmed", "drifted"):
        a, b = getattr(got, stage), getattr(expected, stage)
        assert a.shape == b.shape
        assert np.max(np.abs(a - b) / (np.abs(b) + 0.1)) < 1e-5, stage
    assert np.array_equal(got.faults, expected.faults)
    assert np.allclose(got.weight, reference.weight(hardware, w, expected.drifted), atol=1e-4)


def test_the_twin_has_power():
    """Negative control: one cell of the twin moved to another name is seen."""
    hardware = Hardware(Differential(), LogNormalDrift(0.3))
    w = weights(6, 5)
    got = hardware.program(w, KEY, 6)
    for seed, names, chip in [(18, ("fc1",), 6), (17, ("fc2",), 6), (17, ("fc1",), 5)]:
        wrong = reference.program(hardware, w, seed, names, chip)
        assert not np.allclose(got.drifted, wrong.drifted, rtol=1e-3)
