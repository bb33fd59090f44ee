"""Folding a batch normalisation into the layer before it: y = gamma (W x + b - mu)/sqrt(var + eps) + beta."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from crossbar_sim.errors import InputError
from crossbar_sim.nn.derived import Silent, base_of, derive, exchange

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
        elif node.op == "get_attr" and not all(map(_asks_shape, node.users)):
            holder, _, name = str(node.target).rpartition(".")
            read.add(id(getattr(modules.get(holder), name, None)))
    pairs = {}
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(node.args[0] if node.args else None, fx.Node):
            continue
        norm, before = modules[str(node.target)], node.args[0]
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or norm.running_var is None:
            continue
        carrier = modules.get(str(before.target)) if before.op == "call_module" else None
        if not isinstance(carrier, _CARRIERS) or _intercepted(carrier, norm):
            continue
        once = calls[str(before.target)] == 1 and calls[str(node.target)] == 1 and len(before.users) == 1
        if once and not any(id(p) in read for p in carrier._parameters.values() if p is not None):
            pairs[str(before.target)] = str(node.target)
    return pairs


def _asks_shape(node: fx.Node) -> bool:
    """Whether the node takes of a weight what folding leaves as it is."""
    asked = node.args[1] if node.target is getattr else node.target
    return asked in ("shape", "dtype", "device", "ndim", "size", "dim")


def _intercepted(carrier: nn.Module, norm: nn.Module) -> bool:
    """Whether something sees, or may change, what passes between the two, or stands in for their forward."""
    hooks = bool(carrier._forward_hooks or norm._forward_pre_hooks)
    return hooks or "forward" in vars(carrier) or "forward" in vars(norm)
