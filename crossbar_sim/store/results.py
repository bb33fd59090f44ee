"""Results files: tasks and the trials of their chips, added row by row, never changed (docs/results-file.md).

with Results.open("runs.db") as results:
    results.add_task(task)
    results.add(task.id, trials)      # all of them or none; when it returns, a kill loses nothing
    results.trials(task.id)
"""

import csv
import io
import itertools
import json
import math
import operator
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, NamedTuple

from crossbar_sim.errors import InputError
from crossbar_sim.files import replacing
from crossbar_sim.store import results_file
from crossbar_sim.store.records import (
    APART,
    CPU,
    Task,
    Trial,
    apart,
    canonical,
    is_stored_otherwise,
    shown,
)
from crossbar_sim.store.results_file import KIND
from crossbar_sim.store.sqlite import input_errors, transaction
from crossbar_sim.text import parse_json, spreadsheet_cell, visible

# What goes into a results file's columns, and comes out of them checked.


class Disagreement(InputError):
    """Two different values for one thing.

    Args:
        message: a sentence with both values, without the name of a file.
        where: (table, task id, and what names the thing within the task).
    """

    def __init__(self, message: str, where: tuple[Any, ...]) -> None:
        super().__init__(message)
        self.where = where


class Count(NamedTuple):
    """How many chips were measured on so many images at one sigma, and the mean of their values."""

    sigma: float
    images: int
    chips: int
    mean: float


def read_task(path: str, task_id: str, label: str, identity: str, about: str, clean: float) -> Task:
    """A row of the table of tasks.

    Raises:
        InputError: if it is not what its id says.
    """
    what = f"task {task_id[:12]!r}"
    try:
        task = Task(label, _read_json(identity, what), clean, _read_json(about, what))
        same = task.id == task_id and canonical(task.identity) == identity
    except InputError as error:
        raise InputError(f"{path} is damaged: {error}") from None
    if not same:
        raise InputError(
            f"{path} is damaged or was changed: the identity of {what} has the SHA-256 {task.id[:12]}; "
            "take a copy that is whole, or run it again into a new file"
        )
    return task


def read_detail(path: str, name: str, content: str) -> Any:
    """The value of a detail.

    Raises:
        InputError: if it is not JSON.
    """
    try:
        return _read_json(content, f"detail {name!r}")
    except InputError as error:
        raise InputError(f"{path} is damaged: {error}") from None


def text(label: str) -> str:
    """A name of a file may hold bytes that are not characters; SQLite's text may not."""
    return label.encode("utf-8", "backslashreplace").decode("utf-8")


def score(value: float, variance: float) -> str:
    """A trial's value, for a sentence."""
    return f"{value!r}" + (f" (variance {variance!r})" if variance else "")


def short(content: str) -> str:
    """JSON for a sentence: what is long is cut."""
    plain = "".join(c if c.isprintable() else "?" for c in content[:80])
    return plain if len(content) <= 80 else f"{plain[:77]}..."


def _read_json(content: str, what: str) -> Any:
    try:
        return parse_json(content)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what} cannot be read as JSON ({error})") from None


MEMORY = ":memory:"
"""Of a results file that is nowhere else."""

_PLACE = "task = ? AND sigma = ? AND chip = ? AND metric = ? AND images = ?"


class Results:
    """An open results file. Several processes may have it open; one writes at a time and the others wait."""

    def __init__(self, opened: results_file.OpenResults, path: str, readonly: bool) -> None:
        self.path = path
        self.readonly = readonly
        self._opened: results_file.OpenResults | None = opened
        self._known: dict[str, Task] = {}
        self._where = None if path == MEMORY else os.path.abspath(path)
        self._file = _file_of(self._where)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, create: bool = True, readonly: bool = False) -> "Results":
        """Open a results file; ":memory:" is one in memory only.

        Args:
            create: make the file if it is not there.
            readonly: leave the file as it is; it must be there, and may lie where nothing can be written.

        Raises:
            InputError: if it is not a results file of this or an earlier version, is damaged, or may not be used.
        """
        try:
            name = os.fspath(path)
        except TypeError:
            raise InputError(f"results={path!r}: expected the path of a results file") from None
        if not name:
            raise InputError("the path of the results file is empty: name a file")
        if name == MEMORY:
            return cls(results_file.open_memory(), name, readonly=False)
        opened = results_file.open_to_read(name) if readonly else results_file.open_to_write(name, create)
        results = cls(opened, name, readonly)
        try:
            results.tasks()  # each one is what its id says, or the file is refused and stays as it is
            if not readonly:
                results_file.start_writing(opened.connection, name)
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
                results_file.settle(opened.connection)
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
        try:
            with input_errors(self.path, KIND), transaction(connection):
                yield
        except BaseException:
            self._known.clear()  # tasks that were added inside
            raise

    def add_task(self, task: Task, devices: Sequence[str] = ()) -> None:
        """Add a task. One with the same id stays as it was, its label too.

        Args:
            task: the task.
            devices: where its numbers were or will be computed, if not by the kernels of the CPU alone; details say it.

        Raises:
            InputError: if the clean score differs from the one that is there, between devices by more than `apart`;
                or as `transaction`.
        """
        label, identity, about = text(task.label), canonical(task.identity), canonical(task.about)
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
                near = devices or self.devices(task.id)
                allowed = apart(clean, task.identity["images"]["count"], task.metric) if near else 0.0
                if abs(clean - task.clean) > allowed:
                    raise Disagreement(
                        f"task {task.label!r} ({task.id[:12]}) has the clean score {clean!r} and now {task.clean!r}"
                        + (f"; {APART}" if near else ""),
                        ("tasks", task.id),
                    )
            self._note_devices(task.id, devices)

    def devices(self, task_id: str) -> tuple[str, ...]:
        """Where the chips of a task were computed; empty: by the kernels of the CPU alone."""
        rows = self._select("SELECT name FROM details WHERE task = ? AND name LIKE 'device %'", task_id)
        return tuple(sorted(str(name).partition(" ")[2] for (name,) in rows))

    def _note_devices(self, task_id: str, devices: Sequence[str]) -> None:
        there = self.devices(task_id)
        if not devices and not there:
            return
        names = {*(devices or (CPU,))}
        if not there and self._select("SELECT 1 FROM trials WHERE task = ? LIMIT 1", task_id):
            names.add(CPU)
        for name in sorted(names - {*there}):
            self.set_detail(task_id, f"device {name}", {})

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
            near = self.devices(task.id)
            if near and abs(there[0] - value) <= apart(there[0], place[4], task.metric):
                return  # the first is kept
            raise Disagreement(
                f"task {task.label!r} ({task.id[:12]}), sigma {sigma!r}, chip {place[2]}, {place[4]} images: "
                f"{task.metric} is {score(*there)} and now {score(value, variance)}"
                + (f"; {APART}" if near else ""),
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
                self._known[task_id] = read_task(self.path, task_id, label, identity, about, clean)
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
            with input_errors(self.path, KIND):
                rows = cursor.fetchmany(1000)
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
                near = there != text and self.devices(task.id)
                if there != text and not (near and _alike(parse_json(there), content, task)):
                    raise Disagreement(
                        f"task {task.label!r} ({task.id[:12]}): {name} is {short(there)} "
                        f"and now {short(text)}",
                        ("details", task.id, name),
                    )

    def details(self, task_id: str) -> dict[str, Any]:
        """The details of a task, by name."""
        rows = self._select("SELECT name, content FROM details WHERE task = ? ORDER BY name", task_id)
        return {str(name): read_detail(self.path, name, content) for name, content in rows}

    @property
    def _connection(self) -> sqlite3.Connection:
        if self._opened is None:
            raise InputError(f"{self.path} is closed")
        return self._opened.connection

    def _run(self, statement: str, *parameters: Any) -> sqlite3.Cursor:
        with input_errors(self.path, KIND):
            return self._connection.execute(statement, parameters)

    def _select(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        cursor = self._run(statement, *parameters)
        with input_errors(self.path, KIND):
            return cursor.fetchall()

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


# The union of results files.


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
    """Write the union of results files by (task, sigma, chip, metric, images); sources are left unchanged.

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
        results.add_task(task, source.devices(task.id))
        trials = source.each_trial(task.id)
        while block := tuple(itertools.islice(trials, BLOCK)):
            results.add(task.id, block)
        for name, content in source.details(task.id).items():
            results.set_detail(task.id, name, content)


def _alike(one: Any, other: Any, task: Task, images: int | None = None, drops: bool = False) -> bool:
    """Whether two details are the same, up to differences between devices of the scores whose drops they hold."""
    if isinstance(one, dict) and isinstance(other, dict):
        images = one.get("images", images)
        return one.keys() == other.keys() and all(
            _alike(one[k], other[k], task, images, k == "drops") for k in one
        )
    if isinstance(one, list) and isinstance(other, list):
        pairs = zip(one, other, strict=False)
        return len(one) == len(other) and all(_alike(a, b, task, images, drops) for a, b in pairs)
    if drops and images and isinstance(one, float) and isinstance(other, float):
        # a drop is the clean score minus another one, and each of them may differ
        scores = task.clean, task.clean - one
        return abs(one - other) <= sum(apart(score, images, task.metric) for score in scores)
    return bool(one == other)


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


# Results as flat tables: CSV, JSON, Parquet, and a short listing for people (docs/results-file.md).


COLUMNS = (
    "label", "task", "model_sha256", "metric", "sigma", "chip", "value", "images", "variance", "seconds",
)  # fmt: skip
"""Of every table, in this order."""

SHOWN = "shown"
"""One more column where the scores of a metric are stored with a minus sign or as a logarithm: as reports show them."""


GROUP = 100_000
"""Rows of a Parquet file that are in memory at a time."""


def rows(results: Results) -> Iterator[dict[str, Any]]:
    """One flat row per trial: by task in order of insertion, then by (sigma, chip, images)."""
    tasks = results.tasks()
    otherwise = any(is_stored_otherwise(task.metric) for task in tasks)
    for task in tasks:
        named = (task.label, task.id, _model(task), task.metric)
        for t in results.each_trial(task.id):
            values = (t.sigma, t.chip, t.value, t.images, t.variance, t.seconds)
            row = dict(zip(COLUMNS, named + values, strict=True))
            yield row | {SHOWN: shown(task.metric, t.value)} if otherwise else row


def _peeked(table: Iterable[Mapping[str, Any]]) -> tuple[tuple[str, ...], Iterator[Mapping[str, Any]]]:
    """The columns of a table, and its rows."""
    waiting = iter(table)
    first = next(waiting, None)
    return (COLUMNS, waiting) if first is None else (tuple(first), itertools.chain([first], waiting))


def csv_lines(table: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """CSV with a header, a row at a time; floats have the digits that they need to read back equal.

    In text, characters that a terminal might obey are written out, and what a spreadsheet would run as a formula
    begins with an apostrophe.
    """
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")
    columns, table = _peeked(table)
    for cells in itertools.chain(
        [columns], ([spreadsheet_cell(row[name]) for name in columns] for row in table)
    ):
        writer.writerow(cells)
        yield line.getvalue()
        line.seek(0)
        line.truncate()


def json_lines(table: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A JSON array with one object per line, an object at a time."""
    before = "[\n"
    for row in table:
        if row.get(SHOWN) == math.inf:
            row = {**row, SHOWN: None}  # JSON has no infinity
        yield before + json.dumps(dict(row), allow_nan=False)
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def write_parquet(table: Iterable[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Write a Parquet file, whole or not at all.

    Raises:
        InputError: if pyarrow is not installed, or the file cannot be written.
    """
    try:
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow import parquet
    except ImportError:
        raise InputError(
            "Parquet files need the tables extra: pip install '.[tables]' in a clone (csv and json do without)"
        ) from None
    kinds = {"chip": pyarrow.int64(), "images": pyarrow.int64()}
    texts = COLUMNS[: COLUMNS.index("sigma")]
    names, waiting = _peeked(table)
    schema = pyarrow.schema(
        [(name, pyarrow.string() if name in texts else kinds.get(name, pyarrow.float64())) for name in names]
    )
    with replacing(path) as temporary, parquet.ParquetWriter(str(temporary), schema) as file:
        while block := list(itertools.islice(waiting, GROUP)):
            columns = {name: [row[name] for row in block] for name in names}
            file.write_table(pyarrow.table(columns, schema=schema))


def listing(results: Results) -> list[str]:
    """What a file holds, a line per task; scores as reports show them."""
    head = ("label", "metric", "sigmas", "chips", "images", "clean", "mean over chips")
    lines: list[tuple[str, ...]] = [head]
    total = 0
    for task in results.tasks():
        points = results.counts(task.id)
        total += sum(p.chips for p in points)
        sigmas = sorted({p.sigma for p in points})
        # The mean of the images that most chips saw: a pilot's few images say less.
        latest = [max((p for p in points if p.sigma == s), key=lambda p: (p.chips, p.images)) for s in sigmas]
        span = f" ({_range(sigmas, 'g')})" if len(sigmas) > 1 else f" ({sigmas[0]:g})" if sigmas else ""
        lines.append(
            (
                visible(task.label), visible(task.metric.removeprefix("-")), f"{len(sigmas)}{span}",
                _range([p.chips for p in latest], "d"), _range([p.images for p in latest], "d"),
                *(_scores(task, scores) for scores in ([task.clean], [p.mean for p in latest])),
            )
        )  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    count = len(lines) - 1
    summary = f"{results.path}: {count} task{'s' * (count != 1)}, {total} trial{'s' * (total != 1)}"
    if count == 0:
        return [summary]
    table = [
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    return [summary, "", *table]


def _scores(task: Task, scores: Iterable[float]) -> str:
    """The least and the largest of some scores, in the unit that the task's metric declares."""
    values = [shown(task.metric, score) for score in scores]
    small = is_stored_otherwise(task.metric) and any(values) and all(abs(value) < 0.1 for value in values)
    text = _range(values, ".4g" if small else ".4f")
    about = task.about.get("metric")
    unit = about.get("unit", "") if isinstance(about, Mapping) and values else ""
    return text if unit in ("", "%") else f"{text} {visible(str(unit))}"


def _range(values: Iterable[float], form: str) -> str:
    known = sorted(values)
    if not known:
        return "-"
    low, high = (format(v, form) for v in (known[0], known[-1]))
    return low if low == high else f"{low} to {high}"


def _model(task: Task) -> str:
    """The SHA-256 of the model, as far as its identity tells one."""
    model = task.identity.get("model")
    found = model.get("sha256", model.get("fingerprint")) if isinstance(model, Mapping) else model
    return found if isinstance(found, str) else ""
