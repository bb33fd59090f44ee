"""What a results file holds: tasks, and the trials of their chips. Plain values, no torch."""

import functools
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from crossbar_sim.errors import InputError


def canonical(value: Any) -> str:
    """JSON in its one form: keys sorted, no spaces, no NaN; equal values give equal bytes.

    Raises:
        InputError: if the value is not JSON, or holds a number that is not finite.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"cannot be written as JSON: {error}") from None
    # A file's name may hold bytes that are not characters: "\udc80" is how JSON writes them in plain text.
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


_LESS = frozenset({"output_error", "cross-entropy", "perplexity", "rmse", "mae"})
_LOGARITHMS = frozenset({"perplexity"})


def is_stored_otherwise(metric: str) -> bool:
    """Whether scores of a metric, by its name, are stored with a minus sign or as a logarithm: more is better then."""
    return metric in _LESS or metric.startswith("-")


def shown(metric: str, score: float) -> float:
    """A stored score as reports show it: `Metric.shown` by the name of the metric, without torch.

    >>> shown("rmse", -0.25), shown("accuracy", 0.9)
    (0.25, 0.9)
    """
    value = -score if is_stored_otherwise(metric) else score
    if metric not in _LOGARITHMS:
        return value + 0.0  # no minus zero
    return math.exp(value) if value < 709 else math.inf


@dataclass(frozen=True, eq=False)
class Task:
    """One model on one data set and one design, scored by one metric: what trials belong to.

    Args:
        label: what reports call it. Not part of the identity.
        identity: everything that changes the numbers, as plain JSON values: model, data, hardware (without the
            swept sigma), seed, stream version, metric, how images are taken.
        about: what a reader may want to know beside that: file names, versions, machine. Not part of the identity.
        clean: the clean model's score.

    Raises:
        InputError: if the clean score is not finite, or the identity lacks `metric`, or `images` with `count` and
            `drawn`, which all that reads results relies on.
    """

    label: str
    identity: Mapping[str, Any]
    clean: float
    about: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.label, str) or not isinstance(self.about, Mapping):
            raise InputError(
                f"a task cannot have label {self.label!r} and about {self.about!r}: expected text and an object"
            )
        if not isinstance(self.clean, float | int) or not math.isfinite(self.clean):
            raise InputError(
                f"task {self.label!r} has the clean score {self.clean!r}: a finite number is expected"
            )
        identity = self.identity if isinstance(self.identity, Mapping) else {}
        metric, images = identity.get("metric"), identity.get("images")
        count, drawn = (
            (images.get("count"), images.get("drawn")) if isinstance(images, Mapping) else (None, None)
        )
        if not (
            isinstance(metric, str) and isinstance(count, int) and count >= 1 and isinstance(drawn, bool)
        ):
            raise InputError(
                f"the identity of task {self.label!r} has metric {metric!r} and images {images!r}: expected are "
                'a name and {"count": 1 or more, "drawn": true or false, ...}'
            )

    @functools.cached_property
    def id(self) -> str:
        """SHA-256 (hexadecimal) of the canonical JSON of the identity."""
        return hashlib.sha256(canonical(self.identity).encode()).hexdigest()

    @property
    def metric(self) -> str:
        """What chips are judged by."""
        return str(self.identity["metric"])

    @property
    def drawn(self) -> bool:
        """Whether each chip sees images of its own (the interval budget) and not all of them."""
        return bool(self.identity["images"]["drawn"])


# One chip on several devices. Its integer random words are the same everywhere; logarithms, exponentials and sums round
# in the last places, which may turn the decision on an example that lies between two classes.

CPU = "cpu"
"""The device of the Numba kernels, whose results are equal to the bit on every machine and are not marked."""

_COUNTED = re.compile(r"accuracy|agreement|top\d+|f1|miou|map|map50")
"""Metrics that count examples."""


def apart(value: float, images: int, metric: str) -> float:
    """By how much a chip's score may differ between devices.

    One example and a thousandth of them, for scores that count examples; a thousandth of the value for others.
    """
    if _COUNTED.fullmatch(metric):
        return (1.5 + images // 1000) / images  # half an example for the rounding of shares
    return abs(value) / 1000


APART = "a chip's score may differ between devices by one example and 0.1 % of them, or by 0.1 % of an error"
"""`apart` in words."""


@dataclass(frozen=True)
class Trial:
    """The score of one chip at one sigma.

    Args:
        sigma, chip: which.
        value: the score, more being better (minus an output error).
        images: how many examples it was measured on.
        variance: of `value` over the draw of those images, estimated; 0 where all of them were used.
        seconds: that it took; not part of the result.

    Raises:
        InputError: if a number is not finite, or impossible.
    """

    sigma: float
    chip: int
    value: float
    images: int
    variance: float = 0.0
    seconds: float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        good = math.isfinite(self.value) and math.isfinite(self.sigma) and self.sigma >= 0
        if not (good and self.chip >= 0 and self.images >= 1 and 0 <= self.variance < math.inf):
            raise InputError(
                f"a trial cannot be {self}: finite numbers, chip >= 0 and images >= 1 are expected"
            )

    @property
    def place(self) -> tuple[float, int, int]:
        """What names it within its task: (sigma, chip, images)."""
        return self.sigma, self.chip, self.images
