"""The SQLite file of a study: one search, and its trials in the order of their numbers.

A trial takes seconds to hours, so that nothing is gained by a write-ahead log: each one is a transaction of the plain
rollback journal, on the disk when `add` returns. A killed search leaves one file that is whole.

    study   one row: the identity of the search (canonical JSON) and its SHA-256
    trials  number, point (JSON: name -> value), value, variance or NULL, seconds, notes (JSON)
"""

import hashlib
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from crossbar_sim.errors import InputError
from crossbar_sim.files import check_writable
from crossbar_sim.store.records import canonical
from crossbar_sim.store.sqlite import (
    Kind,
    check_path,
    check_schema,
    connect,
    input_errors,
    set_version,
    transaction,
    version_of,
)
from crossbar_sim.text import parse_json
from crossbar_sim.validate import finite

APPLICATION_ID = 0x78627364  # "xbsd"
VERSION = 1

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
            check_path(self.path, KIND)
            check_writable(self.path)
        with input_errors(self.path, KIND):
            self.connection = connect(None if path is None else self.path, "rwc")
            self.connection.execute("PRAGMA synchronous = FULL")
        try:
            with input_errors(self.path, KIND):
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
        with input_errors(self.path, KIND):
            return self._read()

    def add(self, trials: Sequence[Trial]) -> None:
        """Record trials, all or none; they are on disk when it returns.

        Raises:
            InputError: if a trial is there already and differs, or the file cannot be written.
        """
        with input_errors(self.path, KIND), transaction(self.connection):
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
        if version_of(self.connection, self.path, KIND, VERSION) is not None:
            check_schema(self.connection, self.path, KIND)
            self._compare(text, identity)
            return
        with transaction(self.connection):
            _create(self.connection)
            sha256 = hashlib.sha256(text.encode()).hexdigest()
            self.connection.execute("INSERT INTO study VALUES (1, ?, ?)", (sha256, text))
            set_version(self.connection, KIND, VERSION)

    def _compare(self, text: str, identity: dict[str, Any]) -> None:
        row = self.connection.execute("SELECT sha256, identity FROM study").fetchone()
        if row is None or hashlib.sha256(str(row[1]).encode()).hexdigest() != row[0]:
            raise KIND.damaged(self.path, "the identity does not have its SHA-256")
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
        try:
            return tuple(_tried(*row) for row in rows)
        except (TypeError, ValueError) as error:
            raise KIND.damaged(self.path, error) from error


def _create(connection: sqlite3.Connection) -> None:
    for table in _TABLES:
        connection.execute(table)


KIND = Kind("a study", "a crossbar-sim study", APPLICATION_ID, _create, "search again into a new file")


def _tried(
    number: int, point: str, value: float, variance: float | None, seconds: float, notes: str
) -> Trial:
    """A row of the table of trials.

    Raises:
        TypeError, ValueError: if it is none that `add` writes.
    """
    values, noted = parse_json(point), parse_json(notes)
    if not isinstance(values, dict) or not all(finite(value) for value in values.values()):
        raise ValueError(f"the point of trial {number} is {_short(values)}")
    if not isinstance(noted, dict):
        raise ValueError(f"the notes of trial {number} are {_short(noted)}")
    if not (finite(value) and finite(seconds) and (variance is None or finite(variance))):
        raise ValueError(
            f"trial {number} holds {value!r}, {variance!r} and {seconds!r}: not three finite numbers"
        )
    return Trial(number, values, value, variance, seconds, noted)


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
