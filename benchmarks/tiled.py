"""The tiled read-out (converters, read noise) beside the plain float32 product of this machine, on one core.

    python benchmarks/tiled.py [results.json]

One interleaved run per table, in processor time. Ratios of the matrix table are to the fastest plain product found
here (oneDNN, or what torch and NumPy use). The convolutions are those of a ResNet-18 for 32x32 images, batch 100,
beside torch's plain convolutions.
"""

import os
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
import torch.nn.functional as F
from timing import interleaved, report, save

from crossbar_sim import Differential, Hardware, Key
from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.converters import ADC, DAC
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.crossbar.tiled import Quantiser, TiledPlanes, convolution, product

SIZE, BATCH, TILE_ROWS = 1024, 256, 128
IMAGES = 100
# input channels, output channels, side of the image, kernel, stride: layer and how often it occurs
RESNET18 = (
    ("stem 3-64", 3, 64, 32, 3, 1, 1),
    ("64-64", 64, 64, 32, 3, 1, 4),
    ("64-128 /2", 64, 128, 32, 3, 2, 1),
    ("128-128", 128, 128, 16, 3, 1, 3),
    ("64-128 1x1", 64, 128, 32, 1, 2, 1),
    ("128-256 /2", 128, 256, 16, 3, 2, 1),
    ("256-256", 256, 256, 8, 3, 1, 3),
    ("128-256 1x1", 128, 256, 16, 1, 2, 1),
    ("256-512 /2", 256, 512, 8, 3, 2, 1),
    ("512-512", 512, 512, 4, 3, 1, 3),
    ("256-512 1x1", 256, 512, 8, 1, 2, 1),
)


def eight_bits(x, planes):
    """An ADC of 8 bits whose range is about four standard deviations of a tile's current, one step per column."""
    spread = x.std() * planes[:, :TILE_ROWS].std() * TILE_ROWS**0.5
    steps = np.full((planes.shape[0], 1, planes.shape[2]), 4 * spread / 127)
    return Quantiser(steps, -127, 127)


def dac(x, bits=8):
    """x in 2^bits - 1 levels of its range."""
    step = np.abs(x).max() / (2 ** (bits - 1) - 1)
    return (np.rint(x / step) * step).astype(np.float32)


def matrices():
    """1024x1024, batch 256, tiles of 128 word lines, 8 bits."""
    rng = np.random.default_rng(0)
    x = dac(rng.standard_normal((BATCH, SIZE), np.float32))
    g = rng.random((2, SIZE, SIZE), np.float32)
    w = g[:1] - g[1:]
    options = {"tile_rows": TILE_ROWS}
    ideal = TiledPlanes(w, **options)
    pair = TiledPlanes(w, quantiser=eight_bits(x, w), **options)
    column = TiledPlanes(g, weights=(1, -1), quantiser=eight_bits(x, g), **options)
    noisy = TiledPlanes(w, quantiser=eight_bits(x, w), variance=np.full_like(w, 1e-4), **options)
    stream = Stream.of(Key(0).fold("read"), 0)
    arrays = {}
    for per in ("pair", "column"):
        design = Hardware(
            Differential(1e-6, 1e-4),
            dac=DAC(8, range=4.0),
            adc=ADC(8, range="max", per=per),
            tile=(TILE_ROWS, TILE_ROWS),
        )
        arrays[per] = design.program(w[0], Key(0).fold("layer"), 0)
    tx, tw = torch.from_numpy(x), torch.from_numpy(np.ascontiguousarray(w[0].T))
    candidates = {
        "oneDNN": lambda: torch.ops.mkldnn._linear_pointwise(tx, tw, None, "none", [], ""),
        "torch F.linear": lambda: F.linear(tx, tw),
        "NumPy": lambda: x @ w[0],
        "tiled, ideal": lambda: product(ideal, x),
        "tiled, ADC per pair": lambda: product(pair, x),
        "tiled, ADC per column": lambda: product(column, x),
        "tiled, ADC per pair, read noise": lambda: product(noisy, x, stream=stream),
        "Array.matvec: DAC, ADC per pair, to weights": lambda: arrays["pair"].matvec(x),
        "Array.matvec: DAC, ADC per column": lambda: arrays["column"].matvec(x),
        "making the planes ready (per chip)": lambda: TiledPlanes(w, quantiser=eight_bits(x, w), **options),
        "torch per tile: bmm, round, clamp, sum": lambda: _torch_tiles(tx, tw),
    }
    seconds = interleaved(candidates, clock=time.process_time)
    fastest = min(("oneDNN", "torch F.linear", "NumPy"), key=seconds.__getitem__)
    work = 2 * BATCH * SIZE * SIZE / 1e9
    return report(
        f"{SIZE}x{SIZE}, batch {BATCH}, tiles of {TILE_ROWS}, 8 bits", seconds, work, "GFLOP/s", fastest
    )


def _torch_tiles(x, w):
    """What a simulator without a fused kernel does."""
    tiles = SIZE // TILE_ROWS
    parts = torch.bmm(x.view(BATCH, tiles, TILE_ROWS).transpose(0, 1), w.T.reshape(tiles, TILE_ROWS, SIZE))
    return parts.mul_(3.0).round_().clamp_(-127, 127).sum(0).mul_(1 / 3)


def convolutions():
    """Every convolution of the network, plain and read by converters, layer by layer and summed."""
    rng = np.random.default_rng(1)
    total = {"torch conv2d": 0.0, "tiled, ADC per pair": 0.0}
    tables, flops = [], 0.0
    for name, channels, outputs, side, kernel, stride, times in RESNET18:
        x = dac(rng.standard_normal((IMAGES, channels, side, side), np.float32))
        w = rng.standard_normal((1, channels * kernel * kernel, outputs), np.float32)
        tiled = TiledPlanes(w, tile_rows=TILE_ROWS, quantiser=eight_bits(x, w))
        weight = torch.from_numpy(np.ascontiguousarray(w[0].T)).view(outputs, channels, kernel, kernel)
        tx, pad = torch.from_numpy(x), kernel // 2
        seconds = interleaved(
            {
                "torch conv2d": lambda tx=tx, weight=weight, stride=stride, pad=pad: F.conv2d(
                    tx, weight, stride=stride, padding=pad
                ),
                "tiled, ADC per pair": lambda tiled=tiled, x=x, kernel=kernel, stride=stride, pad=pad: (
                    convolution(tiled, x, (kernel, kernel), stride=(stride, stride), padding=(pad, pad))
                ),
            },
            5,
            time.process_time,
        )
        work = 2 * IMAGES * (side // stride) ** 2 * w.size / 1e9
        flops += times * work
        for what in total:
            total[what] += times * seconds[what]
        tables.append(report(f"{name}, {times} times", seconds, work, "GFLOP/s", "torch conv2d"))
    tables.append(
        report(
            f"all convolutions of ResNet-18, 32x32, batch {IMAGES}", total, flops, "GFLOP/s", "torch conv2d"
        )
    )
    return tables


if __name__ == "__main__":
    torch.set_num_threads(1)
    threads.set_threads(1)
    with torch.no_grad():
        save([matrices(), *convolutions()])
