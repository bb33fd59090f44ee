"""Which 95 % interval of a mean over chips to report: Student t against bootstraps, on scores that are not normal.

    python benchmarks/mean_intervals.py

For normal chips, skewed ones (accuracies near 1) and designs of which a share of chips is dead, and n chips: how often
each interval holds the mean over all chips, its mean width, and how often the caution of `statistics.tail_caution`
fires. docs/statistics.md has the results.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from crossbar_sim.robustness.statistics import tail_caution

Float64 = NDArray[np.float64]
REPEATS, SAMPLES = 2000, 999


def normal(rng: np.random.Generator, shape: tuple[int, int]) -> Float64:
    """Accuracies of 0.9 +- 0.02."""
    return 0.9 + 0.02 * rng.standard_normal(shape)


def skewed(rng: np.random.Generator, shape: tuple[int, int]) -> Float64:
    """A gamma tail below 0.95, skewness -1.4."""
    return 0.95 - 0.02 * rng.gamma(2.0, size=shape)


def dead(share: float) -> object:
    """Normal chips of which a share is at chance, 0.1."""
    return lambda rng, shape: np.where(rng.random(shape) < share, 0.1, normal(rng, shape))


CASES = {
    "normal": (normal, 0.9),
    "skewed": (skewed, 0.91),
    "1 % dead": (dead(0.01), 0.892),
    "5 % dead": (dead(0.05), 0.86),
    "5 % dead, one at least seen": (dead(0.05), 0.86),
}


def student(x: Float64, _: object) -> tuple[Float64, Float64]:
    """Mean +- t s / sqrt n."""
    half = -stdtrit(x.shape[1] - 1, 0.025) * x.std(axis=1, ddof=1) / np.sqrt(x.shape[1])
    return x.mean(axis=1) - half, x.mean(axis=1) + half


def bootstraps(x: Float64, rng: np.random.Generator) -> dict[str, tuple[Float64, Float64]]:
    """The studentised and the BCa interval (Efron and Tibshirani, 1993, ch. 12 and 14)."""
    n, means = x.shape[1], x.mean(axis=1)
    error = x.std(axis=1, ddof=1) / np.sqrt(n)
    ends: dict[str, list[tuple[float, float]]] = {"studentised": [], "BCa": []}
    for row, mean, se in zip(x, means, error, strict=True):
        drawn = row[rng.integers(0, n, (SAMPLES, n))]
        found, spread = drawn.mean(axis=1), drawn.std(axis=1, ddof=1) / np.sqrt(n)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.nan_to_num((found - mean) / spread, nan=0.0, posinf=1e3, neginf=-1e3)
        low, high = np.quantile(t, (0.025, 0.975))
        ends["studentised"].append((mean - high * se, mean - low * se))
        z0 = ndtri(np.clip(np.mean(found < mean) + np.mean(found == mean) / 2, 1e-4, 1 - 1e-4))
        off = mean - row
        a = np.sum(off**3) / (6 * np.sum(off**2) ** 1.5)
        z = z0 + np.array([-1.96, 1.96])
        low, high = np.quantile(found, ndtr(z0 + z / (1 - a * z)))
        ends["BCa"].append((low, high))
    return {name: tuple(np.array(pairs).T) for name, pairs in ends.items()}  # type: ignore[misc]


def johnson(x: Float64, _: object) -> tuple[Float64, Float64]:
    """Student t with its centre moved by the third moment (Johnson, JASA 73, 536, 1978)."""
    low, high = student(x, None)
    n, s = x.shape[1], x.std(axis=1, ddof=1)
    moved = np.mean((x - x.mean(axis=1)[:, None]) ** 3, axis=1) / (6 * s**2 * n)
    return low + moved, high + moved


def main() -> None:
    print(
        f"{'scores':<28}{'n':>4}  "
        + "".join(f"{m:>22}" for m in ("t", "Johnson", "studentised", "BCa"))
        + "  caution"
    )
    for name, (make, truth) in CASES.items():
        for n in (10, 20, 50):
            rng = np.random.default_rng(n)
            x = make(rng, (REPEATS, n))
            if "seen" in name:
                x = x[(x == 0.1).any(axis=1)]
            found = {"t": student(x, None), "Johnson": johnson(x, None)} | bootstraps(x, rng)
            cells = "".join(
                f"{np.mean((low <= truth) & (truth <= high)):>13.1%} {100 * np.mean(high - low):6.2f} "
                for low, high in found.values()
            )
            fired = np.mean([tail_caution(row.tolist()) is not None for row in x])
            print(f"{name:<28}{n:>4}  {cells}  {fired:.1%}", flush=True)


if __name__ == "__main__":
    main()
