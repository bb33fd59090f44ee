"""Sizes of the full networks, against the literature, and what their first weights do."""

import functools
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from helpers.small_networks import RESIDUAL, SMALL, images, numbers, size
from torch import nn

from crossbar_sim import InputError, Key
from crossbar_sim.data import Split
from crossbar_sim.nn import fit, seeded
from crossbar_sim.nn.dropout_sites import sites
from crossbar_sim.nn.networks import NETWORKS, build
from crossbar_sim.nn.networks.residual import Block


def test_every_network_is_here():
    elsewhere = {
        "averaged",
        "coded",
        "mask-rcnn",
        "fastconv",
    }  # fastconv: test_fastconv.py, as one filter is not trained
    assert set(SMALL) == set(NETWORKS) - elsewhere


def test_the_table_of_the_documentation_is_true():
    text = (Path(__file__).parents[2] / "docs/networks.md").read_text("utf-8")
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|.*\| ([0-9,]+) \| (\d+|one)", text, re.MULTILINE)
    rows = [row for row in rows if row[0] != "mask-rcnn"]  # test_detection.py, which needs torchvision
    assert {name for name, _, _ in rows} == {*SMALL, "fastconv"}
    for name, parameters, places in rows:
        with torch.device("meta"):
            model = build(name)
        assert size(model) == int(parameters.replace(",", "")), name
        assert len(sites(model)) == (2 if places == "one" else int(places)), name


BATCH = {"normalisation": "batch"}
LARGE = {**BATCH, "stem": "imagenet", "classes": 1000}


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("mlp", {}, 784 * 192 + 192 + 192 * 32 + 32 + 32 * 10 + 10),
        ("lenet5", {"size": 28}, 61_706),  # LeNet-5 in the usual implementations, conv3 as fc1
        ("alexnet-cifar", {"hidden": ()}, 2_469_696 + 256 * 10 + 10),  # torchvision's alexnet().features
        ("alexnet-cifar", {}, 2_469_696 + 256 * 512 + 512 + 512 * 10 + 10),
        ("vgg-11", {"hidden": ()}, 9_220_480 + 512 * 10 + 10),  # torchvision's vgg11().features
        ("vgg-11", {"hidden": (), **BATCH}, 9_231_114),  # "VGG11" of the widespread CIFAR-10 code
        ("vgg-11", {"size": 224, "hidden": (4096, 4096), "classes": 1000}, 132_863_336),  # torchvision's
        ("resnet-18", BATCH, 11_173_962),  # "ResNet18" of the widespread CIFAR-10 code
        ("resnet-18", LARGE, 11_689_512),  # torchvision's
        # "PreActResNet18" of that code, which leaves out the last normalisation (512 channels)
        ("preact-resnet-18", BATCH, 11_171_146 + 2 * 512),
        ("preact-resnet-50", LARGE, 25_549_352),  # timm's resnetv2_50
        # of each convolution with batch norm as many biases as maps, less scales and shifts of 4800 maps
        ("resnet-18", {}, 11_173_962 - 4800),
    ],
)
def test_parameters_are_as_many_as_in_the_literature(name, arguments, expected):
    with torch.device("meta"):
        assert size(build(name, **arguments)) == expected


def test_the_stn_classifier_is_a_column_of_the_committee():
    """Ciresan et al. (2012): 100, 150 and 250 maps of 7, 4 and 4 pixels, 300 hidden, at 48 pixels."""
    with torch.device("meta"):
        model = build("stn", size=48)
    column = (3 * 49 * 100 + 100) + (100 * 16 * 150 + 150) + (150 * 16 * 250 + 250)
    column += (250 * 9 * 300 + 300) + (300 * 43 + 43)
    assert size(model.features) + size(model.classifier) == column == 1_543_443


def test_preact_152_by_formula():
    def conv(n, m, k):
        return n * m * k * k

    total, before = conv(3, 64, 3), 64
    for i, blocks in enumerate((3, 8, 36, 3)):
        middle, last = 64 << i, 256 << i
        for j in range(blocks):
            total += conv(before, middle, 1) + conv(middle, middle, 3) + conv(middle, last, 1)
            total += 2 * (before + middle + middle)
            total += conv(before, last, 1) if j == 0 else 0
            before = last
    total += 2 * 2048 + 2048 * 10 + 10
    with torch.device("meta"):
        assert size(build("preact-resnet-152", **BATCH)) == total


@pytest.mark.parametrize("name", RESIDUAL)
def test_without_normalisation_every_block_starts_as_its_shortcut(name):
    with seeded(Key(2)):
        model = build(name, width=8)
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    inputs, found = {}, {}
    for block in blocks:
        block.register_forward_pre_hook(lambda m, x: inputs.update({m: x[0]}))
        block.register_forward_hook(lambda m, x, y: found.update({m: y}))
    y = model(numbers(4, 3, 16, 16))
    assert 0.01 < float(y.detach().std()) < 10
    for block in blocks:
        if not len(block.shortcut):
            x = inputs[block]
            assert torch.equal(found[block], x if block.preactivated else torch.relu(x))
    scale = len(blocks) ** (-1 / (2 * len(blocks[0].convolutions()) - 2))
    conv = blocks[-1].conv1.weight
    expected = scale * (2 / conv[0].numel()) ** 0.5
    assert float(conv.detach().std()) == pytest.approx(expected, rel=0.05)


def test_he_keeps_the_mean_square_from_layer_to_layer():
    with seeded(Key(2)):
        model = build("vgg-11", width=16)
    seen = []
    for module in model.features:
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda m, x, y: seen.append(float(y.square().mean())))
    with torch.no_grad():
        model(numbers(4, 3, 32, 32))
    assert all(0.1 < b / a < 10 for a, b in pairwise(seen))
    assert 0.05 < seen[-1] / seen[0] < 20


@pytest.mark.parametrize("name", ["resnet-18", "preact-resnet-50", "vgg-11", "stn"])
def test_it_learns_without_normalisation(name):
    kind, shape = SMALL[name]
    with seeded(Key(6)):
        model = build(name, **{**kind, "width": 6, "classes": 4})
    y = torch.arange(64) % 4
    # four classes of pictures: where the light comes from
    light = torch.zeros(shape)
    light[:, : shape[-1] // 2] = 1
    x = 0.3 * numbers(64, *shape) + torch.stack([light.rot90(int(k), (1, 2)) for k in y])
    report = fit(model, Split(x, y), epochs=8, batch=8, lr=2e-3, key=Key(7))
    assert report.history[-1].loss < 0.5 * report.history[0].loss


def test_an_stn_begins_by_looking_at_the_whole_image():
    with seeded(Key(1)):
        model = build("stn", **SMALL["stn"][0])
    x, seen = images("stn"), []
    assert torch.equal(model.maps(x), torch.eye(3)[:2].expand(3, 2, 3))
    model.features.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    model(x)
    assert torch.allclose(seen[0], x, atol=1e-5)
    # a shift of one pixel to the right, in a picture that is 2 wide
    with torch.no_grad():
        model.localisation.output.bias[2] = 2 / 32
    model(x)
    assert torch.allclose(seen[1][..., :-1], x[..., 1:], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("vgg-11", {"size": 31}, "size=31 must be an integer of at least 32"),
        ("stn", {"size": 31}, "size=31"),
        ("alexnet-cifar", {"hidden": 3}, "hidden=3 must be a sequence"),
        ("alexnet-cifar", {"width": 0}, "width=0"),
        ("vgg-11", {"dropout": (0.1,) * 8}, "8 rates but the network has 6 sites"),
        ("resnet-18", {"stem": "small"}, "stem='small' is unknown: choose from cifar, imagenet"),
        ("resnet-18", {"dropout": 1.0}, "dropout=1.0"),
        ("preact-resnet-50", {"classes": 1.5}, "classes=1.5"),
        ("preact-resnet-152", {"channels": -3}, "channels=-3"),
        ("stn", {"activation": "sign"}, "activation='sign' is unknown"),
        (
            "resnet-18",
            {"normalisation": "spectral"},
            "normalisation='spectral' is unknown: choose from None,",
        ),
        ("preact-resnet-18", {"size": 32}, "takes no argument 'size': its arguments are channels, classes"),
    ],
)
def test_bad_arguments_are_refused(name, arguments, says):
    with pytest.raises(InputError) as caught:
        build(name, **arguments)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_name_is_torchvisions():
    """`--arch resnet18` means torchvision's network, whose weights do not fit ours."""
    models = pytest.importorskip("torchvision").models
    assert not set(NETWORKS) & set(models.list_models())


def test_resnet_is_torchvisions():
    models = pytest.importorskip("torchvision").models
    theirs = models.resnet18(num_classes=5).eval()
    ours = build("resnet-18", classes=5, stem="imagenet", normalisation="batch").eval()
    names = {"downsample.0": "shortcut.conv", "downsample.1": "shortcut.norm", "bn": "norm"}
    state = {
        functools.reduce(lambda key, old: key.replace(old, names[old]), names, key): value
        for key, value in theirs.state_dict().items()
    }
    ours.load_state_dict(state)
    x = numbers(2, 3, 64, 64)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)
