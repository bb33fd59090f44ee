"""From the name of a data set, or the path of a file, to its splits."""

import difflib
import os
from collections.abc import Callable
from pathlib import Path

from crossbar_sim.data.dataset import Splits
from crossbar_sim.data.digits import load_digits
from crossbar_sim.data.idx import load_mnist
from crossbar_sim.data.npz import load_npz
from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key

DATASETS: dict[str, Callable[[Path | None, Key], Splits]] = {
    "digits": lambda data_dir, key: load_digits(key),
    "mnist": lambda data_dir, key: load_mnist(data_dir),
}
"""Every data set by name: (data_dir, key) -> Splits. Drives the help and the tests."""


def load_data(
    name_or_path: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    key: Key = Key(0),  # noqa: B008 (frozen: the one object is as good as a new one)
) -> Splits:
    """Load a data set.

    Args:
        name_or_path: a name of `DATASETS`, or the path of a file that ends in `.npz`.
        data_dir: where data sets with files are; `None` asks $CROSSBAR_SIM_DATA. The embedded
            digits and a path need none.
        key: names the split where the data set has no official one (digits). It is not a run's
            seed: keep it, or results of different runs are about different test images.

    Raises:
        InputError: if the name is unknown, or its reader refuses the data.

    >>> load_data("digits").test.x.shape[1:]
    torch.Size([1, 8, 8])
    """
    name = os.fspath(name_or_path)
    if name.lower().endswith(".npz"):
        return load_npz(Path(name))
    if name not in DATASETS:
        close = difflib.get_close_matches(name.lower(), DATASETS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise InputError(
            f"unknown data {name!r}{hint}: give one of {', '.join(DATASETS)}, "
            "or the path of a file ending in .npz"
        )
    return DATASETS[name](None if data_dir is None else Path(data_dir), key)
