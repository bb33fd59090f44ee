"""Programming the arrays of a model: the Numba core on the CPU, its torch twin elsewhere."""

import torch
from torch import Tensor, nn

from crossbar_sim.crossbar.gradient import slope as core_slope
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.errors import InputError
from crossbar_sim.nn import twin
from crossbar_sim.nn.design import Design
from crossbar_sim.nn.slot import Slot


def check_finite(columns: Tensor, name: str) -> None:
    """Refuse weights that no conductance can stand for.

    Raises:
        InputError: naming the parameter and how many values are NaN or infinite.
    """
    if columns.numel() and not bool(torch.isfinite(columns.sum())) and not columns.isfinite().all():
        bad = int((~columns.isfinite()).sum())
        raise InputError(
            f"{name} holds {bad} NaN or infinite values of {columns.numel()}: train or export the model again"
        )


def program_into(
    design: Design,
    slot: Slot,
    module: nn.Module,
    weight: Tensor | None,
    bias: Tensor | None,
    state: tuple[object, ...],
) -> None:
    """Write the programmed weight (and bias row) of `slot` into preallocated buffers.

    Where the matrix is the weight's own memory, it is read and written in place, without a copy; what depends
    on the clean values alone (that they are finite, their scale) is looked up once per `state` of them.
    """
    assert weight is not None
    columns = slot.columns(module).detach()
    direct = (
        bias is None
        and design.maps is None
        and slot.layout.order in ("out_in", "vector")
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
    )
    if direct:
        w, out = columns.contiguous().numpy(), weight.view(columns.shape).numpy()
        scale = _scale(design, slot, state, columns, w)
        design.hardware.effective_weight(w, design.key(slot.name), design.chip, out, scale)
        return
    check_finite(columns, slot.name)
    programmed = program(design, slot.name, columns)
    for buffer, value in zip((weight, bias), slot.split(programmed), strict=True):
        if buffer is not None and value is not None:
            buffer.copy_(value)


def _scale(design: Design, slot: Slot, state: tuple[object, ...], columns: Tensor, w: Float32) -> Float32:
    """The mapping's scale of the clean matrix, kept as long as matrix and mapping are the same."""
    tag = (design.hardware.mapping, *state)
    known = slot.scale
    if known is None or known[0] != tag:
        check_finite(columns, slot.name)
        known = slot.scale = (tag, design.hardware.mapping.scale(w))
    return known[1]


def program(design: Design, name: str, columns: Tensor) -> Tensor:
    """The programmed matrix of `columns` (cols, rows), on its device, in its dtype."""
    key = design.key(name)
    if design.maps is not None:
        found = design.maps(name, columns.detach().float().cpu().contiguous().numpy())
        return columns.detach() if found is None else torch.from_numpy(found).to(columns)
    if columns.device.type != "cpu":
        return twin.effective_weight(design.hardware, columns.float(), key, design.chip).to(columns.dtype)
    w = columns.detach().float().contiguous().numpy()
    return torch.from_numpy(design.hardware.effective_weight(w, key, design.chip)).to(columns.dtype)


def gain(design: Design, name: str, columns: Tensor, trained: bool = True) -> tuple[Tensor, Tensor | None]:
    """The programmed matrix and, if `trained`, its derivative by each weight, both (cols, rows)."""
    key, detached = design.key(name), columns.detach()
    check_finite(detached, name)
    programmed = program(design, name, detached)
    if not trained:
        return programmed, None
    if design.maps is not None:  # a measured map has no derivative of its own: straight through
        return programmed, torch.ones_like(detached)
    if columns.device.type != "cpu":
        return programmed, twin.slope(design.hardware, detached.float(), key, design.chip).to(columns.dtype)
    w = detached.float().contiguous().numpy()
    return programmed, torch.from_numpy(core_slope(design.hardware, w, key, design.chip)).to(columns.dtype)
