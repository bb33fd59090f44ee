"""Claim: drawing log-normal drift costs little more than reading and writing the weights.

    OMP_NUM_THREADS=1 python benchmarks/drift_kernel.py [results.json]

10 M float32 weights on one core, w exp(0.6 z), beside torch in place, numpy, the memory pass and the random bits
alone. The last two are limits: no drift can be cheaper than reading and writing, nor than its random words.
"""

import numpy as np
import torch
from timing import interleaved, report, save

from crossbar_sim import Hardware, Key, LogNormalDrift
from crossbar_sim.crossbar import kernels, threads
from crossbar_sim.crossbar.stream import Stream


def main() -> None:
    threads.set_threads(1)
    torch.set_num_threads(1)
    results = []
    for n in (150_000, 10_000_000):
        w = np.linspace(-1, 1, n, dtype=np.float32)
        out, words = np.empty_like(w), np.empty(n, np.uint32)
        tensor, drifted = torch.from_numpy(w), torch.empty(n)
        stream = Stream.of(Key(0).fold("drift"), 0)
        law, columns = LogNormalDrift(0.6), w.reshape(-1, 1000)
        hardware = Hardware(drift=law, drift_per="weight")
        scale, target = hardware.mapping.scale(columns), out.reshape(-1, 1000)
        rng = np.random.default_rng(0)
        candidates = {
            "torch normal_.mul_.exp_.mul_": lambda t=tensor, o=drifted: o.normal_().mul_(0.6).exp_().mul_(t),
            "numpy w * exp(0.6 normal)": lambda w=w, n=n, rng=rng: (
                w * np.exp(0.6 * rng.standard_normal(n, np.float32))
            ),
            "drift kernel": lambda w=w, o=out, s=stream, law=law: law.cells(w, o, s, 0),
            "program, drift and read back, fused": lambda c=columns, h=hardware, t=target, s=scale: (
                h.effective_weight(c, Key(0), 0, t, s)
            ),
            "limit: random words alone": lambda o=words, s=stream: kernels.fill_words(o, 0, *s.name),
            "limit: memory pass out = 2 w": lambda w=w, o=out: np.multiply(w, np.float32(2), out=o),
        }
        seconds = interleaved(candidates, rounds=40 if n < 1e6 else 11)
        results.append(report(f"drift of {n:,} weights", seconds, n / 1e6, "M/s", next(iter(candidates))))
    save(results)


if __name__ == "__main__":
    main()
