"""Build a method from its name and settings, as the command line and experiment files give them."""

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from crossbar_sim.baselines import ALL_METHODS
from crossbar_sim.baselines.method import Method
from crossbar_sim.crossbar.layer_designs import Design
from crossbar_sim.errors import InputError
from crossbar_sim.nn.training.settings import Training
from crossbar_sim.robustness.validation import with_metric
from crossbar_sim.text import parse_json
from crossbar_sim.validate import show, unknown

METHODS: dict[str, type[Method]] = {method.kind: method for method in ALL_METHODS}

TRAINING = tuple(f.name for f in fields(Training))
"""Settings that all methods share."""

_PYTHON: dict[str, Any] = {
    "True": True, "False": False, "None": None, "inf": math.inf, "-inf": -math.inf, "nan": math.nan,
    "Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan,
}  # fmt: skip
"""What is no JSON, and what the documentation of a setting says all the same: as a word, False would be true."""


def method_of(
    kind: str, settings: Mapping[str, Any], training: Mapping[str, Any], hardware: Design | None = None
) -> Method:
    """The method called `kind`.

    Args:
        kind: of `METHODS`.
        settings: its own fields; lists become tuples.
        training: fields of `Training` that differ from the method's own recipe.
        hardware: the design, for methods that train for one.

    Raises:
        InputError: for an unknown method or setting (with the nearest), a value out of range, or a design that the
            method has no use for.

    >>> method_of("dropout", {"rate": 0.2}, {"epochs": 3}).rate
    0.2
    """
    if not isinstance(kind, str) or kind not in METHODS:
        raise InputError(unknown("the method", kind, METHODS))
    method: Any = METHODS[kind]
    own = [f for f in fields(method) if f.name not in ("training", "hardware")]
    for name in settings:
        if name not in {f.name for f in own}:
            raise InputError(unknown(f"the setting of {kind}", name, [f.name for f in own]))
    for name in training:
        if name not in TRAINING:
            raise InputError(unknown("the training setting", name, TRAINING))
    given = {name: _tuples(value) for name, value in settings.items()}
    for f in own:
        if isinstance(f.default, Training) and isinstance(given.get(f.name), Mapping):
            given[f.name] = _recipe(f.name, f.default, given[f.name])
    recipe: Any = next((f.default for f in fields(method) if f.name == "training"), Training())
    given["training"] = replace(recipe, **with_metric(training))
    takes = {f.name for f in fields(method)}
    if hardware is not None:
        if "hardware" not in takes:
            raise InputError(f"{kind} trains without a design: leave out the hardware")
        given["hardware"] = hardware
    try:
        made: Method = method(**given)
    except TypeError as error:
        raise InputError(f"{kind} cannot be set up: {error}") from error
    return made


def setting(text: str) -> tuple[str, Any]:
    """`gamma=0.02` as ("gamma", 0.02): values are JSON, Python's True, False, None and inf, or plain words.

    Raises:
        InputError: if there is no equals sign.

    >>> setting("rate=[0.1, 0.5]"), setting("kind=readout")
    (('rate', [0.1, 0.5]), ('kind', 'readout'))
    >>> setting("alpha=True"), setting("threshold=inf")
    (('alpha', True), ('threshold', inf))
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise InputError(f"--set {show(text)}: expected NAME=VALUE, such as gamma=0.02")
    name = name.strip().replace("-", "_")
    if value.strip() in _PYTHON:
        return name, _PYTHON[value.strip()]
    try:
        return name, parse_json(value)
    except ValueError:
        return name, value


def _recipe(field: str, default: Training, given: Mapping[str, Any]) -> Training:
    """A recipe with some of its fields replaced, as for `retraining` of ReRAM-V."""
    for name in given:
        if name not in TRAINING:
            raise InputError(unknown(f"the training setting {field}.", name, TRAINING))
    try:
        return replace(default, **with_metric(given))
    except InputError as error:
        raise InputError(f"{field}.{error}") from None


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
