"""Per-layer sensitivity: the drop of the score when one layer alone is on its arrays."""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crossbar_sim.errors import InputError
from crossbar_sim.nn.seeding import permutation
from crossbar_sim.rng import Key
from crossbar_sim.robustness.evaluator import ChipScores, Details, Evaluator, Subject, layers_on_arrays
from crossbar_sim.robustness.score import Reference
from crossbar_sim.robustness.statistics import Summary, summarise

CHIPS, IMAGES = 5, 1000
"""The default numbers of chips and examples for per-layer sensitivity."""


LONG = 120.0
"""Seconds that the layers alone take from which on a progress line says how long, and how to leave them out."""


class Countdown:
    """The text of a progress line while layers are measured alone, with the time that they still take.

    Args:
        total: layers times chips.
    """

    def __init__(self, total: int) -> None:
        self.total, self.done, self.spent, self.last = total, 0, 0.0, time.monotonic()

    def skip(self) -> None:
        """What has just ended was something else: it does not count."""
        self.last = time.monotonic()

    def __call__(self, what: str) -> str:
        """The text, with a second line once a layer has been measured, if all of them take long."""
        now = time.monotonic()
        self.done, self.spent, self.last = self.done + 1, self.spent + now - self.last, now
        each = self.spent / self.done
        if each * self.total < LONG:
            return what
        minutes = math.ceil(each * (self.total - self.done) / 60)
        left = f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
        return f"{what}\nsensitivity to each layer: about {left} more (--sensitivity-chips 0 leaves it out)"


def some(n: int, wanted: int, seed: int) -> Tensor:
    """At most `wanted` of n examples, drawn once for all layers and chips, in their order."""
    if n <= wanted:
        return torch.arange(n)
    return permutation(n, Key(seed).fold("sensitivity images"))[:wanted].sort().values


def layer_drops(
    evaluator: Evaluator,
    few: Reference,
    sigma: float,
    chips: Sequence[int],
    step: Callable[[str], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Clean minus drifted score for every layer with arrays, one value per chip.

    Args:
        evaluator: of the model.
        few: the examples to measure on.
        sigma: of the drift.
        chips: their numbers.
        step: called after every chip and layer.

    Raises:
        InputError: if there is no chip, or a score does not exist.
    """
    if not chips:
        raise InputError("sensitivity is measured on at least one chip")
    details = Details(sigma, whole=False, few=few, alone=chips, step=step)
    blocks = evaluator.in_blocks(chips, lambda some: evaluator.details(some, details))
    return drops([scores for block in blocks for scores in block], few, evaluator.subject.metric)


def drops(found: Iterable[ChipScores], few: Reference, metric: str) -> dict[str, list[float]]:
    """Layer -> clean minus drifted score of each chip on which the layers were measured alone."""
    clean = few.clean_score().value(metric)
    losses: dict[str, list[float]] = {}
    for scores in found:
        for name, score in scores.alone.items():
            losses.setdefault(name, []).append(clean - score.value(metric))
    return losses


def as_detail(
    drops: dict[str, list[float]], sigma: float, chips: Sequence[int], images: int
) -> dict[str, Any]:
    """The drops as a results file keeps them, under "sensitivity"."""
    layers = [{"name": name, "drops": values} for name, values in drops.items()]
    return {"sigma": sigma, "chips": list(chips), "images": images, "layers": layers}


@dataclass(frozen=True)
class LayerDrop:
    """The drop by one layer alone at one sigma: clean minus drifted score, over chips."""

    layer: str
    sigma: float
    drop: Summary

    def as_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON."""
        return {"layer": self.layer, "sigma": self.sigma, **self.drop.as_dict()}


def sensitivity(
    subject: Subject,
    sigmas: Sequence[float],
    chips: Sequence[int],
    progress: Callable[[int, int, str], None] | None = None,
) -> list[LayerDrop]:
    """The drop by each layer of a model alone, for every sigma, on all examples.

    Args:
        subject: the model with its design and examples.
        sigmas, chips: where it is measured.
        progress: called with (done, total, what).

    Raises:
        InputError: if there is no chip, or a score does not exist.
    """
    if not chips:
        raise InputError("sensitivity is measured on at least one chip")
    evaluator = subject.evaluator
    total, done = len(sigmas) * len(chips) * len(layers_on_arrays(evaluator.analog)), 0

    def step(what: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total, what)

    found = []
    for sigma in sigmas:
        losses = layer_drops(evaluator, subject.reference, sigma, chips, step)
        found += [LayerDrop(name, sigma, summarise(values)) for name, values in losses.items()]
    return found
