"""Weights that are on no array are named, each with its reason."""

import pytest
import torch
import torch.nn.functional as F
from helpers.analog_models import PLAIN, made, numbers
from helpers.graphs import export
from torch import nn
from torch.nn.utils import parametrizations

from crossbar_sim import InputError
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.state import Layer

X = numbers(4, 6)


def layers(model: nn.Module) -> dict[str, Layer]:
    return {layer.name: layer for layer in chips.layers(to_analog(model, PLAIN))}


class Constant(nn.Module):
    """A layer of a buffer, one of a plain tensor, and a buffer that is none."""

    def __init__(self):
        super().__init__()
        self.register_buffer("w", numbers(6, 6))
        self.register_buffer("mask", numbers(4, 6))
        self.weight = numbers(5, 6)
        self.fc = nn.Linear(5, 3)

    def forward(self, x):
        return self.fc(F.linear(F.linear(x + self.mask, self.w), self.weight))


def test_buffers_and_constants_of_a_graph_that_are_weights():
    found = layers(export(made(Constant), (X,)))
    (constant,) = set(found) - {"fc", "w"}
    for name in ("w", constant):
        assert (found[name].kind, found[name].analog) == ("Linear", False)
        assert "no parameter: it stays digital and exact" in found[name].reason
    assert found["fc"].analog


def test_buffers_and_plain_tensors_of_a_module_with_a_weights_name():
    found = layers(made(Constant))
    assert set(found) == {"fc", "w", "weight"}
    assert not found["w"].analog
    assert "make it an nn.Parameter" in found["weight"].reason


class Listed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.known = nn.Linear(6, 6), nn.Linear(6, 6)
        self.layers, self.same = [nn.Linear(6, 6), nn.ReLU()], [self.known]

    def forward(self, x):
        return self.known(self.layers[0](self.fc(x)))


def test_layers_in_a_plain_list():
    found = layers(made(Listed))
    assert set(found) == {"fc", "known", "layers.0"}
    assert "use nn.ModuleList" in found["layers.0"].reason


@pytest.mark.filterwarnings("ignore")
def test_quantised_layers():
    model = made(lambda: nn.Sequential(nn.Linear(6, 6), nn.Conv1d(6, 6, 1)))
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    found = layers(quantised)
    assert {name: layer.analog for name, layer in found.items()} == {"0": False, "1": True}
    assert "deploy the float model" in found["0"].reason


class Mixed(nn.Linear):
    """A layer with a low-rank addition of its own."""

    def __init__(self):
        super().__init__(6, 6)
        self.a, self.b = nn.Parameter(numbers(2, 6)), nn.Parameter(numbers(6, 2))
        self.gain = nn.Parameter(numbers(1, 1, 6))

    def forward(self, x):
        return super().forward(x) + torch.einsum("bi,oi->b", x @ self.a.T, self.b)[:, None] * self.gain[0, 0]


def test_matrices_of_an_analog_layer_that_are_on_no_array():
    found = layers(made(lambda: nn.Sequential(Mixed())))["0"]
    assert found.analog
    assert [name for name, _ in found.left] == ["a", "b"]
    assert found.reason.startswith("on arrays, except a (a parameter that its kind of layer does not have")
    found = layers(export(made(lambda: nn.Sequential(Mixed())), (X,)))["0"]
    assert found.left == (
        ("b", "taken by einsum bi,oi->b, where it is not a matrix: its index o is summed by itself"),
    )
    assert found.reason == f"on arrays, except b ({found.left[0][1]})"


def test_a_scripted_layer_inside_a_model():
    model = nn.Sequential(torch.jit.script(nn.Linear(6, 6)), nn.Linear(6, 3))
    with pytest.raises(InputError, match=r"a TorchScript module \(0\) hides its layers"):
        to_analog(model, PLAIN)
    plain = nn.Sequential(torch.jit.script(nn.ReLU()), nn.Linear(6, 3))
    assert set(layers(plain)) == {"1"}


@pytest.mark.parametrize("change", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_computed_weight_in_a_graph_has_its_remedy(change):
    model = made(lambda: nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3)))
    change(model[0])
    found = layers(export(model.eval(), (X,)))
    assert found["1"].analog
    computed = [layer for name, layer in found.items() if name.startswith("0.parametrizations.weight")]
    assert computed
    assert all("remove_parametrizations" in layer.reason for layer in computed)
