"""Mask R-CNN as a network, and how its boxes are judged."""

import random

import pytest
import torch
from helpers.detectors import TINY, drawn

from crossbar_sim import Hardware, Key
from crossbar_sim.errors import InputError
from crossbar_sim.nn import fit, seeded, to_analog
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.dropout_sites import rates, set_rates
from crossbar_sim.nn.files.checkpoint import restore, save_checkpoint
from crossbar_sim.nn.networks import build
from crossbar_sim.nn.training.settings import Training

pytest.importorskip("torchvision", reason="Mask R-CNN is torchvision's")
pytest.importorskip("torchmetrics", reason="mean average precision is torchmetrics'")
pytest.importorskip("pycocotools", reason="torchmetrics asks COCO's evaluation")

TRAINING = Training(epochs=3, batch=4, lr=3e-3)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return drawn(tmp_path_factory.mktemp("scenes"))


def made(**more):
    with seeded(Key(4).fold("test")):
        return build("mask-rcnn", **{**TINY, **more})


@pytest.fixture(scope="module")
def trained(data):
    model = made()
    report = fit(model, data.train, data.validation, training=TRAINING, key=Key(2))
    return model, report


def test_training_lowers_the_loss_and_is_a_function_of_its_key(data, trained):
    model, report = trained
    losses = [epoch.loss for epoch in report.history]
    assert losses[-1] < 0.8 * losses[0]
    assert 0 <= report.validation_accuracy <= 1
    again = made()
    assert fit(again, data.train, data.validation, training=TRAINING, key=Key(2)) == report
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_killed_training_ends_with_the_same_weights(data, trained, tmp_path):
    class Killed(Exception):
        pass

    def kill(epoch):
        raise Killed

    model, file = made(), tmp_path / "state"
    with pytest.raises(Killed):
        fit(model, data.train, data.validation, training=TRAINING, key=Key(2), checkpoint=file, progress=kill)
    fresh = made()
    report = fit(fresh, data.train, data.validation, training=TRAINING, key=Key(2), checkpoint=file)
    assert report == trained[1]
    for a, b in zip(trained[0].parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b)


def test_boxes_are_those_of_torchvisions_own_forward(data, trained):
    model, x = trained[0].eval(), data.test.x
    with torch.no_grad():
        found, theirs = model(x), model.detect(x)
    assert found.shape == (len(x), TINY["detections"], 6)
    counts = 0
    for rows, given in zip(found, theirs, strict=True):
        n = len(given["boxes"])
        counts += n
        torch.testing.assert_close(rows[:n, :4], given["boxes"], rtol=1e-5, atol=1e-3)
        torch.testing.assert_close(rows[:n, 4], given["scores"])
        assert torch.equal(rows[:n, 5].long(), given["labels"])
        assert float(rows[n:].abs().sum()) == 0
    assert counts > 0


def test_every_parameter_learns_the_mask_heads_too(data):
    model = made().train()
    with seeded(Key(0)):
        model.loss(data.train.x[:4], data.train.y[:4]).backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert not idle


def test_dropout_sites_are_named_and_act_in_training_alone(data):
    model = made()
    assert [name.removeprefix("detector.") for name in rates(model)] == [
        *(f"backbone.stage{i}.dropout" for i in (1, 2, 3, 4)), "rpn.head.conv.dropout",
        "roi_heads.box_head.dropout6", "roi_heads.box_head.dropout7",
    ]  # fmt: skip
    x, y = data.train.x[:2], data.train.y[:2]

    def loss():
        with seeded(Key(1)):
            return model.train().loss(x, y).item()

    plain = loss()
    with torch.no_grad():
        before = model.eval()(x)
    for site in range(7):
        set_rates(model, [0.5 if i == site else 0.0 for i in range(7)])
        assert loss() != plain
        with torch.no_grad():
            assert torch.equal(model.eval()(x), before)


def test_arguments_rebuild_it_and_a_checkpoint_holds_it(data, trained, tmp_path):
    model = trained[0].eval()
    save_checkpoint(tmp_path / "net.pt", model, "mask-rcnn", model.arguments, "pennfudan")
    again, name, trained_on, _ = restore(torch.load(tmp_path / "net.pt", weights_only=True))
    assert (name, trained_on) == ("mask-rcnn", "pennfudan")
    with torch.no_grad():
        assert torch.equal(again.eval()(data.test.x), model(data.test.x))


def test_the_full_one_has_torchvisions_names_and_sizes():
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    with torch.device("meta"):
        ours = build("mask-rcnn", backbone="resnet50-fpn", classes=90, normalisation="frozen")
        theirs = maskrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=91)
    frozen = {n: tuple(p.shape) for n, p in theirs.state_dict().items() if "num_batches" not in n}
    assert {n: tuple(p.shape) for n, p in ours.detector.state_dict().items()} == frozen
    assert len(rates(ours)) == 7
    assert ours.detector.transform.max_size == 1333


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"backbone": "vgg"}, "small, resnet50-fpn"),
        ({"side": 32}, "at least 64"),
        ({"dropout": (0.1, 0.2)}, "7 sites"),
        ({"normalisation": "weight"}, "frozen"),
        ({"classes": 0}, "classes=0"),
        ({"hidden": 3}, "takes no argument 'hidden'"),
    ],
)
def test_impossible_arguments_are_refused(arguments, says):
    with pytest.raises(InputError, match=says):
        build("mask-rcnn", **arguments)


def test_on_ideal_hardware_it_finds_the_same_and_with_drift_all_parameters_take_part(data, trained):
    model, x = trained[0].eval(), data.test.x
    with torch.no_grad():
        clean = model(x)
        torch.testing.assert_close(to_analog(model, Hardware.preset("ideal"))(x), clean, rtol=1e-4, atol=1e-3)
        hardware = Hardware.preset("bayesft", sigma=0.5)
        analog = to_analog(model, hardware)
        assert not torch.allclose(analog(x), clean, atol=1e-2)
    drifting = {slot.name for slot, _ in chips.slots(analog)}
    assert drifting == {name for name, _ in model.named_parameters()}


def test_constants_of_a_frozen_normalisation_stay_digital():
    model = made(normalisation="frozen")
    analog = to_analog(model, Hardware.preset("bayesft"))
    frozen = {layer.name: layer for layer in chips.layers(analog) if layer.kind == "FrozenBatchNorm2d"}
    assert len(frozen) == 8
    assert all(not layer.analog and "constants" in layer.reason for layer in frozen.values())


def simple_precision(found, truth, overlap):
    """Average precision of one class by its definition: precision at 101 recalls, the best to the right of each."""
    ranked = sorted(
        ((float(row[4]), i, row) for i, rows in enumerate(found) for row in rows), key=lambda t: -t[0]
    )
    taken, hits = set(), []
    for _, i, row in ranked:
        best, which = overlap, None
        for k, box in enumerate(truth[i]):
            w = min(row[2], box[2]) - max(row[0], box[0])
            h = min(row[3], box[3]) - max(row[1], box[1])
            inter = max(float(w), 0.0) * max(float(h), 0.0)
            area = [float((b[2] - b[0]) * (b[3] - b[1])) for b in (row, box)]
            iou = inter / (sum(area) - inter)
            if (i, k) not in taken and iou >= best:
                best, which = iou, (i, k)
        hits.append(which is not None)
        taken |= {which}
    total, right, curve = sum(map(len, truth)), 0, []
    for n, hit in enumerate(hits, start=1):
        right += hit
        curve.append((right / total, right / n))
    at = [max((p for r, p in curve if r >= level / 100), default=0.0) for level in range(101)]
    return sum(at) / 101


def test_precision_is_what_its_definition_gives():
    from crossbar_sim.nn.detection import precision

    draw = random.Random(3)
    truth, found = [], torch.zeros(6, 5, 6)
    for i in range(6):
        boxes = torch.tensor(
            [[10 + 40 * k, 5 + 3 * i, 40 + 40 * k, 60 + k] for k in range(1 + i % 3)]
        ).float()
        truth.append(boxes)
        for j in range(5):
            box = boxes[draw.randrange(len(boxes))] + torch.tensor([draw.gauss(0, 4) for _ in range(4)])
            found[i, j] = torch.cat([box, torch.tensor([draw.random(), 1.0])])
    expected = [simple_precision(found, truth, 0.5 + 0.05 * k) for k in range(10)]
    got = precision(found, truth)
    assert got.map50 == pytest.approx(expected[0], abs=1e-6)
    assert got.map == pytest.approx(sum(expected) / 10, abs=1e-6)
    assert 0.1 < got.map < got.map50 < 1
    assert precision(found.flip(0), truth).map < got.map  # of the wrong images


def test_precision_at_its_ends_and_of_boxes_that_are_no_numbers():
    from crossbar_sim.nn.detection import precision

    truth = [torch.tensor([[1.0, 2, 30, 40]]), torch.tensor([[5.0, 6, 20, 30]])]
    right = torch.zeros(2, 3, 6)
    right[:, 0, :4] = torch.cat(truth)
    right[:, 0, 4:] = torch.tensor([0.8, 1.0])
    assert precision(right, truth).map == pytest.approx(1.0)
    assert precision(torch.zeros(2, 3, 6), truth).map == 0
    broken = right.clone()
    broken[1, 0, 2] = float("nan")
    assert 0.4 < precision(broken, truth).map < 0.6
