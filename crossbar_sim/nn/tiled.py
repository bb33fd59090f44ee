"""An array of a layer with its converters, and the products of linear layers with it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from crossbar_sim.crossbar.array import read_weight
from crossbar_sim.crossbar.drive import Driven
from crossbar_sim.crossbar.periphery import EFFECTS, Readout
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.errors import InputError
from crossbar_sim.nn.design import Design
from crossbar_sim.nn.slot import Slot

Probe = Callable[["Tiled", int, Float32, Driven, int], None]
"""Called with the array, the group, its input vectors (b, rows), what the DACs make of them, the first one's number."""


@dataclass(eq=False)
class Tiled:
    """One array of a layer with its converters, on one chip.

    Args:
        slot: which parameters it stands for.
        design: what the model shares.
        blocks: one readout for each group.
    """

    slot: Slot
    design: Design
    blocks: tuple[Readout, ...]

    @property
    def effects(self) -> tuple[str, ...]:
        """Those that act for the moment."""
        return EFFECTS if self.design.effects is None else self.design.effects

    def weight(self) -> Tensor:
        """The effective weights that the planes stand for, (groups cols, rows): those of the linear read-out."""
        found = [read_weight(block.planes, block.mapping, block.scale).T for block in self.blocks]
        return torch.from_numpy(np.concatenate(found))

    def drive(self, x: Tensor, row: bool) -> tuple[Float32, Driven]:
        """Inputs (b, n) as float32, with the 1 of a bias row (or its 0) at the end, and what the DACs make of them."""
        if x.device.type != "cpu":
            raise InputError(
                f"{self.slot.name}: converters and read noise are simulated on the CPU: use --device cpu"
            )
        flat = x.detach().float()
        if self.slot.bias is not None:
            flat = torch.cat([flat, torch.full((len(flat), 1), 1.0 if row else 0.0)], dim=1)
        vectors = flat.contiguous().numpy()
        return vectors, self.blocks[0].drive(vectors, self.effects)

    def read(self, group: int, x: Float32, driven: Driven, event: int, first: int) -> Float32:
        """Outputs (b, cols) of one group for input vectors (b, rows)."""
        if self.design.probe is not None:
            self.design.probe(self, group, x, driven, first)
        return self.blocks[group].read(driven, event, first, self.effects)
