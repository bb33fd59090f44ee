"""scikit-learn's embedded digits: real images that need no download."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from crossbar_sim.data.dataset import Split, Splits
from crossbar_sim.data.splitting import stratified
from crossbar_sim.rng import Key


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
    Where a version keeps the file elsewhere, scikit-learn is asked.
    """
    spec = find_spec("sklearn")
    if spec is not None and spec.origin is not None:
        path = Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits as embedded

    bunch = embedded()
    return np.column_stack([bunch.data, bunch.target])
