"""The results of a sweep: scores of models over sigmas and chips, with intervals."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

import crossbar_sim
from crossbar_sim.errors import InputError
from crossbar_sim.robustness.comparisons import Paired, adjusted, paired
from crossbar_sim.robustness.curves import Crossing, area, crossing
from crossbar_sim.robustness.metrics import Metric, described
from crossbar_sim.robustness.point import Point
from crossbar_sim.robustness.statistics import Interval
from crossbar_sim.store.records import APART, Task, canonical
from crossbar_sim.store.results import Results
from crossbar_sim.tables import data_frame
from crossbar_sim.validate import unknown

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# The details of several models that a report shows: those with the same settings, where there are any.


_NUMBER = re.compile(r"=([^ ]+)")


def comparable_details(details: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Label -> kind -> one detail of that kind: the settings that most models share, then those with the largest sigma.

    Args:
        details: label -> name in the file, such as "sensitivity sigma=0.6 chips=5" -> content.
    """
    shared = Counter(_settings(name) for names in details.values() for name in names)
    found: dict[str, dict[str, Any]] = {}
    for label, names in details.items():
        ordered = sorted(names, key=lambda name: (shared[_settings(name)], *_settings(name)[1:], name))
        found[label] = {_settings(name)[0]: names[name] for name in ordered}
    return found


def _settings(name: str) -> tuple[str, tuple[float, ...]]:
    """(kind, its numbers): ("sensitivity", (0.6, 5.0))."""
    kind, _, rest = name.partition(" ")
    try:
        return kind, tuple(float(number) for number in _NUMBER.findall(rest))
    except ValueError:
        return kind, ()


# Notes and warnings of the tasks of a sweep.


def notes_of(task: Task) -> list[str]:
    """How the model's file and its data were taken."""
    return [*_texts(task.about.get("loading")), *_texts(task.about.get("notes"))]


def computed_on(devices: Sequence[str]) -> str:
    """A sentence on where chips were computed."""
    together = "" if len(devices) < 2 else f"; {APART} (docs/gpu.md)"
    return f"computed on {' and '.join(devices)}{together}"


def warnings_of(task: Task) -> list[str]:
    """Effects that were requested and do not act, and scores that say little."""
    return _texts(task.about.get("warnings"))


WORK = "multiply_adds"
"""Of what a task is about: how many of the multiply-adds run on arrays, as `ArrayShare.as_dict`."""


def share_on_arrays(task: Task) -> float | None:
    """The share of the multiply-adds that runs on arrays; None where the file does not have it."""
    found = task.about.get(WORK)
    share = found.get("share_on_arrays") if isinstance(found, Mapping) else None
    return share if isinstance(share, float) and 0 <= share <= 1 else None


def notes_and_warnings(tasks: Mapping[str, Task]) -> Iterator[tuple[str, str]]:
    """("note" or "warning", sentence) of all tasks, each once; begun with the labels where it is not of all."""
    for kind, of in (("note", notes_of), ("warning", warnings_of)):
        whose: dict[str, list[str]] = {}
        for label, task in tasks.items():
            for sentence in dict.fromkeys(of(task)):
                whose.setdefault(sentence, []).append(label)
        for sentence, labels in whose.items():
            yield kind, sentence if len(labels) == len(tasks) else f"{', '.join(labels)}: {sentence}"


def tails(curves: Mapping[str, Sequence[Point]]) -> Iterator[str]:
    """For every model whose chips' scores have a long tail: where, and the sentence of the first such sigma."""
    for label, points in curves.items():
        found = [point for point in points if point.caution is not None]
        if found:
            sigmas = ", ".join(f"{point.sigma:g}" for point in found[:8]) + (
                ", ..." if len(found) > 8 else ""
            )
            first = "" if len(found) == 1 else f"; at {found[0].sigma:g}"
            yield f"{label}, sigma {sigmas}{first}: {found[0].caution}"


def _texts(value: Any) -> list[str]:
    """The sentences of a list that a file may hold anything in place of."""
    return [item for item in value if isinstance(item, str)] if isinstance(value, list) else []


# Labels of the tasks of a file: tasks with the same label are named by their differences.


MOST, LONGEST = 3, 24
"""Differences that a label may name, and characters of each; otherwise the label shows the task's id."""

_UNTOLD = ("model", "fingerprint")
"""Keys whose values are hashes."""


def labels_of(tasks: Sequence[Task]) -> list[str]:
    """The tasks' labels; those that occur twice, as after two sweeps into one file, with what differs.

    "erm (all images)" and "erm (images drawn)"; "erm (levels 16)"; with the beginning of the id where a few words
    cannot distinguish the tasks.
    """
    groups: dict[str, list[Task]] = {}
    for task in tasks:
        groups.setdefault(task.label, []).append(task)
    taken = set(groups)
    called: dict[str, str] = {}
    for label, members in groups.items():
        if len(members) == 1:
            called[members[0].id] = label
            continue
        differences = [list(_words([task.identity for task in members], i)) for i in range(len(members))]
        names = [f"{label} ({', '.join(words)})" for words in differences]
        short = all(words and len(words) <= MOST and max(map(len, words)) <= LONGEST for words in differences)
        if not short or len(set(names)) < len(names) or taken & set(names):
            names = [f"{label} [{task.id[:6]}]" for task in members]
        taken |= set(names)
        called |= {task.id: name for task, name in zip(members, names, strict=True)}
    return [called[task.id] for task in tasks]


def _words(identities: Sequence[Any], which: int, key: str = "") -> Iterator[str]:
    """How one of several values of one key differs from the others."""
    if len({canonical(value) for value in identities}) == 1 or key in _UNTOLD:
        return
    if key == "images" and all(isinstance(value, Mapping) for value in identities):
        yield from _images(identities, which)
    elif all(isinstance(value, Mapping) for value in identities):
        for name in sorted({name for value in identities for name in value}):
            yield from _words([value.get(name) for value in identities], which, name)
    else:
        value = identities[which]
        if value is None or value is False or value == []:
            yield f"no {key}"
        elif value is True or isinstance(value, Mapping):
            yield key
        else:
            yield f"{key} {value if isinstance(value, str | int | float) else canonical(value)}"


def _images(taken: Sequence[Mapping[str, Any]], which: int) -> Iterator[str]:
    """The requested number of images; the rest of a plan follows from that and from the model."""
    mine = taken[which]
    if len({canonical(value.get("drawn")) for value in taken}) > 1:
        yield "images drawn" if mine.get("drawn") else "all images"
    for name, unit in (("count", "images"), ("half", "half-width")):
        values = [value.get(name) for value in taken if name == "count" or value.get("drawn")]
        if len({canonical(value) for value in values}) > 1 and name in mine:
            yield f"{mine[name]} {unit}"


_PAIRED = ("seed", "stream", "data", "metric", "metric_source")
"""Of an identity: what two tasks have in common where chip i of one is chip i of the other, and so is its score."""


@dataclass(frozen=True, eq=False)
class Sweep:
    """Scores of models over sigmas and chips.

    Args:
        tasks: one for each label, in the order of the models.
        curves: label -> points, by ascending sigma.
        details: label -> what else is known: "sensitivity", "conductances".
    """

    tasks: Mapping[str, Task]
    curves: Mapping[str, tuple[Point, ...]]
    details: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(
        cls,
        results: Results,
        tasks: Mapping[str, str] | None = None,
        chips: Iterable[int] | None = None,
        sigmas: Iterable[float] | None = None,
    ) -> "Sweep":
        """Take a sweep out of a results file.

        Args:
            results: open.
            tasks: ids, and what to call them; None: all, by the labels of the file.
            chips, sigmas: only these, where the file holds more; None: all.

        Raises:
            InputError: if nothing is left.
        """
        numbers = None if chips is None else frozenset(chips)
        places = None if sigmas is None else frozenset(sigmas)
        there = {task.id: task for task in results.tasks()}
        if tasks is None:
            named = dict(zip(labels_of(list(there.values())), there.values(), strict=True))
        else:
            named = {label: there[id_] for id_, label in tasks.items() if id_ in there}
        if not named:
            raise InputError(f"{results.path} holds no results: run crossbar-sim sweep first")
        curves, details = {}, {}
        for label, task in named.items():
            trials = [
                trial
                for trial in results.trials(task.id)
                if (numbers is None or trial.chip in numbers) and (places is None or trial.sigma in places)
            ]
            curves[label] = Point.of_trials(label, task, trials)
            devices = results.devices(task.id)
            if devices:
                notes = [*_texts(task.about.get("notes")), computed_on(devices)]
                named[label] = replace(task, about={**task.about, "notes": notes})
            kept = results.details(task.id).items()
            details[label] = {name: content for name, content in kept if not name.startswith("device ")}
        return cls(named, curves, comparable_details(details))

    @property
    def labels(self) -> tuple[str, ...]:
        """The models' names."""
        return tuple(self.curves)

    @property
    def metric(self) -> str:
        """The metric by which chips are judged.

        Raises:
            InputError: if the tasks of a file differ in it.
        """
        metrics = {task.metric for task in self.tasks.values()}
        if len(metrics) != 1:
            each = "; ".join(
                f"{metric} of {', '.join(label for label, task in self.tasks.items() if task.metric == metric)}"
                for metric in sorted(metrics)
            )
            raise InputError(
                f"these results are of several metrics ({each}), which do not go on one scale: name models of one "
                "metric (report --models)"
            )
        return metrics.pop()

    @property
    def judge(self) -> Metric:
        """The metric as reports know it.

        Raises:
            InputError: if the tasks of a file differ in it.
        """
        declared = [task.about.get("metric") for task in self.tasks.values()]
        return described(self.metric, next((each for each in declared if isinstance(each, Mapping)), None))

    def curve(self, label: str) -> tuple[Point, ...]:
        """The points of one model.

        Raises:
            InputError: if there is no such model, naming the closest one.
        """
        if label not in self.curves:
            raise InputError(unknown("the model", label, self.labels))
        return self.curves[label]

    def summary(self, threshold: float | None = None) -> list[dict[str, Any]]:
        """One plain dictionary per model and sigma: mean, interval, spread, quantiles; yield at a threshold."""
        return [point.as_dict(threshold) for points in self.curves.values() for point in points]

    def as_dict(self, threshold: float | None = None, percent: float | None = None) -> dict[str, Any]:
        """Everything as plain numbers for JSON; no times and no paths: the same trials give the same bytes."""
        models = []
        for label, task in self.tasks.items():
            whole = self.area(label)
            models.append(
                {
                    "label": label,
                    "task": task.id,
                    "clean": task.clean,
                    "notes": notes_of(task),
                    "warnings": warnings_of(task),
                    "identity": task.identity,
                    "area": None if whole is None else asdict(whole),
                    "points": [point.as_dict(threshold, percent) for point in self.curves[label]],
                    "crossing": self._crossing_dict(label, threshold),
                }
            )
        first, *others = self.labels
        paired = [
            {"a": first, "b": other, "sigma": sigma, **asdict(found)}
            for other in others
            if not self.not_paired(first, other)
            for sigma, found in self.paired(first, other)
        ]
        apart = [
            {"a": first, "b": other, "differ": list(self.not_paired(first, other))}
            for other in others
            if self.not_paired(first, other)
        ]
        return {"metric": self.metric, "models": models, "paired": paired, "not_paired": apart}

    def _crossing_dict(self, label: str, threshold: float | None) -> dict[str, Any] | None:
        found = None if threshold is None else self.crossing(label, threshold)
        return None if found is None else asdict(found)

    def scores(
        self, label: str, sigmas: Iterable[float] | None = None
    ) -> tuple[tuple[float, ...], tuple[int, ...], np.ndarray]:
        """(sigmas, chips, scores (chips, sigmas)) of the chips that every sigma has: curves are over those.

        Where an interval budget found nothing random (sigma 0), the few chips measured there are all chips.

        Args:
            label: of a model.
            sigmas: only these of its sigmas; None: all.
        """
        wanted = None if sigmas is None else frozenset(sigmas)
        points = [p for p in self.curve(label) if wanted is None or p.sigma in wanted]
        alone = {p.sigma for p in points if self.tasks[label].drawn and not p.drawn}
        counting = [p for p in points if p.sigma not in alone] or points
        shared = sorted(set.intersection(*(set(p.chips) for p in counting))) if points else []
        columns = [
            dict.fromkeys(shared, p.values[0])
            if p.sigma in alone and counting is not points
            else dict(zip(p.chips, p.values, strict=True))
            for p in points
        ]
        table = np.array([[column[chip] for column in columns] for chip in shared], dtype=np.float64)
        return tuple(p.sigma for p in points), tuple(shared), table.reshape(len(shared), len(points))

    def paired(self, a: str, b: str) -> tuple[tuple[float, Paired], ...]:
        """Score of `a` minus score of `b` on the same chips, per sigma that both have; p-values by Holm.

        Raises:
            InputError: if a model is unknown, they were measured on other chips or data (see `unlike`), or they share
                no chip at any sigma.
        """
        apart = self.unlike(a, b)
        if apart:
            raise InputError(
                f"{a} and {b} were not measured alike ({' and '.join(apart)} differ): a paired comparison takes the "
                "same chips on the same data"
            )
        both = {p.sigma: p for p in self.curve(b)}
        pairs = [(p, both[p.sigma]) for p in self.curve(a) if p.sigma in both]
        found: list[tuple[float, Paired]] = []
        for first, second in pairs:
            chips = sorted(set(first.chips) & set(second.chips))
            left, right = (dict(zip(p.chips, p.values, strict=True)) for p in (first, second))
            if chips:
                unseen = first.unseen(len(chips)) + second.unseen(len(chips))
                compared = _compared([left[c] for c in chips], [right[c] for c in chips], unseen)
                found.append((first.sigma, compared))
        if not found:
            raise InputError(f"{a} and {b} share no chip at any sigma: there is nothing to compare")
        family = adjusted([compared for _, compared in found])
        return tuple(zip([sigma for sigma, _ in found], family, strict=True))

    def unlike(self, a: str, b: str) -> tuple[str, ...]:
        """Why chip i of two models cannot be compared: what differs of "seed", "stream", "data" and "metric".

        Chip i of another seed or stream is another chip, and on other data a difference is one of the data too.
        A difference of designs does not hinder: there chip i has the same random numbers. One model on one design,
        measured twice, on other "images", has nothing to compare.

        Raises:
            InputError: if a model is unknown.
        """
        for label in (a, b):
            self.curve(label)
        first, second = self.tasks[a].identity, self.tasks[b].identity
        differ = tuple(key for key in first.keys() | second.keys() if not _same(first, second, key))
        return ("images",) if differ == ("images",) else tuple(key for key in _PAIRED if key in differ)

    def not_paired(self, a: str, b: str) -> tuple[str, ...]:
        """Why `paired` would refuse: as `unlike`, or "sigmas" or "chips" where they have none in common; else ().

        Raises:
            InputError: if a model is unknown.
        """
        if apart := self.unlike(a, b):
            return apart
        first, second = ({p.sigma: {*p.chips} for p in self.curve(label)} for label in (a, b))
        if not first.keys() & second.keys():
            return ("sigmas",)
        return () if any(first[s] & second[s] for s in first.keys() & second.keys()) else ("chips",)

    def unseen(self, label: str, sigmas: Iterable[float], chips: int, level: float = 0.95) -> np.ndarray:
        """(sigmas,): what the rule of three adds to squares of half-widths over so many chips; see `Point.unseen`."""
        points = {p.sigma: p for p in self.curve(label)}
        return np.array([points[sigma].unseen(chips, level) for sigma in sigmas])

    def area(self, label: str) -> Interval | None:
        """Mean score over the sigmas (area under the curve over its width), with its interval over chips."""
        sigmas, chips, table = self.scores(label)
        unseen = self.unseen(label, sigmas, max(len(chips), 1))
        return area(sigmas, table, unseen=unseen) if len(sigmas) > 1 and len(chips) else None

    def crossing(self, label: str, threshold: float) -> Crossing | None:
        """The sigma at which the mean score falls below a threshold, with its interval."""
        sigmas, chips, table = self.scores(label)
        unseen = self.unseen(label, sigmas, max(len(chips), 1))
        return crossing(sigmas, table, threshold, unseen=unseen) if len(sigmas) > 1 and len(chips) else None

    def to_dataframe(self) -> "pandas.DataFrame":
        """One row per trial: label, metric, sigma, chip, value, images, variance, seconds.

        Raises:
            InputError: if pandas is not installed.
        """
        rows = [
            {
                "label": label, "metric": point.metric, "sigma": trial.sigma, "chip": trial.chip,
                "value": trial.value, "images": trial.images, "variance": trial.variance,
                "seconds": trial.seconds,
            }
            for label, points in self.curves.items()
            for point in points
            for trial in point.trials
        ]  # fmt: skip
        return data_frame(rows)

    def plot(self, path: str | None = None, ax: "Axes | None" = None) -> "Figure":
        """Robustness curves with 95 % bands; written where a path (.png, .pdf, .svg) is given.

        Args:
            path: of the file; None: no file.
            ax: axes of a figure of yours, instead of a new figure.
        """
        figure: Figure = crossbar_sim.draw_curves(self, path, ax=ax)
        return figure

    def __repr__(self) -> str:
        sigmas = sorted({point.sigma for points in self.curves.values() for point in points})
        chips = max((len(point.chips) for points in self.curves.values() for point in points), default=0)
        over = (
            f"sigma {sigmas[0]:g} to {sigmas[-1]:g} ({len(sigmas)}), {chips} chips"
            if sigmas
            else "no trials yet"
        )
        shown = ", ".join(self.labels[:MOST]) + ", ..." * (len(self.labels) > MOST)
        return f"Sweep({shown}: {over})"

    def _repr_html_(self) -> str:
        return str(crossbar_sim.notebook_html(self))


def _compared(a: list[float], b: list[float], unseen: float) -> Paired:
    """As `paired`, but without a p-value where nothing is random: n chips that are one chip prove no more than one."""
    found = paired(a, b, unseen=unseen)
    return replace(found, p_value=None) if len({*a}) == len({*b}) == 1 else found


def _same(first: Mapping[str, Any], second: Mapping[str, Any], key: str) -> bool:
    return canonical(first.get(key)) == canonical(second.get(key))
