"""Layers whose products go through converters and read noise, or honestly do not."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from helpers.analog_models import LAYERS, first, made, numbers
from torch import nn

from crossbar_sim import Differential, Hardware, InputError, Key, LogNormalDrift, Offset
from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.converters import ADC, DAC, GaussianReadNoise
from crossbar_sim.crossbar.wires import Wires
from crossbar_sim.nn import seeded, to_analog
from crossbar_sim.nn.analog import chips, tiled_arrays
from crossbar_sim.nn.analog.effects import idle_effects, layer_effects, read_linearly
from crossbar_sim.nn.analog.sequential import SequentialChips
from crossbar_sim.nn.evaluate import outputs
from crossbar_sim.nn.tensor_cells.planes import effective_weight

PLAIN = Hardware(Differential(1e-6, 5e-5), LogNormalDrift(0.4), tile=(7, 4))
IDEAL = replace(PLAIN, dac=DAC(), adc=ADC(range="max"))
COARSE = replace(PLAIN, dac=DAC(bits=6), adc=ADC(bits=6, range=2e-4), read_noise=GaussianReadNoise(0.02))
THROUGH = [name for name in LAYERS if name.startswith(("linear", "conv")) and "transpose" not in name]

pytestmark = pytest.mark.filterwarnings("ignore:bias=row adds no row")  # in layers without a bias


def run(model: nn.Module, case) -> torch.Tensor:
    with torch.no_grad():
        return first(model(*case.inputs, **case.keywords))


def close(a: torch.Tensor, b: torch.Tensor, rtol: float) -> None:
    torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * float(b.abs().max()))


@pytest.mark.parametrize("bias", ["digital", "row"])
@pytest.mark.parametrize("name", LAYERS)
def test_ideal_converters_are_the_linear_read_out(name, bias):
    model = made(LAYERS[name].build)
    linear, ideal = (to_analog(model, replace(h, bias=bias)) for h in (PLAIN, IDEAL))
    assert not torch.allclose(run(linear, LAYERS[name]), run(model, LAYERS[name]), rtol=1e-3)  # it drifts
    close(run(ideal, LAYERS[name]), run(linear, LAYERS[name]), 2e-6)


@pytest.mark.parametrize("name", LAYERS)
def test_coarse_converters_act_on_every_kind_of_layer(name):
    model = made(LAYERS[name].build)
    coarse, linear = to_analog(model, COARSE), to_analog(model, PLAIN)
    a, b = run(coarse, LAYERS[name]), run(linear, LAYERS[name])
    assert not torch.allclose(a, b, rtol=1e-5, atol=1e-6)
    assert not chips.analog_state(coarse).bypassed


@pytest.mark.parametrize("bias", ["digital", "row"])
@pytest.mark.parametrize("mapping", [Differential(1e-6, 5e-5), Offset(1e-6, 5e-5)], ids=["pair", "offset"])
@pytest.mark.parametrize("name", [n for n in THROUGH if n.startswith(("conv1d", "conv2d"))])
def test_images_as_they_lie_and_unfolded_give_the_same(name, mapping, bias, monkeypatch):
    case, model = LAYERS[name], made(LAYERS[name].build)
    hardware = replace(COARSE, mapping=mapping, bias=bias)
    usual = run(to_analog(model, hardware), case)
    monkeypatch.setattr(tiled_arrays.Window, "flat", None)
    monkeypatch.setattr(tiled_arrays, "CACHED", 1)  # an image at a time
    close(run(to_analog(model, hardware), case), usual, 1e-6)


def small() -> nn.Module:
    """A convolution, a layer read twice, and a layer in two places."""
    shared = nn.Linear(12, 12)
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, stride=2), nn.Tanh(), nn.Flatten(), shared, nn.Tanh(), shared, nn.Linear(12, 5)
    )


IMAGES = numbers(23, 2, 6, 6)


def test_noise_is_fresh_at_every_read_and_the_same_in_every_rerun():
    model = made(small)
    (whole,) = outputs(to_analog(model, COARSE), IMAGES, 23)
    before = threads.threads()
    try:
        for count, block in ((1, 5), (3, 4)):
            threads.set_threads(count)
            analog = to_analog(model, COARSE)
            for _ in range(2):
                torch.testing.assert_close(torch.cat(outputs(analog, IMAGES, block)), whole, rtol=0, atol=0)
    finally:
        threads.set_threads(before)
    analog, again = to_analog(model, COARSE), to_analog(model, COARSE)
    with torch.no_grad():  # outside of an evaluation every product is a new read
        one, two = analog(IMAGES), analog(IMAGES)
        assert not torch.equal(one, two)
        assert torch.equal(one, again(IMAGES))
        assert torch.equal(two, again(IMAGES))
        chips.set_chip(analog, 1)
        three = analog(IMAGES)
        chips.set_chip(analog, 0)
        assert torch.equal(analog(IMAGES), one)
        assert not torch.equal(three, one)
    same = torch.cat([IMAGES[:1]] * 4)
    with torch.no_grad():
        rows = to_analog(model, COARSE)(same)
    assert len(rows.unique(dim=0)) == 4


def test_setting_the_chip_counts_reads_anew_even_where_it_is_the_same():
    analog = to_analog(made(small), COARSE, chip=0)
    found = []
    with torch.no_grad():
        for chip in (0, 0, 1, 0):
            chips.set_chip(analog, chip)
            found.append(analog(IMAGES))
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[3])
    assert not torch.equal(found[0], found[2])


class Folded(nn.Module):
    """Words, or frames, are folded into the batch before the layer and unfolded after it."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        y = self.layer(x.flatten(0, 1))
        return y.reshape(len(x), -1, *y.shape[1:])


@pytest.mark.parametrize(
    ("layer", "x"),
    [(nn.Linear(4, 3), torch.ones(8, 5, 4)), (nn.Conv2d(1, 3, 2), torch.ones(8, 5, 1, 3, 3))],
    ids=["linear", "convolution"],
)
def test_what_is_folded_into_the_batch_is_numbered_by_its_example(layer, x):
    noisy = Hardware(Differential(0.0, 1e-4), read_noise=GaussianReadNoise(0.05))
    analog = to_analog(Folded(layer).eval(), noisy)
    (whole,) = outputs(analog, x, 8)
    for block in (1, 3):
        assert torch.equal(torch.cat(outputs(analog, x, block)), whole)
    assert len(whole.unique()) > 0.95 * whole.numel()  # float32 may round two alike


@pytest.mark.parametrize(
    "part", [{"dac": DAC(bits=4)}, {"adc": ADC(bits=4, range=1.0)}, {"read_noise": GaussianReadNoise(0.1)}]
)
def test_a_batch_of_nothing_gives_nothing(part):
    hardware = Hardware(Differential(0.0, 1e-4), **part)
    for layer, shape in (
        (nn.Linear(4, 3), (0, 4)),
        (nn.Linear(4, 3), (2, 0, 4)),
        (nn.Conv2d(1, 3, 2), (0, 1, 4, 4)),
    ):
        with torch.no_grad():
            assert to_analog(layer, hardware)(torch.ones(shape)).shape == layer(torch.ones(shape)).shape


def test_groups_share_their_reference_columns_converter():
    conv = made(lambda: nn.Conv2d(4, 4, 1, groups=2))
    adc = ADC(bits=8, per="column", range=1e-3, gain_sigma=0.1)
    analog = to_analog(conv, Hardware(Offset(0.0, 1e-4), dac=DAC(bits=6), adc=adc))
    blocks = []
    chips.analog_state(analog).probe = lambda tiled, *_: blocks.extend(tiled.blocks)
    with torch.no_grad():
        analog(numbers(1, 4, 2, 2))
    one, two = (block.quantiser(1.0).gain[0, 0] for block in blocks[:2])
    assert one[-1] == two[-1]
    assert len({*one, *two}) == 5


@pytest.mark.parametrize("bias", ["digital", "row"])
def test_groups_have_noise_of_their_own(bias):
    """Depthwise: four groups of one channel with one weight and one image differ by their noise alone."""
    conv = nn.Conv2d(4, 4, 3, groups=4)
    with torch.no_grad():
        conv.weight.fill_(0.5)
        conv.bias.fill_(0.25)
        x = numbers(1, 1, 40, 40).expand(1, 4, 40, 40)
        noisy = Hardware(Differential(0.0, 1e-4), read_noise=GaussianReadNoise(0.05), bias=bias)
        noise = (to_analog(conv, noisy)(x) - conv(x))[0].reshape(4, -1)
    alike = torch.corrcoef(noise)
    alike.fill_diagonal_(0)
    assert float(alike.abs().max()) < 6 / 38  # 38 * 38 pixels: six standard errors


@pytest.mark.parametrize("bias", ["digital", "row"])
def test_the_weight_that_reads_is_that_of_the_linear_read_out(bias):
    model = made(small)
    for mapping in (Differential(1e-6, 5e-5), Offset(0.0, 6e-5, levels=64, cell_bits=4)):
        around, linear = (to_analog(model, replace(h, mapping=mapping, bias=bias)) for h in (COARSE, PLAIN))
        with torch.no_grad():
            for place in (0, 3, 6):
                assert torch.equal(around[place].weight.as_subclass(torch.Tensor), linear[place].weight)


def test_gradients_pass_straight_through():
    model = made(small)
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            assert module.weight.requires_grad

    def gradients(hardware: Hardware) -> list[torch.Tensor]:
        model.zero_grad()
        x = IMAGES.clone().requires_grad_(True)
        to_analog(model, hardware)(x).square().sum().backward()
        return [x.grad, *(p.grad.clone() for p in model.parameters())]  # type: ignore[list-item]

    linear, ideal, coarse = (gradients(h) for h in (PLAIN, IDEAL, replace(COARSE, read_noise=None)))
    for a, b, c in zip(linear, ideal, coarse, strict=True):
        close(b, a, 1e-4)
        assert 0 < float((c - a).norm() / a.norm()) < 0.5


def test_a_step_of_hardware_aware_training_lowers_the_loss():
    model = made(small)
    analog = to_analog(model, replace(COARSE, drift=None))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    labels = torch.arange(23) % 5
    losses = []
    for _ in range(25):
        loss = nn.functional.cross_entropy(analog(IMAGES), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.01


def test_copies_states_and_pickles_are_those_of_the_clean_model():
    model = made(small)
    analog = to_analog(model, COARSE)
    with torch.no_grad():
        y = analog(IMAGES)
        assert torch.equal(copy.deepcopy(to_analog(model, COARSE))(IMAGES), y)
        # an analog model that has been read counts its reads; as sent elsewhere, it counts on
        sent = pickle.loads(pickle.dumps(to_analog(model, COARSE)))
        assert torch.equal(sent(IMAGES), y)
        assert type(copy.deepcopy(analog[0].weight)) is torch.Tensor
    assert list(analog.state_dict()) == list(model.state_dict())


def test_exported_graphs_go_through_converters_too():
    model = made(
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(108, 4))
    )
    program = torch.export.export(model, (IMAGES,)).module()
    hardware = replace(COARSE, read_noise=None)
    with torch.no_grad():
        y = to_analog(program, hardware)(IMAGES)
        # the converters act in the graph, which the linear reading of the same chip shows
        assert not torch.allclose(y, to_analog(program, PLAIN)(IMAGES), rtol=1e-3)
        close(y, to_analog(model, hardware)(IMAGES), 1e-6)


def test_every_effect_is_seen_to_act_or_named():
    model = made(small)
    analog = to_analog(model, COARSE)
    found = layer_effects(analog, IMAGES)
    for layer in ("0", "3", "6"):
        assert set(found[layer]) == {"drift", "dac", "read_noise", "adc"}
        assert 1e-4 < found[layer]["dac"] < 0.2
        assert 1e-3 < found[layer]["read_noise"] < 0.5
        assert 1e-3 < found[layer]["adc"] < 0.5
    assert idle_effects(found, COARSE, 0) == []
    assert read_linearly(analog, found) == []
    nothing = replace(PLAIN, dac=DAC(), adc=ADC(range="max"))
    found = layer_effects(to_analog(model, nothing), IMAGES)
    told = idle_effects(found, nothing, 0)
    assert [sentence.split(" ")[0] for sentence in told] == ["dac", "adc"]
    assert all("changed nothing in any layer" in sentence for sentence in told)
    cell = to_analog(made(lambda: nn.RNNCell(8, 6, bias=False)), replace(COARSE, read_noise=None))
    assert read_linearly(cell, layer_effects(cell, numbers(2, 8))) == []


class Tied(nn.Module):
    """An autoencoder whose decoder is its encoder's transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.o = nn.Linear(8, 5), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert self.e.weight.shape == (5, 8)
        assert self.e.weight.device.type == "cpu"
        return self.o(nn.functional.linear(self.e(x).relu(), self.e.weight.t()))


def test_a_product_past_the_converters_is_told():
    analog = to_analog(made(Tied), COARSE)
    (sentence,) = read_linearly(analog, layer_effects(analog, numbers(20, 8)))
    assert sentence.startswith("e: the forward also computes with the weights in another way")
    assert sentence.endswith("and there dac, read_noise, adc do not act")


def test_what_cannot_be_is_refused_in_one_line():
    model = made(small)
    analog = to_analog(model, COARSE)
    chips.analog_state(analog).set_maps(lambda name, columns: columns)
    with pytest.raises((InputError, RuntimeError), match="read linearly for now"), torch.no_grad():
        analog(IMAGES)
    with pytest.raises(InputError, match="simulated on the CPU only"):
        effective_weight(Hardware(wires=Wires(2.0)), torch.ones(2, 3), chips.analog_state(analog).key("w"), 0)
    with pytest.raises(InputError, match="needs ranges"), torch.no_grad():
        to_analog(model, replace(COARSE, adc=ADC(bits=6)))(IMAGES)


def test_a_chain_is_not_taken_where_products_are_converted():
    model = made(lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)))
    assert SequentialChips.of(to_analog(model, PLAIN)) is not None
    assert SequentialChips.of(to_analog(model, COARSE)) is None


@pytest.mark.parametrize("bias", ["digital", "row"])
@pytest.mark.parametrize("per", ["matrix", "column"])
def test_convolutions_with_flipped_columns_are_exact(bias, per):
    """Preset isaac, inputs of a high mean and weights of one sign: sums that only flipped columns keep in range."""
    with seeded(Key(3)):
        model = nn.Sequential(
            nn.Conv2d(6, 8, 5, padding=2, stride=2, groups=2), nn.ReLU(), nn.Conv2d(8, 3, 3)
        ).eval()
        with torch.no_grad():
            model[0].weight.abs_()
        x = 1 - 0.1 * torch.rand(3, 6, 13, 13)
    analog = to_analog(model, Hardware.preset("isaac", bias=bias, scale_per=per))
    with torch.no_grad():
        exact = model(x)
        assert torch.allclose(analog(x), exact, atol=1e-3 * float(exact.abs().max()))
