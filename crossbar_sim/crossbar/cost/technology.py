"""Energy, area and delay of components, with the source of every number, read from constants.toml."""

import math
import os
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from crossbar_sim.crossbar.configuration import read_table
from crossbar_sim.errors import InputError
from crossbar_sim.validate import finite, require, show, unknown

# Energy and area of one conversion: a regression over Murmann's survey of published converters.
#
# B. Murmann, "ADC Performance Survey 1997-2023". The coefficients are those of the Accelergy ADC plug-in (MIT
# licence), adc_data/model.yaml. They follow the frontier of the survey: the best published converters, not typical
# ones.


LEAST_BITS = 4
"""The survey has no converters of fewer bits: their energy is taken as proportional to the number of bits."""


def conversion_energy(bits: int, node: float, rate: float) -> float:
    """Energy of one conversion in J.

    Args:
        bits: resolution; below 4, bits / 4 of the energy of 4 bits (one comparison per bit).
        node: of the process, in m.
        rate: conversions per second.

    Raises:
        InputError: unless the node is in 5 .. 500 nm and the rate in 1e3 .. 1e11 per second.
    """
    require(5e-9 <= node <= 500e-9, f"node={node:g} m: the survey's regression holds for 5e-9 .. 500e-9 m")
    require(1e3 <= rate <= 1e11, f"rate={rate:g} conversions per second: the survey has 1e3 .. 1e11")
    b = max(bits, LEAST_BITS)
    merit = min(213.7807 - 2.8719 * math.log(rate), 128.307 + 3.22051 * math.ceil(b))  # Schreier's, in dB
    noise = 6.0206 * b + 1.7609  # signal to noise and distortion of b ideal bits, in dB
    scaled = math.exp(26.0496 + 1.88004 * math.log(node * 1e9) - 2.82913 * math.log(b) - 1.47020)
    return scaled / (2 * 10 ** ((merit - noise) / 10)) * 1e-12 * bits / b


def converter_area(bits: int, node: float, rate: float) -> float:
    """Area of one converter in m2; see `conversion_energy`."""
    energy = conversion_energy(bits, node, rate) * 1e12
    terms = 0.99328 * math.log(node * 1e9) + 0.18072 * math.log(rate) + 0.29912 * math.log(energy) + 1.34619
    return math.exp(terms) * 1e-12


@dataclass(frozen=True)
class Constant:
    """One number in SI units and its source."""

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
        published: the constants before any of them was replaced; its converter is what the survey is scaled to.
    """

    name: str
    title: str
    constants: tuple[Constant, ...]
    survey: str
    published: tuple[Constant, ...] = ()

    def __getitem__(self, name: str) -> float:
        """The value of a constant, in its SI unit."""
        return next(c.value for c in self.constants if c.name == name)

    def replaced(self, name: str, value: float, source: str) -> "Technology":
        """The technology with one number replaced."""
        changed = tuple(
            Constant(name, value, c.unit, source) if c.name == name else c for c in self.constants
        )
        return Technology(self.name, self.title, changed, self.survey, self.published or self.constants)

    @property
    def as_published(self) -> dict[str, float]:
        """Constant -> its value before any was replaced."""
        return {c.name: c.value for c in self.published or self.constants}


def technology_names() -> tuple[str, ...]:
    """The names that `technology` takes."""
    return tuple(name for name, table in _tables().items() if "title" in table)


def technology(name: str | os.PathLike[str]) -> Technology:
    """The technology called `name`, or that of a .toml file.

    Raises:
        InputError: if there is none, naming those that there are, or the file is not one.
    """
    tables = _tables()
    if not isinstance(name, str) or name.lower().endswith(".toml"):
        return _of_file(name)
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


def _of_file(path: str | os.PathLike[str]) -> Technology:
    """A technology of the user's own: a title, a base, and tables [constant] with value, unit and source."""
    table, source = read_table(path)
    base = technology(table.pop("base", "isaac"))
    known = {c.name: c for c in base.constants}
    title = table.pop("title", None)
    require(isinstance(title, str), f"{source}: title={show(title)}: a text is needed")
    constants = dict(known)
    for name, entry in table.items():
        if name not in known:
            raise InputError(unknown(f"{source}: the constant", name, known))
        given = set(entry) if isinstance(entry, dict) else set()
        require(
            given == {"value", "unit", "source"},
            f"{source}: {name}={show(entry)}: a table with value, unit and source is needed, and nothing else",
        )
        value, unit, cited = entry["value"], entry["unit"], entry["source"]
        low, high = _RANGES.get(name, (0.0, math.inf))
        require(
            finite(value) and value >= 0 and low <= value <= high,
            f"{source}: {name}.value={show(value)}: expected a number of {low:g} .. {high:g} {known[name].unit}",
        )
        require(
            unit == known[name].unit,
            f"{source}: {name}.unit={show(unit)}: the value is in {known[name].unit!r}; convert it",
        )
        require(
            isinstance(cited, str) and bool(cited.strip()), f"{source}: {name}.source: say where it is from"
        )
        constants[name] = Constant(name, float(value), unit, cited)
    found = {name: c.value for name, c in constants.items()}
    if found["adc_bits"]:
        require(found["adc_rate"] > 0, f"{source}: adc_rate is 0: the converter at adc_bits has a rate")
    return Technology(Path(path).stem, title, tuple(constants.values()), base.survey)


_RANGES = {"node": (5e-9, 500e-9), "cycle": (1e-10, 1e-3), "adc_bits": (0.0, 32.0)}
"""Of the values that a file may give, in SI units; others are not negative."""
