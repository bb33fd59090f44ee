"""Slow obvious twins: every rule of docs/model.md and docs/randomness.md once more, cell by cell.

Plain Python integers for the stream, float64 for everything after it. Nothing here is imported from the
package but the shapes of its dataclasses, so a mistake has to be made twice to pass.
"""

import hashlib
import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from scipy import special

MASK = 0xFFFFFFFF


# --- the stream, docs/randomness.md -------------------------------------------------------------


def philox4x32(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Philox-4x32-10 as Salmon et al. (SC 2011) draw it: ten rounds, the key bumped between them."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & MASK, (p0 >> 32) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def key_words(seed: int, names: tuple[str, ...]) -> tuple[int, int]:
    """The two key words of a seed and its names."""
    text = b"crossbar-sim stream 1" + seed.to_bytes(8, "little")
    for name in names:
        encoded = name.encode("utf-8")
        text += len(encoded).to_bytes(8, "little") + encoded
    digest = hashlib.sha256(text).digest()
    return int.from_bytes(digest[0:4], "little"), int.from_bytes(digest[4:8], "little")


class Name(NamedTuple):
    """The name of a run of cells: key words, plane, chip, event."""

    k0: int
    k1: int
    plane: int
    chip: int
    event: int = 0

    def counter(self, cell: int) -> tuple[int, ...]:
        """The four words of the counter that `cell` belongs to."""
        four = (64 * (cell // 256) + cell % 64, self.plane, self.chip, self.event)
        return philox4x32(four, (self.k0, self.k1))

    def word(self, cell: int) -> int:
        """Four runs of 64 cells in a group of 256, one for each word of the counter."""
        return self.counter(cell)[cell % 256 // 64]

    def normal(self, cell: int) -> float:
        """Cells of runs 0 and 1 are a pair, and those of runs 2 and 3."""
        words = self.counter(cell)
        run = cell % 256 // 64
        first = run // 2 * 2
        return box_muller(words[first], words[first + 1])[run % 2]


def name(seed: int, names: tuple[str, ...], chip: int, plane: int = 0, event: int = 0) -> Name:
    """The stream called `names` under `seed`."""
    return Name(*key_words(seed, names), plane, chip, event)


def uniform(word: int) -> float:
    """A word in (0, 1]: rounded to float32, scaled and shifted by half a step, rounded again."""
    return float(np.float32(float(np.float32(word)) * 2.0**-32 + 2.0**-33))


def box_muller(a: int, b: int) -> tuple[float, float]:
    """Radius from a; angle pi t, plus half a turn where the top bit of b is set."""
    radius = math.sqrt(-2.0 * math.log(uniform(a)))
    if b >= 2**31:
        radius = -radius
    low = (2 * b) & MASK
    t = float(np.float32(low - 2**32 if low >= 2**31 else low)) * 2.0**-32
    return radius * math.cos(math.pi * t), radius * math.sin(math.pi * t)


# --- drift laws, Eq. (8) to (16) -----------------------------------------------------------------


def standardised(kind: str, z: float, word: int) -> float:
    """The draw of mean 0 and variance 1 of the laws with one spread."""
    if kind.startswith("normal"):
        return z
    if kind.startswith("uniform"):
        return math.sqrt(12.0) * (uniform(word) - 0.5)
    size = -math.log(uniform((2 * word) & MASK)) / math.sqrt(2.0)
    return -size if word >= 2**31 else size


def gamma_quantile(sigma: float, z: float) -> float:
    """The gamma factor of mean 1 whose probability is that of the normal z."""
    shape = sigma**-2
    tail = float(special.ndtr(-abs(z)))
    inverse = special.gammaincinv if z < 0 else special.gammainccinv
    return float(inverse(shape, tail)) / shape


def drifted(law: Any, g: float, z: float, word: int) -> float:
    """One cell of conductance g after `law`, from its normal or its word."""
    match law.kind:
        case "lognormal":
            return g * math.exp(law.sigma * z)
        case "normal" | "uniform" | "laplace":
            return max(g * (1.0 + law.sigma * standardised(law.kind, z, word)), 0.0)
        case "normal_shift" | "uniform_shift" | "laplace_shift":
            return max(g + law.sigma * standardised(law.kind, z, word), 0.0)
        case "gamma":
            return g * gamma_quantile(law.sigma, z) if law.sigma > 0 else g
        case "pareto":
            if word == 0:  # stands for all u below 2^-32: the mean there
                return g * 2.0 ** (32 / law.alpha)
            return g * (1 - 1 / law.alpha) * uniform(word) ** (-1 / law.alpha)
        case "bernoulli":
            return 0.0 if word < int(law.p * 2**32) else g
        case "retention":
            return g * (law.time / law.t0) ** -(law.nu + law.nu_sigma * z)
        case "relaxation":
            ln = math.log(law.time)
            return max(g + law.mean_per_ln * ln + (law.sigma + law.sigma_per_ln * ln) * z, 0.0)
        case "measured_relaxation":
            ln, r = math.log(law.time), g / law.reference
            m, s, q = (
                sum(c * r**k for k, c in enumerate(part))
                for part in (law.mean_per_ln, law.spread, law.spread_per_ln)
            )
            return max(g + m * ln + abs(s + q * ln) * z, 0.0)
    raise AssertionError(f"no twin for {law.kind}: write one")


# --- one matrix, Eq. (1) to (7) ------------------------------------------------------------------


def largest(mapping: Any, w: np.ndarray) -> np.ndarray:
    """w_max of Eq. (1), of every column or of the matrix, in float64."""

    def of(values: np.ndarray) -> float:
        if values.size == 0:
            return 1.0
        clip = 100.0 if mapping.clip is None else mapping.clip
        size = np.abs(values.astype(np.float64))
        return float(np.percentile(size, clip)) or float(size.max())

    if mapping.scale_per == "column":
        tops = np.array([of(w[:, c]) for c in range(w.shape[1])])
        whole = tops.max(initial=0.0)
        return np.where(tops > 1e-30, tops, whole if whole > 1e-30 else 1.0)
    top = of(w)
    return np.array([top if top > 1e-30 else 1.0])


def scales(mapping: Any, w: np.ndarray) -> np.ndarray:
    """Eq. (1): S per weight unit of every column, shape (cols,)."""
    span = {"differential": 1.0, "offset": 0.5}[mapping.kind] * (mapping.g_max - mapping.g_min)
    return np.broadcast_to(span / largest(mapping, w), w.shape[1])


def middle(mapping: Any) -> float:
    """The conductance of weight 0 in the offset mapping: on a level where there are levels."""
    if mapping.levels is None:
        return (mapping.g_min + mapping.g_max) / 2
    step = (mapping.g_max - mapping.g_min) / (mapping.levels - 1)
    return mapping.g_min + (mapping.levels - 1) // 2 * step


def target(mapping: Any, signed: float) -> float:
    """Eq. (2), (3), (4): the conductance for s w (sign of the plane included)."""
    base = mapping.g_min if mapping.kind == "differential" else middle(mapping)
    g = min(max(base + signed, mapping.g_min), mapping.g_max)
    if mapping.levels is not None:
        step = (mapping.g_max - mapping.g_min) / (mapping.levels - 1)
        g = mapping.g_min + math.floor((g - mapping.g_min) / step + 0.5) * step
    return min(g, mapping.g_max)


def code_range(mapping: Any, w: float, w_max: float, sign: int) -> tuple[int, int]:
    """Eq. (1) to (4) in exact fractions: the level of a weight; of (least, greatest) where rounding of s may decide.

    Half-way between two levels the upper one is the only right one.
    """
    steps = mapping.levels - 1
    if mapping.kind == "differential":
        zero, most = 0, Fraction(steps)
    elif mapping.encoding is None:
        zero, most = steps // 2, Fraction(steps, 2)
    else:
        zero, most = mapping.levels // 2, Fraction(mapping.levels // 2)
    exact = zero + sign * Fraction(w) / Fraction(w_max) * most
    blur = abs(exact - zero) * Fraction(1, 2**22)  # s is rounded down to single precision
    low, high = (min(max(math.floor(x + Fraction(1, 2)), 0), steps) for x in (exact, exact + blur))
    return low, high


def sigma_of(noise: Any, g: float, g_max: float) -> float:
    """Eq. (6): the spread of programming, in S."""
    if noise.kind == "constant":
        return noise.sigma * g_max
    return max(sum(c * (g / noise.reference) ** k for k, c in enumerate(noise.coefficients)), 0.0)


class Planes(NamedTuple):
    """Every plane after each stage, shape (planes, rows, physical columns), float64."""

    target: np.ndarray
    programmed: np.ndarray
    drifted: np.ndarray
    faults: np.ndarray


def program(hardware: Any, w: np.ndarray, seed: int, names: tuple[str, ...], chip: int) -> Planes:
    """What `hardware` makes of weight matrix w (rows, cols), one cell after the other."""
    mapping = hardware.mapping
    rows, cols = w.shape
    pair = mapping.kind == "differential"
    per_copy = 2 if pair else 1
    physical = cols if pair else cols + 1
    planes = Planes(*(np.zeros((per_copy * mapping.copies, rows, physical)) for _ in range(4)))
    s = scales(mapping, w)
    for p in range(per_copy * mapping.copies):
        sign = -1.0 if pair and p % 2 else 1.0
        together = p - p % per_copy if hardware.drift_per == "weight" else p
        programming = name(seed, (*names, "programming"), chip, p)
        stuck = name(seed, (*names, "stuck"), chip, p)
        drift = name(seed, (*names, "drift"), chip, together)
        for c in range(physical):
            for r in range(rows):
                cell = c * rows + r
                weight = float(w[r, c]) * s[c] if c < cols else 0.0
                g = planes.target[p, r, c] = target(mapping, sign * weight)
                if hardware.programming is not None:
                    spread = sigma_of(hardware.programming, g, mapping.g_max)
                    g = max(g + spread * programming.normal(cell), 0.0)
                if hardware.stuck is not None:
                    word = stuck.word(cell)
                    if word < int(hardware.stuck.off * 2**32):
                        g, planes.faults[p, r, c] = mapping.g_min, 1
                    elif word >= 2**32 - int(hardware.stuck.on * 2**32):
                        g, planes.faults[p, r, c] = mapping.g_max, 2
                planes.programmed[p, r, c] = g
                if hardware.drift is not None:
                    g = drifted(hardware.drift, g, drift.normal(cell), drift.word(cell))
                planes.drifted[p, r, c] = g
    return planes


def weight(hardware: Any, w: np.ndarray, drifted: np.ndarray) -> np.ndarray:
    """Eq. (5): the weights (rows, cols) that drifted planes stand for, given the clean ones."""
    s = scales(hardware.mapping, w)
    copies = hardware.mapping.copies
    if hardware.mapping.kind == "differential":
        return sum(drifted[2 * k] - drifted[2 * k + 1] for k in range(copies)) / copies / s
    return sum(drifted[k][:, :-1] - drifted[k][:, -1:] for k in range(copies)) / copies / s


def tiled_currents(v: np.ndarray, g: np.ndarray, tile_rows: int) -> np.ndarray:
    """Eq. (17): v (batch, rows) in V, one plane g (rows, cols) in S, every tile added up by itself."""
    out = np.zeros((len(v), g.shape[1]))
    for b in range(len(v)):
        for c in range(g.shape[1]):
            for first in range(0, g.shape[0], tile_rows):
                rows = range(first, min(first + tile_rows, g.shape[0]))
                out[b, c] += sum(float(v[b, r]) * float(g[r, c]) for r in rows)
    return out
