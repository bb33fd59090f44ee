"""How a weight becomes conductances, and how they read back as a weight.

A matrix `w` is (rows, cols): rows are word lines (inputs), columns bit lines (outputs). Inside, it
is kept as its transpose in C order, bit line by bit line, which is how torch stores its weights.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from crossbar_sim.crossbar import mapping_kernels as kernels
from crossbar_sim.crossbar.checks import (
    SINGLE,
    check_weights,
    number,
    require,
    show,
    whole,
)
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.errors import InputError


@dataclass(frozen=True)
class Mapping(ABC):
    """What the mappings share: the conductance window, its levels, the scale, and parallel cells.

    Args:
        g_min, g_max: the window in S.
        levels: how many conductances a cell can be set to, equally spaced from g_min to g_max;
            None: any. With `cell_bits`: the cells of a weight together.
        scale_per: one scale for the "matrix", or one for each "column".
        clip: percentile of |w| that is mapped to the end of the window; larger weights saturate.
            None: the maximum, nothing saturates.
        copies: cells in parallel for each weight, each programmed and drifting by itself; the
            weight is their mean. The strongest lever against independent drift, at `copies` times
            the cells.
        cell_bits: bits of one cell. A weight, quantised to `levels`, is then sliced over as many cells as its
            code needs, each read for itself and shifted and added digitally. None: one cell holds it all.

    Raises:
        InputError: naming the field, what was given and what is allowed.
    """

    g_min: float = 0.0
    g_max: float = 1e-4
    levels: int | None = None
    scale_per: Literal["matrix", "column"] = "matrix"
    clip: float | None = None
    copies: int = 1
    cell_bits: int | None = None

    kind: ClassVar[str]
    planes_per_copy: ClassVar[int]
    span: ClassVar[float]
    """The part of the window that the largest weight uses."""

    def __post_init__(self) -> None:
        number(self, "g_min", "a conductance must lie in 0 .. 1e30 S", 0, SINGLE)
        number(self, "g_max", "a conductance must lie in 1e-30 .. 1e30 S", 1 / SINGLE, SINGLE)
        require(
            bool(np.float32(self.g_max) > np.float32(self.g_min)),
            f"g_max={self.g_max} S must exceed g_min={self.g_min} S in single precision: "
            "a mapping needs a conductance window",
        )
        if self.levels is not None:
            rule = "a cell has 2 .. 1048576 levels, or None for a continuum"
            whole(self, "levels", rule, 2, 2**20)
        require(
            isinstance(self.scale_per, str) and self.scale_per in ("matrix", "column"),
            f"scale_per={show(self.scale_per)} must be 'matrix' or 'column'",
        )
        if self.clip is not None:
            number(self, "clip", "a percentile lies above 0 and not above 100", high=100, above=0)
        whole(self, "copies", "a weight takes 1 .. 1024 parallel cells", 1, 1024)
        if self.cell_bits is not None:
            whole(self, "cell_bits", "a cell holds 1 .. 20 bits, or None for a weight in one cell", 1, 20)
            require(
                self.levels is not None,
                f"cell_bits={self.cell_bits} slices a quantised weight: give its levels, such as levels=256",
            )

    @property
    def slices(self) -> int:
        """Cells that the code of a weight is sliced over, least significant first."""
        return 1 if self.cell_bits is None else -(-self._code_bits // self.cell_bits)

    @property
    def _code_bits(self) -> int:
        assert self.levels is not None
        return (self.levels - 1).bit_length()

    @property
    def planes_per_weight(self) -> int:
        """Planes of one copy: slice by slice, the cells of a pair side by side."""
        return self.planes_per_copy * self.slices

    @property
    def planes(self) -> int:
        """Planes of an array: those of one copy times the copies."""
        return self.planes_per_weight * self.copies

    @property
    def cell_step(self) -> float:
        """Distance of two levels of one cell in S, 0 for a continuum."""
        if self.cell_bits is None:
            return self.step
        return (self.g_max - self.g_min) / (2 ** min(self.cell_bits, self._code_bits) - 1)

    @property
    def slice_weights(self) -> tuple[float, ...]:
        """Eq. (28): what the conductances of each slice count for in Eq. (5); (1.0,) without slices."""
        if self.cell_bits is None:
            return (1.0,)
        return tuple(self.step / self.cell_step * 2 ** (k * self.cell_bits) for k in range(self.slices))

    def weight_of(self, plane: int) -> float:
        """Of `slice_weights`, that of the slice which `plane` holds."""
        return self.slice_weights[self.slice_of(plane)]

    def slice_of(self, plane: int) -> int:
        """The weight slice that `plane` holds."""
        return plane % self.planes_per_weight // self.planes_per_copy

    def digit(self, g: Float32, plane: int) -> None:
        """Eq. (28): replace the conductances of whole codes (n,) by those of the slice that `plane` holds."""
        if self.cell_bits is None:
            return
        k = self.slice_of(plane)
        code = np.rint((g - np.float32(self.g_min)) / np.float32(self.step)).astype(np.int64)
        digit = (code >> (k * self.cell_bits)) & (2**self.cell_bits - 1)
        g[:] = np.minimum(self.g_min + digit * self.cell_step, np.float32(self.g_max))

    @property
    def step(self) -> float:
        """Distance of two levels in S, 0 for a continuum."""
        return 0.0 if self.levels is None else (self.g_max - self.g_min) / (self.levels - 1)

    def scale(self, columns: Float32) -> Float32:
        """Eq. (1): conductance per weight unit, s = span (g_max - g_min) / w_max, in S.

        Args:
            columns: the transposed matrix (cols, rows).

        Returns:
            (1,) for the matrix or (cols,). A column of zeros has the scale of the whole matrix, whose errors in
            weight units are then no larger than elsewhere; a matrix of zeros that of w_max = 1.
            Rounded towards zero, so that w_max times the scale never passes the window.

        Raises:
            InputError: if a weight is NaN, infinite, or too large for a scale in single precision.
        """
        axis = 1 if self.scale_per == "column" else None
        if columns.size == 0:
            w_max = np.ones(1 if axis is None else len(columns))
        elif self.clip is None:
            w_max = np.maximum(columns.max(axis=axis), -columns.min(axis=axis)).astype(np.float64)
        else:
            with np.errstate(invalid="ignore"):  # infinite weights, to be refused below
                w_max = np.percentile(np.abs(columns), self.clip, axis=axis).astype(np.float64)
            if not np.all(w_max > 0):  # a sparse matrix: the percentile falls on a zero
                w_max = np.where(w_max > 0, w_max, np.abs(columns).max(axis=axis))
        whole = float(np.max(w_max, initial=0.0))
        dead = 1.0 if whole <= 1e-30 else whole  # NaN stays, to be refused below
        w_max = np.where(w_max <= 1e-30, dead, w_max)
        exact = np.atleast_1d(self.span * (self.g_max - self.g_min) / w_max)
        if not np.all((exact > 1e-37) & (exact * self.copies < 1e37)):
            check_weights(columns)
            raise InputError(
                f"weights up to {np.max(w_max):.3g} on {self.g_max - self.g_min:.3g} S of window: "
                "the scale in S per weight unit leaves single precision; rescale the weights"
            )
        scale = exact.astype(np.float32)
        return np.where(scale > exact, np.nextafter(scale, np.float32(0.0)), scale)

    def inverse(self, scale: Float32) -> Float32:
        """Weight units per S of the summed differences, to read with; the shape of `scale`."""
        return (1.0 / (scale.astype(np.float64) * self.copies)).astype(np.float32)

    def _to_cells(
        self,
        w: Float32,
        scale: Float32,
        rows: int,
        start: int,
        sign: float,
        base: float,
        out: Float32,
    ) -> None:
        """Eq. (2) to (4) for a chunk: base + sign s w, held to the window and its levels."""
        low, high, step = np.float32(self.g_min), np.float32(self.g_max), np.float32(self.step)
        per_step = np.float32(0.0 if self.levels is None else 1 / self.step)
        kernels.to_cells(
            w,
            scale,
            rows,
            start,
            np.float32(sign),
            np.float32(base),
            low,
            high,
            step,
            per_step,
            out,
        )

    @abstractmethod
    def target(self, w: Float32, scale: Float32, rows: int, start: int, plane: int, out: Float32) -> None:
        """Write the target conductances of plane `plane` for a chunk `w` of the flat columns."""


@dataclass(frozen=True)
class Differential(Mapping):
    """Eq. (2): a pair of cells, g+ = g_min + s max(w, 0) and g- = g_min + s max(-w, 0).

    Planes alternate: + and - of the first copy, + and - of the second, ...
    """

    kind: ClassVar[str] = "differential"
    planes_per_copy: ClassVar[int] = 2
    span: ClassVar[float] = 1.0
    reference: ClassVar[bool] = False

    def target(self, w: Float32, scale: Float32, rows: int, start: int, plane: int, out: Float32) -> None:
        """See `Mapping`."""
        self._to_cells(w, scale, rows, start, -1.0 if plane % 2 else 1.0, self.g_min, out)
        self.digit(out, plane)


@dataclass(frozen=True)
class Offset(Mapping):
    """Eq. (3): one cell, g = g_mid + s w with s = (g_max - g_min)/(2 w_max), read against a column.

    Every copy has its own reference column, programmed to g_mid and as imperfect as the rest. It is
    the last column of the plane, so a plane is (rows, cols + 1).
    """

    kind: ClassVar[str] = "offset"
    planes_per_copy: ClassVar[int] = 1
    span: ClassVar[float] = 0.5
    reference: ClassVar[bool] = True

    @property
    def middle(self) -> float:
        """g_mid, what weight 0 and the reference are programmed to, in S.

        With levels it is the level at or just below the middle of the window: off the levels, the
        reference would be rounded half a step away and take every weight with it.
        """
        if self.levels is None:
            return (self.g_min + self.g_max) / 2
        return self.g_min + self.step * ((self.levels - 1) // 2)

    def target(self, w: Float32, scale: Float32, rows: int, start: int, plane: int, out: Float32) -> None:
        """See `Mapping`."""
        self._to_cells(w, scale, rows, start, 1.0, self.middle, out)
        self.digit(out, plane)


ALL_MAPPINGS: tuple[type[Mapping], ...] = (Differential, Offset)
"""Every mapping: drives the tests and the configuration files."""
