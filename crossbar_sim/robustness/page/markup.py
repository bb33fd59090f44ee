"""HTML from text that nobody vouches for: labels and file names are made harmless here, and nowhere else."""

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

from crossbar_sim.robustness.wording import visible


def text(value: object) -> str:
    """Any value as text of a page: no markup of its own, control characters written out."""
    return html.escape("\n".join(map(visible, str(value).split("\n"))))


def prose(value: object) -> str:
    """Text in which a number and its unit stay on one line."""
    return text(value).replace(" %", "&nbsp;%")


def tag(name: str, *inside: str, **attributes: object) -> str:
    """An element around parts that are markup already; `class_` and `for_` lose their underscore."""
    given = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{text(value)}"')
        for key, value in attributes.items()
        if value not in (None, False)
    )
    return f"<{name}{given}>{''.join(inside)}</{name}>"


def table(
    caption: str, header: Sequence[str], groups: Iterable[tuple[str | None, Iterable[Sequence[str]]]]
) -> str:
    """A table of text; the first cell of a row is its heading.

    Args:
        caption: plain text.
        header: one cell per column.
        groups: (a heading over the group or None, rows).
    """
    bodies = []
    for title, rows in groups:
        lines = (
            []
            if title is None
            else [tag("tr", tag("th", text(title), colspan=len(header), scope="rowgroup"))]
        )
        for first, *others in rows:
            cells = "".join(tag("td", text(cell)) for cell in others)
            heading = tag("th", text(first), scope="row", class_="short" if len(first) <= 24 else None)
            lines.append(tag("tr", heading, cells))
        bodies.append(tag("tbody", *lines))
    head = tag("thead", tag("tr", *(tag("th", prose(cell), scope="col") for cell in header)))
    whole = tag("table", tag("caption", text(caption)) if caption else "", head, *bodies)
    # The page's script shows this line where the table is wider than the screen, and nowhere else.
    hint = tag("p", "This table is wider than the screen: scroll sideways.", class_="hint", hidden=True)
    # Focusable, so that it can be scrolled by keyboard where it is wider than the screen.
    return hint + tag("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption or "table")


def data_block(name: str, value: Any) -> str:
    """JSON that scripts read and that cannot end its own element: every <, > and & in it is an escape."""
    plain = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        plain = plain.replace(character, f"\\u{ord(character):04x}")
    return f'<script type="application/json" id="{text(name)}">{plain}</script>\n'


def script(source: str) -> tuple[str, str]:
    """(a script of ours, its hash for the policy). Line ends are those that the browser will hash."""
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    # In strings and regular expressions, the only places where a script can hold these, they mean the same.
    source = source.replace("</script", "<\\/script").replace("<!--", "\\x3c!--")
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return f"<script>{source}</script>\n", f"'sha256-{digest}'"


def policy(hashes: Iterable[str]) -> str:
    """The content security policy: these scripts, styles of the page, nothing from anywhere."""
    parts = (
        "default-src 'none'",
        f"script-src {' '.join(hashes)}",
        "style-src 'unsafe-inline'",  # marks and menus of the charts are styled where they stand
        "img-src data: blob:",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return f'<meta http-equiv="Content-Security-Policy" content="{"; ".join(parts)}">\n'
