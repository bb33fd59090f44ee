"""Trainings of experiments: planned before the first begins, kept under a name that holds what decides them."""

import io
import textwrap
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from crossbar_sim.data import Split, Splits
from crossbar_sim.errors import InputError
from crossbar_sim.experiments.networks import save_network, started
from crossbar_sim.experiments.schema import load_experiment
from crossbar_sim.experiments.trainings import plan_trainings, train, train_network
from crossbar_sim.nn.files.loading import load_model
from crossbar_sim.nn.networks import MLP
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.nn.standardised import standardisation_of
from crossbar_sim.rng import Key

FILE = """
    title = "One"
    data = "digits"
    sigmas = [0.0, 0.5]
    chips = 2
    [train.plain]
    network = "mlp"
    arguments = { hidden = [4] }
    epochs = 1
"""


@pytest.fixture
def splits():
    x = torch.sin(torch.arange(40 * 16.0)).reshape(40, 1, 4, 4)
    y = torch.arange(40) % 3
    parts = [Split(x[at], y[at]) for at in (slice(20), slice(20, 30), slice(30, 40))]
    return Splits("made", *parts, 3)


@pytest.fixture
def planned(tmp_path, splits):
    def plan(text=FILE, examples=splits):
        path = tmp_path / "one.toml"
        path.write_text(textwrap.dedent(text))
        return plan_trainings(load_experiment(path), examples, examples.test, tmp_path / "models")

    return plan


def test_a_metric_that_the_data_do_not_have_is_refused_before_the_first_training(planned):
    with pytest.raises(InputError, match="plain: metric='rmse' compares each output with a target"):
        planned(FILE.replace("epochs = 1", 'epochs = 1\n    metric = "rmse"'))


CHANGES = {
    "arguments": ("hidden = [4]", "hidden = [5]"),
    "epochs": ("epochs = 1", "epochs = 2"),
    "seed": ("epochs = 1", "epochs = 1\n    seed = 3"),
    "method": ("epochs = 1", 'epochs = 1\n    method = "dropout"'),
    "settings": ("epochs = 1", 'epochs = 1\n    method = "dropout"\n    settings = { rate = 0.25 }'),
    "learning rate": ("epochs = 1", "epochs = 1\n    lr = 0.5"),
}


def test_the_cpu_is_where_trainings_are_anyway(planned):
    paths = [planned(f'device = "{name}"\n{FILE}')["plain"].path for name in ("cpu", "torch:cpu")]
    assert [path == planned()["plain"].path for path in paths] == [True, False]


def test_whatever_decides_a_training_is_in_the_name_of_its_file(planned, splits):
    paths = {"as it is": planned()["plain"].path, "again": planned()["plain"].path}
    assert paths.pop("again") == paths["as it is"]
    for name, change in CHANGES.items():
        (paths[name],) = [each.path for each in planned(FILE.replace(*change)).values()]
    other = replace(splits, train=Split(splits.train.x + 1, splits.train.y))
    paths["data"] = planned(examples=other)["plain"].path
    assert len(set(paths.values())) == len(paths) == len(CHANGES) + 2
    # the title, the sigmas and the chips of the sweep decide no training
    assert (
        planned(FILE.replace("chips = 2", "chips = 9").replace("0.5]", "0.7]"))["plain"].path
        in paths.values()
    )


REFUSED = {
    "reram-v": ("epochs = 1", 'epochs = 1\n    method = "reram-v"', "plain: reram-v retrains a network for one chip"),
    "method": ("epochs = 1", 'epochs = 1\n    method = "dropuot"', "plain: .*did you mean 'dropout'"),
    "setting": (
        "epochs = 1", 'epochs = 1\n    method = "dropout"\n    settings = { rte = 0.2 }', "did you mean 'rate'",
    ),
    "argument": ("hidden = [4]", "hiden = [4]", "plain: .*hidden"),
    "network": ('network = "mlp"', 'network = "mpl"', "mlp"),
    "metric": ("chips = 2", 'chips = 2\n    metric = "map"', "plain: .*map"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_is_refused_with_the_model(planned, case):
    old, new, words = REFUSED[case]
    with pytest.raises(InputError, match=words) as error:
        planned(FILE.replace(old, new))
    assert "\n" not in str(error.value)


def test_examples_without_labels_are_refused(planned, splits):
    with pytest.raises(InputError, match=r"plain: .*no labels"):
        planned(examples=replace(splits, train=Split(splits.train.x, None)))


def test_a_network_is_trained_once_and_its_state_removed(planned, splits, tmp_path):
    (one,) = planned().values()
    written = io.StringIO()
    path = train(one, splits, "digits", Console(file=written))
    assert "training plain: mlp by erm on made" in written.getvalue()
    assert [each.name for each in (tmp_path / "models").iterdir()] == [path.name]
    loaded = load_model(path)
    assert loaded.data == "digits"
    content = path.read_bytes()
    again = io.StringIO()
    assert train(one, splits, "digits", Console(file=again)) == path
    assert again.getvalue() == ""
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_made_is_named(planned, splits, tmp_path):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(InputError, match="cannot make the folder"):
        train(planned()["plain"], splits, "digits", Console(file=io.StringIO()))


START = {"inputs": 16, "hidden": (4,), "classes": 3}
SEARCH = {"trials": 1, "training_chips": 2, "chips": 2, "images": 10, "fresh_chips": 2, "polish": 0}
METHODS = {
    "erm": {}, "dropout": {"rate": 0.1}, "awp": {}, "drift-aware": {"chips": 2}, "ftna": {}, "neft": {},
    "reram-v": {"hardware": "bayesft", "retraining": {"lr": 1e-9, "epochs": 1}}, "bayesft": SEARCH,
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_every_method_begins_with_the_weights_that_are_given(method, splits):
    """Steps of 1e-9 move nothing: the result is what training began with, but for the layer that ftna exchanges."""
    with seeded(Key(5)):
        first = MLP(**START)
    done = train_network(
        "mlp", splits, method, arguments={"hidden": (4,)}, start=first, lr=1e-9, epochs=1, **METHODS[method]
    )
    held, wanted = done.model.state_dict(), first.state_dict()
    found = {name.removeprefix("network."): value for name, value in held.items()}
    for name in [each for each in wanted if method != "ftna" or each.startswith("fc1")]:
        assert torch.allclose(found[name], wanted[name], atol=1e-6), name
    assert len(done.notes["from"]) == 64


def test_what_a_training_may_start_from(splits, tmp_path):
    how = {"arguments": {"hidden": (4,)}, "epochs": 1}
    before = train_network("mlp", splits, seed=3, **how)
    save_network(tmp_path / "net.pt", before.model, "digits")
    torch.save({"state_dict": before.model.state_dict()}, tmp_path / "table.pth")
    ways = [before, before.model, before.model.state_dict(), tmp_path / "net.pt", str(tmp_path / "table.pth")]
    found = [train_network("mlp", splits, start=way, **how) for way in ways]
    assert len({done.notes["from"] for done in found}) == 1
    weights = [done.model.state_dict()["fc1.weight"] for done in found]
    assert all(torch.equal(weight, weights[0]) for weight in weights)
    assert not torch.equal(weights[0], train_network("mlp", splits, **how).model.state_dict()["fc1.weight"])
    with pytest.raises(
        InputError, match=r"from this MLP: .*fc1.weight \(4, 16\) instead of \(5, 16\).*same arg"
    ) as refused:
        train_network("mlp", splits, start=before.model, arguments={"hidden": (5,)}, epochs=1)
    assert "\n" not in str(refused.value)
    with pytest.raises(InputError, match=r"no\.pt.*no such file"):
        train_network("mlp", splits, start=tmp_path / "no.pt", **how)
    # a training that goes on from its state has begun with its start weights
    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        train_network("mlp", splits, start=before, checkpoint=state, progress=_stop, **how)
    with pytest.raises(InputError, match="another initial weights"):
        train_network("mlp", splits, checkpoint=state, **how)


def _stop(epoch):
    raise KeyboardInterrupt


THEN = """
    [train.aware]
    network = "mlp"
    arguments = { hidden = [4] }
    method = "drift-aware"
    settings = { sigma = "0.2:0.6", chips = 2, ramp = 0 }
    from = "plain"
    epochs = 1
    seeds = [0, 1]
"""
SEEDS = FILE.replace("epochs = 1", "epochs = 1\n    seeds = [0, 1]")


def test_a_training_starts_from_another_of_the_file(planned, splits, tmp_path):
    """From the one of its own seed where there are several, and from a file; its name tells what it started from."""
    plans = planned(SEEDS + THEN)
    assert [plans[f"aware, seed {n}"].start for n in (0, 1)] == [
        plans[f"plain, seed {n}"].path for n in (0, 1)
    ]
    assert planned(FILE + THEN)["aware, seed 1"].start == planned()["plain"].path
    for plan in plans.values():
        train(plan, splits, "digits", Console(file=io.StringIO()))
    saved = torch.load(plans["aware, seed 1"].path, weights_only=True)["notes"]["from"]
    assert saved == started(plans["plain, seed 1"].made, plans["plain, seed 1"].path).sha256
    (tmp_path / "net.pt").write_bytes(plans["plain, seed 0"].path.read_bytes())
    ways = [
        THEN, THEN.replace('from = "plain"', ""), THEN.replace('"plain"', '"net.pt"'),
        "    [models]\n    net = 'net.pt'\n" + THEN.replace('"plain"', '"net"'),
    ]  # fmt: skip
    names = [planned(SEEDS + way)["aware, seed 0"].path.name for way in ways]
    assert len(set(names)) == 3
    assert names[2] == names[3]


CALIBRATED = FILE.replace(
    "epochs", 'method = "drift-aware"\n    settings = { chips = 2, calibrated = true }\n    epochs'
)
FURTHER = THEN.replace("ramp = 0", "ramp = 0, calibrated = true")


def test_a_training_continues_one_for_calibrated_chips(planned, splits, tmp_path):
    plans = planned(CALIBRATED + FURTHER)
    for plan in (plans["plain"], plans["aware, seed 0"]):
        train(plan, splits, "digits", Console(file=io.StringIO()))
    found = [load_model(plans[label].path).module for label in ("plain", "aware, seed 0")]
    assert [standardisation_of(model).readout for model in found] == ["fc2", "fc2"]
    (tmp_path / "net.pt").write_bytes(plans["plain"].path.read_bytes())
    for way in (THEN, THEN.replace('"plain"', '"net.pt"')):
        with pytest.raises(InputError, match=r"aware, seed 0: .* trained for calibrated chips"):
            planned(CALIBRATED + way)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            THEN.replace('"plain"', '"plane"') + FILE,
            "neither a file .* nor a model of it: aware, seed 1, plain",
        ),
        (FILE.replace("epochs", 'from = "aware"\n    epochs') + THEN, "put .train.aware. before it"),
        (FILE + THEN.replace("[4]", "[5]"), "aware, seed 0: from this MLP: .*of another shape"),
        (
            FILE.replace("epochs", 'method = "ftna"\n    epochs') + THEN,
            "ftna gives a network another last layer",
        ),
        (FILE + THEN.replace("0.2:0.6", "0.2-0.6"), "low:high such as"),
    ],
)
def test_what_cannot_be_started_from_is_one_sentence(planned, text, says):
    head, _, _ = FILE.partition("    [train")
    with pytest.raises(InputError, match=says) as caught:
        planned(head + text.replace(head, ""))
    assert "\n" not in str(caught.value)
