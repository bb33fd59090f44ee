"""Digital calibration: what a few training images, run on a chip, put right on that chip."""

import pickle
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from crossbar_sim import Hardware, Key
from crossbar_sim.crossbar import threads
from crossbar_sim.data import Development, Split
from crossbar_sim.errors import CrossbarWarning, InputError
from crossbar_sim.nn import set_chip, to_analog
from crossbar_sim.nn.evaluate import outputs
from crossbar_sim.nn.networks import Coded, build
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.robustness import deploy
from crossbar_sim.robustness.calibration import (
    Calibration,
    Calibrator,
    Readout,
    least_squares,
    refit,
)
from crossbar_sim.robustness.score import Reference

KINDS = ("readout", "affine", "both", "lora:rank=2", "dora:rank=2", "vera:rank=8")
"""Calibrations of any model that ends in a linear layer."""

PAPER = Hardware.preset("bayesft", sigma=0.9)


@pytest.fixture(autouse=True)
def _restored():
    before = threads.threads()
    yield
    threads.set_threads(before)


def made(build) -> nn.Module:
    with seeded(Key(0).fold("test")):
        return build().eval()


class Attention(nn.Module):
    """Rows of an image as a sequence, through attention."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        rows = x.flatten(1, 2)
        return self.head(self.attention(rows, rows, rows)[0].mean(1))


def folded() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))


MODELS = {"lenet": lambda: build("lenet5", size=8), "attention": Attention, "normalised": folded}


@pytest.fixture(scope="module")
def reference(network, digits):
    return Reference.of(network, digits.test.x, digits.test.y)


def calibrated(model, data, hardware, calibration, development, chips=1):
    return deploy(
        model, data.test.x, data.test.y, hardware,
        chips=chips, sensitivity_chips=0, calibration=(calibration, development),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "gain"),
    [("readout", 0.15), ("affine", 0.05), ("both", 0.15), ("lora", 0.15), ("dora", 0.15), ("vera", 0.15)],
)
def test_every_chip_gets_better(network, digits, reference, kind, gain):
    plain = to_analog(network, PAPER)
    before = []
    for chip in range(3):
        set_chip(plain, chip)
        before.append(reference.score(plain).accuracy)
    done = calibrated(network, digits, PAPER, Calibration(kind, 200), digits.development, chips=3)
    assert [score.accuracy for score in done.uncalibrated] == before
    assert done.main.mean > sum(before) / 3 + gain
    assert all(score.broken == 0 for score in done.scores)


@pytest.mark.parametrize("kind", KINDS)
def test_a_chip_without_drift_is_left_nearly_as_it_is(network, digits, reference, kind):
    ideal = Hardware.preset("bayesft", sigma=0.0)
    (score,) = calibrated(network, digits, ideal, Calibration(kind, 300), digits.development).scores
    assert score.accuracy > reference.clean_score().accuracy - 0.01


def test_negative_control_one_chips_readout_is_no_good_on_another(network, digits, reference):
    analog = to_analog(network, Hardware.preset("bayesft", sigma=1.2), chip=0)
    calibrator = Calibrator.of(analog, Calibration(images=200), digits.development)
    with calibrator.fitted(analog) as calibrated:
        own = reference.score(calibrated).accuracy
        set_chip(analog, 1)
        assert reference.score(calibrated).accuracy < own - 0.2


def test_negative_control_wrong_labels_help_nobody(network, digits, reference):
    train = digits.train
    wrong = Development(Split(train.x, (train.y + 1) % 10), digits.validation)
    (score,) = calibrated(network, digits, PAPER, Calibration(images=200), wrong).scores
    assert score.accuracy < 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_neither_parameters_nor_arrays_nor_hooks_remain_changed(network, digits, kind):
    analog = to_analog(network, PAPER, chip=3)
    x = digits.test.x[:100]
    before, state = torch.cat(outputs(analog, x)), [p.clone() for p in network.parameters()]
    calibrator = Calibrator.of(analog, Calibration(kind, 100), digits.development)
    with calibrator.fitted(analog) as calibrated:
        assert not torch.equal(torch.cat(outputs(calibrated, x)), before)
    assert torch.equal(torch.cat(outputs(analog, x)), before)
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), state, strict=True))
    assert not any(m._forward_hooks for m in analog.modules())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_any_model_is_calibrated_with_the_same_bits_for_any_threads_and_copy(name, kind, digits):
    model = made(MODELS[name])
    hardware = Hardware.preset(
        "bayesft", sigma=0.9, normalisation="folded" if name == "normalised" else "drifting"
    )
    analog = to_analog(model, hardware, chip=1)
    x = digits.test.x[:600]
    calibrator = Calibrator.of(analog, Calibration(kind, 60), digits.development)
    found = []
    for count, which in ((1, calibrator), (3, calibrator), (1, pickle.loads(pickle.dumps(calibrator)))):
        threads.set_threads(count)
        with which.fitted(analog) as calibrated:
            found.append(torch.cat(outputs(calibrated, x)))
    assert found[0].isfinite().all()
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", MODELS)
def test_the_affine_fit_brings_outputs_nearer_to_the_clean_ones(name, digits):
    model = made(MODELS[name])
    hardware = Hardware.preset(
        "bayesft", sigma=0.6, normalisation="folded" if name == "normalised" else "drifting"
    )
    analog = to_analog(model, hardware, chip=1)
    x = digits.test.x
    clean, before = torch.cat(outputs(model, x)), torch.cat(outputs(analog, x))
    with Calibrator.of(analog, Calibration("affine", 300), digits.development).fitted(analog) as calibrated:
        after = torch.cat(outputs(calibrated, x))
    assert (after - clean).norm() < 0.8 * (before - clean).norm()


def test_a_model_that_is_one_layer_is_corrected_too(digits):
    model = made(lambda: nn.Linear(64, 10))
    x, y = digits.train.x.flatten(1), digits.train.y
    development = Development(Split(x, y), Split(x, y))
    for kind in KINDS:
        analog = to_analog(model, PAPER)
        before = outputs(analog, x[:5])[0]
        with Calibrator.of(analog, Calibration(kind, 50), development).fitted(analog) as calibrated:
            assert not torch.equal(outputs(calibrated, x[:5])[0], before)
        assert not analog._forward_hooks


def test_a_pure_scale_and_shift_of_columns_is_undone_exactly():
    y = torch.sin(torch.arange(60.0)).reshape(20, 3)
    scale, shift = torch.tensor([2.0, -0.5, 1e-3]), torch.tensor([1.0, 0.0, -4.0])
    a, b = least_squares(y, y * scale + shift)
    assert torch.allclose(a, scale, rtol=1e-4)
    assert torch.allclose(b, shift, atol=1e-5)
    dead = torch.full((20, 1), 0.1)
    a, b = least_squares(dead, y[:, :1])
    assert a.item() == 0
    assert b.item() == pytest.approx(y[:, 0].mean().item(), abs=1e-6)


def test_the_refit_is_the_minimum_of_its_cost(network, digits):
    x, y = torch.tanh(digits.train.x[:80].flatten(1)[:, 10:25]) + 0.1, digits.train.y[:80]
    prior = Readout(10, 15, torch.zeros(10, 15), torch.zeros(10))
    weight, bias = refit(x, y, prior)
    mean, deviation = x.double().mean(0), x.double().std(0, correction=0)
    deviation = torch.where(deviation > 1e-6 * deviation.max(), deviation, deviation.max())

    def cost(w, b):
        logits = x.double() @ w.T + b
        standard = (w * deviation, b + w @ mean)
        penalty = 1.5 * standard[0].square().sum() + 0.015 * standard[1].square().sum()
        return F.cross_entropy(logits, y, reduction="sum") + penalty

    w, b = weight.double().requires_grad_(), bias.double().requires_grad_()
    least = cost(w, b)
    gradients = torch.autograd.grad(least, (w, b))
    assert max(float(g.abs().max()) for g in gradients) < 0.02
    for i in range(5):  # convex: any other point costs more
        other = cost(w + 0.05 * torch.sin(torch.arange(150.0) * (i + 1)).reshape(10, 15), b)
        assert other > least


def test_features_that_never_change_get_no_say():
    x = torch.cat([torch.arange(40.0)[:, None], torch.full((40, 1), 3.0)], 1)
    y = (torch.arange(40) >= 20).long()
    weight, bias = refit(x, y, Readout(2, 2, torch.zeros(2, 2), torch.zeros(2)))
    assert weight[:, 1].abs().max() == 0
    assert ((x @ weight.T + bias).argmax(1) == y).float().mean() > 0.9


def test_coded_outputs_are_refitted_around_their_decoder(digits):
    words = [f"{17 * i % 128:07b}" for i in range(1, 11)]
    model = made(lambda: Coded("mlp", {"inputs": 64, "hidden": (16,)}, words))
    analog = to_analog(model, Hardware.preset("bayesft", sigma=0.0))
    readout = Calibrator.of(analog, Calibration(images=50), digits.development).readout
    x = digits.test.x[:20]
    h = model.network.activation1(model.network.fc1(x.flatten(1)))
    assert torch.allclose(
        torch.log_softmax(h @ readout.weight.T + readout.bias, 1), torch.log_softmax(model(x), 1), atol=1e-4
    )


def test_images_are_training_images_of_every_class_the_same_each_time(digits):
    drawn = Calibration(images=100).draw(digits.development, seed=4)
    known = {row.numpy().tobytes() for row in digits.train.x}
    assert all(row.numpy().tobytes() in known for row in drawn.x)
    assert len({row.numpy().tobytes() for row in drawn.x}) == 100
    assert torch.equal(drawn.x, Calibration("affine", 100).draw(digits.development, seed=4).x)
    assert not torch.equal(drawn.x, Calibration(images=100).draw(digits.development, seed=5).x)
    share = torch.bincount(digits.train.y) / len(digits.train) * 100
    assert float((torch.bincount(drawn.y) - share).abs().max()) <= 1


def test_the_cost_is_counted(network, digits):
    analog = to_analog(network, PAPER)
    sizes = [m.out_features for m in network.modules() if isinstance(m, nn.Linear)]
    features = [m.in_features for m in network.modules() if isinstance(m, nn.Linear)][-1]
    costs = {k: Calibrator.of(analog, Calibration(k, 50), digits.development).cost for k in KINDS}
    assert (costs["readout"].multiplications, costs["readout"].words) == (features * 10, features * 10 + 10)
    assert (costs["affine"].multiplications, costs["affine"].words) == (sum(sizes), 2 * sum(sizes))
    assert costs["both"].words == costs["affine"].words + costs["readout"].words
    assert "digital multiplications per image" in str(costs["both"])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"kind": "magic"}, "'magic' is unknown; known: statistics, affine, lora"),
        ({"kind": "statistic"}, "did you mean 'statistics'"),
        ({"kind": "lora:rank=0"}, "rank of 1 to"),
        ({"kind": "lora:r=4"}, "such as lora:rank=4"),
        ({"kind": "affine:rank=4"}, "lora, dora and vera take a rank"),
        ({"kind": "lora+vera"}, "lora and vera both correct every array"),
        ({"kind": "both+affine"}, "affine is given twice"),
        ({"kind": ""}, "'' is unknown"),
        ({"kind": 3}, "expected a text"),
        ({"kind": "lora", "images": 4}, "images=4: an integer >= 5"),
        ({"images": 1}, "images=1"),
        ({"images": True}, "images=True"),
        ({"images": 2.5}, "images=2.5"),
    ],
)
def test_impossible_settings_are_one_sentence(given, words):
    with pytest.raises(InputError, match=words):
        Calibration(**given)


class Softmaxed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(x.flatten(1)).softmax(1)


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (Softmaxed, "not those of its last linear layer"),
        (lambda: nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten()), "no linear layer"),
        (lambda: nn.Sequential(nn.Flatten(2), nn.Linear(64, 10)), "one row of features"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5)), "labels go up to 9"),
    ],
)
def test_a_model_without_a_readout_is_one_sentence(build, words, digits):
    analog = to_analog(made(build), PAPER)
    with pytest.raises(InputError, match=words):
        Calibrator.of(analog, Calibration(images=50), digits.development)


def test_test_images_missing_labels_and_too_few_images_are_refused(network, digits):
    analog = to_analog(network, PAPER)
    with pytest.raises(InputError, match="Development"):
        Calibrator.of(analog, Calibration(), digits)
    with pytest.raises(InputError, match="Development"):
        Calibrator.of(analog, Calibration(), digits.test)
    unlabelled = Development(Split(digits.train.x), digits.validation)
    with pytest.raises(InputError, match="labels"):
        Calibrator.of(analog, Calibration(images=10), unlabelled)
    with pytest.raises(InputError, match="training images"):
        Calibrator.of(analog, Calibration(images=10**6), digits.development)


def test_calibration_images_among_the_scored_examples_are_warned_of(network, digits):
    half = digits.test.x[:150]
    mixed = Development(
        Split(
            torch.cat([half, digits.train.x[:150]]), torch.cat([digits.test.y[:150], digits.train.y[:150]])
        ),
        digits.validation,
    )
    for development, share in ((mixed, True), (digits.development, False)):
        calibrator = Calibrator.of(to_analog(network, PAPER), Calibration(images=300), development)
        found = [*calibrator.overlap(digits.test.x)]
        assert [text[:42] for text in found] == ["150 of the 300 images of the calibration a"] * share
    with pytest.warns(CrossbarWarning, match="are among the examples that are scored"):
        done = calibrated(network, digits, PAPER, Calibration("affine", 300), mixed)
    assert any("150 of the 300" in text for text in done.warnings)


def test_several_labels_of_an_image_are_no_readout(network, digits):
    train = digits.train
    development = Development(Split(train.x, torch.stack([train.y] * 2, 1)), digits.validation)
    with pytest.raises(InputError, match="one class for each image"):
        Calibrator.of(to_analog(network, PAPER), Calibration(images=200), development)


def test_a_batch_of_nothing_but_padding_does_not_end_a_fit(network, digits):
    calibrator = Calibrator.of(to_analog(network, PAPER), Calibration("lora:rank=2", 100), digits.development)
    y = torch.zeros(100, 3, dtype=torch.int64)
    y[:50] = -100
    wanted = torch.cos(torch.arange(3000.0)).reshape(100, 10, 3)
    loss = replace(calibrator, images=Split(calibrator.images.x, y), wanted=wanted)._loss()
    out = torch.sin(torch.arange(1500.0)).reshape(50, 10, 3).requires_grad_()
    padding = loss(out, torch.arange(50))
    (gradient,) = torch.autograd.grad(padding, out)
    assert (float(padding.detach()), bool(gradient.any())) == (0, False)
    assert float(loss(out, torch.arange(50, 100)).detach()) > 0


def test_an_exported_graph_is_refitted_but_has_no_modules_to_correct(network, digits):
    x = digits.test.x[:7]
    batch = torch.export.Dim("batch", min=1, max=4096)
    graph = torch.export.export(network, (x,), dynamic_shapes=({0: batch},)).module()
    analog = to_analog(graph, PAPER)
    with pytest.raises(InputError, match="kind='readout'"):
        Calibrator.of(analog, Calibration("affine", 50), digits.development)
    calibrator = Calibrator.of(analog, Calibration(images=200), digits.development)
    reference = Reference.of(network, digits.test.x, digits.test.y)
    before = reference.score(analog).accuracy
    with calibrator.fitted(analog) as calibrated:
        assert reference.score(calibrated).accuracy > before + 0.1


def test_deploy_calibrates_each_chip_and_says_what_it_bought(command, files):
    done = command(
        "deploy", files.checkpoint, "--sigma", 1.0, "--chips", 6, "--calibrate", "readout", "--calibration-images", 200,
        "--sensitivity-chips", 0, "--json", "-",
    )  # fmt: skip
    assert done.code == 0, done.err
    report = done.report
    without = command(
        "deploy", files.checkpoint, "--sigma", 1.0, "--chips", 6, "--sensitivity-chips", 0, "--json", "-"
    )
    assert report["calibration"]["without"]["per_chip"] == without.report["drifted"]["accuracy"]["per_chip"]
    assert report["drifted"]["accuracy"]["mean"] > report["calibration"]["without"]["mean"] + 0.03
    assert "calibrated  readout; without it" in done.err


def test_a_calibration_without_data_or_kind_is_refused(command, files):
    done = command("deploy", files.checkpoint, "--calibration-images", 200)
    assert done.code == 2
    assert "has no effect without --calibrate" in done.err
    done = command("deploy", files.dynamic, "--calibrate", "readout")
    assert done.code == 2
    assert "give --data" in done.err
    done = command("deploy", files.dynamic, "--calibrate", "readout", "--data", files.labelled)
    assert done.code == 2
    assert "test split only" in done.err
