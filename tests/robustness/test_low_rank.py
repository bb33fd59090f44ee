"""Statistics of normalisations and corrections of low rank, compared with plain torch."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from crossbar_sim import Hardware, Key
from crossbar_sim.crossbar.converters import ADC, DAC
from crossbar_sim.crossbar.drift import LogNormalDrift
from crossbar_sim.data import Development, Split
from crossbar_sim.errors import CrossbarWarning, InputError
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.analog.chips import locked
from crossbar_sim.nn.evaluate import outputs
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.robustness import deploy, robustness
from crossbar_sim.robustness.calibration import Calibration, Calibrator, NormStatistics
from crossbar_sim.robustness.calibration.low_rank import Corrected, LowRank, _delta
from crossbar_sim.store.results import Results

DRIFT = Hardware.preset("bayesft", sigma=0.6, bias="digital", normalisation="digital")


def made(build) -> nn.Module:
    with seeded(Key(0).fold("test")):
        return build().eval()


def normalised() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3),
        nn.InstanceNorm2d(4, affine=True, track_running_stats=True), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


def batch_normalised() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 12), nn.BatchNorm1d(12),
        nn.Linear(12, 10),
    )  # fmt: skip


def programmed(model: nn.Module, analog: nn.Module) -> nn.Module:
    """A plain copy of the model with the weights of the chip."""
    twin = copy.deepcopy(model)
    with locked(analog), torch.no_grad():
        for mine, theirs in zip(twin.modules(), analog.modules(), strict=True):
            if isinstance(mine, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                mine.weight.copy_(theirs.weight)
    return twin


def test_statistics_are_those_of_torchs_cumulative_average(digits):
    model, x, test = made(batch_normalised), digits.train.x[:250], digits.test.x[:50]
    analog = to_analog(model, DRIFT, chip=1)
    before, state = outputs(analog, test)[0], {k: v.clone() for k, v in model.state_dict().items()}
    twin = programmed(model, analog)
    for module in twin.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    with torch.no_grad():
        twin.train()
        for part in x.split(84):  # three batches of at most 100
            twin(part)
        wanted = twin.eval()(test)
    with NormStatistics.of(analog, x).fitted(analog, x) as fitted:
        found = outputs(fitted, test)[0]
    # torch counts the last batch, two images shorter, like the others
    assert torch.allclose(found, wanted, atol=2e-3 * float(wanted.abs().max()))
    assert not torch.allclose(before, wanted, atol=2e-2 * float(wanted.abs().max()))
    assert torch.equal(outputs(analog, test)[0], before)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_statistics_of_the_clean_weights_are_warned_of_and_no_others(digits, tmp_path):
    """Warned of where they fit the clean network and the chip has others; the remedy, and drifted statistics, pass."""
    model = made(batch_normalised)
    norms = [module for module in model if isinstance(module, nn.modules.batchnorm._BatchNorm)]

    def estimated(network):
        for norm in norms:
            norm.momentum = None
            norm.reset_running_stats()
        with torch.no_grad():
            network.train()(digits.train.x[:400])
        network.eval()

    def said(sigma, x=digits.test.x[:60], **more):
        found = deploy(
            model, x, None, replace(DRIFT, drift=LogNormalDrift(sigma)), chips=2, sensitivity_chips=0, **more
        )
        return [text for text in found.warnings if "running statistics" in text]

    estimated(model)
    (text,) = said(0.9)
    assert "2 normalisations divide by running statistics that fit the clean weights" in text
    assert "--calibrate statistics" in text
    assert said(0.9, calibrate="statistics", calibration_data=digits.development) == []
    assert said(0.02) == []
    assert said(0.9, digits.test.x[:7]) == []
    with pytest.warns(CrossbarWarning, match="running statistics that fit"):
        robustness({"a": model}, digits.test, sigmas=[0.0, 0.9], chips=2, sensitivity_chips=0)
    estimated(to_analog(model, replace(DRIFT, drift=LogNormalDrift(0.9)), chip=0))  # which shares the buffers
    assert said(0.9) == []


def test_an_exported_graph_gets_the_same_statistics_and_corrections(digits):
    model, x = made(normalised), digits.test.x[:100]
    batch = torch.export.Dim("batch", min=1, max=4096)
    graph = torch.export.export(model, (x[:7],), dynamic_shapes=({0: batch},)).module()
    for kind in ("statistics", "lora:rank=2", "statistics+dora:rank=1"):
        found = []
        for each in (model, graph):
            analog = to_analog(each, DRIFT, chip=1)
            plain = outputs(analog, x)[0]
            with Calibrator.of(analog, Calibration(kind, 60), digits.development).fitted(analog) as fitted:
                found.append(outputs(fitted, x)[0])
        assert not torch.allclose(found[0], plain, atol=1e-3)
        assert torch.allclose(*found, atol=1e-3 * float(found[0].abs().max()))


def test_a_model_without_statistics_of_its_own_is_refused(network, digits):
    for model, hardware in (
        (network, DRIFT),
        (made(batch_normalised), replace(DRIFT, normalisation="folded")),
    ):
        analog = to_analog(nn.Sequential(*list(model)[:5]) if model is not network else model, hardware)
        with pytest.raises(InputError, match="no batch or instance normalisation with running statistics"):
            Calibrator.of(analog, Calibration("statistics", 50), digits.development)


class Products(nn.Module):
    """Every kind of product that is corrected."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1, padding_mode="circular")
        self.grouped = nn.Conv2d(6, 4, 3, stride=2, groups=2, bias=False)
        self.back = nn.ConvTranspose2d(4, 6, 2, groups=2, stride=2)
        self.fc = nn.Linear(6 * 6 * 6, 10)

    def forward(self, x):
        return self.fc(torch.relu(self.back(torch.relu(self.grouped(torch.relu(self.conv(x)))))).flatten(1))


@pytest.mark.parametrize("variant", ["lora", "dora", "vera"])
def test_a_correction_is_the_product_with_a_changed_weight(digits, variant):
    model, x = made(Products), digits.test.x[:20]
    analog = to_analog(model, DRIFT, chip=2)
    low = LowRank.of(analog, x, variant, 3, 0)
    assert [p.name for p in low.products] == ["conv.weight", "grouped.weight", "back.weight", "fc.weight"]
    assert [p.vectors for p in low.products] == [64, 9, 9, 1]
    twin = programmed(model, analog)
    values = {name: {k: t.clone() for k, t in tensors.items()} for name, tensors in low.start.items()}
    for p in low.products:
        of, weight = values[p.name], twin.get_parameter(p.name)
        ramp = torch.linspace(-1, 1, of["up"].numel()).reshape(of["up"].shape)
        if variant == "vera":
            of["b"] = torch.linspace(0.5, 1, p.outputs)
            low_rank = _delta(p, of["down"] * of["d"].view(-1, *[1] * (of["down"].dim() - 1)), of["up"])
            low_rank = low_rank * of["b"].view(p.groups, -1, 1, 1)
        else:
            of["up"] = 0.1 * ramp
            low_rank = _delta(p, of["down"], of["up"])
        if p.kind == "transposed":
            low_rank = low_rank.transpose(1, 2)
        with torch.no_grad():
            weight.add_(low_rank.reshape(weight.shape))
            if variant == "dora":
                norms = (
                    weight.transpose(0, 1).reshape(2, 3, 2, 4).transpose(0, 1)
                    if p.kind == "transposed"
                    else None
                )
                of["m"] = torch.linspace(1, 2, p.outputs)
                if norms is None:
                    size = weight.flatten(1).norm(dim=1).view(-1, *[1] * (weight.dim() - 1))
                    weight.mul_(of["m"].view_as(size) / size)
                else:
                    split = weight.view(2, 2, 3, 4)  # groups, inputs, outputs, places
                    size = split.pow(2).sum((1, 3), keepdim=True).sqrt()
                    split.mul_(of["m"].view(2, 1, 3, 1) / size)
    with locked(analog):
        if variant == "dora":
            found = {k: v["m"] for k, v in values.items()}
            low._add_norms(analog, values)
            assert all(not torch.equal(values[k]["m"], m) for k, m in found.items())
            for k, m in found.items():
                values[k]["m"] = m
        corrected = outputs(Corrected(analog, low._change(values)), x)[0]
    with torch.no_grad():
        wanted = twin(x)
    assert torch.allclose(corrected, wanted, atol=1e-4 * float(wanted.abs().max()))
    assert not torch.allclose(outputs(analog, x)[0], wanted, atol=1e-2 * float(wanted.abs().max()))


class Attentions(nn.Module):
    """Attention of rows to themselves, to other rows, of three inputs, and with a matrix for each."""

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(8, 2, batch_first=True)
        self.two = nn.MultiheadAttention(8, 2, batch_first=True)
        self.three = nn.MultiheadAttention(8, 2, bias=False)
        self.apart = nn.MultiheadAttention(8, 2, kdim=4, vdim=4, batch_first=True)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        rows = x.flatten(1, 2)
        a = self.own(rows, rows, rows, need_weights=False)[0]
        b = self.two(a, rows, rows)[0]
        first = b.transpose(0, 1)
        c = self.three(first, a.transpose(0, 1), rows.transpose(0, 1))[0].transpose(0, 1)
        return self.head(self.apart(c, rows[..., :4], rows[..., 4:])[0].mean(1))


@pytest.mark.parametrize("adc", [None, 8])
@pytest.mark.parametrize("variant", ["lora", "dora"])
def test_the_projections_of_attention_are_corrected_each_by_itself(digits, variant, adc):
    model, x = made(Attentions), digits.test.x[:20]
    hardware = DRIFT if adc is None else replace(DRIFT, dac=DAC(), adc=ADC(adc, range="max"))
    analog = to_analog(model, hardware, chip=2)
    low = LowRank.of(analog, x, variant, 3, 0)
    assert [p.name.replace("_proj", "").replace("_weight", "") for p in low.products] == [
        "own.in", "own.out.weight", "two.in[0:8]", "two.in[8:24]", "two.out.weight", "three.in[0:8]", "three.in[8:16]",
        "three.in[16:24]", "three.out.weight", "apart.q", "apart.k", "apart.v", "apart.out.weight", "head.weight",
    ]  # fmt: skip
    assert low.left == ()
    assert [p.vectors for p in low.products] == [8] * 13 + [1]
    if adc is not None:
        return
    twin, values = copy.deepcopy(model), {name: dict(tensors) for name, tensors in low.start.items()}
    with locked(analog), torch.no_grad():
        for name, weight in twin.named_parameters():
            module, _, own = name.rpartition(".")
            weight.copy_(getattr(analog.get_submodule(module), own))
        for p in low.products:
            of, weight = values[p.name], twin.get_parameter(p.array)[p.first : p.first + p.outputs]
            of["up"] = 0.1 * torch.linspace(-1, 1, of["up"].numel()).reshape(of["up"].shape)
            weight.add_(_delta(p, of["down"], of["up"]).reshape(weight.shape))
            if variant == "dora":
                of["m"] = torch.linspace(1, 2, p.outputs)
                weight.mul_((of["m"] / weight.norm(dim=1))[:, None])
        if variant == "dora":
            found = {name: of["m"] for name, of in values.items()}
            low._add_norms(analog, values)
            for name, m in found.items():
                values[name]["m"] = m
        corrected = outputs(Corrected(analog, low._change(values)), x)[0]
        wanted = twin(x)
    assert torch.allclose(corrected, wanted, atol=1e-4 * float(wanted.abs().max()))
    assert not torch.allclose(outputs(analog, x)[0], wanted, atol=1e-2 * float(wanted.abs().max()))


class Recurrents(nn.Module):
    """Every recurrent layer, over the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True, proj_size=4)
        self.gru = nn.GRU(8, 5)
        self.rnn = nn.RNN(5, 6, nonlinearity="relu", bias=False)
        self.cell = nn.LSTMCell(6, 7)
        self.head = nn.Linear(7, 10)

    def forward(self, x):
        rows = self.lstm(x.flatten(1, 2))[0].transpose(0, 1)
        last = self.rnn(self.gru(rows)[0])[0][-1]
        return self.head(self.cell(last)[0])


@pytest.mark.parametrize("variant", ["lora", "dora", "vera"])
def test_both_matrices_of_recurrent_layers_are_corrected(digits, variant):
    """Compared with torch's own LSTM, GRU and RNN, whose weights are those of the chip and the correction."""
    model, x = made(Recurrents), digits.test.x[:20]
    analog = to_analog(model, DRIFT, chip=2)
    before = outputs(analog, x)[0]
    low = LowRank.of(analog, x, variant, 2, 0)
    matrices = {name for name, p in model.named_parameters() if p.dim() == 2}
    assert {p.name for p in low.products} == matrices
    assert low.left == ()
    assert {p.name: p.vectors for p in low.products if p.name in ("gru.weight_hh_l0", "cell.weight_ih")} == {
        "gru.weight_hh_l0": 8, "cell.weight_ih": 1,
    }  # fmt: skip
    twin, values = copy.deepcopy(model), {name: dict(tensors) for name, tensors in low.start.items()}
    if variant == "dora":
        low._add_norms(analog, values)
    start = outputs(Corrected(analog, low._change(values)), x)[0]
    assert torch.allclose(start, before, atol=1e-6 * float(before.abs().max()))
    with locked(analog), torch.no_grad():
        for name, weight in twin.named_parameters():
            module, _, own = name.rpartition(".")
            weight.copy_(getattr(analog.get_submodule(module), own))
        for p in low.products:
            of, weight = values[p.name], twin.get_parameter(p.name)
            of["up"] = 0.3 * torch.linspace(-1, 1, of["up"].numel()).reshape(of["up"].shape)
            if variant == "vera":
                of["b"] = torch.linspace(5, 10, p.outputs)
                weight.add_(of["b"][:, None] * (of["up"] @ (of["d"][:, None] * of["down"])))
            else:
                weight.add_(of["up"] @ of["down"])
            if variant == "dora":
                of["m"] = torch.linspace(1, 1.5, p.outputs)
                weight.mul_((of["m"] / weight.norm(dim=1))[:, None])
        corrected = outputs(Corrected(analog, low._change(values)), x)[0]
        wanted = twin(x)
    assert torch.allclose(corrected, wanted, atol=1e-5 * float(wanted.abs().max()))
    assert not torch.allclose(before, wanted, atol=1e-2 * float(wanted.abs().max()))


def test_recurrent_layers_in_tiles_and_in_exported_graphs_are_corrected_too(digits):
    model, x = made(Recurrents), digits.test.x[:20]
    tiles = to_analog(model, replace(DRIFT, dac=DAC(), adc=ADC(8, range="max")), chip=2)
    low = LowRank.of(tiles, x, "lora", 2, 0)
    assert low.left == ()
    assert torch.equal(outputs(Corrected(tiles, low._change(low.start)), x)[0], outputs(tiles, x)[0])
    graph = torch.export.export(model, (x[:2],), dynamic_shapes=({0: torch.export.Dim("n")},)).module()
    found = LowRank.of(to_analog(graph, DRIFT, chip=2), x, "lora", 2, 0)
    assert [(p.name, p.vectors, p.recurrent) for p in found.products] == [
        (p.name, p.vectors, p.recurrent) for p in low.products
    ]


def test_a_task_whose_recurrent_layers_are_corrected_is_another_one(network, digits):
    """Results of versions that left them as they were are not taken for it; those of other models are."""
    for model, words in ((made(Recurrents), {"recurrent": True}), (network, {})):
        calibrator = Calibrator.of(
            to_analog(model, DRIFT), Calibration("lora:rank=1", 50), digits.development
        )
        assert calibrator.identity == {**calibrator.calibration.as_dict(), **words}


@pytest.mark.parametrize("kind", ["lora:rank=4", "vera:rank=16"])
def test_without_drift_a_correction_changes_nothing(network, digits, kind):
    analog = to_analog(network, Hardware.preset("bayesft", sigma=0.0))
    with Calibrator.of(analog, Calibration(kind, 50), digits.development).fitted(analog) as fitted:
        assert torch.equal(outputs(fitted, digits.test.x)[0], outputs(analog, digits.test.x)[0])


def test_negative_control_the_outputs_for_other_images_teach_nothing(network, digits):
    analog = to_analog(network, Hardware.preset("bayesft", sigma=0.6), chip=1)
    calibrator = Calibrator.of(analog, Calibration("lora:rank=4", 200), digits.development)
    x, y = digits.test.x, digits.test.y

    def score(made: Calibrator) -> float:
        with made.fitted(analog) as fitted:
            return float((torch.cat(outputs(fitted, x)).argmax(1) == y).double().mean())

    plain = float((torch.cat(outputs(analog, x)).argmax(1) == y).double().mean())
    assert score(calibrator) > plain + 0.05
    shuffled = replace(calibrator, wanted=calibrator.wanted[torch.arange(200) * 67 % 200])
    assert score(shuffled) < plain + 0.02


def test_the_numbers_of_a_correction_are_counted(network, digits):
    analog = to_analog(network, DRIFT)
    layers = [m for m in network.modules() if isinstance(m, nn.Linear)]
    rows, cols = sum(m.in_features for m in layers), sum(m.out_features for m in layers)
    costs = {
        kind: Calibrator.of(analog, Calibration(kind, 50), digits.development)
        for kind in ("lora:rank=2", "dora:rank=2", "vera:rank=16", "affine", "affine+lora:rank=2")
    }
    low, dora, vera, affine, two = (c.cost for c in costs.values())
    assert (low.words, low.multiplications) == (2 * (rows + cols), 2 * (rows + cols))
    assert dora.words == low.words + cols
    assert vera.words == cols + 16 * len(layers)
    assert two.words == low.words + affine.words
    assert costs["lora:rank=2"].share == low.words / sum(p.numel() for p in network.parameters())


def test_regressions_and_examples_without_labels_are_corrected_too(digits):
    model = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 1)))
    unlabelled = Development(Split(digits.train.x), Split(digits.validation.x))
    done = deploy(
        model, digits.test.x, None, Hardware.preset("bayesft", sigma=0.6),
        chips=2, sensitivity_chips=0, calibrate=Calibration("lora:rank=2", 100), calibration_data=unlabelled,
    )  # fmt: skip
    assert done.metric == "output_error"
    assert done.gain.min > 0.1
    with pytest.raises(InputError, match="have no labels of classes"):
        deploy(model, digits.test.x, calibrate="readout", calibration_data=unlabelled)


def test_converters_and_read_noise_are_calibrated_through(network, digits):
    hardware = Hardware.preset(
        "bayesft", sigma=0.6, dac_bits=8, adc_bits=10, adc_range="max", read_noise_sigma=0.01
    )
    found = [
        deploy(
            network,
            digits,
            hardware=hardware,
            chips=1,
            sensitivity_chips=0,
            calibrate=Calibration("dora:rank=4", 100),
        )
        for _ in range(2)
    ]
    assert found[0].as_dict() == found[1].as_dict()
    assert found[0].gain.mean > 0.05


def test_a_sweep_has_the_calibration_in_the_identity_and_without_one_no_word_of_it(network, digits, tmp_path):
    file = tmp_path / "runs.db"
    swept = {"sigmas": [0.6], "chips": 2, "results": file}
    robustness({"mlp": network}, "digits", **swept)
    both = robustness({"mlp": network}, "digits", calibrate=Calibration("lora:rank=4", 100), **swept)
    (task,) = both.tasks.values()
    assert task.identity["calibration"]["kind"] == "lora:rank=4"
    with Results.open(file) as results:
        tasks = {t.id: t for t in results.tasks()}
        assert len(tasks) == 2
        (plain,) = (t for t in tasks.values() if "calibration" not in t.identity)
        before, after = ([t.value for t in results.trials(i)] for i in (plain.id, task.id))
    assert np.mean(after) > np.mean(before) + 0.05
    assert any("lora:rank=4" in note for note in task.about["notes"])
    done = deploy(
        network, "digits", hardware=Hardware.preset("bayesft", sigma=0.6), chips=2, sensitivity_chips=0,
        calibrate=Calibration("lora:rank=4", 100),
    )  # fmt: skip
    assert list(done.main.per_chip) == after


def test_the_command_line_says_what_a_correction_adds(command, files):
    done = command(
        "deploy", files.dynamic, "--sigma", 0.6, "--chips", 3, "--data", "digits", "--calibrate", "lora:rank=4",
        "--calibration-images", 100, "--sensitivity-chips", 0, "--json", "-",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert done.report["calibration"]["gain"]["mean"] > 0.03
    assert 0 < done.report["calibration"]["share"] < 1
    assert "the gain is" in done.err
    assert "paired over chips" in done.err
    done = command("sweep", files.checkpoint, "--sigma", "0.6", "--chips", 1, "--calibrate", "lorra:rank=4")
    assert done.code == 2
    assert "did you mean 'lora'?" in done.err
    done = command("sweep", files.checkpoint, "--sigma", "0.6", "--chips", 1, "--calibrate", "statistics")
    assert done.code == 2
    assert "no batch or instance normalisation" in done.err


def test_scored_examples_are_not_calibrated_on(network, digits):
    with pytest.raises(InputError, match="give calibration_data"):
        deploy(network, digits.test.x, digits.test.y, calibrate="readout")
    with pytest.raises(InputError, match="no effect without calibrate"):
        robustness(network, "digits", calibration_data="digits")


class Tokens(nn.Module):
    """Tokens through a recurrent layer, whose products are in one function of torch, and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8)
        self.recurrent = nn.GRU(8, 8, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 20)

    def forward(self, x):
        h = self.table(x)
        h = h + self.recurrent(h)[0]
        return self.head(h + self.attention(h, h, h)[0])


def test_tokens_are_given_as_integers_and_every_array_is_corrected():
    model, ids = made(Tokens), torch.arange(120 * 6).reshape(120, 6) * 7 % 20
    done = deploy(
        model, ids[:40], None, Hardware.preset("bayesft", sigma=0.4), chips=2, sensitivity_chips=0,
        calibrate=Calibration("lora:rank=2", 50), calibration_data={"train": ids[40:100], "validation": ids[100:]},
    )  # fmt: skip
    assert done.gain.mean > 0
    assert not [note for note in done.notes if "not corrected by lora" in note]


class Experts(nn.Module):
    """A product that is no linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(64) + 0.1)
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(torch.einsum("bi,io->bo", x.flatten(1), self.weight))


def test_arrays_without_a_correction_are_named(digits):
    done = deploy(
        made(Experts), digits.test.x[:20], None, DRIFT, chips=1, sensitivity_chips=0,
        calibrate=Calibration("lora:rank=1", 50), calibration_data=digits.development,
    )  # fmt: skip
    (note,) = (note for note in done.notes if "not corrected by lora" in note)
    assert note.startswith("weight: ")


@pytest.mark.parametrize("kind", ["lora:rank=2", "dora:rank=2"])
def test_conv1d_of_transformers_is_corrected_like_a_linear_layer(digits, kind):
    pytorch_utils = pytest.importorskip("transformers.pytorch_utils")
    linear = made(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)))
    other = nn.Sequential(
        nn.Flatten(), pytorch_utils.Conv1D(12, 64), nn.ReLU(), pytorch_utils.Conv1D(10, 12)
    ).eval()
    with torch.no_grad():
        for mine, theirs in ((other[1], linear[1]), (other[3], linear[3])):
            mine.weight.copy_(theirs.weight.t())
            mine.bias.copy_(theirs.bias)
    found = []
    for model in (linear, other):
        done = deploy(
            model, digits.test.x, None, DRIFT, chips=1, sensitivity_chips=0, metric="output_error",
            calibrate=Calibration(kind, 60), calibration_data=digits.development,
        )  # fmt: skip
        found.append((done.calibrator.cost, done.gain.mean, done.calibrator.notes))
    assert found[1][0] == found[0][0]
    assert found[1][1] > 0.05
    assert found[1][2] == ()
