"""Train a small network on scikit-learn's digits and save it for `crossbar-sim deploy`.

python examples/train_digits.py model.pt
"""

import sys

from crossbar_sim import Key
from crossbar_sim.data import load_data
from crossbar_sim.nn import accuracy, fit, save_checkpoint, seeded
from crossbar_sim.nn.networks import build


def main(path: str) -> None:
    """Train, say how well it went, save."""
    key = Key(0)
    data = load_data("digits")
    arguments = {"inputs": 64, "hidden": (64, 32), "classes": data.classes, "dropout": 0.2}
    with seeded(key.fold("initialisation")):
        network = build("mlp", **arguments)
    fit(network, data.train, data.validation, epochs=60, batch=64, lr=5e-3, key=key.fold("training"))
    print(
        f"test accuracy {accuracy(network, data.test.x, data.test.y):.1%} on {len(data.test.x)} images of digits"
    )
    save_checkpoint(path, network, "mlp", arguments, "digits")
    print(f"saved {path}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "model.pt")
