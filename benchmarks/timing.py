"""Interleaved timing: every candidate in turn, several rounds, medians and ratios to the first one.

These machines are noisy: a ratio from one interleaved run means more than two absolute times from two runs.
"""

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path


def interleaved(
    candidates: dict[str, Callable[[], object]],
    rounds: int = 15,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each candidate, after one warm-up round; `time.process_time` where others share the cores."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for round_number in range(rounds + 1):
        for name, candidate in candidates.items():
            began = clock()
            candidate()
            if round_number:
                times[name].append(clock() - began)
    return {name: statistics.median(values) for name, values in times.items()}


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        family = [line.split(":")[1].strip() for line in lines if line.startswith(("cpu family", "model\t"))]
        return f"{names[0]} (family {family[0]}, model {family[1]})"
    except (OSError, IndexError):
        return platform.processor()


def report(title: str, seconds: dict[str, float], work: float, unit: str, first: str) -> dict[str, object]:
    """Print one table and return it: time, rate (work per second in `unit`), ratio of times to `first`."""
    print(f"\n{title} [{processor()}]")
    rows = {}
    for name, value in seconds.items():
        rows[name] = {"ms": value * 1e3, unit: work / value, "ratio": value / seconds[first]}
        print(
            f"  {name:<44} {value * 1e3:9.2f} ms  {work / value:10.1f} {unit}  {value / seconds[first]:6.3f} x"
        )
    return {"title": title, "processor": processor(), "rows": rows}


def save(results: list[dict[str, object]]) -> None:
    """Write the tables to the path given on the command line, if one is."""
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(results, indent=2) + "\n")
