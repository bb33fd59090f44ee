"""Where trials run: in this process or on Dask workers. The results are the same."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from crossbar_sim.crossbar import threads
from crossbar_sim.nn.pickling import packed, unpacked
from crossbar_sim.robustness.cluster import Futures, cluster

KEPT = "the trials that are done are kept in the study file, if one was given"


class Workers(Protocol):
    """Calls a function on several items at a time."""

    def run(
        self, function: Callable[..., Any], items: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any, float]]:
        """(position of the item, the function's result, seconds), in order of completion."""


class LocalWorkers:
    """Runs one call after another in this process."""

    def run(
        self, function: Callable[..., Any], items: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any, float]]:
        """See `Workers`."""
        for i, item in enumerate(items):
            found, seconds = timed(function, item)
            yield i, found, seconds


class DaskWorkers:
    """Runs calls on the workers of a Dask client. The function is sent once, with its data."""

    def __init__(self, client: Any, where: str) -> None:
        self.client = client
        self.futures = Futures(client, where, KEPT)
        self.sent: tuple[Callable[..., Any], Any] | None = None

    def run(
        self, function: Callable[..., Any], items: Sequence[tuple[Any, ...]]
    ) -> Iterator[tuple[int, Any, float]]:
        """See `Workers`.

        Raises:
            InputError: if the function cannot be sent, scheduler or workers are lost, or they die one after the other.
        """
        places: dict[Any, int] = {}
        try:
            with self.futures.reached():
                if self.sent is None or self.sent[0] is not function:
                    self.sent = function, self.client.submit(unpacked, packed(function), pure=False)
                places = {
                    self.client.submit(_call, self.sent[1], item, pure=False): i
                    for i, item in enumerate(items)
                }
            for future in self.futures.finished(list(places)):
                found, seconds = self.futures.result(future, "one trial")
                yield places.pop(future), found, seconds
        finally:
            with suppress(Exception):  # a scheduler that is lost needs no telling
                self.client.cancel(list(places))


@contextmanager
def workers_of(workers: int | None, scheduler: str | None) -> Iterator[Workers]:
    """This process, a number of local processes, or the workers of a Dask scheduler.

    Raises:
        InputError: as `cluster`.
    """
    if workers is None and scheduler is None:
        yield LocalWorkers()
    else:
        with cluster(workers, scheduler) as found:
            yield DaskWorkers(found.client, found.where)


def timed(function: Callable[..., Any], item: tuple[Any, ...]) -> tuple[Any, float]:
    """The function's result and the seconds that it took."""
    began = time.perf_counter()
    found = function(*item)
    return found, time.perf_counter() - began


def _call(function: Callable[..., Any], item: tuple[Any, ...]) -> tuple[Any, float]:
    """On a worker: one trial."""
    threads.set_threads(1)  # the machine is shared by its workers
    return timed(function, item)
