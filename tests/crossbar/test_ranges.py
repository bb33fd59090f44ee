"""Ranges of layers: kept in order, written and read, and refused in one line."""

import pytest

from crossbar_sim import Hardware, InputError
from crossbar_sim.crossbar import config
from crossbar_sim.crossbar.ranges import LayerRange, Ranges


def test_equal_ranges_are_equal_in_any_order_and_survive_a_file():
    a, b = LayerRange(1.5, (1e-4, 2e-4)), LayerRange(None, (3e-4,))
    ranges = Ranges.of({"fc2.weight": b, "fc1.weight": a})
    assert ranges == Ranges.of([("fc1.weight", a), ("fc2.weight", b)])
    assert ranges.get("fc1.weight") == a
    assert ranges.get("fc3.weight") is None
    text = config.to_toml(Hardware(ranges=ranges))
    assert '[ranges."fc1.weight"]' in text
    assert config.from_toml(text).ranges == ranges
    assert hash(ranges) == hash(config.from_toml(text).ranges)


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
        config.from_dict({"ranges": table}, "hw.toml")
    assert piece in str(caught.value)
    assert "\n" not in str(caught.value)
