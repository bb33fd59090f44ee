import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from crossbar_sim.data import images, load_npz
from crossbar_sim.data.inputs import Inputs
from crossbar_sim.errors import InputError

X = np.linspace(-1, 2, 24, dtype=np.float32).reshape(4, 3, 2)
Y = np.array([2, 0, 1, 1])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mine.npz"


def npy_bytes(values: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, values, **options)
    return stream.getvalue()


def header_only(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": descr, "fortran_order": False, "shape": shape})
    return stream.getvalue()


def archive(path: Path, method: int = zipfile.ZIP_STORED, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", method) as opened:
        for name, content in members.items():
            opened.writestr(f"{name}.npy", content)


def refused(path: Path, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        load_npz(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_everything_is_the_test_split(path: Path, save: Any) -> None:
    save(path, x=X, y=Y)
    data = load_npz(path)
    assert (data.train, data.validation, data.name, data.notes) == (None, None, "mine.npz", ())
    np.testing.assert_array_equal(data.test.x.numpy(), X)
    assert data.test.y is not None
    assert data.test.y.tolist() == [2, 0, 1, 1]
    assert data.classes == 3


def test_labels_are_optional(path: Path) -> None:
    np.savez(path, x=X)
    data = load_npz(path)
    assert data.test.y is None
    assert data.classes is None


def test_other_names_are_inputs_of_the_forward_and_integers_stay_integers(path: Path) -> None:
    ids = np.arange(20, dtype=np.int32).reshape(4, 5)
    arrays = {"input_ids": ids, "attention_mask": ids > 0, "scale": np.array(2.0), "pixels": X.astype("f8")}
    train = {f"{name}_train": np.concatenate([array] * 5) for name, array in arrays.items() if array.ndim}
    np.savez(
        path, **arrays, labels=Y, **train, scale_train=np.array(2.0), labels_train=np.concatenate([Y] * 5)
    )
    data = load_npz(path)
    x = data.test.x
    assert isinstance(x, Inputs)
    kinds = {name: tensor.dtype for name, tensor in x.named()}
    assert kinds == {"input_ids": torch.int64, "attention_mask": torch.bool, "pixels": torch.float32}
    assert x.kwargs["input_ids"].tolist() == ids.tolist()
    assert x.kwargs["scale"] == 2.0
    assert data.test.y is not None
    assert data.test.y.tolist() == Y.tolist()
    assert data.train is not None
    assert data.validation is not None
    assert (len(data.train), len(data.validation)) == (16, 4)
    np.savez(path, **{**arrays, "attention_mask": ids > 1}, labels=Y)
    assert load_npz(path).fingerprint != data.fingerprint


def test_names_that_a_forward_needs_are_inputs_whatever_they_are_called(path: Path) -> None:
    np.savez(path, images=X, x=X, labels=Y)
    assert isinstance(load_npz(path).test.x, torch.Tensor)
    x = load_npz(path, inputs=("images", "x")).test.x
    assert isinstance(x, Inputs)
    assert list(x.kwargs) == ["images", "x"]


def test_order_and_byte_order_do_not_matter(path: Path) -> None:
    np.savez(path, x=np.asfortranarray(X).astype(">f4"), y=Y.astype(">i2"))
    data = load_npz(path)
    np.testing.assert_array_equal(data.test.x.numpy(), X)
    assert data.test.x.is_contiguous()
    np.savez(path, x=X, y=Y)
    assert load_npz(path).fingerprint == data.fingerprint


def test_bytes_are_pixels_and_the_notes_say_so(path: Path) -> None:
    np.savez(path, x=np.array([[0, 51, 255]], dtype=np.uint8))
    data = load_npz(path)
    np.testing.assert_allclose(data.test.x.numpy(), [[0.0, 0.2, 1.0]], rtol=1e-7)
    assert "divided by 255" in data.notes[0]


@pytest.mark.parametrize(
    "y", [Y + 0.5, (Y - 1.5)[:, None], np.linspace(-3.0, 3.0, 12).reshape(4, 3), Y - 3.0]
)
def test_floats_that_are_no_class_numbers_are_real_targets(path: Path, y: np.ndarray) -> None:
    np.savez(path, x=X, y=y, x_train=X, y_train=y)
    data = load_npz(path)
    assert data.test.y.dtype == torch.float64
    assert data.test.y.tolist() == (y[:, 0] if y.shape == (4, 1) else y).tolist()
    assert data.classes is None
    assert len(data.train) + (0 if data.validation is None else len(data.validation)) == 4


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int64, np.float64, np.float16, bool])
def test_other_numbers_are_taken_as_they_are_and_the_notes_say_so(path: Path, dtype: type) -> None:
    np.savez(path, x=np.array([[0, 1], [200, 3]]).astype(dtype))
    data = load_npz(path)
    assert data.test.x.tolist() == ([[0, 1], [1, 1]] if dtype is bool else [[0, 1], [200, 3]])
    assert np.dtype(dtype).name in data.notes[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float64, np.uint64])
def test_whole_labels_of_any_type_are_class_numbers(path: Path, dtype: type) -> None:
    np.savez(path, x=X, y=Y.astype(dtype))
    assert load_npz(path).test.y.tolist() == [2, 0, 1, 1]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"y": Y}, "no array x"),
        ({"labels": Y}, "'labels.npy' and no array x"),
        ({"left": X, "right": X[:3], "labels": Y}, "different numbers of examples: left 4, right 3"),
        ({"left": X, "right": X, "labels": Y, "y": Y}, "the labels labels and y"),
        ({"left": X, "right": np.where(X > 1, np.nan, X)}, "right holds NaN"),
        ({"x": X, "y": Y[:3]}, r"shape \(3,\) and x holds 4"),
        ({"x": X, "y": np.eye(4)}, r"shape \(4, 4\)"),
        ({"x": X[:0], "y": Y[:0]}, "at least one"),
        ({"x": X[0, 0, 0]}, r"\(n, \.\.\.\)"),
        ({"x": X, "y": np.array([0, 1, np.nan, 2])}, "y holds nan"),
        ({"x": X, "y": np.array([0, 1, np.inf, 2])}, "y holds inf"),
        ({"x": X, "y": Y - 1}, "y holds -1"),
        ({"x": X, "y": Y + 2.0**40}, "y holds 1099511627"),
        ({"x": X, "y": np.array([0, 0, 0, 2**64 - 1], dtype=np.uint64)}, "18446744073709551615"),
        ({"x": np.where(X > 1, np.nan, X)}, "NaN or infinity"),
        ({"x": np.where(X > 1, -np.inf, X)}, "NaN or infinity"),
        ({"x": X.astype(np.float64) * 1e300}, "beyond float32"),
        ({"x": X.astype(complex)}, "complex128; .*save real and imaginary parts as two features"),
        ({"x": np.array([["a", "b"]])}, "<U1"),
        ({"x": np.array([["2020-01-01"]], dtype="M8[D]")}, "datetime64"),
        ({"x": np.zeros((3, 2), dtype=[("a", "f4")])}, "numbers are needed"),
    ],
)
def test_what_is_no_data_is_refused(path: Path, arrays: dict[str, Any], says: str) -> None:
    np.savez(path, **arrays)
    refused(path, says)


def test_a_pickle_is_never_loaded(path: Path, tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    hostile = np.array([[Hostile()]], dtype=object)
    for members in ({"x": hostile}, {"x": X, "y": hostile[0]}):
        np.savez(path, **members)
        refused(path, "Python objects, which are not loaded")
    assert not (tmp_path / "ran").exists()


def test_a_header_that_claims_a_huge_shape_is_refused(path: Path) -> None:
    for shape in ((10**12, 10**6), (2**63, 2**63), (4, 7)):
        archive(path, x=header_only(shape) + b"\0" * 96)
        refused(path, "so .* bytes, and has 96")
    archive(path, x=header_only((-4, -6)) + b"\0" * 96)
    refused(path, "at least one example")


def test_a_claim_beyond_any_compression_is_refused(path: Path) -> None:
    """A directory that claims a terabyte for a hundred bytes, with a header that agrees."""
    size = 2**31
    content = header_only((size // 4, 1))
    archive(path, zipfile.ZIP_DEFLATED, x=content)
    raw = bytearray(path.read_bytes())
    at = raw.index(b"PK\x01\x02") + 24  # uncompressed size in the central directory
    raw[at : at + 4] = (len(content) + size).to_bytes(4, "little")
    path.write_bytes(raw)
    refused(path, "1032 times")


def test_more_than_the_machines_memory_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(path, x=X)
    monkeypatch.setattr(images, "memory", lambda: 100)
    refused(path, "GiB of memory")


def test_a_header_of_code_or_of_endless_brackets_is_refused(path: Path) -> None:
    for text in (b"__import__('os').getcwd()", b"(" * 9000, b"[" * 200_000, b"\xff\n", b"{}"):
        head = b"\x93NUMPY\x02\x00" + len(text).to_bytes(4, "little") + text
        archive(path, zipfile.ZIP_DEFLATED, x=head)
        refused(path, "header of x cannot be read")
    archive(path, x=b"\x93NUMPY\x09\x00" + b"\0" * 50)
    refused(path, "header of x cannot be read")


def test_a_file_of_python_2_is_read_without_a_warning(path: Path) -> None:
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 1L), }"
    archive(path, x=b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"\0" * 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_npz(path).test.x.shape == (2, 1)


def test_damaged_archives_are_refused(path: Path) -> None:
    path.write_bytes(npy_bytes(X))
    refused(path, "not a readable .npz")
    path.write_bytes(b"")
    refused(path, "not a readable .npz")
    np.savez(path, x=X)
    good = path.read_bytes()
    path.write_bytes(good[:-30])
    refused(path, "not a readable .npz")
    at = good.index(X.tobytes()) + 5
    path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    refused(path, "CRC")


def test_a_missing_file_and_a_folder_are_refused(path: Path) -> None:
    refused(path, "no such file")
    path.mkdir()
    refused(path, "is a directory")


def test_names_that_no_system_has_are_refused() -> None:
    for name in ("a\0b.npz", "a" * 5000 + ".npz"):
        with pytest.raises(InputError, match="cannot be opened"):
            load_npz(Path(name))


@pytest.mark.parametrize(
    "names",
    [
        ("x_test", "y_test"),
        ("X", "y"),
        ("images", "labels"),
        ("test_images", "test_labels"),
        ("arr_0", "arr_1"),
    ],
)
def test_arrays_under_other_usual_names_are_taken_and_said(names, tmp_path):
    path = tmp_path / "m.npz"
    one, other = names
    np.savez(path, **{one: X, other: Y, "x_train": X[:1] + 9, "train_images": X[:1] + 9})
    data = load_npz(path)
    assert np.array_equal(data.test.x, X.astype(np.float32))
    assert np.array_equal(data.test.y, Y)
    assert f"{one} was taken as x and {other} as y" in data.notes
    np.savez(path, **{one: X})
    assert f"{one} was taken as x, and there are no labels" in load_npz(path).notes
    np.savez(path, **{one: X + 1, other: Y, "x": X, "y": Y})
    assert np.array_equal(load_npz(path).test.x, X.astype(np.float32))
    assert not any("taken as x" in note for note in load_npz(path).notes)
