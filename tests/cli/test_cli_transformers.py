"""Models of transformers, safetensors, a design per layer and metrics of the user, on the command line."""

import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli_runs import Command
from torch import nn

from crossbar_sim.nn.seeding import seeded
from crossbar_sim.rng import Key

transformers = pytest.importorskip("transformers")

QUICK = ("--chips", "2", "--sensitivity-chips", "0")


class Segments(nn.Module):
    """A class for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 1, 1)
        self.blocks = nn.Sequential(nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 1, 1), nn.ReLU())
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x).relu()))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models with random weights, their data and code, under the names that a user gives them."""
    folder = tmp_path_factory.mktemp("models")
    with seeded(Key(0)):
        bert = transformers.BertConfig(
            vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
            num_labels=3,
        )  # fmt: skip
        transformers.BertForSequenceClassification(bert).save_pretrained(folder / "my-bert")
        gpt = transformers.GPT2Config(
            vocab_size=20, n_positions=8, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0
        )
        transformers.GPT2LMHeadModel(gpt).save_pretrained(folder / "tiny-gpt")
        net = Segments().eval()
    (folder / "model.safetensors").write_bytes((folder / "tiny-gpt" / "model.safetensors").read_bytes())
    example = (torch.zeros(2, 3, 4, 4),)
    torch.export.save(
        torch.export.export(net, example, dynamic_shapes=({0: torch.export.Dim("n")},)), folder / "net.pt2"
    )
    torch.save(net, folder / "net.pt")
    draw = np.random.default_rng(0)
    ids, labels = draw.integers(0, 20, (24, 6)), draw.integers(0, 3, 24)
    np.savez(folder / "my_task.npz", input_ids=ids, attention_mask=np.ones_like(ids), labels=labels)
    np.savez(folder / "tokens.npz", input_ids=ids)
    images = draw.normal(size=(20, 3, 4, 4)).astype("float32")
    np.savez(folder / "pairs.npz", x=images, y=draw.integers(0, 3, (20, 4, 4)))
    (folder / "my_pkg.py").write_text(
        "import transformers\n"
        "def make():\n"
        "    return transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=20, n_positions=8, n_embd=16,\n"
        "        n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0, use_cache=False))\n"
    )
    (folder / "my_metrics.py").write_text(
        "import torch\n"
        "def miou(outputs, targets):\n"
        "    found = outputs.argmax(1)\n"
        "    pairs = [(found == k, targets == k) for k in range(outputs.shape[1])]\n"
        "    return torch.stack([(a & b).sum() / (a | b).sum() for a, b in pairs]).mean()\n"
    )
    return folder


@pytest.fixture
def folder(made: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(made)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield made
    for name in ("my_pkg", "my_metrics"):
        sys.modules.pop(name, None)


def accuracy() -> str:
    """Of the clean classifier, as transformers computes it."""
    data = np.load("my_task.npz")
    model = transformers.BertForSequenceClassification.from_pretrained("my-bert").eval()
    with torch.no_grad():
        logits = model(
            **{name: torch.from_numpy(data[name]) for name in ("input_ids", "attention_mask")}
        ).logits
    return f"from {100 * float((logits.argmax(1).numpy() == data['labels']).mean()):.1f} % clean"


def perplexity() -> str:
    """Of the clean language model, as transformers computes it."""
    model = transformers.GPT2LMHeadModel.from_pretrained("tiny-gpt").eval()
    ids = torch.from_numpy(np.load("tokens.npz")["input_ids"])
    with torch.no_grad():
        return f"from {float(model(ids, labels=ids).loss.exp()):.2f} clean"


def overlap() -> str:
    """The mean IoU of the clean network."""
    pairs, net = np.load("pairs.npz"), torch.load("net.pt", weights_only=False)
    with torch.no_grad():
        found = net(torch.from_numpy(pairs["x"])).argmax(1).numpy()
    classes = [(found == k, pairs["y"] == k) for k in range(3)]
    return f"from {np.mean([(a & b).sum() / (a | b).sum() for a, b in classes]):.4f} clean"


@pytest.mark.parametrize(
    ("line", "answers"),
    [
        ("deploy ./my-bert/ --data my_task.npz --sigma 0.2", (accuracy, "of its multiply-adds run on arrays")),
        (
            "deploy model.safetensors --arch my_pkg:make --data tokens.npz --metric perplexity",
            (perplexity, "shifted by one as transformers does"),
        ),
        (
            "deploy net.pt2 --layer 'stem:digital' --layer 'blocks.*:adc_bits=6,levels=16' --layer 'head:copies=4'",
            (
                "agreement with the clean model, not accuracy", "stem: digital by its design",
                "blocks.*: adc_bits=6, levels=16", "head: copies=4", "calibrated on 512 random inputs",
            ),
        ),
        ("deploy net.pt2 --metric my_metrics:miou --data pairs.npz", (overlap, "my_metrics:miou")),
        (
            "sweep tiny-gpt/ --sigma 0:0.4:9 --chips 10 --results gpt.db ; report gpt.db",
            ("0 100.0 % ± 0.0", "100 sequences of 6 random tokens, out of the 20", "wrote report.html"),
        ),
    ],
)  # fmt: skip
def test_what_a_user_types(command: Command, folder: Path, line: str, answers):
    """Word for word: no further option."""
    out = ""
    for each in line.split(" ; "):
        done = command(*shlex.split(each))
        assert done.code == 0, done.err
        out += done.out
    for answer in answers:
        assert (answer if isinstance(answer, str) else answer()) in " ".join(out.split())


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


def test_text_is_needed_for_a_perplexity(command: Command, folder: Path):
    refused = command("deploy", "tiny-gpt", "--metric", "perplexity", *QUICK)
    assert refused.code == 2
    assert refused.err.startswith("error: --metric perplexity needs labels or text")


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
