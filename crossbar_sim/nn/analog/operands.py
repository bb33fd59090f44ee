"""Operand tracing: run a forward once on real inputs to find which weights it really multiplies its inputs with.

The class of a layer says which of its parameters should be the matrix of a product. A forward need not do that: it may
compute another weight first (its sign, a standardised weight), take the clean parameter from `parameters()`, from a
closure or a cache, be handed another weight by `torch.func.functional_call`, or not run at all in evaluation. Here the
model runs once with copies of its clean weights in place of the programmed ones, and every operator is followed: which
of its operands are those copies, which are computed from them, and which depend on the inputs.
"""

import copy
import math
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from crossbar_sim.data.inputs import Batch, call, filled, first_of, tensors_of
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.einsum import of_tensordot
from crossbar_sim.nn.analog.exported_products import (
    MOST_ADDRESSES,
    addresses,
    einsum_at,
    factors_of,
    is_unflattened,
    joins_as_row,
    product_at,
)
from crossbar_sim.nn.analog.layers import InPlace, arrays_of
from crossbar_sim.nn.analog.matrices import Layout, Matrix, is_matrix, matrices
from crossbar_sim.nn.analog.multiply_adds import ProductWork, work_of
from crossbar_sim.nn.analog.state import AnalogState, ArraySlot, numbered_reads
from crossbar_sim.nn.evaluate import BLOCK, one_thread, torch_threads_kept
from crossbar_sim.nn.module_state import watched

Way = Literal["product", "computed", "operand", "past", "kept", "handed", "read", "unused"]
"""What a forward does with a parameter:

product: it is the matrix of a product;
computed: a product takes a tensor computed from it;
operand: another operator takes it with something that depends on the inputs (a bias, a table);
past: operators take the clean parameter, not what the array gives;
kept: a product takes a copy that an earlier forward kept;
handed: the layer computes with a weight that the forward hands to it (`functional_call`);
read: it is read, and no operator takes it together with an input;
unused: it is not read.
"""


@dataclass(frozen=True)
class Operand:
    """How a forward uses one parameter: the way, the operator, and whether it also uses the clean values."""

    way: Way
    operator: str = ""
    also_bypassed: bool = False


@dataclass(frozen=True)
class Operands:
    """How one forward uses the parameters of a model.

    Args:
        by_name: by the parameter's name in the module that holds it ("fc.weight"), for those that a module's arrays
            provide.
        matrices: {name of the parameter: how a product takes it}, for those that are no matrix by the class of what
            holds them: a parameter of a class of one's own.
        agrees: whether the arrays of the model that was looked at hold these so.
        refused: {name of such a parameter: why an einsum that takes it does not multiply with it as a matrix}.
        work: the multiply-adds of every product.
        apart: whether a tied parameter of one layer is no matrix only because the layer that runs was told apart.
    """

    by_name: Mapping[str, Operand] = field(default_factory=dict)
    matrices: Mapping[str, Matrix] = field(default_factory=dict)
    agrees: bool = True
    refused: Mapping[str, str] = field(default_factory=dict)
    work: tuple[ProductWork, ...] = ()
    apart: bool = False

    @property
    def is_standard(self) -> bool:
        """Whether every parameter is used as its layer type does: the matrix of a product, a bias, a factor."""
        return (
            self.agrees
            and not self.refused
            and all(operand.way in ("product", "operand") for operand in self.by_name.values())
        )

    def within(self, holder: str) -> tuple[Matrix, ...]:
        """The matrices found in the module of that name beyond those that its class defines."""
        found = self.matrices.items()
        return tuple(matrix for name, matrix in found if name.rpartition(".")[0] == holder)

    def of(self, holder: str, parameter: str) -> Operand | None:
        """The use of a parameter; None if it was not traced."""
        return self.by_name.get(f"{holder}.{parameter}" if holder else parameter)


def trace_operands(analog: nn.Module, x: Batch, fixed: int | None = None) -> Operands | None:
    """Run a model twice on a few inputs and record how its forward uses the parameters on arrays.

    What the forward leaves on the model is put back. The second run shows which tensors the first one has left where
    that is not possible: in a closure, a global, a cache of functools.

    Args:
        analog: from `to_analog`; nothing is programmed.
        x: inputs (n, ...), of which the first few are taken.
        fixed: the one batch size that the model accepts.

    Returns:
        None where the forward cannot be followed: it fails when its operators are watched.
    """
    design = chips.analog_state(analog)
    device = next((p.device for p in analog.parameters()), first_of(x).device)
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # or attention would be one operator
    try:
        # some models take more inputs than two, or exactly so many as there are
        for count in dict.fromkeys((fixed,) if fixed else (2, min(len(x), BLOCK))):
            few = filled(x[:count], fixed or 0)
            with suppress(
                Exception
            ):  # whatever watching breaks in a user's forward: the clean model has run before
                return _seen(analog, design, few.to(device))
        return None
    finally:
        design.recorder = None
        torch.backends.mha.set_fastpath_enabled(fast)


def _seen(analog: nn.Module, design: AnalogState, x: Batch) -> Operands:
    _release(analog)
    recorder = design.recorder = _Recorder(analog)
    recorder.run(analog, x)
    kept = recorder.kept()
    if kept:
        recorder = design.recorder = _Recorder(analog, kept)
        recorder.run(analog, x)
    agrees = {name: matrix.layout for name, matrix in recorder.matrices.items()} == recorder.held
    refused = {name: why for name, why in recorder.refused.items() if name not in recorder.matrices}
    apart = bool(recorder.apart - set(recorder.matrices))
    work = recorder.work_of_each(len(x))
    return Operands(recorder.result(), recorder.matrices, agrees, refused, work, apart)


def _release(analog: nn.Module) -> None:
    """Free programmed values of earlier runs, of which large models have too much beside the copies that a run records.

    Values that the model itself has kept stay: that they are used later is what the run is to show.
    """
    roots = [analog.copied, analog.original] if isinstance(analog, InPlace) else [analog]
    for module in (module for root in roots for module in root.modules()):
        arrays = arrays_of(module)
        for parameter in () if arrays is None else [*arrays.programmed]:
            assert arrays is not None
            slot, held = arrays.slots[parameter], arrays.programmed.pop(parameter)
            arrays.tags.pop(slot.weight, None)
            if held.layout != torch.strided:
                continue
            like = held.dtype, held.storage_offset(), held.shape, held.stride(), held.device
            storage = StorageWeakRef(held.untyped_storage())
            del held
            left = torch.UntypedStorage._new_with_weak_ptr(storage.cdata)
            if left is not None:
                dtype, offset, shape, stride, device = like
                kept = torch.empty(0, dtype=dtype, device=device)
                arrays.programmed[parameter] = kept.set_(left, offset, shape, stride)


@dataclass(frozen=True)
class _Source:
    """A parameter as an input of the forward: its array's values or its clean ones."""

    name: str
    way: Literal["array", "clean", "kept"]


@dataclass
class _About:
    """What is known about the tensor at one memory location.

    Args:
        fed: it depends on the inputs.
        exact: the parameters that its values are, maybe in another order or shape.
        made: the parameters that it is computed from, each with the operator that did.
        memory: of the tensor; once that is freed, the record is of no tensor.
        base: whether it is a parameter, or a copy of it as it is.
        addresses: where its values lie in the parameter, if it is a copy of one in another order.
        others: the same tied parameters by the names of layers that do not run.
    """

    fed: bool = False
    exact: frozenset[_Source] = frozenset()
    made: dict[_Source, str] = field(default_factory=dict)
    memory: StorageWeakRef | Tensor | None = None
    base: bool = False
    addresses: Tensor | None = None
    others: frozenset[_Source] = frozenset()

    @property
    def stored(self) -> bool:
        """Whether it is made of parameters alone."""
        return not self.fed and bool(self.exact or self.made)

    @property
    def freed(self) -> bool:
        """Whether its memory may be another tensor's by now."""
        return isinstance(self.memory, StorageWeakRef) and bool(self.memory.expired())


class _Recorder:
    """Records one run: the sources of every tensor, and the parameters that products and other operators use."""

    def __init__(self, analog: nn.Module, kept: Mapping[int, _About] | None = None) -> None:
        self.about: dict[int, _About] = {}
        self.touched: set[str] = set()
        self.handed: set[str] = set()
        self.products: set[_Source] = set()
        self.computed: dict[_Source, str] = {}
        self.taken: dict[_Source, str] = {}
        self.names: dict[tuple[int, str], str] = {}
        self.provided: dict[str, str] = {}
        self.copies: weakref.WeakValueDictionary[str, Tensor] = weakref.WeakValueDictionary()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.matrices: dict[str, Matrix] = {}
        self.held: dict[str, Layout] = {}
        self.refused: dict[str, str] = {}
        self.work: dict[tuple[frozenset[_Source], str, bool], float] = {}
        self.depth = 0
        self.apart: set[str] = set()
        self.inside: list[str] = []
        self.readers: dict[str, nn.Module] = {}
        holders: dict[int, dict[str, nn.Module]] = {}
        # an original that is analog while it runs has its arrays from its copy, with the same names
        roots = [analog.copied, analog.original] if isinstance(analog, InPlace) else [analog]
        for name, module in (pair for root in roots for pair in root.named_modules()):
            arrays = arrays_of(module)
            for buffer in module._buffers.values():
                if buffer is not None:
                    made = {_Source("", "clean"): "buffer"}
                    self.about.setdefault(_place(buffer), _About(made=made, memory=_memory(buffer)))
            for parameter, value in module._parameters.items():
                if value is None or value.is_meta:
                    continue
                full = f"{name}.{parameter}" if name else parameter
                self.names[id(module), parameter] = full
                known = self.about.setdefault(_place(value), _About(memory=_memory(value)))
                known.exact |= {_Source(full, "clean")}
                holders.setdefault(id(value), {})[name] = module
                plain = value.is_contiguous() and value.is_floating_point()
                if plain and not self.known(module, parameter):
                    self.shapes[full] = tuple(value.shape)
                    known.base = True
                if arrays is not None and parameter in arrays.slots:
                    self.provided[full] = parameter
                    slot = arrays.slots[parameter]
                    mapped = any(slot in layer.matrices for layer in arrays.design.layers)
                    if slot.weight == parameter and full in self.shapes and mapped:
                        self.held[full] = slot.layout
                    if parameter in arrays.programmed:  # by a run before
                        held = arrays.programmed[parameter]
                        self.about[_place(held)] = _About(
                            exact=frozenset({_Source(full, "kept")}), memory=_memory(held)
                        )
        for of_one in holders.values():
            if len(of_one) > 1:  # of a tied parameter, the layer that runs says which one reads it
                self.readers |= of_one
        self.about.update(kept or {})

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Context in which it is known which of the layers with a tied parameter run."""
        handles = []
        for name, module in self.readers.items():
            handles += [
                module.register_forward_pre_hook(lambda *_, name=name: self.inside.append(name)),
                module.register_forward_hook(lambda *_: self.inside.pop() and None, always_call=True),
            ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @staticmethod
    def known(module: nn.Module, parameter: str) -> bool:
        """Whether the module's class or graph says what the parameter is."""
        if isinstance(module, fx.GraphModule | nn.utils.parametrize.ParametrizationList):
            return True
        return is_unflattened(module) or any(parameter == m.weight for m in matrices(module))

    def run(self, analog: nn.Module, x: Batch) -> None:
        """Run one forward; changes of the model's state are undone."""
        given = x.clone()  # a forward may change its input
        for tensor in tensors_of(given):
            self.about[_place(tensor)] = _About(fed=True, memory=_memory(tensor))
        with (
            torch_threads_kept(),
            watched(analog),
            torch.inference_mode(),
            numbered_reads(0, len(given)),
            self.followed(),
            _Mode(self),
        ):
            one_thread()  # of two examples: threads would wait for one another
            call(analog, given)

    def kept(self) -> dict[int, _About]:
        """Records of tensors computed from programmed weights that are still referenced after the run."""
        found: dict[int, _About] = {}
        for place, about in self.about.items():
            array = [s for s in (*about.exact, *about.made) if s.way == "array"]
            if array and not about.fed and isinstance(about.memory, StorageWeakRef) and not about.freed:
                exact = frozenset(_Source(s.name, "kept") for s in about.exact)
                made = {_Source(s.name, "kept"): operator for s, operator in about.made.items()}
                found[place] = _About(False, exact, made, about.memory)
        return found

    def of(self, t: Tensor) -> _About:
        """What is known of a tensor."""
        found = self.about.get(_place(t))
        if found is None or found.freed:
            return _About()
        if len(found.exact) > 1:
            for holder in reversed(self.inside):
                own = {s for s in found.exact if s.way != "clean" or s.name.rpartition(".")[0] == holder}
                if any(source.way == "clean" for source in own):
                    return replace(found, exact=frozenset(own), others=found.exact - own)
        return found

    def read(self, module: nn.Module, slot: ArraySlot, parameter: str) -> Tensor | None:
        """A copy of the clean parameter, identified by its memory, in place of the programmed one."""
        name = self.names.get((id(module), parameter), parameter)
        self.touched.add(name)
        copied = self.copies.get(name)
        if copied is None:
            clean = slot.clean(module)[0 if parameter == slot.weight else 1]
            if clean is None:
                return None
            with _disable_current_modes():  # which would look at how it is copied
                self.copies[name] = copied = clean.detach().clone()
            exact = frozenset({_Source(name, "array")})
            self.about[_place(copied)] = _About(False, exact, {}, _memory(copied), name in self.shapes)
        return copied

    def is_fed(self, t: Tensor) -> bool:
        """Whether a tensor depends on the inputs, or on constants."""
        return not self.of(t).stored

    def hand(self, module: nn.Module, parameter: str) -> None:
        """Record a parameter for which the forward passed another tensor to its layer."""
        self.handed.add(self.names.get((id(module), parameter), parameter))

    def operator(self, func: Any, args: Sequence[Any], tensors: list[Tensor], outputs: list[Tensor]) -> None:
        """Record the operands of one operator and the sources of its results."""
        packet = func.overloadpacket.__name__
        abouts = [self.of(t) for t in tensors]
        if packet.startswith(_SHAPES):
            for out in outputs:
                self.about.pop(_place(out), None)
            return
        self._count(packet, args, abouts, outputs)
        if packet == "einsum":
            self._einsum(args[0], list(args[1]))
        elif packet == "tensordot":
            self._einsum(of_tensordot((args[0].dim(), args[1].dim()), (args[2], args[3])), [*args[:2]])
        elif _is_product(packet):
            self._product(packet, abouts)
            if not self.depth:
                self._matrix(str(func), args)
        fed = any(about.fed for about in abouts)
        if fed:
            for about in abouts:
                if about.stored:
                    for source in (*about.exact, *about.made):
                        self.taken.setdefault(source, about.made.get(source, packet))
        exact: frozenset[_Source] = frozenset()
        made: dict[_Source, str] = {}
        same = not fed and _keeps_values(packet) and all(o.is_floating_point() for o in outputs)
        for about in () if fed else abouts:
            made.update(about.made)
            if same:
                exact |= about.exact
            else:
                made.update({source: packet for source in about.exact if source not in made})
        inputs = {_place(t) for t in tensors}
        for out in outputs:
            place = _place(out)
            if place in inputs and not func._schema.is_mutable:
                continue  # a view
            new = _About(fed, frozenset() if fed else exact, {} if fed else made)
            if new.stored:
                new.memory = _memory(out)
                new.addresses = self._addresses_of(func, args, tensors, out) if same else None
            self.about[place] = new

    def _count(self, packet: str, args: Sequence[Any], abouts: list[_About], outputs: list[Tensor]) -> None:
        """Add the multiply-adds of a product that depends on inputs."""
        if not outputs or all(about.stored for about in abouts):
            return
        if packet in _RECURRENT:  # a product of every step with each of its matrices
            of_steps = packet in ("lstm_cell", "gru_cell") or packet.endswith("_cell")
            held = [t for t in tree_leaves(args[1:]) if isinstance(t, Tensor) and t.dim() == 2]
            steps = args[0].shape[:-1].numel() if not of_steps else len(args[0])
            for weight in held:
                about = self.of(weight)
                if about.exact:
                    self._add(about.exact, packet, steps * weight.numel())
            return
        count = work_of(packet, args, outputs[0])
        if count:
            exact = [about.exact for about in abouts[: 3 if packet not in _ADDED else None] if about.exact]
            factors = exact[-1:] if packet in _ADDED else exact[:1]
            last = abouts[-2:] if packet in _ADDED else abouts[:2]
            fed = (
                packet not in ("linear", "bilinear")
                and "conv" not in packet
                and not any(a.stored for a in last)
            )
            self._add(factors[0] if factors else frozenset(), packet, count, fed)

    def _add(self, exact: frozenset[_Source], packet: str, count: float, fed: bool = False) -> None:
        key = exact, packet, fed
        self.work[key] = self.work.get(key, 0.0) + count

    def work_of_each(self, examples: int) -> tuple[ProductWork, ...]:
        """The multiply-adds of each product for one example; a weight taken past its array is none on it."""
        found = []
        for (exact, packet, fed), count in self.work.items():
            names = {
                s.name
                for s in exact
                if s.way == "array" or (s.way == "clean" and s.name not in self.provided)
            }
            found.append(ProductWork(tuple(sorted(names)), packet, fed, count / max(examples, 1)))
        return tuple(found)

    def _as_taken(self, value: Tensor) -> Tensor | None:
        """A parameter as an operator takes it, or the addresses of its values; None if it is neither."""
        about = self.of(value)
        if about.base:
            return value
        held = about.addresses
        # a view of a copy is the same view of its addresses
        return None if held is None else held.as_strided(value.shape, value.stride(), value.storage_offset())

    def _addresses_of(
        self, func: Any, args: Sequence[Any], tensors: list[Tensor], out: Tensor
    ) -> Tensor | None:
        """The addresses of a copy that puts the values of one parameter in another order."""
        held = self._as_taken(tensors[0]) if len(tensors) == 1 and tensors[0] is args[0] else None
        if held is None or held.numel() > MOST_ADDRESSES or not any(self._undefined(self.of(tensors[0]))):
            return None
        with suppress(RuntimeError, TypeError):
            found = func(addresses(held), *args[1:])
            if isinstance(found, Tensor) and found.shape == out.shape and found.dtype == torch.int64:
                return found.contiguous() if out.is_contiguous() and out.storage_offset() == 0 else None
        return None

    def _product(self, packet: str, abouts: list[_About]) -> None:
        recurrent = "rnn" in packet or "lstm" in packet or "gru" in packet
        factors = abouts[1:] if recurrent else abouts[-2:] if packet in _ADDED else abouts[:2]
        if packet == "bilinear":
            factors = abouts[2:3]
        layer = recurrent or packet in ("linear", "bilinear") or "conv" in packet
        for i, about in enumerate(factors):
            if about.fed:
                continue
            others = [other for j, other in enumerate(factors) if j != i]
            if not layer and all(other.stored for other in others):
                continue  # of two weights, or of a weight and a buffer: no input takes part
            self.products |= about.exact
            for source, operator in about.made.items():
                self.computed.setdefault(source, operator)

    def _matrix(self, op: str, args: Sequence[Any]) -> None:
        """Record how a product uses a parameter that is not a matrix by its module's class."""
        first = factors_of(op)
        for place, value in enumerate(args):
            taken = self._as_taken(value) if isinstance(value, Tensor) else None
            if taken is None:
                continue
            if first is not None and place in (first, first + 1):
                other = args[2 * first + 1 - place]
                if isinstance(other, Tensor) and self.of(other).stored:
                    continue
            for name in self._undefined(self.of(value)):
                found = product_at(op, place, args, taken, self.shapes[name])
                if found is not None:
                    self._found(name, self._with_bias(name, found[1], found[2], taken))

    def _undefined(self, about: _About) -> Iterator[str]:
        """The parameters that a tensor is, of those that no class says the use of."""
        for source in (*about.exact, *about.others):
            way = "array" if source.name in self.provided else "clean"
            if source.way == way and source.name in self.shapes:
                if source in about.others:
                    self.apart.add(source.name)
                else:
                    yield source.name

    def _found(self, name: str, new: Matrix) -> None:
        old = self.matrices.get(name, new)
        self.matrices[name] = min(old, new, key=lambda matrix: matrix.layout.rank())

    def _einsum(self, text: str, operands: list[Tensor]) -> None:
        """Record the parameters that an einsum multiplies inputs with, and why others are not a matrix there."""
        abouts = [self.of(t) for t in operands]
        fed = [not about.stored for about in abouts]
        for place, (value, about) in enumerate(zip(operands, abouts, strict=True)):
            if fed[place]:
                continue
            found = einsum_at(text, place, fed, operands, value, tuple(value.shape))
            if isinstance(found, str):
                for source in about.exact:
                    self.taken.setdefault(source, f"einsum {text}, where it is not a matrix: {found}")
                    self.refused.setdefault(source.name, f"taken by {self.taken[source]}")
                continue
            self.products |= about.exact
            for source, operator in about.made.items():
                self.computed.setdefault(source, operator)
            taken = self._as_taken(value)
            for name in () if taken is None else self._undefined(about):
                layout = einsum_at(text, place, fed, operands, taken, self.shapes[name])
                if isinstance(layout, Layout):
                    self._found(name, Matrix(name.rpartition(".")[2], None, layout))

    def _with_bias(self, name: str, layout: Layout, bias: Any, taken: Tensor) -> Matrix:
        """As in `exported_products.uses`: the bias joins if the module holds it, with one value per bit line."""
        holder, _, weight = name.rpartition(".")
        about = self.of(bias) if isinstance(bias, Tensor) else None
        for source in () if about is None else about.exact:
            shape = self.shapes.get(source.name)
            if source.name.rpartition(".")[0] == holder and joins_as_row(layout, taken, bias, shape):
                return Matrix(weight, source.name.rpartition(".")[2], layout, tuple(bias.shape) != shape)
        return Matrix(weight, None, layout)

    def result(self) -> dict[str, Operand]:
        """The use of every parameter that is on an array."""
        return {name: self._of(name) for name in self.provided}

    def _of(self, name: str) -> Operand:
        array, clean, kept = (_Source(name, way) for way in ("array", "clean", "kept"))  # type: ignore[arg-type]
        past = clean in self.products or clean in self.computed or clean in self.taken
        if array in self.products:
            return Operand("product", also_bypassed=clean in self.products)
        if kept in self.products or kept in self.computed or kept in self.taken:
            return Operand("kept", self.computed.get(kept, ""))
        if array in self.computed:
            return Operand("computed", self.computed[array], past)
        if array in self.taken:
            return Operand("operand", self.taken[array], past)
        if past:
            return Operand("past", also_bypassed=True)
        if name in self.handed:
            return Operand("handed")
        return Operand("read" if name in self.touched else "unused")


class _Mode(TorchDispatchMode):
    """Passes every operator to a recorder."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet = func.overloadpacket.__name__
        whole = _is_product(packet) or _keeps_values(packet)
        if packet == "einsum":
            whole = any(self.recorder.is_fed(t) for t in args[1])
        if packet == "tensordot":
            whole = any(self.recorder.is_fed(t) for t in args[:2])
        if not whole and func._can_decompose():
            self.recorder.depth += 1  # an exported graph keeps the operator as it is
            try:
                with self:
                    found = func.decompose(*args, **kwargs)
            finally:
                self.recorder.depth -= 1
            if found is not NotImplemented:
                return found
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        out = func(*args, **kwargs)
        self.recorder.operator(func, args, tensors, [t for t in tree_leaves(out) if isinstance(t, Tensor)])
        return out


_ADDED = ("addmm", "baddbmm", "addmv", "addbmm", "_addmm_activation", "sparse_addmm")
_MULTIPLIED = ("linear", "bilinear", "matmul", "mm", "bmm", "mv", "mkldnn_linear", "dot")
_RECURRENT = (
    "lstm",
    "gru",
    "rnn_tanh",
    "rnn_relu",
    "lstm_cell",
    "gru_cell",
    "rnn_tanh_cell",
    "rnn_relu_cell",
)


def _is_product(packet: str) -> bool:
    if packet in _ADDED or packet in _MULTIPLIED or packet in _RECURRENT:
        return True
    return "rnn_layer" in packet or "grouped_mm" in packet or packet == "_cudnn_rnn" or (
        "conv" in packet and "backward" not in packet and "convert" not in packet
    )  # fmt: skip


_VALUES = frozenset(
    {
        "_reshape_alias", "_reshape_copy", "_to_copy", "_unsafe_view", "alias", "alias_copy", "as_strided",
        "atleast_1d", "atleast_2d", "atleast_3d", "block_diag", "cat", "chunk", "clone", "concat",
        "concatenate", "constant_pad_nd", "contiguous", "copy", "copy_", "detach", "detach_",
        "diagonal_scatter", "expand", "expand_as", "expand_copy", "flatten", "flip", "gather", "hstack",
        "index", "index_put", "index_put_", "index_select", "lift", "lift_fresh", "mT", "movedim", "narrow",
        "numpy_T", "pad", "permute", "permute_copy", "pin_memory", "ravel", "repeat", "repeat_interleave",
        "reshape", "reshape_as", "resolve_conj", "resolve_neg", "roll", "select", "select_copy",
        "select_scatter", "slice", "slice_copy", "slice_scatter", "split", "split_copy", "split_with_sizes",
        "split_with_sizes_copy", "squeeze", "squeeze_copy", "stack", "swapaxes", "swapdims", "t", "t_copy",
        "tensor_split", "tile", "to", "to_dtype", "transpose", "transpose_copy", "unbind", "unflatten",
        "unfold", "unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes", "unsqueeze", "unsqueeze_copy",
        "view", "view_as", "view_copy", "vstack",
    }
)  # fmt: skip
"""Operators whose results hold the values of their operands and zeros, maybe in another order."""

_SHAPES = ("empty", "zeros", "ones", "full", "rand", "new_", "arange", "eye", "linspace", "scalar_tensor")
"""How the names of operators begin that take nothing but the shape of a tensor."""


def _keeps_values(packet: str) -> bool:
    return packet in _VALUES


def _place(t: Tensor) -> int:
    """An identifier of a tensor's memory, or of the tensor if it has none."""
    try:
        return int(t.untyped_storage().data_ptr()) or id(t)
    except (RuntimeError, NotImplementedError):
        return id(t)


def _memory(t: Tensor) -> StorageWeakRef | Tensor:
    """What tells when a tensor's memory is freed; the tensor itself, whose identifier counts, if it has none."""
    try:
        if t.untyped_storage().data_ptr():
            return StorageWeakRef(t.untyped_storage())
    except (RuntimeError, NotImplementedError):
        pass
    return t


def trace_alone(module: nn.Module) -> dict[str, Matrix]:
    """How a layer of a custom class multiplies its inputs with its parameters, found with generated inputs.

    A copy of the layer runs on small random inputs whose last dimension is one of its parameters' sizes; the products
    show how a parameter is a matrix.

    Args:
        module: with parameters of its own and no layers with parameters below it.

    Returns:
        {parameter: matrix} where every input that the layer takes shows the same; empty where it takes none.
    """
    own = {n: p for n, p in module._parameters.items() if is_matrix(p)}
    sizes = sorted({size for p in own.values() if p is not None for size in p.shape if size > 1})
    lead = {p.shape[0] for p in own.values() if p is not None and p.ndim > 2}
    shapes = [(*first, size) for size in sizes for first in ((2,), (2, 3), *((n, 2) for n in sorted(lead)))]
    found: dict[str, set[Matrix]] = {}
    try:
        alone = copy.deepcopy(module).cpu().float().eval()
        with torch.random.fork_rng(devices=[]):
            for shape in shapes:
                recorder = _Recorder(alone)
                x = torch.linspace(-1, 1, math.prod(shape)).reshape(shape)
                with suppress(Exception):  # most of these inputs do not fit
                    recorder.run(alone, x)
                    for name, matrix in recorder.matrices.items():
                        found.setdefault(name, set()).add(matrix)
    except Exception:  # a layer that cannot be copied
        return {}
    return {name: next(iter(ways)) for name, ways in found.items() if len(ways) == 1 and name in own}
