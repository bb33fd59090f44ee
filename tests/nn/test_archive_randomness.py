"""Archives whose outputs chance decides are refused, by name and with the remedy; others load."""

import pytest
import torch
import torch.nn.functional as F
from helpers import archive_files as files
from torch import nn

from crossbar_sim.errors import InputError
from crossbar_sim.nn.files.archive import load_archive

# Banned in this repository, since it takes no key: that such an operator is in a file is what is tested.
noise_like = torch.randn_like  # noqa: TID251


class Applied(nn.Module):
    """A layer and any function of its output."""

    def __init__(self, function, part=None):
        super().__init__()
        self.fc, self.part, self.function = nn.Linear(4, 4), part, function

    def forward(self, x):
        h = self.fc(x)
        return self.function(h) if self.part is None else self.part(h)


class Recurrent(nn.Module):
    def __init__(self, kind, dropout):
        super().__init__()
        self.layers = kind(4, 4, num_layers=2, dropout=dropout, batch_first=True)

    def forward(self, x):
        return self.layers(x.unsqueeze(1))[0][:, 0]


def archive(model, train, decomposed=False):
    program = torch.export.export(model.train(train), (torch.ones(3, 4),))
    return files.saved(program.run_decompositions() if decomposed else program)


def attended(h, p):
    return F.scaled_dot_product_attention(h[None], h[None], h[None], dropout_p=p)[0]


TRAINED = {
    "dropout": (lambda: Applied(None, nn.Dropout()), r"aten\.dropout\.default"),
    "in place": (lambda: Applied(None, nn.Dropout(inplace=True)), r"aten\.dropout_\.default"),
    "alpha": (lambda: Applied(None, nn.AlphaDropout()), r"aten\.alpha_dropout\."),
    "feature alpha": (lambda: Applied(None, nn.FeatureAlphaDropout()), r"aten\.feature_alpha_dropout\."),
    "rrelu": (lambda: Applied(None, nn.RReLU()), r"aten\.rrelu\."),
    "lstm": (lambda: Recurrent(nn.LSTM, 0.5), r"aten\.lstm\.input"),
    "gru": (lambda: Recurrent(nn.GRU, 0.5), r"aten\.gru\.input"),
    "rnn": (lambda: Recurrent(nn.RNN, 0.5), r"aten\.rnn_tanh\.input"),
    "batch norm": (
        lambda: Applied(None, nn.BatchNorm1d(4)),
        r"aten\.batch_norm\..* depend on the other inputs",
    ),
}


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_export_in_training_mode_is_refused_and_one_in_evaluation_loads(name):
    make, operator = TRAINED[name]
    with pytest.raises(InputError, match=rf"training mode \(torch\.ops\.{operator}.*model\.eval\(\)"):
        load_archive(archive(make(), train=True))
    load_archive(archive(make(), train=False))


def test_decomposed_dropout_is_refused():
    with pytest.raises(InputError, match=r"native_dropout\.default has train=True"):
        load_archive(archive(Applied(None, nn.Dropout()), train=True, decomposed=True))


def test_attention_with_dropout_is_refused_and_without_loads():
    with pytest.raises(InputError, match=r"scaled_dot_product_attention\.default has dropout_p=0\.25"):
        load_archive(archive(Applied(lambda h: attended(h, 0.25)), train=False))
    load_archive(archive(Applied(lambda h: attended(h, 0.0)), train=False))


def test_training_mode_without_anything_that_acts_differently_loads():
    for model in (Recurrent(nn.LSTM, 0.0), Applied(None, nn.Dropout(0.0))):
        assert load_archive(archive(model, train=True)) is not None


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize(
    ("draw", "operator"),
    [
        (lambda h: h + noise_like(h), "randn_like"),
        (lambda h: h * torch.rand(4), "rand"),
        (torch.bernoulli, "(bernoulli|rand)"),
        (lambda h: torch.multinomial(h.softmax(1), 1), "multinomial"),
        (lambda h: torch.normal(h, 1.0), "normal"),
        (lambda h: h[torch.randperm(3)], "randperm"),
        (lambda h: h + h.new_zeros(3, 4).uniform_(), "uniform"),
        (lambda h: h + torch.poisson(h.abs()), "poisson"),
    ],
)
def test_an_operator_that_draws_is_refused_by_name(draw, operator, decomposed):
    with pytest.raises(InputError, match=rf"aten\.{operator}.*draws random numbers.*deterministic path"):
        load_archive(archive(Applied(lambda h: draw(h.sigmoid())), train=False, decomposed=decomposed))


def test_a_draw_in_place_on_a_part_is_refused():
    def noisy(h):
        y = h.clone()
        y[0].add_(noise_like(y[0]))
        return y

    with pytest.raises(InputError, match=r"aten\.randn_like"):
        load_archive(archive(Applied(noisy), train=False))


def test_a_draw_inside_a_nested_graph_is_refused():
    def noisy(h):
        with torch.no_grad():
            noise = noise_like(h)
        return h + noise

    with pytest.raises(InputError, match=r"aten\.randn_like"):
        load_archive(archive(Applied(noisy), train=False))


def test_a_draw_that_reaches_no_output_loads():
    def mean(h):
        return (h, h + noise_like(h))[0]

    content = archive(Applied(mean), train=False)
    assert b"randn_like" in files.unpacked(content)[files.GRAPH]
    load_archive(content)
