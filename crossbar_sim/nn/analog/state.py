"""State shared by the analog layers of a model: the design, the chip, the arrays, and the numbering of reads."""

import math
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from crossbar_sim.crossbar.array import Geometry
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.layer_designs import Design, design_at, readout_effects
from crossbar_sim.crossbar.mapping import Mapping
from crossbar_sim.crossbar.stream import Float32
from crossbar_sim.nn.analog.matrices import Fold, Layout
from crossbar_sim.rng import Key, check_chip

# Whether a parameter's values may have changed since its array was programmed.


@dataclass(frozen=True, eq=False)
class _Held:
    """A tensor compared by identity; the reference keeps its memory from being reused."""

    tensor: Tensor

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held) and self.tensor is other.tensor

    def __hash__(self) -> int:
        return id(self.tensor)


def version_of(parameter: Tensor | None) -> tuple[object, ...]:
    """A tag that changes whenever the parameter's values may have changed."""
    if parameter is None:
        return ()
    version = -1 if parameter.is_inference() else parameter._version
    kind = (parameter.data_ptr(), version, parameter.device, parameter.dtype)
    return _Held(parameter), *kind, _fingerprint(parameter)


def _fingerprint(parameter: Tensor) -> int:
    """The sum of the parameter's memory as 64-bit integers: p.data.add_(...) raises no version.

    A tenth of a nanosecond per weight; only on the CPU, since it would make a GPU's queue wait.
    """
    # in the order of memory: channels may lie last
    strides = parameter.stride()
    dense = parameter.detach().permute(sorted(range(len(strides)), key=lambda i: -strides[i]))
    if parameter.device.type != "cpu" or not dense.is_contiguous():
        return 0
    flat = dense.view(-1)
    per_word = 8 // math.gcd(8, flat.element_size())
    first = min(-flat.storage_offset() % per_word, flat.numel())
    last = first + (flat.numel() - first) // per_word * per_word
    words = flat[first:last].view(torch.int64).sum().item() if last > first else 0
    return hash((words, *flat[:first].tolist(), *flat[last:].tolist()))


# One array of a layer: its parameters and their clean matrix.


@dataclass(eq=False)
class ArraySlot:
    """One array of a layer and the parameters that it holds.

    Args:
        name: the array's name: that of its weight in the model (of the first module that has it, if shared).
        layer: name of the layer in the model.
        layout: how the weight is a matrix.
        weight, bias: parameter names in the module; `bias` only where it is one more row of the array.
        fold: gives the weight and bias with the normalisation behind them folded in.
        ideal: no array at all, the clean (folded) value: a digital bias that folding has changed.
        in_parts: whether products take the bias by a view, as a part of it.
    """

    name: str
    layer: str
    layout: Layout
    weight: str
    bias: str | None = None
    fold: Fold | None = None
    ideal: bool = False
    in_parts: bool = False
    scale: tuple[Any, Any] | None = field(default=None, init=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the cache out of copies and pickles."""
        return {**self.__dict__, "scale": None}

    def sources(self, module: nn.Module) -> list[Tensor | None]:
        """Every tensor that the clean values depend on."""
        sources: list[Tensor | None] = [module._parameters.get(name) for name in self.names]
        return sources if self.fold is None else sources + self.fold.sources(module)

    def state(self, module: nn.Module) -> tuple[object, ...]:
        """Equal as long as the clean values are the same."""
        return tuple(map(version_of, self.sources(module)))

    def on_meta(self, module: nn.Module) -> bool:
        """Whether there are shapes only, and nothing to program."""
        return any(t is not None and t.is_meta for t in self.sources(module))

    def clean(self, module: nn.Module) -> tuple[Tensor, Tensor | None]:
        """The weight and, where the slot has one, the bias, without any hardware."""
        if self.fold is not None:
            folded = self.fold(module)
            return folded["weight" if self.layout.order != "vector" else "bias"], (
                folded["bias"] if self.bias else None
            )
        weight = module._parameters.get(self.weight)  # by `get`, which never reads the array
        assert weight is not None
        return weight, module._parameters.get(self.bias) if self.bias else None

    def columns(self, module: nn.Module) -> Tensor:
        """The transposed matrix (cols, rows) as it is to be programmed, differentiable."""
        weight, bias = self.clean(module)
        columns = self.layout.columns(weight)
        return columns if bias is None else torch.cat([columns, bias.reshape(-1, 1)], dim=1)

    def split(self, columns: Tensor) -> tuple[Tensor, Tensor | None]:
        """Split the matrix (cols, rows) into the weight, in the parameter's shape, and the bias."""
        if self.bias is None:
            return self.layout.parameter(columns), None
        return self.layout.parameter(columns[:, :-1]), columns[:, -1]

    @property
    def rows(self) -> int:
        """Word lines of the array, the bias row included."""
        return self.layout.rows + (self.bias is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters of the module that the slot provides."""
        return (self.weight,) if self.bias is None else (self.weight, self.bias)

    def size(self, module: nn.Module) -> int:
        """Bytes of what the slot provides."""
        found = (module._parameters.get(name) for name in self.names)
        return sum(p.numel() * p.element_size() for p in found if p is not None)


# How a layer was mapped, for reports.


@dataclass(frozen=True)
class Layer:
    """How one layer was mapped: on arrays or digital, and why.

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
    slots: tuple[ArraySlot, ...] = field(default=(), repr=False)
    left: tuple[tuple[str, str], ...] = ()
    shared: tuple[str, ...] = ()

    @property
    def matrices(self) -> tuple[ArraySlot, ...]:
        """The arrays of its weight matrices."""
        return tuple(slot for slot in self.slots if self.analog and slot.layout.order != "vector")

    @property
    def counted(self) -> tuple[ArraySlot, ...]:
        """The arrays of its weight matrices that no layer before it has: shared weights are one set of cells."""
        found = {slot.name: slot for slot in reversed(self.matrices) if slot.name not in self.shared}
        return tuple(slot for slot in self.matrices if found.get(slot.name) is slot)

    def geometries(self, hardware: Hardware) -> list[Geometry]:
        """Cells and tiles of its weight matrices, without those that are counted in a layer before it."""
        return [hardware.geometry(s.rows, s.layout.cols, s.layout.groups) for s in self.counted]


def count_shared(layers: list[Layer]) -> list[Layer]:
    """Mark layers whose arrays belong to an earlier layer: a tied weight is one set of cells."""
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


# What all analog layers of one model share: the hardware, the seed, the chip, and who takes part.


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
    """Maps with the cells of each array, so that wires, converters and read noise can act on them."""

    own: Design | None
    """The design that the file was simulated with; None: it does not say."""

    cautions: tuple[str, ...] = ()
    """What a user should read about the conductances that were read up to now."""

    @abstractmethod
    def __contains__(self, name: object) -> bool:
        """Whether there is an array of that name."""

    @abstractmethod
    def __call__(self, name: str, columns: Float32, groups: int | None = None) -> Float32 | None:
        """The matrix (cols, rows) of the named array, None if there is no such array; see `AnalogState`."""

    @abstractmethod
    def array(self, name: str, columns: Float32, groups: int, design: "AnalogState") -> Cells:
        """The cells of an array that is there, for its converters.

        Args:
            columns: the clean matrix (cols, rows).
            groups: blocks of columns that have tiles of their own.
            design: gives what the file does not say.
        """


@dataclass(eq=False)
class AnalogState:
    """State of an analog model, shared by all its layers: setting a field here reprograms the model.

    Args:
        hardware: the design that arrays are programmed with, or a design per layer; see `of`.
        seed: of the key that every array's name extends.
        chip: which sample.
        active: names of the layers on their arrays; the others compute with clean weights. None: all.
        layers: what became of every layer with parameters.
        maps: conductance maps of a file in place of simulated ones: given an array's name and its clean matrix
            (cols, rows), the matrix that the map stands for, or None where the file has no such array (which
            then computes clean). None: simulate.
        remap: whether each matrix is placed by the chip's stuck cells; see `chips.remap_arrays`.
        frozen: clean parameters do not change for the moment: they are not looked at again.
        locked: nothing changes for the moment: reads skip the check for stale arrays.
        generation: raised whenever programmed weights have become stale.
        effects: of converters and read noise, those that act for the moment; None: all of the design's.
        probe: called before every product through converters; see `products`.
        bypassed: layers with converters from whose weights something was computed past them.
        later: layers with converters that act on a product on which they did not act in earlier versions.
        touched: names of the arrays that have been read, for as long as somebody collects them; None: nobody does.
        recorder: gives what layers read in place of their arrays while `trace_operands` follows a forward.
        reads: how often each array with converters has been read since the chip was set, outside of `numbered_reads`.
        streamed: names of the arrays that are programmed for each use, to save memory; see `chips.fit_memory`.
        held: of those, the one that each thread has read last.
        tensors: whether arrays in the CPU's memory are computed by operations on tensors too; see `on_tensors`.
        pending: arrays on a GPU that are to be programmed by one launch; None: each by its own. See `chips.program`.
    """

    hardware: Design
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
    bypassed: set[str] = field(default_factory=set)
    later: set[str] = field(default_factory=set)
    remap: bool = False
    touched: set[str] | None = None
    recorder: Any = None
    streamed: frozenset[str] = frozenset()
    held: dict[int, Any] = field(default_factory=dict)
    tensors: bool = False
    pending: list[Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave programmed values out of copies and pickles."""
        return {**self.__dict__, "held": {}}

    def on_tensors(self, values: Tensor) -> bool:
        """Whether an array of these values is computed by operations on tensors, not by the kernels of the CPU."""
        return self.tensors or values.device.type != "cpu"

    def runs(self, layer: str) -> bool:
        """Whether the layer is currently on its arrays."""
        return self.active is None or layer in self.active

    def of(self, layer: str) -> Hardware:
        """The design of the layer of that name, which is on arrays or drifts."""
        found = design_at(self.hardware, layer)
        assert found is not None, f"{layer} is digital"
        return found

    def tiled(self, slot: "ArraySlot") -> bool:
        """Whether the array's products go through converters, or its reads have noise."""
        if not self.of(slot.layer).readout_effects or slot.ideal or slot.layout.order == "vector":
            return False
        return not isinstance(self.maps, CellMaps) or slot.name in self.maps  # what the file lacks is clean

    def set_chip(self, chip: int) -> None:
        """Reprogram to another chip; arrays are rewritten, in place, when they are next read.

        Reads are counted from 0 again in any case: a loop over chips finds the same noise whatever ran before it.
        """
        self.reads = {}
        if chip != self.chip:
            self.chip, self.generation = check_chip(chip), self.generation + 1

    def set_hardware(self, hardware: Design) -> None:
        """Reprogram with another design."""
        if hardware != self.hardware:
            self.hardware, self.generation = hardware, self.generation + 1

    def set_maps(self, maps: Maps | None) -> None:
        """Compute with measured or stored conductances instead of simulated ones (None: simulate again).

        Warns if the chip of a file has converters or read noise and the model was mapped without any.
        """
        own = readout_effects(maps.own) if isinstance(maps, CellMaps) and maps.own is not None else ()
        if own and not readout_effects(self.hardware):
            warnings.warn(
                f"the chip of the file has {', '.join(own)}, and the model was mapped without: its "
                "products are read linearly; call to_analog with the hardware of the file",
                UserWarning, stacklevel=2,
            )  # fmt: skip
        self.maps, self.generation, self.reads = maps, self.generation + 1, {}

    def key(self, name: str) -> Key:
        """The key of the array called `name`: the parameter's name in the model."""
        return Key(self.seed).fold(name)


# Numbering of the reads of an array, which determines their noise independently of batches and threads.
#
# In `numbered_reads(first, count)` a forward is one pass over `count` examples numbered from `first` on, and the
# reads of an array in it are numbered from 0, so that the noise does not depend on blocks or threads. Elsewhere
# every product is a new read, numbered since the chip was set.


class _Pass(threading.local):
    first: int | None = None
    count: int | None = None
    counts: dict[str, int] | None = None


_pass = _Pass()


@contextmanager
def numbered_reads(first: int, count: int | None = None) -> Iterator[None]:
    """Context in which, on this thread, examples are numbered from `first` on and reads from 0.

    Args:
        first: the number of the first example.
        count: how many there are; None: as many as a product's first dimension says.
    """
    before = _pass.first, _pass.count, _pass.counts
    _pass.first, _pass.count, _pass.counts = first, count, {}
    try:
        yield
    finally:
        _pass.first, _pass.count, _pass.counts = before


def next_read(design: "AnalogState", name: str, items: int, leading: int) -> tuple[int, int]:
    """(event, number of the first item) of the next read of the array called `name`.

    Args:
        design, name: which array.
        items: what this read takes: input vectors of a linear layer, images of a convolution. Where they are a whole
            number for each example (a model may fold words or frames into the batch), that is how they are numbered.
        leading: the product's first dimension, taken for the examples where their number is not known or does not fit.
    """
    counts = design.reads if _pass.counts is None else _pass.counts
    event = counts.get(name, 0)
    counts[name] = event + 1
    examples = leading if not _pass.count or items % _pass.count else _pass.count
    return event % 2**32, (_pass.first or 0) * (items // max(examples, 1))
