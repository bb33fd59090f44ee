"""Archives to folders, from archives that may be hostile."""

import contextlib
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Generator
from pathlib import Path, PurePosixPath
from typing import IO

from crossbar_sim.data.files import DEFLATE_LIMIT, check_file, reason
from crossbar_sim.errors import InputError

_MOST_MEMBERS = 500_000
_Member = tuple[str, int, str, IO[bytes] | None]
"""Name, bytes, kind ("file", "folder" or what else it is), content."""


def unpack(archive: Path, into: Path) -> None:
    """Write the files of a `.zip` or `.tar.gz` below a folder.

    Only plain files and folders whose names stay inside are written; an archive with anything else, a
    link, a device, an absolute name or one with `..`, is refused. What was written until then stays in
    `into`, so that should be a folder of its own.

    Args:
        archive: the file; a `.zip` by its name, else a tar, packed or not.
        into: the folder; it must exist.

    Raises:
        InputError: if it is damaged or hostile, unpacks to more than the disk or its bytes can hold, or
            cannot be written.
    """
    size = check_file(archive)
    room = min(shutil.disk_usage(into).free, DEFLATE_LIMIT * size)
    members = _zipped(archive) if archive.suffix.lower() == ".zip" else _tarred(archive)
    try:
        with contextlib.closing(members):
            for count, (name, length, kind, content) in enumerate(members):
                target = into / _inside(archive, name, kind)
                room -= max(length, 0)
                if room < 0 or count >= _MOST_MEMBERS:
                    raise InputError(
                        f"{archive}: unpacks to more than the disk or its own {size} bytes can hold; free some "
                        "space, or fetch it again"
                    )
                if content is None:
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                with open(target, "xb") as file:
                    shutil.copyfileobj(content, file, 2**20)
                if os.path.getsize(target) != length:
                    raise InputError(f"{archive}: {name[:80]!r} ends early; fetch it again")
    except InputError:
        raise
    except FileExistsError as error:
        raise InputError(f"{archive}: holds {str(error.filename)[-80:]!r} twice; fetch it again") from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
            raise InputError(f"cannot write {error.filename}: {reason(error)}") from None
        # zipfile, tarfile and zlib raise a dozen kinds on hostile bytes.
        raise InputError(f"{archive}: cannot be unpacked ({reason(error)}); fetch it again") from None


def _inside(archive: Path, name: str, kind: str) -> PurePosixPath:
    """The member's name below the folder, if it is one.

    Raises:
        InputError: if it leads out, or the member is neither file nor folder.
    """
    path = PurePosixPath(name)
    if kind not in ("file", "folder"):
        raise InputError(
            f"{archive}: holds {name[:80]!r}, {kind}, which data sets do not need: it is refused"
        )
    if path.is_absolute() or ".." in path.parts or not path.parts or set(name) & {"\\", "\0", ":"}:
        raise InputError(
            f"{archive}: holds the name {name[:80]!r}, which leads out of its folder: it is refused"
        )
    return path


def _zipped(archive: Path) -> Generator[_Member, None, None]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir():
                yield info.filename, 0, "folder", None
            elif kind not in (0, stat.S_IFREG):  # 0: written by a system without such kinds
                yield info.filename, 0, "a link or device", None
            else:
                with opened.open(info) as content:
                    yield info.filename, info.file_size, "file", content


def _tarred(archive: Path) -> Generator[_Member, None, None]:
    with tarfile.open(archive, "r:*") as opened:
        for member in opened:
            if member.isdir():
                yield member.name, 0, "folder", None
            elif not member.isreg():
                yield member.name, 0, "a link or device", None
            else:
                yield member.name, member.size, "file", opened.extractfile(member)
