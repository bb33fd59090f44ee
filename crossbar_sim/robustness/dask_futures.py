"""Waiting for what Dask workers were given to do, without waiting for ever: they, or their scheduler, may be lost."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from crossbar_sim.errors import InputError

WAIT = 60.0
"""Seconds for a scheduler's first worker to come, or for one to come back when all are lost."""

LOOK, CHECK = 0.02, 5.0
"""Seconds between two looks for what is done, and between two at the number of workers."""

ATTEMPTS = 20
"""Workers that may die over one piece of work before it is taken for the cause."""


class _Waiting(Exception):
    """A result is still to come."""


class Futures:
    """What a Dask client's workers do.

    Args:
        client: of `distributed`.
        where: what its scheduler is called in errors.
        kept: what is not lost with it, for errors too.
    """

    def __init__(self, client: Any, where: str, kept: str) -> None:
        self.client, self.where, self.kept = client, where, kept
        self.seen = self.checked = time.monotonic()  # a worker, and that there is one

    def finished(self, futures: list[Any]) -> Iterator[Any]:
        """The futures, as they are done.

        Raises:
            InputError: if the scheduler is lost, or all workers are and none comes back.
        """
        from distributed import as_completed

        waiting = as_completed(futures)
        self.seen = self.checked = time.monotonic()
        while not waiting.is_empty():
            if waiting.has_ready():
                yield from waiting.next_batch(block=False)
                self.seen = self.checked = time.monotonic()
            else:
                time.sleep(LOOK)
                self._look()

    def result(self, future: Any, what: str) -> Any:
        """What one that is done gave; what it raised, it raises here.

        Raises:
            InputError: if workers died over it, one after the other; and as `finished`.
        """
        from distributed.scheduler import KilledWorker

        while True:
            try:
                with self.reached(future):
                    return future.result(timeout=CHECK)
            except KilledWorker as error:
                raise InputError(
                    f"{ATTEMPTS} workers in turn died over {what}: is there enough memory on them? ({error})"
                ) from error
            except _Waiting:  # done, but lost with its worker before it came here: it is done again
                self._look()

    @contextmanager
    def reached(self, future: Any = None) -> Iterator[None]:
        """Say that the scheduler is lost where that is why a call failed; what the work itself raised passes."""
        from distributed import CancelledError
        from distributed.comm import CommClosedError

        try:
            yield
        except (CancelledError, CommClosedError, OSError) as error:  # TimeoutError is an OSError
            if future is not None and future.status == "error":
                raise
            if future is not None and future.status != "cancelled" and self._answers():
                raise _Waiting from None  # a worker is lost, or its result is late
            raise InputError(
                f"the Dask scheduler at {self.where} is lost: {self.kept}; run again to go on"
            ) from error

    def _look(self) -> None:
        """Now and then, see whether there is a worker; give up when there has been none for `WAIT` seconds."""
        if time.monotonic() - self.checked < CHECK:
            return
        with self.reached():
            there = bool(self.client.nthreads())
        self.checked = time.monotonic()
        if there:
            self.seen = self.checked
        elif self.checked - self.seen > WAIT:
            raise InputError(
                f"all workers of {self.where} are lost, and none has come for {WAIT:g} s: {self.kept}; "
                "start workers and run again"
            )

    def _answers(self) -> bool:
        """Whether the scheduler is there."""
        try:
            self.client.nthreads()
        except Exception:
            return False
        return bool(self.client.status == "running")
