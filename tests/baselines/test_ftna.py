"""FTNA: code words that lie far apart, an output per bit, decoding inside the network."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from crossbar_sim import Hardware, Key
from crossbar_sim.baselines import codes
from crossbar_sim.baselines.ftna import Ftna, with_bits
from crossbar_sim.errors import InputError
from crossbar_sim.nn import load_model, save_checkpoint
from crossbar_sim.nn.networks import Coded, build
from crossbar_sim.nn.training.settings import Training
from crossbar_sim.robustness import deploy

SHORT = Training(epochs=12, batch=64, lr=1e-2)


def mlp() -> nn.Module:
    return build("mlp", inputs=64, hidden=(24,), classes=10)


def by_hand(words) -> int:
    """The minimum distance, by comparing all pairs bit by bit."""
    return min(
        sum(a != b for a, b in zip(u, v, strict=True)) for u, v in itertools.combinations(words.tolist(), 2)
    )


@pytest.mark.parametrize(
    ("classes", "bits", "least"),
    [
        (2, 1, 1),
        (2, 5, 5),
        (3, 2, 1),
        (10, 4, 1),
        (10, 7, 3),
        (10, 15, 8),
        (10, 31, 16),
        (16, 7, 3),
        (32, 31, 16),
        (43, 10, 3),
        (100, 11, 3),
        (100, 31, 12),
    ],
)
def test_codes_are_as_far_apart_as_stated(classes, bits, least):
    words = codes.code(classes, bits, Key(0))
    assert words.shape == (classes, bits)
    assert set(np.unique(words)) <= {0, 1}
    assert by_hand(words) == codes.minimum_distance(words) >= least
    assert codes.minimum_distance(words) <= codes.distance_bound(classes, bits)
    assert np.array_equal(words, codes.code(classes, bits, Key(0)))


@pytest.mark.parametrize(
    ("classes", "bits"), [(2, 3), (3, 3), (4, 3), (5, 3), (3, 4), (4, 4), (6, 4), (4, 5)]
)
def test_no_code_beats_the_bound_and_small_ones_are_the_best_there_are(classes, bits):
    best = max(
        by_hand(np.array(words))
        for words in itertools.combinations(list(itertools.product((0, 1), repeat=bits)), classes)
    )
    assert best <= codes.distance_bound(classes, bits)
    assert codes.minimum_distance(codes.code(classes, bits, Key(0))) == best


def test_every_bit_says_something_of_its_own():
    words = codes.code(10, 31, Key(0))
    columns = {tuple(c if c[0] else [1 - b for b in c]) for c in words.T.tolist()}
    assert len(columns) == 31
    assert tuple([1] * 10) not in columns


@pytest.mark.parametrize("classes", [2, 3, 10, 16, 17, 43, 200])
def test_the_shortest_length_has_distance_three(classes):
    assert codes.minimum_distance(codes.code(classes, codes.shortest(classes), Key(0))) >= 3


def test_confused_classes_get_distant_words_and_nothing_else_changes():
    words = codes.code(8, 5, Key(0))
    confusion = np.zeros((8, 8))
    for i, j in ((0, 1), (2, 3), (4, 5)):
        confusion[i, j] = 1
    found = codes.assign(words, confusion, Key(0))
    assert sorted(found.tolist()) == sorted(words.tolist())

    def gain(order):
        return sum((order[i] != order[j]).sum() for i, j in ((0, 1), (2, 3), (4, 5)))

    assert gain(found) >= max(gain(words[np.array(p)]) for p in itertools.permutations(range(8)))
    assert gain(found) > gain(words[np.lexsort(words.T[::-1])])  # negative control: any order would do


@pytest.mark.parametrize("bits", [7, 12])
def test_hard_bits_are_decoded_to_the_nearest_word(bits):
    words = codes.code(10, bits, Key(0))
    coded = Coded(nn.Identity(), codes=codes.as_text(words))
    z = torch.tensor(list(itertools.product((-9.0, 9.0), repeat=bits)))
    distance = ((z > 0).long()[:, None] != torch.from_numpy(words)[None]).sum(2)
    logits = coded(z)
    found = distance.gather(1, logits.argmax(1, keepdim=True))[:, 0]
    assert torch.equal(found, distance.min(1).values)
    assert (torch.logsumexp(logits, 1).exp() <= 1 + 1e-5).all()  # probabilities of some of all words


def test_one_wrong_bit_in_seven_is_put_right():
    words = codes.code(16, 7, Key(0))
    coded = Coded(nn.Identity(), codes=codes.as_text(words))
    for i, word in enumerate(words):
        for flipped in range(7):
            z = torch.tensor(np.where(np.arange(7) == flipped, 1 - word, word) * 8.0 - 4)
            assert int(coded(z[None].float()).argmax()) == i


def test_scores_are_log_likelihoods():
    coded = Coded(nn.Identity(), codes=("010", "111"))
    z = torch.tensor([[0.3, -1.2, 2.0]])
    p = torch.sigmoid(z[0])
    expected = [math.log((1 - p[0]) * p[1] * (1 - p[2])), math.log(p[0] * p[1] * p[2])]
    assert coded(z)[0].tolist() == pytest.approx(expected, rel=1e-5)


@pytest.fixture(scope="module")
def trained(digits):
    return Ftna(bits=15, training=SHORT).fit(mlp, digits.development, Key(0))


def test_it_learns_and_says_what_code_it_used(trained):
    notes = trained.notes
    assert trained.report.validation_accuracy > 0.85
    assert notes["bits"] == 15
    assert notes["minimum_distance"] == 8 == by_hand(np.array([[int(b) for b in w] for w in notes["codes"]]))
    assert trained.model.network.fc2.out_features == 15


def test_the_same_key_gives_the_same_bytes(digits, trained):
    again = Ftna(bits=15, training=SHORT).fit(mlp, digits.development, Key(0))
    assert again.notes == trained.notes
    for p, q in zip(again.model.parameters(), trained.model.parameters(), strict=True):
        assert torch.equal(p, q)


def test_it_is_saved_loaded_and_deployed_like_any_network(digits, trained, tmp_path):
    path = tmp_path / "ftna.pt"
    save_checkpoint(path, trained.model, "coded", trained.model.arguments, "digits")
    loaded = load_model(path).module
    x = digits.test.x[:50]
    assert torch.equal(loaded(x), trained.model(x))
    report = deploy(
        loaded, digits.test.x, digits.test.y, Hardware.preset("bayesft", sigma=0.3), chips=range(2)
    )
    assert report.clean.accuracy > 0.8
    exported = torch.export.export(trained.model, (x,)).module()
    assert torch.allclose(exported(x), trained.model(x), atol=1e-5)


@pytest.mark.filterwarnings("ignore:the clean model is right on")  # after one epoch
def test_more_classes_than_sixteen(digits):
    def wide():
        return build("mlp", inputs=64, hidden=(16,), classes=20)

    found = Ftna(training=Training(epochs=1)).fit(wide, digits.development, Key(0))
    assert len(found.notes["codes"]) == 20
    assert found.notes["bits"] == 9
    assert found.model(digits.test.x[:3]).shape == (3, 20)


class OtherOrder(nn.Module):
    """The head is registered first."""

    def __init__(self, softmax=False):
        super().__init__()
        self.head, self.body, self.softmax = nn.Linear(8, 10, bias=False), nn.Linear(64, 8), softmax

    def forward(self, x):
        y = self.head(self.body(x.flatten(1)).relu())
        return y.softmax(1) if self.softmax else y


def test_the_last_layer_is_found_by_running_and_not_by_its_place(digits):
    words = codes.as_text(codes.code(10, 7, Key(0)))
    coded = with_bits(OtherOrder(), words, digits.train.x)
    assert (coded.network.head.out_features, coded.network.body.out_features) == (7, 8)
    assert coded.network.head.bias is None
    with pytest.raises(InputError, match="does not end in an nn"):
        with_bits(OtherOrder(softmax=True), words, digits.train.x)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"bits": 0}, "bits=0"),
        ({"bits": 2.5}, "bits=2.5"),
        ({"confusion_epochs": 0}, "confusion_epochs"),
    ],
)
def test_impossible_settings_are_one_sentence(given, words):
    with pytest.raises(InputError, match=words):
        Ftna(**given)


def test_bad_input_is_one_sentence(digits):
    with pytest.raises(InputError, match="8 code words for 10 classes; at least 4 bits"):
        Ftna(bits=3).fit(mlp, digits.development, Key(0))
    with pytest.raises(InputError, match="Development"):
        Ftna().fit(mlp, digits, Key(0))
    with pytest.raises(InputError, match="labels go up to 9"):
        Ftna().fit(lambda: build("mlp", inputs=64, classes=8), digits.development, Key(0))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"codes": ()}, "0s and 1s"),
        ({"codes": "0101"}, "0s and 1s"),
        ({"codes": ("01", "0a")}, "0s and 1s"),
        ({"codes": ("01", "0")}, "as long"),
        ({"codes": ("01", "01")}, "its own"),
        ({"codes": ("01", "10"), "network": "coded"}, "not itself coded"),
        ({"codes": ("01", "10"), "arguments": {"classes": 3}}, "3 outputs"),
        ({"codes": ("01", "10"), "network": "no"}, "unknown"),
    ],
)
def test_a_hostile_description_is_one_sentence(given, words):
    with pytest.raises(InputError, match=words):
        build("coded", **given)
