"""One number per model, and comparisons of these numbers; scores are as stored."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from crossbar_sim.errors import InputError
from crossbar_sim.robustness.curves import area
from crossbar_sim.robustness.groups import unlike_tasks
from crossbar_sim.robustness.statistics import Interval, mean_interval
from crossbar_sim.robustness.sweep import Sweep


@dataclass(frozen=True)
class Overall:
    """One number for a whole curve: the mean score over the sigmas, or the score at the only one.

    Args:
        estimate: as stored, so an output error is negative.
        interval: over chips; None for one chip.
    """

    estimate: float
    interval: Interval | None


def overall(sweep: Sweep, label: str, sigmas: Sequence[float] | None = None, level: float = 0.95) -> Overall:
    """A model's mean score over these of its sigmas (None: all)."""
    found, chips, table = sweep.scores(label, sigmas)
    if not chips:  # no chip has every sigma: only the means are known
        points = [p for p in sweep.curve(label) if p.sigma in found]
        return _over(found, np.array([[p.summary.mean for p in points]]), level, 0.0)
    return _over(found, table, level, sweep.unseen(label, found, len(chips), level))


def ahead(sweep: Sweep, a: str, b: str, level: float = 0.95) -> Overall | None:
    """Score of `a` minus score of `b` on the chips and sigmas that both have; None where they share none.

    Chips of different seeds, or scores on different data, are not compared: see `Sweep.unlike`.
    """
    if sweep.unlike(a, b):
        return None
    sigmas = sorted({p.sigma for p in sweep.curve(a)} & {p.sigma for p in sweep.curve(b)})
    (_, of_a, scores_a), (_, of_b, scores_b) = sweep.scores(a, sigmas), sweep.scores(b, sigmas)
    chips = sorted(set(of_a) & set(of_b))
    if not sigmas or not chips:
        return None
    differences = scores_a[[of_a.index(c) for c in chips]] - scores_b[[of_b.index(c) for c in chips]]
    unseen = sum(sweep.unseen(label, sigmas, len(chips), level) for label in (a, b))
    return _over(sigmas, differences, level, unseen)


def _over(sigmas: Sequence[float], table: np.ndarray, level: float, unseen: ArrayLike) -> Overall:
    """The overall score of a table (chips, sigmas); `unseen` as `curves.area` takes it."""
    if len(sigmas) == 1:
        column = table[:, 0]
        return Overall(math.fsum(column) / len(column), mean_interval(column, level, float(np.max(unseen))))
    interval = area(sigmas, table, level, unseen)
    widths = np.diff(sigmas) / (sigmas[-1] - sigmas[0])
    means = table.mean(axis=0)
    estimate = float(((means[1:] + means[:-1]) / 2 * widths).sum())
    return Overall(estimate if interval is None else interval.estimate, interval)


def shared_sigmas(sweep: Sweep) -> tuple[float, ...]:
    """The sigmas that every model has, ascending."""
    return tuple(sorted(set.intersection(*({p.sigma for p in points} for points in sweep.curves.values()))))


def once(sweep: Sweep) -> Sweep:
    """Of models that were measured twice, on different images, the measurement with the most sigmas, or the first.

    Two measurements of one model are not ranked.
    """
    kept: list[str] = []
    for label in sorted(sweep.labels, key=lambda label: -len(sweep.curve(label))):
        if all(sweep.unlike(label, other) != ("images",) for other in kept):
            kept.append(label)
    return narrowed(sweep, [label for label in sweep.labels if label in kept])


def ranked(sweep: Sweep) -> list[tuple[str, Overall]]:
    """Models by their mean score over the sigmas that all have, the best first."""
    sigmas = shared_sigmas(sweep) or None
    found = [(label, overall(sweep, label, sigmas)) for label in sweep.labels]
    return sorted(found, key=lambda pair: -pair[1].estimate)


def differing(sweep: Sweep) -> list[str]:
    """What differs between the tasks besides the model: "data", "hardware", "seed", ..."""
    return list(unlike_tasks(sweep.tasks.values()))


def pairs(labels: Sequence[str], most: int) -> list[tuple[str, str]]:
    """(a, b) to compare, a - b: each with those before it, or only with the first where that would be over `most`."""
    if len(labels) * (len(labels) - 1) // 2 > most:
        return [(other, labels[0]) for other in labels[1 : most + 1]]
    return [(b, a) for i, a in enumerate(labels) for b in labels[i + 1 :]]


def narrowed(sweep: Sweep, models: Sequence[str] | None) -> Sweep:
    """The sweep of these models only, in this order (None: all), without models that have no trial.

    Raises:
        InputError: if a model is unknown or named twice, or none has a trial.
    """
    labels = list(sweep.labels) if models is None else list(models)
    if len(set(labels)) < len(labels):
        raise InputError(f"models {', '.join(labels)}: a model is named twice; name each once")
    kept = [label for label in labels if sweep.curve(label)]
    if not kept:
        raise InputError("the results hold no trial of these models yet: run crossbar-sim sweep first")
    return Sweep(
        {label: sweep.tasks[label] for label in kept},
        {label: sweep.curves[label] for label in kept},
        {label: sweep.details.get(label, {}) for label in kept},
    )
