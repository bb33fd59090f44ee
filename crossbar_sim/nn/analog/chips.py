"""Operations on analog models: change the chip or the design, select layers, remap arrays around stuck cells."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from crossbar_sim import memory
from crossbar_sim.crossbar.hardware import Hardware, square
from crossbar_sim.crossbar.layer_designs import Design, LayerDesigns, as_design, design_at, designs_of
from crossbar_sim.crossbar.remapping import remap_chip
from crossbar_sim.errors import InputError
from crossbar_sim.nn import device as devices
from crossbar_sim.nn.analog.layers import arrays_of
from crossbar_sim.nn.analog.state import AnalogState, ArraySlot, Layer
from crossbar_sim.nn.tensor_cells.fused import program_arrays
from crossbar_sim.nn.tensor_cells.segments import Job


def analog_state(model: nn.Module) -> AnalogState:
    """What the analog layers of the model share.

    Raises:
        InputError: if the model is not analog, or was put together from several analog models.
    """
    found = _designs(model)
    if len(found) > 1:
        raise InputError(
            f"{type(model).__name__} holds layers of {len(found)} analog models: handle each by itself, or put "
            "the clean models together and call to_analog once"
        )
    for shared in found:
        return shared
    raise InputError(f"{type(model).__name__} is not analog: make it so with to_analog(model, hardware)")


def _designs(model: nn.Module) -> list[AnalogState]:
    found = (arrays_of(module) for module in model.modules())
    return list({id(arrays.design): arrays.design for arrays in found if arrays is not None}.values())


def layers(model: nn.Module) -> tuple[Layer, ...]:
    """The mapping of every layer with parameters, in the model's order."""
    return analog_state(model).layers


def set_chip(model: nn.Module, chip: int) -> None:
    """Reprogram the model to another chip; the buffers of its arrays are reused."""
    analog_state(model).set_chip(chip)


def set_hardware(model: nn.Module, hardware: Design | Mapping[str, Any]) -> None:
    """Reprogram the model with another design of the same bias, normalisation and other.

    Raises:
        InputError: if those differ, or other layers are digital by their design: that decides which parameters have
            arrays at all.
    """
    shared, hardware = analog_state(model), as_design(hardware)
    check_same_mapping(shared, hardware, "call to_analog again")
    shared.set_hardware(hardware)


def check_same_mapping(shared: AnalogState, hardware: Design, remedy: str) -> None:
    """Refuse a design with which other parameters would be on arrays.

    Raises:
        InputError: naming the choice, and the layer where designs differ by layer.
    """
    if isinstance(hardware, LayerDesigns):
        hardware.check([layer.name for layer in shared.layers])
    plain = isinstance(shared.hardware, Hardware) and isinstance(hardware, Hardware)
    for layer in ("",) if plain else [layer.name for layer in shared.layers]:
        before, after = design_at(shared.hardware, layer), design_at(hardware, layer)
        of = "" if plain else f"{layer}: "
        if (before is None) != (after is None):
            kinds = ["digital" if each is None else "on arrays" for each in (after, before)]
            raise InputError(f"{of}{kinds[0]} where the model was mapped with it {kinds[1]}: {remedy}")
        for name in ("bias", "normalisation", "other") if before is not None else ():
            old, new = getattr(before, name), getattr(after, name)
            if old != new:
                raise InputError(f"{of}{name}={new!r} where the model was mapped with {old!r}: {remedy}")


def slots(model: nn.Module) -> Iterator[tuple[ArraySlot, nn.Module]]:
    """Every array of the model with the layer that holds it."""
    for module in model.modules():
        arrays = arrays_of(module)
        for slot in () if arrays is None else dict.fromkeys(arrays.slots.values()):
            yield slot, module


def program(model: nn.Module) -> None:
    """Program every active array now instead of at its first read, those that kernels of a GPU program together.

    Raises:
        InputError: if weights are not finite.
        MemoryError: if a GPU's memory is full.
    """
    pending: list[Job] = []
    found = _designs(model)
    try:
        with _setting(found, "pending", pending):
            for slot, module in slots(model):
                arrays = arrays_of(module)
                assert arrays is not None
                if not slot.ideal and arrays.design.runs(slot.layer):
                    arrays.refresh(module, slot)
        program_arrays(pending)
    except BaseException as error:
        for shared in (
            found if pending else ()
        ):  # those arrays are taken for programmed, and have not been written
            shared.generation += 1
        if isinstance(error, torch.OutOfMemoryError):
            raise MemoryError(str(error)) from error
        raise


# Memory: arrays whose weights do not fit are programmed for each use. A chip is a function of names, so that the next
# use draws the same numbers again.


def fit_memory(model: nn.Module) -> None:
    """Have arrays programmed for each use if the weights of a chip take more than `memory.room`, the largest first."""
    shared, device = analog_state(model), next((p.device for p in model.parameters()), None)
    sizes: dict[str, int] = {}
    for slot, module in slots(model):
        if not slot.ideal and not slot.on_meta(module):
            sizes[slot.name] = sizes.get(slot.name, 0) + _size(shared, slot, module)
    free = None if device is None else devices.free_memory(device)
    left = memory.room(sum(sizes.values()), free)
    kept = set()
    for name in sorted(sizes, key=lambda name: sizes[name]):
        left -= sizes[name]
        if left >= 0:
            kept.add(name)
    shared.streamed = frozenset(sizes.keys() - kept)


def _size(shared: AnalogState, slot: ArraySlot, module: nn.Module) -> int:
    """Bytes of an array while it is programmed."""
    held = slot.size(module)
    if not shared.tiled(slot):
        return held
    mapping = shared.of(slot.layer).mapping
    columns = slot.layout.groups * slot.layout.cols + (mapping.planes_per_copy == 1)
    return held + 4 * mapping.planes * slot.rows * columns


def memory_notes(model: nn.Module, before: tuple[str, ...] = ()) -> tuple[str, ...]:
    """A sentence on arrays that are programmed for each use, if there are any, or were `before` a calibration."""
    shared = analog_state(model)
    if not shared.streamed:
        return before and (
            "all weights of a chip are kept in memory, although they are more than the memory for them (--memory): "
            "corrections of low rank are fitted in many passes",
        )
    size = sum(_size(shared, slot, module) for slot, module in slots(model) if not slot.ideal)
    shown = f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
    return (
        f"the weights of a chip take {shown}, more than the memory for them (--memory): the largest arrays "
        "are programmed for each use, which changes no number and takes longer",
    )


def keep_arrays(model: nn.Module) -> None:
    """Keep all arrays programmed, whatever memory that takes."""
    analog_state(model).streamed = frozenset()


@contextmanager
def _setting(found: list[AnalogState], field: str, value: object) -> Iterator[None]:
    """Context in which `field` of every state is `value`."""
    before = [getattr(shared, field) for shared in found]
    for shared in found:
        setattr(shared, field, value)
    try:
        yield
    finally:
        for shared, old in zip(found, before, strict=True):
            setattr(shared, field, old)


def only_layers(model: nn.Module, names: Iterable[str] | None) -> AbstractContextManager[None]:
    """Context in which only the named layers are on their arrays (None: all); nothing is reprogrammed."""
    return _setting([analog_state(model)], "active", None if names is None else frozenset(names))


def frozen(model: nn.Module) -> AbstractContextManager[None]:
    """Context in which the clean parameters do not change, so that they are checked only once for many chips."""
    program(model)
    return _setting([analog_state(model)], "frozen", True)


@contextmanager
def locked(model: nn.Module) -> Iterator[None]:
    """Program an analog model, and keep it unchanged in this context: threads may share it for inference."""
    program(model)
    found = _designs(model)
    for shared in found:
        shared.held.clear()  # reads skip the check for stale arrays from here on
    try:
        with _setting(found, "locked", True):
            yield
    finally:
        for shared in found:
            shared.held.clear()


def remap_arrays(model: nn.Module) -> None:
    """Place every array around the stuck cells of its chip from now on (`crossbar.remapping`).

    Args:
        model: analog; arrays are rewritten when they are next read.

    Raises:
        InputError: if its conductances come from a file.
    """
    shared = analog_state(model)
    if shared.maps is not None:
        raise InputError(
            "conductances from a file cannot be remapped: each belongs to the cell where it was measured"
        )
    shared.remap, shared.generation = True, shared.generation + 1


def remap_errors(model: nn.Module) -> dict[str, dict[str, float]]:
    """Relative error of each layer's weights by the stuck cells of the present chip, before and after remapping.

    Returns:
        {layer: {"before": error, "after": error}}, |W' - W| / |W| (Frobenius), by stuck cells alone; "*" is
        all layers.
    """
    shared = analog_state(model)
    squares: dict[str, list[float]] = {}
    for slot, module in slots(model):
        if slot.ideal:
            continue
        columns = slot.columns(module).detach().float().cpu().contiguous().numpy()
        found = remap_chip(
            shared.of(slot.layer), columns, shared.key(slot.name), shared.chip, slot.layout.groups
        )
        size = square(columns)
        for name in (slot.layer, "*"):
            sums = squares.setdefault(name, [0.0, 0.0, 0.0])
            sums[0] += size * found.before**2
            sums[1] += size * found.after**2
            sums[2] += size
    return {
        layer: {"before": math.sqrt(before / size), "after": math.sqrt(after / size)}
        for layer, (before, after, size) in squares.items()
        if size > 0
    }


def remap_sentence(model: nn.Module, errors: dict[str, dict[str, float]]) -> tuple[str, bool]:
    """A sentence on what remapping changed on the current chip, and whether it changed anything."""
    shared = analog_state(model)
    if all(hardware.stuck is None for hardware in designs_of(shared.hardware)):
        return "remap was requested but moved nothing: the design has no stuck cells", False
    every = errors.get("*", {"before": 0.0, "after": 0.0})
    if every["before"] == 0 or not np.isfinite(every["before"]):
        return (
            f"remap was requested but moved nothing on chip {shared.chip}: no stuck cell changes a weight",
            False,
        )
    text = (
        f"remapping lowered the weights' error by stuck cells from {every['before']:.1%} to {every['after']:.1%} "
        f"on chip {shared.chip}"
    )
    return text, True
