"""Blocks of chips on Dask workers: processes of this machine, or of a cluster.

A block that a lost worker was measuring is measured again by another: Dask does that for us, and since a trial is
a pure function of its place, it does not matter how often it is tried.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from multiprocessing import resource_tracker
from numbers import Integral
from threading import Event, Thread
from typing import Any

from crossbar_sim import memory
from crossbar_sim.crossbar import threads
from crossbar_sim.errors import InputError
from crossbar_sim.nn.device import count
from crossbar_sim.robustness.evaluator import Job, Subject
from crossbar_sim.robustness.runner import Progress, Work, naming, several
from crossbar_sim.store.records import Trial

# Waiting for what Dask workers were given to do, without waiting for ever: they, or their scheduler, may be lost.


WAIT = 60.0
"""Seconds for a scheduler's first worker to come, or for one to come back when all are lost."""

LOOK, CHECK = 0.02, 5.0
"""Seconds between two looks for what is done, and between two at the number of workers."""

ATTEMPTS = 20
"""Workers that may die over one piece of work before it is taken for the cause."""


class _Waiting(Exception):
    """A result is not available yet."""


class Futures:
    """The pending results of a Dask client's workers.

    Args:
        client: of `distributed`.
        where: what its scheduler is called in errors.
        kept: what is not lost with it, for errors too.
    """

    def __init__(self, client: Any, where: str, kept: str) -> None:
        self.client, self.where, self.kept = client, where, kept
        self.seen = self.checked = time.monotonic()  # a worker, and that there is one

    def finished(self, futures: list[Any]) -> Iterator[Any]:
        """The futures in the order in which they complete.

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
        """Check occasionally whether there is a worker; give up when there has been none for `WAIT` seconds."""
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
        """Whether the scheduler answers."""
        try:
            self.client.nthreads()
        except Exception:
            return False
        return bool(self.client.status == "running")


# Dask workers as processes of this machine, which ignore Ctrl-C and write nothing to the terminal.


CLOSING, STOPPING = 20.0, 2.5
"""Seconds for the workers to end by themselves: after the work, and when it was interrupted."""


@contextmanager
def local_client(workers: int) -> Iterator[Any]:
    """A `distributed.Client` of so many processes of this machine with one thread each, closed at the end.

    Where there are GPUs, every process has one of its own as `cuda` (`visible_gpus`), by dask-cuda's cluster where that
    is installed.

    Ctrl-C reaches every process of a terminal. Only the command should react to it and close its workers: they
    are started by a thread that blocks SIGINT, for threads and processes inherit that from the one that makes them.
    Python raises KeyboardInterrupt in the main thread alone, so that neither the start nor the end, which are in that
    other thread, can be cut in the middle: the main thread only waits for them.

    Raises:
        InputError: if they do not start.
    """
    import dask
    from distributed import Client

    if hasattr(signal, "pthread_sigmask"):
        # before the worker that would start it: Python 3.11 lifts the block in the thread that does
        resource_tracker.ensure_running()
    environment = dict(dask.config.get("distributed.nanny.pre-spawn-environ", None) or {})
    if not sys.warnoptions:
        environment["PYTHONWARNINGS"] = (
            "ignore"  # torch's, on its own future: nothing that a user could change
        )

    def start(opened: ExitStack) -> Any:
        with dask.config.set({"distributed.nanny.pre-spawn-environ": environment}):
            local = opened.enter_context(_local_cluster(workers))
        return opened.enter_context(Client(local))

    opened, begun, over = ExitStack(), Future[Any](), Event()

    def live() -> None:
        _block_interrupts()
        with suppress(Exception), opened:  # workers that do not end in time are killed below
            try:
                begun.set_result(start(opened))
            except BaseException as error:
                begun.set_exception(error)
            over.wait()

    thread = Thread(target=live, name="workers", daemon=True)
    thread.start()
    patience = STOPPING
    try:
        try:
            client = begun.result()
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{workers} Dask workers could not be started ({error}): in a script, put what calls for workers "
                'under  if __name__ == "__main__":  because workers import the script'
            ) from error
        yield client
        patience = CLOSING
    finally:
        over.set()
        thread.join(patience)
        if thread.is_alive():
            kill_workers()


def _local_cluster(workers: int) -> Any:
    """Dask's cluster of processes of this machine."""
    from distributed import LocalCluster, Nanny

    settings = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": None}
    gpus = count("cuda")
    if not gpus:
        return LocalCluster(**settings, processes=True, silence_logs=logging.CRITICAL)
    if workers <= gpus:
        with suppress(ImportError):
            from dask_cuda import LocalCUDACluster

            return LocalCUDACluster(**settings, silence_logs=logging.CRITICAL)

    class OnGpu(Nanny):  # type: ignore[misc]
        def __init__(self, address: str, **more: Any) -> None:
            more["env"] = {
                **(more.get("env") or {}),
                "CUDA_VISIBLE_DEVICES": visible_gpus(more["name"], gpus),
            }
            super().__init__(address, **more)

    return LocalCluster(**settings, processes=True, worker_class=OnGpu, silence_logs=logging.CRITICAL)


def visible_gpus(worker: int, gpus: int) -> str:
    """`CUDA_VISIBLE_DEVICES` of a worker: all GPUs of this process, its own first; workers beyond them share.

    >>> visible_gpus(1, 3)
    '1,2,0'
    """
    names = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name][:gpus]
    names = names or [str(i) for i in range(gpus)]
    first = worker % len(names)
    return ",".join(names[first:] + names[:first])


def processes(workers: int | None, scheduler: str | None, device: str | None) -> int | None:
    """How many worker processes a command uses: as given; else one per GPU, where `cuda` without a number is given.

    None: no worker, as there is one GPU at most, or Dask is not installed.
    """
    several = workers is None and scheduler is None and device in ("cuda", "auto") and count("cuda") > 1
    return count("cuda") if several and find_spec("distributed") is not None else workers


def kill_workers() -> None:
    """End the workers that are left, whatever they are doing: all that matters of their work is on the disk."""
    for process in multiprocessing.active_children():
        if process.name.startswith("Dask"):
            process.kill()


def leave_if_importing() -> None:
    """End a worker that imports a script which asks for workers again: its parent says what is wrong.

    It is at the beginning of a process made by multiprocessing that this can be, and only where the script does not
    guard its work with `if __name__ == "__main__":`.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(1)


def _block_interrupts() -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


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
        room: what the weights of a chip may take in each worker, in GiB; None: as it finds.
    """

    def __init__(self, client: Any, where: str, room: float | None = None) -> None:
        self.client, self.where, self.room = client, where, room
        self.futures = Futures(client, where, KEPT)
        self.payloads: dict[str, Any] = {}

    def run(self, work: Sequence[Work], done: Callable[[Work, list[Trial]], None]) -> None:
        """See `Executor`.

        Raises:
            InputError: if a chip has no score, scheduler or workers are lost, or they die one after the other.
        """
        blocks: dict[Any, Work] = {}
        left = {item.task.id for item in work}  # the subjects of others are dropped on the workers
        self.payloads = {id_: payload for id_, payload in self.payloads.items() if id_ in left}
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
        """The subject on the workers, as the result of a task: Dask computes it again where a worker is lost."""
        if item.task.id not in self.payloads:
            packed = pickle.dumps(item.subject, protocol=pickle.HIGHEST_PROTOCOL)
            self.payloads[item.task.id] = self.client.submit(unpack, packed, self.room, pure=False)
        return self.payloads[item.task.id]


def _blocks(chips: tuple[int, ...], workers: int) -> list[tuple[int, ...]]:
    size = min(LARGEST, max(1, len(chips) // (BLOCKS * workers) or 1))
    return [chips[i : i + size] for i in range(0, len(chips), size)]


def unpack(packed: bytes, room: float | None = None) -> Subject:
    """On a worker: the subject that was sent; `room` is what the weights of a chip may take there, in GiB."""
    if room is not None:
        memory.set_room(room)
    subject: Subject = pickle.loads(packed)
    return subject


def measure(subject: Subject, job: Job) -> list[Trial]:
    """On a worker: one block. Its evaluator stays with the subject from block to block."""
    threads.set_threads(1)  # the machine is shared by its workers
    return subject.evaluator.measure(job)


def check_cluster(workers: int | None, scheduler: str | None) -> None:
    """Refuse, before any work, settings from which no cluster can be made.

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
        raise InputError(f"workers={workers!r}: expected an integer >= 1")
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
        "distributed.scheduler.allowed-failures": ATTEMPTS,
        "distributed.worker.daemon": True,
        "distributed.admin.large-graph-warning-threshold": "1TB",
    }
    with dask.config.set(settings), _quiet():
        if scheduler is None:
            assert workers is not None
            with local_client(int(workers)) as client:
                yield OnCluster(client, f"{workers} workers of this machine", memory.limit(int(workers)))
            return
        try:
            client = distributed.Client(scheduler, timeout=PATIENCE)
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"no Dask scheduler can be reached at {scheduler}: {error}") from error
        with client:
            _await_worker(client, scheduler, progress)
            yield OnCluster(client, scheduler, memory.limit())


def _await_worker(client: Any, scheduler: str, progress: Progress | None) -> None:
    if progress is not None and not client.nthreads():
        progress(0, 1, f"waiting for a worker of {scheduler}")
    try:
        client.wait_for_workers(1, timeout=WAIT)
    except OSError as error:  # a TimeoutError is one
        raise InputError(
            f"the Dask scheduler at {scheduler} has no worker, and none came within {WAIT:g} s: start "
            f"some with dask worker {scheduler}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Context without distributed's logs of workers and connections; errors are reported in one sentence."""
    logged = ("distributed", "tornado", "asyncio")  # distributed gives each of its loggers a level
    names = [name for name in logging.root.manager.loggerDict if name.partition(".")[0] in logged]
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
