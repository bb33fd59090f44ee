import gzip
import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crossbar_sim.data import images, load_fashion_mnist, load_mnist
from crossbar_sim.data.catalogue import CATALOGUE, DATA_VARIABLE, find_idx
from crossbar_sim.data.idx import read_idx
from crossbar_sim.errors import InputError

Idx = Callable[[np.ndarray], bytes]
WriteMnist = Callable[..., dict[str, np.ndarray]]
CUBE = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


@pytest.fixture
def refused(tmp_path: Path) -> Callable[[bytes, str], None]:
    """refused(content, says): as a file of images, the content is refused in one line."""

    def check(content: bytes, says: str) -> None:
        path = tmp_path / "images"
        path.write_bytes(content)
        with pytest.raises(InputError, match=says) as caught:
            read_idx(path, 3)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    return check


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_an_idx_file_is_read_back(tmp_path: Path, idx: Idx, pack: Callable) -> None:
    path = tmp_path / "named-without-gz"
    path.write_bytes(pack(idx(CUBE)))
    np.testing.assert_array_equal(read_idx(path, 3), CUBE)


def test_dimensions_are_big_endian(tmp_path: Path) -> None:
    path = tmp_path / "labels"
    path.write_bytes(b"\x00\x00\x08\x01\x00\x00\x00\x03abc")
    assert read_idx(path, 1).tobytes() == b"abc"


def test_damaged_files_are_refused(refused: Callable[[bytes, str], None], idx: Idx) -> None:
    good = idx(CUBE)
    refused(b"", "starts with nothing")
    refused(good[:3], "starts with 000008")
    refused(b"\x00\x00\x0d\x03" + good[4:], "starts with 00000d03 .* with 00000803")
    refused(idx(CUBE[0, 0]), "starts with 00000801")
    refused(good[:9], "ends inside its header of 16 bytes")
    refused(good[:-1], r"shape \(2, 3, 4\), so 40 bytes, and it has 39")
    refused(good + b"!", "so 40 bytes, and it has 41")


def test_damaged_gzip_is_refused(refused: Callable[[bytes, str], None], idx: Idx) -> None:
    good = idx(CUBE)
    packed = gzip.compress(good, mtime=0)
    refused(gzip.compress(good[:-1]), "holds only 23")
    refused(gzip.compress(good + b"!"), "holds more")
    refused(packed[:-9], "damaged")
    refused(packed[:-8] + b"\x00" * 8, "CRC")
    refused(packed[:2] + b"garbage", "damaged")


def test_an_absurd_header_is_refused_before_anything_is_allocated(
    refused: Callable[[bytes, str], None],
) -> None:
    bomb = struct.pack(">4B3I", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1)
    refused(bomb, "and it has 16")
    refused(gzip.compress(bomb), "1032 times")


def test_more_than_the_machines_memory_is_refused(
    refused: Callable[[bytes, str], None], idx: Idx, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "memory", lambda: 100)
    refused(idx(CUBE), "GiB of memory")
    refused(gzip.compress(idx(CUBE)), "GiB of memory")


def test_a_missing_file_a_folder_and_a_pipe_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    for name, says in (("none", "no such file"), (".", "a directory"), ("pipe", "not a regular file")):
        with pytest.raises(InputError, match=says):
            read_idx(tmp_path / name, 3)


@pytest.mark.parametrize("below", ["MNIST/raw", "raw", "."])
@pytest.mark.parametrize("packed", [False, True])
def test_mnist_is_found_and_scaled(tmp_path: Path, write_mnist: WriteMnist, below: str, packed: bool) -> None:
    written = write_mnist(tmp_path / below, packed)
    data = load_mnist(tmp_path)
    raw = written["t10k-images-idx3-ubyte"]
    assert data.test.x.shape == (5, 1, 28, 28)
    np.testing.assert_array_equal(data.test.x[:, 0].numpy(), raw.astype(np.float32) / 255)
    assert data.test.y is not None
    assert data.test.y.tolist() == written["t10k-labels-idx1-ubyte"].tolist()


def test_validation_is_the_last_sixth_of_train(tmp_path: Path, write_mnist: WriteMnist) -> None:
    labels = write_mnist(tmp_path)["train-labels-idx1-ubyte"]
    development = load_mnist(tmp_path).development
    assert development.train.y is not None
    assert development.validation.y is not None
    assert development.train.y.tolist() == labels[:10].tolist()
    assert development.validation.y.tolist() == labels[10:].tolist()


def test_the_environment_names_the_folder_and_the_argument_goes_first(
    tmp_path: Path, write_mnist: WriteMnist, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_mnist(tmp_path / "a", train=12)
    write_mnist(tmp_path / "b", train=18)
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path / "a"))
    assert len(load_mnist().development.train) == 10
    assert len(load_mnist(tmp_path / "b").development.train) == 15


def test_without_a_folder_the_sentence_says_how_to_get_the_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    with pytest.raises(InputError, match=r"--data-dir.*CROSSBAR_SIM_DATA.*data fetch mnist"):
        load_mnist()


def test_what_is_missing_is_named(tmp_path: Path, write_mnist: WriteMnist) -> None:
    write_mnist(tmp_path / "raw")
    (tmp_path / "raw" / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(InputError) as caught:
        find_idx("mnist", tmp_path)
    text = str(caught.value)
    assert "no t10k-labels-idx1-ubyte (plain or .gz)" in text
    assert "train-" not in text
    assert str(tmp_path) in text


def test_files_that_do_not_belong_together_are_refused(
    tmp_path: Path, write_mnist: WriteMnist, idx: Idx
) -> None:
    cases = [
        ("t10k-labels-idx1-ubyte", np.zeros(4), "4 labels and .* 5 images"),
        ("t10k-labels-idx1-ubyte", np.full(5, 10), "label 10"),
        ("t10k-images-idx3-ubyte", np.zeros((5, 32, 32)), r"\(5, 32, 32\)"),
        ("t10k-images-idx3-ubyte", np.zeros((0, 28, 28)), r"\(0, 28, 28\)"),
    ]
    for name, values, says in cases:
        write_mnist(tmp_path)
        (tmp_path / name).write_bytes(idx(values))
        with pytest.raises(InputError, match=says):
            load_mnist(tmp_path)


def test_too_few_images_to_hold_some_back_are_refused(tmp_path: Path, write_mnist: WriteMnist) -> None:
    write_mnist(tmp_path, train=5)
    with pytest.raises(InputError, match="at least 6"):
        load_mnist(tmp_path)


def test_fashion_mnist_has_a_folder_of_its_own(tmp_path: Path, write_mnist: WriteMnist, idx: Idx) -> None:
    write_mnist(tmp_path / "MNIST" / "raw")
    with pytest.raises(InputError, match=r"fashion-mnist: no train-images.* or its FashionMNIST/raw"):
        load_fashion_mnist(tmp_path)
    write_mnist(tmp_path / "FashionMNIST" / "raw", train=24)
    labels = np.repeat([3, 7], 12)
    (tmp_path / "FashionMNIST/raw/train-labels-idx1-ubyte").write_bytes(idx(labels))
    data = load_fashion_mnist(tmp_path)
    assert data.name == "fashion-mnist"
    # Two of each twelve, the last ones of their class: image i begins with the pixel 784 * 7 * i % 256.
    assert data.development.validation.y is not None
    assert data.development.validation.y.tolist() == [3, 3, 7, 7]
    firsts = (data.development.validation.x[:, 0, 0, 0] * 255).round().int().tolist()
    assert firsts == [784 * 7 * i % 256 for i in (10, 11, 22, 23)]


def test_too_little_of_every_class_is_refused(tmp_path: Path, write_mnist: WriteMnist) -> None:
    write_mnist(tmp_path, train=20)
    with pytest.raises(InputError, match="at least 6"):
        load_fashion_mnist(tmp_path)


def test_real_mnist() -> None:
    try:
        find_idx("mnist", None)
    except InputError as error:
        pytest.skip(f"real MNIST is not at hand: {error}")
    data = load_mnist()
    development = data.development
    assert (len(development.train), len(development.validation), len(data.test)) == (
        50_000,
        10_000,
        10_000,
    )
    # Published facts: the training set's mean and deviation, the first labels of both files.
    pixels = np.concatenate([development.train.x.numpy(), development.validation.x.numpy()])
    assert pixels.mean(dtype=np.float64) == pytest.approx(0.1307, abs=5e-5)
    assert pixels.std(dtype=np.float64) == pytest.approx(0.3081, abs=5e-5)
    assert development.train.y is not None
    assert data.test.y is not None
    assert development.train.y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert data.test.y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert data.fingerprint == CATALOGUE["mnist"].official
    # The official test set's class counts.
    assert data.test.y.bincount().tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
