"""Fault-aware mapping of a whole model: each chip's arrays lie where its stuck cells harm them least."""

import math

import numpy as np
from torch import nn

from crossbar_sim.crossbar import effects as core
from crossbar_sim.crossbar.remapping import remap_chip
from crossbar_sim.errors import InputError
from crossbar_sim.nn import chips


def remap_arrays(model: nn.Module) -> None:
    """From now on place every array by the stuck cells of its chip (`crossbar.remapping`).

    Args:
        model: analog; arrays are rewritten when they are next read.

    Raises:
        InputError: if its conductances come from a file.
    """
    shared = chips.design(model)
    if shared.maps is not None:
        raise InputError("conductances from a file lie where they were measured: they cannot be remapped")
    shared.remap, shared.generation = True, shared.generation + 1


def remap_errors(model: nn.Module) -> dict[str, dict[str, float]]:
    """Relative error of each layer's weights by the stuck cells of the present chip, before and after remapping.

    Returns:
        {layer: {"before": error, "after": error}}, |W' - W| / |W| (Frobenius), by stuck cells alone; "*" is
        all layers.
    """
    shared = chips.design(model)
    squares: dict[str, list[float]] = {}
    for slot, module in chips.slots(model):
        if slot.ideal:
            continue
        columns = slot.columns(module).detach().float().cpu().contiguous().numpy()
        found = remap_chip(shared.hardware, columns, shared.key(slot.name), shared.chip, slot.layout.groups)
        size = core.square(columns)
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
    """What remapping did on the present chip, and whether that is anything at all."""
    shared = chips.design(model)
    if shared.hardware.stuck is None:
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
