"""Dropout sites of exported graphs, of models with dropout of their own, within models; and bad rates."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.dropout_models import CASES, made
from torch import nn

from crossbar_sim import Hardware, InputError, Key
from crossbar_sim.nn import seeded, to_analog
from crossbar_sim.nn.analog.sequential import trace_sequential
from crossbar_sim.nn.dropout_sites import rates, remove_found, set_rates, sites, with_dropout
from crossbar_sim.nn.networks import MLP


def exported(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """As `load_model` gives it."""
    graph = torch.export.export(model.eval(), (x,)).module()
    for forbidden in ("train", "eval"):
        graph.__dict__.pop(forbidden, None)
    return graph


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    ["linear layers", "Conv2d", "ConvTranspose1d", "residual blocks", "attention", "LSTM", "two heads"],
)
def test_an_exported_graph_has_the_same_sites(name):
    model, x = made(name)
    graph = exported(model, x)
    # torch's attention is exported as its projections
    expected = [("attention.out_proj" if n == "attention" else n, kind) for n, kind, _ in CASES[name][2]]
    assert [(site.name, site.kind) for site in sites(graph)] == expected
    plain, keys, code = graph(x), list(graph.state_dict()), graph.code
    changed = with_dropout(graph, 0.6).train()
    assert graph.code == code
    assert list(changed.state_dict()) == keys
    for twin in (changed, copy.deepcopy(changed), to_analog(changed, Hardware()).train()):
        assert rates(twin) == dict.fromkeys([n for n, _ in expected], 0.6)
        with seeded(Key(1)):
            first = twin(x)
        with seeded(Key(2)):
            assert not torch.equal(twin(x), first)
    changed(x).sum().backward()
    assert torch.allclose(changed.eval()(x), plain)
    remove_found(changed)
    assert changed.graph.python_code("self").src == graph.graph.python_code("self").src
    assert torch.allclose(changed.train()(x), plain)


def test_an_exported_graph_drops_after_the_activation():
    """Where a function is an operator of its own there is a place after it."""
    model, x = made("residual blocks")
    after = {site.name: site.after for site in sites(exported(model, x))}
    assert [after[name].split("_")[0] for name in ("stem", "a1", "a2", "b1", "b2")] == [
        "relu", "relu", "batch", "relu", "conv2d",
    ]  # fmt: skip


def alexnet_like() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2),
    )  # fmt: skip


def test_a_models_own_dropout_comes_first():
    model = alexnet_like()
    assert [(site.name, site.kind, site.own) for site in sites(model)] == [("5", "Dropout", True)]
    assert rates(model) == {"5": 0.5}
    set_rates(model, 0.25)
    assert model[5].p == 0.25
    # everywhere: none twice, where its own follows directly
    names = [(site.name, site.kind, site.own) for site in sites(model, everywhere=True)]
    assert names == [("5", "Dropout", True), ("0", "Dropout2d", False)]
    set_rates(model, (0.1, 0.2), everywhere=True)
    # from now on they all are its sites
    assert rates(model) == {"5": 0.1, "0": 0.2}
    remove_found(model)
    assert rates(model) == {"5": 0.1}


def test_own_sites_of_every_kind():
    model = nn.Sequential(nn.Dropout(0.1), nn.Dropout1d(0.2), nn.Dropout2d(0.3), nn.AlphaDropout(0.4))
    assert rates(model) == {"0": 0.1, "1": 0.2, "2": 0.3, "3": 0.4}


@pytest.mark.filterwarnings("ignore")
def test_a_transformer_layer_of_torchs_uses_its_own():
    model = nn.Sequential(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), nn.Linear(8, 2))
    assert list(rates(model)) == ["0.dropout", "0.dropout1", "0.dropout2"]


def test_a_model_within_a_model():
    """Names follow the module; the order stays."""
    model, _ = made("residual blocks")
    set_rates(model, (0.1, 0.2, 0.3, 0.4, 0.5))
    whole = nn.Sequential(nn.Identity(), model)
    assert rates(whole) == {"1.stem": 0.1, "1.a1": 0.2, "1.a2": 0.3, "1.b1": 0.4, "1.b2": 0.5}
    set_rates(whole, 0.25)
    assert rates(model) == dict.fromkeys(("stem", "a1", "a2", "b1", "b2"), 0.25)
    other = nn.Sequential(nn.Identity(), made("residual blocks")[0])
    set_rates(other, 0.5)
    assert list(rates(other[1])) == ["stem", "a1", "a2", "b1", "b2"]


def test_rates_by_name_and_pattern():
    model, _ = made("residual blocks")
    set_rates(model, 0.1)
    set_rates(model, {"a*": 0.2, "b2": np.float64(0.3)})
    assert rates(model) == {"stem": 0.1, "a1": 0.2, "a2": 0.2, "b1": 0.1, "b2": 0.3}
    set_rates(model, rates(model))
    set_rates(model, np.array([0.5, 0.4, 0.3, 0.2, 0.1]))
    assert list(rates(model).values()) == [0.5, 0.4, 0.3, 0.2, 0.1]


def test_a_hook_of_the_users_keeps_its_number_after_unpickling_elsewhere(tmp_path):
    """torch numbers hooks per process: one that is registered next must not replace a site's."""
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    set_rates(model, 0.5)
    (tmp_path / "m.pkl").write_bytes(pickle.dumps(model))
    code = (
        "import pickle, sys\n"
        "model = pickle.load(open(sys.argv[1], 'rb'))\n"
        "model[0].register_forward_hook(lambda *a: None)\n"
        "from crossbar_sim.nn.dropout_sites import rates\n"
        "assert len(model[0]._forward_hooks) == 2 and rates(model) == {'0': 0.5}\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.pkl")], check=True, timeout=120)


def test_a_model_that_was_given_back_is_fast_again():
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    assert trace_sequential(model) is not None
    set_rates(model, 0.5)
    assert trace_sequential(model) is None
    remove_found(model)
    assert trace_sequential(model) is not None


def test_our_networks_remember_their_rates():
    model = MLP(5, (4, 3), 2)
    set_rates(model, (0.1, 0.2))
    assert model.arguments["dropout"] == (0.1, 0.2)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (1.0, "dropout rate 1.0 of site 'stem': a number in [0, 1) is needed"),
        (-0.1, "dropout rate -0.1"),
        (float("nan"), "dropout rate nan"),
        ((0.1, 0.2, 0.3, 0.4, True), "dropout rate True of site 'b2'"),
        ("0.5", "dropout rate '0.5'"),
        (None, "dropout rate None"),
        ((0.1, 0.2), "2 dropout rates for 5 sites (stem, a1, a2, b1, b2): give one for all or one for each"),
        ((), "0 dropout rates for 5 sites"),
        ({"conv9": 0.5}, "no dropout site is called 'conv9'; sites: stem, a1, a2, b1, b2"),
    ],
)
def test_rates_that_do_not_fit_are_refused(wrong, says):
    model, _ = made("residual blocks")
    with pytest.raises(InputError) as caught:
        set_rates(model, wrong)
    assert says in str(caught.value)
    assert all(not module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(3, 2),
        nn.Sequential(nn.Flatten(), nn.Linear(3, 2), nn.ReLU()),
        nn.ReLU(),
        MLP(4, (), 2),
        nn.LSTM(5, 6),
    ],
)
def test_a_model_without_a_site_is_refused(model):
    for ask in (sites, rates, lambda m: set_rates(m, 0.1), lambda m: with_dropout(m, 0.1)):
        with pytest.raises(
            InputError, match="has no dropout site: it has no layer with weights before its last"
        ):
            ask(model)


@pytest.mark.filterwarnings("ignore")
def test_what_is_no_module_is_refused():
    with pytest.raises(InputError, match="TorchScript"):
        sites(torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))))
    with pytest.raises(InputError, match="not of a str"):
        sites("resnet18")


def test_torchvisions_networks():
    models = pytest.importorskip("torchvision").models
    blocks = [f"layer{i}.{j}.conv{k}" for i in (1, 2, 3, 4) for j in (0, 1) for k in (1, 2)]
    assert [site.name for site in sites(models.resnet18())] == ["conv1", *blocks]
    assert [site.name for site in sites(models.alexnet())] == ["classifier.0", "classifier.3"]
    everywhere = [site.name for site in sites(models.alexnet(), everywhere=True)]
    features = [f"features.{i}" for i in (0, 3, 6, 8, 10)]
    # fc6 has the site of its own that follows its ReLU
    assert everywhere == ["classifier.0", "classifier.3", *features, "classifier.4"]
