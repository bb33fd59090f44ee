"""What components cost, with the source of every number: constants.toml, read."""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from crossbar_sim.crossbar.checks import unknown
from crossbar_sim.errors import InputError


@dataclass(frozen=True)
class Constant:
    """One number in SI units, and where it is from."""

    name: str
    value: float
    unit: str
    source: str


@dataclass(frozen=True)
class Technology:
    """The constants of one published design.

    Args:
        name: "isaac" or "prime".
        title: in words.
        constants: by name.
        survey: the source of converters that the design does not publish.
    """

    name: str
    title: str
    constants: tuple[Constant, ...]
    survey: str

    def __getitem__(self, name: str) -> float:
        """The value of a constant, in its SI unit."""
        return next(c.value for c in self.constants if c.name == name)

    def replaced(self, name: str, value: float, source: str) -> "Technology":
        """The technology with one number replaced."""
        changed = tuple(
            Constant(name, value, c.unit, source) if c.name == name else c for c in self.constants
        )
        return Technology(self.name, self.title, changed, self.survey)


def technology_names() -> tuple[str, ...]:
    """What `technology` takes."""
    return tuple(name for name, table in _tables().items() if "title" in table)


def technology(name: str) -> Technology:
    """The technology called `name`.

    Raises:
        InputError: if there is none, naming those that there are.
    """
    tables = _tables()
    if name not in technology_names():
        raise InputError(unknown("the technology", name, technology_names()))
    own = tables[name]
    merged = {**tables.get(own.get("base", ""), {}), **own}
    constants = tuple(
        Constant(key, float(entry["value"]), entry["unit"], entry["source"])
        for key, entry in merged.items()
        if isinstance(entry, dict)
    )
    return Technology(name, own["title"], constants, tables["survey"]["source"])


@cache
def _tables() -> dict[str, Any]:
    path = resources.files("crossbar_sim.crossbar.cost") / "constants.toml"
    return tomllib.loads(path.read_text("utf-8"))
