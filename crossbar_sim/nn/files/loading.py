"""Model files: which kind a file is, and loading each kind."""

import hashlib
import io
import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from crossbar_sim.errors import InputError
from crossbar_sim.files import check_regular, memory, reason
from crossbar_sim.nn.files import checkpoint, hugging_face
from crossbar_sim.nn.files.architectures import WAYS, build_architecture, names_code
from crossbar_sim.nn.files.archive import (
    EXPORT_HINT,
    LOADING,
    batches,
    is_archive,
    load_archive,
    other_inputs,
    read_members,
    regions,
    tensor_inputs,
)
from crossbar_sim.nn.files.operator_bounds import guard
from crossbar_sim.nn.files.safetensors_files import (
    INDEX,
    SINGLE,
    digest,
    is_named_safetensors,
    is_safetensors,
    read_tensors,
    weight_files,
)
from crossbar_sim.nn.files.state_dict import check_model, check_size, conversion_notes, fill
from crossbar_sim.nn.files.trial_evaluation import try_first
from crossbar_sim.nn.files.weight_tables import Table, chosen, likely, selected, tables
from crossbar_sim.nn.networks import NETWORKS
from crossbar_sim.nn.standardised import Standardisation
from crossbar_sim.text import check_depth

# What a file is, from its first bytes and zip members, and what to do if it is no model.


_EXPORT = f"export the model from PyTorch instead: {EXPORT_HINT}"

# Beginning of the file, what it is, what to do.
_SIGNATURES: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch it with `git lfs pull`"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file (a Keras model, or a chip file)", _EXPORT),
    (b"GGUF", "a GGUF file", _EXPORT),
    (b"\x93NUMPY", "a NumPy array", "weights go in a state_dict: torch.save(model.state_dict(), ...)"),
    (b"\x1f\x8b", "a gzip file", "unpack it first"),
    (b"SQLite format 3", "an SQLite database (a results file?)", _EXPORT),
)


_HEAD = 4096
_SPARSE = 2**30
_SPARSE_RATIO = 20


def read_file(path: Path) -> bytes:
    """Read a model file; raises InputError for what cannot be read."""
    return _read(path, whole=True)


def check_file(path: Path) -> None:
    """Refuse, before it is read, a file that is no model by its first bytes, empty, or too large for the memory.

    Raises:
        InputError: saying what it is.
    """
    _read(path, whole=False)


def _read(path: Path, whole: bool) -> bytes:
    """Check a file by its size and first bytes; in the same opening, so that it is still that file, read the whole."""
    _check_size(path, check_regular(path, "a model file"))
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
            if not head:
                raise InputError(f"{path} is empty: copy or save the model again")
            _check_start(head, path)
            file.seek(0)
            return file.read() if whole else head
    except (OSError, MemoryError) as error:
        raise InputError(
            f"cannot read {path}: {reason(error)}; check its permissions and its disk"
        ) from error


def _check_size(path: Path, state: os.stat_result) -> None:
    """Refuse a file that is larger than the memory that it would be read into, or mostly never written."""
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
    if content[4:8] == b"TFL3":
        raise InputError(f"{path} is a TensorFlow Lite model: {_EXPORT}")
    # ONNX is a protobuf whose first fields are the IR version and the producer's name.
    if content[0] == 0x08 and (path.suffix.lower() == ".onnx" or content[2:3] == b"\x12"):
        raise InputError(f"{path} is an ONNX model: {_EXPORT}")
    if _is_text(content[:4096]):
        raise InputError(f"{path} is a text file: {_EXPORT}")
    raise InputError(f"{path} is not a model file that crossbar-sim knows (or it is damaged): {_EXPORT}")


def _check_start(content: bytes, path: Path) -> None:
    """Raise InputError if the first bytes are those of a file that is not a model."""
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


# One door for model files: `load_model(path)`.
#
# A model file is untrusted: nothing here runs code that a file brings, unless the caller says
# `trust_pickle=True` or names code of their own with `arch="module:factory"`.


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be programmed, and what its file said about it.

    Attributes:
        module: in evaluation mode, float32, on the CPU.
        source: "torch.export archive", "crossbar-sim checkpoint", "state_dict", "safetensors", "Hugging Face folder" or
            "pickled module".
        sha256: of the file's bytes, in hexadecimal; of several files, see `safetensors_files.digest`.
        name: the network's name, or the file's.
        data: name of the data set that it was trained on, if the file says so.
        input_shape: of one image, without the batch, if known.
        batch: the batch size that a graph is fed which does not accept any, else None: its only one if it was
            exported without dynamic shapes, or the largest up to 500 within its limits.
        notes: sentences on what was changed in loading.
        limits: the smallest and the largest batch (None: no end) of a graph that was exported with such limits.
    """

    module: nn.Module
    source: str
    sha256: str
    name: str
    data: str | None = None
    input_shape: tuple[int, ...] | None = None
    batch: int | None = None
    notes: tuple[str, ...] = ()
    limits: tuple[int, int | None] | None = None

    def __repr__(self) -> str:
        weights = sum(parameter.numel() for parameter in self.module.parameters())
        return f"LoadedModel({self.name}: {type(self.module).__name__} with {weights:,} parameters, {self.source})"


def load_model(
    path: str | os.PathLike[str],
    arch: str | None = None,
    arch_arguments: Mapping[str, Any] | None = None,
    trust_pickle: bool = False,
    weights: str | None = None,
) -> LoadedModel:
    """Load a model file.

    Args:
        path: a torch.export archive, a crossbar-sim checkpoint, a state_dict, safetensors (a file, an index of
            shards, or the folder that holds them), or a pickled module.
        arch: the network that a state_dict or safetensors belong to: "mlp", "lenet5", a torchvision name, or
            "package.module:factory"; only for a state_dict.
        arch_arguments: arguments of that network; what the weights' shapes tell need not be given.
        trust_pickle: load a pickled module, running whatever code the file holds.
        weights: which of a file's tables of weights to load, by its key ("state_dict_ema", "ema.module"), or what
            the names of the weights begin with; only for a state_dict. A file with tables that differ, such as raw
            and averaged weights, is refused without it.

    Raises:
        InputError: the file cannot be read or used; the message is one line with cause and remedy.
    """
    path = Path(path)
    try:
        return _load(path, arch, arch_arguments, trust_pickle, weights)
    except InputError as error:
        message = " ".join(str(error).split())
        if str(path) not in message:
            message = f"{path}: {message}"
        raise InputError(message) from error


def weights_of_file(
    path: str | os.PathLike[str], network: nn.Module
) -> tuple[Mapping[str, Any], Standardisation | None]:
    """The weights in a model file of any kind, by name, for a network that is there already: no other one is built.

    With what calibrated training inserted into the network that they are of, as a checkpoint says.

    Args:
        path: see `load_model`; a pickled module is refused.
        network: whose names choose between several sets of weights in one file.

    Raises:
        InputError: the file cannot be read; the message is one line with cause and remedy.
    """
    path = Path(path)
    if path.is_dir() or is_named_safetensors(path):
        return _chosen(read_tensors(weight_files(path)), network), None
    content = read_file(path)
    if is_safetensors(content):
        return _chosen(read_tensors([path]), network), None
    file = io.BytesIO(content)
    kind, _ = _identify(file, path)
    if kind == "archive":
        program, _ = load_archive(file)
        return dict(program.state_dict), None
    loaded = _torch_load(file, False)
    _check_nesting(loaded)
    if checkpoint.is_checkpoint(loaded):
        return checkpoint.state_of(loaded), checkpoint.inserted(loaded)
    return _chosen(loaded, network), None


def _chosen(content: object, network: nn.Module) -> Table:
    found = tables(content)
    check_size(found)
    return found[chosen(content, found, nn.Module.state_dict(network))[0]]


def _load(
    path: Path,
    arch: str | None,
    arguments: Mapping[str, Any] | None,
    trust_pickle: bool,
    weights: str | None,
) -> LoadedModel:
    if path.is_dir():
        return _from_folder(path, arch, arguments, weights)
    if is_named_safetensors(path):
        return _from_safetensors(path, arch, arguments, weights)
    content = read_file(path)
    if is_safetensors(content):
        return _from_safetensors(path, arch, arguments, weights)
    file = io.BytesIO(content)
    del content
    kind, sha256 = _identify(file, path)
    if kind == "archive":
        _refuse_arch(arch, weights, "a torch.export archive")
        return _from_archive(file, path, sha256)
    loaded = _torch_load(file, trust_pickle)
    file.close()
    _check_nesting(loaded)
    if isinstance(loaded, nn.Module):
        _refuse_arch(arch, weights, "a pickled module")
        return _from_module(loaded, path, sha256)
    if checkpoint.is_checkpoint(loaded):
        own = names_code(str(loaded.get("network")))  # of the user's own, which only --arch may import
        _refuse_arch(None if own else arch, weights, "a crossbar-sim checkpoint")
        model, name, data, notes = checkpoint.restore(loaded, arch)
        source = "crossbar-sim checkpoint"
    else:
        found = tables(loaded)
        check_size(found)
        if arch is None:
            first = found[likely(found)]
            raise InputError(
                f"{path} is a state_dict ({len(first)} tensors, the first {next(iter(first))[:60]!r}), which does not "
                f"say of which network: {WAYS}"
            )
        model, notes = _from_tables(loaded, found, arch, arguments, weights, trust_pickle)
        name, data, source = arch, None, "state_dict"
    return LoadedModel(model.eval(), source, sha256, name, data, _input_shape(model), None, notes)


def _from_folder(
    path: Path, arch: str | None, arguments: Mapping[str, Any] | None, weights: str | None
) -> LoadedModel:
    held = (path / SINGLE).exists() or (path / INDEX).exists()
    if arch is None and (path / hugging_face.CONFIG).exists():
        config = hugging_face.read_config(path)
        if not held:
            hugging_face.refuse_without_weights(path, config)
        return _from_hugging_face(path, config, weights)
    if held:
        return _from_safetensors(path, arch, arguments, weights)
    raise InputError(f"{path} is {_kind_of_folder(path)}")


def _kind_of_folder(path: Path) -> str:
    """What a folder without a model of its own is, and what to do."""
    if (path / "saved_model.pb").exists() or (path / "saved_model.pbtxt").exists():
        return f"a TensorFlow SavedModel directory: {_EXPORT}"
    if (path / ".metadata").exists() and any(path.glob("*.distcp")):
        return (
            "a distributed checkpoint: turn it into one file with torch.distributed.checkpoint.format_utils."
            "dcp_to_torch_save, and name its network with --arch"
        )
    if (path / "model_index.json").exists():
        return "a pipeline of several models (diffusers): name the folder of one of them, or export one"
    if (path / "adapter_config.json").exists():
        return (
            "an adapter without its model: merge it with peft's merge_and_unload(), and save the whole model"
        )
    snapshots = sorted(path.glob("snapshots/*/config.json"))
    if snapshots:
        return f"a cache of Hugging Face's: name the folder {snapshots[0].parent} inside it"
    endings = ("pt2", "pt", "pth", "ckpt", "safetensors")
    inside = sorted(
        found for end in endings for deep in ("", "checkpoints/") for found in path.glob(f"{deep}*.{end}")
    )
    named = f", such as {inside[0].relative_to(path)}" if inside else ""
    return f"a directory: name the model file inside it{named}"


def _from_hugging_face(path: Path, config: dict[str, Any], weights: str | None) -> LoadedModel:
    if weights is not None:
        raise InputError(
            f"{path} is a Hugging Face folder, which has one set of weights: leave out --weights {weights}"
        )
    hugging_face.check_folder(path, config)
    files = weight_files(path)
    for file in files:
        check_file(file)
    model, notes = hugging_face.build(path, config, read_tensors(files))
    return LoadedModel(
        model,
        f"Hugging Face folder ({type(model).__name__})",
        digest((path / hugging_face.CONFIG, *files)),
        path.resolve().name,
        None,
        hugging_face.image_shape(model),
        None,
        notes,
    )


def _from_safetensors(
    path: Path, arch: str | None, arguments: Mapping[str, Any] | None, weights: str | None
) -> LoadedModel:
    files = weight_files(path)
    for file in files:
        check_file(file)
    state = read_tensors(files)
    if arch is None:
        raise InputError(
            f"{path} holds safetensors weights ({len(state)} tensors, the first {next(iter(state))[:60]!r}), which do "
            f"not say of which network: {WAYS}"
        )
    model, notes = _from_tables(state, tables(state), arch, arguments, weights, False)
    source = "safetensors" if len(files) == 1 else f"safetensors in {len(files) - 1} files"
    return LoadedModel(model.eval(), source, digest(files), arch, None, _input_shape(model), None, notes)


def _from_tables(
    content: object,
    found: Mapping[str, Table],
    arch: str,
    arguments: Mapping[str, Any] | None,
    weights: str | None,
    trust_pickle: bool,
) -> tuple[nn.Module, tuple[str, ...]]:
    """The network with the file's weights: those that are named, else the only ones that fit it."""
    notes: tuple[str, ...] = ()
    if weights is None:
        guess = likely(found)
        model = build_architecture(arch, arguments, found[guess]).float()
        key, notes = chosen(content, found, nn.Module.state_dict(model))
        state = found[key]
        if key != guess:  # its shapes may be of another network of that name
            model = build_architecture(arch, arguments, state).float()
    else:
        state = selected(found, weights)
        model = build_architecture(arch, arguments, state).float()
    return model, notes + fill(model, state, f"network {arch!r}", trust_pickle)


def _identify(file: io.BytesIO, path: Path) -> tuple[str, str]:
    # A function, so that the bytes have no name outside of it and are freed with the file.
    content = file.getvalue()
    return kind_of(content, path), hashlib.sha256(content).hexdigest()


def _from_archive(file: io.BytesIO, path: Path, sha256: str) -> LoadedModel:
    program, graph = load_archive(file)
    shapes = tensor_inputs(graph)
    if not shapes or not all(shapes):
        raise InputError(
            f"the archived model takes {len(shapes)} tensors of shapes {shapes}: crossbar-sim feeds one or more, each "
            "of shape (batch, ...); wrap the model and export it again"
        )
    firsts = {shape[0] for shape in shapes}
    if len(firsts) > 1:
        raise InputError(
            f"the archived model takes tensors whose first sizes differ ({shapes}): the first axis is the batch, the "
            "same for all; export it again with that axis dynamic in every tensor"
        )
    constants, rest = other_inputs(graph)
    if rest:
        raise InputError(
            f"the archived model takes {', '.join(rest)} besides a tensor: wrap it so that forward takes one tensor, "
            "and export it again"
        )
    notes = [f"the archived model computes with {', '.join(constants)}, as exported"] if constants else []
    for name, value in program.state_dict.items():
        if value.is_floating_point() and value.dtype != torch.float32:
            raise InputError(
                f"{name} in the archive is {str(value.dtype).removeprefix('torch.')} and its graph "
                "computes in that type: call model.float() and export it again"
            )
    try:
        with LOADING:
            module = program.module()
    except Exception as error:
        # A graph that is consistent in its parts can still make no whole, in any way.
        raise InputError(
            f"torch {torch.__version__} cannot make a module of this archive "
            f"({type(error).__name__}): export it again with this version, {EXPORT_HINT}"
        ) from error
    check_model(module)
    # torch forbids train() and eval() on the instance, since the graph is fixed; a caller that
    # prepares any model with eval() means no harm, and the archive was checked to be in that mode.
    for forbidden in ("train", "eval"):
        module.__dict__.pop(forbidden, None)
    module.eval()
    guard(module)
    try_first(module)
    known = [size for size in shapes[0][1:] if size is not None]
    shape = tuple(known) if len(shapes) == 1 and len(known) == len(shapes[0]) - 1 else None
    batch, limits = batches(program)
    return LoadedModel(
        module,
        "torch.export archive",
        sha256,
        path.stem,
        None,
        shape,
        batch,
        (*notes, *regions(graph)),
        limits,
    )


def _from_module(model: nn.Module, path: Path, sha256: str) -> LoadedModel:
    try:
        notes = conversion_notes(dict(model.named_parameters()))
        check_model(model)
        return LoadedModel(
            model.cpu().float().eval(),
            "pickled module",
            sha256,
            path.stem,
            None,
            _input_shape(model),
            None,
            notes,
        )
    except InputError:
        raise
    except Exception as error:
        # A module pickled by another version of its class may lack any attribute.
        raise InputError(f"the pickled module is unusable ({error}); {_export_instead()}") from error


def _torch_load(file: io.BytesIO, trust_pickle: bool) -> object:
    """Unpickle without code if possible, with code if that is trusted."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            if not trust_pickle:
                raise InputError(
                    "the file is a pickled Python object (or a damaged file), and loading it can "
                    f"run any code; {_export_instead()}, or pass --trust-pickle if you trust where "
                    "it comes from"
                ) from error
        except Exception as error:
            raise InputError(
                f"the file is truncated or damaged ({type(error).__name__}): copy it again from "
                "its source, or save it again"
            ) from error
        file.seek(0)
        try:
            return torch.load(file, map_location="cpu", weights_only=False)
        except Exception as error:
            first = (str(error).splitlines() or [""])[0][:200]
            raise InputError(
                f"the pickled object cannot be loaded ({type(error).__name__}: {first}); its "
                f"classes must be importable here, or {_export_instead()}"
            ) from error


def _check_nesting(loaded: object) -> None:
    try:
        check_depth(loaded)
    except ValueError as error:
        raise InputError(
            f"the file holds values {error}: save a state_dict, which holds tensors by name"
        ) from None


def _export_instead() -> str:
    return f"export the model where its code is: {EXPORT_HINT}"


def _refuse_arch(arch: str | None, weights: str | None, what: str) -> None:
    if arch is not None:
        raise InputError(f"the file is {what}, which knows its network: leave out --arch {arch}")
    if weights is not None:
        raise InputError(f"the file is {what}, which has one set of weights: leave out --weights {weights}")


def _input_shape(model: nn.Module) -> tuple[int, ...] | None:
    """The input shape of a built-in network for square images; None for any other model."""
    arguments = getattr(model, "arguments", None)
    if type(model) in NETWORKS.values() and isinstance(arguments, dict) and "size" in arguments:
        return (arguments.get("channels", 3), arguments["size"], arguments["size"])
    return None
