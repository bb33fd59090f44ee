"""`to_analog` maps a model onto simulated arrays and decides which layers stay digital."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.layer_designs import Design, LayerDesigns, as_design, design_at, designs_of
from crossbar_sim.data.inputs import Batch
from crossbar_sim.errors import InputError, silenced_warnings, warn
from crossbar_sim.nn.analog import chips, exported_products
from crossbar_sim.nn.analog.copying import base_of, copy_module, restore, unwrapped
from crossbar_sim.nn.analog.effects import ON_ARRAYS_ANYWAY, of_design
from crossbar_sim.nn.analog.exported_products import UNUSED, Use, is_unflattened
from crossbar_sim.nn.analog.fidelity import ensure_equivalent
from crossbar_sim.nn.analog.layers import arrays_of, make_analog, remove_arrays
from crossbar_sim.nn.analog.matrices import (
    DIGITAL,
    DIGITAL_BY_TRAINING,
    NORMALISATION,
    RULES,
    Fold,
    Layout,
    Matrix,
    fold_away,
    foldable,
    is_matrix,
    matrices,
)
from crossbar_sim.nn.analog.operands import Operand, Operands, trace_alone, trace_operands
from crossbar_sim.nn.analog.state import AnalogState, ArraySlot, Layer, count_shared
from crossbar_sim.rng import check_chip


def to_analog(
    model: nn.Module,
    hardware: Design | str | os.PathLike[str] | Mapping[str, Any],
    seed: int = 0,
    chip: int = 0,
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    operands: Operands | None = None,
) -> nn.Module:
    """A copy of the model with its layers on simulated arrays; clean parameters are shared, not copied.

    Args:
        model: any torch model, or the module of a torch.export archive; of a DataParallel or a compiled model, the
            model inside.
        hardware: the design, a preset's name or a hardware file; or a design per layer: `LayerDesigns`, or a mapping as
            `LayerDesigns.of` takes it.
        seed, chip: which random sample of it.
        only, skip: names of layers, or patterns such as "encoder.*" (one text may list several with commas); the rest
            stays digital and clean.
        operands: what a forward does with the parameters (see `trace_operands`): those that no product takes are on
            no array. None: every layer multiplies with its weight, as its class does; a layer of a class of your own
            is tried by itself on small inputs.

    Returns:
        A model with the same forward and the same state_dict keys. Its parameters and buffers are those of
        `model`: training one trains the other. Arrays are programmed when first read.

    Warns:
        CrossbarWarning: of what the design asks for and cannot act on this model.

    Raises:
        InputError: if a pattern matches no layer, nothing is left to map, the model is analog already, or it
            holds TorchScript or lazy parameters.
    """
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise InputError(f"model is {kind}: expected a torch.nn.Module (an instance)")
    hardware = as_design(hardware)
    model = unwrapped(model)
    if any(arrays_of(module) is not None for module in model.modules()):
        raise InputError(
            "the model is analog already: convert the clean model, or set_chip/set_hardware this one"
        )
    for name, module in model.named_modules():
        scripted = isinstance(module, torch.jit.ScriptModule)
        if scripted and (not name or any(True for _ in module.parameters())):
            raise InputError(
                f"a TorchScript module{f' ({name})' * bool(name)} hides its layers: give the nn.Module it was made "
                "from, or a torch.export archive"
            )
    tensors = [*model.parameters(), *model.buffers()]
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise InputError(
                f"{name} has no shape yet: run the lazy model once on an input before mapping it"
            )
    # Tensors that are no leaves (pruning and weight_norm leave them on a module) are remade by its hooks.
    tensors += [t for m in model.modules() for t in vars(m).values() if isinstance(t, torch.Tensor)]
    memo = {id(t): t for t in tensors}
    exported = isinstance(model, torch.fx.GraphModule) and exported_products.is_graph(model)
    analog = copy_module(model, memo, share=True)
    design = AnalogState(hardware, seed, check_chip(chip))
    design.key("")  # refuses an impossible seed now rather than in the first forward
    choice = _Choice(None if only is None else patterns(only), patterns(skip), hardware)
    builder = _GraphBuilder if exported else _Builder
    tried = Operands() if exported or operands is not None else _tried(model)
    layers = count_shared(builder(analog, choice, operands or tried).build())
    choice.check(layers)
    if operands is None and (exported or not any(custom_modules(model))):  # else a run may show one
        check_mapped(model, layers)
    for layer in layers:
        modules: dict[int, tuple[nn.Module, list[ArraySlot]]] = {}
        for slot in layer.slots:
            holder = analog.get_submodule(layer.name) if _is_module(analog, layer.name) else analog
            modules.setdefault(id(holder), (holder, []))[1].append(slot)
        for module, slots in modules.values():
            arrays = arrays_of(module)
            existing = [] if arrays is None else list(dict.fromkeys(arrays.slots.values()))
            if existing:
                restore(module)
            make_analog(module, existing + slots, design)
    alone = not any(layer.slots for layer in layers)  # the root then holds what the model shares
    if (exported or alone) and arrays_of(analog) is None:
        make_analog(analog, [], design)  # a graph copies itself in a way that knows no analog layers
    design.layers = tuple(layers)
    warn(of_design(hardware, design.layers))
    if operands is None and not exported:
        warn(_unknown(layers, tried, dict(custom_modules(model))))
    return analog


def to_digital(model: nn.Module) -> nn.Module:
    """A plain torch model with the weights that the arrays of the current chip hold.

    It can be saved, exported and evaluated anywhere. Its products are exact: converters and read noise act on each
    product, not on the weights, so they have no digital counterpart and are left out.

    Args:
        model: from `to_analog`, programmed to any chip.

    Returns:
        A copy with the classes and the state_dict keys of the clean model (a layer into which a normalisation is
        folded may have a bias more); it shares no memory with `model`.

    Warns:
        CrossbarWarning: if the design has converters or read noise.

    Raises:
        InputError: if the model is not analog.

    >>> from crossbar_sim import Hardware, LogNormalDrift, to_analog
    >>> net = to_analog(nn.Linear(4, 2), Hardware(drift=LogNormalDrift(0.3)))
    >>> plain, x = to_digital(net), torch.ones(1, 4)
    >>> type(plain) is nn.Linear, bool(torch.allclose(plain(x), net(x)))
    (True, True)
    """
    state = chips.analog_state(model)
    digital = copy_module(model)
    found = [(module, arrays) for module in model.modules() if (arrays := arrays_of(module)) is not None]
    copies = [module for module in digital.modules() if arrays_of(module) is not None]
    with torch.no_grad():
        values = [{name: arrays.value(module, name) for name in arrays.slots} for module, arrays in found]
    for copied, of_layer in zip(copies, values, strict=True):
        remove_arrays(copied)
        for name, value in of_layer.items():
            setattr(copied, name, None if value is None else nn.Parameter(value.clone()))
    if any(state.tiled(slot) for _, arrays in found for slot in arrays.slots.values()):
        warn(
            [
                "the digital copy multiplies exactly: converters and read noise of the design act on products, not on "
                "weights, and are left out"
            ]
        )
    return digital


def map_model(
    model: nn.Module,
    hardware: Design,
    x: Batch,
    seed: int = 0,
    chip: int = 0,
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    clean: tuple[Batch, Tensor] | None = None,
    fixed: int | None = None,
) -> tuple[nn.Module, Operands | None]:
    """Map a model, with those weights on arrays that its forward really multiplies with its inputs.

    Args:
        model: clean, in evaluation mode.
        hardware, seed, chip, only, skip: see `to_analog`.
        x: inputs (n, ...), of which the first few are run.
        clean: see `ensure_equivalent`.
        fixed: the one batch size that the model accepts.

    Returns:
        The model as `ensure_equivalent` gives it, and what its forward does with its parameters (see `trace_operands`).

    Warns:
        CrossbarWarning: as `to_analog`.

    Raises:
        InputError: as `to_analog` and `ensure_equivalent`.
    """
    only, skip = None if only is None else patterns(only), patterns(skip)
    with silenced_warnings():

        def make(operands: Operands | None) -> nn.Module:
            made = to_analog(model, hardware, seed, chip, only, skip, operands)
            chips.fit_memory(made)
            return ensure_equivalent(made, model, x, clean, fixed)

        analog, operands = map_traced(make, x, fixed)
    warn(of_design(hardware, chips.layers(analog)))
    return analog, operands


def map_traced(
    make: Callable[[Operands | None], nn.Module], x: Batch, fixed: int | None = None
) -> tuple[nn.Module, Operands | None]:
    """Map a model, trace the operands of its forward, and map it again if the trace shows another mapping.

    Args:
        make: an analog model, with what is known of its forward.
        x, fixed: see `trace_operands`.

    Raises:
        InputError: if nothing of the model is on an array by its classes, and no product was seen.
    """
    analog = make(None)
    operands = trace_operands(analog, x, fixed)
    if operands is None or not (operands.by_name or operands.matrices):
        check_mapped(analog, chips.layers(make(operands) if operands and operands.refused else analog))
    if operands is None or operands.is_standard:
        return analog, operands
    analog = make(operands)
    if operands.agrees:
        return analog, operands
    again = trace_operands(analog, x, fixed)  # a parameter that has an array only now may be taken past it
    if again is not None:
        operands = replace(operands, by_name={**operands.by_name, **again.by_name}, work=again.work)
        if not all(operand.way in ("product", "operand") for operand in again.by_name.values()):
            analog = make(operands)
    return analog, operands


def _tried(model: nn.Module) -> Operands:
    """How layers of custom classes use their parameters, where generated inputs suffice to find out."""
    found: dict[str, Matrix] = {}
    for name, module in custom_modules(model):
        if not any(True for child in module.children() for _ in child.parameters()) and not any(
            p is not None and p.is_meta for p in module._parameters.values()
        ):
            found |= {f"{name}.{p}" if name else p: matrix for p, matrix in trace_alone(module).items()}
    return Operands({}, found)


def _unknown(layers: list[Layer], tried: Operands, own: Mapping[str, nn.Module]) -> Iterator[str]:
    """Warnings for layers of custom classes whose products are unknown."""
    names = []
    for layer in layers:
        chosen = layer.reason not in (SKIPPED, NOT_CHOSEN, BY_DESIGN)
        module = own.get(layer.name) or (own.get("") if layer.kind == layer.name else None)
        held = {} if module is None or not chosen else module._parameters
        holder = f"{layer.name}." if layer.name in own else ""
        names += [
            f"{holder}{p}" for p, v in held.items() if is_matrix(v) and f"{holder}{p}" not in tried.matrices
        ]
    if names:
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        yield (
            f"{', '.join(names[:4])}{more}: how the forward multiplies with "
            "it is not known without inputs, so it is no matrix on an array here; deploy, which runs the model, and an "
            "exported model can give it other cells"
        )


def check_mapped(model: nn.Module, layers: Sequence[Layer]) -> None:
    """Refuse a model of which nothing is on an array.

    Raises:
        InputError: with the reasons.
    """
    if not any(layer.slots for layer in layers):
        raise InputError(
            f"{base_of(model).__name__} has no layer to map: "
            + ("; ".join(f"{layer.name}: {layer.reason}" for layer in layers[:4]) or "it has no parameters")
        )


def patterns(given: str | Iterable[str]) -> tuple[str, ...]:
    """Names or patterns of layers: each text may list several with commas.

    >>> patterns(["c1,f2", "encoder.*"])
    ('c1', 'f2', 'encoder.*')

    Raises:
        InputError: if they are not texts.
    """
    texts = (given,) if isinstance(given, str) else tuple(given)
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"names of layers: expected texts such as 'fc1' or 'encoder.*', got {texts!r:.80}")
    return tuple(part.strip() for text in texts for part in text.split(",") if part.strip())


def _is_module(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True


SKIPPED, NOT_CHOSEN = "skipped as asked", "not among those chosen with only"

ADAPTER = (
    "an adapter beside a weight on arrays: digital, unless patterns of only name it (--only '*') or a design per layer "
    "does by a pattern such as '*lora_*'"
)

_ADAPTERS = ("lora_", "vera_lambda_", "hada_", "lokr_", "oft_", "ia3_")
"""How the names of peft's adapters begin."""
BY_DESIGN = "digital by its design"


def is_adapter(name: str) -> bool:
    """Whether a layer is an adapter by its name."""
    return any(part.startswith(_ADAPTERS) for part in name.split("."))


@dataclass
class _Choice:
    """What the user chose by the names of layers: `only`, `skip` and designs per layer."""

    only: tuple[str, ...] | None
    skip: tuple[str, ...]
    hardware: Design
    unfolded: dict[str, str] = field(default_factory=dict)
    """Normalisations that would be folded, and why the layer before each is digital."""

    def of(self, name: str) -> Hardware:
        """The design of a layer that may be on arrays or drift."""
        found = design_at(self.hardware, name)
        assert found is not None, f"{name} is digital"
        return found

    def why_not(self, name: str) -> str:
        """The reason to leave the layer digital; "" if there is none."""
        if self.only is not None and not any(fnmatchcase(name, p) for p in self.only):
            return NOT_CHOSEN
        if self.only is None and is_adapter(name) and not self.names_adapter(name):
            return ADAPTER
        if any(fnmatchcase(name, p) for p in self.skip):
            return SKIPPED
        return BY_DESIGN if design_at(self.hardware, name) is None else ""

    def names_adapter(self, name: str) -> bool:
        """Whether the pattern that gives an adapter its design is one for adapters: `*` is not."""
        place = self.hardware.first(name) if isinstance(self.hardware, LayerDesigns) else None
        pattern = "" if place is None else self.hardware.layers[place][0]  # type: ignore[union-attr]
        return any(kind in pattern for kind in _ADAPTERS)

    @property
    def may_fold(self) -> bool:
        """Whether a design folds normalisations."""
        return any(hardware.normalisation == "folded" for hardware in designs_of(self.hardware))

    def folds(self, layer: str, norm: str) -> bool:
        """Whether the normalisation `norm` is folded into `layer`: its own design says so, and the layer is mapped.

        Not if `skip` names the normalisation.
        """
        own = design_at(self.hardware, norm)
        if own is None or own.normalisation != "folded" or any(fnmatchcase(norm, p) for p in self.skip):
            return False
        if why_not := self.why_not(layer):
            self.unfolded[norm] = f"{layer} before it is {why_not}"
        return not why_not

    def check(self, layers: list[Layer]) -> None:
        """Refuse a pattern that matches no layer, and two designs of one set of cells."""
        names = [layer.name for layer in layers]
        if isinstance(self.hardware, LayerDesigns):
            self.hardware.check(names)
        first: dict[str, str] = {}
        for layer in layers:
            for slot in layer.slots if isinstance(self.hardware, LayerDesigns) else ():
                other = first.setdefault(slot.name, layer.name)
                if slot.fold is None and self.of(other) != self.of(layer.name):
                    raise InputError(
                        f"{other} and {layer.name} share {slot.name}, which is one set of cells, and have different "
                        "designs: give both the same, or make one of them digital"
                    )
        for pattern in (*(self.only or ()), *self.skip):
            if not any(fnmatchcase(name, pattern) for name in names):
                raise InputError(f"no layer is called {pattern!r}; layers: {', '.join(names) or 'none'}")


class _Builder:
    """Decides layer by layer what is mapped, for models with a forward method."""

    def __init__(self, model: nn.Module, choice: _Choice, operands: Operands | None) -> None:
        self.model, self.choice = model, choice
        self.operands = operands or Operands()
        self.holders = {id(module): name for name, module in model.named_modules()}
        self.first: dict[int, str] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self.first.setdefault(id(parameter), name)
        # A tied weight is one set of cells, with one layout for all layers that have it.
        self.tied: dict[int, Layout] = {}
        for module in model.modules():
            for matrix in self.matrices(module):
                place = id(module._parameters[matrix.weight])
                self.tied[place] = min(self.tied.get(place, matrix.layout), matrix.layout, key=Layout.rank)

    def matrices(self, module: nn.Module) -> tuple[Matrix, ...]:
        """The matrices of a layer by its class and by the trace, or by the operators of a layer that is a graph."""
        if not exported_products.is_unflattened(module):
            found = matrices(module)
            known = {matrix.weight for matrix in found}
            traced = self.operands.within(self.holders.get(id(module), ""))
            return found + tuple(
                m for m in traced if m.weight not in known and m.weight in module._parameters
            )
        used = exported_products.uses(module).values()
        return tuple(use.matrix for use in used if use.matrix and use.parameter in module._parameters)

    def build(self) -> list[Layer]:
        folds = self.folds() if self.choice.may_fold else {}
        layers = []
        for name, module in self.model.named_modules():
            if any(p is not None for p in module._parameters.values()):
                layers.append(self.layer(name or type(module).__name__, module, folds))
            elif getattr(module, "parametrizations", None) is not None:
                layers.append(Layer(name, type(module).__name__, False, PARAMETRISED))
            elif not isinstance(module, torch.jit.ScriptModule) and {"weight", "running_var"} <= {
                *module._buffers
            }:
                layers.append(Layer(name, type(module).__name__, False, CONSTANTS))
        gone = {norm for norm, _ in folds.values()}
        layers = [layer for layer in layers if layer.name not in gone] + list(unregistered_layers(self.model))
        return layers + [Layer(n, "BatchNorm", False, f"folded into {at}") for at, (n, _) in folds.items()]

    def folds(self) -> dict[str, tuple[str, Fold]]:
        modules = dict(self.model.named_modules())
        folds = {}
        for layer, norm in foldable(self.model).items():
            carrier = modules[layer]
            if (
                not self.choice.folds(layer, norm)
                or hasattr(carrier, "parametrizations")
                or not self.matrices(carrier)
            ):
                continue
            folds[layer] = (norm, Fold(modules[norm], modules[norm].eps))  # type: ignore[arg-type]
            fold_away(modules[norm], carrier._parameters["weight"].ndim)  # type: ignore[union-attr]
        return folds

    def layer(self, name: str, module: nn.Module, folds: dict[str, tuple[str, Fold]]) -> Layer:
        kind = type(module).__name__
        why_not = self.choice.why_not(name) or module.__dict__.get(DIGITAL_BY_TRAINING, "")
        if why_not:
            return Layer(name, kind, False, why_not)
        found = self.matrices(module)
        if hasattr(module, "parametrizations") and not found:
            own = [p for p, value in module._parameters.items() if value is not None]
            return self.digital(name, module, kind, own, False, PARAMETRISED)
        traced = {m.weight: self.operand_of(module, m.weight) for m in found}
        refused = {p: operand for p, operand in traced.items() if operand and operand.way != "product"}
        found = tuple(matrix for matrix in found if matrix.weight not in refused)
        if refused and not found:
            return self.refused(name, kind, module, refused)
        fold = folds.get(name, (None, None))[1]
        slots = [self.slot(name, module, matrix, fold) for matrix in found]
        taken = {p for slot in slots for p in (slot.weight, slot.bias)}
        rest = [p for p, v in module._parameters.items() if v is not None and p not in taken]
        if fold is not None and not any(slot.bias for slot in slots):
            rest = [p for p in rest if p != "bias"]
            slots.append(self.folded_bias(name, module, fold))
        if found:
            slots += self.rest(name, module, found, rest)
            why = "a parameter that its kind of layer does not have: export the model, and products with it are found"
            reasons = {p: why_no_operand(refused[p]) if p in refused else why for p in rest}
            return self.on_arrays(name, kind, slots, module, reasons)
        idle = [self.operand_of(module, p) for p in rest]
        if rest and all(operand is not None and operand.way == "unused" for operand in idle):
            return Layer(name, kind, False, f"{why_digital(module)}; {NEVER_READ}")
        normalisation = isinstance(module, NORMALISATION)
        if exported_products.is_unflattened(module):
            used = list(exported_products.uses(module).values())
            if used and all(use.normalisation for use in used):
                return self.digital(name, module, kind, rest, True, used[0].reason)
        dot = f"{self.holders[id(module)]}." if self.holders.get(id(module)) else ""
        refusals = [self.operands.refused[f"{dot}{p}"] for p in rest if f"{dot}{p}" in self.operands.refused]
        reason = "; ".join(dict.fromkeys(refusals)) or why_digital(module)
        return self.digital(name, module, kind, rest, normalisation, reason)

    def rest(
        self, name: str, module: nn.Module, found: tuple[Matrix, ...], rest: list[str]
    ) -> list[ArraySlot]:
        """The other parameters of a layer with matrices: biases, or anything if the layer is the whole model."""
        layer = module is not self.model or bool(matrices(module))
        biases = [p for p in rest if layer or p in {matrix.bias for matrix in found}]
        others = [p for p in rest if p not in biases]
        own = self.choice.of(name)
        slots = self.vectors(name, module, others, own.other == "drifting")
        return slots + self.vectors(name, module, biases, own.bias == "drifting")

    def operand_of(self, module: nn.Module, parameter: str) -> Operand | None:
        """The traced use of a parameter of the module; None if unknown."""
        return self.operands.of(self.holders.get(id(module), ""), parameter)

    def refused(self, name: str, kind: str, module: nn.Module, refused: dict[str, Operand]) -> Layer:
        """A layer whose matrices are used by no product of the forward."""
        rest = [p for p, v in module._parameters.items() if v is not None]
        first = next(iter(refused.values()))
        return self.digital(name, module, kind, rest, False, why_no_operand(first))

    def on_arrays(
        self, name: str, kind: str, slots: list[ArraySlot], module: nn.Module, rest: dict[str, str]
    ) -> Layer:
        """The report line of a mapped layer; `rest` {name: why} are its parameters that are not on arrays."""
        drifting = {slot.weight for slot in slots}
        left = tuple(
            (p, f"{why}; drifts per parameter" if p in drifting else why)
            for p, why in rest.items()
            if is_matrix(module._parameters[p])
        )
        said = ", ".join(f"{p} ({why})" for p, why in left)
        return Layer(
            name, kind, True, f"on arrays, except {said}" if left else "on arrays", tuple(slots), left
        )

    def digital(
        self, name: str, module: nn.Module, kind: str, rest: list[str], normalisation: bool, reason: str
    ) -> Layer:
        own = self.choice.of(name)
        choice = own.normalisation if normalisation else own.other
        biases = [p for p in rest if self.is_bias(module, p)]
        others = [p for p in rest if p not in biases]
        drifting = self.vectors(name, module, others, choice == "drifting")
        drifting += self.vectors(name, module, biases, own.bias == "drifting")
        if drifting:
            return Layer(name, kind, False, f"{reason}; drifts per parameter", tuple(drifting))
        if normalisation and choice == "folded":
            reason += f"; {self.choice.unfolded.get(name, 'no layer alone before it to fold into')}"
        return Layer(name, kind, False, reason)

    def is_bias(self, module: nn.Module, parameter: str) -> bool:
        """Whether a parameter is the bias of a kind of layer that could be on arrays."""
        return isinstance(module, tuple(RULES)) and "bias" in parameter

    def slot(self, layer: str, module: nn.Module, matrix: Matrix, fold: Fold | None) -> ArraySlot:
        row = self.choice.of(layer).bias == "row"
        bias = ("bias" if fold is not None else matrix.bias) if row else None
        place = id(module._parameters[matrix.weight])
        layout = matrix.layout if fold is not None else self.tied.get(place, matrix.layout)
        in_parts = matrix.in_parts and bias is not None
        return ArraySlot(self.first[place], layer, layout, matrix.weight, bias, fold, in_parts=in_parts)

    def folded_bias(self, layer: str, module: nn.Module, fold: Fold) -> ArraySlot:
        weight = module._parameters["weight"]
        assert weight is not None
        name = self.first[id(weight)].removesuffix("weight") + "bias"
        layout = Layout((len(weight),), "vector")
        return ArraySlot(
            name, layer, layout, "bias", fold=fold, ideal=self.choice.of(layer).bias != "drifting"
        )

    def vectors(self, layer: str, module: nn.Module, names: list[str], drifting: bool) -> list[ArraySlot]:
        slots = []
        for parameter in names if drifting else ():
            value = module._parameters[parameter]
            operand = self.operand_of(module, parameter)
            if operand is not None and operand.way in ("past", "kept", "handed", "unused"):
                continue  # what its cells hold, no operator takes
            if value is not None and value.is_floating_point():
                layout = self.tied.get(id(value), Layout(tuple(value.shape), "vector"))
                slots.append(ArraySlot(self.first[id(value)], layer, layout, parameter))
        return slots


TIED = "tied"
"""Kind of a parameter that the graph reads by another name."""


class _GraphBuilder(_Builder):
    """The same for an exported graph, where the operator that takes a parameter determines its use."""

    def build(self) -> list[Layer]:
        assert isinstance(self.model, torch.fx.GraphModule)
        self.uses = exported_products.uses(self.model)
        self.names = {id(module): name for name, module in self.model.named_modules()}
        named = dict(self.model.named_parameters(remove_duplicate=False))
        read = {id(named[name]): name for name, use in self.uses.items() if not use.unused}
        self.read_as: dict[str, str] = {}
        for name, use in self.uses.items():
            if use.unused and id(named[name]) in read:
                self.read_as[name] = read[id(named[name])]
                reason = (
                    f"its {name.rpartition('.')[2]} is {self.read_as[name]}, by which name the graph reads it"
                )
                self.uses[name] = exported_products.Use(name, TIED, None, reason)
            elif use.matrix is not None and id(named[name]) in self.first:
                layout = self.tied.get(id(named[name]), use.matrix.layout)
                self.tied[id(named[name])] = min(layout, use.matrix.layout, key=Layout.rank)
        folds = exported_products.fold_graph(self.model, self.choice.folds) if self.choice.may_fold else {}
        exported_products.read_late(self.model)
        gone = {norm for norm, _ in folds.values()}
        layers = []
        for name, module in self.model.named_modules():
            if not any(p is not None for p in module._parameters.values()) or name in gone:
                continue
            if name:
                layers.append(self.holder(name, name, module, list(module._parameters), folds))
            else:  # parameters of the model itself: each is a layer of its own
                layers += [self.holder(p, "", module, [p], folds) for p in module._parameters]
        layers += constant_layers(exported_products.constant_uses(self.model))
        return layers + [Layer(n, "batch_norm", False, f"folded into {at}") for at, (n, _) in folds.items()]

    def holder(
        self, name: str, prefix: str, module: nn.Module, own: list[str], folds: dict[str, tuple[str, Fold]]
    ) -> Layer:
        dot = f"{prefix}." if prefix else ""
        unused = exported_products.Use("", "unused", None, UNUSED)
        uses = [self.uses.get(f"{dot}{p}", unused) for p in own if module._parameters[p] is not None]
        found = [use for use in uses if use.matrix is not None]
        kind = (found or uses or [unused])[0].kind
        why_not = self.choice.why_not(name)
        if why_not:
            against = [use.reason for use in uses if self.is_read_on_arrays(use.parameter)]
            return Layer(
                name, kind, False, f"{why_not}, but {against[0]}, {ON_ARRAYS_ANYWAY}" if against else why_not
            )
        fold = folds.get(name, (None, None))[1]
        slots = [self.slot(name, module, use.matrix, fold) for use in found if use.matrix]
        taken = {p for slot in slots for p in (slot.weight, slot.bias)}
        uses = [use for use in uses if use.kind != TIED] or uses
        tied = {use.parameter for use in uses if use.kind == TIED}
        rest = [
            p for p in own if p not in taken and f"{dot}{p}" not in tied and module._parameters[p] is not None
        ]
        if fold is not None and not any(slot.bias for slot in slots):
            rest = [p for p in rest if p != "bias"]
            slots.append(self.folded_bias(name, module, fold))
        if found:
            slots += self.vectors(name, module, rest, self.choice.of(name).bias == "drifting")
            why = {p: self.uses.get(f"{dot}{p}", unused).reason for p in rest}
            return self.on_arrays(name, kind, slots, module, why)
        if uses and all(use.unused for use in uses):
            return Layer(name, kind, False, UNUSED)
        if uses and all(use.bias for use in uses):  # of a layer that is the whole model
            slots = self.vectors(name, module, rest, self.choice.of(name).bias == "drifting")
            return Layer(name, kind, False, "a bias", tuple(slots))
        normalisation = bool(uses) and all(use.normalisation for use in uses)
        computed = any(is_computed(use.parameter, use.kind) for use in uses)
        reason = PARAMETRISED if computed else (uses or [unused])[0].reason
        return self.digital(name, module, kind, rest, normalisation, reason)

    def is_read_on_arrays(self, parameter: str) -> bool:
        """Whether the graph reads a parameter by another name, whose layer is on arrays."""
        read = self.read_as.get(parameter, "")
        return (
            bool(read)
            and self.uses[read].matrix is not None
            and not self.choice.why_not(read.rpartition(".")[0] or read)
        )

    def is_bias(self, module: nn.Module, parameter: str) -> bool:
        """By the operator that takes it."""
        holder = self.names.get(id(module), "")
        use = self.uses.get(f"{holder}.{parameter}" if holder else parameter)
        return use is not None and use.bias


# Weights that stay digital, and the reasons that reports give.


_PARTS = ("_g", "_v", "_orig")
"""How the names of parameters end that a weight is computed from."""

CONSTANTS = "constants of a frozen normalisation, no parameters: they stay digital and do not drift"

PARAMETRISED = (
    "its weight is computed by a parametrization: call torch.nn.utils.parametrize.remove_parametrizations "
    "(or prune.remove, remove_weight_norm) before deploying or exporting"
)

NEVER_READ = (
    "no product of this forward reads it (it was not run, or a copy kept before was used): on no array"
)

COMPUTED = "its forward computes another weight from it"
PAST = "its forward takes the clean weight past its array"
KEPT = "its forward goes on with a weight that an earlier forward kept"
HANDED = "the model's forward hands another weight to it (functional_call)"

_AFFINE, _NO_MATRIX = "an affine normalisation", "no weight matrix"

NOTHING_TO_MAP = frozenset(f"{why}; {NEVER_READ}" for why in (*DIGITAL.values(), _AFFINE, _NO_MATRIX))
"""Reasons of layers that no forward reads and that would be on no array if it did: nothing is missing."""

NO_OPERAND = (NEVER_READ, COMPUTED, PAST, KEPT, HANDED, PARAMETRISED, UNUSED, "no operator was seen")
"""What reasons say of a weight that no product of the forward takes; reports warn of such layers."""

_QUANTISED = "a quantised layer, whose packed integers stay digital and exact: deploy the float model"
_LISTED = "held where torch does not look for layers (a plain list, say): it stays digital and exact; use nn.ModuleList"
_CONSTANT = "a weight that is no parameter: it stays digital and exact; make it an nn.Parameter"


def custom_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules of custom classes that hold matrices, whose use only a run of the forward shows."""
    known = (*RULES, *NORMALISATION, *DIGITAL, nn.utils.parametrize.ParametrizationList)
    for name, module in model.named_modules():
        plain = not isinstance(module, (*known, torch.jit.ScriptModule, torch.fx.GraphModule))
        if not plain or is_unflattened(module) or hasattr(module, "parametrizations"):
            continue
        values = [(p, v) for p, v in module._parameters.items() if v is not None]
        # a table of positions begins with a dimension of 1, which goes over the examples
        if any(is_matrix(v) and v.shape[0] > 1 and not p.endswith(_PARTS) for p, v in values):
            yield name, module


def why_digital(module: nn.Module) -> str:
    """Why none of the module's own parameters is a matrix on an array."""
    if isinstance(module, NORMALISATION):
        return _AFFINE
    for cls, reason in DIGITAL.items():
        if isinstance(module, cls):
            return reason
    parts = isinstance(module, nn.utils.parametrize.ParametrizationList)
    if parts or any(name.endswith(_PARTS) for name in module._parameters):
        return PARAMETRISED
    if isinstance(module, tuple(RULES)):
        return "no real-valued weight of its own"
    if any(p is not None and p.ndim >= 2 for p in module._parameters.values()):
        return (
            "a parameter of a class that is no known layer: export the model, and products with it are found"
        )
    return _NO_MATRIX


def why_no_operand(operand: Operand) -> str:
    """Why a matrix of a known layer type is on no array, from the traced use in its forward."""
    if operand.way == "computed":
        return f"{COMPUTED} ({operand.operator}), which stays digital"
    if operand.way == "operand":
        if operand.operator.startswith("einsum "):
            return f"taken by {operand.operator}"
        return f"taken by {operand.operator}, no matrix product of an input with it"
    if operand.way == "past":
        return f"{PAST} (by parameters(), functional_call, a closure or a cache): digital and clean"
    if operand.way == "kept":
        return f"{KEPT} (in a closure, a global or a cache): digital and clean"
    if operand.way == "handed":
        return f"{HANDED}, so its own is on no array"
    if operand.way == "read":
        return (
            "its forward reads it, but no operator was seen to take it together with an input (a copy kept before may "
            "be used): digital"
        )
    return NEVER_READ


def is_computed(parameter: str, operator: str) -> bool:
    """Whether a parameter of an exported graph, taken by `operator`, is one that a weight is computed from."""
    computed = "parametrizations" in parameter.split(".") or parameter.endswith("_orig")
    return computed or operator.startswith("_weight_norm")


def constant_layers(uses: Iterable[Use]) -> list[Layer]:
    """Report lines for buffers and constants in matrix products of an exported graph."""
    return [Layer(use.parameter, use.kind, False, _CONSTANT) for use in uses]


def unregistered_layers(model: nn.Module) -> Iterator[Layer]:
    """Report lines for weights of a model that are not among its parameters.

    Quantised layers, layers in plain containers, and buffers or plain tensors with the name of a weight
    (a weight of another name cannot be distinguished from, say, a mask or a table of positions).
    """
    quantised: list[str] = []
    registered = {id(module) for module in model.modules()}
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or name.startswith(tuple(f"{q}." for q in quantised)):
            continue
        dot = f"{name}." if name else ""
        if type(module).__module__.startswith("torch.ao.nn.quantized") and (
            hasattr(module, "_packed_params") or hasattr(module, "_all_weight_values")
        ):
            quantised.append(name)
            yield Layer(name or type(module).__name__, type(module).__name__, False, _QUANTISED)
            continue
        for attribute, value in () if is_unflattened(module) else vars(module).items():
            for key, layer in _items(value):
                if id(layer) not in registered and any(True for _ in layer.parameters()):
                    yield Layer(f"{dot}{attribute}{key}", type(layer).__name__, False, _LISTED)
        for attribute, value in {**module._buffers, **vars(module)}.items():
            if isinstance(value, Tensor) and _is_weight(attribute, value, module):
                yield Layer(f"{dot}{attribute}", type(module).__name__, False, _CONSTANT)


def _items(value: object) -> Iterator[tuple[str, nn.Module]]:
    """Modules that an attribute holds, with the rest of their names."""
    if isinstance(value, nn.Module):
        yield "", value
    elif isinstance(value, list | tuple | dict):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        yield from ((f".{key}", item) for key, item in pairs if isinstance(item, nn.Module))


def _is_weight(name: str, value: Tensor, module: nn.Module) -> bool:
    """Whether a tensor outside the parameters has a weight's name and is not computed from parameters or a mask."""
    made = any(f"{name}{end}" in module._parameters for end in ("_orig", "_g", "_v"))
    named = name in ("w", "W", "kernel") or "weight" in name
    return (
        named and not made and not name.endswith("_mask") and value.is_floating_point() and is_matrix(value)
    )
