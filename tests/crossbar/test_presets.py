"""Presets: the published numbers, what may be overridden, and where they stop holding."""

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest

from crossbar_sim import (
    Differential,
    Hardware,
    InputError,
    Key,
    LogNormalDrift,
    Offset,
    PolynomialNoise,
    ProgrammingNoise,
    RelaxationShift,
    RetentionDrift,
    StuckCells,
)
from crossbar_sim.crossbar import configuration
from crossbar_sim.crossbar.converters import LayerRange, Ranges, drive
from crossbar_sim.crossbar.presets import (
    Range,
    ValidityWarning,
    override,
    preset,
    preset_names,
)
from crossbar_sim.crossbar.readout import Magnitudes, Usage, count_outputs, currents

US = 1e-6
DAY = 86400.0
NAMES = ("bayesft", "ideal", "isaac", "neurram", "prime", "reram_cmo2025", "reram_milo2021", "reram_wan2022")


def test_the_names():
    assert preset_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_complete_valid_and_survives_a_file(name):
    chosen, hardware = preset(name), Hardware.preset(name)
    assert chosen.name == name
    assert chosen.summary
    assert chosen.sources
    assert chosen.not_modelled
    assert chosen.warnings(hardware) == ()
    assert Hardware.from_toml(configuration.to_toml(hardware)) == hardware
    for valid in chosen.valid:  # a misspelt key would never warn
        assert valid.value(hardware) is not None
        assert valid.unit
        far = Range(valid.key, -2.0, -1.0, valid.unit)
        assert valid.key in far.warning(hardware)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("reram_")])
def test_device_presets_add_biases_digitally_and_let_each_cell_vary(name):
    hardware = Hardware.preset(name)
    assert (hardware.bias, hardware.normalisation, hardware.other) == ("digital",) * 3
    assert hardware.drift_per == "cell"


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_a_preset_has_its_source(name):
    """Every number that is not the default of its class is listed with where it is from, and nothing else is."""
    chosen = preset(name)
    given, plain = flat(configuration.to_dict(Hardware.preset(name))), flat(configuration.to_dict(Hardware()))
    numbers = {
        key
        for key, value in given.items()
        if isinstance(value, int | float | list) and not isinstance(value, bool) and value != plain.get(key)
    }
    numbers -= {key for key in given if key.endswith("percentile") or given[key] in (0, 0.0, 1)}
    sources = dict(chosen.numbers)
    assert numbers <= {*sources}, numbers - {*sources}
    assert {*sources} <= {*given}, {*sources} - {*given}
    assert all(text for text in sources.values())
    assert any("not modelled" in line for line in chosen.about())


def flat(table: dict, where: str = "") -> dict:
    out = {}
    for key, value in table.items():
        out |= flat(value, f"{where}{key}.") if isinstance(value, dict) else {f"{where}{key}": value}
    return out


def test_the_systems_have_the_tiles_cells_and_converters_of_their_papers():
    isaac, prime, neurram = (Hardware.preset(name) for name in ("isaac", "prime", "neurram"))
    assert (isaac.tile, isaac.mapping.slices, isaac.dac.slices, isaac.adc.bits) == ((128, 128), 8, 16, 8)
    assert (prime.tile, prime.mapping.slices, prime.dac.slices, prime.adc.bits) == ((256, 256), 2, 2, 6)
    assert (neurram.tile, neurram.mapping.slices, neurram.adc.bits) == ((128, 256), 1, 8)
    assert neurram.programming == Hardware.preset("reram_wan2022").programming
    for time in (1, DAY, 2 * DAY):
        wan = Hardware.preset("reram_wan2022", time=time)
        assert Hardware.preset("neurram", time=time).programming == wan.programming


@pytest.mark.filterwarnings("ignore::crossbar_sim.crossbar.presets.ValidityWarning")
def test_isaac_computes_its_products_to_the_accuracy_of_its_codes():
    """16-bit weights and inputs; sums stay below 255 steps for these weights, so nothing is clipped."""
    rng = np.random.default_rng(3)
    w = (rng.random((60, 9)) - 0.5).astype(np.float32)
    x = rng.random((5, 60)).astype(np.float32)
    y = Hardware.preset("isaac").program(w, Key(0), 0).matvec(x)
    np.testing.assert_allclose(y, x @ w, atol=3e-4)
    coarse = Hardware.preset("isaac", adc_bits=5).program(w, Key(0), 0).matvec(x)
    assert np.abs(coarse - x @ w).max() > 0.1


WEIGHTS_OF = {
    "normal": lambda z, u: z, "positive": lambda z, u: abs(z), "negative": lambda z, u: -abs(z),
    "sparse": lambda z, u: z * (u < 0.1), "equal": lambda z, u: np.ones_like(z), "of one sign": lambda z, u: u,
}  # fmt: skip
INPUTS_OF = {
    "normal": lambda z, u: z, "white": lambda z, u: np.ones_like(z), "bright": lambda z, u: 1 - 0.05 * u,
    "grey": lambda z, u: u, "negative": lambda z, u: -u, "black": lambda z, u: -np.ones_like(z),
    "mean 100": lambda z, u: 100 + z, "rectified": lambda z, u: np.maximum(z, 0),
    "either sign": lambda z, u: np.sign(z), "dark": lambda z, u: 1e-3 * u,
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in NAMES if Hardware.preset(name).adc is not None])
@pytest.mark.parametrize("weights", WEIGHTS_OF)
def test_no_system_loses_more_than_rounding_whatever_sign_mean_and_brightness_the_inputs_have(name, weights):
    """Against the design's own product with ideal ADCs: every conversion may be half a step off, none is clipped."""
    rng = np.random.default_rng(1)
    rows, cols, n = 200, 12, 8
    design = Hardware.preset(name)
    design = replace(design, programming=None, tile=(128, 128))
    w = WEIGHTS_OF[weights](rng.standard_normal((rows, cols)), rng.random((rows, cols))).astype(np.float32)
    key, slices = Key(0).fold("w"), design.mapping.slices
    for kind, inputs in INPUTS_OF.items():
        x = inputs(rng.standard_normal((n, rows)), rng.random((n, rows))).astype(np.float32)
        ideal = replace(design, adc=None).program(w, key)
        driven = drive(x, design.dac, None, "w")
        seen = [Magnitudes() for _ in range(slices)]
        for _, _, k, i in currents(ideal.readout, driven):
            seen[k].add(i)
        ranges = tuple(m.percentile(100.0) or 1.0 for m in seen)
        calibrated = replace(design, ranges=Ranges.of({"w": LayerRange(None, ranges)}))
        readout = calibrated.program(w, key).readout
        usage = Usage(design.adc.top(design.dac), design.adc.signed(design.dac))
        count_outputs(readout, driven, usage)
        assert usage.clipped == 0, kind
        # Eq. (29): half a step for every conversion, in units of the output
        quantiser, counts = readout.quantiser(driven.full_scale), readout.silent.weights
        tiles, columns = 2, 2 if design.mapping.planes_per_copy == 1 and design.adc.per == "column" else 1
        per_read = np.broadcast_to(quantiser.step, (len(counts), 1, 1)).reshape(-1)
        bound = 0.5 * tiles * columns * np.abs(counts) @ per_read * np.abs(driven.weights).sum()
        bound = bound * driven.unit * float(readout.inverse.max())
        if design.adc.range == "granular":
            bound = 1e-3 * bound  # steps of one level: exact, as far as g_min is none
        error = np.abs(readout.product(x) - ideal.matvec(x)).max(axis=1)
        assert np.all(error <= bound + 1e-3 * np.abs(x).max(axis=1) * np.abs(w).max()), kind


@pytest.mark.filterwarnings("ignore::crossbar_sim.crossbar.presets.ValidityWarning")
@pytest.mark.parametrize("bits", [5, 7, 8])
@pytest.mark.parametrize("rows", [100, 256])
def test_flipped_columns_are_the_twin(bits, rows):
    """Column by column and tile by tile in integers: complements convert, and what they lack is added digitally."""
    rng = np.random.default_rng(2)
    isaac = Hardware.preset("isaac", adc_bits=bits, tile=(rows, 128), g_min=0.0)
    dac = replace(isaac.dac, bits=4, range=15.0)
    design = replace(isaac, dac=dac, mapping=replace(isaac.mapping, levels=256))
    w, x = rng.integers(-128, 127, (256, 6)), rng.integers(-15, 16, (5, 256))
    w[0, 0], w[:, 1], w[:, 2] = -128, 100, -100
    stored = np.concatenate([w, np.zeros((256, 1), int)], axis=1) + 128
    top, y = 2**bits - 1, np.zeros((5, 7), int)
    for sign in (1, -1):
        for s in range(4):
            a = np.maximum(sign * x, 0) >> s & 1
            for k in range(4):
                digits = stored >> (2 * k) & 3
                for start in range(0, 256, rows):
                    own, on = digits[start : start + rows], a[:, start : start + rows]
                    flipped = own.sum(axis=0) > 1.5 * len(own)
                    plain, turned = (np.minimum(on @ part, top) for part in (own, 3 - own))
                    y += sign * 2**s * 4**k * np.where(flipped, 3 * on.sum(axis=1)[:, None] - turned, plain)
    found = design.program(w.astype(np.float32), Key(0)).matvec(x.astype(np.float32))
    np.testing.assert_array_equal(np.rint(found), y[:, :6] - y[:, 6:])
    if bits == 8 and rows == 100:
        np.testing.assert_array_equal(np.rint(found), x @ w)
    if bits == 5:
        assert not np.array_equal(np.rint(found), x @ w)


def test_isaac_reads_white_images_as_it_reads_black_ones():
    """Stored with a bias of 2^15 and flipped where a column is full, no sum leaves 8 bits: 16-bit products."""
    isaac = Hardware.preset("isaac")
    assert isaac.mapping.middle_level == 2**15
    w = np.random.default_rng(0).standard_normal((784, 10)).astype(np.float32)
    array = isaac.program(w, Key(0))
    digits = np.rint((array.target[:, 0, -1] - 5e-7) / isaac.mapping.cell_step)
    assert digits.tolist() == [0, 0, 0, 0, 0, 0, 0, 2]
    for x in (np.ones(784), 1 - np.eye(784)[300], -np.ones(784)):
        x = x.astype(np.float32)
        np.testing.assert_allclose(array.matvec(x), x @ array.weight, atol=784 * 2.0**-15 * np.abs(w).max())


def test_ideal_is_ideal():
    assert Hardware.preset("ideal") == Hardware()
    assert Hardware.preset("ideal").effects == ()


def test_bayesft_is_the_papers_protocol():
    assert Hardware.preset("bayesft") == Hardware(
        mapping=Differential(0.0, 1e-4),
        drift=LogNormalDrift(0.6),
        drift_per="weight",
        bias="drifting",
        normalisation="drifting",
        other="drifting",
    )
    assert Hardware.preset("bayesft", sigma=1.5).drift == LogNormalDrift(1.5)


# sigma in uS at r = g / 40 uS, evaluated from the fit to Wan et al. 2022
WAN = {
    1.0: (0.348, 1.556, 2.258, 2.023, 1.533, 1.103),
    DAY: (0.701, 2.447, 3.721, 3.909, 3.366, 2.651),
    2 * DAY: (0.782, 2.410, 3.664, 3.929, 3.374, 2.677),
}


@pytest.mark.parametrize("time", WAN)
def test_wan_has_the_spread_of_its_source(time):
    noise = Hardware.preset("reram_wan2022", time=time).programming
    assert isinstance(noise, PolynomialNoise)
    for r, expected in zip((0, 0.1, 0.25, 0.5, 0.75, 1), WAN[time], strict=True):
        assert noise.sigma(r * 40 * US) == pytest.approx(expected * US, abs=6e-10)


def test_wan_starts_at_one_second():
    assert Hardware.preset("reram_wan2022") == Hardware.preset("reram_wan2022", time=1)


@pytest.mark.parametrize("g_max", [40 * US, 25 * US])
def test_wan_spread_is_absolute_whatever_the_window(g_max):
    """In a window of 25 uS the spread at 6.25 uS is 1.95 uS, 7.8 % of g_max, not that of 10 uS."""
    hardware = Hardware.preset("reram_wan2022", g_max=g_max)
    w = np.full((200, 200), 0.25, np.float32)
    w[0, 0] = 1.0
    cells = hardware.program(w, Key(0), 0).programmed[0][1:]
    r = 0.25 * g_max / (40 * US)
    poly = (0.348, 16.030, -43.853, 45.393, -16.815)
    expected = sum(c * r**k for k, c in enumerate(poly)) * US
    assert cells.std() == pytest.approx(expected, rel=0.02)
    assert cells.mean() == pytest.approx(0.25 * g_max, rel=0.01)


def test_milo_has_the_spread_of_its_source():
    hardware = Hardware.preset("reram_milo2021")
    assert (hardware.mapping.g_min, hardware.mapping.g_max) == (50e-6, 225e-6)
    assert hardware.programming.sigma(50 * US) == pytest.approx(4.326971 * US)
    assert hardware.programming.sigma(225 * US) == pytest.approx(2.733246 * US)


def test_cmo_programming_has_the_spread_of_its_source():
    fine, coarse = (Hardware.preset("reram_cmo2025", acceptance=a) for a in (0.002, 0.02))
    assert fine == Hardware.preset("reram_cmo2025")
    assert fine.programming.sigma(88.2 * US) == pytest.approx(0.09507835 * US, rel=1e-6)
    assert coarse.programming.sigma(88.2 * US) == pytest.approx(1.00702072 * US, rel=1e-6)


# time: mean, and spread with the source's read noise at 50 uS added, in uS
CMO = {1.0: (0, 0.446), 3600.0: (-0.73, 0.79), DAY: (-1.01, 0.92), 365.25 * DAY: (-1.53, 1.17)}


@pytest.mark.parametrize("time", [*CMO, 3652.5 * DAY])
def test_cmo_relaxes_as_its_source(time):
    law = Hardware.preset("reram_cmo2025", time=time).drift
    assert isinstance(law, RelaxationShift)
    mean, spread = (CMO | {3652.5 * DAY: (-1.74, 1.26)})[time]
    read = 0.0277316 * math.log10(50) * math.sqrt(math.log((time + US) / (2 * US)))
    assert law.mean == pytest.approx(mean * US, abs=0.01 * US)
    assert math.hypot(law.spread, read * US) == pytest.approx(spread * US, abs=0.006 * US)
    assert law.spread == pytest.approx((0.04201137 * math.log(time) + 0.41183342) * US)


@pytest.mark.parametrize(
    ("name", "overrides", "pieces"),
    [
        ("bayesft", {"sgima": 1}, ["'sgima'", "did you mean 'sigma'", "stuck_off"]),
        ("bayesft", {"sigma": -1}, ["sigma=-1", "0 .. 12"]),
        ("bayesft", {"sigma": "0.6"}, ["sigma='0.6'"]),
        ("bayesft", {"drift": 0.6}, ["drift=0.6", "LogNormalDrift(0.6)"]),
        ("bayesft", {"sigma": 1, "drift": LogNormalDrift(1)}, ["sigma and drift"]),
        ("bayesft", {"time": 5}, ["time=5", "lognormal drift"]),
        ("ideal", {"time": 5}, ["time=5", "no drift"]),
        ("ideal", {"acceptance": 0.02}, ["'acceptance'"]),
        ("ideal", {"g_max": -1}, ["g_max=-1"]),
        ("ideal", {"tile": 5}, ["tile=5"]),
        ("ideal", {"stuck_off": 2}, ["off=2"]),
        ("reram_wan2022", {"time": 3600}, ["time=3600", "1 (1 s", "86400 (1 d)", "172800 (2 d)"]),
        ("reram_wan2022", {"time": True}, ["time=True"]),
        ("reram_wan2022", {"time": math.nan}, ["time=nan"]),
        ("reram_wan2022", {"time": 1, "programming_sigma": 0.1}, ["time and programming_sigma"]),
        ("reram_cmo2025", {"time": 0.5}, ["time=0.5", "1 s"]),
        ("reram_cmo2025", {"time": 60, "sigma": 0.6}, ["time=60", "lognormal"]),
        # aihwkit takes its own default, 2e-2, for the 0.2 % class: nothing is guessed here
        ("reram_cmo2025", {"acceptance": 2}, ["acceptance=2", "0.002 (0.2 %", "0.02 (2 %)"]),
    ],
)
def test_overrides_that_cannot_be_are_refused(name, overrides, pieces):
    with pytest.raises(InputError) as caught:
        Hardware.preset(name, **overrides)
    assert "\n" not in str(caught.value)
    for piece in pieces:
        assert piece in str(caught.value)


@pytest.mark.parametrize("name", ["bayesfit", "", None, 3, "../bayesft", "bayesft.toml"])
def test_unknown_presets_are_refused_with_the_known_ones(name):
    with pytest.raises(InputError, match=r"(K|k)nown: ") as caught:
        Hardware.preset(name)
    assert all(known in str(caught.value) for known in NAMES)


def test_flat_overrides_reach_their_fields():
    hardware = override(
        Hardware(), sigma=0.3, g_min=1e-6, g_max=5e-5, levels=32, scale_per="column", clip=99.5,
        copies=4, stuck_off=0.01, stuck_on=0.02, programming_sigma=0.05, tile=(64, 32), bias="row",
    )  # fmt: skip
    assert hardware == Hardware(
        mapping=Differential(1e-6, 5e-5, 32, "column", 99.5, 4),
        drift=LogNormalDrift(0.3),
        programming=ProgrammingNoise(0.05),
        stuck=StuckCells(0.01, 0.02),
        tile=(64, 32),
        bias="row",
    )


def test_flat_overrides_act_on_the_objects_given_with_them():
    hardware = override(Hardware(), mapping=Offset(), levels=4, drift=RetentionDrift(0.1, 1.0), time=DAY)
    assert hardware.mapping == Offset(levels=4)
    assert hardware.drift == RetentionDrift(0.1, DAY)
    assert override(hardware, stuck=StuckCells(on=0.1), stuck_off=0.2).stuck == StuckCells(0.2, 0.1)


def test_none_switches_off():
    hardware = Hardware.preset("bayesft", sigma=None, programming_sigma=None, levels=None)
    assert hardware.effects == ()


def test_choices_and_overrides_combine():
    hardware = Hardware.preset("reram_wan2022", time=DAY, levels=16)
    hardware = preset("reram_wan2022").override(hardware, {"stuck_off": 0.01})
    assert hardware.mapping.levels == 16
    assert hardware.stuck == StuckCells(off=0.01)
    assert hardware.programming.sigma(0) == pytest.approx(0.701 * US)


def test_outside_its_range_a_preset_warns_with_both_values_and_the_unit():
    with pytest.warns(ValidityWarning) as caught:
        Hardware.preset("reram_cmo2025", g_min=1e-6, time=1e10)
    assert caught[0].filename == __file__
    assert [str(w.message) for w in caught] == [
        "preset reram_cmo2025: mapping.g_min=1e-06 S lies outside 9e-06 .. 8.82e-05 S, "
        "where its numbers hold",
        "preset reram_cmo2025: drift.time=1e+10 s lies outside 1 .. 3.15576e+08 s, where its numbers hold",
    ]


def test_inside_its_range_a_preset_is_silent():
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for name in NAMES:
            assert Hardware.preset(name, copies=2).mapping.copies == 2
        Hardware.preset("reram_wan2022", g_max=25 * US, time=DAY)
        Hardware.preset("reram_cmo2025", drift=LogNormalDrift(0.2))
    assert [str(each.message) for each in said] == []


def test_a_preset_is_hashable_and_unchanged_by_overriding():
    before = preset("bayesft")
    Hardware.preset("bayesft", sigma=1.0, copies=3)
    assert hash(before) == hash(preset("bayesft"))
    assert Hardware.preset("bayesft").drift == LogNormalDrift(0.6)
