"""Mappings of weights to conductances and back.

A matrix `w` is (rows, cols): rows are word lines (inputs), columns bit lines (outputs). Inside, it
is kept as its transpose in C order, bit line by bit line, which is how torch stores its weights.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from crossbar_sim.crossbar import kernels
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.errors import InputError
from crossbar_sim.validate import SINGLE, check_weights, number, require, show, units_caution, whole


@dataclass(frozen=True)
class Mapping(ABC):
    """Base of the mappings: the conductance window, its levels, the scale, and parallel cells.

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

    @property
    @abstractmethod
    def span(self) -> float:
        """a of Eq. (1): the part of the window that the largest weight uses."""

    @property
    @abstractmethod
    def middle_level(self) -> int:
        """The level of weight 0; undefined without levels."""

    @property
    def middle(self) -> float:
        """Conductance of weight 0 and of a reference column, in S."""
        return self.g_min + self.step * self.middle_level

    def __post_init__(self) -> None:
        number(self, "g_min", "a conductance must be in 0 .. 1e30 S", 0, SINGLE)
        number(self, "g_max", "a conductance must be in 1e-30 .. 1e30 S", 1 / SINGLE, SINGLE)
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
    def cautions(self) -> tuple[str, ...]:
        """A warning if g_max is implausibly large, as if microsiemens were given in place of siemens."""
        caution = units_caution(self.g_max, "g_max={}")
        return () if caution is None else (caution,)

    @property
    def slices(self) -> int:
        """Number of cells that the code of a weight is sliced over, least significant first."""
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
        """Eq. (28): the weight of each slice in Eq. (5); (1.0,) without slices."""
        if self.cell_bits is None:
            return (1.0,)
        return tuple(self.step / self.cell_step * 2 ** (k * self.cell_bits) for k in range(self.slices))

    @property
    def weighted(self) -> bool:
        """Whether conductances are multiplied by `slice_weights` when they are read: not where all are exactly 1.

        One slice has a weight too if its levels are not all that its bits could tell apart.
        """
        return self.slice_weights != (1.0,)

    def weight_of(self, plane: int) -> float:
        """The weight of the slice in `plane`; see `slice_weights`."""
        return self.slice_weights[self.slice_of(plane)]

    def slice_of(self, plane: int) -> int:
        """The index of the slice in `plane`."""
        return plane % self.planes_per_weight // self.planes_per_copy

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
            with np.errstate(invalid="ignore"):  # infinite weights are refused below
                w_max = np.percentile(np.abs(columns), self.clip, axis=axis).astype(np.float64)
            if not np.all(w_max > 0):  # a sparse matrix: the percentile falls on a zero
                w_max = np.where(w_max > 0, w_max, np.abs(columns).max(axis=axis))
        whole = float(np.max(w_max, initial=0.0))
        dead = 1.0 if whole <= 1e-30 else whole  # NaN is refused below
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
        """Weight units per S of the summed differences, to read with, in the shape of `scale`."""
        return (1.0 / (scale.astype(np.float64) * self.copies)).astype(np.float32)

    def _to_cells(
        self, w: Float32, scale: Float32, rows: int, start: int, plane: int, sign: float, out: Float32
    ) -> None:
        """Eq. (2) to (4) and (28) for a chunk: weight 0 plus sign s w, limited to the window and its levels."""
        low, high = np.float32(self.g_min), np.float32(self.g_max)
        if self.levels is None:
            kernels.to_cells(w, scale, rows, start, np.float32(sign), np.float32(self.middle), low, high, out)
            return
        top, base = float(self.levels - 1), float(self.middle_level)
        kernels.to_levels(w, scale, rows, start, sign / self.step, base, top, out)
        if self.cell_bits is None:
            kernels.at_levels(np.float32(self.step), low, high, out)
            return
        digit = (out.astype(np.int64) >> (self.slice_of(plane) * self.cell_bits)) & (2**self.cell_bits - 1)
        out[:] = np.minimum(self.g_min + digit * self.cell_step, high)

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
    reference: ClassVar[bool] = False

    @property
    def span(self) -> float:
        """a of Eq. (1): all of the window."""
        return 1.0

    @property
    def middle_level(self) -> int:
        """The lowest level: both cells of a pair are off."""
        return 0

    def target(self, w: Float32, scale: Float32, rows: int, start: int, plane: int, out: Float32) -> None:
        """See `Mapping`."""
        self._to_cells(w, scale, rows, start, plane, -1.0 if plane % 2 else 1.0, out)


@dataclass(frozen=True)
class Offset(Mapping):
    """Eq. (3): one cell, g = g_mid + s w, read against a reference column.

    Every copy has its own reference column, programmed to g_mid and as imperfect as the rest. It is
    the last column of the plane, so a plane is (rows, cols + 1).

    Args:
        encoding: None: the window is centred on weight 0, s = (g_max - g_min)/(2 w_max). "twos_complement":
            weights are integers of log2(levels) bits, -levels/2 .. levels/2 - 1, stored with a bias of
            levels/2 (ISAAC's way; int4 weights fit 16 levels exactly). The largest positive weight, which has no
            code if it is as large as the largest negative one, saturates one level below.
    """

    encoding: Literal["twos_complement"] | None = None

    kind: ClassVar[str] = "offset"
    planes_per_copy: ClassVar[int] = 1
    reference: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.encoding in (None, "twos_complement"),
            f"encoding={show(self.encoding)} must be 'twos_complement', or None for a centred window",
        )
        require(
            self.encoding is None or (self.levels is not None and self.levels % 2 == 0),
            f"encoding='twos_complement' stores integers and needs an even number of levels: levels={self.levels}",
        )

    @property
    def span(self) -> float:
        """a of Eq. (1): half of the window; in two's complement levels/2 of its steps."""
        if self.encoding is None or self.levels is None:
            return 0.5
        return self.levels / 2 / (self.levels - 1)

    @property
    def middle_level(self) -> int:
        """The level at or just below the middle of the window; in two's complement the one above it.

        Off the levels, the reference would be rounded half a step away and take every weight with it.
        """
        return ((self.levels or 1) - (self.encoding is None)) // 2

    @property
    def middle(self) -> float:
        """g_mid, the conductance of weight 0 and of the reference, in S."""
        if self.levels is None:
            return (self.g_min + self.g_max) / 2
        return super().middle

    def target(self, w: Float32, scale: Float32, rows: int, start: int, plane: int, out: Float32) -> None:
        """See `Mapping`."""
        self._to_cells(w, scale, rows, start, plane, 1.0, out)


ALL_MAPPINGS: tuple[type[Mapping], ...] = (Differential, Offset)
"""Every mapping: drives the tests and the configuration files."""
