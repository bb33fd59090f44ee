"""What a DAC makes of inputs: Eq. (18) to (20) of docs/periphery.md."""

import math
from typing import Any, NamedTuple

import numpy as np

from crossbar_sim.crossbar.checks import SINGLE, check_inputs
from crossbar_sim.crossbar.converters import DAC
from crossbar_sim.crossbar.philox import f32, inlined, kernel
from crossbar_sim.crossbar.ranges import LayerRange
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.errors import InputError

_NOTHING = np.float32(1 / SINGLE)
"""Inputs up to this large are driven as 0: a code for each would leave single precision."""


class Driven(NamedTuple):
    """What one product drives.

    Args:
        codes: word-line voltages in units of 1 V / full_scale, shape (reads, b, ...).
        weights: what each of them counts for, (reads,).
        full_scale: the code that is driven at 1 V; 1 without a DAC.
        unit: units of the input per code, (b,) or (1,).
    """

    codes: Float32
    weights: Float32
    full_scale: float
    unit: Float32


def drive(x: Float32, dac: DAC | None, calibrated: LayerRange | None, name: str) -> Driven:
    """Eq. (18) to (20).

    Args:
        x: inputs (b, ...), C-contiguous.
        dac: None: the inputs themselves, one unit is one volt.
        calibrated: the layer's ranges, needed where the DAC's range is "calibrated".
        name: of the array, for errors.

    Raises:
        InputError: if the range was not calibrated, or the inputs hold NaN or infinite values.
    """
    if dac is None:  # the product checks its inputs
        return Driven(x[None], np.ones(1, np.float32), 1.0, np.ones(1, np.float32))
    check_inputs(x)  # codes would not show it: they are clipped
    top = 1.0 if dac.bits is None else float(dac.top)
    largest = full_scale_inputs(x, dac, calibrated, name)
    unit = largest / np.float32(top)
    reads = dac.phases * dac.slices
    codes = np.empty((reads, *x.shape), np.float32)
    base = 2.0 if dac.slice_bits is None else 2.0**dac.slice_bits
    flat = _flat(x)
    split = codes.reshape(reads, *flat.shape)
    _codes(flat, largest, f32(top), dac.bits is not None, dac.phases, f32(base), split)
    weights = np.outer([1.0, -1.0][: dac.phases], base ** np.arange(dac.slices))
    return Driven(codes, weights.reshape(-1).astype(np.float32), float(dac.full_scale), unit)


@inlined
def _code(x: Any, full: Any, top: Any, rounded: Any) -> Any:
    """Eq. (18): double precision, in which what lies half-way between two codes is seen to be just that."""
    if rounded:
        return f32(min(max(np.rint(np.float64(x) * np.float64(top) / np.float64(full)), -top), top))
    return min(max(f32(x * f32(top / full)), -top), top)


@kernel
def _codes(x: Any, largest: Any, top: Any, rounded: Any, phases: Any, base: Any, out: Any) -> None:
    """Eq. (18) to (20): out (phases slices, b, m) holds the digits of each phase, least significant first."""
    slices = out.shape[0] // phases
    for b in range(x.shape[0]):
        full = largest[b] if largest.size > 1 else largest[0]
        if phases == 1 and slices == 1:
            for i in range(x.shape[1]):
                out[0, b, i] = _code(x[b, i], full, top, rounded)
            continue
        for i in range(x.shape[1]):
            code = _code(x[b, i], full, top, rounded)
            for phase in range(phases):
                sign = f32(1.0) if phase == 0 else f32(-1.0)
                left = f32(sign * code) if phases == 2 else code
                left = max(left, f32(0.0)) if phases == 2 else left
                if slices == 1:
                    out[phase, b, i] = left
                    continue
                negative = left < f32(0.0)
                left = abs(left)
                for k in range(slices):
                    rest = f32(np.floor(f32(left / base)))
                    digit = f32(left - f32(rest * base))
                    out[phase * slices + k, b, i] = -digit if negative else digit
                    left = rest


def _flat(x: Float32) -> Float32:
    """(b, whatever an example holds), also of no examples."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


def full_scale_inputs(x: Float32, dac: DAC, calibrated: LayerRange | None, name: str) -> Float32:
    """The input driven at full scale: (b,) where each example has its own, else (1,)."""
    if dac.range == "dynamic":
        flat = _flat(x)
        largest = np.maximum(flat.max(axis=1, initial=0), -flat.min(axis=1, initial=0))
        return np.where(largest > _NOTHING, largest, np.float32(1))
    if dac.range == "calibrated":
        if calibrated is None or calibrated.input is None:
            raise InputError(not_calibrated(name, "dac"))
        return np.array([calibrated.input], np.float32)
    return np.array([dac.range], np.float32)


def not_calibrated(name: str, part: str) -> str:
    """The sentence for a range that nobody has chosen."""
    return (
        f"{name}: {part}.range='calibrated' needs ranges from data: run `crossbar-sim calibrate`, call "
        f"nn.calibrate_ranges(model, hardware, x), or give {part}.range as a number"
    )
