"""Which parameters of a layer are crossbar matrices, and how torch stores them.

| layer | parameter | torch's shape | rows x cols, in groups |
|---|---|---|---|
| Linear, attention projections, RNN | weight | (out, in) | in x out |
| Conv | weight | (out, in/g, *k) | in/g k x out/g, g groups |
| ConvTranspose | weight | (in, out/g, *k) | in/g x out/g k, g groups |
| x @ p in an exported graph | p | (..., in, out) | in x out, one group per leading index |

`Layout.columns` is the one place where torch's (out, in) becomes the core's bit lines: the transposed matrix
(cols, rows) is the weight as it lies in memory, so for the first two lines it is a view.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

Order = Literal["out_in", "in_out", "transposed", "vector"]


@dataclass(frozen=True)
class Layout:
    """How a parameter of shape `shape` is one crossbar matrix of `groups` blocks.

    Args:
        shape: in which it is read as a matrix.
        order: which dimensions are the inputs and the outputs.
        groups: blocks of the matrix, each with inputs of its own.
        stored: the parameter's own shape, where a product takes it in another (the values in the same order).
    """

    shape: tuple[int, ...]
    order: Order
    groups: int = 1
    stored: tuple[int, ...] | None = None

    @property
    def rows(self) -> int:
        """Word lines of one group."""
        if self.order == "vector":
            return 1
        if self.order == "out_in":
            return math.prod(self.shape[1:])
        return self.shape[-2] if self.order == "in_out" else self.shape[0] // self.groups

    @property
    def cols(self) -> int:
        """Bit lines of one group."""
        if self.order == "vector":
            return math.prod(self.shape)
        if self.order == "out_in":
            return self.shape[0] // self.groups
        return self.shape[-1] if self.order == "in_out" else math.prod(self.shape[1:])

    def rank(self) -> int:
        """Of several layouts of one weight the one with the least rank is that of its array."""
        return ("out_in", "in_out", "transposed", "vector").index(self.order)

    def columns(self, t: Tensor) -> Tensor:
        """The transposed matrix (groups cols, rows) of a parameter: a view where memory allows."""
        if self.order in ("vector", "out_in"):
            return t.reshape(self.groups * self.cols, self.rows)
        blocks = t.reshape(self.groups, self.rows, self.cols)
        return blocks.transpose(1, 2).reshape(self.groups * self.cols, self.rows)

    def parameter(self, columns: Tensor) -> Tensor:
        """The inverse of `columns`: a tensor of the parameter's shape."""
        if self.order in ("vector", "out_in"):
            return columns.reshape(self.stored or self.shape)
        blocks = columns.reshape(self.groups, self.cols, self.rows).transpose(1, 2)
        return blocks.reshape(self.stored or self.shape)


@dataclass(frozen=True)
class Matrix:
    """One crossbar matrix of a module: its weight, and the bias that may join it as one more row."""

    weight: str
    bias: str | None
    layout: Layout


def _weight(module: nn.Module, weight: str, bias: str | None, groups: int = 1) -> Matrix:
    shape = tuple(module._parameters[weight].shape)  # type: ignore[union-attr]
    present = bias if bias and module._parameters.get(bias) is not None else None
    return Matrix(weight, present, Layout(shape, "out_in", groups))


def _plain(module: nn.Module) -> Iterator[Matrix]:
    yield _weight(module, "weight", "bias", getattr(module, "groups", 1))


def _transposed(module: nn.Module) -> Iterator[Matrix]:
    # No bias row: every output pixel sums several columns, and would add the bias once for each.
    shape = tuple(module._parameters["weight"].shape)  # type: ignore[union-attr]
    yield Matrix("weight", None, Layout(shape, "transposed", int(module.groups)))  # type: ignore[arg-type]


def _attention(module: nn.Module) -> Iterator[Matrix]:
    # out_proj is a Linear of its own. With separate q, k, v the bias is one vector over all three.
    if module._parameters.get("in_proj_weight") is not None:
        yield _weight(module, "in_proj_weight", "in_proj_bias")
    else:
        for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
            yield _weight(module, name, None)


def _recurrent(module: nn.Module) -> Iterator[Matrix]:
    names = getattr(module, "_flat_weights_names", ("weight_ih", "weight_hh"))
    for name in names:
        if name.startswith("weight"):
            yield _weight(module, name, name.replace("weight", "bias", 1))


RULES: dict[type[nn.Module], Callable[[nn.Module], Iterator[Matrix]]] = {
    nn.Linear: _plain,
    nn.Conv1d: _plain,
    nn.Conv2d: _plain,
    nn.Conv3d: _plain,
    nn.ConvTranspose1d: _transposed,
    nn.ConvTranspose2d: _transposed,
    nn.ConvTranspose3d: _transposed,
    nn.MultiheadAttention: _attention,
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: _recurrent,
}
"""The layers that run on arrays, by class; a subclass counts as its base (docs/model.md, "Layers")."""

NORMALISATION = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
"""Layers whose parameters are an affine normalisation."""

DIGITAL: dict[type[nn.Module], str] = {
    nn.Embedding: "a table look-up, no product",
    nn.EmbeddingBag: "a table look-up, no product",
    nn.Bilinear: "a product of two inputs, which an array cannot form",
}
"""Layers with weights that no array can carry, and why."""


def matrices(module: nn.Module) -> tuple[Matrix, ...]:
    """The crossbar matrices among the module's own parameters (not its children's).

    None where a weight that the layer should have is no parameter (pruning and weight_norm make it from
    others), or holds no real numbers.
    """
    for cls, rule in RULES.items():
        if isinstance(module, cls):
            try:
                found = tuple(rule(module))
            except (KeyError, AttributeError):
                return ()
            real = all(module._parameters[m.weight].is_floating_point() for m in found)  # type: ignore[union-attr]
            return found if real else ()
    return ()
