"""Exported graphs: the same arrays as in the layers that they were exported from."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from helpers.analog_models import DRIFT, LAYERS, PLAIN, Case, first, made, numbers
from helpers.graphs import export
from torch import nn

from crossbar_sim import Differential, Hardware, InputError
from crossbar_sim.nn import set_chip, to_analog
from crossbar_sim.nn.analog import chips

DRIFTED = Hardware(Differential(1e-6), drift=DRIFT)


def run(model: nn.Module, inputs) -> torch.Tensor:
    with torch.no_grad():
        return first(model(*inputs))


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


def arrays(model: nn.Module) -> set[str]:
    return {s.name for layer in chips.layers(model) for s in layer.matrices}


def drifting(model: nn.Module) -> set[str]:
    """The parameters that have cells."""
    holders = {id(module): f"{name}." if name else "" for name, module in model.named_modules()}
    return {f"{holders[id(module)]}{name}" for slot, module in chips.slots(model) for name in slot.names}


class Net(nn.Module):
    """A layer inside a model, called as the case says."""

    def __init__(self, case: Case):
        super().__init__()
        self.body, self.keywords = case.build(), case.keywords

    def forward(self, *inputs):
        return self.body(*inputs, **self.keywords)


BATCHED = [n for n in LAYERS if "unbatched" not in n]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("decomposed", [False, True], ids=["as exported", "decomposed"])
@pytest.mark.parametrize("name", BATCHED)
def test_exported_is_eager_on_the_same_chip(name, decomposed):
    case = LAYERS[name]
    if "decoder" in name and decomposed:
        pytest.skip("as attention across")
    model = made(lambda: Net(case))
    exported = export(model, case.inputs, decomposed=decomposed)
    analog = to_analog(exported, DRIFTED, 5, 2)
    eager = to_analog(model, DRIFTED, 5, 2)
    assert arrays(analog) == arrays(eager)
    assert list(analog.state_dict()) == list(exported.state_dict())
    got = run(analog, case.inputs)
    close(got, run(eager, case.inputs))
    assert not torch.allclose(got, run(model, case.inputs), rtol=0.01)


ROWS = [n for n in BATCHED if not any(w in n for w in ("attention", "coder", "3d", "1d"))]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bias", ["row", "drifting"])
@pytest.mark.parametrize("name", ROWS)
def test_biases_of_exported_layers(name, bias):
    case, hardware = LAYERS[name], Hardware(Differential(1e-6), drift=DRIFT, bias=bias)
    model = made(lambda: Net(case))
    eager, analog = to_analog(model, hardware), to_analog(export(model, case.inputs), hardware)
    assert drifting(analog) == drifting(eager) != set()
    close(run(analog, case.inputs), run(eager, case.inputs))


def test_a_layer_that_is_the_whole_model():
    for bias in ("digital", "row", "drifting"):
        hardware = Hardware(Differential(1e-6), drift=DRIFT, bias=bias)
        model, x = made(lambda: nn.Linear(6, 5)), (numbers(3, 6),)
        analog = to_analog(export(model, x), hardware)
        assert drifting(analog) == {"weight"} | ({"bias"} if bias != "digital" else set())
        close(run(analog, x), run(to_analog(model, hardware), x))


def test_a_batch_of_any_size():
    model = made(lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3)))
    batch = torch.export.Dim("batch", min=1, max=64)
    exported = export(model, (numbers(2, 1, 8, 8),), ({0: batch},))
    analog, eager = to_analog(exported, DRIFTED), to_analog(model, DRIFTED)
    for n in (2, 5):
        x = (numbers(n, 1, 8, 8),)
        assert len(run(analog, x)) == 3 * n
        close(run(analog, x), run(eager, x))


class Product(nn.Module):
    """A parameter of the model itself in a product."""

    def __init__(self, how, *shape):
        super().__init__()
        self.how, self.p = how, nn.Parameter(numbers(*shape))

    def forward(self, x):
        return self.how(x, self.p)


X2, X3 = numbers(4, 6), numbers(2, 4, 6)
PRODUCTS = {
    "x @ p": (lambda x, p: x @ p, X2, (6, 5), (6, 5), False),
    "mm": (lambda x, p: torch.mm(x, p), X2, (6, 5), (6, 5), False),
    "x @ p.T": (lambda x, p: x @ p.T, X2, (5, 6), (6, 5), True),
    "x @ p.t()": (lambda x, p: x @ p.t(), X2, (5, 6), (6, 5), True),
    "x @ p.mT": (lambda x, p: x @ p.mT, X2, (5, 6), (6, 5), True),
    "square x @ p.T": (lambda x, p: x @ p.T, X2, (6, 6), (6, 6), True),
    "square permute(0, 1)": (lambda x, p: x @ p.permute(0, 1), X2, (6, 6), (6, 6), False),
    "x @ p.T.T": (lambda x, p: x @ p.transpose(0, 1).transpose(-1, -2), X2, (6, 5), (6, 5), False),
    "p @ x": (lambda x, p: p @ x, X2, (5, 4), (4, 5), True),
    "p.T @ x": (lambda x, p: p.T @ x, X2, (4, 5), (4, 5), False),
    "addmm": (lambda x, p: torch.addmm(torch.ones(5), x, p), X2, (6, 5), (6, 5), False),
    "addmm of p first": (lambda x, p: torch.addmm(torch.ones(6), p, x), X2, (5, 4), (4, 5), True),
    "3-D x @ p": (lambda x, p: x @ p, X3, (6, 5), (6, 5), False),
    "3-D x @ p.T": (lambda x, p: x @ p.T, X3, (5, 6), (6, 5), True),
    "linear with p.T": (lambda x, p: F.linear(x, p.T), X2, (6, 5), (6, 5), False),
    "contiguous": (lambda x, p: x @ p.t().contiguous(), X2, (5, 6), (6, 5), True),
    "half of p": (lambda x, p: F.linear(x, p[:3]), X2, (5, 6), (6, 5), True),
    "one row": (lambda x, p: x @ p, X2[:, :1], (1, 5), (1, 5), False),
    "one row transposed": (lambda x, p: x @ p.T, X2[:, :1], (5, 1), (1, 5), True),
    "one column": (lambda x, p: x @ p, X2, (6, 1), (6, 1), False),
}


@pytest.mark.parametrize("decomposed", [False, True], ids=["as exported", "decomposed"])
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_with_a_parameter(name, decomposed):
    how, x, shape, matrix, turned = PRODUCTS[name]
    model = made(lambda: Product(how, *shape))
    analog = to_analog(export(model, (x,), decomposed=decomposed), DRIFTED, 5, 2)
    (slot,) = chips.layers(analog)[0].matrices
    assert (slot.rows, slot.layout.cols) == matrix
    key = chips.analog_state(analog).key("p")
    p = model.p.detach().numpy()
    w = DRIFTED.program(p.T if turned else p, key, 2).weight
    w = torch.from_numpy((w.T if turned else w).copy())
    close(run(analog, (x,)), how(x, w).reshape(-1))


@pytest.mark.parametrize("decomposed", [False, True], ids=["as exported", "decomposed"])
def test_bmm_has_one_matrix_for_each_of_the_batch(decomposed):
    model = made(lambda: Product(torch.bmm, 2, 6, 5))
    analog = to_analog(export(model, (X3,), decomposed=decomposed), DRIFTED, 5, 2)
    (slot,) = chips.layers(analog)[0].matrices
    assert (slot.rows, slot.layout.cols, slot.layout.groups) == (6, 5, 2)
    side_by_side = torch.cat(list(model.p.detach()), dim=1).numpy()
    w = DRIFTED.program(side_by_side, chips.analog_state(analog).key("p"), 2).weight
    w = torch.from_numpy(w.copy()).reshape(6, 2, 5).permute(1, 0, 2)
    close(run(analog, (X3,)), torch.bmm(X3, w).reshape(-1))


class Both(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how, self.p, self.fc = how, nn.Parameter(numbers(6, 6)), nn.Linear(6, 6)
        self.q = nn.Parameter(numbers(6, 6) + 1)

    def forward(self, x):
        return self.fc(self.how(x, self.p, self.q))


DIGITAL = {
    "einsum": (
        lambda x, p, q: x + torch.einsum("bi,ij->b", x, p)[:, None],
        "its index j is summed by itself",
    ),
    "added": (lambda x, p, q: x + p[0], "no matrix product"),
    "of two parameters": (lambda x, p, q: x + (p @ q).sum(), "no operand of it is an input"),
}


@pytest.mark.parametrize("name", DIGITAL)
def test_what_is_no_product_with_an_input_is_digital(name):
    how, why = DIGITAL[name]
    model = made(lambda: Both(how))
    analog = to_analog(export(model, (X2,)), PLAIN)
    layer = next(layer for layer in chips.layers(analog) if layer.name == "p")
    assert not layer.analog
    assert why in layer.reason
    assert arrays(analog) == {"fc.weight"}


class Shared(nn.Module):
    """One weight in two places, one twice, one unused, one at the root, one table."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.b.weight = self.a.weight
        self.idle = nn.Linear(3, 3)
        self.root = nn.Parameter(numbers(6, 6))
        self.table = nn.Embedding(4, 6)

    def forward(self, x):
        return self.b(self.a(self.a(x))) @ self.root + self.table(torch.zeros(1, dtype=torch.long))


def test_shared_unused_and_root_parameters():
    model = made(Shared)
    exported = export(model, (X2,))
    analog = to_analog(exported, DRIFTED)
    layers = {layer.name: layer for layer in chips.layers(analog)}
    assert arrays(analog) == {"a.weight", "root"}
    assert "look-up" in layers["table"].reason
    assert list(analog.state_dict()) == list(exported.state_dict())
    plain = made(Shared)
    key = chips.analog_state(analog).key
    with torch.no_grad():
        w = DRIFTED.program(plain.a.weight.T.numpy(), key("a.weight"), 0).weight
        plain.a.weight.copy_(torch.from_numpy(w.T.copy()))
        w = DRIFTED.program(plain.root.numpy(), key("root"), 0).weight
        plain.root.copy_(torch.from_numpy(w.copy()))
    close(run(analog, (X2,)), run(plain, (X2,)))


def test_a_learned_state_of_a_recurrent_layer_is_no_matrix():
    class Started(nn.Module):
        def __init__(self):
            super().__init__()
            self.h, self.rnn = nn.Parameter(numbers(1, 4)), nn.GRU(6, 4)

        def forward(self, x):
            return self.rnn(x, self.h)[0]

    model = made(Started)
    analog = to_analog(export(model, (X2,)), DRIFTED)
    assert arrays(analog) == {"rnn.weight_ih_l0", "rnn.weight_hh_l0"}
    close(run(analog, (X2,)), run(to_analog(model, DRIFTED), (X2,)))


def lenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4),
        nn.LayerNorm(4), nn.Linear(4, 3),
    )  # fmt: skip


IMAGE = (numbers(2, 1, 8, 8),)


@pytest.mark.parametrize("decomposed", [False, True], ids=["as exported", "decomposed"])
def test_normalisations_drift_by_their_own_choice(decomposed):
    hardware = Hardware(drift=DRIFT, drift_per="weight", normalisation="drifting")
    model = made(lenet)
    analog = to_analog(export(model, IMAGE, decomposed=decomposed), hardware)
    drifting = {slot.name for slot, _ in chips.slots(analog) if slot.layout.order == "vector"}
    assert drifting == {"1.weight", "1.bias", "6.weight", "6.bias"}
    close(run(analog, IMAGE), run(to_analog(model, hardware), IMAGE))


@pytest.mark.parametrize("root", [False, True])
def test_a_copy_is_a_model_of_its_own(root):
    model = made(lambda: nn.Linear(6, 5)) if root else made(lenet)
    x = (X2,) if root else IMAGE
    analog = to_analog(export(model, x), PLAIN)
    before = run(analog, x)
    copied = copy.deepcopy(analog)
    assert torch.equal(run(copied, x), before)
    assert list(copied.state_dict()) == list(analog.state_dict())
    set_chip(copied, 9)
    assert not torch.allclose(run(copied, x), before, rtol=0.01)
    assert torch.equal(run(analog, x), before)
    with torch.no_grad():
        next(copied.parameters()).mul_(3)
    assert torch.equal(run(analog, x), before)
    again = copy.deepcopy(copied)
    assert torch.equal(run(again, x), run(copied, x))


def test_training_an_exported_model_moves_its_weights():
    model = made(lenet)
    analog = to_analog(export(model, IMAGE), PLAIN)
    y = analog(*IMAGE)
    y.square().sum().backward()
    assert all(float(p.grad.abs().sum()) > 0 for p in analog.parameters())
    torch.optim.SGD(analog.parameters(), 0.1).step()
    assert not torch.allclose(analog(*IMAGE), y, rtol=0.01)


def test_only_skip_and_a_second_conversion():
    exported = export(made(lenet), IMAGE)
    assert arrays(to_analog(exported, PLAIN, only=["0"])) == {"0.weight"}
    assert arrays(to_analog(exported, PLAIN, skip=["0"])) == {"5.weight", "7.weight"}
    with pytest.raises(InputError, match="no layer is called 'fc'"):
        to_analog(exported, PLAIN, only=["fc"])
    with pytest.raises(InputError, match="analog already"):
        to_analog(to_analog(exported, PLAIN), PLAIN)


# Views between the parameter and its product

X1D, X2D = numbers(3, 6, 9), numbers(3, 6, 5, 5)
VIEWED = {
    "1x1 kernel squeezed": (lambda x, p: F.linear(x, p.squeeze()), X2, (5, 6, 1, 1), 6, 5),
    "1x1 kernel squeezed twice": (lambda x, p: F.linear(x, p.squeeze(-1).squeeze(2)), X2, (5, 6, 1, 1), 6, 5),
    "1x1 kernel selected": (lambda x, p: F.linear(x, p[:, :, 0, 0]), X2, (5, 6, 1, 1), 6, 5),
    "1x1 kernel flattened": (lambda x, p: x @ p.flatten(1).t(), X2, (5, 6, 1, 1), 6, 5),
    "kernel as a matrix": (lambda x, p: F.linear(x, p.view(5, -1)), numbers(4, 24), (5, 6, 2, 2), 24, 5),
    "reshaped": (lambda x, p: x @ p.reshape(6, 5), X2, (2, 3, 5), 6, 5),
    "a vector as a matrix": (lambda x, p: F.linear(x, p.view(5, 6)), X2, (30,), 6, 5),
    "a vector as a matrix to the left": (lambda x, p: x @ p.view(6, 5), X2, (30,), 6, 5),
    "unflattened": (lambda x, p: x @ p.unflatten(0, (6, 5)), X2, (30,), 6, 5),
    "flattened and back": (lambda x, p: F.linear(x, p.flatten().view(5, 6)), X2, (5, 6), 6, 5),
    "selected of a stack": (lambda x, p: F.linear(x, p[1]) - F.linear(x, p[0]), X2, (2, 5, 6), 6, 10),
    "selected of a stack, to the right": (lambda x, p: x @ p[1] - x @ p[0], X2, (2, 6, 5), 6, 10),
    "unbound": (lambda x, p: F.linear(x, p.unbind(0)[1]) + F.linear(x, p.unbind(0)[0]), X2, (2, 5, 6), 6, 10),
    "chunked": (lambda x, p: F.linear(x, p.chunk(2)[1]) - F.linear(x, p.chunk(2)[0]), X2, (10, 6), 6, 10),
    "narrowed": (lambda x, p: F.linear(x, p.narrow(0, 1, 3)), X2, (5, 6), 6, 5),
    "sliced inputs": (lambda x, p: F.linear(x[:, :4], p[:, :4]), X2, (5, 6), 6, 5),
    "moved": (lambda x, p: x @ p.movedim(0, 1), X2, (5, 6), 6, 5),
    "permuted with a unit": (lambda x, p: F.linear(x, p.permute(1, 0, 2)[0]), X2, (5, 1, 6), 6, 5),
    "swapped": (lambda x, p: x @ p.swapdims(-1, -2), X2, (5, 6), 6, 5),
    "float": (lambda x, p: F.linear(x, p.float()), X2, (5, 6), 6, 5),
    "to float32": (lambda x, p: F.linear(x, p.to(torch.float32)), X2, (5, 6), 6, 5),
    "to float64": (lambda x, p: F.linear(x.double(), p.to(torch.float64)).float(), X2, (5, 6), 6, 5),
    "type_as": (lambda x, p: F.linear(x, p.type_as(x)), X2, (5, 6), 6, 5),
    "to cpu": (lambda x, p: F.linear(x, p.to("cpu")), X2, (5, 6), 6, 5),
    "clone": (lambda x, p: F.linear(x, p.clone()), X2, (5, 6), 6, 5),
    "detach": (lambda x, p: F.linear(x, p.detach()), X2, (5, 6), 6, 5),
    "contiguous turned": (lambda x, p: F.linear(x, p.t().contiguous()), X2, (6, 5), 6, 5),
    "all at once": (lambda x, p: F.linear(x, p.detach().clone().unsqueeze(0).float().squeeze(0)), X2, (5, 6), 6, 5),
    "matrix as 1x1 kernel": (lambda x, p: F.conv2d(x, p[:, :, None, None]), X2D, (5, 6), 6, 5),
    "matrix as 1x1 kernel by view": (lambda x, p: F.conv2d(x, p.view(5, 6, 1, 1)), X2D, (5, 6), 6, 5),
    "matrix as 1-D kernel": (lambda x, p: F.conv1d(x, p.unsqueeze(-1)), X1D, (5, 6), 6, 5),
    "matrix as kernel": (lambda x, p: F.conv2d(x, p.view(5, 6, 2, 2)), X2D, (5, 24), 24, 5),
    "kernel of a stack": (lambda x, p: F.conv2d(x, p[1]) + F.conv2d(x, p[0]), X2D, (2, 5, 6, 2, 2), 24, 10),
    "grouped kernel by view": (lambda x, p: F.conv1d(x, p.view(6, 1, 3), groups=6), X1D, (6, 3), 3, 6),
    "half of the kernels": (lambda x, p: F.conv1d(x, p[2:]), X1D, (5, 6, 2), 12, 5),
    "stack turned": (lambda x, p: torch.bmm(x, p.mT), numbers(2, 4, 6), (2, 5, 6), 6, 10),
    "shared stack": (lambda x, p: x @ p.expand(2, 6, 5), X3, (6, 5), 6, 5),
    "matrix times a vector": (lambda x, p: torch.mv(p, x.flatten()).expand(2, 5), numbers(1, 6), (5, 6), 6, 5),
}  # fmt: skip


@pytest.mark.parametrize("decomposed", [False, True], ids=["as exported", "decomposed"])
@pytest.mark.parametrize("name", VIEWED)
def test_views_of_a_parameter_are_followed_to_its_product(name, decomposed):
    how, x, shape, rows, cols = VIEWED[name]
    if decomposed and "vector" in name and "matrix times" in name:
        pytest.skip("torch decomposes it into a product of every element and a sum")
    model = made(lambda: Product(how, *shape))
    exported = export(model, (x,), decomposed=decomposed)
    analog = to_analog(exported, DRIFTED, 5, 2)
    (slot,) = chips.layers(analog)[0].matrices
    assert (slot.rows, slot.layout.groups * slot.layout.cols) == (rows, cols)
    with torch.no_grad():
        right = how(x, analog.p.detach().clone()).reshape(-1)
        clean = run(model, (x,))
    got = run(analog, (x,))
    close(got, right)
    assert not torch.allclose(got, clean, rtol=0.01)
    close(run(to_analog(exported, Hardware()), (x,)), clean)
    # One column of the matrix is what one output sums over.
    places = torch.arange(float(model.p.numel())).reshape(shape)
    columns = slot.layout.columns(places)
    assert torch.equal(slot.layout.parameter(columns), places)
    for line in columns:
        one = torch.zeros(model.p.numel())
        one[line.long()] = 1.0
        with torch.no_grad():
            hit = how(torch.ones_like(x), one.reshape(shape))
        features = hit.movedim(1 if x is X1D or x is X2D else -1, 0).flatten(1).abs().sum(1)
        assert int((features > 0).sum()) <= 1


def permuted(x, p):
    return F.linear(x, p.permute(2, 1, 0).reshape(5, 6))


@pytest.mark.parametrize(
    ("how", "shape", "reason"),
    [
        (permuted, (3, 5, 2), "no matrix product"),
        (lambda x, p: F.linear(x.bfloat16(), p.bfloat16()).float(), (5, 6), "converted to bfloat16"),
        (lambda x, p: F.linear(x.half(), p.to(torch.float16)).float(), (5, 6), "converted to float16"),
        (
            lambda x, p: F.conv1d(x.unsqueeze(-1), p.transpose(0, 1).unsqueeze(-1)),
            (6, 5),
            "no matrix product|order",
        ),
        (lambda x, p: F.linear(x, p.view(5, 6) + 1), (30,), "taken by add"),
    ],
)
def test_what_is_not_only_a_view_is_digital_and_says_why(how, shape, reason):
    model = made(lambda: nn.Sequential(nn.Linear(6, 6), Product(how, *shape)))
    analog = to_analog(export(model, (X2,)), DRIFTED)
    (layer,) = [layer for layer in chips.layers(analog) if layer.name == "1"]
    assert not layer.analog
    assert re.search(reason, layer.reason), layer.reason
