"""The tables of a results file, and how a file of another age is told and brought up to date.

docs/results-file.md specifies them. The text below lies in every file, and a file whose text differs is refused: so
nothing that somebody else wrote into a schema is ever run. It has no STRICT, which only SQLite 3.37 and later can
read; the checks say the same.
"""

import sqlite3
from collections.abc import Callable

from crossbar_sim.errors import InputError
from crossbar_sim.store.sqlite import check_schema, is_empty

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


def create(connection: sqlite3.Connection) -> None:
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
    check_schema(connection, path, create, "crossbar-sim results")
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
