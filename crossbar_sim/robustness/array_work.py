"""How often the matrix of each layer is multiplied with a vector in one inference: counted while the model runs."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from crossbar_sim.crossbar import cost
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.layer_designs import Design, as_design
from crossbar_sim.data.inputs import Batch, call
from crossbar_sim.data.load import to_examples
from crossbar_sim.errors import InputError
from crossbar_sim.nn import layers as layers_of
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.analog.chips import analog_state, slots
from crossbar_sim.nn.analog.multiply_adds import ArrayShare, paths_of
from crossbar_sim.nn.analog.operands import Operands
from crossbar_sim.nn.evaluate import inputs_for, run_over
from crossbar_sim.nn.files.loading import LoadedModel
from crossbar_sim.robustness.examples import TOKENS, find_examples, seen_in

_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "linear", "mkldnn_linear", "_addmm_activation"}


class _Counter(TorchDispatchMode):
    """Multiply-accumulates of every product in which one of the tensors takes part."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        super().__init__()
        self.products = {_storage(t): 0.0 for t in tensors}
        self.signed = dict.fromkeys(self.products, False)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        tensors = [a for a in args if isinstance(a, Tensor)]
        watched = [t for t in tensors if _storage(t) in self.products and t.dim() > 1]
        if not watched or not isinstance(out, Tensor):
            return out
        weight = watched[0]
        if name in _PRODUCTS:
            inner = weight.shape[-1] if name.endswith("linear") else tensors[-2].shape[-1]
            factors = tensors[:2] if name.endswith("linear") else tensors[-2:]  # addmm begins with the bias
            self._add(weight, out.numel() * inner, factors)
        elif name in ("convolution", "_convolution", "mkldnn_convolution"):
            transposed = bool(args[6]) if name != "mkldnn_convolution" else False
            per_element = weight[0].numel()
            self._add(weight, (tensors[0].numel() if transposed else out.numel()) * per_element, tensors[:1])
        return out

    def _add(self, weight: Tensor, products: int, factors: list[Tensor]) -> None:
        name = _storage(weight)
        self.products[name] += products
        inputs = [t for t in factors if _storage(t) != name]
        self.signed[name] = self.signed[name] or any(bool((t < 0).any()) for t in inputs)


@dataclass(frozen=True)
class Reads:
    """How often a matrix is multiplied with a vector in one inference, and whether an input was below 0."""

    vectors: int
    signed: bool


def reads_per_inference(
    model: nn.Module, weights: dict[str, tuple[Tensor, nn.Module]], x: Batch
) -> dict[str, Reads | None]:
    """Input vectors of each weight matrix for one example.

    Args:
        model: clean, in evaluation mode.
        weights: by name, each with the module that holds it.
        x: a batch of examples.

    Returns:
        How often each matrix is multiplied with a vector, rounded up; None where no product with it was seen.
    """
    steps: dict[str, int] = {}

    def of_recurrent(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any) -> None:
            given = arguments[0]
            data = given if isinstance(given, Tensor) else given.data
            steps[name] = steps.get(name, 0) + data.numel() // data.shape[-1]  # steps times examples

        return hook

    handles = [
        module.register_forward_pre_hook(of_recurrent(name))
        for name, (_, module) in weights.items()
        if isinstance(module, nn.RNNBase | nn.RNNCellBase)
    ]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # or attention would be one operator
    try:
        with torch.no_grad(), _Counter([tensor for tensor, _ in weights.values()]) as counter:
            call(model, x.clone())  # its forward may write to it
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for handle in handles:
            handle.remove()
    found: dict[str, Reads | None] = {}
    for name, (tensor, _) in weights.items():
        vectors = steps.get(name) or counter.products[_storage(tensor)] / max(tensor.numel(), 1)
        signed = name in steps or counter.signed[_storage(tensor)]
        found[name] = Reads(-(-round(vectors) // len(x)), signed) if vectors else None
    return found


def _storage(t: Tensor) -> int:
    return int(t.untyped_storage().data_ptr())


def count(
    loaded: LoadedModel,
    hardware: Design,
    data: str | None,
    data_dir: str | None,
    input_shape: tuple[int, ...] | None,
    only: tuple[str, ...],
    skip: tuple[str, ...],
) -> tuple[list[tuple[cost.Work, Hardware]], tuple[str, ...]]:
    """The work of every matrix on arrays with the design of its layer, and what was left out."""
    examples = find_examples(loaded, data, data_dir, loaded.batch or 1, input_shape, 0)
    works, notes = works_of(loaded, hardware, examples.x, only or None, skip)
    # the work of a language model is that of a sequence, whose length its file does not say
    return works, (*notes, *(examples.notes if examples.identity["name"] == TOKENS else ()))


def works_of(
    loaded: LoadedModel,
    hardware: Design,
    x: Batch,
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
) -> tuple[list[tuple[cost.Work, Hardware]], tuple[str, ...]]:
    """As `count`, on given inputs.

    Raises:
        InputError: if no layer is on an array.
    """
    model = loaded.module
    operands, sentences = seen_in(loaded, hardware, x, only, skip)
    analog = to_analog(model, hardware, 0, 0, only, skip, operands)
    weights = {
        slot.name: (module._parameters[slot.weight], module)
        for slot, module in slots(analog)
        if slot.layout.order != "vector" and not slot.ideal
    }
    clean: Any = {name: pair for name, pair in weights.items() if pair[0] is not None}
    reads = reads_per_inference(model, _holders(model, clean), x[: loaded.batch or 1])
    paths: dict[str, set[str]] = {}
    for layer in layers_of(analog):
        for slot in layer.matrices:
            paths.setdefault(slot.name, set()).update(paths_of(layer, slot))
    named = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    works, notes = [], list(sentences)
    for layer in layers_of(analog):
        for slot in layer.counted:
            weight = weights[slot.name][0]
            tied = named[id(weight)] > 1  # then products of its digital layers take it too
            read = None if tied else reads.get(slot.name)
            read = read or _traced(operands, paths[slot.name], weight) or reads.get(slot.name)
            if read is None:
                read = Reads(1, True)
                notes.append(f"{slot.name}: no product with it was seen in one inference; counted once")
            own = analog_state(analog).of(layer.name)
            geometry = own.geometry(slot.rows, slot.layout.cols, slot.layout.groups)
            works.append((cost.Work.of(slot.name, geometry, own, read.vectors, read.signed), own))
    digital = [layer.name for layer in layers_of(analog) if not layer.analog]
    if digital:
        notes.append(f"not counted, for they are digital: {', '.join(digital)}")
    share = None if operands is None else ArrayShare.of(layers_of(analog), operands.work)
    if share is not None and share.sentence:
        notes.append(
            f"{share.sentence}; {share.digital:.3g} digital multiply-adds an inference are not in the energy, latency "
            "and area: no technology here publishes what its digital multipliers take"
        )
    if not works:
        raise InputError("no layer is on an array: there is nothing to estimate")
    return works, tuple(notes)


def _traced(operands: Operands | None, names: set[str], weight: Tensor | None) -> Reads | None:
    """Reads by the multiply-adds of operators that copy a weight first (bilinear, einsum, tensordot, grouped_mm).

    Those are counted whose weight has one of the names.

    An input vector drives the matrices of all groups: of those that are chosen for an input, the mean counts.
    """
    if operands is None or weight is None:
        return None
    found = sum(one.multiply_adds for one in operands.work if names.intersection(one.names))
    return Reads(math.ceil(round(found / weight.numel(), 6)), True) if found else None


def _holders(model: Any, weights: dict[str, Any]) -> dict[str, Any]:
    """The module of the clean model that holds each parameter: hooks act there."""
    of: dict[int, Any] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                of.setdefault(id(parameter), module)
    return {name: (tensor, of.get(id(tensor), module)) for name, (tensor, module) in weights.items()}


def cost_of_model(
    model: nn.Module,
    hardware: Design | str | os.PathLike[str] | Mapping[str, Any],
    x: Any = None,
    technology: cost.Technology | str | os.PathLike[str] = "isaac",
    *,
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
) -> cost.Estimate:
    """Energy, latency and area of one inference of a model in memory: a first-order estimate (docs/cost.md).

    Args:
        model: trained or not; it is put in evaluation mode.
        hardware: the design, a preset's name or a hardware file, or a design per layer.
        x: inputs (n, ...) in any form that `deploy` takes, of which the first is counted; None: random ones, for a
            model that begins with a linear layer.
        technology: a name ("isaac", "prime") or the path of a .toml file, or one that was read.
        only, skip: see `to_analog`.

    Returns:
        The estimate: `total.joules`, `total.latency` (s), `total.square_metres`, and `layers`.

    Raises:
        InputError: if no layer is on an array, or an ADC's rate or the node leaves the survey.
    """
    chosen = technology if isinstance(technology, cost.Technology) else cost.technology(technology)
    loaded = LoadedModel(model.eval(), "module in memory", "", type(model).__name__)
    if x is None:
        given = find_examples(loaded, None, None, 1, None, 0).x
    else:
        given, _ = inputs_for(model, to_examples(x, what="x").x)
    run_over(model, given[:1], 1)  # refuses inputs that the model cannot take
    works, notes = works_of(loaded, as_design(hardware), given, only, skip)
    return cost.Estimate.of(works, chosen, notes)
