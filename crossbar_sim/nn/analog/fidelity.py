"""Equivalence check of an analog model: on ideal hardware it must compute what the clean model computes.

`to_analog` has no inputs, so this is looked at where there are some, before any number is reported. What can go wrong:
a copy runs layers of the original (kept in a global or on a class), a forward compares `type(layer)` with a class,
state of an earlier run acts. Where the plain copy is not the model, a copy whose layers keep their classes is tried,
and then the original itself, analog while it runs; where none of them is the model, it is refused.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.layer_designs import each
from crossbar_sim.data.inputs import Batch
from crossbar_sim.errors import InputError
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.copying import unwrapped
from crossbar_sim.nn.analog.layers import InPlace, arrays_of, keep_class
from crossbar_sim.nn.detection import detects
from crossbar_sim.nn.evaluate import few_of, few_outputs

_NEAR, _NEAR_HALF = 1e-4, 3e-2
"""Differences of outputs, relative to the largest, that rounding can make; in half precision."""


@dataclass(frozen=True)
class _Finding:
    """The result of one run on ideal hardware.

    Args:
        difference: of the outputs, relative to the largest; infinite where the shapes differ, or it failed.
        same: whether that is rounding.
        foreign: layers of the original that ran, by name.
        unread: arrays that were not read.
        error: what the forward raised.
    """

    difference: float
    same: bool
    foreign: tuple[str, ...]
    unread: frozenset[str]
    error: InputError | None = None

    @property
    def fine(self) -> bool:
        """Whether the analog model is equivalent and complete."""
        return self.same and not self.foreign and not self.unread


def ensure_equivalent(
    analog: nn.Module,
    model: nn.Module,
    x: Batch,
    clean: tuple[Batch, Tensor] | None = None,
    fixed: int | None = None,
) -> nn.Module:
    """Return an analog model that is equal to the clean one on ideal hardware, on a few inputs.

    Args:
        analog: what `to_analog` made of `model`, in evaluation mode; it may be changed.
        model: clean, in evaluation mode.
        x: inputs (n, ...), of which the first are run.
        clean: a few inputs and what `few_outputs` of the clean model has given for them; None: it is run here.
        fixed: the one batch size that the model accepts.

    Returns:
        `analog`, perhaps with layers that keep their classes, or an `InPlace`.

    Raises:
        InputError: if there is none, with the likely cause and the first layer that differs.
    """
    model = unwrapped(model)
    if clean is None:
        few = few_of(x, fixed, 2 if detects(model) else None)
        try:
            clean = few, few_outputs(model, few, fixed)
        except InputError:  # which the caller's own run will say, unless it needs no outputs
            return analog
    few, wanted = clean
    first = _look(analog, model, few, wanted, fixed)
    if first.fine:
        return analog
    possible = not isinstance(model, fx.GraphModule) and len([*model.modules()]) == len([*analog.modules()])
    if possible and first.same:
        # Something may still refer to the original; or layers are unused.
        placed = InPlace(model, analog)
        second = _look(placed, model, few, wanted, fixed)
        if second.same and second.unread < first.unread:
            return placed
    if first.same and not (possible and first.foreign):
        return analog
    for module in analog.modules():
        keep_class(module)
    second = _look(analog, model, few, wanted, fixed)
    if second.same and not second.foreign:
        return analog
    if possible:
        placed = InPlace(model, analog)
        if _look(placed, model, few, wanted, fixed).same:
            return placed
    raise _refusal(analog, model, few, wanted, first, fixed)


def _look(analog: nn.Module, model: nn.Module, few: Batch, wanted: Tensor, fixed: int | None) -> _Finding:
    """Run the analog model on ideal hardware and, if the outputs differ, with clean weights.

    A network of thresholds may turn the rounding of a weight into another output: so its weights decide.
    """
    shared = chips.analog_state(analog)
    slots = [slot.name for slot, _ in chips.slots(analog) if not slot.ideal]
    foreign: dict[str, None] = {}
    names = {} if isinstance(analog, InPlace) else {id(m): n or "the model" for n, m in model.named_modules()}
    thread = threading.get_ident()

    def see(module: nn.Module, args: Any) -> None:
        if id(module) in names and threading.get_ident() == thread:
            foreign[names[id(module)]] = None

    difference, same, error = float("inf"), False, None
    touched: set[str] = set()
    handle = register_module_forward_pre_hook(see)
    try:
        with threads.in_place(), _ideal(analog):
            shared.touched = touched
            try:
                y = few_outputs(analog, few, fixed)
            finally:
                shared.touched = None
            difference, same = _compared(y, wanted, model)
            if not same:
                with chips.only_layers(analog, ()):
                    _, same = _compared(few_outputs(analog, few, fixed), wanted, model)
    except InputError as raised:
        error, touched = raised, set(slots)
    finally:
        handle.remove()
    return _Finding(difference, same, tuple(foreign), frozenset(slots) - touched, error)


@contextmanager
def _ideal(analog: nn.Module) -> Iterator[None]:
    """Context in which the hardware is ideal, with the same layers mapped and normalisations folded."""
    shared = chips.analog_state(analog)
    hardware, maps, remap = shared.hardware, shared.maps, shared.remap

    def ideal(own: Hardware) -> Hardware:
        return Hardware(bias=own.bias, normalisation=own.normalisation, other=own.other)

    try:
        shared.hardware, shared.maps, shared.remap = each(hardware, ideal), None, False
        shared.generation += 1
        yield
    finally:
        shared.hardware, shared.maps, shared.remap = hardware, maps, remap
        shared.generation += 1


def _compared(y: Tensor, wanted: Tensor, model: nn.Module) -> tuple[float, bool]:
    """Difference from the clean model's outputs, relative to the largest, and whether rounding explains it."""
    if y.shape != wanted.shape:
        return float("inf"), False
    if torch.equal(y, wanted):
        return 0.0, True
    largest = difference = 0.0
    for ours, theirs in zip(y, wanted, strict=True):  # the outputs of a language model are large
        known = theirs.isfinite()  # what a model makes of padding may be anything
        if known.any():
            largest = max(largest, float(theirs[known].abs().max()))
            found = float((ours - theirs)[known].abs().nan_to_num(float("inf")).max())
            difference = max(difference, found)
    difference /= max(largest, 1e-30)
    half = any(p.is_floating_point() and p.element_size() < 4 for p in model.parameters())
    return difference, difference <= (_NEAR_HALF if half else _NEAR)


def _refusal(
    analog: nn.Module,
    model: nn.Module,
    few: Batch,
    wanted: Tensor,
    finding: _Finding,
    fixed: int | None,
) -> InputError:
    """The error for a model of which no equivalent analog model was found."""
    if finding.error is not None and "cannot take inputs" not in str(finding.error):
        return finding.error
    try:
        here = _compared(few_outputs(model, few, fixed), wanted, model)[1]
    except InputError:
        here = False
    if not here:  # as in a worker's process, to which a list of a class does not come along
        return InputError(
            f"{type(model).__name__} itself does not give the outputs here that it gave before: keep layers and state "
            "on self, not in a global or on a class, or run it without workers"
        )
    where = _first_difference(analog, model, few, fixed)
    if finding.error is not None:
        what = f"its forward fails ({str(finding.error).rpartition('(batch first): ')[2]})"
    else:
        what = f"its outputs differ from the clean model's by {finding.difference:.2g} of the largest"
    cause = (
        "a forward that compares type(layer) with a class (use isinstance), layers or functions in a global or on a "
        "class, state that an earlier run has left, or a normalisation by the statistics of the batch"
    )
    if finding.foreign:
        listed = ", ".join(finding.foreign[:3])
        cause = f"layers of the original run in its copy ({listed}), since a global, a class or a closure holds them"
    return InputError(
        f"{type(model).__name__} is not the same model with its layers on ideal arrays: {what}{where}; likely cause: "
        f"{cause}"
    )


def _first_difference(analog: nn.Module, model: nn.Module, few: Batch, fixed: int | None) -> str:
    """Where the two forwards first differ, in words; empty if no layer can be named."""
    with _ideal(analog):
        theirs, ours = _calls(model, few, fixed), _calls(analog, few, fixed)
    before = ""
    for (name, y), (other, z) in zip(theirs, ours, strict=False):
        if name != other:
            return (
                f", after {before or 'the start'}, where the clean forward calls {name} and this one {other}"
            )
        if y is not None and z is not None and not _compared(z, y, model)[1]:
            return f", first in {name}"
        before = name
    return ""


def _calls(model: nn.Module, few: Batch, fixed: int | None) -> list[tuple[str, Tensor | None]]:
    """The calls of a model's layers, in the order in which they end, with their outputs where those are tensors."""
    names = {id(module): name or "the model" for name, module in model.named_modules()}
    found: list[tuple[str, Tensor | None]] = []

    def see(module: nn.Module, args: Any, y: Any) -> None:
        if id(module) in names:
            found.append((names[id(module)], y.detach().clone() if isinstance(y, Tensor) else None))

    handle = register_module_forward_hook(see)
    try:
        with threads.in_place():
            few_outputs(model, few, fixed)
    except InputError:
        pass  # up to where it fails
    finally:
        handle.remove()
    return found


def is_copy(analog: nn.Module) -> bool:
    """Whether the analog model can be copied for other threads: all but the original itself."""
    return not isinstance(analog, InPlace) and any(arrays_of(m) is not None for m in analog.modules())
