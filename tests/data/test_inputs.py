"""Several inputs of a model: by position and by name, in every form of data, padded, masked, and refused."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from crossbar_sim import Hardware, InputError
from crossbar_sim.baselines.awp import Awp
from crossbar_sim.baselines.drift_aware import DriftAware
from crossbar_sim.baselines.erm import Erm
from crossbar_sim.data import load_data
from crossbar_sim.data.inputs import Inputs, call
from crossbar_sim.data.load import to_development, to_examples
from crossbar_sim.nn import Training, fit
from crossbar_sim.robustness import deploy, robustness
from crossbar_sim.robustness.calibration import Calibration

N, T, V = 24, 7, 30
IDS = (torch.arange(N * T).view(N, T) * 7 + torch.arange(N)[:, None] ** 2) % V
LENGTHS = torch.tensor([T, *(3 + (i * 5) % 5 for i in range(1, N))])
MASK = (torch.arange(T) < LENGTHS[:, None]).long()
Y = torch.arange(N) % 3
WIDE = (torch.arange(N * 5.0) * 1.3).sin().view(N, 5)
IDEAL, DRIFT = Hardware.preset("bayesft", sigma=0.0), Hardware.preset("bayesft", sigma=0.5)


def filled(model: nn.Module) -> Any:
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_((torch.arange(p.numel()) * (1.1 + 0.13 * i)).cos().view(p.shape))
    return model.eval()


class Tagged(nn.Module):
    """A classifier of sequences: the mean over the places that count."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.inner, self.head = nn.Embedding(V, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, scale: float = 1.0) -> Any:
        kept = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        x = (self.inner(self.table(input_ids)).relu() * kept[..., None]).sum(1) / kept.sum(1, keepdim=True)
        return {"loss": None, "logits": self.head(x) * scale}


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(T, 3), nn.Linear(5, 3)

    def forward(self, a: Tensor, b: Tensor, *, gain: float = 1.0) -> Tensor:
        return self.left(a) * self.right(b) * gain


class Rows(Dataset):
    def __len__(self) -> int:
        return N

    def __getitem__(self, i: int) -> Any:
        if i >= N:
            raise IndexError(i)
        return {"input_ids": IDS[i].tolist(), "attention_mask": MASK[i].tolist(), "label": int(Y[i])}


class Stream(IterableDataset):
    def __iter__(self) -> Any:
        return (Rows()[i] for i in range(N))


class Batches:
    """A loader of somebody's own."""

    def __iter__(self) -> Any:
        for i in range(0, N, 9):
            yield {"input_ids": IDS[i : i + 9], "attention_mask": MASK[i : i + 9], "labels": Y[i : i + 9]}


def ragged(i: int) -> dict[str, Any]:
    return {"input_ids": IDS[i, : LENGTHS[i]].tolist(), "label": int(Y[i])}


def padding(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """As a collator of transformers: to the longest of the batch."""
    ids = nn.utils.rnn.pad_sequence([torch.tensor(row["input_ids"]) for row in rows], batch_first=True)
    sizes = torch.tensor([len(row["input_ids"]) for row in rows])
    return {
        "input_ids": ids,
        "attention_mask": (torch.arange(ids.shape[1]) < sizes[:, None]).long(),
        "labels": torch.tensor([row["label"] for row in rows]),
    }


BOTH = {"input_ids": IDS, "attention_mask": MASK}
FORMS: dict[str, Callable[[], Any]] = {
    "dictionary": lambda: {**BOTH, "labels": Y},
    "arrays, int32": lambda: {"input_ids": IDS.numpy().astype("i4"), "attention_mask": MASK.numpy(), "y": Y},
    "read-only arrays": lambda: {name: np.frombuffer(x.numpy().tobytes(), np.int64).reshape(N, T)
                                 for name, x in BOTH.items()} | {"labels": Y},
    "lists": lambda: {"input_ids": IDS.tolist(), "attention_mask": MASK.tolist(), "targets": Y.tolist()},
    "pair of a dictionary": lambda: (BOTH, Y),
    "Inputs": lambda: (Inputs(kwargs=BOTH), Y),
    "rows": lambda: [Rows()[i] for i in range(N)],
    "Dataset": Rows,
    "IterableDataset": Stream,
    "loader": lambda: DataLoader([(BOTH["input_ids"][i], MASK[i], Y[i]) for i in range(N)], 5),  # type: ignore[arg-type]
    "shuffled loader": lambda: DataLoader(Rows(), 5, shuffle=True, collate_fn=lambda rows: {
        name: torch.tensor([row[name] for row in rows]) for name in rows[0]
    }),
    "batches": Batches,
    "TensorDataset": lambda: TensorDataset(IDS, MASK, Y),
    "three parts": lambda: (IDS, MASK, Y),
    "sequences of different lengths": lambda: [ragged(i) for i in range(N)],
    "padded batch by batch": lambda: DataLoader([ragged(i) for i in range(N)], 4, collate_fn=padding),  # type: ignore[arg-type]
    "lists of different lengths": lambda: (
        {"input_ids": [ragged(i)["input_ids"] for i in range(N)]}, Y
    ),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_what_plain_torch_gives(form):
    model = filled(Tagged())
    with torch.no_grad():
        wanted = float((model(IDS, MASK)["logits"].argmax(1) == Y).double().mean())
    found = deploy(model, FORMS[form](), hardware=IDEAL, chips=1, sensitivity_chips=0)
    assert found.clean.accuracy == pytest.approx(wanted, abs=1e-12)
    assert found.scores[0].accuracy == found.clean.accuracy
    assert found.scores[0].output_error < 1e-5
    x = to_examples(FORMS[form]()).x
    assert isinstance(x, Inputs)
    assert {str(tensor.dtype) for _, tensor in x.named()} == {"torch.int64"}


def test_a_chip_is_the_same_for_a_sweep_and_for_one_tensor():
    model = filled(Tagged())
    data = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": Y}
    one = robustness({"m": model}, (IDS, Y), DRIFT, [0.5], chips=3).curve("m")[0].values
    two = robustness({"m": model}, data, DRIFT, [0.5], chips=3)
    assert two.curve("m")[0].values == one
    drawn = robustness({"m": model}, data, DRIFT, [0.5], half_width=0.2)
    assert drawn.curve("m")[0].images <= N
    fingerprints = {load_data(form).fingerprint for form in (data, {**BOTH, "labels": Y}, (IDS, Y))}
    assert len(fingerprints) == 3


@pytest.mark.parametrize("gain", [1.0, -1.0])
def test_two_towers_and_a_keyword_that_is_the_same_for_all(gain):
    model, a = filled(Towers()), IDS.float()
    found = deploy(model, {"a": a, "b": WIDE, "gain": gain, "y": Y}, hardware=DRIFT, chips=2)
    assert found.clean.accuracy == float((model(a, WIDE, gain=gain).argmax(1) == Y).double().mean())
    if gain == 1.0:
        assert deploy(model, (a, WIDE), Y, DRIFT, chips=2).scores == found.scores
    assert len(found.layers) == 2
    assert all(layer.layer.analog for layer in found.layers)


@pytest.mark.parametrize("method", [Erm(Training(epochs=1)), Awp(training=Training(epochs=1)),
                                    DriftAware(sigma=0.2, training=Training(epochs=1))])  # fmt: skip
def test_methods_learn_from_several_inputs(method):
    data = {"train": {**BOTH, "labels": Y}, "validation": Rows()}
    one = {"train": (IDS, Y), "validation": (IDS, Y)}
    made = method.fit(Tagged, data, 1).model
    assert torch.equal(method.fit(Tagged, data, 1).model.head.weight, made.head.weight)
    if isinstance(method, Erm):
        whole = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "labels": Y}
        plain = method.fit(Tagged, one, 1).model
        same = method.fit(Tagged, {"train": whole, "validation": whole}, 1).model
        assert torch.allclose(plain.head.weight, same.head.weight, atol=1e-6)
        assert fit(filled(Tagged()), Rows(), epochs=1).epochs == 1


class Gpt(nn.Module):
    """Causal: the mean of the tokens so far; with `causal` off, of all of them."""

    def __init__(self, causal: bool = True) -> None:
        super().__init__()
        self.table, self.head, self.causal = nn.Embedding(V, 8), nn.Linear(8, V), causal

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.table(input_ids)
        if not self.causal:
            return self.head(x + x.mean(1, keepdim=True))
        return self.head(x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None])


LABELS = IDS.masked_fill(MASK == 0, -100)


@pytest.mark.parametrize(
    ("causal", "labels", "shift"),
    [(True, IDS, True), (True, LABELS, True), (False, IDS, False), (True, (IDS + 1) % V, False)],
)
def test_labels_that_are_the_tokens_are_shifted_for_a_causal_model(causal, labels, shift):
    model = filled(Gpt(causal))
    found = deploy(model, {**BOTH, "labels": labels}, hardware=IDEAL, chips=1, sensitivity_chips=0)
    top, wanted, kept = model(IDS).argmax(2), labels, MASK > 0
    if shift:
        top, wanted, kept = top[:, :-1], labels[:, 1:], MASK[:, 1:] > 0
    assert found.clean.accuracy == pytest.approx(float((top == wanted)[kept].double().mean()), abs=1e-12)
    assert found.judged["count"] == int(kept.sum())
    assert ("next_token" in found.judged) == shift
    assert found.scores[0].output_error < 1e-5


def test_without_labels_a_perplexity_is_that_of_the_next_tokens_and_padding_does_not_count():
    model = filled(Gpt())
    loss = nn.functional.cross_entropy(model(IDS)[:, :-1].mT, LABELS[:, 1:]).item()
    for data in (BOTH, {**BOTH, "labels": LABELS}):
        found = deploy(model, data, hardware=IDEAL, chips=1, metric="cross-entropy", sensitivity_chips=0)
        assert found.clean.custom == pytest.approx(loss, rel=1e-6)
    agreement = deploy(model, BOTH, hardware=DRIFT, chips=1, sensitivity_chips=0)
    assert agreement.judged["count"] == int(MASK.sum())
    assert any(f"{int((MASK == 0).sum())} of padding are not judged" in note for note in agreement.notes)
    other = {"input_ids": torch.where(MASK > 0, IDS, 0), "attention_mask": MASK}  # other padding, same scores
    assert deploy(model, other, hardware=DRIFT, chips=1, sensitivity_chips=0).scores == agreement.scores


class Single(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten())


class Among(nn.Linear):
    """Compares all examples with one another."""

    def __init__(self) -> None:
        super().__init__(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y @ y.T


@pytest.mark.parametrize(
    ("model", "data", "words"),
    [
        (Tagged, {"tokens": IDS, "attention_mask": MASK}, "has no tokens; input_ids is missing"),
        (Tagged, {"input_ids": IDS + 5, "attention_mask": MASK}, "the token 3[34], .* 30 entries"),
        (Tagged, {"input_ids": IDS - 1, "attention_mask": MASK}, "the token -1, .* 30 entries"),
        (Tagged, {"input_ids": IDS + 0.5, "attention_mask": MASK}, "not integers"),
        (Tagged, {"input_ids": IDS, "attention_mask": MASK[:5]}, "input_ids 24, attention_mask 5"),
        (Tagged, {**BOTH, "text": ["a"] * N}, "text holds <U1.*tokens"),
        (Tagged, {"test": BOTH}, "one of its parts"),
        (Tagged, {**BOTH, "y": Y, "labels": Y}, "is a dictionary"),
        (Tagged, (BOTH | {"y": Y}, Y), "given twice"),
        (Tagged, [{"input_ids": IDS[0]}, BOTH], "all need the same"),
        (Towers, (IDS.float(), Y), "missing 1 required positional argument: 'b' .*by their names"),
        (Towers, (IDS.float(), WIDE, WIDE, Y), "takes 2 by position and 3 are given"),
        (Gpt, {"input_ids": IDS, "attention_mask": MASK * 0, "labels": IDS}, "0 everywhere"),
        (lambda: nn.Linear(T, 2), [IDS[0, :3].float(), IDS[1].float()], "different lengths.*no attention_mask"),
        (Single, WIDE.view(6, 4, 5), "single example"),
        (Among, WIDE, "depends on its batch"),
        (Towers, {"a": IDS.float(), "b": WIDE * torch.nan}, "not finite|NaN"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(model, data, words):
    with pytest.raises(InputError, match=words) as caught:
        deploy(filled(model()), data, hardware=IDEAL, chips=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["readout", "affine"])
def test_calibration_and_workers_take_several_inputs(kind):
    model, labelled = filled(Tagged()), {**BOTH, "labels": Y}
    data = to_development({"train": labelled, "validation": labelled})
    with pytest.raises(InputError, match="has the parts train: validation examples are missing"):
        to_development({"train": labelled})
    calibration = Calibration(kind, 20)
    found = deploy(
        model, labelled, hardware=DRIFT, chips=2, calibration=(calibration, data), sensitivity_chips=0
    )
    assert len(found.uncalibrated) == 2
    still = deploy(
        model, labelled, hardware=IDEAL, chips=1, calibration=(calibration, data), sensitivity_chips=0
    )
    if kind == "affine":  # of a chip without drift nothing is to be corrected
        assert still.scores[0].output_error < 1e-4
    assert torch.equal(pickle.loads(pickle.dumps(Inputs(kwargs=BOTH))).kwargs["input_ids"], IDS)


def test_a_file_and_an_archive_of_several_inputs(tmp_path: Path, command: Any):
    model, batch = filled(Tagged()), torch.export.Dim("batch")
    shapes: Any = {name: {0: batch} for name in BOTH}
    torch.export.save(torch.export.export(model, (), BOTH, dynamic_shapes=shapes), tmp_path / "m.pt2")
    np.savez(tmp_path / "task.npz", **{name: x.numpy() for name, x in BOTH.items()}, labels=Y.numpy())
    shown = command("deploy", tmp_path / "m.pt2", "--data", tmp_path / "task.npz", "--sigma", "0.5", "--chips", "2",
                    "--sensitivity-chips", "0", "--json", tmp_path / "r.json")  # fmt: skip
    assert shown.code == 0
    np.savez(tmp_path / "bad.npz", tokens=IDS.numpy(), attention_mask=MASK.numpy())
    refused = command("deploy", tmp_path / "m.pt2", "--data", tmp_path / "bad.npz")
    assert refused.code == 2
    assert "forward takes (input_ids, attention_mask)" in refused.err


def test_inputs_are_indexed_together():
    x = Inputs((IDS,), {"mask": MASK, "gain": 2.0})
    part = x[torch.tensor([3, 1])]
    assert torch.equal(part.args[0], IDS[[3, 1]])
    assert torch.equal(part.kwargs["mask"], MASK[[3, 1]])
    assert (len(part), part.kwargs["gain"]) == (2, 2.0)
    assert call(lambda a, mask, gain: (a is IDS, mask is MASK, gain), x) == (True, True, 2.0)
