"""Searching for codes: kernels for Numba."""

# mypy: disable-error-code="no-untyped-def"
import math

from crossbar_sim.crossbar.philox import kernel


@kernel
def lexicode(bits, distance, kept):  # type: ignore[no-untyped-def]
    """Go through all words in rising order and keep each that is at least `distance` from those kept; how many were.

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
