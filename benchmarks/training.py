"""Seconds per epoch of training, beside a plain tight torch loop: one core, all in turn in one run.

    OMP_NUM_THREADS=1 CROSSBAR_SIM_DATA=... python benchmarks/training.py [--rounds 5] [--epochs 1]

Prints the best epoch of each, and the median over rounds of the ratio to the plain loop of the same round, which a
busy machine disturbs less. MNIST, 50,000 images, MLP 784-192-32-10.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from crossbar_sim.baselines.drift_aware import DriftAware
from crossbar_sim.crossbar import threads
from crossbar_sim.data import Split, load_data
from crossbar_sim.nn import MLP, Training, fit, seeded
from crossbar_sim.nn.seeding import permutation
from crossbar_sim.rng import Key

BATCH = 128


def network() -> nn.Module:
    with seeded(Key(0)):
        return MLP()


def tight(data: Split, epochs: int) -> float:
    """What somebody writes who wants an epoch fast and nothing else: fused Adam, no report, no checks."""
    model, x, y = network(), data.x, data.y
    assert y is not None
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    started = time.perf_counter()
    for epoch in range(epochs):
        for chosen in permutation(len(x), Key(epoch)).split(BATCH):
            loss = functional.cross_entropy(model(x[chosen]), y[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return (time.perf_counter() - started) / epochs


def erm(data: Split, epochs: int) -> float:
    return fit(network(), data, key=Key(0), training=Training(epochs, BATCH)).seconds / epochs


def drift_aware(data: Split, epochs: int) -> float:
    model, method = network(), DriftAware(chips=8, ramp=0)
    training = Training(epochs, method.training.batch, 3e-3, clip=0.1)
    return fit(model, data, key=Key(0), training=training, step=method.step(model, Key(0))).seconds / epochs


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=1)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    threads.set_threads(1)
    train = load_data("mnist").development.train
    ways: dict[str, Callable[[Split, int], float]] = {
        "plain tight loop": tight,
        "nn.fit, ERM": erm,
        "drift-aware, 8 chips": drift_aware,
    }
    few = Split(train.x[:2048], train.y[:2048] if train.y is not None else None)
    for way in ways.values():
        way(few, 1)  # kernels are compiled, memory is there
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(chosen.rounds):
        for name, way in ways.items():
            seconds[name].append(way(train, chosen.epochs))
    plain = seconds["plain tight loop"]
    for name, found in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(found, plain, strict=True))
        print(
            f"{name:22} best {min(found):5.2f} s   median {statistics.median(found):5.2f} s   x {ratio:.2f}"
        )


if __name__ == "__main__":
    main()
