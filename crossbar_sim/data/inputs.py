"""Batches: one tensor, or several inputs of a model, by position and by name; and the one way to call a model."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from crossbar_sim.errors import InputError


@dataclass(frozen=True, eq=False)
class Inputs:
    """Several inputs of a model, which are sliced together along their first axis.

    Args:
        args: what the forward takes by position: tensors (n, ...) with one n, or values that are the same for all
            examples (None, a number, a tensor without axes).
        kwargs: what it takes by name, likewise.
        made: names of `kwargs` that the data adapter made itself: the mask of sequences that it has padded.

    Raises:
        InputError: if there is no tensor (n, ...), or their lengths differ.

    >>> x = Inputs(kwargs={"input_ids": torch.arange(6).view(3, 2), "attention_mask": torch.ones(3, 2)})
    >>> len(x), x[1:].first.tolist()
    (3, [[2, 3], [4, 5]])
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    made: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        lengths = {name: len(tensor) for name, tensor in self.named()}
        if not lengths:
            raise InputError("the inputs hold no tensor with examples along its first axis")
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} {n}" for name, n in lengths.items())
            raise InputError(
                f"the inputs hold different numbers of examples: {listed}; give each of them one row per example "
                "(x.expand(n, -1) of what is the same for all)"
            )

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors with one row per example, by name; those that are given by position are `inputs[0]`, ..."""
        for name, value in (*((f"inputs[{i}]", v) for i, v in enumerate(self.args)), *self.kwargs.items()):
            if isinstance(value, Tensor) and value.dim():
                yield name, value

    def constants(self) -> Iterator[tuple[str, Any]]:
        """What is the same for all examples, by name."""
        tensors = {name for name, _ in self.named()}
        for name, value in (*((f"inputs[{i}]", v) for i, v in enumerate(self.args)), *self.kwargs.items()):
            if name not in tensors:
                yield name, value

    @property
    def first(self) -> Tensor:
        """The first tensor with one row per example."""
        return next(self.named())[1]

    def __len__(self) -> int:
        return len(self.first)

    def __getitem__(self, index: slice | Tensor) -> "Inputs":
        """Some of the examples: every tensor is indexed along its first axis."""
        return self.map(lambda tensor: tensor[index])

    def map(self, change: Callable[[Tensor], Tensor]) -> "Inputs":
        """The same inputs with every tensor (n, ...) changed."""

        def one(value: Any) -> Any:
            return change(value) if isinstance(value, Tensor) and value.dim() else value

        return replace(
            self, args=tuple(map(one, self.args)), kwargs={name: one(v) for name, v in self.kwargs.items()}
        )

    def to(self, device: torch.device | str) -> "Inputs":
        """All tensors on a device; numbers keep their types."""

        def one(value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor) else value

        return replace(
            self, args=tuple(map(one, self.args)), kwargs={name: one(v) for name, v in self.kwargs.items()}
        )

    def clone(self) -> "Inputs":
        """A copy, to which a forward may write."""
        return self.map(Tensor.clone)


Batch: TypeAlias = Tensor | Inputs
"""Examples of a model: (n, ...), or several inputs of n examples each."""


def call(model: nn.Module | Callable[..., Any], x: Batch) -> Any:
    """The output of a model for a batch: every call of a model with examples goes through here."""
    return model(*x.args, **x.kwargs) if isinstance(x, Inputs) else model(x)


def named_of(x: Batch) -> list[tuple[str, Tensor]]:
    """The tensors of a batch with one row per example, by name; "x" where there is one."""
    return list(x.named()) if isinstance(x, Inputs) else [("x", x)]


def tensors_of(x: Batch) -> list[Tensor]:
    """The tensors of a batch with one row per example."""
    return [tensor for _, tensor in named_of(x)]


def first_of(x: Batch) -> Tensor:
    """The first tensor of a batch."""
    return x.first if isinstance(x, Inputs) else x


def split(x: Batch, parts: int) -> list[Batch]:
    """So many parts along the first axis, as equal as they can be."""
    if isinstance(x, Tensor):
        return list(x.tensor_split(parts))
    return [x[part] for part in torch.arange(len(x)).tensor_split(parts)]


def filled(x: Batch, size: int) -> Batch:
    """A batch of `size` examples: the last one is repeated where there are fewer."""
    if len(x) >= size:
        return x
    return x[torch.arange(size).clamp_max(len(x) - 1).to(first_of(x).device)]


def described(x: Batch) -> str:
    """The shapes of a batch, for messages: "shape (8, 3, 32, 32)", or each by its name."""
    if isinstance(x, Inputs):
        return ", ".join(f"{name} of shape {tuple(tensor.shape)}" for name, tensor in x.named())
    return f"shape {tuple(x.shape)}"


def one_tensor(x: Batch, what: str) -> Tensor:
    """The tensor of a batch, for what cannot be done with several inputs.

    Raises:
        InputError: if there are several; `what` begins the sentence.
    """
    if isinstance(x, Inputs):
        names = ", ".join(name for name, _ in x.named())
        raise InputError(f"{what} takes examples with one input, and these have {names}")
    return x
