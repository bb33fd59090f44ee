"""Random bytes, truncations and flipped bits at every reader: an InputError or a success."""

import gzip
import io
import pickle
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from crossbar_sim.data import load_cifar10, load_folder, load_mnist, load_npy, load_npz
from crossbar_sim.data.cifar import read_pickle
from crossbar_sim.data.fetch import unpack
from crossbar_sim.data.gtsrb import read_table
from crossbar_sim.data.idx import read_idx
from crossbar_sim.data.images import header, opened, pixels
from crossbar_sim.errors import InputError
from crossbar_sim.rng import Key

# Derandomised: the run is the same every time, never flaky.
thorough = settings(max_examples=250, deadline=None, derandomize=True, database=None)

IMAGES = b"\0\0\x08\x03\0\0\0\x02\0\0\0\x03\0\0\0\x04" + bytes(range(24))


def saved(save: Callable[..., None], **arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    save(stream, **arrays)
    return stream.getvalue()


def image(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray((np.arange(60) * 4).astype(np.uint8).reshape(4, 5, 3)).save(stream, kind)
    return stream.getvalue()


def archived(kind: str) -> bytes:
    stream = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as opened_zip:
            opened_zip.writestr("a/b.txt", b"hello" * 9)
        return stream.getvalue()
    with tarfile.open(fileobj=stream, mode="w") as opened_tar:
        info = tarfile.TarInfo("a/b.txt")
        info.size = 5
        opened_tar.addfile(info, io.BytesIO(b"hello"))
    return gzip.compress(stream.getvalue()[:2048], mtime=0)


X, Y = np.arange(12.0).reshape(4, 3), np.array([0, 1, 2, 1])
BATCH = np.arange(24, dtype=np.uint8).reshape(2, 12)
TABLE = (
    "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\na.ppm;9;9;1;1;8;8;3\nb.ppm;8;9;0;0;8;9;42\n"
)


def npy(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def decode(path: Path) -> None:
    """As a folder of images does: first the header, then the pixels."""
    header(path)
    with opened(path) as picture:
        pixels(picture, grey=False, size=(3, 3))


def unpack_aside(path: Path, suffix: str) -> None:
    """Into a folder of its own; whatever happens, nothing is written outside it."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        renamed = path.with_name(f"archive{suffix}")
        renamed.write_bytes(path.read_bytes())
        before = {*path.parent.iterdir()}
        try:
            unpack(renamed, Path(folder))
        except InputError as error:
            raise InputError(str(error).replace(str(renamed), str(path))) from None
        finally:
            assert {*path.parent.iterdir()} == before


SEEDS: dict[str, list[bytes]] = {
    "idx": [IMAGES, gzip.compress(IMAGES, mtime=0)],
    "npz": [
        saved(np.savez, x=X, y=Y),
        saved(np.savez_compressed, x=X.astype(np.uint8), y=Y),
        saved(np.savez, x=X.astype(">f8"), y=Y.astype(np.float64)),
    ],
    "npy": [npy(X), npy(Y.astype(np.uint8))],
    "pickle": [pickle.dumps({"data": BATCH, "labels": [1, 2]}, protocol=protocol) for protocol in (2, 3, 4)],
    "picture": [image(kind) for kind in ("PNG", "BMP", "PPM", "JPEG", "TIFF")],
    "table": [TABLE.encode(), b"\xef\xbb\xbf" + TABLE.replace("\n", "\r\n").encode()],
    "zip": [archived("zip")],
    "tar": [archived("tar")],
}
READERS: dict[str, Callable[[Path], object]] = {
    "idx": lambda path: read_idx(path, 3),
    "npz": load_npz,
    "npy": load_npy,
    "pickle": lambda path: read_pickle(path, path.read_bytes()),
    "picture": decode,
    "table": lambda path: read_table(path, 43),
    "zip": lambda path: unpack_aside(path, ".zip"),
    "tar": lambda path: unpack_aside(path, ".tar.gz"),
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


STARTS = [
    b"", b"PK\x03\x04", b"\x1f\x8b\x08\0", b"\0\0\x08\x03", b"\x93NUMPY\x01\0", b"\x80\x02}(U\x04data",
    b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"P6 ", b"II*\0", b"RIFF\0\0\0\0WEBP", TABLE.encode(),
]  # fmt: skip


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
    start = data.draw(st.sampled_from(STARTS))
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


@thorough
@given(data=st.data())
def test_pickles_of_random_instructions(target: Path, data: st.DataObject) -> None:
    """Sequences of true instructions in no order: what random bytes hardly reach."""
    pieces = st.sampled_from(
        [
            b"(", b"}", b"]", b")", b"K\x05", b"M\x10\x27", b"U\x04data", b"U\x06labels", b"N", b"\x88", b"\x85",
            b"\x86", b"\x87", b"t", b"a", b"e", b"s", b"u", b"q\x00", b"q\x01", b"h\x00", b"h\x01", b"\x94", b"R",
            b"b", b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"U\x02u1",
            b"c_codecs\nencode\n", b"X\x01\0\0\0a", b"U\x06latin1", b"C\x03abc", b"\x93", b"K\x00\x85", b"U\x01b\x87R",
        ]
    )  # fmt: skip
    program = b"\x80\x02" + b"".join(data.draw(st.lists(pieces, max_size=30))) + b"."
    survives(READERS["pickle"], target, program)


def test_whole_readers_name_the_damaged_file(
    tmp_path: Path, write_cifar10: Callable, write_picture: Callable
) -> None:
    write_cifar10(tmp_path / "cifar-10-batches-py")
    for i in range(8):
        write_picture(tmp_path / "own" / "a" / f"{i}.png", 4, 4, seed=i)
    cases: list[tuple[Path, Callable[[], object]]] = [
        (tmp_path / "cifar-10-batches-py" / "data_batch_2", lambda: load_cifar10(tmp_path)),
        (tmp_path / "own" / "a" / "3.png", lambda: load_folder(tmp_path / "own", Key(0))),
    ]
    for path, read in cases:
        read()
        good = path.read_bytes()
        for cut in (0, 1, 7, len(good) // 2):
            path.write_bytes(good[:cut])
            with pytest.raises(InputError) as caught:
                read()
            assert str(path) in str(caught.value)


def test_no_reader_changes_a_file(target: Path, tmp_path: Path, write_mnist: Callable) -> None:
    write_mnist(tmp_path, packed=True)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    load_mnist(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
