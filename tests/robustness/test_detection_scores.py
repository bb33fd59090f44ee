"""Detectors in a sweep: one score per chip, and boxes drawn."""

import math

import pytest
import torch
from helpers.detectors import Oracle, written_scenes
from PIL import Image
from torch import nn

from crossbar_sim import Hardware
from crossbar_sim.crossbar import threads
from crossbar_sim.errors import InputError
from crossbar_sim.nn import to_analog
from crossbar_sim.report.detection_figure import draw_boxes, spread
from crossbar_sim.robustness import robustness
from crossbar_sim.robustness.deploy import deploy
from crossbar_sim.robustness.detection_score import DetectionReference, reference_of
from crossbar_sim.robustness.score import Reference
from crossbar_sim.store.results import Results

pytest.importorskip("torchvision", reason="torchmetrics asks torchvision for overlaps")
pytest.importorskip("torchmetrics", reason="mean average precision is torchmetrics'")
pytest.importorskip("pycocotools", reason="torchmetrics asks COCO's evaluation")

SIGMAS = [0.0, 0.2, 0.6]


@pytest.fixture(scope="module")
def scenes():
    return written_scenes()


@pytest.fixture(scope="module")
def sweep(scenes):
    return robustness({"oracle": Oracle()}, scenes, sigmas=SIGMAS, chips=4)


def test_an_oracle_is_right_until_its_weights_drift(sweep):
    assert sweep.metric == "map"
    clean, little, much = sweep.curve("oracle")
    assert clean.values == pytest.approx([1.0] * 4)
    assert 1 > little.summary.mean > much.summary.mean
    assert len(set(little.values)) > 1
    assert little.images == 5


def test_a_chips_score_is_that_of_all_its_boxes_together(scenes, sweep):
    from crossbar_sim.nn.detection import precision, truth

    analog = to_analog(Oracle().eval(), Hardware.preset("bayesft", sigma=0.2), seed=0, chip=3)
    with torch.no_grad():
        by_hand = precision(analog(scenes.x), truth(scenes.y)).map
    values = sweep.curve("oracle")[1].values
    assert values[3] == by_hand
    assert by_hand not in values[:3]


def test_threads_and_a_results_file_change_nothing(scenes, sweep, tmp_path):
    before = threads.threads()
    threads.set_threads(2)
    try:
        with Results.open(tmp_path / "runs.db") as file:
            first = robustness({"oracle": Oracle()}, scenes, sigmas=SIGMAS, chips=2, results=file)
            trials = [t for task in file.tasks() for t in file.trials(task.id)]
            again = robustness({"oracle": Oracle()}, scenes, sigmas=SIGMAS, chips=4, results=file)
            kept = [t for task in file.tasks() for t in file.trials(task.id)]
    finally:
        threads.set_threads(before)
    assert [p.values for p in first.curve("oracle")] == [p.values[:2] for p in sweep.curve("oracle")]
    assert [p.values for p in again.curve("oracle")] == [p.values for p in sweep.curve("oracle")]
    assert {(t.sigma, t.chip, t.seconds) for t in trials} <= {(t.sigma, t.chip, t.seconds) for t in kept}


def test_the_other_metric_is_the_easier_one(scenes, sweep):
    easier = robustness({"oracle": Oracle()}, scenes, sigmas=[0.2], chips=4, metric="map50").curve("oracle")[
        0
    ]
    assert easier.metric == "map50"
    assert all(a >= b for a, b in zip(easier.values, sweep.curve("oracle")[1].values, strict=True))


def test_what_a_layer_costs_alone(scenes):
    detail = robustness({"oracle": Oracle()}, scenes, sigmas=[0.4], chips=2, sensitivity_chips=2).details[
        "oracle"
    ]
    (layer,) = detail["sensitivity"]["layers"]
    assert layer["name"] == "fc"
    assert all(drop > 0 for drop in layer["drops"])


def test_what_a_detector_cannot_be_asked(scenes):
    model = Oracle()
    with pytest.raises(InputError, match="judged by map or map50"):
        robustness({"oracle": model}, scenes, sigmas=[0.2], chips=2, metric="accuracy")
    with pytest.raises(InputError, match="give --data pennfudan"):
        reference_of(model, scenes.x, None, 8)
    with pytest.raises(InputError, match="crossbar-sim sweep"):
        deploy(model, scenes.x, scenes.y, Hardware.preset("bayesft", sigma=0.2))
    with pytest.raises(InputError, match="tells classes apart"):
        reference_of(nn.Linear(2, 2), scenes.x, scenes.y, 8)


def test_a_classifier_is_judged_as_before():
    x, y = torch.ones(3, 2), torch.tensor([0, 1, 0])
    found = reference_of(nn.Linear(2, 2), x, y, 500)
    assert type(found) is Reference
    with pytest.raises(InputError, match="metric='map' must be one of accuracy"):
        found.metric("map")


def test_boxes_that_are_no_numbers_find_nothing_and_are_counted(scenes):
    class Broken(Oracle):
        def forward(self, x):
            found = super().forward(x)
            return torch.cat([found[:1] * math.nan, found[1:]])

    reference = DetectionReference.of(Oracle(), scenes.x, scenes.y)
    score = reference.score(Broken().eval())
    assert score.broken == pytest.approx(1 / 5)
    assert 0.7 < score.map < 0.9
    part = reference.part(torch.tensor([1, 4]))
    assert part.clean_score().map == pytest.approx(1.0)
    assert part.clean.shape == (2, 1, 6)


def test_boxes_are_drawn_where_they_are_found(scenes, tmp_path):
    figure = draw_boxes(
        {"one": Oracle(), "two": Oracle()}, scenes.x, scenes.y, Hardware.preset("bayesft"), [0.0, 0.5],
        tmp_path / "boxes.png", images=[3, 1],
    )  # fmt: skip
    axes = figure.axes
    assert len(axes) == 2 * 2 * 2
    meant, found = axes[0].patches
    assert meant.get_xy() == (
        13.5,
        6.5,
    )  # pixels of image 3 begin at 14, 7: half a pixel before their centres
    assert (meant.get_width(), meant.get_height()) == (28, 22)
    assert found.get_xy() == pytest.approx(meant.get_xy(), abs=1e-3)
    assert found.get_width() == pytest.approx(28, abs=1e-3)
    assert axes[1].patches[1].get_width() != pytest.approx(28, abs=0.1)  # drifted
    assert [ax.get_title(loc="center") for ax in axes[:2]] == ["σ = 0", "σ = 0.5"]
    assert [ax.get_ylabel() for ax in axes[::2]] == ["one", "", "two", ""]
    with Image.open(tmp_path / "boxes.png") as image:
        assert image.width > 200


def test_boxes_that_cannot_be_drawn_are_refused(scenes, tmp_path):
    hardware = Hardware.preset("bayesft")
    with pytest.raises(InputError, match="the suffix of the file name"):
        draw_boxes({"one": Oracle()}, scenes.x, scenes.y, hardware, [0.1], tmp_path / "boxes.gif")
    with pytest.raises(InputError, match="nothing to draw"):
        draw_boxes({"one": Oracle()}, scenes.x, scenes.y, hardware, [0.1], images=[5])
    with pytest.raises(InputError, match="tells classes apart"):
        draw_boxes({"one": nn.Linear(2, 2)}, scenes.x, scenes.y, hardware, [0.1])
    assert spread([0.3]) == [0.3]
    assert spread([0, 1, 2, 3, 4, 5, 6]) == [0, 2, 3, 4, 6]
