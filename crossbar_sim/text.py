"""Text from files, fit to be shown: names of layers and labels may hold anything."""


def visible(text: str) -> str:
    """The text with what a terminal might obey written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
