"""What became of a layer, in the words of the report."""

from dataclasses import dataclass, field, replace

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
        shared: names of its arrays that are those of a layer before it, and counted there.
    """

    name: str
    kind: str
    analog: bool
    reason: str
    slots: tuple[Slot, ...] = field(default=(), repr=False)
    left: tuple[tuple[str, str], ...] = ()
    shared: tuple[str, ...] = ()

    @property
    def matrices(self) -> tuple[Slot, ...]:
        """The arrays of its weight matrices."""
        return tuple(slot for slot in self.slots if self.analog and slot.layout.order != "vector")

    @property
    def counted(self) -> tuple[Slot, ...]:
        """The arrays of its weight matrices that no layer before it has: shared weights are one set of cells."""
        found = {slot.name: slot for slot in reversed(self.matrices) if slot.name not in self.shared}
        return tuple(slot for slot in self.matrices if found.get(slot.name) is slot)

    def geometries(self, hardware: Hardware) -> list[Geometry]:
        """Cells and tiles of its weight matrices, without those that are counted in a layer before it."""
        return [hardware.geometry(s.rows, s.layout.cols, s.layout.groups) for s in self.counted]


def count_shared(layers: list[Layer]) -> list[Layer]:
    """The layers, those with arrays that a layer before them has marked: a tied weight is one set of cells."""
    first: dict[str, str] = {}
    marked = []
    for layer in layers:
        again = tuple(
            slot.name
            for slot in layer.matrices
            if slot.fold is None and first.setdefault(slot.name, layer.name) != layer.name
        )
        if again:
            others = ", ".join(dict.fromkeys(first[name] for name in again))
            layer = replace(
                layer, shared=again, reason=f"{layer.reason}, shared with {others} and counted there"
            )
        marked.append(layer)
    return marked
