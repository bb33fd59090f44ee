"""Blocks of chips on Dask workers: processes of this machine, or of a cluster.

A block that a lost worker was measuring is measured again by another: Dask does that for us, and since a trial is
a pure function of its place, it does not matter how often it is tried.
"""

import logging
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from numbers import Integral
from typing import Any

from crossbar_sim.crossbar import threads
from crossbar_sim.errors import InputError
from crossbar_sim.robustness.evaluator import Job, Subject
from crossbar_sim.robustness.local_workers import local_cluster
from crossbar_sim.robustness.runner import Progress, Work, naming, several
from crossbar_sim.store.records import Trial

BLOCKS = 8
"""Blocks per worker and curve: enough that none waits long at the end, or loses much when it dies."""

LARGEST = 64
"""Chips of a block at most."""

PATIENCE = "10s"
"""For a scheduler to answer."""

WAIT = 60.0
"""Seconds for a scheduler's first worker to come, or for one to come back when all are lost."""

LOOK, CHECK = 0.02, 5.0
"""Seconds between two looks for blocks that are done, and between two at the number of workers."""

ATTEMPTS = 20
"""Workers that may die over one block before it is taken for the cause."""


class _Waiting(Exception):
    """A block's result is still to come."""


class OnCluster:
    """An `Executor` on the workers of a Dask client.

    Args:
        client: of `distributed`.
        where: what its scheduler is called in errors.
    """

    def __init__(self, client: Any, where: str) -> None:
        self.client, self.where = client, where
        self.payloads: dict[str, Any] = {}
        self.seen = self.checked = time.monotonic()  # a worker, and that there is one

    def run(self, work: Sequence[Work], done: Callable[[Work, list[Trial]], None]) -> None:
        """See `Executor`.

        Raises:
            InputError: if a chip has no score, scheduler or workers are lost, or they die one after the other.
        """
        blocks: dict[Any, Work] = {}
        try:
            with self._reached():
                blocks = self._submitted(work)
            for future in self._finished(list(blocks)):
                with naming(blocks[future].task.label, several(work)):
                    found = self._result(future, blocks[future])
                done(blocks.pop(future), found)
                future.release()
        finally:
            with suppress(Exception):  # a scheduler that is lost needs no telling
                self.client.cancel(list(blocks))

    def _submitted(self, work: Sequence[Work]) -> dict[Any, Work]:
        blocks = {}
        workers = max(1, len(self.client.nthreads()))
        for item in work:
            for chips in [item.job.chips] if item.one else _blocks(item.job.chips, workers):
                job = Job(item.job.sigma, chips, item.job.images)
                blocks[self.client.submit(measure, self._payload(item), job, pure=False)] = item
        return blocks

    def _finished(self, futures: list[Any]) -> Iterator[Any]:
        """The blocks, as they are done."""
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

    def _look(self) -> None:
        """Now and then, see whether there is a worker; give up when there has been none for `WAIT` seconds."""
        if time.monotonic() - self.checked < CHECK:
            return
        with self._reached():
            there = bool(self.client.nthreads())
        self.checked = time.monotonic()
        if there:
            self.seen = self.checked
        elif self.checked - self.seen > WAIT:
            raise InputError(
                f"all workers of {self.where} are lost, and none has come for {WAIT:g} s: what was measured is kept; "
                "start workers and run again"
            )

    def _result(self, future: Any, item: Work) -> list[Trial]:
        from distributed.scheduler import KilledWorker

        while True:
            try:
                with self._reached(future):
                    found: list[Trial] = future.result(timeout=CHECK)
                    return found
            except KilledWorker as error:
                raise InputError(
                    f"{ATTEMPTS} workers in turn died over one block of {item.task.label}: is there enough memory on "
                    f"them? ({error})"
                ) from error
            except _Waiting:  # done, but lost with its worker before it came here: it is measured again
                self._look()

    @contextmanager
    def _reached(self, future: Any = None) -> Iterator[None]:
        """Say that the scheduler is lost where that is why a call failed; what a block itself raised passes."""
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
                f"the Dask scheduler at {self.where} is lost: what was measured is kept in the results file, if one "
                "was given; run again to go on"
            ) from error

    def _answers(self) -> bool:
        """Whether the scheduler is there."""
        try:
            self.client.nthreads()
        except Exception:
            return False
        return bool(self.client.status == "running")

    def _payload(self, item: Work) -> Any:
        """The subject on the workers, as the result of a task: Dask makes it anew where a worker took it along."""
        if item.task.id not in self.payloads:
            packed = pickle.dumps(item.subject, protocol=pickle.HIGHEST_PROTOCOL)
            self.payloads[item.task.id] = self.client.submit(unpack, packed, pure=False)
        return self.payloads[item.task.id]


def _blocks(chips: tuple[int, ...], workers: int) -> list[tuple[int, ...]]:
    size = min(LARGEST, max(1, len(chips) // (BLOCKS * workers) or 1))
    return [chips[i : i + size] for i in range(0, len(chips), size)]


def unpack(packed: bytes) -> Subject:
    """On a worker: the subject that was sent."""
    subject: Subject = pickle.loads(packed)
    return subject


def measure(subject: Subject, job: Job) -> list[Trial]:
    """On a worker: one block. Its evaluator stays with the subject from block to block."""
    threads.set_threads(1)  # the machine is shared by its workers
    return subject.evaluator.measure(job)


def check_cluster(workers: int | None, scheduler: str | None) -> None:
    """Refuse, before any work, what no cluster can be made of.

    Raises:
        InputError: if both are given, or there would be no worker.
    """
    if workers is not None and scheduler is not None:
        raise InputError(
            "workers (processes here) and scheduler (a cluster's address) exclude each other: give one"
        )
    if workers is not None and (
        isinstance(workers, bool) or not isinstance(workers, Integral) or workers < 1
    ):
        raise InputError(f"workers={workers!r}: at least one worker is needed, in whole numbers")
    if scheduler is not None and not isinstance(scheduler, str):
        raise InputError(f"scheduler={scheduler!r}: expected an address such as tcp://head:8786")


@contextmanager
def cluster(
    workers: int | None, scheduler: str | None, progress: Progress | None = None
) -> Iterator[OnCluster]:
    """Dask workers: `workers` processes on this machine, or those of the scheduler at an address.

    Args:
        workers, scheduler: one of them.
        progress: called with (0, 1, what) while the scheduler has no worker yet.

    Raises:
        InputError: if distributed is not installed, the numbers make no sense, no scheduler answers, or it has no
            worker within `WAIT` seconds.
    """
    check_cluster(workers, scheduler)
    try:
        import dask
        import distributed
    except ImportError:
        raise InputError("workers need Dask: pip install 'crossbar-sim[cluster]'") from None
    settings = {
        "distributed.scheduler.allowed-failures": ATTEMPTS,
        "distributed.worker.daemon": True,
        "distributed.admin.large-graph-warning-threshold": "1TB",
    }
    with dask.config.set(settings), _quiet():
        if scheduler is None:
            assert workers is not None
            with local_cluster(int(workers)) as local, distributed.Client(local) as client:
                yield OnCluster(client, f"{workers} workers of this machine")
            return
        try:
            client = distributed.Client(scheduler, timeout=PATIENCE)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"no Dask scheduler can be reached at {scheduler}: {error}") from error
        with client:
            _await_worker(client, scheduler, progress)
            yield OnCluster(client, scheduler)


def _await_worker(client: Any, scheduler: str, progress: Progress | None) -> None:
    if progress is not None and not client.nthreads():
        progress(0, 1, f"waiting for a worker of {scheduler}")
    try:
        client.wait_for_workers(1, timeout=WAIT)
    except OSError as error:  # a TimeoutError is one
        raise InputError(
            f"the Dask scheduler at {scheduler} has no worker, and none came within {WAIT:g} s: start some with "
            f"dask worker {scheduler}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what distributed logs of workers and connections: what matters of it is said in one sentence."""
    ours = ("distributed", "tornado", "asyncio")  # distributed gives each of its loggers a level
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in ours]
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
