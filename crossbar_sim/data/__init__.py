"""Files to tensors, and splits."""

from crossbar_sim.data.dataset import Development, Split, Splits
from crossbar_sim.data.digits import load_digits
from crossbar_sim.data.idx import load_mnist
from crossbar_sim.data.load import DATASETS, load_data
from crossbar_sim.data.npz import load_npz

__all__ = [
    "DATASETS",
    "Development",
    "Split",
    "Splits",
    "load_data",
    "load_digits",
    "load_mnist",
    "load_npz",
]
