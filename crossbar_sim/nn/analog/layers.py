"""Analog layers: reading one of their parameters returns the weights of its programmed array.

An analog layer is the user's own layer with its class exchanged for a subclass in which, say, `weight` is a
property: it gives the programmed weight, while the clean parameter stays where torch keeps it. So the
forward that the author wrote runs unchanged (also of subclasses, attention and recurrent layers, which read
their weights in their own ways), state_dict keys, optimisers, .to(), deepcopy and save/load see the clean
parameters, and a gradient reaches them through the array.
"""

import sys
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from crossbar_sim.nn.analog.copying import Silent, base_of, copy_graph, derive, exchange, restore
from crossbar_sim.nn.analog.matrices import RANK
from crossbar_sim.nn.analog.products import on_tiles
from crossbar_sim.nn.analog.programming import gain, program_into, tiled_of, write
from crossbar_sim.nn.analog.state import AnalogState, ArraySlot
from crossbar_sim.nn.analog.tiled_arrays import Tiled


class _Through(torch.autograd.Function):
    """Forward: the programmed matrix. Backward: its derivative with respect to the clean one."""

    @staticmethod
    def forward(ctx: Any, clean: Tensor, programmed: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return programmed.view_as(clean)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return grads[0] * slope, None, None


@dataclass(frozen=True, eq=False)
class _Drawn:
    """What one array holds, programmed for one use: its parameters, and the array itself where it has converters."""

    tag: tuple[object, ...]
    values: dict[str, Tensor]
    tiled: Tiled | None


class Arrays:
    """The analog part of a layer: its arrays, the model's shared state, and the programmed values.

    It is the only attribute that a layer gets, under a name that is nobody else's: a layer may have a `read` or a
    `_design` of its own.

    Args:
        slots: the arrays, by the parameters that they provide.
        design: shared by all layers of the model.
    """

    def __init__(self, slots: dict[str, ArraySlot], design: AnalogState) -> None:
        self.slots, self.design = slots, design
        self._forget()

    def _forget(self) -> None:
        self.tags: dict[str, tuple[object, ...]] = {}
        self.graphs: dict[str, tuple[Any, ...]] = {}
        self.tiled: dict[str, Tiled] = {}
        self.programmed: dict[str, Tensor] = {}
        self.drawn: weakref.WeakValueDictionary[str, _Drawn] = weakref.WeakValueDictionary()
        self.lock = threading.RLock()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the programmed values out of copies and pickles: the next read makes them."""
        return {"slots": self.slots, "design": self.design}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.slots, self.design = state["slots"], state["design"]
        self._forget()

    def read(self, module: nn.Module, parameter: str) -> Tensor | None:
        """The value of `parameter` on the chip; the array is programmed first if it is stale."""
        slot = self.slots[parameter]
        design = self.design
        if design.touched is not None:
            design.touched.add(slot.name)
        handed = self._handed(module, slot, parameter)
        if handed is not None:
            return handed
        if design.recorder is not None:
            return design.recorder.read(module, slot, parameter)  # type: ignore[no-any-return]
        clean = slot.ideal or not design.runs(slot.layer)
        if design.locked and not clean and parameter in self.programmed:
            return self._on_tiles(module, slot, self.programmed[parameter])
        if clean or slot.on_meta(module):
            return slot.clean(module)[0 if parameter == slot.weight else 1]
        if torch.is_grad_enabled():
            return self._on_tiles(module, slot, self._with_own_memory(module, slot, parameter))
        if slot.name in design.streamed:
            drawn = self._draw(module, slot)
            value = drawn.values.get(parameter)
            return value if value is None or drawn.tiled is None else on_tiles(value, drawn.tiled)
        self.refresh(module, slot)
        return self._on_tiles(module, slot, self.programmed[parameter])

    def _handed(self, module: nn.Module, slot: ArraySlot, parameter: str) -> Tensor | None:
        """The tensor that the model's own forward substituted for the parameter by `functional_call`.

        It is an activation, or was read from another array: on no array of this layer, and not to drift twice. Where
        the caller of the model hands tensors to it, those are clean parameters and are programmed as any.
        """
        value = module._parameters.get(parameter)
        if value is None:
            return None
        if type(value) is nn.Parameter:
            tag = self.tags.get(slot.weight)
            known: Any = None if tag is None else tag[1 + slot.names.index(parameter)]
            if known is None or known[0].tensor is value:
                return None
        if not _called_within(self.design):
            return None
        if self.design.recorder is not None:
            self.design.recorder.hand(module, parameter)
        return value

    def _on_tiles(self, module: nn.Module, slot: ArraySlot, programmed: Tensor | None) -> Tensor | None:
        """The programmed values, attached to their array where that has converters or read noise."""
        if programmed is None or not self.design.tiled(slot):
            return programmed
        # contiguous, so that the strides of a view of it say which cells it is
        return on_tiles(programmed.contiguous(), self.tiled.get(slot.weight) or self._converted(module, slot))

    def _converted(self, module: nn.Module, slot: ArraySlot) -> Tiled:
        self.tiled[slot.weight] = tiled_of(self.design, slot, module)
        return self.tiled[slot.weight]

    def _with_own_memory(self, module: nn.Module, slot: ArraySlot, parameter: str) -> Tensor | None:
        """As `read`, with a gradient to the clean parameter if that takes one.

        The programmed values get memory of their own: a graph may still need chip 1 when chip 2 is programmed, also
        where only the layer's input takes a gradient.
        """
        which = 0 if parameter == slot.weight else 1
        both = slot.clean(module)
        trained = any(t is not None and t.requires_grad for t in both)
        tag = (trained, *self._tag(module, slot))
        known = self.graphs.get(slot.weight)
        if known is None or known[0] != tag:
            groups = slot.layout.groups
            programmed, slope = gain(self.design, slot, slot.columns(module), trained, groups)
            self.tiled.pop(slot.weight, None)
            slopes = (None, None) if slope is None else slot.split(slope)
            known = self.graphs[slot.weight] = (tag, slot.split(programmed), slopes)
        clean, values, slope = both[which], known[1][which], known[2][which]
        if clean is None or slope is None:
            return values if clean is None else values.view_as(clean)
        return _Through.apply(clean, values, slope)

    def value(self, module: nn.Module, parameter: str) -> Tensor | None:
        """The value of `parameter` that the array holds now: without the converters and the noise of a read."""
        slot = self.slots[parameter]
        if slot.ideal or not self.design.runs(slot.layer):
            return slot.clean(module)[0 if parameter == slot.weight else 1]
        if slot.name in self.design.streamed:
            return self._draw(module, slot).values[parameter]
        self.refresh(module, slot)
        return self.programmed[parameter]

    def _draw(self, module: nn.Module, slot: ArraySlot) -> _Drawn:
        """The values of an array that is programmed for each use.

        They are kept until this thread reads another array, and for as long as the forward refers to them. Threads
        that are at the same layer share them.
        """
        design, thread = self.design, threading.get_ident()
        with self.lock:
            drawn = self.drawn.get(slot.weight)
            if drawn is None or not (design.locked or drawn.tag == self._tag(module, slot)):
                drawn = None
                design.held.pop(thread, None)  # before there is another one
                self._let_go(slot)
                tag, values = self._tag(module, slot), self._empty(module, slot, {})
                drawn = _Drawn(tag, values, self._fill(module, slot, values, tag))
                self.drawn[slot.weight], self.tags[slot.weight] = drawn, tag
            design.held[thread] = drawn
            return drawn

    def _let_go(self, slot: ArraySlot) -> None:
        """Free what is kept of an array between its uses."""
        for cache in (self.graphs, self.tiled):
            cache.pop(slot.weight, None)
        for name in slot.names:
            self.programmed.pop(name, None)

    def _tag(self, module: nn.Module, slot: ArraySlot) -> tuple[object, ...]:
        """Equal as long as design, chip and clean values are the same."""
        known = self.tags.get(slot.weight) if self.design.frozen else None
        return (self.design.generation, *(slot.state(module) if known is None else known[1:]))

    def refresh(self, module: nn.Module, slot: ArraySlot) -> None:
        """Program the slot's array unless it is up to date, or is programmed for each use."""
        if slot.name in self.design.streamed:
            self._let_go(slot)
            return
        tag = self._tag(module, slot)
        current = self.tags.get(slot.weight) == tag and slot.weight in self.programmed
        if current or slot.on_meta(module):
            return
        self.tiled.pop(slot.weight, None)
        self.graphs.pop(slot.weight, None)  # a copy for training that is stale, or not needed for now
        values = self._empty(module, slot, self.programmed)
        self.programmed.update(values)
        tiled = self._fill(module, slot, values, tag)
        if tiled is not None:
            self.tiled[slot.weight] = tiled
        self.tags[slot.weight] = tag

    def _empty(self, module: nn.Module, slot: ArraySlot, held: dict[str, Tensor]) -> dict[str, Tensor]:
        """Memory for the slot's values: that of `held`, where it fits."""
        # Tensors made in inference mode could take part in no later graph.
        with torch.inference_mode(False), torch.no_grad():
            found: dict[str, Tensor] = {}
            for name, like in zip((slot.weight, slot.bias), slot.clean(module), strict=True):
                if name and like is not None:
                    old = held.get(name)
                    if old is None or not _alike(old, like):
                        old = torch.empty(like.shape, dtype=like.dtype, device=like.device)
                    found[name] = old
            return found

    def _fill(
        self, module: nn.Module, slot: ArraySlot, values: dict[str, Tensor], tag: tuple[object, ...]
    ) -> Tiled | None:
        """Program the array into `values`; the array with its converters, where it has some."""
        with torch.inference_mode(False), torch.no_grad():
            weight, row = values[slot.weight], values.get(slot.bias) if slot.bias else None
            if self.design.tiled(slot):  # the same planes serve both ways to multiply
                tiled = tiled_of(self.design, slot, module)
                write(slot, tiled.weight(), weight, row)
                return tiled
            program_into(self.design, slot, module, weight, row, tag[1:])
            return None


ATTRIBUTE = "_crossbar_sim_arrays"
"""The one attribute that a layer gets."""


def arrays_of(module: nn.Module) -> Arrays | None:
    """The arrays of an analog layer; None for any other module."""
    found: Arrays | None = vars(module).get(ATTRIBUTE)
    return found


class Analog(Silent):
    """Mixin of every analog layer; its behaviour is in `Arrays`."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle and copy as the user's class with the names of its analog parameters, without caches."""
        assert isinstance(self, nn.Module)
        arrays = arrays_of(self)
        names = () if arrays is None else tuple(arrays.slots)
        return _rebuild, (base_of(self), names), self.__getstate__()  # type: ignore[call-overload]


class AnalogGraph(Analog):
    """For the root of an exported graph, whose own `__deepcopy__` would lose the arrays."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """Copy the graph and all it holds, then make the copy analog again."""
        assert isinstance(self, fx.GraphModule)
        copied = copy_graph(self, memo)
        arrays = arrays_of(copied)
        assert arrays is not None
        make_analog(copied, list(dict.fromkeys(arrays.slots.values())), arrays.design)
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
        """Nothing to flatten: the weights that run are the arrays' memory."""

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


_FUNCTIONAL = torch.nn.utils.stateless._functional_call.__code__
_CALL = nn.Module._call_impl.__code__


def _called_within(design: AnalogState) -> bool:
    """Whether a `functional_call` in progress was made by the forward of a model of this design."""
    frame, functional = sys._getframe(1), False
    while frame is not None:
        if frame.f_code is _FUNCTIONAL:
            functional = True
        elif functional and frame.f_code is _CALL:
            outer = frame.f_locals.get("self")
            found = (arrays_of(m) for m in outer.modules()) if isinstance(outer, nn.Module) else ()
            if any(arrays is not None and arrays.design is design for arrays in found):
                return True
        frame = frame.f_back  # type: ignore[assignment]
    return False


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.device == b.device and a.dtype == b.dtype and not a.is_inference()


_READERS: list[Callable[[Arrays, nn.Module, str], Tensor | None]] = []


def _reader() -> Callable[[Arrays, nn.Module, str], Tensor | None]:
    """`Arrays.read`, out of reach of torch.compile, which would break at Numba inside it.

    torch.compiler.disable imports the compiler, which takes longer than a small model's whole evaluation: so
    only where it is there already.
    """
    if "torch._dynamo" not in sys.modules:
        return Arrays.read
    if not _READERS:
        _READERS.append(torch.compiler.disable(Arrays.read))
    return _READERS[0]


def _property(name: str) -> property:
    def get(self: nn.Module) -> Tensor | None:
        try:
            return _reader()(self.__dict__[ATTRIBUTE], self, name)
        except AttributeError as error:
            # nn.Module would take an AttributeError as "look in _parameters" and give the clean weight
            raise RuntimeError(f"programming {name} failed: {error}") from error

    return property(get)


_CLASSES: dict[tuple[type[nn.Module], tuple[str, ...]], type] = {}


def analog_class(base: type[nn.Module], names: tuple[str, ...]) -> type:
    """The subclass of `base` in which the parameters `names` read as their arrays."""
    if (base, names) not in _CLASSES:
        mixin: type[Analog] = Analog
        if issubclass(base, nn.RNNBase):
            mixin = AnalogRecurrent
        elif issubclass(base, fx.GraphModule):
            mixin = AnalogGraph
        members = {name: _property(name) for name in names}
        _CLASSES[base, names] = derive((mixin,), base, "Analog", members)
    return _CLASSES[base, names]


def _rebuild(base: type[nn.Module], names: tuple[str, ...]) -> nn.Module:
    cls: Any = analog_class(base, names)
    made: nn.Module = cls.__new__(cls)
    return made


def make_analog(module: nn.Module, slots: list[ArraySlot], design: AnalogState) -> None:
    """Replace the module's class by its analog class, in place."""
    by_name = {name: slot for slot in slots for name in slot.names}
    module.__dict__[ATTRIBUTE] = Arrays(by_name, design)
    try:
        exchange(module, analog_class(base_of(module), tuple(by_name)))
    except TypeError:  # objects of the subclass would lie differently in memory
        keep_class(module)


def remove_arrays(module: nn.Module) -> None:
    """Turn an analog layer back into a layer of its own class, in place; its clean parameters are read again."""
    del module.__dict__[ATTRIBUTE]
    if isinstance(module._parameters, Parameters):
        module.__dict__["_parameters"] = dict(module._parameters)
    restore(module)
    if isinstance(module, nn.RNNBase):  # torch's list of weights for its kernel
        module._init_flat_weights()


class Parameters(dict[str, Any]):
    """The parameters of an analog layer that keeps its own class: those that have arrays read as these.

    `nn.Module.__getattr__` looks parameters up by `parameters[name]`; all of torch that saves, moves or lists them
    goes through `items`, `values` or `get`, which give the clean ones.
    """

    module: nn.Module

    def __getitem__(self, name: str) -> Any:
        arrays = arrays_of(self.module)
        if arrays is None or name not in arrays.slots:
            return super().__getitem__(name)
        try:
            return _reader()(arrays, self.module, name)
        except AttributeError as error:
            raise RuntimeError(f"programming {name} failed: {error}") from error


def keep_class(module: nn.Module) -> None:
    """Restore the class of an analog layer in place, for a forward that checks `type(layer) is nn.Linear`.

    For evaluation: `torch.func.functional_call` would take programmed values for parameters. Recurrent layers and
    graphs, which do not look their weights up in a way that could be changed, are left unchanged.
    """
    if arrays_of(module) is None or isinstance(module, nn.RNNBase | fx.GraphModule):
        return
    if not isinstance(module._parameters, Parameters):
        parameters = Parameters(module._parameters)
        parameters.module = module
        module.__dict__["_parameters"] = parameters
    restore(module)


_INSTALLING = threading.RLock()


class InPlace(nn.Module):
    """The original model, whose layers are analog while it runs: for models that cannot be copied.

    Runs come one after the other, in whichever threads.

    Args:
        original: the clean model.
        copied: what `to_analog` made of it; the arrays are its layers'.
    """

    def __init__(self, original: nn.Module, copied: nn.Module) -> None:
        super().__init__()
        self.copied, self.original, self.training = copied, original, False
        pairs = zip(original.modules(), copied.modules(), strict=True)
        self._pairs = [(o, a) for o, a in pairs if ATTRIBUTE in vars(a) or RANK in vars(a)]

    def forward(self, *args: Any, **keywords: Any) -> Any:
        """Of the original, on the arrays."""
        with _INSTALLING:
            before = [(o, type(o), o._parameters) for o, _ in self._pairs]
            try:
                for o, a in self._pairs:
                    o.__dict__.update({name: vars(a)[name] for name in (ATTRIBUTE, RANK) if name in vars(a)})
                    if isinstance(a._parameters, Parameters):
                        o.__dict__["_parameters"] = a._parameters
                    if type(a) is not type(o):
                        exchange(o, type(a))
                return self.original(*args, **keywords)
            finally:
                for o, cls, parameters in before:
                    if type(o) is not cls:
                        exchange(o, cls)
                    o.__dict__["_parameters"] = parameters
                    for name in (ATTRIBUTE, RANK):
                        o.__dict__.pop(name, None)
