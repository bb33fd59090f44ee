"""Which cells of an array a product with a view of its weight takes, and how they are read."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.nn.analog.matrices import Layout

Places = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class BlockRead:
    """One read of one block of an array.

    Args:
        group: the block.
        inputs, rows: which inputs of the product drive which word lines; the others are not driven.
        outputs, cols: which outputs of the product are the sums of which bit lines.
    """

    group: int
    inputs: Places
    rows: Places
    outputs: Places
    cols: Places


def reads_of(places: Places, layout: Layout) -> tuple[BlockRead, ...] | None:
    """How an array computes a product with some of its values; outputs of several reads are added up digitally.

    Args:
        places: where the values (inputs, outputs) of the product's matrix lie in the memory of the parameter.
        layout: of the parameter as the array holds it.

    Returns:
        The reads; None where a word line would have to carry an output, or two inputs at once: an array cannot
        multiply so.

    >>> import numpy as np
    >>> (one,) = reads_of(np.arange(6).reshape(2, 3).T, Layout((2, 3), "out_in"))
    >>> one.group, one.rows.tolist(), one.cols.tolist()
    (0, [0, 1, 2], [0, 1])
    >>> reads_of(np.arange(6).reshape(2, 3), Layout((2, 3), "out_in"))  # the transpose
    """
    if layout.order == "vector" or not places.size:
        return None
    if layout.order == "out_in":
        line, row = np.divmod(places, layout.rows)
        group, col = np.divmod(line, layout.cols)
    else:
        block, col = np.divmod(places, layout.cols)
        group, row = np.divmod(block, layout.rows)
    found = []
    for g in np.unique(group):
        own = group == g
        inputs, outputs = own.any(1).nonzero()[0], own.any(0).nonzero()[0]
        if not own[np.ix_(inputs, outputs)].all():
            return None
        rows, cols = row[np.ix_(inputs, outputs)], col[np.ix_(inputs, outputs)]
        if (cols != cols[:1]).any():
            return None
        for first in np.unique(rows[0]):  # outputs whose inputs drive the same word lines are read together
            together = rows[0] == first
            driven = rows[:, together]
            if (driven != driven[:, :1]).any() or len(np.unique(driven[:, 0])) < len(inputs):
                return None
            found.append(BlockRead(int(g), inputs, driven[:, 0], outputs[together], cols[0, together]))
    return tuple(found)
