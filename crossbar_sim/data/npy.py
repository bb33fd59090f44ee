"""Examples of the user's own as `.npy` files: NAME_x.npy (or x.npy) and, for scores, NAME_y.npy beside it."""

import re
from pathlib import Path

import numpy as np

from crossbar_sim.data.arrays import HEAD, as_test_split, read_header
from crossbar_sim.data.dataset import Splits
from crossbar_sim.data.files import check_file, check_memory, reason
from crossbar_sim.errors import InputError

_WRITE = "write it with numpy.save(path, x)"


def labels_path(path: Path) -> Path | None:
    """Where the labels of a file of examples would be: the last `x` of its name turned into `y`.

    >>> labels_path(Path("mine_x.npy"))
    PosixPath('mine_y.npy')
    >>> labels_path(Path("mine.npy"))
    """
    match = re.fullmatch(r"(.*_)?(x|X)", path.stem)
    if match is None:
        return None
    return path.with_name(f"{match[1] or ''}{'y' if match[2] == 'x' else 'Y'}{path.suffix}")


def load_npy(path: Path) -> Splits:
    """Examples of the user's own. All of them are the test split.

    Args:
        path: an `.npy` of examples (n, ...), as `load_npz` takes them. If it is called x.npy or
            NAME_x.npy and there is a y.npy or NAME_y.npy beside it, that one has the labels.

    Returns:
        `Splits` without train and validation; `classes` is the largest label + 1, or `None`.

    Raises:
        InputError: if a file is missing, damaged, hostile or holds something else.
    """
    x = read_npy(path, "x")
    beside = labels_path(path)
    if beside is None or not beside.exists():
        return as_test_split(path, x, None)
    return as_test_split(path, x, read_npy(beside, "y"))


def read_npy(path: Path, name: str) -> np.ndarray:
    """The array of plain numbers in an `.npy`; nothing is allocated on the word of its header.

    Args:
        path: the file.
        name: what errors call the array.

    Raises:
        InputError: if it is missing, damaged or holds something else.
    """
    size = check_file(path)
    try:
        with open(path, "rb") as stream:
            header = read_header(path, name, stream.read(HEAD), _WRITE)
            if header.offset + header.nbytes != size:
                raise InputError(
                    f"{path}: {name} claims shape {header.shape} of {header.dtype}, so {header.nbytes} "
                    f"bytes, and has {size - header.offset}; {_WRITE}"
                )
            check_memory(path, header.needed)
            stream.seek(header.offset)
            return header.array(stream.read(header.nbytes))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({reason(error)})") from None
