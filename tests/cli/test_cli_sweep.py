"""`sweep`, `sensitivity` and `run` as a user meets them."""

import json
import sqlite3
import textwrap

import numpy as np
import pytest
import torch
from helpers.cli_runs import strict_json
from torch import nn

from crossbar_sim import Hardware
from crossbar_sim.robustness import deploy
from crossbar_sim.robustness.benchmark import check_sigmas


def test_a_sweep_prints_keeps_and_draws(command, files, digits, tmp_path):
    results, plot, report = tmp_path / "runs.db", tmp_path / "curves.png", tmp_path / "sweep.json"
    arguments = (
        "sweep", files.checkpoint, f"exported={files.dynamic}", "--data", "digits", "--sigma", "0:1:3", "--chips", 4,
        "--results", results, "--plot", plot, "--json", report, "--threshold", 0.8,
    )  # fmt: skip
    done = command(*arguments)
    assert done.code == 0, done.err
    assert "model: accuracy" in done.out
    assert "falls below 80.0 % at sigma" in done.out
    assert f"over 4 chips, each on {len(digits.test.x)} images" in done.out
    assert f"crossbar-sim report {results}" in done.out
    found = strict_json(report.read_text())
    assert [m["label"] for m in found["models"]] == ["model", "exported"]
    assert [p["sigma"] for p in found["models"][0]["points"]] == [0.0, 0.5, 1.0]
    assert found["models"][0]["points"][1]["yield"]["threshold"] == 0.8
    assert plot.stat().st_size > 10_000
    with sqlite3.connect(results) as connection:
        assert connection.execute("SELECT count(*) FROM trials").fetchone() == (24,)
    bytes_before = report.read_bytes()
    again = command(*arguments)
    assert again.code == 0
    assert report.read_bytes() == bytes_before
    assert again.out == done.out


def test_a_sweeps_numbers_are_deploys(command, files, digits, network):
    report = command("sweep", files.checkpoint, "--sigma", "0.6", "--chips", "3:6", "--json", "-").report
    hardware = Hardware.preset("bayesft", sigma=0.6)
    alone = deploy(
        network, digits.test.x, digits.test.y, hardware, chips=range(3, 6), sensitivity_chips=0
    ).main
    (point,) = report["models"][0]["points"]
    assert point["mean"] == alone.mean
    assert point["chips"] == 3


def test_an_interval_budget_from_the_command_line(command, files):
    done = command("sweep", files.checkpoint, "--sigma", "0.3", "--half-width", 0.02)
    assert done.code == 0, done.err
    assert "image evaluations on" in done.out
    assert "drawn for each chip" in done.out


def test_layers_one_by_one(command, files, tmp_path):
    out = tmp_path / "drops.json"
    done = command("sensitivity", files.checkpoint, "--sigma", "0.3,0.9", "--chips", 3, "--json", out)
    assert done.code == 0, done.err
    assert "What each layer costs" in done.out
    drops = {(d["layer"], d["sigma"]): d["mean"] for d in strict_json(out.read_text())["layers"]}
    assert {layer for layer, _ in drops} == {"fc1", "fc2", "fc3"}
    assert sum(drops[name, 0.9] for name in ("fc1", "fc2", "fc3")) > sum(
        drops[name, 0.3] for name in ("fc1", "fc2", "fc3")
    )


EXPERIMENT = """
    title = "Two small ones"
    data = "digits"
    sigmas = [0.0, 0.5]
    chips = 3
    sensitivity_chips = 2
    [hardware]
    preset = "bayesft"
    levels = 64
    [models]
    given = "model.pt"
    [train.fresh]
    network = "mlp"
    arguments = { inputs = 64, hidden = [8] }
    epochs = 2
"""


@pytest.fixture
def experiment(files, tmp_path):
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "model.pt").write_bytes(files.checkpoint.read_bytes())
    path = folder / "two.toml"
    path.write_text(textwrap.dedent(EXPERIMENT))
    return path


def test_an_experiment_runs_once(command, experiment, tmp_path, monkeypatch):
    out = tmp_path / "out"
    first = command("run", experiment, "-o", out)
    assert first.code == 0, first.err
    assert "training fresh" in first.out
    assert (out / "two.html").exists()
    page = (out / "two.html").read_bytes()
    with sqlite3.connect(out / "two.db") as connection:
        rows = connection.execute("SELECT * FROM trials").fetchall()
        designs = {
            json.loads(text)["hardware"]["mapping"]["levels"]
            for (text,) in connection.execute("SELECT identity FROM tasks")
        }
    assert len(rows) == 12
    assert designs == {64}
    from crossbar_sim.robustness.evaluator import Evaluator

    def measured_again(*arguments):
        raise AssertionError("a chip was measured again")

    monkeypatch.setattr(Evaluator, "measure", measured_again)
    second = command("run", experiment, "-o", out)
    assert second.code == 0, second.err
    assert "training" not in second.out
    assert (out / "two.html").read_bytes() == page
    with sqlite3.connect(out / "two.db") as connection:
        assert connection.execute("SELECT * FROM trials").fetchall() == rows


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("chips = 3", "chip = 3"), "'chip' is unknown: did you mean 'chips'?"),
        (("chips = 3", "chips = 3\nhalf_width = 0.01"), "chips and half_width exclude each other"),
        (("chips = 3", "chips = 0"), "chips=0"),
        (("chips = 3", "chips = true"), "chips=True"),
        (("levels = 64", "levls = 64"), "did you mean 'levels'?"),
        (('network = "mlp"', 'netwrk = "mlp"'), "did you mean 'network'?"),
        (("epochs = 2", "epochs = -2"), "train.fresh.epochs=-2"),
        (("epochs = 2", 'epochs = 2\nmethod = "emr"'), "did you mean 'erm'?"),
        (("epochs = 2", "epochs = 2\nlr = 0"), "train.fresh.lr=0"),
        (('network = "mlp"', 'network = "mpl"'), "network 'mpl' is unknown"),
        (('given = "model.pt"', 'given = "modle.pt"'), "modle.pt"),
        (('given = "model.pt"', 'fresh = "model.pt"'), "give each a name of its own"),
        (('data = "digits"', 'data = "digit"'), "did you mean digits"),
        (('data = "digits"', ""), "data is missing"),
        (("[0.0, 0.5]", "[0.0, -0.5]"), "sigma=-0.5"),
        (("[0.0, 0.5]", "[0.0, 0.0]"), "none twice"),
        (("[0.0, 0.5]", "{ from = 0, two = 1 }"), "'two' is unknown"),
        (("[0.0, 0.5]", "{ from = 0, to = 1 }"), "points"),
        (('title = "Two', 'title = 3 #'), "title=3"),
        (('title = "Two', 'title = "Two\n'), "two.toml"),
    ],
)  # fmt: skip
def test_a_bad_experiment_is_one_sentence(command, experiment, tmp_path, change, words):
    text = experiment.read_text()
    assert change[0] in text
    experiment.write_text(text.replace(*change, 1))
    done = command("run", experiment, "-o", tmp_path / "out")
    assert done.code == 2
    assert words in done.err
    assert done.err.count("\n") == 1
    assert not list((tmp_path / "out").glob("*.db")) or words in ("sigma=-0.5", "none twice")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--sigma", "0:x"), "expected first:last:points"),
        (("--sigma", "-1"), "not negative"),
        (("--sigma", "nan"), "not negative"),
        (("--sigma", "0:1:99999"), "at most"),
        (("--chips", "0"), "selects no chip"),
        (("--half-width", "-1"), "half"),
        (("--half-width", "0.05", "--chips", "5"), "--chips and --half-width exclude each other"),
        (("--percentile", "0"), "a number between 0 and 100"),
        (("--percentile", "5", "--half-width", "0.05"), "give --chips instead"),
        (("--threshold", "1.5"), "threshold=1.5: accuracy is a share in 0 .. 1"),
        (("--threshold", "-0.1"), "threshold=-0.1"),
        (("--metric", "output_error", "--threshold", "nan"), "threshold=nan"),
        (("--results", ""), "name a file"),
        (("--results", ":memory:"), "name a file"),
        (("--sensitivity-chips", "3"), "give --results"),
        (("--sensitivity-chips", "-3"), "expected 0 (none) or more"),
        (("--plot", "curves.txt"), "figures are written as .png"),
        (("=model.pt",), "LABEL=PATH with both"),
        (("model=",), "LABEL=PATH with both"),
        (("--drift", "retention:nu=0.05,time=100"), "deploy simulates it as it is (and at any --time)"),
        (("--workers", "0"), "expected an integer >= 1"),
        (("--data", "nowhere.npz"), "nowhere.npz"),
        (("--metric", "accuracy", "--half-width", "0.6"), "between 0 and 0.5"),
        (("--results", "/nowhere/runs.db"), "/nowhere"),
        (("--plot", "/nowhere/a.png"), "/nowhere"),
        (("--drift", "pareto:alpha=3"), "which has no sigma"),
    ],
)
def test_bad_sweeps_are_one_line(command, files, arguments, words):
    chips = () if {"--chips", "--half-width"} & {*arguments} == {"--half-width"} else ("--chips", 2)
    done = command("sweep", files.checkpoint, *chips, *arguments)
    assert done.code == 2
    assert words in done.err
    assert done.err.startswith("error: ")
    assert done.err.count("\n") == 1


def test_a_results_file_that_is_none_stays_as_it_is(command, files, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes")
    done = command("sweep", files.checkpoint, "--sigma", "0.1", "--chips", 1, "--results", path)
    assert done.code == 2
    assert path.read_text() == "my notes"
    done = command("sweep", files.checkpoint, "--sigma", "0.1", "--chips", 1, "--results", files.checkpoint)
    assert done.code == 2


def test_two_models_need_two_names(command, files):
    done = command("sweep", files.checkpoint, files.checkpoint, "--sigma", "0.1", "--chips", 1)
    assert done.code == 2
    assert "label of its own" in done.err
    done = command("sweep", f"a={files.checkpoint}", f"b={files.checkpoint}", "--sigma", "0.1", "--chips", 1)
    assert "are the same model" in done.err


def test_what_cannot_be_is_refused_before_anything_is_measured(command, files, monkeypatch, tmp_path):
    from crossbar_sim.robustness.evaluator import Evaluator

    def measured(*arguments):
        raise AssertionError("a chip was measured")

    monkeypatch.setattr(Evaluator, "measure", measured)
    for data in ((), ("--data", files.unlabelled)):
        done = command(
            "sweep", files.checkpoint, *data, "--chips", 2, "--threshold", 1.5, "--results", tmp_path / "a.db"
        )
        assert done.code == 2
        assert "threshold=1.5" in done.err
    assert not (tmp_path / "a.db").exists()


def test_a_threshold_of_an_error_counts_the_other_way(command, files):
    report = command(
        "sweep", files.checkpoint, "--sigma", "0.1,0.9", "--chips", 3, "--metric", "output_error", "--threshold", 0.5,
        "--json", "-",
    ).report  # fmt: skip
    first, last = report["models"][0]["points"]
    assert (first["yield"]["value"], last["yield"]["value"]) == (1.0, 0.0), "more drift, a larger error"
    assert 0.1 < report["models"][0]["crossing"]["sigma"] < 0.9


def test_how_the_arguments_of_a_network_are_written_changes_nothing(command, files, tmp_path):
    """The same model, so the same task, and no chip is measured again; other arguments are another."""
    results = tmp_path / "runs.db"

    def tasks(arguments):
        done = command(
            "sweep", files.state_dict, "--arch", "mlp", "--arch-arguments", arguments, "--data", "digits",
            "--sigma", "0.3", "--chips", 1, "--results", results,
        )  # fmt: skip
        assert done.code == 0, done.err
        with sqlite3.connect(results) as connection:
            return connection.execute("SELECT count(*) FROM tasks").fetchone()[0]

    assert tasks('{"inputs":64,"hidden":[24,16],"dropout":0.1}') == 1
    assert tasks('{ "dropout": 0.10,\n "hidden": [24, 16], "inputs": 64 }') == 1
    assert tasks('{"inputs":64,"hidden":[24,16],"dropout":0.2}') == 2


def test_a_sweep_tells_the_notes_and_cautions_that_deploy_tells(command, files):
    design = ("--sigma", 0.3, "--chips", 2, "--normalisation", "folded")
    for name in ("deploy", "sweep", "sensitivity"):
        done = command(name, files.checkpoint, *design)
        assert done.code == 0, done.err
        words = " ".join(done.out.split())
        assert "note: pixel values 0 .. 16 divided by 16, nothing subtracted" in words
        assert "warning: normalisation=folded was requested, but no batch normalisation alone" in words


def test_which_of_several_models_cannot_be_used_is_said(command, files, tmp_path):
    torch.save(nn.Conv2d(1, 2, 3), tmp_path / "b.pt")
    models = (f"a={files.pickled}", f"b={tmp_path / 'b.pt'}", "--trust-pickle")
    done = command("sweep", *models, "--chips", 1, "--sigma", "0.1")
    assert done.code == 2
    assert done.err.startswith("error: b: the model's file does not give the shape of an input")


def test_one_point_is_not_at_two_ends(command, files):
    done = command("sweep", files.checkpoint, "--sigma", "0:1:1")
    assert done.code == 2
    assert "one point cannot be at both ends" in done.err
    done = command("sweep", files.checkpoint, "--sigma", "0.3", "--half-width", 5)
    assert done.code == 2
    assert "0.005 is half a point" in done.err


def test_sigmas_are_those_that_were_meant():
    assert check_sigmas(np.linspace(0, 1.5, 31)) == check_sigmas([i * 5 / 100 for i in range(31)])
    assert 0.15 in check_sigmas(np.linspace(0, 1.5, 31))
    assert check_sigmas([1e-14]) == (1e-14,)


def test_sensitivity_takes_the_axis_of_the_classes(command, files):
    done = command("sensitivity", files.checkpoint, "--chips", 1, "--images", 20, "--class-axis", 5)
    assert done.code == 2
    assert "class_axis=5" in done.err
    done = command("sensitivity", files.checkpoint, "--chips", 1, "--images", 20, "--class-axis", -1)
    assert done.code == 0, done.err
