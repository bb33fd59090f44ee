import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import nn

from crossbar_sim.baselines.method import Trained
from crossbar_sim.data import Development, Split, load_data
from crossbar_sim.errors import InputError
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.nn.training.loop import Epoch, FitReport, accuracy, fit, one_cycle
from crossbar_sim.rng import Key


def mlp(seed: int = 0, dropout: float = 0.1) -> nn.Sequential:
    with seeded(Key(seed).fold("initialisation")):
        return nn.Sequential(
            nn.Flatten(), nn.Linear(64, 48), nn.ReLU(), nn.Dropout(dropout), nn.Linear(48, 10)
        )


@pytest.fixture(scope="module")
def digits() -> Development:
    return load_data("digits").development


@pytest.fixture
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def trained(digits: Development, key: Key, epochs: int = 2, **options: Any) -> tuple:
    model = mlp()
    report = fit(model, digits.train, digits.validation, epochs=epochs, lr=5e-3, key=key, **options)
    return model, report


def weights(model: nn.Module) -> bytes:
    return b"".join(p.detach().numpy().tobytes() for p in model.parameters())


def test_an_mlp_learns_the_digits() -> None:
    data = load_data("digits")
    model, report = trained(data.development, Key(0), epochs=25)
    assert data.test.y is not None
    assert accuracy(model, data.test.x, data.test.y) > 0.93
    assert report.validation_accuracy > 0.93
    assert report.history[-1].loss < report.history[0].loss / 5
    assert not model.training


def test_the_same_key_gives_the_same_weights_bit_for_bit(digits: Development, one_thread: None) -> None:
    (a, first), (b, second) = trained(digits, Key(1)), trained(digits, Key(1))
    assert weights(a) == weights(b)
    assert first == second


def test_whatever_else_drew_random_numbers_before(digits: Development, one_thread: None) -> None:
    a, _ = trained(digits, Key(1))
    torch.rand(17)
    b, _ = trained(digits, Key(1), progress=lambda epoch: torch.rand(0))
    assert weights(a) == weights(b)


def test_another_key_gives_other_weights(digits: Development) -> None:
    assert weights(trained(digits, Key(1))[0]) != weights(trained(digits, Key(2))[0])


def test_the_callers_stream_does_not_notice(digits: Development) -> None:
    state = torch.get_rng_state()
    trained(digits, Key(1), epochs=1)
    assert torch.equal(torch.get_rng_state(), state)


def test_validation_is_only_reported_on(digits: Development, one_thread: None) -> None:
    """Neither whether nor on what it is validated changes the weights."""
    x, y = digits.validation.x, digits.validation.y
    found = set()
    for validation in (None, digits.validation, Split(1 - x, y)):
        model = mlp()
        fit(model, digits.train, validation, epochs=2, key=Key(0))
        found.add(weights(model))
    assert len(found) == 1


def test_the_report_and_the_progress_tell_the_same(digits: Development) -> None:
    told: list[Epoch] = []
    _, report = trained(digits, Key(0), epochs=3, batch=100, progress=told.append)
    assert tuple(told) == report.history
    assert [epoch.number for epoch in told] == [1, 2, 3]
    assert (report.epochs, report.steps) == (3, 3 * math.ceil(1078 / 100))
    assert report.seconds > 0
    assert report == FitReport(report.history, report.steps, seconds=0)


def test_without_validation_its_accuracy_is_none(digits: Development) -> None:
    report = fit(mlp(), digits.train, epochs=1, key=Key(0))
    assert report.validation_accuracy is None


def test_every_example_is_seen_once_an_epoch_in_batches_as_equal_as_can_be() -> None:
    seen: list[torch.Tensor] = []

    def step(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append(x[:, 0])
        assert torch.equal(x[:, 0].long(), y)
        return model(x).square().mean()

    x = torch.arange(33.0)[:, None]
    fit(nn.Linear(1, 1), Split(x, x[:, 0].long()), epochs=2, batch=8, key=Key(0), loss_step=step)
    assert [len(batch) for batch in seen] == [7, 7, 7, 6, 6] * 2
    first, second = torch.cat(seen[:5]), torch.cat(seen[5:])
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(33))
    assert not torch.equal(first, second)


def test_the_loss_of_an_epoch_is_the_mean_over_examples_and_not_over_batches() -> None:
    x = torch.tensor([[1.0], [2.0], [6.0]])  # batches of 2 and 1

    def step(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x.mean() + 0 * model(x).sum()

    examples = Split(x, torch.zeros(3).long())
    report = fit(nn.Linear(1, 1), examples, epochs=1, batch=2, key=Key(0), loss_step=step)
    assert report.history[0].loss == pytest.approx(3.0)


def test_every_step_has_the_rate_of_the_cycle_and_a_model_in_training_mode() -> None:
    """With a constant gradient Adam moves by its learning rate (Kingma and Ba, section 2.1)."""
    model = nn.Linear(1, 1, bias=False)
    found: list[float] = []

    def step(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        assert model.training
        found.append(model.weight.item())
        return model.weight.sum()

    examples = Split(torch.ones(4, 1), torch.zeros(4).long())
    options: Any = {"epochs": 5, "batch": 2, "lr": 0.1, "key": Key(0), "loss_step": step}
    fit(model, examples, examples, **options)
    moved = [before - after for before, after in pairwise(found)]
    assert moved == pytest.approx([0.1 * one_cycle(i, 10) for i in range(9)], rel=1e-4)


def test_batch_normalisation_meets_no_batch_of_one() -> None:
    x = torch.linspace(0, 1, 9)[:, None].repeat(1, 4)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    y = (x[:, 0] > 0.5).long()
    report = fit(model, Split(x, y), epochs=1, batch=4, key=Key(0))  # 4 + 4 + 1 would fail
    assert report.steps == 3


def test_frozen_parameters_stay_as_they_are(digits: Development) -> None:
    model = mlp()
    model[1].requires_grad_(False)
    before = model[1].weight.clone()
    fit(model, digits.train, epochs=1, key=Key(0))
    assert torch.equal(model[1].weight, before)


def test_one_cycle_rises_then_falls_and_is_never_0() -> None:
    for steps in (1, 2, 3, 10, 1000):
        rates = [one_cycle(step, steps) for step in range(steps)]
        top = rates.index(1.0)
        assert rates[: top + 1] == sorted(rates[: top + 1])
        assert rates[top:] == sorted(rates[top:], reverse=True)
        assert top == int(0.3 * steps)
        assert min(rates) > 0
    assert one_cycle(0, 1000) == 0.04


def test_a_diverging_run_stops_with_a_sentence(digits: Development) -> None:
    def broken(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return model(x).sum() * float("nan")

    with pytest.raises(InputError, match=r"loss became nan in epoch 1 of 2 at lr=0\.01"):
        fit(mlp(), digits.train, epochs=2, lr=0.01, key=Key(0), loss_step=broken)


def test_the_state_of_dropout_is_put_back_when_a_run_stops(digits: Development) -> None:
    state = torch.get_rng_state()
    with pytest.raises(InputError):
        fit(mlp(), digits.train, epochs=1, lr=1e38, key=Key(0))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"epochs": 0}, "epochs=0"),
        ({"epochs": 1.5}, "epochs=1.5"),
        ({"batch": 0}, "batch=0"),
        ({"batch": True}, "batch=True"),
        ({"lr": 0.0}, "lr=0.0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"lr": float("inf")}, "lr=inf"),
        ({"train": Split(torch.ones(4, 1, 8, 8))}, "train examples have no labels"),
        ({"validation": Split(torch.ones(4, 1, 8, 8))}, "validation examples have no labels"),
        ({"train": Split(torch.ones(4, 9), torch.zeros(4).long())}, r"shape \(9,\): .*mat1"),
        ({"train": Split(torch.ones(4, 64), torch.full((4,), 10))}, r"\(1, 10\) .* label is 10"),
        ({"model": nn.Flatten(0)}, r"gives \(64,\)"),
        ({"model": nn.Flatten()}, "nothing to train"),
    ],
)
def test_what_cannot_be_trained_is_refused(digits: Development, changed: dict[str, Any], says: str) -> None:
    given: dict[str, Any] = {
        "model": mlp(),
        "train": digits.train,
        "validation": None,
        "epochs": 1,
        "key": Key(0),
    }
    with pytest.raises(InputError, match=says) as caught:
        fit(**{**given, **changed})
    assert "\n" not in str(caught.value)


def test_the_unlabelled_are_refused_before_anything_is_changed(digits: Development) -> None:
    model = mlp()
    before = weights(model)
    with pytest.raises(InputError):
        fit(model, digits.train, Split(digits.validation.x), epochs=1, key=Key(0))
    assert weights(model) == before


@pytest.mark.parametrize(
    ("history", "noted"),
    [
        ((), {"validation_accuracy": None}),  # of a search without a final training
        ((Epoch(1, 0.5, 0.75),), {"validation_accuracy": 0.75}),
        ((Epoch(1, 0.5, None, 0.25),), {"validation_error": 0.25}),
        ((Epoch(1, 0.5, None, None, 3.5),), {"validation_score": 3.5}),
    ],
)
def test_a_report_notes_what_is_known_of_validation(history, noted):
    report = FitReport(history, len(history), 0.0)
    assert report.noted == noted
    assert repr(Trained(nn.Linear(1, 1), report)).startswith(f"Trained(Linear after {len(history)} epochs")
