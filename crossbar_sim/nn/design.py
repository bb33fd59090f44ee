"""What all analog layers of one model share: the hardware, the seed, the chip, and who takes part."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.mapping import Mapping
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.rng import Key, check_chip

if TYPE_CHECKING:
    from crossbar_sim.nn.layer import Layer
    from crossbar_sim.nn.slot import Slot

Maps = Callable[[str, Float32], Float32 | None]


class Cells(NamedTuple):
    """The conductances of one array from a file.

    Attributes:
        planes: those that multiply, behind the wires, in S: (planes, physical columns, rows).
        mapping: how they read back.
        scale: S per weight unit, (1,) or (cols,).
        tile_rows: word lines of a tile.
        key, chip: name the noise and the mismatch of its converters: those of the file's chip, where it says them.
    """

    planes: Float32
    mapping: Mapping
    scale: Float32
    tile_rows: int
    key: Key
    chip: int


class CellMaps(ABC):
    """Maps that know the cells of each array, so that wires, converters and read noise can act on them."""

    own: Hardware | None
    """The design that the file was simulated with; None: it does not say."""

    cautions: tuple[str, ...] = ()
    """What a user should read about the conductances that were read up to now."""

    @abstractmethod
    def __contains__(self, name: object) -> bool:
        """Whether there is an array of that name."""

    @abstractmethod
    def __call__(self, name: str, columns: Float32, groups: int | None = None) -> Float32 | None:
        """The matrix (cols, rows) that an array stands for, None where there is none; see `Design`."""

    @abstractmethod
    def array(self, name: str, columns: Float32, groups: int, design: "Design") -> Cells:
        """The cells of an array that is there, for its converters.

        Args:
            columns: the clean matrix (cols, rows).
            groups: blocks of columns that have tiles of their own.
            design: gives what the file does not say.
        """


@dataclass(eq=False)
class Design:
    """One object per model, held by every analog layer: reprogramming is setting a field here.

    Args:
        hardware: the design that every array is programmed with.
        seed: of the key that every array's name extends.
        chip: which sample.
        active: names of the layers on their arrays; the others compute with clean weights. None: all.
        layers: what became of every layer with parameters.
        maps: conductance maps of a file in place of simulated ones: given an array's name and its clean matrix
            (cols, rows), the matrix that the map stands for, or None where the file has no such array (which
            then computes clean). None: simulate.
        remap: whether each matrix is placed by the chip's stuck cells; see `nn.remapped`.
        frozen: clean parameters do not change for the moment: they are not looked at again.
        locked: nothing changes for the moment: reads skip the check for stale arrays.
        generation: raised whenever programmed weights have become stale.
        effects: of converters and read noise, those that act for the moment; None: all of the design's.
        probe: called before every product through converters; see `nn.tiled`.
        past: layers with converters from whose weights something was computed past them.
        touched: names of the arrays that have been read, for as long as somebody collects them; None: nobody does.
        recorder: gives what layers read in place of their arrays while `nn.operands` watches a forward.
        reads: how often each array with converters has been read since the chip was set, outside of `reading`.
    """

    hardware: Hardware
    seed: int
    chip: int
    active: frozenset[str] | None = None
    maps: Maps | None = None
    locked: bool = False
    frozen: bool = False
    generation: int = 0
    layers: tuple["Layer", ...] = ()
    effects: tuple[str, ...] | None = None
    probe: Any = None
    reads: dict[str, int] = field(default_factory=dict)
    past: set[str] = field(default_factory=set)
    remap: bool = False
    touched: set[str] | None = None
    recorder: Any = None

    def runs(self, layer: str) -> bool:
        """Whether the layer is on its arrays at present."""
        return self.active is None or layer in self.active

    def tiled(self, slot: "Slot") -> bool:
        """Whether the array's products go through converters, or its reads have noise."""
        if not self.hardware.reading or slot.ideal or slot.layout.order == "vector":
            return False
        return not isinstance(self.maps, CellMaps) or slot.name in self.maps  # what the file lacks is clean

    def set_chip(self, chip: int) -> None:
        """Reprogram to another chip; arrays are rewritten, in place, when they are next read.

        Reads are counted from 0 again in any case: a loop over chips finds the same noise whatever ran before it.
        """
        self.reads = {}
        if chip != self.chip:
            self.chip, self.generation = check_chip(chip), self.generation + 1

    def set_hardware(self, hardware: Hardware) -> None:
        """Reprogram with another design."""
        if hardware != self.hardware:
            self.hardware, self.generation = hardware, self.generation + 1

    def set_maps(self, maps: Maps | None) -> None:
        """Compute with measured or stored conductances instead of simulated ones (None: simulate again).

        Warns if the chip of a file has converters or read noise and the model was mapped without any.
        """
        own = maps.own if isinstance(maps, CellMaps) else None
        if own is not None and own.reading and not self.hardware.reading:
            warnings.warn(
                f"the chip of the file has {', '.join(own.reading)}, and the model was mapped without: its products "
                "are read linearly; call to_analog with the hardware of the file",
                UserWarning, stacklevel=2,
            )  # fmt: skip
        self.maps, self.generation, self.reads = maps, self.generation + 1, {}

    def key(self, name: str) -> Key:
        """The key of the array called `name`: the parameter's name in the model."""
        return Key(self.seed).fold(name)
