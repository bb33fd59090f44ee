"""Experiment files as a user meets them: methods, budgets, groups of seeds, refusals before any work."""

import json
import textwrap

import pytest
import torch
from helpers.cli_runs import strict_json

from crossbar_sim.errors import InputError
from crossbar_sim.experiments.record import compact
from crossbar_sim.experiments.schema import load_experiment, with_budget
from crossbar_sim.nn import device as devices
from crossbar_sim.nn.files.loading import load_model
from crossbar_sim.nn.networks import MLP
from crossbar_sim.robustness.plans import PROTOCOL
from crossbar_sim.robustness.tasks import model_of_file

GROUPS = """
    title = "Two ways"
    data = "digits"
    sigmas = [0.0, 0.5]
    chips = 3
    threshold = 0.5
    percentile = 10
    sensitivity_chips = 0
    [quick]
    chips = 2
    train_limit = 300
    validation_limit = 200
    test_limit = 60
    [quick.train]
    epochs = 1
    [quick.train.found]
    settings = { trials = 3 }
    [train.plain]
    network = "mlp"
    arguments = { hidden = [12] }
    epochs = 2
    seeds = [0, 1]
    [train.found]
    network = "mlp"
    arguments = { hidden = [12] }
    method = "bayesft"
    settings = { trials = 30, sigma = 0.5, initial = 2, chips = 3, images = 50, fresh_chips = 3, polish = 1 }
    epochs = 1
    seeds = [0, 1]
"""


@pytest.fixture
def experiment(tmp_path):
    path = tmp_path / "two.toml"
    path.write_text(textwrap.dedent(GROUPS))
    return path


def test_a_quick_budget_trains_searches_and_compares_groups_once(command, experiment, tmp_path):
    (tmp_path / "digits").mkdir()  # a folder of that name hides no data set
    out = tmp_path / "out"
    first = command("run", experiment, "-o", out, "--budget", "quick")
    assert first.code == 0, first.err
    assert "Two ways (quick budget)" in first.out
    assert "300 of 1,078 train examples" in first.out
    assert "60 of 450 test examples" in first.out
    assert first.out.count("training ") >= 4
    assert "plain (2 training seeds)" in first.out
    assert "Welch" in first.out
    assert "each network was measured on 2 chips" in first.out
    assert "on the same chips" not in first.out  # single networks are not what is compared
    names = {path.name for path in out.iterdir()}
    assert names == {"two-quick.db", "two-quick.html", "two-quick.json", "two-quick.png", "two-quick.models"}
    text = (out / "two-quick.json").read_text()
    found = strict_json(text)
    assert found["budget"] == "quick"
    assert [found["data"][part] for part in ("train", "validation", "test")] == [300, 200, 60]
    assert found["chips"]["count"] == 2
    assert found["seeds"] == {"plain, seed 0": 0, "plain, seed 1": 1, "found, seed 0": 0, "found, seed 1": 1}
    assert found["trainings"]["found, seed 1"]["settings"]["trials"] == 3
    assert set(found["trainings"]["found, seed 1"]["found"]["rates"]) == {"dropout1"}
    points = found["groups"]["found"]["points"]
    means = [found["models"][f"found, seed {s}"]["points"][1]["mean"] for s in (0, 1)]
    assert points[1]["mean"] == pytest.approx(sum(means) / 2, abs=1e-5)
    assert points[1]["networks"] == 2
    group, of = found["groups"]["found"]["points"][1]["percentile"], found["groups"]["found"]["networks"]
    values = [found["models"][label]["points"][1]["percentile"]["value"] for label in of]
    assert group["value"] == pytest.approx(sum(values) / len(values), abs=1e-5)
    low = [found["models"]["found, seed 0"]["points"][1][name] for name in ("percentile", "worst", "mean")]
    assert low[1] <= low[0]["value"] <= low[2]
    assert found["tests"]["reference"] == "plain"
    assert [d["group"] for d in found["tests"]["differences"]] == ["found", "found"]
    page = (out / "two-quick.html").read_text()
    assert "quick budget" in page
    assert "Differences between ways to train" in page
    assert "found minus plain" in page
    assert "range over seeds" in page
    assert "all but 10&nbsp;% of chips reach" in page
    assert (
        "Differences on the same chips" not in page
    )  # chips of single networks say nothing of ways to train
    second = command("run", experiment, "-o", out, "--budget", "quick")
    assert second.code == 0, second.err
    assert not [line for line in second.out.splitlines() if line.startswith("training ")]
    assert (out / "two-quick.json").read_text() == text


REFUSED = [
    (("seeds = [0, 1]", "seeds = [0, 0]"), "a seed is there twice"),
    (("epochs = 2", "epochs = 2\npatience = 3\nmethod = \"drift-aware\""), "clean weights"),
    (("hidden = [12]", "hidden = [12], normalisation = \"btch\""), "plain, seed 0: normalisation='btch'"),
    (("hidden = [12]", "hiden = [12]"), "plain, seed 0: network 'mlp' takes no argument 'hiden'"),
    (("hidden = [12]", "hidden = [12], classes = 3"), "classes=3 and digits has 10"),
    (("hidden = [12]", "hidden = [12], inputs = 5"), "plain, seed 0: the model does not take examples"),
    (("epochs = 2", "epochs = 2\nmethod = \"dropout\"\nsettings = { rate = [0.1, 0.2] }"), "plain, seed 0:"),
    (("epochs = 2", "epochs = 2\nmethod = \"reram-v\""), "plain, seed 0: reram-v retrains a network for one chip"),
    (("epochs = 2", "epochs = 2\nlr = nan"), "train.plain.lr=nan"),
    (("epochs = 2", "epochs = 2\naugment = { crp = 4 }"), "did you mean 'crop'?"),
    (("epochs = 2", "epochs = 2\naugment = { crop = 0 }"), "does nothing"),
    (("trials = 30", "trials = 0"), "found, seed 0: trials=0"),
    (("trials = 30", "trails = 30"), "did you mean 'trials'?"),
    (("trials = 30", "rates = 0.5"), "rates=0.5"),
    (("trials = 30", "rates = [0.5, 1.5]"), "found, seed 0: rates="),
    (("trials = 30", "chips = 1"), "two.toml"),
    (("trials = 30", "algorithm = \"restart\""), "polish would do nothing"),
    (("trials = 30", "algorithm = \"litral\""), "literal"),
    (("trials = 30", "width = 3"), "width=3"),
    (("method = \"bayesft\"", "method = \"bayesfit\""), "did you mean 'bayesft'?"),
    (("threshold = 0.5", "threshold = 1.5"), "0 .. 1"),
    (("threshold = 0.5", "threshold = nan"), "threshold=nan"),
    (("percentile = 10", "percentile = 100"), "percentile=100"),
    (("data = \"digits\"", "data = \"\""), "data=''"),
    (("title = \"Two ways\"", "reference = \"plan\""), "did you mean 'plain'?"),
    (("title = \"Two ways\"", "test_limit = 0"), "test_limit=0"),
    (("title = \"Two ways\"", "boundaries = [0.2]"), "data of two features"),
    (("[train.plain]", "[models.given]\npath = \"a.pt\"\narch_arguments = \"x\"\n[train.plain]"), "arch_arguments='x'"),
    (("[quick.train.found]", "[quick.train.fund]"), "did you mean 'found'?"),
    (("chips = 2", "chip = 2"), "did you mean 'chips'?"),
    (("chips = 3\n", "chips = [4294967296]\n"), "a list of their numbers from 0 to 4294967295"),
    (("chips = 3\n", "chips = [-1]\n"), "expected a number of chips, or a list"),
    (("chips = 3\n", "chips = 3\nmetric = \"map\"\n"), "metric='map'"),
    (("chips = 3\n", "half_width = 5\n"), "0.005 is half a point"),
    (("chips = 3\n", "chips = 3\ncalibrate = \"redout\"\n"), "did you mean 'readout'?"),
    (("chips = 3\n", "chips = 3\ncalibrate = \"statistics\"\n"), "plain, seed 0: calibrate: MLP has no batch or"),
    (("chips = 3\n", "chips = 3\ncalibration_images = 9\n"), "has no effect without calibrate"),
    (("chips = 3\n", "chips = 3\ncalibrate = \"readout\"\ncalibration_images = 9999\n"), "1078 training images"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_is_impossible_is_one_sentence_before_any_training(command, experiment, tmp_path, change, words):
    text = experiment.read_text()
    assert change[0] in text
    experiment.write_text(text.replace(*change, 1))
    done = command("run", experiment, "-o", tmp_path / "out")
    assert done.code == 2, done.out
    assert words in done.err
    assert done.err.count("\n") == 1
    assert "training " not in done.out
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


MALFORMED = {
    'title = "Two ways"|tilte = "x"': "the key 'tilte' is unknown: did you mean 'title'?",
    'title = "Two ways"|title = 3': "title=3: expected a text",
    'data = "digits"|': "data is missing: expected the name of a data set",
    "[0.0, 0.5]|3": "sigmas=3: expected a list such as [0, 0.3, 0.6], or {from",
    "[0.0, 0.5]|[true]": "sigmas=[True]: expected a list",
    "[0.0, 0.5]|[]": "sigmas=[]: expected a list",
    "[0.0, 0.5]|{too = 1, points = 3}": "[sigmas]: the key 'too' is unknown: did you mean 'to'?",
    "[0.0, 0.5]|{to = 1, points = 1}": "sigmas.points=1: expected an integer from 2 to 10000",
    "[0.0, 0.5]|{to = 1}": "sigmas.points is missing: expected an integer",
    "chips = 3|chips = 1.5": "chips=1.5: expected a number of chips",
    "chips = 3|chips = true": "chips=True: expected a number of chips",
    "chips = 3|chips = 3\nhalf_width = 0.01": "chips and half_width exclude each other",
    "chips = 3|half_width = 'a'": "half_width='a': expected a number",
    "chips = 3|seed = 18446744073709551616": "seed=18446744073709551616: expected an integer from 0 to 2**64 - 1",
    "chips = 3|hardware = 3": "hardware=3: expected a table [hardware]",
    "chips = 3|train_limit = '5'": "train_limit='5': expected a positive integer",
    "chips = 3|metric = 'acuracy'": "metric 'acuracy' is unknown: did you mean 'accuracy'?",
    "epochs = 2|epochz = 2": "[train.plain]: the key 'epochz' is unknown: did you mean 'epochs'?",
    "epochs = 2|augment = { crp = 4 }": "[train.plain.augment]: the key 'crp' is unknown: did you mean 'crop'?",
    "epochs = 2|augment = { crop = 'x' }": "train.plain.augment: crop='x'",
    'network = "mlp"|': "train.plain.network is missing",
    "arguments = { hidden = [12] }|arguments = 3": "train.plain.arguments=3: expected a table",
    "seeds = [0, 1]|seeds = [0, 'a']": "train.plain.seeds=[0, 'a']: expected a list of different integers",
    "seeds = [0, 1]|seeds = [0, 1]\nseed = 3": "train.plain: seed and seeds exclude each other",
    "[train.plain]|[models.a]\npth = 'a.pt'\n[train.plain]": "[models.a]: the key 'pth' is unknown: did you mean",
    "[train.plain]|[models.a]\narch = 'mlp'\n[train.plain]": "models.a.path is missing",
    "[train.plain]|[models]\na = ''\n[train.plain]": "models.a.path='': expected the file of a trained model",
    "[quick]|[quick]\nmodels = 2": "[quick]: the key 'models' is unknown",
}


@pytest.mark.parametrize("change", MALFORMED)
def test_a_malformed_file_names_the_key_and_what_is_allowed(experiment, change):
    old, new = change.split("|")
    experiment.write_text(experiment.read_text().replace(old, new, 1))
    with pytest.raises(InputError) as refused:
        load_experiment(experiment)
    assert str(refused.value).startswith(f"{experiment}: {MALFORMED[change]}")


def test_a_device_of_the_command_takes_the_place_of_one_that_is_not_there(experiment, monkeypatch):
    monkeypatch.setattr(devices, "count", lambda kind: 0)
    experiment.write_text('device = "cuda"\n' + experiment.read_text())
    with pytest.raises(InputError, match="torch sees no GPU"):
        load_experiment(experiment)
    assert load_experiment(experiment, device="cpu").device == "cpu"


def test_a_range_of_sigmas_and_a_list_are_the_same(experiment):
    text = experiment.read_text()
    experiment.write_text(text.replace("[0.0, 0.5]", "{ to = 1.5, points = 31 }"))
    assert load_experiment(experiment).sigmas == PROTOCOL
    experiment.write_text(text.replace("[0.0, 0.5]", str(list(PROTOCOL))))
    assert load_experiment(experiment).sigmas == PROTOCOL
    experiment.write_text(text.replace("sigmas = [0.0, 0.5]", ""))
    assert load_experiment(experiment).sigmas == PROTOCOL


def test_a_record_has_one_line_for_each_curve_or_point():
    content = {"a": {"points": [{"x": 1}, {"x": 2}]}, "b": [1.5, None]}
    assert json.loads(compact(content)) == content
    assert compact(content).splitlines() == [
        "{",
        ' "a": {',
        '  "points": [{"x":1},{"x":2}]',
        " },",
        ' "b": [1.5,null]',
        "}",
    ]


def test_a_file_without_a_quick_budget_says_so(command, experiment, tmp_path):
    text = experiment.read_text()
    experiment.write_text(text[: text.index("[quick]")] + text[text.index("[train.plain]") :])
    assert load_experiment(experiment).title == "Two ways"
    done = command("run", experiment, "-o", tmp_path / "out", "--budget", "quick")
    assert done.code == 2
    assert "add a table [quick]" in done.err


def test_a_budget_puts_its_keys_over_those_of_the_file():
    keys = ("chips", "half_width", "sigmas", "quick", "train", "models")
    table = {
        "half_width": 0.01, "sigmas": [0.0],
        "quick": {"chips": 3, "train": {"epochs": 1, "seed": 4, "b": {"settings": {"x": 2}}}},
        "train": {"a": {"epochs": 9, "seeds": [0, 1]}, "b": {"settings": {"x": 1, "y": 1}}},
    }  # fmt: skip
    quick = with_budget(table, "quick", keys)
    assert quick == {
        "sigmas": [0.0], "chips": 3,
        "train": {"a": {"epochs": 1, "seed": 4}, "b": {"epochs": 1, "seed": 4, "settings": {"x": 2, "y": 1}}},
    }  # fmt: skip
    full = with_budget(table, "full", keys)
    assert full == {key: value for key, value in table.items() if key != "quick"}
    both = {**table, "cpu": {"train": {"augment": {"crop": 2}, "b": {"settings": {"y": 3}}}}}
    assert with_budget(both, "quick", (*keys, "cpu")) == quick
    augment = {"augment": {"crop": 2}}
    assert with_budget(both, "cpu", (*keys, "cpu")) == {
        "half_width": 0.01, "sigmas": [0.0],
        "train": {
            "a": {"epochs": 9, "seeds": [0, 1], **augment}, "b": {"settings": {"x": 1, "y": 3}, **augment}
        },
    }  # fmt: skip
    with pytest.raises(InputError, match=r"no cpu budget in this file: add a table \[cpu\]"):
        with_budget(table, "cpu", keys)


def test_chips_of_an_experiment_are_calibrated_as_those_of_a_sweep(command, tmp_path):
    (tmp_path / "plain.toml").write_text(CALIBRATED.replace("calib", "# calib"))
    (tmp_path / "both.toml").write_text(CALIBRATED)
    for name in ("plain", "both"):
        done = command("run", tmp_path / f"{name}.toml", "-o", tmp_path / "out", "--no-page")
        assert done.code == 0, done.err
    plain, both = (json.loads((tmp_path / "out" / f"{n}.json").read_text()) for n in ("plain", "both"))
    assert "calibration" not in plain
    assert both["calibration"] == {"kind": "both", "images": 60}
    (path,) = (tmp_path / "out" / "both.models").glob("*.pt")
    common = ["sweep", f"net={path}", "--data", "digits", "--sigma", "0.5", "--chips", "2"]
    for found, more in ((plain, []), (both, ["--calibrate", "affine+readout", "--calibration-images", "60"])):
        swept = command(*common, *more, "--json", "-").report
        assert swept["models"][0]["task"] == found["models"]["net"]["task"]
        mean = swept["models"][0]["points"][0]["mean"]
        assert found["models"]["net"]["points"][0]["mean"] == pytest.approx(mean, rel=1e-5)


CALIBRATED = """
data = "digits"
sigmas = [0.5]
chips = 2
sensitivity_chips = 0
calibrate = "readout+affine"
calibration_images = 60
[train.net]
network = "mlp"
arguments = { hidden = [12] }
epochs = 1
"""


def test_boundaries_are_drawn_of_the_chips_that_are_swept(command, tmp_path):
    from crossbar_sim import Hardware
    from crossbar_sim.data import load_data
    from crossbar_sim.nn.files.loading import load_model
    from crossbar_sim.report.boundary_figure import decisions
    from crossbar_sim.robustness.examples import find_examples

    path, out = tmp_path / "moons.toml", tmp_path / "out"
    path.write_text(
        'data = "moons"\nsigmas = [0.0, 0.6]\nchips = [3, 4]\nboundaries = [0.6]\nsensitivity_chips = 0\n'
        '[train.small]\nnetwork = "mlp"\narguments = { hidden = [8] }\nepochs = 3\nlr = 1e-2\n'
    )
    done = command("run", path, "-o", out)
    assert done.code == 0, done.err
    assert 5_000 < (out / "moons-boundaries.png").stat().st_size < 150_000
    points = strict_json((out / "moons.json").read_text())["models"]["small"]["points"]
    (file,) = (out / "moons.models").glob("*.pt")
    loaded = load_model(file)
    examples = find_examples(loaded, load_data("moons"), None, None, None, 0)
    grid = torch.zeros(2, 2, 2)
    cell = decisions(loaded.module, Hardware.preset("bayesft"), 0.6, 0, [3, 4], grid, examples)
    assert cell.accuracy is not None
    assert cell.accuracy.mean() == pytest.approx(points[1]["mean"], abs=1e-6)
    assert cell.scores.shape == (2, 2, 2, 2)
    assert cell.share.sum(axis=0) == pytest.approx(1.0)


CODE = """
    data = "digits"
    sigmas = [0.0]
    chips = 1
    sensitivity_chips = 0
    {}
"""


@pytest.mark.parametrize(
    "models",
    [
        '[models]\nm = {{ path = "w.pt", arch = "{}" }}',
        '[models.m]\npath = "w.pt"\narch = "{}"',
        'models.m.path = "w.pt"\nmodels.m.arch = "{}"',
        '[train.m]\nnetwork = "mlp"\nmetric = "{}"',
    ],
)
def test_a_file_names_code_only_by_a_flag(command, tmp_path, monkeypatch, models):
    monkeypatch.chdir(tmp_path)
    torch.save(torch.nn.Linear(64, 10).state_dict(), tmp_path / "w.pt")
    (tmp_path / "experiment_code.py").write_text(
        "import torch\nopen('canary', 'w')\n"
        "def make():\n    return torch.nn.Sequential(torch.nn.Flatten(), Named())\n"
        "class Named(torch.nn.Linear):\n    def __init__(self):\n        super().__init__(64, 10)\n"
    )
    for arch in ("experiment_code:Named", "os:system"):
        (tmp_path / "e.toml").write_text(textwrap.dedent(CODE).format(models.format(arch)))
        done = command("run", "e.toml", "-o", "out")
        assert done.code == 2
        assert "--trust-code" in done.err
        assert not (tmp_path / "canary").exists()
    assert not (tmp_path / "out").exists()


def test_a_trusted_file_runs_the_code_that_it_names(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    torch.save(network.state_dict(), tmp_path / "w.pt")
    (tmp_path / "trusted_code.py").write_text(
        "import torch\ndef make():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
    )
    models = '[models]\nm = { path = "w.pt", arch = "trusted_code:make" }'
    (tmp_path / "e.toml").write_text(textwrap.dedent(CODE).format(models))
    done = command("run", "e.toml", "-o", "out", "--no-page", "--trust-code")
    assert done.code == 0, done.err


def test_the_weights_of_a_file_that_holds_several_are_part_of_the_models_identity(experiment, tmp_path):
    given = '[models.given]\npath = "a.pt"\narch = "mlp"\nweights = "ema"\n[train.plain]'
    experiment.write_text(experiment.read_text().replace("[train.plain]", given))
    assert load_experiment(experiment).models["given"].weights == "ema"
    table = MLP(64, (8,), 10).state_dict()
    torch.save({"model": table, "ema": {n: v + 1 for n, v in table.items()}}, tmp_path / "a.pt")
    identities = []
    for weights in ("model", "ema"):
        loaded = load_model(tmp_path / "a.pt", "mlp", weights=weights)
        ways = {"arch": "mlp", "arch_arguments": None, "weights": weights}
        identities.append(model_of_file("a", "a.pt", loaded, None, ways).identity)
    assert identities[0] != identities[1]
    ways = {"arch": "mlp", "arch_arguments": None, "weights": None}
    assert "weights" not in model_of_file("a", "a.pt", loaded, None, ways).identity
