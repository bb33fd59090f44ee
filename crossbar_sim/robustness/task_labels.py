"""What the tasks of a file are called: those of one label by what differs between them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crossbar_sim.store.records import Task, canonical

MOST, LONGEST = 3, 24
"""Differences that a label may name, and characters of each; beyond that the task's id tells more."""

_UNTOLD = ("model", "fingerprint")
"""Keys whose values are hashes."""


def labels_of(tasks: Sequence[Task]) -> list[str]:
    """The tasks' labels; those that occur twice, as after two sweeps into one file, with what differs.

    "erm (all images)" and "erm (images drawn)"; "erm (levels 16)"; with the beginning of the id where no few words
    tell tasks apart.
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
        told = [list(_words([task.identity for task in members], i)) for i in range(len(members))]
        names = [f"{label} ({', '.join(words)})" for words in told]
        short = all(words and len(words) <= MOST and max(map(len, words)) <= LONGEST for words in told)
        if not short or len(set(names)) < len(names) or taken & set(names):
            names = [f"{label} [{task.id[:6]}]" for task in members]
        taken |= set(names)
        called |= {task.id: name for task, name in zip(members, names, strict=True)}
    return [called[task.id] for task in tasks]


def _words(identities: Sequence[Any], which: int, key: str = "") -> Iterator[str]:
    """What is special of one of several values that lie under one key."""
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
    """How many images were asked for; the rest of a plan follows from that and from the model."""
    mine = taken[which]
    if len({canonical(value.get("drawn")) for value in taken}) > 1:
        yield "images drawn" if mine.get("drawn") else "all images"
    for name, unit in (("count", "images"), ("half", "half-width")):
        values = [value.get(name) for value in taken if name == "count" or value.get("drawn")]
        if len({canonical(value) for value in values}) > 1 and name in mine:
            yield f"{mine[name]} {unit}"
