"""Yield from drawn scores: the share of chips above a threshold, without the spread that drawing images adds.

Approximate, and how far is in docs/statistics.md. A yield that has to be exact is measured on all images.
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chdtri, ndtr, stdtrit

from crossbar_sim.errors import InputError
from crossbar_sim.robustness.statistics import Yield, yield_at
from crossbar_sim.robustness.variance_components import Components, Float64, checked, components

LEVEL = 0.95
"""Of the interval of a `Yield`."""

KERNEL = 0.4
"""Width of the smoothing, in standard deviations of the draw of images: it hides that shares of m images are steps."""

CLEAR = 0.25
"""Below this ratio of variances, chips to draw of images, the shape of the scores tells little of that of chips."""


def shrunk(values: ArrayLike, variances: ArrayLike) -> Float64:
    """Scores moved to their mean until their spread is the spread between chips; for quantiles and histograms.

    Of each chip alone they say no more than the measured scores do.

    Args:
        values, variances: (n,) as for `components`.

    Returns:
        (n,) scores of standard deviation `Components.spread`.

    Raises:
        InputError: as `components`.
    """
    found = components(values, variances)
    factor = math.sqrt(found.between / found.total) if found.total > 0 else 0.0
    return found.mean + factor * (np.asarray(values, np.float64) - found.mean)


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
    # at the ends the variance vanishes with the share: there, chips count by how much they tell of themselves
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
