"""Running a model over data: the same bits for any number of threads, in order, in words if it cannot be."""

from collections import namedtuple

import pytest
import torch
from helpers.analog_models import DRIFT, made, numbers
from torch import nn

from crossbar_sim import Differential, Hardware, InputError
from crossbar_sim.crossbar import threads
from crossbar_sim.nn import set_chip, to_analog
from crossbar_sim.nn.evaluate import check_repeats, outputs, run_over, several, torch_threads_kept


@pytest.fixture(autouse=True)
def _restored():
    before = threads.threads()
    yield
    threads.set_threads(before)


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(64, 3)
    )


X = numbers(53, 1, 8, 8)
HARDWARE = Hardware(Differential(1e-6, levels=64), drift=DRIFT)


@pytest.mark.parametrize("fixed", [None, 8])
def test_threads_never_change_a_bit(fixed):
    analog, bits = to_analog(made(net), HARDWARE), []
    for count in (1, 2, 3):
        threads.set_threads(count)
        set_chip(analog, 0)
        set_chip(analog, 1)  # stale: the threads must not program it side by side
        bits.append(torch.cat(outputs(analog, X, 8, fixed)).numpy().tobytes())
    assert bits[0] == bits[1] == bits[2]
    set_chip(analog, 2)
    assert torch.cat(outputs(analog, X, 8, fixed)).numpy().tobytes() != bits[0]


def test_order_and_values():
    model = made(net)
    got = outputs(model, X, 8)
    assert [len(y) for y in got] == [8] * 6 + [5]
    with torch.no_grad():
        torch.testing.assert_close(torch.cat(got), model(X), rtol=1e-5, atol=1e-5)
    seen = outputs(nn.Flatten(), X, 8, reduce=lambda y, part: (part.start, float(y[0, 0])))
    assert seen == [(i, float(X[i, 0, 0, 0])) for i in range(0, 53, 8)]
    assert outputs(model, X[:0]) == []


class Fixed(nn.Module):
    def forward(self, x):
        assert len(x) == 8, "this model takes 8"
        return x.flatten(1)


def test_a_model_of_one_batch_size():
    with pytest.raises(InputError, match=r"shape \(5, 1, 8, 8\) \(batch first\): this model takes 8"):
        outputs(Fixed(), X, 8)
    assert torch.equal(torch.cat(outputs(Fixed(), X, fixed=8)), X.flatten(1))


class Answer(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x):
        return self.answer(x.flatten(1))


class Logits(dict):
    @property
    def logits(self):
        return self["logits"]


@pytest.mark.parametrize(
    "answer",
    [
        lambda y: (y, None), lambda y: [y, y * 0], lambda y: ((y, 1), 2), lambda y: {"aux": y * 0, "out": y},
        lambda y: {"logits": y, "loss": None}, lambda y: {"a": y}, lambda y: Logits(logits=y),
    ],
)  # fmt: skip
def test_outputs_of_any_form(answer):
    assert torch.equal(torch.cat(outputs(Answer(answer), X, 8)), X.flatten(1))


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (lambda y: y.sum(), r"shape \(\)"), (lambda y: y[:3], r"shape \(3, 64\)"),
        (lambda y: None, r"no tensor \(NoneType\)"),
        (lambda y: [], r"no tensor \(list\)"), (lambda y: "text", r"no tensor \(str\)"),
    ],
)  # fmt: skip
def test_outputs_that_are_no_row_per_input(answer, what):
    with pytest.raises(InputError, match=rf"returns {what} for 8 inputs: expected one row per input"):
        outputs(Answer(answer), X, 8)


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(
    "x", [numbers(5, 8), numbers(5, 3, 8, 8), numbers(5, 1, 5, 5), torch.ones(5, 1, 8, 8).long()]
)
def test_inputs_of_the_wrong_shape_are_one_line(x, count):
    threads.set_threads(count)
    with pytest.raises(InputError, match="the model cannot take inputs of shape") as error:
        outputs(to_analog(made(net), HARDWARE), x, 2)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("count", [1, 2])
def test_torchs_own_threads_come_back(count):
    threads.set_threads(count)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        outputs(made(net), X, 8)
        assert torch.get_num_threads() == 3
        with pytest.raises(InputError):
            outputs(Fixed(), X, 8)
        assert torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError):
            outputs(made(net), X, 8, reduce=lambda y, part: 1 / 0)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_after_an_error_the_model_follows_its_chip_again():
    analog = to_analog(made(net), HARDWARE)
    with pytest.raises(InputError):
        outputs(analog, numbers(3, 5))
    one = torch.cat(outputs(analog, X))
    set_chip(analog, 1)
    with torch.no_grad():
        assert not torch.allclose(analog(X), one, rtol=0.01)


def test_torch_has_its_threads_again_afterwards():
    with torch_threads_kept():
        torch.set_num_threads(2)
        outputs(made(net), X, 8)
        assert torch.get_num_threads() == 2
        with pytest.raises(InputError):
            outputs(made(net), X[:, :, :5], 8)
        assert torch.get_num_threads() == 2


def test_a_block_of_a_linear_layer_has_the_same_bits_in_any_company():
    """The route is chosen by size: a block must not see what else there is."""
    model, x = made(lambda: nn.Sequential(nn.Linear(300, 70), nn.ReLU(), nn.Linear(70, 3))), numbers(250, 300)
    whole = outputs(model, x, 100)
    assert [len(y) for y in whole] == [100, 100, 50]
    alone = [outputs(model, part, 100)[0] for part in x.split(100)]
    assert all(torch.equal(a, b) for a, b in zip(whole, alone, strict=True))
    torch.testing.assert_close(torch.cat(whole), model(x).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "into"),
    [
        (torch.float16, torch.float32), (torch.bfloat16, torch.float32), (torch.bool, torch.float32),
        (torch.uint8, torch.float32), (torch.int64, torch.float64), (torch.float64, torch.float64),
    ],
)  # fmt: skip
def test_outputs_come_in_a_type_that_errors_can_be_computed_in(kind, into):
    y = torch.cat(outputs(Answer(lambda x: (x > 0).to(kind)), X, 8))
    assert y.dtype == into
    assert torch.equal(y, (X.flatten(1) > 0).to(into))


def test_complex_outputs_are_refused_with_a_remedy():
    with pytest.raises(InputError, match=r"returns complex numbers: wrap it so that it returns y\.abs\(\)"):
        outputs(Answer(torch.fft.fft), X, 8)


def test_the_first_of_several_outputs_is_said_to_be_taken():
    with pytest.raises(InputError, match=r"shape \(\) for 8 inputs.* several outputs, of which the first"):
        outputs(Answer(lambda y: [y.mean(), y]), X, 8)
    with pytest.raises(InputError, match=r"one row per input: wrap the model"):
        outputs(Answer(lambda y: y.mean()), X, 8)
    named = namedtuple("named", "loss logits")
    assert torch.equal(torch.cat(outputs(Answer(lambda y: named(y.mean(), y)), X, 8)), X.flatten(1))


@pytest.mark.parametrize(
    ("answer", "count"),
    [
        (3, 1), (None, 1), ((), 1), ((1, 2), 2), ([1, None], 1), ((1, (2, 3)), 2), ({"a": 1, "b": 2}, 2),
        ({"out": 1, "aux": 2}, 1), ({"loss": 1, "logits": 2}, 1), (Logits(logits=1, loss=2), 1),
    ],
)  # fmt: skip
def test_several_outputs_are_counted_where_no_name_tells(answer, count):
    assert several(answer) == count


def test_a_forward_that_computes_gradients_is_refused_in_words() -> None:
    class Force(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.enable_grad():
                x = x.detach().requires_grad_(True)
                return torch.autograd.grad(self.a(x).tanh().sum(), x)[0]

    with pytest.raises(InputError, match="the model's forward computes gradients"):
        outputs(Force().eval(), numbers(3, 4))


def _through_numpy(x):
    x.numpy()[...] *= 0.5
    return x


def _first_row_away(x):
    x[:, :, 0] = 0
    return x


WRITES = {
    "minus": lambda x: x.sub_(0.3),
    "clamp, within the first block's range": lambda x: x.clamp_(-0.9, 1.5),
    "inplace layer": nn.ReLU(inplace=True),
    "out": lambda x: torch.add(x, 1.0, out=x),
    "slice": _first_row_away,
    "view": lambda x: x.view(len(x), 1, 64).mul_(2).view_as(x),
    "detached": lambda x: x.detach().mul_(2),
    "data": lambda x: x.data.mul_(0.5),
    "numpy": _through_numpy,
}


class Writing(nn.Module):
    def __init__(self, write):
        super().__init__()
        self.write, self.fc = write, made(lambda: nn.Linear(64, 3))

    def forward(self, x):
        return self.fc(self.write(x).flatten(1))


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("fixed", [None, 8])
def test_a_forward_that_writes_to_its_input_sees_the_examples_as_they_were(name, fixed):
    model = Writing(WRITES[name])
    x = X.clone()
    x[:8].clamp_(-0.5, 0.5)
    before = x.clone()
    with torch.no_grad():
        want = torch.cat([model(part.clone()) for part in x.split(8)])
    for model_ in (model, to_analog(model, Hardware.preset("ideal"))):
        for _ in range(2):
            torch.testing.assert_close(torch.cat(outputs(model_, x, 8, fixed)), want, rtol=1e-5, atol=1e-5)
            assert torch.equal(x, before)
        check_repeats(model_, x, fixed)
        run_over(model_, x, 8, fixed)
        assert torch.equal(x, before)
    with torch.inference_mode():
        kept = x.clone()
    outputs(model, kept, 8, fixed)
    assert torch.equal(kept, before)


def test_a_forward_that_writes_to_some_inputs_alone_is_refused():
    model = Writing(lambda x: x.mul_(2) if x.max() > 0.9 else x)
    x = X.clamp(-0.5, 0.5)
    x[20] = 1.0
    threads.set_threads(1)
    with pytest.raises(InputError, match=r"in place for some inputs.*x\.clone"):
        outputs(model, x, 8)


def test_a_harmless_forward_is_fed_the_examples_themselves():
    seen = []
    model = Writing(lambda x: (seen.append(x.data_ptr()), x)[1])
    threads.set_threads(1)  # blocks in order
    for _ in range(2):
        outputs(model, X, 8)
    assert seen[0] != X.data_ptr()  # the first is a copy, to see what the forward does to it
    assert seen[-7] == X.data_ptr()
