"""What every reader asks of a file before it believes it."""

import os
import stat
from pathlib import Path

from crossbar_sim.errors import InputError
from crossbar_sim.files import memory

DEFLATE_LIMIT = 1032
"""No deflate stream unpacks to more than 1032 times its size (zlib's technical notes)."""


def check_file(path: Path) -> int:
    """The size in bytes of a regular file.

    A pipe or a device is refused, because reading one may never end.

    Raises:
        InputError: if it is missing, out of reach or no regular file.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise InputError(f"{str(path)!r}: cannot be opened ({reason(error)})") from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise InputError(f"{path}: is {kind}; give the path of a file")
    return status.st_size


def check_memory(path: Path, needed: int) -> None:
    """Refuse, before anything is allocated, what cannot fit into this machine.

    Args:
        path: the file that claims to hold so much.
        needed: bytes that reading it would take.

    Raises:
        InputError: if that is more than the machine's memory.
    """
    if needed > memory():
        raise InputError(
            f"{path}: its header claims data that needs {needed / 2**30:.3g} GiB of memory and "
            f"there are {memory() / 2**30:.3g} GiB; the file is damaged, or take a part of it"
        )


def check_packed(path: Path, claimed: int, packed: int) -> None:
    """Refuse a compressed stream that claims to unpack to more than its bytes can hold.

    Raises:
        InputError: if `claimed` bytes cannot come out of `packed` compressed ones.
    """
    if claimed > DEFLATE_LIMIT * packed:
        raise InputError(
            f"{path}: claims that {packed} compressed bytes unpack to {claimed}, more than "
            f"{DEFLATE_LIMIT} times as many; the file is damaged: fetch or write it again"
        )


def reason(error: BaseException) -> str:
    """The first line of an exception's text, short enough to be quoted."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text).splitlines()[0][:160]
