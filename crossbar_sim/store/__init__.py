"""Chip files (HDF5, docs/format.md) and results files (SQLite, docs/results-file.md).

export_chip(analog, "chip.h5", hardware=hardware, seed=0, chip=3, model_sha256=..., version=...)
chip = read_chip("chip.h5")
missing, unused = chip.check_against(slot.name for slot, _ in slots(analog))
design(analog).set_maps(chip.maps(hardware))

Names are imported on first use: reading results needs neither torch nor h5py.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossbar_sim.store.chip_file import ChipFile, describe_chip, read_chip
    from crossbar_sim.store.chip_layout import FORMAT, FORMAT_VERSION, StoredArray
    from crossbar_sim.store.export import export_chip
    from crossbar_sim.store.records import Task, Trial
    from crossbar_sim.store.results import Results

_HOMES = {
    "chip_file": (
        "ChipFile",
        "describe_chip",
        "read_chip",
    ),
    "chip_layout": (
        "FORMAT",
        "FORMAT_VERSION",
        "StoredArray",
    ),
    "export": ("export_chip",),
    "records": (
        "Task",
        "Trial",
    ),
    "results": ("Results",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "ChipFile",
    "Results",
    "StoredArray",
    "Task",
    "Trial",
    "describe_chip",
    "export_chip",
    "read_chip",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
