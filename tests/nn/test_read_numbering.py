"""Reads of each matrix in one inference, counted while the model runs."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from crossbar_sim import DAC, Hardware
from crossbar_sim.robustness.array_work import Reads, cost_of_model, reads_per_inference


def weights_of(model: nn.Module) -> dict:
    return {
        f"{name}.{key}".lstrip("."): (p, module)
        for name, module in model.named_modules()
        for key, p in module._parameters.items()
        if p is not None and p.dim() > 1
    }


def counted(model: nn.Module, x: torch.Tensor) -> dict:
    return reads_per_inference(model.eval(), weights_of(model), x)


@pytest.mark.parametrize("batch", [1, 3])
def test_convolutions_and_linear_layers(batch):
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 8, 3, groups=2, padding=1), nn.Flatten(),
        nn.Linear(8 * 5 * 3, 7),
    )  # fmt: skip
    assert counted(model, torch.rand(batch, 2, 9, 6) - 0.5) == {
        "0.weight": Reads(15, True),
        "2.weight": Reads(15, False),  # behind a ReLU nothing is below 0
        "4.weight": Reads(1, True),
    }


def test_transposed_convolutions_are_read_once_for_each_input_pixel():
    model = nn.Sequential(nn.ConvTranspose1d(3, 5, 4, stride=2))
    assert counted(model, torch.rand(2, 3, 11)) == {"0.weight": Reads(11, False)}


def test_attention_and_recurrent_layers_are_read_once_for_each_step():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.recurrent = nn.LSTM(8, 4, batch_first=True, bidirectional=True)

        def forward(self, x):
            return self.recurrent(self.attention(x, x, x)[0])[0]

    found = counted(Model(), torch.rand(2, 7, 8) - 0.5)
    assert len(found) == 6
    assert {*found.values()} == {Reads(7, True)}


def test_a_shared_matrix_is_read_for_both_and_an_idle_one_never():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.twice, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            return self.twice(self.twice(x).relu())

    assert counted(Model(), torch.rand(1, 4)) == {"twice.weight": Reads(2, False), "idle.weight": None}


def test_an_exported_graph_counts_as_its_model():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(48, 5)).eval()
    x = torch.rand(1, 1, 6, 6)
    graph = torch.export.export(model, (x,)).module()
    pairs = {name: (p, graph) for name, p in graph.named_parameters() if p.dim() > 1}
    found = reads_per_inference(graph, pairs, x)
    assert [found[name].vectors for name in pairs] == [16, 1]


class Own(nn.Module):
    """A forward and one parameter."""

    def __init__(self, forward, *shape):
        super().__init__()
        self.weight, self.how = nn.Parameter(torch.ones(shape)), forward

    def forward(self, x):
        return self.how(x, self.weight)


ENDS = torch.tensor([2, 2, 6], dtype=torch.int32)
GROUPED = {
    "bilinear": (lambda x, w: F.bilinear(x, x, w), (5, 8, 8), (4, 3, 8), 3),
    "heads first": (lambda x, w: torch.einsum("bth,nhd->btnd", x, w), (2, 8, 4), (4, 3, 8), 3),
    "an expert for each": (lambda x, w: torch.einsum("beth,ehf->betf", x, w), (3, 8, 5), (4, 3, 2, 8), 2),
    "tensordot": (lambda x, w: torch.tensordot(x, w, ([2, 3], [0, 1])), (3, 8, 5), (4, 7, 3, 8), 7),
    "one expert of three": (lambda x, w: torch._grouped_mm(x, w, ENDS), (3, 8, 16), (6, 8), 1),
}  # fmt: skip
"""Forward, shapes of the weight and of the inputs, and how often an inference drives every matrix."""


@pytest.mark.parametrize("name", GROUPED)
def test_cost_counts_grouped_products_as_often_as_their_inputs_come(name):
    forward, shape, inputs, times = GROUPED[name]
    estimate = cost_of_model(Own(forward, *shape), Hardware(dac=DAC(bits=4)), torch.ones(inputs))
    assert estimate.layers[0].work.cycles == times * DAC(bits=4).slices
    assert not any("no product" in note for note in estimate.notes)
