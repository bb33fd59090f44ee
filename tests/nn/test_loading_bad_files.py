"""Files that are no models, or no longer: named in one line, never a traceback."""

import io
import json
import os
import struct
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import archive_files as files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from crossbar_sim.errors import InputError
from crossbar_sim.files import memory
from crossbar_sim.nn.files.loading import load_model
from crossbar_sim.nn.networks import MLP
from crossbar_sim.store.hdf5 import is_hdf5


def refusal(path, **arguments) -> str:
    with pytest.raises(InputError) as caught:
        load_model(path, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in members.items():
            file.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


def torchscript() -> bytes:
    return zipped(**{"m__constants.pkl": b"x", "m__code/__torch__.py": b"x", "m__data.pkl": b"x"})


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.ones(3))
    return buffer.getvalue()


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(4)


FOREIGN = {
    "empty": (b"", "is empty"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
    "safetensors": (safetensors(), "safetensors"),
    "onnx": (b"\x08\x07\x12\x07pytorch" + bytes(50), "ONNX"),
    "tflite": (b"\x1c\0\0\0TFL3" + bytes(50), "TensorFlow Lite"),
    "torchscript": (torchscript(), "TorchScript"),
    "npz": (npz(), "NumPy .npz"),
    "keras": (zipped(**{"config.json": b"{}", "model.weights.h5": b"x"}), "Keras"),
    "otherzip": (zipped(a=b"x"), "not one of PyTorch's"),
    "text": ("weights for π\n".encode() * 1000, "text file"),
    "gzip": (b"\x1f\x8b" + bytes(50), "gzip"),
    "noise": (bytes(range(128, 256)), "not a model file that crossbar-sim knows"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files_are_named(name, tmp_path):
    content, says = FOREIGN[name]
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    assert says in refusal(path)


def test_no_file_and_directories(tmp_path):
    assert "no such file" in refusal(tmp_path / "absent.pt")
    assert "is a directory" in refusal(tmp_path)
    (tmp_path / "saved_model.pb").touch()
    assert "SavedModel" in refusal(tmp_path)
    assert "cannot be opened" in refusal("a\0b")


def formats() -> dict[str, bytes]:
    mlp = MLP(4, (3,), 2)
    made = {"archive": files.exported(files.Scaled(), torch.ones(2, 4), dynamic=True)}
    for name, content, zipped_ in [
        ("state_dict", mlp.state_dict(), True),
        ("legacy", mlp.state_dict(), False),
        ("module", nn.Linear(3, 2), True),
        (
            "checkpoint",
            {
                "format": "crossbar-sim checkpoint",
                "format_version": 1,
                "network": "mlp",
                "arguments": mlp.arguments,
                "state_dict": mlp.state_dict(),
            },
            True,
        ),
    ]:
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=zipped_)
        made[name] = buffer.getvalue()
    return made


FORMATS = formats()


@pytest.mark.parametrize("name", FORMATS)
def test_truncated_files_are_one_line(name, tmp_path):
    path, content = tmp_path / "m.pt", FORMATS[name]
    for length in [1, 2, 5, len(content) // 2, len(content) - 1]:
        path.write_bytes(content[:length])
        assert refusal(path, arch="mlp" if name in ("state_dict", "legacy") else None)


def loads_or_refuses(path, content: bytes) -> None:
    path.write_bytes(content)
    for arch in (None, "mlp"):
        try:
            assert isinstance(load_model(path, arch=arch).module, nn.Module)
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017


FUZZ = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@FUZZ
@given(
    start=st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x02}", b"\x89HDF", b"\x08\x07"]),
    rest=st.binary(max_size=300),
)
def test_noise_is_refused(start, rest, tmp_path):
    loads_or_refuses(tmp_path / "m.pt", start + rest)


@pytest.mark.parametrize("name", FORMATS)
@FUZZ
@given(data=st.data())
def test_damaged_files_load_or_are_refused(name, data, tmp_path):
    content = bytearray(FORMATS[name])
    places = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(places, min_size=1, max_size=6)):
        content[place] = value
    end = data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))
    loads_or_refuses(tmp_path / "m.pt", bytes(content[:end]))


@FUZZ
@given(data=st.data())
def test_damaged_graphs_load_or_are_refused(data, tmp_path):
    """Bytes changed inside the graph's JSON, past the checksum that guards the file."""
    members = files.unpacked(FORMATS["archive"])
    name = data.draw(st.sampled_from([files.GRAPH, files.WEIGHTS, files.CONSTANTS]))
    content = bytearray(members[name])
    places = st.tuples(st.integers(0, len(content) - 1), st.sampled_from(b'09"}]{,-.eabc'))
    for place, value in data.draw(st.lists(places, min_size=1, max_size=4)):
        content[place] = value
    loads_or_refuses(tmp_path / "m.pt", files.packed({**members, name: bytes(content)}))


def test_files_without_end_or_without_content_are_refused_at_once(tmp_path):
    pipe = tmp_path / "m.pt"
    os.mkfifo(pipe)
    says = {pipe: "is a pipe, not a regular file", Path("/dev/zero"): "is a device or socket"}
    for name, start, size, why in (
        ("empty", b"", 300 * 2**30, "not a model file"), ("zip", b"PK\3\4", 300 * 2**30, "GiB of memory"),
        ("pickle", b"\x80\2", 3 * 2**30, "most of it was never written"),
    ):  # fmt: skip
        path = tmp_path / name
        path.write_bytes(start)
        os.truncate(path, size)
        says[path] = why if size < memory() else f"{why}|GiB of memory"
    begun = time.monotonic()
    for path, why in says.items():
        with pytest.raises(InputError, match=why):
            load_model(path)
        assert not is_hdf5(path)
    assert time.monotonic() - begun < 5
