from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crossbar_sim.data import DATASETS, Splits, load_data
from crossbar_sim.data.catalogue import CATALOGUE
from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key


@pytest.fixture(scope="module")
def root(
    tmp_path_factory: pytest.TempPathFactory,
    write_mnist: Callable[..., object],
    write_cifar10: Callable[..., object],
    write_gtsrb: Callable[..., object],
) -> Path:
    """A folder with small sets in the layout of every named one."""
    folder = tmp_path_factory.mktemp("sets")
    write_mnist(folder / "MNIST" / "raw")
    write_mnist(folder / "FashionMNIST" / "raw", train=60)
    write_cifar10(folder / "cifar-10-batches-py")
    write_gtsrb(folder)
    return folder


@pytest.mark.parametrize("name", DATASETS)
def test_every_data_set_can_be_developed_on_and_tested_on(name: str, root: Path) -> None:
    data = load_data(name, root)
    assert isinstance(data, Splits)
    assert data.name == name
    assert data.classes == {"gtsrb": 43, "moons": 2}.get(name, 10)
    for split in (data.development.train, data.development.validation, data.test):
        assert split.y is not None
        if name == "moons":
            assert split.x.shape[1:] == (2,)
            continue
        assert split.x.ndim == 4
        assert float(split.x.min()) >= 0
        assert float(split.x.max()) <= 1
    assert data.notes


@pytest.mark.parametrize("name", DATASETS)
def test_loading_twice_gives_the_same_bytes(name: str, root: Path) -> None:
    assert load_data(name, root).fingerprint == load_data(name, root).fingerprint


@pytest.mark.parametrize("name", DATASETS)
def test_no_reader_changes_a_file(name: str, root: Path) -> None:
    def state() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in root.rglob("*")}

    before = state()
    load_data(name, root)
    assert state() == before


def test_every_data_set_is_in_the_catalogue() -> None:
    assert {*CATALOGUE} == {*DATASETS, "pennfudan"}


def test_a_path_is_taken_as_text_or_path_in_either_case(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=np.ones((2, 3)))
    (tmp_path / "mine.npz").rename(tmp_path / "MINE.NPZ")
    for given in (tmp_path / "MINE.NPZ", str(tmp_path / "MINE.NPZ")):
        assert len(load_data(given).test) == 2


def test_the_key_reaches_the_split() -> None:
    assert load_data("digits", key=Key(1)).fingerprint != load_data("digits").fingerprint


@pytest.mark.parametrize("name", ["mnits", "MNIST", "", "data.csv", "cifar-100", "a" * 5000, "a\0b"])
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(
        InputError, match=r"unknown data .*digits, moons, mnist, .*gtsrb, .*or the path .*\.npz"
    ) as caught:
        load_data(name)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("given", "meant"), [("mnits", "mnist"), ("CIFAR-10", "cifar10"), ("fashionmnist", "fashion-mnist")]
)
def test_a_near_miss_is_recognised(given: str, meant: str) -> None:
    with pytest.raises(InputError, match=rf"did you mean {meant}\?"):
        load_data(given)


def test_a_name_goes_before_a_folder_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert load_data("digits").name == "digits"
    with pytest.raises(InputError, match="holds no folders"):
        load_data("./digits")


@pytest.mark.parametrize("size", [0, -1, 5000, (3,), (3, 4, 5), (2.5, 3), True])
def test_an_impossible_size_is_refused(tmp_path: Path, size: object) -> None:
    with pytest.raises(InputError, match=r"size=.*pixels"):
        load_data(tmp_path, size=size)  # type: ignore[arg-type]


def test_a_size_where_nothing_is_resized_is_refused() -> None:
    with pytest.raises(InputError, match="only images of a folder and of gtsrb"):
        load_data("digits", size=16)


def test_a_matlab_file_says_what_to_do(tmp_path):
    path = tmp_path / "mine.mat"
    path.write_bytes(b"MATLAB 5.0 MAT-file")
    with pytest.raises(InputError, match=r"loadmat\('.*mine\.mat'\).*numpy\.savez"):
        load_data(path)
