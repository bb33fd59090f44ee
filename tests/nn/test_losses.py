"""Losses, token labels and real targets in training: what each changes, and what is refused."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from crossbar_sim.baselines import Awp, DriftAware, Dropout, Erm, Ftna, ReramV
from crossbar_sim.baselines.method import fresh
from crossbar_sim.data import Development, Split
from crossbar_sim.data.inputs import Inputs, call
from crossbar_sim.errors import CrossbarWarning, InputError
from crossbar_sim.experiments.trainings import train_network
from crossbar_sim.nn.evaluate import answer_of
from crossbar_sim.nn.seeding import permutation
from crossbar_sim.nn.training.loop import fit
from crossbar_sim.nn.training.losses import find_loss
from crossbar_sim.nn.training.settings import Training
from crossbar_sim.rng import Key

HOW = Training(epochs=2, batch=16, lr=0.02, schedule="constant")


def numbers(n: int, *shape: int) -> torch.Tensor:
    return torch.sin(torch.arange(float(n * math.prod(shape))) ** 1.3).reshape(n, *shape)


X = numbers(60, 4)
REAL = (X @ torch.tensor([1.0, -2.0, 0.5, 0.0]) + X[:, 0] ** 2).double()
REGRESSION = Development(Split(X[:44], REAL[:44]), Split(X[44:], REAL[44:]))
CLASSES = Development(Split(X[:44], (REAL[:44] > 0).long()), Split(X[44:], (REAL[44:] > 0).long()))


def line(outputs: int = 1) -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.0), nn.Linear(8, outputs))


def asymmetric(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    error = outputs - targets
    return torch.where(error > 0, error, -3 * error).mean()


def focal(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    p = torch.softmax(outputs, 1).gather(1, targets[:, None])
    return (-((1 - p) ** 2) * p.log()).mean()


def bits(model: nn.Module) -> bytes:
    return b"".join(p.detach().numpy().tobytes() for p in model.parameters())


METHODS = {
    "erm": lambda how: Erm(how),
    "dropout": lambda how: Dropout(0.2, training=how),
    "awp": lambda how: Awp(gamma=0.1, input_attack=0.1, attack_steps=1, training=how),
    "drift-aware": lambda how: DriftAware(0.4, chips=4, temperature=False, training=how),
    "drift-aware, uneven parts": lambda how: DriftAware(0.4, chips=3, temperature=False, training=how),
    "reram-v": lambda how: ReramV(training=how, retraining=replace(HOW, epochs=1)),
}


@pytest.mark.parametrize("name", METHODS)
def test_each_loss_acts_in_each_method(name: str):
    def trained(data: Development, outputs: int, loss: object) -> tuple[bytes, float]:
        method = METHODS[name](replace(HOW, loss=loss))
        done = method.fit(lambda: line(outputs), data, Key(0))
        assert (done.report.validation_error is None) == (outputs == 2)
        return bits(done.model), done.report.history[-1].loss

    real = {
        str(loss): trained(REGRESSION, 1, loss) for loss in (None, "l1", "huber", asymmetric, nn.L1Loss())
    }
    first, absolute, huber, mine, again = real.values()
    assert len({first[0], absolute[0], huber[0], mine[0]}) == 4
    assert again[1] == pytest.approx(absolute[1], rel=1e-5)
    assert trained(REGRESSION, 1, "mse") == first
    plain, other, weighted, named = (
        trained(CLASSES, 2, loss)
        for loss in (None, focal, nn.CrossEntropyLoss(torch.tensor([1.0, 5.0])), "cross-entropy")
    )
    assert len({plain[0], other[0], weighted[0]}) == 3
    assert named[1] == pytest.approx(plain[1], rel=1e-5)


def tagger(vocabulary: int = 7) -> nn.Module:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Embedding(vocabulary, 6), nn.Linear(6, 3)

        def forward(self, input_ids, attention_mask=None):
            return self.out(self.embed(input_ids))

    return Tagger()


def gpt() -> nn.Module:
    transformers = pytest.importorskip("transformers")
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=7, n_positions=8, n_embd=8, n_layer=1, n_head=2, resid_pdrop=0.0, embd_pdrop=0.0,
            attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip


TOKENS = (torch.arange(40 * 8).reshape(40, 8) ** 2 // 3) % 7
MASK = torch.ones_like(TOKENS)
MASK[::3, 5:] = 0
TEXT = Inputs(kwargs={"input_ids": TOKENS, "attention_mask": MASK})
TAGS = torch.where(MASK == 1, TOKENS % 3, -100)


def loss_of_text(model: nn.Module, x: Inputs, y: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(answer_of(call(model, x)).transpose(1, 2), y)


NEXT = torch.full_like(TOKENS, -100)
NEXT[:, :-1] = torch.where(MASK[:, 1:] == 1, TOKENS[:, 1:], -100)
TASKS = {
    "regression": (line, X, REAL, lambda model, x, y: F.mse_loss(model(x)[:, 0], y.float()), REAL),
    "tagging": (tagger, TEXT, TAGS, loss_of_text, TAGS),
    "language model": (gpt, TEXT, TOKENS, loss_of_text, NEXT),
    "segmentation": (
        lambda: nn.Conv2d(2, 3, 1), X[:40].reshape(10, 2, 2, 4).repeat(4, 1, 1, 1), TOKENS.reshape(40, 2, 4) % 3,
        lambda model, x, y: F.cross_entropy(model(x), y), TOKENS.reshape(40, 2, 4) % 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_losses_are_those_of_plain_torch(task: str):
    build, x, y, loss, targets = TASKS[task]
    model = fresh(build, Key(3))
    found = fit(model, Split(x, y), training=replace(HOW, optimiser="sgd"), key=Key(3))

    own = fresh(build, Key(3)).train()
    optimiser = torch.optim.SGD(own.parameters(), HOW.lr, momentum=0.9)
    for epoch in range(1, HOW.epochs + 1):
        total, count = 0.0, 0
        order = permutation(len(x), Key(3).fold("shuffle", str(epoch)))
        for chosen in order.tensor_split(math.ceil(len(x) / HOW.batch)):
            optimiser.zero_grad()
            value = loss(own, x[chosen], targets[chosen])
            value.backward()
            optimiser.step()
            n = int((targets[chosen] != -100).sum()) if task != "regression" else len(chosen)
            total, count = total + value.item() * n, count + n
        assert found.history[epoch - 1].loss == pytest.approx(total / count, rel=1e-5)
    for mine, theirs in zip(model.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["erm", "awp", "drift-aware", "reram-v"])
def test_labels_that_are_ignored_do_not_act(name: str):
    def trained(y: torch.Tensor) -> bytes:
        data = Development(Split(TEXT, y), Split(TEXT[:10], y[:10]))
        how = replace(HOW, batch=8)
        method = Awp(gamma=0.1, training=how) if name == "awp" else METHODS[name](how)
        return bits(method.fit(tagger, data, Key(0)).model)

    ignored = TAGS.clone()
    ignored[:, 0] = -1
    other = torch.where(MASK == 1, TAGS, 1)  # padding is found by the mask
    assert trained(TAGS) == trained(other) != trained(ignored)


def test_examples_without_a_label_that_counts_are_left_out():
    y = TAGS.clone()
    y[:30] = -100
    with pytest.warns(CrossbarWarning, match="30 of 40 training examples have no label that counts"):
        report = fit(tagger(), Split(TEXT, y), training=replace(HOW, batch=1), key=0)
    assert report.steps == 2 * 10


def test_the_smallest_error_is_kept():
    how = replace(HOW, epochs=30, lr=0.5, patience=3)
    report = fit(line(), REGRESSION.train, REGRESSION.validation, training=how, key=0)
    errors = [epoch.validation_error for epoch in report.history]
    assert None not in errors
    assert report.validation_error == min(errors)  # type: ignore[type-var]
    assert report.validation_accuracy is None
    assert report.kept is not None
    assert report.kept < len(errors)


def test_the_error_is_the_registrys_rmse():
    from crossbar_sim.robustness.metrics import METRICS

    model = line()
    report = fit(model, REGRESSION.train, REGRESSION.validation, training=HOW, key=0)
    with torch.no_grad():
        outputs = model(REGRESSION.validation.x)[:, 0]
    rmse = METRICS["rmse"]
    assert report.validation_error == pytest.approx(
        rmse.whole([rmse.part(outputs, REGRESSION.validation.y, None)], REGRESSION.validation.y, None)
    )


def test_a_checkpoint_of_another_loss_is_refused(tmp_path):
    path = tmp_path / "state"
    train_network(line, vars_of(REGRESSION), epochs=1, checkpoint=path, loss=nn.HuberLoss())
    with pytest.raises(InputError, match="a training with another training"):
        train_network(line, vars_of(REGRESSION), epochs=1, checkpoint=path, loss=nn.HuberLoss(delta=0.3))
    assert "loss" not in repr(Training())
    assert "loss=torch.nn.modules.loss:HuberLoss (source " in repr(Training(loss=nn.HuberLoss()))


def vars_of(data: Development) -> dict[str, Split]:
    return {"train": data.train, "validation": data.validation}


def vector(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs - targets) ** 2


def number(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    return vector(outputs, targets).mean().item()


def detached(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return vector(outputs, targets).mean().detach()


@pytest.mark.parametrize(
    ("data", "outputs", "loss", "words"),
    [
        (REGRESSION, 1, "msee", "did you mean 'mse'"),
        (REGRESSION, 1, 3, r"the loss|loss=3: expected a name"),
        (REGRESSION, 1, "cross-entropy", "takes class numbers, and y holds real values such as"),
        (REGRESSION, 1, vector, r"returned shape \(3, 1\) .* expected one number"),
        (REGRESSION, 1, number, "returned float"),
        (REGRESSION, 1, detached, "without a gradient"),
        (REGRESSION, 2, "mse", r"outputs have shape \(n, 2\) and the targets \(44,\)"),
        (REGRESSION, 2, nn.MSELoss(reduction="sum"), "reduction='sum'"),
        (REGRESSION, 2, focal, "focal failed on outputs of shape"),
        (CLASSES, 2, "huber", "y holds class numbers .* use cross-entropy"),
        (CLASSES, 2, nn.BCEWithLogitsLoss(), "y holds class numbers"),
        (CLASSES, 1, None, "label is 1"),
        (CLASSES, 2, "os:system", "os is a module of Python itself"),
    ],
)
def test_what_does_not_go_together_is_one_line(data: Development, outputs: int, loss: object, words: str):
    with pytest.raises(InputError, match=words) as refused:
        train_network(lambda: line(outputs), vars_of(data), epochs=1, loss=loss)
    assert "\n" not in str(refused.value)


def test_a_loss_that_learns_and_methods_with_their_own_are_refused():
    class Learnt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, outputs, targets):
            return self.scale * vector(outputs, targets).mean()

    with pytest.raises(InputError, match=r"parameters of its own \(scale\)"):
        find_loss(Learnt())
    with pytest.raises(InputError, match="the bits of code words have a loss of their own"):
        Ftna(training=Training(loss="mse"))
    with pytest.raises(InputError, match="ftna encodes one class per example"):
        Ftna().fit(line, REGRESSION, Key(0))
    with pytest.raises(InputError, match="set temperature=false"):
        DriftAware(0.4, training=replace(HOW, batch=32)).fit(line, REGRESSION, Key(0))
    with pytest.raises(InputError, match="beside a loss_step"):
        fit(line(), REGRESSION.train, epochs=1, loss="l1", loss_step=lambda model, x, y: model(x).mean())
    quantiles = Training(patience=1, loss=lambda o, t: (o - t[:, None]).abs().mean())
    with pytest.raises(InputError, match="needs a validation score"):
        fit(line(3), REGRESSION.train, REGRESSION.validation, training=quantiles)
