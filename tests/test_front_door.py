"""The Python API at the top of the package: what a first-time user of a notebook calls."""

import re
import sys
import types

import matplotlib
import pytest
import torch
from torch import nn

import crossbar_sim as cs
from crossbar_sim.nn.networks import build
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.report import console

matplotlib.use("agg")


@pytest.fixture(scope="module")
def mlp():
    return cs.train("mlp", "digits", epochs=2, lr=0.02, arguments={"hidden": (8,)}, seed=3)


@pytest.fixture(scope="module")
def deployment(mlp):
    return cs.deploy(mlp.model, "digits", hardware="bayesft", chips=2, sensitivity_chips=0)


def test_public_names_are_the_functions_of_the_rooms():
    from crossbar_sim.robustness import deploy, robustness

    assert cs.deploy is deploy
    assert cs.sweep is robustness
    assert {
        "deploy",
        "sweep",
        "train",
        "export",
        "to_analog",
        "to_digital",
        "BayesFT",
        "load_model",
        "cost",
    } <= {*cs.__all__}
    assert all(getattr(cs, name) is not None for name in cs.__all__)


def test_train_equals_the_method(mlp):
    from crossbar_sim.baselines import Erm
    from crossbar_sim.nn import Training

    data = cs.load_data("digits")
    method = Erm(training=Training(epochs=2, lr=0.02))
    same = method.fit(lambda: build("mlp", inputs=64, hidden=(8,), classes=10), data.development, cs.Key(3))
    for one, other in zip(mlp.model.parameters(), same.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cs.train("mlp", "digits", epoch=3), "did you mean 'epochs'"),
        (lambda: cs.train("mlp", "digits", "ermm"), "did you mean 'erm'"),
        (lambda: cs.train("mlq", "digits"), "did you mean 'mlp'"),
        (lambda: cs.train("mlp", 3), "not int"),
        (lambda: cs.train(nn.Linear(2, 2), "digits"), "give what makes a fresh network"),
        (lambda: cs.train("erm", "digits", {"x": 1}), "arguments are network, data, method"),
        (lambda: cs.cost(nn.Linear(2, 2), "isaac", torch.ones(1, 3)), "cannot take inputs of shape"),
        (lambda: cs.to_digital(nn.Linear(2, 2)), "not analog"),
        (lambda: cs.export(nn.Linear(2, 2), torch.ones(1, 2), "net.pt"), "ends in .pt2"),
        (lambda: cs.export(nn.Linear(2, 2), {"x": 1}, "net.pt2"), "batch axis"),
        (lambda: cs.export(3, torch.ones(1, 2), "net.pt2"), "expected a torch.nn.Module"),
    ],
)
def test_wrong_calls_are_refused_in_one_line(call, words):
    with pytest.raises(cs.InputError, match=words):
        call()


def test_results_show_themselves_shortly(mlp, deployment):
    data = cs.load_data("digits")
    sweep = cs.sweep(mlp.model, data, sigmas=[0.0, 0.5], chips=2)
    for shown in (data, data.test, data.development, mlp, deployment, sweep):
        assert len(repr(shown)) < 160, repr(shown)
    assert "1078" in repr(data)
    assert f"{deployment.main.mean:.4g}" in repr(deployment)
    assert "On 2 chips the model keeps" in deployment._repr_html_()
    assert "<b>" not in sweep._repr_html_()
    assert "0.5" in sweep._repr_html_()


def test_a_data_frame_holds_the_scores(deployment):
    pytest.importorskip("pandas")
    frame = deployment.to_dataframe()
    assert list(frame["value"]) == [score.accuracy for score in deployment.scores]
    assert list(frame["chip"]) == [0, 1]


def test_plots_go_into_axes_of_the_caller(mlp, deployment, tmp_path):
    import matplotlib.pyplot as plt

    sweep = cs.sweep({"one": mlp.model}, "digits", sigmas=[0.0, 0.5], chips=2)
    figure, (left, right) = plt.subplots(1, 2)
    assert deployment.plot(ax=left) is figure
    assert sweep.plot(tmp_path / "both.png", ax=right) is figure
    drawn = [100 * point.summary.mean for point in sweep.curve("one")]
    assert any(list(line.get_ydata()) == pytest.approx(drawn) for line in right.lines)
    assert (tmp_path / "both.png").stat().st_size > 1000
    with pytest.raises(cs.InputError, match="expected axes"):
        deployment.plot(ax=3)
    plt.close(figure)


def test_a_notebook_gets_a_line_of_progress_and_nothing_else_does(monkeypatch):
    assert console.notebook_progress() is None
    shown: list[str] = []
    line = types.SimpleNamespace(update=lambda data, raw: shown.append(data["text/plain"]))
    fake = types.ModuleType("IPython")
    fake.get_ipython = lambda: types.SimpleNamespace(kernel=object())
    fake.display = types.SimpleNamespace(display=lambda *_, **__: line)
    monkeypatch.setitem(sys.modules, "IPython", fake)
    cs.deploy(
        nn.Linear(64, 10), (torch.rand(5, 64), torch.zeros(5, dtype=torch.int64)), hardware="bayesft", chips=1
    )
    assert shown[0].startswith("1 of ")
    assert shown[-1] == ""


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cells, self.head = nn.LSTM(5, 6, 2, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.cells(x)[0][:, -1])


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(9, 6), nn.Linear(6, 9, bias=False)
        self.head.weight = self.words.weight

    def forward(self, x):
        return self.head(self.words(x))


def convolutional():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def exported():
    return torch.export.export(convolutional().eval(), (torch.rand(2, 1, 8, 8),)).module()


@pytest.mark.parametrize("options", [{}, {"bias": "row"}, {"normalisation": "folded"}])
@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: build("mlp", inputs=64, hidden=(6,), classes=3), torch.rand(4, 64)),
        (Recurrent, torch.rand(4, 6, 5)),
        (Tied, torch.arange(8).reshape(2, 4)),
        (convolutional, torch.rand(2, 1, 8, 8)),
        (
            lambda: torch.export.export(convolutional().eval(), (torch.rand(2, 1, 8, 8),)).module(),
            torch.rand(2, 1, 8, 8),
        ),
    ],
)
def test_to_digital_computes_what_the_chip_computes(make, x, options):
    with seeded(cs.Key(0)):
        model = make()
    if not isinstance(model, torch.fx.GraphModule):
        model = model.eval()
    analog = cs.to_analog(model, cs.Hardware(drift=cs.LogNormalDrift(0.4), **options), chip=3)
    digital = cs.to_digital(analog)
    with torch.no_grad():
        clean, drifted, copied, again = model(x), analog(x), digital(x), analog(x)
    assert torch.equal(copied, drifted)
    assert not torch.allclose(clean, drifted)
    assert not {p.data_ptr() for p in digital.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert torch.equal(again, drifted)  # the analog model is as it was
    assert model.state_dict().keys() <= digital.state_dict().keys()


def test_to_digital_says_what_a_plain_model_cannot_hold():
    hardware = cs.Hardware(drift=cs.LogNormalDrift(0.4), adc=cs.ADC(6, 1.0))
    analog = cs.to_analog(nn.Linear(6, 3), hardware)
    with pytest.warns(cs.CrossbarWarning, match="converters and read noise"):
        cs.to_digital(analog)


def test_an_export_takes_any_batch_and_leaves_the_mode(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(5, 4)

        def forward(self, u, v):
            return self.a(u) + self.b(v)

    model = Two().train()
    path = cs.export(model, (torch.ones(1, 3), torch.ones(1, 5)), tmp_path / "two.pt2")
    assert model.training
    u, v = torch.rand(7, 3), torch.rand(7, 5)
    assert torch.allclose(torch.export.load(path).module()(u, v), model(u, v))
    analog = cs.to_analog(nn.Linear(3, 4), cs.Hardware(drift=cs.LogNormalDrift(0.1)))
    with pytest.raises(cs.InputError, match="to_digital"):
        cs.export(analog, torch.ones(1, 3), tmp_path / "analog.pt2")


def test_the_callback_of_the_example_logs_the_curve(mlp):
    transformers = pytest.importorskip("transformers")
    import runpy
    from pathlib import Path

    example = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "robustness_callback.py"))
    logged: list[dict[str, float]] = []
    callback = example["hugging_face_robustness"]("digits", logged.append, sigmas=(0.0, 0.5), chips=2)
    assert isinstance(callback, transformers.TrainerCallback)
    callback.on_evaluate(None, None, None, model=mlp.model.train())
    assert mlp.model.training
    mlp.model.eval()
    expected = cs.sweep({"m": mlp.model}, "digits", sigmas=(0.0, 0.5), chips=2).curve("m")
    assert list(logged[0].values()) == [point.summary.mean for point in expected]


def test_scores_are_shown_in_their_own_unit():
    model, x = nn.Linear(3, 1), torch.rand(20, 3)
    y = model(x).detach() + 0.1
    found = cs.deploy(model, (x, y), hardware="bayesft", chips=2, metric="rmse", sensitivity_chips=0)
    assert "clean 0.1," in repr(found)
    assert found.to_dataframe()["clean"].iloc[0] == pytest.approx(0.1, rel=1e-3)
    assert (found.to_dataframe()["value"] > 0).all()


def test_a_sweep_says_which_share_of_the_work_is_on_arrays():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    sweep = cs.sweep({"encoder": layer}, torch.rand(4, 5, 8), sigmas=[0.3], chips=2)
    (note,) = (note for note in sweep.tasks["encoder"].about["notes"] if "multiply-adds" in note)
    assert "Q K^T" in note
    assert " % of its multiply-adds run on arrays." in sweep._repr_html_().replace("\n", " ")
    alone = cs.deploy(layer, torch.rand(4, 5, 8), chips=2, sensitivity_chips=0)
    share = sweep.tasks["encoder"].about["multiply_adds"]["share_on_arrays"]
    assert alone.as_dict()["multiply_adds"]["share_on_arrays"] == share
    text = " ".join(re.sub("<[^>]+>", "", alone._repr_html_()).split())
    assert f"{100 * share:.1f} % of its multiply-adds run on arrays." in text
    assert note in cs.sweep(
        {"encoder": layer}, torch.rand(4, 5, 8), sigmas=[0.3], chips=2
    )._repr_html_().replace("\n", " ")


def test_cost_takes_inputs_in_any_form_and_a_design_for_all_layers():
    x = torch.sin(torch.arange(192.0)).reshape(3, 64)  # of both signs, as random ones are
    plain = nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))
    want = cs.cost(plain, "isaac", x)
    for given in (x.numpy(), {"x": x}, (x, torch.arange(3)), None):
        assert cs.cost(plain, {"*": "isaac"}, given).total == want.total
