"""Writing files so that nothing is ever half there."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from crossbar_sim.errors import InputError


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary name beside `path`; at the end it is flushed and takes the name `path`.

    If anything fails, the temporary file is removed and an existing `path` stays as it was.

    Raises:
        InputError: with the system's reason, if the file cannot be written there.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a directory: name a file to write")
    temporary = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise InputError(f"cannot write {path}: {reason}; what was there is unchanged") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file whole or not at all, in UTF-8.

    Raises:
        InputError: with the system's reason.
    """
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
