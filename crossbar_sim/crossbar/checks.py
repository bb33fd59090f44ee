"""Refusing the impossible, with both values and the unit in the sentence."""

import math

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.errors import InputError


def require(condition: bool, sentence: str) -> None:
    """Raise InputError with `sentence` unless `condition` holds."""
    if not condition:
        raise InputError(sentence)


def finite(value: object) -> bool:
    """True for a real finite number (NaN, infinities, booleans and strings are none)."""
    return isinstance(value, int | float | np.floating | np.integer) and (
        not isinstance(value, bool) and math.isfinite(value)
    )


def check_weights(w: NDArray[np.float32], what: str = "the weight matrix") -> None:
    """Refuse weights that no conductance can stand for.

    Raises:
        InputError: naming how many are NaN or infinite.
    """
    if w.size and not (np.isfinite(w.max()) and np.isfinite(w.min())):
        bad = int(np.count_nonzero(~np.isfinite(w)))
        raise InputError(f"{what} holds {bad} NaN or infinite values of {w.size}: train or export it again")
