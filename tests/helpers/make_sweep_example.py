"""Write the example sweep of this release: python tests/helpers/make_sweep_example.py FILE.

It is kept for ever in tests/data/v<release>/sweep.db and never written again by a later release.
"""

import sys
from pathlib import Path

from crossbar_sim import Hardware, Key
from crossbar_sim.nn import seeded
from crossbar_sim.nn.networks import build
from crossbar_sim.robustness import robustness
from crossbar_sim.store.results import Results


def make(path: Path) -> Path:
    models = {}
    for label, seed in (("first", 0), ("second, µ", 1)):
        with seeded(Key(seed)):
            models[label] = build("mlp", inputs=64, hidden=(8,), classes=10)
    hardware = Hardware.preset("bayesft", levels=32)
    with Results.open(path) as results:
        robustness(models, "digits", hardware, [0.0, 0.5], chips=3, results=results, sensitivity_chips=2)
        robustness(
            {"drawn": models["first"]}, "digits", hardware, [0.0, 0.5], half_width=0.2, results=results
        )
    return path


if __name__ == "__main__":
    make(Path(sys.argv[1]))
