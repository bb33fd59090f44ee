"""Write the example results file of this schema version: python tests/helpers/make_results_example.py FILE.

It is kept for ever in tests/data/v<release>/results.db and never written again by a later release.
"""

import sys
from pathlib import Path

from crossbar_sim.store.records import Trial
from crossbar_sim.store.results import Results
from helpers.results_files import task

FIRST = task("erm")
SECOND = task(
    "dropout 0.5, µ",
    clean=0.9651,
    metric="output_error",
    images={"count": 10000, "drawn": True},
    seed=2**64 - 1,
)
FIRST_TRIALS = (
    Trial(0.0, 0, 0.9703, 10000),
    Trial(0.0, 1, 0.9703, 10000),
    Trial(0.6, 0, 0.1 + 0.2, 10000),
    Trial(0.6, 1, 1 / 3, 10000),
)
SECOND_TRIALS = (
    Trial(0.6, 0, -0.25, 64, 0.002),
    Trial(0.6, 0, -0.125, 90, 1e-300),
    Trial(0.6, 2**32 - 1, -2 / 3, 90, 0.001),
)
DETAIL = {"fc1": {"drop": [0.01, 0.02]}}


def make(path: Path) -> Path:
    with Results.open(path) as results:
        results.add_task(FIRST)
        results.add_task(SECOND)
        results.add(FIRST.id, FIRST_TRIALS)
        results.add(SECOND.id, SECOND_TRIALS)
        results.set_detail(FIRST.id, "sensitivity", DETAIL)
    return path


if __name__ == "__main__":
    make(Path(sys.argv[1]))
