"""What became of a layer, in the words of the report."""

from dataclasses import dataclass, field

from crossbar_sim.crossbar.array import Geometry
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.nn.slot import Slot


@dataclass(frozen=True)
class Layer:
    """What became of one layer: on arrays or digital, and why.

    Args:
        name: in the model; kind: its class, or its operator in an exported graph.
        analog: whether a matrix of it is on arrays.
        reason: in words, for the report.
        slots: its arrays and drifting vectors.
        left: (parameter, why) of those matrices of an analog layer that are on no array.
    """

    name: str
    kind: str
    analog: bool
    reason: str
    slots: tuple[Slot, ...] = field(default=(), repr=False)
    left: tuple[tuple[str, str], ...] = ()

    @property
    def matrices(self) -> tuple[Slot, ...]:
        """The arrays of its weight matrices."""
        return tuple(slot for slot in self.slots if self.analog and slot.layout.order != "vector")

    def geometries(self, hardware: Hardware) -> list[Geometry]:
        """Cells and tiles of its weight matrices."""
        return [hardware.geometry(s.rows, s.layout.cols, s.layout.groups) for s in self.matrices]
