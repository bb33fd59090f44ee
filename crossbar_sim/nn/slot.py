"""One array of a layer: which parameters it stands for, and their clean matrix."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_sim.nn.folding import Fold
from crossbar_sim.nn.matrices import Layout
from crossbar_sim.nn.staleness import state


@dataclass(eq=False)
class Slot:
    """One array of a layer: the parameters it stands for.

    Args:
        name: the array's name: that of its weight in the model (of the first module that has it, if shared).
        layer: name of the layer in the model.
        layout: how the weight is a matrix.
        weight, bias: parameter names in the module; `bias` only where it is one more row of the array.
        fold: gives the weight and bias with the normalisation behind them folded in.
        ideal: no array at all, the clean (folded) value: a digital bias that folding has changed.
    """

    name: str
    layer: str
    layout: Layout
    weight: str
    bias: str | None = None
    fold: Fold | None = None
    ideal: bool = False
    scale: tuple[Any, Any] | None = field(default=None, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles begin without the cache."""
        return {**self.__dict__, "scale": None}

    def sources(self, module: nn.Module) -> list[Tensor | None]:
        """Every tensor that the clean values are made of."""
        sources: list[Tensor | None] = [module._parameters.get(name) for name in self.names]
        return sources if self.fold is None else sources + self.fold.sources(module)

    def state(self, module: nn.Module) -> tuple[object, ...]:
        """Equal as long as the clean values are the same."""
        return tuple(map(state, self.sources(module)))

    def on_meta(self, module: nn.Module) -> bool:
        """Whether there are shapes only, and nothing to program."""
        return any(t is not None and t.is_meta for t in self.sources(module))

    def clean(self, module: nn.Module) -> tuple[Tensor, Tensor | None]:
        """The weight and, where the slot has one, the bias, without any hardware."""
        if self.fold is not None:
            folded = self.fold(module)
            return folded["weight" if self.layout.order != "vector" else "bias"], (
                folded["bias"] if self.bias else None
            )
        weight = module._parameters.get(self.weight)  # by `get`, which never reads the array
        assert weight is not None
        return weight, module._parameters.get(self.bias) if self.bias else None

    def columns(self, module: nn.Module) -> Tensor:
        """The transposed matrix (cols, rows) as it is to be programmed, differentiable."""
        weight, bias = self.clean(module)
        columns = self.layout.columns(weight)
        return columns if bias is None else torch.cat([columns, bias.reshape(-1, 1)], dim=1)

    def split(self, columns: Tensor) -> tuple[Tensor, Tensor | None]:
        """The matrix (cols, rows) taken apart again: weight in the parameter's shape, and bias."""
        if self.bias is None:
            return self.layout.parameter(columns), None
        return self.layout.parameter(columns[:, :-1]), columns[:, -1]

    @property
    def rows(self) -> int:
        """Word lines of the array, the bias row included."""
        return self.layout.rows + (self.bias is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters of the module that the slot provides."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)
