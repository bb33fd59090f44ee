"""`Hardware` to and from dictionaries, JSON, TOML, files, and the words of a command line.

Reading is strict: a key that is not known, a string where a number belongs, true for 1, NaN, a
value out of range: each is refused with one sentence that names the full key and what is allowed.
Keys left out take the defaults of `Hardware`. In TOML, which has no null, what is None is left out.
"""

import json
import os
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crossbar_sim.crossbar.checks import show
from crossbar_sim.crossbar.config_parts import build, build_part, plain_fields
from crossbar_sim.crossbar.config_text import (
    forms,
    from_text,
    law_from_text,
    mapping_from_text,
    programming_from_text,
)
from crossbar_sim.crossbar.families import FAMILIES
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.errors import InputError
from crossbar_sim.text import check_depth, parse_json

__all__ = [
    "forms", "from_dict", "from_json", "from_text", "from_toml", "law_from_text", "load_hardware",
    "mapping_from_text", "parse_toml", "programming_from_text", "read_text", "to_dict", "to_json",
    "to_toml",
]  # fmt: skip

LIMIT = 2**16
"""Bytes of the largest hardware file read; real ones have about a thousand."""


def to_dict(hardware: Hardware) -> dict[str, Any]:
    """Every field, in the order of the dataclass, as JSON-able values; parts carry their `kind`.

    Converters, read noise, wires, ranges and cell_bits are left out where they are None: a design without them has
    the dictionary, and so the identity in results, that it had before they existed.

    Equal designs give equal dictionaries, and `from_dict` gives back an equal design.
    """
    return plain_fields(hardware)


def from_dict(data: object, source: str = "hardware") -> Hardware:
    """The design that a dictionary describes.

    Args:
        data: as `to_dict` makes it; keys may be left out.
        source: where it comes from (a file's name): the beginning of every error.

    Raises:
        InputError: naming the source, the full key, what was given, and what is allowed.
    """
    if not isinstance(data, dict):
        raise InputError(f"{source}: {show(data)} is no table of hardware keys such as drift = {{...}}")
    try:
        parts = {key: build_part(key, v) if key in FAMILIES else v for key, v in data.items()}
        hardware: Hardware = build(Hardware, parts, "")
    except InputError as error:
        raise InputError(f"{source}: {error}") from None
    return hardware


def to_json(hardware: Hardware) -> str:
    """The design as JSON, one key per line."""
    return json.dumps(to_dict(hardware), indent=2, allow_nan=False)


def from_json(text: str, source: str = "hardware") -> Hardware:
    """The design that a JSON text describes; see `from_dict`."""
    return from_dict(_parsed(_json, text, source), source)


def to_toml(hardware: Hardware) -> str:
    """The design as TOML; what is None is left out."""
    import tomli_w

    return tomli_w.dumps(_without_none(to_dict(hardware)))


def from_toml(text: str, source: str = "hardware") -> Hardware:
    """The design that a TOML text describes; see `from_dict`."""
    return from_dict(parse_toml(text, source), source)


def parse_toml(text: str, source: str) -> dict[str, Any]:
    """The tables of a TOML text.

    Raises:
        InputError: if it is no TOML, names a key twice, or is nested too deeply.
    """
    table: dict[str, Any] = _parsed(tomllib.loads, text, source)
    return table


def load_hardware(path: str | os.PathLike[str]) -> Hardware:
    """The design in a .toml or .json file.

    Raises:
        InputError: if the file cannot be read or its contents cannot be used; see `from_dict`.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(f"path={show(path)}: expected the path of a .toml or .json file")
    path = Path(path)
    source = _name(path)
    readers = {".toml": from_toml, ".json": from_json}
    if path.suffix.lower() not in readers:
        raise InputError(f"{source}: a hardware file ends in .toml or .json")
    return readers[path.suffix.lower()](read_text(path), source)


def read_text(path: Path) -> str:
    """The UTF-8 text of a small regular file.

    Raises:
        InputError: if it is missing, no regular file, out of reach, above LIMIT bytes or no text.
    """
    source = _name(path)
    try:
        mode = os.stat(path).st_mode
        if not stat.S_ISREG(mode):  # reading a pipe or a device may never end
            kind = "a folder" if stat.S_ISDIR(mode) else "no regular file"
            raise InputError(f"{source} is {kind}: give the path of a .toml or .json file")
        with open(path, "rb") as file:
            data = file.read(LIMIT + 1)
    except FileNotFoundError:
        raise InputError(f"{source}: there is no such file; check the path") from None
    except InputError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{source} cannot be read ({why}): check the path and its permissions") from None
    if len(data) > LIMIT:
        raise InputError(f"{source} has more than {LIMIT} bytes: it is no hardware file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{source}: byte {error.start} is no UTF-8 text: is it a hardware file?") from None


def _name(path: Path) -> str:
    return str(path) if str(path).isprintable() else show(str(path))


def _parsed(parse: Callable[[str], Any], text: str, source: str) -> Any:
    language = "JSON" if parse is _json else "TOML"
    try:
        value = parse(text)
        check_depth(value)  # the dots of a TOML key nest without recursion
        return value
    except RecursionError:
        raise InputError(f"{source}: the {language} is nested too deeply for a hardware file") from None
    except ValueError as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{source}: the {language} cannot be read: {why}") from None


def _json(text: str) -> Any:
    return parse_json(text, _once)


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
