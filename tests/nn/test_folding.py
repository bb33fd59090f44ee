"""A normalisation folded into the layer before it: the same function, and arrays of the folded weights."""

import copy
import dataclasses

import pytest
import torch
from helpers.analog_models import DRIFT, made
from helpers.folding import IMAGE, count, folded, with_statistics
from torch import nn

from crossbar_sim import InputError
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.analog import chips

BIASES = ["digital", "row", "drifting"]


class TwoUsers(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + y


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)

    def forward(self, x):
        return self.conv(self.norm(self.conv(x)))


MODELS = {
    "conv": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3)), 1),
    "no bias": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3)), 1),
    "no affine": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, affine=False)), 1),
    "neither": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.BatchNorm2d(3, affine=False)), 1),
    "groups": (lambda: nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4)), 1),
    "reflect": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(3)), 1
    ),
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(128, 3), nn.BatchNorm1d(3)), 1),
    "several": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)
        ), 2
    ),
    "norm first": (lambda: nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 3, 3)), 0),
    "relu between": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.BatchNorm2d(3)), 0),
    "two norms": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.BatchNorm2d(3)), 1),
    "no statistics": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)), 0
    ),
    "two users": (TwoUsers, 0),
    "conv used twice": (Twice, 0),
}  # fmt: skip
FORMS = ["eager", "exported", "decomposed"]


def as_form(model: nn.Module, form: str) -> nn.Module:
    if form == "eager":
        return model
    program = torch.export.export(model, (IMAGE,))
    return (program.run_decompositions() if form == "decomposed" else program).module()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", MODELS)
def test_ideal_arrays_of_folded_weights_are_plain_torch(name, form, bias):
    build, pairs = MODELS[name]
    model = with_statistics(made(build))
    source = as_form(model, form)
    analog = to_analog(source, folded(bias))
    if not (name == "linear" and form == "decomposed"):  # there, the product is an addmm
        assert count(analog) == pairs
    with torch.no_grad():
        torch.testing.assert_close(analog(IMAGE), model(IMAGE), rtol=1e-5, atol=1e-5)
    assert list(analog.state_dict()) == list(source.state_dict())
    copied = copy.deepcopy(analog)
    with torch.no_grad():
        torch.testing.assert_close(copied(IMAGE), model(IMAGE), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", BIASES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["conv", "no bias", "neither"])
def test_drift_acts_on_the_folded_weights(name, form, bias):
    model = with_statistics(made(MODELS[name][0]))
    conv, norm = model
    hardware = folded(bias, drift=DRIFT)
    analog = to_analog(as_form(model, form), hardware, 5, 2)
    key = chips.analog_state(analog).key
    with torch.no_grad():
        factor = (norm.weight if norm.affine else 1.0) / torch.sqrt(norm.running_var + norm.eps)
        w = (conv.weight * factor.reshape(-1, 1, 1, 1)).reshape(3, -1)
        b = ((0 if conv.bias is None else conv.bias) - norm.running_mean) * factor
        b = b + (norm.bias if norm.affine else 0)
        if bias == "row":
            got = hardware.program(torch.cat([w, b[:, None]], 1).T.numpy(), key("0.weight"), 2).weight.T
            w, b = torch.from_numpy(got[:, :-1].copy()), torch.from_numpy(got[:, -1].copy())
        else:
            w = torch.from_numpy(hardware.program(w.T.numpy(), key("0.weight"), 2).weight.T.copy())
        if bias == "drifting":
            b = torch.from_numpy(hardware.program(b[None].numpy(), key("0.bias"), 2).weight[0].copy())
        expected = torch.nn.functional.conv2d(IMAGE, w.reshape(conv.weight.shape), b)
        # 1e-4: the fold rounds once more than this sum does, and drift multiplies that.
        torch.testing.assert_close(analog(IMAGE), expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(expected, model(IMAGE), rtol=0.01)


@pytest.mark.parametrize("form", FORMS)
def test_a_skipped_layer_keeps_its_normalisation(form):
    model = with_statistics(made(MODELS["several"][0]))
    analog = to_analog(as_form(model, form), folded(), skip=["0"])
    assert count(analog) == 1
    with torch.no_grad():
        torch.testing.assert_close(analog(IMAGE), model(IMAGE), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["eager", "exported"])
def test_a_skipped_normalisation_is_not_folded(form):
    model = as_form(with_statistics(made(MODELS["conv"][0])), form)
    hardware = folded(drift=DRIFT)
    digital = dataclasses.replace(hardware, normalisation="digital")
    found = [to_analog(model, hardware, skip=["1"]), to_analog(model, digital)]
    assert count(found[0]) == 0
    with torch.no_grad():
        assert torch.equal(*(analog(IMAGE) for analog in found))


def test_gradients_reach_the_normalisation():
    model = with_statistics(made(MODELS["conv"][0]))
    reference = copy.deepcopy(model)
    analog = to_analog(model, folded())
    analog(IMAGE).square().sum().backward()
    reference(IMAGE).square().sum().backward()
    for (name, p), q in zip(model.named_parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-3, msg=name)


def test_training_mode_is_refused_in_words():
    analog = to_analog(with_statistics(made(MODELS["conv"][0])).train(), folded())
    with pytest.raises(InputError, match=r"call model\.eval\(\)"):
        analog(IMAGE)
    assert analog.eval()(IMAGE).shape == (2, 3, 6, 6)


def test_a_graph_exported_in_training_mode_is_not_folded():
    model = with_statistics(made(MODELS["conv"][0])).train()
    exported = torch.export.export(model, (IMAGE,)).module()
    assert count(to_analog(exported, folded())) == 0


def test_a_model_that_cannot_be_traced():
    class Branch(nn.Sequential):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else x

    model = Branch(nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)).eval()
    with pytest.raises(InputError, match=r"Branch cannot be traced.*torch\.export"):
        to_analog(model, folded())
