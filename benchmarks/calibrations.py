"""Every calibration on the embedded digits, for an MLP and a small network with batch normalisation (docs/methods.md).

python benchmarks/calibrations.py            # one core, about ten minutes
"""

from typing import Any

from torch import nn

from crossbar_sim import Hardware, Key
from crossbar_sim.data import load_data
from crossbar_sim.nn import fit, seeded
from crossbar_sim.nn.networks import build
from crossbar_sim.robustness import deploy
from crossbar_sim.robustness.calibration import Calibration
from crossbar_sim.robustness.statistics import summarise

KINDS = (
    "statistics", "affine", "lora:rank=4", "dora:rank=4", "vera:rank=64", "readout", "both", "statistics+lora:rank=4",
    "statistics+readout", "dora:rank=4+readout",
)  # fmt: skip
IMAGES, CHIPS, SIGMAS = 300, 10, (0.6, 1.0)


def convolutional() -> nn.Module:
    """Two convolutions with batch normalisation, and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 24, 3, stride=2, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Flatten(), nn.Linear(384, 10),
    )  # fmt: skip


def main() -> None:
    """Print the table."""
    digits = load_data("digits")
    made: dict[str, Any] = {
        "MLP": lambda: build("mlp", inputs=64, hidden=(32,), classes=10),
        "conv + batch norm": convolutional,
    }
    for label, build_it in made.items():
        with seeded(Key(0).fold("initialisation")):
            model = build_it()
        fit(model, digits.train, digits.validation, epochs=25, batch=64, lr=1e-2, key=0)
        for kind in KINDS:
            if "statistics" in kind and label == "MLP":
                continue
            cells = []
            for sigma in SIGMAS:
                design = Hardware.preset("bayesft", sigma=sigma)
                done = deploy(
                    model, digits, hardware=design, chips=CHIPS, sensitivity_chips=0,
                    calibrate=Calibration(kind, IMAGES),
                )  # fmt: skip
                assert done.calibrator is not None
                assert done.gain is not None
                before = summarise(score.value(done.metric) for score in done.uncalibrated)
                low, high = done.gain.ci95 or (0.0, 0.0)
                cells.append(
                    f"{100 * before.mean:.1f} -> {100 * done.main.mean:.1f}: {100 * done.gain.mean:+.1f} "
                    f"({100 * low:+.1f} .. {100 * high:+.1f})"
                )
            cost = done.calibrator.cost
            share = cost.words / max(done.calibrator.parameters, 1)
            print(
                f"| {label} | {kind} | {' | '.join(cells)} | {cost.words:,} ({share:.1%}) | {cost.multiplications:,} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
