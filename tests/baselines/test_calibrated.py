"""Calibrated training: networks with digital normalisations, and steps with each chip's own statistics."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from crossbar_sim import Hardware, Key, train
from crossbar_sim.baselines import DriftAware
from crossbar_sim.baselines.drifted_steps import AnalogStep, DriftedStep
from crossbar_sim.baselines.method import fresh
from crossbar_sim.data import Development, Split
from crossbar_sim.errors import CrossbarWarning, InputError
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.analog.chips import layers
from crossbar_sim.nn.evaluate import outputs
from crossbar_sim.nn.files.export import export_model
from crossbar_sim.nn.files.loading import load_model
from crossbar_sim.nn.networks import build
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.nn.standardised import NORM, READOUT, standardisation_of, standardise
from crossbar_sim.nn.training.settings import Training
from crossbar_sim.robustness import deploy
from crossbar_sim.search import BayesFT

SHORT = Training(epochs=2, batch=64, lr=3e-3, clip=0.1)


def made(build) -> nn.Module:
    with seeded(Key(0).fold("test")):
        return build().eval()


class Tokens(nn.Module):
    """Rows of an image as tokens, convolutions along them, attention, and a residual block with normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 12)
        self.along = nn.Conv1d(12, 12, 3, padding=1, bias=False)
        self.attention = nn.MultiheadAttention(12, 2, batch_first=True)
        self.block = nn.Sequential(nn.Linear(12, 12), nn.LayerNorm(12), nn.GELU())
        self.head = nn.Linear(12, 10)

    def forward(self, x):
        rows = torch.relu(self.embed(x.flatten(1, 2)))
        rows = self.along(rows.transpose(1, 2)).transpose(1, 2)
        rows = rows + self.attention(rows, rows, rows)[0]
        return self.head((rows + self.block(rows)).mean(1))


def normalised() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 4, 2), nn.ReLU(), nn.Flatten(),
        nn.Linear(196, 10),
    )  # fmt: skip


NETWORKS = {
    "mlp": (lambda: build("mlp", inputs=64, hidden=(16, 12)), ["fc1", "fc2"], "fc3", []),
    "lenet5": (lambda: build("lenet5", size=8), ["conv1", "conv2", "conv3", "fc1"], "fc2", []),
    "averaged": (
        lambda: build("averaged", network="mlp", copies=2, arguments={"inputs": 64, "hidden": (9,)}),
        ["network.fc1"], "network.fc2", [],
    ),
    "tokens": (Tokens, ["embed", "along", "block.0"], "head", ["attention", "attention.out_proj"]),
    "normalised": (normalised, ["3"], "6", []),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_standardised_network_computes_what_it_did_and_keeps_its_normalisations_digital(name, digits):
    build, inserted, readout, left = NETWORKS[name]
    model, x = made(build), digits.train.x[:200]
    before = outputs(model, x)[0]
    found = standardise(model, x)
    assert ([*found.layers], found.readout, [*found.left]) == (inserted, readout, left)
    assert torch.allclose(outputs(model, x)[0], before, atol=1e-4 * float(before.abs().max()))
    kept = {layer.name: layer for layer in layers(to_analog(model, Hardware.preset("bayesft", sigma=0.5)))}
    for key in inserted:
        assert kept[f"{key}.layer"].analog
        assert (kept[f"{key}.norm"].slots, kept[f"{key}.norm"].reason) == ((), NORM)
        assert model.get_submodule(key).layer.bias is None
    assert (kept[readout].slots, kept[readout].reason) == ((), READOUT)
    again = standardisation_of(model)
    assert (again.layers, again.readout) == (found.layers, found.readout)


def test_batched_products_and_single_chips_give_the_same_gradient(digits):
    model = made(NETWORKS["mlp"][0])
    standardise(model, digits.train.x[:100])
    model.train()
    x, y = digits.train.x[:50], digits.train.y[:50]  # chips of 13, 13, 12 and 12
    state = {name: t.clone() for name, t in model.state_dict().items() if "num_batches" not in name}
    found = []
    for batched in (True, False):
        step = DriftAware(sigma=0.8, chips=4).step(model, Key(3))
        step.step.batched = batched
        for p in model.parameters():
            p.grad = None
        with seeded(Key(5)):
            loss = step(model, x, y, 1.0)
        found.append((loss, [p.grad.clone() for p in model.parameters()]))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-5)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        assert torch.allclose(a, b, atol=1e-4 * float(b.abs().max()) + 1e-6)
    assert all(torch.equal(model.state_dict()[name], t) for name, t in state.items())


def test_each_chip_is_standardised_by_its_own_images_and_the_readout_is_clean(digits):
    """The loss of a step, computed with plain torch for drift that is read from what the step multiplies."""
    model = made(NETWORKS["mlp"][0])
    standardise(model, digits.train.x[:100])
    model.train()
    x, y = digits.train.x[:30], digits.train.y[:30]
    step = DriftAware(sigma=0.7, chips=2).step(model, Key(1))
    with seeded(Key(2)):
        loss = step(model, x, y, 1.0)
    drawn = step.step._of[1]
    assert [tuple(p.shape) for p in drawn.parameters] == [(16, 64), (12, 16)]
    total = 0.0
    for chip in range(2):
        part = slice(15 * chip, 15 * chip + 15)
        h = x[part].flatten(1)
        for i, weight in enumerate(drawn.parameters):
            z = h @ (weight.detach() * drawn.factors[i][chip]).T
            norm = model.get_submodule(f"fc{i + 1}.norm")
            z = (z - z.mean(0)) / (z.var(0, correction=0) + norm.eps).sqrt() * norm.weight + norm.bias
            h = torch.relu(z)
        logits = h @ model.fc3.weight.T + model.fc3.bias
        total += float(nn.functional.cross_entropy(logits, y[part]).detach()) / 2
    assert float(loss) == pytest.approx(total, rel=1e-4)


def test_training_saving_and_deploying_with_statistics(digits, tmp_path, command):
    done = command(
        "train", "--network", "mlp", "--set", "chips=4", "--data", "digits", "--method", "drift-aware", "--calibrated",
        "--sigma", 1.0, "--epochs", 15, "--batch", 64, "-o", tmp_path / "net.pt",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert 'standardised: ["fc1", "fc2"]' in done.out
    assert 'read-out: "fc3"' in done.out
    assert "--sigma 0.6 --calibrate statistics" in done.out
    loaded = load_model(tmp_path / "net.pt")
    assert standardisation_of(loaded.module).readout == "fc3"
    scores = {}
    for sigma in (0, 1.0):
        for kind in (None, "statistics", "statistics+readout"):
            found = deploy(
                copy.deepcopy(loaded.module), digits.test.x, digits.test.y, Hardware.preset("bayesft", sigma=sigma),
                chips=3, sensitivity_chips=0, calibrate=kind, calibration_data=kind and digits.development,
            )  # fmt: skip
            scores[sigma, kind] = found.main.mean
    assert scores[0, None] > 0.88  # its own statistics are those of the network without drift
    assert scores[0, "statistics"] > scores[0, None] - 0.015
    assert scores[1.0, None] < scores[1.0, "statistics"] - 0.1
    assert scores[1.0, "statistics"] > 0.85
    assert scores[1.0, "statistics+readout"] > 0.85


def seen_by(module: nn.Module, model: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """The output of a model for x, and the input of one of its modules."""
    seen: list[torch.Tensor] = []
    handle = module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    y = model(x)
    handle.remove()
    return [y, *seen]


@pytest.mark.parametrize("name", ["tokens", "normalised"])
def test_any_network_trains_on_any_design(name, digits):
    for hardware in (None, Hardware.preset("bayesft", sigma=0.0, levels=16)):
        method = DriftAware(sigma=0.5, chips=4, training=SHORT, calibrated=True, hardware=hardware)
        done = method.fit(NETWORKS[name][0], digits.development, Key(0))
        model = done.model
        step = method.step(model, Key(0)).step
        assert isinstance(step, DriftedStep if hardware is None else AnalogStep)
        x = digits.train.x[:2000]
        with torch.no_grad():  # the statistics are those of clean weights
            norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
            assert all(norm.momentum == 0.1 for norm in norms)
            _, before = seen_by(norms[0], model, x)
        kept = before.movedim(1, -1) if before.dim() == 4 else before
        mean = kept.reshape(-1, kept.shape[-1]).mean(0)
        assert torch.allclose(norms[0].running_mean, mean, atol=0.02 * float(mean.abs().max()))


def test_a_network_with_a_computed_first_layer():
    x = torch.sin(torch.arange(64 * 3 * 100.0) ** 1.1).reshape(64, 3, 10, 10)
    examples = Split(x, torch.arange(64) % 10)
    method = DriftAware(sigma=0.3, chips=2, training=Training(1, 32), calibrated=True)
    done = method.fit(lambda: build("fastconv", width=4), Development(examples, examples), Key(0))
    assert done.notes["standardised"] == ["whitening"]
    assert done.model.whitening.layer.weight.any()
    assert done.model.whitening.out_channels == 24


def test_the_square_leaves_the_digital_readout(digits):
    method = DriftAware(sigma=0.5, chips=4, training=SHORT, calibrated=True, parameters="square")
    assert "calibrated=True" in repr(method)
    assert "calibrated" not in repr(DriftAware())
    from crossbar_sim.baselines.drift_aware import squared

    model = made(NETWORKS["mlp"][0])
    standardise(model, digits.train.x[:50])
    assert [tuple(p.shape) for p in squared(model, "square")] == [(16, 64), (12, 16)]
    assert method.fit(NETWORKS["mlp"][0], digits.development, Key(0)).report.epochs == 2


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x):
        return self.head(self.fc(self.fc(x.flatten(1))))


class Tied(nn.Module):
    """A residual block of torch's between two layers, of which `tied` share their weight."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        self.last = nn.Linear(8, 8)
        if tied:
            self.last.weight = self.embed.weight

    def forward(self, x):
        x = self.embed(x.flatten(1, 2))
        kept = torch.zeros(x.shape[:2], dtype=torch.bool)  # no row is padding
        return self.last(self.block(x, src_key_padding_mask=kept).mean(1))


class Complex(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 12, dtype=torch.cfloat)
        self.middle, self.last = nn.Linear(12, 12), nn.Linear(12, 10)

    def forward(self, x):
        return self.last(torch.relu(self.middle(self.first(x.flatten(1).to(torch.cfloat)).abs())))


def test_normalisations_in_a_block_of_torch_act_in_evaluation_too(digits):
    """Its fused kernel reads the weights of its linear layers and would leave them out."""
    x = digits.train.x[:64]
    for stacked in (False, True):
        model = made(Tied)
        if stacked:
            model.block = nn.TransformerEncoder(model.block, 1).eval()
        before = outputs(model, x)[0]
        found = standardise(model, x)
        name = "block.layers.0.linear1" if stacked else "block.linear1"
        assert {name, name.replace("1", "2") if not stacked else "block.layers.0.linear2"} <= set(
            found.layers
        )
        with torch.no_grad():
            assert torch.allclose(model(x), before, atol=1e-4)
            model.get_submodule(name).norm.weight.mul_(3)
            assert not torch.allclose(model(x), before, atol=1e-2)


@pytest.mark.filterwarnings("ignore:only .* of the multiply-adds")
def test_complex_layers_stay_digital_and_learn(digits):
    for way in ({"calibrated": True}, {"parameters": "square"}):
        method = DriftAware(sigma=0.3, chips=4, training=SHORT, temperature=False, **way)
        done = method.fit(Complex, digits.development, Key(0))
        assert done.notes.get("standardised", ["middle"]) == ["middle"]
        assert not torch.equal(done.model.first.weight, fresh(Complex, Key(0)).first.weight)


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (
            lambda: Tied(tied=True),
            "the last layer, last, is to be digital, and its weight is also that of embed",
        ),
        (lambda: NETWORKS["mlp"][0]().bfloat16(), "does not take examples of .*: mat1 and mat2"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "calls 1 linear layers and convolutions"),
        (Twice, "fc is called 2 times"),
    ],
)
def test_networks_that_cannot_be_calibrated_are_one_sentence(network, words, digits):
    with pytest.raises(InputError, match=words):
        DriftAware(chips=4, training=SHORT, calibrated=True).fit(network, digits.development, Key(0))


def test_chips_with_a_single_image_are_refused(digits):
    with pytest.raises(InputError, match="two examples at least"):
        DriftAware(chips=40, training=SHORT, calibrated=True)
    few = Development(Split(digits.train.x[:10], digits.train.y[:10]), digits.validation)
    with pytest.raises(InputError, match="10 examples in a step for 8 chips"):
        DriftAware(chips=8, training=SHORT, calibrated=True).fit(NETWORKS["mlp"][0], few, Key(0))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("--method", "erm"), "--calibrated is for --method drift-aware"),
        (("--method", "drift-aware", "--set", "calibrated=false"), "give one of them"),
    ],
)
def test_the_option_with_what_it_cannot_go_with(given, words, command, tmp_path):
    done = command(
        "train", "--network", "mlp", "--data", "digits", "--calibrated", *given, "-o", tmp_path / "m.pt"
    )
    assert done.code == 2
    assert words in done.err


def test_an_export_says_what_is_to_stay_digital(digits, tmp_path):
    model, x = made(NETWORKS["mlp"][0]), digits.train.x[:50]
    standardise(model, x)
    with pytest.warns(CrossbarWarning, match="--layer 'fc1.norm:digital' .* --layer 'fc3:digital'"):
        export_model(model, x[:4], tmp_path / "m.pt2")
    designs = dict.fromkeys(("fc1.norm", "fc2.norm", "fc3"), "digital")
    designs["*"] = Hardware.preset("bayesft", sigma=0.8)
    found = [
        deploy(each, digits.test.x, digits.test.y, how, chips=2, sensitivity_chips=0, calibrate="statistics",
               calibration_data=digits.development).main.mean
        for each, how in ((model, designs["*"]), (load_model(tmp_path / "m.pt2").module, designs))
    ]  # fmt: skip
    assert found[0] == pytest.approx(found[1], abs=1e-3)


def test_an_experiment_trains_and_calibrates(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)  # results are written to the current folder
    file = Path(__file__).parents[2] / "benchmarks" / "bayesft" / "best_mnist_mlp_calibrated.toml"
    text = file.read_text()
    for old, new in (
        ('"mnist"', '"digits"'), ("chips = 100", "chips = 2"), ("epochs = 60", "epochs = 2"), ("[0, 1, 2]", "[0]"),
        ("sigmas = [0.0, 0.3, 0.6, 0.9, 1.2, 1.5]", "sigmas = [0.9]"),
    ):  # fmt: skip
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "c.toml").write_text(text)
    done = command("run", tmp_path / "c.toml")
    assert done.code == 0, done.err
    other = text.replace('"mlp"', '"mlp"\narguments = { hidden = [] }')
    (tmp_path / "c.toml").write_text(other)
    done = command("run", tmp_path / "c.toml")
    assert done.code == 2
    assert "calls 1 linear layers" in done.err


def test_a_damaged_checkpoint_is_one_sentence(digits, tmp_path):
    model = made(NETWORKS["mlp"][0])
    standardise(model, digits.train.x[:50])
    from crossbar_sim.nn import save_checkpoint

    path = tmp_path / "m.pt"
    save_checkpoint(path, model, "mlp", model.arguments, "digits")
    content = torch.load(path, weights_only=True)
    for field, words in (
        ({"layers": {"fc9": 2}, "readout": "fc3"}, "'fc9'"),
        ({"layers": {"fc1": 2}, "readout": "head"}, "'head'"),
        ({"layers": {"fc1": 99}, "readout": "fc3"}, "fc1"),
        ({"layers": ["fc1"], "readout": "fc3"}, "damaged"),
        (7, "damaged"),
    ):
        torch.save({**content, "standardised": field}, path)
        with pytest.raises(InputError, match=words):
            load_model(path)


def test_a_training_continues_from_a_calibrated_network(digits, tmp_path, command):
    common = ("train", "--network", "mlp", "--data", "digits", "--set", "chips=4", "--batch", 64)
    aware = ("--method", "drift-aware", "--sigma", 1.0, "--calibrated")
    first, then = tmp_path / "a.pt", tmp_path / "b.pt"
    assert command(*common, *aware, "--epochs", 6, "-o", first).code == 0
    begun = ("--from", first)
    done = command(*common, *aware, *begun, "--lr", 1e-9, "--epochs", 1, "-o", then)
    assert done.code == 0, done.err
    a, b = (load_model(path).module for path in (first, then))
    assert standardisation_of(b) == standardisation_of(a)
    for name, weight in a.named_parameters():
        assert torch.allclose(b.get_parameter(name), weight, atol=1e-5), name
    model = DriftAware(sigma=1.0, chips=4, training=SHORT, calibrated=True)
    further = train("mlp", digits, model, start=a)
    assert further.report.validation_accuracy > 0.85
    for method in (("--method", "erm"), ("--method", "drift-aware", "--sigma", 1.0), ("--method", "ftna")):
        done = command(
            "train", "--network", "mlp", "--data", "digits", *method, *begun, "-o", tmp_path / "c.pt"
        )
        assert done.code == 2
        assert "trained for calibrated chips" in done.err
    done = command(
        "train", "--network", "lenet5", "--data", "digits", *aware, *begun, "-o", tmp_path / "c.pt"
    )
    assert done.code == 2
    assert "LeNet5 has no layer 'fc3'" in done.err
    assert not (tmp_path / "c.pt").exists()


@pytest.mark.parametrize("algorithm", ["literal", "restart"])
def test_bayesft_trains_and_scores_calibrated_networks(algorithm, digits):
    pytest.importorskip("botorch")
    training = Training(epochs=12, batch=64, lr=3e-3, clip=0.1)
    polish = None if algorithm == "restart" else training
    method = BayesFT(
        sigma=1.0, trials=2, initial=2, algorithm=algorithm, training_chips=4, chips=3, images=200, fresh_chips=3,
        training=training, polish=polish, calibrated=True, rates=(0, 0.3),
    )  # fmt: skip
    assert "calibrated=True" in repr(method)
    done = train(NETWORKS["mlp"][0], digits, method)
    assert standardisation_of(done.model).readout == "fc3"
    found = {
        kind: deploy(
            copy.deepcopy(done.model), digits.validation.x, digits.validation.y, Hardware.preset("bayesft", sigma=1.0),
            chips=3, sensitivity_chips=0, calibrate=kind, calibration_data=kind and digits.development,
        ).main.mean
        for kind in (None, "statistics")
    }  # fmt: skip
    assert found["statistics"] > found[None] + 0.1
    assert done.notes["fresh"]["mean"] == pytest.approx(found["statistics"], abs=0.06)
