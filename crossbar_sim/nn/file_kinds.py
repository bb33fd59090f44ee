"""What a file is, from its first bytes and zip members, and what to do if it is no model."""

import io
import os
import stat
import zipfile
from pathlib import Path

from crossbar_sim.errors import InputError
from crossbar_sim.files import memory
from crossbar_sim.nn.archive import EXPORT_HINT, is_archive, read_members

_EXPORT = f"export the model from PyTorch instead: {EXPORT_HINT}"

# Beginning of the file, what it is, what to do.
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file itself",
        "fetch the contents with `git lfs pull`",
    ),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (a Keras model, or a chip file)", _EXPORT),
    (b"GGUF", "a GGUF file", _EXPORT),
    (
        b"\x93NUMPY",
        "a NumPy array",
        "weights go in a state_dict: torch.save(model.state_dict(), ...)",
    ),
    (b"\x1f\x8b", "a gzip file", "unpack it first"),
    (b"BZh", "a bzip2 file", "unpack it first"),
    (b"\xfd7zXZ", "an xz file", "unpack it first"),
    (b"7z\xbc\xaf", "a 7-Zip file", "unpack it first"),
    (b"SQLite format 3", "an SQLite database", _EXPORT),
    (b"\x7fELF", "a compiled program", _EXPORT),
    (b"%PDF", "a PDF document", _EXPORT),
    (b"\x89PNG", "a PNG image", _EXPORT),
    (b"\xff\xd8\xff", "a JPEG image", _EXPORT),
)


_HEAD = 4096
_SPARSE = 2**30
_SPARSE_RATIO = 20


def read_file(path: Path) -> bytes:
    """Read a model file; raises InputError for a directory or what cannot be read."""
    if path.is_dir():
        saved_model = (path / "saved_model.pb").exists() or (path / "saved_model.pbtxt").exists()
        what = "a TensorFlow SavedModel directory" if saved_model else "a directory"
        then = _EXPORT if saved_model else "name the model file inside it"
        raise InputError(f"{path} is {what}: {then}")
    try:
        # Without waiting for a pipe's other end, should it have become one.
        with open(
            path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
        ) as file:
            _check_regular(path, os.fstat(file.fileno()))
            head = file.read(_HEAD)
            if head:
                _check_start(head, path)
            file.seek(0)
            content = file.read()
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: check the path of the model file") from None
    except (OSError, ValueError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise InputError(f"cannot read {path}: {reason}; check its permissions and its disk") from error
    if not content:
        raise InputError(f"{path} is empty: copy or save the model again")
    return content


def _check_regular(path: Path, state: os.stat_result) -> None:
    """Refuse what has no end, or is larger than the memory that it would be read into."""
    if not stat.S_ISREG(state.st_mode):
        kind = "a pipe" if stat.S_ISFIFO(state.st_mode) else "a device or socket"
        raise InputError(f"{path} is {kind}, not a regular file: name a model file")
    if state.st_size > memory():
        raise InputError(
            f"{path} has {state.st_size / 2**30:.3g} GiB and this machine {memory() / 2**30:.3g} GiB of memory, into "
            "which a model is read: is it the right file?"
        )
    stored = getattr(state, "st_blocks", None)
    if stored is not None and state.st_size > _SPARSE and _SPARSE_RATIO * 512 * stored < state.st_size:
        raise InputError(
            f"{path} claims {state.st_size} bytes and takes {512 * stored} on the disk: most of it was never written "
            "(an interrupted download?); copy it again"
        )


def kind_of(content: bytes, path: Path) -> str:
    """Say how to read a model file: "archive" (torch.export) or "torch" (torch.save).

    Raises:
        InputError: the file is something else; the sentence says what, and what to do.
    """
    _check_start(content, path)
    if content.startswith(b"PK"):
        return _kind_of_zip(content, path)
    if content[0] == 0x80 and len(content) > 2 and content[1] <= 5:
        return "torch"
    # safetensors: the length of a JSON header, then the header.
    if content[8:9] == b"{" and int.from_bytes(content[:8], "little") < len(content):
        raise InputError(
            f"{path} is a safetensors file: load it with safetensors.torch.load_file and "
            "torch.save the dictionary, then name its network with --arch"
        )
    if content[4:8] == b"TFL3":
        raise InputError(f"{path} is a TensorFlow Lite model: {_EXPORT}")
    # ONNX is a protobuf whose first fields are the IR version and the producer's name.
    if content[0] == 0x08 and (path.suffix.lower() == ".onnx" or content[2:3] == b"\x12"):
        raise InputError(f"{path} is an ONNX model: {_EXPORT}")
    if _is_text(content[:4096]):
        raise InputError(f"{path} is a text file: {_EXPORT}")
    raise InputError(f"{path} is not a model file that crossbar-sim knows (or it is damaged): {_EXPORT}")


def _check_start(content: bytes, path: Path) -> None:
    """Raise InputError if the first bytes are those of a file that is no model."""
    for start, what, then in _SIGNATURES:
        if content.startswith(start):
            raise InputError(f"{path} is {what}: {then}")


def _kind_of_zip(content: bytes, path: Path) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            if is_archive(names):
                return "archive"
            read_members(archive, len(content))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:
        # zipfile raises several kinds of errors for damaged directories.
        raise InputError(
            f"{path} is a truncated or damaged zip file: copy it again from its source, or save it again"
        ) from error
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        raise InputError(f"{path} is a TorchScript archive, which carries code of its own: {_EXPORT}")
    if "data.pkl" in inner:
        return "torch"
    if {"config.json", "model.weights.h5"} <= set(names):
        raise InputError(f"{path} is a Keras model: {_EXPORT}")
    if names and all(name.endswith(".npy") for name in names):
        raise InputError(
            f"{path} is a NumPy .npz archive: images and labels go to --data; weights go in a "
            "state_dict, torch.save(model.state_dict(), ...)"
        )
    raise InputError(f"{path} is a zip file, but not one of PyTorch's: {_EXPORT}")


def _is_text(content: bytes) -> bool:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        # A character may be cut at the end of the excerpt.
        if error.start < len(content) - 3:
            return False
        text = content[: error.start].decode("utf-8")
    return all(letter.isprintable() or letter in "\t\r\n" for letter in text)
