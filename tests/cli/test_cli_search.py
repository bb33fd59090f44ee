"""`crossbar-sim search` as a user meets it."""

import json
import re
import sqlite3

import pytest
import torch
from helpers.cli_runs import strict_json

from crossbar_sim.nn.files.loading import load_model

QUICK = (
    "search", "--network", "mlp", "--network-arguments", '{"hidden": [24, 16]}', "--data", "digits", "--sigma", 0.5,
    "--trials", 3, "--chips", 4, "--images", 100, "--fresh-chips", 6, "--training-chips", 4, "--epochs", 2,
    "--lr", 0.01, "--polish", 2,
)  # fmt: skip


def test_a_search_prints_its_trials_and_writes_its_winner(command, tmp_path):
    best, study, report = tmp_path / "best.pt", tmp_path / "study.db", tmp_path / "found.json"
    arguments = (*QUICK, "-o", best, "--study", study, "--json", report)
    done = command(*arguments)
    assert done.code == 0, done.err
    lines = [line for line in done.out.splitlines() if line.startswith("trial  ")]
    assert len(lines) >= 3
    assert "dropout1" in lines[0]
    assert "+-" in lines[0]
    assert "best so far" in lines[2]
    assert "on held-out chips" in done.out
    first = re.search(r"(\d+\.\d\d %) \+- (\d+\.\d\d)", lines[0])
    assert first is not None
    assert f"{first[1]} ± {first[2]}" in done.out  # the table has the interval of the line
    assert f"wrote {best}" in done.out
    found = strict_json(report.read_text())
    assert len(found["history"]) == 3
    assert 0 < found["fresh"]["ci95"][0] < found["fresh"]["mean"]
    loaded = load_model(best)
    assert loaded.module.arguments["dropout"] == tuple(found["rates"].values())
    assert loaded.module.arguments["inputs"] == 64
    swept = command("sweep", best, "--sigma", "0.5", "--chips", 2)
    assert swept.code == 0, swept.err
    assert sqlite3.connect(study).execute("SELECT count(*) FROM trials").fetchone() == (3,)
    weights = torch.load(best, weights_only=True)["state_dict"]
    again = command(*arguments)
    assert again.code == 0
    assert "trial   1 of" not in again.out  # nothing is tried again
    assert strict_json(report.read_text()) == found
    other = torch.load(best, weights_only=True)["state_dict"]
    assert all(torch.equal(weights[name], other[name]) for name in weights)


def test_json_to_standard_output_is_json_alone(command, tmp_path):
    done = command(*QUICK, "-o", tmp_path / "best.pt", "--json", "-", "--algorithm", "clean")
    assert done.code == 0, done.err
    assert done.report["algorithm"] == "clean"
    assert "trial" in done.err


def test_a_joint_search_from_scratch(command, tmp_path):
    best = tmp_path / "best.pt"
    done = command(
        *QUICK[:-2], "-o", best, "--algorithm", "restart", "--width", "0.5:1.5", "--training-sigma", "0.1:0.8",
        "--rates", "0.0:0.5", "--acquisition", "mean",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "width" in done.out
    assert load_model(best).module.arguments["hidden"][0] != 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (("--sigma", -0.1), "sigma"),
        (("--network", "none"), "'none' is unknown"),
        (("--network-arguments", "{"), "is not JSON"),
        (("--network-arguments", "[1]"), "expected an object"),
        (("--network-arguments", '{"classes": 7}'), "classes=7 and digits has 10 classes"),
        (("--network-arguments", '{"hidden": []}'), "no dropout site"),
        (("--network-arguments", '{"depth": 3}'), "takes no argument 'depth'"),
        (("--data", "nothing"), "nothing"),
        (("--trials", 0), "trials=0"),
        (("--chips", 1), "chips=1"),
        (("--rates", "0.5"), "low:high"),
        (("--rates", "0.5:1"), "rates="),
        (("--training-sigma", "a:b"), "a number, or low:high"),
        (("--algorithm", "clean", "--training-sigma", 1), "would do nothing"),
        (("--algorithm", "restart"), "--polish has no effect"),
        (("--width", "0.5:2"), "restart"),
        (("--scheduler", "tcp://127.0.0.1:1"), "needs --parallel"),
        (("--workers", 2, "--parallel", 1), "give batch"),
        (("--acquisition", "mean", "--parallel", 2), "batch=1"),
        (("--batch", 2), "every chip needs an example"),
        (("--clip-gradient", 0), "clip=0"),
        (("--acquisition", "best",), "best"),
        (("--drift", "retention:nu=0.1,time=10"), "sigma"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)  # fmt: skip
def test_bad_input_is_one_line_and_nothing_is_written(command, tmp_path, changes, sentence):
    study, best = tmp_path / "study.db", tmp_path / "best.pt"
    base = [*QUICK, "--study", study, "-o", best]
    if changes[0] == "--drift":
        place = base.index("--sigma")
        del base[place : place + 2]
    done = command(*base, *changes)
    assert done.code == 2, done.out
    lines = done.err.strip().splitlines()
    assert len(lines) == 1
    assert sentence in lines[0]
    assert not list(tmp_path.iterdir())


def test_a_study_of_another_task_is_refused_and_kept(command, tmp_path):
    study, best = tmp_path / "study.db", tmp_path / "best.pt"
    assert command(*QUICK, "--study", study, "-o", best).code == 0
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for changes in (
        ("--sigma", 0.7),
        ("--seed", 1),
        ("--network-arguments", '{"hidden": [23, 16]}'),
        ("--chips", 5),
    ):
        done = command(*QUICK, "--study", study, "-o", best, *changes)
        assert done.code == 2
        assert "is the study of another search" in done.err
        assert len(done.err.strip().splitlines()) == 1
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_outputs_that_cannot_be_written_are_refused_before_the_work(command, files, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("mine")
    for output, study, sentence in (
        (tmp_path, tmp_path / "s.db", "directory"),
        (tmp_path / "none" / "best.pt", tmp_path / "s.db", "make it first"),
        (tmp_path / "best.pt", tmp_path / "none" / "s.db", "make it first"),
        (tmp_path / "best.pt", text, "not a study"),
        (tmp_path / "s.db", tmp_path / "s.db", "is an input or another output"),
    ):
        done = command(*QUICK, "-o", output, "--study", study)
        assert done.code == 2
        assert sentence in done.err
        assert "trial" not in done.out
    assert text.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_notes_of_the_checkpoint_tell_the_search(command, tmp_path):
    best = tmp_path / "best.pt"
    assert command(*QUICK, "-o", best).code == 0
    notes = torch.load(best, weights_only=True)["notes"]
    assert json.loads(json.dumps(notes))["method"] == "bayesft"
    assert notes["fresh"]["chips"] == 6


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("--sigma", 0.5, "--set", "sigma=0.7"), "set the same value"),
        (("--preset", "reram_wan2022"), "give --sigma"),
    ],
    ids=["both", "neither"],
)
def test_a_drift_aware_training_has_one_sigma(command, tmp_path, given, sentence):
    done = command(
        "train",
        "--network",
        "mlp",
        "--data",
        "digits",
        "--method",
        "drift-aware",
        *given,
        "-o",
        tmp_path / "n.pt",
    )
    assert done.code == 2, done.out
    assert sentence in done.err
    assert not list(tmp_path.iterdir())


def test_channels_last_acts(command, tmp_path):
    learnt = []
    for extra in ((), ("--channels-last",)):
        path = tmp_path / "net.pt"
        words = ("--network", "lenet5", "--data", "digits", "--method", "erm", "--epochs", 1)
        done = command("train", *words, *extra, "-o", path)
        assert done.code == 0, done.err
        learnt.append(load_model(path).module.state_dict())
    plain, last = learnt
    assert any(not torch.equal(plain[name], last[name]) for name in plain)
    for name in plain:
        torch.testing.assert_close(plain[name], last[name], rtol=1e-2, atol=1e-4)


def test_training_takes_a_range_of_sigma_and_given_weights(command, tmp_path):
    """On factors and on arrays; a method of one sigma refuses a range."""
    made = ("--network", "mlp", "--network-arguments", '{"hidden": [4]}', "--data", "digits", "--epochs", 1)
    first, then = tmp_path / "first.pt", tmp_path / "then.pt"
    assert command("train", *made, "-o", first).code == 0
    aware = ("--method", "drift-aware", "--sigma", "0.2:0.6", "--set", "chips=2", "--from", first, "-o", then)
    for design in ((), ("--levels", 16)):
        done = command("train", *made, *aware, *design)
        assert done.code == 0, done.err
        assert "begins with the weights of" in done.out
        assert "sigma: [0.2, 0.6]" in done.out
    notes = torch.load(then, weights_only=True)["notes"]
    assert len(notes["from"]) == 64
    for method in ("correctnet", "reram-v", "erm"):
        done = command("train", *made, "--method", method, "--sigma", "0.2:0.6", "-o", then)
        assert done.code == 2
        assert "only drift-aware training draws its sigma from a range" in done.err
    done = command("train", *made, "--from", then, "-o", then)
    assert done.code == 2
    assert "it is an input" in done.err
