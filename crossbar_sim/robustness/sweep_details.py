"""Which of the details that a file holds of several models a report shows: measured alike, as far as they are."""

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

_NUMBER = re.compile(r"=([^ ]+)")


def alike(details: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
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
