"""Score against energy, latency and area, for every combination of values of a design's parameters."""

import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from crossbar_sim.crossbar.configuration import FAMILIES, from_text, overrides
from crossbar_sim.crossbar.cost import Cost, Estimate, Technology
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.layer_designs import Design, LayerDesigns, override
from crossbar_sim.errors import InputError, silenced_warnings
from crossbar_sim.nn.files.loading import LoadedModel
from crossbar_sim.robustness.array_work import works_of
from crossbar_sim.robustness.benchmark import robustness
from crossbar_sim.robustness.runner import Progress
from crossbar_sim.robustness.sweep import Sweep
from crossbar_sim.robustness.tasks import Model
from crossbar_sim.store.results import Results
from crossbar_sim.validate import as_typed, show, unknown

MOST = 500
"""Combinations of one trade-off."""

_WHOLE = re.compile(r"(-?\d+):(-?\d+)")
_TILE = re.compile(r"(\d+)(?:x(\d+))?")


@dataclass(frozen=True)
class Choice:
    """Values of one parameter of a design.

    Args:
        name: of an override of a design, see `configuration.override`.
        values: text -> value.
    """

    name: str
    values: Mapping[str, Any]

    @classmethod
    def of(cls, text: str) -> "Choice":
        """A parameter with its values: `adc_bits=4:8` (integers 4 to 8), `sigma=0:0.4:5` (five numbers from 0 to 0.4),
        or a list such as `tile=64x64,128x128`, `levels=4,16,none`; parts of a design, such as
        `adc=adc:bits=4;adc:bits=6,share=8`, are separated by semicolons.

        Raises:
            InputError: for an unknown parameter, no value, or a value that is given twice.
        """
        name, equals, rest = (part.strip() for part in text.partition("="))
        name = name.replace("-", "_")
        known = [name for name in overrides(Hardware()) if name != "ranges"]
        if name not in known:
            raise InputError(unknown("--vary: the parameter", name, known))
        words = _words(name, rest) if equals else []
        if not words or not all(words):
            raise InputError(
                f"--vary {show(text)}: expected values, such as adc_bits=4:8, sigma=0:0.4:5 or tile=64x64,128x128"
            )
        twice = next((word for word in words if words.count(word) > 1), None)
        if twice is not None:
            raise InputError(f"--vary {name}: the value {twice} is given twice")
        return cls(name, {word: _value(name, word) for word in words})


def _words(name: str, text: str) -> list[str]:
    if name in FAMILIES:
        return [word.strip() for word in text.split(";")]
    whole = _WHOLE.fullmatch(text)
    if whole is not None:
        first, last = map(int, whole.groups())
        if not 0 <= last - first < MOST:
            raise InputError(f"--vary {name}={text}: expected first:last with first <= last, such as 4:8")
        return [str(number) for number in range(first, last + 1)]
    parts = text.split(":")
    if len(parts) == 3:
        try:
            low, high, points = float(parts[0]), float(parts[1]), int(parts[2])
        except ValueError:
            low, high, points = math.nan, math.nan, 0
        if not (math.isfinite(low) and math.isfinite(high) and 2 <= points <= MOST):
            raise InputError(f"--vary {name}={text}: expected first:last:points, such as 0:0.4:5")
        return [f"{as_typed(low + (high - low) * i / (points - 1)):g}" for i in range(points)]
    return [word.strip() for word in text.split(",")]


def _value(name: str, word: str) -> Any:
    if name in FAMILIES:
        return from_text(name, word)
    tile = _TILE.fullmatch(word.lower())
    if name == "tile" and tile is not None:
        return int(tile[1]), int(tile[2] or tile[1])
    if word == "none":
        return None
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word


@dataclass(frozen=True)
class Candidate:
    """One combination of values.

    Args:
        values: parameter -> the value's text.
        design: with these values; None: there is no such design.
        impossible: why there is none.
    """

    values: Mapping[str, str]
    design: Design | None
    impossible: str = ""

    @property
    def label(self) -> str:
        """`adc_bits=4 tile=64x64`."""
        return " ".join(f"{name}={value}" for name, value in self.values.items())


def candidates(base: Design, choices: Sequence[Choice]) -> tuple[Candidate, ...]:
    """Every combination of the values, the last parameter's changing fastest.

    Raises:
        InputError: if no parameter is varied, one twice, there are too many combinations, or none is possible.
    """
    names = [choice.name for choice in choices]
    if not names:
        raise InputError("a trade-off varies at least one parameter: give --vary adc_bits=4:8")
    if len(set(names)) < len(names):
        raise InputError(
            f"--vary: {next(n for n in names if names.count(n) > 1)} is varied twice: give it once"
        )
    count = math.prod(len(choice.values) for choice in choices)
    if count > MOST:
        sizes = " x ".join(str(len(choice.values)) for choice in choices)
        raise InputError(f"{sizes} = {count} combinations: at most {MOST} are evaluated; vary fewer values")
    found = []
    for combination in itertools.product(*(choice.values.items() for choice in choices)):
        values = {name: text for name, (text, _) in zip(names, combination, strict=True)}
        flat = {name: value for name, (_, value) in zip(names, combination, strict=True)}
        try:
            found.append(Candidate(values, override(base, **flat)))
        except InputError as error:
            found.append(Candidate(values, None, str(error)))
    if all(candidate.design is None for candidate in found):
        raise InputError(
            f"none of the {count} combinations is a design: {found[0].label}: {found[0].impossible}"
        )
    return tuple(found)


@dataclass(frozen=True, eq=False)
class Measured:
    """A candidate with its score and its cost; None, None where it is impossible."""

    candidate: Candidate
    sweep: Sweep | None = None
    cost: Cost | None = None


@dataclass(frozen=True, eq=False)
class TradeOff:
    """Scores and costs of all combinations, in their order.

    Args:
        names: of the parameters.
        measured: each combination.
        technology: of the costs.
        notes: what was assumed.
        cautions: what the user should read.
    """

    names: tuple[str, ...]
    measured: tuple[Measured, ...]
    technology: Technology
    notes: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()


def trade_off(
    loaded: LoadedModel,
    model: Model,
    found: Sequence[Candidate],
    technology: Technology,
    ranged: Callable[[Design], Design],
    *,
    only: tuple[str, ...] | None = None,
    skip: tuple[str, ...] = (),
    results: Results,
    progress: Progress | None = None,
    **settings: Any,
) -> TradeOff:
    """Score and cost of every combination, each at the sigma of its drift law.

    Args:
        loaded, model: the model, and the same with its examples.
        found: of `candidates`.
        technology: one for all: so ADCs of all resolutions come from one model of converters.
        ranged: gives a design with converter ranges.
        only, skip: see `to_analog`.
        results: where each combination is a task: what is there is not measured again.
        progress: called with (done, total, what).
        settings: for `robustness`: chips, half_width, seed, metric, class_axis.

    Raises:
        InputError: if model, examples and a design do not go together.
    """
    measured: list[Measured] = []
    notes: dict[str, None] = {}
    for i, candidate in enumerate(found):
        if candidate.design is None:
            measured.append(Measured(candidate))
            continue
        label, done = candidate.label, i

        def step(now: int, total: int, what: str, label: str = label, done: int = done) -> None:
            if progress is not None:
                progress(done * total + now, len(found) * total, label)

        try:
            with silenced_warnings():
                works, said = works_of(loaded, candidate.design, model.examples.x, only, skip)
                estimate = Estimate.of(works, technology, said)
                design = ranged(candidate.design)
                of_it = replace(model, label=label, ranges=design.ranges)
                sweep = robustness(
                    [of_it], None, design, [_sigma(design)],
                    only=only, skip=skip, results=results, progress=step, **settings,
                )  # fmt: skip
        except InputError as error:
            raise InputError(f"{label}: {error}") from error
        notes |= dict.fromkeys(estimate.notes)
        measured.append(Measured(candidate, sweep, estimate.total))
    names = tuple(found[0].values)
    return TradeOff(names, tuple(measured), technology, tuple(notes), tuple(_idle(names, measured)))


def _sigma(design: Design) -> float:
    drift: Any = (design.base if isinstance(design, LayerDesigns) else design).drift
    return 0.0 if drift is None else float(getattr(drift, "sigma", 0.0))


def _idle(names: Sequence[str], measured: Iterable[Measured]) -> Iterable[str]:
    """Warnings for parameters whose values change neither a score nor a cost."""
    for name in names:
        groups: dict[tuple[str, ...], set[Any]] = {}
        several: dict[tuple[str, ...], int] = {}
        for each in measured:
            if each.sweep is None or each.cost is None:
                continue
            others = tuple(text for key, text in each.candidate.values.items() if key != name)
            scores = tuple(point.values for points in each.sweep.curves.values() for point in points)
            costs = (each.cost.joules, each.cost.latency, each.cost.square_metres)
            groups.setdefault(others, set()).add((scores, costs))
            several[others] = several.get(others, 0) + 1
        if max(several.values()) > 1 and all(len(group) == 1 for group in groups.values()):
            yield f"{name} was varied but changes no score and no cost of this model on this design"
