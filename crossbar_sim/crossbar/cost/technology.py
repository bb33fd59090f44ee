"""Energy, area and delay of components, with the source of every number, read from constants.toml."""

import math
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from crossbar_sim.errors import InputError
from crossbar_sim.validate import require, unknown

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
    """The names that `technology` takes."""
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
