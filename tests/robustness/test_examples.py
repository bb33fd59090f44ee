"""Which examples a model is tried on: an embedding makes no tokens of images, and images no pictures of tokens."""

import pytest
import torch
from torch import nn

from crossbar_sim import InputError
from crossbar_sim.data import Split, Splits
from crossbar_sim.nn.files.loading import LoadedModel
from crossbar_sim.robustness.examples import Examples, find_examples


class Places(nn.Module):
    """Looks up the places of four patches, as a vision transformer does, before any layer that sees the image."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Embedding(4, 8)
        self.patch, self.out = nn.Linear(4, 8), nn.Linear(8, 3)
        self.seen = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return self.out((self.patch(x.reshape(-1, 4, 4)) + self.place(torch.arange(4))).mean(1))


class Words(nn.Module):
    """Looks up its inputs, in the second of its layers."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.word = nn.Linear(8, 3), nn.Embedding(30, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.word(x).mean(1))


def found(model: nn.Module, x: torch.Tensor | None, shape: tuple[int, ...] | None = None) -> Examples:
    data = None if x is None else Splits("mine", None, None, Split(x, None), None)
    return find_examples(LoadedModel(model.eval(), "", "", "m"), data, None, 20, shape, 0)


@pytest.mark.parametrize("x", [torch.rand(5, 16), torch.ones(5, 16)], ids=["pixels", "whole"])
def test_a_table_of_places_makes_no_tokens_of_images(x):
    model = Places()
    examples = found(model, x)
    assert torch.equal(examples.x, x)
    assert examples.x.dtype == torch.float32
    assert model.seen == 0, "tried on a copy: a forward may leave traces"


def test_random_inputs_of_a_model_with_a_table_of_places():
    assert found(Places(), None, (16,)).x.shape == (20, 16)
    with pytest.raises(InputError, match=r"does not give the shape .* --input-shape"):
        found(Places(), None)


@pytest.mark.parametrize(
    "model", [Words(), nn.Sequential(nn.Embedding(30, 8), nn.Flatten(), nn.Linear(40, 3))]
)
def test_tokens_are_whole_numbers_wherever_the_table_is(model):
    tokens = torch.arange(30.0).reshape(6, 5)
    examples = found(model, tokens)
    assert examples.x.dtype == torch.int64
    assert torch.equal(examples.x, tokens.long())
    assert "the model takes whole numbers: x is taken as such" in examples.notes
    assert found(model, tokens + 1000).x.dtype == torch.int64  # unknown words: the model itself says so
    with pytest.raises(InputError, match=r"x holds other numbers: save x\.astype"):
        found(model, tokens / 2)
    drawn = found(model, None, (5,)).x  # of the model's 30, all of them, and the same with each run
    assert drawn.shape == (20, 5)
    assert set(drawn.flatten().tolist()) <= set(range(30))
    assert len(drawn.unique()) > 20
    assert torch.equal(drawn, found(model, None, (5,)).x)


def test_integers_that_are_not_looked_up_are_not_drawn():
    class Shifted(Words):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x // 2)

    with pytest.raises(InputError, match="how many of them it knows cannot be seen"):
        found(Shifted(), None, (5,))


def test_a_draw_of_the_examples_says_of_how_many():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    drawn = find_examples(
        LoadedModel(model, "", "", "m"),
        Splits("mine", None, None, Split(torch.rand(2000, 16), None), None),
        None,
        400,
        None,
        7,
    )
    assert [note for note in drawn.notes if "400 of the 2,000 examples of" in note and "seed 7" in note]
    whole = find_examples(
        LoadedModel(model, "", "", "m"),
        Splits("mine", None, None, Split(torch.rand(20, 16), None), None),
        None,
        20,
        None,
        7,
    )
    assert not [note for note in whole.notes if "drawn" in note]
