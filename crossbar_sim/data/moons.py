"""scikit-learn's two moons: two features, two classes, for pictures of decision boundaries."""

import numpy as np
import torch

from crossbar_sim.data.dataset import Split, Splits
from crossbar_sim.data.splitting import stratified
from crossbar_sim.rng import Key

POINTS = 2000
NOISE = 0.2


def load_moons(key: Key) -> Splits:
    """2,000 points of two interleaved half circles with normal noise of standard deviation 0.2.

    Args:
        key: names the split and the noise; every key gives other points. They follow from scikit-learn's
            `make_moons` and NumPy's generator, so that another release of those may change them: the fingerprint tells.

    Returns:
        x (n, 2), y in 0 .. 1; of every class 15 % are validation and 25 % test, rounded, and the rest is train.
    """
    from sklearn.datasets import make_moons

    seed = key.fold("moons", "points").integer() % 2**32
    points, labels = make_moons(POINTS, noise=NOISE, random_state=seed)
    x, y = torch.from_numpy(points.astype(np.float32)), torch.from_numpy(labels.astype(np.int64))
    train, validation, test = (
        Split(x[part], y[part]) for part in stratified(labels, key.fold("moons", "split"))
    )
    notes = (f"make_moons of scikit-learn, {POINTS:,} points, noise {NOISE:g}, nothing scaled",)
    return Splits("moons", train, validation, test, 2, notes)
