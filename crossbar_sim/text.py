"""Text from files, fit to be shown: names of layers and labels may hold anything."""

from typing import Any

_FORMULA = ("=", "+", "-", "@", "|", "%")
"""With these a spreadsheet starts a formula."""


def visible(text: str) -> str:
    """The text with what a terminal might obey written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def spreadsheet_cell(value: Any) -> Any:
    """A value for a CSV file: text is visible, and begins with an apostrophe where it would be run as a formula."""
    if not isinstance(value, str):
        return value
    text = visible(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text
