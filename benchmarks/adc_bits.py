"""What an MNIST MLP keeps behind the converters of preset `isaac`, for ADCs of 4 to 10 bits: a table and a figure.

    CROSSBAR_SIM_DATA=DIR python benchmarks/adc_bits.py MODEL.pt [-o results.json] [--plot figure.png]

MODEL.pt: a trained network, such as fig3a_mnist_mlp.toml's plain one: `crossbar-sim train --network mlp --data mnist
--epochs 10 --lr 3e-3 -o MODEL.pt`. Two ways to choose the ADC's full scale: a step is one level at one input bit
("granular", the preset's own), and a percentile of what it sees on 512 training images ("calibrated"). Bits
outside 8 .. 9 are outside what the preset's numbers hold for, and warned of.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from crossbar_sim import Hardware
from crossbar_sim.data import load_data
from crossbar_sim.nn.analog.range_calibration import calibrate_ranges, needs_calibration
from crossbar_sim.nn.files.loading import load_model
from crossbar_sim.robustness.deploy import deploy

BITS = range(4, 11)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--chips", type=int, default=5, help="where cells drift")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    data, model = load_data("mnist"), load_model(given.model).module
    x, y = data.test.x[: given.images], data.test.y
    assert y is not None
    rows: list[dict[str, Any]] = []
    for way in ("granular", "calibrated"):
        for sigma in (0.0, 0.3):
            for bits in BITS:
                hardware = Hardware.preset("isaac", adc_bits=bits, adc_range=way, sigma=sigma)
                if needs_calibration(hardware):
                    hardware, _ = calibrate_ranges(model, hardware, data.train.x[:512])
                result = deploy(
                    model, x, y[: given.images], hardware, chips=given.chips, sensitivity_chips=0
                ).main
                rows.append(
                    {"range": way, "sigma": sigma, "bits": bits, "mean": result.mean, "ci95": result.ci95}
                )
                print(f"{way:10s} sigma {sigma}  {bits:2d} bits  {result.mean:.1%}", flush=True)
    if given.output:
        given.output.write_text(json.dumps(rows, indent=1) + "\n")
    if given.plot:
        draw(rows, given.plot)


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy over bits, one line for each range and sigma, with 95 % intervals over chips."""
    figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    for way, style in (("granular", "-"), ("calibrated", "--")):
        for sigma, colour in ((0.0, "#0072b2"), (0.3, "#d55e00")):
            of = [row for row in rows if (row["range"], row["sigma"]) == (way, sigma)]
            bits, mean = [row["bits"] for row in of], [100 * row["mean"] for row in of]
            axes.plot(bits, mean, style, color=colour, marker="o", ms=4, label=f"{way}, sigma {sigma:g}")
            if all(row["ci95"] for row in of):
                low, high = zip(*([100 * end for end in row["ci95"]] for row in of), strict=True)
                axes.fill_between(bits, low, high, color=colour, alpha=0.15, lw=0)
    axes.set(xlabel="bits of the ADC", ylabel="accuracy (%)", xticks=list(BITS), ylim=(0, 102))
    axes.set_title("MNIST MLP under preset isaac", loc="left", fontsize=10)
    axes.grid(alpha=0.3)
    # between the lines without drift and those with it, and long enough to tell dashes
    axes.legend(
        title="range of the ADC", fontsize=8, loc="center right", bbox_to_anchor=(1, 0.71), handlelength=3.5
    )
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
