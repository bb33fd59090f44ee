"""Random bytes, truncations and flipped bits at every reader: an InputError or a success."""

import gzip
import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbar_sim.data import load_mnist, load_npz
from crossbar_sim.data.idx import read_idx
from crossbar_sim.errors import InputError

# Derandomised: the run is the same every time, never flaky.
thorough = settings(max_examples=250, deadline=None, derandomize=True, database=None)

IMAGES = b"\0\0\x08\x03\0\0\0\x02\0\0\0\x03\0\0\0\x04" + bytes(range(24))


def saved(save: Callable[..., None], **arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


X, Y = np.arange(12.0).reshape(4, 3), np.array([0, 1, 2, 1])
SEEDS: dict[str, list[bytes]] = {
    "idx": [IMAGES, gzip.compress(IMAGES, mtime=0)],
    "npz": [
        saved(np.savez, x=X, y=Y),
        saved(np.savez_compressed, x=X.astype(np.uint8), y=Y),
        saved(np.savez, x=X.astype(">f8"), y=Y.astype(np.float64)),
    ],
}
READERS: dict[str, Callable[[Path], object]] = {
    "idx": lambda path: read_idx(path, 3),
    "npz": load_npz,
}


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile") / "file.npz"


def survives(read: Callable[[Path], object], path: Path, content: bytes) -> None:
    path.write_bytes(content)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a warning would be a second line for the user
            read(path)
    except InputError as error:
        text = str(error)
        assert "\n" not in text
        assert str(path) in text
        assert len(text) < 600 + len(str(path))


@st.composite
def damaged(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A good file with flipped bits, and then cut or lengthened."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        content[draw(st.integers(0, len(content) - 1))] ^= 1 << draw(st.integers(0, 7))
    end = draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    return bytes(content[:end]) + draw(st.one_of(st.just(b""), st.binary(max_size=20)))


def with_header(header: bytes, version: int = 1) -> bytes:
    """An archive whose x has this header and eight bytes of values."""
    length = len(header).to_bytes(2 if version == 1 else 4, "little")
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY" + bytes([version, 0]) + length + header + b"\0" * 8)
    return stream.getvalue()


@pytest.mark.parametrize("kind", READERS)
@thorough
@given(data=st.data())
def test_damaged_files(target: Path, kind: str, data: st.DataObject) -> None:
    survives(READERS[kind], target, data.draw(damaged(SEEDS[kind])))


@pytest.mark.parametrize("kind", READERS)
@thorough
@given(data=st.data())
def test_random_bytes_behind_a_true_beginning(target: Path, kind: str, data: st.DataObject) -> None:
    start = data.draw(st.sampled_from([b"", b"PK\x03\x04", b"\x1f\x8b\x08\0", b"\0\0\x08\x03"]))
    survives(READERS[kind], target, start + data.draw(st.binary(max_size=300)))


@pytest.mark.parametrize("kind", READERS)
def test_every_truncation_and_every_flipped_byte(target: Path, kind: str) -> None:
    for good in SEEDS[kind]:
        for end in range(len(good)):
            survives(READERS[kind], target, good[:end])
            survives(READERS[kind], target, good[:end] + bytes([good[end] ^ 0xFF]) + good[end + 1 :])


@thorough
@given(header=st.binary(max_size=120), version=st.sampled_from([1, 2, 3]))
def test_random_array_headers(target: Path, header: bytes, version: int) -> None:
    survives(load_npz, target, with_header(header, version))


LITERALS = st.recursive(
    st.one_of(st.integers(-(2**70), 2**70), st.text(max_size=6), st.booleans(), st.none(), st.floats()),
    lambda inner: st.one_of(st.tuples(inner, inner), st.lists(inner, max_size=3), st.tuples(inner)),
    max_leaves=6,
)
DESCRIPTIONS = st.one_of(
    st.sampled_from(["<f4", "|O", "<f8", "|V9", "|S0", "<M8[s]", "(3,)<f4", "<f4,<f4"]), LITERALS
)


@thorough
@given(descr=DESCRIPTIONS, order=LITERALS, shape=st.one_of(st.tuples(st.integers(-5, 5)), LITERALS))
def test_well_formed_headers_of_nonsense(target: Path, descr: object, order: object, shape: object) -> None:
    text = repr({"descr": descr, "fortran_order": order, "shape": shape})
    survives(load_npz, target, with_header(text.encode(errors="replace")[:60_000]))


def test_no_reader_changes_a_file(target: Path, tmp_path: Path, write_mnist: Callable) -> None:
    write_mnist(tmp_path, packed=True)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    load_mnist(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
