"""How numbers and names are put: digits from the interval, names shortened, characters of the encoding."""

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderHook, RenderResult
from rich.segment import Segment

from crossbar_sim.robustness.deploy import Deployment, LayerReport
from crossbar_sim.robustness.statistics import Summary, summarise
from crossbar_sim.text import visible as visible
from crossbar_sim.text import visible_lines

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
