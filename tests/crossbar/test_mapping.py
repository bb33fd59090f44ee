"""Weights to conductances and back: Eq. (1) to (5)."""

import itertools

import numpy as np
import pytest
from helpers import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from crossbar_sim import ALL_MAPPINGS, Differential, Hardware, InputError, Key, Offset

WINDOWS = [(0.0, 1e-4), (1e-6, 1e-4), (3e-6, 7.7e-5), (2.5e-5, 3e-5)]
LEVELS = [None, 2, 3, 4, 15, 16, 17, 256, 1000]

mappings = pytest.mark.parametrize("cls", ALL_MAPPINGS, ids=[m.kind for m in ALL_MAPPINGS])
windows = pytest.mark.parametrize(("g_min", "g_max"), WINDOWS)


def program(mapping, w, chip=0):
    return Hardware(mapping).program(np.asarray(w, np.float32), Key(0), chip)


def ramp(n=4001):
    return np.linspace(-1, 1, n, dtype=np.float32)[:, None]


def resolution(mapping, array):
    """What one float32 rounding at g_max is in weight units, per column."""
    return float(np.spacing(np.float32(mapping.g_max))) / array.scale


# --- worked by hand -------------------------------------------------------------------------------

W = [[1.0, -0.25], [0.5, 0.0]]


def test_differential_by_hand():
    """s = (5 - 1) uS / 1 = 4 uS per unit; the worked example of docs/model.md."""
    array = program(Differential(1e-6, 5e-6), W)
    assert np.allclose(array.scale, [4e-6], rtol=1e-7)
    assert np.allclose(array.target[0] * 1e6, [[5, 1], [3, 1]], rtol=1e-6)
    assert np.allclose(array.target[1] * 1e6, [[1, 2], [1, 1]], rtol=1e-6)
    assert np.allclose(array.weight, W, atol=2e-7)


def test_offset_by_hand():
    """s = 4 uS / (2 x 1) = 2 uS per unit around 3 uS; the reference is the last column."""
    array = program(Offset(1e-6, 5e-6), W)
    assert np.allclose(array.scale, [2e-6], rtol=1e-7)
    assert np.allclose(array.target[0] * 1e6, [[5, 2.5, 3], [4, 3, 3]], rtol=1e-6)
    assert np.allclose(array.weight, W, atol=3e-7)


def test_the_least_scale_and_the_largest_weight():
    """The limit that docs/model.md states for g_max = 1e-4 S."""
    assert np.allclose(program(Differential(), [[9e32]]).weight, 9e32)
    with pytest.raises(InputError, match="rescale the weights"):
        program(Differential(), [[1.1e33]])


def test_levels_by_hand():
    """Levels 1, 2, 3, 4, 5 uS."""
    w = [[1.0, 0.8], [-0.35, 0.1]]
    array = program(Differential(1e-6, 5e-6, levels=5), w)
    assert np.allclose(array.target[0] * 1e6, [[5, 4], [1, 1]], rtol=1e-6)
    assert np.allclose(array.target[1] * 1e6, [[1, 1], [2, 1]], rtol=1e-6)
    assert np.allclose(array.weight, [[1, 0.75], [-0.25, 0]], atol=2e-7)


def test_scale_per_column_by_hand():
    array = program(Differential(0.0, 1e-4, scale_per="column"), W)
    assert np.allclose(array.scale, [1e-4, 4e-4], rtol=1e-7)
    assert np.allclose(array.target[1][0], [0, 1e-4], rtol=1e-6)
    assert np.allclose(array.weight, W, atol=2e-7)


def test_even_levels_have_no_middle_so_the_offset_mapping_takes_the_one_below():
    """Four levels 1, 2, 3, 4 uS: the middle, 2.5 uS, is none of them. Rounding it like any other target would
    move the reference half a step up and take every weight with it."""
    mapping = Offset(1e-6, 4e-6, levels=4)
    assert mapping.middle == pytest.approx(2e-6)
    array = program(mapping, [[1.0], [0.6], [0.3], [-0.3], [-0.6], [0.0]])
    assert np.allclose(array.target[0][:, 1] * 1e6, 2, rtol=1e-6)
    # s = 1.5 uS per unit: 0.6 is 0.9 of a step, 0.3 less than half of one
    assert np.allclose(array.weight[1:, 0], np.array([1, 0, 0, -1, 0]) / 1.5, atol=1e-6)


@pytest.mark.parametrize("scale_per", ["matrix", "column"])
@pytest.mark.parametrize("levels", [2, 4, 16, 256, 65536])
def test_the_largest_weight_of_an_even_number_of_levels_goes_up_in_every_window(levels, scale_per):
    """It lies half-way between two levels, where Eq. (4) says up: not the window's rounding may decide."""
    for g_min in (0.0, 1e-7, 1e-6, 3e-6):
        for g_max in (1e-5, 2e-5, 4e-5, 5e-5, 9e-5, 1e-4, 2e-4, 1e-3):
            mapping = Offset(g_min, g_max, levels=levels, scale_per=scale_per)
            array = program(mapping, [[1.0, 0.3, -0.7], [-1.0, -0.3, 0.7]])
            code = np.rint((array.target[0].astype(np.float64) - g_min) / mapping.step)
            code = code[:, :3] - code[:, 3:]
            assert code[0, 0] == levels // 2
            assert code[1, 0] == -(levels // 2 - 1)
            if scale_per == "column":
                assert code[0, 1] == code[1, 2] == levels // 2


@pytest.mark.parametrize("cls", [Differential, Offset])
def test_ties_go_up_in_every_window(cls):
    """Weights half-way between two levels: to the larger conductance, that is up for + and down for - in a pair."""
    for g_max in (1e-5, 3e-5, 7e-5, 1e-4, 1e-3):
        for levels in (4, 6, 8, 10, 14, 256):
            top = levels - 1
            steps = np.arange(-top, top + 1, dtype=np.float32)
            w = steps[:, None] / np.float32(2)  # with w_max = top / 2, half a level for each step of a pair
            if cls is Offset:
                w = steps[:, None]  # half a level for each step, w_max = top
            mapping = cls(1e-6, g_max, levels=levels)
            target = program(mapping, w).target[:, :, 0].astype(np.float64)
            codes = np.rint((target - mapping.g_min) / mapping.step)
            if cls is Differential:
                expected = np.stack([np.maximum(steps, 0), np.maximum(-steps, 0)])
            else:
                expected = np.floor(steps[None] / 2 + (levels - 1) // 2 + 0.5).clip(0, top)
            np.testing.assert_array_equal(codes, expected)


def test_integers_of_two_complement_are_exact():
    """int4 weights -8 .. 7 on 16 levels, in any window: each on a level of its own, stored with a bias of 8."""
    w = np.arange(-8, 8, dtype=np.float32).reshape(4, 4)
    for g_max in (1e-5, 3e-5, 5e-5, 1e-4):
        for cell_bits in (None, 1, 2, 4):
            mapping = Offset(1e-6, g_max, levels=16, encoding="twos_complement", cell_bits=cell_bits)
            array = program(mapping, w)
            np.testing.assert_allclose(array.weight, w, atol=2e-5)
    assert mapping.middle_level == 8
    # +8 has no code: it is stored as +7, one level below
    assert program(mapping, [[8.0], [-8.0]]).weight.ravel() == pytest.approx([7, -8], abs=2e-5)


# --- the ideal round trip -------------------------------------------------------------------------


@mappings
@windows
@pytest.mark.parametrize("scale_per", ["matrix", "column"])
@pytest.mark.parametrize("copies", [1, 3])
def test_ideal_round_trip(cls, g_min, g_max, scale_per, copies):
    """To the rounding of a conductance at g_max, which a narrow high window magnifies."""
    mapping = cls(g_min, g_max, scale_per=scale_per, copies=copies)
    w = np.sin(np.arange(30 * 20, dtype=np.float32)).reshape(30, 20) * np.geomspace(1, 1e-3, 20)
    w = w.astype(np.float32)
    array = program(mapping, w)
    error = np.abs(array.weight.astype(np.float64) - w)
    assert np.all(error <= 2 * resolution(mapping, array) + 3e-7 * np.abs(w))


@mappings
def test_negative_weights_survive(cls):
    """A peer's single-column mapping clamps them to 0."""
    w = np.float32([[-1.0, -0.5], [-0.1, 0.7]])
    for levels in (None, 101):
        read = program(cls(1e-6, 1e-4, levels=levels), w).weight
        assert np.allclose(read, w, atol=0.011)
        assert np.array_equal(np.sign(read), np.sign(w))


def test_without_a_floor_the_round_trip_is_relative():
    """g_min = 0: each weight keeps its own precision, however small beside the largest."""
    w = np.float32(np.geomspace(1e-20, 1, 2000))[:, None]
    read = program(Differential(0.0, 1e-4), w).weight
    assert np.max(np.abs(read / w - 1)) < 2e-7


@mappings
def test_hostile_sizes(cls):
    for w in ([[0.0, 0.0]], [[1e-38, -1e-38]], [[1e-45, 3e-45]], [[1e20, -1e-20]], [[3e30, 1.0]]):
        for scale_per in ("matrix", "column"):
            array = program(cls(0.0, 1e-4, scale_per=scale_per), w)
            assert np.all(np.isfinite(array.weight))
            assert np.all(np.isfinite(array.scale))
            assert np.all(array.scale > 0)
    assert np.array_equal(program(cls(1e-6, 1e-4), np.zeros((3, 2))).weight, np.zeros((3, 2)))


@mappings
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_weights_that_no_conductance_can_stand_for_are_refused(cls, bad):
    """3e38 is finite, but its scale is not a normal float32 number: the weights would come back as NaN."""
    w = np.ones((3, 2), np.float32)
    w[1, 1] = bad
    for scale_per, clip in itertools.product(("matrix", "column"), (None, 100)):
        hardware = Hardware(cls(scale_per=scale_per, clip=clip))
        with pytest.raises(InputError):
            hardware.program(w, Key(0), 0)
        with pytest.raises(InputError):
            hardware.effective_weight(np.ascontiguousarray(w.T), Key(0), 0)


# --- levels ---------------------------------------------------------------------------------------


@mappings
@windows
@pytest.mark.parametrize("levels", [n for n in LEVELS if n])
def test_levels_are_distinct_equally_spaced_and_inside_the_window(cls, g_min, g_max, levels):
    mapping = cls(g_min, g_max, levels=levels)
    # 5 % of the weights saturate, so that both ends of the window are reached whatever the parity
    w = ramp() * np.float32(1.05)
    target = program(Differential(g_min, g_max, levels=levels), w).target
    if cls is Offset:
        target = program(Offset(g_min, g_max, levels=levels, clip=90), w).target
    assert np.all(target >= np.float32(g_min))
    assert np.all(target <= np.float32(g_max))
    found = np.unique(target).astype(np.float64)
    assert len(found) == levels
    exact = g_min + mapping.step * np.arange(levels)
    assert np.max(np.abs(found - exact)) <= 1.5 * np.spacing(np.float32(g_max))


@mappings
@windows
@pytest.mark.parametrize("levels", [n for n in LEVELS if n])
def test_quantisation_is_unbiased_and_within_half_a_step(cls, g_min, g_max, levels):
    array = program(cls(g_min, g_max, levels=levels), ramp())
    error = (array.weight - ramp())[:, 0].astype(np.float64) * array.scale[0]  # in S
    step, rounding = cls(g_min, g_max, levels=levels).step, 3 * np.spacing(np.float32(g_max))
    assert np.max(np.abs(error)) <= 0.5 * step + rounding
    assert abs(np.mean(error)) <= 0.01 * step + rounding
    assert array.weight[2000, 0] == 0, "weight 0 stays 0"


@mappings
@windows
def test_more_levels_never_hurt(cls, g_min, g_max):
    """Along refinements (each set of levels contains the one before), for each single weight."""
    for few in (2, 3, 5):
        errors = []
        for doublings in range(6):
            levels = (few - 1) * 2**doublings + 1
            array = program(cls(g_min, g_max, levels=levels), ramp())
            errors.append(np.abs(array.weight - ramp()).max())
        slack = 4 * np.spacing(np.float32(g_max)) / array.scale[0]
        assert all(b <= a + slack for a, b in itertools.pairwise(errors))
        assert errors[-1] < errors[0] / 16


@mappings
def test_copies_are_quantised_alike(cls):
    w = ramp(101)
    one = program(cls(1e-6, 1e-4, levels=9), w).weight
    three = program(cls(1e-6, 1e-4, levels=9, copies=3), w).weight
    assert np.allclose(one, three, atol=1e-6)


# --- scale and clip -------------------------------------------------------------------------------


@mappings
def test_the_largest_weight_uses_the_window_and_never_more(cls):
    rng = np.random.default_rng(0)
    for _ in range(200):
        w = rng.standard_normal((3, 2)).astype(np.float32) * np.float32(rng.uniform(1e-3, 1e3))
        mapping = cls(0.0, float(rng.uniform(1e-6, 1e-3)))
        target = program(mapping, w).target
        assert target.max() <= np.float32(mapping.g_max)
        assert target.min() >= 0
        used = np.max(np.abs(w)) * program(mapping, w).scale[0]
        assert used == pytest.approx(mapping.span * mapping.g_max, rel=3e-7)


@mappings
@pytest.mark.parametrize("scale_per", ["matrix", "column"])
def test_clip_saturates_the_largest(cls, scale_per):
    w = np.float32(np.arange(-50, 51))[:, None] * np.float32([[1.0, 0.01]])
    mapping = cls(1e-6, 1e-4, clip=90.0, scale_per=scale_per)
    read = program(mapping, w).weight
    limits = np.percentile(np.abs(w), 90, axis=0 if scale_per == "column" else None)
    assert np.allclose(read, np.clip(w, -limits, limits), atol=1e-4)
    assert read.max() < w.max()
    full = program(cls(1e-6, 1e-4, clip=100.0, scale_per=scale_per), w).weight
    assert np.allclose(full, w, atol=1e-4)


def test_clip_on_a_sparse_matrix_falls_back_to_the_largest():
    w = np.zeros((100, 2), np.float32)
    w[0] = [0.5, -2.0]
    for scale_per in ("matrix", "column"):
        mapping = Differential(0.0, 1e-4, clip=50.0, scale_per=scale_per)
        assert np.allclose(program(mapping, w).weight, w, rtol=1e-6)


def test_scale_per_column_is_finer():
    """What it is for: a column of small weights uses the whole window."""
    w = ramp() * np.float32([[1.0, 0.01]])
    errors = {
        scale_per: np.abs(program(Differential(0, 1e-4, levels=16, scale_per=scale_per), w).weight - w).max(
            axis=0
        )
        for scale_per in ("matrix", "column")
    }
    assert errors["column"][1] < errors["matrix"][1] / 10
    assert errors["column"][0] == errors["matrix"][0]


def test_scale_of_empty_and_zero_columns():
    assert Differential(0, 1e-4).scale(np.zeros((0, 3), np.float32)).shape == (1,)
    per_column = Differential(0, 1e-4, scale_per="column")
    assert per_column.scale(np.zeros((0, 3), np.float32)).shape == (0,)
    scale = per_column.scale(np.float32([[0, 0], [2, 0]]))
    assert np.allclose(
        scale, [5e-5, 5e-5]
    )  # of the matrix: its errors are no larger than those of living columns
    assert np.allclose(per_column.scale(np.zeros((2, 3), np.float32)), [1e-4, 1e-4])
    assert np.allclose(per_column.scale(np.float32([[1e-31, 0], [-4, 0], [2, 1]])), [2.5e-5, 2.5e-5, 5e-5])


def test_a_dead_column_is_no_noisier_than_the_others():
    w = np.float32(np.linspace(-0.006, 0.006, 200)).reshape(50, 4)
    w[:, 2] = 0
    errors = {}
    for scale_per in ("matrix", "column"):
        hardware = Hardware.preset("reram_wan2022", scale_per=scale_per)
        found = (
            np.mean([(hardware.program(w, Key(0), chip).weight - w) ** 2 for chip in range(5)], axis=(0, 1))
            ** 0.5
        )
        errors[scale_per] = found
    for found in errors.values():
        assert found[2] < 2 * found[[0, 1, 3]].max()


def test_scale_and_inverse_are_exact_where_they_can_be():
    """A power of two costs no rounding, so w exp(lambda) comes out bit for bit (test_hardware.py)."""
    mapping = Differential(0.0, 2.0**-13)
    scale = mapping.scale(np.float32([[0.5]]))
    assert scale == np.float32(2.0**-12)
    assert mapping.inverse(scale) == np.float32(2.0**12)
    assert Differential(0.0, 2.0**-13, copies=4).inverse(scale) == np.float32(2.0**10)


# --- against the twin -----------------------------------------------------------------------------

matrices = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=5),
    elements=st.floats(-4, 4, width=32, allow_subnormal=False),
)


@settings(max_examples=150, deadline=None)
@given(
    w=matrices,
    cls=st.sampled_from(ALL_MAPPINGS),
    window=st.sampled_from(WINDOWS),
    levels=st.sampled_from(LEVELS),
    scale_per=st.sampled_from(["matrix", "column"]),
    clip=st.sampled_from([None, 60.0, 100.0]),
    copies=st.integers(1, 3),
)
def test_targets_are_the_twins(w, cls, window, levels, scale_per, clip, copies):
    mapping = cls(*window, levels=levels, scale_per=scale_per, clip=clip, copies=copies)
    hardware = Hardware(mapping)
    got = hardware.program(w, Key(0), 0)
    expected = reference.program(hardware, w, 0, (), 0)
    rounding = 4 * np.spacing(np.float32(mapping.g_max))
    difference = np.abs(got.target - expected.target)
    if levels is None:
        assert np.max(difference) <= rounding
    else:  # a target half-way between two levels may go either way
        assert np.max(difference) <= mapping.step + rounding
        scale = np.max(reference.scales(mapping, w))
        off = np.abs(got.weight - np.clip(w, -1e9, 1e9))[:, :]
        if clip is None:
            assert np.max(off) <= (0.5 * mapping.step + rounding) / np.min(got.scale)
        assert scale > 0
    assert np.allclose(
        got.weight,
        reference.weight(hardware, w, got.drifted.astype(np.float64)),
        atol=4 * float(np.spacing(np.float32(mapping.g_max)) / got.scale.min()),
        rtol=1e-6,
    )
