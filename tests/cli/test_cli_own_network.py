"""`--network package.module:factory`: a network of the user's own in train, deploy, search and run."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.cli_runs import QUICK, Command

CODE = """
from torch import nn

class Net(nn.Module):
    def __init__(self, inputs, classes=10, hidden=8):
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(0.1), nn.Linear(hidden, classes)
        )

    def forward(self, x):
        return self.body(x)

def make(classes, **more):
    return Net(classes=classes, **more)

class Pair(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        self.left, self.right = nn.Linear(4, classes), nn.Linear(5, classes)

    def forward(self, left, right):
        return self.left(left) + self.right(right)

class Next(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.embed, self.out = nn.Embedding(classes, 8), nn.Linear(8, classes)

    def forward(self, input_ids):
        before = nn.functional.pad(self.embed(input_ids), (0, 0, 1, 0))[:, :-1]
        return self.out(self.embed(input_ids) + before)

def asymmetric(outputs, targets):
    error = outputs - targets
    return (error.clamp_min(0) + 3 * (-error).clamp_min(0)).mean()

def text(classes):
    return "no network"

def broken(classes):
    raise RuntimeError("out of ideas")
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "own_networks.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    sys.modules.pop("own_networks", None)


def train(command: Command, network: str, *more: str):
    return command("train", "--network", network, "--data", "digits", "--epochs", "2", "--lr", "0.02", *more)


def test_trained_saved_and_deployed(command: Command, folder: Path):
    done = train(command, "own_networks:Net", "-o", "own.pt", "--network-arguments", '{"hidden": 12}')
    assert done.code == 0, done.err
    assert "deploy own.pt --arch own_networks:Net" in done.out
    kept = torch.load("own.pt", weights_only=True)
    assert (kept["network"], kept["arguments"]) == (
        "own_networks:Net",
        {"inputs": 64, "classes": 10, "hidden": 12},
    )
    report = command("deploy", "own.pt", "--arch", "own_networks:Net", *QUICK).report
    assert report["data"]["name"] == "digits"
    assert report["clean"]["accuracy"] > 0.3


def test_a_file_alone_runs_no_code(command: Command, folder: Path):
    assert train(command, "own_networks:Net", "-o", "own.pt").code == 0
    sys.modules.pop("own_networks")
    (folder / "own_networks.py").write_text("open('ran', 'w').close()\n" + CODE)
    for arch in ((), ("--arch", "mlp"), ("--arch", "own_networks:make")):
        refused = command("deploy", "own.pt", *arch, *QUICK)
        assert refused.code == 2
        assert "give --arch own_networks:Net" in refused.err
    assert not (folder / "ran").exists()


def test_a_search_and_its_workers_build_it(command: Command, folder: Path):
    done = command(
        "search", "--network", "own_networks:make", "--network-arguments", '{"inputs": 64}', "--data", "digits",
        "--sigma", "0.5", "--trials", "2", "--chips", "2", "--images", "40", "--polish", "1", "-o", "best.pt",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert command("deploy", "best.pt", "--arch", "own_networks:make", *QUICK).code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("own_networks:text",), "--network own_networks:text returned a str"),
        (("own_networks:broken",), "out of ideas"),
        (("own_networks:nothing",), "has no attribute 'nothing'"),
        (("no_such_module:Net",), "no_such_module cannot be imported"),
        (("os:system",), "os is a module of Python itself"),
        (("mlq",), "did you mean 'mlp'"),
        (("own_networks:make", "--method", "ftna"), "ftna gives own_networks:make another last layer"),
        (("own_networks:make", "--network-arguments", '{"inputs": 3}'), "does not take examples of shape"),
    ],
)
def test_what_makes_no_network_is_refused_before_the_training(
    command: Command, folder: Path, arguments: tuple[str, ...], words: str
):
    refused = train(command, *arguments, "-o", "bad.pt")
    assert refused.code == 2
    assert words in refused.err
    assert not (folder / "bad.pt").exists()


def test_an_experiment_trains_it_with_trust(command: Command, folder: Path):
    (folder / "own.toml").write_text(
        'title = "Own"\ndata = "digits"\nsigmas = [0.0, 0.5]\nchips = 2\n[hardware]\npreset = "bayesft"\n'
        '[train.own]\nnetwork = "own_networks:Net"\narguments = { hidden = 8 }\nepochs = 1\n'
    )
    refused = command("run", "own.toml", "-o", "out")
    assert refused.code == 2
    assert "train.own.network='own_networks:Net' names code" in refused.err
    done = command("run", "own.toml", "-o", "out", "--trust-code")
    assert done.code == 0, done.err


def test_a_network_of_several_inputs(command: Command, folder: Path):
    y = np.arange(60) % 3
    arrays = {"left": np.eye(4, dtype="f4")[y], "right": np.cos(np.arange(300.0)).reshape(60, 5), "labels": y}
    np.savez("pairs.npz", **arrays, **{f"{name}_train": array for name, array in arrays.items()})
    more = ("--data", "pairs.npz", "--epochs", "30", "--lr", "0.1", "--batch", "16")
    done = command("train", "--network", "own_networks:Pair", "-o", "pair.pt", *more)
    assert done.code == 0, done.err
    way = ("--arch", "own_networks:Pair", "--data", "pairs.npz", "--chips", "1", "--json", "-")
    report = command("deploy", "pair.pt", *way).report
    assert report["clean"]["accuracy"] == 1.0
    refused = command("train", "--network", "mlp", "-o", "mlp.pt", *more)
    assert (refused.code, "one input, and these have left, right" in refused.err) == (2, True)


def test_real_targets_end_to_end(command: Command, folder: Path):
    x = np.random.Generator(np.random.Philox(0)).normal(size=(100, 4)).astype("f4")
    y = x @ [1, -2, 0.5, 0] + 0.25
    np.savez("reg.npz", x=x[:30], y=y[:30], x_train=x[30:], y_train=y[30:])
    more = ("--data", "reg.npz", "--epochs", "30", "--lr", "0.05", "--batch", "16")
    found = {}
    for network, loss in (("mlp", "mse"), ("own_networks:Net", "own_networks:asymmetric")):
        done = command("train", "--network", network, "--loss", loss, *more, "-o", "reg.pt")
        assert done.code == 0, done.err
        assert "RMSE" in done.out
        arch = ("--arch", network) if ":" in network else ()
        way = (*arch, "--data", "reg.npz", "--chips", "2", "--sigma", "0.1", "--json", "-")
        deployed = command("deploy", "reg.pt", *way, "--metric", "rmse")
        assert deployed.code == 0, deployed.err
        found[loss] = deployed.report["clean"]["rmse"]
    assert all(0 < rmse < 0.5 * y.std() for rmse in found.values()), found
    np.savez("alone.npz", x=x, y=y)
    refused = command("train", "--network", "mlp", "--data", "alone.npz", "-o", "no.pt")
    assert (refused.code, "add the arrays x_train, y_train to the file" in refused.err) == (2, True)


def test_a_language_model_end_to_end(command: Command, folder: Path):
    ids = np.cumsum(np.arange(60)[:, None] * np.arange(1, 9) % 3 + 1, axis=1) % 5
    arrays = {"input_ids": ids, "labels": ids}
    np.savez("tokens.npz", **arrays, **{f"{name}_train": array for name, array in arrays.items()})
    more = ("--data", "tokens.npz", "--epochs", "30", "--lr", "0.05", "--batch", "16")
    done = command("train", "--network", "own_networks:Next", *more, "-o", "lm.pt")
    assert done.code == 0, done.err
    assert "of the validation labels right" in done.out
    way = ("--arch", "own_networks:Next", "--data", "tokens.npz", "--sigma", "0.1", "--json", "-")
    clean = command("deploy", "lm.pt", *way, "--chips", "2", "--metric", "perplexity").report["clean"]
    assert 1 < clean["perplexity"] < 4  # five tokens
    swept = command("sweep", "lm.pt", *way, "--metric", "perplexity", "--half-width", "0.1")
    assert swept.code == 0, swept.err
    (point,) = swept.report["models"][0]["points"]
    assert point["ci95"][1] - point["ci95"][0] <= 0.2
    assert point["images"] == 60


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('loss = "own_networks:asymmetric"', "train.own.loss='own_networks:asymmetric' names code"),
        ('loss = "msee"', "did you mean 'mse'"),
        ('loss = "mse"', "use cross-entropy"),
    ],
)
def test_an_experiment_imports_no_loss_without_trust(command: Command, folder: Path, line: str, words: str):
    (folder / "own.toml").write_text(f'data = "digits"\n[train.own]\nnetwork = "mlp"\nepochs = 1\n{line}\n')
    refused = command("run", "own.toml", "-o", "out")
    assert (refused.code, words in refused.err) == (2, True), refused.err
    assert "own_networks" not in sys.modules
