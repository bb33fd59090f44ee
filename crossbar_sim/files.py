"""Writing files whole or not at all, and checking files before they are read."""

import errno
import functools
import hashlib
import json
import os
import platform
import re
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from crossbar_sim.errors import InputError
from crossbar_sim.text import visible

_FALLBACK_MEMORY = 16 * 2**30


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside `path`; at the end it is flushed and takes the name `path`.

    If anything fails, the temporary file is removed and an existing `path` stays as it was. A link is
    followed: it stays, and what it points to is replaced. What killed processes of this machine left behind
    for the same `path` is removed first.

    Raises:
        InputError: with the system's reason, if the file cannot be written there.
    """
    target = _target(path)
    temporary = None
    try:
        mode = _mode(target)
        if mode is not None and not stat.S_ISREG(mode):
            raise InputError(f"{path} is not a regular file: name a file to write")
        start, end = _temporary_name(target)
        _remove_stale(target.parent, start, end)
        handle, name = tempfile.mkstemp(
            prefix=f"{start}{_writer(os.getpid())}-", suffix=end, dir=target.parent
        )
        os.close(handle)
        temporary = Path(name)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~umask if mode is None else stat.S_IMODE(mode))
        os.replace(temporary, target)
    except InputError:
        raise
    except Exception as error:
        # A library may stumble over the error that it was handling, as matplotlib does in a PDF on a full disk.
        first = error if isinstance(error, OSError) else _full_disk(error)
        if first is None:
            raise
        raise InputError(f"cannot write {path}: {reason(first)}; what was there is unchanged") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def _temporary_name(target: Path) -> tuple[str, str]:
    """How the names of its temporary files begin and end, with the writer between.

    The name is cut, so that one which the file system just takes does not become too long.
    """
    return f".{target.name[:40]}.", target.suffix[:10]


def _remove_stale(folder: Path, start: str, end: str) -> None:
    """Remove temporary files of one output whose writers are dead, and what SQLite has beside them.

    A writer of another machine, or of another container, may be alive whatever its number says: its files stay.
    """
    with suppress(OSError):
        for name in os.listdir(folder):
            found = _WRITER.fullmatch(name.removeprefix(start)) if name.startswith(start) else None
            if found is None or found["end"].removesuffix(found["beside"] or "") != end:
                continue
            if found["writer"] != _writer(int(found["process"])) and found["machine"] == _machine():
                with suppress(OSError):
                    os.unlink(folder / name)


_WRITER = re.compile(
    r"(?P<writer>(?P<machine>[0-9a-f]{8})-(?P<process>\d{1,10})-[0-9a-f]*)-\w{8}"
    r"(?P<end>.{0,10}?(?P<beside>-wal|-shm|-journal)?)"
)


def _writer(process: int) -> str:
    """A process of this machine, by its number and the moment when it started: numbers are used again."""
    return f"{_machine()}-{process}-{_started(process)}"


@functools.cache
def _machine() -> str:
    """This machine, or this container of it: where a process's number means the same process."""
    space = ""
    with suppress(OSError):
        space = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def _started(process: int) -> str:
    """When a process started, as a number that is its own; "" where there is none, or the system does not say."""
    try:
        with open(f"/proc/{process}/stat", "rb") as file:
            ticks = int(file.read().rpartition(b")")[2].split()[19])  # after the boot
        with open("/proc/sys/kernel/random/boot_id") as file:
            return hashlib.sha256(f"{file.read()} {ticks}".encode()).hexdigest()[:8]
    except FileNotFoundError:
        return "" if os.path.exists("/proc/self/stat") else _alive(process)
    except (OSError, ValueError, IndexError):
        return _alive(process)


def _alive(process: int) -> str:
    """Where there is no /proc: "a" for a process that is there, whenever it started."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return ""
    except OSError:
        pass
    return "a"


def write_text(path: str | os.PathLike[str], text: str | Iterable[str]) -> None:
    """Write a text file whole or not at all, in UTF-8; straight into a pipe or device (/dev/stdout).

    Args:
        path: of the file.
        text: it, or its parts, each written as it comes.

    Raises:
        InputError: with the system's reason.
    """
    target = _target(path)
    parts = (text,) if isinstance(text, str) else text
    if _is_stream(target):
        try:
            with open(target, "w", encoding="utf-8", newline="") as file:
                file.writelines(parts)
        except OSError as error:
            raise InputError(f"cannot write {path}: {reason(error)}") from error
        return
    with replacing(target) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        file.writelines(parts)


def check_writable(path: str | os.PathLike[str], stream: bool = False) -> None:
    """Refuse before long work what would fail after it.

    Args:
        path: where a file is to be written.
        stream: whether it may also be a pipe or a device, as for `write_text`.

    Raises:
        InputError: if `path` is a directory, or a file cannot be written there.
    """
    target = _target(path)
    try:
        mode = _mode(target)
        if mode is not None and not stat.S_ISREG(mode):
            if stream and _is_stream(target):
                return
            raise InputError(f"{path} is not a regular file: name a file to write")
        if mode is not None and not os.access(target, os.W_OK):
            raise InputError(f"cannot write {path}: the file is write-protected")
        if not target.parent.is_dir():
            raise InputError(f"cannot write {path}: {target.parent} is not a directory; make it first")
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise InputError(f"cannot write {path}: {reason(error)}") from error


def write_json(path: str | None, content: Mapping[str, Any]) -> None:
    """Write plain values as JSON: to a file, to standard output for "-", nowhere for None.

    Raises:
        InputError: with the system's reason, if the file cannot be written.
    """
    if path is None:
        return
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
        sys.stdout.flush()  # an error of a full disk is raised here, not when Python ends
    else:
        write_text(path, text)


def check_regular(path: str | os.PathLike[str], what: str) -> os.stat_result:
    """The state of a regular file that is to be read: reading a pipe or a device may never end.

    Args:
        path: of the file.
        what: it should be, with its article: "a chip file".

    Raises:
        InputError: if it is missing, out of reach or not a regular file.
    """
    name = visible(os.fspath(path))
    try:
        state = os.stat(path)
    except FileNotFoundError:
        raise InputError(f"{name}: there is no such file; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise InputError(
            f"{name}: cannot be opened ({reason(error)}); check the path and its permissions"
        ) from None
    if stat.S_ISREG(state.st_mode):
        return state
    kinds = ((stat.S_ISDIR, "a directory"), (stat.S_ISFIFO, "a pipe"))
    kind = next((words for test, words in kinds if test(state.st_mode)), "a device or socket")
    raise InputError(f"{name}: is {kind}, not a regular file; give the path of {what}")


@contextmanager
def opened_table(path: str | os.PathLike[str], most_bytes: int) -> Iterator[TextIO]:
    """A CSV file of the user's, open for reading, lines as they end.

    Raises:
        InputError: as `check_regular`, or if it is larger than that, not UTF-8 text, or cannot be read.
    """
    source = visible(os.fspath(path))
    state = check_regular(path, "a CSV file")
    try:
        if state.st_size > most_bytes:
            raise InputError(
                f"{source} has {state.st_size / 2**20:.0f} MiB: a table has at most {most_bytes // 2**20} MiB"
            )
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError:
        raise InputError(f"{source} is not UTF-8 text: is it a CSV file?") from None
    except OSError as error:
        raise InputError(f"{source} cannot be read ({reason(error)}): check its permissions") from None


def check_outputs(
    outputs: tuple[str | None, ...], inputs: tuple[str | None, ...], stream: str | None = None
) -> None:
    """Refuse what would fail after the long work, or replace something else; `stream` may be a pipe.

    Raises:
        InputError: if an output cannot be written, is an input, or is given twice.
    """
    read = {os.path.realpath(path): path for path in inputs if path}
    for path in outputs:
        if path is None or path == "-":
            continue
        check_writable(path, stream=path == stream)
        real = os.path.realpath(path)
        if real in read:
            raise InputError(f"cannot write {path}: it is an input or another output; name another file")
        read[real] = path


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 (hex) of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def memory() -> int:
    """The machine's memory in bytes (16 GiB where the system does not say)."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return _FALLBACK_MEMORY


def _target(path: str | os.PathLike[str]) -> Path:
    """The file that `path` means, with links followed (not those of /dev/stdout to a pipe).

    Raises:
        InputError: if it is a directory or not a name.
    """
    name = os.fspath(path)
    if "\0" in name:
        raise InputError(f"{name!r} is not the name of a file: it holds a null byte")
    if not name or os.path.isdir(name):
        raise InputError(f"{name!r} is a directory: name a file to write")
    return Path(name) if _is_stream(Path(name)) else Path(os.path.realpath(name))


def _is_stream(path: Path) -> bool:
    """Whether it is there and can be written to but not replaced: a pipe, a device."""
    try:
        mode = _mode(path)
    except OSError:
        return False
    return mode is not None and (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode))


def _mode(path: Path) -> int | None:
    """What kind of file it is; None where there is none."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None


def _full_disk(error: BaseException) -> OSError | None:
    """What began a chain of errors, if it is that nothing more can be written."""
    while error.__context__ is not None:
        error = error.__context__
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return error
    return None


def reason(error: BaseException) -> str:
    """The first line of an exception's text, short enough to be quoted."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0][:160]
