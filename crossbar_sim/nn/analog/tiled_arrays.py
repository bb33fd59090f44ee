"""An array of a layer in tiles, with its converters: how it reads vectors, images, and sums over places."""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from crossbar_sim.crossbar.array import read_weight
from crossbar_sim.crossbar.converters import DrivenInputs
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.readout import EFFECTS, Readout
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.nn.analog.state import AnalogState, ArraySlot, next_read
from crossbar_sim.nn.analog.stored_matrices import BlockRead
from crossbar_sim.nn.tensor_tiles.driving import Driven
from crossbar_sim.nn.tensor_tiles.readout import TensorReadout

# An array of a layer with its converters, and the products of linear layers with it.


Probe = Callable[["Tiled", int, Float32, DrivenInputs, int], None]
"""Called with the array, the group, its input vectors (b, rows), what the DACs make of them, the first one's number."""


@dataclass(eq=False)
class Tiled:
    """One array of a layer with its converters, on one chip.

    Args:
        slot: which parameters it stands for.
        design: what the model shares.
        blocks: one readout for each group: for the kernels of the CPU, or on tensors.
        plans: how products read views of the weight, found at the first of them.
    """

    slot: ArraySlot
    design: AnalogState
    blocks: tuple[Readout, ...] | tuple[TensorReadout, ...]
    plans: dict[Hashable, tuple[tuple[BlockRead, ...], ...] | None] = field(default_factory=dict, repr=False)

    @property
    def own(self) -> Hardware:
        """The design of its layer."""
        return self.design.of(self.slot.layer)

    @property
    def effects(self) -> tuple[str, ...]:
        """The currently active effects."""
        return EFFECTS if self.design.effects is None else self.design.effects

    def block(self, group: int) -> Readout:
        """The block of a group for the kernels of the CPU, wherever it is computed."""
        block = self.blocks[group]
        return block.on_cpu if isinstance(block, TensorReadout) else block

    def weight(self) -> Tensor:
        """The effective weights that the planes stand for, (groups cols, rows): those of the linear read-out."""
        return torch.cat(
            [
                block.weight()
                if isinstance(block, TensorReadout)
                else torch.from_numpy(read_weight(block.planes, block.mapping, block.scale).T)
                for block in self.blocks
            ]
        )

    def drive(self, x: Tensor, row: bool) -> tuple[Tensor, Driven]:
        """Inputs (b, n) as float32, with the 1 (or 0) of a bias row at the end, and the outputs of the DACs."""
        vectors, block = x.detach().float(), self.blocks[0]
        if self.slot.bias is not None:
            drives = vectors.new_full((len(vectors), 1), 1.0 if row else 0.0)
            vectors = torch.cat([vectors, drives], dim=1)
        vectors = vectors.contiguous()
        if isinstance(block, TensorReadout):
            return vectors, block.drive(vectors, self.effects)
        return vectors, Driven.of(block.drive(vectors.numpy(), self.effects))

    def read(
        self, group: int, x: Tensor, driven: Driven, event: int, first: int, images: bool = False
    ) -> Tensor:
        """Outputs (b, cols) of one group for input vectors (b, rows); see `TensorReadout.read` for `images`."""
        if self.design.probe is not None:
            self.design.probe(self, group, x.cpu().contiguous().numpy(), driven.arrays(), first)
        block = self.blocks[group]
        if isinstance(block, TensorReadout):
            return block.read(driven, event, first, self.effects, images)
        return torch.from_numpy(block.read(driven.arrays(), event, first, self.effects))


# Convolutions through an array's converters, without unfolding a whole batch.


CACHED, RESIDENT = 1 << 20, 1 << 26
"""Floats that are unfolded at a time where the kernel cannot read images as they lie: 4 MB on the CPU, else 256 MB."""


def _workspace(x: Tensor) -> int:
    return CACHED if x.device.type == "cpu" else RESIDENT


@dataclass(frozen=True)
class Window:
    """The arguments of a convolution, one value for each dimension; padding before and after."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    dilation: tuple[int, ...]
    groups: int

    def places(self, sizes: tuple[int, ...]) -> tuple[int, ...]:
        """Outputs along each dimension for inputs of these sizes."""
        each = zip(sizes, self.kernel, self.stride, self.padding, self.dilation, strict=True)
        return tuple((n + sum(p) - (k - 1) * d - 1) // s + 1 for n, k, s, p, d in each)

    @property
    def flat(self) -> dict[str, tuple[int, int]] | None:
        """The arguments in two dimensions; None where there are more, or padding is unlike on the two sides."""
        if len(self.kernel) > 2 or any(before != after for before, after in self.padding):
            return None
        missing = 2 - len(self.kernel)
        return {
            "kernel": _two(self.kernel, 1, missing), "stride": _two(self.stride, 1, missing),
            "padding": _two(tuple(p for p, _ in self.padding), 0, missing),
            "dilation": _two(self.dilation, 1, missing),
        }  # fmt: skip

    def patches(self, images: Tensor) -> Tensor:
        """Input vectors, word lines first, (c kernel, b places), of images (b, c, *sizes); rows as in torch's weight.

        So places that are neighbours in an image stay neighbours: copying them is several times faster.
        """
        windows = F.pad(images, [p for pair in reversed(self.padding) for p in pair])
        dims = len(self.kernel)
        for i, (k, s, d) in enumerate(zip(self.kernel, self.stride, self.dilation, strict=True)):
            windows = windows.unfold(2 + i, (k - 1) * d + 1, s)
        windows = windows[(..., *(slice(None, None, d) for d in self.dilation))]  # type: ignore[index]
        channels, lines = images.shape[1], math.prod(self.kernel)
        vectors = windows.movedim(0, 1).movedim(
            tuple(range(2 + dims, 2 + 2 * dims)), tuple(range(1, 1 + dims))
        )
        return vectors.reshape(channels * lines, -1)  # from (c, *kernel, b, *places)


def _two(values: tuple[int, ...], fill: int, missing: int) -> tuple[int, int]:
    first, last = (fill,) * missing + tuple(values)
    return first, last


def convolve(x: Tensor, tiled: Tiled, window: Window, row: bool) -> Tensor:
    """Images (b, c, *sizes) to (b, groups cols, *places), through the converters of every group.

    Raises:
        InputError: as `Readout.product`.
    """
    event, first = next_read(tiled.design, tiled.slot.name, len(x), len(x))
    sizes, cols = tuple(x.shape[2:]), tiled.slot.layout.cols
    places = window.places(sizes)
    shape = (len(x), window.groups * cols, *places)
    if min(places) < 1 or not len(x):  # torch says what is wrong, or gives nothing
        return x.new_empty(shape)
    vectors, driven = tiled.drive(x.reshape(len(x), -1), row)
    out, flat = torch.empty(shape, device=x.device), window.flat
    whole = flat is not None and tiled.slot.bias is None and tiled.design.probe is None
    blocks = [block for block in tiled.blocks if isinstance(block, Readout)]
    if not (whole and blocks):
        _by_patches(x, vectors, driven, tiled, window, event, first, out, whole)
        return out.to(x.dtype)
    assert flat is not None
    arrays, lines = driven.arrays(), sizes if len(sizes) == 2 else (1, *sizes)
    images = arrays._replace(codes=arrays.codes.reshape(-1, *x.shape[:2], *lines))
    result = out.numpy().reshape(*shape[:2], *(places if len(places) == 2 else (1, *places)))
    for g, block in enumerate(blocks):
        channels = g * x.shape[1] // window.groups
        block.images(images, flat, channels, event, first, result, g * cols, tiled.effects)
    return out.to(x.dtype)


def _by_patches(
    x: Tensor,
    vectors: Tensor,
    driven: Driven,
    tiled: Tiled,
    window: Window,
    event: int,
    first: int,
    out: Tensor,
    whole: bool,
) -> None:
    """Unfold a few images at a time: for bias rows, three dimensions, uneven padding, probes, and on tensors."""
    cols, rows, (b, c) = tiled.slot.layout.cols, tiled.slot.rows, x.shape[:2]
    places = out.shape[2:]
    pixels, size, each = math.prod(places), math.prod(x.shape[1:]), c // window.groups
    has_row = tiled.slot.bias is not None
    step = max(1, _workspace(x) // max(pixels * rows * len(driven.codes), 1))
    for start in range(0, b, step):
        part = slice(start, min(start + step, b))
        n = part.stop - start

        def unfolded(values: Tensor, group: int) -> Tensor:
            """Input vectors (reads, places, rows) of images (reads, n, size), the bias row's number at their end."""
            images = values[..., :size].reshape(-1, c, *x.shape[2:])
            patches = window.patches(images[:, group * each : (group + 1) * each])
            if has_row:
                row = values[..., size:].reshape(1, -1).repeat_interleave(pixels, dim=1)
                patches = torch.cat([patches, row])
            return patches.view(len(patches), len(values), -1).permute(1, 2, 0)

        unit = driven.unit if len(driven.unit) == 1 else driven.unit[part].repeat_interleave(pixels)
        for g in range(window.groups):
            codes = unfolded(driven.codes[:, part], g)
            seen = unfolded(vectors[None, part], g)[0] if tiled.design.probe is not None else codes[0]
            part_of = driven._replace(codes=codes, unit=unit)
            y = tiled.read(g, seen, part_of, event, (first + start) * pixels, whole)
            out[part, g * cols : (g + 1) * cols] = y.reshape(n, *places, cols).movedim(-1, 1)


def spread(x: Tensor, tiled: Tiled, groups: int, gather: Callable[[Tensor], Tensor]) -> Tensor:
    """A transposed convolution: each place of the images (b, c, *sizes) drives its group's word lines once.

    Args:
        gather: adds the bit lines of all places (b, groups cols, *sizes) up to the outputs.

    Raises:
        InputError: as `Readout.product`.
    """
    cols, (b, c), sizes = tiled.slot.layout.cols, x.shape[:2], x.shape[2:]
    event, first = next_read(tiled.design, tiled.slot.name, b, b)
    places, each = math.prod(sizes), c // groups
    vectors, driven = tiled.drive(x.reshape(b, math.prod(x.shape[1:])), False)
    step = max(1, _workspace(x) // max(places * groups * cols, 1))
    outputs = []
    for start in range(0, b, step) if b else (0,):
        part = slice(start, min(start + step, b))
        n = part.stop - start
        y = torch.empty(n, groups * cols, *sizes, device=x.device)
        unit = driven.unit if len(driven.unit) == 1 else driven.unit[part].repeat_interleave(places)
        for g in range(groups):
            own = slice(g * each, (g + 1) * each)

            def lines(images: Tensor, n: int = n, own: slice = own) -> Tensor:
                return images.reshape(n, c, places)[:, own].transpose(1, 2).reshape(n * places, each)

            codes = torch.stack([lines(read[part]) for read in driven.codes])
            seen = lines(vectors[part]) if tiled.design.probe is not None else codes[0]
            read = tiled.read(
                g, seen, driven._replace(codes=codes, unit=unit), event, (first + start) * places
            )
            columns = read.reshape(n, places, cols).transpose(1, 2)
            y[:, g * cols : (g + 1) * cols] = columns.reshape(n, cols, *sizes)
        outputs.append(gather(y))
    return torch.cat(outputs).to(x.dtype)
