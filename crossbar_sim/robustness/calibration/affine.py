"""The affine correction: after each layer on arrays, a digital scale and shift per channel.

They are fitted by least squares to what the clean model computes there for the same images, layer after layer in the
order of the forward, each with the corrections before it at work. Labels are not needed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_sim.data.inputs import Batch
from crossbar_sim.errors import InputError
from crossbar_sim.nn.analog.chips import layers
from crossbar_sim.nn.analog.copying import base_of
from crossbar_sim.nn.analog.layers import InPlace
from crossbar_sim.nn.analog.matrices import CONVOLUTIONS
from crossbar_sim.nn.evaluate import outputs

PLACES = 32
"""Pixels (or tokens) of an image that a fit looks at, evenly spaced. More would add little and cost memory."""


@dataclass(frozen=True, eq=False)
class Affine:
    """The data of the clean model that are needed to correct any chip.

    Args:
        targets: layer -> (values, channels) float32: its clean outputs at some places.
        products: outputs of all these layers per image: each is multiplied once.
    """

    targets: dict[str, Tensor]
    products: int

    @classmethod
    def of(cls, clean: nn.Module, x: Batch) -> "Affine":
        """Run the images through a model without hardware.

        Args:
            clean: analog, with no layer on its arrays: normalisation may be folded into its layers.
            x: (n, ...) images, run as one batch.

        Raises:
            InputError: if no layer on arrays is a module that the forward calls.
        """
        targets: dict[str, Tensor] = {}
        sizes: dict[str, int] = {}

        def look(name: str, module: nn.Module, y: Tensor) -> Tensor:
            if name not in targets:
                targets[name] = _places(module, y).cpu().clone()
            sizes[name] = sizes.get(name, 0) + y.numel() // len(x)
            return y

        with _hooks(clean, look):
            outputs(clean, x, len(x))
        if not targets:
            raise InputError(
                f"{type(clean).__name__} calls none of its layers as modules (an exported graph calls operators), so "
                "there is nowhere to correct them: calibrate with kind='readout'"
            )
        return cls(targets, sum(sizes.values()))

    @property
    def channels(self) -> int:
        """How many scales, and how many shifts."""
        return sum(target.shape[1] for target in self.targets.values())

    @contextmanager
    def fitted(self, analog: nn.Module, x: Batch) -> Iterator[nn.Module]:
        """Context in which the model's layers are corrected for its current chip.

        Args:
            analog: programmed.
            x: the images that the targets are of.
        """
        found: dict[str, tuple[Tensor, Tensor]] = {}

        def correct(name: str, module: nn.Module, y: Tensor) -> Tensor:
            if name not in found:  # the first call, with all images: later ones only read
                scale, shift = least_squares(_places(module, y).cpu(), self.targets[name])
                found[name] = (scale.to(y), shift.to(y))
            scale, shift = found[name]
            shape = [1] * y.dim()
            shape[_channel(module, y)] = -1
            return y * scale.view(shape) + shift.view(shape)

        with _hooks(analog, correct):
            outputs(analog, x, len(x))
            yield analog


def least_squares(y: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift per channel that take y nearest to target.

    Args:
        y, target: (values, channels).

    Returns:
        (channels,) each, float32, finite: 0 and the target's mean where a channel never changes.
    """
    a, b = y.double(), target.double()
    mean, wanted = a.mean(0), b.mean(0)
    spread = (a - mean).square().mean(0)
    scale = ((a - mean) * (b - wanted)).mean(0) / spread
    # what rounding alone makes of a constant channel is not a signal
    usable = scale.isfinite() & (spread > 1e-12 * a.square().mean(0))
    scale = torch.where(usable, scale, torch.zeros_like(scale))
    shift = wanted - torch.where(usable, scale * mean, torch.zeros_like(mean))
    return scale.float(), shift.float()


def _channel(module: nn.Module, y: Tensor) -> int:
    """Which dimension of a layer's output counts its channels: bit lines."""
    spatial = isinstance(module, CONVOLUTIONS)
    return 1 if spatial and y.dim() > 2 else y.dim() - 1


def _places(module: nn.Module, y: Tensor) -> Tensor:
    """Outputs (b, ...) as (values, channels), at most `PLACES` values per image."""
    rows = y.movedim(_channel(module, y), -1)
    rows = rows.reshape(len(y), -1, rows.shape[-1])
    if rows.shape[1] > PLACES:
        chosen = torch.arange(PLACES, device=y.device) * rows.shape[1] // PLACES
        rows = rows[:, chosen]
    return rows.reshape(-1, rows.shape[-1]).float()


@contextmanager
def _hooks(model: nn.Module, change: Any) -> Iterator[None]:
    """Context in which change(layer, module, output) replaces the output of each layer on arrays."""
    # a model that is one layer is called by its class there
    inner = model.original if isinstance(model, InPlace) else model
    modules = {base_of(inner).__name__: inner, **dict(inner.named_modules())}
    handles = []

    def hooked(name: str) -> Any:
        def hook(module: nn.Module, args: Any, y: Any) -> Any:
            if isinstance(y, Tensor):
                return change(name, module, y)
            return (
                change(name, module, y[0]),
                *y[1:],
            )  # attention and recurrent layers give more than outputs

        return hook

    try:
        for layer in layers(model):
            if layer.analog and layer.name in modules:
                handles.append(modules[layer.name].register_forward_hook(hooked(layer.name)))
        yield
    finally:
        for handle in handles:
            handle.remove()
