"""The parts of a `Hardware` as tables and text (TOML, JSON, command line), and a design with values replaced."""

import json
import os
import re
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from crossbar_sim.crossbar.converters import ADC, DAC, GaussianReadNoise, Ranges, TelegraphNoise
from crossbar_sim.crossbar.devices import (
    PROGRAMMING,
    ProgrammingModel,
    ProgrammingNoise,
    StuckCells,
    is_frozen_dataclass,
)
from crossbar_sim.crossbar.drift import DRIFTS, DriftModel, LogNormalDrift
from crossbar_sim.crossbar.mapping import ALL_MAPPINGS
from crossbar_sim.crossbar.mapping import Mapping as WeightMapping
from crossbar_sim.crossbar.wires import Wires
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_regular, reason
from crossbar_sim.text import check_depth, parse_json
from crossbar_sim.user_code import fingerprint, import_module, source_text
from crossbar_sim.validate import require, show, unknown

if TYPE_CHECKING:
    from crossbar_sim.crossbar.hardware import Hardware


class Family(NamedTuple):
    """The parts that one field of Hardware can hold.

    Args:
        bases: what a value must be an instance of.
        kinds: the classes by their `kind` in files and on the command line.
        example: how a sentence describes such a part.
        optional: whether None (ideal) is allowed.
        extensible: whether classes from outside the package are allowed; files name them by import path.
    """

    bases: tuple[type, ...]
    kinds: Mapping[str, Any]
    example: str
    optional: bool = True
    extensible: bool = False


FAMILIES = {
    "mapping": Family(
        (WeightMapping,),
        {mapping.kind: mapping for mapping in ALL_MAPPINGS},
        "a mapping such as Differential(g_max=1e-4)",
        optional=False,
    ),
    "drift": Family((DriftModel,), DRIFTS, "a drift law such as LogNormalDrift(0.6)", extensible=True),
    "programming": Family(
        (ProgrammingModel,), PROGRAMMING, "programming noise such as ProgrammingNoise(0.05)", extensible=True
    ),
    "stuck": Family((StuckCells,), {"stuck": StuckCells}, "stuck cells such as StuckCells(off=0.01)"),
    "wires": Family((Wires,), {"wires": Wires}, "wires such as Wires(1.0, 1.0)"),
    "dac": Family((DAC,), {"dac": DAC}, "a DAC such as DAC(bits=8)"),
    "adc": Family((ADC,), {"adc": ADC}, "an ADC such as ADC(bits=8)"),
    "read_noise": Family(
        (GaussianReadNoise, TelegraphNoise),
        {"gaussian": GaussianReadNoise, "telegraph": TelegraphNoise},
        "read noise such as GaussianReadNoise(0.01)",
    ),
    "ranges": Family((Ranges,), {}, "the ranges that a calibration wrote"),
}
"""The fields of Hardware that hold a part."""

_PATH = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*", re.ASCII)
"""package.module:Class"""


def part_class(name: str, kind: object, trust_code: bool) -> type:
    """The class of a part of Hardware by its kind, or by its import path where the family is extensible.

    A class of a module that has been imported already is found without trust: no code runs.

    Args:
        name: a key of FAMILIES.
        kind: a kind, or `package.module:Class`.
        trust_code: whether the module may be imported, which runs its code.

    Raises:
        InputError: if there is no such kind or class, it is no class for this part, or the import is not trusted.
    """
    family = FAMILIES[name]
    if isinstance(kind, str) and kind in family.kinds:
        known: type = family.kinds[kind]
        return known
    if not (family.extensible and isinstance(kind, str) and _PATH.fullmatch(kind)):
        raise InputError(unknown(f"the {name}.kind", kind, family.kinds))
    module, _, names = kind.partition(":")
    if module == _main_name():
        module = "__main__"
    if module not in sys.modules:
        require(
            trust_code,
            f"{name}.kind={show(kind)} names code, which would be imported and run: read that code, and if you trust "
            f"it give --{name} {kind},... on the command line, run an experiment with --trust-code, or import {module} "
            "in Python first",
        )
        import_module(module, f"{name}.kind={show(kind)}")
    found: Any = sys.modules[module]
    for each in names.split("."):
        found = vars(found).get(each) if isinstance(found, type | ModuleType) else None
    base = family.bases[0]
    require(
        isinstance(found, type) and issubclass(found, base) and is_frozen_dataclass(found),
        f"{name}.kind={show(kind)}: expected a frozen dataclass that extends crossbar_sim.{base.__name__}",
    )
    cls: type = found
    return cls


def kind_of(part: Any) -> str:
    """What files call the class of a part: its kind, or the import path of a class outside the package.

    Raises:
        InputError: for a class that has no import path.
    """
    cls = type(part)
    if cls.__module__.startswith("crossbar_sim."):
        return str(cls.kind)
    require(
        "<locals>" not in cls.__qualname__,
        f"{cls.__qualname__} is defined inside a function: define it at the top level of a module, so that files and "
        "other processes can name it",
    )
    module = _main_name() if cls.__module__ in ("__main__", "__mp_main__") else cls.__module__
    return f"{module}:{cls.__qualname__}"


def sources(hardware: "Hardware") -> dict[str, dict[str, str]]:
    """What the identity of results needs beside `to_dict`: SHA-256 of the source of classes outside the package.

    Empty for a design of the package's own classes.

    Raises:
        InputError: if the source of a class cannot be read.
    """
    found = {}
    for name, family in FAMILIES.items():
        part = getattr(hardware, name)
        if family.extensible and part is not None and ":" in kind_of(part):
            own = [
                cls
                for cls in type(part).__mro__
                if cls.__module__.partition(".")[0] not in ("crossbar_sim", "abc", "builtins")
            ]
            found[kind_of(part)] = fingerprint("\n".join(source_text(cls, cls.__name__) for cls in own))
    return {"hardware_source": found} if found else {}


def _main_name() -> str:
    """The import name of the script that runs, so that laws of two scripts are not both called `__main__:Law`."""
    main = sys.modules.get("__main__")
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return str(spec.name)
    return "__main__" if file is None else Path(file).stem


CHOICES = {
    "drift_per": ("cell", "weight"),
    "bias": ("digital", "row", "drifting"),
    "normalisation": ("digital", "folded", "drifting"),
    "other": ("digital", "drifting"),
}
"""The allowed values of each choice, also of the command line's options."""


_WORDS = {
    float: "a finite number",
    int: "an integer",
    type(None): "nothing",
    tuple[float, ...]: "a list of finite numbers",
    tuple[int, int]: "a list of two integers",
}


@cache
def _adapter(annotation: Any) -> Any:
    from pydantic import TypeAdapter  # imported on first use: it would slow down `crossbar-sim --help`

    return TypeAdapter(annotation, config={"strict": True, "allow_inf_nan": False})


def words(annotation: Any) -> str:
    """A field's type in words, for error messages."""
    if annotation in _WORDS:
        return _WORDS[annotation]
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(map(repr, get_args(annotation)))}"
    return " or ".join(map(words, get_args(annotation))) or "another value"


def field_types(cls: type) -> dict[str, Any]:
    """The annotations of a dataclass's fields, in their order; also where its module postpones annotations."""
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in fields(cls)}


def build(cls: type, table: dict[str, Any], where: str) -> Any:
    """A dataclass from a plain table.

    Args:
        cls: the dataclass.
        table: its fields; lists stand for tuples, and parts (FAMILIES) are built already.
        where: what comes before a key in a sentence, such as "drift.".

    Raises:
        InputError: naming the full key, what was given, and what is allowed.
    """
    from pydantic import ValidationError

    annotations = field_types(cls)
    for key in table:
        if key not in annotations:
            given = f"{where}{key}" if isinstance(key, str) else key
            raise InputError(unknown("the key", given, [f"{where}{name}" for name in annotations]))
    for field in fields(cls):
        if _required(field) and field.name not in table:
            raise InputError(f"{where}{field.name} is missing: expected {words(annotations[field.name])}")
    values = {}
    for key, value in table.items():
        value = tuple(value) if isinstance(value, list) else value
        try:
            values[key] = value if key in FAMILIES else _adapter(annotations[key]).validate_python(value)
        except ValidationError:
            expected = words(annotations[key])
            raise InputError(f"{where}{key}={show(table[key])}: expected {expected}") from None
    try:
        return cls(**values)
    except InputError as error:  # its sentence begins with the field's name
        raise InputError(f"{where}{error}") from None


def _required(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def build_part(name: str, table: object, trust_code: bool = False) -> Any:
    """The part of Hardware called `name` (see FAMILIES) from its table; `kind` says which class.

    Args:
        name: a key of FAMILIES.
        table: the part's fields and its kind.
        trust_code: whether a kind may be an import path; see `part_class`.

    Raises:
        InputError: as `build`, and for a missing or unknown kind.
    """
    family = FAMILIES[name]
    if table is None and family.optional:
        return None
    known = ", ".join(family.kinds)
    if name == "ranges":
        return Ranges.from_table(table)
    if not isinstance(table, dict):
        raise InputError(f"{name}={show(table)}: expected a table with a kind, one of {known}")
    if "kind" not in table:
        raise InputError(f"{name}.kind is missing: expected one of {known}")
    return build(
        part_class(name, table["kind"], trust_code),
        {k: v for k, v in table.items() if k != "kind"},
        f"{name}.",
    )


LATER = frozenset({"dac", "adc", "read_noise", "wires", "ranges", "cell_bits", "encoding"})
"""Fields added after the first results files: left out of identities while they are None."""


def plain_fields(owner: Any) -> dict[str, Any]:
    """Every field of a dataclass by name, in `plain` form."""
    values = {f.name: getattr(owner, f.name) for f in fields(owner)}
    return {name: plain(v) for name, v in values.items() if v is not None or name not in LATER}


def plain(value: Any) -> Any:
    """A field as JSON can hold it: parts as tables with their kind first, tuples as lists.

    Raises:
        InputError: for what no file can hold.
    """
    if isinstance(value, Ranges):
        return value.table()
    if is_dataclass(value) and not isinstance(value, type):
        return {"kind": kind_of(value)} | plain_fields(value)
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(f"{show(value)} cannot be written to a file: expected numbers, words or lists")


# Parts of a Hardware as one argument of a command line: `gamma:sigma=0.3`, `offset:levels=16`.
#
# A part is `kind` or `kind:key=value,key=value`. A value is a decimal number, `none`, a word, or, for a list, numbers
# separated by slashes: `polynomial:coefficients=3e-7/1.6e-5,reference=4e-5`.


# Python's own float() would also take 1_000, nan and other scripts' digits
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,4})?")


def from_text(family: str, text: str) -> Any:
    """The part of Hardware that `text` describes.

    Args:
        family: a part of Hardware: "mapping", "drift", "programming", "stuck", "dac", "adc", ...
        text: `kind:key=value,...`, `package.module:Class,key=value,...` for a drift law or programming noise of
            your own (the module is imported), or "none" for an ideal part.

    Returns:
        The part; None for "none".

    Raises:
        InputError: naming the full key, what was given, and what is allowed.

    >>> from_text("drift", "gamma:sigma=0.3")
    GammaDrift(sigma=0.3)
    """
    if family not in FAMILIES or family == "ranges":  # ranges are a table for each layer
        raise InputError(unknown("the part", family, [name for name in FAMILIES if name != "ranges"]))
    if not isinstance(text, str):
        raise InputError(f"{family}={show(text)}: expected kind:key=value,key=value")
    if text.strip() == "none" and FAMILIES[family].optional:
        return None
    kind, colon, rest = (piece.strip() for piece in text.partition(":"))
    kinds = FAMILIES[family].kinds
    first, comma, others = (piece.strip() for piece in rest.partition(","))
    if FAMILIES[family].extensible and kind not in kinds and _PATH.fullmatch(f"{kind}:{first}"):
        cls = part_class(family, f"{kind}:{first}", trust_code=True)
        colon, rest = comma, others
    elif kind in kinds:
        cls = kinds[kind]
    else:
        raise InputError(unknown(f"the {family}", kind, kinds))
    lists = {name for name, annotation in field_types(cls).items() if get_origin(annotation) is tuple}
    table: dict[str, Any] = {}
    for piece in rest.split(",") if colon else []:
        key, equals, value = (part.strip() for part in piece.partition("="))
        if not (key and equals and value):
            raise InputError(f"{family} {show(text)}: expected kind:key=value,key=value")
        if key in table:
            raise InputError(f"{family} {show(text)}: the key {show(key)} is given twice")
        table[key] = [parse_value(v) for v in value.split("/")] if key in lists else parse_value(value)
    return build(cls, table, f"{family}.")


def forms(family: str) -> tuple[tuple[str, str], ...]:
    """Every form that `from_text` takes, each with the first line of its class's docstring.

    A key in brackets may be left out.

    >>> forms("drift")[0][0]
    'lognormal:sigma=NUMBER'
    """
    listed = []
    for kind, cls in FAMILIES[family].kinds.items():
        types = field_types(cls)
        keys = [(f"{f.name}={_placeholder(types[f.name])}", _required(f)) for f in fields(cls)]
        text = ",".join(key if needed else f"[{key}]" for key, needed in keys)
        listed.append((f"{kind}:{text}", (cls.__doc__ or "").strip().partition("\n")[0]))
    return tuple(listed)


def _placeholder(annotation: Any) -> str:
    """The placeholder of a field in help texts: NUMBER, INTEGER, NUMBER/NUMBER/..., or the allowed words."""
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    if get_origin(annotation) is tuple:
        return "NUMBER/NUMBER/..."
    simple = {float: "NUMBER", int: "INTEGER", type(None): "none"}
    members = get_args(annotation)
    if any(get_origin(member) is Literal for member in members):  # left out where it is none
        members = tuple(member for member in members if member is not type(None))
    return simple.get(annotation) or "|".join(map(_placeholder, members))


def parse_value(text: str) -> Any:
    """One value of a text: an integer, a number, None for `none`, or a word."""
    if text == "none":
        return None
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text


# Dictionaries, JSON, TOML and files.
#
# Reading is strict: an unknown key, a string in place of a number, true in place of 1, NaN and a value out of range
# are refused with one sentence that names the full key and what is allowed. Keys left out take the defaults of
# `Hardware`. TOML has no null, so fields that are None are left out.


LIMIT = 2**16
"""Largest size of a hardware file in bytes; typical files have about 1000."""


def to_dict(hardware: "Hardware") -> dict[str, Any]:
    """Every field, in the order of the dataclass, as JSON-able values; parts carry their `kind`.

    Converters, read noise, wires, ranges and cell_bits are left out where they are None: a design without them has
    the dictionary, and so the identity in results, that it had before they existed.

    Equal designs give equal dictionaries, and `from_dict` gives back an equal design.
    """
    return plain_fields(hardware)


def to_json(hardware: "Hardware") -> str:
    """The design as JSON, one key per line."""
    return json.dumps(to_dict(hardware), indent=2, allow_nan=False)


def to_toml(hardware: "Hardware") -> str:
    """The design as TOML; fields that are None are left out."""
    return dump_toml(to_dict(hardware))


def dump_toml(table: dict[str, Any]) -> str:
    """A table as TOML, without the keys that are None."""
    import tomli_w

    return tomli_w.dumps(_without_none(table))


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        InputError: if it is not TOML, names a key twice, or is nested too deeply.
    """
    return _parsed(tomllib.loads, text, source, "TOML")


def parse_hardware_json(text: str, source: str) -> Any:
    """The content of a JSON text; see `parse_toml`."""
    return _parsed(lambda text: parse_json(text, _once), text, source, "JSON")


PARSERS: dict[str, Callable[[str, str], Any]] = {".toml": parse_toml, ".json": parse_hardware_json}
"""Readers of hardware files by file name extension."""


def read_table(path: str | os.PathLike[str]) -> tuple[Any, str]:
    """The content of a .toml or .json file, and its name as error messages show it.

    Raises:
        InputError: if the file cannot be read.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"path={show(path)}: expected the path of a .toml or .json file")
    path = Path(path)
    source = _name(path)
    if path.suffix.lower() not in PARSERS:
        raise InputError(f"{source}: a hardware file ends in .toml or .json")
    return PARSERS[path.suffix.lower()](read_text(path), source), source


def read_text(path: Path) -> str:
    """The UTF-8 text of a small regular file.

    Raises:
        InputError: as `check_regular`, or if it cannot be read, has more than LIMIT bytes or is not text.
    """
    source = _name(path)
    check_regular(path, "a .toml or .json file")
    try:
        with open(path, "rb") as file:
            data = file.read(LIMIT + 1)
    except OSError as error:
        raise InputError(f"{source} cannot be read ({reason(error)}): check its permissions") from None
    if len(data) > LIMIT:
        raise InputError(f"{source} has more than {LIMIT} bytes: it is not a hardware file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: byte {error.start} is not UTF-8 text: is it a hardware file?") from None


def _name(path: Path) -> str:
    return str(path) if str(path).isprintable() else show(str(path))


def _parsed(parse: Callable[[str], Any], text: str, source: str, language: str) -> Any:
    try:
        value = parse(text)
        check_depth(value)  # dotted TOML keys nest without recursion in the parser
        return value
    except RecursionError:
        raise InputError(f"{source}: the {language} is nested too deeply for a hardware file") from None
    except ValueError as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{source}: the {language} cannot be read: {why}") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"the key {show(key)} is given twice")
        table[key] = value
    return table


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in table.items() if value is not None}
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in kept.items()}


# Designs with some values replaced by name, for presets, files and command-line options.


MAPPING_KEYS = ("g_min", "g_max", "levels", "scale_per", "clip", "copies", "cell_bits")

PERIPHERY = {
    "dac_bits": ("dac", "bits"),
    "dac_range": ("dac", "range"),
    "adc_bits": ("adc", "bits"),
    "adc_range": ("adc", "range"),
    "adc_per": ("adc", "per"),
}
"""Overrides of one field of a converter, which is added if the design has none."""

FLAT = (
    *MAPPING_KEYS, "sigma", "time", "programming_sigma", "stuck_off", "stuck_on",
    *PERIPHERY, "read_noise_sigma", "wire_ohm",
)  # fmt: skip
"""The names that `override` takes in addition to the fields of Hardware."""

SETS = {
    "drift": "drift",
    "sigma": "drift",
    "programming": "programming",
    "programming_sigma": "programming",
    "read_noise": "read_noise",
    "read_noise_sigma": "read_noise",
    "wires": "wires",
    "wire_ohm": "wires",
}
"""Overrides that replace a whole part: two of the same part contradict each other."""

RANGED = ("mapping", "tile", "wires", "dac", "adc")
"""The fields that change the currents: ranges calibrated with other values do not fit."""


def overrides(hardware: "Hardware") -> tuple[str, ...]:
    """The names that `override` takes."""
    return (*(f.name for f in fields(hardware)), *FLAT)


def override(hardware: "Hardware", **flat: Any) -> "Hardware":
    """`hardware` with values replaced.

    Its `ranges` were calibrated with its mapping, tiles, wires and converters: where one of these changes and no
    `ranges` are given, they are dropped (`dropped_ranges` says so), to be calibrated again.

    Args:
        hardware: the design.
        flat: fields of Hardware, which come first, and these, which act on what is then there:

            * g_min, g_max (S), levels, scale_per, clip, copies, cell_bits: of the mapping;
            * sigma: log-normal drift with this sigma of ln g, in place of any drift; None: none;
            * time: seconds since programming, where the drift law has a time;
            * programming_sigma: constant programming noise, a fraction of g_max; None: none;
            * stuck_off, stuck_on: probabilities;
            * dac_bits, dac_range, adc_bits, adc_range, adc_per: of the converters, which a design without
              them gets with these values;
            * read_noise_sigma: Gaussian read noise, a fraction of g_max; None: none;
            * wire_ohm: ohm per wire segment, of word and bit lines; None: ideal wires.

    Raises:
        InputError: for an unknown name, an impossible value, or two overrides of the same thing.

    >>> from crossbar_sim import Hardware
    >>> override(Hardware(), sigma=0.6, copies=4).mapping.copies
    4
    """
    for name in flat:
        if name not in (known := overrides(hardware)):
            raise InputError(unknown("the override", name, known))
    check_conflicts(flat, SETS)
    before = hardware
    hardware = replace(hardware, **{k: v for k, v in flat.items() if k not in FLAT})
    changes: dict[str, Any] = {}
    of_mapping: dict[str, Any] = {k: v for k, v in flat.items() if k in MAPPING_KEYS}
    if of_mapping:
        changes["mapping"] = replace(hardware.mapping, **of_mapping)
    if "sigma" in flat:
        changes["drift"] = None if flat["sigma"] is None else LogNormalDrift(flat["sigma"])
    if "time" in flat:
        changes["drift"] = _at_time(changes.get("drift", hardware.drift), flat["time"])
    if "programming_sigma" in flat:
        sigma = flat["programming_sigma"]
        changes["programming"] = None if sigma is None else ProgrammingNoise(sigma)
    stuck = {key.removeprefix("stuck_"): flat[key] for key in ("stuck_off", "stuck_on") if key in flat}
    if stuck:
        changes["stuck"] = replace(hardware.stuck or StuckCells(), **stuck)
    for part, cls in (("dac", DAC), ("adc", ADC)):
        of_part = {
            field: flat[key] for key, (owner, field) in PERIPHERY.items() if owner == part and key in flat
        }
        if of_part:
            changes[part] = _with(changes.get(part, getattr(hardware, part)), cls, of_part)
    if "read_noise_sigma" in flat:
        sigma = flat["read_noise_sigma"]
        changes["read_noise"] = None if sigma is None else GaussianReadNoise(sigma)
    if "wire_ohm" in flat:
        ohm = flat["wire_ohm"]
        changes["wires"] = None if ohm is None else Wires(ohm, ohm)
    if "ranges" not in flat and _ranged(replace(hardware, **changes), before):
        changes["ranges"] = None
    return replace(hardware, **changes)


def dropped_ranges(before: "Hardware", after: "Hardware") -> tuple[str, ...]:
    """A warning if `override` made `after` from `before` and dropped its ranges."""
    if before.ranges is None or after.ranges is not None:
        return ()
    return (
        f"the design's converter ranges were calibrated with another {' and '.join(_ranged(after, before))}: they are "
        "left out, and calibrated again for a converter whose range is 'calibrated'",
    )


def _ranged(one: "Hardware", other: "Hardware") -> list[str]:
    """The fields of `RANGED` in which two designs differ."""
    return [name for name in RANGED if getattr(one, name) != getattr(other, name)]


def _with(part: Any, cls: Any, values: dict[str, Any]) -> Any:
    """A converter with values replaced, or a new one; errors name the converter."""
    try:
        return cls(**values) if part is None else replace(part, **values)
    except InputError as error:
        raise InputError(f"{cls.kind}.{error}") from None


def check_conflicts(names: Iterable[str], sets: dict[str, str]) -> None:
    """Refuse two overrides of the same part: one would have no effect.

    Args:
        names: the overrides given.
        sets: the part that each of them replaces, where it replaces one.

    Raises:
        InputError: naming both.
    """
    seen: dict[str, str] = {}
    for name in names:
        part = sets.get(name)
        if part in seen:
            raise InputError(f"{seen[part]} and {name} both set the {part}: give one of them")
        if part is not None:
            seen[part] = name


def at_sigma(hardware: "Hardware", sigma: float) -> "Hardware":
    """`hardware` at one point of a sweep: its drift law with this sigma; log-normal drift if it has no drift.

    Raises:
        InputError: if the drift law has no sigma, or not this one.
    """
    drift: Any = hardware.drift
    if drift is None:
        return replace(hardware, drift=LogNormalDrift(sigma))
    if not any(f.name == "sigma" for f in fields(drift)):
        timed = any(f.name == "time" for f in fields(drift))
        raise InputError(
            f"a sweep varies sigma, but the design has {drift.kind} drift, which has no sigma: deploy simulates it "
            f"as it is{' (and at any --time)' if timed else ''}; or sweep another law, such as --drift "
            "lognormal:sigma=0"
        )
    return replace(hardware, drift=replace(drift, sigma=sigma))


def is_deterministic(hardware: "Hardware") -> bool:
    """Whether all chips of the design are identical: no part of it is random."""
    drift, adc = hardware.drift, hardware.adc
    parts = (hardware.programming, hardware.stuck, hardware.read_noise)
    equal = adc is None or (adc.gain_sigma == 0 and adc.offset_sigma == 0)
    return (drift is None or drift.is_deterministic) and equal and all(part is None for part in parts)


def _at_time(drift: Any, time: object) -> Any:
    if drift is not None and any(f.name == "time" for f in fields(drift)):
        return replace(drift, time=time)
    law = "no drift" if drift is None else f"{drift.kind} drift"
    raise InputError(
        f"time={show(time)} has no effect: the design has {law}; "
        "laws with a time are retention, relaxation and measured_relaxation"
    )
