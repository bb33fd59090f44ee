"""Scores on a sample of the examples: yields and components of variance."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtri, ndtr, stdtrit

from crossbar_sim.errors import InputError
from crossbar_sim.robustness.statistics import Interval, Yield, mean_interval, yield_at

# How much of the spread of drawn scores is chips and how much is images, and what follows from it.
#
# Chips are primary units, from an endless supply; the images of a chip are secondary units, m of N without
# replacement. Cochran, Sampling Techniques (3rd ed., Wiley 1977), ch. 10 and 11. docs/statistics.md derives it.


Float64 = NDArray[np.float64]

MOST_CHIPS = 2**31
"""Where the search for a number of chips ends."""


@dataclass(frozen=True)
class Components:
    """Variances of the scores of chips of which each was measured on m images.

    Args:
        mean: over chips.
        total: of the measured scores, over n - 1.
        within: the mean of the scores' own variances over the draw of images.
        between: of the scores that all images would give: total - within, unbiased, but held at 0.
        chips: n.
    """

    mean: float
    total: float
    within: float
    between: float
    chips: int

    @property
    def spread(self) -> float:
        """Standard deviation between chips, corrected for the draw of images."""
        return math.sqrt(self.between)


@dataclass(frozen=True)
class Cost:
    """The cost of a measurement: chips programmed, and image evaluations in total."""

    chips: int
    images: int


def components(values: ArrayLike, variances: ArrayLike) -> Components:
    """Split the variance between scores into chips and images.

    Args:
        values: (n,) scores of chips, n >= 2.
        variances: (n,) of each score over its draw of images, see `drawn_images.estimate`.

    Raises:
        InputError: if shapes differ, n < 2, a number is not finite, or a variance is negative.
    """
    y, v = checked(values, variances)
    if len(y) < 2:
        raise InputError(f"{len(y)} chip: a spread between chips takes at least 2")
    mean = math.fsum(y) / len(y)
    total = math.fsum((y - mean) ** 2) / (len(y) - 1)
    within = math.fsum(v) / len(v)
    return Components(mean, total, within, max(total - within, 0.0), len(y))


def image_variance(found: Components, images: int, population: int) -> float:
    """S_w^2, the variance of one image's score within a chip: within = S_w^2 (1 / m - 1 / N).

    Where no image differs from another it is taken as if 3 of those seen did (the rule of three): seeing no error
    does not show that there is none.
    """
    if images >= population:
        return 0.0
    unseen = min(3 / (found.chips * images), 0.5)
    return max(found.within / (1 / images - 1 / population), unseen * (1 - unseen))


def best_images(found: Components, images: int, chip_cost: float, minimum: int, population: int) -> int:
    """Images per chip that reach a precision at least cost (Cochran, ch. 10).

    n chips of m images cost n (c + m) and give the mean a variance (S_b^2 + S_w^2 (1/m - 1/N)) / n. Their product is
    least at m = sqrt(c S_w^2 / (S_b^2 - S_w^2 / N)); where chips differ by less than that, all images are best.

    Args:
        found: from the pilot.
        images: of each chip of the pilot.
        chip_cost: c, what drawing and programming a chip costs, in evaluations of one image; a rule, never a
            stopwatch, for the answer decides which images are drawn.
        minimum: images that the estimate needs, `Strata.minimum`.
        population: N.

    Raises:
        InputError: if a number is out of its range.
    """
    if not (1 <= minimum <= population and 1 <= images <= population and 0 < chip_cost < math.inf):
        raise InputError(
            f"images={images}, minimum={minimum}, population={population}, chip_cost={chip_cost!r}: needs 1 <= images, "
            f"minimum <= population and a finite cost > 0"
        )
    if images == population:
        return population
    within = image_variance(found, images, population)
    between = found.between - within / population
    if between <= chip_cost * within / population**2:
        return population
    return max(minimum, min(population, round(math.sqrt(chip_cost * within / between))))


def half_width(
    n: ArrayLike, std: ArrayLike, images: ArrayLike, population: int, level: float = 0.95
) -> Float64:
    """Half-width of the interval of the mean over n chips of m images each; n, std and images broadcast.

    sqrt((t s)^2 / n + (1 - m / N) (ln(1 / (1 - level)) / (n m))^2): Student's t over chips, and the rule of three
    (Hanley and Lippman-Hand, JAMA 249:1743, 1983) for scores in 0 .. 1. The second term is the upper limit of a share
    that did not show in n m images, 3 / (n m) at 95 %. It counts only where nearly every image is right on every
    chip, and there keeps the interval from closing; it is 0 where all images were used.
    """
    chips, spread = (np.asarray(value, np.float64) for value in (n, std))
    t = stdtrit(chips - 1, (1 - level) / 2)
    return np.sqrt(t * t * spread * spread / chips + rule_of_three(n, images, population, level))


def rule_of_three(n: ArrayLike, images: ArrayLike, population: int, level: float = 0.95) -> Float64:
    """What `half_width` adds to the square of Student's: (1 - m / N) (ln(1 / (1 - level)) / (n m))^2."""
    chips, m = (np.asarray(value, np.float64) for value in (n, images))
    unseen = -math.log1p(-level) / (chips * m)
    return np.asarray((1 - m / population) * unseen * unseen)


def drawn_interval(
    values: Iterable[float], images: int, population: int, level: float = 0.95
) -> Interval | None:
    """Interval of the mean over chips from scores that each were measured on m images drawn for the chip.

    The draw of images is in the spread between measured scores, so that this is the t interval over chips, but
    never narrower than the rule of three allows: see `half_width`.

    Returns:
        None for one chip.

    Raises:
        InputError: as `statistics.mean_interval`, or if not 1 <= images <= population.
    """
    if not 1 <= images <= population:
        raise InputError(f"images={images} of population={population}: needs 1 <= images <= population")
    scores = list(values)
    plain = mean_interval(scores, level)
    if plain is None or images == population:
        return plain
    std = math.sqrt(components(scores, np.zeros(len(scores))).total)
    half = float(half_width(len(scores), std, images, population, level))
    return Interval(plain.estimate, plain.estimate - half, plain.estimate + half, level)


def chips_for(
    std: ArrayLike, half: float, images: ArrayLike = 1, population: int = 1, level: float = 0.95
) -> NDArray[np.int64]:
    """The fewest chips, at least 2, at which `half_width` is `half` or less; for every `std` of an array
    (and `images` of its shape).

    `MOST_CHIPS` where that many do not suffice. Exact: the half-width falls with n, and n is found by bisection.

    Raises:
        InputError: if `half` is not finite and > 0, the level is outside 0 .. 1, or a std is negative or not finite.
    """
    spread = np.asarray(std, np.float64)
    if not 0 < half < math.inf:
        raise InputError(f"half_width={half!r}: a half-width is finite and > 0, e.g. 0.005")
    if not 0 < level < 1:
        raise InputError(f"level={level!r}: a confidence level lies between 0 and 1, e.g. 0.95")
    if not (np.isfinite(spread).all() and (spread >= 0).all()):
        raise InputError("a standard deviation is finite and >= 0")
    low, high = np.full(spread.shape, 1, np.int64), np.full(spread.shape, 2, np.int64)
    while (short := (half_width(high, spread, images, population, level) > half) & (high < MOST_CHIPS)).any():
        low, high = np.where(short, high, low), np.where(short, high * 2, high)
    while (high - low > 1).any():
        middle = np.maximum((low + high) // 2, 2)
        enough = half_width(middle, spread, images, population, level) <= half
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return high


def plain_protocol(found: Components, half: float, population: int, level: float = 0.95) -> Cost:
    """The cost of all N images on as many chips as the interval needs, with which the cost of drawing is compared."""
    chips = int(chips_for(found.spread, half, level=level))
    return Cost(chips, chips * population)


def checked(values: ArrayLike, variances: ArrayLike) -> tuple[Float64, Float64]:
    """Scores and their variances as arrays, refused unless they are finite, of one length, and possible."""
    y, v = np.asarray(values, np.float64), np.asarray(variances, np.float64)
    if y.ndim != 1 or y.shape != v.shape or not len(y):
        raise InputError(
            f"scores of shape {y.shape} and variances of shape {v.shape}: one of each per chip is needed"
        )
    if not (np.isfinite(y).all() and np.isfinite(v).all() and (v >= 0).all()):
        raise InputError("scores of chips are finite, and their variances finite and >= 0")
    return y, v


# Yield from drawn scores: the share of chips above a threshold, without the spread that drawing images adds.
#
# Approximate, and how far is in docs/statistics.md. A yield that has to be exact is measured on all images.


LEVEL = 0.95
"""Of the interval of a `Yield`."""

KERNEL = 0.4
"""Width of the smoothing, in standard deviations of the draw of images: it hides that shares of m images are steps."""

CLEAR = 0.25
"""Below this ratio of variances, chips to draw of images, the scores say little about the distribution of the chips."""


def yield_drawn(values: ArrayLike, variances: ArrayLike, threshold: float) -> Yield:
    """The share of chips whose score over all images is >= threshold, from scores on drawn images.

    Measured scores spread more than chips do. They are moved to their mean until the spread is the one between
    chips, and smoothed by `KERNEL`; the share above the threshold is then a mean over chips of a smooth function of
    the score and of three moments. Its variance is that of its influence function (Hampel, JASA 69:383, 1974), and
    the interval Wilson's with as many chips as would give a plain share that variance. It assumes that scores of chips
    have much the same shape with and without the draw. Scores on all images, or all alike, are counted as by
    `yield_at`.

    Args:
        values: (n,) scores of chips.
        variances: (n,) of each score over its draw of images.
        threshold: a score.

    Raises:
        InputError: if shapes differ, a number is not finite, or a variance is negative.
    """
    y, v = checked(values, variances)
    if not math.isfinite(threshold):
        raise InputError(f"threshold={threshold!r}: a threshold is a finite score")
    # scores without noise need no correction, and one chip or chips that are all alike allow none
    if not v.any() or y.min() == y.max():
        return yield_at(y, threshold)
    found = components(y, v)
    share, variance = _share(found, y, v, threshold)
    n, odds = len(y), share * (1 - share)
    reliability = found.between / found.total
    # at the ends the variance vanishes with the share: there, chips count by the reliability of their scores
    chips = min(odds / variance, n) if odds > 1e-3 / n and variance > 0 else n * max(reliability, 1 / n)
    z = -float(stdtrit(n - 1, (1 - LEVEL) / 2))
    stretch = 1 + z * z / chips
    centre = (share + z * z / (2 * chips)) / stretch
    half = z * math.sqrt(odds / chips + z * z / (4 * chips * chips)) / stretch
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    further = _extremes(found, threshold)
    low, high = min([low, *further]), max([high, *further])
    return Yield(float(threshold), share, (low, high))


def _share(found: Components, y: Float64, v: Float64, threshold: float) -> tuple[float, float]:
    """(share, its variance). With d = y - mean, A = ((mean - T) / k + d) / h: the mean of Phi(A)."""
    d, n = y - found.mean, len(y)
    # k^2 times the variance of smoothed scores is the variance between chips, kept off 0
    between, smooth = max(found.between, 1e-3 * found.total), found.total + KERNEL**2 * found.within
    k, h = math.sqrt(between / smooth), KERNEL * math.sqrt(found.within)
    a = ((found.mean - threshold) / k + d) / h
    above, density = ndtr(a), np.exp(-a * a / 2) / math.sqrt(2 * math.pi)
    share = float(above.mean())
    slope = float(density.mean())
    # derivatives of the share by the mean, by k, and by the variance within (through h)
    by_mean = slope * (1 / k - 1) / h
    by_k = -slope * (found.mean - threshold) / (k * k * h)
    by_within = -float((density * a).mean()) / (2 * found.within)
    # what each chip adds to the two variances, and so to k
    total, within = d * d - found.total, v - found.within
    change = k / 2 * ((total - within) / between - (total + KERNEL**2 * within) / smooth)
    influence = above - share + by_mean * d + by_k * change + by_within * within
    return share, float(np.sum(influence * influence)) / (n * (n - 1))


def _extremes(found: Components, threshold: float) -> tuple[float, ...]:
    """Where chips may hardly differ: the shares at the ends of what mean and spread may be, of normal chips.

    With no spread every chip is on the mean's side of the threshold. Nothing where the variance between chips is
    certain enough (chi-square limits, of the total) to be `CLEAR` times that of the draw.
    """
    n, tail = found.chips, (1 - LEVEL) / 2
    squares = found.total * (n - 1)
    least, most = (squares / float(chdtri(n - 1, p)) - found.within for p in (tail, 1 - tail))
    if least > CLEAR * found.within:
        return ()
    half = -float(stdtrit(n - 1, tail)) * math.sqrt(found.total / n)
    ends = (found.mean - half - threshold, found.mean + half - threshold)
    return tuple(
        float(ndtr(end / math.sqrt(spread))) if spread > 0 else float(end >= 0)
        for end in ends
        for spread in (least, most)
    )
