"""Measurements of made-up devices, written and aged by the simulator's own laws."""

import numpy as np

from crossbar_sim import Key, MeasuredNoise, RelaxationShift, RetentionDrift
from crossbar_sim.crossbar.device_fit import Measurements
from crossbar_sim.crossbar.stream import Stream

US = 1e-6
G_MAX = 40 * US
TIMES = (0.0, 1.0, 60.0, 3600.0, 86400.0)
NOISE = MeasuredNoise((0.5 * US, 1.5 * US), G_MAX, (1.0 * US, -2.0 * US))
RELAXATION = {"mean_per_ln": -0.2 * US, "sigma": 0.4 * US, "sigma_per_ln": 0.05 * US}
RETENTION = {"nu": 0.02, "nu_sigma": 0.01}
TRUTH = {
    "programming.mean[0]": 1.0 * US,
    "programming.mean[1]": -2.0 * US,
    "programming.coefficients[0]": 0.5 * US,
    "programming.coefficients[1]": 1.5 * US,
}


def law_at(kind: str, time: float):
    """The drift law of that kind at that time; None just after programming."""
    if kind == "relaxation" and time >= 1:
        return RelaxationShift(time, **RELAXATION)
    if kind == "retention" and time > 1:
        return RetentionDrift(time=time, **RETENTION)
    return None


def measure(
    kind: str, cells: int = 40, chip: int = 0, times=TIMES, noise=NOISE, wild: float = 0.0
) -> Measurements:
    """`cells` cells for each of nine targets and each time, every one read once."""
    columns = [[], [], []]
    targets = np.repeat(np.linspace(0, G_MAX, 9), cells).astype(np.float32)
    for event, time in enumerate(times):
        key = Key(11).fold(kind, f"time {event}")
        g = np.empty_like(targets)
        noise.cells(targets, Stream.of(key, chip).normals(targets.size), G_MAX, g)
        law = law_at(kind, time)
        if law is not None:
            g = law.apply(g, key, chip)
        stuck = Stream.of(key.fold("stuck"), chip).words(targets.size) < wild * 2**32
        g[stuck] = np.float32(G_MAX)
        for column, values in zip(columns, (targets, g, np.full(targets.size, time)), strict=True):
            column.append(np.asarray(values, np.float64))
    return Measurements(*(np.concatenate(column) for column in columns))
