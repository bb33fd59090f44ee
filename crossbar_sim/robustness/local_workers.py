"""Dask workers as processes of this machine, which neither hear Ctrl-C nor write to the terminal."""

import logging
import multiprocessing
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import Any

from crossbar_sim.errors import InputError


@contextmanager
def local_cluster(workers: int) -> Iterator[Any]:
    """A `distributed.LocalCluster` of so many processes with one thread each, closed at the end.

    Ctrl-C reaches every process of a terminal. Here the command alone is to hear it, and to close its workers: it
    starts them from a thread that blocks SIGINT, for threads and processes inherit that from the one that makes them.

    Raises:
        InputError: if they do not start.
    """
    import dask
    from distributed import LocalCluster

    if hasattr(signal, "pthread_sigmask"):
        # before the worker that would start it: Python 3.11 lifts the block in the thread that does
        resource_tracker.ensure_running()
    environment = dict(dask.config.get("distributed.nanny.pre-spawn-environ", None) or {})
    if not sys.warnoptions:
        environment["PYTHONWARNINGS"] = (
            "ignore"  # torch's, on its own future: nothing that a user could change
        )

    def start() -> LocalCluster:
        with dask.config.set({"distributed.nanny.pre-spawn-environ": environment}):
            return LocalCluster(
                n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None,
                silence_logs=logging.CRITICAL,
            )  # fmt: skip

    with ThreadPoolExecutor(1, initializer=_deaf) as starter:
        try:
            local = starter.submit(start).result()
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{workers} Dask workers could not be started ({error}): in a script, put what calls for workers "
                'under  if __name__ == "__main__":  because workers import the script'
            ) from error
    with local:
        yield local


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
