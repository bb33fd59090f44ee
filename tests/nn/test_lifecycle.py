"""What users do with a model must go on working when it is analog, and must take effect."""

import copy
import gc
import io

import pytest
import torch
from helpers.analog_models import DRIFT, PLAIN, made, numbers
from torch import nn
from torch.nn.utils import parametrizations, prune

from crossbar_sim import Differential, Hardware, InputError, LogNormalDrift
from crossbar_sim.nn import only_layers, set_chip, set_hardware, to_analog
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.layers import arrays_of
from crossbar_sim.nn.evaluate import outputs


def mlp() -> nn.Module:
    return made(lambda: nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 3)))


X = numbers(5, 6)


def twin(analog: nn.Module, model: nn.Module) -> torch.Tensor:
    """What a fresh conversion of the clean model gives on the same chip."""
    shared = chips.analog_state(analog)
    return to_analog(model, shared.hardware, shared.seed, shared.chip)(X).detach()


@pytest.fixture(params=["grad", "no_grad", "inference"])
def mode(request):
    modes = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference": torch.inference_mode}
    return modes[request.param]


CHANGES = {
    "load_state_dict": lambda p: p["load"]({k: v + 0.5 for k, v in p["state"].items()}),
    "load_state_dict(assign)": lambda p: p["load"](
        {k: nn.Parameter(v + 0.5) for k, v in p["state"].items()}, assign=True
    ),
    "in place": lambda p: p["0.weight"].add_(0.5),
    ".data in place": lambda p: p["0.weight"].data.add_(0.5),
    ".data one value": lambda p: p["0.weight"].data.view(-1)[-1].add_(2.0),
    ".data sign": lambda p: p["0.weight"].data.neg_(),
    ".data set": lambda p: setattr(p["0.weight"], "data", p["0.weight"].data + 0.5),
    "through numpy": lambda p: p["0.weight"].detach().numpy().__iadd__(0.5),
    "vector_to_parameters": lambda p: nn.utils.vector_to_parameters(
        nn.utils.parameters_to_vector(p["all"]) + 0.5, p["all"]
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_weights_takes_effect(change, mode):
    model = mlp()
    analog = to_analog(model, PLAIN)
    with mode():
        before = analog(X).clone()
    with torch.no_grad():
        handles = dict(analog.named_parameters()) | {
            "load": analog.load_state_dict,
            "state": {k: v.clone() for k, v in analog.state_dict().items()},
            "all": list(analog.parameters()),
        }
        CHANGES[change](handles)
    with mode():
        after = analog(X)
    fresh = mlp()
    fresh.load_state_dict(analog.state_dict())
    assert torch.equal(after, twin(analog, fresh))
    assert not torch.allclose(after, before, rtol=0.01)


def test_a_change_in_place_takes_effect_with_the_channels_last_in_memory(mode):
    model = made(lambda: nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(16, 3)))
    analog = to_analog(model, PLAIN).to(memory_format=torch.channels_last)
    x = numbers(5, 3, 3, 3)
    with mode():
        before = analog(x).clone()
    assert not analog[0]._parameters["weight"].is_contiguous()
    analog[0]._parameters["weight"].data.mul_(2)
    with mode():
        after = analog(x)
    assert not torch.allclose(after, before, rtol=0.01)


def test_an_optimiser_step_takes_effect():
    analog = to_analog(mlp(), PLAIN)
    before = analog(X)
    before.square().sum().backward()
    torch.optim.SGD(analog.parameters(), 0.1).step()
    fresh = mlp()
    fresh.load_state_dict(analog.state_dict())
    assert torch.equal(analog(X), twin(analog, fresh))
    assert not torch.allclose(analog(X), before, rtol=0.01)


def test_temporary_weights_of_one_address_are_told_apart():
    """The allocator gives the second tensor the memory, and CPython the id, of the first."""
    model = mlp()
    analog = to_analog(model, PLAIN)
    seen = []
    for scale in (1.0, 2.0, 3.0, 4.0):
        with torch.no_grad():
            weights = {k: v * scale for k, v in model.state_dict().items()}
            y = torch.func.functional_call(analog, weights, (X,))
            fresh = mlp()
            fresh.load_state_dict(weights)
            assert torch.equal(y, twin(analog, fresh))
            seen.append(y)
        del weights
    assert not torch.allclose(seen[0], seen[1], rtol=0.01)


def test_inference_parameters_that_change_take_effect():
    with torch.inference_mode():
        model = mlp()
        analog = to_analog(model, PLAIN)
        before = analog(X)
        model[0].weight.add_(0.5)
        after = analog(X)
    assert not torch.allclose(before, after, rtol=0.01)


def test_buffers_from_an_evaluation_serve_in_training():
    """A frozen layer programmed in inference mode, then in a graph: torch refuses inference tensors there."""
    analog = to_analog(mlp(), PLAIN)
    analog[2].requires_grad_(False)
    outputs(analog, X)
    x = X.clone().requires_grad_()
    analog(x).sum().backward()
    assert x.grad is not None
    assert float(x.grad.abs().sum()) > 0


def programmed(analog: nn.Module) -> list[torch.Tensor]:
    """The memory that arrays are programmed into."""
    return [t for m in analog.modules() if (arrays := arrays_of(m)) for t in arrays.programmed.values()]


def test_state_dict_and_clean_weights_never_change():
    model = mlp()
    reference = {k: v.clone() for k, v in model.state_dict().items()}
    analog = to_analog(model, PLAIN)
    for chip in range(4):
        set_chip(analog, chip)
        outputs(analog, X)
        analog(X)
    for state in (analog.state_dict(), model.state_dict()):
        assert list(state) == list(reference)
        for k, v in state.items():
            assert v.numpy().tobytes() == reference[k].numpy().tobytes()
    assert [n for n, _ in analog.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert type(model[0]) is nn.Linear


def test_chips_come_back_to_the_bit_in_the_same_memory(mode):
    analog = to_analog(mlp(), PLAIN, chip=1)
    with mode():
        first = analog(X).clone()
    if mode is not torch.enable_grad:
        where = [t.data_ptr() for t in programmed(analog)]
        assert len(where) == 2
    set_chip(analog, 2)
    with mode():
        assert not torch.allclose(analog(X), first, rtol=0.01)
        set_chip(analog, 1)
        assert torch.equal(analog(X), first)
    if mode is not torch.enable_grad:
        assert [t.data_ptr() for t in programmed(analog)] == where


def test_memory_does_not_grow_with_chips():
    analog = to_analog(mlp(), PLAIN)

    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

    counts = []
    for chip in range(4):
        set_chip(analog, chip)
        outputs(analog, X)
        counts.append(tensors())
    assert counts[1:] == counts[:1] * 3


def test_set_hardware():
    analog = to_analog(mlp(), PLAIN)
    drifted = analog(X)
    set_hardware(analog, Hardware())
    torch.testing.assert_close(analog(X), mlp()(X), rtol=1e-5, atol=1e-6)
    set_hardware(analog, Hardware(drift=DRIFT))
    assert torch.equal(analog(X), drifted)
    with pytest.raises(InputError, match="bias='row' where the model was mapped with 'digital'"):
        set_hardware(analog, Hardware(bias="row"))


def test_only_layers_within_a_context():
    model = mlp()
    analog, alone = to_analog(model, PLAIN), to_analog(model, PLAIN, only=["2"])
    every = analog(X)
    with only_layers(analog, ["2"]):
        inside = analog(X)
        assert torch.equal(torch.cat(outputs(analog, X, fast=False)), inside)
    assert torch.equal(inside, alone(X))
    assert not torch.allclose(inside, every, rtol=0.01)
    assert torch.equal(analog(X), every)
    with only_layers(analog, []):
        assert torch.equal(analog(X), model(X))
    with pytest.raises(ZeroDivisionError), only_layers(analog, []):
        _ = 1 / 0
    assert torch.equal(analog(X), every)


def test_a_deepcopy_is_a_model_of_its_own():
    analog = to_analog(mlp(), PLAIN)
    y = analog(X)
    outputs(analog, X)
    copied = copy.deepcopy(analog)
    assert torch.equal(copied(X), y)
    assert list(copied.state_dict()) == list(analog.state_dict())
    with torch.no_grad():
        dict(copied.named_parameters())["0.weight"].mul_(2)
    assert not torch.allclose(copied(X), y, rtol=0.01)
    assert torch.equal(analog(X), y)
    set_chip(copied, 5)
    assert chips.analog_state(analog).chip == 0


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.LSTM(6, 4, 2, batch_first=True), nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        y = self.a(x[None])[0]
        return self.b(y, y, y)[0][0]


@pytest.mark.parametrize("build", [mlp, lambda: made(Recurrent)], ids=["mlp", "recurrent"])
def test_save_and_load_as_a_whole(build):
    analog = to_analog(build(), PLAIN, seed=3, chip=2)
    y = analog(X)
    outputs(analog, X)
    file = io.BytesIO()
    torch.save(analog, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(loaded(X), y)
    assert chips.analog_state(loaded) == chips.analog_state(loaded)
    set_chip(loaded, 3)
    set_chip(analog, 3)
    assert torch.equal(loaded(X), analog(X))
    assert [n for n, _ in loaded.named_parameters()] == [n for n, _ in analog.named_parameters()]


@pytest.mark.parametrize("build", [mlp, lambda: made(Recurrent)], ids=["mlp", "recurrent"])
@pytest.mark.parametrize(
    ("dtype", "rtol"), [(torch.float64, 1e-6), (torch.float16, 2e-2), (torch.bfloat16, 0.1)]
)
def test_other_precisions(dtype, rtol, build, mode):
    analog = to_analog(build(), Hardware(Differential(1e-6), drift=DRIFT, bias="row"))
    with mode():
        single = analog(X)
        analog.to(dtype)
        other = analog(X.to(dtype))
    assert other.dtype == dtype
    torch.testing.assert_close(other.float(), single, rtol=rtol, atol=rtol * float(single.abs().max()))


def test_on_the_meta_device_there_are_shapes(mode):
    for build in (mlp, lambda: made(Recurrent)):
        analog = copy.deepcopy(to_analog(build(), PLAIN)).to("meta")
        with mode():
            assert analog(X.to("meta")).shape[0] == 5


def test_dropout_still_answers_to_train_and_eval():
    model = made(lambda: nn.Sequential(nn.Linear(6, 400), nn.Dropout(0.5)))
    analog = to_analog(model, PLAIN)
    assert torch.equal(analog(X), analog(X))
    assert not torch.equal(analog.train()(X), analog(X))
    assert torch.equal(analog.eval()(X), analog(X))


def test_hooks_keep_working():
    model, seen = mlp(), []
    model[0].register_forward_hook(lambda m, _x, y: seen.append((m, y)))
    model[2].register_forward_pre_hook(lambda _m, x: (x[0] * 0,))
    analog = to_analog(model, PLAIN)
    y = analog(X)
    assert seen[0][0] is analog[0]
    assert torch.equal(y, model[2].bias.expand(5, 3))


def test_tied_weights_are_one_array():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x):
            return torch.cat([self.a(x), self.b(x)])

    analog = to_analog(made(Tied), PLAIN)
    one, two = analog(X).chunk(2)
    assert torch.equal(one, two)
    assert {slot.name for slot, _ in chips.slots(analog)} == {"a.weight"}
    assert analog._modules["a"]._parameters["weight"] is analog._modules["b"]._parameters["weight"]


def test_a_module_used_twice_is_one_array():
    shared = nn.Linear(6, 6)
    analog = to_analog(nn.Sequential(shared, shared).eval(), PLAIN)
    assert analog[0] is analog[1]
    assert len(list(chips.slots(analog))) == 1


def test_refusals():
    model = mlp()
    with pytest.raises(InputError, match="analog already"):
        to_analog(to_analog(model, PLAIN), PLAIN)
    with pytest.raises(InputError, match=r"0\.weight has no shape yet"):
        to_analog(nn.Sequential(nn.LazyLinear(3)), PLAIN)
    with pytest.raises(InputError, match="not analog"):
        set_chip(model, 1)
    with pytest.raises(InputError, match="no layer to map"):
        to_analog(nn.Sequential(nn.ReLU()), PLAIN)
    for bad in (-1, 2**32, 1.5, True):
        with pytest.raises(InputError, match="chip="):
            to_analog(model, PLAIN, chip=bad)
        with pytest.raises(InputError, match="chip="):
            set_chip(to_analog(model, PLAIN, chip=7), bad)
    with pytest.raises(InputError, match="seed="):
        to_analog(model, PLAIN, seed=-1)


def test_two_analog_models_in_one_are_not_half_reprogrammed():
    both = nn.Sequential(to_analog(mlp(), PLAIN), to_analog(nn.Linear(3, 3), PLAIN))
    assert both(X).shape == (5, 3)
    assert torch.equal(torch.cat(outputs(both, X, fast=False)), both(X))
    with pytest.raises(InputError, match="2 analog models"):
        set_chip(both, 1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(value, mode):
    model = mlp()
    with torch.no_grad():
        model[2].weight[0, 0] = value
    analog = to_analog(model, PLAIN)
    with mode(), pytest.raises(InputError, match=r"2\.weight holds 1 NaN or infinite values of 21"):
        analog(X)


def _normed(build):
    def make():
        return nn.ModuleDict({"odd": build(), "fc": nn.Linear(2, 2)})

    return make


REMADE = {
    "weight_norm": lambda: parametrizations.weight_norm(nn.Linear(6, 5)),
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(6, 5)),
    "old weight_norm": lambda: nn.utils.weight_norm(nn.Linear(6, 5)),
    "old weight_norm of an LSTM": lambda: nn.utils.weight_norm(nn.LSTM(6, 5), "weight_hh_l0"),
    "pruned": lambda: prune.l1_unstructured(nn.Linear(6, 5), "weight", 0.5),
}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("other", ["digital", "drifting"])
@pytest.mark.parametrize("name", REMADE)
def test_weights_made_from_others_are_digital_with_the_remedy(name, other):
    model = made(_normed(REMADE[name]))
    analog = to_analog(model, Hardware(drift=DRIFT, other=other))
    layer = next(layer for layer in chips.layers(analog) if layer.name == "odd")
    assert not layer.analog
    assert "remove" in layer.reason
    for clean, odd in ((model["odd"], analog["odd"]),):
        a, b = clean(X), odd(X)
        a, b = (y[0] if isinstance(y, tuple) else y for y in (a, b))
        assert other == "drifting" or torch.equal(a, b)
    if name == "pruned":
        prune.remove(model["odd"], "weight")
        again = to_analog(model, PLAIN)
        assert not torch.allclose(again["odd"](X), model["odd"](X), rtol=0.01)


def test_a_subclass_with_a_forward_of_its_own_is_mapped():
    class Scaled(nn.Linear):
        def forward(self, x):
            return x @ (2 * self.weight).T - self.bias

    model = made(lambda: Scaled(6, 5))
    analog = to_analog(model, PLAIN)
    w = PLAIN.effective_weight(model.weight.detach().numpy(), chips.analog_state(analog).key("weight"), 0)
    expected = X @ (2 * torch.from_numpy(w)).T - model.bias
    torch.testing.assert_close(analog(X), expected)


def test_a_parameter_of_an_unknown_class_is_reported():
    class Raw(nn.Module):
        def __init__(self):
            super().__init__()
            self.p, self.fc = nn.Parameter(numbers(6, 6)), nn.Linear(6, 2)

        def forward(self, x):
            return self.fc(x @ self.p)

    layers = {layer.name: layer for layer in chips.layers(to_analog(made(Raw), PLAIN))}
    assert not layers["Raw"].analog
    assert "export" in layers["Raw"].reason
    assert layers["fc"].analog


def test_only_and_skip():
    def names(**kw):
        return {layer.name for layer in chips.layers(to_analog(mlp(), PLAIN, **kw)) if layer.analog}

    assert names() == {"0", "2"}
    assert names(only=["2"]) == {"2"}
    assert names(only=["*"], skip=["2"]) == {"0"}
    assert names(skip=["[01]"]) == {"2"}
    for kw in ({"only": ["fc*"]}, {"skip": ["0", "nothing"]}, {"only": []}):
        with pytest.raises(InputError):
            names(**kw)


def test_frozen_and_complex_weights():
    model = mlp()
    model[0].requires_grad_(False)
    analog = to_analog(model, PLAIN)
    y = analog(X)
    y.sum().backward()
    assert torch.equal(y, twin(analog, mlp()))
    assert model[0].weight.grad is None
    odd = nn.Sequential(nn.Linear(6, 5, dtype=torch.complex64), nn.Linear(5, 5))
    layers = chips.layers(to_analog(odd, PLAIN))
    assert [layer.analog for layer in layers] == [False, True]
    assert "real" in layers[0].reason


def test_functional_call_gives_gradients():
    model = mlp()
    analog = to_analog(model, PLAIN)
    weights = {k: (2 * v).detach().requires_grad_() for k, v in model.state_dict().items()}
    y = torch.func.functional_call(analog, weights, (X,))
    fresh = mlp()
    fresh.load_state_dict(weights)
    assert torch.equal(y, twin(analog, fresh))
    y.sum().backward()
    assert all(float(w.grad.abs().sum()) > 0 for w in weights.values())
    assert model[0].weight.grad is None


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_compiled_models_follow_their_chip(mode):
    analog = to_analog(mlp(), PLAIN)
    compiled = torch.compile(analog, backend="eager")
    for chip in (0, 1, 0, 2):
        set_chip(analog, chip)
        with mode():
            y = compiled(X)
            assert torch.equal(y, analog(X))
    with torch.no_grad():
        dict(analog.named_parameters())["0.weight"].mul_(2)
    with mode():
        assert torch.equal(compiled(X), analog(X))
        assert not torch.allclose(compiled(X), y, rtol=0.01)


def test_no_layer_keeps_more_than_one_extra_copy_for_evaluation():
    analog = to_analog(mlp(), Hardware(drift=LogNormalDrift(0.1)))
    analog(X)  # with a gradient: own memory
    outputs(analog, X)
    assert all(not arrays.graphs for m in analog.modules() if (arrays := arrays_of(m)))
    weights = sum(p.numel() for n, p in analog.named_parameters() if "weight" in n)
    assert sum(t.numel() for t in programmed(analog)) == weights
    assert not list(analog.buffers())


def test_a_copy_of_a_copy_of_a_recurrent_layer_runs():
    model = to_analog(made(lambda: nn.Sequential(nn.LSTM(5, 6))), Hardware(drift=LogNormalDrift(0.3)))
    again = copy.deepcopy(copy.deepcopy(model))
    assert torch.equal(again(numbers(2, 3, 5))[0], model(numbers(2, 3, 5))[0])
