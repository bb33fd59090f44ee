"""What every requested effect did to a matrix, one effect after the other, in chunks: no second copy of it."""

import math

import numpy as np

from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.rng import Key


def changes(hardware: Hardware, columns: Float32, key: Key, chip: int, groups: int = 1) -> dict[str, float]:
    """Squared Frobenius norm of the change of the effective weight that each requested effect causes.

    Effects are switched on one by one in their physical order on the same cells, so that a number is what that
    effect adds to the ones before it.

    Args:
        hardware: the design; its `effects` are the keys of the result.
        columns: the transposed matrix (cols, rows), C-contiguous.
        key, chip: as for `Hardware.program`.
        groups: as for `Hardware.effective_weight`.
    """
    names = hardware.effects
    designs = [hardware.up_to(None), *(hardware.up_to(name) for name in names)]
    pieces = [d.pieces(columns, d.mapping.scale(columns), key, chip, groups) for d in designs]
    parts = threads.chunks(columns.size)
    squares = np.zeros((len(parts), len(names)))

    def chunk(i: int) -> None:
        n = parts[i].stop - parts[i].start
        before, after = np.empty(n, np.float32), np.empty(n, np.float32)
        pieces[0](parts[i], before)
        for j, piece in enumerate(pieces[1:]):
            piece(parts[i], after)
            squares[i, j] = square(after - before)
            before, after = after, before

    threads.run(chunk, range(len(parts)))
    return {name: math.fsum(squares[:, j]) for j, name in enumerate(names)}


def square(a: Float32) -> float:
    """Sum of squares in float64, chunk by chunk."""
    flat = a.reshape(-1)
    return math.fsum(
        float(np.sum(np.square(flat[part], dtype=np.float64))) for part in threads.chunks(a.size)
    )
