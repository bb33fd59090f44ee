"""One block of an array with its converters on tensors: `crossbar.readout.Readout` for any device."""

from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from crossbar_sim.crossbar.converters import GaussianReadNoise, TelegraphNoise, fixed_range
from crossbar_sim.crossbar.mapping import Mapping
from crossbar_sim.crossbar.readout import EFFECTS, Converters, Periphery, Readout, unit_of, weights_of
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.nn.tensor_tiles import fused
from crossbar_sim.nn.tensor_tiles.driving import Driven, check_inputs, drive, wide
from crossbar_sim.nn.tensor_tiles.product import TensorPlanes, product

# The conductances that converters read: Eq. (21), (25) to (27) of docs/periphery.md, as in crossbar/readout.py.


def _mean(noise: GaussianReadNoise | TelegraphNoise | None, g: Tensor) -> Tensor:
    if isinstance(noise, TelegraphNoise):
        return g * _single(1 - noise.amplitude * noise.occupancy)
    return g


def _variance(noise: GaussianReadNoise | TelegraphNoise, g: Tensor, g_max: float) -> Tensor:
    if isinstance(noise, TelegraphNoise):
        return g * _single(noise.amplitude**2 * noise.occupancy * (1 - noise.occupancy)) * g
    base = torch.full_like(g, g_max) if noise.of == "g_max" else g
    return (base * _single(noise.sigma)).square_()


def _single(value: float) -> float:
    return float(np.float32(value))


def _level(g: Tensor, low: float, unit: float) -> Tensor:
    """The level of g above `low` in steps of `unit`, to single precision; -1 if g is between levels."""
    level = ((g - low) / unit + 0.5).floor_()
    return torch.where((g - (low + level * unit)).abs() <= 2.0**-22 * g, level, -1.0)


def _in_levels(g: Tensor, mapping: Mapping) -> Tensor:
    """Conductances in `unit_of` S, those on a level exactly there."""
    if mapping.levels is None:
        return g
    unit = unit_of(mapping)
    level = _level(g.double(), mapping.g_min, unit)
    return torch.where(level >= 0, (level + mapping.g_min / unit).float(), g / _single(unit))


def _differences(g: Tensor, other: Tensor, mapping: Mapping) -> Tensor:
    """g - other in `unit_of` S; exactly an integer where both are on a level."""
    if mapping.levels is None:
        return g - other
    unit = unit_of(mapping)
    a, b = _level(g.double(), mapping.g_min, unit), _level(other.double(), mapping.g_min, unit)
    there = (a >= 0) & (b >= 0)
    return torch.where(there, (a - b).float(), g / _single(unit) - other / _single(unit))


class TensorReadout(Converters):
    """One block of an array with its converters, computed on the device of its planes.

    Args:
        planes: those that multiply, (planes, m, physical columns) in S, float32.
        mapping, scale, tile_rows, periphery, first_column, group, reference_column: see `Converters`.
    """

    def __init__(
        self,
        planes: Tensor,
        mapping: Mapping,
        scale: Float32,
        tile_rows: int,
        periphery: Periphery,
        first_column: int = 0,
        group: int = 0,
        reference_column: int | None = None,
    ) -> None:
        super().__init__(
            tuple(planes.shape), mapping, scale, tile_rows, periphery, first_column, group, reference_column
        )
        self.planes = planes
        self._ready: dict[tuple[bool, float | None], TensorPlanes] = {}
        self._unscale = torch.from_numpy(self.inverse).to(planes.device)

    @cached_property
    def on_cpu(self) -> Readout:
        """The same block for the kernels of the CPU."""
        return Readout(
            self.planes.cpu().contiguous().numpy(), self.mapping, self.scale, self.tile_rows, self.periphery,
            self.first_column, self.group, self.reference_column,
        )  # fmt: skip

    @cached_property
    def flipped(self) -> NDArray[np.bool_] | None:
        """Which columns of which tiles are stored as their complement, (reads, tiles, n); None: none are."""
        if self.periphery.adc is None or self.periphery.adc.encoding is None:
            return None
        planes, rows, n = self.shape
        tiles = -(-rows // self.tile_rows)
        g = F.pad(self.planes.to(wide(self.planes.device)), (0, 0, 0, tiles * self.tile_rows - rows))
        sums = g.view(planes, tiles, self.tile_rows, n).sum(2)
        found = (sums > torch.from_numpy(self.half_of_tiles()).to(sums)[:, None]).cpu().numpy()
        return found if bool(found.any()) else None

    def _of_rows(self, tiles: NDArray[np.generic]) -> Tensor:
        """Values of each tile (reads, tiles, n), repeated for each word line (reads, m, n)."""
        held = torch.from_numpy(np.ascontiguousarray(tiles)).to(self.planes.device)
        return held.repeat_interleave(self.tile_rows, dim=1)[:, : self.shape[1]]

    @cached_property
    def _turning(self) -> TensorPlanes | None:
        """What the digital side adds to minus a flipped column: the largest sum times the inputs, slices added up."""
        if self.flipped is None:
            return None
        each = np.einsum("r,rtn->tn", self.turning, self.flipped)[None].astype(np.float32)
        return TensorPlanes(
            self._of_rows(each), tile_rows=max(self.shape[1], 1), weights=np.ones(1, np.float32)
        )

    def ready(self, full_scale: float, effects: tuple[str, ...]) -> TensorPlanes:
        """Planes and converters for inputs whose code `full_scale` is 1 V; cached."""
        name = (self.noisy(effects), full_scale if self.converting(effects) else None)
        if name not in self._ready:
            self._ready[name] = self._made(*name)
        return self._ready[name]

    def _made(self, noisy: bool, full_scale: float | None) -> TensorPlanes:
        mapping, noise = self.mapping, self.periphery.read_noise if noisy else None
        quantiser = None if full_scale is None else self.quantiser(full_scale)
        g, variance = _mean(noise, self.planes), None
        if noise is not None:
            unit = _single(unit_of(mapping))
            variance = _variance(noise, self.planes, mapping.g_max) / unit / unit
        if self.per == "column":
            read = _in_levels(g, mapping)
        elif mapping.planes_per_copy == 2:
            read = _differences(g[0::2], g[1::2], mapping)
            variance = None if variance is None else variance[0::2] + variance[1::2]
        else:
            read = _differences(g[:, :, :-1], g[:, :, -1:], mapping)
            variance = None if variance is None else variance[:, :, :-1] + variance[:, :, -1:]
        flipped = self.flipped if quantiser is not None else None
        if flipped is not None:
            whole = (self.largest_cell - read.double()).float()
            read = torch.where(self._of_rows(flipped), whole, read)
        return TensorPlanes(
            read, tile_rows=self.tile_rows, weights=weights_of(mapping, self.per), variance=variance,
            quantiser=quantiser, signs=1.0 if flipped is None else np.where(flipped, -1.0, 1.0),
        )  # fmt: skip

    def drive(self, x: Tensor, effects: tuple[str, ...] = EFFECTS) -> Driven:
        """Inputs (b, n) after the DACs."""
        p = self.periphery
        dac = p.dac if "dac" in effects else None
        if dac is not None and dac.bits is not None and len(x) and self._fuses(x.device, effects):
            full = fixed_range(dac, p.ranges, p.name)
            codes, unit, finite = fused.drive(x, float(dac.top), full)
            check_inputs(finite)
            return Driven(codes[None], np.ones(1, np.float32), float(dac.full_scale), unit)
        return drive(x, dac, p.ranges, p.name)

    def _fuses(self, device: torch.device, effects: tuple[str, ...]) -> bool:
        """Whether a Triton kernel computes the products of inputs behind the DACs."""
        dac, adc = self.periphery.dac, self.periphery.adc
        plain = (
            dac is not None
            and "dac" in effects
            and dac.phases == dac.slices == 1
            and 1 <= dac.top <= fused.LARGEST
        )
        converted = adc is not None and self.converting(effects) and adc.bits is not None and adc.bits <= 20
        special = self.noisy(effects) or self.reference or self.flipped is not None
        return plain and converted and not special and fused.usable(device)

    def read(
        self,
        driven: Driven,
        event: int = 0,
        first: int = 0,
        effects: tuple[str, ...] = EFFECTS,
        images: bool = False,
    ) -> Tensor:
        """Outputs (b, n) in weight units for driven input vectors (reads, b, m).

        Args:
            driven: inputs after the DACs.
            event: the number of this read of the array: names its noise.
            first: number of the first input vector within the event.
            effects: those that act; of the ones that the design has.
            images: whether `Readout.images` would read these patches: it rounds in another order.

        Raises:
            InputError: if a range is not calibrated.
        """
        if not self.shape[1]:  # no word lines, no current, and no range for one
            return driven.codes.new_zeros(driven.codes.shape[1], len(self.inverse_columns))
        planes = self.ready(driven.full_scale, effects)
        if self._fuses(driven.codes.device, effects):
            return fused.read(planes, driven.codes[0], driven.unit, self._unscale, images)
        conversions = len(driven.codes) * planes.reads * planes.tiles
        stream = self.stream(conversions, event) if self.noisy(effects) else None
        y = product(planes, driven.codes, driven.weights, stream, first)
        if planes.quantiser is not None and self._turning is not None:
            weights = torch.from_numpy(driven.weights).to(y.device)
            codes = torch.tensordot(weights, driven.codes, 1)[None]
            y += product(self._turning, codes, np.ones(1, np.float32))
        if self.reference:
            y = y[:, :-1] - y[:, -1:]
        unit = driven.unit[:, None]
        return y.mul_(unit * self._unscale) if images else y.mul_(unit).mul_(self._unscale)

    def weight(self) -> Tensor:
        """Eq. (5): the weights that the planes stand for, (n, m), by the operations of `read_weight`."""
        mapping, total = self.mapping, None
        for first in range(0, mapping.planes, mapping.planes_per_copy):
            g = self.planes[first]
            part = g - self.planes[first + 1] if mapping.planes_per_copy == 2 else g[:, :-1] - g[:, -1:]
            part = part * _single(mapping.weight_of(first)) if mapping.weighted else part
            total = part if total is None else total + part
        assert total is not None
        inverse = torch.from_numpy(np.ascontiguousarray(mapping.inverse(self.scale))).to(total.device)
        return (total * inverse + 0.0).T
