"""One array of a chip file: what it is, and the weights that its planes stand for."""

from dataclasses import dataclass, replace

import h5py
import numpy as np

from crossbar_sim.crossbar.array import read_weight
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.mapping import ALL_MAPPINGS, Mapping
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.errors import InputError
from crossbar_sim.store.layout import path_of
from crossbar_sim.store.values import blocks, conductances

MAPPINGS = {cls.kind: cls for cls in ALL_MAPPINGS}
"""The mappings by the name that a file gives them."""


@dataclass(frozen=True, eq=False)
class StoredArray:
    """What a file says of one array; the planes stay in the file.

    Args:
        name: the parameter in the model, or the likeliest one if the file does not say.
        groups: where it lies below /layers.
        shape: (planes, rows, physical columns).
        stages: which of g_target, g_programmed and g_drifted are there; g_drifted always is.
        kind: of the mapping, if the file says it.
        window: (g_min, g_max) in S, if the file says it.
        copies: parallel cells per weight, if the file says it.
        levels, cell_bits: of a weight's code and of the cells that it is sliced over, if the file says them.
        blocks: blocks of columns that have tiles of their own (groups of a convolution); 1 if the file does not say.
        scale: S per weight unit, (1,) or (cols,), if the file says it.
    """

    name: str
    groups: tuple[str, ...]
    shape: tuple[int, int, int]
    stages: tuple[str, ...]
    kind: str | None
    window: tuple[float, float] | None
    copies: int | None
    scale: Float32 | None
    levels: int | None = None
    cell_bits: int | None = None
    blocks: int = 1

    @property
    def path(self) -> str:
        """Where it lies in the file."""
        return path_of(self.groups)

    def mapping(self, hardware: Hardware | None) -> Mapping:
        """How the planes read back: the file's word, else the hardware's if it fits, else by their number.

        Raises:
            InputError: if none of them explains the planes.
        """
        planes = self.shape[0]
        given = hardware.mapping if hardware is not None else None
        kind = self.kind
        if kind is None and given is not None and given.planes == planes:
            kind = given.kind
        if kind is None:
            kind = {1: "offset", 2: "differential"}.get(planes)
        if kind is None or planes % MAPPINGS[kind].planes_per_copy:
            raise InputError(
                f"{self.path} has {planes} planes{f' of mapping {kind}' if self.kind else ''}: "
                "two are a differential pair, one is read against a reference column; for parallel "
                "copies give the attributes mapping and copies, or hardware with them"
            )
        base = given if given is not None and given.kind == kind else MAPPINGS[kind]()
        if self.cell_bits is not None:
            base = replace(base, levels=self.levels, cell_bits=self.cell_bits)
        elif base.cell_bits is not None and planes != base.planes:
            base = replace(base, cell_bits=None)  # sliced by the hardware, but not in this file
        copies, left = divmod(planes, base.planes_per_weight)
        if left or self.copies not in (None, copies):
            sliced = f" of {base.slices} slices" if base.slices > 1 else ""
            raise InputError(
                f"{self.path} has {planes} planes, which are not {self.copies or 'whole'} copies{sliced}"
            )
        window = self.window
        if window is None:
            window = (base.g_min, base.g_max) if given is None else (given.g_min, given.g_max)
        return replace(base, copies=copies, g_min=window[0], g_max=window[1])

    def _why(self, *needed: int) -> str:
        if self.shape[::-1] == needed:  # MATLAB writes the dimensions of its arrays backwards
            return "its dimensions are in reverse order; from MATLAB, write permute(g, [3 2 1])"
        return "is it the chip of another model or other hardware?"

    def weights(
        self, dataset: h5py.Dataset, unit: float, columns: Float32, hardware: Hardware | None
    ) -> Float32:
        """The matrix (cols, rows) that the drifted planes stand for, read a few megabytes at a time.

        Args:
            dataset, unit: as `open_conductances` gives them.
            columns: the clean matrix (cols, rows), for the shape and, without a scale in the file, for it.
            hardware: what the file does not say.

        Raises:
            InputError: if the planes do not fit the matrix, hold what is no conductance, or neither the file nor the
                hardware gives the scale.
        """
        mapping, scale = self._fitting(columns, hardware)
        cols, rows = columns.shape
        physical = self.shape[2]
        out = np.empty((cols, rows), np.float32)
        for high, wide in blocks(dataset, cols):
            planes = conductances(dataset, unit, high, wide)
            if physical > cols:
                reference = conductances(dataset, unit, high, slice(cols, physical))
                planes = np.concatenate([planes, reference], axis=2)
            part = scale if scale.size == 1 else scale[wide]
            out[wide, high] = read_weight(planes, mapping, part).T
        return out

    def planes(
        self, dataset: h5py.Dataset, unit: float, columns: Float32, hardware: Hardware | None
    ) -> tuple[Float32, Mapping, Float32]:
        """The drifted planes (planes, physical columns, rows) in S, how they read back, and their scale.

        Args and Raises: as `weights`.
        """
        mapping, scale = self._fitting(columns, hardware)
        planes, rows, physical = self.shape
        out = np.empty((planes, physical, rows), np.float32)
        for high, wide in blocks(dataset, physical):
            out[:, wide, high] = conductances(dataset, unit, high, wide).transpose(0, 2, 1)
        return out, mapping, scale

    def largest(self, dataset: h5py.Dataset, unit: float) -> float:
        """The largest conductance in S of a sample of the cells: a wrong unit shows in any."""
        for high, wide in blocks(dataset, self.shape[2]):
            return float(conductances(dataset, unit, high, wide).max())
        return 0.0

    def _fitting(self, columns: Float32, hardware: Hardware | None) -> tuple[Mapping, Float32]:
        """How the planes read back, and the scale, if they fit the matrix (cols, rows)."""
        mapping = self.mapping(hardware)
        cols, rows = columns.shape
        physical = cols + (mapping.planes_per_copy == 1)
        if self.shape != (mapping.planes, rows, physical):
            last = " (the last is the reference column)" if physical > cols else ""
            raise InputError(
                f"{self.path} has shape {self.shape} and {self.name} of the model needs "
                f"{(mapping.planes, rows, physical)}, planes, rows and columns{last} of mapping "
                f"{mapping.kind}: {self._why(mapping.planes, rows, physical)}"
            )
        scale = self.scale
        if scale is None:
            if hardware is None and self.window is None:
                raise InputError(
                    f"{self.path} has no attribute scale (S per weight unit): add it, or give the "
                    "hardware whose conductance window the weights were mapped to"
                )
            scale = mapping.scale(columns)
        elif scale.size not in (1, cols):
            raise InputError(f"{self.path}: {scale.size} scales for {cols} columns: expected 1 or {cols}")
        return mapping, scale
