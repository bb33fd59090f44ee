"""What is kept: chip files (HDF5, docs/format.md).

export_chip(analog, "chip.h5", hardware=hardware, seed=0, chip=3, model_sha256=..., version=...)
chip = read_chip("chip.h5")
missing, unused = chip.check_against(slot.name for slot, _ in slots(analog))
design(analog).set_maps(chip.maps(hardware))
"""

from crossbar_sim.store.chip_file import ChipFile, read_chip
from crossbar_sim.store.describe import describe_chip
from crossbar_sim.store.export import export_chip
from crossbar_sim.store.layout import FORMAT, FORMAT_VERSION
from crossbar_sim.store.stored_array import StoredArray

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "ChipFile",
    "StoredArray",
    "describe_chip",
    "export_chip",
    "read_chip",
]
