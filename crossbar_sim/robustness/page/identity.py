"""What was measured, on what, with what: the part of the page that makes a number repeatable."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from crossbar_sim.robustness.page import markup
from crossbar_sim.robustness.page.drawing import Subject
from crossbar_sim.robustness.page.look import law_of
from crossbar_sim.store.records import Task, canonical

FIRST = (
    "file",
    "command",
    "network",
    "parameters",
    "source",
    "data",
    "version",
    "torch",
    "notes",
    "warnings",
)
"""Keys of `Task.about` in the order in which they are shown; others follow by name."""

_LAWS = {
    "lognormal": "log-normal drift g exp(lambda), lambda ~ N(0, sigma²)",
    "gamma": "gamma drift",
    "relaxation": "relaxation",
    "measured_relaxation": "relaxation that depends on g",
}


_PARTS = {
    "programming": "programming noise",
    "stuck": "stuck cells",
    "wires": "wires",
    "dac": "DAC",
    "read_noise": "read noise",
    "adc": "ADC",
}
"""What a design may have beside its mapping and drift, in words."""


def design_words(identity: Mapping[str, Any]) -> str:
    """A task's design in one line; what a key means is in the full JSON."""
    hardware = identity.get("hardware")
    if not isinstance(hardware, Mapping):
        return "unknown"
    parts = []
    mapping = hardware.get("mapping")
    if isinstance(mapping, Mapping):
        parts.append(f"{mapping.get('kind')} mapping, {_microsiemens(mapping)}")
        if mapping.get("levels"):
            parts.append(f"{mapping['levels']} levels")
        if mapping.get("cell_bits"):
            parts.append(f"{mapping['cell_bits']} bits a cell")
        if mapping.get("copies") not in (None, 1):
            parts.append(f"{mapping['copies']} cells in parallel")
    kind, _ = law_of(identity)
    parts.append(f"{_LAWS.get(kind, f'{kind} drift')} per {hardware.get('drift_per', 'cell')}")
    for name, what in _PARTS.items():
        if hardware.get(name):
            parts.append(f"{what} {_inline(hardware[name])}")
    drifting = [name for name in ("bias", "normalisation", "other") if hardware.get(name) == "drifting"]
    if drifting:
        named = {"bias": "biases", "normalisation": "normalisation", "other": "all other parameters"}
        words = [named[name] for name in drifting]
        listed = " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
        parts.append(f"{listed} drift as well")
    return "; ".join(parts)


def images_words(identity: Mapping[str, Any]) -> str:
    """How examples were taken."""
    images = identity.get("images")
    if not isinstance(images, Mapping):
        return "unknown"
    count = images.get("count")
    shown = f"{count:,}" if isinstance(count, int) else str(count)
    if not images.get("drawn"):
        return f"the same {shown} examples on every chip"
    half = images.get("half")
    asked = f", until the mean is known to ± {100 * half:g} points" if isinstance(half, int | float) else ""
    return f"drawn for each chip by itself from {shown}{asked}"


def section(subject: Subject) -> str:
    """Everything that the results file says about the tasks."""
    tasks = subject.sweep.tasks
    shared = [(name, value) for name, value in _facts(subject) if value is not None]
    parts = [markup.tag("dl", *(_entry(name, value) for name, value in shared), class_="facts")]
    for label, task in tasks.items():
        rows = [_entry("task", task.id, code=True)]
        rows += [_entry(name, _plain(task.about[name]), code=name == "command") for name in _order(task)]
        own = [] if _same(subject, "hardware") else [_entry("design", design_words(task.identity))]
        full = markup.tag(
            "pre", markup.text(json.dumps(task.identity, indent=2, sort_keys=True, ensure_ascii=False))
        )
        parts += [
            markup.tag("h3", markup.text(subject.names.whole[label])),
            markup.tag("dl", *rows, *own, class_="facts"),
            markup.tag("details", markup.tag("summary", "Identity, as hashed (JSON)"), full),
        ]
    return "".join(parts)


def _facts(subject: Subject) -> Iterator[tuple[str, str | None]]:
    """What all tasks share, and where they differ."""
    identity = next(iter(subject.sweep.tasks.values())).identity
    for name, words in (("hardware", design_words), ("images", images_words)):
        title = {"hardware": "design", "images": "examples"}[name]
        yield title, words(identity) if _same(subject, name) else "differs between the models"
    data = identity.get("data")
    if isinstance(data, Mapping):
        known = ", ".join(f"{key} {_plain(data[key])}" for key in sorted(data) if data[key] is not None)
        yield "data", known if _same(subject, "data") else "differ between the models"
    for name, title in (
        ("seed", "seed of the chips"),
        ("stream", "random stream version"),
        ("metric", "metric"),
    ):
        if name in identity:
            yield title, _plain(identity[name]) if _same(subject, name) else "differs between the models"
    for name in ("only", "skip"):
        value = identity.get(name)
        yield f"layers: {name}", _plain(value) if value and _same(subject, name) else None


def _same(subject: Subject, key: str) -> bool:
    return len({canonical(task.identity.get(key)) for task in subject.sweep.tasks.values()}) == 1


def _order(task: Task) -> list[str]:
    known = [name for name in task.about if task.about[name] not in (None, "", [], {})]
    return sorted(known, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))


def _entry(name: str, value: str, code: bool = False) -> str:
    inside = markup.text(value)
    return markup.tag("dt", markup.text(name)) + markup.tag(
        "dd", markup.tag("code", inside) if code else inside
    )


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return "; ".join(map(str, value))
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _inline(part: object) -> str:
    if not isinstance(part, Mapping):
        return _plain(part)
    return ", ".join(f"{key} {_plain(value)}" for key, value in part.items() if value is not None)


def _microsiemens(mapping: Mapping[str, Any]) -> str:
    try:
        return f"{1e6 * float(mapping['g_min']):g} to {1e6 * float(mapping['g_max']):g} µS"
    except (KeyError, TypeError, ValueError):
        return _inline(mapping)
