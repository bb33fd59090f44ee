"""fit-device and cost on the command line: what they write, and bad input in one line with exit code 2."""

import json
from pathlib import Path

import pytest
from helpers.cli_runs import Files
from helpers.made_devices import measure

from crossbar_sim import Hardware


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = measure("relaxation", 25)
    path = tmp_path_factory.mktemp("device") / "measured.csv"
    rows = [
        f"{a!r},{b!r},{c!r}"
        for a, b, c in zip(data.target.tolist(), data.measured.tolist(), data.time.tolist(), strict=True)
    ]
    path.write_text("target_S,measured_S,time_s\n" + "\n".join(rows) + "\n")
    return path


def test_fit_device_writes_a_device_that_deploy_takes(command, table: Path, files: Files, tmp_path: Path):
    device, plot, report = tmp_path / "device.toml", tmp_path / "r.png", tmp_path / "r.json"
    result = command("fit-device", table, "-o", device, "--plot", plot, "--json", report)
    assert result.code == 0, result.err
    assert "The fit is good: " in result.out
    assert "drift.mean_per_ln" in result.out
    assert f"use it: crossbar-sim deploy model.pt --hardware {device}" in result.out
    assert plot.stat().st_size > 20_000
    hardware = Hardware.load(device)
    written = json.loads(report.read_text())
    assert written["law"] == "relaxation"
    assert written["hardware"]["drift"]["mean_per_ln"] == hardware.drift.mean_per_ln
    assert all(p["interval"][0] < p["value"] < p["interval"][1] for p in written["parameters"])
    deployed = command(
        "deploy", files.checkpoint, "--hardware", device, "--chips", 2, "--images", 50, "--sensitivity-chips", 0,
        "--json", "-",
    )  # fmt: skip
    assert deployed.code == 0, deployed.err
    assert deployed.report["hardware"]["programming"]["kind"] == "measured"


def test_fit_device_gives_the_same_bytes_again(command, table: Path, tmp_path: Path):
    for name in ("a", "b"):
        command("fit-device", table, "-o", tmp_path / f"{name}.toml", "--plot", tmp_path / f"{name}.svg")
    assert (tmp_path / "a.toml").read_bytes() == (tmp_path / "b.toml").read_bytes()
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("target_S,time_s\n1,1\n", "lacks the column measured_S"),
        ("target_S,measured_S,time_s\n1e-6,1.1e-6,0\n", "1 rows of measurements"),
        ("target_S,measured_S,time_s\n" + "1e-6,-1,0\n" * 9, "measured_S=-1"),
        ("target_S,measured_S,time_s\n" + "1e-6,nan,0\n" * 9, "measured_S=nan"),
        ("target_S,measured_S,time_s\n" + "1e-6,x,0\n" * 9, "line 2: measured_S='x' is no number"),
    ],
)
def test_bad_tables_are_one_line_and_leave_files_alone(command, tmp_path: Path, text: str, expected: str):
    table, device = tmp_path / "bad.csv", tmp_path / "device.toml"
    table.write_text(text)
    device.write_text("# mine")
    result = command("fit-device", table, "-o", device)
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert expected in result.err
    assert device.read_text() == "# mine"


def test_outputs_that_cannot_be_are_refused_before_the_work(command, table: Path, tmp_path: Path):
    for arguments, expected in (
        (("-o", table), "it is an input"),
        (("-o", tmp_path / "d.json"), "a device is written as .toml"),
        (("-o", tmp_path / "d.toml", "--plot", tmp_path / "x.txt"), "figures are written as"),
        (("-o", tmp_path / "none" / "d.toml"), "is not a directory"),
    ):
        result = command("fit-device", table, *arguments)
        assert result.code == 2
        assert expected in result.err
    assert not (tmp_path / "d.toml").exists()


def test_cost_says_what_an_inference_takes_and_where_numbers_are_from(command, files: Files, tmp_path: Path):
    report = tmp_path / "cost.json"
    result = command("cost", files.checkpoint, "--preset", "isaac", "--json", report)
    assert result.code == 0, result.err
    assert "An estimate to first order" in result.out
    assert "One inference takes about" in result.out
    assert "Shafiee et al., ISCA 2016, Table I" in result.out
    written = json.loads(report.read_text())
    assert written["note"].startswith("An estimate")
    assert [layer["name"] for layer in written["layers"]] == ["fc1.weight", "fc2.weight", "fc3.weight"]
    assert written["total"]["energy_J"] == pytest.approx(
        sum(layer["energy_J"] for layer in written["layers"])
    )
    assert all(constant["source"] for constant in written["constants"])
    # 64 inputs in 8 slices: 8 arrays, 16 cycles of 100 ns, for digits are never below 0 nor is what a ReLU gives.
    first = written["layers"][0]
    assert (first["arrays"], first["latency_s"]) == (8, pytest.approx(16e-7))


def test_cost_tells_what_it_assumes(command, files: Files):
    result = command("cost", files.checkpoint, "--node-nm", 65, "--cycle-ns", 50)
    assert result.code == 0, result.err
    assert "note: the design has no ADC or an ideal one: counted as 8 bits" in result.out
    assert "given with --cycle-ns" in result.out
    fewer, more = (
        command("cost", files.checkpoint, "--adc-bits", bits, "--json", "-").report["total"]["energy_J"]
        for bits in (6, 12)
    )
    assert fewer < more


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--technology", "tsmc"), "known: isaac, prime"),
        (("--node-nm", "0"), "--node-nm 0: expected 5 .. 500 nm"),
        (("--cycle-ns", "nan"), "--cycle-ns nan: expected 0.1 .. 1e6 ns"),
        (("--only", "nothing"), "no layer is called 'nothing'"),
        (("--preset", "isac"), "did you mean 'isaac'"),
    ],
)
def test_costs_that_cannot_be_are_refused(command, files: Files, arguments: tuple, expected: str):
    result = command("cost", files.checkpoint, *arguments)
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert expected in result.err
