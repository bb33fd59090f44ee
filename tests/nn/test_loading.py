import hashlib
import sys
from collections import OrderedDict

import pytest
import torch
from helpers import archive_files as files
from torch import nn

from crossbar_sim.errors import InputError
from crossbar_sim.nn.files.checkpoint import save_checkpoint
from crossbar_sim.nn.files.loading import load_model
from crossbar_sim.nn.networks import MLP, LeNet5


@pytest.fixture
def model():
    return MLP(6, (5,), 3)


def write(path, content):
    torch.save(content, path)
    return path


def refusal(path, **arguments) -> str:
    with pytest.raises(InputError) as caught:
        load_model(path, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


# State dicts


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        OrderedDict,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model_state_dict": state, "optimizer": {"lr": 0.1}},
        lambda state: {"model": state},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {f"module._orig_mod.{name}": value for name, value in state.items()},
    ],
)
def test_state_dict_of_our_network_needs_no_arguments(wrap, model, tmp_path):
    loaded = load_model(write(tmp_path / "m.pt", wrap(model.state_dict())), arch="mlp")
    assert loaded.source == "state_dict"
    assert loaded.name == "mlp"
    assert loaded.notes == ()
    assert loaded.sha256 == hashlib.sha256((tmp_path / "m.pt").read_bytes()).hexdigest()
    x = torch.ones(2, 6)
    assert torch.equal(loaded.module(x), model.eval()(x))


@pytest.mark.parametrize("size", [8, 12, 28])
def test_lenet_is_inferred(size, tmp_path):
    lenet = LeNet5(channels=3, size=size, classes=4)
    loaded = load_model(write(tmp_path / "m.pt", lenet.state_dict()), arch="lenet5")
    assert loaded.module.conv3.weight.shape == lenet.conv3.weight.shape
    assert loaded.input_shape[0] == 3
    loaded.module(torch.ones(2, *loaded.input_shape))


def test_given_arguments_win(tmp_path):
    lenet = LeNet5(size=30)
    path = write(tmp_path / "m.pt", lenet.state_dict())
    assert load_model(path, "lenet5", {"size": 30}).input_shape == (1, 30, 30)


def test_legacy_file_without_zip(model, tmp_path):
    path = tmp_path / "m.pt"
    torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False)
    assert load_model(path, arch="mlp").source == "state_dict"


def test_users_own_factory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mynets.py").write_text(
        "from torch import nn\n"
        "class Make:\n    @staticmethod\n"
        "    def net(width=2): return nn.Sequential(nn.Linear(3, width), nn.ReLU())\n"
        "def broken(): raise RuntimeError('two\\nlines')\n"
        "def nothing(): return 3\n"
    )
    state = nn.Sequential(nn.Linear(3, 4)).state_dict()
    path = write(tmp_path / "m.pt", state)
    before = list(sys.path)
    loaded = load_model(path, "mynets:Make.net", {"width": 4})
    assert loaded.module[0].out_features == 4
    assert sys.path == [*before, str(tmp_path)]  # last: for what the code and workers import later
    assert "RuntimeError: two" in refusal(path, arch="mynets:broken")
    assert "returned a int" in refusal(path, arch="mynets:nothing")
    assert "cannot be built" in refusal(path, arch="mynets:absent")
    assert "cannot be imported" in refusal(path, arch="no_such_module:f")
    assert "cannot be imported" in refusal(path, arch=":f")
    sys.modules.pop("mynets")


def test_torchvision_by_name(tmp_path):
    models = pytest.importorskip("torchvision.models")
    resnet = models.resnet18(num_classes=7)
    path = write(tmp_path / "m.pt", resnet.state_dict())
    loaded = load_model(path, "resnet18")
    x = torch.ones(1, 3, 32, 32)
    assert torch.equal(loaded.module(x), resnet.eval()(x))
    assert "did you mean" in refusal(path, arch="resnet19")


def test_without_torchvision_it_says_how_to_install_it(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    path = write(tmp_path / "m.pt", model.state_dict())
    assert "pip install '.[vision]'" in refusal(path, arch="resnet18")


CODE = """
import functools, os, subprocess
from os import system
from subprocess import call
from torch import nn
import torch

def canary(*_, **__):
    with open("canary", "w"):
        pass

class Net(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
    @classmethod
    def build(cls):
        return cls()
    @staticmethod
    def static() -> nn.Module:
        return Net()
    @property
    def looked_at(self):
        canary()

def make():
    return Net()

@functools.lru_cache
def cached():
    return Net()

partial = functools.partial(make)

class Other:
    __init__ = canary

class Callable:
    __call__ = canary
    looked_at = property(canary)

it = Callable()

def table() -> dict:
    canary()

def nothing() -> None:
    canary()
"""


@pytest.fixture
def folder_of_code(tmp_path, monkeypatch):
    """The user's folder; where a refused factory was called, a file "canary" lies in it."""
    (tmp_path / "somecode.py").write_text(CODE)
    (tmp_path / "code.py").write_text(CODE)  # Python has a module of that name
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "code", raising=False)
    write(tmp_path / "m.pt", nn.Linear(2, 2).state_dict())
    yield tmp_path
    for name in ("somecode", "code"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    "arch",
    [
        *(f"somecode:{name}" for name in ("Net", "Net.build", "Net.static", "make", "cached", "partial")),
        "code:make",
    ],
)
def test_factories_are_classes_and_functions(folder_of_code, arch):
    assert isinstance(load_model("m.pt", arch).module, nn.Linear)


NO_FACTORIES = (
    *(
        "os:system",
        "posix:system",
        "builtins:exec",
        "subprocess:run",
        "shutil:rmtree",
        "importlib:import_module",
    ),
    *(
        "antigravity:x",
        "pickle:loads",
        "xml.etree.ElementTree:parse",
        "torch:load",
        "torch.hub:load",
        "numpy:save",
    ),
    *(
        "somecode:system",
        "somecode:call",
        "somecode:os.system",
        "somecode:os.path.join",
        "somecode:torch.load",
    ),
    *("somecode:Other", "somecode:it", "somecode:it.looked_at", "somecode:Net.looked_at", "somecode:table"),
    *(
        "somecode:nothing",
        "somecode:make.__globals__",
        "somecode:canary.__call__",
        "somecode:",
        "somecode:..",
    ),
)


@pytest.mark.parametrize("arch", NO_FACTORIES)
def test_what_makes_no_network_is_refused_before_it_is_called(folder_of_code, arch):
    loaded = set(sys.modules)
    assert arch in refusal("m.pt", arch=arch, arch_arguments={"command": "touch canary"})
    assert not (folder_of_code / "canary").exists()
    assert "antigravity" not in set(sys.modules) - loaded


@pytest.mark.parametrize("argument", ["weights", "weights_backbone", "pretrained"])
def test_torchvision_loads_no_weights_of_its_own(argument, tmp_path, monkeypatch):
    pytest.importorskip("torchvision")

    def load(*_args, **_more):
        raise AssertionError("downloads")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", load)
    path = write(tmp_path / "m.pt", nn.Linear(2, 2).state_dict())
    assert argument in refusal(path, arch="resnet18", arch_arguments={argument: "DEFAULT"})
    assert "do not fit" in refusal(path, arch="fasterrcnn_mobilenet_v3_large_320_fpn")


def test_without_arch_the_choices_are_named(model, tmp_path):
    message = refusal(write(tmp_path / "m.pt", model.state_dict()))
    assert "--arch" in message
    assert "mlp, lenet5" in message
    assert "fc1.weight" in message


def test_mismatches_are_counted_and_named(model, tmp_path):
    state = model.state_dict()
    state["extra.weight"] = state.pop("fc1.bias")
    message = refusal(write(tmp_path / "m.pt", state), arch="mlp")
    assert "1 missing (fc1.bias)" in message
    assert "1 unexpected (extra.weight)" in message
    message = refusal(write(tmp_path / "m.pt", model.state_dict()), arch="mlp", arch_arguments={"classes": 9})
    assert "2 of another shape (fc2.weight (3, 5) instead of (9, 5)" in message


def test_arch_for_a_file_that_knows_its_network_is_refused(model, tmp_path):
    path = tmp_path / "m.pt"
    save_checkpoint(path, model, "mlp", model.arguments, "digits")
    assert "leave out --arch mlp" in refusal(path, arch="mlp")
    path.write_bytes(files.exported(files.Scaled(), torch.ones(2, 4)))
    assert "leave out --arch mlp" in refusal(path, arch="mlp")


# Weights that are no conductances


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_bad_numbers_are_counted(bad, model, tmp_path):
    state = model.state_dict()
    state["fc1.weight"][1, :4] = bad
    message = refusal(write(tmp_path / "m.pt", state), arch="mlp")
    assert "fc1.weight has 4 of 30 values that are NaN or infinite" in message
    scaled = files.Scaled()
    with torch.no_grad():
        scaled.fc.bias[2] = bad
    path = tmp_path / "m.pt2"
    path.write_bytes(files.exported(scaled, torch.ones(2, 4)))
    assert "fc.bias has 1 of 3 values" in refusal(path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.to(torch.complex64), "complex"),
        (lambda w: w.to(torch.int8), "int8 integers"),
        (lambda w: w.to_sparse(), "sparse"),
        (lambda w: w.double() * 1e300, "NaN or infinite"),
    ],
)
def test_other_kinds_of_weights_are_refused(change, says, model, tmp_path):
    state = model.state_dict()
    state["fc2.weight"] = change(state["fc2.weight"])
    assert says in refusal(write(tmp_path / "m.pt", state), arch="mlp")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floats_are_converted_and_said(kind, model, tmp_path):
    path = write(tmp_path / "m.pt", model.to(kind).state_dict())
    loaded = load_model(path, arch="mlp")
    name = str(kind).removeprefix("torch.")
    assert loaded.notes == (f"4 {name} tensors were converted to float32",)
    assert {p.dtype for p in loaded.module.parameters()} == {torch.float32}
    assert torch.equal(loaded.module.fc1.weight, model.fc1.weight.float())


def test_half_precision_archive_is_refused(tmp_path):
    path = tmp_path / "m.pt2"
    half = nn.Linear(4, 3).half()
    path.write_bytes(files.exported(half, torch.ones(2, 4).half()))
    assert "float16" in refusal(path)
    assert "model.float()" in refusal(path)


# Pickled modules


def test_pickled_module_only_on_trust(model, tmp_path):
    path = write(tmp_path / "m.pt", nn.Sequential(nn.Linear(3, 2)))
    message = refusal(path)
    assert "--trust-pickle" in message
    assert "torch.export.save" in message
    loaded = load_model(path, trust_pickle=True)
    assert loaded.source == "pickled module"
    assert loaded.module[0].weight.shape == (2, 3)


@pytest.mark.parametrize("zipped", [True, False])
def test_hostile_pickle_is_not_run(zipped, tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "m.pt"
    torch.save({"x": files.Shell(marker)}, path, _use_new_zipfile_serialization=zipped)
    assert "--trust-pickle" in refusal(path)
    assert not marker.exists()
    # The control: with trust, it does run.
    with pytest.raises(InputError):
        load_model(path, trust_pickle=True)
    assert marker.exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (torch.ones(3), "holds a Tensor"),
        ([torch.ones(3)], "holds a list"),
        ({}, "empty table"),
        ({"lr": 0.1}, "'lr' (float) is not a tensor"),
        ({"state_dict": {1: torch.ones(2)}}, "'1' (Tensor) is not a tensor with a name"),
    ],
)
def test_other_objects_are_named(content, says, tmp_path):
    assert says in refusal(write(tmp_path / "m.pt", content), arch="mlp")
