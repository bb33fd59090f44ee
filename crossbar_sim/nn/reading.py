"""Which read of an array this is: what names its noise, whoever computes it and in whichever batches.

Inside `reading(first)` a forward is one pass over examples numbered from `first` on, and the reads of an array
within it are numbered from 0: so an evaluation's noise does not depend on blocks or threads. Outside, every product
is a new read, numbered from the moment that the chip was set.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crossbar_sim.nn.design import Design


class _Pass(threading.local):
    first: int | None = None
    counts: dict[str, int] | None = None


_pass = _Pass()


@contextmanager
def reading(first: int) -> Iterator[None]:
    """Inside, on this thread, examples are numbered from `first` on and reads from 0."""
    before = _pass.first, _pass.counts
    _pass.first, _pass.counts = first, {}
    try:
        yield
    finally:
        _pass.first, _pass.counts = before


def next_read(design: "Design", name: str) -> tuple[int, int]:
    """(event, number of the first example) of the read of the array called `name` that comes now."""
    counts = design.reads if _pass.counts is None else _pass.counts
    event = counts.get(name, 0)
    counts[name] = event + 1
    return event % 2**32, _pass.first or 0
