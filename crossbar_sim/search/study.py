"""A persistent search: `ask` for points, `tell` their values, and resume after an interruption.

    study = Study(Space.of({"x": (0.0, 1.0)}), Key(0), "mine.db")
    while study.done < 20:
        for number, point in study.ask():
            study.tell(number, *measure(point))     # value, and its variance if that is known
    study.best().point

Trials come in batches of a fixed size. What batch b proposes is a function of the batches before it, the key and the
settings, whoever measures its trials in whichever order: a search that was killed, and one with other workers, ends
the same. (On another kind of processor the optimiser of the acquisition may end elsewhere in the last digits.)
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch

from crossbar_sim.errors import InputError
from crossbar_sim.rng import STREAM_VERSION, Key
from crossbar_sim.search.space import Space
from crossbar_sim.search.study_file import StudyFile, Trial
from crossbar_sim.search.surrogate import (
    Acquisition,
    Surrogate,
    check_acquisition,
    check_installed,
    first_points,
)
from crossbar_sim.search.workers import Workers, workers_of
from crossbar_sim.validate import check_integer


@dataclass(frozen=True)
class Best:
    """The trial with the largest posterior mean of the surrogate, not the largest observed value.

    Args:
        trial: it.
        mean, sd: of the function there, posterior.
    """

    trial: Trial
    mean: float
    sd: float

    @property
    def point(self) -> Mapping[str, float]:
        """The point of the trial."""
        return self.trial.point


class Study:
    """An ask/tell optimiser whose history is kept in a file.

    Args:
        space: what is searched.
        key: of first points and acquisition.
        path: the study file, made if it is not there; None: in memory.
        acquisition: "lognei" or "mean", see `Surrogate.propose`.
        initial: how many first points, of a Sobol sequence; None: by the number of dimensions.
        batch: trials that are proposed together.
        extra: see `Surrogate`.
        identity: whatever else decides the outcomes, as plain JSON values: a file with another is refused.

    Raises:
        InputError: if a setting is impossible, BoTorch is missing, or the file cannot be used.
    """

    def __init__(
        self,
        space: Space,
        key: Key,
        path: str | os.PathLike[str] | None = None,
        *,
        acquisition: Acquisition = "lognei",
        initial: int | None = None,
        batch: int = 1,
        extra: bool = False,
        identity: Mapping[str, Any] | None = None,
    ) -> None:
        initial = default_initial(len(space)) if initial is None else initial
        for what, number in (("initial", initial), ("batch", batch)):
            check_integer(what, number, 1)
        check_acquisition(acquisition, batch)
        check_installed()
        self.space, self.key, self.acquisition, self.batch, self.extra = space, key, acquisition, batch, extra
        self.initial = -(-initial // batch) * batch  # whole batches
        search = {
            "space": space.as_json(), "acquisition": acquisition, "initial": initial, "batch": batch, "extra": extra,
        }  # fmt: skip
        named = {"seed": key.seed, "path": list(key.path), "stream": STREAM_VERSION}
        self.identity = {"identity": 1, "search": search, "key": named, **dict(identity or {})}
        self._file = StudyFile(path, self.identity)
        try:
            self._check_trials(self._file.trials())
        except InputError as error:
            self.close()
            raise InputError(f"{self._file.path} is damaged: {error}") from None
        self._proposed: tuple[int, list[dict[str, float]]] | None = None

    def __enter__(self) -> "Study":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; calling it twice is allowed."""
        self._file.close()

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The completed trials, in the order of their numbers."""
        return self._file.trials()

    @property
    def done(self) -> int:
        """Number of completed trials from 0 on without a gap."""
        numbers = {trial.number for trial in self.trials}
        return next(n for n in range(len(numbers) + 1) if n not in numbers)

    def ask(self) -> list[tuple[int, dict[str, float]]]:
        """The pending trials of the next batch, (number, point) each; at least one."""
        trials = self.trials
        there = {trial.number for trial in trials}
        start = self.done // self.batch * self.batch
        if self._proposed is None or self._proposed[0] != start:
            before = [trial for trial in trials if trial.number < start]
            self._proposed = start, self._batch(start, before)
        proposed = enumerate(self._proposed[1], start)
        return [(number, point) for number, point in proposed if number not in there]

    def tell(
        self,
        number: int,
        value: float,
        variance: float | None = None,
        *,
        seconds: float = 0.0,
        notes: Mapping[str, Any] | None = None,
    ) -> Trial:
        """Record the outcome of one trial.

        Raises:
            InputError: as `tell_all`.
        """
        return self.tell_all([(number, value, variance, seconds, notes or {})])[0]

    def tell_all(
        self, outcomes: Sequence[tuple[int, float, float | None, float, Mapping[str, Any]]]
    ) -> list[Trial]:
        """Record (number, value, variance, seconds, notes) of several trials, all or none.

        Raises:
            InputError: if a trial was not asked for, a number is not finite, variances are known of some trials only,
                or the file cannot be written.
        """
        pending = dict(self.ask())
        recorded = []
        for number, value, variance, seconds, notes in outcomes:
            if number not in pending:
                raise InputError(f"trial {number} was not asked for: tell of {sorted(pending)}")
            if not math.isfinite(value) or not (variance is None or 0 <= variance < math.inf):
                raise InputError(
                    f"trial {number} gave {value!r} with variance {variance!r}: finite numbers are needed, the "
                    "variance >= 0 or None"
                )
            recorded.append(
                Trial(number, pending[number], float(value), _plain(variance), seconds, dict(notes))
            )
        if len({trial.variance is None for trial in (*self.trials, *recorded)}) > 1:
            raise InputError(
                "the variance is known of some trials only: give it for all of them, or for none"
            )
        self._file.add(recorded)
        return recorded

    def surrogate(self) -> Surrogate:
        """Fitted to all trials.

        Raises:
            InputError: if there is none.
        """
        return self._surrogate(self.trials)

    def best(self) -> Best:
        """The trial with the largest posterior mean.

        Raises:
            InputError: if there is no trial.
        """
        trials = self.trials
        surrogate = self._surrogate(trials)
        mean, variance = surrogate.posterior(surrogate.x)
        i = int(mean.argmax())
        return Best(trials[i], float(mean[i]), math.sqrt(float(variance[i])))

    def _check_trials(self, trials: Sequence[Trial]) -> None:
        """Refuse trials that this study cannot have proposed."""
        self.space.unit(trial.point for trial in trials)
        if len({trial.variance is None for trial in trials}) > 1:
            raise InputError("the variance is known of some trials only")

    def _surrogate(self, trials: Sequence[Trial]) -> Surrogate:
        if not trials:
            raise InputError("the study has no trial yet: ask, measure and tell")
        y = torch.tensor([trial.value for trial in trials], dtype=torch.float64)
        known = [trial.variance for trial in trials if trial.variance is not None]
        variance = torch.tensor(known, dtype=torch.float64) if known else None
        return Surrogate(self.space.unit(trial.point for trial in trials), y, variance, extra=self.extra)

    def _batch(self, start: int, before: Sequence[Trial]) -> list[dict[str, float]]:
        if start < self.initial:
            places = first_points(self.initial, len(self.space), self.key.fold("first points"))[start:][
                : self.batch
            ]
        else:
            key = self.key.fold("acquisition", str(start))
            places = self._surrogate(before).propose(self.acquisition, self.batch, key)
        return [self.space.point(place) for place in places.tolist()]


def default_initial(dimensions: int) -> int:
    """Number of first points: two per dimension, at least 5 and at most 10."""
    return max(5, min(2 * dimensions, 10))


def _plain(variance: float | None) -> float | None:
    return None if variance is None else float(variance)


# Search: any noisy function over a box, by ask and tell until there are enough trials.


Objective = Callable[[dict[str, float], Key], float | tuple[float, float]]
"""(point, key of the trial) -> what came out, more being better; with its variance, where that is known."""

TrialCallback = Callable[[Trial, Study], None]
"""Called after every trial."""


@dataclass(frozen=True)
class SearchResult:
    """The result of a search: the best trial by posterior mean, and all trials."""

    best: Best
    trials: tuple[Trial, ...]


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
    progress: TrialCallback | None = None,
    identity: Mapping[str, Any] | None = None,
) -> SearchResult:
    """Maximise a noisy function with a Gaussian process.

    Args:
        objective: called with a point and the key of the trial, from which all its random numbers should come.
        space: where to look.
        trials: how many, made up to whole batches.
        key: of the search.
        study: a file from which an interrupted search resumes, with the same result; it may be given again with
            more trials.
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
    check_integer("trials", trials, 1)
    check_workers(workers, scheduler, batch)
    with (
        Study(
            space, key, study, acquisition=acquisition, initial=initial, batch=batch, identity=identity
        ) as open_study,
        workers_of(workers, scheduler) as pool,
    ):
        drive(open_study, trials, _Call(objective, key), pool, progress)
        return SearchResult(open_study.best(), open_study.trials)


@dataclass(frozen=True, eq=False)
class _Call:
    """An objective in the form that `drive` calls."""

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
    progress: TrialCallback | None,
) -> None:
    """Run independent trials; each is recorded as soon as it is done.

    Args:
        study: may hold trials already.
        trials: how many there shall be, made up to whole batches.
        call: (number, point) -> (value, variance, notes).
        pool: where.
        progress: called after every trial.
    """
    # A search that was killed within a batch has to finish that batch.
    trials = -(-trials // study.batch) * study.batch
    while study.done < trials:
        pending = study.ask()
        for i, (value, variance, notes), seconds in pool.run(call, pending):
            recorded = study.tell(pending[i][0], value, variance, seconds=seconds, notes=notes)
            if progress is not None:
                progress(recorded, study)


def check_workers(workers: int | None, scheduler: str | None, batch: int) -> None:
    """Refuse workers that would be idle.

    Raises:
        InputError: saying how to give them work.
    """
    if batch == 1 and (scheduler is not None or (workers or 0) > 1):
        raise InputError(
            "trials are proposed one by one, so that workers would wait: give batch, e.g. batch=4"
        )
