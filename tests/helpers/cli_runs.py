"""What tests of the command line share beside fixtures."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

ARGUMENTS: dict[str, Any] = {"inputs": 64, "hidden": (24, 16), "classes": 10, "dropout": 0.1}
"""Of the network that the fixtures train."""

QUICK = ("--sigma", "0.6", "--chips", "4", "--sensitivity-chips", "0", "--json", "-")
"""A deploy of seconds, its report on standard output."""


@dataclasses.dataclass(frozen=True)
class Result:
    """What a command did: its exit code and all that it wrote."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> dict[str, Any]:
        """Standard output as strict JSON."""
        return strict_json(self.out)


Command = Callable[..., Result]
"""Runs the command line in this process: `conftest.command`."""


def strict_json(text: str) -> Any:
    """JSON as the standard has it: Python's own reader would also take NaN."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@dataclasses.dataclass(frozen=True)
class Files:
    """One trained network and its data in files of every kind."""

    folder: Path
    checkpoint: Path
    dynamic: Path
    fixed: Path
    state_dict: Path
    pickled: Path
    labelled: Path
    unlabelled: Path
