"""Every layer type: ideal hardware is plain torch, and drift is the core's on the layer's own weights."""

import copy

import pytest
import torch
from helpers.analog_models import DRIFT, LAYERS, first, made, numbers
from torch import nn

from crossbar_sim import ALL_MAPPINGS, Differential, Hardware, Key, LogNormalDrift, Offset
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.layers import arrays_of

CHIP, SEED = 3, 11


def run(model: nn.Module, case) -> torch.Tensor:
    with torch.no_grad():
        return first(model(*case.inputs, **case.keywords))


def close(a: torch.Tensor, b: torch.Tensor, rtol: float = 1e-5) -> None:
    scale = float(b.abs().max())
    torch.testing.assert_close(a, b, rtol=rtol, atol=rtol * scale)


@pytest.mark.parametrize("bias", ["digital", "row", "drifting"])
@pytest.mark.parametrize("mapping", ALL_MAPPINGS, ids=lambda m: m.kind)
@pytest.mark.parametrize("name", LAYERS)
def test_ideal_hardware_is_plain_torch(name, mapping, bias):
    case = LAYERS[name]
    model = made(case.build)
    analog = to_analog(model, Hardware(mapping(), bias=bias))
    assert sum(len(layer.matrices) for layer in chips.layers(analog)) == case.matrices
    close(run(analog, case), run(model, case))


def core_weight(p: torch.Tensor, order: str, groups: int, hardware: Hardware, key: Key) -> torch.Tensor:
    """The programmed weight by `Hardware.program`, block by block as numpy sees it."""
    w = p.detach().numpy()
    if order == "transposed":  # (in, out/g, *k): one matrix of in/g rows per group, columns group by group
        blocks = w.reshape(groups, w.shape[0] // groups, -1)
        matrix = blocks.transpose(1, 0, 2).reshape(blocks.shape[1], -1)
        got = hardware.program(matrix, key, CHIP).weight
        back = got.reshape(blocks.shape[1], groups, -1).transpose(1, 0, 2)
        return torch.from_numpy(back.reshape(w.shape).copy())
    matrix = w.reshape(w.shape[0], -1).T
    return torch.from_numpy(hardware.program(matrix, key, CHIP).weight.T.reshape(w.shape).copy())


def weights_of(model: nn.Module):
    """(parameter name, order, groups) of every crossbar matrix, told from torch's documentation alone."""
    for prefix, module in model.named_modules():
        dot = f"{prefix}." if prefix else ""
        for name, p in module.named_parameters(recurse=False):
            if "weight" in name and p.ndim >= 2 and not isinstance(module, nn.LayerNorm):
                kind = "transposed" if "Transpose" in type(module).__name__ else "plain"
                yield dot + name, kind, getattr(module, "groups", 1)


@pytest.mark.parametrize(
    "mapping", [Differential(1e-6, 1e-4), Offset(1e-6, 1e-4), Differential(copies=2)], ids=str
)
@pytest.mark.parametrize("name", LAYERS)
def test_drift_is_the_cores_on_these_weights(name, mapping):
    case, hardware = LAYERS[name], Hardware(mapping, drift=DRIFT)
    model = made(case.build)
    twin = copy.deepcopy(model)
    parameters = dict(twin.named_parameters())
    found = list(weights_of(model))
    assert len(found) == case.matrices
    for weight, order, groups in found:
        value = core_weight(parameters[weight], order, groups, hardware, Key(SEED).fold(weight))
        parameters[weight].data.copy_(value)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    analog = to_analog(model, hardware, SEED, CHIP)
    drifted, plain = run(analog, case), run(model, case)
    close(drifted, run(twin, case))
    assert not torch.allclose(drifted, plain, rtol=1e-2, atol=1e-3 * float(plain.abs().max()))
    assert list(analog.state_dict()) == list(before)
    assert all(torch.equal(v, before[k]) for k, v in analog.state_dict().items())


@pytest.mark.parametrize("name", [n for n in LAYERS if "transpose" not in n and "attention" not in n])
def test_a_bias_row_is_one_more_word_line(name):
    case, hardware = LAYERS[name], Hardware(Differential(1e-6), drift=DRIFT, bias="row")
    model = made(case.build)
    twin = copy.deepcopy(model)
    parameters = dict(twin.named_parameters())
    rows = 0
    for weight, _, _ in weights_of(model):
        p, b = parameters[weight], parameters.get(weight.replace("weight", "bias"))
        key = Key(SEED).fold(weight)
        flat = p.detach().reshape(len(p), -1)
        joined = flat if b is None else torch.cat([flat, b.detach()[:, None]], 1)
        got = torch.from_numpy(hardware.program(joined.numpy().T, key, CHIP).weight.T.copy())
        p.data.copy_(got[:, : flat.shape[1]].reshape(p.shape))
        if b is not None:
            b.data.copy_(got[:, -1])
            rows += 1
    analog = to_analog(model, hardware, SEED, CHIP)
    with_row = [slot for slot, _ in chips.slots(analog) if slot.bias is not None]
    assert len(with_row) == rows
    close(run(analog, case), run(twin, case))


class Everything(nn.Module):
    """One of each: weight, bias, normalisation, embedding, a parameter of the model itself."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(7, 6)
        self.norm = nn.LayerNorm(6)
        self.fc = nn.Linear(6, 5)
        self.gain = nn.Parameter(numbers(5))

    def forward(self, i):
        return self.fc(self.norm(self.table(i))) * self.gain


def test_without_a_floor_every_parameter_is_its_lognormal_multiple():
    hardware = Hardware(
        drift=LogNormalDrift(0.6), drift_per="weight", bias="drifting", normalisation="drifting",
        other="drifting",
    )  # fmt: skip
    model = made(Everything)
    analog = to_analog(model, hardware, SEED, CHIP)
    programmed = {
        slot.name: arrays_of(module).read(module, slot.weight) for slot, module in chips.slots(analog)
    }
    assert set(programmed) == {name for name, _ in model.named_parameters()}
    for name, p in model.named_parameters():
        ones = torch.ones(p.numel()).numpy()
        factor = torch.from_numpy(hardware.drift.apply(ones, Key(SEED).fold(name), CHIP)).double()
        exact = p.detach().double().reshape(-1) * factor
        ulp = torch.finfo(torch.float32).eps * exact.abs()
        assert bool(((programmed[name].detach().reshape(-1).double() - exact).abs() <= 2 * ulp).all()), name
    assert not torch.allclose(analog(torch.arange(7)), model(torch.arange(7)), rtol=0.01)


@pytest.mark.parametrize(
    ("build", "inputs", "why"),
    [
        (lambda: nn.Embedding(7, 6), (torch.arange(3),), "look-up"),
        (lambda: nn.EmbeddingBag(7, 6), (torch.arange(6).reshape(2, 3),), "look-up"),
    ],
)
def test_layers_that_no_array_can_carry(build, inputs, why):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.odd, self.fc = build(), nn.Linear(2, 2)

        def forward(self, *x):
            return self.odd(*x)

    model = made(Net)
    analog = to_analog(model, Hardware(drift=DRIFT))
    odd = next(layer for layer in chips.layers(analog) if layer.name == "odd")
    assert not odd.analog
    assert why in odd.reason
    assert torch.equal(analog(*inputs), model(*inputs))
    drifting = to_analog(model, Hardware(drift=DRIFT, other="drifting"))
    assert not torch.allclose(drifting(*inputs), model(*inputs), rtol=0.01)


def test_a_bilinear_layer_is_a_matrix_for_each_output():
    model, x, z = made(lambda: nn.Bilinear(6, 5, 4)), numbers(2, 6), numbers(2, 5)
    hardware = Hardware(drift=DRIFT)
    analog = to_analog(model, hardware, SEED, CHIP)
    (slot,) = chips.layers(analog)[0].matrices
    assert (slot.rows, slot.layout.cols, slot.layout.groups) == (6, 5, 4)
    side_by_side = torch.cat(list(model.weight.detach()), dim=1).numpy()
    w = hardware.program(side_by_side, Key(SEED).fold("weight"), CHIP).weight
    w = torch.from_numpy(w.copy()).reshape(6, 4, 5)
    with torch.no_grad():
        close = torch.allclose(analog(x, z), torch.einsum("bi,ikj,bj->bk", x, w, z) + model.bias, rtol=1e-5)
    assert close


def test_the_fast_path_of_an_encoder_reads_the_arrays():
    case = LAYERS["encoder layer"]
    model = made(case.build)
    analog = to_analog(model, Hardware(Differential(1e-6), drift=DRIFT))
    with torch.no_grad():
        fast = analog(*case.inputs)
    slow = analog(*(x.clone().requires_grad_() for x in case.inputs))  # a gradient closes the fast path
    torch.testing.assert_close(fast, slow.detach(), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(fast, model(*case.inputs), rtol=0.01)


@pytest.mark.parametrize("bias", ["digital", "row", "drifting"])
@pytest.mark.parametrize("shape", [(0, 4), (4, 0)])
def test_empty_layers(shape, bias):
    with pytest.warns(UserWarning, match="zero-element"):
        empty = nn.Linear(*shape)
    model = nn.Sequential(nn.Linear(shape[0], shape[0]) if shape[0] else nn.Identity(), empty).eval()
    model = nn.ModuleDict({"net": model, "other": nn.Linear(2, 2)})
    analog = to_analog(model, Hardware(drift=DRIFT, bias=bias))
    x = numbers(3, shape[0])
    assert analog["net"](x).shape == (3, shape[1])
    if shape[0] == 0 and bias == "digital":
        assert torch.equal(analog["net"](x), model["net"](x))


def test_a_negative_control_another_key_gives_other_weights():
    case = LAYERS["linear"]
    model = made(case.build)
    a, b = (run(to_analog(model, Hardware(drift=DRIFT), seed), case) for seed in (0, 1))
    assert not torch.allclose(a, b, rtol=0.01)
