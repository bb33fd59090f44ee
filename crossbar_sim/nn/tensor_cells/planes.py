"""The planes of an array on tensors: `Hardware.effective_weight` and `hardware.slope` on the device of the weights.

The integer words are the core's bit for bit. Logarithms, cosines and exponentials are torch's, in float64, so
conductances agree with the CPU kernels to the last float32 places (tested on the CPU: relative 5e-7 for the
log-normal law).
"""

import numpy as np
import torch
from torch import Tensor

from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.mapping import Mapping
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.errors import InputError
from crossbar_sim.nn.tensor_cells.laws import drift, program
from crossbar_sim.nn.tensor_cells.stream import normals, words
from crossbar_sim.rng import Key


def _target(mapping: Mapping, columns: Tensor, scale: Tensor, sign: float) -> Tensor:
    """Eq. (2) to (4): the plane's targets, flat; the reference column is appended by the caller."""
    if mapping.levels is None:
        g = mapping.middle + sign * scale.reshape(-1, 1) * columns
        return g.clamp(mapping.g_min, mapping.g_max).reshape(-1)
    # Double precision and the rounding rule of the core: a tie rounded differently would be a whole step off.
    x = columns.double() * (scale.double() * (sign / mapping.step)).reshape(-1, 1)
    x = mapping.middle_level + torch.maximum(x, x * (1 + 2**-23 + 2**-40))
    level = torch.floor(x + 0.5).clamp(0, mapping.levels - 1)
    low, step = float(np.float32(mapping.g_min)), float(np.float32(mapping.step))
    return (level * step + low).float().clamp(max=mapping.g_max).reshape(-1)


def _scale(mapping: Mapping, columns: Tensor) -> Tensor:
    """Eq. (1), computed by the core."""
    scale = mapping.scale(columns.detach().cpu().contiguous().numpy())
    return torch.from_numpy(scale).to(columns.device)


def _planes(
    hardware: Hardware, columns: Tensor, scale: Tensor, key: Key, chip: int, plane: int
) -> tuple[Tensor, Tensor, Tensor]:
    """One plane after drift, its healthy cells, and the drift factor of each cell: flat."""
    mapping, device = hardware.mapping, columns.device
    sign = -1.0 if mapping.planes_per_copy == 2 and plane % 2 else 1.0
    g = _target(mapping, columns, scale, sign)
    if mapping.planes_per_copy == 1:
        zeros = torch.zeros(1, columns.shape[1], device=device)
        g = torch.cat([g, _target(mapping, zeros, scale[:1], 1.0)])
    n = g.numel()
    healthy = torch.ones(n, dtype=torch.bool, device=device)
    if hardware.programming is not None:
        z = normals(n, Stream.of(key.fold("programming"), chip, plane), device)
        g = program(hardware.programming, g, z, mapping.g_max)
    if hardware.stuck is not None:
        w = words(n, Stream.of(key.fold("stuck"), chip, plane), device)
        off, on = w < int(hardware.stuck.off * 2**32), w >= 2**32 - int(hardware.stuck.on * 2**32)
        g = torch.where(on, torch.full_like(g, mapping.g_max), g)
        g, healthy = torch.where(off, torch.full_like(g, mapping.g_min), g), ~(on | off)
    factor = torch.ones(n, device=device)
    if hardware.drift is not None:
        together = plane - plane % mapping.planes_per_copy if hardware.drift_per == "weight" else plane
        stream = Stream.of(key.fold("drift"), chip, together)
        g = drift(hardware.drift, g, stream)
        if hardware.drift.multiplicative:
            factor = drift(hardware.drift, factor, stream)
    return g, healthy, factor


def check(hardware: Hardware) -> None:
    """Refuse designs that only the CPU can simulate.

    Raises:
        InputError: naming what is simulated on the CPU only.
    """
    alone = ["wires"] * (hardware.wires is not None)
    alone += ["cell_bits"] * (hardware.mapping.cell_bits is not None)
    if alone:
        raise InputError(f"{', '.join(alone)}: simulated on the CPU only, use --device cpu")


def effective_weight(hardware: Hardware, columns: Tensor, key: Key, chip: int) -> Tensor:
    """`Hardware.effective_weight` on the device of `columns` (cols, rows) float32.

    Raises:
        InputError: for effects that only the CPU simulates.
    """
    check(hardware)
    mapping = hardware.mapping
    scale = _scale(mapping, columns)
    total = torch.zeros_like(columns)
    for first in range(0, mapping.planes, mapping.planes_per_copy):
        g = _planes(hardware, columns, scale, key, chip, first)[0]
        if mapping.planes_per_copy == 2:
            minus = _planes(hardware, columns, scale, key, chip, first + 1)[0]
            total += (g - minus).reshape(columns.shape)
        else:
            total += g[: columns.numel()].reshape(columns.shape) - g[columns.numel() :]
    return total / (scale.reshape(-1, 1) * mapping.copies)


def slope(hardware: Hardware, columns: Tensor, key: Key, chip: int) -> Tensor:
    """`crossbar.hardware.slope` on the device of `columns`, in their shape."""
    mapping = hardware.mapping
    scale = _scale(mapping, columns)
    total = torch.zeros(columns.numel(), device=columns.device)
    for first in range(0, mapping.planes, mapping.planes_per_copy):
        parts = []
        for plane in range(first, first + mapping.planes_per_copy):
            _, healthy, factor = _planes(hardware, columns, scale, key, chip, plane)
            parts.append((factor * healthy)[: columns.numel()])
        total += torch.where(columns.reshape(-1) >= 0, parts[0], parts[-1])
    limit = mapping.span * (mapping.g_max - mapping.g_min) / scale.reshape(-1, 1)
    return total.reshape(columns.shape) / mapping.copies * (columns.abs() <= limit * (1 + 1e-6))
