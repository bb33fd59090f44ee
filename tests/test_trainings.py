"""Trainings of experiments: planned before the first begins, kept under a name that holds what decides them."""

import io
import textwrap
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from crossbar_sim.data import Split, Splits
from crossbar_sim.errors import InputError
from crossbar_sim.experiments.schema import load_experiment
from crossbar_sim.experiments.trainings import plan_trainings, train
from crossbar_sim.nn.files.loading import load_model

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


CHANGES = {
    "arguments": ("hidden = [4]", "hidden = [5]"),
    "epochs": ("epochs = 1", "epochs = 2"),
    "seed": ("epochs = 1", "epochs = 1\n    seed = 3"),
    "method": ("epochs = 1", 'epochs = 1\n    method = "dropout"'),
    "settings": ("epochs = 1", 'epochs = 1\n    method = "dropout"\n    settings = { rate = 0.25 }'),
    "learning rate": ("epochs = 1", "epochs = 1\n    lr = 0.5"),
}


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
