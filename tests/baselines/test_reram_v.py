"""ReRAM-V: a network retrained for one chip, and for that one alone."""

import math
import re
import warnings

import pytest
import torch
from torch import nn

from crossbar_sim import CrossbarWarning, Hardware, Key, LogNormalDrift
from crossbar_sim.baselines.reram_v import ReramV, diagnose
from crossbar_sim.baselines.settings import method_of
from crossbar_sim.errors import InputError
from crossbar_sim.nn import set_chip, to_analog
from crossbar_sim.nn.networks import build
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.nn.training.settings import Training

PAPER = Hardware.preset("bayesft", sigma=1.2)
QUICK = Training(epochs=5, batch=64, lr=3e-3)


def test_the_diagnosis_reads_each_cells_own_factor(network):
    analog = to_analog(network, PAPER, seed=5, chip=3)
    found = diagnose(analog)
    with torch.no_grad():
        for name, p in network.named_parameters():
            layer, which = name.rsplit(".", 1)
            read = getattr(analog.get_submodule(layer), which)
            assert torch.allclose(found[name], (read / p).log().abs(), atol=1e-4)
    set_chip(analog, 4)
    assert not torch.allclose(diagnose(analog)["fc1.weight"], found["fc1.weight"])


def test_stuck_cells_cannot_be_corrected(network):
    hardware = Hardware.preset("bayesft", sigma=0.0, stuck_off=0.2)
    found = diagnose(to_analog(network, hardware, chip=1))["fc1.weight"]
    assert float(found.isinf().float().mean()) == pytest.approx(0.2, abs=0.05)
    assert float(found[found.isfinite()].abs().max()) < 1e-5


@pytest.fixture(scope="module")
def retrained(network, digits):
    method = ReramV(PAPER, chip=2, seed=1, threshold=1.5, retraining=QUICK)
    return method.retrain(network, digits.development, Key(0))


def test_its_own_chip_gets_better_and_fresh_ones_do_not(retrained):
    own, fresh = (retrained.notes[f"validation_{which}"] for which in ("own_chip", "fresh_chips"))
    assert own["after"] > own["before"] + 0.1
    assert fresh["after"] < fresh["before"] + 0.05
    assert fresh["chips"] == [3, 4, 5, 6, 7]
    assert own["after"] == pytest.approx(retrained.report.validation_accuracy, abs=0.01)


def test_frozen_weights_are_what_they_were_and_the_others_have_moved(network, retrained):
    analog = to_analog(network, PAPER, seed=1, chip=2)
    after = dict(retrained.model.named_parameters())
    for name, off in diagnose(analog).items():
        before, now, frozen = network.get_parameter(name), after[name], off > 1.5
        assert torch.equal(now[frozen], before[frozen])
        assert int(frozen.sum()) == retrained.notes["frozen"][name]
    moved = (after["fc1.weight"] != network.fc1.weight).float().mean()
    assert 0.1 < retrained.notes["frozen_share"] < 0.3  # P(|lambda| > 1.5) at sigma 1.2 is 0.21
    assert float(moved) > 0.5


def test_the_model_given_stays_as_it_is_and_the_same_again_gives_the_same_bytes(network, digits, retrained):
    before = [p.detach().clone() for p in network.parameters()]
    again = ReramV(PAPER, chip=2, seed=1, threshold=1.5, retraining=QUICK).retrain(
        network, digits.development, Key(0)
    )
    assert all(torch.equal(p, q) for p, q in zip(before, network.parameters(), strict=True))
    assert again.notes == retrained.notes
    for p, q in zip(again.model.parameters(), retrained.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_negative_control_with_everything_frozen_nothing_is_learnt(network, digits):
    hardware = Hardware.preset("bayesft", sigma=0.0, stuck_off=1.0)
    with pytest.warns(CrossbarWarning, match="near chance before any chip"):
        found = ReramV(hardware, retraining=QUICK).retrain(network, digits.development, Key(0))
    assert found.notes["frozen_share"] == 1
    for p, q in zip(found.model.parameters(), network.parameters(), strict=True):
        assert torch.equal(p, q)


def test_fit_trains_plainly_first(digits):
    def mlp():
        return build("mlp", inputs=64, hidden=(16,), classes=10)

    method = ReramV(PAPER, threshold=math.inf, training=QUICK, retraining=QUICK)
    epochs = []
    found = method.fit(mlp, digits.development, Key(0), progress=epochs.append)
    assert found.notes["plain"]["epochs"] == 5
    assert len(epochs) == 10
    assert found.notes["frozen_share"] == 0
    assert found.notes["threshold"] == "inf"
    assert not found.model.training
    own = found.notes["validation_own_chip"]
    assert own["after"] > own["before"]


class Signs(nn.Linear):
    """Computes with the signs of its weights."""

    def forward(self, x):
        signs = self.weight + (self.weight.sign() - self.weight).detach()
        return nn.functional.linear(x, signs, self.bias)


class Kinds(nn.Linear):
    """Computes otherwise where its class is another, as a copy with arrays may be."""

    def forward(self, x):
        return super().forward(x if type(self) is Kinds else 2 * x)


@pytest.mark.parametrize(
    ("last", "mapped"), [(nn.Linear, {"1.weight", "2.weight"}), (Signs, {"1.weight"}), (Kinds, None)]
)
def test_only_weights_that_an_evaluation_has_on_arrays_are_tested_and_frozen(digits, last, mapped):
    hardware = Hardware(drift=LogNormalDrift(0.5), bias="digital", normalisation="digital", other="digital")
    with seeded(Key(0)):
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), last(12, 10)).eval()
    method = ReramV(hardware, threshold=0.5, retraining=Training(epochs=1))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = method.retrain(model, digits.development, Key(0))
    told = [str(each.message) for each in said if "near chance" not in str(each.message)]
    assert len(told) == (last is Signs)
    assert all(
        "2: its forward computes another weight from it (sign), which stays digital" in t for t in told
    )
    assert set(found.notes["frozen"]) == (mapped or {"1.weight", "2.weight"})


def test_a_model_without_any_weight_on_arrays_is_refused(digits):
    model = nn.Sequential(nn.Flatten(), Signs(64, 10)).eval()
    hardware = Hardware(bias="digital", normalisation="digital", other="digital")
    with (
        pytest.warns(CrossbarWarning, match="computes another weight"),
        pytest.raises(InputError, match=r"no parameter on an array"),
    ):
        ReramV(hardware).retrain(model, digits.development, Key(0))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"threshold": 0}, "threshold"),
        ({"threshold": math.nan}, "threshold"),
        ({"chip": -1}, "chip=-1"),
        ({"seed": -1}, "seed"),
        ({"retraining": Training(weight_decay=0.1)}, "frozen"),
    ],
)
def test_impossible_settings_are_one_sentence(given, words):
    with pytest.raises(InputError, match=words):
        ReramV(PAPER, **given)


def test_bad_input_is_one_sentence(network, digits):
    with pytest.raises(InputError, match="Development"):
        ReramV(PAPER).retrain(network, digits, Key(0))
    folded = Hardware(normalisation="folded")
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.BatchNorm1d(10)).eval()
    with pytest.raises(InputError, match="folded"):
        ReramV(folded).retrain(model, digits.development, Key(0))


def test_the_retraining_may_be_a_table_of_its_fields():
    made = method_of("reram-v", {"retraining": {"epochs": 2}}, {})
    assert made.retraining == Training(epochs=2, patience=3)  # the rest is the method's own
    for given, says in (
        ({"epoch": 2}, "retraining. 'epoch' is unknown: did you mean 'epochs'"),
        ({"epochs": 0}, "retraining.epochs=0"),
        ({"weight_decay": 0.1}, "would move frozen weights"),
        (None, "retraining=None: a Training is needed"),
        ("long", "retraining='long': a Training is needed"),
    ):
        with pytest.raises(InputError, match=re.escape(says)):
            method_of("reram-v", {"retraining": given}, {})
