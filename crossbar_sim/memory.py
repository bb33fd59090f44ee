"""Memory for the weights of a chip: how much is free, and how much of it they may take."""

import math
from contextlib import suppress
from pathlib import Path

from crossbar_sim.errors import InputError
from crossbar_sim.validate import finite

_SMALL = 64 * 2**20
"""Bytes that are taken without asking."""

_room: float | None = None


def set_room(gib: float | None) -> None:
    """Let the weights of a chip take so much memory in this process; results do not depend on it.

    Args:
        gib: in GiB; 0: what one layer needs at a time. None: half of what is free when a model is mapped.

    Raises:
        InputError: if it is negative or no number.
    """
    global _room
    if gib is not None and not (finite(gib) and gib >= 0):
        raise InputError(f"memory={gib!r}: expected GiB for the weights of a chip, 0 or more, such as 4")
    _room = gib


def limit(processes: int | None = None) -> float | None:
    """The room of each of so many processes on this machine, in GiB; None: as each finds it."""
    if _room is not None or processes is None:
        return _room
    free = available() / 2 / processes / 2**30
    return free if math.isfinite(free) else None


def room(wanted: int, free: int | None = None) -> int:
    """How many bytes the weights of a chip may take, of those that they want.

    Args:
        wanted: what they take if all are kept.
        free: what is free, where it is known; None: of the processor's memory.
    """
    if _room is not None:
        return int(_room * 2**30)
    if wanted <= _SMALL:
        return wanted
    half = (available() if free is None else free) / 2
    return wanted if half >= wanted else int(half)


def available() -> float:
    """Bytes that this process can still take without swapping, by Linux and its control group; else infinite."""
    found = math.inf
    with suppress(OSError, ValueError, KeyError):
        found = 1024.0 * _table("/proc/meminfo")["MemAvailable"]
    group = "/sys/fs/cgroup"
    for limit, used, prefix in (
        (f"{group}/memory.max", f"{group}/memory.current", ""),
        (f"{group}/memory/memory.limit_in_bytes", f"{group}/memory/memory.usage_in_bytes", "total_"),
    ):
        with suppress(OSError, ValueError, KeyError):  # a limit of "max" is not a number
            most, taken = (int(Path(path).read_text()) for path in (limit, used))
            parts = _table(str(Path(used).parent / "memory.stat"))
            pages = parts[f"{prefix}inactive_file"] + parts[f"{prefix}active_file"]  # which can be taken back
            found = min(found, most - taken + pages)
    return max(found, 0.0)


def _table(path: str) -> dict[str, int]:
    """A file of the system with a name and a number in each line."""
    lines = (line.replace(":", " ").split() for line in Path(path).read_text().splitlines())
    return {words[0]: int(words[1]) for words in lines}
