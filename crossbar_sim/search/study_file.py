"""The SQLite file of a study: one search, and its trials in the order of their numbers.

A trial takes seconds to hours, so that nothing is gained by a write-ahead log: each one is a transaction of the plain
rollback journal, on the disk when `add` returns. A killed search leaves one file that is whole.

    study   one row: the identity of the search (canonical JSON) and its SHA-256
    trials  number, point (JSON: name -> value), value, variance or NULL, seconds, notes (JSON)
"""

import hashlib
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossbar_sim.errors import InputError
from crossbar_sim.files import check_writable
from crossbar_sim.store.records import canonical
from crossbar_sim.store.sqlite import check_beside, check_schema, harden, is_empty
from crossbar_sim.text import parse_json, visible
from crossbar_sim.validate import finite

APPLICATION_ID = 0x78627364  # "xbsd"
VERSION = 1

WAIT = 30.0
"""Seconds to wait for another process that is writing."""

_TABLES = (
    """CREATE TABLE study (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    sha256 TEXT NOT NULL CHECK (length(sha256) = 64),
    identity TEXT NOT NULL
)""",
    """CREATE TABLE trials (
    number INTEGER PRIMARY KEY CHECK (number >= 0),
    point TEXT NOT NULL,
    value REAL NOT NULL CHECK (typeof(value) = 'real'),
    variance REAL CHECK (variance IS NULL OR variance >= 0),
    seconds REAL NOT NULL,
    notes TEXT NOT NULL
)""",
)


@dataclass(frozen=True)
class Trial:
    """A completed trial.

    Args:
        number: from 0.
        point: where.
        value: what came out, more being better.
        variance: of it, where that is known.
        seconds: that it took; no part of the result.
        notes: what else there is to say, as plain JSON values.
    """

    number: int
    point: Mapping[str, float]
    value: float
    variance: float | None = None
    seconds: float = field(default=0.0, compare=False)
    notes: Mapping[str, Any] = field(default_factory=dict)


class StudyFile:
    """An open study file, or one in memory (path None).

    Raises:
        InputError: if the file is no study, is damaged, cannot be written, or is of another search; it is then as it
            was.
    """

    def __init__(self, path: str | os.PathLike[str] | None, identity: Mapping[str, Any]) -> None:
        self.path = "the study" if path is None else os.fspath(path)
        text = canonical(identity)
        if path is not None:
            _check_place(self.path)
        with self._telling():
            self.connection = _connect(None if path is None else self.path)
        try:
            with self._telling():
                self._begin(text, parse_json(text))
                self._read()  # what is damaged is seen now
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file; calling it twice is allowed."""
        self.connection.close()

    def trials(self) -> tuple[Trial, ...]:
        """All trials, in the order of their numbers."""
        with self._telling():
            return self._read()

    def add(self, trials: Sequence[Trial]) -> None:
        """Record trials, all or none; they are on disk when it returns.

        Raises:
            InputError: if a trial is there already and differs, or the file cannot be written.
        """
        with self._telling(), self._transaction():
            there = {trial.number: trial for trial in self._read()}
            for trial in trials:
                known = there.get(trial.number)
                if known is None:
                    row = (trial.number, canonical(dict(trial.point)), float(trial.value), trial.variance)
                    more = (float(trial.seconds), canonical(dict(trial.notes)))
                    self.connection.execute("INSERT INTO trials VALUES (?, ?, ?, ?, ?, ?)", (*row, *more))
                elif (known.point, known.value) != (dict(trial.point), trial.value):
                    raise InputError(
                        f"{self.path}: trial {trial.number} is {known.value!r} there and now {trial.value!r}: two "
                        "different programs or machines work on one study; give each a file of its own"
                    )

    def _begin(self, text: str, identity: dict[str, Any]) -> None:
        ask = self.connection.execute
        (application,), (version,) = (
            ask("PRAGMA application_id").fetchone(),
            ask("PRAGMA user_version").fetchone(),
        )
        if not is_empty(self.connection) or application:
            if application != APPLICATION_ID:
                raise InputError(
                    f"{self.path} is an SQLite file, but no study of crossbar-sim: name another file"
                )
            if version != VERSION:
                raise InputError(
                    f"{self.path} has schema version {version}, and this crossbar-sim reads {VERSION}: upgrade with "
                    "pip install -U crossbar-sim"
                )
            check_schema(self.connection, self.path, _create, "a crossbar-sim study")
            self._compare(text, identity)
            return
        with self._transaction():
            _create(self.connection)
            sha256 = hashlib.sha256(text.encode()).hexdigest()
            ask("INSERT INTO study VALUES (1, ?, ?)", (sha256, text))
            ask(f"PRAGMA application_id = {APPLICATION_ID}")
            ask(f"PRAGMA user_version = {VERSION}")

    def _compare(self, text: str, identity: dict[str, Any]) -> None:
        (answer,) = self.connection.execute("PRAGMA quick_check(1)").fetchone()
        row = self.connection.execute("SELECT sha256, identity FROM study").fetchone()
        if answer != "ok" or row is None or hashlib.sha256(row[1].encode()).hexdigest() != row[0]:
            raise InputError(
                f"{self.path} is damaged: take a copy that is whole, or search again into a new file"
            )
        if row[1] != text:
            name, there, here = _difference(parse_json(row[1]), identity)
            raise InputError(
                f"{self.path} is the study of another search: {name} is {_short(there)} there and {_short(here)} "
                "here; name another file, or search as it was"
            )

    def _read(self) -> tuple[Trial, ...]:
        rows = self.connection.execute(
            "SELECT number, point, value, variance, seconds, notes FROM trials ORDER BY number"
        )
        return tuple(_tried(*row) for row in rows)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:  # SQLite may have rolled back by itself (disk full)
                self.connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except (
            sqlite3.Error,
            sqlite3.Warning,
            OverflowError,
            ValueError,
            TypeError,
            AttributeError,
        ) as error:
            raise InputError(_sentence(error, self.path)) from error


def _check_place(path: str) -> None:
    if not path or "\0" in path:
        raise InputError(f"{path!r} is no name of a file")
    check_writable(path)
    check_beside(path)
    if os.path.exists(path) and os.path.getsize(path) == 1:  # which SQLite takes for an empty file
        raise InputError(f"{path} is no study (no SQLite file): name another file")


def _connect(path: str | None) -> sqlite3.Connection:
    where = "file::memory:" if path is None else f"{Path(path).absolute().as_uri()}?mode=rwc"
    connection = sqlite3.connect(where, timeout=WAIT, isolation_level=None, uri=True)
    harden(connection).execute("PRAGMA synchronous = FULL")
    return connection


def _create(connection: sqlite3.Connection) -> None:
    for table in _TABLES:
        connection.execute(table)


def _tried(
    number: int, point: str, value: float, variance: float | None, seconds: float, notes: str
) -> Trial:
    """A row of the table of trials.

    Raises:
        TypeError, ValueError: if it is none that `add` writes.
    """
    where, told = parse_json(point), parse_json(notes)
    if not isinstance(where, dict) or not all(finite(place) for place in where.values()):
        raise ValueError(f"the point of trial {number} is {_short(where)}")
    if not isinstance(told, dict):
        raise ValueError(f"the notes of trial {number} are {_short(told)}")
    if not (finite(value) and finite(seconds) and (variance is None or finite(variance))):
        raise ValueError(
            f"trial {number} holds {value!r}, {variance!r} and {seconds!r}: not three finite numbers"
        )
    return Trial(number, where, value, variance, seconds, told)


def _sentence(error: Exception, path: str) -> str:
    name = str(getattr(error, "sqlite_errorname", "") or "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return (
            f"{path} is being written by another process for more than {WAIT:.0f} s: wait for it, or end it"
        )
    if name == "SQLITE_NOTADB":
        return f"{path} is no study (no SQLite file): name another file"
    if name == "SQLITE_FULL":
        return f"cannot write {path}: the disk is full; what was written before is kept"
    if name.startswith(("SQLITE_IOERR", "SQLITE_READONLY", "SQLITE_CANTOPEN")):
        return f"cannot write {path}: {error}; what was written before is kept"
    why = visible(" ".join(str(error).split())[:200])
    return f"{path} is damaged ({why}): take a copy that is whole, or search again into a new file"


def _difference(there: Any, here: Any, name: str = "") -> tuple[str, Any, Any]:
    """The first place, in the order of names, where two identities differ: (dotted name, there, here)."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted({*there, *here}):
            if there.get(key) != here.get(key):
                return _difference(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    return name or "it", there, here


def _short(value: Any) -> str:
    try:
        text = canonical(value)
    except InputError:
        text = str(value)
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= 80 else f"{text[:77]}..."
