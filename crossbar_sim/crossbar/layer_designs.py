"""`LayerDesigns`: a hardware design per layer, by patterns of layer names; the first pattern that matches decides."""

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Literal

from crossbar_sim.crossbar import configuration
from crossbar_sim.crossbar.configuration import (
    FAMILIES,
    build_part,
    field_types,
    from_text,
    overrides,
    parse_hardware_json,
    parse_value,
    plain,
    read_table,
)
from crossbar_sim.crossbar.converters import Ranges
from crossbar_sim.crossbar.hardware import Hardware, as_hardware, preset_design
from crossbar_sim.crossbar.presets import ValidityWarning, preset_names
from crossbar_sim.errors import InputError
from crossbar_sim.validate import require, show, unknown

DIGITAL: Literal["digital"] = "digital"
"""The design of a layer that is on no array: exact, and it does not drift."""

REST = "*"
"""The pattern of the default design in a mapping."""

DRIFT_KEYS = ("drift", "sigma")
"""Overrides that give a layer a drift of its own, which a sweep does not change."""


@dataclass(frozen=True)
class Overrides:
    """Values that replace those of the default design.

    Args:
        values: (name, value) pairs, the names of `configuration.override`.
    """

    values: tuple[tuple[str, Any], ...]

    def of(self, base: Hardware) -> Hardware:
        """The default design `base` with the values replaced."""
        return configuration.override(base, **dict(self.values))


LayerDesign = Hardware | Overrides | Literal["digital"]
"""What a pattern assigns: a whole design, values that differ from the default design, or no array at all."""


@dataclass(frozen=True)
class LayerDesigns:
    """A design per layer: the first pattern that matches a layer's name gives its design.

    Patterns are names of layers as `crossbar-sim info` prints them, with `*`, `?` and `[...]` as in file names
    (`fnmatch`, case-sensitive).

    Args:
        base: the default design: of all layers that no pattern matches, and what `Overrides` act on.
        layers: (pattern, design) in the order in which they are tried.
        ranges: converter ranges that were calibrated for this very combination, of all arrays.
        swept: patterns whose whole designs got their drift from `at_sigma`, which may change it again.

    Raises:
        InputError: if there is no pattern, one is given twice, or a design is impossible.

    >>> designs = LayerDesigns.of({"stem": "digital", "head": {"copies": 4}, "*": Hardware()})
    >>> designs.at("stem"), designs.at("head").mapping.copies, designs.at("body").mapping.copies
    (None, 4, 1)
    """

    base: Hardware
    layers: tuple[tuple[str, LayerDesign], ...]
    ranges: Ranges | None = None
    swept: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(isinstance(self.base, Hardware), f"base={show(self.base)}: the default design is a Hardware")
        require(bool(self.layers), "a design per layer needs at least one pattern of layer names")
        names = [pattern for pattern, _ in self.layers]
        for i, pattern in enumerate(names):
            require(
                isinstance(pattern, str) and bool(pattern.strip()),
                f"the pattern {show(pattern)}: expected a layer's name such as 'fc1', or a pattern such as 'blocks.*'",
            )
            require(pattern not in names[:i], f"the pattern {show(pattern)} is given twice: give it once")
        assert self._resolved  # refuses impossible designs now

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> "LayerDesigns":
        """The designs of a mapping from patterns to designs.

        Args:
            table: values are a `Hardware`, "digital", a preset's name, or a mapping of overrides of the default design
                (names as in `configuration.override`; with the key "preset", overrides of that preset). The default
                design is that of the last pattern, "*": a `Hardware`, a preset's name, a hardware file or table.

        Raises:
            InputError: if "*" is missing or not last, or a value cannot be a design.
        """
        order = list(table)
        require(
            REST in order,
            f"hardware has the patterns {show(order)}: a design per layer needs the pattern '*' for all other layers: "
            "add '*': Hardware(...), or '*': 'digital' to leave them digital",
        )
        require(
            order[-1] == REST,
            f"the pattern '*' matches every layer, so {show(order[-1])} after it has no effect: put '*' last",
        )
        rest, given = table[REST], {key: value for key, value in table.items() if key != REST}
        if isinstance(rest, str) and rest == DIGITAL:
            for pattern, value in given.items():
                require(
                    not isinstance(value, Mapping) or "preset" in value or "hardware" in value,
                    f"{show(pattern)} gives overrides, and the default design, '*', is 'digital': give {show(pattern)} "
                    "a Hardware, or name a preset with the key 'preset'",
                )
            return cls(Hardware(), (*_entries(given), (REST, DIGITAL)))
        found = as_hardware(rest)
        return cls(found, tuple(_entries(given)))

    @classmethod
    def from_table(
        cls, base: Hardware, table: object, source: str, trust_code: bool = False
    ) -> tuple["LayerDesigns", tuple[str, ...]]:
        """The designs that the table `layers` of a file describes, with sentences to warn of.

        Args:
            base: the default design.
            table: {pattern: overrides, or {digital = true}, or {hardware = a whole design}}, or pairs of these.
            source: where it comes from: the beginning of every error.
            trust_code: see `Hardware.from_dict`.

        Raises:
            InputError: naming the pattern and key, what was given, and what is allowed.
        """
        pairs = list(table.items()) if isinstance(table, dict) else table
        if not (isinstance(pairs, list) and all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs)):
            raise InputError(f'{source}: layers={show(table)}: expected tables such as [layers."blocks.*"]')
        cautions: list[str] = []
        try:
            found = [e for pattern, value in pairs for e in _entry(pattern, value, cautions, trust_code)]
            return cls(base, tuple(found)), tuple(cautions)
        except InputError as error:
            raise InputError(f"{source}: {error}") from None

    def first(self, name: str) -> int | None:
        """The place of the first pattern that matches a layer's name; None: the default design is the layer's."""
        return next((i for i, (p, _) in enumerate(self.layers) if fnmatchcase(name, p)), None)

    def at(self, name: str) -> Hardware | None:
        """The design of the layer called `name`; None: it stays digital."""
        known = self._by_name
        if name not in known:
            place = self.first(name)
            found = self.base if place is None else self._resolved[place]
            if found is not None and self.ranges is not None:
                found = replace(found, ranges=self.ranges)
            known[name] = found
        return known[name]

    @cached_property
    def _resolved(self) -> tuple[Hardware | None, ...]:
        """The design of each pattern."""
        found: list[Hardware | None] = []
        for pattern, design in self.layers:
            if isinstance(design, Overrides):
                try:
                    found.append(design.of(self.base))
                except InputError as error:
                    raise InputError(f"layer {show(pattern)}: {error}") from None
            else:
                require(
                    isinstance(design, Hardware) or design == DIGITAL,
                    f"layer {show(pattern)}: {show(design)} is not a design: expected a Hardware, 'digital', a "
                    "preset's name or a mapping of overrides",
                )
                found.append(design if isinstance(design, Hardware) else None)
        return tuple(found)

    @cached_property
    def _by_name(self) -> dict[str, Hardware | None]:
        return {}

    def __getstate__(self) -> dict[str, Any]:
        """Without what is looked up again."""
        return {name: self.__dict__[name] for name in ("base", "layers", "ranges", "swept")}

    @property
    def all(self) -> tuple[Hardware, ...]:
        """The default design and every pattern's that is not digital, each once."""
        found = dict.fromkeys(h for h in (self.base, *self._resolved) if h is not None)
        return tuple(h if self.ranges is None else replace(h, ranges=self.ranges) for h in found)

    @property
    def own_drift(self) -> tuple[str, ...]:
        """The patterns whose drift a sweep does not change, for their design sets it."""
        return tuple(
            pattern
            for pattern, design in self.layers
            if (isinstance(design, Hardware) and design.drift is not None and pattern not in self.swept)
            or (isinstance(design, Overrides) and any(name in DRIFT_KEYS for name, _ in design.values))
        )

    def at_sigma(self, sigma: float) -> "LayerDesigns":
        """One point of a sweep: sigma is that of all layers whose pattern sets no drift; see `own_drift`."""
        kept = self.own_drift

        def changed(pattern: str, design: LayerDesign) -> LayerDesign:
            if not isinstance(design, Hardware) or pattern in kept:
                return design
            return configuration.at_sigma(design, sigma)

        layers = tuple((pattern, changed(pattern, design)) for pattern, design in self.layers)
        swept = tuple(p for p, design in self.layers if isinstance(design, Hardware) and p not in kept)
        return replace(self, base=configuration.at_sigma(self.base, sigma), layers=layers, swept=swept)

    def each(self, change: Callable[[Hardware], Hardware]) -> "LayerDesigns":
        """The same patterns with every design changed."""
        pairs = zip(self.layers, self._resolved, strict=True)
        layers = tuple((p, DIGITAL if h is None else change(h)) for (p, _), h in pairs)
        return LayerDesigns(change(self.base), layers)

    def with_layers(self, layers: Iterable[tuple[str, LayerDesign]]) -> "LayerDesigns":
        """With patterns that are tried before these; one that is there already is replaced."""
        new = tuple(layers)
        names = {pattern for pattern, _ in new}
        return LayerDesigns(self.base, (*new, *(pair for pair in self.layers if pair[0] not in names)))

    def override(self, **flat: Any) -> "LayerDesigns":
        """With values of the default design replaced; see `configuration.override`."""
        changed = replace(self, base=configuration.override(self.base, **flat), ranges=None)
        if self.ranges is None:
            return changed
        same = all(
            configuration.override(old, **flat).ranges is not None
            for old in (replace(h, ranges=self.ranges) for h in self.all)
        )
        return replace(changed, ranges=self.ranges) if same else changed

    def is_default(self, place: int) -> bool:
        """Whether a pattern is '*' with the default design but for its drift: of all other layers, if there are any."""
        pattern, design = self.layers[place]
        if pattern != REST or not isinstance(design, Hardware):
            return False
        return replace(design, drift=None) == replace(self.base, drift=None)

    def check(self, names: Iterable[str]) -> None:
        """Refuse a pattern without effect on a model.

        Args:
            names: of all layers of the model.

        Raises:
            InputError: if a pattern matches no layer, or only layers that patterns before it match.
        """
        known = list(names)
        winners = {self.first(name) for name in known}
        for i, (pattern, _) in enumerate(self.layers):
            if i in winners or self.is_default(i):
                continue
            matched = [name for name in known if fnmatchcase(name, pattern)]
            if not matched:
                raise InputError(unknown("the layer", pattern, known))
            before = self.layers[self.first(matched[0]) or 0][0]
            raise InputError(
                f"the pattern {show(pattern)} has no effect: {', '.join(matched[:4])} "
                f"{'is' if len(matched) == 1 else 'are'} matched by {show(before)}, which comes before it: leave one "
                "out, or give the narrower one first"
            )

    def of_layers(self, names: Iterable[str]) -> list[tuple[Hardware, tuple[str, ...]]]:
        """The names of layers by their design, without the digital ones."""
        found: dict[Hardware, list[str]] = {}
        for name in names:
            design = self.at(name)
            if design is not None:
                found.setdefault(design, []).append(name)
        return [(design, tuple(members)) for design, members in found.items()]

    def to_dict(self) -> dict[str, Any]:
        """The default design as `configuration.to_dict` makes it, with one more key, `layers`."""
        table = to_dict(self.base if self.ranges is None else replace(self.base, ranges=self.ranges))
        return table | {"layers": {pattern: _table(design) for pattern, design in self.layers}}

    def chosen(self, name: str) -> tuple[str, str]:
        """The pattern that gives a layer its design, and what that is, in words; ("", ...) for the default design."""
        place = self.first(name)
        if place is None:
            return "", "the default design"
        pattern, design = self.layers[place]
        return pattern, design_in_words(design, self.base)

    def in_words(self) -> Iterator[tuple[str, str]]:
        """(pattern, what its design is) for reports."""
        for pattern, design in self.layers:
            yield pattern, design_in_words(design, self.base)


def design_in_words(design: LayerDesign, base: Hardware) -> str:
    """A layer's design as the option --layer takes it, as far as it can; a whole design by what differs from `base`."""
    if isinstance(design, str):
        return design
    if isinstance(design, Overrides):
        values = dict(_table(design))
    else:
        own, default = configuration.to_dict(design), configuration.to_dict(base)
        values = {k: own.get(k, "none") for k in own | default if own.get(k) != default.get(k)}
    return ", ".join(f"{name}={_in_words(value)}" for name, value in values.items()) or "the default design"


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        kind = value.get("kind", "")
        inner = ",".join(f"{k}={_in_words(v)}" for k, v in value.items() if k != "kind" and v is not None)
        return f"{kind}:{inner}" if inner else str(kind)
    if isinstance(value, list):
        return "/".join(map(_in_words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _table(design: LayerDesign) -> dict[str, Any]:
    """A layer's design as files hold it."""
    if isinstance(design, str):
        return {DIGITAL: True}
    if isinstance(design, Hardware):
        return {"hardware": configuration.to_dict(design)}
    return {name: "none" if value is None else plain(value) for name, value in design.values}


def _entries(table: Mapping[str, Any]) -> Iterator[tuple[str, LayerDesign]]:
    """The patterns of a Python mapping; warns as `Hardware.preset` does."""
    cautions: list[str] = []
    for pattern, value in table.items():
        yield from _entry(pattern, value, cautions, True)
    for caution in cautions:
        warnings.warn(caution, ValidityWarning, stacklevel=4)


def _entry(
    pattern: Any, value: Any, cautions: list[str], trust_code: bool
) -> Iterator[tuple[str, LayerDesign]]:
    try:
        design = as_layer_design(value, cautions, trust_code)
    except InputError as error:
        raise InputError(f"layer {show(pattern)}: {error}") from None
    names = [name.strip() for name in pattern.split(",")] if isinstance(pattern, str) else [pattern]
    yield from ((name, design) for name in names)


def as_layer_design(value: Any, cautions: list[str], trust_code: bool = True) -> LayerDesign:
    """What a pattern assigns, from a `Hardware`, "digital", a preset's name or a table.

    Args:
        value: a table holds overrides by name, or {"digital": True}, or {"hardware": a whole design as a table}, or the
            name of a preset under "preset" with overrides of that.
        cautions: sentences to warn of are added to it.
        trust_code: see `Hardware.from_dict`.

    Raises:
        InputError: if it is none of them.
    """
    if isinstance(value, Hardware | Overrides):
        return value
    if isinstance(value, str):
        if value == DIGITAL:
            return DIGITAL
        names = (DIGITAL, *preset_names())
        require(value in names, unknown("the design", value, names) + "; or overrides such as adc_bits=6")
        hardware, found = preset_design(value, {})
        cautions += found
        return hardware
    if not isinstance(value, Mapping):
        raise InputError(
            f"{show(value)} is not a design: expected a Hardware, 'digital', a preset's name, or a mapping of "
            "overrides such as {'adc_bits': 6}"
        )
    table = dict(value)
    if DIGITAL in table:
        require(
            table == {DIGITAL: True},
            f"{show(table)}: digital = true stands alone, for a digital layer has no design",
        )
        return DIGITAL
    if "hardware" in table:
        require(len(table) == 1, f"{show(table)}: 'hardware' is a whole design and stands alone")
        return Hardware.from_dict(table["hardware"], "hardware", trust_code)
    name = table.pop("preset", None)
    values = {key: _value(key, given, trust_code) for key, given in table.items()}
    if name is not None:
        require(isinstance(name, str), f"preset={show(name)}: expected the name of a preset")
        hardware, found = preset_design(name, values)
        cautions += found
        return hardware
    known = overrides(Hardware())
    for key in values:
        require(key in known, unknown("the override", key, (DIGITAL, "preset", *known)))
    require(
        "ranges" not in values,
        "ranges are calibrated for all layers together: leave them out of a layer's design",
    )
    require(bool(values), "no value is given: expected overrides such as adc_bits=6, or 'digital'")
    return Overrides(tuple(values.items()))


def _value(key: str, given: Any, trust_code: bool) -> Any:
    """The value of an override: parts from text or a table, a tile from "64x64" or a list, None from "none"."""
    if given == "none":
        return None
    if key in FAMILIES and isinstance(given, str):
        return from_text(key, given)
    if key in FAMILIES and isinstance(given, dict):
        return build_part(key, given, trust_code)
    if key == "tile" and isinstance(given, str):
        rows, _, cols = given.lower().partition("x")
        require(
            rows.isdecimal() and (cols or rows).isdecimal(),
            f"tile={show(given)}: expected rows x columns such as 64x64",
        )
        return int(rows), int(cols or rows)
    return tuple(given) if isinstance(given, list) else given


def layer_from_text(text: str, cautions: list[str]) -> list[tuple[str, LayerDesign]]:
    """The patterns and the design of an argument such as `stem:digital` or `blocks.*:adc_bits=6,levels=16`.

    Args:
        text: PATTERN:digital, PATTERN:PRESET or PATTERN:KEY=VALUE,KEY=VALUE; several patterns with commas. A part in
            detail (`adc=adc:bits=8,share=8`) takes all keys behind it that it has.
        cautions: sentences to warn of are added to it.

    Raises:
        InputError: quoting the text, with the cause.

    >>> layer_from_text("head:adc_bits=6,levels=16", [])
    [('head', Overrides(values=(('adc_bits', 6), ('levels', 16))))]
    """
    names, colon, rest = text.partition(":")
    given = [name.strip() for name in names.split(",") if name.strip()]
    if not (colon and given and rest.strip()):
        raise InputError(
            f"--layer {show(text)}: expected PATTERN:digital or PATTERN:KEY=VALUE,KEY=VALUE such as "
            "'blocks.*:adc_bits=6,levels=16'"
        )
    try:
        value = rest.strip() if "=" not in rest else dict(_pairs(rest))
        design = as_layer_design(value, cautions)
    except InputError as error:
        raise InputError(f"--layer {show(text)}: {error}") from None
    return [(name, design) for name in given]


def _pairs(text: str) -> list[tuple[str, Any]]:
    """KEY=VALUE pairs; those behind a part in detail belong to it as far as it has such a key."""
    pairs: list[tuple[str, Any]] = []
    own: set[str] = set()
    for piece in text.split(","):
        key, equals, value = (part.strip() for part in piece.partition("="))
        require(bool(key and equals and value), f"{show(piece)}: expected KEY=VALUE such as adc_bits=6")
        if key in own and key not in dict(pairs):
            pairs[-1] = (pairs[-1][0], f"{pairs[-1][1]},{key}={value}")
            continue
        require(key not in dict(pairs), f"the key {show(key)} is given twice")
        if key == "read_noise" and isinstance(parse_value(value), int | float):
            key = "read_noise_sigma"
        family, kind = FAMILIES.get(key), value.partition(":")[0]
        cls = family.kinds.get(kind) if family else None
        own = set(field_types(cls)) if cls else set()
        pairs.append((key, value if family else parse_value(value)))
    return pairs


Design = Hardware | LayerDesigns
"""What functions on models take: one design for all layers, or a design per layer."""


def as_design(hardware: object) -> Design:
    """A design in any form that Python functions accept: see `as_hardware`, or a mapping with the pattern "*".

    Raises:
        InputError: if it is none of them.
    """
    if isinstance(hardware, LayerDesigns):
        return hardware
    if isinstance(hardware, Mapping) and not isinstance(hardware, Hardware):
        if [*hardware] == [REST] and hardware[REST] != DIGITAL:  # one design for all layers
            return as_hardware(hardware[REST])
        if REST in hardware or any(
            isinstance(value, Hardware) or value == DIGITAL for value in _ends(hardware)
        ):
            return LayerDesigns.of(hardware)
        try:
            return design_from_dict(dict(hardware))[0]
        except InputError as error:
            unlike = not any(key in {*field_types(Hardware), "layers"} for key in hardware)
            more = "; a design per layer needs the pattern '*' for all other layers" if unlike else ""
            raise InputError(f"{error}{more}") from None
    if isinstance(hardware, str | os.PathLike) and str(hardware).lower().endswith((".toml", ".json")):
        return load_design(hardware)[0]
    return as_hardware(hardware)


def from_json(text: str, source: str) -> Design:
    """The design that a JSON text describes; see `design_from_dict`."""
    return design_from_dict(parse_hardware_json(text, source), source)[0]


def design_from_dict(
    data: object, source: str = "hardware", trust_code: bool = False
) -> tuple[Design, tuple[str, ...]]:
    """The design that a dictionary describes, with sentences to warn of: see `Hardware.from_dict` and `LayerDesigns`.

    Raises:
        InputError: naming the source, the full key, what was given, and what is allowed.
    """
    if not isinstance(data, dict) or "layers" not in data:
        return Hardware.from_dict(data, source, trust_code), ()
    base = Hardware.from_dict({key: v for key, v in data.items() if key != "layers"}, source, trust_code)
    designs, cautions = LayerDesigns.from_table(
        replace(base, ranges=None), data["layers"], source, trust_code
    )
    return replace(designs, ranges=base.ranges), cautions


def load_design(path: str | os.PathLike[str], trust_code: bool = False) -> tuple[Design, tuple[str, ...]]:
    """The design in a .toml or .json file, with sentences to warn of.

    Raises:
        InputError: if the file cannot be read or its contents cannot be used.
    """
    return design_from_dict(*read_table(path), trust_code)


def _ends(table: Mapping[str, Any]) -> list[Any]:
    """The values of a mapping under keys that are not fields of a design."""
    return [value for key, value in table.items() if key not in field_types(Hardware)]


def with_layers(
    design: Design, cautions: tuple[str, ...], texts: Iterable[str]
) -> tuple[Design, tuple[str, ...]]:
    """A design with the designs of the option --layer, which come before those that it has.

    Args:
        design, cautions: the default design, or one per layer, and what to warn of.
        texts: see `layer_from_text`.

    Raises:
        InputError: as `layer_from_text` and `LayerDesigns`.
    """
    more: list[str] = []
    layers = tuple(entry for text in texts for entry in layer_from_text(text, more))
    if not layers:
        return design, cautions
    made = design.with_layers(layers) if isinstance(design, LayerDesigns) else LayerDesigns(design, layers)
    return made, (*cautions, *more)


def with_table(design: Design, table: dict[str, Any], trust_code: bool) -> tuple[Design, tuple[str, ...]]:
    """A design with the designs of a table `layers`, which come before those that it has; see `with_layers`.

    Raises:
        InputError: as `LayerDesigns.from_table`.
    """
    base = design if isinstance(design, Hardware) else design.base
    made, cautions = LayerDesigns.from_table(base, table, "layers", trust_code)
    return (made if isinstance(design, Hardware) else design.with_layers(made.layers)), cautions


def dropped_ranges(before: Design, after: Design) -> tuple[str, ...]:
    """A warning if `override` made `after` from `before`, or designs were added, and ranges were dropped."""
    if isinstance(before, Hardware) and isinstance(after, Hardware):
        return configuration.dropped_ranges(before, after)
    had = any(hardware.ranges is not None for hardware in designs_of(before))
    if not had or all(hardware.ranges is not None for hardware in designs_of(after)):
        return ()
    return (
        "the design's converter ranges were calibrated with another design of some layers: they are left out there, "
        "and all are calibrated again if a converter's range is 'calibrated'",
    )


def cautions_of(design: Design) -> tuple[str, ...]:
    """What a user should read about the mappings of a design."""
    found = (text for hardware in designs_of(design) for text in hardware.mapping.cautions)
    return tuple(dict.fromkeys(found))


def designs_of(design: Design) -> tuple[Hardware, ...]:
    """The designs that layers can have."""
    return (design,) if isinstance(design, Hardware) else design.all


def readout_effects(design: Design) -> tuple[str, ...]:
    """The effects on products that any layer's design has; see `Hardware.readout_effects`."""
    return tuple(dict.fromkeys(name for hardware in designs_of(design) for name in hardware.readout_effects))


def design_at(design: Design, layer: str) -> Hardware | None:
    """The design of the layer of that name; None: it is digital."""
    return design if isinstance(design, Hardware) else design.at(layer)


def each(design: Design, change: Callable[[Hardware], Hardware]) -> Design:
    """The design with `change` made to it, or to each of its designs."""
    return change(design) if isinstance(design, Hardware) else design.each(change)


def of_layers(design: Design, names: Iterable[str]) -> list[tuple[Hardware, tuple[str, ...]]]:
    """The names of layers by their design, without the digital ones."""
    return [(design, tuple(names))] if isinstance(design, Hardware) else design.of_layers(names)


def at_sigma(design: Design, sigma: float) -> Design:
    """The design at one point of a sweep; see `configuration.at_sigma` and `LayerDesigns.at_sigma`."""
    return configuration.at_sigma(design, sigma) if isinstance(design, Hardware) else design.at_sigma(sigma)


def override(design: Design, **flat: Any) -> Design:
    """The design with values of its default design replaced; see `configuration.override`."""
    return configuration.override(design, **flat) if isinstance(design, Hardware) else design.override(**flat)


def is_deterministic(design: Design) -> bool:
    """Whether all chips of the design are identical."""
    return all(map(configuration.is_deterministic, designs_of(design)))


def to_dict(design: Design) -> dict[str, Any]:
    """The design as JSON-able values; see `configuration.to_dict` and `LayerDesigns.to_dict`."""
    return configuration.to_dict(design) if isinstance(design, Hardware) else design.to_dict()


def identity_of(design: Design) -> dict[str, Any]:
    """The design as results name it: as `to_dict`, with the layers as (pattern, design) pairs, whose order counts."""
    table = to_dict(design)
    return table | ({"layers": [list(p) for p in table["layers"].items()]} if "layers" in table else {})


def to_json(design: Design) -> str:
    """The design as JSON, one key per line."""
    return json.dumps(to_dict(design), indent=2, allow_nan=False)


def to_toml(design: Design) -> str:
    """The design as TOML, with a table for each pattern; fields that are None are left out."""
    return configuration.dump_toml(to_dict(design))


def sources(design: Design) -> dict[str, dict[str, str]]:
    """See `configuration.sources`."""
    found: dict[str, str] = {}
    for hardware in designs_of(design):
        found |= configuration.sources(hardware).get("hardware_source", {})
    return {"hardware_source": found} if found else {}
