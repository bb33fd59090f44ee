"""A killed training that is started again ends with the same weights, to the bit."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from crossbar_sim.data import Development, Split, load_data
from crossbar_sim.errors import InputError
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.nn.training.augment import Augment
from crossbar_sim.nn.training.loop import Epoch, FitReport, fit
from crossbar_sim.nn.training.settings import Training
from crossbar_sim.rng import Key

EPOCHS = 4
HOW = Training(EPOCHS, 200, 5e-3, clip=0.5, weight_decay=0.01, augment=Augment(crop=1))


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def digits() -> Development:
    return load_data("digits").development


def net(seed: int = 0, width: int = 16, rate: float = 0.2) -> nn.Sequential:
    with seeded(Key(seed)):
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, width),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Dropout(rate),
            nn.Linear(width, 10),
        )


def bits(model: nn.Module) -> bytes:
    return b"".join(t.detach().numpy().tobytes() for t in model.state_dict().values())


def train(
    digits: Development, path: Path | None, stop_after: int | None = None, **options: Any
) -> tuple[nn.Module, FitReport]:
    def progress(epoch: Epoch) -> None:
        if epoch.number == stop_after:
            raise Stopped

    model = options.pop("model", None) or net()
    given: dict[str, Any] = {"training": HOW, "key": Key(1), "train": digits.train, **options}
    report = fit(model, validation=digits.validation, checkpoint=path, progress=progress, **given)
    return model, report


MUON = Training(EPOCHS, 200, 0.02, "muon", augment=Augment(1, "alternating", "reflect"))


@pytest.mark.parametrize(
    "how", [HOW, Training(EPOCHS, 200, 0.05, "sgd"), Training(EPOCHS, 200, patience=1), MUON]
)
def test_it_goes_on_to_the_same_weights(digits: Development, tmp_path: Path, how: Training) -> None:
    whole, report = train(digits, None, training=how)
    path = tmp_path / "run.ckpt"
    for stop in (1, 2):
        with pytest.raises(Stopped):
            train(digits, path, stop, training=how)
    resumed, again = train(digits, path, training=how)
    assert bits(resumed) == bits(whole)
    assert again == report
    assert again.seconds > 0


def in_one_buffer(state: dict[str, Any], last: bool) -> dict[str, Any]:
    """An optimiser's state_dict as version 0.1.0 wrote it: the values of all parameters in one flat tensor."""
    each = [state["state"][i] for i in sorted(state["state"])]

    def flat(value: torch.Tensor) -> torch.Tensor:
        return (value.permute(0, 2, 3, 1) if last and value.dim() == 4 else value).reshape(-1)

    joined = {
        name: torch.cat([flat(one[name]) for one in each]) if each[0][name].dim() else each[0][name]
        for name in each[0]
    }
    return {"state": {0: joined}, "param_groups": [{**state["param_groups"][0], "params": [0]}]}


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("layers", ["several", "one parameter"])
def test_a_checkpoint_of_version_0_1_is_continued(
    digits: Development, tmp_path: Path, optimiser: Any, last: bool, layers: str
) -> None:
    def made() -> nn.Module:
        with seeded(Key(0)):
            if layers == "one parameter":
                return nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False))
            return nn.Sequential(
                nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(64, 10)
            )

    how = Training(2, 200, 5e-3, optimiser, channels_last=last)
    whole, _ = train(digits, None, training=how, model=made())
    path = tmp_path / "run.ckpt"
    with pytest.raises(Stopped):
        train(digits, path, 1, training=how, model=made())
    content = torch.load(path, weights_only=True)
    content["optimiser"] = in_one_buffer(content["optimiser"], last)
    torch.save(content, path)
    resumed, _ = train(digits, path, training=how, model=made())
    assert bits(resumed) == bits(whole)


def test_only_the_epochs_that_were_missing_are_done(digits: Development, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    with pytest.raises(Stopped):
        train(digits, path, 3)
    numbers: list[int] = []
    fit(
        net(), digits.train, digits.validation, key=Key(1), training=HOW, checkpoint=path,
        progress=lambda epoch: numbers.append(epoch.number),
    )  # fmt: skip
    assert numbers == [4]
    before = path.read_bytes()
    model, report = train(digits, path)  # all done: nothing to do
    assert report.epochs == EPOCHS
    assert path.read_bytes() == before
    assert bits(model) == bits(train(digits, None)[0])


def test_a_checkpoint_changes_nothing_by_being_written(digits: Development, tmp_path: Path) -> None:
    assert bits(train(digits, tmp_path / "run.ckpt")[0]) == bits(train(digits, None)[0])


SCRIPT = """
    import os, signal, sys, torch
    from torch import nn
    from crossbar_sim.data import load_data
    from crossbar_sim.nn.seeding import seeded
    from crossbar_sim.nn.training.loop import fit
    from crossbar_sim.nn.training.settings import Training
    from crossbar_sim.rng import Key

    steps, kill_at = 0, int(sys.argv[2])

    def step(model, x, y):
        global steps
        steps += 1
        if steps == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return nn.functional.cross_entropy(model(x), y)

    data = load_data("digits").development
    with seeded(Key(0)):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 10))
    path = None if sys.argv[1] == "-" else sys.argv[1]
    fit(model, data.train, data.validation, key=Key(1), training=Training(3, 200), loss_step=step, checkpoint=path)
    sys.stdout.write(b"".join(p.detach().numpy().tobytes() for p in model.parameters()).hex())
"""


def test_a_run_killed_in_the_middle_of_an_epoch_goes_on(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SCRIPT))
    path = str(tmp_path / "run.ckpt")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run(
            [sys.executable, str(script), *arguments], capture_output=True, text=True, env=environment
        )

    whole = run("-", "0")
    assert whole.returncode == 0, whole.stderr
    killed = run(path, "9")  # six steps an epoch: in the middle of the second
    assert killed.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == ["run.py", "run.ckpt"] or sorted(os.listdir(tmp_path)) == [
        "run.ckpt",
        "run.py",
    ]
    resumed = run(path, "0")
    assert resumed.returncode == 0, resumed.stderr
    assert len(whole.stdout) > 8000
    assert resumed.stdout == whole.stdout


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ("network", {"model": net(width=17)}),
        ("network", {"model": net(rate=0.3)}),
        ("initial weights", {"model": net(seed=5)}),
        ("training", {"training": Training(EPOCHS + 1, 200, 5e-3)}),
        ("key", {"key": Key(2)}),
        ("training data", {"train": "other"}),
        ("method", {"method": "drift-aware"}),
    ],
)
def test_a_checkpoint_of_another_training_is_refused(
    digits: Development, tmp_path: Path, part: str, changed: dict[str, Any]
) -> None:
    path = tmp_path / "run.ckpt"
    with pytest.raises(Stopped):
        train(digits, path, 1)
    before = path.read_bytes()
    if "train" in changed:
        changed = {"train": Split(1 - digits.train.x, digits.train.y)}
    with pytest.raises(InputError, match=f"another {part}") as caught:
        train(digits, path, **changed)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_what_is_no_checkpoint_is_refused_and_stays(digits: Development, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    with pytest.raises(Stopped):
        train(digits, path, 1)
    whole = path.read_bytes()
    other = tmp_path / "other"
    torch.save({"format": "crossbar-sim checkpoint"}, other)
    torch.save(nn.Linear(1, 1), tmp_path / "module")
    future = torch.load(path, weights_only=True) | {"format_version": 2}
    torch.save(future, tmp_path / "future")
    contents = {
        "empty": b"",
        "garbage": b"\x00garbage" * 99,
        "truncated": whole[: len(whole) // 2],
        "other": other.read_bytes(),
        "module": (tmp_path / "module").read_bytes(),  # a pickle of a class is not even looked at
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match="no checkpoint of a training") as caught:
            train(digits, tmp_path / name)
        assert "\n" not in str(caught.value)
        assert (tmp_path / name).read_bytes() == content
    with pytest.raises(InputError, match="format_version 2"):
        train(digits, tmp_path / "future")


def test_one_with_parts_missing_is_damaged(digits: Development, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    with pytest.raises(Stopped):
        train(digits, path, 1)
    content = torch.load(path, weights_only=True)
    del content["model"]["1.weight"]
    torch.save(content, path)
    with pytest.raises(InputError, match="damaged"):
        train(digits, path)


def test_a_directory_is_refused(digits: Development, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        train(digits, tmp_path)
    with pytest.raises(InputError, match="cannot write"):
        train(digits, tmp_path / "nowhere" / "run.ckpt")
