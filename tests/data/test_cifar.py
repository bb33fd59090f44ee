import gzip
import io
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossbar_sim.data import cifar, images, load_cifar10
from crossbar_sim.data.catalogue import CATALOGUE, find_cifar10
from crossbar_sim.errors import InputError

Write = Callable[..., dict[str, np.ndarray]]
FOLDER = "cifar-10-batches-py"


def refused(root: Path, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        load_cifar10(root)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


def archive(root: Path, members: dict[str, Any], mode: str = "w:gz") -> Path:
    """cifar-10-python.tar.gz with these members: bytes, or a TarInfo as it is."""
    path = root / "cifar-10-python.tar.gz"
    with tarfile.open(path, mode) as opened:  # type: ignore[call-overload]
        for name, content in members.items():
            info = content if isinstance(content, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                opened.addfile(info, io.BytesIO(content))
            else:
                opened.addfile(info)
    return path


@pytest.mark.parametrize("below", [FOLDER, "."])
def test_batches_become_images_and_labels_in_order(tmp_path: Path, write_cifar10: Write, below: str) -> None:
    written = write_cifar10(tmp_path / below)
    data = load_cifar10(tmp_path)
    assert (data.name, data.classes) == ("cifar10", 10)
    expected = written["test_batch"].reshape(20, 3, 32, 32).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(data.test.x.numpy(), expected)
    assert data.test.y is not None
    assert data.test.y.tolist() == [i % 10 for i in range(20)]


def test_validation_is_the_last_tenth_of_every_class(tmp_path: Path, write_cifar10: Write) -> None:
    written = write_cifar10(tmp_path / FOLDER)
    development = load_cifar10(tmp_path).development
    assert (len(development.train), len(development.validation)) == (90, 10)
    assert development.validation.y is not None
    assert development.validation.y.tolist() == list(range(10))
    last = written["data_batch_5"][10:].reshape(10, 3, 32, 32).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(development.validation.x.numpy(), last)


def test_the_archive_is_read_as_it_is(tmp_path: Path, write_cifar10: Write) -> None:
    write_cifar10(tmp_path / "a" / FOLDER)
    names = sorted(path.name for path in (tmp_path / "a" / FOLDER).iterdir())
    contents = {f"{FOLDER}/{name}": (tmp_path / "a" / FOLDER / name).read_bytes() for name in names}
    archive(tmp_path, {f"{FOLDER}/readme.html": b"hello", **contents})
    assert load_cifar10(tmp_path).fingerprint == load_cifar10(tmp_path / "a").fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "cifar-10-python.tar.gz"]
    del contents[f"{FOLDER}/data_batch_3"]
    archive(tmp_path, contents)
    refused(tmp_path, "has no data_batch_3")


def test_archives_that_lie_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tarfile.TarInfo(f"{FOLDER}/test_batch")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    archive(tmp_path, {"link": link})
    refused(tmp_path, "has no data_batch_1.*test_batch")
    big = tarfile.TarInfo(f"{FOLDER}/test_batch")
    big.size = 2**40
    path = archive(tmp_path, {"big": big})
    refused(tmp_path, "has 1099511627776 bytes")
    good = path.read_bytes()
    path.write_bytes(good[: len(good) // 2])
    refused(tmp_path, "not a readable .tar.gz")
    path.write_bytes(b"nothing of the kind")
    refused(tmp_path, "not a readable .tar.gz")
    path.write_bytes(gzip.compress(b"\0" * 100_000))
    monkeypatch.setattr(cifar, "_LARGEST", 100)
    archive(tmp_path, {"other": b"\0" * 100_000})
    refused(tmp_path, "unpacks to more than 1600 bytes")


def test_what_is_missing_is_named(tmp_path: Path, write_cifar10: Write) -> None:
    with pytest.raises(InputError, match=r"cifar10: no .*cifar-10-python.tar.gz in .*data fetch cifar10"):
        find_cifar10(tmp_path)
    write_cifar10(tmp_path / FOLDER)
    (tmp_path / FOLDER / "data_batch_4").unlink()
    with pytest.raises(InputError, match="no data_batch_4 in"):
        find_cifar10(tmp_path)


PIXELS = np.zeros((4, 3072), dtype=np.uint8)


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ([1, 2], "no data and labels"),
        ({"data": PIXELS}, "no data and labels"),
        ({"data": [1], "labels": [1]}, "its data is list"),
        ({"data": PIXELS[:, :3071], "labels": [0] * 4}, r"\(4, 3071\)"),
        ({"data": PIXELS.reshape(4, 3, 32, 32), "labels": [0] * 4}, r"\(4, 3, 32, 32\)"),
        ({"data": PIXELS[:0], "labels": []}, "names '__builtin__.bytes'"),  # how Python 3 writes none
        ({"data": PIXELS, "labels": [0] * 3}, "3 labels and 4 images"),
        ({"data": PIXELS, "labels": [0, 1, 2, 10]}, "label 10"),
        ({"data": PIXELS, "labels": [0, 1, 2, -1]}, "label -1"),
        ({"data": PIXELS, "labels": [0, 1, 2, True]}, "not a list of integers"),
        ({"data": PIXELS, "labels": ["a"] * 4}, "not a list of integers"),
        ({"data": PIXELS, "labels": "0123"}, "not a list of integers"),
        ({"data": PIXELS.astype(np.int16), "labels": [0] * 4}, "'i2'"),
    ],
)
def test_batches_of_other_things_are_refused(
    tmp_path: Path, write_cifar10: Write, batch: Any, says: str
) -> None:
    write_cifar10(tmp_path / FOLDER)
    (tmp_path / FOLDER / "data_batch_2").write_bytes(pickle.dumps(batch, protocol=2))
    refused(tmp_path, f"data_batch_2.*{says}")


def test_hostile_batches_are_refused(tmp_path: Path, write_cifar10: Write) -> None:
    class Hostile:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    write_cifar10(tmp_path / FOLDER)
    path = tmp_path / FOLDER / "data_batch_1"
    good = path.read_bytes()
    path.write_bytes(pickle.dumps({"data": Hostile(), "labels": [1]}, protocol=2))
    refused(tmp_path, r"data_batch_1.*names 'posix.system'")
    assert not (tmp_path / "ran").exists()
    path.write_bytes(good[:-100])
    refused(tmp_path, "data_batch_1")
    with open(path, "wb") as file:
        file.truncate(2**31)  # sparse: takes no disk
    refused(tmp_path, "has 2147483648 bytes")


def test_more_than_the_machines_memory_is_refused(
    tmp_path: Path, write_cifar10: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(tmp_path / FOLDER)
    monkeypatch.setattr(images, "memory", lambda: 100)
    refused(tmp_path, "GiB of memory")


def test_too_few_images_to_hold_some_back_are_refused(tmp_path: Path, write_cifar10: Write) -> None:
    write_cifar10(tmp_path / FOLDER, n=5)
    (tmp_path / FOLDER / "data_batch_1").rename(tmp_path / "x")
    single = pickle.dumps({"data": PIXELS, "labels": [1, 2, 3, 4]}, protocol=2)
    for i in range(1, 6):
        (tmp_path / FOLDER / f"data_batch_{i}").write_bytes(single)
    refused(tmp_path, "10 of one class are enough")


def test_real_cifar10() -> None:
    try:
        find_cifar10(None)
    except InputError as error:
        pytest.skip(f"real CIFAR-10 is not at hand: {error}")
    data = load_cifar10()
    development = data.development
    assert [len(split) for split in (development.train, development.validation, data.test)] == [
        45_000,
        5_000,
        10_000,
    ]
    assert development.validation.y is not None
    assert data.test.y is not None
    assert development.validation.y.bincount().tolist() == [500] * 10
    # Published facts: the first test labels (cat, ship, ship, airplane) and the training set's means.
    assert data.test.y[:4].tolist() == [3, 8, 8, 0]
    both = np.concatenate([development.train.x.numpy(), development.validation.x.numpy()])
    means = both.mean((0, 2, 3), dtype=np.float64)
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=5e-5)
    assert data.fingerprint == CATALOGUE["cifar10"].official
