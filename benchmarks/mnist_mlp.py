"""What a plain Adam-trained 784-192-32-10 MLP keeps of MNIST under preset bayesft, sigma 0 .. 1.5, 20 chips.

    CROSSBAR_SIM_DATA=DIR python benchmarks/mnist_mlp.py [results.json]

The protocol of the BayesFT paper (Ye et al., DAC 2021): every parameter times exp(N(0, sigma^2)), the mean over 20
chips on all 10,000 test images. Training sees the 50,000 training images only.
"""

import json
import sys
from pathlib import Path

from crossbar_sim import Hardware, Key
from crossbar_sim.data import load_data
from crossbar_sim.nn import accuracy, fit, seeded
from crossbar_sim.nn.networks import build
from crossbar_sim.robustness.deploy import deploy

SIGMAS = (0.0, 0.3, 0.6, 0.9, 1.2, 1.5)


def main(seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    data = load_data("mnist")
    rows = []
    for seed in seeds:
        key = Key(seed)
        with seeded(key.fold("initialisation")):
            network = build("mlp", inputs=784, hidden=(192, 32), classes=10)
        fit(network, data.train, data.validation, epochs=10, batch=128, lr=3e-3, key=key.fold("training"))
        clean = accuracy(network, data.test.x, data.test.y)
        print(f"seed {seed}: clean {clean:.2%}")
        for sigma in SIGMAS:
            hardware = Hardware.preset("bayesft", sigma=sigma)
            result = deploy(network, data.test.x, data.test.y, hardware, seed=seed, sensitivity_chips=0).main
            low, high = result.ci95 or (result.mean, result.mean)
            print(f"  sigma {sigma:.1f}: {result.mean:6.2%}  95 % interval {low:.2%} .. {high:.2%}")
            rows.append({"seed": seed, "sigma": sigma, "clean": clean, **result.as_dict()})
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
