"""What becomes of a model's parts: which design choices map, drift or leave what, and the words for it."""

import pytest
import torch
from helpers.analog_models import DRIFT, LAYERS, PLAIN, made, numbers
from torch import nn

from crossbar_sim import Differential, Hardware, InputError, Offset
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.layers import arrays_of


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(144, 5), nn.LayerNorm(5),
        nn.PReLU(), nn.Linear(5, 3, bias=False),
    )  # fmt: skip


def names(analog: nn.Module) -> set[str]:
    return {slot.name for slot, _ in chips.slots(analog)}


WEIGHTS = {"0.weight", "3.weight", "6.weight"}


@pytest.mark.parametrize(
    ("choices", "more"),
    [
        ({}, set()), ({"bias": "row"}, set()), ({"bias": "drifting"}, {"0.bias", "3.bias"}),
        ({"normalisation": "drifting"}, {"1.weight", "1.bias", "4.weight", "4.bias"}),
        ({"other": "drifting"}, {"5.weight"}), ({"normalisation": "folded"}, {"0.bias"}),
        ({"normalisation": "folded", "bias": "row"}, set()),
    ],
)  # fmt: skip
def test_each_choice_decides_its_own_parameters(choices, more):
    model = made(net)
    analog = to_analog(model, Hardware(**choices))
    assert names(analog) == WEIGHTS | more
    layers = {layer.name: layer for layer in chips.layers(analog)}
    assert set(layers) == {"0", "1", "3", "4", "5", "6"}
    assert {name for name, layer in layers.items() if layer.analog} == {"0", "3", "6"}
    for slot, module in chips.slots(analog):  # and each drifts
        chips.set_hardware(analog, Hardware(Differential(1e-6), drift=DRIFT, **choices))
        value = arrays_of(module).read(module, slot.weight)
        if not slot.ideal:
            assert not torch.allclose(value, slot.clean(module)[0], rtol=0.01), slot.name


def test_words_of_the_report():
    reasons = {layer.name: layer.reason for layer in chips.layers(to_analog(made(net), PLAIN, skip=["3"]))}
    assert reasons["0"] == "on arrays"
    assert reasons["1"] == "an affine normalisation"
    assert reasons["3"] == "skipped as asked"
    assert reasons["5"] == "no weight matrix"
    folded = chips.layers(to_analog(made(net), Hardware(normalisation="folded")))
    reasons = {layer.name: layer.reason for layer in folded}
    assert reasons["1"] == "folded into 0"
    assert "no layer alone before it" in reasons["4"]
    only = {layer.name: layer.reason for layer in chips.layers(to_analog(made(net), PLAIN, only=["0"]))}
    assert only["3"] == "not among those chosen with only"


@pytest.mark.parametrize(
    ("mapping", "planes", "reference"), [(Differential(), 2, 0), (Offset(copies=3), 3, 1)]
)
def test_geometry_counts_groups_tiles_and_bias_rows(mapping, planes, reference):
    hardware = Hardware(mapping, bias="row", tile=(64, 4))
    analog = to_analog(made(net), hardware)
    layers = {layer.name: layer for layer in chips.layers(analog)}
    (conv,), (fc,) = layers["0"].geometries(hardware), layers["3"].geometries(hardware)
    assert (conv.rows, conv.cols, conv.groups) == (10, 2, 2)
    # groups are on tiles of their own, unless they share a reference column and so its word lines
    assert conv.cells == planes * 10 * (2 * 2 + reference)
    assert conv.tiles == planes * 2
    assert (fc.rows, fc.cols) == (145, 5)
    assert fc.cells == planes * 145 * (5 + reference)
    assert fc.tiles == planes * 3 * 2
    assert 0 < fc.utilisation <= 1


@pytest.mark.parametrize("name", LAYERS)
def test_layouts_come_back(name):
    analog = to_analog(made(LAYERS[name].build), PLAIN)
    for slot, module in chips.slots(analog):
        p = module._parameters[slot.weight]
        columns = slot.layout.columns(p)
        assert columns.shape == (slot.layout.groups * slot.layout.cols, slot.layout.rows)
        assert torch.equal(slot.layout.parameter(columns), p)
        if slot.layout.order == "out_in":
            assert columns.data_ptr() == p.data_ptr()


def test_clean_tensors_are_shared_not_copied():
    model = made(net)
    analog = to_analog(model, PLAIN)
    assert all(a is b for a, b in zip(analog.parameters(), model.parameters(), strict=True))
    buffers = dict(analog.named_buffers())
    assert all(buffers[name] is b for name, b in model.named_buffers())
    assert analog is not model
    with torch.no_grad():
        analog(numbers(1, 2, 8, 8))
    assert [n for n, _ in model.named_buffers()] == [
        "1.running_mean",
        "1.running_var",
        "1.num_batches_tracked",
    ]


def test_a_parent_keeps_its_class_and_methods():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 5)

        def twice(self, x):
            return 2 * self.fc(x)

    analog = to_analog(made(Net), PLAIN)
    assert type(analog) is Net
    assert isinstance(analog.fc, nn.Linear)
    assert torch.equal(analog.twice(numbers(2, 6)), 2 * analog.fc(numbers(2, 6)))


def test_a_model_that_is_one_layer():
    model = made(lambda: nn.Linear(6, 5))
    analog = to_analog(model, Hardware(drift=DRIFT, bias="drifting"))
    assert names(analog) == {"weight", "bias"}
    assert not torch.allclose(analog(numbers(2, 6)), model(numbers(2, 6)), rtol=0.01)
    with pytest.raises(InputError, match="no layer to map: Linear: skipped as asked"):
        to_analog(model, PLAIN, skip=["Linear"])


def test_an_analog_model_is_not_exported_as_one_chip_by_accident():
    analog = to_analog(made(lambda: nn.Linear(6, 5)), PLAIN)
    with pytest.raises(Exception, match=r"(?s).+"):
        torch.export.export(analog, (numbers(2, 6),))
    assert analog(numbers(2, 6)).shape == (2, 5)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_a_wrapped_model_gets_the_cells_of_the_model_inside(wrap):
    x = numbers(1, 2, 8, 8)
    wrapped = to_analog(wrap(made(net)), PLAIN)
    assert names(wrapped) == WEIGHTS
    assert torch.equal(wrapped(x), to_analog(made(net), PLAIN)(x))
