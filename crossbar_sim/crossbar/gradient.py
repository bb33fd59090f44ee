"""The derivative of a programmed weight with respect to the clean one, cell noise held fixed.

The reparametrised gradient (docs/model.md, "Gradients"): drift scales the derivative by its own factor, a
stuck cell and a saturated weight have none, levels, slices, wires and additive terms pass it straight through.
"""

import numpy as np

from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.stream import Float32, Stream
from crossbar_sim.rng import Key


def slope(hardware: Hardware, columns: Float32, key: Key, chip: int) -> Float32:
    """d effective / d w of every weight, for `columns` (cols, rows); same shape, float32."""
    mapping, w = hardware.mapping, columns.reshape(-1)
    out = np.empty(w.size, np.float32)
    shares = np.array(mapping.slice_weights) / sum(
        mapping.slice_weights
    )  # a slice counts by what it can hold
    scale = mapping.scale(columns)
    limit = np.broadcast_to(mapping.span * (mapping.g_max - mapping.g_min) / scale, (len(columns),))

    def factor(plane: int, part: slice) -> Float32:
        n = part.stop - part.start
        ones = np.ones(n, np.float32)
        if hardware.drift is not None and hardware.drift.multiplicative:
            together = plane - plane % mapping.planes_per_weight if hardware.drift_per == "weight" else plane
            drifted = np.empty(n, np.float32)
            stream = Stream.of(key.fold("drift"), chip, together)
            hardware.drift.cells(ones, drifted, stream, part.start)
            ones = drifted
        if hardware.stuck is not None:
            faults = hardware.stages(columns, scale, key, chip, plane, part).faults
            ones = ones * (faults == 0)
        return ones

    def chunk(part: slice) -> None:
        total = np.zeros(part.stop - part.start, np.float32)
        for first in range(0, mapping.planes, mapping.planes_per_copy):
            if mapping.planes_per_copy == 1:
                found = factor(first, part)
            else:  # the cell that carries the weight is the one of its sign
                found = np.where(w[part] >= 0, factor(first, part), factor(first + 1, part))
            total += found if mapping.slices == 1 else np.float32(shares[mapping.slice_of(first)]) * found
        out[part] = total / np.float32(mapping.copies)

    threads.run(chunk, threads.chunks(w.size))
    inside = np.abs(columns) <= limit[:, None] * np.float32(1 + 1e-6)
    return out.reshape(columns.shape) * inside
