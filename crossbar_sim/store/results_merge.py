"""The union of results files."""

import itertools
import os
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

from crossbar_sim.errors import InputError
from crossbar_sim.files import replacing
from crossbar_sim.store.results import MEMORY, Results
from crossbar_sim.store.results_values import Disagreement

BLOCK = 10_000
"""Trials in memory at a time."""


@dataclass(frozen=True)
class MergeReport:
    """What a merged file holds, and how much of it was not there before."""

    tasks: int
    trials: int
    new_tasks: int
    new_trials: int


def merge(sources: Sequence[str | os.PathLike[str]], output: str | os.PathLike[str]) -> MergeReport:
    """Write the union of results files by (task, sigma, chip, metric, images); sources stay as they are.

    An output that is there takes part, whether it is named among the sources or not, and gets all or nothing. Of a
    task's label and description, and of equal trials, the first file's are kept.

    Raises:
        InputError: if two files disagree (with the row and both files), or one cannot be read or written.
    """
    if not sources:
        raise InputError("nothing to merge: name one results file or more")
    target = os.fspath(output)
    if target == MEMORY:
        raise InputError("':memory:' is no file: name the file to write")
    with ExitStack() as stack:
        opened: list[Results] = []
        for source in [os.fspath(name) for name in sources]:
            if not any(_same(source, known) for known in (target, *(r.path for r in opened))):
                opened.append(stack.enter_context(Results.open(source, readonly=True)))
        if os.path.exists(target):
            with Results.open(target, create=False) as results:
                return _unite(opened, results, target)
        _refuse_leftovers(os.path.realpath(target))
        with replacing(target) as temporary:
            try:
                with Results.open(temporary) as results:
                    report = _unite(opened, results, target)
                if any(os.path.exists(f"{temporary}{end}") for end in ("-wal", "-journal")):
                    raise InputError(f"cannot write {target}: the disk may be full")
            except InputError as error:
                raise InputError(str(error).replace(str(temporary), target)) from error
            finally:
                for end in ("-wal", "-shm", "-journal"):
                    with suppress(OSError):
                        os.unlink(f"{temporary}{end}")
        return report


def _unite(sources: Sequence[Results], results: Results, target: str) -> MergeReport:
    tasks, trials = _count(results)
    with results.transaction(lasting=True):
        for i, source in enumerate(sources):
            try:
                _add(source, results)
            except Disagreement as error:
                holders = (other.path for other in sources[:i] if _holds(other, error.where))
                first = next(holders, target)
                raise InputError(
                    f"{first} and {source.path} disagree: {error}; nothing was written"
                ) from None
        all_tasks, all_trials = _count(results)
    return MergeReport(all_tasks, all_trials, all_tasks - tasks, all_trials - trials)


def _add(source: Results, results: Results) -> None:
    for task in source.tasks():
        results.add_task(task)
        trials = source.each_trial(task.id)
        while block := tuple(itertools.islice(trials, BLOCK)):
            results.add(task.id, block)
        for name, content in source.details(task.id).items():
            results.set_detail(task.id, name, content)


def _count(results: Results) -> tuple[int, int]:
    tasks = results.tasks()
    return len(tasks), sum(p.chips for task in tasks for p in results.counts(task.id))


def _holds(results: Results, where: tuple[Any, ...]) -> bool:
    """Whether a file has a value for what two disagree on."""
    table, task_id, *place = where
    if all(task.id != task_id for task in results.tasks()):
        return False
    if table == "trials":
        sigma, chip, _, images = place
        return results.has_trial(task_id, sigma, chip, images)
    return table == "tasks" or place[0] in results.details(task_id)


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


def _refuse_leftovers(target: str) -> None:
    """A journal of a file that is not there would be taken for the new file's."""
    for end in ("-wal", "-journal"):
        if os.path.exists(target + end):
            raise InputError(
                f"{target} is not there, but {target}{end} of it is: put both together, or remove it"
            )
