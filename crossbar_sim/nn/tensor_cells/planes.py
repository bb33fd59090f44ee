"""The planes of an array on tensors: `Hardware.effective_weight` and `hardware.slope` on the device of the weights.

The integer words, and what is decided by comparing them, are the core's bit for bit. Logarithm, sine and exponential
are torch's in float32: docs/randomness.md says how far conductances may differ from the CPU kernels'.
"""

import math

import torch
from torch import Tensor

from crossbar_sim.crossbar import drift as laws
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.mapping import Differential, Mapping
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.errors import InputError
from crossbar_sim.nn.tensor_cells import fused
from crossbar_sim.nn.tensor_cells.laws import drifted, programmed
from crossbar_sim.nn.tensor_cells.segments import Job
from crossbar_sim.nn.tensor_cells.stream import in_parts, normals, words
from crossbar_sim.rng import Key


def scale_of(mapping: Mapping, columns: Tensor) -> Tensor:
    """`mapping.scale` of a matrix (cols, rows) on its device: (1,) or (cols,) float32.

    Only the largest and the smallest weight of each column, and with a clip percentile all of them, are read back.

    Raises:
        InputError: as `Mapping.scale`.
    """
    small = columns.detach()
    if mapping.clip is None and columns.numel():
        small = torch.stack([small.amax(1), small.amin(1)], 1)
    return torch.from_numpy(mapping.scale(small.float().cpu().contiguous().numpy())).to(columns.device)


def has_double(device: torch.device) -> bool:
    """Whether the device computes in float64."""
    if device.type == "xpu":
        return bool(getattr(torch.xpu.get_device_properties(device), "has_fp64", False))
    return device.type != "mps"


def _double(x: Tensor) -> Tensor:
    """In float64, on the CPU where the device has none."""
    return (x if has_double(x.device) else x.cpu()).double()


def _inverse(mapping: Mapping, scale: Tensor) -> Tensor:
    """`mapping.inverse` on the device of `scale`."""
    return (1 / (_double(scale) * mapping.copies)).float().to(scale.device)


def _target(mapping: Mapping, w: Tensor, scale: Tensor, plane: int) -> Tensor:
    """Eq. (2) to (4) and (28): the targets of a chunk of weights w (n,), scale (1,) or (n,)."""
    sign = -1.0 if mapping.planes_per_copy == 2 and plane % 2 else 1.0
    if mapping.levels is None:
        return (w * (sign * scale)).add_(mapping.middle).clamp_(mapping.g_min, mapping.g_max)
    # Double precision and the rounding rule of the core: a tie rounded differently would be a whole step off.
    x = _double(w) * (_double(scale) * (sign / mapping.step))
    x = torch.maximum(x, x * (1 + 2**-23 + 2**-40)).add_(mapping.middle_level)
    level = x.add_(0.5).floor_().clamp_(0, mapping.levels - 1)
    low, step = mapping.g_min, mapping.step
    if mapping.cell_bits is None:
        low, step = _single(low), _single(step)
    else:
        digit = level.long() >> (mapping.slice_of(plane) * mapping.cell_bits)
        level, step = digit.bitwise_and_(2**mapping.cell_bits - 1).double(), mapping.cell_step
    return level.mul_(step).add_(low).float().clamp_(max=mapping.g_max).to(w.device)


def _single(x: float) -> float:
    """The nearest float32."""
    return float(torch.tensor(x, dtype=torch.float32))


def _cells(
    hardware: Hardware, w: Tensor, scale: Tensor, rows: int, key: Key, chip: int, plane: int, part: slice
) -> tuple[Tensor, Tensor | None]:
    """Cells `part` of a plane after drift, and which are healthy (None: all): both flat.

    Args:
        hardware: the design.
        w: the clean weights, flat; cells past them are those of the reference column.
        scale: (1,) or (cols,).
        rows: word lines.
        key, chip: as for `Hardware.effective_weight`.
        plane: its number.
        part: which cells; its start is a multiple of 256.
    """
    mapping, device, start, n = hardware.mapping, w.device, part.start, part.stop - part.start
    own = w[part]
    if scale.numel() > 1:
        scale = scale[torch.arange(start, start + own.numel(), device=device) // rows]
    g = _target(mapping, own, scale, plane)
    if own.numel() < n:
        middle = _target(mapping, torch.zeros(1, device=device), torch.ones(1, device=device), plane)
        g = torch.cat([g, middle.expand(n - own.numel())])
    healthy = None
    if hardware.programming is not None:
        z = normals(n, Stream.of(key.fold("programming"), chip, plane), device, start)
        g = programmed(hardware.programming, g, z, mapping.g_max)
    if hardware.stuck is not None:
        drawn = words(n, Stream.of(key.fold("stuck"), chip, plane), device, start)
        off, on = drawn < int(hardware.stuck.off * 2**32), drawn >= 2**32 - int(hardware.stuck.on * 2**32)
        g, healthy = g.masked_fill(on, mapping.g_max).masked_fill(off, mapping.g_min), ~(on | off)
    if hardware.drift is not None:
        g = drifted(hardware.drift, g, _drift_stream(hardware, key, chip, plane), start)
    return g, healthy


def _drift_stream(hardware: Hardware, key: Key, chip: int, plane: int) -> Stream:
    together = plane - plane % hardware.mapping.planes_per_weight
    return Stream.of(key.fold("drift"), chip, together if hardware.drift_per == "weight" else plane)


def _one_pass(hardware: Hardware, scale: Tensor) -> bool:
    """Whether a weight drifts as a number: one scale, g_min = 0, and only a drift that both cells share."""
    mapping = hardware.mapping
    return (
        isinstance(mapping, Differential)
        and type(hardware.drift) in (laws.LogNormalDrift, laws.RetentionDrift)
        and hardware.drift_per == "weight"
        and hardware.programming is hardware.stuck is mapping.levels is mapping.clip is None
        and (mapping.g_min, mapping.copies, scale.numel()) == (0.0, 1, 1)
    )


def check(hardware: Hardware) -> None:
    """Refuse designs that only the CPU can simulate.

    Raises:
        InputError: naming what is simulated on the CPU only.
    """
    if hardware.wires is not None:
        raise InputError("wires: simulated on the CPU only, use --device cpu")


def conductances(hardware: Hardware, columns: Tensor, key: Key, chip: int, scale: Tensor) -> Tensor:
    """Every plane of the array of `columns` (cols, rows) after drift: (planes, physical columns, rows) in S.

    Args:
        hardware, key, chip, scale: as `program`.

    Raises:
        InputError: for effects that only the CPU simulates.
    """
    check(hardware)
    mapping, w, rows = hardware.mapping, columns.detach().reshape(-1), columns.shape[1]
    n = w.numel() + (rows if mapping.planes_per_copy == 1 else 0)
    out = torch.empty(mapping.planes, n, device=w.device)
    for plane, own in enumerate(out):

        def piece(part: slice, plane: int = plane, own: Tensor = own) -> None:
            own[part] = _cells(hardware, w, scale, rows, key, chip, plane, part)[0]

        in_parts(n, w.device, piece)
    return out.view(mapping.planes, -1, rows)


def program(
    hardware: Hardware,
    columns: Tensor,
    key: Key,
    chip: int,
    scale: Tensor,
    out: Tensor,
    pending: list[Job] | None = None,
) -> None:
    """Write `Hardware.effective_weight` of `columns` (cols, rows) into `out`, of their shape, device and type.

    Args:
        hardware, columns, key, chip: as there; any floating type and any strides.
        scale: `scale_of` the columns.
        out: where to write; it may not overlap `columns`.
        pending: takes an array that a kernel will program together with others, by `fused.program_arrays`.

    Raises:
        InputError: for effects that only the CPU simulates.
    """
    check(hardware)
    if columns.is_contiguous() and out.is_contiguous():
        job = Job(hardware, columns, key, chip, scale, _inverse(hardware.mapping, scale), out)
        if fused.usable(job):
            if pending is None:
                fused.program_arrays([job])
            else:
                pending.append(job)
            return
    out.copy_(_plain(hardware, columns.float(), key, chip, scale))


def effective_weight(
    hardware: Hardware, columns: Tensor, key: Key, chip: int, scale: Tensor | None = None
) -> Tensor:
    """`Hardware.effective_weight` on the device of `columns` (cols, rows); `scale` and errors as for `program`."""
    columns = columns.detach().contiguous()
    out = torch.empty_like(columns)
    program(
        hardware, columns, key, chip, scale_of(hardware.mapping, columns) if scale is None else scale, out
    )
    return out


def _plain(hardware: Hardware, columns: Tensor, key: Key, chip: int, scale: Tensor) -> Tensor:
    """`program` by torch operations: float32."""
    mapping, w, rows = hardware.mapping, columns.reshape(-1), columns.shape[1]
    inverse, out = _inverse(mapping, scale), torch.empty_like(w)
    step, n, device = mapping.planes_per_copy, w.numel(), w.device
    one_pass = _one_pass(hardware, scale)
    references = []
    if step == 1:
        tail = slice(n // 256 * 256, n + rows)
        for plane in range(mapping.planes):
            references.append(_cells(hardware, w, scale, rows, key, chip, plane, tail)[0][n - tail.start :])

    def piece(part: slice) -> None:
        mine = out[part]
        if one_pass:
            assert hardware.drift is not None
            stream = _drift_stream(hardware, key, chip, 0)
            torch.mul(drifted(hardware.drift, w[part] * scale, stream, part.start), inverse, out=mine)
            return
        which = (
            torch.arange(part.start, part.stop, device=device) if step == 1 or inverse.numel() > 1 else None
        )
        for first in range(0, mapping.planes, step):
            g = _cells(hardware, w, scale, rows, key, chip, first, part)[0]
            if step == 2:
                g = g - _cells(hardware, w, scale, rows, key, chip, first + 1, part)[0]
            else:
                assert which is not None
                g = g - references[first][which % rows]
            if mapping.weighted:
                g.mul_(mapping.weight_of(first))
            mine.copy_(g) if first == 0 else mine.add_(g)
        mine.mul_(inverse if which is None or inverse.numel() == 1 else inverse[which // rows])

    in_parts(n, device, piece)
    return out.view(columns.shape)


def slope(hardware: Hardware, columns: Tensor, key: Key, chip: int, scale: Tensor | None = None) -> Tensor:
    """`crossbar.hardware.slope` on the device of `columns`, in their shape; arguments as `effective_weight`."""
    mapping, w, rows = hardware.mapping, columns.detach().reshape(-1), columns.shape[1]
    scale = scale_of(mapping, columns) if scale is None else scale
    out = torch.zeros_like(w)
    shares = [weight / math.fsum(mapping.slice_weights) for weight in mapping.slice_weights]
    law = hardware.drift if hardware.drift is not None and hardware.drift.multiplicative else None

    def factor(plane: int, part: slice) -> Tensor:
        moved = torch.ones(part.stop - part.start, device=w.device)
        if law is not None:
            moved = drifted(law, moved, _drift_stream(hardware, key, chip, plane), part.start)
        if hardware.stuck is not None:
            healthy = _cells(hardware, w, scale, rows, key, chip, plane, part)[1]
            assert healthy is not None
            moved = moved * healthy
        return moved

    def piece(part: slice) -> None:
        for first in range(0, mapping.planes, mapping.planes_per_copy):
            found = factor(first, part)
            if mapping.planes_per_copy == 2:  # the cell that carries the weight is the one of its sign
                found = torch.where(w[part] >= 0, found, factor(first + 1, part))
            out[part] += found * shares[mapping.slice_of(first)]

    in_parts(w.numel(), w.device, piece)
    limit = mapping.span * (mapping.g_max - mapping.g_min) / scale.reshape(-1, 1)
    return out.view(columns.shape) / mapping.copies * (columns.abs() <= limit * (1 + 1e-6))
