"""Opening and closing the SQLite file of results.

While we write, the file is in WAL mode: readers never wait, and a killed writer leaves every finished transaction.
When the last writer closes it, it goes back to a rollback journal: one file, readable from anywhere.

Nothing here opens a file beside SQLite that this process may be writing: closing such a handle would drop its locks
(POSIX).
"""

import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from crossbar_sim.errors import InputError
from crossbar_sim.files import check_writable
from crossbar_sim.store.sqlite import (
    BUSY,
    LEFT,
    Kind,
    check_path,
    check_schema,
    connect,
    input_errors,
    is_cut,
    set_version,
    transaction,
    version_of,
)

# The tables of a results file, and how an older file is recognised and brought up to date.
#
# docs/results-file.md specifies them. The text below is in every file, and a file whose text differs is refused: so
# nothing that somebody else wrote into a schema is ever run. It has no STRICT, which only SQLite 3.37 and later can
# read; the checks do the same.


APPLICATION_ID = 0x78626172  # "xbar"; file(1) and SQLite tools show it

_TABLES = (
    """CREATE TABLE tasks (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE CHECK (typeof(id) = 'text' AND length(id) = 64),
    label TEXT NOT NULL CHECK (typeof(label) = 'text'),
    identity TEXT NOT NULL CHECK (typeof(identity) = 'text'),
    about TEXT NOT NULL CHECK (typeof(about) = 'text'),
    clean REAL NOT NULL CHECK (typeof(clean) = 'real' AND clean FINITE)
)""",
    """CREATE TABLE trials (
    task TEXT NOT NULL REFERENCES tasks (id) CHECK (typeof(task) = 'text'),
    sigma REAL NOT NULL CHECK (typeof(sigma) = 'real' AND sigma >= 0 AND sigma FINITE),
    chip INTEGER NOT NULL CHECK (typeof(chip) = 'integer' AND chip >= 0),
    metric TEXT NOT NULL CHECK (typeof(metric) = 'text'),
    images INTEGER NOT NULL CHECK (typeof(images) = 'integer' AND images >= 1),
    value REAL NOT NULL CHECK (typeof(value) = 'real' AND value FINITE),
    variance REAL NOT NULL CHECK (typeof(variance) = 'real' AND variance >= 0 AND variance FINITE),
    seconds REAL NOT NULL CHECK (typeof(seconds) = 'real' AND seconds >= 0 AND seconds FINITE),
    PRIMARY KEY (task, sigma, chip, metric, images)
) WITHOUT ROWID""",
    """CREATE TABLE details (
    task TEXT NOT NULL REFERENCES tasks (id) CHECK (typeof(task) = 'text'),
    name TEXT NOT NULL CHECK (typeof(name) = 'text'),
    content TEXT NOT NULL CHECK (typeof(content) = 'text'),
    PRIMARY KEY (task, name)
) WITHOUT ROWID""",
)
_FINITE = "BETWEEN -1.7976931348623157e308 AND 1.7976931348623157e308"

SCHEMA = tuple(text.replace("FINITE", _FINITE) for text in _TABLES)

# A file may have been written with its checks off, and SQLite before 3.42 does not look at them again in tables
# without rowid.
_IMPOSSIBLE = f"""SELECT task, sigma, chip FROM trials WHERE NOT (
    typeof(sigma) = 'real' AND typeof(chip) = 'integer' AND typeof(images) = 'integer' AND typeof(value) = 'real'
    AND typeof(variance) = 'real' AND typeof(seconds) = 'real' AND typeof(metric) = 'text' AND chip >= 0
    AND images >= 1 AND sigma >= 0 AND variance >= 0 AND sigma {_FINITE} AND value {_FINITE} AND variance {_FINITE}
) LIMIT 1"""

Migration = Callable[[sqlite3.Connection], None]

OLDEST = 1
"""The version of the first release."""

MIGRATIONS: tuple[Migration, ...] = ()
"""MIGRATIONS[i] turns a file of version OLDEST + i into one of the next version, inside a transaction."""


def version() -> int:
    """The schema version that this package writes."""
    return OLDEST + len(MIGRATIONS)


def state(connection: sqlite3.Connection, path: str) -> int | None:
    """The schema version of the file; None if there is nothing in it yet.

    Raises:
        InputError: if it is another application's file, or its version is one that cannot be read.
    """
    number = version_of(connection, path, KIND, version())
    if number is not None and number < OLDEST:
        raise InputError(
            f"{path} has schema version {number}, older than the first release's ({OLDEST}): it cannot be read"
        )
    return number


def create_tables(connection: sqlite3.Connection) -> None:
    """Make the tables, inside a transaction."""
    for text in SCHEMA:
        connection.execute(text)
    set_version(connection, KIND, version())


def migrate(connection: sqlite3.Connection, since: int) -> None:
    """Bring a file of version `since` up to date, inside a transaction."""
    for step in MIGRATIONS[since - OLDEST :]:
        step(connection)
    set_version(connection, KIND, version())


def check(connection: sqlite3.Connection, path: str) -> None:
    """Refuse a file with other tables, or whose pages or values are damaged.

    Raises:
        InputError: with what was found.
    """
    check_schema(connection, path, KIND)
    wrong = connection.execute(_IMPOSSIBLE).fetchone()
    if wrong is not None:
        where = f"task {str(wrong[0])[:12]}, sigma {wrong[1]!r}, chip {wrong[2]!r}"
        raise KIND.damaged(path, f"impossible values at {where}")


KIND = Kind(
    "a results file", "crossbar-sim results", APPLICATION_ID, create_tables, "run it again into a new file"
)


@dataclass
class OpenResults:
    """A connection that passed all checks, and the folder of the copy that it reads, if it had to."""

    connection: sqlite3.Connection
    scratch: tempfile.TemporaryDirectory[str] | None = None

    def close(self) -> None:
        """Close it, and remove the copy."""
        self.connection.close()
        if self.scratch is not None:
            self.scratch.cleanup()


def open_memory() -> OpenResults:
    """A results file that is in memory only."""
    connection = _connect(None)
    create_tables(connection)
    return OpenResults(connection)


def open_to_write(path: str, create: bool) -> OpenResults:
    """Open for reading and writing, making the file or its tables where they are missing.

    Raises:
        InputError: whatever keeps the file from being used.
    """
    check_path(path, KIND, must_exist=not create)
    check_writable(path)
    if not os.path.exists(path):
        for name in (path + end for end in LEFT):
            # SQLite would throw it away, or write it into the wrong file; but another process may just be making both
            if os.path.exists(name) and not os.path.exists(path):
                raise InputError(f"{path} is not there, but {name} of it is: put both together, or remove it")
    with (
        input_errors(path, KIND),
        _closing_on_error(OpenResults(_connect(path, "rwc" if create else "rw"))) as opened,
    ):
        connection = opened.connection
        if state(connection, path) != version():
            with transaction(connection):
                since = state(connection, path)  # again: another process may have been faster
                if since is None:
                    create_tables(connection)
                else:
                    migrate(connection, since)
                check(connection, path)
        else:
            check(connection, path)
            _check_length(connection, path)
        return opened


def open_to_read(path: str) -> OpenResults:
    """Open without changing the file, wherever it lies.

    Raises:
        InputError: whatever keeps the file from being used.
    """
    check_path(path, KIND, must_exist=True)
    if not os.access(path, os.R_OK):
        raise InputError(f"cannot read {path}: permission denied")
    with input_errors(path, KIND):
        opened = _readable(path)
        with _closing_on_error(opened):
            since = state(opened.connection, path)
            if since is None:
                raise InputError(f"{path} holds no results: the run that made it wrote none")
            if since < version():
                opened.connection = _migrated_copy(opened.connection, since)
            check(opened.connection, path)
            _check_length(opened.connection, path)
            opened.connection.execute("PRAGMA query_only = ON")
        return opened


def settle(connection: sqlite3.Connection) -> None:
    """Before closing: all into the one file, if no other process has it open; else as much as can be.

    Where the disk is full nothing is lost: the rows stay in the -wal file, and the next to open them finds them.
    """
    with suppress(sqlite3.Error):
        connection.execute("PRAGMA busy_timeout = 0")
    for pragma in ("journal_mode = DELETE", "wal_checkpoint(TRUNCATE)"):
        with suppress(sqlite3.Error):
            (answer, *_) = connection.execute(f"PRAGMA {pragma}").fetchone()
            if answer == "delete":
                return


def _check_length(connection: sqlite3.Connection, path: str) -> None:
    if is_cut(connection, path):
        raise InputError(
            f"{path} is damaged (its end is missing): take a copy that is whole, or run it again"
        )


def _connect(path: str | None, mode: str = "rw") -> sqlite3.Connection:
    connection = connect(path, mode)
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


@contextmanager
def _closing_on_error(opened: OpenResults) -> Iterator[OpenResults]:
    try:
        yield opened
    except BaseException:
        opened.close()  # an open transaction is rolled back
        raise


def start_writing(connection: sqlite3.Connection, path: str) -> None:
    """Last of all checks, and the first that changes a file: prepare it for adding.

    Raises:
        InputError: if another process keeps it locked.
    """
    with input_errors(path, KIND):
        _journal(connection)


def _journal(connection: sqlite3.Connection) -> None:
    """WAL where the file system can share memory, else the rollback journal that every file has.

    WAL with NORMAL: a killed process loses nothing; a power cut may lose the last transactions, never the file. In a
    rollback journal only FULL promises that.
    """
    until = time.monotonic() + BUSY
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # maps the shared memory
            break
        except sqlite3.OperationalError as error:
            if not str(error.sqlite_errorname).startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                (mode,) = connection.execute("PRAGMA journal_mode = DELETE").fetchone()
                break
            if time.monotonic() > until:
                raise
            time.sleep(0.01)  # for this switch SQLite does not wait by itself
    connection.execute(f"PRAGMA synchronous = {'NORMAL' if mode == 'wal' else 'FULL'}")


def _readable(path: str) -> OpenResults:
    """A connection that reads what is there, including what an interrupted run left beside the file."""
    with _closing_on_error(OpenResults(_connect(path, "ro"))) as opened:
        try:
            opened.connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
            return opened
        except sqlite3.OperationalError as error:
            # The last: -shm cannot be made because the disk is full.
            codes = ("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_IOERR_SHM")
            if not str(error.sqlite_errorname).startswith(codes):
                raise
            opened.close()
    left = [end for end in LEFT if os.path.exists(path + end) and os.path.getsize(path + end)]
    if not left:  # in WAL mode in a folder that we may not write: nobody else is writing either
        return OpenResults(_connect(path, "ro&immutable=1"))
    # What is beside the file belongs to it; only a copy may put them together.
    scratch = tempfile.TemporaryDirectory(prefix="crossbar-sim-")
    try:
        copy = os.path.join(scratch.name, "results.db")
        for end in ("", *left):
            shutil.copyfile(path + end, copy + end)
        return OpenResults(_connect(copy, "rw"), scratch)
    except BaseException:
        scratch.cleanup()
        raise


def _migrated_copy(connection: sqlite3.Connection, since: int) -> sqlite3.Connection:
    """An older file that must not be changed, up to date in memory."""
    memory = _connect(None)
    with _closing_on_error(OpenResults(memory)):
        connection.backup(memory)
        connection.close()
        with transaction(memory):
            migrate(memory, since)
    return memory
