"""Reading conductances a few megabytes at a time, and refusing what is none."""

from collections.abc import Iterator

import h5py
import numpy as np

from crossbar_sim.crossbar.checks import show
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.errors import InputError
from crossbar_sim.store.chunks import read
from crossbar_sim.store.layout import CELLS


def conductances(dataset: h5py.Dataset, unit: float, high: slice, wide: slice) -> Float32:
    """The planes of some rows and columns, in S.

    Args:
        dataset: (planes, rows, physical columns).
        unit: what one unit of it is in S.
        high, wide: the rows and columns.

    Raises:
        InputError: if a value is NaN, infinite or negative.
    """
    stored = read(dataset, high, wide)
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, which is refused below
        exact = stored if unit == 1.0 else stored.astype(np.float64) * unit
        g = np.ascontiguousarray(exact, np.float32)
    if g.size and not (g.min() >= 0 and np.isfinite(g.max())):
        bad = int(np.count_nonzero(~np.isfinite(g)))
        what = f"{bad} NaN or infinite values" if bad else f"negative values such as {g.min():.3g} S"
        raise InputError(
            f"{show(dataset.name)} holds {what}: a conductance is finite and at least 0; write 0 for "
            "an open cell"
        )
    return g


def blocks(dataset: h5py.Dataset, cols: int) -> Iterator[tuple[slice, slice]]:
    """The first `cols` columns in pieces (rows, columns): whole chunks where they are not too large.

    All planes of a piece together have at most `4 CELLS` cells (16 MiB), or one row of a chunk.
    """
    planes, rows, _ = dataset.shape
    if not planes * rows * cols:
        return
    _, high, wide = dataset.chunks or (1, 1, cols)
    area = max(1, 4 * CELLS // planes)
    wide = min(wide, cols) * max(1, area // (min(wide, cols) * high))
    wide = min(wide, cols)
    high = high * max(1, area // (wide * high)) if wide * high <= area else max(1, area // wide)
    for top in range(0, rows, high):
        for left in range(0, cols, wide):
            yield slice(top, min(top + high, rows)), slice(left, min(left + wide, cols))
