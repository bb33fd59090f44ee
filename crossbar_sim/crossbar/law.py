"""What every drift law has in common: `apply` on whole arrays, `cells` on a chunk."""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np

from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.stream import Float32, Stream
from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key


class Law(ABC):
    """A drift law: frozen, without randomness of its own.

    `kind` names it in files, `multiplicative` says whether it scales a conductance or adds to it.
    """

    kind: ClassVar[str]
    multiplicative: ClassVar[bool] = True

    @abstractmethod
    def cells(self, g: Float32, out: Float32, stream: Stream, start: int) -> None:
        """Write the drifted conductances of cells start .. start + n; both (n,), no overlap."""

    def apply(self, g: Float32, key: Key, chip: int) -> Float32:
        """The conductances of `chip` after drift.

        Args:
            g: conductances in S, shape (n,), (rows, cols) or (planes, rows, cols).
            key: the array's name; the stream is `key.fold("drift")`.
            chip: which sample of the design.

        Returns:
            float32 in S, the shape of `g`.

        Raises:
            InputError: if g has another number of dimensions, or the chip is no counter word.
        """
        g = np.asarray(g, np.float32)
        if not 1 <= g.ndim <= 3:
            raise InputError(f"g has shape {g.shape}: expected (n,), (rows, cols) or (planes, rows, cols)")
        key = key.fold("drift")
        if g.ndim == 3:
            if not len(g):
                return g.copy()
            return np.stack([self._plane(g[p], Stream.of(key, chip, p)) for p in range(len(g))])
        return self._plane(g, Stream.of(key, chip))

    def _plane(self, g: Float32, stream: Stream) -> Float32:
        """One plane: cells are counted bit line by bit line, so a matrix goes in transposed."""
        flat = np.ascontiguousarray(g.T).ravel()
        out = np.empty_like(flat)

        def chunk(part: slice) -> None:
            self.cells(flat[part], out[part], stream, part.start)

        threads.run(chunk, threads.chunks(flat.size))
        return np.ascontiguousarray(out.reshape(g.T.shape).T)
