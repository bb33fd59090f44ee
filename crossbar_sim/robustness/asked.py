"""What `robustness` was asked for, in any of the forms that it takes: refused in one sentence, or made definite."""

import operator
from collections.abc import Iterable, Mapping
from typing import Any, SupportsIndex

import torch
from torch import nn

from crossbar_sim import __version__
from crossbar_sim.data.given import FORMS, given
from crossbar_sim.errors import InputError
from crossbar_sim.robustness.examples import Examples
from crossbar_sim.robustness.plans import MOST_CHIP, EveryImage, HalfWidth, Plan
from crossbar_sim.robustness.subjects import Model, fingerprint

CHIPS = 20
"""Of the protocol."""


def plan_asked(
    chips: SupportsIndex | Iterable[SupportsIndex] | None, half_width: float | None, plan: Plan | None
) -> Plan:
    """The one that is asked for.

    Raises:
        InputError: if two are, or chips are no whole numbers.
    """
    given = {"chips": chips, "half_width": half_width, "plan": plan}
    two = [name for name, value in given.items() if value is not None]
    if len(two) > 1:
        raise InputError(
            f"{' and '.join(two)} are two budgets: give chips (all images on these), or half_width (as many chips and "
            "images as that takes)"
        )
    if plan is not None:
        return plan
    if half_width is not None:
        return HalfWidth(half_width)
    chips = CHIPS if chips is None else chips
    try:
        numbers = (
            tuple(map(operator.index, chips))
            if isinstance(chips, Iterable)
            else tuple(range(operator.index(chips)))
        )
    except (TypeError, OverflowError, MemoryError):
        raise InputError(f"chips={chips!r}: expected a number of chips, or their numbers") from None
    if isinstance(chips, bool) or not all(0 <= chip < MOST_CHIP for chip in numbers):
        raise InputError(f"chips={chips!r}: chips are numbered from 0 to {MOST_CHIP - 1}")
    return EveryImage(numbers)


def few_asked(chips: SupportsIndex) -> int:
    """How many chips per-layer sensitivity is measured on.

    Raises:
        InputError: if that is no whole number >= 0.
    """
    try:
        few = operator.index(chips)
    except TypeError:
        few = -1
    if few < 0:
        raise InputError(f"sensitivity_chips={chips!r}: expected 0 (none) or more chips")
    return few


def models_asked(
    models: Mapping[str, nn.Module] | Iterable[Model] | nn.Module,
    data: Any,
) -> list[Model]:
    """Models with their examples.

    Raises:
        InputError: if they, or the data, are of no form that `robustness` takes.
    """
    if not isinstance(models, Mapping):
        if isinstance(models, nn.Module):
            return models_asked({type(models).__name__: models}, data)
        if isinstance(models, str | type) or not isinstance(models, Iterable):
            raise InputError('models: expected label -> module, such as {"erm": network}')
        listed = list(models)
        if not all(isinstance(model, Model) for model in listed):
            raise InputError('models without labels: expected label -> module, such as {"erm": network}')
        return listed
    for label, module in models.items():
        if not isinstance(module, nn.Module):
            kind = f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
            raise InputError(f"models: {label!r} is {kind}, expected a torch.nn.Module (an instance)")
    if data is None:
        raise InputError(f"data is missing: give {FORMS}")
    examples = given(data)
    known = examples.identity()
    return [
        Model(
            str(label), module, Examples(examples.x, examples.y, known, examples.notes),
            {"fingerprint": fingerprint(module)},
            about={"version": __version__, "torch": torch.__version__},
        )
        for label, module in models.items()
    ]  # fmt: skip
