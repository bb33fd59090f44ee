"""What the conductances of a model look like on one chip, before and after drift."""

from typing import Any

import numpy as np
from torch import nn

from crossbar_sim.crossbar import threads
from crossbar_sim.nn import chips as handle

BINS = 60

WINDOW = 1.5
"""Bins reach from 0 to this many g_max; the last one holds all that lies above."""


def conductance_histograms(analog: nn.Module) -> list[dict[str, Any]]:
    """One histogram per matrix on arrays, of the chip that the model is programmed to.

    Cells that are meant to be at g_min (one of each pair) would hide the others and are only counted.

    Returns:
        For each matrix: name, edges (BINS + 1, S), target and drifted (BINS counts of cells), idle (cells at g_min).
    """
    design = handle.design(analog)
    hardware, mapping = design.hardware, design.hardware.mapping
    edges = np.linspace(0.0, WINDOW * mapping.g_max, BINS + 1)
    found = []
    for slot, module in handle.slots(analog):
        if slot.ideal or slot.layout.order == "vector":
            continue
        columns = slot.columns(module).detach().float().cpu().contiguous().numpy()
        scale, key = mapping.scale(columns), design.key(slot.name)
        counts, idle = np.zeros((2, BINS), np.int64), 0
        for plane in range(mapping.planes):
            for part in threads.chunks(columns.size):
                stages = hardware.stages(columns, scale, key, design.chip, plane, part)
                busy = stages.target > np.float32(mapping.g_min)
                idle += int(busy.size - np.count_nonzero(busy))
                for row, cells in zip(counts, (stages.target, stages.drifted), strict=True):
                    inside = np.minimum(cells[busy], edges[-1])
                    row += np.histogram(inside, edges)[0]
        found.append(
            {
                "name": slot.name,
                "edges": [float(edge) for edge in edges],
                "target": counts[0].tolist(),
                "drifted": counts[1].tolist(),
                "idle": idle,
            }
        )
    return found
