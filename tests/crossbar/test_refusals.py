"""Every impossible value of every part of a design is refused, in one line that quotes it."""

import math
from dataclasses import fields

import numpy as np
import pytest

from crossbar_sim import Hardware, InputError, LogNormalDrift
from crossbar_sim.crossbar.hardware import CHOICES, FAMILIES
from crossbar_sim.validate import show

POSSIBLE = {
    "lognormal": {"sigma": 0.6},
    "normal": {"sigma": 0.1},
    "normal_shift": {"sigma": 1e-6},
    "uniform": {"sigma": 0.1},
    "uniform_shift": {"sigma": 1e-6},
    "laplace": {"sigma": 0.1},
    "laplace_shift": {"sigma": 1e-6},
    "gamma": {"sigma": 0.3},
    "pareto": {"alpha": 3.0},
    "bernoulli": {"p": 0.1},
    "retention": {"nu": 0.1, "time": 3600.0, "t0": 1.0, "nu_sigma": 0.01},
    "relaxation": {"time": 60.0, "mean_per_ln": -1e-8, "sigma": 1e-7, "sigma_per_ln": 1e-8},
    "measured_relaxation": {
        "time": 60.0, "reference": 4e-5, "mean_per_ln": (1e-8, -2e-8), "spread": (1e-7, 1e-7), "spread_per_ln": (1e-8,)
    },
    "differential": {"g_min": 1e-6, "g_max": 1e-4, "levels": 16, "clip": 99.0, "copies": 2},
    "offset": {"g_min": 1e-6, "g_max": 1e-4, "levels": 16, "clip": 99.0, "copies": 2},
    "constant": {"sigma": 0.05},
    "polynomial": {"coefficients": (1e-7, 1e-6), "reference": 4e-5},
    "measured": {"coefficients": (1e-7, 1e-6), "reference": 4e-5, "mean": (1e-8, -2e-7)},
    "stuck": {"off": 0.01, "on": 0.01},
    "wires": {"r_word": 1.0, "r_bit": 2.0, "r_source": 100.0, "r_sense": 10.0, "tolerance": 1e-6},
    "dac": {"bits": 8, "range": 1.5, "slice_bits": 2, "percentile": 99.0},
    "adc": {"bits": 8, "range": 1e-3, "percentile": 99.0, "share": 8, "gain_sigma": 0.01, "offset_sigma": 0.01},
    "gaussian": {"sigma": 0.01},
    "telegraph": {"amplitude": 0.1, "occupancy": 0.3},
}  # fmt: skip
WORDS = {"scale_per", "cell_bits", "encoding", "signed", "per", "of", "inputs", "method"}
OPTIONAL = {"levels", "clip", "bits", "slice_bits"}
PARTS = {name: family for name, family in FAMILIES.items() if name != "ranges"}  # a table: test_ranges.py
CLASSES = {kind: cls for family in PARTS.values() for kind, cls in family.kinds.items()}
NO_NUMBERS = [math.nan, math.inf, -math.inf, True, "0.6", [1.0], {}, 1j, 10**400, np.ones((9, 9))]
OUT_OF_RANGE = {
    "lognormal": [{"sigma": -0.1}, {"sigma": 12.1}],
    "normal": [{"sigma": -0.1}, {"sigma": 1e31}],
    "normal_shift": [{"sigma": -1e-6}],
    "uniform": [{"sigma": -0.1}],
    "uniform_shift": [{"sigma": -1e-6}],
    "laplace": [{"sigma": -0.1}],
    "laplace_shift": [{"sigma": -1e-6}],
    "gamma": [{"sigma": -0.1}, {"sigma": 3.5}],
    "pareto": [{"alpha": 1.0}, {"alpha": -2.0}],
    "bernoulli": [{"p": -0.1}, {"p": 1.1}],
    "retention": [{"time": 0.0}, {"t0": 0.0}, {"t0": -1.0}, {"nu_sigma": -0.1}, {"nu": 1e3},
                  {"time": 1e308, "t0": 1e-308, "nu": 1.0}],
    "relaxation": [{"time": 0.5}, {"time": -1.0}, {"sigma": -1.0}, {"sigma_per_ln": -1.0}],
    "measured_relaxation": [{"time": 0.5}, {"reference": 0.0}, {"spread": ()}, {"mean_per_ln": (1e27,)},
                            {"spread_per_ln": (0.0,) * 17}],
    "differential": [{"g_min": -1e-6}, {"g_max": 1e-6}, {"g_max": 0.5e-6}, {"levels": 1},
                     {"levels": 2**21}, {"clip": 0.0}, {"clip": 100.1}, {"copies": 0},
                     {"copies": 1025}, {"g_max": 1e31}, {"scale_per": "row"}],
    "offset": [{"g_min": -1e-6}, {"g_max": 1e-6}, {"levels": 0}, {"copies": -1}, {"encoding": "flip"},
               {"encoding": "twos_complement", "levels": 15}, {"encoding": "twos_complement", "levels": None}],
    "constant": [{"sigma": -0.1}, {"sigma": 1001.0}],
    "polynomial": [{"reference": 0.0}, {"reference": -1e-6}, {"coefficients": ()},
                   {"coefficients": (1e31,)}, {"coefficients": (0.0,) * 17}],
    "measured": [{"reference": 0.0}, {"mean": (1e31,)}, {"mean": (0.0,) * 17}],
    "stuck": [{"off": -0.1}, {"on": 1.1}, {"off": 0.6, "on": 0.6}],
    "wires": [{"r_word": -1.0}, {"r_bit": 1e10}, {"r_source": 1e-10}, {"r_sense": -0.1}, {"tolerance": 0.0},
              {"inputs": "none"}, {"method": "slow"}],
    "dac": [{"bits": 0}, {"bits": 1}, {"bits": 25}, {"range": 0.0}, {"range": "max"}, {"slice_bits": 8},
            {"slice_bits": 0}, {"percentile": 0.0}, {"signed": "offset"}],
    "adc": [{"bits": 0}, {"bits": 25}, {"range": -1.0}, {"range": "dynamic"}, {"per": "tile"}, {"share": 0},
            {"percentile": 101.0}, {"gain_sigma": -0.1}, {"offset_sigma": 1.1},
            {"encoding": "twos_complement"}, {"encoding": "flip"}, {"encoding": "flip", "per": "pair"}],
    "gaussian": [{"sigma": -0.1}, {"sigma": 101.0}, {"of": "w"}],
    "telegraph": [{"amplitude": 1.1}, {"amplitude": -0.1}, {"occupancy": 1.5}],
}  # fmt: skip


def refused(make, *quoted: str) -> None:
    with pytest.raises(InputError) as caught:
        make()
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 400
    for piece in quoted:
        assert piece in sentence


def test_the_lists_above_are_complete():
    assert set(POSSIBLE) == set(OUT_OF_RANGE) == set(CLASSES)
    for kind, given in POSSIBLE.items():
        assert set(given) | WORDS >= {f.name for f in fields(CLASSES[kind])}
        CLASSES[kind](**given)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: show(value)[:20])
@pytest.mark.parametrize(("kind", "name"), [(k, n) for k, given in POSSIBLE.items() for n in given])
def test_what_is_no_number_is_refused(kind, name, value):
    if isinstance(POSSIBLE[kind][name], tuple) and isinstance(value, list | np.ndarray):
        value = [[1.0]]
    refused(lambda: CLASSES[kind](**POSSIBLE[kind] | {name: value}), name, show(value)[:60])


@pytest.mark.parametrize("kind", POSSIBLE)
def test_none_is_refused_where_it_means_nothing(kind):
    for name in set(POSSIBLE[kind]) - OPTIONAL:
        refused(lambda n=name: CLASSES[kind](**POSSIBLE[kind] | {n: None}), name, "None")


@pytest.mark.parametrize(
    ("kind", "given"), [(kind, given) for kind, cases in OUT_OF_RANGE.items() for given in cases]
)
def test_what_is_out_of_range_is_refused(kind, given):
    name, value = next(iter(given.items()))
    refused(lambda: CLASSES[kind](**POSSIBLE[kind] | given), name, show(value)[:60])


@pytest.mark.parametrize("bad", [math.nan, math.inf, True, "1", None, 10**400, [1.0]])
def test_a_coefficient_that_is_no_number_is_refused(bad):
    polynomial = CLASSES["polynomial"]
    refused(lambda: polynomial((1e-6, bad), 1e-6), "coefficients")


@pytest.mark.parametrize("levels", [2.0, "16", True, np.float64(3.0)])
def test_levels_and_copies_are_whole(levels):
    for name in ("levels", "copies"):
        refused(lambda n=name: CLASSES["offset"](**{n: levels}), name, show(levels))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("value", [0.6, "lognormal", LogNormalDrift, {}, True, object()])
def test_hardware_refuses_what_is_no_part(name, value):
    refused(lambda: Hardware(**{name: value}), f"{name}={show(value)}", FAMILIES[name].example)


def test_the_sentence_for_a_bare_sigma_says_what_to_write():
    refused(lambda: Hardware(drift=0.6), "drift=0.6: expected a drift law such as LogNormalDrift(0.6)")


def test_hardware_refuses_one_part_in_anothers_place():
    refused(lambda: Hardware(drift=Hardware().mapping), "drift=Differential(")
    refused(lambda: Hardware(mapping=LogNormalDrift(0.6)), "mapping=LogNormalDrift(sigma=0.6)")
    refused(lambda: Hardware(mapping=None), "mapping=None")


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("value", ["", "Digital", None, True, 1, ["digital"], np.array(["row"] * 2)])
def test_hardware_refuses_words_that_are_no_choice(name, value):
    refused(lambda: Hardware(**{name: value}), name, show(value), *CHOICES[name])


@pytest.mark.parametrize(
    "tile",
    [
        5,
        None,
        "ab",
        (),
        (1,),
        (1, 2, 3),
        (0, 1),
        (1, -1),
        (1.0, 2),
        (True, 2),
        (1, "2"),
        (2**31, 1),
    ],
)
def test_hardware_refuses_impossible_tiles(tile):
    refused(lambda: Hardware(tile=tile), f"tile={show(tile)}")


def test_a_reference_in_the_wrong_unit_is_refused():
    noise = CLASSES["polynomial"]((0.0, 0.0, 0.0, 0.0, 1e-6), 1e-29)
    refused(lambda: Hardware(programming=noise), "reference", "1e-29", "0.0001")


def test_numbers_are_kept_as_plain_python_numbers():
    law = LogNormalDrift(np.float32(0.5))
    assert law == LogNormalDrift(0.5)
    assert type(law.sigma) is float
    assert type(LogNormalDrift(1).sigma) is float
    assert math.copysign(1, LogNormalDrift(-0.0).sigma) == 1
    assert type(CLASSES["offset"](levels=np.int64(4)).levels) is int
    assert Hardware(tile=[np.int64(4), 5]).tile == (4, 5)
