"""From plain tables to dataclasses and back: what config.py and config_text.py share."""

from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin

from crossbar_sim.crossbar.checks import show, unknown
from crossbar_sim.crossbar.families import FAMILIES
from crossbar_sim.crossbar.ranges import Ranges
from crossbar_sim.errors import InputError

_WORDS = {
    float: "a finite number",
    int: "a whole number",
    type(None): "nothing",
    tuple[float, ...]: "a list of finite numbers",
    tuple[int, int]: "a list of two whole numbers",
}


@cache
def _adapter(annotation: Any) -> Any:
    from pydantic import TypeAdapter  # on first use: `crossbar-sim --help` must not wait for it

    return TypeAdapter(annotation, config={"strict": True, "allow_inf_nan": False})


def words(annotation: Any) -> str:
    """What a field of that annotation holds, for people."""
    if annotation in _WORDS:
        return _WORDS[annotation]
    if get_origin(annotation) is Literal:
        return f"one of {', '.join(map(repr, get_args(annotation)))}"
    return " or ".join(map(words, get_args(annotation))) or "another value"


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

    annotations: dict[str, Any] = {f.name: f.type for f in fields(cls)}
    for key in table:
        if key not in annotations:
            given = f"{where}{key}" if isinstance(key, str) else key
            raise InputError(unknown("the key", given, [f"{where}{name}" for name in annotations]))
    for field in fields(cls):
        if field.default is MISSING and field.name not in table:
            raise InputError(f"{where}{field.name} is missing: expected {words(field.type)}")
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


def build_part(name: str, table: object) -> Any:
    """The part of Hardware called `name` (see FAMILIES) from its table; `kind` says which class.

    Raises:
        InputError: as `build`, and for a missing or unknown kind.
    """
    family = FAMILIES[name]
    if table is None and family.optional:
        return None
    kinds = family.kinds
    known = ", ".join(kinds)
    if name == "ranges":
        return Ranges.from_table(table)
    if not isinstance(table, dict):
        raise InputError(f"{name}={show(table)}: expected a table with a kind, one of {known}")
    if "kind" not in table:
        raise InputError(f"{name}.kind is missing: expected one of {known}")
    kind = table["kind"]
    if not isinstance(kind, str) or kind not in kinds:
        raise InputError(unknown(f"the {name}.kind", kind, kinds))
    return build(kinds[kind], {k: v for k, v in table.items() if k != "kind"}, f"{name}.")


LATER = frozenset({"dac", "adc", "read_noise", "wires", "ranges", "cell_bits", "encoding"})
"""Fields that came after results had been kept: in no identity while they are None."""


def plain_fields(owner: Any) -> dict[str, Any]:
    """Every field of a dataclass by name, in `plain` form."""
    values = {f.name: getattr(owner, f.name) for f in fields(owner)}
    return {name: plain(v) for name, v in values.items() if v is not None or name not in LATER}


def plain(value: Any) -> Any:
    """The JSON-able form of a field: parts as tables with their kind first, tuples as lists.

    Raises:
        InputError: for what no file can hold.
    """
    if isinstance(value, Ranges):
        return value.table()
    if is_dataclass(value) and not isinstance(value, type):
        kind: dict[str, Any] = {"kind": getattr(value, "kind", type(value).__name__)}
        return kind | plain_fields(value)
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise InputError(f"{show(value)} cannot be written to a file: expected numbers, words or lists")
