"""Write the example chip file of this format version: python tests/helpers/make_example.py FILE.

It is kept for ever in tests/data/v<release>/chip.h5 and never written again by a later release.
"""

import sys
from pathlib import Path

from crossbar_sim import Hardware, LogNormalDrift, Offset, ProgrammingNoise, StuckCells
from crossbar_sim.nn import to_analog
from helpers.chip_files import export, two_layers

HARDWARE = Hardware(
    Offset(1e-6, 5e-5, levels=16, scale_per="column"),
    LogNormalDrift(0.3),
    ProgrammingNoise(0.02),
    StuckCells(off=0.05, on=0.05),
    bias="row",
)


def make(path: Path) -> Path:
    return export(to_analog(two_layers(), HARDWARE, seed=7, chip=3), path, HARDWARE, seed=7, chip=3)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
