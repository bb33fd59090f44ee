"""Published designs by name.

Their numbers and sources are in preset_files/*.toml; adding a file adds a preset.
"""

import os
import warnings
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Any

from crossbar_sim.crossbar.configuration import (
    OVERRIDES,
    SETS,
    build_part,
    check_conflicts,
    from_dict,
    load_hardware,
    override,
    parse_toml,
)
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.errors import CrossbarWarning, InputError
from crossbar_sim.validate import finite, require, show, unknown

__all__ = [
    "Choice",
    "Preset",
    "Range",
    "ValidityWarning",
    "design_given",
    "override",
    "preset",
    "preset_names",
]


class ValidityWarning(CrossbarWarning):
    """A value lies outside the range in which a preset's numbers were measured."""


@dataclass(frozen=True)
class Range:
    """Where a preset's numbers hold: `key` (such as "mapping.g_max") in low .. high, in `unit`."""

    key: str
    low: float
    high: float
    unit: str = ""

    def value(self, hardware: Hardware) -> float | None:
        """The design's value of the key; None where its parts have none."""
        value: Any = hardware
        for name in self.key.split("."):
            value = getattr(value, name, None)
        return value

    def warning(self, hardware: Hardware) -> str | None:
        """The sentence for a design outside the range, else None."""
        value = self.value(hardware)
        if value is None or self.low <= value <= self.high:
            return None
        unit = f" {self.unit}" if self.unit else ""
        window = f"{self.low:g} .. {self.high:g}{unit}"
        return f"{self.key}={value:g}{unit} lies outside {window}, where its numbers hold"


@dataclass(frozen=True)
class Choice:
    """A value that only some numbers were measured for: `key=value` sets `field` to `part`."""

    key: str
    value: float
    label: str
    field: str
    part: Any


@dataclass(frozen=True)
class Preset:
    """A published design.

    Args:
        name: as on the command line.
        summary: what it is, in one line.
        sources: where its numbers come from.
        not_modelled: what the source describes and this design leaves out.
        valid: where its numbers hold.
        choices: overrides of this preset alone.
        numbers: (key, source) of each number of the design.
        hardware: the design.
    """

    name: str
    summary: str
    sources: tuple[str, ...]
    not_modelled: tuple[str, ...]
    valid: tuple[Range, ...]
    choices: tuple[Choice, ...]
    numbers: tuple[tuple[str, str], ...]
    hardware: Hardware

    @property
    def overrides(self) -> tuple[str, ...]:
        """The names that `with_` takes."""
        return tuple(dict.fromkeys((*OVERRIDES, *(c.key for c in self.choices))))

    def with_(self, **overrides: Any) -> "Preset":
        """This preset with some of its values replaced.

        Args:
            overrides: fields of Hardware, conveniences of `override`, choices of this preset.

        Raises:
            InputError: for an unknown name, an impossible value, or two overrides of one thing.
        """
        for name in overrides:
            if name not in self.overrides:
                known = self.overrides
                raise InputError(unknown(f"preset {self.name}: the override", name, known))
        mine = {c.key: c.field for c in self.choices if c.key in overrides}
        check_conflicts(overrides, SETS | mine)
        parts = {field: self._choose(key, overrides[key]) for key, field in mine.items()}
        rest = {key: value for key, value in overrides.items() if key not in mine}
        try:
            return replace(self, hardware=override(replace(self.hardware, **parts), **rest))
        except InputError as error:
            raise InputError(f"preset {self.name}: {error}") from None

    def about(self) -> tuple[str, ...]:
        """What it is, where its numbers are from and hold, and what it leaves out: one line each."""
        lines = [self.summary, *(f"source: {text}" for text in self.sources)]
        lines += [f"{key}: {text}" for key, text in self.numbers]
        lines += [f"valid: {v.key} in {v.low:g} .. {v.high:g} {v.unit}" for v in self.valid]
        for key in dict.fromkeys(c.key for c in self.choices):
            known = ", ".join(f"{c.value:.15g} ({c.label})" for c in self.choices if c.key == key)
            lines.append(f"choose {key}: {known}")
        return (*lines, *(f"not modelled: {text}" for text in self.not_modelled))

    def warnings(self) -> tuple[str, ...]:
        """One sentence for every value outside its validity range."""
        found = (valid.warning(self.hardware) for valid in self.valid)
        return tuple(f"preset {self.name}: {text}" for text in found if text)

    def warn(self, stacklevel: int = 2) -> None:
        """Issue every sentence of `warnings` as a ValidityWarning."""
        for sentence in self.warnings():
            warnings.warn(sentence, ValidityWarning, stacklevel=stacklevel)

    def _choose(self, key: str, value: object) -> Any:
        choices = [c for c in self.choices if c.key == key]
        for choice in choices:
            if finite(value) and value == choice.value:
                return choice.part
        known = ", ".join(f"{c.value:.15g} ({c.label})" for c in choices)
        raise InputError(f"preset {self.name}: {key}={show(value)} was not measured; choose {known}")


def design_given(hardware: object) -> Hardware:
    """A design in any form that Python functions take: a `Hardware`, a preset's name, a .toml or .json file, a table.

    Args:
        hardware: None is the preset "bayesft".

    Raises:
        InputError: if it is none of them.
    """
    if hardware is None:
        return preset("bayesft").hardware
    if isinstance(hardware, Hardware):
        return hardware
    if isinstance(hardware, Preset):
        return hardware.hardware
    if isinstance(hardware, str | os.PathLike):
        text = os.fspath(hardware)
        if str(text).lower().endswith((".toml", ".json")):
            return load_hardware(text)
        return preset(text).hardware  # type: ignore[arg-type]
    if isinstance(hardware, dict):
        return from_dict(hardware, "hardware")
    shown = f"the class {hardware.__name__}" if isinstance(hardware, type) else show(hardware)
    raise InputError(
        f"hardware={shown}: expected a design such as Hardware.preset('bayesft', sigma=0.6) or Hardware(drift="
        "LogNormalDrift(0.6)), the name of a preset, or the path of a hardware file"
    )


def preset_names() -> tuple[str, ...]:
    """The names of all presets, sorted."""
    files = (entry.name for entry in _folder().iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml")))


def preset(name: str) -> Preset:
    """The preset called `name`.

    Raises:
        InputError: if there is none, naming those that there are.

    >>> preset("bayesft").hardware.drift
    LogNormalDrift(sigma=0.6)
    """
    names = preset_names()
    if not isinstance(name, str) or name not in names:
        raise InputError(unknown("the preset", name, names))
    return _read(name)


def _folder() -> Any:
    return resources.files("crossbar_sim.crossbar") / "preset_files"


@cache
def _read(name: str) -> Preset:
    source = f"preset {name}"
    data = parse_toml((_folder() / f"{name}.toml").read_text("utf-8"), source)
    about = data.pop("preset")
    require(about["name"] == name, f"{source}: its name says {about['name']!r}")
    return Preset(
        name=name,
        summary=about["summary"],
        sources=tuple(about["sources"]),
        not_modelled=tuple(about["not_modelled"]),
        valid=tuple(Range(key, *limits) for key, limits in about.get("valid", {}).items()),
        choices=tuple(_choice(entry) for entry in about.get("choices", ())),
        numbers=tuple(about["numbers"].items()),
        hardware=from_dict(data, source),
    )


def _choice(entry: dict[str, Any]) -> Choice:
    part = build_part(entry["field"], entry["part"])
    return Choice(entry["key"], float(entry["value"]), entry["label"], entry["field"], part)
