"""Programming the arrays of a model: by Numba kernels on the CPU, or by the same formulas on tensors of any device."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.array import multiplying
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.hardware import slope as core_slope
from crossbar_sim.crossbar.readout import Periphery, Readout
from crossbar_sim.crossbar.remapping import remapped_planes, remapped_weight
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.errors import InputError
from crossbar_sim.nn.analog.state import AnalogState, ArraySlot, CellMaps
from crossbar_sim.nn.analog.tiled_arrays import Tiled
from crossbar_sim.nn.tensor_cells import planes as tensor_planes
from crossbar_sim.nn.tensor_tiles.readout import TensorReadout


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


class Columns:
    """A matrix (cols, rows) of any floating type and order in memory, for the simulator: float32, piece by piece.

    It behaves as its array of float32 where that is read in pieces, and becomes it where it is not.
    """

    def __init__(self, columns: Tensor) -> None:
        self.columns, self.shape, self.size = columns.detach(), tuple(columns.shape), columns.numel()

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        whole = self.columns.float().contiguous().numpy()
        return whole if dtype is None else whole.astype(dtype)

    def reshape(self, *_: int) -> "Columns":
        """Flat, as it is read."""
        return self

    def __getitem__(self, part: slice) -> Float32:
        rows, stop = self.shape[1], min(part.stop, self.size)
        first = part.start // rows
        whole = self.columns[first : -(-stop // rows)].float().reshape(-1)
        return whole[part.start - first * rows : stop - first * rows].contiguous().numpy()

    def max(self, axis: int | None = None) -> Any:
        """Of all, or of each column (axis 1)."""
        return (self.columns.amax() if axis is None else self.columns.amax(axis)).float().numpy()

    def min(self, axis: int | None = None) -> Any:
        """Of all, or of each column (axis 1)."""
        return (self.columns.amin() if axis is None else self.columns.amin(axis)).float().numpy()


def program_into(
    design: AnalogState,
    slot: ArraySlot,
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
    columns, hardware = slot.columns(module).detach(), design.of(slot.layer)
    if bias is None and design.maps is None and not design.remap and not design.on_tensors(weight):
        out, key, groups = slot.layout.columns(weight), design.key(slot.name), slot.layout.groups
        if slot.layout.order in ("out_in", "vector") and weight.dtype == torch.float32:
            w = columns.contiguous().numpy()
            scale = _scale(hardware, slot, state, columns, w)
            hardware.effective_weight(w, key, design.chip, out.numpy(), scale, groups)
            return
        if out.data_ptr() == weight.data_ptr() and columns.numel() and hardware.wires is None:
            wrapped: Any = Columns(columns)
            scale = _scale(hardware, slot, state, columns, wrapped)
            pieces = hardware.pieces(wrapped, scale, key, design.chip, groups)
            # of a transposed matrix as many columns as lie side by side in a line of the cache
            size = threads.CHUNK if columns.is_contiguous() else 256 * max(256, -(-columns.shape[1] // 8))
            threads.run(lambda part: _put(pieces, part, out), threads.chunks(columns.numel(), size))
            return
    by_tensors = design.on_tensors(weight) and hardware.wires is None
    if design.maps is not None or design.remap or not by_tensors:
        check_finite(columns, slot.name)
        write(slot, program(design, slot, columns, slot.layout.groups), weight, bias)
        return
    out = slot.layout.columns(weight)
    in_place = bias is None and out.data_ptr() == weight.data_ptr()
    to = out if in_place else torch.empty_like(columns, memory_format=torch.contiguous_format)
    own = _tensor_scale(hardware, slot, state, columns)
    pending = design.pending if in_place else None
    tensor_planes.program(hardware, columns, design.key(slot.name), design.chip, own, to, pending)
    if not in_place:
        write(slot, to, weight, bias)


def _put(pieces: Callable[[slice, Float32], None], part: slice, out: Tensor) -> None:
    """Write a piece of a programmed matrix into `out` (cols, rows), a view of a parameter in its own type."""
    piece, rows = np.empty(part.stop - part.start, np.float32), out.shape[1]
    pieces(part, piece)
    values = torch.from_numpy(piece)
    (col, row), n = divmod(part.start, rows), len(values)
    while n:  # the rest of a column, whole columns, and the beginning of one
        whole = 0 if row else n // rows
        count = whole * rows or min(rows - row, n)
        to = out[col : col + whole] if whole else out[col, row : row + count]
        to.copy_(values[len(values) - n :][:count].view(to.shape))
        (col, row), n = divmod(col * rows + row + count, rows), n - count


def write(slot: ArraySlot, programmed: Tensor, weight: Tensor | None, bias: Tensor | None) -> None:
    """Write a programmed matrix (cols, rows) into the buffers of its parameters."""
    for buffer, value in zip((weight, bias), slot.split(programmed), strict=True):
        if buffer is not None and value is not None:
            buffer.copy_(value)


def _scale(
    hardware: Hardware, slot: ArraySlot, state: tuple[object, ...], columns: Tensor, w: Float32
) -> Float32:
    """The mapping's scale of the clean matrix, kept as long as matrix and mapping are the same."""
    tag = (hardware.mapping, *state)
    known = slot.scale
    if known is None or known[0] != tag:
        check_finite(columns, slot.name)
        known = slot.scale = (tag, hardware.mapping.scale(w))
    return known[1]


def _tensor_scale(hardware: Hardware, slot: ArraySlot, state: tuple[object, ...], columns: Tensor) -> Tensor:
    """`_scale` on the device of the matrix, so that nothing of it is read back for the next chip."""
    tag = (hardware.mapping, columns.device, *state)
    known = slot.scale
    if known is None or known[0] != tag:
        check_finite(columns, slot.name)
        known = slot.scale = (tag, tensor_planes.scale_of(hardware.mapping, columns))
    found: Tensor = known[1]
    return found


def program(design: AnalogState, slot: ArraySlot, columns: Tensor, groups: int = 1) -> Tensor:
    """The programmed matrix of `columns` (groups cols, rows), on its device, in its dtype."""
    name, key, hardware = slot.name, design.key(slot.name), design.of(slot.layer)
    if design.maps is not None:
        w = columns.detach().float().cpu().contiguous().numpy()
        found = design.maps(name, w, groups) if isinstance(design.maps, CellMaps) else design.maps(name, w)
        return columns.detach() if found is None else torch.from_numpy(found).to(columns)
    if design.remap:
        placed = remapped_weight(
            hardware, columns.detach().float().cpu().contiguous().numpy(), key, design.chip, groups
        )
        return torch.from_numpy(placed).to(columns)
    if design.on_tensors(columns) and hardware.wires is None:
        return tensor_planes.effective_weight(hardware, columns, key, design.chip)
    w = columns.detach().float().cpu().contiguous().numpy()
    effective = hardware.effective_weight(w, key, design.chip, groups=groups)
    return torch.from_numpy(effective).to(columns)


def gain(
    design: AnalogState, slot: ArraySlot, columns: Tensor, trained: bool = True, groups: int = 1
) -> tuple[Tensor, Tensor | None]:
    """The programmed matrix and, if `trained`, its derivative by each weight, both (cols, rows)."""
    key, detached = design.key(slot.name), columns.detach()
    if not trained or detached.device.type == "cpu":  # a training's loss says it, and a GPU would be stalled
        check_finite(detached, slot.name)
    programmed = program(design, slot, detached, groups)
    if not trained:
        return programmed, None
    if design.maps is not None or design.remap:  # neither has a derivative of its own: straight through
        return programmed, torch.ones_like(detached)
    hardware = design.of(slot.layer)
    if design.on_tensors(columns):
        return programmed, tensor_planes.slope(hardware, detached.float(), key, design.chip).to(columns.dtype)
    w = detached.float().contiguous().numpy()
    return programmed, torch.from_numpy(core_slope(hardware, w, key, design.chip)).to(columns.dtype)


def tiled_of(design: AnalogState, slot: ArraySlot, module: nn.Module) -> Tiled:
    """The array of `slot` with its converters on the present chip, one block for each group.

    Raises:
        InputError: for maps that give weights and no conductances.
    """
    hardware, key, chip, maps = design.of(slot.layer), design.key(slot.name), design.chip, design.maps
    if maps is not None and not isinstance(maps, CellMaps):
        raise InputError(
            f"{slot.name}: maps that give weights are read linearly for now: leave out dac, adc and read_noise, or "
            "read the conductances from a chip file"
        )
    columns = slot.columns(module).detach()
    check_finite(columns, slot.name)
    groups, cols = slot.layout.groups, slot.layout.cols
    mapping, tile_rows = hardware.mapping, hardware.tile[0]
    if design.on_tensors(columns) and maps is None and not design.remap and hardware.wires is None:
        clean = columns.float()
        there = tensor_planes.scale_of(mapping, clean)
        g, scale = tensor_planes.conductances(hardware, clean, key, chip, there), there.cpu().numpy()
    else:
        w = columns.float().cpu().contiguous().numpy()
        if maps is not None:
            planes, mapping, scale, tile_rows, key, chip = maps.array(slot.name, w, groups, design)
        else:
            scale = mapping.scale(w)
            placed = remapped_planes if design.remap else multiplying
            planes = placed(hardware, w, scale, key, chip, groups)
        g = torch.from_numpy(planes).to(columns.device)
    periphery = Periphery.of(hardware, key, chip)

    def numbers(group: int) -> tuple[Tensor, tuple[Any, ...]]:
        """The conductances (planes, rows, physical columns) of a group, and what a readout of them needs."""
        own = slice(group * cols, (group + 1) * cols)
        part = torch.cat([g[:, own], g[:, -1:]], dim=1) if mapping.planes_per_copy == 1 else g[:, own]
        of_block = scale if scale.size == 1 else scale[own]
        around = (mapping, of_block, tile_rows, periphery, own.start, group, groups * cols)
        return part.transpose(1, 2).contiguous(), around

    found = [numbers(group) for group in range(groups)]
    if design.on_tensors(columns):
        return Tiled(slot, design, tuple(TensorReadout(part, *around) for part, around in found))
    return Tiled(slot, design, tuple(Readout(part.numpy(), *around) for part, around in found))
