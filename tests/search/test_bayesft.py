"""BayesFT on the embedded digits: its algorithms, what it may see, and what it reports."""

import copy
import dataclasses
import hashlib
import warnings

import pytest
import torch
from torch import nn

from crossbar_sim import Hardware, InputError, Key
from crossbar_sim.data import Development, Split
from crossbar_sim.nn.networks import build
from crossbar_sim.nn.training.settings import Training
from crossbar_sim.robustness.tasks import fingerprint
from crossbar_sim.search import BayesFT, Dimension, DriftedScore, Space, Study
from crossbar_sim.search.bayesft import Theta, ThetaFile, _agreed
from crossbar_sim.search.network import SearchedNetwork
from crossbar_sim.search.trial import Trainer

QUICK = BayesFT(
    sigma=0.5, trials=5, chips=6, images=200, fresh_chips=10, training_chips=4, initial=3, rates=(0.0, 0.5),
    training=Training(epochs=3, lr=1e-2, batch=32), polish=Training(epochs=5, lr=1e-2, batch=32),
)  # fmt: skip
RESTART = dataclasses.replace(QUICK, algorithm="restart", training=Training(epochs=8, lr=2e-2, batch=32))
ALL = [
    QUICK,
    dataclasses.replace(QUICK, algorithm="clean"),
    RESTART,
    dataclasses.replace(RESTART, training_sigma=(0.2, 1.0), width=(0.5, 1.5), acquisition="mean"),
]


def network(width: float = 1.0) -> nn.Module:
    return build("mlp", inputs=64, hidden=(round(24 * width), 16), classes=10)


def weights(model: nn.Module) -> list[float]:
    return [float(p.detach().double().sum()) for p in model.parameters()]


@pytest.fixture(scope="module")
def development() -> Development:
    from crossbar_sim.data import load_data

    return load_data("digits").development


@pytest.mark.parametrize("method", ALL, ids=lambda m: f"{m.algorithm}-{m.acquisition}")
def test_every_algorithm_finds_a_network_that_works_and_repeats(method, development, tmp_path):
    lines = []
    found = method.fit(network, development, Key(0), on_trial=lambda trial, study: lines.append(trial.number))
    notes = found.notes
    assert lines == list(range(5))
    assert set(notes["rates"]) == {"dropout1", "dropout2"}
    assert len(notes["history"]) == 5
    assert not found.model.training
    assert notes["untrained"] < 0.3
    assert notes["fresh"]["mean"] > 0.5
    assert notes["fresh"]["chips"] == 10
    low, high = notes["fresh"]["ci95"]
    assert low < notes["fresh"]["mean"] < high
    assert notes["searched"]["chips"] == 6
    assert notes["searched"]["mean"] == pytest.approx(notes["history"][notes["trial"]]["value"])
    again = method.fit(network, development, Key(0), study=tmp_path / "study.db")
    assert weights(again.model) == weights(found.model)
    assert dict(again.notes) == dict(notes)


def test_another_key_is_another_search(development):
    quick = dataclasses.replace(QUICK, trials=2, polish=None)
    first, other = (quick.fit(network, development, Key(seed)) for seed in (0, 1))
    assert weights(other.model) != weights(first.model)
    assert other.notes["rates"] != first.notes["rates"]


def test_a_joint_search_finds_sigma_and_width(development):
    found = ALL[3].fit(network, development, Key(0))
    point = found.notes["history"][found.notes["trial"]]["point"]
    assert set(point) == {"dropout1", "dropout2", "training sigma", "width"}
    assert found.notes["width"] == point["width"]
    assert found.notes["training_sigma"] == point["training sigma"]
    assert found.model.fc1.out_features == round(24 * point["width"])


def test_drift_in_the_gradient_is_what_literal_adds(development):
    sure = {"trials": 4, "sigma": 1.0, "fresh_chips": 40}
    literal = dataclasses.replace(QUICK, **sure).fit(network, development, Key(0)).notes["fresh"]
    clean = (
        dataclasses.replace(QUICK, algorithm="clean", **sure).fit(network, development, Key(0)).notes["fresh"]
    )
    assert literal["ci95"][0] > clean["ci95"][1]


def test_the_winner_is_measured_on_chips_that_decided_nothing(development):
    key, hardware = Key(0), Hardware.preset("bayesft")
    method = dataclasses.replace(QUICK, trials=2, polish=None)
    search = DriftedScore.of(development.validation, hardware, 0.5, 10, 200, key.fold("search"))
    fresh = DriftedScore.of(development.validation, hardware, 0.5, 10, None, key.fold("fresh"))
    assert search.seed != fresh.seed
    assert min(search.seed, fresh.seed) > 2**32  # no seed of a user's evaluation, whose chips are named by it
    found = method.fit(network, development, key)
    on_its_own, expected = search.measure(found.model), fresh.measure(found.model)
    assert on_its_own.mean != expected.mean
    assert found.notes["fresh"]["mean"] == expected.mean
    interval = expected.interval
    assert interval is not None
    assert found.notes["fresh"]["ci95"] == [interval.low, interval.high]


def test_sigma_zero_is_measured_once_and_has_no_variance(development):
    score = DriftedScore.of(development.validation, Hardware.preset("bayesft"), 0.0, 20, 100, Key(0))
    measured = score.measure(network().eval())
    assert len(measured.scores) == 1
    assert measured.variance == 0
    assert measured.interval is None


def test_a_test_split_has_no_way_in(digits, development):
    for wrong in (digits, digits.test, (digits.train, digits.test), None):
        with pytest.raises(InputError, match="takes Development"):
            QUICK.fit(network, wrong, Key(0))
    assert {field.name for field in dataclasses.fields(Development)} == {"train", "validation"}
    spoilt = dataclasses.replace(digits, test=Split(torch.zeros_like(digits.test.x), digits.test.y))
    quick = dataclasses.replace(QUICK, trials=3, polish=None)
    assert weights(quick.fit(network, spoilt.development, Key(0)).model) == weights(
        quick.fit(network, development, Key(0)).model
    )


def test_models_without_dropout_of_their_own_get_sites(development):
    plain = lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))  # noqa: E731
    found = dataclasses.replace(QUICK, trials=3).fit(plain, development, Key(0))
    assert set(found.notes["rates"]) == {"1"}
    unpolished = dataclasses.replace(QUICK, trials=3, polish=None).fit(plain, development, Key(0))
    for model in (found.model, unpolished.model):
        assert not any(module._forward_hooks for module in model.modules())
    assert found.notes["fresh"]["mean"] > 0.4


def test_a_batch_goes_on_from_its_best_theta_and_workers_change_nothing(development, tmp_path):
    share = 0.1

    def smoothed(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:  # that no worker can import
        return nn.functional.cross_entropy(outputs, targets, label_smoothing=share)

    training = dataclasses.replace(QUICK.training, loss=smoothed)
    method = dataclasses.replace(QUICK, trials=4, batch=2, initial=2, polish=None, training=training)
    here = method.fit(network, development, Key(0))
    there = method.fit(network, development, Key(0), workers=2, study=tmp_path / "study.db")
    assert weights(here.model) == weights(there.model)
    assert dict(here.notes) == dict(there.notes)


def test_a_study_of_other_code_words_is_refused(development, tmp_path):
    """They are in no state_dict, and decide what the outputs mean."""
    words = [f"{i:04b}" for i in range(10)]

    def coded(codes):
        arguments = {"inputs": 64, "hidden": (16,)}
        return lambda: build("coded", network="mlp", arguments=arguments, codes=codes)

    method = dataclasses.replace(QUICK, trials=1, polish=None)
    method.fit(coded(words), development, Key(0), study=tmp_path / "study.db")
    with pytest.raises(InputError, match="study of another search"):
        method.fit(coded(words[::-1]), development, Key(0), study=tmp_path / "study.db")


def test_the_fingerprint_of_a_model_without_such_buffers_stays_what_it_was():
    model = nn.Sequential(nn.Linear(2, 1))
    for p in model.parameters():
        nn.init.ones_(p)
    state = hashlib.sha256(repr(model).encode())
    for name, p in model.named_parameters():
        state.update(f"{name} torch.float32 {tuple(p.shape)}\n".encode())
        state.update(p.detach().numpy().tobytes())
    assert fingerprint(model) == state.hexdigest()


def test_more_trials_go_on_and_theta_belongs_to_its_study(development, tmp_path):
    path = tmp_path / "study.db"
    few, more = dataclasses.replace(QUICK, trials=3), dataclasses.replace(QUICK, trials=5)
    few.fit(network, development, Key(0), study=path)
    with pytest.raises(InputError, match=r"another (study|training)|training with another"):
        dataclasses.replace(more, sigma=0.7).fit(
            network, development, Key(0), study=tmp_path / "b.db", checkpoint=f"{path}.theta"
        )
    grown = more.fit(network, development, Key(0), study=path)
    assert weights(grown.model) == weights(more.fit(network, development, Key(0)).model)
    (tmp_path / "study.db.theta").unlink()
    with pytest.raises(InputError, match="put both together"):
        more.fit(network, development, Key(0), study=path)


class Signs(nn.Linear):
    """Computes with the signs of its weights."""

    def forward(self, x):
        signs = self.weight + (self.weight.sign() - self.weight).detach()
        return nn.functional.linear(x, signs, self.bias)


def test_a_search_says_once_which_weights_stay_digital(development):
    def make():
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.Dropout(0.1), Signs(12, 10))

    hardware = Hardware.preset("bayesft", bias="digital", other="digital")
    method = dataclasses.replace(
        QUICK, trials=1, initial=1, hardware=hardware, polish=None, training=Training(epochs=1, batch=256)
    )
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        method.fit(make, development, Key(0))
    told = [str(each.message) for each in said if "another weight" in str(each.message)]
    assert told == ["3: its forward computes another weight from it (sign), which stays digital"]


def nested(depth: int) -> list:
    inner: list = []
    for _ in range(depth):
        inner = [inner]
    return inner


class Code:
    """Runs when it is read by a loader that trusts its file."""

    def __reduce__(self):
        return print, ("loaded",)


NO_WEIGHTS = "holds no weights of a search: move it away, or name another study"
OUTCOME = (0, 0.5, 0.01, 1.0, {"scores": [0.4, 0.6]})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "crossbar-sim training"}, NO_WEIGHTS),
        ({"format": None}, NO_WEIGHTS),
        ({"format_version": 2}, NO_WEIGHTS),
        ({"study": "0" * 64}, "holds the weights of another study"),
        ({"weights": [torch.zeros(2)]}, NO_WEIGHTS),
        ({"weights": {"w": [0.0, 0.0]}}, NO_WEIGHTS),
        ({"weights": {0: torch.zeros(2)}}, NO_WEIGHTS),
        ({"weights": nested(150)}, NO_WEIGHTS),
        ({"weights": {"w": Code()}}, NO_WEIGHTS),
        ({"done": "many"}, NO_WEIGHTS),
        ({"done": None}, NO_WEIGHTS),
        ({"done": float("nan")}, NO_WEIGHTS),
        ({"done": float("inf")}, NO_WEIGHTS),
        ({"outcomes": 3}, NO_WEIGHTS),
        ({"outcomes": [OUTCOME[:4]]}, NO_WEIGHTS),
        ({"outcomes": [("first", *OUTCOME[1:])]}, NO_WEIGHTS),
        ({"outcomes": [(*OUTCOME[:4], 7)]}, NO_WEIGHTS),
        ({"outcomes": [(0, torch.zeros(2), *OUTCOME[2:])]}, NO_WEIGHTS),
        ({"outcomes": [(*OUTCOME[:4], {"scores": nested(150)})]}, NO_WEIGHTS),
        (None, NO_WEIGHTS),
    ],
)
def test_a_theta_file_is_checked_whatever_it_holds(tmp_path, capsys, changes, words):
    path = tmp_path / "theta"
    file = ThetaFile(path, {"a": 1})
    assert file.read() is None
    file.write(Theta({"w": torch.arange(2.0)}, 1, [OUTCOME]))
    found = file.read()
    assert found is not None
    assert (found.done, found.outcomes, found.weights["w"].tolist()) == (1, [OUTCOME], [0.0, 1.0])
    content = torch.load(path, weights_only=True)
    for name in content:  # what lacks a part is refused too
        torch.save({key: value for key, value in content.items() if key != name}, path)
        with pytest.raises(InputError, match=NO_WEIGHTS):
            file.read()
    torch.save([content] if changes is None else content | changes, path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=words) as caught:
        file.read()
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("weights", "done", "words"),
    [
        ({"w": torch.zeros(3)}, 0, "weights of another network"),
        ({"v": torch.zeros(2)}, 0, "weights of another network"),
        ({"w": torch.zeros(2, dtype=torch.complex64)}, 0, "weights of another network"),
        ({"w": torch.zeros(2)}, 1, "holds 0 trials and the weights beside it .* have been through 1"),
        ({"w": torch.zeros(2)}, -1, "have been through -1"),
        ({"w": torch.ones(2)}, 0, None),
    ],
)
def test_theta_goes_on_only_with_its_network_and_study(tmp_path, weights, done, words):
    space = Space((Dimension("rate", 0.0, 0.5),))
    file = ThetaFile(tmp_path / "theta", {})
    file.write(Theta(weights, done))
    with Study(space, Key(0), None) as study:
        if words is None:
            agreed = _agreed(study, file, Theta({"w": torch.zeros(2)}))
            assert torch.equal(agreed.weights["w"], torch.ones(2))
            return
        with pytest.raises(InputError, match=words):
            _agreed(study, file, Theta({"w": torch.zeros(2)}))


@pytest.mark.parametrize("content", [b"PK not really", b"", b"\x80\x02N."])
def test_a_file_that_is_no_theta_is_refused_and_kept(tmp_path, content):
    path = tmp_path / "theta"
    path.write_bytes(content)
    with pytest.raises(InputError, match="holds no weights of a search"):
        ThetaFile(path, {}).read()
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"sigma": -0.1}, "sigma=-0.1"),
        ({"sigma": float("nan")}, "sigma=nan"),
        ({"trials": 0}, "trials=0"),
        ({"algorithm": "other"}, "literal, clean, restart"),
        ({"acquisition": "ei"}, "lognei, mean"),
        ({"acquisition": "mean", "batch": 2}, "batch=1"),
        ({"training_sigma": -1.0}, "training_sigma=-1.0"),
        ({"algorithm": "clean", "training_sigma": 1.0}, "would do nothing"),
        ({"training_sigma": 0.0}, "algorithm='clean'"),
        ({"width": (0.5, 2.0)}, "restart"),
        ({"fresh_chips": 1}, "fresh_chips=1"),
        ({"training_chips": 0}, "training_chips=0"),
        ({"training_chips": 33}, "every chip needs an example"),
        (
            {"algorithm": "restart", "training_chips": 0, "training_sigma": (0.5, 1.0)},
            "training_chips=0 trains without drift",
        ),
    ],
)
def test_impossible_settings_are_one_sentence(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        dataclasses.replace(QUICK, **settings)


def test_a_clean_gradient_asks_no_examples_for_chips():
    assert dataclasses.replace(QUICK, algorithm="clean", training_chips=33).training_chips == 33


def test_networks_and_data_that_do_not_fit_are_refused_before_the_work(development, tmp_path):
    study = tmp_path / "study.db"
    for make, sentence in (
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), "no dropout site"),
        (lambda: build("mlp", inputs=64, hidden=(8,), classes=7), "labels go up to 9"),
        (lambda: build("mlp", inputs=65, hidden=(8,), classes=10), "65|shape"),
    ):
        with pytest.raises(InputError, match=sentence):
            QUICK.fit(make, development, Key(0), study=study)
    unlabelled = Development(development.train, Split(development.validation.x))
    with pytest.raises(InputError, match="no labels"):
        QUICK.fit(network, unlabelled, Key(0), study=study)
    with pytest.raises(InputError, match="rates="):
        dataclasses.replace(QUICK, rates=(0.5, 1.0)).fit(network, development, Key(0), study=study)
    assert not study.exists()


@pytest.mark.parametrize(
    ("metric", "loss", "sign"), [(None, None, -1), ("r2", "huber", 1), ("mae", torch.nn.L1Loss(), -1)]
)
def test_the_objective_is_any_metric_in_its_direction(metric, loss, sign):
    x = torch.sin(torch.arange(320.0) ** 1.3).reshape(80, 4)
    y = (x @ torch.tensor([1.0, -2.0, 0.5, 0.0])).double()
    data = Development(Split(x[:50], y[:50]), Split(x[50:], y[50:]))
    method = BayesFT(
        sigma=0.4, trials=3, initial=3, chips=3, fresh_chips=3, training_chips=2, polish=None, metric=metric,
        training=Training(epochs=2, batch=25, lr=0.02, loss=loss),
    )  # fmt: skip
    found = method.fit(lambda: build("mlp", inputs=4, hidden=(8,), classes=1), data, Key(0))
    notes = found.notes
    assert notes["metric"] == (metric or "rmse")
    searched = notes["searched"]
    score = DriftedScore.of(data.validation, method.design, 0.4, 3, None, Key(0).fold("fresh"), method.metric)
    assert notes["fresh"]["mean"] == score.measure(found.model).mean
    assert ("shown" in searched) == (sign < 0)
    assert sign > 0 or searched["shown"]["mean"] == -searched["mean"] > 0
    values = [row["value"] for row in notes["history"]]  # of what is stored, more is better
    assert searched["mean"] > min(values)


def test_a_metric_that_the_data_do_not_have_is_refused():
    with pytest.raises(InputError, match="did you mean 'rmse'"):
        BayesFT(metric="rmsee")
    assert "metric" not in repr(BayesFT())
    assert "metric=rmse" in repr(BayesFT(metric="rmse"))


@pytest.mark.parametrize("parameters", ["plain", "square"])
def test_theta_moves_by_its_weights_or_by_their_signed_roots(parameters, development):
    """One SGD step, computed with plain torch in float64."""
    x, y = development.train.x[:32], development.train.y[:32]
    searched = SearchedNetwork.of(network, Key(0), (0.0, 0.5), None, None)
    point = dict.fromkeys(searched.sites, 0.0)
    model = searched.make(point, Key(0))
    plain = copy.deepcopy(model).double()
    nn.functional.cross_entropy(plain(x.double()), y).backward()
    trainer = Trainer(
        searched, Development(Split(x, y), development.validation), "clean", 0.0, 1, Hardware.preset("bayesft"),
        parameters,
    )  # fmt: skip
    step = Training(1, 32, lr=0.1, optimiser="sgd", momentum=0.0, schedule="constant")
    trainer.train(model, point, step, Key(1))
    for name, p in plain.named_parameters():
        w, gradient = p.detach(), p.grad
        if parameters == "square" and p.dim() == 2:
            u = w.sign() * w.abs().sqrt()
            u = u - 0.1 * 2 * u.abs() * gradient
            moved = u * u.abs()
        else:
            moved = w - 0.1 * gradient
        assert torch.allclose(model.get_parameter(name).double(), moved, atol=1e-6), name
        assert not torch.allclose(moved, w, atol=1e-6), name


@pytest.mark.parametrize("changed", [{"parameters": "square"}, {"calibrated": True}])
def test_how_weights_are_trained_tells_studies_apart(changed):
    other = dataclasses.replace(QUICK, **changed)
    (name,) = changed
    assert other._identity() == {**QUICK._identity(), **changed}
    assert name in repr(other)
    assert name not in repr(QUICK)


def test_a_calibrated_search_refuses_chips_with_a_single_example():
    with pytest.raises(InputError, match="training_chips=20 with batch=32: every chip needs two examples"):
        dataclasses.replace(QUICK, calibrated=True, training_chips=20)
    with pytest.raises(InputError, match="calibrated='yes'"):
        dataclasses.replace(QUICK, calibrated="yes")
