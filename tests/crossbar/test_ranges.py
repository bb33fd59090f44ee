"""Ranges of layers: kept in order, written and read, and refused in one line."""

import pytest

from crossbar_sim import Differential, Hardware, InputError, LogNormalDrift
from crossbar_sim.crossbar import configuration
from crossbar_sim.crossbar.configuration import dropped_ranges, override
from crossbar_sim.crossbar.converters import ADC, LayerRange, Ranges


def test_equal_ranges_are_equal_in_any_order_and_survive_a_file():
    a, b = LayerRange(1.5, (1e-4, 2e-4)), LayerRange(None, (3e-4,))
    ranges = Ranges.of({"fc2.weight": b, "fc1.weight": a})
    assert ranges == Ranges.of([("fc1.weight", a), ("fc2.weight", b)])
    assert ranges.get("fc1.weight") == a
    assert ranges.get("fc3.weight") is None
    text = configuration.to_toml(Hardware(ranges=ranges))
    assert '[ranges."fc1.weight"]' in text
    assert Hardware.from_toml(text).ranges == ranges
    assert hash(ranges) == hash(Hardware.from_toml(text).ranges)


@pytest.mark.parametrize(
    ("table", "piece"),
    [
        (5, "ranges=5"),
        ({"fc1": 5}, "ranges.fc1=5"),
        ({"fc1": {"inptu": 1.0}}, "did you mean 'ranges.fc1.input'"),
        ({"fc1": {"output": 1.0}}, "ranges.fc1.output=1.0"),
        ({"fc1": {"input": -1.0}}, "a range of -1.0"),
        ({"fc1": {"input": True}}, "a range of True"),
        ({"fc1": {"output": [1e-4, "x"]}}, "a range of 'x'"),
        ({"fc1": {"output": [float("inf")]}}, "a range of inf"),
    ],
)
def test_bad_tables_get_one_sentence(table, piece):
    with pytest.raises(InputError) as caught:
        Hardware.from_dict({"ranges": table}, "hw.toml")
    assert piece in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_override_of_what_converters_see_drops_the_ranges_and_says_so():
    own = Hardware(
        Differential(0.0, 1e-4),
        drift=LogNormalDrift(0.1),
        adc=ADC(bits=8),
        ranges=Ranges.of({"w": LayerRange(1.0)}),
    )
    for flat, named in (
        ({"g_max": 4e-4}, "mapping"),
        ({"tile": (64, 64)}, "tile"),
        ({"wire_ohm": 2.0}, "wires"),
        ({"dac_bits": 6}, "dac"),
        ({"adc_per": "column"}, "adc"),
    ):
        changed = override(own, **flat)
        assert changed.ranges is None
        assert f"calibrated with another {named}:" in dropped_ranges(own, changed)[0]
    for flat in (
        {"sigma": 0.5},
        {"g_max": 1e-4},
        {"ranges": own.ranges, "g_max": 4e-4},
        {"read_noise_sigma": 0.1},
    ):
        kept = override(own, **flat)
        assert kept.ranges == own.ranges
        assert dropped_ranges(own, kept) == ()
