"""What an archive takes: tensors packed in any way, constants, limits of the batch, and its tied weights."""

import collections
import dataclasses
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from helpers import archive_files as files
from torch import nn

from crossbar_sim import Hardware
from crossbar_sim.errors import InputError
from crossbar_sim.nn import layers, to_analog
from crossbar_sim.nn.evaluate import answer_of, outputs, run_over, several
from crossbar_sim.nn.files.loading import load_model


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)


class Optional(Net):
    def forward(self, x, mask=None, scale=1.0):
        return self.fc(x) * scale


class Packed(Net):
    def forward(self, d):
        return self.fc(d["x"])


class Keyword(Net):
    def forward(self, *, input_ids):
        return {"class-logits": self.fc(input_ids)}


class Counted(Net):
    def forward(self, x, n):
        return self.fc(x) * n


X = torch.sin(torch.arange(24.0)).reshape(6, 4)


def loaded(tmp_path, model, args, kwargs=None, shapes=None):
    program = torch.export.export(model.eval(), args, kwargs, dynamic_shapes=shapes)
    (tmp_path / "m.pt2").write_bytes(files.saved(program))
    return load_model(tmp_path / "m.pt2")


@pytest.mark.parametrize(
    ("make", "args", "kwargs", "note"),
    [
        (Optional, (X, None), None, "mask=None"),
        (Optional, (X, None, 3.0), None, "mask=None, scale=3.0"),
        (Optional, (X,), {"scale": 2.0}, "scale=2.0"),
        (Packed, ({"x": X},), None, ""),
        (Keyword, (), {"input_ids": X}, ""),
    ],
)
def test_one_tensor_however_packed_is_fed_and_constants_are_bound(make, args, kwargs, note, tmp_path):
    model = make()
    got = loaded(tmp_path, model, args, kwargs)
    assert (got.batch, got.input_shape) == (6, (4,))
    assert got.notes == ((f"the archived model computes with {note}, as exported",) if note else ())
    want = model(*args, **kwargs or {})
    want = want["class-logits"] if isinstance(want, dict) else want
    assert torch.equal(outputs(got.module, X, fixed=6)[0], want.detach())
    assert [layer.analog for layer in layers(to_analog(got.module, Hardware.preset("ideal")))] == [True]


def test_a_number_that_varies_is_no_input(tmp_path):
    with pytest.raises(InputError, match="takes n besides a tensor: wrap it"):
        loaded(tmp_path, Counted(), (X, 3), shapes=(None, torch.export.Dim.DYNAMIC))


class Pairs(Net):
    def forward(self, x):
        return self.fc(x.reshape(x.shape[0] // 2, 8)[:, :4]).repeat(2, 1)


DIM = torch.export.Dim


@pytest.mark.parametrize(
    ("make", "dim", "batch", "limits"),
    [
        (lambda: nn.Linear(4, 3), DIM("n"), None, None),
        (lambda: nn.Linear(4, 3), DIM.AUTO, None, None),
        (lambda: nn.Linear(4, 3), DIM("n", max=64), 64, (1, 64)),
        (lambda: nn.Linear(4, 3), DIM("n", min=4), 500, (4, None)),
        (lambda: nn.Linear(4, 3), DIM("n", min=4, max=7), 7, (4, 7)),
        (lambda: nn.Linear(4, 3), DIM("n", max=500), None, None),
        (Pairs, 2 * DIM("n", max=64), 128, (4, 128)),
        (Pairs, 2 * DIM("n"), 500, (4, None)),
    ],
)
def test_batches_within_the_limits_of_the_program(make, dim, batch, limits, tmp_path):
    got = loaded(tmp_path, make(), (X,), shapes=({0: dim},))
    assert (got.batch, got.limits) == (batch, limits)
    x = X.repeat(84, 1)[:501]
    rows = torch.cat(outputs(got.module, x, fixed=got.batch))
    assert rows.shape == (501, 3)
    run_over(got.module, x, 64, got.batch)
    if make is not Pairs:
        torch.testing.assert_close(rows, F.linear(x, got.module.weight, got.module.bias))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.o = nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.o(F.relu(self.b(F.relu(self.a(x)))))


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.emb, self.head = nn.Embedding(5, 4), nn.Linear(4, 5)
        self.head.weight = self.emb.weight

    def forward(self, x):
        return self.head(self.emb(x)).mean(1)


HARDWARE = Hardware.preset("bayesft", sigma=0.5)


@pytest.mark.parametrize(
    ("make", "x"), [(Tied, X), (Language, torch.arange(12).reshape(6, 2) % 5)], ids=["linear", "embedding"]
)
@pytest.mark.parametrize("bias", ["digital", "drifting"])
def test_tied_weights_are_one_set_of_cells_as_in_the_module(make, x, bias, tmp_path):
    model = make().eval()
    got = loaded(tmp_path, model, (x,), shapes=({0: DIM("n")},)).module
    assert sum(p.numel() for p in got.parameters()) == sum(p.numel() for p in model.parameters())
    hardware = replace(HARDWARE, bias=bias)
    ours, theirs = (to_analog(m, hardware, seed=1) for m in (got, model))

    def kinds(analog):
        return {
            (layer.name, layer.analog, tuple(sorted(slot.name for slot in layer.slots)))
            for layer in layers(analog)
        }

    assert kinds(ours) == kinds(theirs)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x))


class Frozen(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        with torch.no_grad():
            h = F.relu(self.a(x))
        return self.b(h)


def test_layers_inside_no_grad_are_named_with_the_remedy(tmp_path):
    got = loaded(tmp_path, Frozen(), (X,))
    assert got.notes == (
        "a: inside torch.no_grad() and so on no array; their parameters drift only where the design lets digital "
        "parameters drift (preset bayesft does); to put them on arrays, export the model without it",
    )


def test_a_fourier_transform_computes_what_the_model_computes(tmp_path):
    class Fourier(Net):
        def forward(self, x):
            return torch.fft.rfft(self.fc(x), norm="ortho").abs()

    model = Fourier()
    got = loaded(tmp_path, model, (X,))
    assert torch.equal(got.module(X), model(X))


def test_names_that_torch_would_write_into_code_are_refused_in_plain_words(tmp_path):
    model = nn.Sequential()
    model.add_module("block 1/a", nn.Linear(4, 3))
    with pytest.raises(InputError, match=r"'block 1/a.weight'.*only letters, digits, _ and - .*rename it"):
        loaded(tmp_path, model, (X,))


# Outputs packed in any way


@dataclasses.dataclass
class Named:
    aux: torch.Tensor
    logits: torch.Tensor
    loss: Any = None


@dataclasses.dataclass
class Segmented:
    aux: torch.Tensor
    out: torch.Tensor


class Pair(NamedTuple):
    first: torch.Tensor
    other: torch.Tensor


class ModelOutput(collections.OrderedDict):
    """As Hugging Face's: registered with the list of its keys as context, fields as attributes too."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


torch.export.register_dataclass(Named, serialized_type_name="tests.Named")
torch.export.register_dataclass(Segmented, serialized_type_name="tests.Segmented")
torch.utils._pytree._register_namedtuple(Pair, serialized_type_name="tests.Pair")
torch.utils._pytree.register_pytree_node(
    ModelOutput,
    lambda y: (list(y.values()), list(y.keys())),
    lambda values, keys: ModelOutput(zip(keys, values, strict=True)),
    serialized_type_name="tests.ModelOutput",
)


@pytest.mark.parametrize(
    ("pack", "count"),
    [
        (lambda y: {"out": y}, 1),
        (lambda y: collections.OrderedDict(out=y), 1),
        (lambda y: collections.OrderedDict(aux=-y, out=y), 1),
        (lambda y: collections.OrderedDict(features=y, aux=-y), 2),
        (lambda y: collections.defaultdict(list, {"aux": -y, "logits": y}), 1),
        (lambda y: Named(-y, y), 1),
        (lambda y: Named(-y, y, y.sum()), 1),
        (lambda y: Segmented(-y, y), 1),
        (lambda y: Pair(y, -y), 2),
        (lambda y: ModelOutput(loss=y.sum(), logits=y), 1),
        (lambda y: ModelOutput(logits=y), 1),
        (lambda y: collections.deque([y]), 1),
        (lambda y: (y, (-y, -y)), 2),
        (lambda y: ([{"logits": y, "aux": -y}], -y), 2),
        (lambda y: (None, y), 1),
        (lambda y: {0: y, 1: -y}, 2),
        (lambda y: [y], 1),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_outputs_are_judged_alike_however_they_are_packed(pack, count, tmp_path):
    class Packs(Net):
        def forward(self, x):
            return pack(self.fc(x))

    model = Packs().eval()
    archived = loaded(tmp_path, model, (X,)).module
    for each in (model, archived):
        with torch.no_grad():
            answer = each(X)
        assert torch.equal(answer_of(answer), model.fc(X))
        assert several(answer) == count
        with torch.no_grad():
            (scores,) = outputs(each, X)
        assert torch.equal(scores, model.fc(X))
