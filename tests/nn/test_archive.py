"""Benign torch.export archives come through the rebuilding unchanged in what they compute."""

import io
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from helpers import archive_files as files
from torch import nn

from crossbar_sim.data.inputs import Inputs, call
from crossbar_sim.errors import InputError
from crossbar_sim.nn.files.archive import load_archive, rebuild
from crossbar_sim.nn.files.loading import load_model
from crossbar_sim.nn.networks import MLP, LeNet5


class Lstm(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(8, 6, num_layers=2, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(12, 3)

    def forward(self, x):
        return self.fc(self.lstm(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect"),
            nn.BatchNorm2d(4),
            nn.GELU(approximate="tanh"),
            nn.Conv2d(4, 4, 3, groups=2, padding="same"),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(2),
        )

    def forward(self, x):
        with torch.no_grad():
            x = x.clamp(min=-torch.inf)
        return nn.functional.interpolate(self.body(x), scale_factor=2.0).flatten(1)


def numbers(*shape: int) -> torch.Tensor:
    return torch.sin(torch.arange(float(torch.Size(shape).numel()))).reshape(shape)


class Hyphen(nn.Module):
    """torchvision's RegNet has such names; torch reaches them with getattr in generated source."""

    def __init__(self):
        super().__init__()
        self.add_module("block1-0", nn.Sequential(nn.Linear(4, 4), nn.RReLU()))

    def forward(self, x):
        return self.get_submodule("block1-0")(x)


MODELS = {
    "hyphen": (Hyphen, (4,)),
    "scaled": (files.Scaled, (4,)),
    "mlp": (lambda: MLP(16, (8, 8), 3), (1, 4, 4)),
    "lenet5": (lambda: LeNet5(size=8), (1, 8, 8)),
    "lstm": (Lstm, (5, 8)),
    "attention": (Attention, (5, 8)),
    "transformer": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (5, 8)),
    "convolutions": (Convolutions, (2, 8, 8)),
}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_archive_computes_what_the_model_computes(name, dynamic, tmp_path):
    make, shape = MODELS[name]
    model = make().eval()
    path = tmp_path / f"{name}.pt2"
    content = files.exported(model, numbers(3, *shape), dynamic)
    path.write_bytes(content)
    rebuild(path.read_bytes())
    loaded = load_model(path)
    x = numbers(7 if dynamic else 3, *shape)
    with torch.no_grad():
        untouched = torch.export.load(io.BytesIO(content)).module()
        assert torch.equal(loaded.module(x), untouched(x))
        # Attention takes another route in eager mode.
        torch.testing.assert_close(loaded.module(x), model(x), rtol=1e-5, atol=1e-6)
    assert loaded.source == "torch.export archive"
    assert loaded.input_shape == shape
    assert loaded.batch == (None if dynamic else 3)
    assert loaded.name == name
    assert set(dict(loaded.module.named_parameters())) == set(dict(model.named_parameters()))


def test_a_batch_that_the_graph_was_not_traced_for_is_an_error(tmp_path):
    path = tmp_path / "m.pt2"
    path.write_bytes(files.exported(files.Scaled(), torch.ones(3, 4)))
    with pytest.raises(RuntimeError, match="3"):
        load_model(path).module(torch.ones(4, 4))


def test_eval_and_train_may_be_called(tmp_path):
    path = tmp_path / "m.pt"
    path.write_bytes(files.exported(files.Scaled(), torch.ones(3, 4)))
    module = load_model(path).module
    assert not any(part.training for part in module.modules())
    assert module.train().training
    assert not module.eval().training


def test_gradients_reach_the_weights(tmp_path):
    path = tmp_path / "m.pt2"
    path.write_bytes(files.exported(files.Scaled(), torch.ones(3, 4)))
    module = load_model(path).module
    module(torch.ones(3, 4)).sum().backward()
    assert module.fc.weight.grad.abs().sum() > 0


def test_a_derived_dynamic_size_comes_through(tmp_path):
    class Pairs(nn.Module):
        def forward(self, x):
            return x.reshape(x.shape[0] // 2, 8).sum(1)

    batch = 2 * torch.export.Dim("half", min=1, max=64)
    buffer = io.BytesIO()
    program = torch.export.export(Pairs(), (torch.ones(6, 4),), dynamic_shapes=({0: batch},))
    torch.export.save(program, buffer)
    loaded, _ = load_archive(buffer.getvalue())
    assert loaded.module()(torch.ones(10, 4)).tolist() == [8.0] * 5


def test_an_export_in_training_mode_is_refused(tmp_path):
    buffer = io.BytesIO()
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5))
    torch.export.save(torch.export.export(model.train(), (torch.ones(2, 4),)), buffer)
    with pytest.raises(InputError, match=r"model\.eval\(\)"):
        load_archive(buffer.getvalue())


def test_an_export_from_another_device_lands_on_the_cpu():
    members = files.unpacked(files.exported(files.Scaled(), torch.ones(2, 4)))
    text = members[files.GRAPH].replace(b'"type": "cpu", "index": null', b'"type": "cuda", "index": 0')
    assert text != members[files.GRAPH]
    program, _ = load_archive(files.packed({**members, files.GRAPH: text}))
    assert program.module()(torch.ones(2, 4)).device.type == "cpu"


def legacy(members: files.Members, model: nn.Module, root: bool) -> files.Members:
    """The layouts of torch 2.8 (pickled weights) and of 2.7 (no folders)."""
    weights, constants = io.BytesIO(), io.BytesIO()
    torch.save(dict(model.named_parameters()), weights)
    torch.save({"factor": model.factor}, constants)
    if root:
        return {
            "version": b"8.8",
            "serialized_exported_program.json": members[files.GRAPH],
            "serialized_state_dict.pt": weights.getvalue(),
            "serialized_constants.pt": constants.getvalue(),
            "serialized_example_inputs.pt": members[files.SAMPLES],
        }
    kept = {n: c for n, c in members.items() if "weight" not in n and "constants" not in n}
    return {
        **kept,
        "archive/data/weights/model.pt": weights.getvalue(),
        "archive/data/constants/model.pt": constants.getvalue(),
    }


@pytest.mark.parametrize("root", [False, True])
def test_archives_of_older_torch_load(root):
    model, x = files.Scaled().eval(), numbers(2, 4)
    members = legacy(files.unpacked(files.exported(model, x)), model, root)
    program, _ = load_archive(files.packed(members))
    assert torch.equal(program.module()(x), model(x))


@pytest.mark.parametrize(
    ("member", "says"),
    [
        (files.GRAPH, "no models/model.json"),
        (files.WEIGHTS, "no data/weights/model.pt"),
        ("archive/data/weights/weight_0", "incomplete"),
    ],
)
def test_a_missing_member_is_named(member, says):
    members = files.unpacked(files.exported(files.Scaled(), torch.ones(2, 4)))
    del members[member]
    with pytest.raises(InputError, match=says):
        load_archive(files.packed(members))


def test_unknown_fields_of_a_newer_torch():
    members = files.unpacked(files.exported(files.Scaled(), torch.ones(2, 4)))

    def with_field(value):
        def change(program):
            program["graph_module"]["graph"]["nodes"][0]["fancy"] = value

        return files.packed(files.edited(members, files.GRAPH, change))

    load_archive(with_field(None))
    with pytest.raises(InputError, match="'fancy'"):
        load_archive(with_field("x"))


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, left, right):
        return self.a(left) - 2 * self.b(right)


@pytest.mark.parametrize("named", [False, True])
def test_two_inputs_have_the_names_of_the_forward(tmp_path, named):
    pair = {"left": torch.arange(24.0).sin().view(6, 4), "right": torch.arange(30.0).cos().view(6, 5)}
    model, path, batch = Pair().eval(), tmp_path / "m.pt2", torch.export.Dim("batch")
    given: Any = ((), pair) if named else (tuple(pair.values()), {})
    shapes: Any = {name: {0: batch} for name in pair}
    torch.export.save(torch.export.export(model, *given, dynamic_shapes=shapes), path)
    loaded = load_model(path)
    few = Inputs(kwargs={name: x[:3] for name, x in pair.items()})
    assert torch.equal(call(loaded.module, few), model(*few.kwargs.values()))
    assert loaded.batch is None


def test_inputs_without_a_batch_in_common_are_refused(tmp_path):
    path = tmp_path / "m.pt2"
    torch.export.save(torch.export.export(Pair(), (torch.ones(4), torch.ones(2, 5))), path)
    with pytest.raises(InputError, match="first sizes differ"):
        load_model(path)


@pytest.mark.parametrize(
    "context", ["null", '"Out"', "[[1]]", '["a", "b"]', "17", "not JSON", None, {"x": 1}, [1, 2]]
)
def test_outputs_of_an_unknown_type_are_a_tuple(context):
    members = files.unpacked(files.exported(files.Scaled(), torch.ones(2, 4)))

    def change(program):
        signature = program["graph_module"]["module_call_graph"][0]["signature"]
        leaf = {"type": None, "context": None, "children_spec": []}
        tree = {"type": "os.system", "context": context, "children_spec": [leaf]}
        signature["out_spec"] = json.dumps([1, tree])

    program, _ = load_archive(files.packed(files.edited(members, files.GRAPH, change)))
    (y,) = program.module()(torch.ones(2, 4))
    assert y.shape == (2, 3)


def test_one_thread_at_a_time_is_in_the_loader_of_torch(monkeypatch):
    """Which keeps what it reads in a global variable: threads of a Dask worker met there."""
    content, load, busy = (
        files.exported(files.Scaled(), torch.ones(2, 4)),
        torch.export.load,
        threading.Lock(),
    )

    def alone(clean):
        assert busy.acquire(blocking=False)
        time.sleep(0.05)
        try:
            return load(clean)
        finally:
            busy.release()

    monkeypatch.setattr(torch.export, "load", alone)
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(load_archive, [content] * 4))) == 4
