"""Digital calibration of each chip, fitted to a few images that are run on it.

Training knows only the distribution of chips; a given chip can be measured. These corrections need no reprogramming,
only a little digital arithmetic behind the arrays: `statistics` (see `NormStatistics`), `affine` (see `Affine`),
corrections of low rank (see `low_rank`) and `readout` (see `Readout`).
"""

from crossbar_sim.robustness.calibration.affine import Affine, least_squares
from crossbar_sim.robustness.calibration.calibrator import Calibrator, Cost
from crossbar_sim.robustness.calibration.low_rank import LowRank
from crossbar_sim.robustness.calibration.norm_statistics import NormStatistics, stale
from crossbar_sim.robustness.calibration.readout import Readout, refit
from crossbar_sim.robustness.calibration.settings import Calibration, calibration_of, parts_of

__all__ = [
    "Affine",
    "Calibration",
    "Calibrator",
    "Cost",
    "LowRank",
    "NormStatistics",
    "Readout",
    "calibration_of",
    "least_squares",
    "parts_of",
    "refit",
    "stale",
]
