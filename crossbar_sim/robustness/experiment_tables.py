"""Reading an experiment's tables strictly, and putting a budget's table over them."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from crossbar_sim.crossbar.checks import is_whole, show, unknown
from crossbar_sim.errors import InputError

BUDGETS = ("full", "quick")
"""Of a run: the file as it is, and the file with its table [quick] over it."""

_RIVALS = {"chips": "half_width", "half_width": "chips"}
_SEEDS = {"seed": "seeds", "seeds": "seed"}


def known(table: Mapping[str, Any], keys: Iterable[str], what: str) -> None:
    """Refuse a key that is none of `keys`, naming the nearest."""
    allowed = tuple(keys)
    for key in table:
        if key not in allowed:
            raise InputError(unknown(what, key, allowed))


def is_table(given: Any, where: str) -> dict[str, Any]:
    """`given`, if it is a table."""
    if not isinstance(given, dict):
        raise InputError(f"{where}={show(given)}: expected a table [{where}]")
    return given


def table_at(table: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The table under `key`, or an empty one."""
    return is_table(table.get(key, {}), key)


def text_at(table: Mapping[str, Any], key: str, prefix: str = "") -> str | None:
    """The text under `key`, which must not be empty; None if it is not there."""
    value = table.get(key)
    if key in table and (not isinstance(value, str) or not value.strip()):
        raise InputError(f"{prefix}{key}={show(value)}: expected a text")
    return value


def whole_at(
    table: Mapping[str, Any], key: str, low: int, high: int, default: int | None, prefix: str = ""
) -> int:
    """The whole number under `key`, in low .. high."""
    value = table.get(key, default)
    if not is_whole(value) or not low <= value <= high:  # type: ignore[operator]  # a whole number by then
        raise InputError(f"{prefix}{key}={show(value)}: expected a whole number from {low} to {high}")
    return int(value)  # type: ignore[arg-type]


def no_nan(value: Any, where: str = "") -> None:
    """Refuse NaN anywhere: TOML can write it, and every comparison with it is false.

    Raises:
        InputError: naming the whole key.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            no_nan(item, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for item in value:
            no_nan(item, where)
    elif isinstance(value, float) and math.isnan(value):
        raise InputError(f"{where}=nan: expected a number")


def with_budget(table: Mapping[str, Any], budget: str, keys: Iterable[str]) -> dict[str, Any]:
    """The file's table as a budget has it, without the table [quick].

    [quick] takes the place of keys of the file. [quick.train] takes the place of settings of every training, and
    [quick.train.NAME] of one; `settings` and `arguments` there are put over those of the training, key by key.

    Args:
        table: as read.
        budget: of `BUDGETS`.
        keys: that the file may have.

    Raises:
        InputError: if the file has no such budget, or [quick] has an unknown key.
    """
    if budget not in BUDGETS:
        raise InputError(unknown("the budget", budget, BUDGETS))
    whole = {key: value for key, value in table.items() if key != "quick"}
    if "quick" not in table:
        if budget == "quick":
            raise InputError(
                "there is no quick budget in this file: add a table [quick] with what differs in it"
            )
        return whole
    quick = dict(is_table(table["quick"], "quick"))
    known(quick, [key for key in keys if key not in ("quick", "models")], "the key quick.")
    trainings = is_table(quick.pop("train", {}), "quick.train")
    named = table_at(table, "train")
    for key, value in trainings.items():
        if isinstance(value, dict) and key not in ("settings", "arguments") and key not in named:
            raise InputError(unknown("the training quick.train.", key, named))
    if budget == "full":
        return whole
    for key in quick:
        whole.pop(_RIVALS.get(key, ""), None)
    whole |= quick
    if not trainings:
        return whole
    if not named:
        raise InputError("quick.train has nothing to act on: the file has no table [train.NAME]")
    common = {key: value for key, value in trainings.items() if key not in named}
    whole["train"] = {
        label: _over(_over(is_table(given, f"train.{label}"), common), _own(trainings, label))
        for label, given in named.items()
    }
    return whole


def _own(trainings: Mapping[str, Any], label: str) -> dict[str, Any]:
    return is_table(trainings.get(label, {}), f"quick.train.{label}")


def _over(table: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A training's table with changes: seed and seeds replace each other, settings and arguments are merged."""
    changed = dict(table)
    for key, value in changes.items():
        changed.pop(_SEEDS.get(key, ""), None)
        merged = key in ("settings", "arguments") and isinstance(value, dict)
        changed[key] = {**is_table(changed.get(key, {}), key), **value} if merged else value
    return changed
