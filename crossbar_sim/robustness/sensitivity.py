"""What each layer costs when it alone is on its arrays."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_sim.crossbar.configuration import at_sigma
from crossbar_sim.errors import InputError
from crossbar_sim.nn.analog import chips as handle
from crossbar_sim.nn.seeding import permutation
from crossbar_sim.rng import Key
from crossbar_sim.robustness.evaluator import Subject
from crossbar_sim.robustness.score import Reference, finite_score
from crossbar_sim.robustness.statistics import Summary, summarise

CHIPS, IMAGES = 5, 1000
"""What per-layer sensitivity is measured on unless asked otherwise."""


def some(n: int, wanted: int, seed: int) -> Tensor:
    """At most `wanted` of n examples, drawn once for all layers and chips, in their order."""
    if n <= wanted:
        return torch.arange(n)
    return permutation(n, Key(seed).fold("sensitivity images"))[:wanted].sort().values


def layer_drops(
    analog: nn.Module,
    reference: Reference,
    metric: str,
    chips: Sequence[int],
    progress: Callable[[str], None] | None = None,
) -> dict[str, list[float]]:
    """Clean minus drifted score for every layer with arrays, one value per chip.

    Args:
        analog: programmed with the design in question.
        reference: the examples to measure on.
        metric: of the scores.
        chips: their numbers.
        progress: called after every chip and layer.

    Raises:
        InputError: if there is no chip, or a score does not exist.
    """
    if not chips:
        raise InputError("sensitivity is measured on at least one chip")
    drops: dict[str, list[float]] = {layer.name: [] for layer in handle.layers(analog) if layer.slots}
    clean = reference.clean_score().value(metric)
    with handle.frozen(analog):
        for chip in chips:
            handle.set_chip(analog, chip)
            handle.program(analog)
            add_drops(analog, reference, metric, chip, clean, drops, progress)
    return drops


def add_drops(
    analog: nn.Module,
    reference: Reference,
    metric: str,
    chip: int,
    clean: float,
    drops: dict[str, list[float]],
    progress: Callable[[str], None] | None = None,
) -> None:
    """One chip's part of `layer_drops`, for a model that is programmed to it."""
    for name in drops:
        with handle.only_layers(analog, [name]):
            drops[name].append(clean - finite_score(reference.score(analog), metric, chip).value(metric))
        if progress is not None:
            progress(f"chip {chip}, {name} alone")


def as_detail(
    drops: dict[str, list[float]], sigma: float, chips: Sequence[int], images: int
) -> dict[str, Any]:
    """The drops as a results file keeps them, under "sensitivity"."""
    layers = [{"name": name, "drops": values} for name, values in drops.items()]
    return {"sigma": sigma, "chips": list(chips), "images": images, "layers": layers}


@dataclass(frozen=True)
class LayerDrop:
    """What one layer costs alone at one sigma: clean minus drifted score, over chips."""

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
    """What each layer of a model costs alone, for every sigma, on all examples.

    Args:
        subject: the model with its design and examples.
        sigmas, chips: where it is measured.
        progress: called with (done, total, what).

    Raises:
        InputError: if there is no chip, or a score does not exist.
    """
    first = at_sigma(subject.hardware, sigmas[0])
    analog = subject.analog(first)
    total, done = len(sigmas) * len(chips) * sum(1 for layer in handle.layers(analog) if layer.slots), 0

    def step(what: str) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total, what)

    found = []
    for sigma in sigmas:
        handle.set_hardware(analog, at_sigma(subject.hardware, sigma))
        drops = layer_drops(analog, subject.reference, subject.metric, chips, step)
        found += [LayerDrop(name, sigma, summarise(values)) for name, values in drops.items()]
    return found
