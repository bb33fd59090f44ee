"""Monte Carlo over chips: every model at every sigma, until the plan says that it is enough.

What is to be measured is worked out from what the results file holds, and each trial is a pure function of its
place (task, sigma, chip, images). So a run that was killed is finished by running it again, several processes may
work on one file, and neither threads, workers nor the size of blocks can change a number.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from crossbar_sim.crossbar.layer_designs import at_sigma, is_deterministic
from crossbar_sim.errors import InputError
from crossbar_sim.robustness.evaluator import Job, Subject
from crossbar_sim.robustness.plans import Plan
from crossbar_sim.store.records import Task, Trial
from crossbar_sim.store.results import Results

Progress = Callable[[int, int, str], None]


class Executor(Protocol):
    """Where blocks of chips are measured."""

    def run(self, work: Sequence["Work"], done: Callable[["Work", list[Trial]], None]) -> None:
        """Measure all of the work, in any order, and hand every block over as soon as it is done."""


@dataclass(frozen=True, eq=False)
class Work:
    """Chips of one task that are still to be measured at one sigma."""

    task: Task
    subject: Subject
    job: Job

    @property
    def one(self) -> bool:
        """Whether all of its chips are the same, so that one is measured for all and there are no blocks."""
        return self.job.images is None and is_deterministic(at_sigma(self.subject.hardware, self.job.sigma))


@contextmanager
def naming(label: str, several: bool) -> Iterator[None]:
    """Context that puts the model's label before error messages, where there are several models."""
    try:
        yield
    except InputError as error:
        if not several:
            raise
        raise InputError(f"{label}: {error}") from error


def several(work: Sequence[Work]) -> bool:
    """Whether the work is of more than one task."""
    return len({item.task.id for item in work}) > 1


class InProcess:
    """An `Executor` on this process's threads, in blocks of chips (see `Evaluator.in_blocks`)."""

    def __init__(self, results: Results) -> None:
        self.results = results

    def run(self, work: Sequence[Work], done: Callable[[Work, list[Trial]], None]) -> None:
        """See `Executor`; chips that another process has measured in the meantime are passed over."""
        for item in work:

            def measure(chips: tuple[int, ...], item: Work = item) -> list[Trial]:
                with naming(item.task.label, several(work)):
                    return item.subject.evaluator.measure(replace(item.job, chips=chips))

            def missing(left: list[int], item: Work = item) -> list[int]:
                images = item.job.images or len(item.subject.reference.x)
                there = self.results.places(item.task.id) if left else ()
                return [chip for chip in left if (item.job.sigma, chip, images) not in there]

            if item.one:
                done(item, measure(item.job.chips))
                continue
            with naming(item.task.label, several(work)):
                evaluator = item.subject.evaluator
            for found in evaluator.in_blocks(item.job.chips, measure, missing):
                done(item, found)


def run_plan(
    tasks: Sequence[tuple[Task, Subject]],
    sigmas: Iterable[float],
    plan: Plan,
    results: Results,
    executor: Executor,
    progress: Progress | None = None,
) -> None:
    """Measure until the plan is complete for every task and sigma.

    Args:
        tasks: with their subjects.
        sigmas: the points of the curves.
        plan: how many chips, and which images of each.
        results: where trials go, block by block; what is there already is not measured again.
        executor: where they are measured.
        progress: called with (done, total, what) after every block.

    Raises:
        InputError: if a chip has no score, or results cannot be written or disagree.
    """
    numbers = tuple(sigmas)
    for task, subject in tasks:
        results.add_task(task, (subject.device.described,) if subject.device.tensors else ())
    spent = 0
    while True:
        work = []
        for task, subject in tasks:
            trials = results.trials(task.id)
            for sigma in numbers:
                job = plan.missing(task, sigma, tuple(t for t in trials if t.sigma == sigma))
                if job is not None:
                    work.append(Work(task, subject, job))
        if not work:
            return
        total = spent + sum(len(item.job.chips) for item in work)

        def done(item: Work, found: list[Trial], total: int = total) -> None:
            nonlocal spent
            results.add(item.task.id, found)
            spent += len(found)
            if progress is not None:
                progress(spent, total, f"{item.task.label}, sigma {item.job.sigma:g}")

        executor.run(work, done)
