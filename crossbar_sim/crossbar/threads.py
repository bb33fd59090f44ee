"""Work split over threads in fixed chunks: the split never depends on the number of threads.

The kernels release the GIL, so that Python threads run them at the same time. There are many small chunks in place
of one share per thread, so that a stalled thread delays one chunk only.
"""

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from crossbar_sim.errors import InputError

CHUNK = 1 << 16
"""Cells per chunk, a multiple of 256: its arrays (256 KiB each) stay in the second-level cache."""

T = TypeVar("T")


class _Pool:
    """The process's threads: created when first needed, and again in a forked child."""

    def __init__(self) -> None:
        self.count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.executor: ThreadPoolExecutor | None = None
        self.process = -1
        self.inside = threading.local()


_pool = _Pool()


def set_threads(count: int) -> None:
    """Use `count` threads from now on; results do not depend on it.

    Raises:
        InputError: if count < 1.
    """
    if not count >= 1:
        raise InputError(f"threads={count}: at least one thread is needed")
    if _pool.executor is not None:
        _pool.executor.shutdown()
    _pool.executor, _pool.count = None, int(count)


def threads() -> int:
    """The number of threads in use."""
    return _pool.count


def run(function: Callable[[T], object], items: Iterable[T]) -> None:
    """Call `function` on every item, on all threads; the first error is raised after all have ended.

    Calls from inside such a call run in place: a thread never waits for its own pool.
    """
    work = list(items)
    if _pool.count == 1 or len(work) < 2 or getattr(_pool.inside, "yes", False):
        for item in work:
            function(item)
        return
    if _pool.executor is None or _pool.process != os.getpid():
        _pool.executor, _pool.process = ThreadPoolExecutor(_pool.count, "crossbar"), os.getpid()

    def call(item: T) -> None:
        _pool.inside.yes = True
        function(item)

    futures = [_pool.executor.submit(call, item) for item in work]
    errors = [future.exception() for future in futures]
    for error in errors:
        if error is not None:
            raise error


@contextmanager
def in_place() -> Iterator[None]:
    """Inside, `run` works on the calling thread alone."""
    before = getattr(_pool.inside, "yes", False)
    _pool.inside.yes = True
    try:
        yield
    finally:
        _pool.inside.yes = before


def chunks(n: int, size: int = CHUNK) -> list[slice]:
    """0 .. n cut into slices of `size`."""
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]
