"""Published designs by name.

Their numbers and sources are in preset_files/*.toml; adding a file adds a preset.
"""

from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from crossbar_sim.crossbar.configuration import (
    SETS,
    build_part,
    check_conflicts,
    override,
    overrides,
    parse_toml,
)
from crossbar_sim.errors import CrossbarWarning, InputError
from crossbar_sim.validate import finite, require, show, unknown

if TYPE_CHECKING:
    from crossbar_sim.crossbar.hardware import Hardware


class ValidityWarning(CrossbarWarning):
    """A value lies outside the range in which a preset's numbers were measured."""


@dataclass(frozen=True)
class Range:
    """Range of validity of a preset's numbers: `key` (such as "mapping.g_max") in low .. high, in `unit`."""

    key: str
    low: float
    high: float
    unit: str = ""

    def value(self, hardware: "Hardware") -> float | None:
        """The design's value of the key; None where its parts have none."""
        value: Any = hardware
        for name in self.key.split("."):
            value = getattr(value, name, None)
        return value

    def warning(self, hardware: "Hardware") -> str | None:
        """The warning for a design outside the range, else None."""
        value = self.value(hardware)
        if value is None or self.low <= value <= self.high:
            return None
        unit = f" {self.unit}" if self.unit else ""
        window = f"{self.low:g} .. {self.high:g}{unit}"
        return f"{self.key}={value:g}{unit} lies outside {window}, where its numbers hold"


@dataclass(frozen=True)
class Choice:
    """One measured value of a parameter: `key=value` sets `field` to `part`."""

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
        table: the design, as `Hardware.from_dict` reads it.
    """

    name: str
    summary: str
    sources: tuple[str, ...]
    not_modelled: tuple[str, ...]
    valid: tuple[Range, ...]
    choices: tuple[Choice, ...]
    numbers: tuple[tuple[str, str], ...]
    table: dict[str, Any] = field(hash=False)

    def override(self, hardware: "Hardware", values: dict[str, Any]) -> "Hardware":
        """The preset's design with values replaced.

        Args:
            hardware: the design, or one that this function made of it.
            values: fields of Hardware, conveniences of `configuration.override`, choices of this preset.

        Raises:
            InputError: for an unknown name, an impossible value, or two overrides of one thing.
        """
        known = tuple(dict.fromkeys((*overrides(hardware), *(c.key for c in self.choices))))
        for name in values:
            if name not in known:
                raise InputError(unknown(f"preset {self.name}: the override", name, known))
        chosen = {c.key: c.field for c in self.choices if c.key in values}
        check_conflicts(values, SETS | chosen)
        parts = {field: self._choose(key, values[key]) for key, field in chosen.items()}
        rest = {key: value for key, value in values.items() if key not in chosen}
        try:
            return override(replace(hardware, **parts), **rest)
        except InputError as error:
            raise InputError(f"preset {self.name}: {error}") from None

    def about(self) -> tuple[str, ...]:
        """Summary, sources, range of validity, and effects that are not modelled: one line each."""
        lines = [self.summary, *(f"source: {text}" for text in self.sources)]
        lines += [f"{key}: {text}" for key, text in self.numbers]
        lines += [f"valid: {v.key} in {v.low:g} .. {v.high:g} {v.unit}" for v in self.valid]
        for key in dict.fromkeys(c.key for c in self.choices):
            known = ", ".join(f"{c.value:.15g} ({c.label})" for c in self.choices if c.key == key)
            lines.append(f"choose {key}: {known}")
        return (*lines, *(f"not modelled: {text}" for text in self.not_modelled))

    def warnings(self, hardware: "Hardware") -> tuple[str, ...]:
        """One sentence for every value of the design outside its validity range."""
        found = (valid.warning(hardware) for valid in self.valid)
        return tuple(f"preset {self.name}: {text}" for text in found if text)

    def _choose(self, key: str, value: object) -> Any:
        choices = [c for c in self.choices if c.key == key]
        for choice in choices:
            if finite(value) and value == choice.value:
                return choice.part
        known = ", ".join(f"{c.value:.15g} ({c.label})" for c in choices)
        raise InputError(f"preset {self.name}: {key}={show(value)} was not measured; choose {known}")


def preset_names() -> tuple[str, ...]:
    """The names of all presets, sorted."""
    files = (entry.name for entry in _folder().iterdir())
    return tuple(sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml")))


def preset(name: str) -> Preset:
    """The preset called `name`.

    Raises:
        InputError: if there is none, naming those that there are.

    >>> preset("bayesft").table["drift"]
    {'kind': 'lognormal', 'sigma': 0.6}
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
        table=data,
    )


def _choice(entry: dict[str, Any]) -> Choice:
    part = build_part(entry["field"], entry["part"])
    return Choice(entry["key"], float(entry["value"]), entry["label"], entry["field"], part)
