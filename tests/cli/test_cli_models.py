"""deploy on the command line: models in every kind of file, the report, and what is measured."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.cli_runs import ARGUMENTS, QUICK, Command, Files, strict_json
from torch import nn

import crossbar_sim
from crossbar_sim import Hardware
from crossbar_sim.data import Splits


def test_a_checkpoint_brings_its_own_data(command: Command, files: Files):
    result = command("deploy", files.checkpoint, *QUICK)
    report = result.report
    assert result.code == 0
    assert report["metric"] == "accuracy"
    assert report["data"]["name"] == "digits"
    assert report["clean"]["accuracy"] > 0.9
    assert 0.2 < report["drifted"]["accuracy"]["mean"] < report["clean"]["accuracy"]
    assert report["model"]["source"] == "crossbar-sim checkpoint"


def test_the_same_network_from_every_kind_of_file_has_the_same_scores(
    command: Command, files: Files, tmp_path: Path
):
    (tmp_path / "my_networks.py").write_text(
        "from crossbar_sim.nn.networks import MLP\n"
        "def make(hidden=(1,)):\n    return MLP(inputs=64, hidden=tuple(hidden), classes=10)\n"
    )
    ways: dict[str, tuple[Any, ...]] = {
        "checkpoint": (files.checkpoint,),
        "dynamic": (files.dynamic,),
        "fixed": (files.fixed,),
        "state_dict": (files.state_dict, "--arch", "mlp"),
        "factory": (
            files.state_dict, "--arch", "my_networks:make",
            "--arch-arguments", json.dumps({"hidden": ARGUMENTS["hidden"]}),
        ),
        "pickle": (files.pickled, "--trust-pickle"),
        "weights": (tmp_path / "two.pth", "--arch", "mlp", "--weights", "ema"),
    }  # fmt: skip
    table = torch.load(files.state_dict)
    torch.save({"model": {n: v + 1 for n, v in table.items()}, "ema": table}, tmp_path / "two.pth")
    refused = command("deploy", tmp_path / "two.pth", "--arch", "mlp", "--data", files.labelled, *QUICK)
    assert refused.code == 2
    assert "2 tables of weights (model, ema)" in refused.err
    sys.path.insert(0, str(tmp_path))
    try:
        reports = {
            name: command("deploy", *way, "--data", files.labelled, *QUICK).report
            for name, way in ways.items()
        }
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("my_networks", None)
    scores = {name: report["drifted"]["accuracy"]["per_chip"] for name, report in reports.items()}
    for name, score in scores.items():
        # One image of 450 may lie on the edge of a class: batches of 7 are summed in another order.
        assert score == pytest.approx(scores["checkpoint"], abs=1.01 / 450), name
    assert [reports[n]["model"]["source"] for n in ("dynamic", "state_dict", "pickle")] == [
        "torch.export archive", "state_dict", "pickled module",
    ]  # fmt: skip


def test_without_labels_it_is_agreement_and_says_so(command: Command, files: Files):
    report = command("deploy", files.checkpoint, "--data", files.unlabelled, *QUICK).report
    assert report["metric"] == "agreement"
    assert report["clean"]["accuracy"] is None
    assert report["drifted"]["accuracy"] is None
    assert 0.2 < report["drifted"]["agreement"]["mean"] < 1
    assert report["drifted"]["output_error"]["mean"] > 0
    assert report["data"]["labelled"] is False
    text = command("deploy", files.checkpoint, "--data", files.unlabelled, *QUICK[:-2])
    assert "agreement with the clean model, not accuracy" in text.out


def test_without_data_inputs_are_random_and_it_says_so(command: Command, files: Files):
    result = command("deploy", files.dynamic, *QUICK)
    assert result.report["data"] == {
        "name": "random inputs", "fingerprint": None, "images": 1000, "labelled": False,
    }  # fmt: skip
    assert "1000 standard normal inputs of shape 1x8x8" in result.report["notes"][0]
    text = command("deploy", files.dynamic, *QUICK[:-2])
    assert "agreement with the clean model, not accuracy" in text.out
    assert "no data given" in text.out
    fewer = command(
        "deploy", files.state_dict, "--arch", "mlp", "--input-shape", "1,4,16", "--images", 30, *QUICK
    )
    assert fewer.report["data"]["images"] == 30


def test_tokens_are_taken_as_whole_numbers(command: Command, tmp_path: Path):
    model = nn.Sequential(nn.Embedding(300, 8), nn.Flatten(), nn.Linear(40, 3)).eval()
    tokens = np.random.default_rng(0).integers(0, 300, (50, 5))
    with torch.no_grad():
        labels = model(torch.from_numpy(tokens)).argmax(1)
    np.savez(tmp_path / "tokens.npz", x=tokens, y=labels)
    torch.save(model, tmp_path / "model.pt")
    torch.export.save(
        torch.export.export(model, (torch.zeros(2, 5, dtype=torch.int32),)), tmp_path / "model.pt2"
    )
    for way in ((tmp_path / "model.pt", "--trust-pickle"), (tmp_path / "model.pt2",)):
        result = command("deploy", *way, "--data", tmp_path / "tokens.npz", *QUICK)
        assert result.report["clean"]["accuracy"] == 1.0
        without = command("deploy", *way, *QUICK)
        if way[0].suffix == ".pt2":
            assert without.report["metric"] == "agreement"
            assert "5 random tokens, out of the 300 that the model knows" in without.err
        else:  # its file gives no shape
            assert without.code == 2
            assert "integers" in without.err
    np.savez(tmp_path / "halves.npz", x=tokens / 2)
    refused = command("deploy", tmp_path / "model.pt2", "--data", tmp_path / "halves.npz", *QUICK)
    assert refused.code == 2
    assert "int64" in refused.err


def test_wide_types_are_taken_as_float32(command: Command, files: Files, digits: Splits, tmp_path: Path):
    assert digits.test.y is not None
    np.savez(tmp_path / "wide.npz", x=digits.test.x.double().numpy(), y=digits.test.y.numpy().astype(float))
    wide = command("deploy", files.checkpoint, "--data", tmp_path / "wide.npz", *QUICK).report
    assert wide["drifted"] == command("deploy", files.checkpoint, *QUICK).report["drifted"]
    assert any("float64" in note for note in wide["notes"])


# The report


def test_the_report_has_what_it_promises(command: Command, files: Files):
    report = command("deploy", files.checkpoint, "--sigma", 0.6, "--chips", 5, "--json", "-").report
    assert {
        "clean",
        "drifted",
        "yield",
        "layers",
        "hardware",
        "seed",
        "chips",
        "model",
        "data",
        "version",
    } <= {*report}
    assert {"mean", "ci95", "std", "min", "max", "per_chip", "quantiles"} <= {*report["drifted"]["accuracy"]}
    assert {"threshold", "value", "ci95"} == {*report["yield"]}
    for layer in report["layers"]:
        keys = {"name", "kind", "analog", "rows", "cols", "tiles", "cells", "effects", "sensitivity"}
        assert keys <= {*layer}
        assert layer["effects"]["drift"] > 0.1
        assert len(layer["sensitivity"]["per_chip"]) == 5
    assert [layer["name"] for layer in report["layers"]] == ["fc1", "fc2", "fc3"]
    assert [(layer["rows"], layer["cols"]) for layer in report["layers"]] == [(64, 24), (24, 16), (16, 10)]
    assert [layer["cells"] for layer in report["layers"]] == [2 * 64 * 24, 2 * 24 * 16, 2 * 16 * 10]
    assert report["chips"] == [0, 1, 2, 3, 4]
    assert report["seed"] == 0
    assert report["version"] == crossbar_sim.__version__
    assert Hardware.from_dict(report["hardware"]).drift == crossbar_sim.LogNormalDrift(0.6)
    accuracy = report["drifted"]["accuracy"]
    assert accuracy["min"] == min(accuracy["per_chip"])
    assert accuracy["ci95"][0] < accuracy["mean"] < accuracy["ci95"][1]
    threshold = report["yield"]["threshold"]
    assert threshold == round(report["clean"]["accuracy"] - 0.05, 4)
    assert report["yield"]["value"] == sum(a >= threshold for a in accuracy["per_chip"]) / 5


def test_with_json_on_standard_output_all_else_is_on_standard_error(command: Command, files: Files):
    result = command("deploy", files.checkpoint, *QUICK)
    assert result.out.startswith("{")
    assert result.out.endswith("}\n")
    assert "chips the model keeps" in result.err
    assert "chips the model keeps" not in result.out


def test_one_chip_has_null_for_its_interval(command: Command, files: Files):
    report = command("deploy", files.checkpoint, "--chips", "3:4", "--images", 1, "--json", "-").report
    assert report["chips"] == [3]
    assert report["drifted"]["accuracy"]["ci95"] is None
    assert report["drifted"]["accuracy"]["std"] is None
    assert report["data"]["images"] == 1


def test_huge_drift_is_strict_json_too(command: Command, files: Files):
    result = command("deploy", files.checkpoint, "--sigma", 12, "--chips", 2, "--json", "-")
    assert result.report["drifted"]["output_error"] is None
    assert result.report["drifted"]["accuracy"]["mean"] < 0.5


def test_the_same_seed_gives_the_same_bytes_for_any_number_of_threads(
    command: Command, files: Files, tmp_path: Path
):
    written = []
    for threads in (1, 2, 3, None, 2):
        path = tmp_path / "report.json"
        extra = () if threads is None else ("--threads", threads)
        result = command("deploy", files.checkpoint, "--sigma", 0.6, "--chips", 6, "--json", path, *extra)
        assert result.code == 0
        written.append(path.read_bytes())
    assert len(set(written)) == 1
    assert len(written[0]) > 1000
    other = command("deploy", files.checkpoint, "--sigma", 0.6, "--chips", 6, "--json", "-", "--seed", 1)
    assert other.report["drifted"] != strict_json(written[0].decode())["drifted"]


def test_many_blocks_of_images_do_not_depend_on_threads_either(command: Command, files: Files):
    reports = [
        command(
            "deploy", files.dynamic, "--images", 3210, "--chips", 3, "--preset", "reram_wan2022", "--seed", 5,
            "--threads", threads, "--json", "-",
        ).out
        for threads in (1, 3)
    ]  # fmt: skip
    assert reports[0] == reports[1]
    assert strict_json(reports[0])["data"]["images"] == 3210


def test_a_range_of_chips_continues_another(command: Command, files: Files):
    def per_chip(chips: str) -> list[float]:
        arguments = ("--sigma", 0.9, "--sensitivity-chips", 0, "--chips", chips, "--json", "-")
        return command("deploy", files.checkpoint, *arguments).report["drifted"]["accuracy"]["per_chip"]

    assert per_chip("0:10") + per_chip("10:20") == per_chip("0:20") == per_chip("20")


def test_sigma_0_changes_nothing_and_is_warned_of_by_name(command: Command, files: Files):
    result = command("deploy", files.checkpoint, "--sigma", 0, "--chips", 2, "--json", "-")
    report = result.report
    assert any("drift" in warning and "changed nothing" in warning for warning in report["warnings"])
    assert "drift" in result.err
    assert "changed nothing" in result.err
    assert report["drifted"]["accuracy"]["per_chip"] == [report["clean"]["accuracy"]] * 2
    assert not command("deploy", files.checkpoint, *QUICK).report["warnings"]


def test_only_and_skip(command: Command, files: Files):
    def mapped(*arguments: str) -> list[str]:
        report = command("deploy", files.checkpoint, *QUICK, *arguments).report
        return [layer["name"] for layer in report["layers"] if layer["analog"]]

    assert mapped("--only", "fc2") == ["fc2"]
    assert mapped("--only", "fc1", "--only", "fc3") == ["fc1", "fc3"]
    assert mapped("--skip", "fc[12]") == ["fc3"]
    assert mapped("--only", "fc*", "--skip", "fc1") == ["fc2", "fc3"]
    skipped = command("deploy", files.checkpoint, *QUICK, "--skip", "fc1").report["layers"][0]
    assert skipped["reason"] == "skipped as asked"
    assert skipped["cells"] == 0


def test_threshold(command: Command, files: Files):
    report = command("deploy", files.checkpoint, *QUICK).report
    values = sorted(report["drifted"]["accuracy"]["per_chip"])
    found = command("deploy", files.checkpoint, *QUICK, "--threshold", values[1]).report["yield"]
    assert found["value"] == sum(v >= values[1] for v in values) / 4
    assert command("deploy", files.checkpoint, *QUICK, "--threshold", 0).report["yield"]["value"] == 1
    assert command("deploy", files.checkpoint, *QUICK, "--threshold", 1).report["yield"]["value"] == 0


def test_sensitivity_can_be_left_out(command: Command, files: Files):
    report = command("deploy", files.checkpoint, "--chips", 3, "--json", "-", "--sensitivity-chips", 0).report
    assert [layer["sensitivity"] for layer in report["layers"]] == [None] * 3
    report = command("deploy", files.checkpoint, "--chips", 3, "--json", "-", "--sensitivity-chips", 2).report
    assert [len(layer["sensitivity"]["per_chip"]) for layer in report["layers"]] == [2] * 3


def test_images_are_drawn_by_the_seed(command: Command, files: Files):
    def first(seed: int) -> Any:
        return command("deploy", files.checkpoint, *QUICK, "--images", 100, "--seed", seed).report

    assert first(0)["data"]["images"] == 100
    assert first(0) == first(0)
    assert first(0)["drifted"] != first(1)["drifted"]
    more = command("deploy", files.checkpoint, *QUICK, "--images", 9999).report
    assert more["data"]["images"] == 450
    assert any("9999" in note for note in more["notes"])


@pytest.mark.skipif(
    "CROSSBAR_SIM_DATA" not in os.environ, reason="$CROSSBAR_SIM_DATA does not say where MNIST is"
)
def test_real_mnist(command: Command, tmp_path: Path):
    path = tmp_path / "model.pt"
    with torch.random.fork_rng(devices=[]):
        crossbar_sim.nn.save_checkpoint(
            path, crossbar_sim.nn.networks.build("mlp", inputs=784, hidden=(8,), classes=10),
            "mlp", {"inputs": 784, "hidden": (8,), "classes": 10}, "nothing",
        )  # fmt: skip
    where = os.environ["CROSSBAR_SIM_DATA"]
    report = command("deploy", path, "--data", "mnist", "--data-dir", where, *QUICK).report
    assert report["data"]["images"] == 10_000
    assert report["data"]["name"] == "mnist"
    again = command("deploy", path, "--data", "mnist", *QUICK).report
    assert again == report
