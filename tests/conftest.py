"""A small trained network in every form that a model file can have, made once per session."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from helpers.cli_runs import ARGUMENTS, Files, Result
from torch import nn

from crossbar_sim import Key
from crossbar_sim.cli import run
from crossbar_sim.crossbar import threads
from crossbar_sim.data import Splits, load_data
from crossbar_sim.nn import fit, save_checkpoint, seeded
from crossbar_sim.nn.networks import build


@pytest.fixture(scope="session")
def digits() -> Splits:
    return load_data("digits")


@pytest.fixture(scope="session")
def network(digits: Splits) -> nn.Module:
    """An MLP that gets digits right, in evaluation mode. Not to be changed."""
    with seeded(Key(0).fold("tests")):
        model = build("mlp", **ARGUMENTS)
    fit(model, digits.train, digits.validation, epochs=25, batch=64, lr=1e-2, key=Key(0))
    return model


@pytest.fixture(scope="session")
def files(network: nn.Module, digits: Splits, tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("files")
    made = Files(
        folder,
        folder / "model.pt",
        folder / "dynamic.pt2",
        folder / "fixed.pt2",
        folder / "state_dict.pt",
        folder / "pickled.pt",
        folder / "labelled.npz",
        folder / "unlabelled.npz",
    )
    save_checkpoint(made.checkpoint, network, "mlp", ARGUMENTS, "digits")
    x = digits.test.x[:7]
    batch = torch.export.Dim("batch", min=1, max=4096)
    torch.export.save(torch.export.export(network, (x,), dynamic_shapes=({0: batch},)), made.dynamic)
    torch.export.save(torch.export.export(network, (x,)), made.fixed)
    torch.save(network.state_dict(), made.state_dict)
    torch.save(network, made.pickled)
    assert digits.test.y is not None
    np.savez(made.labelled, x=digits.test.x.numpy(), y=digits.test.y.numpy())
    np.savez(made.unlabelled, x=digits.test.x.numpy())
    return made


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """command("deploy", path, "--sigma", 0.6): the command line in this process."""
    monkeypatch.setenv("COLUMNS", "200")  # wide, so that a sentence to look for is not wrapped
    before = threads.threads()

    def call(*arguments: object) -> Result:
        capfd.readouterr()
        try:
            code = run([str(a) for a in arguments])
        finally:
            threads.set_threads(before)
        written = capfd.readouterr()
        return Result(code, written.out, written.err)

    return call
