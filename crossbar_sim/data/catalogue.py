"""Where the files of the named data sets are: the layouts that their publishers and torchvision write.

Nothing here reads a file or imports torch, so that `data list` and `data fetch` start quickly.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from crossbar_sim.errors import InputError
from crossbar_sim.files import reason

DATA_VARIABLE = "CROSSBAR_SIM_DATA"
IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
IDX_FOLDERS = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
CIFAR10_FOLDER = "cifar-10-batches-py"
CIFAR10_ARCHIVE = "cifar-10-python.tar.gz"
CIFAR10_FILES = {
    "train": tuple(f"data_batch_{i}" for i in range(1, 6)),
    "test": ("test_batch",),
}
GTSRB_TABLE = "GT-final_test.csv"
PENNFUDAN_FOLDER = "PennFudanPed"
PENNFUDAN_FOLDERS = ("PNGImages", "PedMasks")


def data_folder(name: str, data_dir: Path | None) -> Path:
    """The folder that holds data sets.

    Args:
        name: of the data set, for the message.
        data_dir: the folder; `None`: $CROSSBAR_SIM_DATA.

    Raises:
        InputError: if neither names one.
    """
    named = str(data_dir) if data_dir is not None else os.environ.get(DATA_VARIABLE, "")
    if not named:
        raise InputError(
            f"{name} needs its files: give --data-dir DIR (data_dir in Python) or set "
            f"{DATA_VARIABLE}=DIR; {_fetch(name)}"
        )
    return Path(named)


def _fetch(name: str, folder: object = "DIR") -> str:
    return f"crossbar-sim data fetch {name} --data-dir {folder} gets them"


def _missing(name: str, what: str, folder: Path, below: str) -> InputError:
    return InputError(
        f"{name}: no {what} in {folder} or its {below}; check --data-dir and {DATA_VARIABLE}; "
        f"{_fetch(name, folder)}"
    )


def find_idx(name: str, data_dir: Path | None) -> dict[str, tuple[Path, Path]]:
    """Where the four files of MNIST or Fashion-MNIST are; a plain file goes before a `.gz`.

    Args:
        name: "mnist" or "fashion-mnist".
        data_dir: DIR of DIR/MNIST/raw (DIR/FashionMNIST/raw), DIR/raw or DIR itself; `None` asks
            $CROSSBAR_SIM_DATA.

    Returns:
        train and test -> (images, labels).

    Raises:
        InputError: if no folder is given, or no place holds all four files.
    """
    root = data_folder(name, data_dir)
    fewest: list[str] | None = None
    for folder in (root / IDX_FOLDERS[name] / "raw", root / "raw", root):
        found = {file: _either(folder, file) for pair in IDX_FILES.values() for file in pair}
        missing = [file for file, path in found.items() if path is None]
        if not missing:
            paths = {file: path for file, path in found.items() if path is not None}
            return {part: (paths[a], paths[b]) for part, (a, b) in IDX_FILES.items()}
        if fewest is None or len(missing) < len(fewest):
            fewest = missing
    what = f"{', '.join(fewest or ())} (plain or .gz)"
    raise _missing(name, what, root, f"{IDX_FOLDERS[name]}/raw or raw")


def _either(folder: Path, name: str) -> Path | None:
    candidates = (folder / name, folder / f"{name}.gz")
    return next((path for path in candidates if os.path.isfile(path)), None)


def find_cifar10(data_dir: Path | None) -> Path:
    """Where CIFAR-10 is: its folder of batches, or the `.tar.gz` that it is published as.

    Args:
        data_dir: DIR of DIR/cifar-10-batches-py or DIR/cifar-10-python.tar.gz, or the folder of
            batches itself; `None`: $CROSSBAR_SIM_DATA. The folder goes before the archive.

    Raises:
        InputError: if no folder is given, or there is neither.
    """
    root = data_folder("cifar10", data_dir)
    for folder in (root / CIFAR10_FOLDER, root):
        missing = [
            name for names in CIFAR10_FILES.values() for name in names if not os.path.isfile(folder / name)
        ]
        if not missing:
            return folder
        if len(missing) < 6:
            raise _missing("cifar10", ", ".join(missing), root, CIFAR10_FOLDER)
    if os.path.isfile(root / CIFAR10_ARCHIVE):
        return root / CIFAR10_ARCHIVE
    raise _missing("cifar10", f"data_batch_1 .. 5, test_batch or {CIFAR10_ARCHIVE}", root, CIFAR10_FOLDER)


@dataclass(frozen=True)
class GtsrbPaths:
    """Where the parts of GTSRB are.

    Args:
        train: the folder of the class folders 00000, 00001, ...
        test: the folder of the test images.
        table: the CSV file of the test images' classes.
        resized: whether the test images are copies of 32x32 pixels and not the official ones.
    """

    train: Path
    test: Path
    table: Path
    resized: bool


def find_gtsrb(data_dir: Path | None) -> GtsrbPaths:
    """Where GTSRB is, as its publishers lay it out or as torchvision does.

    Args:
        data_dir: DIR of DIR/GTSRB or DIR/gtsrb/GTSRB, or that folder itself; `None` asks
            $CROSSBAR_SIM_DATA. In it, training images are in Final_Training/Images or Training, test
            images in Final_Test/Images or, as 32x32 copies, in Final_Test_32x32/Images; the table
            GT-final_test.csv is beside the test images or in a folder above.

    Raises:
        InputError: if no folder is given, or a part is missing.
    """
    root = data_folder("gtsrb", data_dir)
    bases = [path for path in (root / "GTSRB", root / "gtsrb" / "GTSRB", root) if path.is_dir()]
    below = "GTSRB or gtsrb/GTSRB"
    for base in bases:
        train = _folder(base / "Final_Training" / "Images", base / "Training")
        if train is None:
            continue
        test = _folder(base / "Final_Test" / "Images", base / "Final_Test_32x32" / "Images")
        if test is None:
            raise _missing("gtsrb", "Final_Test/Images", root, below)
        homes = (test, test.parent, base, base.parent)
        table = next((home / GTSRB_TABLE for home in homes if os.path.isfile(home / GTSRB_TABLE)), None)
        if table is None:
            what = f"{GTSRB_TABLE} (the test images' classes, from GTSRB_Final_Test_GT.zip)"
            raise _missing("gtsrb", what, root, f"{test.relative_to(root)}")
        return GtsrbPaths(train, test, table, test.parent.name == "Final_Test_32x32")
    raise _missing("gtsrb", "Final_Training/Images", root, below)


def _folder(*candidates: Path) -> Path | None:
    return next((path for path in candidates if path.is_dir()), None)


def find_pennfudan(data_dir: Path | None) -> Path:
    """The folder that holds PNGImages and PedMasks.

    Args:
        data_dir: DIR of DIR/PennFudanPed, or that folder itself; `None`: $CROSSBAR_SIM_DATA.

    Raises:
        InputError: if no folder is given, or it has no such folders.
    """
    root = data_folder("pennfudan", data_dir)
    for folder in (root / PENNFUDAN_FOLDER, root):
        if all((folder / name).is_dir() for name in PENNFUDAN_FOLDERS):
            return folder
    raise _missing("pennfudan", " and ".join(PENNFUDAN_FOLDERS), root, PENNFUDAN_FOLDER)


class Entry(NamedTuple):
    """A name in a folder, and whether it is a folder (or a link to one)."""

    name: str
    path: Path
    folder: bool


def entries(folder: Path) -> list[Entry]:
    """What a folder holds, by name, without what the system and tools put there (.* and __*).

    Raises:
        InputError: if it cannot be listed.
    """
    try:
        with os.scandir(folder) as found:
            listed = [entry for entry in found if not entry.name.startswith((".", "__"))]
    except (OSError, ValueError) as error:
        raise InputError(f"{str(folder)!r}: cannot be listed ({reason(error)}); check the path") from None
    return sorted(Entry(entry.name, folder / entry.name, _is_folder(entry)) for entry in listed)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself: opening it will say so
        return False


# What `data list` prints about every named data set.


@dataclass(frozen=True)
class About:
    """A data set in words.

    Args:
        what: what its images show.
        images: how many there are, in the official release.
        layout: where its files are looked for, below the folder of data sets.
        find: raises InputError if they are not there; None: the data needs no files.
        official: the fingerprint of the official release; None where it is not known.
    """

    what: str
    images: str
    layout: str
    find: Callable[[Path | None], object] | None
    official: str | None = None


CATALOGUE = {
    "digits": About(
        "handwritten digits, 8 x 8 grey (scikit-learn's)",
        "1,797",
        "comes with scikit-learn",
        None,
        "80c40b9d2bae1acec2eebbdb8de8b2f2c795ef29a59df9a9acb4701b4148e3b0",
    ),
    "moons": About(
        "two moons, points of two features (scikit-learn's make_moons)",
        "2,000",
        "comes with scikit-learn",
        None,
    ),
    "mnist": About(
        "handwritten digits, 28 x 28 grey",
        "60,000 + 10,000 test",
        "MNIST/raw",
        lambda data_dir: find_idx("mnist", data_dir),
        "b6bb32c1ab7e917c5ba9b808cc9d4f68238780949d23e0a65919d02704c2562b",
    ),
    "fashion-mnist": About(
        "clothes, 28 x 28 grey",
        "60,000 + 10,000 test",
        "FashionMNIST/raw",
        lambda data_dir: find_idx("fashion-mnist", data_dir),
    ),
    "cifar10": About(
        "objects of 10 classes, 32 x 32 colour",
        "50,000 + 10,000 test",
        "cifar-10-batches-py",
        find_cifar10,
        "815234dbc30a1cee1ac0716d97762b150a712248693721671b10acb9da6f6e24",
    ),
    "gtsrb": About(
        "German traffic signs of 43 classes, colour",
        "39,209 + 12,630 test",
        "GTSRB/Final_Training, GTSRB/Final_Test",
        find_gtsrb,
    ),
    "pennfudan": About(
        "pedestrians with masks, for detection",
        "170",
        "PennFudanPed",
        find_pennfudan,
    ),
}
