"""The search space: named dimensions with bounds, and its map to the unit cube of the surrogate."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crossbar_sim.errors import InputError
from crossbar_sim.validate import finite

LOW, HIGH = 0.0, 0.8
"""Bounds of a dropout rate, unless others are given."""

Point = Mapping[str, float]
"""One place in a space: a number for each of its dimensions."""


@dataclass(frozen=True)
class Dimension:
    """One dimension of a search space.

    Args:
        name: what tables and files call it.
        low, high: the bounds, both allowed.

    Raises:
        InputError: if the bounds are no finite numbers with low < high.
    """

    name: str
    low: float = LOW
    high: float = HIGH

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InputError(f"a dimension is called {self.name!r}: a name is text")
        for bound in (self.low, self.high):
            if not finite(bound):
                raise InputError(f"{self.name} has the bound {bound!r}: a bound is a finite number")
        if not self.low < self.high:
            raise InputError(
                f"{self.name} has the bounds {self.low!r} .. {self.high!r}: low < high is needed"
            )


@dataclass(frozen=True)
class Space:
    """A box: an ordered set of dimensions.

    Raises:
        InputError: if there is no dimension, or two have one name.

    >>> space = Space.of({"dropout1": (0.0, 0.8), "sigma": (0.5, 1.5)})
    >>> space.point([0.25, 1.0])
    {'dropout1': 0.2, 'sigma': 1.5}
    """

    dimensions: tuple[Dimension, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "dimensions", tuple(self.dimensions))
        if not self.dimensions:
            raise InputError("the space to search has no dimension: name at least one")
        if len(set(self.names)) != len(self.names):
            raise InputError(f"two dimensions of the space are called alike: {', '.join(self.names)}")

    @classmethod
    def of(cls, bounds: Mapping[str, Sequence[float]]) -> "Space":
        """From name -> (low, high)."""
        return cls(tuple(Dimension(name, *pair) for name, pair in bounds.items()))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the dimensions, in order."""
        return tuple(dimension.name for dimension in self.dimensions)

    def __len__(self) -> int:
        return len(self.dimensions)

    def point(self, unit: Iterable[float]) -> dict[str, float]:
        """The point at a place of the unit cube: name -> value."""
        return {
            d.name: min(max(d.low + (d.high - d.low) * u, d.low), d.high)
            for d, u in zip(self.dimensions, map(float, unit), strict=True)
        }

    def unit(self, points: Iterable[Point]) -> Tensor:
        """Points as (n, d) float64 in the unit cube.

        Raises:
            InputError: if a point has other names, or lies outside.
        """
        rows = [[self._unit(d, point) for d in self.dimensions] for point in map(self._checked, points)]
        return torch.tensor(rows, dtype=torch.float64).reshape(-1, len(self))

    def as_json(self) -> dict[str, Any]:
        """Name -> [low, high]: part of a study's identity."""
        return {d.name: [float(d.low), float(d.high)] for d in self.dimensions}

    def _checked(self, point: Point) -> Point:
        if set(point) != set(self.names):
            raise InputError(
                f"the point names {', '.join(point) or 'nothing'}, and the space {', '.join(self.names)}"
            )
        return point

    def _unit(self, dimension: Dimension, point: Point) -> float:
        value, low, high = point[dimension.name], dimension.low, dimension.high
        if not low <= value <= high:  # NaN is refused too
            raise InputError(f"{dimension.name}={value!r} is outside the space: {low!r} .. {high!r}")
        return (value - low) / (high - low)
