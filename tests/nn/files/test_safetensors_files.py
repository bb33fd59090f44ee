"""Safetensors weights: one file or shards, with the network that --arch names."""

import hashlib
import json
import os
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from crossbar_sim.errors import InputError
from crossbar_sim.nn.files.loading import load_model
from crossbar_sim.nn.networks import MLP
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.rng import Key

INDEX = "model.safetensors.index.json"


def mlp() -> nn.Module:
    with seeded(Key(1)):
        return MLP(4, (3,), 2)


def shards(folder: Path, state: dict[str, torch.Tensor]) -> Path:
    """An index and two shards."""
    names = list(state)
    parts = {"a.safetensors": names[:1], "b.safetensors": names[1:]}
    for file, part in parts.items():
        save_file({name: state[name] for name in part}, folder / file)
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (folder / INDEX).write_text(json.dumps(index))
    return folder / INDEX


def refusal(path, arch: str | None = "mlp", **arguments) -> str:
    with pytest.raises(InputError) as caught:
        load_model(path, arch, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 900
    return message


def same(loaded: nn.Module, model: nn.Module) -> bool:
    own = model.state_dict()
    return all(torch.equal(value, own[name]) for name, value in loaded.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model.", "ema.module."])
def test_one_file_with_the_prefixes_of_training_frameworks(prefix, tmp_path):
    model, path = mlp(), tmp_path / "any.safetensors"
    save_file({prefix + name: value for name, value in model.state_dict().items()}, path)
    loaded = load_model(path, "mlp")
    assert same(loaded.module, model)
    assert loaded.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert loaded.source == "safetensors"


def test_a_file_is_known_by_its_bytes_and_half_precision_is_converted(tmp_path):
    model = mlp().half()
    save_file(model.state_dict(), tmp_path / "model.pt")
    loaded = load_model(tmp_path / "model.pt", "mlp")
    assert same(loaded.module, model.float())
    assert loaded.notes == ("4 float16 tensors were converted to float32",)


def test_raw_and_averaged_weights_need_a_choice(tmp_path):
    one, other = mlp().state_dict(), MLP(4, (3,), 2).state_dict()
    both = {f"model.{n}": v for n, v in one.items()} | {f"ema.{n}": v for n, v in other.items()}
    save_file(both, tmp_path / "m.safetensors")
    arguments = {"inputs": 4, "hidden": [3], "classes": 2}
    assert "--weights" in refusal(tmp_path / "m.safetensors", arch_arguments=arguments)
    assert torch.equal(
        load_model(tmp_path / "m.safetensors", "mlp", arguments, weights="ema").module.state_dict()[
            "fc1.weight"
        ],
        other["fc1.weight"],
    )


def test_shards_by_their_index_or_their_folder(tmp_path):
    model = mlp()
    index = shards(tmp_path, model.state_dict())
    by_index, by_folder = load_model(index, "mlp"), load_model(tmp_path, "mlp")
    assert same(by_index.module, model)
    assert same(by_folder.module, model)
    assert by_index.sha256 == by_folder.sha256
    content = json.loads(index.read_text())
    content["weight_map"] = dict(reversed(content["weight_map"].items()))
    index.write_text(json.dumps(content))
    assert load_model(index, "mlp").sha256 != by_index.sha256  # another index is another model
    (tmp_path / "b.safetensors").touch()
    assert load_model(index, "mlp").sha256 == load_model(tmp_path, "mlp").sha256


def index_with(folder: Path, **weight_map: str) -> None:
    content = json.loads((folder / INDEX).read_text())
    content["weight_map"] |= {name.replace("_", "."): file for name, file in weight_map.items()}
    (folder / INDEX).write_text(json.dumps(content))


def duplicated(folder: Path) -> None:
    save_file({"fc1.weight": torch.ones(3, 4)}, folder / "c.safetensors")
    index_with(folder, fc9_weight="c.safetensors")


SPOILT_SHARDS = {
    "missing": (lambda f: (f / "b.safetensors").unlink(), "missing (b.safetensors)"),
    "outside": (lambda f: index_with(f, fc1_weight="../b.safetensors"), "in its own folder"),
    "absolute": (lambda f: index_with(f, fc1_weight="/etc/passwd"), "in its own folder"),
    "pickle": (lambda f: index_with(f, fc1_weight="b.bin"), "expected safetensors files"),
    "elsewhere": (lambda f: index_with(f, fc1_weight="b.safetensors"), "which does not hold it"),
    "twice": (duplicated, "fc1.weight is both in"),
    "no json": (lambda f: (f / INDEX).write_text("{"), "cannot be read"),
    "deep": (lambda f: (f / INDEX).write_text("[" * 10**5), "nested too deeply"),
    "no map": (lambda f: (f / INDEX).write_text("[]"), "weight_map"),
    "pipe": (lambda f: ((f / "b.safetensors").unlink(), os.mkfifo(f / "b.safetensors")), "is a pipe"),
    "loop": (
        lambda f: ((f / "b.safetensors").unlink(), (f / "b.safetensors").symlink_to("b.safetensors")),
        "b.safetensors",
    ),
    "empty": (lambda f: (f / "b.safetensors").write_bytes(b""), "is empty"),
    "lfs": (lambda f: (f / "b.safetensors").write_text("version https://git-lfs"), "git lfs pull"),
    "truncated": (
        lambda f: (f / "b.safetensors").write_bytes((f / "b.safetensors").read_bytes()[:-1]),
        "damaged",
    ),
}


@pytest.mark.parametrize("name", SPOILT_SHARDS)
def test_spoilt_shards_are_one_line(name, tmp_path):
    index = shards(tmp_path, mlp().state_dict())
    spoil, says = SPOILT_SHARDS[name]
    spoil(tmp_path)
    assert says in refusal(index)


def file(header: object, data: bytes = bytes(8), size: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + data


def tensor(**about: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | about


HOSTILE = {
    "three bytes": b"\x01\0\0",
    "header larger than the file": file({}, size=2**40),
    "header longer than allowed": file({}, size=2**63),
    "no json": struct.pack("<Q", 8) + b"{broken}" + bytes(8),
    "overlapping": file({"a": tensor(), "b": tensor(data_offsets=[4, 12])}, bytes(12)),
    "hole": file({"a": tensor(), "b": tensor(data_offsets=[16, 24])}, bytes(24)),
    "beyond the end": file({"a": tensor(data_offsets=[0, 8000], shape=[2000])}),
    "other size": file({"a": tensor(shape=[3])}),
    "product too large": file({"a": tensor(shape=[2**40, 2**40])}),
    "unknown dtype": file({"a": tensor(dtype="Q17")}),
    "no tensor": file({}, b""),
    "metadata alone": file({"__metadata__": {"format": "pt"}}, b""),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_one_line(name, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(HOSTILE[name])
    assert str(path) in refusal(path)


BAD_WEIGHTS = {
    "nan": (lambda s: s["fc1.weight"].fill_(float("nan")), "12 of 12 values that are NaN or infinite"),
    "integers": (lambda s: s.update({"fc1.weight": s["fc1.weight"].to(torch.int8)}), "integers"),
    "complex": (lambda s: s.update({"fc1.weight": s["fc1.weight"].to(torch.complex64)}), "complex"),
    "missing": (lambda s: s.pop("fc1.bias"), "1 missing (fc1.bias)"),
    "unexpected": (lambda s: s.update(extra=torch.ones(2)), "1 unexpected (extra)"),
    "shape": (lambda s: s.update({"fc1.bias": torch.ones(7)}), "fc1.bias (7,) instead of (3,)"),
}


@pytest.mark.parametrize("name", BAD_WEIGHTS)
def test_weights_that_do_not_fit_are_refused(name, tmp_path):
    state = mlp().state_dict()
    spoil, says = BAD_WEIGHTS[name]
    spoil(state)
    save_file(state, tmp_path / "m.safetensors")
    assert says in refusal(tmp_path / "m.safetensors")


def test_what_else_a_person_may_name(tmp_path):
    path = tmp_path / "model-00001-of-00002.safetensors"
    save_file(mlp().state_dict(), path)
    assert "give their index, model.safetensors.index.json" in refusal(path)
    path = path.rename(tmp_path / "model.safetensors")
    assert "--arch takes a built-in network" in refusal(path, None)
    assert "no such file" in refusal(tmp_path / "absent.safetensors")
    (tmp_path / "folder").mkdir()
    assert "is a directory" in refusal(tmp_path / "folder")
    (tmp_path / "folder.safetensors").mkdir()
    assert "is a directory" in refusal(tmp_path / "folder.safetensors")
