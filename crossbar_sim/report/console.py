"""Text and progress bars for terminals: any encoding, any width, and no escape sequences from names in files."""

import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType, RenderHook, RenderResult
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

from crossbar_sim.report.formatting import shorten
from crossbar_sim.text import visible, visible_lines

_ASCII = {"µ": "u", "×": "x", "±": "+-", "…": "~", "█": "#"} | dict.fromkeys("▉▊▋▌", "#")
_ASCII |= dict.fromkeys("▍▎▏", "-")


def filled(text: str, width: int, indent: int = 0) -> str:
    """Wrapped to `width`, all lines but the first indented; "82.3 %" stays on one line."""
    kept = text.replace(" %", "\xa0%")
    lines = textwrap.wrap(kept, max(width - indent, 20), break_on_hyphens=False)
    return ("\n" + " " * indent).join(lines).replace("\xa0", " ")


class Pen:
    """Converts text to characters that a console of this encoding can print."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        try:
            "".join(_ASCII).encode(encoding)
            self.table: dict[int, str] = {}
        except (UnicodeEncodeError, LookupError):
            self.table = str.maketrans(_ASCII)

    def __call__(self, text: str) -> str:
        """The text in characters of the encoding, control characters escaped."""
        known = visible_lines(text.translate(self.table))
        try:
            return known.encode(self.encoding, "backslashreplace").decode(self.encoding)
        except LookupError:
            return known.encode("ascii", "backslashreplace").decode("ascii")


def terminal(stderr: bool = False) -> Console:
    """A console that is safe for names of layers, models and data sets, which files may set to anything.

    Brackets in a text are not markup. Escape sequences and characters that change the direction of writing are
    escaped, whichever function prints them.
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
    """The output of another renderable with control characters escaped; Rich adds its colours afterwards."""

    renderable: Any

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for segment in console.render(self.renderable, options):
            yield segment if segment.control else Segment(visible_lines(segment.text), segment.style)


def say(console: Console, text: str, style: str = "") -> None:
    """Print one line without wrapping, so that a path in it can be copied; control characters are escaped."""
    encoding = console.encoding
    console.print(
        visible(text).encode(encoding, "backslashreplace").decode(encoding),
        style=style, markup=False, soft_wrap=True,
    )  # fmt: skip


def say_end(console: Console, warnings: tuple[str, ...], *written: str | None) -> None:
    """Print warnings, and the files that were written."""
    for warning in warnings:
        say(console, f"warning: {warning}", "yellow")
    for path in written:
        if path is not None and path != "-":
            say(console, f"wrote {path}")


PATIENCE = 1.0
"""Seconds of work before a progress bar appears."""


class _Bar(Progress):
    """A progress bar with a line of advice below it."""

    advice = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        """See `Progress`."""
        yield from super().get_renderables()
        if self.advice:
            yield Text(self.advice, "dim")


@contextmanager
def progress(console: Console) -> Iterator[Callable[[int, int, str], None]]:
    """Give a callback (done, total, what) that moves a bar, on a terminal and for work of over a second.

    Args:
        console: of standard error; the bar is gone at the end. A second line of `what` is shown below the bar.
    """
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda done, total, what: None
        return
    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
    )
    bar = _Bar(*columns, console=console, transient=True)
    task, pen, lock, over = (
        bar.add_task("clean model", total=None),
        Pen(console.encoding),
        threading.Lock(),
        False,
    )

    def begin() -> None:
        with lock:
            if not over:
                bar.start()

    def step(done: int, total: int, what: str) -> None:
        what, _, advice = what.partition("\n")
        bar.advice = pen(advice)
        bar.update(task, completed=done, total=total, description=pen(shorten([what], 36)[0]))

    timer = threading.Timer(PATIENCE, begin)
    timer.daemon = True
    timer.start()
    try:
        yield step
    finally:
        timer.cancel()
        with lock:
            over = True
            bar.stop()


def notebook_progress() -> Callable[[int, int, str], None] | None:
    """In a Jupyter notebook, a callback (done, total, what) that shows one line until the work is done."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if ipython is None or getattr(shell, "kernel", None) is None:
        return None
    line = ipython.display.display({"text/plain": "..."}, raw=True, display_id=True)
    shown = 0.0

    def step(done: int, total: int, what: str) -> None:
        nonlocal shown
        now = time.monotonic()
        if done >= total or now - shown > SHOWN_EVERY:
            shown = now
            text = "" if done >= total else f"{done} of {total}: {visible(what.replace(chr(10), '; '))}"
            line.update({"text/plain": text}, raw=True)

    return step


SHOWN_EVERY = 0.2
"""Seconds between two updates of a notebook's line."""
