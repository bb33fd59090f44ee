"""Parts of a Hardware in one word of a command line: `gamma:sigma=0.3`, `offset:levels=16`.

A part is `kind` or `kind:key=value,key=value`. A value is a decimal number, `none`, a word, or for
a list numbers joined by slashes: `polynomial:coefficients=3e-7/1.6e-5,reference=4e-5`.
"""

import re
from dataclasses import MISSING, fields
from typing import Any, Literal, get_args, get_origin

from crossbar_sim.crossbar.checks import show, unknown
from crossbar_sim.crossbar.config_parts import build
from crossbar_sim.crossbar.devices import PolynomialNoise, ProgrammingNoise
from crossbar_sim.crossbar.families import FAMILIES
from crossbar_sim.crossbar.law import Law
from crossbar_sim.crossbar.mapping import Mapping
from crossbar_sim.errors import InputError

# Python's own float() would also take 1_000, nan and other scripts' digits
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,4})?")


def from_text(family: str, text: str) -> Any:
    """The part of Hardware that `text` describes.

    Args:
        family: a part of Hardware: "mapping", "drift", "programming", "stuck", "dac", "adc", ...
        text: `kind:key=value,...`, or "none" for an ideal part.

    Returns:
        A mapping, drift law, programming noise or stuck cells; None for "none".

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
    if kind not in kinds:
        raise InputError(unknown(f"the {family}", kind, kinds))
    lists = {f.name for f in fields(kinds[kind]) if get_origin(f.type) is tuple}
    table: dict[str, Any] = {}
    for piece in rest.split(",") if colon else []:
        key, equals, value = (part.strip() for part in piece.partition("="))
        if not (key and equals and value):
            raise InputError(f"{family} {show(text)}: expected kind:key=value,key=value")
        if key in table:
            raise InputError(f"{family} {show(text)}: the key {show(key)} is given twice")
        table[key] = [_value(v) for v in value.split("/")] if key in lists else _value(value)
    return build(kinds[kind], table, f"{family}.")


def law_from_text(text: str) -> Law | None:
    """The drift law of `--drift`; see `from_text`."""
    law: Law | None = from_text("drift", text)
    return law


def mapping_from_text(text: str) -> Mapping:
    """The mapping of `--mapping`; see `from_text`."""
    mapping: Mapping = from_text("mapping", text)
    return mapping


def programming_from_text(text: str) -> ProgrammingNoise | PolynomialNoise | None:
    """The noise of `--programming`; see `from_text`."""
    noise: ProgrammingNoise | PolynomialNoise | None = from_text("programming", text)
    return noise


def forms(family: str) -> tuple[tuple[str, str], ...]:
    """Every form that `from_text` takes, each with the first line of its class's docstring.

    A key in brackets may be left out.

    >>> forms("drift")[0][0]
    'lognormal:sigma=NUMBER'
    """
    listed = []
    for kind, cls in FAMILIES[family].kinds.items():
        keys = [(f"{f.name}={_placeholder(f.type)}", f.default is MISSING) for f in fields(cls)]
        text = ",".join(key if needed else f"[{key}]" for key, needed in keys)
        listed.append((f"{kind}:{text}", (cls.__doc__ or "").strip().partition("\n")[0]))
    return tuple(listed)


def _placeholder(annotation: Any) -> str:
    """The metavariable of a field: NUMBER, INTEGER, NUMBER/NUMBER/..., or the allowed words."""
    if get_origin(annotation) is Literal:
        return "|".join(get_args(annotation))
    if get_origin(annotation) is tuple:
        return "NUMBER/NUMBER/..."
    simple = {float: "NUMBER", int: "INTEGER", type(None): "none"}
    members = get_args(annotation)
    if any(get_origin(member) is Literal for member in members):  # left out where it is none
        members = tuple(member for member in members if member is not type(None))
    return simple.get(annotation) or "|".join(map(_placeholder, members))


def _value(text: str) -> Any:
    if text == "none":
        return None
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else text
