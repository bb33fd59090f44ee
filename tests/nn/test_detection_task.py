"""What a detector is to training and scoring, on one that needs no torchvision."""

import sys

import pytest
import torch
from helpers.detectors import Oracle, written_scenes
from torch import nn
from torch.nn import functional

from crossbar_sim import Key
from crossbar_sim.baselines import Awp, Ftna
from crossbar_sim.baselines.drift_aware import DriftAware
from crossbar_sim.baselines.erm import Erm
from crossbar_sim.data import Development, load_data
from crossbar_sim.errors import InputError
from crossbar_sim.nn import fit
from crossbar_sim.nn.detection import check_task, detects, task_loss
from crossbar_sim.nn.networks import build
from crossbar_sim.nn.networks.detection import objects
from crossbar_sim.nn.training.augment import Augment
from crossbar_sim.nn.training.settings import Training


def test_objects_of_an_image_are_its_numbers_in_ascending_order():
    numbers = torch.zeros(4, 7, dtype=torch.uint8)
    numbers[1:3, 2:6] = 5
    numbers[3, 0] = 2
    numbers[0, 6] = 2  # an object may be in two pieces
    masks, boxes = objects(numbers)
    assert boxes.tolist() == [[0, 0, 7, 4], [2, 1, 6, 3]]
    assert masks.sum((1, 2)).tolist() == [2, 8]


def test_a_loss_is_the_networks_own_or_cross_entropy():
    scenes = written_scenes()
    assert task_loss(Oracle(), scenes.x, scenes.y).item() == pytest.approx(0, abs=1e-5)
    model, x, y = nn.Linear(3, 4), torch.ones(2, 3), torch.tensor([1, 3])
    assert torch.equal(task_loss(model, x, y), functional.cross_entropy(model(x), y))
    assert torch.equal(task_loss(model, x, y, 0.5), functional.cross_entropy(model(x) * 0.5, y))


def test_models_and_examples_of_different_kinds_are_refused():
    labels, numbers = torch.zeros(2, dtype=torch.int64), torch.ones(2, 4, 4, dtype=torch.uint8)
    assert detects(Oracle())
    assert check_task(Oracle(), numbers)
    assert not check_task(nn.Linear(2, 2), labels)
    with pytest.raises(InputError, match=r"Oracle finds objects.*pennfudan"):
        check_task(Oracle(), labels)
    with pytest.raises(InputError, match=r"Linear tells classes apart.*mask-rcnn"):
        check_task(nn.Linear(2, 2), numbers)


def test_images_are_not_moved_away_from_their_objects():
    scenes, training = written_scenes(), Training(epochs=1, augment=Augment(flip=True))
    with pytest.raises(InputError, match="not their objects"):
        fit(Oracle(), scenes, training=training, key=Key(0))


@pytest.mark.parametrize("method", [Awp(), Ftna()])
def test_methods_that_act_on_logits_say_so(method):
    scenes = written_scenes()
    with pytest.raises(InputError, match=r"logits of classes.*erm, dropout"):
        method.fit(Oracle, Development(scenes, scenes), Key(0))


def test_a_classifier_does_not_learn_scenes_nor_a_detector_digits():
    scenes, digits = written_scenes(), load_data("digits").development
    with pytest.raises(InputError, match="MLP tells classes apart"):
        Erm().fit(lambda: build("mlp", inputs=7200), Development(scenes, scenes), Key(0))
    with pytest.raises(InputError, match="Oracle finds objects"):
        Erm().fit(Oracle, digits, Key(0))


def test_drift_in_the_gradient_leaves_the_clean_weights_and_takes_no_temperature():
    scenes, model = written_scenes(), Oracle()
    method = DriftAware(sigma=0.4, chips=2, temperature=False, training=Training(batch=5))
    before = model.fc.weight.detach().clone()
    loss = method.step(model, Key(0))(model, scenes.x, scenes.y, 1.0)
    assert loss > 0.1  # which it would not be without drift
    assert torch.equal(model.fc.weight, before)
    assert bool((model.fc.weight.grad != 0).any())
    with pytest.raises(InputError, match="temperature=false"):
        DriftAware(sigma=0.4, chips=2, training=Training(batch=5)).step(model, Key(0))


def test_without_torchvision_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(InputError, match=r"pip install '\.\[vision\]'") as caught:
        build("mask-rcnn")
    assert "\n" not in str(caught.value)


def test_without_torchmetrics_there_is_one_line(monkeypatch):
    from crossbar_sim.nn.detection import precision

    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    monkeypatch.setitem(sys.modules, "torchmetrics.detection", None)
    with pytest.raises(InputError, match=r"torchmetrics and pycocotools: pip install '\.\[vision\]'"):
        precision(torch.zeros(1, 1, 6), [torch.ones(1, 4)])
