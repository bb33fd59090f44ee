from pathlib import Path

import pytest
import torch
from torch import nn

from crossbar_sim.baselines.erm import Erm
from crossbar_sim.baselines.redundancy import AveragedOutputs, cells, compare
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.data import load_data
from crossbar_sim.errors import InputError
from crossbar_sim.experiments.networks import save_network
from crossbar_sim.nn import MLP
from crossbar_sim.nn.files.loading import load_model
from crossbar_sim.nn.training.settings import Training
from crossbar_sim.rng import Key


def test_outputs_are_averaged_class_by_class() -> None:
    model = AveragedOutputs(nn.Identity(), 3)
    x = torch.tensor([[1.0, 2.0, 6.0, 10.0, 10.0, 40.0]])
    assert model(x).tolist() == [[3.0, 20.0]]


@pytest.mark.parametrize("copies", [1, 0, True, 2.0])
def test_one_output_per_class_is_no_redundancy(copies: object) -> None:
    with pytest.raises(InputError, match="copies="):
        AveragedOutputs(nn.Identity(), copies)  # type: ignore[arg-type]


def test_outputs_that_do_not_divide_are_refused() -> None:
    with pytest.raises(InputError, match="multiple of 3"):
        AveragedOutputs(nn.Identity(), 3)(torch.ones(1, 10))


def test_a_named_network_is_saved_and_comes_back_with_its_rates(tmp_path: Path) -> None:
    model = AveragedOutputs("lenet5", 3, arguments={"size": 8, "dropout": 0.25})
    model.eval()
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    save_network(tmp_path / "net.pt", model, "digits")
    back = load_model(tmp_path / "net.pt").module
    assert isinstance(back, AveragedOutputs)
    assert back.arguments == model.arguments
    assert torch.equal(back(x), model(x))
    assert model(x).shape == (2, 10)


def test_what_cannot_be_averaged_is_refused() -> None:
    with pytest.raises(InputError, match="single outputs"):
        AveragedOutputs("averaged", 3)
    with pytest.raises(InputError, match="classes go beside"):
        AveragedOutputs("mlp", 3, arguments={"classes": 10})
    with pytest.raises(InputError, match="given by its name"):
        AveragedOutputs(nn.Identity(), 3, arguments={})
    with pytest.raises(InputError, match="not one of the networks"):
        save_network("never-written.pt", AveragedOutputs(nn.Identity(), 3), "digits")


def test_cells_are_those_of_the_arrays() -> None:
    """Two cells for each of the 64 x 16 + 16 x 10 weights, times the copies; biases drift outside arrays."""
    model = MLP(inputs=64, hidden=(16,), classes=10)
    assert cells(model, Hardware.preset("bayesft")) == 2 * (64 * 16 + 16 * 10)
    assert cells(model, Hardware.preset("bayesft", copies=4)) == 8 * (64 * 16 + 16 * 10)


def test_the_price_stands_beside_the_gain() -> None:
    data = load_data("digits").development

    def plain() -> nn.Module:
        return MLP(inputs=64, hidden=(16,), classes=10)

    def averaged() -> nn.Module:
        return AveragedOutputs(MLP(inputs=64, hidden=(16,), classes=40), 4)

    method = Erm(Training(6, 64, 1e-2))
    design = Hardware.preset("bayesft")
    one = method.fit(plain, data, Key(0)).model
    ways = {
        "plain": (one, design),
        "4 cells per weight": (one, Hardware.preset("bayesft", copies=4)),
        "4 outputs per class": (method.fit(averaged, data, Key(0)).model, design),
    }
    rows = compare(ways, data.validation, sigmas=[0.0, 0.9], chips=10)
    assert [row.label for row in rows] == list(ways)
    assert [row.price for row in rows] == pytest.approx([1, 4, (1024 + 640) / (1024 + 160)])
    assert rows[0].gain == {0.0: 0.0, 0.9: 0.0}
    assert rows[1].gain[0.0] == 0.0  # the same network without drift
    assert rows[1].gain[0.9] > 0.1
    with pytest.raises(InputError, match="nothing to compare"):
        compare({}, data.validation, sigmas=[0.0])
