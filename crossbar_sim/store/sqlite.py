"""What results files and study files share: SQLite that trusts nothing in a file.

A schema can hold code: a view, a trigger, a generated column, an index on an expression or a virtual table runs when
a table is read or written, and can take hours or all memory. So `check_schema` comes before the first query of a
table: what a file declares is exactly what we write, or the file is refused.
"""

import os
import sqlite3
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
