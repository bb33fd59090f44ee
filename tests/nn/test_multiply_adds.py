"""Multiply-adds on arrays and digital ones, against counts by hand."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers.analog_models import numbers
from torch import nn

from crossbar_sim import Hardware
from crossbar_sim.crossbar.layer_designs import LayerDesigns
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.conversion import map_model
from crossbar_sim.nn.analog.multiply_adds import ArrayShare
from crossbar_sim.robustness import deploy

HARDWARE = Hardware.preset("bayesft", sigma=0.3)
X = numbers(4, 6, 8)


class Attention(nn.Module):
    """6 tokens of 8 features, 2 heads of 4; a digital product with a sign."""

    def __init__(self):
        super().__init__()
        self.q, self.sign = nn.Parameter(numbers(8, 2, 4)), nn.Linear(8, 8, bias=False)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        q = torch.einsum("bth,hnd->bntd", x, self.q)
        attended = F.scaled_dot_product_attention(q, q, q)
        return self.out(F.linear(attended.transpose(1, 2).flatten(2), self.sign.weight.sign()))[:, 0]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.out = nn.LSTM(8, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x):
        return self.out(self.rnn(x)[0][:, -1])


class Low(nn.Module):
    """An adapter as peft names it."""

    def __init__(self):
        super().__init__()
        self.base = nn.Linear(8, 8)
        self.lora_A, self.lora_B = nn.Linear(8, 2, bias=False), nn.Linear(2, 8, bias=False)

    def forward(self, x):
        return (self.base(x) + self.lora_B(self.lora_A(x)))[:, 0]


PRODUCTS = 6 * 6 * 8 * 2
CASES = {
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv1d(6, 4, 3, groups=2), nn.ConvTranspose1d(4, 2, 3), nn.Flatten(), nn.Linear(16, 2)
        ),
        4 * 3 * 3 * 6 + 4 * 6 * 2 * 3 + 32, 0,
    ),
    "attention": (Attention, 6 * 64 + 6 * 24, PRODUCTS + 6 * 64),
    "an encoder": (
        lambda: nn.Sequential(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Flatten(), nn.Linear(48, 2)),
        6 * (4 * 64 + 2 * 128) + 96, PRODUCTS,
    ),
    "recurrent": (Recurrent, 6 * 20 * 13 + 10, 0),
    "an adapter": (Low, 6 * 64, 6 * 32),
}  # fmt: skip


@pytest.mark.parametrize("exported", [False, True], ids=["eager", "exported"])
@pytest.mark.parametrize("name", CASES)
def test_multiply_adds_are_those_counted_by_hand(name, exported):
    make, analog, digital = CASES[name]
    model = make().eval()
    model = torch.export.export(model, (X,)).module() if exported else model
    mapped, seen = map_model(model, HARDWARE, X, fixed=len(X))
    share = ArrayShare.of(chips.layers(mapped), seen.work)
    assert (share.analog, share.digital) == (analog, digital)


def test_an_adapter_is_on_arrays_where_it_is_named():
    mapped, _ = map_model(Low().eval(), HARDWARE, X, only=["*"])
    assert all(layer.analog for layer in chips.layers(mapped))
    left = {layer.name: layer.reason for layer in chips.layers(map_model(Low().eval(), HARDWARE, X)[0])}
    assert left["base"] == "on arrays"
    assert "only '*'" in left["lora_A"]


@pytest.mark.parametrize("pattern", ["lora_A", "*lora_A", "*lora_*A"])
def test_an_adapter_is_on_arrays_where_a_design_names_it(pattern):
    chosen = LayerDesigns.of({pattern: replace(HARDWARE, tile=(4, 4)), "*": HARDWARE})
    layers = {layer.name: layer for layer in chips.layers(map_model(Low().eval(), chosen, X)[0])}
    assert [name for name, layer in layers.items() if layer.analog] == ["base", "lora_A"]
    assert layers["lora_A"].geometries(chosen.at("lora_A"))[0].tile == (4, 4)
    general = LayerDesigns.of({"*a*": replace(HARDWARE, tile=(4, 4)), "*": HARDWARE})
    everything = chips.layers(map_model(Low().eval(), general, X)[0])
    assert [layer.name for layer in everything if layer.analog] == ["base"]


def test_a_small_share_is_warned_of_and_in_the_report():
    found = deploy(Attention().eval(), X, None, HARDWARE, chips=1, sensitivity_chips=0)
    assert any(w.startswith("only 35.5 % of the multiply-adds run on arrays") for w in found.warnings)
    assert found.work.sentence in next(w for w in found.warnings if w.startswith("only"))
    held = json.loads(json.dumps(found.as_dict()))["multiply_adds"]
    assert held["on_arrays"] == 528
    whole = deploy(Recurrent().eval(), X, None, HARDWARE, chips=1, sensitivity_chips=0)
    assert "multiply_adds" not in whole.as_dict()
    assert whole.work.text == "100 % of the multiply-adds"
