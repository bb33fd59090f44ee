from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crossbar_sim.data import DATASETS, Splits, load_data
from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_can_be_developed_on_and_tested_on(
    name: str, tmp_path: Path, write_mnist: Callable[..., object]
) -> None:
    write_mnist(tmp_path)
    data = load_data(name, tmp_path)
    assert isinstance(data, Splits)
    assert data.name == name
    assert data.classes == 10
    for split in (data.development.train, data.development.validation, data.test):
        assert split.y is not None
        assert split.x.ndim == 4
        assert float(split.x.min()) >= 0
        assert float(split.x.max()) <= 1
    assert data.notes


@pytest.mark.parametrize("name", DATASETS)
def test_loading_twice_gives_the_same_bytes(
    name: str, tmp_path: Path, write_mnist: Callable[..., object]
) -> None:
    write_mnist(tmp_path)
    assert load_data(name, tmp_path).fingerprint == load_data(name, tmp_path).fingerprint


def test_a_path_is_taken_as_text_or_path_in_either_case(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=np.ones((2, 3)))
    (tmp_path / "mine.npz").rename(tmp_path / "MINE.NPZ")
    for given in (tmp_path / "MINE.NPZ", str(tmp_path / "MINE.NPZ")):
        assert len(load_data(given).test) == 2


def test_the_key_reaches_the_split() -> None:
    assert load_data("digits", key=Key(1)).fingerprint != load_data("digits").fingerprint


@pytest.mark.parametrize("name", ["mnits", "MNIST", "", "data.csv", "cifar10"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(InputError, match=r"unknown data .*digits, mnist, or the path .*\.npz"):
        load_data(name)


def test_a_near_miss_is_recognised() -> None:
    with pytest.raises(InputError, match=r"did you mean mnist\?"):
        load_data("mnits")
