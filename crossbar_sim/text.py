"""Text from files: fit to be shown, as names of layers and labels may hold anything; and JSON, read within bounds."""

import functools
import json
from collections.abc import Callable
from typing import Any

DEEPEST = 64
"""Levels of lists and tables in a file: far below the depth at which Python's own recursion ends."""

MOST = 1_000_000
"""Lists and tables in a file: real ones have some thousands."""

_FORMULA = ("=", "+", "-", "@", "|", "%")
"""With these a spreadsheet starts a formula."""


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


def visible(text: str) -> str:
    """The text with what a terminal might obey written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def visible_lines(text: str) -> str:
    """The same of a text of several lines."""
    return "\n".join(map(visible, text.split("\n")))


def spreadsheet_cell(value: Any) -> Any:
    """A value for a CSV file: text is visible, and begins with an apostrophe where it would be run as a formula."""
    return _text_cell(value) if isinstance(value, str) else value


@functools.lru_cache(64)  # a table has the same names in all its rows
def _text_cell(value: str) -> str:
    text = visible(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def parse_json(
    text: str | bytes,
    pairs: Callable[[list[tuple[str, Any]]], Any] | None = None,
    constant: Callable[[str], Any] | None = None,
) -> Any:
    """The value of a JSON text, as the standard has it: without NaN and infinities.

    Args:
        text: at most as long as the caller allows.
        pairs: makes an object of its (key, value) pairs; None: a dictionary.
        constant: makes a value of NaN, Infinity or -Infinity; None: they are refused.

    Raises:
        ValueError: if it is not JSON, or nested deeper than DEEPEST; the message is one line.
        TypeError: if it is not text.

    >>> parse_json('{"hidden": [64, 32]}')
    {'hidden': [64, 32]}
    """
    try:
        value = json.loads(text, object_pairs_hook=pairs, parse_constant=constant or refuse_constant)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    check_depth(value)
    return value


def check_depth(value: Any) -> None:
    """Refuse lists and tables that are nested deeper than DEEPEST, for which recursion would fail.

    A pickle can hold one list in many places: what would be more than MOST lists if it were written out is refused too.

    Raises:
        ValueError: if they are.
    """
    level, depth, count = [value], 0, 0
    while level:
        level = [item for item in level if isinstance(item, dict | list | tuple)]
        depth, count = depth + 1, count + len(level)
        if depth > DEEPEST + 1:
            raise ValueError(_TOO_DEEP)
        if count > MOST:
            raise ValueError(f"more than {MOST} lists and tables")
        level = [item for items in level for item in (items.values() if isinstance(items, dict) else items)]


_TOO_DEEP = f"nested too deeply (more than {DEEPEST} levels)"


def refuse_constant(name: str) -> Any:
    """Raise ValueError for a word that is not a number of JSON: NaN, Infinity or -Infinity."""
    raise ValueError(f"{name} is not a JSON number, expected a finite one")
