"""The metric that judges validation examples during a training, compared with plain torch and NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from crossbar_sim import BayesFT, InputError, train
from crossbar_sim.baselines.settings import method_of
from crossbar_sim.experiments.record import _plain
from crossbar_sim.nn.files.loading import load_model
from crossbar_sim.nn.training.loop import fit
from crossbar_sim.nn.training.settings import Training
from crossbar_sim.robustness import Validation

QUICK = {"epochs": 2, "arguments": {"hidden": (12,)}}


def macro_f1(model: nn.Module, split) -> float:
    with torch.no_grad():
        found, y = model(split.x).argmax(1).numpy(), split.y.numpy()
    right = [((found == k) & (y == k)).sum() for k in range(10)]
    return float(np.mean([2 * r / ((found == k).sum() + (y == k).sum()) for k, r in enumerate(right)]))


def last_class(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs.argmax(1) == 9).float()


def test_a_metric_of_the_registry_or_of_ones_own_is_reported(digits):
    plain = train("mlp", digits, **QUICK)
    judged = train("mlp", digits, metric="f1", **QUICK)
    weights = zip(plain.model.parameters(), judged.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)  # what reports decides nothing
    held = digits.development.validation
    assert judged.report.validation_score == pytest.approx(macro_f1(judged.model, held))
    assert judged.report.validation_accuracy is None
    assert plain.report.validation_score is None
    own = train("mlp", digits, metric=last_class, **QUICK)
    with torch.no_grad():
        assert own.report.validation_score == pytest.approx(
            float((own.model(held.x).argmax(1) == 9).float().mean())
        )
    assert "metric=" not in repr(method_of("erm", {}, {}))
    assert "metric=f1" in repr(Training(metric=Validation.of("f1")))
    assert _plain(Training(metric=Validation.of("f1")))["metric"] == "f1"


class Next(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(12, 8), nn.Linear(8, 12)

    def forward(self, x):
        return self.head(self.table(x).cumsum(1))


def test_a_language_model_is_judged_by_its_perplexity():
    ids = (torch.arange(40)[:, None] * 5 + torch.arange(7) ** 2) % 12
    data = {"train": (ids[:30], ids[:30]), "validation": (ids[30:], ids[30:])}
    done = train(Next, data, metric="perplexity", patience=1, epochs=3, lr=0.05)
    with torch.no_grad():
        logits = done.model(ids[30:])[:, :-1]
    wanted = nn.functional.cross_entropy(logits.flatten(0, 1), ids[30:, 1:].flatten()).exp()
    assert done.report.validation_score == pytest.approx(float(wanted), rel=1e-5)
    assert done.report.kept is not None


def test_code_words_are_judged_by_the_classes_that_they_mean(digits):
    given = {**QUICK, "confusion_epochs": 1}
    plain, judged = (train("mlp", digits, "ftna", **given, **more) for more in ({}, {"metric": "accuracy"}))
    assert judged.report.validation_score == plain.report.validation_accuracy


class Scripted:
    """Scores that are known beforehand; the first is asked for before the training."""

    def __init__(self, *scores: float) -> None:
        self.scores = [0.0, *scores]

    def score(self, model, x, y) -> float:
        return self.scores.pop(0)

    def shown(self, score: float) -> float:
        return -score

    def in_words(self, shown: float) -> str:
        return f"{shown}"


def test_patience_keeps_the_weights_that_are_best_by_the_metric(digits):
    how = Training(epochs=9, patience=2, metric=Scripted(1.0, 3.0, 2.0, 2.5, 9.0))
    held = digits.development
    report = fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), held.train, held.validation, training=how)
    assert (report.kept, report.epochs, report.validation_score) == (2, 4, -3.0)


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("agreement", "compares a chip with the clean model"),
        ("f2", "f1"),
        ("rmse", "rmse"),
        ("nowhere:at_all", "nowhere"),
    ],
)
def test_what_cannot_judge_is_refused_before_the_training(digits, metric, words):
    seen = []
    with pytest.raises(InputError, match=words):
        train("mlp", digits, metric=metric, progress=seen.append, **QUICK)
    assert seen == []


def test_the_metric_of_a_search_stays_that_of_its_chips(digits, monkeypatch):
    monkeypatch.setattr(BayesFT, "fit", lambda self, *args, **more: self)
    found = train("mlp", digits, "bayesft", metric="f1")
    assert found.metric.name == "f1"
    assert found.training.metric is None


def test_the_command_says_the_metric(command, tmp_path):
    file = tmp_path / "net.pt"
    done = command(
        "train", "--network", "mlp", "--data", "digits", "--network-arguments", '{"hidden": [12]}', "--epochs", "2",
        "--metric", "f1", "-o", file,
    )  # fmt: skip
    assert done.code == 0, done.err
    from crossbar_sim import load_data

    wanted = macro_f1(load_model(file).module, load_data("digits").development.validation)
    assert f"macro F1 {100 * wanted:.1f} % on validation" in done.out
