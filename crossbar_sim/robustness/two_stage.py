"""The interval budget: chips and images until the mean is known to +- h, at the least cost.

A plan decides from the trials so far, and from nothing else, what to measure next. Rounds end at fixed numbers of
chips that follow from the trials of the rounds before, so a run that was killed, or whose trials came in another
order or from other workers, goes the same way to the same end.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossbar_sim.errors import InputError
from crossbar_sim.robustness.drawn_scores import (
    Components,
    Cost,
    best_images,
    chips_for,
    components,
    drawn_interval,
    half_width,
    image_variance,
    plain_protocol,
)
from crossbar_sim.robustness.statistics import Interval
from crossbar_sim.store.records import Trial

STRIDE = 0.75
"""Of the way to the chips that seem needed, in one round: the spread is not known well enough to go all of it."""


@dataclass(frozen=True)
class Measure:
    """Measure these chips, the rest of the current round, on that many images each."""

    images: int
    chips: tuple[int, ...]


@dataclass(frozen=True)
class Done:
    """The end of a plan.

    Args:
        reached: whether the half-width was reached; False where the plan's `most_chips` were too few.
        images, chips: which trials count: those of `images` images and chips 0 .. chips - 1. No others do.
        interval: of the mean score.
        components: of those trials; `components.spread` is the spread between chips.
        spent: chips programmed and images evaluated, with a pilot that does not count.
        plain: what all images on as many chips as the interval needs would have taken.
    """

    reached: bool
    images: int
    chips: int
    interval: Interval
    components: Components
    spent: Cost
    plain: Cost


@dataclass(frozen=True)
class Plan:
    """The plan of an interval budget: how to reach a half-width.

    Args:
        half: the requested half-width h, in the score's units.
        population: N, images that there are.
        minimum: images that an estimate needs, `Strata.minimum`.
        chip_cost: of drawing and programming a chip, in evaluations of one image.
        level: the confidence.
        pilot_chips: chips of the pilot, and the fewest of any interval.
        pilot_images: images of each of them.
        most_chips: where to give up.
        batch: rounds are multiples of so many chips.

    Raises:
        InputError: if a number is out of its range.
    """

    half: float
    population: int
    minimum: int = 2
    chip_cost: float = 100.0
    level: float = 0.95
    pilot_chips: int = 32
    pilot_images: int = 100
    most_chips: int = 10_000
    batch: int = 8

    def __post_init__(self) -> None:
        chips_for(0.0, self.half, level=self.level)  # refuses a half-width or a level that cannot be
        if not 1 <= self.minimum <= self.population:
            raise InputError(
                f"minimum={self.minimum}, population={self.population}: needs 1 <= minimum <= population"
            )
        if not (2 <= self.pilot_chips <= self.most_chips and self.pilot_images >= 1 and self.batch >= 1):
            raise InputError(
                f"pilot_chips={self.pilot_chips}, most_chips={self.most_chips}, pilot_images={self.pilot_images}, "
                f"batch={self.batch}: needs 2 <= pilot_chips <= most_chips, and at least 1 of the others"
            )
        if not 0 < self.chip_cost < math.inf:
            raise InputError(
                f"chip_cost={self.chip_cost!r}: a chip costs more than 0 and finitely many images"
            )

    @property
    def first(self) -> int:
        """Images of a chip of the pilot: the requested number, limited by the images that there are."""
        return min(max(self.pilot_images, self.minimum), self.population)

    def next_step(self, trials: Iterable[Trial]) -> Measure | Done:
        """What to measure next, or the end.

        Args:
            trials: all of one task and one sigma so far, in any order. What the plan did not ask for does not count.
        """
        found: dict[tuple[int, int], Trial] = {(t.images, t.chip): t for t in trials}
        missing = self._missing(found, self.first, self.pilot_chips)
        if missing:
            return missing
        values, variances = self._scores(found, self.first, self.pilot_chips)
        pilot = components(values, variances)
        n = self.pilot_chips
        # the pilot alone may do, as for a clean network; else it says how many images are best
        enough = self._half(n, math.sqrt(pilot.total), self.first) <= self.half
        m = self.first if enough else self.images(pilot)
        while True:
            missing = self._missing(found, m, n)
            if missing:
                return missing
            values, variances = self._scores(found, m, n)
            now = components(values, variances)
            further = int(self.chips(n, math.sqrt(now.total), m))
            if further == n:
                return self._done(values, m, now)
            n = further

    def images(self, pilot: Components) -> int:
        """Images per chip: the optimum, but no more than make the fewest chips enough.

        The pilot's number stays where another, for which the pilot would be thrown away, promises to cost no less.
        """
        if self.first == self.population:
            return self.population
        m = best_images(pilot, self.first, self.chip_cost, self.minimum, self.population)
        if self._half(self.pilot_chips, self._std(pilot, m), m) <= self.half:
            low, m = self.minimum - 1, m
            while m - low > 1:
                middle = (low + m) // 2
                enough = self._half(self.pilot_chips, self._std(pilot, middle), middle) <= self.half
                low, m = (low, middle) if enough else (middle, m)
        kept, restarted = (
            self._cost(pilot, self.first),
            self._cost(pilot, m) + self.pilot_chips * (self.chip_cost + self.first),
        )
        return self.first if kept <= restarted else m

    def _cost(self, pilot: Components, m: int) -> float:
        """Expected cost, estimated from the pilot, of all chips on m images each, in evaluations of one image."""
        needed = int(chips_for(self._std(pilot, m), self.half, m, self.population, self.level))
        return min(max(needed, self.pilot_chips), self.most_chips) * (self.chip_cost + m)

    def chips(self, n: ArrayLike, std: ArrayLike, images: ArrayLike) -> NDArray[np.int64]:
        """Chips at the end of the next round, n if this was the last; of one shape if arrays."""
        now = np.asarray(n, np.int64)
        stop = (self._half(now, std, images) <= self.half) | (now >= self.most_chips)
        needed = np.minimum(chips_for(std, self.half, images, self.population, self.level), self.most_chips)
        rounds = np.maximum(np.ceil(STRIDE * (needed - now) / self.batch), 1).astype(np.int64)
        return np.where(stop, now, np.minimum(now + rounds * self.batch, self.most_chips))

    def _half(self, n: ArrayLike, std: ArrayLike, m: ArrayLike) -> NDArray[np.float64]:
        return half_width(n, std, m, self.population, self.level)

    def _std(self, pilot: Components, m: int) -> float:
        """Standard deviation of scores on m images, estimated from the pilot."""
        within = image_variance(pilot, self.first, self.population)
        return math.sqrt(pilot.between + within * (1 / m - 1 / self.population))

    @staticmethod
    def _missing(found: dict[tuple[int, int], Trial], m: int, n: int) -> Measure | None:
        chips = tuple(chip for chip in range(n) if (m, chip) not in found)
        return Measure(m, chips) if chips else None

    @staticmethod
    def _scores(found: dict[tuple[int, int], Trial], m: int, n: int) -> tuple[list[float], list[float]]:
        rows = [found[m, chip] for chip in range(n)]
        return [row.value for row in rows], [row.variance for row in rows]

    def _done(self, values: list[float], m: int, now: Components) -> Done:
        interval = drawn_interval(values, m, self.population, self.level)
        assert interval is not None  # there are at least two chips
        pilot = self.pilot_chips if m != self.first else 0
        spent = Cost(now.chips + pilot, now.chips * m + pilot * self.first)
        return Done(
            reached=bool(self._half(now.chips, math.sqrt(now.total), m) <= self.half),
            images=m,
            chips=now.chips,
            interval=interval,
            components=now,
            spent=spent,
            plain=plain_protocol(now, self.half, self.population, self.level),
        )
