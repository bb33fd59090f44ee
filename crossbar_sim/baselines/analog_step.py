"""Gradient steps through simulated arrays: hardware-aware training for any design."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from crossbar_sim.baselines.training_chips import numbers
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.overrides import at_sigma
from crossbar_sim.nn.chips import set_chip, set_hardware
from crossbar_sim.nn.convert import to_analog
from crossbar_sim.nn.detection_task import task_loss
from crossbar_sim.rng import Key


class AnalogStep:
    """A `Step` on fresh chips of a design, one after the other; see `to_analog` for what the gradient is.

    Args:
        hardware: the design.
        sigmas: gives each chip's sigma, as in `DriftedStep`; None: the design as it is.
        chips: per step.
        layers: as in `DriftedStep`.
        key: its seed and names tell training chips from all others.
    """

    def __init__(
        self,
        hardware: Hardware,
        sigmas: Callable[[float, int], Sequence[float]] | None,
        chips: int,
        layers: int,
        key: Key,
    ) -> None:
        self.hardware, self.sigmas, self.chips, self.layers = hardware, sigmas, chips, layers
        self.seed = key.fold("training chips").integer()
        self._of: tuple[nn.Module, torch.device, nn.Module] | None = None

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, share: float) -> Tensor:
        """See `Step`."""
        analog = self._analog(model).train()
        chips = min(self.chips, len(x))
        sigmas = None if self.sigmas is None else self.sigmas(share, chips)
        total = torch.zeros((), device=x.device)
        parts = zip(x.tensor_split(chips), y.tensor_split(chips), numbers(chips), strict=True)
        for i, (images, labels, chip) in enumerate(parts):
            temperature = 1.0
            if sigmas is not None:
                set_hardware(analog, at_sigma(self.hardware, sigmas[i]))
                temperature = math.exp(-self.layers * sigmas[i] ** 2 / 2)
            set_chip(analog, chip)
            loss = task_loss(analog, images, labels, temperature) * (len(images) / len(x))
            loss.backward()
            total += loss.detach()
        return total

    def _analog(self, model: nn.Module) -> nn.Module:
        """The model on arrays, which shares its parameters and buffers; made once per model and device."""
        device = next(model.parameters()).device
        if self._of is None or self._of[0] is not model or self._of[1] != device:
            hardware = self.hardware if self.sigmas is None else at_sigma(self.hardware, 0.0)
            self._of = (model, device, to_analog(model, hardware, self.seed))
        return self._of[2]
