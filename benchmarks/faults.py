"""Claim: a sweep that is killed at any moment loses nothing that was written, and ends with the same table.

    python benchmarks/faults.py [--kills 50] [--workers 2] [--writers 2] [results.json]

A child process sweeps a small network into a results file and is killed with SIGKILL after a random time, again and
again, until it has finished. After each kill the file is opened: it must be sound, and hold every trial that it
held before. At the end its table is compared with that of a run that nobody disturbed. With --workers the sweep
is on Dask, and one of its workers is killed instead; with --writers, so many children share one file.
"""

import argparse
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

SIGMAS = (0.0, 0.4, 0.8, 1.2)
CHIPS = 400


def sweep(path: str, workers: int | None = None, chips: int = CHIPS) -> None:
    """What a child does: the same sweep whenever it is called."""
    from crossbar_sim import Key
    from crossbar_sim.nn import seeded
    from crossbar_sim.nn.networks import build
    from crossbar_sim.robustness import robustness

    with seeded(Key(7)):
        network = build("mlp", inputs=64, hidden=(64, 32), classes=10)
    robustness({"small": network}, "digits", sigmas=SIGMAS, chips=chips, results=path, workers=workers)


def table(path: str) -> list[tuple[Any, ...]]:
    """Every trial without the time that it took; raises if the file is not sound."""
    with sqlite3.connect(path) as connection:
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
        if verdict != "ok":
            raise SystemExit(f"{path} is damaged: {verdict}")
        columns = "task, sigma, chip, metric, images, value, variance"
        return list(connection.execute(f"SELECT {columns} FROM trials ORDER BY {columns}"))


def killed_runs(folder: str, kills: int, rng: random.Random, longest: float) -> tuple[list[int], list[str]]:
    """Run, kill, look; the number of trials after each kill, and the files: a new one whenever one is complete."""
    found: list[int] = []
    files = [f"{folder}/killed0.db"]
    before: set[tuple[Any, ...]] = set()
    for _ in range(kills):
        if len(before) == len(SIGMAS) * CHIPS:
            files.append(f"{folder}/killed{len(files)}.db")
            before = set()
        child = os.fork()
        if child == 0:
            try:
                sweep(files[-1])
            finally:
                os._exit(0)
        time.sleep(rng.uniform(0.0, longest))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        now = set(table(files[-1])) if has_tables(files[-1]) else set()
        if not before <= now:
            raise SystemExit(f"{len(before - now)} trials were lost by kill {len(found) + 1}")
        before = now
        found.append(len(now))
    return found, files


def has_tables(path: str) -> bool:
    """Whether the kill came late enough for the file to hold something."""
    if not Path(path).exists():
        return False
    with sqlite3.connect(path) as connection:
        return bool(
            connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'trials'").fetchone()[0]
        )


def written(path: str) -> bool:
    """Whether trials are there; not yet, too, while the file is being made."""
    try:
        return has_tables(path) and bool(table(path))
    except sqlite3.OperationalError:  # locked for a moment
        return False


def with_writers(path: str, writers: int) -> None:
    """Several processes sweep into one file at once."""
    children = []
    for _ in range(writers):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                sweep(path)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    for child in children:
        _, status = os.waitpid(child, 0)
        if status != 0:
            raise SystemExit(f"one of {writers} processes on one file failed with status {status}")


def with_workers(path: str, workers: int, kills: int, rng: random.Random) -> int:
    """Sweep on Dask while some of its workers are killed; how many were."""
    done, count = threading.Event(), 0

    def murder() -> None:
        nonlocal count
        while not done.is_set() and count < kills:
            time.sleep(0.02 if count == 0 else rng.uniform(0.3, 1.0))
            victims = worker_processes()
            # the first as soon as something is written: the run must not be over before
            if victims and written(path):
                os.kill(rng.choice(victims), signal.SIGKILL)
                count += 1

    thread = threading.Thread(target=murder, daemon=True)
    thread.start()
    sweep(path, workers)
    done.set()
    thread.join()
    return count


def worker_processes() -> list[int]:
    """Process ids of our Dask workers: children of this process that multiprocessing has spawned."""
    listed = subprocess.run(
        ["ps", "-ww", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    return [int(pid) for pid, parent, args in rows if int(parent) == os.getpid() and "spawn_main" in args]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--writers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("output", nargs="?")
    asked = parser.parse_args()
    rng = random.Random(asked.seed)
    report: dict[str, Any] = {"kills": asked.kills, "trials": len(SIGMAS) * CHIPS}
    from crossbar_sim.crossbar import threads

    threads.set_threads(1)  # children are forked: there must be no threads yet
    sweep(":memory:", chips=1)  # what is compiled and imported, children have from the beginning
    with tempfile.TemporaryDirectory() as folder:
        alone, shared, dask = (f"{folder}/{name}.db" for name in ("alone", "shared", "dask"))
        began = time.perf_counter()
        sweep(alone)
        longest = 0.5 * (
            time.perf_counter() - began
        )  # so that kills come while something is done, on any machine
        report["found"], files = killed_runs(folder, asked.kills, rng, longest)
        report["in_mid_run"] = sum(0 < n < report["trials"] for n in report["found"])
        if asked.writers > 1:
            with_writers(shared, asked.writers)
        sweep(files[-1])
        undisturbed = table(alone)
        report["files"] = len(files)
        report["equal"] = all(table(path) == undisturbed for path in files)
        if asked.writers > 1:
            report["writers"], report["writers_equal"] = asked.writers, table(shared) == undisturbed
        if asked.workers:
            report["workers_killed"] = with_workers(dask, asked.workers, 3, rng)
            report["workers_equal"] = table(dask) == undisturbed
        report["complete"] = len(undisturbed) == report["trials"]
    print(json.dumps(report))
    if asked.output:
        Path(asked.output).write_text(json.dumps(report, indent=1) + "\n")
    if not all(value for name, value in report.items() if name.endswith("equal") or name == "complete"):
        sys.exit(1)


if __name__ == "__main__":
    main()
