"""What is known of single layers: sensitivity and conductances, from the details of a results file."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crossbar_sim.errors import InputError
from crossbar_sim.robustness.page.look import Names, sigma_text
from crossbar_sim.robustness.statistics import summarise
from crossbar_sim.robustness.sweep import Sweep
from crossbar_sim.robustness.wording import fit, visible


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
