"""Search: any noisy function over a box, by ask and tell until there are enough trials."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key
from crossbar_sim.search.space import Space
from crossbar_sim.search.study import Best, Study
from crossbar_sim.search.study_file import Tried
from crossbar_sim.search.surrogate import Acquisition
from crossbar_sim.search.workers import Workers, workers_of

Objective = Callable[[dict[str, float], Key], float | tuple[float, float]]
"""(point, key of the trial) -> what came out, more being better; with its variance, where that is known."""

Told = Callable[[Tried, Study], None]
"""Called after every trial."""


@dataclass(frozen=True)
class Found:
    """What a search found: the trial of which most is expected, and all trials."""

    best: Best
    trials: tuple[Tried, ...]


def search(
    objective: Objective,
    space: Space,
    trials: int,
    key: Key,
    *,
    study: str | os.PathLike[str] | None = None,
    acquisition: Acquisition = "lognei",
    initial: int | None = None,
    batch: int = 1,
    workers: int | None = None,
    scheduler: str | None = None,
    progress: Told | None = None,
    identity: Mapping[str, Any] | None = None,
) -> Found:
    """Maximise a noisy function with a Gaussian process.

    Args:
        objective: called with a point and the key of the trial, from which all its random numbers should come.
        space: where to look.
        trials: how many, made up to whole batches.
        key: of the search.
        study: a file that a killed search goes on from, to the same end; it may be given again with more trials.
        acquisition, initial, batch: see `Study`.
        workers, scheduler: Dask, for the trials of a batch.
        progress: called after every trial.
        identity: of the objective, as plain JSON values: a study of another is refused.

    Raises:
        InputError: if a setting is impossible, or the file cannot be used.

    >>> found = search(lambda point, key: -(point["x"] - 0.3) ** 2, Space.of({"x": (0, 1)}), 10, Key(0))
    >>> abs(found.best.point["x"] - 0.3) < 0.05
    True
    """
    check_trials(trials)
    check_workers(workers, scheduler, batch)
    with (
        Study(
            space, key, study, acquisition=acquisition, initial=initial, batch=batch, identity=identity
        ) as open_study,
        workers_of(workers, scheduler) as pool,
    ):
        drive(open_study, trials, _Call(objective, key), pool, progress)
        return Found(open_study.best(), open_study.trials)


@dataclass(frozen=True, eq=False)
class _Call:
    """An objective as what `drive` calls."""

    objective: Objective
    key: Key

    def __call__(self, number: int, point: dict[str, float]) -> tuple[float, float | None, Mapping[str, Any]]:
        answer = self.objective(point, self.key.fold("trial", str(number)))
        return (*answer, {}) if isinstance(answer, tuple) else (answer, None, {})


def drive(
    study: Study,
    trials: int,
    call: Callable[[int, dict[str, float]], tuple[float, float | None, Mapping[str, Any]]],
    pool: Workers,
    progress: Told | None,
) -> None:
    """Trials that need nothing of each other: each is kept as soon as it is done.

    Args:
        study: may hold trials already.
        trials: how many there shall be, made up to whole batches.
        call: (number, point) -> (value, variance, notes).
        pool: where.
        progress: called after every trial.
    """
    # A search that was killed within a batch still owes the rest of it.
    trials = -(-trials // study.batch) * study.batch
    while study.done < trials:
        asked = study.ask()
        for i, (value, variance, notes), seconds in pool.run(call, asked):
            told = study.tell(asked[i][0], value, variance, seconds=seconds, notes=notes)
            if progress is not None:
                progress(told, study)


def check_trials(trials: object) -> None:
    """Refuse what is no number of trials.

    Raises:
        InputError: with what is needed.
    """
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise InputError(f"trials={trials!r}: an integer >= 1 is needed")


def check_workers(workers: int | None, scheduler: str | None, batch: int) -> None:
    """Refuse workers that would have nothing to do.

    Raises:
        InputError: saying how to give them work.
    """
    if batch == 1 and (scheduler is not None or (workers or 0) > 1):
        raise InputError(
            "trials are proposed one by one, so that workers would wait: give batch, e.g. batch=4"
        )
