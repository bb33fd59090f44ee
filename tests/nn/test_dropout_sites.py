"""Where dropout sites are, as a person would place them; and that they leave the model what it is."""

import copy
import pickle

import pytest
import torch
from helpers.dropout_models import CASES, made, numbers
from torch import nn

from crossbar_sim import Hardware, Key
from crossbar_sim.nn import seeded, to_analog
from crossbar_sim.nn.dropout_sites import rates, remove_found, set_rates, sites, with_dropout

every = pytest.mark.parametrize("name", CASES)


@every
def test_sites_are_where_a_person_puts_them(name):
    model, _ = made(name)
    found = [(site.name, site.kind, site.after) for site in sites(model)]
    assert found == CASES[name][2]
    assert not any(site.own for site in sites(model))
    set_rates(model, 0.3)
    assert [(site.name, site.kind, site.after) for site in sites(model)] == CASES[name][2]


@every
def test_every_site_acts_in_training_alone(name):
    model, x = made(name)
    plain, quiet = copy.deepcopy(model).train()(x), copy.deepcopy(model).eval()(x)
    few = len(sites(model))
    for i in range(few):
        changed = with_dropout(model, [0.7 if i == j else 0.0 for j in range(few)]).train()
        with seeded(Key(1)):
            first = changed(x)
        with seeded(Key(2)):
            assert not torch.equal(changed(x), first)
        with seeded(Key(1)):
            assert torch.equal(changed(x), first)
        changed = with_dropout(model, 0.7).eval()
        assert torch.equal(changed(x), quiet)
    before = torch.random.get_rng_state()
    assert torch.equal(with_dropout(model, 0).train()(x), plain)
    assert torch.equal(torch.random.get_rng_state(), before)


@every
def test_the_model_stays_what_it_is(name):
    model, x = made(name)
    kind, keys, shown = type(model), list(model.state_dict()), repr(model)
    set_rates(model, 0.4)
    assert (type(model), list(model.state_dict()), repr(model)) == (kind, keys, shown)
    model.load_state_dict(made(name)[0].state_dict())
    model.train()(x).sum().backward()
    parameters = dict(model.named_parameters())
    assert any(p.grad is not None and p.grad.any() for p in parameters.values())
    remove_found(model)
    assert set(rates(model).values()) == {0.0}
    assert all(not module._forward_hooks for module in model.modules())


@every
def test_copies_have_rates_of_their_own(name):
    model, x = made(name)
    set_rates(model, 0.4)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), to_analog(model, Hardware())):
        assert rates(twin) == rates(model)
        twin.train()
        with seeded(Key(1)):
            first = twin(x)
        with seeded(Key(2)):
            assert not torch.equal(twin(x), first)
        set_rates(twin, 0.0)
        assert set(rates(model).values()) == {0.4}
        assert rates(pickle.loads(pickle.dumps(to_analog(model, Hardware())))) == rates(model)


def test_channels_are_dropped_whole_and_the_rest_is_scaled():
    model = nn.Sequential(nn.Conv2d(1, 64, 3), nn.Flatten(), nn.Linear(64 * 4, 1)).train()
    seen = []
    model[1].register_forward_pre_hook(lambda m, args: seen.append(args[0].detach()))
    x = numbers(3, 1, 4, 4)
    model(x)
    set_rates(model, 0.75)
    model(x)
    plain, dropped = seen
    kept = (dropped != 0).flatten(2).any(2)
    assert torch.allclose(dropped, plain * 4 * kept[:, :, None, None])
    assert 20 < int(kept.sum()) < 80  # of 192, each with 1/4: 48 in the mean, 5 standard deviations


def test_values_are_dropped_one_by_one():
    model = nn.Sequential(nn.Linear(3, 1000), nn.ReLU(), nn.Linear(1000, 1)).train()
    seen = []
    model[2].register_forward_pre_hook(lambda m, args: seen.append(args[0].detach()))
    x = torch.rand(1, 3)
    model(x)
    set_rates(model, 0.5)
    model(x)
    plain, dropped = seen
    assert torch.equal(dropped, torch.where(dropped != 0, 2 * plain, 0.0))
    alive = plain > 0
    assert 0.35 < float((dropped[alive] != 0).float().mean()) < 0.65
