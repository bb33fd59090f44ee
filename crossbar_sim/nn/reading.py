"""Which read of an array this is: what names its noise, whoever computes it and in whichever batches.

Inside `reading(first, count)` a forward is one pass over `count` examples numbered from `first` on, and the reads of
an array within it are numbered from 0: so an evaluation's noise does not depend on blocks or threads. Outside, every
product is a new read, numbered from the moment that the chip was set.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crossbar_sim.nn.design import Design


class _Pass(threading.local):
    first: int | None = None
    count: int | None = None
    counts: dict[str, int] | None = None


_pass = _Pass()


@contextmanager
def reading(first: int, count: int | None = None) -> Iterator[None]:
    """Inside, on this thread, examples are numbered from `first` on and reads from 0.

    Args:
        first: the number of the first example.
        count: how many there are; None: as many as a product's first dimension says.
    """
    before = _pass.first, _pass.count, _pass.counts
    _pass.first, _pass.count, _pass.counts = first, count, {}
    try:
        yield
    finally:
        _pass.first, _pass.count, _pass.counts = before


def next_read(design: "Design", name: str, items: int, leading: int) -> tuple[int, int]:
    """(event, number of the first item) of the read of the array called `name` that comes now.

    Args:
        design, name: which array.
        items: what this read takes: input vectors of a linear layer, images of a convolution. Where they are a whole
            number for each example (a model may fold words or frames into the batch), that is how they are numbered.
        leading: the product's first dimension, taken for the examples where their number is not known or does not fit.
    """
    counts = design.reads if _pass.counts is None else _pass.counts
    event = counts.get(name, 0)
    counts[name] = event + 1
    examples = leading if not _pass.count or items % _pass.count else _pass.count
    return event % 2**32, (_pass.first or 0) * (items // max(examples, 1))
