"""Detection as a user meets it: train, search, sweep, run, and boxes."""

import json

import pytest
from helpers.cli_runs import strict_json
from helpers.detectors import TINY, drawn
from PIL import Image

from crossbar_sim.nn.files.loading import load_model

for needed in ("torchvision", "torchmetrics", "pycocotools", "botorch"):
    pytest.importorskip(needed, reason=f"detection from the command line takes {needed}")

NETWORK = ("--network", "mask-rcnn", "--network-arguments", json.dumps(TINY), "--data", "pennfudan")


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    drawn(tmp_path, 8)
    monkeypatch.setenv("CROSSBAR_SIM_DATA", str(tmp_path))


def test_train_and_sweep_with_boxes(command, data_dir, tmp_path):
    net, boxes, report = tmp_path / "det.pt", tmp_path / "boxes.png", tmp_path / "sweep.json"
    done = command(
        "train", *NETWORK, "--method", "dropout", "--set", "rate=0.1", "--epochs", 1, "--batch", 4, "-o", net
    )
    assert done.code == 0, done.err
    assert "mAP@[.5:.95]" in done.out
    assert f"crossbar-sim sweep {net}" in done.out
    assert load_model(net).module.arguments["dropout"] == (0.1,) * 7
    done = command("sweep", net, "--sigma", "0,0.4", "--chips", 2, "--json", report, "--boxes", boxes)
    assert done.code == 0, done.err
    assert "mAP@[.5:.95]" in done.out
    found = strict_json(report.read_text())
    assert found["metric"] == "map"
    assert [point["chips"] for point in found["models"][0]["points"]] == [2, 2]
    with Image.open(boxes) as image:
        assert image.format == "PNG"


def test_search_for_rates(command, data_dir, tmp_path):
    best = tmp_path / "best.pt"
    done = command(
        "search", *NETWORK, "--sigma", 0.2, "--trials", 2, "--chips", 2, "--fresh-chips", 2, "--training-chips", 2,
        "--lr", 0.003, "--epochs", 1, "--polish", 1, "-o", best,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "stage1.dropout" in done.out
    assert load_model(best).name == "mask-rcnn"


def test_an_experiment_of_detectors_draws_its_boxes(command, data_dir, tmp_path):
    experiment = tmp_path / "tiny.toml"
    experiment.write_text(
        'data = "pennfudan"\nsigmas = [0.0, 0.3]\nchips = 2\nmetric = "map50"\nsensitivity_chips = 0\n'
        '[train.erm]\nnetwork = "mask-rcnn"\narguments = { side = 64, width = 4, detections = 8 }\n'
        "epochs = 1\nbatch = 4\n"
    )
    done = command("run", experiment, "-o", tmp_path / "runs", "--no-page")
    assert done.code == 0, done.err
    written = strict_json((tmp_path / "runs" / "tiny.json").read_text())
    assert written["metric"] == "map50"
    assert any("drawings" in note for note in written["data"]["notes"])
    assert (tmp_path / "runs" / "tiny-boxes.png").exists()


def test_bad_requests_are_one_line(command, data_dir, tmp_path):
    out = tmp_path / "never.pt"
    for arguments, says in (
        (("train", *NETWORK, "--method", "awp", "-o", out), "acts on the logits of classes"),
        (("train", "--network", "mlp", "--data", "pennfudan", "-o", out), "tells classes apart"),
        (("train", "--network", "mask-rcnn", "--data", "digits", "-o", out), "finds objects"),
    ):
        done = command(*arguments)
        assert done.code == 2
        assert says in done.err
        assert done.err.count("\n") == 1
        assert not out.exists()
