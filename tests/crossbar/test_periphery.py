"""Converters around an array, against the slow twin, the page's worked example and the physics in sentences."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from helpers import periphery_twin

from crossbar_sim import Differential, Hardware, InputError, Key, LogNormalDrift, Offset
from crossbar_sim.crossbar.converters import ADC, DAC, LayerRange, Ranges, drive, mismatch
from crossbar_sim.crossbar.stream import Stream

KEY = Key(3).fold("fc1")
W4 = np.array([[3, -1, 0, 2], [1, 2, -3, 0], [-2, 0, 1, 3], [0, -3, 2, -1]], np.float32)
X4 = np.array([1.0, -0.5, 0.25, 0.75], np.float32)
PAGE = Hardware(
    Differential(0.0, 3e-6), tile=(2, 4), dac=DAC(bits=3, range=1.0), adc=ADC(bits=4, range="max")
)
"""The worked example of docs/periphery.md."""


def normals(*shape: int, name: str = "x") -> np.ndarray:
    size = int(np.prod(shape))
    return Stream.of(Key(7).fold(name), 0).normals(size).reshape(shape)


def test_the_worked_example_of_the_page():
    y = PAGE.program(W4, KEY, 0).matvec(X4)
    np.testing.assert_allclose(y, np.array([2, -5, 4, 2]) * 6 / 7, rtol=1e-6)
    per_column = replace(PAGE, adc=replace(PAGE.adc, per="column")).program(W4, KEY, 0)
    np.testing.assert_allclose(per_column.matvec(X4), np.array([2, -5, 4, 2]) * 6 / 7, rtol=1e-6)
    serial = replace(
        PAGE,
        mapping=replace(PAGE.mapping, levels=4),
        dac=replace(PAGE.dac, slice_bits=1),
        adc=ADC(bits=4, range="granular"),
    )
    y = serial.program(W4, KEY, 0).matvec(X4)
    np.testing.assert_allclose(y, np.array([3, -2, 1, 2]) @ W4 / 3, rtol=1e-6)
    np.testing.assert_allclose(y, np.array([5, -13, 11, 7]) / 3, rtol=1e-6)


MAPPINGS = (
    Differential(1e-6, 5e-5),
    Offset(1e-6, 5e-5, copies=2),
    Differential(0.0, 6e-5, levels=64, cell_bits=4),
    Offset(2e-6, 6e-5, levels=256, cell_bits=3),
)
DACS = (
    None,
    DAC(bits=None, range=1.5),
    DAC(bits=6),
    DAC(bits=5, range=1.2, signed="two-phase"),
    DAC(bits=6, range=2.0, slice_bits=2),
    DAC(bits=6, signed="two-phase", slice_bits=4),
)
ADCS = (ADC(bits=7, range=6e-5), ADC(bits=6, range=9e-5, per="column"), ADC(bits=None, range=1.0))


@pytest.mark.parametrize(
    ("mapping", "dac", "adc"),
    list(itertools.product(MAPPINGS, DACS, ADCS)),
    ids=lambda part: getattr(part, "kind", "no"),
)
def test_every_design_is_the_twin(mapping, dac, adc):
    hardware = Hardware(mapping, LogNormalDrift(0.3), tile=(3, 4), dac=dac, adc=adc)
    w, x = normals(7, 5, name="w"), normals(4, 7)
    array = hardware.program(w, KEY, 2)
    full = None if dac is None or dac.range == "dynamic" else dac.range
    slices = mapping.slices
    found = array.matvec(x)
    unlike = 0
    for row, values in enumerate(x):
        expected = periphery_twin.product(
            array.drifted, mapping, float(array.scale[0]), 3, dac, adc, values.tolist(), full,
            [adc.range] * slices,
        )  # fmt: skip
        close = np.isclose(found[row], expected, rtol=1e-4, atol=1e-5)
        unlike += int(np.count_nonzero(~close))
    # a current within rounding of half a step may get the next code: one step of one conversion
    assert unlike <= 1
    assert np.std(found) > 0.1


@pytest.mark.parametrize("mapping", [Differential, Offset])
@pytest.mark.parametrize("per", ["pair", "column"])
@pytest.mark.parametrize("steps", [2, 4, 6, 10, 14, 22, 26])
def test_currents_half_way_between_two_codes_go_to_the_even_one(mapping, per, steps):
    """Where a step is an even number of levels, sums of levels lie on the edge of a code: Eq. (22) rounds to even."""
    rng = np.random.default_rng(4)
    for levels, g_max, g_min in ((4, 2e-5, 1e-6), (16, 1.5e-5, 1e-6), (5, 1e-3, 0.0), (255, 1e-5, 1e-6)):
        if per == "column" and g_min > 0:
            continue  # g_min lies between the codes
        design = mapping(g_min, g_max, levels=levels, copies=2)
        largest = levels - 1 if mapping is Differential else (levels - 1) // 2
        w = rng.integers(-largest, largest + 1, (64, 16))
        w[0] = largest
        x = rng.integers(-1, 2, (50, 64))
        if mapping is Offset and levels % 2 == 0:  # w_max is half a level more than a whole number of them
            design = replace(design, encoding="twos_complement")
            w[0] = -levels // 2
        converter = ADC(bits=14, range=8191 * steps * design.step, per=per)
        hardware = Hardware(design, tile=(32, 8), dac=DAC(bits=2, range=1.0), adc=converter)
        found = np.rint(hardware.program(w.astype(np.float32), KEY).matvec(x.astype(np.float32)) / steps)
        tiles = [(x[:, t : t + 32], w[t : t + 32]) for t in (0, 32)]
        if per == "pair":
            codes = sum(np.rint(a @ b / steps) for a, b in tiles)
        elif mapping is Differential:
            codes = sum(
                np.rint(a @ np.maximum(b, 0) / steps) - np.rint(a @ np.maximum(-b, 0) / steps)
                for a, b in tiles
            )
        else:
            zero = design.middle_level
            codes = sum(
                np.rint(a @ (b + zero) / steps) - np.rint(a @ (0 * b + zero) / steps) for a, b in tiles
            )
        np.testing.assert_array_equal(found, codes)


@pytest.mark.parametrize("full", [0.3, 0.7, 1.1, 3.0, 255.0])
@pytest.mark.parametrize("way", ["sign-magnitude", "two-phase"])
def test_inputs_half_way_between_two_codes_go_to_the_even_one(full, way):
    """Eq. (18): halves of the full scale lie between two codes, whatever full scale is."""
    x = np.float32(full) * np.array([[1, 0.5, -0.5, 0.25, -0.75]], np.float32)
    for bits in (2, 4, 8):
        for limits in ("dynamic", full):
            dac = DAC(bits=bits, range=limits, signed=way)
            driven = drive(x, dac, None, "w")
            codes = driven.weights @ driven.codes[:, 0]
            np.testing.assert_array_equal(codes, np.rint(np.array([1, 0.5, -0.5, 0.25, -0.75]) * dac.top))


def test_mismatch_is_the_twin_and_a_property_of_the_chip():
    adc = ADC(bits=6, range=6e-5, share=2, gain_sigma=0.05, offset_sigma=0.02)
    hardware = Hardware(MAPPINGS[0], tile=(3, 4), dac=DAC(bits=6), adc=adc)
    w, x = normals(7, 5, name="w"), normals(3, 7)
    array = hardware.program(w, KEY, 2)
    expected = [
        periphery_twin.product(
            array.drifted, hardware.mapping, float(array.scale[0]), 3, hardware.dac, adc, values.tolist(), None,
            [6e-5], (0.05, 0.02, 3, ("fc1",), 2),
        )
        for values in x
    ]  # fmt: skip
    np.testing.assert_allclose(array.matvec(x), expected, rtol=1e-4, atol=1e-5)
    assert np.array_equal(array.matvec(x), hardware.program(w, KEY, 2).matvec(x))
    assert not np.array_equal(array.matvec(x), hardware.program(w, KEY, 3).matvec(x))
    ideal = replace(hardware, adc=replace(adc, gain_sigma=0.0, offset_sigma=0.0)).program(w, KEY, 2)
    assert not np.array_equal(array.matvec(x), ideal.matvec(x))


def test_groups_share_the_converter_of_their_reference_column():
    adc, key = ADC(bits=8, per="column", gain_sigma=0.1, offset_sigma=0.1, range=1.0), KEY.fold("w")
    whole = mismatch(adc, key, 0, (2, 3, 601))
    for first in (0, 300):
        for every, own in zip(whole, mismatch(adc, key, 0, (2, 3, 301), first, 600), strict=True):
            np.testing.assert_array_equal(own[..., :-1], every[..., first : first + 300])
            np.testing.assert_array_equal(own[..., -1], every[..., 600])


@pytest.mark.parametrize("mapping", MAPPINGS)
@pytest.mark.parametrize("per", ["pair", "column"])
def test_ideal_converters_are_the_linear_read_out_to_float32_rounding(mapping, per):
    hardware = Hardware(mapping, LogNormalDrift(0.3), tile=(16, 4))
    w, x = normals(40, 5, name="w"), normals(6, 40)
    linear = hardware.program(w, KEY, 0)
    around = replace(hardware, dac=DAC(), adc=ADC(range="max", per=per)).program(w, KEY, 0)
    expected = x.astype(np.float64) @ linear.weight.astype(np.float64)
    np.testing.assert_allclose(around.matvec(x), expected, atol=3e-6 * np.abs(expected).max())
    np.testing.assert_array_equal(around.weight, linear.weight)


def error(hardware: Hardware, w: np.ndarray, x: np.ndarray) -> float:
    exact = x.astype(np.float64) @ w
    return float(np.linalg.norm(hardware.program(w, KEY, 0).matvec(x) - exact) / np.linalg.norm(exact))


def test_a_bit_more_halves_the_error():
    w, x = normals(64, 8, name="w"), normals(50, 64)
    base = Hardware(dac=DAC(), adc=ADC(bits=6, range="max"), tile=(32, 8))
    errors = [error(replace(base, adc=replace(base.adc, bits=bits)), w, x) for bits in range(6, 15)]
    ratios = np.array(errors[:-1]) / np.array(errors[1:])
    assert np.all((ratios > 1.7) & (ratios < 2.4))
    errors = [error(replace(base, adc=None, dac=DAC(bits=bits)), w, x) for bits in range(5, 12)]
    ratios = np.array(errors[:-1]) / np.array(errors[1:])
    assert np.all((ratios > 1.7) & (ratios < 2.4))


def test_a_range_that_is_exceeded_clips_and_one_that_is_not_does_not():
    w = np.full((4, 1), 1.0, np.float32)
    base = Hardware(Differential(0.0, 1e-4), dac=DAC(range=1.0), adc=ADC(bits=8, range=2e-4), tile=(4, 1))
    x = np.array([[1.0] * 4, [0.5] * 4, [0.25] * 4], np.float32)  # 4, 2 and 1 times 1e-4 A
    np.testing.assert_allclose(base.program(w, KEY, 0).matvec(x)[:, 0], [2.0, 2.0, 1.0], rtol=0.01)
    x = np.array([[2.0, 0, 0, 0], [-3.0, 0, 0, 0]], np.float32)  # beyond the DAC's 1.0
    np.testing.assert_allclose(base.program(w, KEY, 0).matvec(x)[:, 0], [1.0, -1.0], rtol=0.01)


def test_signs_are_treated_alike():
    base = Hardware(dac=DAC(bits=6), adc=ADC(bits=5, range=1e-4), tile=(8, 8))
    w, x = normals(20, 6, name="w"), normals(9, 20)
    for signed in ("sign-magnitude", "two-phase"):
        array = replace(base, dac=replace(base.dac, signed=signed)).program(w, KEY, 0)
        np.testing.assert_allclose(array.matvec(-x), -array.matvec(x), rtol=1e-5, atol=1e-6)


def test_two_phases_cancel_the_offsets_of_unused_word_lines():
    adc = ADC(bits=12, range="max", offset_sigma=0.05)
    w, x = normals(20, 6, name="w"), np.zeros((1, 20), np.float32)
    one = Hardware(dac=DAC(bits=6), adc=adc, tile=(8, 8)).program(w, KEY, 0)
    two = Hardware(dac=DAC(bits=6, signed="two-phase"), adc=adc, tile=(8, 8)).program(w, KEY, 0)
    assert np.abs(one.matvec(x)).max() > 0.1
    np.testing.assert_allclose(two.matvec(x), 0, atol=1e-6)


def test_a_batch_is_its_vectors():
    hardware = Hardware(dac=DAC(bits=6), adc=ADC(bits=5, range=1e-4), tile=(8, 8))
    array = hardware.program(normals(20, 6, name="w"), KEY, 0)
    x = normals(9, 20)
    np.testing.assert_array_equal(array.matvec(x), np.stack([array.matvec(v) for v in x]))


def test_calibrated_ranges_are_those_of_the_arrays_name():
    ranges = Ranges.of({"fc1": LayerRange(1.5, (2e-4,)), "fc2": LayerRange(3.0, (9e-4,))})
    asked = Hardware(dac=DAC(bits=6, range="calibrated"), adc=ADC(bits=5), tile=(8, 8))
    given = replace(asked, dac=DAC(bits=6, range=1.5), adc=ADC(bits=5, range=2e-4))
    w, x = normals(20, 6, name="w"), normals(9, 20)
    calibrated = replace(asked, ranges=ranges).program(w, KEY, 0)
    np.testing.assert_array_equal(calibrated.matvec(x), given.program(w, KEY, 0).matvec(x))
    for hardware in (asked, replace(asked, ranges=Ranges.of({"fc2": LayerRange(3.0, (9e-4,))}))):
        with pytest.raises(InputError, match=r"fc1: dac\.range='calibrated' needs ranges"):
            hardware.program(w, KEY, 0).matvec(x)
    with pytest.raises(InputError, match=r"fc1: adc\.range='calibrated' needs ranges"):
        replace(asked, dac=None).program(w, KEY, 0).matvec(x)


def test_impossible_designs_are_refused():
    cases = {
        "no full scale": {"adc": ADC(bits=8, range="max")},
        "it needs adc.bits, dac.bits and mapping.levels": {
            "adc": ADC(bits=8, range="granular"),
            "dac": DAC(bits=8),
        },
        "no bit for the sign": {"adc": ADC(bits=1), "dac": DAC(bits=8)},
    }
    for sentence, parts in cases.items():
        with pytest.raises(InputError, match=sentence):
            Hardware(**parts)
    one = Hardware(dac=DAC(bits=1, signed="two-phase"), adc=ADC(bits=1, per="column", range="max"))
    assert one.adc.codes(one.dac) == 2


def test_inputs_that_do_not_fit_are_refused():
    array = PAGE.program(W4, KEY, 0)
    with pytest.raises(InputError, match=r"x has shape \(3,\): expected \(batch, 4\)"):
        array.matvec(np.ones(3, np.float32))
    with pytest.raises(InputError, match="no dac, adc or read_noise"):
        Hardware().program(W4, KEY, 0).readout  # noqa: B018 - refuses
    for dac in DACS:
        array = replace(PAGE, dac=dac, adc=ADC(bits=4, range=1e-5)).program(W4, KEY, 0)
        for value, count in ((np.inf, 1), (-np.inf, 2), (np.nan, 3)):
            x = np.ones((2, 4), np.float32)
            x[0, :count] = value
            with pytest.raises(InputError, match=f"the inputs hold {count} NaN or infinite values of 8"):
                array.matvec(x)


@pytest.mark.parametrize("dac", DACS)
def test_next_to_nothing_and_nothing_are_read(dac):
    array = replace(PAGE, dac=dac, adc=ADC(bits=4, range=1e-5)).program(W4, KEY, 0)
    assert not np.abs(array.matvec(np.full(4, 1e-38, np.float32))).any()
    assert array.matvec(np.zeros((0, 4), np.float32)).shape == (0, 4)
    design = PAGE if dac is None else replace(PAGE, dac=dac)
    empty = design.program(np.zeros((0, 3), np.float32), KEY, 0)
    assert np.array_equal(empty.matvec(np.zeros((2, 0), np.float32)), np.zeros((2, 3)))
