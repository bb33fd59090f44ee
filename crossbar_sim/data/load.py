"""From the name of a data set, or the path of a file or folder, to its splits."""

import difflib
import os
from collections.abc import Callable
from pathlib import Path

from crossbar_sim.data.catalogue import CATALOGUE
from crossbar_sim.data.cifar import load_cifar10
from crossbar_sim.data.dataset import Splits
from crossbar_sim.data.digits import load_digits
from crossbar_sim.data.folders import load_folder
from crossbar_sim.data.gtsrb import load_gtsrb
from crossbar_sim.data.idx import load_fashion_mnist, load_mnist
from crossbar_sim.data.moons import load_moons
from crossbar_sim.data.npy import load_npy
from crossbar_sim.data.npz import load_npz
from crossbar_sim.data.pennfudan import load_pennfudan
from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key, as_key

Size = tuple[int, int]

DATASETS: dict[str, Callable[[Path | None, Key], Splits]] = {
    "digits": lambda data_dir, key: load_digits(key),
    "moons": lambda data_dir, key: load_moons(key),
    "mnist": lambda data_dir, key: load_mnist(data_dir),
    "fashion-mnist": lambda data_dir, key: load_fashion_mnist(data_dir),
    "cifar10": lambda data_dir, key: load_cifar10(data_dir),
    "gtsrb": load_gtsrb,
}
"""Every data set by name: (data_dir, key) -> Splits. Drives the help and the tests."""

PATHS = "the path of an .npz, an .npy or a folder of class folders"
_MOST_SIDE = 4096
_LAYOUTS = {
    "PNGImages": "pennfudan", "PennFudanPed": "pennfudan", "Final_Training": "gtsrb", "Final_Test": "gtsrb",
    "GTSRB": "gtsrb", "cifar-10-batches-py": "cifar10", "data_batch_1": "cifar10", "MNIST": "mnist",
    "FashionMNIST": "fashion-mnist",
}  # fmt: skip


def load_data(
    name_or_path: str | os.PathLike[str],
    data_dir: str | os.PathLike[str] | None = None,
    key: Key | int = Key(0),  # noqa: B008 (frozen: the one object is as good as a new one)
    size: int | Size | None = None,
) -> Splits:
    """Load a data set.

    Args:
        name_or_path: a name of `DATASETS`, "pennfudan" (for detection: its splits are `Scenes`), or the path of a
            file that ends in `.npz` or `.npy`, or of a folder of class folders. Arrays, data sets of torch and
            the other forms that `robustness` takes become data with a test split alone.
        data_dir: where data sets with files are; `None` asks $CROSSBAR_SIM_DATA. The embedded
            digits and a path need none.
        key: names the split where the data has no official one (digits, folders, and the validation
            split of GTSRB). It is not a run's seed: keep it, or results of different runs are about
            different test images. An integer is taken for `Key(integer)`.
        size: height and width that the images of a folder or of GTSRB are resized to; one number for
            squares. `None`: 32 x 32 for GTSRB, and images of a folder have one size already.

    Raises:
        InputError: if the name is unknown, or its reader refuses the data.

    >>> load_data("digits").test.x.shape[1:]
    torch.Size([1, 8, 8])
    """
    if not isinstance(name_or_path, str | os.PathLike):
        from crossbar_sim.data.given import given  # it calls this function

        found = given(name_or_path)
        split = found.split()
        top = None if split.y is None else int(split.y.max()) + 1
        return Splits(found.name, None, None, split, top, found.notes)
    key = as_key(key)
    name = os.fspath(name_or_path)
    if isinstance(name, bytes):
        name = os.fsdecode(name)
    sides = _sides(size)
    folder = None if data_dir is None else Path(data_dir)
    if name == "gtsrb" and sides is not None:
        return load_gtsrb(folder, key, sides)
    is_folder = name not in CATALOGUE and bool(name) and os.path.isdir(name)
    if sides is not None and not is_folder:
        raise InputError(
            f"size={size}: only images of a folder and of gtsrb are resized; leave it out for {name!r}"
        )
    if is_folder:
        _check_own(Path(name))
        return load_folder(Path(name), key, sides)
    if name.lower().endswith((".npz", ".npy")):
        return (load_npz if name.lower().endswith(".npz") else load_npy)(Path(name))
    if name == "pennfudan":
        return load_pennfudan(folder, key).on_canvas()
    if name.lower().endswith(".mat") and os.path.isfile(name):
        raise InputError(
            f"{name}: MATLAB files are not read as data; in Python: m = scipy.io.loadmat({name!r}) (h5py, transposed, "
            "for version 7.3), then numpy.savez('data.npz', x=m['x'], y=m['y'].ravel()), examples first"
        )
    if name not in DATASETS:
        close = difflib.get_close_matches(name.lower(), DATASETS, n=1)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise InputError(
            f"unknown data {name[:200]!r}{hint}: give one of {', '.join(DATASETS)}, pennfudan, or {PATHS}"
        )
    return DATASETS[name](folder, key)


def _sides(size: int | Size | None) -> Size | None:
    """Height and width.

    Raises:
        InputError: if they are no whole numbers in 1 .. 4096.
    """
    if size is None:
        return None
    sides = (size, size) if isinstance(size, int) else tuple(size)
    if len(sides) != 2 or not all(type(side) is int and 1 <= side <= _MOST_SIDE for side in sides):
        raise InputError(
            f"size={size}: give height and width, or one number for both, of 1 to {_MOST_SIDE} pixels"
        )
    return sides[0], sides[1]


def _check_own(folder: Path) -> None:
    """Refuse a folder that is, or holds, a named data set: its folders are no classes.

    Raises:
        InputError: with the name to give.
    """
    for below, name in _LAYOUTS.items():
        if (folder / below).exists():
            raise InputError(
                f"{folder}: holds {below}, of {name}: give the name {name} and --data-dir {folder}"
            )
