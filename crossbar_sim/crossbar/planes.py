"""Whole planes of an array: every stage of every cell, and what wires make of them, tile by tile."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.rng import Key

if TYPE_CHECKING:
    from crossbar_sim.crossbar.hardware import Hardware


class Stages(NamedTuple):
    """Cells after each stage: float32 in S, and uint8 fault codes; a run (n,) or whole planes."""

    target: Float32
    programmed: Float32
    drifted: Float32
    faults: NDArray[np.uint8]


def all_stages(hardware: "Hardware", columns: Float32, scale: Float32, key: Key, chip: int) -> Stages:
    """Every plane of the array of `columns` (cols, rows): (planes, physical columns, rows), bit line by bit line."""
    cols, rows = columns.shape
    mapping = hardware.mapping
    shape = (mapping.planes, cols + (mapping.planes_per_copy == 1), rows)
    target, programmed, drifted = (np.empty(shape, np.float32) for _ in range(3))
    whole = Stages(target, programmed, drifted, np.empty(shape, np.uint8))

    def chunk(item: tuple[int, slice]) -> None:
        plane, part = item
        pieces = hardware.stages(columns, scale, key, chip, plane, part)
        both: Any = zip(whole, pieces, strict=True)
        for array, piece in both:
            array[plane].reshape(-1)[part] = piece

    parts = threads.chunks(shape[1] * rows)
    threads.run(chunk, [(p, part) for p in range(shape[0]) for part in parts])
    return whole


def through_wires(hardware: "Hardware", drifted: Float32, groups: int) -> Float32:
    """The effective conductances of every tile of `drifted` (planes, physical columns, rows); the same shape.

    Args:
        hardware: with wires.
        groups: blocks of columns that have tiles of their own. With a reference column, which they share, they
            lie side by side on the same word lines.
    """
    wires: Any = hardware.wires
    planes, physical, rows = drifted.shape
    block = physical if hardware.mapping.planes_per_copy == 1 else physical // groups
    high, wide = hardware.tile
    out = np.empty_like(drifted)
    tiles = [
        (plane, slice(left, min(left + wide, first + block)), slice(top, min(top + high, rows)))
        for plane in range(planes)
        for first in range(0, physical, block or 1)
        for left in range(first, first + block, wide)
        for top in range(0, rows, high)
    ]

    solved = wires.effective_planes([drifted[tile].T for tile in tiles])  # side by side on all threads
    for tile, g in zip(tiles, solved, strict=True):
        out[tile] = g.T
    return out


def multiplying(
    hardware: "Hardware", columns: Float32, scale: Float32, key: Key, chip: int, groups: int = 1
) -> Float32:
    """The planes that multiply (planes, physical columns, rows) in S: drifted, and through wires if there are any."""
    drifted = all_stages(hardware, columns, scale, key, chip).drifted
    return drifted if hardware.wires is None else through_wires(hardware, drifted, groups)
