"""Argument checks that the networks share: counts, dropout sites, activations."""

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from torch import nn

from crossbar_sim.errors import InputError

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def count(name: str, value: object, low: int = 1) -> int:
    """Return `value` as an int of at least `low`; raises InputError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise InputError(f"{name}={value!r} must be a whole number of at least {low}")
    return int(value)


def layer_widths(hidden: object) -> tuple[int, ...]:
    """Return the widths of hidden layers; raises InputError unless they are whole numbers of at least 1."""
    if isinstance(hidden, str) or not isinstance(hidden, Iterable):
        raise InputError(f"hidden={hidden!r} must be a sequence of layer widths")
    return tuple(count("hidden width", width) for width in hidden)


def dropout_rates(dropout: Any, sites: int) -> tuple[float, ...]:
    """Return one rate per site from a single rate or a sequence of `sites` rates.

    Raises InputError for a rate outside [0, 1) or a sequence of another length: 1 would silence
    the network, and a rate that fits no site would silently do nothing.
    """
    several = isinstance(dropout, Iterable)
    given: list[Any] = list(dropout) if several else [dropout] * sites
    if len(given) != sites:
        raise InputError(
            f"dropout={dropout!r} has {len(given)} rates but the network has {sites} sites: "
            "give one rate for all or one per site"
        )
    for rate in given if several else [dropout]:
        if isinstance(rate, bool) or not isinstance(rate, Real) or not 0 <= float(rate) < 1:
            raise InputError(f"dropout={dropout!r}: every rate must be a number in [0, 1)")
    return tuple(float(rate) for rate in given)


def activation_type(name: object) -> type[nn.Module]:
    """Return the activation's class; raises InputError naming the known ones."""
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise InputError(f"activation={name!r} is unknown: choose from {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
