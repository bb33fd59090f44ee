"""Some images per chip in place of all: drawn by name, stratified by class, with the estimate and its variance.

Cochran, Sampling Techniques (3rd ed., Wiley 1977), ch. 5: stratified random sampling without replacement.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key

Int64 = NDArray[np.int64]

STREAM = "images of a chip"
"""Below the run's key: the name of the draws. Neither model nor sigma is in it, so models share their images."""

MOST_CLASSES = 50
"""With more classes images are drawn from all alike: two of each of 1000 classes would be 2000 images per chip."""


@dataclass(frozen=True, eq=False)
class Strata:
    """The images of a data set, class by class.

    Args:
        members: (n,) image numbers, those of the first class first, each class in rising order.
        counts: (c,) images of each class that is present; all of them in one "class" if they are not stratified.
        of_image: (n,) place of each image's class in `counts`.
    """

    members: Int64
    counts: Int64
    of_image: Int64

    @classmethod
    def of(cls, labels: ArrayLike | None, n: int) -> "Strata":
        """Group n images by label; without labels, or with more than `MOST_CLASSES`, they are one group.

        Raises:
            InputError: if there is no image, or labels are not n integers.
        """
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 1:
            raise InputError(f"n={n!r}: images are counted by an integer >= 1")
        place = np.zeros(n, np.int64)
        if labels is not None:
            given = np.asarray(labels)
            if given.shape != (n,) or given.dtype.kind not in "iub":
                raise InputError(
                    f"labels of shape {given.shape} and type {given.dtype}: {n} images need ({n},) integers"
                )
            present, inverse = np.unique(given, return_inverse=True)
            if len(present) <= MOST_CLASSES:
                place = inverse.astype(np.int64)
        return cls(np.argsort(place, kind="stable"), np.bincount(place), place)

    @property
    def population(self) -> int:
        """How many images there are."""
        return len(self.members)

    @property
    def minimum(self) -> int:
        """The fewest images of an estimate with a variance: two of each class, or the one that it has."""
        return int(np.minimum(self.counts, 2).sum())


def allocate(class_counts: ArrayLike, m: int) -> Int64:
    """Images to draw of each class: in proportion to the class, at least two, never more than there are.

    What is left over by rounding down goes to the largest remainders, the first class first among equals. An m
    below the minimum (two of each class) is raised to it, one above the population lowered.

    Args:
        class_counts: (c,) images of each class, all >= 1.
        m: how many in all, >= 1.

    Returns:
        (c,) counts that add up to m, so corrected.

    Raises:
        InputError: if there is no class, a class is empty, or m < 1.
    """
    counts = np.asarray(class_counts, np.int64)
    if counts.ndim != 1 or not len(counts) or counts.min() < 1:
        raise InputError(f"class counts {counts.tolist()}: needs one count >= 1 per class")
    if m < 1:
        raise InputError(f"m={m!r}: at least one image is drawn")
    least = np.minimum(counts, 2)
    total = min(max(int(m), int(least.sum())), int(counts.sum()))
    found, free = least.copy(), np.ones(len(counts), bool)
    while free.any():
        rest, images = total - int(found[~free].sum()), int(counts[free].sum())
        # whole numbers throughout: what a class gets must not depend on rounding
        whole, remainder = np.divmod(rest * counts, images)
        short = free & (rest * counts < least * images)
        if short.any():  # these keep their minimum, and the others share what remains
            free &= ~short
            continue
        found[free] = whole[free]
        order = np.argsort(-np.where(free, remainder, -1), kind="stable")
        found[order[: total - int(found.sum())]] += 1
        break
    return found


def draw(strata: Strata, m: int, key: Key, chip: int) -> Int64:
    """The images that a chip is measured on: a function of the strata, m, the key and the chip, and of nothing else.

    Within a class every set of images is equally likely, without replacement (Floyd's algorithm: Bentley and Floyd,
    Communications of the ACM 30:754, 1987), up to the 32 bits of a word: a step's choice among N has a probability
    within N / 2^32 of 1 / N, relatively. Draws for another m are not nested in this one.

    Args:
        strata: the images.
        m: how many; corrected as `allocate` says. All of them for m >= n.
        key: the run's, e.g. Key(seed); `STREAM` is folded into it.
        chip: its number.

    Returns:
        (m,) image numbers, rising.

    Raises:
        InputError: if m < 1 or the chip is no integer in 0 .. 2^32 - 1.
    """
    tops, spans, offsets = _steps(strata, int(m))
    stream = Stream.of(key.fold(STREAM), chip)
    if len(tops) == strata.population:
        return np.arange(len(tops), dtype=np.int64)
    words = stream.words(len(tops))
    choices = ((words.astype(np.uint64) * spans) >> np.uint64(32)).astype(np.int64) + offsets
    chosen: set[int] = set()
    add = chosen.add
    for choice, top in zip(choices.tolist(), tops, strict=True):
        add(top if choice in chosen else choice)
    found = strata.members[np.fromiter(chosen, np.int64, len(tops))]
    found.sort()
    return found


@functools.lru_cache(maxsize=64)
def _steps(strata: Strata, m: int) -> tuple[list[int], NDArray[np.uint64], Int64]:
    """Floyd's steps, class after class: the last place in `members`, how many to choose from, the first place."""
    counts = allocate(strata.counts, m)
    firsts = np.cumsum(strata.counts) - strata.counts
    spans = np.concatenate([np.arange(n - k + 1, n + 1) for n, k in zip(strata.counts, counts, strict=True)])
    offsets = np.repeat(firsts, counts)
    return (offsets + spans - 1).tolist(), spans.astype(np.uint64), offsets


def estimate(scores: ArrayLike, images: Int64 | Sequence[int], strata: Strata) -> tuple[float, float]:
    """A chip's mean score over all images, from those drawn, and the variance of that estimate.

    value = sum over classes of W_c y_c, variance = sum of W_c^2 (1 - m_c / N_c) s_c^2 / m_c with W_c = N_c / N and
    s_c over m_c - 1 (Cochran, ch. 5): both unbiased over the draw. 0 where all images were used.

    Args:
        scores: (m,) score of each image, e.g. right or wrong.
        images: (m,) their numbers, as from `draw`.
        strata: the images drawn from.

    Raises:
        InputError: if shapes differ, a score is not finite, or a class has fewer images than the estimate needs.
    """
    y, chosen = np.asarray(scores, np.float64), np.asarray(images, np.int64)
    if y.ndim != 1 or y.shape != chosen.shape:
        raise InputError(
            f"scores of shape {y.shape} for images of shape {chosen.shape}: one score per image is needed"
        )
    if not np.isfinite(y).all():
        raise InputError("a score of an image is not finite: scores are finite")
    n = strata.population
    if len(y) == n:
        return math.fsum(y) / n, 0.0
    place = strata.of_image[chosen]
    drawn = np.bincount(place, minlength=len(strata.counts))
    if (drawn < np.minimum(strata.counts, 2)).any():
        raise InputError(
            f"images drawn per class: {drawn.tolist()}, but every class needs two (or the one it has)"
        )
    means = np.bincount(place, y, len(drawn)) / drawn
    squares = np.bincount(place, (y - means[place]) ** 2, len(drawn))
    variances = squares / np.maximum(drawn - 1, 1) * (1 - drawn / strata.counts) / drawn
    weighted = strata.counts * means
    return math.fsum(weighted) / n, math.fsum(strata.counts.astype(np.float64) ** 2 * variances) / n**2
