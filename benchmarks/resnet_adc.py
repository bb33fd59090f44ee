"""ResNet-18 behind 8-bit converters against its plain forward: 32x32, batch 100, one core, in turn in one run.

OMP_NUM_THREADS=1 python benchmarks/resnet_adc.py
"""

import statistics
import time

import torch

from crossbar_sim import Hardware, Key
from crossbar_sim.crossbar import threads
from crossbar_sim.nn import seeded
from crossbar_sim.nn.analog import chips
from crossbar_sim.nn.analog.conversion import to_analog
from crossbar_sim.nn.analog.range_calibration import calibrate_ranges
from crossbar_sim.nn.networks import build

ROUNDS = 3


def main() -> None:
    torch.set_num_threads(1)
    threads.set_threads(1)
    with seeded(Key(0)):
        plain = build("resnet-18", normalisation="batch").eval()
        x = torch.rand(100, 3, 32, 32)
    hardware = Hardware.preset("ideal", adc_bits=8, dac_bits=8, sigma=0.3)
    hardware, _ = calibrate_ranges(plain, hardware, x[:8])
    analog = to_analog(plain, hardware).eval()
    seconds: dict[str, list[float]] = {"plain": [], "behind converters": []}
    with torch.no_grad(), chips.frozen(analog):
        chips.program(analog)
        for model in (plain, analog):
            model(x[:2])
        for _ in range(ROUNDS):
            for name, model in (("plain", plain), ("behind converters", analog)):
                began = time.perf_counter()
                model(x)
                seconds[name].append(time.perf_counter() - began)
    for name, took in seconds.items():
        print(f"{name:18s} {statistics.median(took):.3f} s")
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    print(f"ratio              {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
