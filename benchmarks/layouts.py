"""Milliseconds per image of training convolutional networks: precision and memory layout, all in turn in one run.

    OMP_NUM_THREADS=1 python benchmarks/layouts.py [--rounds 3] [--images 512] [--networks resnet-18 ...] [--width 32]

ERM by `nn.fit` on drawn numbers in the shape of CIFAR-10 (LeNet-5: of MNIST), batches of 128, one core. Prints the best
round of each in processor time, and in brackets the median over rounds of the ratio to float32 with channels first.
"""

import argparse
import math
import statistics
import time

import torch

from crossbar_sim.crossbar import threads
from crossbar_sim.data import Split
from crossbar_sim.nn import Training, fit, seeded
from crossbar_sim.nn.networks import build
from crossbar_sim.nn.seeding import normals
from crossbar_sim.rng import Key

NETWORKS = {
    "lenet5": {},
    "alexnet-cifar": {},
    "vgg-11": {"width": 16},
    "resnet-18": {"width": 16},
    "preact-resnet-18": {"width": 8},
    "preact-resnet-50": {"width": 8},
    "preact-resnet-152": {"width": 8},
    "stn": {},
    "fastconv": {},
}
WAYS = {
    f"{precision}, channels {'last' if last else 'first'}": {"precision": precision, "channels_last": last}
    for precision in ("float32", "bfloat16")
    for last in (False, True)
}


def examples(name: str, images: int) -> Split:
    shape = (1, 28, 28) if name == "lenet5" else (3, 32, 32)
    with seeded(Key(0).fold("examples")):
        x = normals(images * math.prod(shape), torch.device("cpu")).view(images, *shape)
    return Split(x, torch.arange(images) % 10)


def milliseconds(name: str, data: Split, way: dict[str, object]) -> float:
    with seeded(Key(0)):
        model = build(name, **NETWORKS[name])
    training = Training(1, 128, **way)  # type: ignore[arg-type]
    started = time.process_time()  # a busy machine changes it less than the clock's
    fit(model, data, key=Key(0), training=training)
    return (time.process_time() - started) * 1e3 / len(data.x)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--networks", nargs="+", choices=[*NETWORKS], default=[*NETWORKS])
    parser.add_argument("--width", type=int, help="of every chosen network, in place of its own here")
    chosen = parser.parse_args()
    if chosen.width is not None:
        NETWORKS.update({name: {"width": chosen.width} for name in chosen.networks})
    torch.set_num_threads(1)
    threads.set_threads(1)
    for name in chosen.networks:
        data = examples(name, chosen.images)
        few = Split(data.x[:128], None if data.y is None else data.y[:128])
        for way in WAYS.values():
            milliseconds(name, few, way)  # kernels are made, memory is there
        rounds = [
            {label: milliseconds(name, data, way) for label, way in WAYS.items()}
            for _ in range(chosen.rounds)
        ]
        print(f"{name} {NETWORKS[name] or ''}")
        first = next(iter(WAYS))
        for label in WAYS:
            ratio = statistics.median(one[label] / one[first] for one in rounds)
            print(f"  {label}: {min(one[label] for one in rounds):.2f} ms ({ratio:.2f})", flush=True)


if __name__ == "__main__":
    main()
