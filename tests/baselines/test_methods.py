"""What all methods promise."""

import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from crossbar_sim.baselines import ALL_METHODS
from crossbar_sim.baselines.awp import Awp
from crossbar_sim.baselines.correct_net import CorrectNet
from crossbar_sim.baselines.drift_aware import DriftAware
from crossbar_sim.baselines.dropout import Dropout, to_alpha
from crossbar_sim.baselines.erm import Erm
from crossbar_sim.baselines.method import Method, check_development
from crossbar_sim.baselines.negative_feedback import NegativeFeedback
from crossbar_sim.baselines.settings import method_of, setting
from crossbar_sim.data import Development, load_data
from crossbar_sim.errors import InputError
from crossbar_sim.nn import MLP
from crossbar_sim.nn.training.loop import Epoch
from crossbar_sim.nn.training.settings import Training
from crossbar_sim.rng import Key

SHORT = Training(2, 100, 5e-3)
METHODS: list[Method] = [
    Erm(SHORT),
    Dropout(0.3, training=SHORT),
    Dropout((0.1, 0.4), alpha=True, training=SHORT),
    DriftAware(0.6, chips=4, training=SHORT),
    CorrectNet(0.3, training=SHORT),
    NegativeFeedback(0.3, training=SHORT),
    NegativeFeedback(0.3, training=SHORT, feedback="snapshots"),
    DriftAware((0.2, 0.8), chips=3, dropout=0.1, ramp=0, training=SHORT),
]


@pytest.fixture(scope="module")
def digits() -> Development:
    return load_data("digits").development


def build() -> nn.Module:
    return MLP(inputs=64, hidden=(24, 12), classes=10)


def bits(model: nn.Module) -> bytes:
    return b"".join(p.detach().numpy().tobytes() for p in model.parameters())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.kind)
def test_the_same_key_gives_the_same_network_also_after_a_stop(
    method: Method, digits: Development, tmp_path: Path
) -> None:
    class Stopped(Exception):
        pass

    def stop(epoch: Epoch) -> None:
        raise Stopped

    whole = method.fit(build, digits, Key(0))
    path = tmp_path / "run.ckpt"
    with pytest.raises(Stopped):
        method.fit(build, digits, Key(0), progress=stop, checkpoint=path)
    resumed = method.fit(build, digits, Key(0), checkpoint=path)
    assert bits(resumed.model) == bits(whole.model)
    assert resumed.report == whole.report
    assert bits(method.fit(build, digits, Key(1)).model) != bits(whole.model)
    assert not whole.model.training


def test_no_two_methods_do_the_same(digits: Development) -> None:
    assert len({bits(method.fit(build, digits, Key(0)).model) for method in METHODS}) == len(METHODS)


def test_one_methods_checkpoint_is_not_anothers(digits: Development, tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    DriftAware(0.6, chips=4, training=SHORT).fit(build, digits, Key(0), checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(InputError, match="another method"):
        DriftAware(0.6, chips=2, training=SHORT).fit(build, digits, Key(0), checkpoint=path)
    assert path.read_bytes() == before


def test_every_method_has_a_name_and_a_source_and_a_training() -> None:
    kinds = [method.kind for method in ALL_METHODS]
    assert len(set(kinds)) == len(kinds)
    assert {"erm", "dropout", "drift-aware"} <= set(kinds)
    for method in ALL_METHODS:
        assert method.citation
        defaults = {field.name: field.default for field in fields(method)}  # type: ignore[arg-type]
        assert isinstance(defaults["training"], Training)


def test_data_with_test_images_cannot_be_passed() -> None:
    splits: Any = load_data("digits")
    for method in METHODS:
        with pytest.raises(InputError, match="not Splits"):
            method.fit(build, splits, Key(0))
    assert check_development(splits.development)


def test_erm_is_the_plain_loop(digits: Development) -> None:
    from crossbar_sim.baselines.method import fresh
    from crossbar_sim.nn.training.loop import fit

    model = fresh(build, Key(0))
    fit(model, digits.train, digits.validation, training=SHORT, key=Key(0))
    assert bits(model) == bits(Erm(SHORT).fit(build, digits, Key(0)).model)


def test_dropout_sets_the_networks_own_sites(digits: Development) -> None:
    trained = Dropout((0.1, 0.4), training=SHORT).fit(build, digits, Key(0))
    assert [m.p for m in trained.model.modules() if isinstance(m, nn.Dropout)] == [0.1, 0.4]
    assert trained.notes == {"rates": {"dropout1": 0.1, "dropout2": 0.4}}


def test_a_network_without_sites_of_its_own_gets_some_while_it_trains(digits: Development) -> None:
    def plain() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))

    dropped = Dropout(0.3, training=SHORT).fit(plain, digits, Key(0)).model
    assert bits(dropped) != bits(Erm(SHORT).fit(plain, digits, Key(0)).model)
    assert not any(module._forward_hooks for module in dropped.modules())


def test_alpha_dropout_replaces_dropout_or_refuses(digits: Development) -> None:
    model = build()
    model.get_submodule("dropout1").p = 0.3  # type: ignore[assignment]
    to_alpha(model)
    assert [(type(m), m.p) for m in model.modules() if isinstance(m, nn.AlphaDropout)] == [
        (nn.AlphaDropout, 0.3),
        (nn.AlphaDropout, 0.0),
    ]
    with pytest.raises(InputError, match=r"no nn.Dropout of its own"):
        to_alpha(nn.Linear(2, 2))


def test_alpha_dropout_of_some_sites_only_is_refused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Dropout2d(0.2), nn.Flatten(), nn.Dropout(0.2))
    with pytest.raises(InputError, match=r"1 is nn.Dropout2d, which drops whole channels"):
        to_alpha(model)
    assert type(model[3]) is nn.Dropout
    model[1].p = 0.0  # type: ignore[assignment]
    to_alpha(model)
    assert [type(m) for m in model][1::2] == [nn.Dropout2d, nn.AlphaDropout]


def test_the_model_comes_back_to_the_cpu(digits: Development) -> None:
    for method in METHODS:
        devices = {p.device for p in method.fit(build, digits, Key(0)).model.parameters()}
        assert devices == {torch.device("cpu")}


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.kind)
def test_a_network_that_does_not_fit_the_data_is_one_sentence(method: Method, digits: Development) -> None:
    for wrong, says in (({"inputs": 65}, "shape"), ({"inputs": 64, "classes": 9}, "classes >= 10")):
        with pytest.raises(InputError, match=says) as caught:
            method.fit(lambda wrong=wrong: MLP(**{"hidden": (8, 8), **wrong}), digits, Key(0))
        assert "\n" not in str(caught.value)


def test_drift_aware_trains_in_bfloat16(digits: Development) -> None:
    """Each step casts the weights of its own chips: none is remembered from another."""

    def not_by_products() -> nn.Module:
        return nn.Sequential(build(), nn.LogSoftmax(1))

    for one in (build, not_by_products):
        scores = []
        for precision in ("float32", "bfloat16"):
            training = Training(8, 100, 1e-2, precision=precision)  # type: ignore[arg-type]
            report = DriftAware(0.3, chips=4, training=training).fit(one, digits, Key(0)).report
            scores.append(report.validation_accuracy)
        assert scores[1] == pytest.approx(scores[0], abs=0.1)
        assert min(scores) > 0.7  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Dropout(1.0), "rate=1.0"),
        (lambda: Dropout((0.1, -0.1)), "rate="),
        (lambda: Dropout("half"), "rate='half'"),
        (lambda: Dropout(0.1, alpha="no"), "alpha='no': true or false"),
        (lambda: Awp(as_published="False"), "as_published='False': true or false"),
        (lambda: DriftAware(temperature=0), "temperature=0: true or false"),
    ],
)
def test_bad_settings_are_one_sentence(make: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        make()


def test_settings_are_read_as_json_and_as_python_writes_them() -> None:
    texts = (
        "as_published=False",
        "as-published=true",
        "threshold=inf",
        "threshold=Infinity",
        "sigma=None",
        "kind=Falsely",
    )
    read = [setting(text)[1] for text in texts]
    assert read == [False, True, math.inf, math.inf, None, "Falsely"]
    assert setting("as-published=true")[0] == "as_published"
    assert not method_of("awp", dict([setting("as_published=False")]), {}).as_published  # type: ignore[attr-defined]
    for text in ("gamma=nan", "gamma=NaN", "gamma=-inf"):
        with pytest.raises(InputError, match=r"gamma=.*finite"):
            method_of("awp", dict([setting(text)]), {})


@pytest.mark.parametrize("method", sorted(ALL_METHODS, key=lambda method: method.kind))
@pytest.mark.parametrize("training", [3, "sgd", {"epochs": 2}, Training, None])
def test_a_training_that_is_none_is_refused_when_the_method_is_made(method: Any, training: Any) -> None:
    needed = {"sigma": 0.3} if method.kind == "drift-aware" else {}
    with pytest.raises(InputError, match=r"training=.*expected an instance such as Training") as caught:
        method(**needed, training=training)
    assert "\n" not in str(caught.value)
