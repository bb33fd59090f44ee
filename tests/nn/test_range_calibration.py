"""Converter ranges from data: percentiles as NumPy has them, and a report that tells clipped from used."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.analog_models import made, numbers
from torch import nn

from crossbar_sim import Differential, Hardware, InputError, LogNormalDrift
from crossbar_sim.crossbar.converters import ADC, DAC
from crossbar_sim.crossbar.readout import Magnitudes, Usage
from crossbar_sim.nn import calibrate_ranges, to_analog
from crossbar_sim.nn.analog.range_calibration import needs_calibration

MODEL = made(lambda: nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 3)))
X = numbers(300, 20)
BASE = Hardware(
    Differential(0.0, 1e-4),
    tile=(16, 8),
    dac=DAC(bits=8, range="calibrated"),
    adc=ADC(bits=8, percentile=99.0),
)


def test_a_histogram_has_the_percentiles_of_its_values():
    values = numbers(10_000).numpy() ** 3
    histogram = Magnitudes()
    for part in np.split(values, 10):
        histogram.add(part)
    for p in (1.0, 50.0, 90.0, 99.9):
        exact = np.percentile(np.abs(values), p, method="inverted_cdf")
        assert exact <= histogram.percentile(p) <= exact * 1.002
    assert histogram.percentile(100.0) == np.abs(values).max()
    assert Magnitudes().percentile(99.0) == 0.0
    rare = Magnitudes()
    rare.add(np.array([0.0] * 99 + [3.0], np.float32))
    assert rare.percentile(50.0) == 3.0  # where most are 0: the largest there is
    tiny = Magnitudes()
    tiny.add(np.full(5, 1e-31, np.float32))
    assert tiny.percentile(50.0) == 0.0  # as good as none


@pytest.mark.parametrize(
    "values",
    [
        [0.0, 0.0],
        [0.0, 2.0],
        [-0.0, 3e38, 1e-45],
        [1.5],
        (numbers(40, 50).numpy() ** 5).tolist(),
        (numbers(1000).numpy().clip(0.0, None)).tolist(),
    ],
    ids=["zeros", "zero and one value", "from end to end", "one value", "wide", "half of them 0"],
)
def test_a_histogram_counts_every_value_in_its_bin(values):
    histogram, x = Magnitudes(), np.array(values, np.float32)
    for _ in range(2):
        histogram.add(x)
    bins = np.abs(x).reshape(-1).view(np.int32) >> 13
    assert np.array_equal(histogram.counts, 2 * np.bincount(bins, minlength=histogram.counts.size))


def test_usage_counts_what_is_clipped_and_which_codes_came_up():
    usage = Usage(3, True)
    usage.add(np.array([-5.0, -3.2, 0.4, 2.6, 3.4, 3.6], np.float32))  # -5 and 3.6 (4) are clipped
    assert usage.clipped_percent == pytest.approx(100 / 3)
    assert usage.used_percent == pytest.approx(300 / 7)  # -3, 0 and 3
    positive = Usage(3, False)
    positive.add(np.array([-1.0, 1.0], np.float32))
    assert (positive.clipped, positive.used_percent) == (1, 50.0)


def test_ranges_are_the_percentiles_of_what_each_layer_sees():
    found, reports = calibrate_ranges(MODEL, BASE, X)
    with torch.no_grad():
        hidden = torch.relu(MODEL[0](X))
    assert found.ranges is not None
    for name, layer, x in (("0.weight", MODEL[0], X), ("2.weight", MODEL[2], hidden)):
        ranges = found.ranges.get(name)
        assert ranges.input == pytest.approx(float(x.abs().max()), rel=1e-4)
        codes = torch.round(x * 127 / ranges.input) / 127
        w = layer.weight.detach().T
        g = (w * 1e-4 / w.abs().max()).double()
        sums = torch.cat([codes[:, t : t + 16].double() @ g[t : t + 16] for t in range(0, len(w), 16)], 1)
        exact = np.percentile(np.abs(sums.numpy()), 99.0, method="inverted_cdf")
        assert ranges.output[0] == pytest.approx(exact, rel=3e-3)
    for report in reports:
        assert report.input_clipped == 0.0
        assert 0.2 < report.output_clipped < 3.0  # one percent lies beyond the 99th percentile
        assert 50 < report.output_used <= 100
    assert found == replace(BASE, ranges=found.ranges)
    assert not needs_calibration(found)
    assert needs_calibration(BASE)


class Sevens(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = MODEL

    def forward(self, x):
        assert len(x) == 7, "this model takes 7"
        return self.body(x)


def test_a_model_of_one_batch_size_is_calibrated_in_whole_batches():
    found, _ = calibrate_ranges(Sevens().eval(), replace(BASE, adc=None), X, fixed=7)
    every, _ = calibrate_ranges(MODEL, replace(BASE, adc=None), X)
    for name in ("0.weight", "2.weight"):
        assert found.ranges.get(f"body.{name}").input == pytest.approx(every.ranges.get(name).input, rel=1e-5)
    few, _ = calibrate_ranges(Sevens().eval(), replace(BASE, adc=None), X[:3], fixed=7)
    assert few.ranges.get("body.0.weight").input == float(X[:3].abs().max())


def test_ranges_belong_to_the_design_unless_a_chip_is_asked_for():
    drifting = replace(BASE, drift=LogNormalDrift(1.0))
    still, _ = calibrate_ranges(MODEL, BASE, X)
    found, _ = calibrate_ranges(MODEL, drifting, X, chip=None)
    assert found.ranges == still.ranges
    one, _ = calibrate_ranges(MODEL, drifting, X, chip=1)
    two, _ = calibrate_ranges(MODEL, drifting, X, chip=2)
    assert one.ranges != two.ranges != still.ranges


def test_each_weight_slice_has_a_range_of_its_own():
    sliced = replace(BASE, mapping=Differential(0.0, 1e-4, levels=64, cell_bits=2))
    found, _ = calibrate_ranges(MODEL, sliced, X)
    ranges = found.ranges.get("0.weight").output
    assert len(ranges) == len(set(ranges)) == 3


def test_calibrated_converters_lose_less_than_the_largest_range():
    calibrated, _ = calibrate_ranges(MODEL, replace(BASE, adc=ADC(bits=5)), X)
    largest, _ = calibrate_ranges(MODEL, replace(BASE, adc=ADC(bits=5, range="max")), X)
    with torch.no_grad():
        clean = MODEL(X)
        errors = [float((to_analog(MODEL, h)(X) - clean).norm()) for h in (calibrated, largest)]
    assert errors[0] < errors[1] / 1.5


class Added(nn.Linear):
    """Its product is of a kind that no array reads."""

    def forward(self, x):
        return torch.addbmm(self.bias, x.unsqueeze(0), self.weight.t().unsqueeze(0))


def test_what_cannot_be_calibrated_is_refused():
    with pytest.raises(InputError, match="no dac and no adc"):
        calibrate_ranges(MODEL, Hardware(), X)
    with pytest.raises(InputError, match=r"shape \(64, 20\) \(batch first\): this model takes 7"):
        calibrate_ranges(Sevens().eval(), BASE, X)
    with pytest.raises(InputError, match=r"0\.weight: its converters see values up to 5e\+30"):
        calibrate_ranges(MODEL, BASE, torch.full((4, 20), 5e30))
    with pytest.raises(InputError, match="at least one input"):
        calibrate_ranges(MODEL, BASE, X[:0])
    with pytest.raises(InputError, match="no layer's product"):
        calibrate_ranges(made(lambda: Added(4, 3)), replace(BASE, dac=None), numbers(2, 4))


def test_a_slice_that_few_weights_use_gets_the_largest_of_its_currents():
    rare = nn.Sequential(nn.Linear(256, 512, bias=False)).eval()
    with torch.no_grad():
        rare[0].weight.uniform_(-0.01, 0.01, generator=torch.Generator().manual_seed(0))
        rare[0].weight[0, 0] = 1.0
    sliced = Hardware(Differential(0.0, 1e-4, levels=256, cell_bits=2), dac=DAC(bits=8), adc=ADC(bits=8))
    x = numbers(64, 256)
    found, _ = calibrate_ranges(rare, sliced, x)
    # codes 64 x 3: the top slice is at 3 of 3 in one cell, on the highest range of its one word line
    assert found.ranges.get("0.weight").output[3] == pytest.approx(
        float(x[:, 0].abs().max()) * 1e-4, rel=0.02
    )


def test_a_layer_that_sees_zeros_alone_gets_a_range():
    found, reports = calibrate_ranges(MODEL, BASE, torch.zeros(4, 20))
    assert found.ranges.get("0.weight").input == 1.0
    assert reports[0].output_clipped == 0.0
