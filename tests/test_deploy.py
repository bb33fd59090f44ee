"""`robustness.deploy` against a slow and obvious way to the same numbers, and on models of every shape."""

import copy
import gc
import math
import re
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import crossbar_sim
from crossbar_sim import Differential, Hardware, InputError, Key, LogNormalDrift, ProgrammingNoise, StuckCells
from crossbar_sim.crossbar import kernels, threads
from crossbar_sim.data import Splits
from crossbar_sim.nn import seeded
from crossbar_sim.robustness import deploy, summarise, yield_at

pytestmark = pytest.mark.filterwarnings("ignore::crossbar_sim.crossbar.presets.ValidityWarning")

ON_ARRAYS = Hardware(drift=LogNormalDrift(0.5), drift_per="cell", mapping=Differential(g_min=1e-6))


class Around(nn.Module):
    """A model whose forward is that of a function around some layers."""

    def __init__(self, forward: Any, **layers: nn.Module) -> None:
        super().__init__()
        self.around = forward
        for name, layer in layers.items():
            self.add_module(name, layer)

    def forward(self, x: torch.Tensor) -> Any:
        return self.around(self, x)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def seeded_model(make: Any) -> nn.Module:
    with seeded(Key(7)):
        return make().eval()


def by_hand(
    model: nn.Module, hardware: Hardware, chip: int, layers: set[str] | None = None, seed: int = 0
) -> nn.Module:
    """A plain copy whose linear and 2-D convolution weights are what `Hardware.program` makes of them."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, module in model.named_modules():
            if (layers is not None and name not in layers) or not list(module.parameters(recurse=False)):
                continue
            for part, parameter in module.named_parameters(recurse=False):
                full = f"{name}.{part}"
                if parameter.dim() >= 2:
                    matrix = parameter.detach().reshape(len(parameter), -1).T.numpy()
                    changed = hardware.program(matrix, Key(seed).fold(full), chip).weight
                    parameter.copy_(torch.from_numpy(changed.T.copy()).reshape(parameter.shape))
                elif hardware.bias == hardware.normalisation == "drifting":
                    matrix = parameter.detach().reshape(-1, 1).numpy()
                    changed = hardware.program(matrix, Key(seed).fold(full), chip).weight
                    parameter.copy_(torch.from_numpy(changed.reshape(-1).copy()))
    return model


def share(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    with torch.no_grad():
        return int((model(x).argmax(1) == y).sum()) / len(x)


@pytest.mark.parametrize(
    "hardware",
    [
        ON_ARRAYS,
        Hardware.preset("bayesft", sigma=0.8),
        Hardware(
            Differential(g_min=2e-6, levels=8, copies=2),
            LogNormalDrift(0.8),
            ProgrammingNoise(0.03),
            StuckCells(off=0.02),
            bias="drifting",
            normalisation="drifting",
            drift_per="weight",
        ),
    ],
    ids=["cells", "bayesft", "everything"],
)
def test_every_chip_scores_as_plain_torch_on_programmed_weights(
    network: nn.Module, digits: Splits, hardware: Hardware
):
    x, y = digits.test.x, digits.test.y
    assert y is not None
    chips, found = (5, 0, 11), deploy(network, x, y, hardware, chips=(5, 0, 11), sensitivity_chips=2, seed=4)
    # One image in 450 may lie on the edge between two classes, where summing in another order decides.
    expected = [share(by_hand(network, hardware, chip, seed=4), x, y) for chip in chips]
    assert [s.accuracy for s in found.scores] == pytest.approx(expected, abs=1.01 / len(x))
    assert len(set(expected)) > 1
    assert found.chips == chips
    assert found.clean.accuracy == share(network, x, y)
    for report in found.layers:
        alone = [by_hand(network, hardware, chip, {report.layer.name}, seed=4) for chip in chips[:2]]
        drops = [share(network, x, y) - share(model, x, y) for model in alone]
        assert report.sensitivity is not None
        assert report.sensitivity.drop.per_chip == pytest.approx(drops, abs=1.01 / len(x))
        assert report.sensitivity.images == len(x)
    assert any(r.sensitivity.drop.mean > 0.005 for r in found.layers if r.sensitivity)
    assert found.main == summarise([s.accuracy for s in found.scores if s.accuracy is not None])
    assert found.threshold == round(share(network, x, y) - 0.05, 4)
    assert found.passing == yield_at(found.main.per_chip, found.threshold)


def test_chips_are_a_number_or_their_numbers(network: nn.Module, digits: Splits):
    x, y = digits.test.x[:20], digits.test.y[:20]
    hardware = Hardware.preset("bayesft", sigma=0.6)
    two, same = (
        deploy(network, x, y, hardware, chips=chips, sensitivity_chips=0).as_dict() for chips in (2, [0, 1])
    )
    assert two == same
    with pytest.raises(InputError, match="at least one chip"):
        deploy(network, x, y, hardware, chips=0)


def test_agreement_and_output_error_by_hand(network: nn.Module, digits: Splits):
    x = digits.test.x[:200]
    found = deploy(network, x, None, ON_ARRAYS, chips=range(3), sensitivity_chips=0)
    with torch.no_grad():
        clean = network(x)
        for chip, score in enumerate(found.scores):
            outputs = by_hand(network, ON_ARRAYS, chip)(x)
            agree = float((outputs.argmax(1) == clean.argmax(1)).double().mean())
            assert score.accuracy is None
            assert score.agreement == pytest.approx(agree, abs=1.01 / len(x))
            assert score.output_error == pytest.approx(
                float((outputs - clean).norm() / clean.norm()), rel=1e-4
            )
    assert found.metric == "agreement"
    assert found.threshold == 0.95
    report = found.as_dict()
    assert report["clean"]["accuracy"] is None
    assert report["drifted"]["accuracy"] is None
    assert report["drifted"]["agreement"]["mean"] == found.main.mean


def test_a_convolutional_network_with_batch_norm_drifts_in_every_parameter():
    def make() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 25, 4)
        )

    model = seeded_model(make)
    model.train()(normal(64, 2, 5, 5))  # statistics of its own
    model.eval()
    with torch.no_grad():
        model[1].weight.add_(normal(6, seed=3) * 0.2)  # type: ignore[operator]
        model[1].bias.add_(normal(6, seed=4))  # type: ignore[operator]
    x = normal(300, 2, 5, 5, seed=1)
    with torch.no_grad():
        y = model(x).argmax(1)
    hardware = Hardware.preset("bayesft", sigma=0.7)
    found = deploy(model, x, y, hardware, chips=range(4), sensitivity_chips=4)
    expected = [share(by_hand(model, hardware, chip), x, y) for chip in range(4)]
    assert [s.accuracy for s in found.scores] == pytest.approx(expected, abs=1.01 / len(x))
    assert found.clean.accuracy == 1.0
    norm = next(r for r in found.layers if r.layer.kind == "BatchNorm2d")
    assert not norm.layer.analog
    assert norm.effects["drift"] > 0.1
    drops = [1 - share(by_hand(model, hardware, chip, {"1"}), x, y) for chip in range(4)]
    assert norm.sensitivity is not None
    assert norm.sensitivity.drop.per_chip == pytest.approx(drops, abs=1.01 / len(x))
    assert max(drops) > 0


def test_pixels_of_a_segmentation_are_compared_one_by_one():
    model = seeded_model(lambda: nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1)))
    x = normal(40, 1, 6, 7)
    found = deploy(model, x, None, ON_ARRAYS, chips=range(2), sensitivity_chips=0)
    for chip, score in enumerate(found.scores):
        with torch.no_grad():
            same = by_hand(model, ON_ARRAYS, chip)(x).argmax(1) == model(x).argmax(1)
        assert score.agreement == pytest.approx(float(same.double().mean()), abs=2 / same.numel())
        assert 0 < score.agreement < 1
    with pytest.raises(InputError, match="one output per class"):
        deploy(model, x, torch.zeros(40, dtype=torch.int64), ON_ARRAYS, chips=[0])


@pytest.mark.parametrize("shape", ["(n, 1)", "(n,)"])
def test_a_regression_has_an_output_error_alone(shape: str):
    model = seeded_model(
        lambda: Around(lambda m, x: m.fc(x) if shape == "(n, 1)" else m.fc(x)[:, 0], fc=nn.Linear(5, 1))
    )
    x = normal(100, 5)
    found = deploy(model, x, None, ON_ARRAYS, chips=range(3), sensitivity_chips=1)
    assert found.metric == "output_error"
    assert found.threshold is None
    assert found.passing is None
    errors = [score.output_error for score in found.scores]
    assert all(error is not None and 0.01 < error < 10 for error in errors)
    assert found.as_dict()["yield"] is None
    assert found.as_dict()["drifted"]["output_error"]["per_chip"] == errors
    assert found.layers[0].sensitivity is not None
    assert found.layers[0].sensitivity.drop.mean == pytest.approx(errors[0])


def test_the_threshold_of_an_output_error_is_the_largest_that_passes():
    model, x = seeded_model(lambda: nn.Linear(5, 1)), normal(100, 5)
    errors = sorted(-s for s in deploy(model, x, None, ON_ARRAYS, chips=range(8)).main.per_chip)
    between = (errors[2] + errors[3]) / 2
    found = deploy(model, x, None, ON_ARRAYS, chips=range(8), threshold=between)
    assert found.as_dict()["yield"]["value"] == 3 / 8
    assert found.as_dict()["yield"]["threshold"] == between


def test_several_outputs_that_are_no_classes_can_be_judged_by_their_error():
    model, x = seeded_model(lambda: nn.Linear(5, 3)), normal(100, 5)
    assert deploy(model, x, None, ON_ARRAYS, chips=range(3)).metric == "agreement"
    found = deploy(model, x, None, ON_ARRAYS, chips=range(3), metric="output_error", threshold=1e9)
    assert found.metric == "output_error"
    assert [-score for score in found.main.per_chip] == [score.output_error for score in found.scores]
    assert found.as_dict()["yield"]["value"] == 1.0


@pytest.mark.parametrize(("outputs", "metric", "says"), [
    (3, "accuracy", "needs labels"), (1, "agreement", "one output"), (3, "loss", "metric .loss. is unknown"),
])  # fmt: skip
def test_a_metric_that_cannot_be_had_is_refused(outputs: int, metric: str, says: str):
    model = seeded_model(lambda: nn.Linear(5, outputs))
    with pytest.raises(InputError, match=says):
        deploy(model, normal(10, 5), None, ON_ARRAYS, chips=range(2), metric=metric)


def recurrent() -> nn.Module:
    return Around(
        lambda m, x: (m.head(m.rnn(x)[0][:, -1]), None),
        rnn=nn.LSTM(3, 8, batch_first=True), head=nn.Linear(8, 4),
    )  # fmt: skip


def attention() -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return Around(
        lambda m, x: {"logits": m.head(m.encoder(x).mean(1))},
        encoder=nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), head=nn.Linear(8, 4),
    )  # fmt: skip


def channels_last() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(32, 4)).to(
        memory_format=torch.channels_last
    )


MODELS = {
    "LSTM, tuple": (recurrent, (6, 3)),
    "transformer, dict": (attention, (6, 8)),
    "3-D convolution": (
        lambda: nn.Sequential(nn.Conv3d(1, 4, 2), nn.Flatten(), nn.Linear(32, 4)),
        (1, 3, 3, 3),
    ),
    "channels_last": (channels_last, (3, 4, 4)),
    "transposed convolution": (lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.Flatten()), (2, 2, 2)),
    "10,000 classes": (lambda: nn.Linear(4, 10_000), (4,)),
    "one layer, shared": (lambda: Around(lambda m, x: m.a(m.a(x)), a=nn.Linear(4, 4)), (4,)),
}


@pytest.mark.parametrize("name", MODELS)
def test_models_of_every_shape(name: str):
    make, shape = MODELS[name]
    model, x = seeded_model(make), normal(23, *shape)
    ideal = deploy(model, x, None, Hardware(), chips=[0])
    assert ideal.scores[0].agreement == 1
    assert ideal.scores[0].output_error is not None
    assert ideal.scores[0].output_error < 1e-5
    found = deploy(model, x, None, ON_ARRAYS, chips=range(2), block=7)
    again = deploy(model, x, None, ON_ARRAYS, chips=range(2), block=7)
    assert found.as_dict() == again.as_dict()
    assert found.scores[0].output_error is not None
    assert found.scores[0].output_error > 0.01


def test_a_model_left_in_training_mode_is_evaluated_without_dropout_and_left_in_evaluation_mode():
    model = seeded_model(
        lambda: nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.Dropout(0.5), nn.Linear(32, 4))
    )
    x = normal(200, 6)
    expected = deploy(model, x, None, ON_ARRAYS, chips=range(2)).as_dict()
    before = model[1].running_mean.clone()  # type: ignore[union-attr, operator]
    assert deploy(model.train(), x, None, ON_ARRAYS, chips=range(2)).as_dict() == expected
    assert torch.equal(model[1].running_mean, before)  # type: ignore[arg-type]


def test_the_users_model_stays_as_it_was(network: nn.Module, digits: Splits):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    deploy(network, digits.test.x[:50], digits.test.y[:50], ON_ARRAYS, chips=range(2))  # type: ignore[index]
    assert before.keys() == network.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_progress_counts_up_to_its_total(network: nn.Module, digits: Splits):
    for wanted in (0, 2, 9):
        seen: list[tuple[int, int]] = []
        deploy(
            network, digits.test.x[:20], None, ON_ARRAYS, chips=range(4), sensitivity_chips=wanted,
            progress=lambda done, total, what, seen=seen: seen.append((done, total)),
        )  # fmt: skip
        total = 1 + 4 + min(wanted, 4) * 3
        assert seen == [(done, total) for done in range(1, total + 1)]


def test_progress_says_how_long_layers_take_and_how_to_leave_them_out(
    network: nn.Module, digits: Splits, monkeypatch
):
    def said(least: float) -> list[str]:
        monkeypatch.setattr("crossbar_sim.robustness.sensitivity.LONG", least)
        seen: list[str] = []
        deploy(
            network, digits.test.x[:20], None, ON_ARRAYS, chips=range(2), sensitivity_chips=1,
            progress=lambda done, total, what: seen.append(what),
        )  # fmt: skip
        return seen

    alone = [what for what in said(0.0) if " alone" in what]
    assert len(alone) == 3
    assert all(
        re.search(r" alone\n.* about \d+ min more \(--sensitivity-chips 0 leaves it out\)", w) for w in alone
    )
    assert not any("\n" in what for what in said(1e9))


def test_chips_are_the_same_ones_in_any_order_and_company(network: nn.Module, digits: Splits):
    def score(*chips: int) -> dict[int, float]:
        found = deploy(network, digits.test.x, digits.test.y, ON_ARRAYS, chips=chips, sensitivity_chips=0)
        return dict(zip(chips, found.main.per_chip, strict=True))

    together = score(*range(12))
    assert score(*range(6)) | score(*range(11, 5, -1)) == together
    assert len(set(together.values())) > 3


def test_one_chip_has_no_interval(network: nn.Module, digits: Splits):
    found = deploy(network, digits.test.x[:1], digits.test.y[:1], ON_ARRAYS, chips=[3], sensitivity_chips=1)  # type: ignore[index]
    report = found.as_dict()["drifted"]["accuracy"]
    assert report["ci95"] is None
    assert report["std"] is None
    assert report["per_chip"] == [report["mean"]]


def test_memory_does_not_grow_with_chips():
    model, x = (
        seeded_model(lambda: nn.Linear(1000, 1000)),
        normal(500, 1000),
    )  # 4 MB of weights, 2 MB of outputs

    def peak(chips: int) -> int:
        gc.collect()
        deploy(model, x, None, ON_ARRAYS, chips=range(chips), sensitivity_chips=chips)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    peak(2)
    before = peak(4)
    assert peak(44) - before < 20_000  # in kB: 40 more chips that kept weights or outputs would take 240 MB


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"chips": []}, "at least one chip"),
        ({"chips": [1, 1]}, "none twice"),
        ({"chips": [-1]}, "numbered from 0"),
        ({"chips": [2**32]}, "chip"),
        ({"seed": -1}, "seed=-1"),
        ({"threshold": math.nan}, "threshold"),
        ({"threshold": math.inf}, "threshold"),
        ({"threshold": -0.1}, "threshold"),
        ({"threshold": 90}, "0.9 for 90 %"),
        ({"sensitivity_chips": -1}, "sensitivity_chips=-1"),
        ({"sensitivity_images": 0}, "sensitivity_images=0"),
        ({"only": ["fc9"]}, "fc9"),
        ({"skip": ["fc*"]}, "no layer to map"),
        ({"x": torch.zeros(0, 1, 8, 8), "y": None}, "no example"),
        ({"x": torch.zeros(3, 5), "y": None}, "cannot take inputs of shape"),
        ({"y": torch.full((10,), 10)}, "labels go up to 10"),
    ],
)
def test_what_cannot_be_deployed_is_refused_in_one_sentence(
    network: nn.Module, digits: Splits, change: dict[str, Any], why: str
):
    assert digits.test.y is not None
    arguments = {
        "x": digits.test.x[:10],
        "y": digits.test.y[:10],
        "hardware": ON_ARRAYS,
        "chips": [0],
    } | change
    with pytest.raises(InputError, match=why) as caught:
        deploy(network, **arguments)
    assert "\n" not in str(caught.value)


def test_outputs_that_overflow_are_said_to():
    model = seeded_model(lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1e15)
    with pytest.raises(InputError, match="chip 0: the outputs are not finite"):
        deploy(model, torch.full((3, 4), 10.0), None, Hardware.preset("bayesft", sigma=12), chips=range(3))


@pytest.mark.parametrize("sigma", [5.0, 12.0])
def test_huge_drift_is_chance_and_not_an_error(network: nn.Module, digits: Splits, sigma: float):
    found = deploy(
        network, digits.test.x, digits.test.y, Hardware.preset("bayesft", sigma=sigma), chips=range(5)
    )
    assert found.main.mean < 0.4
    assert all(math.isfinite(value) for report in found.layers for value in report.effects.values())


def test_sigma_reaches_the_drift_kernel_through_few_files(monkeypatch: pytest.MonkeyPatch) -> None:
    package, passed = Path(crossbar_sim.__file__).parent, list[list[str]]()
    kernel = kernels.lognormal_weights

    def traced(*arguments: Any) -> None:
        frame, files = sys._getframe(1), dict[str, None]()
        while frame is not None:
            path = Path(frame.f_code.co_filename)
            if path.is_relative_to(package) and path.name != "threads.py":
                files[str(path.relative_to(package))] = None
            frame = frame.f_back
        passed.append(list(files))
        kernel(*arguments)

    monkeypatch.setattr(kernels, "lognormal_weights", traced)
    monkeypatch.setattr(threads, "threads", lambda: 1)
    model = seeded_model(lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
    deploy(model, normal(20, 6), hardware=Hardware.preset("bayesft", sigma=0.6), chips=2, sensitivity_chips=0)
    longest = max(passed, key=len)
    assert len(longest) <= 6, longest  # with the option, the command and the kernel: 9
    assert longest[-1] == "robustness/deploy.py"
    assert longest[0] == "crossbar/hardware.py"
