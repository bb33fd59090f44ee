"""Checks of arguments; error messages give the value, the allowed range and the unit."""

import difflib
import math
from collections.abc import Iterable
from numbers import Real
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.errors import InputError

SINGLE = 1e30
"""Largest magnitude of any parameter, so that products stay within single precision."""


class UnitWarning(UserWarning):
    """An implausible conductance: microsiemens may have been given in place of siemens."""


MOST_SIEMENS = 0.1
"""Conductances above this are implausible in S: cells conduct a few millisiemens at most."""


def units_caution(g: float, what: str) -> str | None:
    """The warning for a conductance that is implausible in S, else None.

    Args:
        g: the largest conductance, in S.
        what: the beginning of the sentence, with {} in the place of the value.

    >>> units_caution(100.0, "g_max={}")
    'g_max=100 S is above 0.1 S, and cells conduct at most a few mS: are these microsiemens? 100 uS are 1e-4 S'
    """
    if not g > MOST_SIEMENS:
        return None
    value = what.format(f"{g:.6g} S")
    return (
        f"{value} is above {MOST_SIEMENS} S, and cells conduct at most a few mS: are these microsiemens? "
        "100 uS are 1e-4 S"
    )


def require(condition: bool, sentence: str) -> None:
    """Raise InputError with `sentence` unless `condition` holds."""
    if not condition:
        raise InputError(sentence)


def show(value: object) -> str:
    """`value` as messages quote it: short and on one line.

    >>> show(0.6), show("0.6"), show(10**400)
    ('0.6', "'0.6'", 'an integer of 1329 bits')
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int) and value.bit_length() > 200:
        return f"an integer of {value.bit_length()} bits"
    try:
        text = " ".join(repr(value).split())
    except (ValueError, RecursionError):  # a container of huge integers, or one that is too deep
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def unknown(what: str, given: object, allowed: Iterable[str]) -> str:
    """The message for a name that is not in `allowed`, with the most similar one.

    >>> unknown("preset", "bayesfit", ("bayesft", "ideal"))
    "preset 'bayesfit' is unknown: did you mean 'bayesft'? Known: bayesft, ideal"
    """
    names = list(allowed)
    close = difflib.get_close_matches(given, names, n=1) if isinstance(given, str) else []
    hint = f": did you mean {close[0]!r}? Known: " if close else "; known: "
    return f"{what} {show(given)} is unknown{hint}{', '.join(names) or 'none'}"


def finite(value: object) -> bool:
    """True for a finite real number; False for NaN, infinities, booleans and strings."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating | np.integer):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond double precision
        return False


def number(
    owner: object,
    name: str,
    rule: str,
    low: float = -math.inf,
    high: float = math.inf,
    above: float = -math.inf,
) -> None:
    """Keep field `name` of a frozen dataclass as a plain float (and -0 as 0), or refuse it.

    Args:
        owner: the dataclass, under construction.
        name: the field.
        rule: what is allowed, with the unit; the end of the sentence.
        low, high: the least and the greatest value allowed.
        above: a bound that is itself not allowed.

    Raises:
        InputError: "name=value: rule".
    """
    value = getattr(owner, name)
    allowed = finite(value) and low <= value <= high and value > above
    require(allowed, f"{name}={show(value)}: {rule}")
    object.__setattr__(owner, name, float(value) + 0.0)


def whole(owner: object, name: str, rule: str, low: int, high: int) -> None:
    """Keep field `name` of a frozen dataclass as a plain int, or refuse it; see `number`."""
    value = getattr(owner, name)
    allowed = is_whole(value) and low <= value <= high
    require(allowed, f"{name}={show(value)}: {rule}")
    object.__setattr__(owner, name, int(value))


def as_typed(value: float) -> float:
    """A number without rounding errors such as 0.15000000000000002: to 12 decimals, if that changes nothing else.

    >>> as_typed(3 * 0.05), as_typed(1e-6 / 3)
    (0.15, 3.333333333333333e-07)
    """
    short = round(value, 12)
    return short if abs(short - value) <= 1e-9 * abs(value) else value


def is_int(value: object) -> TypeGuard[int]:
    """True for an integer of Python; False for a boolean."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_real(value: object) -> bool:
    """True for an integer or float of Python; False for a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_whole(value: object) -> bool:
    """True for an integer of Python or NumPy; False for a boolean."""
    return is_int(value) or isinstance(value, np.integer)


def is_rate(value: object) -> bool:
    """True for a real number in [0, 1), such as a dropout rate."""
    return isinstance(value, Real) and not isinstance(value, bool) and 0 <= float(value) < 1


def check_integer(name: str, value: object, low: int) -> None:
    """Refuse anything but an integer of Python of at least `low`.

    Raises:
        InputError: "name=value: an integer >= low is needed".
    """
    if not is_int(value) or value < low:
        raise InputError(f"{name}={show(value)}: an integer >= {low} is needed")


def check_weights(w: NDArray[np.float32], what: str = "the weight matrix") -> None:
    """Refuse weights that are NaN or infinite.

    Raises:
        InputError: naming how many are NaN or infinite.
    """
    if w.size and not (np.isfinite(w.max()) and np.isfinite(w.min())):
        bad = int(np.count_nonzero(~np.isfinite(w)))
        raise InputError(f"{what} holds {bad} NaN or infinite values of {w.size}: train or export it again")


def check_inputs(x: NDArray[np.float32]) -> None:
    """Refuse inputs that are NaN or infinite.

    Raises:
        InputError: naming how many are NaN or infinite.
    """
    if x.size and not (np.isfinite(x.max()) and np.isfinite(x.min())):
        bad = int(np.count_nonzero(~np.isfinite(x)))
        raise InputError(f"the inputs hold {bad} NaN or infinite values of {x.size}: check the layer before")
