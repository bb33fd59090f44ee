"""Gradient steps through simulated arrays: hardware-aware training for any design."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from crossbar_sim.baselines.training_chips import numbers
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.overrides import at_sigma
from crossbar_sim.errors import warn
from crossbar_sim.nn.chips import layers, set_chip, set_hardware
from crossbar_sim.nn.detection_task import task_loss
from crossbar_sim.nn.matrices import matrices
from crossbar_sim.nn.operands import mapped
from crossbar_sim.nn.unmapped import Operands
from crossbar_sim.rng import Key
from crossbar_sim.robustness.cautions import of_operands


def as_deployed(
    model: nn.Module, hardware: Hardware, x: Tensor, seed: int, chip: int = 0
) -> tuple[nn.Module, Operands | None]:
    """The model on arrays as an evaluation maps it, for training: the same layers are on arrays in both.

    The model runs in evaluation mode and keeps its mode, and no random number of the training is used.

    Args:
        model: clean; its parameters are shared.
        hardware, seed, chip: see `to_analog`.
        x: inputs (n, ...), of which the first few are run.

    Returns:
        The analog model, and what its forward does with its parameters, as `nn.operands.mapped` gives them.

    Warns:
        CrossbarWarning: of what the design asks for and cannot act, and of weights that stay digital although
            their kind of layer multiplies with them.

    Raises:
        InputError: as `mapped`.
    """
    modes = [(module, module.training) for module in model.modules()]
    # The loop keeps all parameters in one memory, and operands are told apart by theirs.
    shared = [(p, p.data) for p in model.parameters() if p.untyped_storage().nbytes() != p.nbytes]
    cuda = [x.device] if x.device.type == "cuda" else []
    try:
        for p, values in shared:
            p.data = values.clone()
        with torch.random.fork_rng(devices=cuda), torch.autocast(x.device.type, enabled=False):
            analog, seen = mapped(model.eval(), hardware, x, seed, chip)
    finally:
        for module, training in modes:
            module.training = training
        for p, values in shared:
            p.data = values
    warn(of_operands(layers(analog), seen))
    return analog, seen


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
        self._of: tuple[nn.Module, torch.device, nn.Module, int] | None = None

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, share: float) -> Tensor:
        """See `Step`."""
        analog, layers = self._analog(model, x)
        analog.train()
        chips = min(self.chips, len(x))
        sigmas = None if self.sigmas is None else self.sigmas(share, chips)
        total = torch.zeros((), device=x.device)
        parts = zip(x.tensor_split(chips), y.tensor_split(chips), numbers(chips), strict=True)
        for i, (images, labels, chip) in enumerate(parts):
            temperature = 1.0
            if sigmas is not None:
                set_hardware(analog, at_sigma(self.hardware, sigmas[i]))
                temperature = math.exp(-layers * sigmas[i] ** 2 / 2)
            set_chip(analog, chip)
            loss = task_loss(analog, images, labels, temperature) * (len(images) / len(x))
            loss.backward()
            total += loss.detach()
        return total

    def _analog(self, model: nn.Module, x: Tensor) -> tuple[nn.Module, int]:
        """The model on arrays, which shares its parameters and buffers, and how many weight layers a signal passes.

        Made once per model and device.
        """
        device = next(model.parameters()).device
        if self._of is None or self._of[0] is not model or self._of[1] != device:
            hardware = self.hardware if self.sigmas is None else at_sigma(self.hardware, 0.0)
            analog, _ = as_deployed(model, hardware, x, self.seed)
            self._of = (model, device, analog, max(0, self.layers - _digital(model, analog)))
        return self._of[2:]


def _digital(model: nn.Module, analog: nn.Module) -> int:
    """How many layers with a weight matrix by their class are on no array."""
    holders = dict(model.named_modules())
    found = [holders.get(layer.name, model) for layer in layers(analog) if not layer.analog]
    return sum(1 for module in found if matrices(module))
