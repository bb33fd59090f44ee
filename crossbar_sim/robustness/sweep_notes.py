"""What a sweep's tasks tell beside their numbers: notes on models and data, and what may not mean what it seems to."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crossbar_sim.robustness.point import Point
from crossbar_sim.store.records import Task


def notes_of(task: Task) -> list[str]:
    """How the model's file and its data were taken."""
    return [*_texts(task.about.get("loading")), *_texts(task.about.get("notes"))]


def warnings_of(task: Task) -> list[str]:
    """What was asked for and cannot act, and what the score may not mean."""
    return _texts(task.about.get("warnings"))


def told(tasks: Mapping[str, Task]) -> Iterator[tuple[str, str]]:
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
