"""Data sets that need no file: scikit-learn's digits, and two moons."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from crossbar_sim.data.dataset import Split, Splits, stratified
from crossbar_sim.rng import Key

# scikit-learn's embedded digits: real images that need no download.


def load_digits(key: Key) -> Splits:
    """The 1,797 8x8 images of handwritten digits (UCI optical recognition, test part).

    Args:
        key: names the split; every key gives another one, the same on every machine.

    Returns:
        x (n, 1, 8, 8) in 0 .. 1 (the raw 0 .. 16 divided by 16), y in 0 .. 9; of every class 15 %
        are validation and 25 % test, rounded, and the rest is train.
    """
    table = _table()
    x = torch.from_numpy((table[:, :64] / 16.0).astype(np.float32)).reshape(-1, 1, 8, 8)
    labels = table[:, 64].astype(np.int64)
    y = torch.from_numpy(labels)
    train, validation, test = (
        Split(x[part], y[part]) for part in stratified(labels, key.fold("digits", "split"))
    )
    notes = ("pixel values 0 .. 16 divided by 16, nothing subtracted",)
    return Splits("digits", train, validation, test, 10, notes)


def _table() -> np.ndarray:
    """(1797, 65): 64 pixels in 0 .. 16, row by row, and the label.

    Read from scikit-learn's folder without importing it, which would be most of a short run's time.
    Where a version keeps the file elsewhere, scikit-learn loads it.
    """
    spec = find_spec("sklearn")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits as embedded

    bunch = embedded()
    return np.column_stack([bunch.data, bunch.target])


# scikit-learn's two moons: two features, two classes, for pictures of decision boundaries.


POINTS = 2000
NOISE = 0.2


def load_moons(key: Key) -> Splits:
    """2,000 points of two interleaved half circles with normal noise of standard deviation 0.2.

    Args:
        key: names the split and the noise; every key gives other points. They follow from scikit-learn's
            `make_moons` and NumPy's generator, so that another release of those may change them
            and the fingerprint.

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
