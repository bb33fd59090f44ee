"""Bias, coverage and grades of `fit-device` on made-up tables of its own laws.

    python benchmarks/device_fit.py [TABLES [PART]]

For every kind of table (whose name has PART in it) and TABLES (100) fixed seeds: how many are graded poor, how many
are given another law, the mean of estimate over truth, and how many 95 % intervals hold the truth, with Wilson's
interval of that share. docs/devices.md has the results.
"""

import sys
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from crossbar_sim.crossbar.device_fit import Measurements, fit_device
from crossbar_sim.robustness.statistics import wilson

US = 1e-6
MEAN, SIGMA, RATE = -0.089 * US, 0.41183342 * US, 0.04201137 * US  # reram_cmo2025
NU, NU_SIGMA = 0.02, 0.01


class Table(NamedTuple):
    """Cells for each target, targets, times and a law; `stuck` cells read 10 nS."""

    law: str
    cells: int
    times: tuple[float, ...]
    programming: Callable[[np.ndarray], np.ndarray] = lambda g: 0.3 * US + 0.01 * g
    stuck: float = 0.0
    targets: int = 10


TABLES = {
    "none, 8 targets x 10": Table("none", 10, (0.0,), targets=8),
    "none, 8 targets x 25": Table("none", 25, (0.0,), targets=8),
    "none, 8 targets x 200": Table("none", 200, (0.0,), targets=8),
    "none, x 200, 5 % stuck": Table("none", 200, (0.0,), stuck=0.05, targets=8),
    "none, x 200, 10 % stuck": Table("none", 200, (0.0,), stuck=0.1, targets=8),
    "retention, x 10": Table("retention", 10, (0.0, 1.0, 60.0, 3600.0, 86400.0)),
    "retention, x 40": Table("retention", 40, (0.0, 1.0, 60.0, 3600.0, 86400.0)),
    "relaxation, x 10": Table("relaxation", 10, (0.0, 1.0, 60.0, 3600.0, 86400.0)),
    "relaxation, x 40": Table("relaxation", 40, (0.0, 1.0, 60.0, 3600.0, 86400.0)),
    "relaxation, x 40, 5 % stuck": Table("relaxation", 40, (0.0, 1.0, 60.0, 3600.0, 86400.0), stuck=0.05),
    "relaxation from 1 s, x 40": Table("relaxation", 40, (1.0, 60.0, 3600.0, 86400.0)),
    "relaxation from 1 s, x 40, exact": Table(
        "relaxation", 40, (1.0, 60.0, 3600.0, 86400.0), lambda g: 1e-3 * g
    ),
    "by conductance, x 40": Table("measured_relaxation", 40, (0.0, 1.0, 60.0, 3600.0, 86400.0)),
    "by conductance from 1 s, x 40": Table("measured_relaxation", 40, (1.0, 60.0, 3600.0, 86400.0)),
}


def peak(g: np.ndarray) -> np.ndarray:
    """How much larger the spread by conductance is than RelaxationShift's: 0.3 at the ends, 1.8 in the middle."""
    return 0.3 + 6 * (g / (88.2 * US)) * (1 - g / (88.2 * US))


def made(table: Table, seed: int) -> Measurements:
    """One table: every cell is read at every time."""
    rng = np.random.default_rng(seed)
    target = np.repeat(np.linspace(9 * US, 88.2 * US, table.targets), table.cells)
    first = target + table.programming(target) * rng.standard_normal(target.size)
    z, stuck = rng.standard_normal(target.size), rng.random(target.size) < table.stuck
    rows = []
    for time in table.times:
        log = np.log(max(time, 1.0))
        g = first
        if table.law == "retention":
            g = first * np.exp(-(NU + NU_SIGMA * z) * log)
        elif table.law != "none" and time >= 1:
            scale = peak(target) if table.law == "measured_relaxation" else 1.0
            g = first + MEAN * log + scale * (SIGMA + RATE * log) * z
        rows.append((target, np.where(stuck, 0.01 * US, np.maximum(g, 0)), np.full(target.size, time)))
    t, y, s = (np.concatenate(column) for column in zip(*rows, strict=True))
    return Measurements(t, y, s, np.tile(np.arange(target.size), len(table.times)))


def truths(table: Table) -> Iterator[tuple[str, float]]:
    """The parameters of the law with a known value."""
    if table.law == "retention":
        yield from (("drift.nu", NU), ("drift.nu_sigma", NU_SIGMA))
    elif table.law == "relaxation":
        yield from (("drift.mean_per_ln", MEAN), ("drift.sigma", SIGMA), ("drift.sigma_per_ln", RATE))


def main(tables: int, part: str) -> None:
    warnings.simplefilter("ignore")
    for name, table in TABLES.items():
        if part not in name:
            continue
        poor = other = 0
        spreads: list[float] = []
        found: dict[str, list[tuple[float, bool]]] = {}
        for seed in range(tables):
            data = made(table, seed)
            fit = fit_device(data)
            poor += fit.quality.grade == "poor"
            other += fit.law != table.law
            at = {p.name: p for p in fit.parameters}
            for key, value in truths(table):
                if key in at:
                    held = at[key].low <= value <= at[key].high
                    found.setdefault(key, []).append((at[key].value / value, held))
            # the spread of all rows at the last time by the fit, and by the truth
            last = data.time == table.times[-1]
            own = table.programming(data.target[last])
            log = np.log(max(table.times[-1], 1.0))
            if table.law == "retention":
                own = np.hypot(own, NU_SIGMA * log * data.target[last]) * np.exp(-NU * log)
            elif table.law != "none":
                scale = peak(data.target[last]) if table.law == "measured_relaxation" else 1.0
                own = np.hypot(own, scale * (SIGMA + RATE * log))
            spreads.append(float(np.exp(np.mean(np.log(fit.spread[last] / own)))))
        text = (
            f"{name:<34} poor {poor}/{tables}, another law {other}; spread at the end {np.mean(spreads):.3f}"
        )
        for key, values in found.items():
            ratio, held = np.array(values).T
            share = wilson(int(np.sum(held)), len(held))
            text += f"; {key} {np.mean(ratio):.3f}, held {int(np.sum(held))}/{len(held)}"
            text += f" ({100 * share.low:.0f} to {100 * share.high:.0f} %)"
        print(text, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100, sys.argv[2] if len(sys.argv) > 2 else "")
