"""What results files and study files share: SQLite that trusts nothing in a file.

A schema can hold code: a view, a trigger, a generated column, an index on an expression or a virtual table runs when
a table is read or written, and can take hours or all memory. So `check_schema` comes before the first query of a
table: what a file declares is exactly what we write, or the file is refused.
"""

import os
import sqlite3
import stat
import struct
from collections.abc import Callable

from crossbar_sim.errors import InputError

LONGEST = 1 << 24
"""Bytes of one text in a file: a longer one is no label, identity or detail."""

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


def harden(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Set limits, and refuse whatever a view or trigger would do; the same connection is returned."""
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
    """Asked when a statement is compiled: `source` is the view or trigger that brings it in, None for our own."""
    outside = source is not None or action in (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_CREATE_VTABLE)
    return sqlite3.SQLITE_DENY if outside else sqlite3.SQLITE_OK


def check_schema(
    connection: sqlite3.Connection, path: str, create: Callable[[sqlite3.Connection], None], what: str
) -> None:
    """Refuse a file that declares anything else than `create` does.

    Args:
        connection: of the file; nothing but its list of declarations is read.
        path: of the file, for the sentence.
        create: makes the tables of an empty one.
        what: what the file should be: "crossbar-sim results".

    Raises:
        InputError: naming what is not ours, or is missing.
    """
    with_ours = sqlite3.connect(":memory:")
    try:
        create(with_ours)
        expected = _declared(with_ours)
    finally:
        with_ours.close()
    found = _declared(connection)
    if found != expected:
        kind, name, _ = min(found - expected or expected - found)
        raise InputError(
            f"{path} does not have the tables of {what} (look at {kind} {name[:60]!r}): it was changed by another "
            "program; name another file"
        )


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


def is_empty(connection: sqlite3.Connection) -> bool:
    """Whether nothing at all is declared in the file."""
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def is_cut(connection: sqlite3.Connection, path: str) -> bool:
    """Whether the last page of the file was cut off: SQLite would read zeros there."""
    (page,) = connection.execute("PRAGMA page_size").fetchone()
    return bool(os.path.getsize(path) % page) and not any(os.path.exists(path + end) for end in LEFT)


LEFT = ("-wal", "-journal")
"""Endings of the files that a killed writer leaves beside its own."""


_MAGIC = bytes.fromhex("d9d505f920a163d7")
"""A rollback journal begins with it, and ends with it where it names a super-journal."""


def check_beside(path: str) -> None:
    """Refuse what lies beside a file where SQLite would find a journal, if no writer of ours left it there.

    SQLite acts on a journal when the file is opened, also for reading: it follows links, deletes what is no journal,
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
                f"{name} is no regular file, and SQLite would take it for a part of {path}: remove it"
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
    if not start or start[0] == 0:  # not in use: SQLite takes no notice of it
        return
    why = ""
    if len(start) < 28 or not start.startswith(_MAGIC):
        why = "is no journal of SQLite"
    elif len(end) == 16 and end.endswith(_MAGIC) and 0 < int.from_bytes(end[:4], "big") <= size - 16:
        why = "names another file, which SQLite would delete"
    else:
        _, _, pages, _, page = struct.unpack(">5I", start[8:])
        there = os.path.getsize(real) if os.path.exists(real) else 0
        if pages * page > there + size:  # a page that a transaction cuts off is in the journal
            why = f"asks for {pages} pages, more than both files hold"
    if why:
        raise InputError(
            f"{real}-journal {why}: no crossbar-sim left it beside {path}; remove it, if both are from elsewhere"
        )
