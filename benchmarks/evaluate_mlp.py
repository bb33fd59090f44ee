"""Claim: one drifted evaluation of the 784-192-32-10 MLP on 10,000 images costs its matrix products and no more.

    OMP_NUM_THREADS=1 python benchmarks/evaluate_mlp.py [results.json]

The whole path of `deploy` (reprogram the chip, forward, score) on one core, beside tight torch: drift in place,
F.linear on all images, argmax. The limit is the multiply-adds at the machine's measured GEMM peak.
"""

import numpy as np
import torch
import torch.nn.functional as F
from timing import interleaved, report, save

from crossbar_sim import Hardware
from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.nn import program, set_chip, to_analog
from crossbar_sim.nn.analog.chips import frozen
from crossbar_sim.nn.networks import build
from crossbar_sim.robustness.score import Reference


def main() -> None:
    threads.set_threads(1)
    torch.set_num_threads(1)
    network = build("mlp", inputs=784, hidden=(192, 32), classes=10).eval()
    n = 10_000
    x = torch.from_numpy(np.abs(Stream(1, 2, 0, 0).normals(n * 784))).reshape(n, 1, 28, 28)
    y = torch.arange(n) % 10
    analog = to_analog(network, Hardware.preset("bayesft", sigma=0.6))
    reference = Reference.of(network, x, y)
    chip = 0

    def ours() -> None:
        nonlocal chip
        chip += 1
        set_chip(analog, chip)
        program(analog)
        reference.score(analog)

    def drift_alone() -> None:
        nonlocal chip
        chip += 1
        set_chip(analog, chip)
        program(analog)

    tensors = [p.detach() for p in network.parameters()]
    drifted = [torch.empty_like(t) for t in tensors]
    flat = x.reshape(n, 784)

    def tight_torch() -> None:
        with torch.inference_mode():
            for t, d in zip(tensors, drifted, strict=True):
                d.normal_().mul_(0.6).exp_().mul_(t)
            h = F.relu(F.linear(flat, drifted[0], drifted[1]))
            h = F.relu(F.linear(h, drifted[2], drifted[3]))
            (F.linear(h, drifted[4], drifted[5]).argmax(1) == y).float().mean()

    square = torch.from_numpy(Stream(3, 4, 0, 0).normals(500 * 784)).reshape(500, 784)
    weight = tensors[0]

    def gemm_peak() -> None:
        with torch.inference_mode():
            for _ in range(20):
                torch.ops.mkldnn._linear_pointwise(square, weight, None, "none", [], "")

    candidates = {
        "tight torch": tight_torch,
        "crossbar-sim": ours,
        "crossbar-sim, drift alone": drift_alone,
        "limit: first layer by oneDNN in cache": gemm_peak,
    }
    with frozen(analog):  # as deploy does
        seconds = interleaved(candidates, rounds=15)
    flop = 2 * n * (784 * 192 + 192 * 32 + 32 * 10)
    results = [report("MLP, 10,000 images, one chip", seconds, flop / 1e9, "GFLOP/s", "tight torch")]
    save(results)


if __name__ == "__main__":
    main()
