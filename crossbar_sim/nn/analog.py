"""Layers whose parameters read as what their array makes of them.

An analog layer is the user's own layer with its class exchanged for a subclass in which, say, `weight` is a
property: it gives the programmed weight, while the clean parameter stays where torch keeps it. So the
forward that the author wrote runs unchanged (also of subclasses, attention and recurrent layers, which read
their weights in their own ways), state_dict keys, optimisers, .to(), deepcopy and save/load see the clean
parameters, and a gradient reaches them through the array.
"""

import copy
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

from crossbar_sim.nn.design import Design
from crossbar_sim.nn.on_tiles import on_tiles
from crossbar_sim.nn.programming import gain, program_into, tiled_of, write
from crossbar_sim.nn.slot import Slot
from crossbar_sim.nn.tiled import Tiled


class _Through(torch.autograd.Function):
    """The programmed matrix forward; backward, its derivative with respect to the clean one."""

    @staticmethod
    def forward(ctx: Any, clean: Tensor, programmed: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return programmed.view_as(clean)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return grads[0] * slope, None, None


class Analog:
    """Mixin of every analog layer; `_slots` holds its arrays, `_design` what the whole model shares."""

    _slots: dict[str, Slot]
    _design: Design
    _tags: dict[str, tuple[object, ...]]
    _graphs: dict[str, tuple[Any, ...]]
    _tiled: dict[str, Tiled]
    _parameters: dict[str, Any]
    _buffers: dict[str, Any]

    def read(self, parameter: str) -> Tensor | None:
        """What `parameter` is on the chip, programmed first if it has become stale."""
        slot = self._slots[parameter]
        design = self._design
        assert isinstance(self, nn.Module)
        clean = slot.ideal or not design.runs(slot.layer)
        if design.locked and not clean and _buffer(parameter) in self._buffers:
            return self._on_tiles(slot, self._buffers[_buffer(parameter)])
        if clean or slot.on_meta(self):
            return slot.clean(self)[0 if parameter == slot.weight else 1]
        if torch.is_grad_enabled():
            return self._on_tiles(slot, self._with_own_memory(slot, parameter))
        self.refresh(slot)
        return self._on_tiles(slot, self._buffers[_buffer(parameter)])

    def _on_tiles(self, slot: Slot, programmed: Tensor | None) -> Tensor | None:
        """The programmed values, attached to their array where that has converters or read noise."""
        if programmed is None or not self._design.tiled(slot):
            return programmed
        assert isinstance(self, nn.Module)
        return on_tiles(programmed, self._tiled.get(slot.weight) or self._converted(slot))

    def _converted(self, slot: Slot) -> Tiled:
        assert isinstance(self, nn.Module)
        self._tiled[slot.weight] = tiled_of(self._design, slot, self)
        return self._tiled[slot.weight]

    def _with_own_memory(self, slot: Slot, parameter: str) -> Tensor | None:
        """As `read`, with a gradient to the clean parameter if that takes one.

        The programmed values get memory of their own rather than the buffers': a graph may still need chip 1
        when chip 2 is programmed, also where only the layer's input takes a gradient.
        """
        assert isinstance(self, nn.Module)
        which = 0 if parameter == slot.weight else 1
        both = slot.clean(self)
        trained = any(t is not None and t.requires_grad for t in both)
        tag = (trained, *self._tag(slot))
        known = self._graphs.get(slot.weight)
        if known is None or known[0] != tag:
            groups = slot.layout.groups
            programmed, slope = gain(self._design, slot.name, slot.columns(self), trained, groups)
            self._tiled.pop(slot.weight, None)
            slopes = (None, None) if slope is None else slot.split(slope)
            known = self._graphs[slot.weight] = (tag, slot.split(programmed), slopes)
        clean, values, slope = both[which], known[1][which], known[2][which]
        if clean is None or slope is None:
            return values if clean is None else values.view_as(clean)
        return _Through.apply(clean, values, slope)

    def _tag(self, slot: Slot) -> tuple[object, ...]:
        """Equal as long as design, chip and clean values are the same."""
        assert isinstance(self, nn.Module)
        known = self._tags.get(slot.weight) if self._design.frozen else None
        return (self._design.generation, *(slot.state(self) if known is None else known[1:]))

    def refresh(self, slot: Slot) -> None:
        """Program the slot's array into its buffers unless they are up to date."""
        assert isinstance(self, nn.Module)
        tag = self._tag(slot)
        if self._tags.get(slot.weight) == tag or slot.on_meta(self):
            return
        self._tiled.pop(slot.weight, None)
        self._graphs.pop(slot.weight, None)  # a copy for training that is stale, or not needed for now
        # Buffers made in inference mode could take part in no later graph.
        with torch.inference_mode(False), torch.no_grad():
            weight, bias = slot.clean(self)
            for name, like in ((slot.weight, weight), (slot.bias, bias)):
                buffer = self._buffers.get(_buffer(name)) if name else None
                if name and like is not None and (buffer is None or not _alike(buffer, like)):
                    fresh = torch.empty(like.shape, dtype=like.dtype, device=like.device)
                    self.register_buffer(_buffer(name), fresh, persistent=False)
            row = self._buffers[_buffer(slot.bias)] if slot.bias else None
            if self._design.tiled(slot):  # the same planes serve both ways to multiply
                write(slot, self._converted(slot).weight(), self._buffers[_buffer(slot.weight)], row)
            else:
                program_into(self._design, slot, self, self._buffers[_buffer(slot.weight)], row, tag[1:])
        self._tags[slot.weight] = tag

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle and copy as the base class with the names of its analog parameters, without caches."""
        base = type(self)._base  # type: ignore[attr-defined]
        return _rebuild, (base, tuple(self._slots)), self._state_to_keep()

    def _state_to_keep(self) -> dict[str, Any]:
        """The state of the layer without what its next reading programs."""
        programmed = {_buffer(name) for name in self._slots}
        state: dict[str, Any] = dict(self.__getstate__())  # type: ignore[call-overload]
        state |= {"_tags": {}, "_graphs": {}, "_tiled": {}}
        state["_buffers"] = {name: b for name, b in self._buffers.items() if name not in programmed}
        state["_non_persistent_buffers_set"] = state["_non_persistent_buffers_set"] - programmed
        return state


class AnalogGraph(Analog):
    """For the root of an exported graph, which copies itself in a way of its own."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Copy the graph and all it holds, then make the copy analog again."""
        assert isinstance(self, fx.GraphModule)
        copied = copy_graph(self, memo)
        make_analog(copied, list(dict.fromkeys(copied._slots.values())), copied._design)  # type: ignore
        return copied


def copy_graph(model: fx.GraphModule, memo: dict[int, Any]) -> fx.GraphModule:
    """A deep copy of a graph with everything in it, as the class that the graph had before it was analog.

    torch's own copy is built up from bare modules: classes of layers and unused parameters get lost.
    """
    base = type(model)._base if isinstance(model, Analog) else type(model)  # type: ignore[attr-defined]
    copied: fx.GraphModule = base.__new__(base)  # of a class of its own, which takes the code of its forward
    memo[id(model)] = copied
    state = model._state_to_keep() if isinstance(model, Analog) else model.__dict__
    state = copy.deepcopy(state, memo)
    graph = state.pop("_graph")
    copied.__dict__.update(state)
    copied.graph = graph
    return copied


class AnalogRecurrent(Analog):
    """For RNN, LSTM and GRU, which keep a list of their weights for the kernel that runs all layers."""

    @property
    def _flat_weights(self) -> list[Tensor]:
        return [getattr(self, name) for name in self._flat_weights_names]  # type: ignore[attr-defined]

    @_flat_weights.setter
    def _flat_weights(self, value: Any) -> None:
        """Ignore: the list is made from the parameters at each reading."""

    def flatten_parameters(self) -> None:
        """Nothing to flatten: the weights that run are the arrays' buffers."""

    def _init_flat_weights(self) -> None:
        """Nothing to list: torch calls this after moving a layer, which is no reason to program it."""

    def _update_flat_weights(self) -> None:
        """Nothing to update, for the same reason."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """As any module: torch would make its list of weights here."""
        nn.Module.__setstate__(self, state)  # type: ignore[arg-type]
        self.__dict__.setdefault(
            "_flat_weight_refs", []
        )  # which torch drops from states, and expects in them


PROGRAMMED = "_programmed_"
"""How the names of buffers begin that arrays are programmed into."""


def _buffer(parameter: str) -> str:
    return PROGRAMMED + parameter


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.device == b.device and a.dtype == b.dtype and not a.is_inference()


_READERS: list[Callable[[Analog, str], Tensor | None]] = []


def _reader() -> Callable[[Analog, str], Tensor | None]:
    """`Analog.read`, out of reach of torch.compile, which would break at Numba inside it.

    torch.compiler.disable imports the compiler, which takes longer than a small model's whole evaluation: so
    only where it is there already.
    """
    if "torch._dynamo" not in sys.modules:
        return Analog.read
    if not _READERS:
        _READERS.append(torch.compiler.disable(Analog.read))
    return _READERS[0]


def _property(name: str) -> property:
    def get(self: Analog) -> Tensor | None:
        try:
            return _reader()(self, name)
        except AttributeError as error:
            # nn.Module would take an AttributeError as "look in _parameters" and give the clean weight
            raise RuntimeError(f"programming {name} failed: {error}") from error

    return property(get)


_CLASSES: dict[tuple[type[nn.Module], tuple[str, ...]], type[nn.Module]] = {}


def analog_class(base: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    """The subclass of `base` in which the parameters `names` read as their arrays."""
    if (base, names) not in _CLASSES:
        mixin: type[Analog] = Analog
        if issubclass(base, nn.RNNBase):
            mixin = AnalogRecurrent
        elif issubclass(base, fx.GraphModule):
            mixin = AnalogGraph
        members = {name: _property(name) for name in names} | {"_base": base, "__module__": base.__module__}
        _CLASSES[base, names] = type(f"Analog{base.__name__}", (mixin, base), members)
    return _CLASSES[base, names]


def _rebuild(base: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    cls = analog_class(base, names)
    return cls.__new__(cls)


def make_analog(module: nn.Module, slots: list[Slot], design: Design) -> None:
    """Exchange the module's class for its analog one, in place."""
    by_name = {name: slot for slot in slots for name in slot.names}
    state = {"_slots": by_name, "_design": design, "_tags": {}, "_graphs": {}, "_tiled": {}}
    module.__dict__.update(state)
    module.__class__ = analog_class(type(module), tuple(by_name))
