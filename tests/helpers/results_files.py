"""What tests of results files share."""

import sqlite3
from pathlib import Path
from typing import Any

from crossbar_sim.store.records import Task, Trial
from crossbar_sim.store.results import Results

SHA = "ab" * 32


def task(label: str = "erm", clean: float = 0.9703, **changes: Any) -> Task:
    identity = {
        "identity": 1,
        "model": {"sha256": SHA},
        "data": {"fingerprint": "cd" * 32, "images": 10000, "labelled": True},
        "hardware": {"drift": {"kind": "log_normal", "sigma": None}},
        "seed": 0,
        "stream": 1,
        "metric": "accuracy",
        "images": {"count": 10000, "drawn": False},
    }
    return Task(label, identity | changes, clean, {"file": f"{label}.pt"})


def value(sigma: float, chip: int) -> float:
    """Of no short decimal form: what is written must read back to the last bit."""
    return 1 / (1 + sigma + chip / 7)


def trials(sigmas: tuple[float, ...] = (0.0, 0.1, 0.6), chips: int = 4, images: int = 10000) -> list[Trial]:
    return [Trial(s, c, value(s, c), images, seconds=0.01) for s in sigmas for c in range(chips)]


def made(path: Path, *tasks: Task, **grid: Any) -> Path:
    """A results file with the same trials for each task."""
    with Results.open(path) as results:
        for one in tasks or (task(),):
            results.add_task(one)
            results.add(one.id, trials(**grid))
    return path


def content(path: Path) -> dict[str, tuple[Any, ...]]:
    """Everything that is a result."""
    with Results.open(path, readonly=True) as results:
        return {
            t.id: (t.label, t.identity, t.about, t.clean, results.trials(t.id), results.details(t.id))
            for t in results.tasks()
        }


def changed(path: Path, *statements: str) -> Path:
    """The file as another program would change it: without checks."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA ignore_check_constraints = ON")
    for statement in statements:
        connection.execute(statement)
    connection.close()
    return path


def sound(path: Path) -> bool:
    connection = sqlite3.connect(path)
    try:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()
