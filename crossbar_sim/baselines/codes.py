"""Code words for classes with a large minimum distance; classes that are often confused get distant words."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossbar_sim.crossbar.kernels import kernel
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key
from crossbar_sim.validate import is_int

# Searching for codes: kernels for Numba.


# mypy: disable-error-code="no-untyped-def"


@kernel
def lexicode(bits, distance, kept):  # type: ignore[no-untyped-def]
    """Keep each word, in ascending order, that is at least `distance` from all words kept; return their number.

    Args:
        bits: of a word.
        distance: between any two.
        kept: (classes,) int64, the words as numbers: written.
    """
    n = 0
    for word in range(1 << bits):
        near = False
        for i in range(n):
            difference = word ^ kept[i]
            ones = 0
            while difference:
                difference &= difference - 1
                ones += 1
            if ones < distance:
                near = True
                break
        if not near:
            kept[n] = word
            n += 1
            if n == len(kept):
                break
    return n


@kernel
def anneal(words, distances, energy, drawn, hot, cold):  # type: ignore[no-untyped-def]
    """Flip single bits while the temperature falls from hot to cold (Kirkpatrick et al., Science 220, 1983).

    Args:
        words: (m, n) of 0 and 1, int64: changed in place.
        distances: (m, m) int64, of the words: kept up to date.
        energy: (n + 2,) of a pair at each distance.
        drawn: (steps, 3) uint32: which word, which bit, whether to accept.
        hot, cold: temperatures, in units of energy.
    """
    m, n = words.shape
    steps = len(drawn)
    for s in range(steps):
        temperature = hot * (cold / hot) ** (s / steps)
        i = drawn[s, 0] % m
        c = drawn[s, 1] % n
        change = 0.0
        for j in range(m):
            if j != i:
                d = distances[i, j]
                change += energy[d + 1 if words[i, c] == words[j, c] else d - 1] - energy[d]
        if change <= 0 or drawn[s, 2] < 4294967296.0 * math.exp(-change / temperature):
            for j in range(m):
                if j != i:
                    d = distances[i, j] + 1 if words[i, c] == words[j, c] else distances[i, j] - 1
                    distances[i, j] = d
                    distances[j, i] = d
            words[i, c] = 1 - words[i, c]


@kernel
def swap(weights, distances, order, most):  # type: ignore[no-untyped-def]
    """Swap the words of two classes while that raises sum_ij weights_ij distances[order_i, order_j] / 2; that sum.

    Args:
        weights: (m, m), symmetric, diagonal 0.
        distances: (m, m), symmetric, diagonal 0.
        order: (m,) int64, the word of each class: changed in place.
        most: rounds through all pairs.
    """
    m = len(order)
    gained = True
    rounds = 0
    while gained and rounds < most:
        gained = False
        rounds += 1
        for i in range(m):
            for j in range(i + 1, m):
                change = 0.0
                a, b = order[i], order[j]
                for k in range(m):
                    if k != i and k != j:
                        change += (weights[i, k] - weights[j, k]) * (
                            distances[b, order[k]] - distances[a, order[k]]
                        )
                if change > 1e-12:
                    order[i], order[j] = b, a
                    gained = True
    total = 0.0
    for i in range(m):
        for j in range(m):
            total += weights[i, j] * distances[order[i], order[j]]
    return total / 2


Bits = NDArray[np.int64]
"""Code words (classes, bits) of 0 and 1."""

MOST_BITS = 1024

_GREEDY = 16
"""Up to so many bits all words are gone through: 2**16 of them."""

_STARTS, _MANY, _WORK = 8, 100, 2e9
"""Random starts of each search; classes beyond which two must do; steps that a search by swaps may take."""


def shortest(classes: int) -> int:
    """Number of bits for which a code of distance 3 is known to exist: one wrong bit can be corrected.

    Those of the (shortened) Hamming code: k + r bits for 2**k >= classes with 2**r > k + r.

    >>> [shortest(classes) for classes in (2, 10, 16, 43, 1000)]
    [3, 7, 7, 10, 14]
    """
    k = _needed(classes)
    r = next(r for r in range(2, 64) if 2**r > k + r)
    return k + r


def check_bits(classes: int, bits: int) -> int:
    """Return `bits` if that many can distinguish the classes.

    Raises:
        InputError: if not.
    """
    if not is_int(bits) or not 1 <= bits <= MOST_BITS:
        raise InputError(f"bits={bits!r}: an integer in 1 .. {MOST_BITS} is needed")
    if bits < _needed(classes):
        raise InputError(
            f"bits={bits}: {2**bits} code words for {classes} classes; at least {_needed(classes)} bits are needed"
        )
    return bits


def _needed(classes: int) -> int:
    return max(1, math.ceil(math.log2(classes)))


def code(classes: int, bits: int, key: Key) -> Bits:
    """Code words with a large minimum distance; deterministic for given arguments.

    The best of three constructions: a greedy (lexicographic) code for short words, rows of a Hadamard matrix, and a
    simulated annealing from random words; best is the largest minimum distance, then the fewest columns that say the
    same or nothing, then the fewest pairs at that distance.

    Args:
        classes: how many words, >= 2.
        bits: of each.
        key: of the annealing.

    Raises:
        InputError: if bits cannot tell so many classes apart.
    """
    check_bits(classes, bits)
    found = [*_greedy(classes, bits), *_hadamard(classes, bits)]
    found += [_annealed(classes, bits, key.fold("anneal", str(start))) for start in range(_starts(classes))]
    return max(found, key=_quality)


def minimum_distance(words: Bits) -> int:
    """The least Hamming distance between two words."""
    return int(_pairs(words).min())


def distance_bound(classes: int, bits: int) -> int:
    """No code has a larger minimum distance: the least of Singleton's, Hamming's and Plotkin's bounds.

    MacWilliams and Sloane, The Theory of Error-Correcting Codes (1977), ch. 1 (Hamming), ch. 2 (Plotkin).
    """
    most = bits - _needed(classes) + 1
    half = classes // 2
    plotkin = 2 * bits * half * (classes - half) // (classes * (classes - 1))
    most = min(most, plotkin)
    while classes * sum(math.comb(bits, i) for i in range((most - 1) // 2 + 1)) > 2**bits:
        most -= 1
    return most


def assign(words: Bits, confusion: NDArray[np.float64], key: Key) -> Bits:
    """The words in the order of the classes, such that confused classes get distant words.

    Maximises sum_ij confusion_ij * distance(word of i, word of j): pairs are swapped while that gains, from the
    given order and from random ones, and the best end is kept.

    Args:
        words: (classes, bits).
        confusion: (classes, classes), >= 0: how often i is taken for j; the diagonal does not count.
        key: of the random orders.
    """
    weights = np.ascontiguousarray(confusion + confusion.T, np.float64)
    np.fill_diagonal(weights, 0)
    distances = _distances(words).astype(np.float64)
    best, most = np.arange(len(words)), -math.inf
    starts = _starts(len(words))
    rounds = max(1, int(_WORK / starts / len(words) ** 3))
    for start in range(starts):
        order = np.arange(len(words))
        if start:
            order = np.argsort(Stream.of(key.fold("order", str(start)), 0).words(len(words)), kind="stable")
        gained = swap(weights, distances, order, rounds)
        if gained > most + 1e-9 * abs(gained):
            best, most = order, gained
    return words[best]


def _starts(classes: int) -> int:
    return _STARTS if classes <= _MANY else 2


def as_text(words: Bits) -> tuple[str, ...]:
    """Code words as `Coded` takes them.

    >>> as_text(np.array([[0, 1], [1, 1]]))
    ('01', '11')
    """
    return tuple("".join(str(int(bit)) for bit in word) for word in words)


def _distances(words: Bits) -> Bits:
    ones = words @ words.T
    weight = words.sum(1)
    found: Bits = weight[:, None] + weight[None, :] - 2 * ones
    return found


def _pairs(words: Bits) -> Bits:
    found: Bits = _distances(words)[np.triu_indices(len(words), 1)]
    return found


def _quality(words: Bits) -> tuple[int, int, int]:
    pairs = _pairs(words)
    least = int(pairs.min())
    columns = words.T
    same = columns == columns[:, :1]  # a column and its complement tell the same classes apart
    idle = int(same.all(1).sum())
    return least, len(np.unique(same, axis=0)) - idle, -int((pairs == least).sum())


def _greedy(classes: int, bits: int) -> list[Bits]:
    """The lexicographic code of the largest distance that has enough words; none if words are long."""
    if bits > _GREEDY or classes > 2**bits:
        return []
    kept = np.empty(classes, np.int64)
    for distance in range(distance_bound(classes, bits), 0, -1):
        if lexicode(bits, distance, kept) == classes:
            return [(kept[:, None] >> np.arange(bits)) & 1]
    return []


def _hadamard(classes: int, bits: int) -> list[Bits]:
    """Rows of Sylvester's matrix without its constant column: every two differ in half of the places."""
    order = 2
    while order < max(classes, bits + 1):
        order *= 2
    numbers = np.arange(order)
    both = numbers[:classes, None] & numbers[None, 1 : bits + 1]
    found = np.zeros_like(both)
    while both.any():
        found ^= both & 1
        both = both >> 1
    return [found] if _pairs(found).min() > 0 else []


def _annealed(classes: int, bits: int, key: Key) -> Bits:
    steps = min(max(20_000, 20 * classes * bits), 200_000)
    words = (
        (Stream.of(key.fold("words"), 0).words(classes * bits) & 1).astype(np.int64).reshape(classes, bits)
    )
    drawn: Any = Stream.of(key.fold("moves"), 0).words(3 * steps).reshape(steps, 3)
    distances = np.ascontiguousarray(_distances(words))
    # A pair costs three times as much for each bit that it is closer, counted from the mean distance.
    energy = 3.0 ** np.clip(bits / 2 - np.arange(bits + 2), -40.0, 40.0)
    anneal(words, distances, energy, drawn, 2.0 * classes, 0.02)
    return words
