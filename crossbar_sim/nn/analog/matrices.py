"""Layers as matrices: which parameters go onto arrays, in which layout, with batch normalisation folded in."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from crossbar_sim.errors import InputError
from crossbar_sim.nn.analog.copying import Silent, base_of, derive, exchange

# Which parameters of a layer are crossbar matrices, and how torch stores them.
#
# | layer | parameter | torch's shape | rows x cols, in groups |
# |---|---|---|---|
# | Linear, attention projections, RNN | weight | (out, in) | in x out |
# | Conv | weight | (out, in/g, *k) | in/g k x out/g, g groups |
# | ConvTranspose | weight | (in, out/g, *k) | in/g x out/g k, g groups |
# | Bilinear | weight | (out, in1, in2) | in1 x in2, out groups |
# | x @ p in an exported graph | p | (..., in, out) | in x out, one group per leading index |
#
# `Layout.columns` is the one place where torch's (out, in) becomes the core's bit lines: the transposed matrix
# (cols, rows) is the weight as stored in memory, so for the first two lines it is a view.


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
    """One crossbar matrix of a module: its weight, and the bias that may join it as one more row.

    `in_parts` says whether products take the bias by a view.
    """

    weight: str
    bias: str | None
    layout: Layout
    in_parts: bool = field(default=False, compare=False)


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


def _bilinear(module: nn.Module) -> Iterator[Matrix]:
    # y_k = x1 A_k x2: x1 drives the matrices A_k of all outputs, and the result is multiplied with x2 digitally.
    shape = tuple(module._parameters["weight"].shape)  # type: ignore[union-attr]
    yield Matrix("weight", None, Layout(shape, "in_out", shape[0]))


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
    nn.Bilinear: _bilinear,
    nn.MultiheadAttention: _attention,
    nn.RNNBase: _recurrent,
    nn.RNNCellBase: _recurrent,
}
"""The layers that run on arrays, by class; a subclass counts as its base (docs/model.md, "Layers")."""

CONVOLUTIONS = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip

NORMALISATION = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)
"""Layers whose parameters are an affine normalisation."""

DIGITAL_BY_TRAINING = "_crossbar_sim_digital"
"""The attribute of a layer that was trained to stay digital on every design: the reason, as reports give it."""

DIGITAL: dict[type[nn.Module], str] = {
    nn.Embedding: "a table look-up, no product",
    nn.EmbeddingBag: "a table look-up, no product",
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


def trained_weights(model: nn.Module) -> list[nn.Parameter]:
    """Weight matrices of layers that arrays can carry and that are trained, tied ones once."""
    found = {
        id(weight): weight
        for module in model.modules()
        if DIGITAL_BY_TRAINING not in vars(module)
        for matrix in matrices(module)
        if (weight := module._parameters[matrix.weight]) is not None and weight.requires_grad
    }
    return [*found.values()]


# Folding a batch normalisation into the layer before it: y = gamma (W x + b - mu)/sqrt(var + eps) + beta.


_CARRIERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(eq=False)
class Fold:
    """The affine map of one evaluated batch normalisation, applied to the parameters of the layer before.

    Args:
        norm: the module that holds weight, bias, running_mean and running_var (affine ones may be absent).
        eps: added to the variance.
    """

    norm: nn.Module
    eps: float

    def __call__(self, layer: nn.Module) -> dict[str, Tensor]:
        """The folded "weight" and "bias" of `layer`, in the shapes of its own, differentiable."""
        weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
        gamma, beta = self.norm._parameters.get("weight"), self.norm._parameters.get("bias")
        mean, var = self.norm._buffers["running_mean"], self.norm._buffers["running_var"]
        assert weight is not None
        assert mean is not None
        assert var is not None
        factor = torch.rsqrt(var + self.eps)
        factor = factor if gamma is None else factor * gamma
        shift = -mean * factor if bias is None else (bias - mean) * factor
        return {
            "weight": weight * factor.reshape(-1, *[1] * (weight.ndim - 1)),
            "bias": shift if beta is None else shift + beta,
        }

    def sources(self, layer: nn.Module) -> list[Tensor | None]:
        """Every tensor that the folded values are made of."""
        own = [layer._parameters.get("weight"), layer._parameters.get("bias")]
        norm = [self.norm._parameters.get("weight"), self.norm._parameters.get("bias")]
        return own + norm + [self.norm._buffers["running_mean"], self.norm._buffers["running_var"]]


RANK = "_crossbar_sim_rank"
"""The attribute of a folded normalisation that says how many dimensions its input must have."""


class FoldedAway(Silent):
    """Mixin of a normalisation layer that now acts in the layer before it."""

    training: bool

    def forward(self, input: Any) -> Any:
        """Pass the input on.

        Raises:
            InputError: in training mode, where it would have to normalise by the batch, or for an input whose
                dimension 1 is not the outputs of the layer before.
        """
        if self.training:
            raise InputError(
                "a folded normalisation has the statistics of evaluation: call model.eval(), or train with "
                "normalisation='digital' or 'drifting'"
            )
        rank = self.__dict__[RANK]
        if input.dim() != rank:
            raise InputError(
                f"a normalisation folded into a layer with a {rank}-D weight got a {input.dim()}-D input, on "
                "which it does not act on that layer's outputs: choose normalisation='digital' or 'drifting', "
                "skip that layer, or deploy a torch.export archive"
            )
        return input

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle and copy by the base class."""
        assert isinstance(self, nn.Module)
        return _rebuild, (base_of(self),), self.__dict__


_CLASSES: dict[type[nn.Module], type] = {}


def fold_away(norm: nn.Module, rank: int) -> None:
    """Make `norm` pass its input, which must have `rank` dimensions, on, in place; its parameters stay."""
    exchange(norm, _folded_class(type(norm)))
    norm.__dict__[RANK] = rank


def _folded_class(base: type[nn.Module]) -> type:
    if base not in _CLASSES:
        _CLASSES[base] = derive((FoldedAway,), base, "Folded", {})
    return _CLASSES[base]


def _rebuild(base: type[nn.Module]) -> nn.Module:
    cls: Any = _folded_class(base)
    made: nn.Module = cls.__new__(cls)
    return made


def foldable(model: nn.Module) -> dict[str, str]:
    """Layers followed by a batch normalisation and nothing else: {name of the layer: name of the norm}.

    Raises:
        InputError: if the data flow of the model cannot be traced.
    """
    try:
        graph = fx.Tracer().trace(model)
    except Exception as error:  # torch.fx raises whatever the user's forward raises on a symbolic input
        reason = str(error).split("\n")[0]
        raise InputError(
            f"normalisation='folded' must follow the data flow, but {type(model).__name__} cannot be traced "
            f"({reason}): deploy a torch.export archive of it, or choose 'digital' or 'drifting'"
        ) from error
    modules = dict(model.named_modules())
    calls: dict[str, int] = {}
    read: set[int] = set()
    for node in graph.nodes:
        if node.op == "call_module":
            calls[str(node.target)] = calls.get(str(node.target), 0) + 1
        elif node.op == "get_attr" and not all(map(_reads_shape, node.users)):
            holder, _, name = str(node.target).rpartition(".")
            read.add(id(getattr(modules.get(holder), name, None)))
    pairs = {}
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(node.args[0] if node.args else None, fx.Node):
            continue
        norm, before = modules[str(node.target)], node.args[0]
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_var is None:
            continue
        if DIGITAL_BY_TRAINING in vars(norm):
            continue
        carrier = modules.get(str(before.target)) if before.op == "call_module" else None
        if not isinstance(carrier, _CARRIERS) or _intercepted(carrier, norm):
            continue
        once = calls[str(before.target)] == 1 and calls[str(node.target)] == 1 and len(before.users) == 1
        if once and not any(id(p) in read for p in carrier._parameters.values() if p is not None):
            pairs[str(before.target)] = str(node.target)
    return pairs


def _reads_shape(node: fx.Node) -> bool:
    """Whether the node reads only properties of a weight that folding does not change, such as its shape."""
    attribute = node.args[1] if node.target is getattr else node.target
    return attribute in ("shape", "dtype", "device", "ndim", "size", "dim")


def _intercepted(carrier: nn.Module, norm: nn.Module) -> bool:
    """Whether hooks or a replaced forward see, or may change, what passes between the two layers."""
    hooks = bool(carrier._forward_hooks or norm._forward_pre_hooks)
    return hooks or "forward" in vars(carrier) or "forward" in vars(norm)


def is_matrix(value: Tensor | None) -> bool:
    """Whether a tensor has more than one row and more than one column: not a bias, whatever its shape."""
    return value is not None and sum(size > 1 for size in value.shape) >= 2
