"""Where folding a normalisation would change the function: the normalisation stays, or the model is refused."""

import pytest
import torch
from helpers.analog_models import made, numbers
from helpers.folding import IMAGE, count, folded, with_statistics
from torch import nn
from torch.nn.utils import parametrizations, prune, weight_norm

from crossbar_sim import InputError
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.analog import chips


def pair() -> nn.Module:
    return with_statistics(made(lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3))))


def check_exact(model: nn.Module, analog: nn.Module, x: torch.Tensor = IMAGE) -> None:
    with torch.no_grad():
        torch.testing.assert_close(analog(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "change",
    [
        parametrizations.weight_norm, parametrizations.spectral_norm, weight_norm,
        lambda conv: prune.l1_unstructured(conv, "weight", 0.5),
    ],
    ids=["weight_norm", "spectral_norm", "old weight_norm", "pruned"],
)  # fmt: skip
def test_the_norm_after_a_computed_weight_stays(change):
    model = nn.Sequential(pair(), nn.Conv2d(3, 2, 3)).eval()
    change(model[0][0])
    analog = to_analog(model, folded())
    layers = {layer.name: layer for layer in chips.layers(analog)}
    assert count(analog) == 0
    assert {name for name, layer in layers.items() if layer.analog} == {"1"}
    assert "no layer alone before it" in layers["0.1"].reason
    computed = [layer.reason for name, layer in layers.items() if name not in ("0.1", "1")]
    assert computed
    assert all("remove_parametrizations" in reason for reason in computed)
    check_exact(model, analog)


class LinearNorm(nn.Module):
    """A normalisation of the last but one dimension: not of the layer's outputs."""

    def __init__(self):
        super().__init__()
        self.fc, self.bn = nn.Linear(8, 8), nn.BatchNorm1d(8)

    def forward(self, x):
        return self.bn(self.fc(x))


@pytest.mark.parametrize("form", ["exported", "decomposed"])
def test_a_graph_keeps_a_norm_of_another_dimension(form):
    model, x = with_statistics(made(LinearNorm)), numbers(2, 8, 8)
    program = torch.export.export(model, (x,))
    analog = to_analog((program.run_decompositions() if form == "decomposed" else program).module(), folded())
    assert count(analog) == 0
    check_exact(model, analog, x)


def test_a_model_refuses_a_norm_of_another_dimension():
    model = with_statistics(made(LinearNorm))
    analog = to_analog(model, folded())
    check_exact(model, analog, numbers(2, 8))
    with pytest.raises(InputError, match=r"got a 3-D input.*choose normalisation='digital'"):
        analog(numbers(2, 8, 8))


@pytest.mark.parametrize("where", ["hook", "pre-hook", "forward"])
def test_what_passes_between_the_two_is_seen_by_others(where):
    model = pair()
    if where == "hook":
        model[0].register_forward_hook(lambda module, args, y: y.abs())
    elif where == "pre-hook":
        model[1].register_forward_pre_hook(lambda module, args: (args[0].abs(),))
    else:
        forward = model[0].forward
        model[0].forward = lambda x: forward(x).abs()
    analog = to_analog(model, folded())
    assert count(analog) == 0
    if where != "forward":  # a copy's own forward is still the one of the first model
        check_exact(model, analog)


class Reads(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.conv, self.norm, self.how = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), how

    def forward(self, x):
        return self.norm(self.conv(x.to(self.conv.weight.dtype))) + self.how(self.conv)


@pytest.mark.parametrize(
    ("how", "pairs"),
    [
        (lambda conv: conv.weight.square().sum(), 0), (lambda conv: conv.bias.sum(), 0),
        (lambda conv: conv.weight.shape[0], 1),
    ],
    ids=["weight", "bias", "shape"],
)  # fmt: skip
def test_a_weight_that_is_read_elsewhere_is_not_folded(how, pairs):
    model = with_statistics(made(lambda: Reads(how)))
    analog = to_analog(model, folded())
    assert count(analog) == pairs
    check_exact(model, analog)
