"""Any method from its name and plain settings, BayesFT among them: what commands and experiment files give."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from typing import Any

from crossbar_sim.baselines.method import Method
from crossbar_sim.baselines.settings import METHODS, TRAINING, method_of
from crossbar_sim.crossbar.layer_designs import Design
from crossbar_sim.errors import InputError
from crossbar_sim.robustness.validation import with_metric
from crossbar_sim.search.bayesft import POLISH, TRIAL, BayesFT
from crossbar_sim.validate import is_real, is_whole, show, unknown

RESTART_EPOCHS = 10
"""Of a trial that trains from scratch, by default."""


def any_method(
    kind: str, settings: Mapping[str, Any], training: Mapping[str, Any], hardware: Design | None = None
) -> Method:
    """The method called `kind`, BayesFT among them.

    Args:
        kind: of `baselines.settings.METHODS`, or "bayesft".
        settings: its own fields; lists become tuples. `polish` of "bayesft" is a number of epochs, 0 for none.
        training: fields of `Training` that differ from the method's own recipe; of a trial for "bayesft".
        hardware: the design, for methods that train for one.

    Raises:
        InputError: for an unknown method or setting (with the nearest), a value out of range, or what would mislead.
    """
    if kind == BayesFT.kind:
        return bayesft_of(settings, training, hardware)
    if kind in ("drift-aware", "neft"):
        _check_patience(kind, training)
    if kind not in METHODS:
        raise InputError(unknown("the method", kind, (*METHODS, BayesFT.kind)))
    return method_of(kind, settings, training, hardware)


def _check_patience(kind: str, training: Mapping[str, Any]) -> None:
    """Refuse to stop a training through drift by its validation score."""
    if training.get("patience") is not None:
        raise InputError(
            f"patience with {kind}: it would stop on the accuracy of clean weights, which says nothing about chips "
            "that drift (and most before sigma has risen); leave it out and give epochs"
        )


def bayesft_of(
    settings: Mapping[str, Any], training: Mapping[str, Any], hardware: Design | None = None
) -> BayesFT:
    """BayesFT from plain values; see `any_method`.

    Raises:
        InputError: for an unknown setting (with the nearest), or a value out of range.
    """
    allowed = [f.name for f in fields(BayesFT) if f.name not in ("training", "hardware")]
    for name in settings:
        if name not in allowed:
            raise InputError(unknown("the setting of bayesft", name, allowed))
    for name in training:
        if name not in TRAINING:
            raise InputError(unknown("the training setting", name, TRAINING))
    _check_patience(BayesFT.kind, training)
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
    }
    for name in ("rates", "width", "training_sigma"):
        bounds = given.get(name)
        pair = isinstance(bounds, tuple) and len(bounds) == 2 and all(map(is_real, bounds))
        if bounds is not None and not pair and not (name == "training_sigma" and is_real(bounds)):
            raise InputError(f"{name}={show(bounds)}: expected low and high, such as [0.2, 0.8]")
    for name, least in (("chips", 2), ("images", 1), ("initial", 1), ("batch", 1), ("polish", 0)):
        value = given.get(name)
        if name in given and not (is_whole(value) and int(value or 0) >= least):
            raise InputError(f"{name}={show(value)}: expected an integer of at least {least}")
    restart = given.get("algorithm") == "restart"
    base = replace(TRIAL, epochs=RESTART_EPOCHS) if restart else TRIAL
    base = replace(base, **with_metric(training))
    polish = given.pop("polish", None)
    if restart and polish:
        raise InputError("polish would do nothing: with algorithm='restart' each trial is trained to its end")
    last: int = 0 if restart else POLISH.epochs if polish is None else polish
    given |= {"polish": replace(base, epochs=last) if last else None}
    try:
        return BayesFT(**given, training=base, hardware=hardware)
    except TypeError as error:
        raise InputError(f"bayesft cannot be set up: {error}") from error


def needed_hardware(method: str, hardware: Design) -> Design | None:
    """The design of an experiment, for a method that trains for it: BayesFT, and those that cannot do without one."""
    if method == BayesFT.kind:
        return hardware
    kind: Any = METHODS.get(method)
    required = kind is not None and any(f.name == "hardware" and f.default is MISSING for f in fields(kind))
    return hardware if required else None
