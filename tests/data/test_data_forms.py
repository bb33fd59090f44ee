"""Data in every form that Python users give: the same numbers, or one sentence."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    SequentialSampler,
    TensorDataset,
)

from crossbar_sim import Hardware, InputError, Key, LogNormalDrift
from crossbar_sim.baselines.drift_aware import DriftAware
from crossbar_sim.baselines.erm import Erm
from crossbar_sim.data import Development, Split, load_data
from crossbar_sim.nn import Training, fit, to_analog
from crossbar_sim.robustness import deploy, robustness
from crossbar_sim.search import BayesFT

X = torch.sin(torch.arange(30.0 * 6) * 1.7 + 0.3).reshape(30, 6)
Y = torch.arange(30) % 3
SHORT = Training(epochs=1)


class Pairs(Dataset):
    def __len__(self) -> int:
        return 30

    def __getitem__(self, i: int) -> Any:
        return X[i], int(Y[i])


class Tables(Pairs):
    def __getitem__(self, i: int) -> Any:
        return {"inputs": X[i].numpy(), "labels": Y[i]}


@dataclasses.dataclass
class Batch:
    x: Any
    y: Any
    extra: None = None


class Swapped(NamedTuple):
    label: Any
    x: Any


class Batches(IterableDataset):
    def __iter__(self) -> Iterator[Any]:
        for start in range(0, 30, 8):
            yield X[start : start + 8], Y[start : start + 8]


def in_batches(size: int) -> BatchSampler:
    return BatchSampler(SequentialSampler(range(30)), size, drop_last=False)


FORMS: dict[str, Callable[[], Any]] = {
    "tensors": lambda: (X, Y),
    "arrays": lambda: (X.numpy(), Y.numpy()),
    "float64, int32": lambda: (X.double().numpy(), Y.numpy().astype(np.int32)),
    "big-endian": lambda: (X.numpy().astype(">f4"), Y.numpy().astype(">i2")),
    "lists": lambda: (X.tolist(), Y.tolist()),
    "whole floats": lambda: (X, Y.float()),
    "a column of labels": lambda: (X, Y[:, None]),
    "strided": lambda: (X.T.contiguous().T, Y),
    "split": lambda: Split(X, Y),
    "TensorDataset": lambda: TensorDataset(X, Y),
    "Dataset": Pairs,
    "Dataset of dictionaries": Tables,
    "loader": lambda: DataLoader(TensorDataset(X, Y), 7),
    "shuffled loader": lambda: DataLoader(Pairs(), 7, shuffle=True),
    "loader with a batch sampler": lambda: DataLoader(Pairs(), batch_sampler=in_batches(7)),
    "loader with a batch sampler, equal batches": lambda: DataLoader(Pairs(), batch_sampler=in_batches(10)),
    "loader that leaves batches as they are": lambda: DataLoader(Batches(), batch_size=None),
    "loader of dataclasses": lambda: DataLoader(
        Pairs(),
        7,
        collate_fn=lambda items: Batch(*torch.utils.data.default_collate(items)),
    ),
    "dataclass": lambda: Batch(X, Y),
    "named tuple, labels first": lambda: Swapped(Y, X),
    "batch of a loader": lambda: next(iter(DataLoader(TensorDataset(X, Y), 30))),
    "list of pairs": lambda: [(X[i], Y[i]) for i in range(30)],
    "dictionary": lambda: {"x": X, "y": Y},
    "bunch": lambda: {"data": X.numpy(), "target": Y.numpy()},
}


def net() -> nn.Module:
    return nn.Linear(6, 3)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    made = net()
    with torch.no_grad():
        made.weight.copy_(torch.cos(torch.arange(18.0)).reshape(3, 6))
        made.bias.zero_()
    return made.eval()


HARDWARE = Hardware.preset("bayesft", sigma=0.5)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_data(model, form):
    want = robustness({"m": model}, (X, Y), HARDWARE, [0.5], chips=3)
    got = robustness({"m": model}, FORMS[form](), HARDWARE, [0.5], chips=3)
    assert [task.id for task in got.tasks.values()] == [task.id for task in want.tasks.values()]
    scores = deploy(model, FORMS[form](), hardware=HARDWARE, chips=3, sensitivity_chips=0).scores
    assert [score.accuracy for score in scores] == list(want.curve("m")[0].values)
    assert load_data(FORMS[form]()).fingerprint == load_data((X, Y)).fingerprint


@pytest.mark.parametrize("form", ["arrays", "Dataset", "shuffled loader", "dictionary"])
def test_every_fit_takes_them(form):
    first, second = net(), net()
    second.load_state_dict(first.state_dict())
    fit(first, Split(X, Y), epochs=1, key=Key(4))
    fit(second, FORMS[form](), FORMS[form](), epochs=1, key=4)
    assert torch.equal(first.weight, second.weight)
    named = {"train": FORMS[form](), "validation": (X, Y)}
    want = Erm(SHORT).fit(net, Development(Split(X, Y), Split(X, Y)), Key(1)).model
    assert torch.equal(want.weight, Erm(SHORT).fit(net, named, 1).model.weight)  # type: ignore[arg-type]


def test_paths_names_and_presets(model, tmp_path: Path):
    np.savez(tmp_path / "mine.npz", x=X.numpy(), y=Y.numpy())
    got = deploy(model, tmp_path / "mine.npz", hardware="bayesft", chips=2)
    want = deploy(model, X, Y, Hardware.preset("bayesft"), chips=2)
    assert got.scores == want.scores
    assert DriftAware(sigma=0.3, hardware="reram_wan2022", temperature=False).hardware == Hardware.preset(
        "reram_wan2022"
    )
    assert torch.equal(to_analog(model, "bayesft")(X), to_analog(model, Hardware.preset("bayesft"))(X))
    assert load_data("digits", key=0).fingerprint == load_data("digits", key=Key(0)).fingerprint


def test_integers_are_tokens_for_a_model_that_looks_them_up():
    ids = (torch.arange(240).reshape(20, 12) * 7) % 40
    model = nn.Sequential(nn.Embedding(40, 4), nn.Flatten(), nn.Linear(48, 3))
    labels = torch.arange(20) % 3
    want = [s.accuracy for s in deploy(model, ids, labels, HARDWARE, chips=2).scores]
    for x in (ids, ids.int(), ids.float(), ids.numpy().astype(np.uint16), ids.tolist()):
        assert (
            list(robustness({"m": model}, (x, labels), HARDWARE, [0.5], chips=2).curve("m")[0].values) == want
        )
    assert fit(model, (ids, labels), epochs=1, key=0).epochs == 1


def test_bytes_are_pixels_and_doubles_stay_for_a_double_model(model):
    pixels = (X.abs() * 255).to(torch.uint8)
    found = deploy(model, pixels, Y, HARDWARE, chips=2)
    assert found.scores == deploy(model, pixels.float() / 255, Y, HARDWARE, chips=2).scores
    assert any("divided by 255" in note for note in found.notes)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda m: deploy(nn.Linear, X, Y, HARDWARE), "class Linear"),
        (lambda m: deploy(m, Pairs, None, HARDWARE), "class Pairs"),
        (lambda m: deploy(m, X, Y, Hardware), "class Hardware"),  # type: ignore[arg-type]
        (lambda m: deploy(m, X, Y, LogNormalDrift(0.5)), "expected a design"),  # type: ignore[arg-type]
        (lambda m: deploy(m, X, HARDWARE), "y is a Hardware"),
        (lambda m: deploy(m, X, ["a"] * 30, HARDWARE), "number the classes"),
        (lambda m: deploy(m, [[1, 2], [3]], None, HARDWARE), "different lengths"),
        (lambda m: deploy(m, X, Y[:5], HARDWARE), "one label per example"),
        (lambda m: deploy(m, X.cfloat(), Y, HARDWARE), "dense real"),
        (lambda m: deploy(m, iter([1]), None, HARDWARE), "read only once"),
        (lambda m: deploy(m, (X, Y), Y, HARDWARE), "given twice"),
        (lambda m: deploy(m, {}, None, HARDWARE), "nothing in it"),
        (
            lambda m: deploy(m, [{"x": X[0], "y": 1}, {"x": X[1]}], None, HARDWARE),
            "1 of 2 items have no labels",
        ),
        (lambda m: deploy(m, (X, Y, Y), None, HARDWARE), "it takes 1 by position and 2 are given"),
        (lambda m: deploy(m, X, Y, HARDWARE, chips=2.5), "number of chips"),
        (lambda m: deploy(m, X, Y, HARDWARE, threshold="0.9"), "threshold='0.9'"),
        (lambda m: robustness({"m": m}, {"input_ids": X, "attention_mask": X}), "attention_mask"),
        (lambda m: robustness({"m": m}, Development(Split(X, Y), Split(X, Y))), "Development"),
        (lambda m: fit(m, (X, Y), epochs=1, key=Key), "class Key"),  # type: ignore[arg-type]
        (lambda m: fit(m, (X, Y), training=Training), "class Training"),  # type: ignore[arg-type]
        (lambda m: fit(nn.Linear, (X, Y), epochs=1), "class Linear"),  # type: ignore[arg-type]
        (
            lambda m: fit(nn.Linear(6, 3), (X[:, None], Y[:, None].expand(30, 2)), epochs=1),
            "one class number",
        ),
        (lambda m: Erm().fit(m, Development(Split(X, Y), Split(X, Y)), 0), "fresh network"),
        (lambda m: Erm().fit(nn.Linear, Development(Split(X, Y), Split(X, Y)), 0), "without arguments"),
        (lambda m: Erm().fit(net, (X, Y), 0), "takes Development"),  # type: ignore[arg-type]
        (lambda m: Erm(Training).fit(net, Development(Split(X, Y), Split(X, Y)), 0), "class Training"),
        (lambda m: BayesFT(hardware=Hardware), "class Hardware"),  # type: ignore[arg-type]
        (lambda m: to_analog(m, "bayesfd"), "bayesft"),
        (lambda m: load_data(None), "missing"),  # type: ignore[arg-type]
        (lambda m: load_data("digits", key="0"), "key='0'"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_used_is_one_sentence(model, call, words):
    with pytest.raises(InputError, match=words) as caught:
        call(model)
    assert "\n" not in str(caught.value)


def test_a_frame_of_booleans_and_numbers_is_numbers_and_other_columns_are_named(model):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({name: X[:, i].numpy() for i, name in enumerate("abcdef")})
    frame["c"] = frame["c"] > 0
    want = torch.cat([X[:, :2], (X[:, 2:3] > 0).float(), X[:, 3:]], 1)
    assert load_data((frame, pandas.Series(Y.numpy()))).fingerprint == load_data((want, Y)).fingerprint
    frame["e"] = "text"
    with pytest.raises(InputError, match="columns e hold no numbers"):
        load_data((frame, Y))
