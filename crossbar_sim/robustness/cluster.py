"""Blocks of chips on Dask workers: processes of this machine, or of a cluster.

A block that a lost worker was measuring is measured again by another: Dask does that for us, and since a trial is
a pure function of its place, it does not matter how often it is tried.
"""

import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from crossbar_sim.crossbar import threads
from crossbar_sim.errors import InputError
from crossbar_sim.robustness.evaluator import Job, Subject
from crossbar_sim.robustness.runner import Work
from crossbar_sim.store.records import Trial

BLOCKS = 8
"""Blocks per worker and curve: enough that none waits long at the end, or loses much when it dies."""

LARGEST = 64
"""Chips of a block at most."""

PATIENCE = "10s"
"""For a scheduler to answer."""

ATTEMPTS = 20
"""Workers that may die over one block before it is taken for the cause."""


class OnCluster:
    """An `Executor` on the workers of a Dask client."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.payloads: dict[str, Any] = {}

    def run(self, work: Sequence[Work], done: Callable[[Work, list[Trial]], None]) -> None:
        """See `Executor`.

        Raises:
            InputError: if a chip has no score, the workers are lost, or they kill one after the other.
        """
        from distributed import as_completed
        from distributed.scheduler import KilledWorker

        blocks = {}
        for item in work:
            for chips in [item.job.chips] if item.one else self._blocks(item.job.chips):
                future = self.client.submit(
                    measure, self._payload(item), Job(item.job.sigma, chips, item.job.images), pure=False
                )
                blocks[future] = item
        try:
            for future in as_completed(list(blocks)):
                try:
                    found = future.result()
                except KilledWorker as error:
                    raise InputError(
                        f"{ATTEMPTS} workers in turn died over one block of {blocks[future].task.label}: is there "
                        f"enough memory on them? ({error})"
                    ) from error
                done(blocks.pop(future), found)
                future.release()
        finally:
            self.client.cancel(list(blocks))

    def _blocks(self, chips: tuple[int, ...]) -> list[tuple[int, ...]]:
        workers = max(1, len(self.client.nthreads()))
        size = min(LARGEST, max(1, len(chips) // (BLOCKS * workers) or 1))
        return [chips[i : i + size] for i in range(0, len(chips), size)]

    def _payload(self, item: Work) -> Any:
        """The subject on the workers, as the result of a task: Dask makes it anew where a worker took it along."""
        if item.task.id not in self.payloads:
            packed = pickle.dumps(item.subject, protocol=pickle.HIGHEST_PROTOCOL)
            self.payloads[item.task.id] = self.client.submit(unpack, packed, pure=False)
        return self.payloads[item.task.id]


def unpack(packed: bytes) -> Subject:
    """On a worker: the subject that was sent."""
    subject: Subject = pickle.loads(packed)
    return subject


def measure(subject: Subject, job: Job) -> list[Trial]:
    """On a worker: one block. Its evaluator stays with the subject from block to block."""
    threads.set_threads(1)  # the machine is shared by its workers
    return subject.evaluator.measure(job)


@contextmanager
def cluster(workers: int | None, scheduler: str | None) -> Iterator[OnCluster]:
    """Dask workers: `workers` processes on this machine, or those of the scheduler at an address.

    Raises:
        InputError: if distributed is not installed, the numbers make no sense, or no scheduler answers.
    """
    if workers is not None and scheduler is not None:
        raise InputError(
            "workers (processes here) and scheduler (a cluster's address) exclude each other: give one"
        )
    if workers is not None and workers < 1:
        raise InputError(f"workers={workers}: at least one worker is needed")
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
    with dask.config.set(settings):
        try:
            if scheduler is not None:
                client = distributed.Client(scheduler, timeout=PATIENCE)
            else:
                local = distributed.LocalCluster(
                    n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None,
                    silence_logs=logging.CRITICAL,
                )  # fmt: skip
                client = distributed.Client(local)
        except (OSError, ValueError, RuntimeError) as error:
            where = scheduler if scheduler is not None else f"{workers} workers"
            raise InputError(f"no Dask scheduler can be reached at {where}: {error}") from error
        with client:
            try:
                yield OnCluster(client)
            finally:
                if scheduler is None:
                    local.close()
