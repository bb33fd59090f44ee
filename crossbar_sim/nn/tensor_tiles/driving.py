"""DACs on tensors: `crossbar.converters.drive` for any device."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossbar_sim.crossbar.converters import DAC, NOTHING, DrivenInputs, LayerRange, fixed_range
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.errors import InputError
from crossbar_sim.nn.tensor_cells.planes import has_double

# Eq. (18) to (20) of docs/periphery.md. Codes are exactly those of the CPU's kernel wherever the device has float64.


class Driven(NamedTuple):
    """The word-line voltages of one product, on tensors; see `DrivenInputs`.

    Args:
        codes: word-line voltages in units of 1 V / full_scale, float32 of shape (reads, b, ...).
        weights: what each of them counts for, (reads,).
        full_scale: the code that is driven at 1 V; 1 without a DAC.
        unit: units of the input per code, (b,) or (1,).
    """

    codes: Tensor
    weights: Float32
    full_scale: float
    unit: Tensor

    @classmethod
    def of(cls, inputs: DrivenInputs) -> "Driven":
        """The same memory as tensors."""
        return cls(
            torch.from_numpy(inputs.codes), inputs.weights, inputs.full_scale, torch.from_numpy(inputs.unit)
        )

    def arrays(self) -> DrivenInputs:
        """As arrays: the same memory, or a copy from another device."""
        codes, unit = self.codes.cpu().contiguous().numpy(), self.unit.cpu().numpy()
        return DrivenInputs(codes, self.weights, self.full_scale, unit)


def wide(device: torch.device) -> torch.dtype:
    """The precision in which a converter's quotient is computed: float64, where the device has it."""
    return torch.float64 if has_double(device) else torch.float32


def check_inputs(largest: Tensor) -> None:
    """Refuse inputs if `largest`, their largest magnitudes, hold NaN or infinite values: clipped codes would hide it.

    Raises:
        InputError: if one is.
    """
    if not bool(torch.isfinite(largest).all()):
        raise InputError("inputs hold NaN or infinite values")


def drive(x: Tensor, dac: DAC | None, calibrated: LayerRange | None, name: str) -> Driven:
    """Eq. (18) to (20).

    Args:
        x: inputs (b, n), float32.
        dac: None: the inputs themselves, one unit is one volt.
        calibrated: the layer's ranges, needed where the DAC's range is "calibrated".
        name: of the array, for errors.

    Raises:
        InputError: if the range was not calibrated, or the inputs hold NaN or infinite values.
    """
    one = torch.ones(1, device=x.device)
    found = x.abs().amax(dim=1) if x.numel() else x.new_zeros(len(x))
    check_inputs(found)
    if dac is None:
        return Driven(x[None], np.ones(1, np.float32), 1.0, one)
    fixed = fixed_range(dac, calibrated, name)
    largest = one * fixed if fixed is not None else torch.where(found > float(NOTHING), found, one)
    top = 1.0 if dac.bits is None else float(dac.top)
    full = largest.reshape(-1, 1)
    if dac.bits is None:
        codes = (x * (top / full)).clamp_(-top, top)
    else:
        codes = (x.to(wide(x.device)) * top).div_(full).round_().clamp_(-top, top).float()
    weights = np.outer([1.0, -1.0][: dac.phases], dac.base ** np.arange(dac.slices)).reshape(-1)
    return Driven(_reads(codes, dac), weights.astype(np.float32), float(dac.full_scale), largest / top)


def _reads(codes: Tensor, dac: DAC) -> Tensor:
    """Codes (b, n) as the digits of each phase, least significant first: (phases slices, b, n)."""
    phases = [codes] if dac.phases == 1 else [codes.clamp(min=0), (-codes).clamp(min=0)]
    if dac.slices == 1:
        return torch.stack(phases) if len(phases) > 1 else codes[None]
    digits = []
    for phase in phases:
        left = phase.abs()
        for _ in range(dac.slices):
            rest = torch.floor(left / dac.base)
            digits.append(torch.copysign(left - rest * dac.base, phase))
            left = rest
    return torch.stack(digits)


def flat(x: Tensor) -> Tensor:
    """The axes (b, ...) as (b, n), also for b = 0."""
    return x.reshape(len(x), math.prod(x.shape[1:]))
