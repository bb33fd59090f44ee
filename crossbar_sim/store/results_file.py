"""Opening and closing the SQLite file of results, and SQLite's errors as sentences.

While we write, the file is in WAL mode: readers never wait, and a killed writer leaves every finished transaction.
When the last writer closes it, it goes back to a rollback journal: one file, readable from anywhere.

Nothing here opens a file beside SQLite that this process may be writing: closing such a handle would drop its locks
(POSIX).
"""

import os
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from crossbar_sim.errors import InputError
from crossbar_sim.files import check_writable
from crossbar_sim.store.sqlite import LEFT, LONGEST, check_beside, check_schema, harden, is_cut, is_empty

# The tables of a results file, and how a file of another age is told and brought up to date.
#
# docs/results-file.md specifies them. The text below lies in every file, and a file whose text differs is
# refused: so
# nothing that somebody else wrote into a schema is ever run. It has no STRICT, which only SQLite 3.37 and later can
# read; the checks say the same.


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
    alone = not connection.in_transaction
    if alone:
        connection.execute(
            "BEGIN"
        )  # one moment for all that is read: another process may be making the tables
    try:
        empty = is_empty(connection)
        application, number = _number(connection, "application_id"), _number(connection, "user_version")
    finally:
        if alone and connection.in_transaction:
            connection.execute("ROLLBACK")
    if empty and not application and not number:
        return None
    if application != APPLICATION_ID:
        raise InputError(f"{path} is an SQLite file, but not of crossbar-sim results: name another file")
    if number > version():
        raise InputError(
            f"{path} has schema version {number}, and this crossbar-sim reads up to {version()}: "
            "upgrade with pip install -U crossbar-sim"
        )
    if number < OLDEST:
        raise InputError(
            f"{path} has schema version {number}, older than the first release's ({OLDEST}): it cannot be read"
        )
    return number


def create_tables(connection: sqlite3.Connection) -> None:
    """Make the tables, inside a transaction."""
    for text in SCHEMA:
        connection.execute(text)
    _stamp(connection)


def migrate(connection: sqlite3.Connection, since: int) -> None:
    """Bring a file of version `since` up to date, inside a transaction."""
    for step in MIGRATIONS[since - OLDEST :]:
        step(connection)
    _stamp(connection)


def check(connection: sqlite3.Connection, path: str) -> None:
    """Refuse a file that has other tables than ours, or whose pages or values are damaged.

    Raises:
        InputError: with what was found.
    """
    check_schema(connection, path, create_tables, "crossbar-sim results")
    # Every page and row: 50 ms for 100,000 trials.
    (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    wrong = connection.execute(_IMPOSSIBLE).fetchone() if answer == "ok" else None
    if wrong is not None:
        answer = f"impossible values at task {str(wrong[0])[:12]}, sigma {wrong[1]!r}, chip {wrong[2]!r}"
    if answer != "ok":
        raise InputError(
            f"{path} is damaged ({' '.join(str(answer).split())}): take a copy that is whole, or run it again "
            "into a new file"
        )


def _stamp(connection: sqlite3.Connection) -> None:
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {version()}")


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


BUSY = 30.0
"""Seconds to wait for another writer."""

ERRORS = (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeDecodeError)
"""What SQLite raises: the last two for an integer of more than 64 bits, and for a damaged schema."""


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
    connection = _set_up(sqlite3.connect(":memory:", isolation_level=None))
    create_tables(connection)
    return OpenResults(connection)


def open_to_write(path: str, create: bool) -> OpenResults:
    """Open for reading and writing, making the file or its tables where they are missing.

    Raises:
        InputError: whatever keeps the file from being used.
    """
    _is_regular(path, must_exist=not create)
    check_writable(path)
    check_beside(path)
    if not os.path.exists(path):
        for name in (path + end for end in LEFT):
            # SQLite would throw it away, or write it into the wrong file; but another process may just be making both
            if os.path.exists(name) and not os.path.exists(path):
                raise InputError(f"{path} is not there, but {name} of it is: put both together, or remove it")
    with _telling(path), _closing_on_error(OpenResults(_connect(path, "rwc" if create else "rw"))) as opened:
        connection = opened.connection
        if state(connection, path) != version():
            connection.execute("BEGIN IMMEDIATE")
            since = state(connection, path)  # again: another process may have been faster
            if since is None:
                create_tables(connection)
            else:
                migrate(connection, since)
            check(connection, path)
            connection.execute("COMMIT")
        else:
            check(connection, path)
            _check_length(connection, path)
        return opened


def open_to_read(path: str) -> OpenResults:
    """Open without changing the file, wherever it lies.

    Raises:
        InputError: whatever keeps the file from being used.
    """
    _is_regular(path, must_exist=True)
    if not os.access(path, os.R_OK):
        raise InputError(f"cannot read {path}: permission denied")
    check_beside(path)
    with _telling(path):
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


def told(error: Exception, path: str) -> InputError:
    """One of ERRORS as one sentence with the file, the cause and the remedy."""
    return InputError(_sentence(error, path))


@contextmanager
def _telling(path: str) -> Iterator[None]:
    try:
        yield
    except ERRORS as error:
        raise told(error, path) from error


def _sentence(error: Exception, path: str) -> str:
    name = str(getattr(error, "sqlite_errorname", "") or "")
    kept = "what was written before is kept"
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return (
            f"{path} is being written by another process for more than {BUSY:.0f} s: wait for it, or end it"
        )
    if name == "SQLITE_FULL":
        return f"cannot write {path}: the disk is full; {kept}"
    if name.startswith("SQLITE_IOERR"):
        return f"cannot use {path}: {error} ({name}: the disk may be full, or the file gone); {kept}"
    if name.startswith("SQLITE_READONLY"):
        return f"cannot write {path}: it, or its folder, is write-protected"
    if name.startswith("SQLITE_CANTOPEN"):
        return f"cannot open {path}: it, or its folder, may not be read or written"
    if name == "SQLITE_NOTADB":
        return f"{path} is no results file (no SQLite file): name another file"
    if name == "SQLITE_TOOBIG":
        return f"{path}: a text of more than {LONGEST >> 20} MiB is no part of a results file"
    if name.startswith("SQLITE_CONSTRAINT") or isinstance(error, OverflowError):
        return f"{path} cannot hold this value: {error}"
    return f"{path} is damaged ({error}): take a copy that is whole, or run it again into a new file"


def _is_regular(path: str, must_exist: bool) -> None:
    if not path or "\0" in path:
        raise InputError(f"{path!r} is no name of a file")
    try:
        found = os.stat(path)
    except FileNotFoundError:
        if must_exist:
            raise InputError(f"{path} does not exist: name a results file") from None
        return
    except OSError as error:
        raise InputError(f"cannot open {path}: {error.strerror or error}") from error
    if not stat.S_ISREG(found.st_mode):
        what = "a directory" if stat.S_ISDIR(found.st_mode) else "no regular file"
        raise InputError(f"{path} is {what}: name a results file")
    if found.st_size == 1:  # which SQLite takes for an empty file
        raise InputError(f"{path} is no results file (no SQLite file): name another file")


def _check_length(connection: sqlite3.Connection, path: str) -> None:
    if is_cut(connection, path):
        raise InputError(
            f"{path} is damaged (its end is missing): take a copy that is whole, or run it again"
        )


def _uri(path: str, mode: str) -> str:
    return f"{Path(path).absolute().as_uri()}?mode={mode}"


def _connect(path: str, mode: str) -> sqlite3.Connection:
    return _set_up(sqlite3.connect(_uri(path, mode), timeout=BUSY, isolation_level=None, uri=True))


def _set_up(connection: sqlite3.Connection) -> sqlite3.Connection:
    harden(connection).execute("PRAGMA foreign_keys = ON")
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
    with _telling(path):
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
    memory = _set_up(sqlite3.connect(":memory:", isolation_level=None))
    with _closing_on_error(OpenResults(memory)):
        connection.backup(memory)
        connection.close()
        memory.execute("BEGIN IMMEDIATE")
        migrate(memory, since)
        memory.execute("COMMIT")
    return memory
