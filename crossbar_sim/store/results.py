"""Results files: tasks and the trials of their chips, added row by row, never changed (docs/results-file.md).

with Results.open("runs.db") as results:
    results.add_task(task)
    results.add(task.id, trials)      # all of them or none; when it returns, a kill loses nothing
    results.trials(task.id)
"""

import operator
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from crossbar_sim.errors import InputError
from crossbar_sim.store import results_file as files
from crossbar_sim.store import results_values as values
from crossbar_sim.store.records import Task, Trial, canonical
from crossbar_sim.store.results_values import Count, Disagreement

MEMORY = ":memory:"
"""Of a results file that is nowhere else."""

_PLACE = "task = ? AND sigma = ? AND chip = ? AND metric = ? AND images = ?"


class Results:
    """An open results file. Several processes may have it open; one writes at a time and the others wait."""

    def __init__(self, opened: files.Opened, path: str, readonly: bool) -> None:
        self.path = path
        self.readonly = readonly
        self._opened: files.Opened | None = opened
        self._known: dict[str, Task] = {}
        self._where = None if path == MEMORY else os.path.abspath(path)
        self._file = _file_of(self._where)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, create: bool = True, readonly: bool = False) -> "Results":
        """Open a results file; ":memory:" is one that is nowhere else.

        Args:
            create: make the file if it is not there.
            readonly: leave the file as it is; it must be there, and may lie where nothing can be written.

        Raises:
            InputError: if it is no results file of this or an earlier version, is damaged, or may not be used.
        """
        try:
            name = os.fspath(path)
        except TypeError:
            raise InputError(f"results={path!r}: expected the path of a results file") from None
        if not name:
            raise InputError("the path of the results file is empty: name a file")
        if name == MEMORY:
            return cls(files.open_memory(), name, readonly=False)
        opened = files.open_to_read(name) if readonly else files.open_to_write(name, create)
        results = cls(opened, name, readonly)
        try:
            results.tasks()  # each one is what its id says, or the file is refused and stays as it is
            if not readonly:
                files.start_writing(opened.connection, name)
        except BaseException:
            results.close()
            raise
        return results

    def close(self) -> None:
        """Leave one file with everything in it (unless another process has it open). Twice is fine."""
        opened, self._opened = self._opened, None
        if opened is None:
            return
        try:
            if not self.readonly and self._file is not None and self._file == _file_of(self._where):
                files.settle(opened.connection)
        finally:
            opened.close()

    def __enter__(self) -> "Results":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def transaction(self, *, lasting: bool = False) -> Iterator[None]:
        """All that is added inside becomes visible at its end, or none of it.

        Args:
            lasting: at its end it is on the disk, so that not even a power cut takes it back.

        Raises:
            InputError: if another process writes for too long, the disk is full, or the file has gone.
        """
        connection = self._connection
        if connection.in_transaction:
            yield
            return
        if self.readonly:
            raise InputError(f"{self.path} is open for reading only")
        if self._file != _file_of(self._where):
            raise InputError(
                f"{self.path} was removed or replaced while it was open: nothing more is written; run again"
            )
        if lasting:
            self._run("PRAGMA synchronous = FULL")  # until the file is closed
        self._run("BEGIN IMMEDIATE")
        try:
            yield
            self._run("COMMIT")
        except BaseException:
            if connection.in_transaction:  # SQLite may have rolled back by itself (disk full)
                connection.execute("ROLLBACK")
            self._known.clear()  # tasks that were added inside
            raise

    def add_task(self, task: Task) -> None:
        """Add a task. One with the same id stays as it was, its label too.

        Raises:
            InputError: if the clean score differs from the one that is there, or as `transaction`.
        """
        label, identity, about = values.text(task.label), canonical(task.identity), canonical(task.about)
        with self.transaction():
            added = self._run(
                "INSERT INTO tasks (id, label, identity, about, clean) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (id) DO NOTHING",
                task.id,
                label,
                identity,
                about,
                float(task.clean),
            )
            if not added.rowcount:
                ((clean,),) = self._select("SELECT clean FROM tasks WHERE id = ?", task.id)
                if clean != task.clean:
                    raise Disagreement(
                        f"task {task.label!r} ({task.id[:12]}) has the clean score {clean!r} and now {task.clean!r}",
                        ("tasks", task.id),
                    )

    def add(self, task_id: str, trials: Iterable[Trial]) -> None:
        """Add trials: all of them or none. Those that are there already, and equal, are fine.

        Raises:
            InputError: if one is there with another value or variance, if the task is unknown, or as `transaction`.
        """
        task, known = self._task(task_id), tuple(trials)  # before others have to wait
        with self.transaction():
            for trial in known:
                self._add(task, trial)

    def _add(self, task: Task, trial: Trial) -> None:
        # Plain floats and integers: NumPy's would become bytes.
        sigma, value, variance = float(trial.sigma), float(trial.value), float(trial.variance)
        place = (task.id, sigma, operator.index(trial.chip), task.metric, operator.index(trial.images))
        added = self._run(
            "INSERT INTO trials (task, sigma, chip, metric, images, value, variance, seconds) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (task, sigma, chip, metric, images) DO NOTHING",
            *place,
            value,
            variance,
            float(trial.seconds),
        )
        if added.rowcount:
            return
        (there,) = self._select(f"SELECT value, variance FROM trials WHERE {_PLACE}", *place)
        if there != (value, variance):
            raise Disagreement(
                f"task {task.label!r} ({task.id[:12]}), sigma {sigma!r}, chip {place[2]}, {place[4]} images: "
                f"{task.metric} is {values.score(*there)} and now {values.score(value, variance)}",
                ("trials", *place),
            )

    def tasks(self) -> tuple[Task, ...]:
        """All tasks in order of insertion.

        Raises:
            InputError: if one is not what its id says.
        """
        rows = self._select("SELECT id, label, identity, about, clean FROM tasks ORDER BY number")
        for task_id, label, identity, about, clean in rows:
            if task_id not in self._known:
                self._known[task_id] = values.read_task(self.path, task_id, label, identity, about, clean)
        return tuple(self._known[row[0]] for row in rows)

    def trials(self, task_id: str) -> tuple[Trial, ...]:
        """The trials of a task by (sigma, chip, images).

        Raises:
            InputError: if the task is unknown, or the file is damaged.
        """
        return tuple(self.each_trial(task_id))

    def each_trial(self, task_id: str) -> Iterator[Trial]:
        """The same, one after the other: what is not kept takes no memory, however many there are.

        Raises:
            InputError: as `trials`.
        """
        # In the order of the primary key, so that SQLite has nothing to sort.
        cursor = self._run(
            "SELECT sigma, chip, value, images, variance, seconds FROM trials "
            "WHERE task = ? AND metric = ? ORDER BY sigma, chip, images",
            task_id,
            self._task(task_id).metric,
        )
        while True:
            try:
                rows = cursor.fetchmany(1000)
            except files.ERRORS as error:
                raise files.told(error, self.path) from error
            if not rows:
                return
            for row in rows:
                yield Trial(*row)

    def has_trial(self, task_id: str, sigma: float, chip: int, images: int) -> bool:
        """Whether a chip was measured there.

        Raises:
            InputError: if the task is unknown, or the file is damaged.
        """
        place = (task_id, sigma, chip, self._task(task_id).metric, images)
        return bool(self._select(f"SELECT 1 FROM trials WHERE {_PLACE}", *place))

    def places(self, task_id: str) -> set[tuple[float, int, int]]:
        """(sigma, chip, images) of every trial of a task."""
        rows = self._select(
            "SELECT sigma, chip, images FROM trials WHERE task = ? AND metric = ?",
            task_id,
            self._task(task_id).metric,
        )
        return set(rows)

    def counts(self, task_id: str) -> tuple[Count, ...]:
        """What is there of a task, by (sigma, images)."""
        rows = self._select(
            "SELECT sigma, images, count(*), avg(value) FROM trials WHERE task = ? AND metric = ? "
            "GROUP BY sigma, images ORDER BY sigma, images",
            task_id,
            self._task(task_id).metric,
        )
        return tuple(Count(*row) for row in rows)

    def set_detail(self, task_id: str, name: str, content: Any) -> None:
        """Keep something more about a task, as JSON: "sensitivity", "conductances".

        Raises:
            InputError: if it is there already and differs, is no JSON, or as `transaction`.
        """
        task, text = self._task(task_id), canonical(content)
        with self.transaction():
            added = self._run(
                "INSERT INTO details (task, name, content) VALUES (?, ?, ?) ON CONFLICT (task, name) DO NOTHING",
                task.id,
                name,
                text,
            )
            if not added.rowcount:
                ((there,),) = self._select(
                    "SELECT content FROM details WHERE task = ? AND name = ?", task.id, name
                )
                if there != text:
                    raise Disagreement(
                        f"task {task.label!r} ({task.id[:12]}): {name} is {values.short(there)} "
                        f"and now {values.short(text)}",
                        ("details", task.id, name),
                    )

    def details(self, task_id: str) -> dict[str, Any]:
        """What is kept beside the trials of a task, by name."""
        rows = self._select("SELECT name, content FROM details WHERE task = ? ORDER BY name", task_id)
        return {str(name): values.read_detail(self.path, name, content) for name, content in rows}

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._opened is None:
            raise InputError(f"{self.path} is closed")
        return self._opened.connection

    def _run(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, parameters)
        except files.ERRORS as error:
            raise files.told(error, self.path) from error

    def _select(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        cursor = self._run(statement, *parameters)
        try:
            return cursor.fetchall()
        except files.ERRORS as error:
            raise files.told(error, self.path) from error

    def _task(self, task_id: str) -> Task:
        if task_id not in self._known:
            self.tasks()
        if task_id not in self._known:
            raise InputError(f"{self.path} has no task {task_id[:12]}: add it first")
        return self._known[task_id]


def _file_of(path: str | None) -> tuple[int, int] | None:
    """Which file the name means now; None for none."""
    if path is None:
        return None
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
