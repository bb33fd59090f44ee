"""Networks for calibration: digital batch normalisation behind every layer on arrays, and a digital read-out.

What drift does to the scale and the mean of a layer's outputs can be measured on each chip and undone by a little
digital arithmetic. A network for this has no biases on its arrays; behind each array a batch normalisation, whose
statistics are those of the chip, scales and shifts digitally; and its last layer is digital. It is an ordinary torch
model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from crossbar_sim.data.inputs import Batch, call, described
from crossbar_sim.errors import InputError
from crossbar_sim.nn.analog.matrices import CONVOLUTIONS, DIGITAL_BY_TRAINING, matrices

LAYERS = (nn.Linear, *CONVOLUTIONS)
"""What a normalisation can be put behind."""

NORM = "the scale and shift of its calibration"
READOUT = "the read-out of a network trained for calibration"


class Standardised(nn.Sequential):
    """A layer without bias, for arrays, and the digital batch normalisation of its outputs.

    Args:
        layer: linear or convolution; its bias is taken away.
        dims: dimensions of its outputs: (b, c) or (b, c, places...), of a linear layer also (b, places..., c).
    """

    layer: nn.Module
    norm: _BatchNorm

    def __init__(self, layer: nn.Module, dims: int) -> None:
        super().__init__()
        weight: Any = layer.weight
        kind: type[_BatchNorm] = nn.BatchNorm1d
        if isinstance(layer, nn.Linear):
            kind, channels = (nn.BatchNorm1d if dims == 2 else LastAxisNorm), layer.out_features
        else:
            channels = layer.out_channels  # type: ignore[assignment]
            kind = {3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[dims]
        layer.register_parameter("bias", None)
        self.add_module("layer", layer)
        self.add_module("norm", kind(channels, device=weight.device, dtype=weight.dtype))

    def __getattr__(self, name: str) -> Any:
        """What code outside reads of the layer: its weight, its sizes."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            layer = self.__dict__.get("_modules", {}).get("layer")
            if layer is None:
                raise
            return getattr(layer, name)


class LastAxisNorm(nn.BatchNorm1d):
    """Batch normalisation of (..., c), each channel c over everything else: of tokens, say."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., c) to the same shape."""
        return super().forward(input.reshape(-1, input.shape[-1])).reshape(input.shape)


@dataclass(frozen=True)
class Standardisation:
    """Which layers of a network get a normalisation, and which is its read-out.

    Args:
        layers: name of a layer -> dimensions of its outputs.
        readout: name of the last layer.
        left: layers with weights on arrays that get none: of other kinds, or with a batch normalisation already.
    """

    layers: Mapping[str, int]
    readout: str
    left: tuple[str, ...] = ()

    def insert(self, model: nn.Module) -> None:
        """Change the model in place.

        Raises:
            InputError: if it has no such layers.
        """
        modules = dict(model.named_modules())
        for name, dims in self.layers.items():
            layer = modules.get(name)
            if not isinstance(layer, LAYERS) or dims not in (2, 3, 4, 5):
                raise InputError(
                    f"{type(model).__name__} has no linear layer or convolution {name!r} to put a normalisation behind"
                )
            if not isinstance(layer, nn.Linear) and dims != layer.weight.dim():
                raise InputError(f"{name!r} is not a convolution with outputs of {dims} dimensions")
            whole = Standardised(layer, dims)
            for parent in [*modules.values()]:
                for key, child in parent._modules.items():
                    if child is layer:
                        parent._modules[key] = whole
                        if isinstance(parent, nn.TransformerEncoderLayer):
                            parent.activation_relu_or_gelu = (
                                0  # no fused kernel, which would skip the normalisation
                            )
        for module in modules.values():
            if isinstance(module, nn.TransformerEncoder):
                module.use_nested_tensor = False  # of the fused kernel
        if self.readout not in modules:
            raise InputError(f"{type(model).__name__} has no layer {self.readout!r} to be its read-out")
        modules[self.readout].__dict__[DIGITAL_BY_TRAINING] = READOUT
        for norm in norms(model):
            norm.__dict__[DIGITAL_BY_TRAINING] = NORM

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {"layers": dict(self.layers), "readout": self.readout}

    @classmethod
    def from_dict(cls, given: object) -> "Standardisation":
        """Of a checkpoint.

        Raises:
            InputError: if it is not one.
        """
        layers = given.get("layers") if isinstance(given, dict) else None
        readout = given.get("readout") if isinstance(given, dict) else None
        if not isinstance(layers, dict) or not isinstance(readout, str):
            raise InputError("checkpoint field 'standardised' is damaged: save it again")
        if not all(isinstance(name, str) and type(dims) is int for name, dims in layers.items()):
            raise InputError("checkpoint field 'standardised' is damaged: save it again")
        return cls(layers, readout)


def norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch normalisations of a model that keep statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def standardisation_of(model: nn.Module) -> Standardisation | None:
    """That of a model that has been standardised; None: it has not."""
    marked = [name for name, m in model.named_modules() if m.__dict__.get(DIGITAL_BY_TRAINING) == READOUT]
    if not marked:
        return None
    layers = {
        name: 2 if type(m.norm) is nn.BatchNorm1d and isinstance(m.layer, nn.Linear)
        else 3 if isinstance(m.layer, nn.Linear) else m.layer.weight.dim()  # type: ignore[union-attr, operator]
        for name, m in model.named_modules() if isinstance(m, Standardised)
    }  # fmt: skip
    return Standardisation(layers, marked[0])


def digital_parameters(model: nn.Module) -> set[int]:
    """Ids of the parameters of layers that stay digital because they were trained so."""
    return {
        id(p) for m in model.modules() if DIGITAL_BY_TRAINING in m.__dict__ for p in m._parameters.values()
    }


def standardise(model: nn.Module, x: Batch) -> Standardisation:
    """Put a digital batch normalisation behind every layer on arrays but the last, in place.

    Each begins with the scale and shift with which the network computes what it did before.

    Args:
        model: whose forward calls its layers as modules, each once.
        x: examples, on which the normalisations begin; two at least.

    Raises:
        InputError: if it has no two layers to be standardised and read out, one that is called twice, a read-out whose
            weight is another layer's too, or does not take the examples.
    """
    found, own, order = _run(model, x)
    name = type(model).__name__
    called = dict.fromkeys(order)
    if len(called) < 2:
        raise InputError(
            f"calibrated needs a layer to standardise and a last one that reads out, and the forward of {name} calls "
            f"{len(called)} linear layers and convolutions as modules (an exported graph calls operators)"
        )
    twice = [layer for layer in called if order.count(layer) > 1]
    if twice:
        raise InputError(
            f"calibrated: {twice[0]} is called {order.count(twice[0])} times in a forward, and one set of statistics "
            "does not serve several places: give each place a layer of its own"
        )
    readout = order[-1]
    read = {id(p) for p in model.get_submodule(readout)._parameters.values() if p is not None}
    tied = [
        key for key, module in model.named_modules()
        if key != readout and matrices(module) and any(id(p) in read for p in module._parameters.values())
    ]  # fmt: skip
    if tied:
        raise InputError(
            f"calibrated: the last layer, {readout}, is to be digital, and its weight is also that of {tied[0]}, which "
            "is on arrays: give them weights of their own"
        )
    inserted = {layer: found[layer] for layer in called if layer != readout and layer not in own}
    left = [
        key for key, module in model.named_modules()
        if matrices(module) and key not in inserted and key not in own and key != readout
    ]  # fmt: skip
    made = Standardisation({key: at.dims for key, at in inserted.items()}, readout, tuple(left))
    made.insert(model)
    modules = dict(model.named_modules())
    with torch.no_grad():
        for key, at in inserted.items():
            norm: Any = modules[key].norm
            norm.running_mean.copy_(at.mean if at.bias is None else at.mean - at.bias)
            norm.running_var.copy_(at.var)
            norm.weight.copy_((at.var + norm.eps).sqrt())
            norm.bias.copy_(at.mean)
    return made


@dataclass
class _Outputs:
    """What a layer gives: the dimensions, and mean and variance (c,) of its outputs; its bias."""

    dims: int
    mean: Tensor
    var: Tensor
    bias: Tensor | None


def _run(model: nn.Module, x: Batch) -> tuple[dict[str, _Outputs], set[str], list[str]]:
    """The outputs of layers in a forward, layers that a batch normalisation follows, and the order of calls."""
    found: dict[str, _Outputs] = {}
    given: dict[int, tuple[str, Tensor]] = {}
    own: set[str] = set()
    order: list[str] = []

    def layer_hook(name: str) -> Any:
        def hook(module: nn.Module, args: Any, y: Tensor) -> None:
            order.append(name)
            given[id(y)] = (name, y)
            linear = isinstance(module, nn.Linear)
            inner = tuple(i for i in range(y.dim()) if i != (y.dim() - 1 if linear else 1))
            var, mean = torch.var_mean(y.float(), inner, correction=0)
            found[name] = _Outputs(y.dim(), mean, var, module._parameters.get("bias"))

        return hook

    def norm_hook(module: nn.Module, args: Any) -> None:
        if args and id(args[0]) in given:
            own.add(given[id(args[0])][0])

    handles = []
    modes = [(module, module.training) for module in model.modules()]
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it leaves out padding, and what layers are called
    try:
        for name, module in model.eval().named_modules():
            if isinstance(module, LAYERS) and not module.weight.is_complex():
                handles.append(module.register_forward_hook(layer_hook(name)))
            elif isinstance(module, _BatchNorm) and module.running_mean is not None:
                handles.append(module.register_forward_pre_hook(norm_hook))
        with torch.no_grad():
            call(model, x.clone())
    except RuntimeError as error:
        line = (str(error).splitlines() or ["no reason given"])[0]
        raise InputError(f"the model does not take examples of {described(x)}: {line[:160]}") from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    return found, own, order
