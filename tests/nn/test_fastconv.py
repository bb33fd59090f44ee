"""The network behind a whitening convolution."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.small_networks import numbers
from torch import nn

from crossbar_sim import Hardware, Key, LogNormalDrift, deploy
from crossbar_sim.baselines import DriftAware, Ftna
from crossbar_sim.data import Development, Split
from crossbar_sim.errors import InputError
from crossbar_sim.nn import layers, load_model, save_checkpoint, to_analog
from crossbar_sim.nn.networks import FastConv, build
from crossbar_sim.nn.networks.fastconv import whitening
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.nn.training.augment import Augment
from crossbar_sim.nn.training.loop import fit
from crossbar_sim.nn.training.settings import Training
from crossbar_sim.robustness.calibration import Calibration

HOW = Training(
    2, 30, 0.05, "muon", "linear", label_smoothing=0.2, channels_last=True,
    augment=Augment(1, "alternating", "reflect"),
)  # fmt: skip


def made_images(n: int = 90) -> Split:
    """Blurred noise of three colours and three classes, which differ by the brightness of a colour."""
    noise = nn.functional.avg_pool2d((numbers(n, 3, 14, 14) * 43758.5).sin(), 3, 1)
    y = torch.arange(n) % 3
    noise[torch.arange(n), y] += 1
    return Split(noise, y)


@pytest.fixture(scope="module")
def data() -> Development:
    return Development(made_images(), made_images(30))


def network(**arguments: object) -> FastConv:
    with seeded(Key(0)):
        return build("fastconv", classes=3, width=4, **arguments)  # type: ignore[return-value]


def taught(data: Development, **arguments: object) -> FastConv:
    model = network(**arguments)
    fit(model, data.train, data.validation, key=Key(0), training=HOW)
    return model


def test_the_sizes_are_those_of_the_record_at_half_and_full_width() -> None:
    """Its filters and outputs, and two biases beside them: 24 of the whitening and a shift per normalised map."""
    for width in (32, 64):
        wide = 4 * width
        filters = 24 * width + width**2 + width * wide + 3 * wide**2
        count = 3 * 4 * 24 + 24 + 9 * filters + 2 * width + 4 * wide + 10 * wide
        assert sum(p.numel() for p in build("fastconv", width=width).parameters()) == count
    assert sum(p.numel() for p in build("fastconv").parameters()) == 497528


def test_whitened_patches_have_variance_1_and_no_correlation(data: Development) -> None:
    x = data.train.x
    y = nn.functional.conv2d(x.double(), whitening(x).double()).transpose(0, 1).flatten(1)
    spread = torch.cov(y[:12])
    assert torch.allclose(spread, spread.diag().diag(), atol=1e-5)
    assert spread.diag().min() > 0.9  # a little less than 1 where a component hardly varies
    assert spread.diag().max() < 1.0
    assert torch.equal(y[12:], -y[:12])
    before = torch.cov(x.transpose(0, 1).flatten(1))  # of colours alone
    assert not torch.allclose(before, before.diag().diag(), atol=1e-3)


def test_a_training_begins_with_the_whitening_and_leaves_it(data: Development) -> None:
    model = network()
    assert not model.whitening.weight.any()
    fit(model, data.train, data.validation, key=Key(0), training=HOW)
    assert torch.equal(model.whitening.weight, whitening(data.train.x))
    assert model.whitening.bias is not None
    assert model.whitening.bias.any()  # it is trained
    other = Split(data.train.x.flip(1) * 3, data.train.y)
    fit(model, other, key=Key(0), training=HOW)
    assert torch.equal(model.whitening.weight, whitening(data.train.x))
    behind_another = nn.Sequential(nn.Conv2d(1, 3, 1), network())
    with pytest.raises(InputError, match="images of 3 channels"):
        fit(behind_another, Split(data.train.x[:, :1], data.train.y), key=Key(0), training=HOW)


def test_it_is_saved_and_deployed_like_any_network(data: Development, tmp_path) -> None:
    model = taught(data, dropout=0.1)
    save_checkpoint(tmp_path / "fast.pt", model, "fastconv", model.arguments, "cifar10")
    x = data.validation.x
    loaded = load_model(tmp_path / "fast.pt").module
    assert torch.equal(loaded(x), model(x))
    for normalisation in ("digital", "folded", "drifting"):
        hardware = Hardware(normalisation=normalisation, drift=LogNormalDrift(0.0))
        analog = to_analog(model, hardware, seed=0)
        assert torch.allclose(analog(x), model(x), atol=1e-4)
        assert next(layer.name for layer in layers(analog) if layer.analog) == "whitening"
        assert sum(layer.analog for layer in layers(analog)) == 8
    found = deploy(
        model, data.validation, hardware=Hardware(normalisation="drifting", drift=LogNormalDrift(0.6)), chips=2,
        calibrate=Calibration("statistics", images=60), calibration_data=data, sensitivity_chips=0,
    )  # fmt: skip
    assert len(found.scores) == len(found.uncalibrated) == 2


@pytest.mark.parametrize(
    "method", [Ftna(training=HOW, confusion_epochs=1), DriftAware(chips=2, training=HOW)]
)
def test_methods_train_it(data: Development, method) -> None:
    done = method.fit(network, data, Key(1))
    filters = next(p for name, p in done.model.named_parameters() if name.endswith("whitening.weight"))
    assert torch.equal(filters, whitening(data.train.x))


def test_the_augmentation_of_the_recipe_is_turned_off_by_null(command, tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (24, 3, 32, 32)).astype(np.uint8)
    y = np.arange(24) % 2
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x[:6], y_test=y[:6])
    common = (
        "train",
        "--data",
        tmp_path / "d.npz",
        "--network",
        "fastconv",
        "--network-arguments",
        '{"width": 4}',
    )
    found = []
    for i, given in enumerate(((), ("--set", "augment=null"), ("--set", 'augment={"crop": 2}'))):
        done = command(*common, "--epochs", 1, *given, "-o", tmp_path / f"{i}.pt")
        assert done.code == 0, done.err
        state = torch.load(tmp_path / f"{i}.pt", weights_only=True)["state_dict"]
        found.append(torch.cat([v.flatten().float() for v in state.values()]))
    assert not any(torch.equal(found[a], found[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    refused = command(*common, "--set", "augment=none", "-o", tmp_path / "no.pt")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "expected a table such as {crop = 2, flip = true}" in refused.err
