"""Files to tensors, and splits. Names are imported on first use: finding and fetching files needs no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crossbar_sim.data.arrays import load_npy, load_npz
    from crossbar_sim.data.cifar import load_cifar10
    from crossbar_sim.data.dataset import Development, Split, Splits
    from crossbar_sim.data.detection import DetectionDevelopment, DetectionSplit, DetectionSplits, Scenes
    from crossbar_sim.data.embedded import load_digits, load_moons
    from crossbar_sim.data.folders import load_folder
    from crossbar_sim.data.gtsrb import load_gtsrb
    from crossbar_sim.data.idx import load_fashion_mnist, load_mnist
    from crossbar_sim.data.load import DATASETS, load_data
    from crossbar_sim.data.pennfudan import load_pennfudan, make_pedestrians

_HOMES = {
    "arrays": (
        "load_npy",
        "load_npz",
    ),
    "cifar": ("load_cifar10",),
    "dataset": (
        "Development",
        "Split",
        "Splits",
    ),
    "detection": (
        "DetectionDevelopment",
        "DetectionSplit",
        "DetectionSplits",
        "Scenes",
    ),
    "embedded": (
        "load_digits",
        "load_moons",
    ),
    "folders": ("load_folder",),
    "gtsrb": ("load_gtsrb",),
    "idx": (
        "load_fashion_mnist",
        "load_mnist",
    ),
    "load": (
        "DATASETS",
        "load_data",
    ),
    "pennfudan": (
        "load_pennfudan",
        "make_pedestrians",
    ),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "DATASETS",
    "DetectionDevelopment",
    "DetectionSplit",
    "DetectionSplits",
    "Development",
    "Scenes",
    "Split",
    "Splits",
    "load_cifar10",
    "load_data",
    "load_digits",
    "load_fashion_mnist",
    "load_folder",
    "load_gtsrb",
    "load_mnist",
    "load_moons",
    "load_npy",
    "load_npz",
    "load_pennfudan",
    "make_pedestrians",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"crossbar_sim.data.{_HOME[name]}"), name)
    raise AttributeError(f"module 'crossbar_sim.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
