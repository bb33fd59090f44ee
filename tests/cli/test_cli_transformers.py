"""Models of transformers, safetensors, a design per layer and metrics of the user, on the command line."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli_runs import Command

transformers = pytest.importorskip("transformers")

QUICK = ("--chips", "2", "--sensitivity-chips", "0")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models with random weights, and their data."""
    folder = tmp_path_factory.mktemp("models")
    with torch.random.fork_rng(devices=[]):
        bert = transformers.BertConfig(
            vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            num_labels=3,
        )  # fmt: skip
        transformers.BertForSequenceClassification(bert).save_pretrained(folder / "my-bert")
        gpt = transformers.GPT2Config(
            vocab_size=20, n_positions=8, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
        )
        transformers.GPT2LMHeadModel(gpt).save_pretrained(folder / "tiny-gpt")
    draw = np.random.default_rng(0)
    ids, labels = draw.integers(0, 20, (24, 6)), draw.integers(0, 3, 24)
    np.savez(folder / "my_task.npz", input_ids=ids, attention_mask=np.ones_like(ids), labels=labels)
    np.savez(folder / "tokens.npz", input_ids=ids)
    (folder / "own_gpt.py").write_text(
        "import transformers\n"
        "def make():\n"
        "    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=20, n_positions=8, n_embd=16,\n"
        "        n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0, use_cache=False))\n"
        "def share_of_class_0(outputs, targets):\n"
        "    return (outputs.argmax(1) == 0).float()\n"
    )
    return folder


@pytest.fixture
def folder(made: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(made)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield made
    sys.modules.pop("own_gpt", None)


def reference(name: str) -> float:
    """The perplexity that transformers itself computes."""
    model = transformers.GPT2LMHeadModel.from_pretrained(name).eval()
    ids = torch.from_numpy(np.load("tokens.npz")["input_ids"])
    with torch.no_grad():
        return float(model(ids, labels=ids).loss.exp())


def test_a_folder_with_named_arrays(command: Command, folder: Path):
    report = command(
        "deploy", "./my-bert/", "--data", "my_task.npz", "--sigma", "0.2", *QUICK, "--json", "-"
    ).report
    data = np.load("my_task.npz")
    model = transformers.BertForSequenceClassification.from_pretrained("my-bert").eval()
    with torch.no_grad():
        logits = model(
            **{name: torch.from_numpy(data[name]) for name in ("input_ids", "attention_mask")}
        ).logits
    assert report["clean"]["accuracy"] == pytest.approx(
        float((logits.argmax(1).numpy() == data["labels"]).mean())
    )
    assert report["multiply_adds"]["share_on_arrays"] < 1


def test_safetensors_of_ones_own_network_by_perplexity(command: Command, folder: Path):
    result = command(
        "deploy", "tiny-gpt/model.safetensors", "--arch", "own_gpt:make", "--data", "tokens.npz", "--metric",
        "perplexity", "--sigma", "0.2", *QUICK, "--json", "-",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert result.report["clean"]["perplexity"] == pytest.approx(reference("tiny-gpt"), rel=1e-4)


def test_a_design_per_layer(command: Command, folder: Path):
    result = command(
        "deploy", "my-bert", "--data", "my_task.npz", "--sigma", "0.2", "--layer", "*.query:digital", "--layer",
        "*.intermediate.dense:levels=16", "--layer", "classifier:copies=4", *QUICK, "--json", "-",
    )  # fmt: skip
    assert result.code == 0, result.err
    analog = {layer["name"]: layer["analog"] for layer in result.report["layers"]}
    assert not analog["bert.encoder.layer.0.attention.self.query"]
    assert analog["bert.encoder.layer.0.attention.self.key"]
    refused = command("deploy", "my-bert", "--data", "my_task.npz", "--layer", "*.kwery:digital", *QUICK)
    assert refused.code == 2
    assert "kwery" in refused.err


def test_a_metric_of_ones_own(command: Command, folder: Path):
    metric = "own_gpt:share_of_class_0"
    result = command(
        "deploy",
        "my-bert",
        "--data",
        "my_task.npz",
        "--metric",
        metric,
        "--sigma",
        "0.2",
        *QUICK,
        "--json",
        "-",
    )
    assert result.code == 0, result.err
    assert 0 <= result.report["drifted"][metric]["mean"] <= 1


def test_a_sweep_of_a_language_model_and_its_report(command: Command, folder: Path):
    swept = command(
        "sweep", "tiny-gpt/", "--data", "tokens.npz", "--metric", "perplexity", "--sigma", "0:0.4:3", "--chips", "2",
        "--results", "gpt.db",
    )  # fmt: skip
    assert swept.code == 0, swept.err
    assert f"{reference('tiny-gpt'):.2f}" in swept.out
    assert command("report", "gpt.db", "-o", "gpt.html").code == 0
    assert "perplexity" in Path("gpt.html").read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"input_ids": np.full((4, 6), 25)}, "25"),
        ({"inptu_ids": np.zeros((4, 6), int)}, "input_ids"),
        ({"input_ids": np.zeros((4, 6), int), "labels": np.zeros(3, int)}, "3"),
    ],
)
def test_data_that_do_not_fit_are_refused_in_one_line(command: Command, folder: Path, change, words: str):
    np.savez("bad.npz", **change)
    refused = command("deploy", "my-bert", "--data", "bad.npz", "--sigma", "0.2", *QUICK)
    assert refused.code == 2
    assert words in refused.err
    assert refused.err.count("\n") == 1
