"""`--layer`, and `layers` in files: a design per layer through every command that takes a design."""

import json
import tomllib
from pathlib import Path
from typing import Any

import h5py
import pytest
from helpers.cli_runs import Command, Files

from crossbar_sim import Hardware
from crossbar_sim.crossbar.layer_designs import LayerDesigns, load_design
from crossbar_sim.experiments.schema import load_experiment
from crossbar_sim.robustness.plans import exact
from crossbar_sim.store import Results, read_chip

LAYERS = ("--layer", "fc1:digital", "--layer", "fc2:levels=4,tile=8x8", "--layer", "fc3:copies=4,sigma=0.1")
FEW = ("--chips", 2, "--sensitivity-chips", 0)


def rows(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in report["layers"]}


def test_deploy_and_its_chip_file(command: Command, files: Files, tmp_path: Path):
    chip, one = tmp_path / "chip.h5", ("--images", 60, "--sensitivity-chips", 0, "--json", "-")
    given = command("deploy", files.checkpoint, *LAYERS, "--chips", 1, "--maps", chip, *one)
    report, plain = given.report, command("deploy", files.checkpoint, "--chips", 1, *one).report
    assert [rows(report)[name]["tiles"] for name in ("fc1", "fc2", "fc3")] == [0, 3 * 2 * 2, 4 * 2]
    assert rows(report)["fc2"]["design"] == {"pattern": "fc2", "values": "levels=4, tile=8/8"}
    assert rows(report)["fc3"]["effects"]["drift"] < 0.1 < rows(report)["fc2"]["effects"]["drift"]
    assert rows(report)["fc2"]["effects"]["drift"] != rows(plain)["fc2"]["effects"]["drift"]  # of 4 levels
    assert "fc3: copies=4, sigma=0.1" in given.err
    designs = read_chip(chip).hardware
    assert isinstance(designs, LayerDesigns)
    with h5py.File(chip) as file:
        assert list(file["layers"]) == ["fc2", "fc3"]
        assert file["layers/fc2"].attrs["levels"] == 4
        stored = json.loads(file["layers/fc3"].attrs["layer_hardware"])
    assert stored["mapping"]["copies"] == 4
    again = command("deploy", files.checkpoint, "--conductances", chip, *one).report
    assert again["drifted"] == report["drifted"]
    assert again["hardware"] == report["hardware"]
    assert "layers fc1: digital" in command("info", chip).out
    with h5py.File(chip, "r+") as file:
        del file["layers/fc3"].attrs["layer_hardware"]
    refused = command("deploy", files.checkpoint, "--conductances", chip)
    assert refused.code == 2
    assert "layer_hardware goes with a design per layer" in refused.err


def test_a_sweep_resumes_and_names_its_layers(command: Command, files: Files, tmp_path: Path):
    results, page = tmp_path / "r.db", tmp_path / "r.html"
    sweep = ("sweep", files.checkpoint, "--sigma", "0,0.5", "--images", 60, *FEW, "--results", results)
    own = command(*sweep, *LAYERS)
    assert "layer fc3: its design sets its drift" in own.out
    command(*sweep)
    command(*sweep, *LAYERS)
    command(*sweep, "--layer", "fc3:copies=4,sigma=0.1", *LAYERS[:4])  # the same patterns in another order
    with Results.open(results) as found:
        tasks = found.tasks()
    kept = [task.identity["hardware"].get("layers") for task in tasks]
    assert sorted(map(len, filter(None, kept))) == [3, 3]
    assert kept.count(None) == 1
    first = next(layers for layers in kept if layers)
    assert first[0] == ["fc1", {"digital": True}]
    task = next(task for task in tasks if task.identity["hardware"].get("layers") == first)
    assert not exact(task, 0.0)  # the last layer drifts in any case
    assert exact(next(task for task in tasks if "layers" not in task.identity["hardware"]), 0.0)
    assert command("report", results, "-o", page).code == 0
    assert "layer fc3: copies 4, sigma 0.1" in page.read_text()


def test_other_commands(command: Command, files: Files, tmp_path: Path):
    cost = command("cost", files.checkpoint, *LAYERS, "--layer", "*:adc_bits=6", "--json", "-")
    assert cost.code == 2
    assert "'*' has no effect" in cost.err
    layers = (*LAYERS[:4], "--layer", "fc3:copies=4,adc_bits=6")
    report = command("cost", files.checkpoint, *layers, "--json", "-").report
    assert [layer["name"] for layer in report["layers"]] == ["fc2.weight", "fc3.weight"]
    assert [(adc["arrays"], adc["bits"]) for adc in report["adcs"]] == [
        (["fc2.weight"], 8),
        (["fc3.weight"], 6),
    ]
    design = tmp_path / "design.toml"
    assert command("calibrate", files.checkpoint, *layers, "-o", design).code == 0
    written = tomllib.loads(design.read_text())
    assert list(written["ranges"]) == ["fc3.weight"]
    assert written["layers"] == {
        "fc1": {"digital": True}, "fc2": {"levels": 4, "tile": [8, 8]}, "fc3": {"copies": 4, "adc_bits": 6}
    }  # fmt: skip
    loaded, _ = load_design(design)
    assert loaded.ranges is not None
    both = [
        command("deploy", files.checkpoint, *options, "--images", 60, *FEW, "--json", "-").report
        for options in (("--hardware", design), ("--hardware", design, "--layer", "fc2:levels=64,tile=8x8"))
    ]
    assert "calibrated on" not in str(both[0]["notes"])
    assert [rows(report)["fc2"]["design"]["values"] for report in both] == [
        "levels=4, tile=8/8",
        "levels=64, tile=8/8",
    ]
    drops = command("sensitivity", files.checkpoint, *LAYERS, "--sigma", "0.5", "--chips", 2, "--images", 60)
    assert "fc2" in drops.out
    assert "fc1" not in drops.out
    path = tmp_path / "c.h5"
    assert command("export", files.checkpoint, path, *LAYERS).code == 0
    assert isinstance(read_chip(path).hardware, LayerDesigns)


def test_an_experiment_and_trainings(command: Command, files: Files, tmp_path: Path):
    file = tmp_path / "e.toml"
    file.write_text(
        f'data = "digits"\nsigmas = [0.5]\nchips = 2\ntest_limit = 50\nsensitivity_chips = 0\n'
        f'[models]\nnet = "{files.checkpoint}"\n[layers.fc1]\ndigital = true\n[layers."fc[23]"]\ncopies = 2\n'
    )
    designs = load_experiment(file).hardware
    assert designs.to_dict()["layers"] == {"fc1": {"digital": True}, "fc[23]": {"copies": 2}}
    assert designs.at("fc2") == Hardware.preset("bayesft", copies=2)
    net, train = (
        tmp_path / "n.pt",
        ("train", "--network", "mlp", "--data", "digits", "--epochs", 1, "--batch", 256),
    )
    aware = (
        "--method",
        "drift-aware",
        "--sigma",
        0.3,
        "--set",
        "chips=1",
        "--network-arguments",
        '{"hidden": [8]}',
    )
    assert command(*train, *aware, "--layer", "fc1:digital", "-o", net).code == 0
    refused = command(*train, *aware, "--layer", "fc9:digital", "-o", net)
    assert refused.code == 2
    assert "the layer 'fc9' is unknown" in refused.err


BAD = {
    "fc9:digital": "the layer 'fc9' is unknown: did you mean",
    "fc1": "expected PATTERN:digital or PATTERN:KEY=VALUE",
    "fc1:digtal": "the design 'digtal' is unknown: did you mean 'digital'?",
    "fc1:adc_bit=6": "the override 'adc_bit' is unknown: did you mean 'adc_bits'?",
    "fc1:sigma=0.1,drift=gamma:sigma=1": "sigma and drift both set the drift",
    "fc1:levels=2,levels=4": "the key 'levels' is given twice",
    "fc1:levels=two": "levels='two'",
    "fc1,fc1:digital": "is given twice",
    "*:digital": "no layer to map: fc1: digital by its design",
    "fc1:tile=axb": "expected rows x columns such as 64x64",
}


@pytest.mark.parametrize("text", BAD)
def test_bad_options(command: Command, files: Files, text: str):
    result = command("deploy", files.checkpoint, *FEW, "--layer", text)
    assert result.code == 2
    assert BAD[text] in result.err
    assert len(result.err.strip().splitlines()) == 1


def test_a_part_in_detail_takes_its_own_keys(command: Command, files: Files):
    layer = "fc1:adc=adc:bits=7,share=8,range=max,levels=16,dac=dac:bits=5,read_noise=0.01"
    report = command("deploy", files.checkpoint, *FEW, "--images", 40, "--layer", layer, "--json", "-").report
    found = report["hardware"]["layers"]["fc1"]
    assert (found["adc"]["bits"], found["adc"]["share"], found["dac"]["bits"]) == (7, 8, 5)
    assert (found["levels"], found["read_noise_sigma"]) == (16, 0.01)
    assert {"levels", "dac", "adc", "read_noise"} <= set(rows(report)["fc1"]["effects"])
    assert not {"levels", "dac", "adc", "read_noise"} & set(rows(report)["fc2"]["effects"])
