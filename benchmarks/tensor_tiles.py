"""Converters on tensors beside the kernels of the CPU, on one core: the same matrix and convolutions as tiled.py.

    python benchmarks/tensor_tiles.py [results.json]

Processor time of interleaved runs; ratios are to the kernel.
"""

import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from timing import interleaved, report, save
from torch import nn

from crossbar_sim import Differential, Hardware, LogNormalDrift
from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.converters import ADC, DAC, GaussianReadNoise
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.analog import chips

TILE = (128, 128)
PAIR = Hardware(
    Differential(1e-6, 1e-4), dac=DAC(8), adc=ADC(8, range=4e-4), tile=TILE, drift=LogNormalDrift(0.3)
)
DESIGNS = {
    "pair": PAIR,
    "column": Hardware(PAIR.mapping, dac=DAC(8), adc=ADC(8, range=4e-4, per="column"), tile=TILE),
    "two-phase, 4 slices": Hardware(
        PAIR.mapping, dac=DAC(8, signed="two-phase", slice_bits=2), adc=ADC(8, range=4e-4), tile=TILE
    ),
    "pair, read noise": Hardware(
        PAIR.mapping, dac=DAC(8), adc=ADC(8, range=4e-4), read_noise=GaussianReadNoise(0.01), tile=TILE
    ),
}
LAYERS = {
    "linear 1024-1024, batch 256": (lambda: nn.Linear(1024, 1024, bias=False), (256, 1024), 1024 * 1024),
    "conv 64-64 3x3, 16 images of 32x32": (
        lambda: nn.Conv2d(64, 64, 3, padding=1, bias=False), (16, 64, 32, 32), 64 * 576 * 1024,
    ),
    "conv 256-256 3x3, 16 images of 8x8": (
        lambda: nn.Conv2d(256, 256, 3, padding=1, bias=False), (16, 256, 8, 8), 256 * 2304 * 64,
    ),
}  # fmt: skip


def main():
    threads.set_threads(1)
    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    tables = []
    for layer, (build, shape, products) in LAYERS.items():
        x = torch.from_numpy(draw.standard_normal(shape, np.float32))
        model = nn.Sequential(build()).eval()
        for name, design in DESIGNS.items():
            both = {}
            for kind in ("kernels of the CPU", "tensors"):
                with torch.no_grad():
                    analog = to_analog(model, design)
                    chips.analog_state(analog).tensors = kind == "tensors"
                    y = analog(x)

                def run(analog=analog, x=x):
                    with torch.no_grad():
                        chips.analog_state(analog).reads = {}
                        return analog(x)

                both[kind] = (run, y)
            (_, core), (_, ours) = both.values()
            unlike = float((core != ours).float().mean())
            far = float(((core - ours).abs() > 1e-5 * core.abs().max()).float().mean())
            seconds = interleaved({k: run for k, (run, _) in both.items()}, 5, time.process_time)
            work = 2 * shape[0] * products / 1e9
            title = f"{layer}, {name}: {unlike:.2%} of outputs differ in a bit, {far:.4%} by a code"
            tables.append(report(title, seconds, work, "GFLOP/s", "kernels of the CPU"))
    save(tables)


if __name__ == "__main__":
    main()
