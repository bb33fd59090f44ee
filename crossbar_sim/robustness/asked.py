"""What `robustness` was asked for, in any of the forms that it takes: refused in one sentence, or made definite."""

import operator
from collections.abc import Iterable, Mapping
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn

from crossbar_sim import __version__
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.data import Split, Splits, load_data
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


def design_asked(hardware: Hardware | None) -> Hardware:
    """The design, or the preset "bayesft" for None.

    Raises:
        InputError: if it is none.
    """
    if isinstance(hardware, str):
        raise InputError(
            f"hardware={hardware!r}: expected a design; the preset of that name is Hardware.preset({hardware!r})"
        )
    if hardware is not None and not isinstance(hardware, Hardware):
        raise InputError(f"hardware={hardware!r}: expected a design, such as Hardware.preset('bayesft')")
    return Hardware.preset("bayesft") if hardware is None else hardware


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
    models: Mapping[str, nn.Module] | Iterable[Model],
    data: Split | Splits | tuple[Tensor, Tensor | None] | str | None,
) -> list[Model]:
    """Models with their examples.

    Raises:
        InputError: if they, or the data, are of no form that `robustness` takes.
    """
    if not isinstance(models, Mapping):
        if isinstance(models, nn.Module | str) or not isinstance(models, Iterable):
            raise InputError('models: expected label -> module, such as {"erm": network}')
        given = list(models)
        if not all(isinstance(model, Model) for model in given):
            raise InputError('models without labels: expected label -> module, such as {"erm": network}')
        return given
    for label, module in models.items():
        if not isinstance(module, nn.Module):
            raise InputError(f"models: {label!r} is {type(module).__name__}, expected a torch.nn.Module")
    if data is None:
        raise InputError("data is missing: give a split, a data set's name or (x, y)")
    examples = _examples(data)
    return [
        Model(
            label, module, examples, {"fingerprint": fingerprint(module)},
            about={"version": __version__, "torch": torch.__version__},
        )
        for label, module in models.items()
    ]  # fmt: skip


def _examples(data: Split | Splits | tuple[Tensor, Tensor | None] | str) -> Examples:
    if isinstance(data, str):
        data = load_data(data)
    if isinstance(data, Splits):
        identity = {"name": data.name, "fingerprint": data.fingerprint}
        x, y, notes = data.test.x, data.test.y, data.notes
    else:
        if not isinstance(data, Split | tuple):
            raise InputError(
                f"data: expected a split, a data set's name or (x, y), got {type(data).__name__}"
            )
        split = data if isinstance(data, Split) else Split(*data)
        alone = Splits("data", None, None, split, None)
        identity, x, y, notes = {"name": "data", "fingerprint": alone.fingerprint}, split.x, split.y, ()
    known: dict[str, Any] = {**identity, "images": len(x), "labelled": y is not None}
    return Examples(x, y, known, notes)
