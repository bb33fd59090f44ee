"""Dask workers as processes of this machine, which neither hear Ctrl-C nor write to the terminal."""

import logging
import multiprocessing
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing import resource_tracker
from threading import Event, Thread
from typing import Any

from crossbar_sim.errors import InputError

CLOSING, STOPPING = 20.0, 2.5
"""Seconds for the workers to end by themselves: after the work, and when it was interrupted."""


@contextmanager
def local_client(workers: int) -> Iterator[Any]:
    """A `distributed.Client` of so many processes of this machine with one thread each, closed at the end.

    Ctrl-C reaches every process of a terminal. Here the command alone is to hear it, and to close its workers: they
    are started by a thread that blocks SIGINT, for threads and processes inherit that from the one that makes them.
    Python raises KeyboardInterrupt in the main thread alone, so that neither the start nor the end, which are in that
    other thread, can be cut in the middle: the main thread only waits for them.

    Raises:
        InputError: if they do not start.
    """
    import dask
    from distributed import Client, LocalCluster

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
            local = opened.enter_context(
                LocalCluster(
                    n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None,
                    silence_logs=logging.CRITICAL,
                )
            )  # fmt: skip
        return opened.enter_context(Client(local))

    opened, begun, over = ExitStack(), Future[Any](), Event()

    def live() -> None:
        _deaf()
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


def _deaf() -> None:
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
