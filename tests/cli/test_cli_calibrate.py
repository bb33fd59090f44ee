"""`crossbar-sim calibrate`, and converters on the command line of deploy and sweep."""

import json

import numpy as np
import pytest
from helpers.cli_runs import strict_json

from crossbar_sim import Hardware
from crossbar_sim.commands.calibrate import _amperes

CONVERTERS = ("--adc-bits", "6", "--dac-bits", "7", "--dac-range", "calibrated")
QUICK = ("--sensitivity-chips", "0", "--chips", "3", "--images", "100", "--sigma", "0.1")


def test_a_calibrated_design_is_deployed_as_it_is(files, command, tmp_path):
    path = tmp_path / "design.toml"
    made = command("calibrate", files.checkpoint, *CONVERTERS, "--images", "200", "-o", path, "--json", "-")
    assert made.code == 0, made.err
    report = strict_json(made.out)
    assert report["data"] == "200 training examples of digits"
    assert [array["name"] for array in report["arrays"]] == ["fc1.weight", "fc2.weight", "fc3.weight"]
    for array in report["arrays"]:
        assert array["output_clipped"] < 0.1
        assert array["input_clipped"] == 0.0
        assert 30 < array["output_used"] <= 100
    hardware = Hardware.load(path)
    assert (hardware.adc.bits, hardware.dac.bits, hardware.ranges.get("fc2.weight").output[0] > 0) == (
        6,
        7,
        True,
    )
    told = command("deploy", files.checkpoint, "--hardware", path, *QUICK, "--json", "-")
    assert told.code == 0, told.err
    assert told.report["hardware"]["ranges"]["fc1.weight"]["input"] == report["arrays"][0]["input"]
    assert not any("calibrated on" in note for note in told.report["notes"])
    effects = told.report["layers"][0]["effects"]
    assert set(effects) == {"drift", "dac", "adc"}
    assert all(0 < change < 0.5 for change in effects.values())
    wider = command(
        "deploy", files.checkpoint, "--hardware", path, "--g-max", "4e-4", *QUICK, "--json", "-"
    ).report
    assert any("calibrated with another mapping" in warning for warning in wider["warnings"])
    assert any("calibrated on 512 training examples" in note for note in wider["notes"])
    again = command("calibrate", files.checkpoint, *CONVERTERS, "--images", "200", "-o", tmp_path / "b.json")
    assert again.code == 0
    assert Hardware.load(tmp_path / "b.json") == hardware
    assert "converters calibrated on 200 training examples of digits" in again.out


def test_what_is_not_calibrated_is_calibrated_on_training_examples_and_said(files, command):
    told = command(
        "deploy", files.checkpoint, *CONVERTERS, *QUICK, "--read-noise", "0.01", "--json", "-"
    ).report
    (note,) = [note for note in told["notes"] if "calibrated on" in note]
    assert note.startswith("converter ranges were calibrated on 512 training examples of digits")
    assert set(told["hardware"]["ranges"]) == {"fc1.weight", "fc2.weight", "fc3.weight"}
    assert told["hardware"]["read_noise"] == {"kind": "gaussian", "sigma": 0.01, "of": "g_max"}
    again = command("deploy", files.checkpoint, *CONVERTERS, *QUICK, "--read-noise", "0.01", "--json", "-",
                    "--threads", "3").report  # fmt: skip
    assert again == told


def test_a_model_of_one_batch_size_has_converters_too(files, command, tmp_path):
    path = tmp_path / "design.toml"
    made = command("calibrate", files.fixed, "--data", "digits", *CONVERTERS, "--images", "100", "-o", path)
    assert made.code == 0, made.err  # 100 is no multiple of the batch of 7
    told = command("deploy", files.fixed, "--data", "digits", "--hardware", path, *QUICK, "--json", "-")
    assert told.code == 0, told.err
    assert set(told.report["layers"][0]["effects"]) == {"drift", "dac", "adc"}


def test_a_design_that_asks_for_no_calibration_is_told_so(files, command, tmp_path):
    told = command(
        "calibrate", files.checkpoint, "--adc-bits", "8", "--adc-range", "1e-5", "--images", "50",
        "-o", tmp_path / "design.toml",
    )  # fmt: skip
    assert told.code == 0, told.err
    assert "no converter of this design has the range 'calibrated'" in " ".join(told.out.split())
    asked = command(
        "calibrate", files.checkpoint, "--adc-bits", "8", "--images", "50", "-o", tmp_path / "b.toml"
    )
    assert asked.code == 0, asked.err
    assert "nothing was chosen" not in " ".join(asked.out.split())


@pytest.mark.parametrize(
    ("output", "shown"),
    [((), "-"), ((2e-6,), "2"), ((2e-6, 2e-6, 2e-6), "2"), ((2e-6, 5e-7, 2e-6), "2 0.5 2")],
)
def test_ranges_of_slices_are_shown_once_where_they_are_the_same(output, shown):
    assert _amperes(output) == shown


def test_a_sweep_has_converters_too(files, command, tmp_path):
    told = command(
        "sweep", files.checkpoint, *CONVERTERS, "--sigma", "0,0.2", "--chips", "2", "--images", "100",
        "--results", tmp_path / "runs.db", "--json", "-",
    )  # fmt: skip
    assert told.code == 0, told.err
    assert "note: converter ranges were calibrated on 512 training examples" in " ".join(told.err.split())
    assert [note for note in told.report["models"][0]["notes"] if "calibrated on 512" in note]


@pytest.mark.parametrize(
    ("arguments", "piece"),
    [
        (("--adc-bits", "0"), "adc.bits=0: a converter has 1 .. 24 bits"),
        (("--dac-bits", "1"), "dac.bits=1: a converter has 2 .. 24 bits (one is the sign)"),
        (("--adc-bits", "8", "--adc-range", "max"), "no full scale"),
        (
            ("--adc-bits", "8", "--adc-range", "wide"),
            "'wide' is not a number or one of max, granular, calibrated",
        ),
        (("--adc-bits", "8", "--adc-range", "granular", "--dac-bits", "4"), "mapping.levels"),
        (("--cell-bits", "2"), "give its levels"),
        (("--wire-ohm", "-1"), "r_word=-1"),
        (("--read-noise", "-0.1"), "sigma=-0.1"),
        (("--read-noise", "pink:sigma=1"), "'pink' is unknown"),
        (("--adc", "adc:bits=8,shared=4"), "did you mean 'adc.share'"),
    ],
)
def test_bad_converters_get_one_line(files, command, arguments, piece):
    told = command("deploy", files.checkpoint, *QUICK, *arguments)
    assert (told.code, told.out) == (2, "")
    assert piece in told.err
    assert told.err.count("\n") == 1


def test_what_cannot_be_calibrated_gets_one_line_and_leaves_files_alone(files, command, tmp_path):
    kept = tmp_path / "kept.toml"
    kept.write_text("tile = [64, 64]\n")
    cases = [
        ((files.checkpoint, "-o", kept), "no dac and no adc"),
        ((files.checkpoint, *CONVERTERS, "-o", tmp_path / "x.yaml"), "ends in .toml or .json"),
        ((files.checkpoint, *CONVERTERS, "--images", "0", "-o", kept), "at least one example"),
        ((files.checkpoint, *CONVERTERS, "--data", files.labelled, "-o", kept), "test examples alone"),
        ((files.checkpoint, *CONVERTERS, "--hardware", kept, "-o", kept), str(kept)),
    ]
    for arguments, piece in cases:
        told = command("calibrate", *arguments)
        assert told.code == 2
        assert piece in told.err
        assert told.err.count("\n") == 1
    assert kept.read_text() == "tile = [64, 64]\n"


def test_effects_that_do_nothing_are_named(files, command):
    idle = ("--dac-range", "dynamic", "--wire-ohm", "0")
    told = command("deploy", files.checkpoint, *QUICK, *idle, "--json", "-").report["warnings"]
    for effect in ("dac", "wires"):
        assert any(w.startswith(f"{effect} (") and "changed nothing in any layer" in w for w in told)


@pytest.mark.parametrize(
    "flags",
    [
        ("--adc-bits", "6", "--wire-ohm", "1", "--read-noise", "0.01"),
        ("--levels", "100", "--cell-bits", "3", "--dac-bits", "5", "--bias", "row"),
    ],
)
def test_a_chip_file_has_the_scores_of_the_simulated_chip(files, command, tmp_path, flags):
    """Wires, converters, noise and slices act on conductances from a file as on simulated ones."""
    chip, rest = tmp_path / "chip.h5", ("--sensitivity-chips", "0", "--json", "-")
    made = command("export", files.checkpoint, chip, "--sigma", "0.1", "--chip", "2", *flags)
    assert made.code == 0, made.err
    simulated = command("deploy", files.checkpoint, "--sigma", "0.1", "--chips", "2:3", *flags, *rest).report
    told = command("deploy", files.checkpoint, "--conductances", chip, *rest)
    assert told.code == 0, told.err
    for name in ("accuracy", "output_error"):
        assert told.report["drifted"][name]["per_chip"] == simulated["drifted"][name]["per_chip"]
    for layer in told.report["layers"]:
        assert {
            name for name in ("dac", "adc", "read_noise") if f"--{name.replace('_', '-')}" in " ".join(flags)
        } <= {*layer["effects"]}


def test_random_inputs_serve_where_there_are_no_data(files, command, tmp_path):
    made = command(
        "calibrate", files.dynamic, *CONVERTERS, "--input-shape", "1,8,8", "-o", tmp_path / "d.toml"
    )
    assert made.code == 0, made.err
    assert "512 random inputs" in made.out
    json.dumps(made.out)
    assert np.isfinite(Hardware.load(tmp_path / "d.toml").ranges.layers[0][1].input)
