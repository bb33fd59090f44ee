"""Fault-aware mapping: which weight goes to which cells of a tile, given the cells of the chip that are stuck.

Within a tile the inputs may enter in any order and the outputs be read in any order; the digital part undoes both. A
differential pair may also be turned, so that its column reads -w. Rows are permuted within each row of tiles, columns
(and turns) within each tile. Given the rows, the best columns are an assignment problem, solved exactly (Crouse, IEEE
Trans. Aerosp. Electron. Syst. 52, 1679, 2016: SciPy's `linear_sum_assignment`), and so are the best rows given the
columns; the two alternate until neither helps. No step can be worse than staying, so the error never grows. It ends
in a local optimum; small matrices, where that matters, are begun from several orders of their rows.
"""

import numpy as np

from crossbar_sim.crossbar.checks import check_weights, require
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.planes import multiplying
from crossbar_sim.crossbar.remapping.placement import Remapping
from crossbar_sim.crossbar.remapping.search import Faults, Problem
from crossbar_sim.crossbar.stream import Float32, Stream
from crossbar_sim.rng import Key

__all__ = ["Remapping", "fault_map", "remap", "remap_chip", "remapped_planes", "remapped_weight"]


def fault_map(hardware: Hardware, rows: int, cols: int, key: Key, chip: int) -> Faults:
    """The stuck cells of a chip where an array of that shape lies: what a test of the chip would find.

    Args:
        rows, cols: of the weight matrix.
        key: the array's name, as for `Hardware.program`.

    Returns:
        0 healthy, 1 off, 2 on, shape (planes, rows, physical columns): those of `Array.faults`.
    """
    mapping = hardware.mapping
    physical = cols + (mapping.planes_per_copy == 1)
    out = np.zeros((mapping.planes, physical, rows), np.uint8)
    if hardware.stuck is not None:
        g = np.zeros(physical * rows, np.float32)
        for plane in range(mapping.planes):
            stream = Stream.of(key.fold("stuck"), chip, plane)
            hardware.stuck.cells(g, stream, 0, (0.0, 1.0), np.empty_like(g), out[plane].reshape(-1))
    return out.transpose(0, 2, 1)


def remap(w: Float32, faults: Faults, hardware: Hardware, groups: int = 1) -> Remapping:
    """Find where to put the weights so that stuck cells change them least.

    Args:
        w: weights, (rows, cols).
        faults: fault codes, (planes, rows, physical columns), as `Array.faults` has them.
        hardware: the design: mapping, levels and tile.
        groups: blocks of columns that have tiles of their own (a grouped convolution's).

    Raises:
        InputError: if the shapes do not go together, or w holds NaN or infinite values.
    """
    w = np.asarray(w, np.float32)
    require(w.ndim == 2, f"w has shape {w.shape}: expected a matrix (rows, cols)")
    check_weights(w)
    mapping, (rows, cols) = hardware.mapping, w.shape
    expected = (mapping.planes, rows, cols + (mapping.planes_per_copy == 1))
    require(
        faults.shape == expected,
        f"faults has shape {faults.shape}: expected {expected}, (planes, rows, physical columns) of this mapping",
    )
    problem = Problem(
        np.ascontiguousarray(w.T), np.ascontiguousarray(faults.transpose(0, 2, 1)), hardware, groups
    )
    return problem.solve()


def remapped_weight(hardware: Hardware, columns: Float32, key: Key, chip: int, groups: int = 1) -> Float32:
    """`Hardware.effective_weight` of a matrix that lies where the chip's stuck cells harm it least.

    Args:
        columns: the transposed matrix (cols, rows), C-contiguous.

    Returns:
        (cols, rows), in the logical order: without stuck cells exactly `effective_weight`.
    """
    found = remap_chip(hardware, columns, key, chip, groups)
    placed = np.ascontiguousarray(found.place(columns.T).T)
    effective = hardware.effective_weight(placed, key, chip, groups=groups)
    return np.ascontiguousarray(found.restore(effective.T).T)


def remapped_planes(
    hardware: Hardware, columns: Float32, scale: Float32, key: Key, chip: int, groups: int = 1
) -> Float32:
    """`planes.multiplying` of a matrix that lies where the stuck cells harm it least, in the logical order.

    A tile keeps its cells, so what its converters see is the same up to which of them sees which column.
    """
    found = remap_chip(hardware, columns, key, chip, groups)
    placed = np.ascontiguousarray(found.place(columns.T).T)
    placed_scale = scale if scale.size == 1 else np.ascontiguousarray(scale[found.columns[0]])
    planes = multiplying(hardware, placed, placed_scale, key, chip, groups).transpose(0, 2, 1)
    return np.ascontiguousarray(found.restore_planes(planes, hardware.mapping).transpose(0, 2, 1))


def remap_chip(hardware: Hardware, columns: Float32, key: Key, chip: int, groups: int = 1) -> Remapping:
    """`remap` of a transposed matrix (cols, rows) for the stuck cells of one chip."""
    cols, rows = columns.shape
    return remap(columns.T, fault_map(hardware, rows, cols, key, chip), hardware, groups)
