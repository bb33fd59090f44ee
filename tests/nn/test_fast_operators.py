"""The fast routes give torch's values, take what they should and leave the rest."""

import threading

import pytest
import torch
import torch.nn.functional as F
from helpers.analog_models import made, numbers
from torch import nn

from crossbar_sim.nn import fast_operators
from crossbar_sim.nn.fast_operators import FastRoutes

INF, NAN = float("inf"), float("nan")
POOLS = [
    (2, None, 0), (3, 2, 1), (2, 1, 0), (3, 1, 1), ((2, 3), (1, 2), (1, 0)), (3, 3, 0), (4, 2, 2),
    ((1, 2), None, 0), ((2, 1), (3, 1), 0), ([2], [2], [1]), (2, [], 0), (2, (), 0), (1, 1, 0), (1, 2, 0),
    (5, 7, 2),
]  # fmt: skip


def image(kind: str) -> torch.Tensor:
    x = numbers(2, 3, 9, 10)
    if kind == "odd values":
        x[0, 0, :4, :4], x[0, 1, 2, 3], x[1, 2, 5:7, 5:7], x[1, 0, 0, 0] = -INF, NAN, INF, NAN
        x[1, 1] = torch.where(x[1, 1] > 0, 0.0, -0.0)
    if kind == "channels last":
        x = x.to(memory_format=torch.channels_last)
    if kind == "transposed":
        x = x.transpose(2, 3)
    return x[0] if kind == "3-D" else x


@pytest.mark.parametrize("kind", ["plain", "odd values", "channels last", "transposed", "3-D"])
@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_max_pool2d_is_torchs_to_the_bit(pool, kind):
    kernel, stride, padding = pool
    x = image(kind)
    expected = F.max_pool2d(x, kernel, stride or None, padding)
    got = fast_operators.max_pool2d(x, kernel, stride, padding)
    assert got.shape == expected.shape
    assert torch.equal(got.nan_to_num(77.0), expected.nan_to_num(77.0))
    assert torch.equal(got.isnan(), expected.isnan())
    assert not torch.equal(got.nan_to_num(77.0)[..., :1], (got.nan_to_num(77.0) + 1)[..., :1])


@pytest.mark.parametrize(
    "kw", [{"dilation": 2}, {"ceil_mode": True}, {"return_indices": True}, {"dilation": (1, 2)}], ids=str
)
def test_other_pooling_is_torchs_own(kw):
    x = numbers(2, 3, 9, 10)
    got, expected = fast_operators.max_pool2d(x, 2, **kw), F.max_pool2d(x, 2, **kw)
    for a, b in zip(*((y if isinstance(y, tuple) else (y,)) for y in (got, expected)), strict=True):
        assert torch.equal(a, b)


def test_pooling_of_other_tensors():
    for x in (numbers(2, 3, 8, 8).double(), torch.empty(0, 3, 8, 8), numbers(2, 3, 8, 8).requires_grad_()):
        y = fast_operators.max_pool2d(x, 2)
        assert torch.equal(y, F.max_pool2d(x, 2))
        assert y.requires_grad == x.requires_grad


REFUSED = [(0,), (2, 0), (2, 2, -1), (2, 2, 2), (20,), ((1, 2, 3),), (2, (1, 2, 3))]


@pytest.mark.parametrize("arguments", REFUSED, ids=str)
def test_what_torch_refuses_is_refused(arguments):
    x = numbers(2, 3, 8, 8)
    with pytest.raises((RuntimeError, TypeError)) as expected:
        F.max_pool2d(x, *arguments)
    with pytest.raises((RuntimeError, TypeError)) as got:
        fast_operators.max_pool2d(x, *arguments)
    assert str(got.value).split("\n")[0] == str(expected.value).split("\n")[0]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 40), (2, 3, 40), (2, 2, 3, 40), (1, 40), (40,), (0, 40), (500, 40)])
def test_linear_is_torchs(shape, bias):
    x, w = numbers(*shape) if 0 not in shape else torch.empty(shape), numbers(17, 40)
    b = numbers(17) if bias else None
    got, expected = fast_operators.linear(x, w, b), F.linear(x, w, b)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    assert got.shape == expected.shape


def test_linear_on_odd_memory():
    x, w, b = numbers(40, 30).T, numbers(40, 17).T, numbers(34)[::2]
    torch.testing.assert_close(fast_operators.linear(x, w, b), F.linear(x, w, b), rtol=1e-5, atol=1e-5)
    for out in (torch.empty(0, 40), torch.empty(3, 0)):
        y = fast_operators.linear(numbers(2, out.shape[1]) if out.shape[1] else torch.empty(2, 0), out)
        assert y.shape == (2, out.shape[0])
    x = numbers(3, 40)
    x[0, 0] = NAN
    assert fast_operators.linear(x, numbers(17, 40)).isnan().any(1).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("x", "w", "b"), [((3, 41), (17, 40), (17,)), ((3, 40), (17, 40), (16,)), ((2, 3, 39), (17, 40), None)]
)
def test_linear_of_wrong_shapes_is_refused(x, w, b):
    b = None if b is None else numbers(*b)
    with pytest.raises(RuntimeError) as expected:
        F.linear(numbers(*x), numbers(*w), b)
    with pytest.raises(RuntimeError) as got:
        fast_operators.linear(numbers(*x), numbers(*w), b)
    assert str(got.value) == str(expected.value)


def test_linear_keeps_gradients_and_precisions():
    x, w = numbers(3, 40), numbers(17, 40).requires_grad_()
    assert fast_operators.linear(x, w).requires_grad
    assert fast_operators.linear(x.double(), w.detach().double()).dtype == torch.float64
    with torch.no_grad():
        assert not fast_operators.linear(x, w).requires_grad


@pytest.fixture
def counted(monkeypatch):
    """Names of the routes taken."""
    taken = []
    for name in ("linear", "max_pool2d"):
        plain = getattr(fast_operators, name)

        def spy(*args, name=name, plain=plain, **kw):
            taken.append(name)
            return plain(*args, **kw)

        monkeypatch.setattr(fast_operators, name, spy)
    return taken


X4 = numbers(2, 3, 8, 8)
CALLERS = {
    "F.linear": (lambda: F.linear(X4, numbers(5, 8)), "linear"),
    "F.linear by keyword": (lambda: F.linear(input=X4, weight=numbers(5, 8), bias=None), "linear"),
    "nn.Linear": (lambda: made(lambda: nn.Linear(8, 5))(X4), "linear"),
    "nn.MaxPool2d": (lambda: nn.MaxPool2d(2)(X4), "max_pool2d"),
    "F.max_pool2d": (lambda: F.max_pool2d(X4, 2), "max_pool2d"),
    "F.max_pool2d by keyword": (lambda: F.max_pool2d(input=X4, kernel_size=2, padding=1), "max_pool2d"),
    "torch.max_pool2d": (lambda: torch.max_pool2d(X4, 2), "max_pool2d"),
    "torch.max_pool2d by keyword": (lambda: torch.max_pool2d(input=X4, kernel_size=2), "max_pool2d"),
    "aten.linear": (lambda: torch.ops.aten.linear.default(X4, numbers(5, 8)), "linear"),
    "aten.max_pool2d": (lambda: torch.ops.aten.max_pool2d.default(X4, [2, 2]), "max_pool2d"),
}


@pytest.mark.parametrize("name", CALLERS)
def test_whoever_calls_is_routed(name, counted):
    call, route = CALLERS[name]
    with torch.no_grad():
        expected = call()
        assert counted == []
        with FastRoutes():
            got = call()
        assert route in counted
        del counted[:]
        call()
        assert counted == []
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_exported_graphs_are_routed(counted):
    model = made(lambda: nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 3)))
    exported = torch.export.export(model, (X4,)).module()
    with torch.no_grad(), FastRoutes():
        got = exported(X4)
    assert {"linear", "max_pool2d"} <= set(counted)
    torch.testing.assert_close(got, model(X4), rtol=1e-5, atol=1e-5)


def test_other_threads_go_their_own_way(counted):
    with torch.no_grad(), FastRoutes():
        thread = threading.Thread(target=lambda: F.linear(X4, numbers(5, 8)))
        thread.start()
        thread.join()
    assert counted == []
