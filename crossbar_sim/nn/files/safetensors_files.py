"""Safetensors files: one, or the shards that an index names; read by the `safetensors` library through memory maps."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from crossbar_sim.errors import InputError
from crossbar_sim.files import check_regular, reason
from crossbar_sim.text import parse_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""The names that Hugging Face gives to the weights in a folder."""

_INDEX_END = ".safetensors.index.json"
_SHARD = re.compile(r"(?P<stem>.+)-\d+-of-(?P<count>\d+)\.safetensors")
_LARGEST_INDEX = 64 * 2**20
_AGAIN = "copy it again from its source, or save it again with safetensors.torch.save_file"


def is_named_safetensors(path: Path) -> bool:
    """Whether a path has the name of a safetensors file or of an index of shards."""
    return path.name.endswith((".safetensors", _INDEX_END))


def is_safetensors(content: bytes) -> bool:
    """Whether bytes begin as a safetensors file does, whatever it is called."""
    return content[8:9] == b"{" and int.from_bytes(content[:8], "little") < len(content)


def weight_files(path: Path) -> tuple[Path, ...]:
    """The files that hold the weights: the file itself, or an index and its shards.

    Args:
        path: a safetensors file, an index, or a folder with one of them under its usual name.

    Raises:
        InputError: if one is missing, or the index names a file outside of its folder.
    """
    if path.is_dir():
        found = next((path / name for name in (SINGLE, INDEX) if (path / name).exists()), None)
        if found is None:
            raise InputError(f"{path} holds neither {SINGLE} nor {INDEX}: name the model file inside it")
        path = found
    check_regular(path, "a safetensors file")
    if path.name.endswith(_INDEX_END):
        shards = sorted(set(_weight_map(path).values()))
        missing = [name for name in shards if not (path.parent / name).exists()]
        if missing:
            raise InputError(
                f"{len(missing)} of the {len(shards)} files that {path} names are missing ({', '.join(missing[:3])}): "
                "copy them into its folder"
            )
        for name in shards:
            check_regular(path.parent / name, "a safetensors file")
        return (path, *(path.parent / name for name in shards))
    part = _SHARD.fullmatch(path.name)
    if part is not None and int(part["count"]) > 1:
        raise InputError(
            f"{path} is one of {int(part['count'])} files of a model: give their index, {part['stem']}{_INDEX_END}"
        )
    return (path,)


def _weight_map(index: Path) -> dict[str, str]:
    """The file of every tensor, by an index.

    Raises:
        InputError: if the index is damaged, or names a file outside of its folder.
    """
    try:
        size = check_regular(index, "an index of safetensors files").st_size
        if size > _LARGEST_INDEX:
            raise InputError(f"{index} has {size} bytes: an index has at most {_LARGEST_INDEX}")
        content = parse_json(index.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{index} cannot be read ({reason(error)}): copy it again") from error
    found = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise InputError(f'{index} has no "weight_map" of tensors and their files: copy it again')
    for name in found.values():
        if name in ("", ".", "..") or "\0" in name or Path(name).name != name or "\\" in name:
            raise InputError(
                f"{index} names the file {name[:80]!r}: expected the name of a file in its own folder"
            )
        if not name.endswith(".safetensors"):
            raise InputError(f"{index} names the file {name[:80]!r}: expected safetensors files")
    return found


def read_tensors(files: Sequence[Path]) -> dict[str, Tensor]:
    """The tensors of weight files by name. They are mapped from the files: memory is used when they are read.

    Args:
        files: see `weight_files`.

    Raises:
        InputError: if a file is damaged, or does not hold what the index says.
    """
    index = files[0] if files[0].name.endswith(_INDEX_END) else None
    tensors: dict[str, Tensor] = {}
    place: dict[str, str] = {}
    for path in files[1:] if index else files:
        for name, value in _read(path).items():
            if name in tensors:
                raise InputError(
                    f"{name[:80]} is both in {place[name]} and in {path.name}: copy the files again"
                )
            tensors[name], place[name] = value, path.name
    for name, file in (_weight_map(index) if index else {}).items():
        if place.get(name) != file:
            raise InputError(
                f"{index} names {name[:80]} in {file}, which does not hold it: copy the files again"
            )
    if not tensors:
        raise InputError(f"{files[0]} holds no tensors: save the trained model's state_dict()")
    return tensors


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except Exception as error:  # safetensors has errors of its own, of the system and of Python
        raise InputError(
            f"{path} is not a safetensors file, or a damaged one ({reason(error)}): {_AGAIN}"
        ) from error


def digest(files: Sequence[Path]) -> str:
    """SHA-256 (hex) of files, read in pieces: of one file, its bytes; of several, their names and their SHA-256.

    Raises:
        InputError: if one cannot be read.
    """
    found: dict[str, str] = {}
    for path in files:
        try:
            with open(path, "rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise InputError(
                f"cannot read {path}: {reason(error)}; check its permissions and its disk"
            ) from error
    if len(found) == 1:
        return next(iter(found.values()))
    listed: list[Any] = [f"{name}\0{found[name]}\n" for name in sorted(found)]
    return hashlib.sha256("".join(listed).encode()).hexdigest()
