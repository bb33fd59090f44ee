"""torch.export archives, rebuilt from checked parts before torch may see them.

`torch.export.load` runs code that a file brings: pickled sample inputs, weights and constants fall
back to full unpickling, and the graph's text is evaluated in several places (`archive_graph`).
Inspecting a file and then loading it would leave room between what the inspector and the loader
read (zip members of the same name, for one). So the archive is taken apart and a new one is
written in memory from what passed: raw tensor bytes, a graph copied through an allow-list, and
empty sample inputs. torch loads that.
"""

import io
import json
import logging
import os
import threading
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crossbar_sim.errors import InputError
from crossbar_sim.nn.archive_graph import clean_program, parse_json, without_metadata
from crossbar_sim.nn.archive_inputs import of_one_tensor
from crossbar_sim.nn.archive_ties import tie, tied, untangle
from crossbar_sim.nn.archive_weights import BOOL, EXPORT_HINT, Members, raw_tensors, without_pickle

if TYPE_CHECKING:
    from torch.export import ExportedProgram

LOADING = threading.RLock()
"""torch's loader keeps what it reads in a global variable, and refuses a second thread meanwhile."""

# Ours are stored uncompressed; JSON deflates tenfold. A bomb has thousands.
_LARGEST_RATIO = 20
_SMALL = 64 * 2**20


def is_archive(names: list[str]) -> bool:
    """Say whether a zip file with these member names is meant as a torch.export archive."""
    return any(
        name.endswith(("/archive_format", "/models/model.json")) or name == "serialized_exported_program.json"
        for name in names
    )


def check_archive(source: str | os.PathLike[str] | bytes) -> None:
    """Raise InputError if the archive (path or bytes) holds anything outside the allow-list."""
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {source!r}: {error.strerror or error}") from error
    rebuild(content)


def load_archive(content: bytes | io.BytesIO) -> tuple["ExportedProgram", dict[str, Any]]:
    """Load a torch.export archive from its bytes without running anything that it brings.

    A `BytesIO` is closed as soon as it is taken apart, which frees one copy of the weights.

    Returns:
        The program, and its graph as cleaned JSON (see `archive_graph`).

    Raises:
        InputError: something in the archive is outside the allow-list, or torch cannot load the
        rest.
    """
    import torch.export  # a fifth of a second, which other files need not wait for

    clean, program, groups = _rebuilt(content)
    if isinstance(content, io.BytesIO):
        content.close()
    try:
        with LOADING, _quiet():
            loaded = torch.export.load(clean)
            tie(loaded, groups)
            return loaded, program
    except Exception as error:
        # A damaged graph fails anywhere in torch's loader, in any way.
        raise InputError(
            f"torch {torch.__version__} cannot load this torch.export archive "
            f"({_first_line(error)}): export it again with this version, {EXPORT_HINT}"
        ) from error


def rebuild(content: bytes | io.BytesIO) -> tuple[io.BytesIO, dict[str, Any]]:
    """Check an archive and write a new one from its checked parts.

    Returns:
        The new archive, in memory, and its cleaned graph.

    Raises:
        InputError: see `load_archive`.
    """
    clean, program, _ = _rebuilt(content)
    return clean, program


_Rebuilt = tuple[io.BytesIO, dict[str, Any], list[list[str]]]


def _rebuilt(content: bytes | io.BytesIO) -> _Rebuilt:
    """`rebuild`, with the groups of tied weights."""
    try:
        source = io.BytesIO(content) if isinstance(content, bytes) else content
        with zipfile.ZipFile(source) as archive:
            members = read_members(archive, source.getbuffer().nbytes)
            return _rebuild(archive, members)
    except InputError:
        raise
    except (
        zipfile.BadZipFile,
        RuntimeError,
        NotImplementedError,
        EOFError,
        OSError,
        ValueError,
    ) as error:
        raise InputError(
            f"the archive is damaged ({_first_line(error)}): copy it again from its source, or "
            "export it again"
        ) from error
    except Exception as error:
        # zlib.error and struct.error, from damaged headers.
        raise InputError(f"the archive is damaged ({_first_line(error)}): export it again") from error


def read_members(archive: zipfile.ZipFile, size: int) -> Members:
    """List the members of a zip file of `size` bytes without its top folder.

    Raises:
        InputError: a name occurs twice or points outside, or the contents are absurdly large.
    """
    infos = archive.infolist()
    total = sum(info.file_size for info in infos)
    if total > max(_SMALL, _LARGEST_RATIO * size):
        raise InputError(
            f"the archive of {size} bytes claims {total} bytes of content: it is damaged or made "
            "to fill memory"
        )
    members: Members = {}
    for info in infos:
        name = info.filename
        if name.startswith("/") or "\\" in name or "\0" in name or ".." in name.split("/"):
            raise InputError(f"the archive has a member named {name[:80]!r}, outside of it, so it is refused")
        # torch 2.7 and older wrote no top folder.
        name = name.partition("/")[2] if "/" in name else name
        if name in members:
            raise InputError(
                f"the archive has two members named {name[:80]!r}, which readers tell apart "
                "differently, so it is refused"
            )
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError(
                f"the archive's member {name[:80]!r} is packed by a method that torch does not use"
            )
        members[name] = info
    return members


def _rebuild(archive: zipfile.ZipFile, members: Members) -> _Rebuilt:
    for name in members:
        if name.startswith(("data/aotinductor/", "data/executorch/")):
            raise InputError(
                "the archive holds compiled code (AOTInductor or ExecuTorch), which would run as "
                f"it is: save the exported program instead, {EXPORT_HINT}"
            )
        if name.startswith("models/") and name != "models/model.json":
            raise InputError(
                f"the archive holds the program {name[:80]!r} besides or instead of "
                f"models/model.json: save one model per file, {EXPORT_HINT}"
            )
    if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
        raise InputError("the archive was written on a big-endian machine: export it again on this one")
    graph = _first(members, "models/model.json", "serialized_exported_program.json")
    program = clean_program(archive.read(graph))
    groups: list[list[str]] = []
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as clean:

        def write(name: str, data: bytes) -> None:
            clean.writestr(f"archive/{name}", data)

        write("archive_format", b"pt2")
        write("archive_version", b"0")
        write(".data/version", b"6\n")
        write("byteorder", b"little")
        # Present but empty: torch takes that as no sample inputs.
        write("data/sample_inputs/model.pt", b"")
        for folder, kind in (("weights", "state_dict"), ("constants", "constants")):
            config = f"data/{folder}/model_{folder}_config.json"
            if config in members:
                payloads = raw_tensors(parse_json(archive.read(members[config]), config), folder, members)
                truths = {
                    meta["path_name"] for meta in payloads.values() if meta["tensor_meta"]["dtype"] == BOOL
                }
                for path in {meta["path_name"] for meta in payloads.values()}:
                    data = archive.read(members[f"data/{folder}/{path}"])
                    if path in truths and data.translate(None, b"\0\1"):
                        raise InputError(
                            f"a tensor of truth values in the archive ({path}) has other bytes than 0 and 1, which "
                            "operators count for what they are: the file is damaged"
                        )
                    write(f"data/{folder}/{path}", data)
                write(config, json.dumps({"config": payloads}).encode())
                groups += tied(payloads)
            else:
                old = _first(members, f"data/{folder}/model.pt", f"serialized_{kind}.pt")
                write(f"data/{folder}/model.pt", without_pickle(archive.read(old), folder))
        untangle(program, groups)
        write("models/model.json", json.dumps(without_metadata(of_one_tensor(program))).encode())
    buffer.seek(0)
    return buffer, program, groups


def _first(members: Members, *names: str) -> zipfile.ZipInfo:
    for name in names:
        if name in members:
            return members[name]
    raise InputError(f"the archive has no {names[0]}: it is incomplete, or not from torch.export.save")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's loader from logging tracebacks; the one line of InputError replaces them."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
