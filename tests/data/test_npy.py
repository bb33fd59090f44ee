import os
from pathlib import Path

import numpy as np
import pytest

from crossbar_sim.data import images, load_data, load_npy, load_npz
from crossbar_sim.errors import InputError

X = np.linspace(-1, 2, 24, dtype=np.float32).reshape(4, 3, 2)
Y = np.array([2, 0, 1, 1])


def refused(path: Path, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        load_npy(path)
    assert str(path.parent) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "labels"), [("x", "y"), ("mine_x", "mine_y"), ("MINE_X", "MINE_Y"), ("a_x_x", "a_x_y")]
)
def test_labels_are_beside_the_examples(tmp_path: Path, name: str, labels: str) -> None:
    np.save(tmp_path / f"{name}.npy", X)
    assert load_npy(tmp_path / f"{name}.npy").test.y is None
    np.save(tmp_path / f"{labels}.npy", Y)
    data = load_data(tmp_path / f"{name}.npy")
    np.testing.assert_array_equal(data.test.x.numpy(), X)
    assert data.test.y is not None
    assert data.test.y.tolist() == [2, 0, 1, 1]
    assert (data.name, data.classes, data.train) == (f"{name}.npy", 3, None)


def test_another_name_has_no_labels(tmp_path: Path) -> None:
    for name in ("max.npy", "y.npy", "mine.npy"):
        np.save(tmp_path / name, X)
    for name in ("max.npy", "mine.npy"):
        assert load_npy(tmp_path / name).test.y is None


def test_the_same_numbers_as_npz_have_the_same_fingerprint(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.asfortranarray(X).astype(">f8"))
    np.save(tmp_path / "y.npy", Y.astype(np.uint8))
    np.savez(tmp_path / "both.npz", x=X, y=Y)
    assert load_npy(tmp_path / "x.npy").fingerprint == load_npz(tmp_path / "both.npz").fingerprint


def test_bytes_are_pixels(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[0, 51, 255]], dtype=np.uint8))
    data = load_npy(tmp_path / "x.npy")
    np.testing.assert_allclose(data.test.x.numpy(), [[0.0, 0.2, 1.0]], rtol=1e-7)
    assert "divided by 255" in data.notes[0]


def test_what_is_no_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.npy"
    refused(path, "no such file")
    for values, says in (
        (X[:0], "at least one"),
        (np.array([None]), "Python objects, which are not loaded"),
        (np.array(3.0), r"\(n, \.\.\.\)"),
        (np.array(3, dtype=np.uint8), r"\(n, \.\.\.\)"),
        (np.array([["a"]]), "<U1"),
        (X * np.nan, "NaN"),
    ):
        np.save(path, values, allow_pickle=True)
        refused(path, says)
    np.save(path, X)
    good = path.read_bytes()
    for content, says in (
        (good[:-1], "has 95"),
        (good + b"!", "has 97"),
        (good[:9], "header of x"),
        (b"", "header"),
    ):
        path.write_bytes(content)
        refused(path, says)
    path.write_bytes(good)
    np.save(tmp_path / "y.npy", Y[:3])
    refused(path, r"shape \(3,\) and x holds 4")
    (tmp_path / "y.npy").write_bytes(b"no array")
    refused(path, "y.npy: the header of y")
    (tmp_path / "y.npy").unlink()
    monkeypatch.setattr(images, "memory", lambda: 100)
    refused(path, "GiB of memory")
    path.unlink()
    os.mkfifo(path)
    refused(path, "not a regular file")
