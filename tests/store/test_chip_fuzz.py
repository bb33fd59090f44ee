"""Random bytes, truncations and flipped bits: an InputError, or the true conductances."""

import io
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers.chip_files import export, two_layers
from hypothesis import given, settings
from hypothesis import strategies as st

from crossbar_sim import Hardware, InputError, LogNormalDrift, Offset, StuckCells
from crossbar_sim.nn import to_analog
from crossbar_sim.store import describe_chip, read_chip

thorough = settings(max_examples=250, deadline=None, derandomize=True, database=None)

COLUMNS = {"0.weight": np.ones((5, 7), np.float32), "2.weight": np.ones((3, 5), np.float32)}


def read_all(path: Path) -> list[np.ndarray | None]:
    maps = read_chip(path).maps()
    describe_chip(path)
    return [maps(name, columns) for name, columns in COLUMNS.items()]


def of_a_lab() -> bytes:
    """As h5py writes it by default: no checksums, strings of variable length."""
    stream = io.BytesIO()
    with h5py.File(stream, "w", libver="earliest") as file:
        for name, columns in (("0", 5), ("2", 3)):
            rows = len(COLUMNS[f"{name}.weight"][0])
            g = np.arange(2.0 * rows * columns).reshape(2, rows, columns)
            made = file.create_dataset(
                f"layers/{name}/g_drifted", data=g, chunks=(1, 4, 3), compression="gzip"
            )
            made.attrs["units"] = "uS"
            file[f"layers/{name}"].attrs["scale"] = 1e-4
    return stream.getvalue()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("good")
    found = {"lab": of_a_lab()}
    for name, hardware in (
        ("drift", Hardware(drift=LogNormalDrift(0.3))),
        ("more", Hardware(Offset(scale_per="column"), LogNormalDrift(0.3), stuck=StuckCells(0.1))),
    ):
        path = export(to_analog(two_layers(), hardware), folder / f"{name}.h5", hardware)
        found[name] = path.read_bytes()
    return found


@pytest.fixture(scope="module")
def survives(
    files: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, bytes], None]:
    path = tmp_path_factory.mktemp("hostile") / "chip.h5"
    truth = {}
    for name, content in files.items():
        path.write_bytes(content)
        truth[name] = read_all(path)

    def check(name: str, content: bytes) -> None:
        path.write_bytes(content)
        try:
            found = read_all(path)
        except InputError as error:
            sentence = str(error)
        else:
            sentence = ""
        if sentence:
            assert "\n" not in sentence
            assert sentence.startswith(f"{path}: ")
            assert len(sentence) < 700 + len(str(path))
            return
        if name == "lab":
            return  # has no checksums: what is not seen to be damaged may be wrong
        for a, b in zip(found, truth[name], strict=True):
            assert a is None or np.array_equal(a, b)

    return check


@pytest.mark.parametrize("name", ["drift", "more", "lab"])
@thorough
@given(data=st.data())
def test_damaged_files(name: str, files: dict, survives: Callable, data: st.DataObject) -> None:
    content = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    survives(name, bytes(content))


@pytest.mark.parametrize("name", ["drift", "lab"])
@thorough
@given(data=st.data())
def test_overwritten_files(name: str, files: dict, survives: Callable, data: st.DataObject) -> None:
    content = bytearray(files[name])
    at = data.draw(st.integers(0, len(content) - 1))
    noise = data.draw(
        st.one_of(
            st.binary(min_size=1, max_size=16),
            st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\0" * 64, (2**40).to_bytes(8, "little")]),
        )
    )
    content[at : at + len(noise)] = noise
    survives(name, bytes(content[: len(files[name])]))


@pytest.mark.parametrize("name", ["drift", "lab"])
def test_truncated_files(name: str, files: dict, survives: Callable) -> None:
    content = files[name]
    for end in [*range(0, 200, 7), *range(200, len(content), 211), len(content) - 1]:
        survives(name, content[:end])


@thorough
@given(noise=st.binary(max_size=600))
def test_random_bytes_behind_a_true_beginning(survives: Callable, noise: bytes) -> None:
    survives("lab", b"\x89HDF\r\n\x1a\n" + noise)


def test_a_heap_that_would_loop_for_ever(tmp_path: Path) -> None:
    """HDF5 2.0 never comes back from a heap whose free space has size 0."""
    content = bytearray(of_a_lab())
    heap = content.index(b"GCOL")
    content[heap + 16 : heap + 4096] = b"\0" * 4080
    path = tmp_path / "chip.h5"
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged heap"):
        read_chip(path)
