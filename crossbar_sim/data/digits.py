"""scikit-learn's embedded digits: real images that need no download."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from crossbar_sim.data.dataset import Split, Splits
from crossbar_sim.rng import Key

VALIDATION_SHARE = 0.15
TEST_SHARE = 0.25


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


def stratified(labels: np.ndarray, key: Key) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split indices into train, validation and test, class by class.

    An example's place is decided by the SHA-256 of its number below `key`: no generator, so no
    library version can move an example from one split to another.

    Args:
        labels: (n,) class numbers.
        key: the name of the split.

    Returns:
        Three ascending int64 index tensors that together are 0 .. n - 1.
    """
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for label in np.unique(labels):
        members = [int(i) for i in np.flatnonzero(labels == label)]
        members.sort(key=lambda i: key.fold(str(i)).digest())
        test = round(TEST_SHARE * len(members))
        validation = round(VALIDATION_SHARE * len(members))
        parts[2].extend(members[:test])
        parts[1].extend(members[test : test + validation])
        parts[0].extend(members[test + validation :])
    train, held, tested = (torch.tensor(sorted(part), dtype=torch.int64) for part in parts)
    return train, held, tested
