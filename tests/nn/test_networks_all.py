"""What every network of ours does, on small ones."""

import functools

import pytest
import torch
from helpers.small_networks import RESIDUAL, SITES, SMALL, images, made, numbers
from torch import nn

from crossbar_sim import Hardware, Key, LogNormalDrift
from crossbar_sim.nn import layers, load_model, save_checkpoint, seeded, to_analog
from crossbar_sim.nn.dropout_sites import rates, set_rates, sites
from crossbar_sim.nn.evaluate import outputs
from crossbar_sim.nn.networks import build
from crossbar_sim.robustness import robustness


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("normalisation", [None, "batch", "layer", "instance", "group"])
def test_a_gradient_reaches_every_parameter(name, normalisation):
    if "152" in name and normalisation not in (None, "batch"):
        pytest.skip("as of 50 layers")
    model = made(name, normalisation=normalisation, activation="elu").train()
    y = model(images(name))
    classes = model.arguments["classes"]
    assert y.shape == (3, classes)
    (y * numbers(3, classes)).sum().backward()
    for key, p in model.named_parameters():
        assert p.grad is not None, key
        assert p.grad.isfinite().all(), key
        # a bias before a norm that takes the mean away has none by right
        assert p.grad.any() or key.endswith("bias"), key


@pytest.mark.parametrize("name", SMALL)
def test_every_argument_has_an_effect(name):
    other = {
        "inputs": 100, "hidden": (9,), "classes": 7, "width": 5, "channels": 2, "size": 64, "stem": "imagenet",
        "dropout": 0.5, "normalisation": "group", "activation": "tanh",
    }  # fmt: skip
    plain = made(name)
    for argument in plain.arguments:
        changed = made(name, **{argument: other[argument]})
        assert repr(changed) != repr(plain), argument
        assert changed.arguments != plain.arguments


@pytest.mark.parametrize("name", SMALL)
def test_arguments_rebuild_the_network(name):
    few = len(sites(made(name)))
    dropout = tuple((i + 1) / 100 for i in range(few))
    model = made(name, classes=4, dropout=dropout, activation="gelu", normalisation="batch")
    twin = build(name, **model.arguments)
    twin.load_state_dict(model.state_dict())
    assert twin.arguments == model.arguments
    assert repr(twin) == repr(model)
    # each rate at the site that has its place in the order
    assert tuple(rates(model).values()) == dropout == model.arguments["dropout"]


@pytest.mark.parametrize("name", SITES)
def test_the_sites_by_name(name):
    found = sites(made(name))
    assert [site.name for site in found] == SITES[name]
    assert all(site.own for site in found)


@pytest.mark.parametrize(("name", "blocks"), [("preact-resnet-50", 16), ("preact-resnet-152", 50)])
def test_a_site_for_the_stem_and_for_each_block(name, blocks):
    assert len(sites(made(name))) == 1 + blocks


@pytest.mark.parametrize("name", SMALL)
def test_dropout_acts_in_training_only(name):
    model, x = made(name), images(name)
    plain = made(name).train()(x)
    model.train()
    assert torch.equal(model(x), plain)  # all rates are 0
    set_rates(model, 0.5)
    first, second = model(x), model(x)
    assert not torch.equal(first, second)
    with seeded(Key(4)):
        first = model(x)
    with seeded(Key(4)):
        assert torch.equal(model(x), first)
    model.eval()
    assert torch.equal(model(x), made(name).eval()(x))


@pytest.mark.parametrize("name", SMALL)
def test_every_single_site_acts(name):
    # ELU: of a small network's ReLUs a whole layer can be silent
    model, x = made(name, activation="elu").train(), images(name)
    plain = model(x)
    few = len(sites(model))
    for i in sorted({*range(min(few, 9)), few - 1}):
        set_rates(model, [0.9 if j == i else 0.0 for j in range(few)])
        with seeded(Key(5)):
            assert not torch.equal(model(x), plain), sites(model)[i].name


@pytest.mark.parametrize("name", RESIDUAL)
def test_the_shortcuts_keep_everything(name):
    """With nearly all of every branch dropped, and a stem kept, the shortcuts alone remain."""
    model, x = made(name).train(), images(name)
    for block in model.blocks():
        block.dropout.p = 1.0
    y = model(x)
    for block in model.blocks():
        block.dropout.p = 0.0
        last = block.convolutions()[-1]
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    assert torch.allclose(model(x), y)
    assert y.var() > 0


@functools.cache
def trained(name: str, normalisation: str | None) -> nn.Module:
    """A network whose batch norms have statistics, in evaluation mode."""
    model = made(name, normalisation=normalisation).train()
    with torch.no_grad():
        model(images(name, 8))
    return model.eval()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("normalisation", [None, "batch"])
def test_ideal_hardware_is_plain_torch(name, normalisation):
    model, x = trained(name, normalisation), images(name, 4)
    plain = model(x).detach()
    ideal = torch.cat(outputs(to_analog(model, Hardware()), x, block=2))
    assert torch.allclose(ideal, plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))
    drifted = torch.cat(outputs(to_analog(model, Hardware(drift=LogNormalDrift(0.5))), x))
    assert not torch.allclose(drifted, plain, rtol=1e-2)


@pytest.mark.parametrize("name", SMALL)
def test_it_is_swept(name):
    """Its own outputs as labels: without drift a chip is right about every image, with much it is not."""
    model, x = trained(name, None), images(name, 12)
    labels = model(x).argmax(1)
    sweep = robustness({"it": model}, (x, labels), sigmas=(0.0, 3.0), chips=4)
    clean, drifted = ([t.value for t in point.trials] for point in sweep.curve("it"))
    assert clean == [1.0] * 4
    assert min(drifted) < 1
    # all parameters drift: none of them is out of the simulator's sight
    design = Hardware.preset("bayesft", sigma=0.5)
    seen = {
        f"{layer.name}.{n}"
        for layer in layers(to_analog(model, design))
        for slot in layer.slots
        for n in slot.names
    }
    assert {n for n, _ in model.named_parameters()} == seen


@pytest.mark.parametrize("name", ["lenet5", "vgg-11", "resnet-18", "stn"])
def test_a_folded_normalisation_is_plain_torch(name):
    model, x = trained(name, "batch"), images(name, 2)
    folded = to_analog(model, Hardware(normalisation="folded"))
    plain = model(x).detach()
    with torch.no_grad():
        assert torch.allclose(folded(x), plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max()))


@pytest.mark.parametrize("name", SMALL)
def test_an_analog_network_drops_in_training(name):
    model, x = made(name, dropout=0.5), images(name)
    analog = to_analog(model, Hardware(drift=LogNormalDrift(0.2)), chip=3).train()
    with seeded(Key(4)):
        y = analog(x)
    with seeded(Key(5)):
        assert not torch.equal(analog(x), y)
    y.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert rates(analog) == rates(model)


@pytest.mark.parametrize("name", SMALL)
def test_a_checkpoint_brings_it_back(name, tmp_path):
    model, x = trained(name, "batch"), images(name)
    set_rates(model, 0.125)
    save_checkpoint(tmp_path / "m.pt", model, name, model.arguments, "cifar10")
    loaded = load_model(tmp_path / "m.pt")
    assert loaded.name == name
    assert loaded.module.arguments == model.arguments
    assert set(rates(loaded.module).values()) == {0.125}
    assert torch.equal(loaded.module(x), model(x))


@pytest.mark.parametrize("name", ["stn", "preact-resnet-18", "alexnet-cifar"])
def test_an_archive_brings_it_back(name, tmp_path):
    model, x = trained(name, "batch"), images(name)
    batch = torch.export.Dim("batch", min=1, max=64)
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=({0: batch},)), tmp_path / "m.pt2")
    loaded = load_model(tmp_path / "m.pt2").module
    plain = model(images(name, 5)).detach()
    analog = to_analog(loaded, Hardware())
    for copied in (loaded, analog):
        found = torch.cat(outputs(copied, images(name, 5)))
        assert torch.allclose(found, plain, rtol=1e-4, atol=1e-4 * float(plain.abs().max()))
