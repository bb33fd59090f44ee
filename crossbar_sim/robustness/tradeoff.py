"""Score against energy, latency and area, for every combination of values of a design's parameters."""

import functools
import itertools
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import TYPE_CHECKING, Any, SupportsIndex

import torch
from torch import Tensor, nn

import crossbar_sim
from crossbar_sim.crossbar.configuration import FAMILIES, from_text, overrides
from crossbar_sim.crossbar.cost import Cost, Estimate, Technology, technology_names
from crossbar_sim.crossbar.cost import technology as read_technology
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.layer_designs import REST, Design, LayerDesigns, as_design, override
from crossbar_sim.errors import InputError, silenced_warnings, warn
from crossbar_sim.nn.analog.conversion import patterns
from crossbar_sim.nn.device import Device
from crossbar_sim.nn.files.loading import LoadedModel
from crossbar_sim.robustness.array_work import works_of
from crossbar_sim.robustness.benchmark import (
    check_sigmas,
    check_workers,
    executors,
    measured,
    models_from,
    opened,
    plan_from,
)
from crossbar_sim.robustness.calibration import Calibration, calibration_of
from crossbar_sim.robustness.plans import Plan
from crossbar_sim.robustness.point import Point
from crossbar_sim.robustness.range_data import with_ranges
from crossbar_sim.robustness.runner import Progress
from crossbar_sim.robustness.sweep import Sweep, warnings_of
from crossbar_sim.robustness.tasks import Model
from crossbar_sim.store.results import Results
from crossbar_sim.tables import data_frame
from crossbar_sim.validate import as_typed, show, unknown

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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

    @classmethod
    def given(cls, name: str, values: Any) -> "Choice":
        """The same from Python: the text after the equals sign, or a list of numbers, texts, pairs, None or parts.

        Raises:
            InputError: as `of`.
        """
        if isinstance(values, str):
            return cls.of(f"{name}={values}")
        if not isinstance(values, Iterable):
            raise InputError(
                f"vary: {name}={show(values)}: expected a list such as [4, 6, 8], or a text such as '4:8'"
            )
        found: dict[str, Any] = {}
        for value in values:
            text = _text(value)
            if text in found:
                raise InputError(f"vary: {name}: the value {text} is given twice")
            found[text] = _value(name, text) if isinstance(value, str | Real) else value
        known = cls.of(f"{name}=none")  # refuses an unknown parameter
        if not found:
            raise InputError(f"vary: {name} has no value: expected a list such as [4, 6, 8]")
        return cls(known.name, found)


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


def _text(value: Any) -> str:
    """A value in the words of the command line, where it has some."""
    if isinstance(value, tuple) and len(value) == 2:
        return "x".join(map(str, value))
    if isinstance(value, Real) and not isinstance(value, bool):
        short = f"{value:g}"
        return short if float(short) == value else repr(float(value))
    return "none" if value is None else value.strip() if isinstance(value, str) else repr(value)


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
        typed: parameter -> the value, where that is a number, else its text.
        design: with these values; None: there is no such design.
        impossible: why there is none.
    """

    values: Mapping[str, str]
    typed: Mapping[str, Any]
    design: Design | None
    impossible: str = ""

    @property
    def label(self) -> str:
        """`adc_bits=4 tile=64x64`."""
        return " ".join(f"{name}={value}" for name, value in self.values.items())

    @property
    def curve(self) -> str:
        """The same without sigma: designs that differ in it alone are points of one curve in a results file."""
        return " ".join(f"{name}={value}" for name, value in self.values.items() if name != "sigma")


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
        typed = {name: flat[name] if isinstance(flat[name], Real) else values[name] for name in names}
        try:
            found.append(Candidate(values, typed, override(base, **flat)))
        except InputError as error:
            found.append(Candidate(values, typed, None, str(error)))
    if all(candidate.design is None for candidate in found):
        raise InputError(
            f"none of the {count} combinations is a design: {found[0].label}: {found[0].impossible}"
        )
    return tuple(found)


COSTS = ("energy", "latency", "area")
"""What the front may be against: of one inference."""


@dataclass(frozen=True, eq=False)
class Measured:
    """A candidate with its score and its cost; None, None where it is impossible."""

    candidate: Candidate
    sweep: Sweep | None = None
    cost: Cost | None = None

    @property
    def point(self) -> Point | None:
        """The scores of its chips."""
        return None if self.sweep is None else next(points[0] for points in self.sweep.curves.values())

    @property
    def score(self) -> tuple[float, float | None, float | None] | None:
        """The mean over chips and its 95 % interval as computed, in the units of reports."""
        if self.sweep is None or self.point is None:
            return None
        shown, summary = self.sweep.judge.shown, self.point.summary
        ends = (None, None) if summary.ci95 is None else sorted(map(shown, summary.ci95))
        return shown(summary.mean), *ends

    def percentile(self, percent: float) -> tuple[float, float | None, float | None] | None:
        """The score that all but so many per cent of the chips reach and its 95 % interval, in the units of reports.

        None where the combination is impossible or scores are of drawn images; see `Point.percentile`.

        Raises:
            InputError: if it is not between 0 and 100.
        """
        found = None if self.point is None else self.point.percentile(percent)
        if self.sweep is None or found is None:
            return None
        judge = self.sweep.judge
        low, high = (None if end is None else judge.shown(end) for end in found.ci95)
        return judge.shown(found.value), *((low, high) if judge.sign > 0 else (high, low))

    def cost_of(self, name: str) -> float:
        """Energy in J, latency in s or area in m2; NaN where it is impossible."""
        if self.cost is None:
            return math.nan
        return {
            "energy": self.cost.joules, "latency": self.cost.latency, "area": self.cost.square_metres
        }[name]  # fmt: skip


@dataclass(frozen=True, eq=False)
class TradeOff:
    """Scores and costs of all combinations, in their order.

    Args:
        names: of the parameters.
        measured: each combination.
        technology: of the costs.
        against: the cost that the front is of: "energy", "latency" or "area".
        notes: what was assumed.
        cautions: what the user should read.
    """

    names: tuple[str, ...]
    measured: tuple[Measured, ...]
    technology: Technology
    against: str = "energy"
    notes: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()

    @functools.cached_property
    def front(self) -> tuple[bool, ...]:
        """Whether each combination is on the Pareto front of mean score and cost.

        It is if no other has a score and a cost that are both at least as good and one of them better.
        """
        places = [
            None if each.point is None else (each.point.summary.mean, each.cost_of(self.against))
            for each in self.measured
        ]
        return tuple(
            place is not None and not any(dominates(other, place) for other in places if other is not None)
            for place in places
        )

    def to_dataframe(self, percentile: float | None = None) -> "pandas.DataFrame":
        """One row per combination: its values, then metric, value, low, high, clean, chips, energy_J, latency_s,
        area_m2, front, impossible; scores in the units of reports.

        Args:
            percentile: of the chips' scores, such as 5, which is then there too, with its interval.

        Raises:
            InputError: if pandas is not installed, or the percentile is not between 0 and 100.
        """
        rows = []
        for each, front in zip(self.measured, self.front, strict=True):
            row: dict[str, Any] = dict(each.candidate.typed)
            point = each.point
            if each.sweep is not None and point is not None:
                row |= {
                    "metric": point.metric,
                    **dict(zip(("value", "low", "high"), each.score or (), strict=True)),
                }
                row |= {"clean": each.sweep.judge.shown(point.clean), "chips": len(point.chips)}
                if percentile is not None:
                    found = each.percentile(percentile) or (None, None, None)
                    row |= dict(
                        zip(("percentile", "percentile_low95", "percentile_high95"), found, strict=True)
                    )
            costs = {"energy_J": "energy", "latency_s": "latency", "area_m2": "area"}
            row |= {column: each.cost_of(name) for column, name in costs.items()}
            rows.append(row | {"front": front, "impossible": each.candidate.impossible})
        return data_frame(rows)

    def plot(self, path: str | None = None, ax: "Axes | None" = None) -> "Figure":
        """Scores with 95 % intervals against the cost, and the front; written where a path is given.

        Args:
            path: of the file, .png, .pdf or .svg; None: no file.
            ax: axes of a figure of yours, instead of a new figure.
        """
        figure: Figure = crossbar_sim.draw_trade_off(self, path, ax=ax)
        return figure

    def __repr__(self) -> str:
        metric = next(each.point.metric for each in self.measured if each.point is not None)
        return (
            f"TradeOff({' x '.join(self.names)}: {len(self.measured)} combinations, {sum(self.front)} on the front of "
            f"{metric.removeprefix('-')} against {self.against})"
        )

    def _repr_html_(self) -> str:
        return str(crossbar_sim.notebook_html(self))


def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Whether the (score, cost) of a is nowhere worse than that of b, and somewhere better."""
    return a[0] >= b[0] and a[1] <= b[1] and a != b


def check_against(cost: str) -> str:
    """Refuse what is not a cost.

    Raises:
        InputError: naming those that there are.
    """
    if cost not in COSTS:
        raise InputError(unknown("against: the cost", cost, COSTS))
    return cost


def tradeoff(
    model: nn.Module,
    data: Any = None,
    hardware: Design | str | os.PathLike[str] | Mapping[str, Any] | None = None,
    vary: Mapping[str, Any] | None = None,
    *,
    technology: Technology | str | os.PathLike[str] | None = None,
    against: str = "energy",
    chips: SupportsIndex | Iterable[SupportsIndex] | None = None,
    half_width: float | None = None,
    seed: int = 0,
    metric: str | Callable[[Tensor, Tensor], Any] | None = None,
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    results: Results | str | os.PathLike[str] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    class_axis: int | None = None,
    calibrate: str | Calibration | None = None,
    calibration_data: Any = None,
    device: str | torch.device | Device | None = None,
    progress: Progress | None = None,
) -> TradeOff:
    """Compare designs: the score of a model against the energy, latency and area of one inference (docs/cost.md).

    Every combination of the values is evaluated on chips at the sigma of its drift law, with converter ranges of its
    own, and its cost is estimated. One technology has all of them, so that ADCs of all widths come from one model.

    Args:
        model: trained; it is left in evaluation mode.
        data, hardware, chips, half_width, seed, metric, only, skip, results, workers, scheduler, class_axis, device: as
            for `sweep`, which see.
        vary: parameter of the design -> values, such as {"adc_bits": [4, 6, 8], "tile": ["64x64", "128x128"]} or
            {"adc_bits": "4:8", "sigma": "0:0.4:5"}.
        technology: "isaac", "prime", or the path of a .toml file; None: that of a preset `hardware`, else "isaac".
        against: the cost that the front is of: "energy", "latency" or "area".
        calibrate: a digital correction of each chip, such as "lora:rank=4" (docs/methods.md); None: none.
        calibration_data: what converter ranges and `calibrate` are fitted to: `Development`, {"train": ...,
            "validation": ...}, or a data set's name or path; None: the training images of a data set that `data` names.
        progress: called with (done, total, what); None: a line in notebooks, nothing elsewhere.

    Raises:
        InputError: if model, data and a design do not go together, or nothing is varied.

    >>> from crossbar_sim.nn.networks import build
    >>> mlp = build("mlp", inputs=64, hidden=(8,), classes=10)
    >>> tradeoff(mlp, "digits", vary={"levels": [4, 16]}, chips=2)
    TradeOff(levels: 2 combinations, 1 on the front of accuracy against energy)
    """
    if device is not None:
        device = Device.of(device)
    progress = progress or crossbar_sim.notebook_progress()
    base = as_design(hardware)
    if not isinstance(vary, Mapping):
        raise InputError('vary: expected parameters with their values, such as {"adc_bits": [4, 6, 8]}')
    found = candidates(base, [Choice.given(name, values) for name, values in vary.items()])
    if not isinstance(technology, Technology):
        own = hardware if isinstance(hardware, str) and hardware in technology_names() else "isaac"
        technology = read_technology(technology or own)
    (given,) = models_from(model, data)
    loaded = LoadedModel(model.eval(), "module in memory", "", given.label)
    correction = None
    if calibrate is not None:
        correction = calibration_of(calibrate, calibration_data, data)
    selected, left_out = None if only is None else patterns(only), patterns(skip)

    def ranged(design: Design) -> Design:
        images = data if calibration_data is None else calibration_data
        return with_ranges(model, design, images, seed, selected, left_out)

    with opened(results) as file:
        result = measure_candidates(
            loaded, replace(given, calibration=correction), found, technology, ranged,
            against=check_against(against), plan=plan_from(chips, half_width, None), seed=seed, metric=metric,
            only=selected, skip=left_out, axis=class_axis, results=file, workers=workers, scheduler=scheduler,
            device=device, progress=progress,
        )  # fmt: skip
    warn(result.cautions)
    return result


def measure_candidates(
    loaded: LoadedModel,
    model: Model,
    found: Sequence[Candidate],
    technology: Technology,
    ranged: Callable[[Design], Design],
    *,
    against: str,
    plan: Plan,
    seed: int,
    metric: str | Callable[[Tensor, Tensor], Any] | None,
    only: tuple[str, ...] | None,
    skip: tuple[str, ...],
    axis: int | None,
    results: Results,
    workers: int | None = None,
    scheduler: str | None = None,
    device: str | torch.device | Device | None = None,
    progress: Progress | None = None,
) -> TradeOff:
    """Score and cost of every combination, each at the sigma of its drift law.

    Args:
        loaded, model: the model, and the same with its examples.
        found: of `candidates`.
        technology: one for all: so ADCs of all resolutions come from one model of converters.
        ranged: gives a design with converter ranges.
        against: of the result.
        plan: which chips, on which images.
        results: where each combination is a task: what is there is not measured again.
        progress: called with (done, total, what).
        seed, metric, only, skip, axis, workers, scheduler, device: as for `robustness`, checked.

    Raises:
        InputError: if model, examples and a design do not go together.
    """
    check_workers(workers, scheduler, metric)
    done: list[Measured] = []
    notes: dict[str, None] = {}
    with executors(results, workers, scheduler, progress) as executor:
        for i, candidate in enumerate(found):
            if candidate.design is None:
                done.append(Measured(candidate))
                continue
            label, place = candidate.label, i

            def step(now: int, total: int, what: str, label: str = label, place: int = place) -> None:
                if progress is not None:
                    progress(place * total + now, len(found) * total, label)

            try:
                with silenced_warnings():
                    works, said = works_of(loaded, candidate.design, model.examples.x, only, skip)
                    estimate = Estimate.of(works, technology, said)
                    design = ranged(candidate.design)
                    of_it = replace(model, label=candidate.curve or model.label, ranges=design.ranges)
                    fixed, sigma = _at_one_sigma(design)
                    sweep = measured(
                        [of_it], fixed, check_sigmas([sigma]), plan, results, executor,
                        seed=seed, metric=metric, only=only, skip=skip, axis=axis, device=device, progress=step,
                    )  # fmt: skip
            except InputError as error:
                raise InputError(f"{label}: {error}") from error
            notes |= dict.fromkeys(estimate.notes)
            done.append(Measured(candidate, sweep, estimate.total))
    names = tuple(found[0].values)
    cautions = (*_idle(names, done), *_warnings(done))
    notes = {note: None for note in notes if note not in cautions}
    return TradeOff(names, tuple(done), technology, against, tuple(notes), cautions)


def _at_one_sigma(design: Design) -> tuple[Design, float]:
    """A design that a sweep of one sigma evaluates as it is, and that sigma: of its drift law.

    A law without sigma becomes that of a design per layer, which no sweep changes.
    """
    base = design.base if isinstance(design, LayerDesigns) else design
    drift: Any = base.drift
    if drift is None or any(f.name == "sigma" for f in fields(drift)):
        return design, 0.0 if drift is None else float(drift.sigma)
    whole = design.each(lambda one: one).layers if isinstance(design, LayerDesigns) else ()
    rest = () if any(pattern == REST for pattern, _ in whole) else ((REST, base),)
    return LayerDesigns(replace(base, drift=None), (*whole, *rest), design.ranges), 0.0


def _warnings(done: Iterable[Measured]) -> Iterator[str]:
    """The warnings of the combinations, each once, with the combinations where they are not of all."""
    whose: dict[str, list[str]] = {}
    tails: list[str] = []
    there = [each for each in done if each.sweep is not None]
    for each in there:
        assert each.sweep is not None
        for sentence in dict.fromkeys(s for task in each.sweep.tasks.values() for s in warnings_of(task)):
            whose.setdefault(sentence, []).append(each.candidate.label)
        if each.point is not None and each.point.caution is not None:
            tails.append(each.candidate.label)
    for sentence, labels in whose.items():
        yield sentence if len(labels) == len(there) else f"{_listed(labels)}: {sentence}"
    if tails:
        yield (
            f"{_listed(tails)}: a few chips lie far from the others, so that the 95 % interval of the mean is not "
            "exact; measure more chips"
        )


def _listed(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - 3} more" if len(labels) > 3 else ""
    return ", ".join(labels[:3]) + more


def _idle(names: Sequence[str], done: Iterable[Measured]) -> Iterator[str]:
    """Warnings for parameters whose values change neither a score nor a cost."""
    for name in names:
        groups: dict[tuple[str, ...], set[Any]] = {}
        several: dict[tuple[str, ...], int] = {}
        for each in done:
            if each.point is None:
                continue
            others = tuple(text for key, text in each.candidate.values.items() if key != name)
            costs = tuple(map(each.cost_of, COSTS))
            groups.setdefault(others, set()).add((each.point.values, costs))
            several[others] = several.get(others, 0) + 1
        if max(several.values()) > 1 and all(len(group) == 1 for group in groups.values()):
            yield f"{name} was varied but changes no score and no cost of this model on this design"
