"""A search in a process of its own, to be killed: python search_worker.py STUDY function|literal TRIALS [SECONDS]."""

import sys
import time

import torch

from crossbar_sim import Key
from crossbar_sim.crossbar import threads
from crossbar_sim.data import load_data
from crossbar_sim.nn.networks import build
from crossbar_sim.nn.training.settings import Training
from crossbar_sim.search import BayesFT, Space, search

SPACE = Space.of({"x": (-1.0, 2.0), "y": (0.0, 1.0)})
METHOD = BayesFT(
    sigma=0.8, trials=7, chips=4, images=100, fresh_chips=3, training_chips=4, initial=3,
    training=Training(epochs=1, lr=1e-2), polish=Training(epochs=2, lr=1e-2),
)  # fmt: skip


def network() -> torch.nn.Module:
    return build("mlp", inputs=64, hidden=(24, 16), classes=10)


def main(study: str, what: str, trials: int, seconds: float) -> None:
    threads.set_threads(1)

    def told(trial, opened) -> None:
        print(trial.number, flush=True)
        time.sleep(seconds)

    if what == "function":

        def objective(point, key):
            time.sleep(seconds)
            return -((point["x"] - 0.4) ** 2) - (point["y"] - 0.6) ** 2 + 1e-3 * (key.integer() % 100)

        found = search(objective, SPACE, trials, Key(5), study=study, initial=3, progress=told)
        print("end", repr(dict(found.best.point)), found.best.mean, flush=True)
    else:
        development = load_data("digits").development
        trained = METHOD.fit(network, development, Key(5), study=study, on_trial=told)
        weights = sum(float(p.detach().double().sum()) for p in trained.model.parameters())
        print("end", trained.notes["rates"], repr(weights), trained.notes["fresh"], flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]) if len(sys.argv) > 4 else 0.0)
