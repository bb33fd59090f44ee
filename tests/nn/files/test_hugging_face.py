"""Hugging Face folders: models of transformers with random weights, made here from small configurations."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from crossbar_sim.errors import InputError
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.evaluate import few_outputs
from crossbar_sim.nn.files.loading import load_model
from crossbar_sim.nn.pickling import packed, unpacked
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.rng import Key

transformers = pytest.importorskip("transformers")

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
MODELS: dict[str, Any] = {
    "gpt2": lambda t: t.GPT2LMHeadModel(
        t.GPT2Config(
            vocab_size=20, n_positions=8, n_embd=16, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
        )
    ),
    "bert": lambda t: t.BertForSequenceClassification(
        t.BertConfig(vocab_size=20, max_position_embeddings=8, num_labels=3, **SIZES)
    ),
    "vit": lambda t: t.ViTForImageClassification(
        t.ViTConfig(image_size=8, patch_size=4, num_labels=3, **SIZES)
    ),
}
MADE: dict[str, nn.Module] = {}


def made(name: str) -> Any:
    if name not in MADE:
        with seeded(Key(1)):
            MADE[name] = MODELS[name](transformers).eval()
    return MADE[name]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    top = tmp_path_factory.mktemp("models")
    for name in MODELS:
        made(name).save_pretrained(top / name)
    return top


@pytest.fixture
def bert(folders, tmp_path) -> Path:
    """A copy of a folder, to be spoilt."""
    return Path(shutil.copytree(folders / "bert", tmp_path / "bert"))


def inputs(name: str) -> torch.Tensor:
    shape = (4, 3, 8, 8) if name == "vit" else (4, 6)
    values = np.arange(np.prod(shape)).reshape(shape)
    return torch.from_numpy(values % 7 / 7).float() if name == "vit" else torch.from_numpy(values % 19)


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_is_the_model_that_was_saved_and_ideal_hardware_changes_nothing(name, folders):
    loaded = load_model(folders / name)
    x = inputs(name)
    with torch.inference_mode():
        expected = made(name)(x).logits
    assert torch.allclose(few_outputs(loaded.module, x), expected, atol=1e-6)
    ideal = to_analog(loaded.module, "ideal")
    assert torch.allclose(few_outputs(ideal, x), expected, atol=1e-5)
    drifted = to_analog(loaded.module, "reram_wan2022")
    assert (few_outputs(drifted, x) - expected).abs().max() > 0.05 * expected.abs().max()
    assert loaded.input_shape == ((3, 8, 8) if name == "vit" else None)
    assert loaded.name == name
    assert loaded.notes == ()
    assert type(made(name)).__name__ in loaded.source


def test_the_identity_covers_weights_and_configuration_and_no_other_file(bert):
    first = load_model(bert).sha256
    (bert / "README.md").write_text("of no matter")
    assert load_model(bert).sha256 == first
    edit(bert, hidden_act="relu")
    second = load_model(bert).sha256
    state = load_file(bert / "model.safetensors")
    state["classifier.bias"] += 1
    save_file(state, bert / "model.safetensors", {"format": "pt"})
    assert len({first, second, load_model(bert).sha256}) == 3


def test_shards_are_read_and_half_precision_stays(bert):
    model = made("bert")
    half = Path(bert.parent / "half")
    type(model).from_pretrained(bert, dtype=torch.bfloat16).save_pretrained(half, max_shard_size="4KB")
    assert len(list(half.glob("model-*.safetensors"))) > 1
    loaded = load_model(half)
    assert {p.dtype for p in loaded.module.parameters()} == {torch.bfloat16}
    assert "bfloat16 and stay so" in loaded.notes[0]
    x = inputs("bert")
    clean = few_outputs(loaded.module, x)
    assert torch.equal(few_outputs(to_analog(loaded.module, "ideal"), x), clean)
    next(half.glob("model-00002*")).unlink()
    assert "are missing (model-00002" in refusal(half)


def test_weights_of_another_head_are_left_out_with_a_note(bert):
    state = load_file(bert / "model.safetensors") | {"cls.seq_relationship.bias": torch.ones(2)}
    save_file(state, bert / "model.safetensors", {"format": "pt"})
    (note,) = load_model(bert).notes
    assert "cls.seq_relationship.bias" in note


def test_names_and_constants_of_other_writers(bert):
    state = {f"module.{name}": value for name, value in load_file(bert / "model.safetensors").items()}
    state["module.bert.encoder.layer.0.attn.masked_bias"] = torch.tensor([-1e4])
    save_file(state, bert / "model.safetensors", {"format": "pt"})
    loaded = load_model(bert)
    assert loaded.notes == ()
    assert torch.equal(loaded.module.classifier.weight, made("bert").classifier.weight)


def test_layers_may_share_weights_and_limits_may_be_infinite(tmp_path):
    config = transformers.AlbertConfig(vocab_size=20, embedding_size=4, max_position_embeddings=8, **SIZES)
    config.num_hidden_layers = 40  # of 28 tensors
    config.of_the_user = float("inf")
    with seeded(Key(1)):
        saved = transformers.AlbertForMaskedLM(config).eval()
    saved.save_pretrained(tmp_path)
    x = inputs("bert")
    for text in ('{"__float__": "Infinity"}', "Infinity"):
        (tmp_path / "config.json").write_text(
            json.dumps(json.loads((tmp_path / "config.json").read_text())).replace(
                '{"__float__": "Infinity"}', text
            )
        )
        loaded = load_model(tmp_path).module
        assert loaded.config.of_the_user == float("inf")
        with torch.inference_mode():
            assert torch.allclose(few_outputs(loaded, x), saved(x).logits, atol=1e-5)


def test_with_arch_the_folder_is_a_file_of_weights(bert, monkeypatch):
    monkeypatch.syspath_prepend(bert)
    (bert / "my_bert.py").write_text(
        "from transformers import BertConfig, BertForSequenceClassification\n"
        f"def make():\n    return BertForSequenceClassification(BertConfig.from_pretrained({str(bert)!r}))\n"
    )
    loaded = load_model(bert, "my_bert:make")
    assert loaded.source == "safetensors"
    assert torch.equal(loaded.module.classifier.weight, made("bert").classifier.weight)


def refusal(path, **arguments) -> str:
    with pytest.raises(InputError) as caught:
        load_model(path, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 700
    return message


def edit(folder: Path, **entries: object) -> None:
    """Change entries of config.json; None: remove."""
    content = json.loads((folder / "config.json").read_text()) | entries
    content = {name: value for name, value in content.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(content))


def weights(folder: Path, *without: str, **more: torch.Tensor) -> None:
    state = load_file(folder / "model.safetensors")
    state |= {name.replace("__", "."): value for name, value in more.items()}
    kept = {name: value for name, value in state.items() if name not in without}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


BAD = {
    "remote code": (lambda f: edit(f, auto_map={"AutoModel": "m.M"}), "--arch package.module:factory"),
    "no class": (lambda f: edit(f, architectures=None), 'add "architectures"'),
    "empty class": (lambda f: edit(f, architectures=[]), 'add "architectures"'),
    "two classes": (
        lambda f: edit(f, architectures=["BertModel", "BertForMaskedLM"]),
        "names 2 architectures",
    ),
    "unknown class": (lambda f: edit(f, architectures=["BertForAll"]), "no model class 'BertForAll'"),
    "no model": (lambda f: edit(f, architectures=["pipeline"]), "no model class 'pipeline'"),
    "other class": (lambda f: edit(f, architectures=["GPT2LMHeadModel"]), "model_type 'bert'"),
    "timm": (lambda f: edit(f, architectures=None, architecture="resnet18"), "--arch timm:create_model"),
    "no object": (lambda f: (f / "config.json").write_text("[1]"), "expected an object of JSON"),
    "no json": (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
    "nan": (lambda f: (f / "config.json").write_text('{"a": NaN}'), "config.json cannot be read"),
    "odd value": (lambda f: edit(f, hidden_size="many"), "bert"),
    "heads do not divide": (lambda f: edit(f, num_attention_heads=3), "number of attention heads (3)"),
    "too many layers": (lambda f: edit(f, num_hidden_layers=10**9), "1000000000 layers"),
    "too wide": (lambda f: edit(f, intermediate_size=10**12), "GiB"),
    "one layer more": (lambda f: edit(f, num_hidden_layers=2), "missing"),
    "no layer": (lambda f: edit(f, num_hidden_layers=0), "that it does not have"),
    "another width": (lambda f: edit(f, intermediate_size=16), "another shape"),
    "quantised": (lambda f: edit(f, quantization_config={"bits": 4}), "quantised"),
    "no head": (lambda f: weights(f, "classifier.weight"), "1 missing (classifier.weight)"),
    "scale beside": (
        lambda f: weights(f, bert__pooler__dense__scale=torch.ones(1)),
        "1 that it does not have (bert.pooler.dense.scale)",
    ),
    "infinite": (lambda f: weights(f, classifier__bias=torch.full((3,), float("inf"))), "NaN or infinite"),
    "pickle": (pickled, "from_pretrained("),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights"),
    "adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), "merge_and_unload"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_loaded_says_why_in_one_line(name, bert):
    spoil, says = BAD[name]
    spoil(bert)
    assert says in refusal(bert)


def test_folders_that_are_something_else(tmp_path, bert):
    assert "leave out --weights" in refusal(bert, weights="ema")
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "checkpoints" / "last.ckpt").touch()
    assert "such as checkpoints/last.ckpt" in refusal(tmp_path / "run")
    (tmp_path / "pipe").mkdir()
    (tmp_path / "pipe" / "model_index.json").write_text("{}")
    assert "diffusers" in refusal(tmp_path / "pipe")
    shutil.copytree(bert, tmp_path / "models--me--bert" / "snapshots" / "0f")
    assert "snapshots/0f" in refusal(tmp_path / "models--me--bert")
    (tmp_path / "dcp").mkdir()
    (tmp_path / "dcp" / ".metadata").touch()
    (tmp_path / "dcp" / "__0_0.distcp").touch()
    assert "dcp_to_torch_save" in refusal(tmp_path / "dcp")


def test_without_transformers_one_line_says_what_to_install(bert, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    assert "crossbar-sim[hf]" in refusal(bert)


def test_a_folders_model_can_be_sent_to_workers(folders):
    loaded, x = load_model(folders / "bert"), inputs("bert")
    there = unpacked(packed(loaded.module))
    assert torch.equal(few_outputs(there, x), few_outputs(loaded.module, x))


def test_commands_take_a_folder(command, folders, tmp_path):
    model, data, results = folders / "gpt2", tmp_path / "tokens.npz", tmp_path / "gpt.db"
    np.savez(data, x=inputs("gpt2").numpy())
    assert "GPT2LMHeadModel" in command("info", model).out
    some = ("--data", data, "--chips", 1)
    deployed = command("deploy", f"{model}/", *some, "--sigma", 0.2, "--sensitivity-chips", 0)
    assert "the same class as the clean model" in deployed.out, deployed.err
    assert command("sweep", f"{model}/", *some, "--sigma", "0:0.2:2", "--results", results).code == 0
    assert "gpt2" in command("report", results, "-o", tmp_path / "r.html").out
    assert command("export", model, tmp_path / "chip.h5", "--sigma", 0.2).code == 0
    wrong = command("deploy", folders / "absent", *some)
    assert wrong.code == 2
