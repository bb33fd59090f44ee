"""Numbers and names as text: digits from the interval, shortened names, and HTML that escapes them."""

import base64
import hashlib
import html
import json
import math
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderHook, RenderResult
from rich.segment import Segment

from crossbar_sim.robustness.deploy import Deployment, LayerReport
from crossbar_sim.robustness.statistics import Summary, summarise
from crossbar_sim.text import visible as visible
from crossbar_sim.text import visible_lines

# How numbers and names are put: digits from the interval, names shortened, characters of the encoding.


_ASCII = {"µ": "u", "×": "x", "±": "+-", "…": "~", "█": "#"} | dict.fromkeys("▉▊▋▌", "#")
_ASCII |= dict.fromkeys("▍▎▏", "-")


@dataclass(frozen=True)
class Measure:
    """How the main score is called, and which way it counts: an error is shown as the error it is."""

    name: str
    sign: int
    answer: str
    passing: str
    loss: str


MEASURES = {
    "accuracy": Measure(
        "accuracy", 1, "On {chips} the model keeps {mean} of {what} right{ci}, from {clean} clean.",
        "reach", "drop",
    ),
    "agreement": Measure(
        "agreement with the clean model", 1,
        "On {chips} the model decides as the clean model does on {mean} of {what}{ci}. "
        "There are no labels: this is agreement with the clean model, not accuracy.",
        "agree on at least", "drop",
    ),
    "output_error": Measure(
        "relative output error", -1,
        "On {chips} the outputs differ from the clean model's by {mean} of their size{ci}. "
        "There are no labels: this is the relative output error, not accuracy.",
        "have an error of at most", "error",
    ),
    "map": Measure(
        "mAP@[.5:.95]", 1, "On {chips} the mean average precision on {what} is {mean}{ci}, from {clean} clean.",
        "reach", "drop",
    ),
    "map50": Measure(
        "mAP@.5", 1, "On {chips} the mean average precision on {what} is {mean}{ci}, from {clean} clean.",
        "reach", "drop",
    ),
}  # fmt: skip


def oriented(deployment: Deployment) -> Summary:
    """The main score over chips as people read it: an error is positive, and its `min` is the best chip."""
    sign = MEASURES[deployment.metric].sign
    return summarise(sign * score.value(deployment.metric) for score in deployment.scores)


def decimals(half: float | None) -> int:
    """Digits after the point of a per cent figure known to +- half: two digits of half, 0 to 3 decimals."""
    if not half:
        return 1
    return min(max(1 - math.floor(math.log10(100 * half)), 0), 3)


def fixed(share: float, digits: int) -> str:
    """A share in per cent, without the unit; never minus zero."""
    text = f"{100 * share:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text


def digits_of(summary: Summary) -> int:
    """The decimals that its interval leaves sensible; one where there is no interval."""
    return decimals((summary.ci95[1] - summary.ci95[0]) / 2 if summary.ci95 else None)


def limit_text(limit: float, digits: int) -> str:
    """A threshold in per cent with `digits` decimals, or as many as it needs (up to two)."""
    needed = len(f"{100 * limit:.2f}".rstrip("0").partition(".")[2])
    return f"{fixed(limit, max(digits, needed))} %"


def counted(count: int, what: str) -> str:
    """`1 chip`, `2,000 chips`, `0 chips`."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def shorten(names: Sequence[str], width: int) -> list[str]:
    """Names longer than `width` with the middle of their long parts left out, so that layer numbers stay.

    A name that would come to look like another one is given whole.
    """
    longest = max((len(part) for name in names for part in name.split(".")), default=0)
    cut = list(names)
    for limit in range(longest, 4, -1):
        if max(map(len, cut), default=0) <= width:
            break
        parts = ((name, name.split(".")) for name in names)
        cut = [n if len(n) <= width else ".".join(_middle(p, limit) for p in ps) for n, ps in parts]
    cut = [_middle(name, width) for name in cut]
    return [short if cut.count(short) == 1 else name for short, name in zip(cut, names, strict=True)]


def fit(names: Sequence[str], width: int) -> list[str]:
    """Names that a chart has room for, each of them once: those that `shorten` leaves whole are cut and numbered."""
    cut = shorten(names, width)
    short = [name if len(name) <= width else _middle(name, width) for name in cut]
    return [name if short.count(name) == 1 else f"{name} #{i + 1}" for i, name in enumerate(short)]


def _middle(text: str, width: int) -> str:
    head = (width - 1) // 2
    return text if len(text) <= width else text[:head] + "…" + text[len(text) - (width - 1 - head) :]


def loss(report: LayerReport) -> float:
    """What the layer costs alone, for sorting; unmeasured last."""
    return report.sensitivity.drop.mean if report.sensitivity else -math.inf


def filled(text: str, width: int, indent: int = 0) -> str:
    """Wrapped to `width`, all lines but the first indented; "82.3 %" stays together."""
    kept = text.replace(" %", "\xa0%")
    lines = textwrap.wrap(kept, max(width - indent, 20), break_on_hyphens=False)
    return ("\n" + " " * indent).join(lines).replace("\xa0", " ")


class Pen:
    """Makes text that a console of this encoding can print."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        try:
            "".join(_ASCII).encode(encoding)
            self.table: dict[int, str] = {}
        except (UnicodeEncodeError, LookupError):
            self.table = str.maketrans(_ASCII)

    def __call__(self, text: str) -> str:
        """The text in characters of the encoding, control characters made visible."""
        known = "\n".join(map(visible, text.translate(self.table).split("\n")))
        try:
            return known.encode(self.encoding, "backslashreplace").decode(self.encoding)
        except LookupError:
            return known.encode("ascii", "backslashreplace").decode("ascii")


def terminal(stderr: bool = False) -> Console:
    """A console for names of layers, models and data sets, which come from files and may hold anything.

    Brackets in a text are no markup, and what a terminal might obey (escape sequences, marks that turn the direction of
    writing) is written out, whatever prints it.
    """
    console = Console(stderr=stderr, highlight=False, markup=False, emoji=False)
    console.push_render_hook(_Visible())
    return console


class _Visible(RenderHook):
    def process_renderables(self, renderables: list[Any]) -> list[Any]:
        """See `RenderHook`."""
        return [_Written(renderable) for renderable in renderables]


@dataclass(frozen=True)
class _Written:
    """What another renderable prints, made visible. Rich's own colours are no characters yet."""

    renderable: Any

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.renderable, options):
            yield segment if segment.control else Segment(visible_lines(segment.text), segment.style)


def say(console: Console, text: str, style: str = "") -> None:
    """One line as it is: not wrapped, so that a path in it can be copied; visible on any terminal."""
    encoding = console.encoding
    console.print(
        visible(text).encode(encoding, "backslashreplace").decode(encoding),
        style=style, markup=False, soft_wrap=True,
    )  # fmt: skip


# HTML from text that nobody vouches for: labels and file names are made harmless here, and nowhere else.


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
