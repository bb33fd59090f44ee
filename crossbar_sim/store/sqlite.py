"""What results files and study files share: SQLite that trusts nothing in a file.

A schema can hold code: a view, a trigger, a generated column, an index on an expression or a virtual table runs when
a table is read or written, and can take hours or all memory. So `check_schema` comes before the first query of a
table: what a file declares is exactly what we write, or the file is refused.
"""

import os
import sqlite3
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from crossbar_sim.errors import InputError
from crossbar_sim.files import check_regular
from crossbar_sim.text import visible

BUSY = 30.0
"""Seconds to wait for another writer."""

ERRORS = (sqlite3.Error, sqlite3.Warning, OverflowError, UnicodeDecodeError)
"""What SQLite raises: the last two for an integer of more than 64 bits, and for a damaged schema."""


@dataclass(frozen=True)
class Kind:
    """A kind of SQLite file of crossbar-sim.

    Args:
        name: with its article: "a results file".
        content: what its tables hold: "crossbar-sim results".
        application_id: in its header; file(1) and SQLite tools show it.
        create: makes the tables of an empty file, inside a transaction.
        again: what to do instead of using a damaged file.
    """

    name: str
    content: str
    application_id: int
    create: Callable[[sqlite3.Connection], None]
    again: str

    def damaged(self, path: str, why: object) -> InputError:
        """The error for a damaged file."""
        text = visible(" ".join(str(why).split())[:200])
        return InputError(f"{path} is damaged ({text}): take a copy that is whole, or {self.again}")


LONGEST = 1 << 24
"""Bytes of one text in a file: labels, identities and details are shorter."""

_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: LONGEST,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 1 << 16,
    sqlite3.SQLITE_LIMIT_COLUMN: 64,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 4,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
}

_PRAGMAS = ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0", "recursive_triggers = OFF")

_SWITCHES = {
    "SQLITE_DBCONFIG_DEFENSIVE": True,
    "SQLITE_DBCONFIG_ENABLE_TRIGGER": False,
    "SQLITE_DBCONFIG_ENABLE_VIEW": False,
    "SQLITE_DBCONFIG_DQS_DDL": False,
}
"""For `Connection.setconfig` of Python 3.12."""

_STATISTICS = {
    ("table", "sqlite_stat1"): "CREATE TABLE sqlite_stat1(tbl,idx,stat)",
    ("table", "sqlite_stat4"): "CREATE TABLE sqlite_stat4(tbl,idx,neq,nlt,ndlt,sample)",
}
"""What ANALYZE adds, which somebody may have run."""


def _harden(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Set limits, and refuse whatever a view or trigger would do; returns the same connection."""
    for limit, value in _LIMITS.items():
        connection.setlimit(limit, value)
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
    if hasattr(connection, "setconfig"):
        for name, on in _SWITCHES.items():
            connection.setconfig(getattr(sqlite3, name), on)
    connection.set_authorizer(_authorize)
    return connection


def _authorize(
    action: int, first: str | None, second: str | None, database: str | None, source: str | None
) -> int:
    """Called when a statement is compiled: `source` is the view or trigger that it comes from, None for our own."""
    outside = source is not None or action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_CREATE_VTABLE)
    return sqlite3.SQLITE_DENY if outside else sqlite3.SQLITE_OK


def connect(path: str | None, mode: str = "rw") -> sqlite3.Connection:
    """A connection to a file (None: to a database in memory) that runs nothing of what the file declares.

    Args:
        path: of the file.
        mode: of SQLite's URI: "rw", "rwc" to create it, "ro".
    """
    uri = "file::memory:" if path is None else _uri(path, mode)
    return _harden(sqlite3.connect(uri, timeout=BUSY, isolation_level=None, uri=True))


def _uri(path: str, mode: str) -> str:
    return f"{Path(path).absolute().as_uri()}?mode={mode}"


def check_path(path: str, kind: Kind, must_exist: bool = False) -> None:
    """Refuse what is not a regular file, before SQLite opens it.

    Raises:
        InputError: in one sentence.
    """
    if not path or "\0" in path:
        raise InputError(f"{path!r} is not the name of a file")
    # SQLite takes a file of one byte for an empty one.
    if (must_exist or os.path.exists(path)) and check_regular(path, kind.name).st_size == 1:
        raise InputError(f"{path} is not {kind.name} (not an SQLite file): name another file")
    check_beside(path)


def version_of(connection: sqlite3.Connection, path: str, kind: Kind, newest: int) -> int | None:
    """The schema version of the file; None if there is nothing in it yet.

    Raises:
        InputError: if it is another application's file, or of a version above `newest`.
    """
    alone = not connection.in_transaction
    if alone:  # one moment for all that is read: another process may be creating the tables
        connection.execute("BEGIN")
    try:
        empty = connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None
        application, number = (
            int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])
            for pragma in ("application_id", "user_version")
        )
    finally:
        if alone and connection.in_transaction:
            connection.execute("ROLLBACK")
    if empty and not application and not number:
        return None
    if application != kind.application_id:
        raise InputError(f"{path} is an SQLite file, but not of {kind.content}: name another file")
    if number > newest:
        raise InputError(
            f"{path} has schema version {number}, and this crossbar-sim reads up to {newest}: "
            "upgrade with pip install -U crossbar-sim"
        )
    return number


def set_version(connection: sqlite3.Connection, kind: Kind, number: int) -> None:
    """Write into the header what `version_of` reads."""
    connection.execute(f"PRAGMA application_id = {kind.application_id}")
    connection.execute(f"PRAGMA user_version = {number}")


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All that is written inside, or none of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite may have rolled back by itself (disk full)
            connection.execute("ROLLBACK")
        raise


@contextmanager
def input_errors(path: str, kind: Kind) -> Iterator[None]:
    """SQLite's errors as one sentence with the file, the cause and the remedy.

    Raises:
        InputError: for one of `ERRORS`.
    """
    try:
        yield
    except ERRORS as error:
        name = str(getattr(error, "sqlite_errorname", "") or "")
        unchanged = "what was written before is kept"
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            text = f"{path} is being written by another process for more than {BUSY:.0f} s: wait for it, or end it"
        elif name == "SQLITE_FULL":
            text = f"cannot write {path}: the disk is full; {unchanged}"
        elif name.startswith("SQLITE_IOERR"):
            text = (
                f"cannot use {path}: {error} ({name}: the disk may be full, or the file removed); {unchanged}"
            )
        elif name.startswith("SQLITE_READONLY"):
            text = f"cannot write {path}: it, or its folder, is write-protected"
        elif name.startswith("SQLITE_CANTOPEN"):
            text = f"cannot open {path}: it, or its folder, may not be read or written"
        elif name == "SQLITE_NOTADB":
            text = f"{path} is not {kind.name} (not an SQLite file): name another file"
        elif name == "SQLITE_TOOBIG":
            text = f"{path}: a text has more than {LONGEST >> 20} MiB, which {kind.name} does not hold"
        elif name.startswith("SQLITE_CONSTRAINT") or isinstance(error, OverflowError):
            text = f"{path} cannot hold this value: {error}"
        else:
            raise kind.damaged(path, error) from error
        raise InputError(text) from error


def check_schema(connection: sqlite3.Connection, path: str, kind: Kind) -> None:
    """Refuse a file that declares anything else than `kind.create` does, or has damaged pages.

    Args:
        connection: of the file; nothing is read before its list of declarations was found to be right.
        path: of the file, for the message.
        kind: what the file should be.

    Raises:
        InputError: naming what is different or missing.
    """
    in_memory = sqlite3.connect(":memory:")
    try:
        kind.create(in_memory)
        expected = _declared(in_memory)
    finally:
        in_memory.close()
    found = _declared(connection)
    if found != expected:
        declared, name, _ = min(found - expected or expected - found)
        raise InputError(
            f"{path} does not have the tables of {kind.content} (look at {declared} {name[:60]!r}): it was changed by "
            "another program; name another file"
        )
    # Every page and row: 50 ms for 100,000 trials.
    (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if answer != "ok":
        raise kind.damaged(path, answer)


def _declared(connection: sqlite3.Connection) -> set[tuple[str, str, str]]:
    """(type, name, SQL in one spacing), less what SQLite adds by itself: indexes of keys, and statistics."""
    rows = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master").fetchall()
    tables = {str(name) for kind, name, *_ in rows if kind == "table"}
    found = set()
    for kind, name, table, sql in rows:
        text = " ".join(str(sql).split())
        own_index = (
            kind == "index" and sql is None and str(name).startswith("sqlite_autoindex_") and table in tables
        )
        if not own_index and _STATISTICS.get((str(kind), str(name))) != text:
            found.add((str(kind), str(name), text))
    return found


def is_cut(connection: sqlite3.Connection, path: str) -> bool:
    """Whether the last page of the file was cut off: SQLite would read zeros there."""
    (page,) = connection.execute("PRAGMA page_size").fetchone()
    return bool(os.path.getsize(path) % page) and not any(os.path.exists(path + end) for end in LEFT)


LEFT = ("-wal", "-journal")
"""Endings of the files that a killed writer leaves beside its own."""


_MAGIC = bytes.fromhex("d9d505f920a163d7")
"""A rollback journal begins with it, and ends with it where it names a super-journal."""


def check_beside(path: str) -> None:
    """Refuse what lies beside a file where SQLite would find a journal, unless crossbar-sim left it there.

    SQLite acts on a journal when the file is opened, also for reading: it follows links, deletes what is not a journal,
    and deletes the file that a journal names as its super-journal, wherever that is. Those are of transactions over
    several files, which we never make. What a journal does to the file itself is checked like the file, afterwards.

    Args:
        path: of the file, which need not be there. Neither it nor its -shm is opened: closing them would drop the
            locks that this process may have on them (POSIX).

    Raises:
        InputError: naming the file beside it.
    """
    real = os.path.realpath(path)  # where SQLite looks
    for name in (real + end for end in (*LEFT, "-shm")):
        try:
            found = os.lstat(name)
        except OSError:
            continue
        if not stat.S_ISREG(found.st_mode):
            raise InputError(
                f"{name} is not a regular file, and SQLite would take it for a part of {path}: remove it"
            )
    try:
        with open(real + "-journal", "rb") as file:
            start = file.read(28)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 16))
            end = file.read(16)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"cannot read {real}-journal: {error.strerror or error}") from error
    if not start or start[0] == 0:  # not in use: SQLite ignores it
        return
    why = ""
    if len(start) < 28 or not start.startswith(_MAGIC):
        why = "is not a journal of SQLite"
    elif len(end) == 16 and end.endswith(_MAGIC) and 0 < int.from_bytes(end[:4], "big") <= size - 16:
        why = "names another file, which SQLite would delete"
    else:
        _, _, pages, _, page = struct.unpack(">5I", start[8:])
        there = os.path.getsize(real) if os.path.exists(real) else 0
        if pages * page > there + size:  # a page that a transaction cuts off is in the journal
            why = f"asks for {pages} pages, more than both files hold"
    if why:
        raise InputError(
            f"{real}-journal {why}: crossbar-sim did not leave it beside {path}; remove it, if both are from elsewhere"
        )
