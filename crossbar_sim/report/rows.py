"""Rows of tables: what the terminal, the page, CSV and JSON show."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from crossbar_sim.errors import InputError
from crossbar_sim.report.look import Names, Scale, sigma_text
from crossbar_sim.report.wording import fit, visible
from crossbar_sim.robustness.curves import area
from crossbar_sim.robustness.groups import unlike_tasks
from crossbar_sim.robustness.point import Point
from crossbar_sim.robustness.statistics import Interval, Yield, mean_interval, summarise
from crossbar_sim.robustness.sweep import Sweep

# The few numbers that the page makes of a sweep beside the sweep's own: one number per model, and who is ahead.


MARGIN = 0.05
"""What a model may lose before it falls below the threshold, unless a threshold is given."""


@dataclass(frozen=True)
class Overall:
    """One number for a whole curve: the mean score over the sigmas, or the score at the only one.

    Args:
        estimate: as stored, so minus an output error.
        interval: over chips; None for one chip.
    """

    estimate: float
    interval: Interval | None


def narrowed(sweep: Sweep, models: Sequence[str] | None) -> Sweep:
    """The sweep of these models only, in their order (None: all), without those that have no trial.

    Raises:
        InputError: if a model is unknown or asked for twice, or none has a trial.
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


def default_threshold(sweep: Sweep) -> float | None:
    """The lowest clean score less 5 points, in whole per cent; None for an error, which has no such limit.

    Models below half of the best clean score do not count: a training that failed says nothing about a limit.
    """
    if sweep.metric == "output_error":
        return None
    scores = [task.clean for task in sweep.tasks.values()]
    clean = min(score for score in scores if score >= max(scores) / 2)
    return max(math.floor(100 * (clean - MARGIN) + 1e-9), 0) / 100


def check_threshold(metric: str, threshold: float) -> None:
    """Refuse a threshold that no score can have, as `deploy` does.

    Raises:
        InputError: naming it and what is allowed.
    """
    if not 0 <= threshold < math.inf:
        raise InputError(f"threshold={threshold}: expected a score such as 0.9")
    if threshold > 1 and metric != "output_error":
        raise InputError(f"threshold={threshold}: {metric} is a share in 0 .. 1, such as 0.9 for 90 %")


def overall(sweep: Sweep, label: str, sigmas: Sequence[float] | None = None, level: float = 0.95) -> Overall:
    """A model's mean score over these of its sigmas (None: all)."""
    found, chips, table = sweep.scores(label, sigmas)
    if not chips:  # no chip has every sigma: the means are all that there is
        points = [p for p in sweep.curve(label) if p.sigma in found]
        return _over(found, np.array([[p.summary.mean for p in points]]), level, 0.0)
    return _over(found, table, level, sweep.unseen(label, found, len(chips), level))


def ahead(sweep: Sweep, a: str, b: str, level: float = 0.95) -> Overall | None:
    """By how much `a` is above `b` on the chips and sigmas that both have; None where they share none.

    Chips of another seed, or on other data, are others: see `Sweep.unlike`.
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


def apart_at(sweep: Sweep, a: str, b: str) -> list[tuple[float, float]]:
    """(sigma, p) where two models differ on the same chips at 5 % after Holm's correction over the sigmas."""
    if sweep.not_paired(a, b):
        return []
    found = ((sigma, pair.adjusted) for sigma, pair in sweep.paired(a, b))
    return [(sigma, p) for sigma, p in found if p is not None and p < 0.05]


def shared_sigmas(sweep: Sweep) -> tuple[float, ...]:
    """The sigmas that every model has, ascending."""
    return tuple(sorted(set.intersection(*({p.sigma for p in points} for points in sweep.curves.values()))))


def once(sweep: Sweep) -> Sweep:
    """Of models that were measured twice, on other images, the measurement with the most sigmas, or the first.

    Such two say one thing: they are not ranked.
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
    """What else than the model differs between the tasks: "data", "hardware", "seed", ..."""
    return list(unlike_tasks(sweep.tasks.values()))


def pairs(sweep: Sweep, most: int) -> list[tuple[str, str]]:
    """(a, b) to compare, a - b: each with those before it, or only with the first where that would be over `most`."""
    labels = sweep.labels
    if len(labels) * (len(labels) - 1) // 2 > most:
        return [(other, labels[0]) for other in labels[1 : most + 1]]
    return [(b, a) for i, a in enumerate(labels) for b in labels[i + 1 :]]


def thresholds(scores: Sequence[float], scale: Scale, most: int) -> list[float]:
    """Round thresholds, as shown, that span these scores and a little more: at most about `most`."""
    low, high = (f(scale.shown(score) for score in scores) for f in (min, max))
    steps = (digit * 10.0**power for power in range(-4, 300) for digit in (1, 2, 5))
    step = next(step for step in steps if (high - low) / step <= most - 4)
    limits = [round(i * step, 10) for i in range(math.floor(low / step) - 1, math.ceil(high / step) + 2)]
    return [t for t in limits if t >= 0 and not (scale.more_is_better and t > 1)]


def yield_curve(point: Point, limits: Sequence[float], scale: Scale, most: int) -> list[tuple[float, Yield]]:
    """(threshold as shown, yield) from the first to the last of these limits, in ascending order.

    The share of chips that reach a threshold changes at the scores of the chips and is constant in between, so these
    are the places. It belongs to the chips at the threshold itself: for a score of which more is better the value
    holds from the threshold before up to this one ("step before"), for an error from this one on ("step after").
    Scores on drawn images give a smooth estimate (`yield_drawn`), which is taken at the limits.

    Args:
        point: of one model.
        limits: as `thresholds` gives them.
        scale: of the metric.
        most: how many of the chips' different scores at most; of more, some are left out evenly.
    """
    places = list(limits)
    if not point.drawn:
        scores = sorted({scale.shown(value) for value in point.values})
        if len(scores) > most:
            scores = [scores[round(i * (len(scores) - 1) / (most - 1))] for i in range(most)]
        places = sorted({*scores, limits[0], limits[-1]})
    return [(limit, point.passing(scale.shown(limit))) for limit in places]


def telling(sweep: Sweep, sigmas: Sequence[float], threshold: float | None) -> float:
    """The sigma whose yield tells most: where that of the first model is nearest to a half; else the middle one.

    Args:
        sweep: with at least one model.
        sigmas: to choose from.
        threshold: as stored, so minus an output error; None: none is known.
    """
    middle = sigmas[len(sigmas) // 2]
    points = [p for p in sweep.curve(sweep.labels[0]) if p.sigma in set(sigmas)]
    if threshold is None or not points:
        return middle
    return min((abs(p.passing(threshold).value - 0.5), abs(p.sigma - middle), p.sigma) for p in points)[2]


def _over(sigmas: Sequence[float], table: np.ndarray, level: float, unseen: ArrayLike) -> Overall:
    """Of scores (chips, sigmas); `unseen` as `curves.area` takes it."""
    if len(sigmas) == 1:
        column = table[:, 0]
        return Overall(math.fsum(column) / len(column), mean_interval(column, level, float(np.max(unseen))))
    interval = area(sigmas, table, level, unseen)
    widths = np.diff(sigmas) / (sigmas[-1] - sigmas[0])
    means = table.mean(axis=0)
    estimate = float(((means[1:] + means[:-1]) / 2 * widths).sum())
    return Overall(estimate if interval is None else interval.estimate, interval)


# What is known of single layers: sensitivity and conductances, from the details of a results file.


@dataclass(frozen=True)
class Drop:
    """What one layer costs alone: mean over chips as shown, with its interval; None for one chip."""

    label: str
    layer: str
    mean: float
    span: tuple[float, float] | None
    chips: int

    @property
    def half(self) -> float | None:
        """Half the interval's width."""
        return None if self.span is None else (self.span[1] - self.span[0]) / 2


def drops(sweep: Sweep) -> list[Drop]:
    """Every layer of every model whose sensitivity is known."""
    found = []
    for label in sweep.labels:
        for layer in layers_of(sweep, label, "sensitivity"):
            values = [float(value) for value in layer["drops"]]
            if values:
                summary = summarise(values)
                found.append(Drop(label, str(layer["name"]), summary.mean, summary.ci95, len(values)))
    return found


def most_sensitive(found: Sequence[Drop]) -> list[str]:
    """Names of layers, those first that cost any model most."""
    worst: dict[str, float] = {}
    for drop in found:
        worst[drop.layer] = max(drop.mean, worst.get(drop.layer, -math.inf))
    return sorted(worst, key=lambda name: -worst[name])


def layer_names(layers: Sequence[str]) -> list[str]:
    """What layers are called in a chart; every name is there once."""
    return fit([visible(layer) for layer in layers], 24)


def layers_of(sweep: Sweep, label: str, name: str) -> list[Mapping[str, Any]]:
    """The layers of one model under "sensitivity" or "conductances"; none where that was not measured.

    Raises:
        InputError: if they are not in the form in which `sweep` keeps them.
    """
    detail = sweep.details.get(label, {}).get(name)
    if not detail:
        return []
    try:
        if name == "sensitivity":
            detail = {**detail, "chips": [int(c) for c in detail["chips"]], "images": int(detail["images"])}
        for layer in detail["layers"]:
            str(layer["name"])
            numbers = [layer["drops"]] if name == "sensitivity" else [layer["target"], layer["drifted"]]
            for values in numbers:
                if not all(math.isfinite(float(value)) for value in values):
                    raise ValueError("a number that is not finite")
            if (
                name == "conductances"
                and not len(layer["edges"]) - 1 == len(numbers[0]) == len(numbers[1]) > 0
            ):
                raise ValueError("edges and counts that do not fit")
        float(detail["sigma"])
        return list(detail["layers"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise InputError(
            f"the {name} of {label} cannot be read from these results ({type(error).__name__}: {error}): "
            "they are damaged or of another version"
        ) from None


def told(sweep: Sweep, name: str) -> Iterator[str]:
    """How it was measured, in words, once for all models where they agree; else with the models that it is of."""
    words: dict[str, list[str]] = {}
    names = Names.of(sweep.labels).short
    for label in sweep.labels:
        if not layers_of(sweep, label, name):
            continue
        detail = sweep.details[label][name]
        parts = [f"sigma {sigma_text(float(detail['sigma']))}"]
        if name == "sensitivity":
            n = len(detail["chips"])
            parts.append(f"{n} chips" if n > 1 else f"{n} chip, which has no interval")
            parts.append(f"{int(detail['images']):,} examples")
        else:
            parts.append(f"chip {detail.get('chip')}")
        words.setdefault(", ".join(parts), []).append(names[label])
    if len(words) == 1:
        yield f"Measured at {next(iter(words))}."
    elif words:
        whose = "; ".join(f"{how} ({', '.join(labels)})" for how, labels in words.items())
        yield f"Measured at {whose}: do not compare models across these."
