"""What `data list` says of every named data set. Imports no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from crossbar_sim.data.places import find_cifar10, find_gtsrb, find_idx, find_pennfudan


@dataclass(frozen=True)
class About:
    """A data set in words.

    Args:
        what: what its images show.
        images: how many there are, in the official release.
        layout: where its files are looked for, below the folder of data sets.
        find: raises InputError if they are not there; None: the data needs no files.
        official: the fingerprint of the official release as read by us; None where it is not known.
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
