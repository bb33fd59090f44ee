"""Blocks of chips on Dask workers: processes of this machine, or of a cluster.

A block that a lost worker was measuring is measured again by another: Dask does that for us, and since a trial is
a pure function of its place, it does not matter how often it is tried.
"""

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from numbers import Integral
from typing import Any

from crossbar_sim.crossbar import threads
from crossbar_sim.errors import InputError
from crossbar_sim.robustness import dask_futures
from crossbar_sim.robustness.dask_futures import Futures
from crossbar_sim.robustness.evaluator import Job, Subject
from crossbar_sim.robustness.local_workers import local_client
from crossbar_sim.robustness.runner import Progress, Work, naming, several
from crossbar_sim.store.records import Trial

BLOCKS = 8
"""Blocks per worker and curve: enough that none waits long at the end, or loses much when it dies."""

LARGEST = 64
"""Chips of a block at most."""

PATIENCE = "10s"
"""For a scheduler to answer."""

KEPT = "what was measured is kept in the results file, if one was given"


class OnCluster:
    """An `Executor` on the workers of a Dask client.

    Args:
        client: of `distributed`.
        where: what its scheduler is called in errors.
    """

    def __init__(self, client: Any, where: str) -> None:
        self.client, self.where = client, where
        self.futures = Futures(client, where, KEPT)
        self.payloads: dict[str, Any] = {}

    def run(self, work: Sequence[Work], done: Callable[[Work, list[Trial]], None]) -> None:
        """See `Executor`.

        Raises:
            InputError: if a chip has no score, scheduler or workers are lost, or they die one after the other.
        """
        blocks: dict[Any, Work] = {}
        try:
            with self.futures.reached():
                blocks = self._submitted(work)
            for future in self.futures.finished(list(blocks)):
                label = blocks[future].task.label
                with naming(label, several(work)):
                    found = self.futures.result(future, f"one block of {label}")
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
        raise InputError("workers need Dask: pip install '.[cluster]' in a clone") from None
    settings = {
        "distributed.scheduler.allowed-failures": dask_futures.ATTEMPTS,
        "distributed.worker.daemon": True,
        "distributed.admin.large-graph-warning-threshold": "1TB",
    }
    with dask.config.set(settings), _quiet():
        if scheduler is None:
            assert workers is not None
            with local_client(int(workers)) as client:
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
        client.wait_for_workers(1, timeout=dask_futures.WAIT)
    except OSError as error:  # a TimeoutError is one
        raise InputError(
            f"the Dask scheduler at {scheduler} has no worker, and none came within {dask_futures.WAIT:g} s: start "
            f"some with dask worker {scheduler}"
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
