"""Products of inputs with planes through converters on tensors, tile by tile: `crossbar.tiled` for any device.

The rounding of a converter is that of the CPU's kernel: the quotient to 48 bits in float64, rounded to single precision
and then to a code, half to even. Sums over tiles, slices and reads are rounded once each, in the same order.
The sum over the word lines of a tile is torch's, in an order of its own. So outputs are equal bit for bit where
currents are whole numbers of levels; elsewhere a current close to the middle between two codes may be rounded to the
other one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossbar_sim.crossbar.stream import Float32, Stream
from crossbar_sim.crossbar.tiled import Quantiser
from crossbar_sim.crossbar.tiled.planes import Steps
from crossbar_sim.errors import InputError
from crossbar_sim.nn.device import matmul_precision
from crossbar_sim.nn.tensor_cells.stream import normals
from crossbar_sim.nn.tensor_tiles.driving import wide

CACHED, RESIDENT = 1 << 16, 1 << 24
"""Conversions at a time: on the CPU they stay in the second-level cache, elsewhere they fill the device."""


class TensorPlanes:
    """r planes of m word lines by n bit lines on a device, cut into row tiles, each read by its converters.

    As `crossbar.tiled.TiledPlanes`, whose equation says what is computed.
    """

    def __init__(
        self,
        planes: Tensor,
        *,
        tile_rows: int,
        weights: Float32,
        quantiser: Quantiser | None = None,
        variance: Tensor | None = None,
        signs: NDArray[np.floating] | float = 1.0,
    ) -> None:
        """Bring planes and converters in order.

        Args:
            planes: (r, m, n), float32: what each converter reads.
            tile_rows: word lines of a tile; the last tile may have fewer.
            weights: (r,), the digital weight of each read.
            quantiser: the converters; None converts ideally.
            variance: (r, m, n), of each read conductance, for read noise.
            signs: -1 where a code counts negatively; fits (r, T, n).

        Raises:
            InputError: for impossible converters.
        """
        self.reads, self.rows, self.columns = planes.shape
        self.device = planes.device
        self.tile_rows = min(tile_rows, max(self.rows, 1))
        self.tiles = -(-self.rows // self.tile_rows)
        self.weights = weights.astype(np.float32)
        self.planes = _side_by_side(planes)
        self.variance = None if variance is None else _side_by_side(variance)
        self.quantiser = quantiser
        self.step = np.ones((self.tiles, self.reads, self.columns), np.float32)
        self.quotient = self.shift = None
        self._factors: dict[bytes, Tensor] = {}
        self.split: tuple[Tensor, Tensor] | None = None  # as fused.py reads them
        if quantiser is not None:
            own = Steps.of(quantiser, signs, (self.reads, self.tiles, self.columns))
            scale, fine, shift, step = (a.transpose(1, 0, 2) for a in own)
            self.step = step
            self.quotient = self._put(scale.astype(np.float64) + fine)
            self.shift = self._put(shift) if shift.any() else None

    def _put(self, values: NDArray[np.floating]) -> Tensor:
        kind = wide(self.device)
        return torch.from_numpy(np.ascontiguousarray(values)).to(kind).to(self.device)

    def factors(self, input_weights: Float32) -> Tensor:
        """What one code of each conversion counts for, (T, s, r, n), rounded to single precision as in the kernel."""
        name = input_weights.tobytes()
        if name not in self._factors:
            of_read = (input_weights[:, None] * self.weights).astype(np.float32)
            self._factors[name] = self._put(of_read[None, :, :, None] * self.step[:, None])
        return self._factors[name]


def _side_by_side(planes: Tensor) -> Tensor:
    """(r, m, n) as (m, r n): all that a word line drives lies together."""
    return planes.permute(1, 0, 2).reshape(planes.shape[1], -1).contiguous()


@contextmanager
def single_precision(device: torch.device) -> Iterator[None]:
    """Inside, products of float32 are not rounded to fewer bits: neither TF32 nor autocast, whatever is set outside."""
    before = matmul_precision()
    with torch.autocast(device.type, enabled=False):
        if before == "highest":
            yield
            return
        if before is None:
            backends: Any = torch.backends
            switch = backends.cuda.matmul if device.type == "cuda" else backends.mkldnn.matmul
            held, switch.fp32_precision = switch.fp32_precision, "ieee"
            try:
                yield
            finally:
                switch.fp32_precision = held
            return
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def product(
    planes: TensorPlanes, codes: Tensor, input_weights: Float32, stream: Stream | None = None, first: int = 0
) -> Tensor:
    """Read every input: (s, b, m) to (b, n), digital sums; see `crossbar.tiled.product`.

    Args:
        planes: with their converters.
        codes: driven inputs, float32, one (b, m) for each slice.
        input_weights: (s,), the digital weight of each input slice.
        stream: names the read event where there is read noise.
        first: the number of the first input.

    Raises:
        InputError: if there are too many random numbers for one event.
    """
    slices, batch, _ = codes.shape
    if stream is not None and (first + batch) * planes.columns >= 1 << 34:
        raise InputError(
            f"{first + batch} inputs of {planes.columns} columns: read noise has 2^34 numbers per event; "
            "evaluate fewer examples at a time, or give the rest of the inputs another event"
        )
    out = codes.new_zeros(batch, planes.columns)
    size = CACHED if codes.device.type == "cpu" else RESIDENT
    step = max(size // max(slices * planes.reads * planes.columns, 1), 16)
    factors = planes.factors(input_weights)
    with single_precision(codes.device):
        for begin in range(0, batch if out.numel() else 0, step):
            block = slice(begin, begin + step)
            _read(planes, codes[:, block], factors, stream, first + begin, out[block])
    return out


def _read(
    planes: TensorPlanes, codes: Tensor, factors: Tensor, stream: Stream | None, first: int, out: Tensor
) -> None:
    """Eq. (21) to (29) of one block."""
    slices, batch, _ = codes.shape
    shape = (slices, batch, planes.reads, planes.columns)
    total = torch.zeros_like(out, dtype=factors.dtype)
    values, exact = codes.new_empty(shape), torch.empty(shape, dtype=factors.dtype, device=codes.device)
    for t in range(planes.tiles):
        tile = slice(t * planes.tile_rows, (t + 1) * planes.tile_rows)
        for s in range(slices):
            torch.mm(codes[s, :, tile], planes.planes[tile], out=values[s].view(batch, -1))
        if stream is not None:
            values += _noise(planes, codes[:, :, tile], tile, shape, stream, t, first)
        exact.copy_(values)
        if planes.quantiser is not None and planes.quotient is not None:
            exact *= planes.quotient[t]
            if planes.shift is not None:
                exact += planes.shift[t]
            values.copy_(exact).round_().clamp_(planes.quantiser.low, planes.quantiser.high)
            exact.copy_(values)
        for s in range(slices):
            for r in range(planes.reads):
                total.addcmul_(exact[s, :, r], factors[t, s, r])
                total.copy_(out.copy_(total))  # rounded to single precision


def _noise(
    planes: TensorPlanes,
    codes: Tensor,
    tile: slice,
    shape: tuple[int, ...],
    stream: Stream,
    t: int,
    first: int,
) -> Tensor:
    """Eq. (24): a normal number for each conversion of a tile, (s, b, r, n)."""
    assert planes.variance is not None
    slices, batch, reads, columns = shape
    spread = ((codes * codes) @ planes.variance[tile]).sqrt_().view(shape)
    for s in range(slices):
        for r in range(reads):
            plane = stream.plane + (s * reads + r) * planes.tiles + t
            own = Stream(stream.k0, stream.k1, plane, stream.chip, stream.event)
            z = _cells(first * columns, batch * columns, own, codes.device)
            spread[s, :, r] *= z.view(batch, columns)
    return spread


def _cells(first: int, count: int, stream: Stream, device: torch.device) -> Tensor:
    """Standard normals of cells first .. first + count, float32."""
    skip = first % 256
    return normals(skip + count, stream, device, first - skip)[skip:]
