"""Multiply-adds on arrays and digital ones, against counts by hand."""

import json
import re
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from helpers.analog_models import numbers
from torch import nn

from crossbar_sim import Hardware, cost
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


class Tied(nn.Module):
    """One matrix of 8 x 8 in two places, in another order of names."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.c = kind, nn.Linear(8, 3, bias=False)
        self.b = nn.Embedding(8, 8) if kind == "embedding" else nn.Linear(8, 8, bias=False)
        self.a = Taken(self.b.weight) if kind == "function" else nn.Linear(8, 8, bias=False)
        if kind != "function":
            self.a.weight = self.b.weight
        if kind == "root":
            self.w = self.a.weight

    def forward(self, x):
        if self.kind == "embedding":
            x = x.argmax(-1)
        x = torch.relu(self.a(torch.relu(self.b(x))))
        return self.c(torch.relu(F.linear(x, self.w)) if self.kind == "root" else x)[:, 0]


class Taken(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, x):
        return x @ self.weight.t()


@pytest.mark.parametrize(
    ("kind", "left", "digital"),
    [
        ("layers", "a", 1), ("layers", "b", 1), ("function", "a", 1), ("function", "b", 1), ("embedding", "a", 1),
        ("embedding", "b", 0), ("root", "a", 1), ("root", "Tied", 1), ("root", "[ab]", 2), ("layers", "[ab]", 2),
    ],
)  # fmt: skip
@pytest.mark.parametrize("way", ["skip", "design"])
def test_of_tied_layers_only_those_on_arrays_count_as_such(kind, left, digital, way):
    model = Tied(kind).eval()
    design = LayerDesigns.of({left: "digital", "*": HARDWARE}) if way == "design" else HARDWARE
    mapped, seen = map_model(model, design, X, skip=[left] if way == "skip" else ())
    share = ArrayShare.of(chips.layers(mapped), seen.work)
    each, uses = 6 * 64, 1 if kind == "embedding" else 3 if kind == "root" else 2
    assert (share.analog, share.digital) == ((uses - digital) * each + 6 * 24, digital * each)
    chosen = {layer.name for layer in chips.layers(mapped) if layer.analog}
    assert chosen == {"layers": {"a", "b", "c"}, "function": {"a", "b", "c"}, "embedding": {"a", "c"},
                      "root": {"a", "b", "c", "Tied"}}[kind] - set(re.findall("Tied|[ab]", left))  # fmt: skip
    cycles = {
        one.name: one.work.cycles
        for one in cost(model, design, X, skip=[left] if way == "skip" else ()).layers
    }
    unit = cycles.pop("c.weight") // 6
    assert [*cycles.values()] == [6 * unit * (uses - digital)] * (uses > digital)


def test_a_graph_that_reads_a_tied_layer_by_another_name_says_that_it_stays_on_arrays():
    graph = torch.export.export(Tied("layers").eval(), (X,)).module()
    said = [deploy(graph, X, None, HARDWARE, chips=1, sensitivity_chips=0, skip=[name]) for name in "ab"]
    anyway = [
        any("by which name the graph reads it, which is on arrays" in w for w in d.warnings) for d in said
    ]
    assert sorted(anyway) == [False, True]
    assert {d.work.digital for d in said} == {0, 2 * 6 * 64}


def test_a_small_share_is_warned_of_and_in_the_report():
    found = deploy(Attention().eval(), X, None, HARDWARE, chips=1, sensitivity_chips=0)
    assert any(w.startswith("only 35.5 % of the multiply-adds run on arrays") for w in found.warnings)
    assert found.work.sentence in next(w for w in found.warnings if w.startswith("only"))
    held = json.loads(json.dumps(found.as_dict()))["multiply_adds"]
    assert held["on_arrays"] == 528
    whole = deploy(Recurrent().eval(), X, None, HARDWARE, chips=1, sensitivity_chips=0)
    assert "multiply_adds" not in whole.as_dict()
    assert whole.work.text == "100 % of the multiply-adds"
