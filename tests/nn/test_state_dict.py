"""Tables of weights as training frameworks leave them, and tensors that are no weights."""

import archive_files as files
import pytest
import torch
from torch import nn

from crossbar_sim import Hardware, InputError
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.loading import load_model
from crossbar_sim.nn.networks import MLP, LeNet5
from crossbar_sim.nn.state_dict import check_model, fill
from crossbar_sim.nn.weight_table import unwrap


class WithBuffer(nn.Module):
    """x @ w, shifted by the finite values of a buffer."""

    def __init__(self, buffer: torch.Tensor, persistent: bool = True) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)
        self.register_buffer("mask", buffer, persistent)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x) + torch.nan_to_num(self.mask.real, neginf=0.0).sum()


def causal() -> torch.Tensor:
    return torch.triu(torch.full((5, 5), float("-inf")), 1)


def rotary() -> torch.Tensor:
    return torch.polar(torch.ones(6), torch.arange(6.0))


@pytest.mark.parametrize("buffer", [causal(), rotary()], ids=["-inf", "complex"])
def test_a_buffer_may_be_a_mask_or_complex(buffer, tmp_path):
    model, x = WithBuffer(buffer), torch.ones(2, 4)
    other = WithBuffer(torch.zeros_like(buffer))
    assert fill(other, model.state_dict(), "it") == ()
    assert torch.equal(other.mask, buffer)
    check_model(WithBuffer(buffer, persistent=False))
    path = tmp_path / "m.pt2"
    path.write_bytes(files.exported(model, x))
    analog = to_analog(load_model(path).module, Hardware())
    with torch.no_grad():
        torch.testing.assert_close(analog(x), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "buffer", [torch.tensor([1.0, float("nan")]), torch.tensor([complex(0, float("nan")), 1])]
)
def test_a_buffer_is_never_nan(buffer):
    with pytest.raises(InputError, match="mask has 1 of 2 values that are NaN: training diverged"):
        check_model(WithBuffer(buffer))
    with pytest.raises(InputError, match="mask has 1 of 2 values"):
        fill(WithBuffer(torch.zeros_like(buffer)), WithBuffer(buffer).state_dict(), "it")


def test_statistics_of_a_normalisation_are_finite():
    model = nn.BatchNorm1d(3)
    model.running_var[1] = float("inf")
    with pytest.raises(InputError, match="running_var has 1 of 3 values that are NaN or infinite"):
        check_model(model)


def test_a_complex_buffer_does_not_lose_its_imaginary_part_in_a_real_one():
    with pytest.raises(InputError, match="mask is complex in the file and real in it"):
        fill(WithBuffer(torch.zeros(6)), WithBuffer(rotary()).state_dict(), "it")


def test_a_complex_parameter_is_no_conductance():
    model = nn.Linear(2, 2, dtype=torch.complex64)
    with pytest.raises(InputError, match="weight is complex"):
        fill(model, model.state_dict(), "it")


def test_a_network_without_shapes_or_values_is_refused():
    state = nn.Linear(3, 2).state_dict()
    with pytest.raises(InputError, match="weight of it has no shape yet: run the lazy model once"):
        fill(nn.LazyLinear(2), state, "it")
    with pytest.raises(InputError, match="weight of it is on the meta device"):
        fill(nn.Linear(3, 2, device="meta"), state, "it")
    with pytest.raises(InputError, match="has no shape yet"):
        check_model(nn.LazyLinear(2))


# Names


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))


def filled(content: object) -> tuple[nn.Module, tuple[str, ...]]:
    model = net()
    state, notes = unwrap(content)
    return model, notes + fill(model, state, "it")


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    ("wrap", "says"),
    [
        (lambda s: {"state_dict": prefixed("model.", s), "epoch": 3}, ["begin with 'model.'"]),
        (lambda s: prefixed("net.body.", s), ["begin with 'net.body.'"]),
        (lambda s: {"n_averaged": torch.tensor(4), **prefixed("module.", s)}, []),
        (lambda s: {"epoch": 3, "net": s, "optimizer": {"state": {}}}, ["those under 'net'"]),
        (lambda s: {"net": prefixed("model.", s), "epoch": 3}, ["those under 'net'", "begin with 'model.'"]),
        (lambda s: {"model_state_dict": s, "state_dict": {}}, []),
        (lambda s: {"state_dict": {"lr": 0.1}, "model": s}, []),
    ],
)
def test_weights_under_other_names_are_found(wrap, says):
    state = net().state_dict()
    model, notes = filled(wrap(state))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert len(notes) == len(says)
    assert all(part in note for part, note in zip(says, notes, strict=True))


def test_weights_that_are_not_the_only_ones_are_named():
    state = net().state_dict()
    with pytest.raises(InputError, match=r"2 tables of weights \(net, ema\): save the one"):
        unwrap({"net": state, "ema": state})
    more = {"loss.weight": torch.ones(2), **prefixed("model.", state)}
    with pytest.raises(InputError, match=r"of their 5 names 4 begin with 'model\.' and fit without it"):
        filled(more)
    with pytest.raises(InputError, match="1 unexpected"):
        filled({"n_averaged": torch.tensor(4), **state})


@pytest.mark.parametrize(("name", "model"), [("mlp", MLP(6, (5,), 3)), ("lenet5", LeNet5(3, 12, 4))])
def test_our_networks_are_inferred_behind_a_prefix(name, model, tmp_path):
    torch.save({"state_dict": prefixed("model.", model.state_dict())}, tmp_path / "m.ckpt")
    loaded = load_model(tmp_path / "m.ckpt", arch=name)
    assert "'model.'" in loaded.notes[0]
    assert all(torch.equal(v, model.state_dict()[n]) for n, v in loaded.module.state_dict().items())


# Extra state


class Gain(nn.Module):
    def __init__(self, gain: float, kind: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.fc, self.gain, self.kind = nn.Linear(3, 2), gain, kind

    def get_extra_state(self) -> torch.Tensor:
        return torch.tensor(self.gain, dtype=self.kind)

    def set_extra_state(self, state: torch.Tensor) -> None:
        if state.numel() > 1:
            raise ValueError("one gain")
        self.gain = float(state)


def test_extra_state_is_handed_to_its_module():
    state = nn.Sequential(Gain(7.0, torch.float64)).state_dict()
    model = nn.Sequential(Gain(1.0))
    assert fill(model, state, "it") == ("0._extra_state was given to Gain.set_extra_state",)
    assert model[0].gain == 7.0
    state["0._extra_state"] = torch.ones(2)
    with pytest.raises(InputError, match=r"0\._extra_state: set_extra_state refuses .*ValueError"):
        fill(model, state, "it")


def test_extra_state_of_bytes_may_be_a_pickle_and_is_left():
    state = Gain(7.0).state_dict()
    for own, given in ((torch.uint8, state), (torch.float32, Gain(7, torch.uint8).state_dict())):
        model = Gain(1, own)
        (note,) = fill(model, given, "it")
        assert "may be code" in note
        assert model.gain == 1
