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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from crossbar_sim.errors import InputError
from crossbar_sim.files import check_writable
from crossbar_sim.store import results_schema as schema
from crossbar_sim.store.sqlite import LEFT, LONGEST, check_beside, harden, is_cut

BUSY = 30.0
"""Seconds to wait for another writer."""

ERRORS = (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeDecodeError)
"""What SQLite raises: the last two for an integer of more than 64 bits, and for a damaged schema."""


@dataclass
class Opened:
    """A connection that passed all checks, and the folder of the copy that it reads, if it had to."""

    connection: sqlite3.Connection
    scratch: tempfile.TemporaryDirectory[str] | None = None

    def close(self) -> None:
        """Close it, and remove the copy."""
        self.connection.close()
        if self.scratch is not None:
            self.scratch.cleanup()


def open_memory() -> Opened:
    """A results file that is in memory only."""
    connection = _set_up(sqlite3.connect(":memory:", isolation_level=None))
    schema.create(connection)
    return Opened(connection)


def open_to_write(path: str, create: bool) -> Opened:
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
    with _telling(path), _closing_on_error(Opened(_connect(path, "rwc" if create else "rw"))) as opened:
        connection = opened.connection
        if schema.state(connection, path) != schema.version():
            connection.execute("BEGIN IMMEDIATE")
            since = schema.state(connection, path)  # again: another process may have been faster
            if since is None:
                schema.create(connection)
            else:
                schema.migrate(connection, since)
            schema.check(connection, path)
            connection.execute("COMMIT")
        else:
            schema.check(connection, path)
            _check_length(connection, path)
        return opened


def open_to_read(path: str) -> Opened:
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
            since = schema.state(opened.connection, path)
            if since is None:
                raise InputError(f"{path} holds no results: the run that made it wrote none")
            if since < schema.version():
                opened.connection = _migrated_copy(opened.connection, since)
            schema.check(opened.connection, path)
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
def _closing_on_error(opened: Opened) -> Iterator[Opened]:
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


def _readable(path: str) -> Opened:
    """A connection that reads what is there, including what an interrupted run left beside the file."""
    with _closing_on_error(Opened(_connect(path, "ro"))) as opened:
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
        return Opened(_connect(path, "ro&immutable=1"))
    # What is beside the file belongs to it; only a copy may put them together.
    scratch = tempfile.TemporaryDirectory(prefix="crossbar-sim-")
    try:
        copy = os.path.join(scratch.name, "results.db")
        for end in ("", *left):
            shutil.copyfile(path + end, copy + end)
        return Opened(_connect(copy, "rw"), scratch)
    except BaseException:
        scratch.cleanup()
        raise


def _migrated_copy(connection: sqlite3.Connection, since: int) -> sqlite3.Connection:
    """An older file that must not be changed, up to date in memory."""
    memory = _set_up(sqlite3.connect(":memory:", isolation_level=None))
    with _closing_on_error(Opened(memory)):
        connection.backup(memory)
        connection.close()
        memory.execute("BEGIN IMMEDIATE")
        schema.migrate(memory, since)
        memory.execute("COMMIT")
    return memory
