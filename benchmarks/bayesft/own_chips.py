"""What can be done for one chip at a time: ReRAM-V and the digital calibrations, on their own chips and on fresh ones.

    OMP_NUM_THREADS=1 CROSSBAR_SIM_DATA=DIR python benchmarks/bayesft/own_chips.py MODEL.pt ... [-o results.json]

MODEL.pt: trained networks, one for each training seed, such as those that fig3a_mnist_mlp.toml leaves in its folder of
models. Everything is fitted to training images and stopped by validation images; scores are of the 10,000 test images.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy import stats

from crossbar_sim import Hardware, Key
from crossbar_sim.baselines.reram_v import ReramV
from crossbar_sim.crossbar import threads
from crossbar_sim.data import Splits, load_data
from crossbar_sim.nn.analog import chips as handle
from crossbar_sim.nn.analog.conversion import to_analog
from crossbar_sim.nn.files.loading import load_model
from crossbar_sim.robustness import deploy
from crossbar_sim.robustness.calibration import Calibration
from crossbar_sim.robustness.score import Reference

SIGMAS = (0.3, 0.6, 0.9, 1.2, 1.5)
FRESH = 1000
"""The first of the chips that nothing was fitted to."""


def on_chips(model: Any, data: Splits, hardware: Hardware, chips: range | list[int]) -> list[float]:
    """Test accuracies, chip by chip."""
    analog = to_analog(model.eval(), hardware)
    found = []
    for chip in chips:
        handle.set_chip(analog, chip)
        score = Reference.of(analog, data.test.x, data.test.y).clean_score().accuracy
        assert score is not None
        found.append(score)
    return found


def ways(model: Any, data: Splits, sigma: float, chips: int) -> Iterator[tuple[str, list[float]]]:
    """Each way with its accuracies."""
    hardware = Hardware.preset("bayesft", sigma=sigma)
    yield "as it is", on_chips(model, data, hardware, range(chips))
    for kind in ("affine", "readout", "both"):
        calibration = Calibration(kind)  # type: ignore[arg-type]
        done = deploy(
            model, data.test.x, data.test.y, hardware,
            chips=chips, sensitivity_chips=0, metric="accuracy", calibration=(calibration, data.development),
        )  # fmt: skip
        yield f"calibrated: {kind}, 500 images", list(done.main.per_chip)
    own, fresh = [], []
    for chip in range(chips):
        retrained = ReramV(hardware, chip).retrain(model, data.development, Key(chip)).model
        own += on_chips(retrained, data, hardware, [chip])
        fresh += on_chips(retrained, data, hardware, [FRESH + chip])
    yield "ReRAM-V, own chip", own
    yield "ReRAM-V, another chip", fresh


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", help="trained networks")
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--chips", type=int, default=2, help="of each network and sigma")
    parser.add_argument("--sigma", type=float, nargs="+", default=SIGMAS)
    parser.add_argument("-o", "--output", type=Path)
    given = parser.parse_args()
    threads.set_threads(1)
    data = load_data(given.data)
    rows: list[dict[str, Any]] = []
    for sigma in given.sigma:
        found: dict[str, list[list[float]]] = {}
        for path in given.models:
            for way, scores in ways(load_model(path).module, data, sigma, given.chips):
                found.setdefault(way, []).append(scores)
        for way, networks in found.items():
            means = [fmean(scores) for scores in networks]
            spread = fmean([stdev(scores) for scores in networks])
            row: dict[str, Any] = {"sigma": sigma, "way": way, "mean": fmean(means), "networks": means}
            if len(means) > 1:
                half = stats.t.ppf(0.975, len(means) - 1) * stdev(means) / len(means) ** 0.5
                row["ci95_over_networks"] = [fmean(means) - half, fmean(means) + half]
            rows.append({**row, "sd_between_chips": spread, "chips": given.chips})
            print(f"sigma {sigma}  {way:42s} {fmean(means):.1%}  +- {spread:.1%} between chips", flush=True)
        if given.output:
            given.output.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
