"""Fetching the named data sets: over HTTP by pooch, against checksums, into their official folders.

Everything is fetched and unpacked in a folder of its own, `.fetch-NAME`, and moved to its place when it is
whole: a fetch that is killed leaves no half data set, and the next one goes on from the files that are whole.
"""

import contextlib
import difflib
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from crossbar_sim.data.catalogue import CATALOGUE
from crossbar_sim.data.files import reason
from crossbar_sim.data.places import data_folder
from crossbar_sim.data.sources import SOURCES, Resource, Source
from crossbar_sim.data.unpacking import unpack
from crossbar_sim.errors import InputError

MOST_BYTES = 4 * 2**30
"""Of one file; the largest official one has 0.3 GB."""
_TIMEOUT = 60

Report = Callable[[str, int, int], None]
"""Called with a file's name, the bytes that have come, and how many there are (0: not known)."""


def fetch(
    name: str,
    data_dir: Path | None = None,
    url: str | None = None,
    sha256: str | None = None,
    report: Report = lambda name, done, total: None,
) -> bool:
    """Fetch a data set, unless it is there.

    Args:
        name: of `SOURCES`.
        data_dir: the folder of data sets, made if it is not there; `None` asks $CROSSBAR_SIM_DATA.
        url: a mirror: the address that holds the official files. Checksums hold for it too.
        sha256: for a set without a published checksum: the one its file must have.
        report: is told how it goes.

    Returns:
        Whether anything was fetched.

    Raises:
        InputError: if the name is unknown, the file cannot be had or is another, or cannot be written.
    """
    source = _source(name)
    root = data_folder(name, data_dir)
    if _is_there(name, root):
        return False
    resources = _with_checksums(name, source, root, sha256)
    base = url if url is not None else source.base
    with _work_folder(root, name, resources) as work:
        for resource in resources:
            if not (root / resource.place).exists():
                address = f"{base.rstrip('/')}/{resource.file}"
                _place(_download(address, resource, work, report), resource, work, root)
    find = CATALOGUE[name].find
    if find is not None:
        find(root)
    return True


def _source(name: str) -> Source:
    if name in SOURCES:
        return SOURCES[name]
    if name in CATALOGUE:
        raise InputError(f"{name} needs no fetching: it {CATALOGUE[name].layout}")
    close = difflib.get_close_matches(name.lower(), SOURCES, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise InputError(f"unknown data set {name[:200]!r}{hint}: one of {', '.join(SOURCES)} can be fetched")


def _is_there(name: str, root: Path) -> bool:
    find = CATALOGUE[name].find
    try:
        if find is not None:
            find(root)
    except InputError:
        return False
    return True


def _with_checksums(name: str, source: Source, root: Path, sha256: str | None) -> list[Resource]:
    """The files, each with a checksum.

    Raises:
        InputError: if one is missing, or given where it is known.
    """
    unknown = [resource for resource in source.resources if resource.checksum is None]
    if sha256 is None and unknown:
        wanted = unknown[0].file
        raise InputError(
            f"{name}: no checksum of {wanted} is published, so what comes could not be checked: give --sha256 of a "
            f"copy you trust, or unpack {source.base}{wanted} into {root} yourself"
        )
    if sha256 is None:
        return [*source.resources]
    if len(unknown) != 1:
        raise InputError(f"{name}: its checksums are built in: leave --sha256 out")
    if not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise InputError(f"--sha256 {sha256[:80]!r}: a SHA-256 has 64 hexadecimal digits")
    file = unknown[0]
    return [Resource(file.file, f"sha256:{sha256.lower()}", file.place, file.member)]


@contextlib.contextmanager
def _work_folder(root: Path, name: str, resources: list[Resource]) -> Iterator[Path]:
    """The folder to fetch into, for this process alone; afterwards only whole archives are left in it.

    Raises:
        InputError: if another fetch is at work, or it cannot be written.
    """
    work = root / f".fetch-{name}"
    keep = {resource.file for resource in resources}
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock = open(work / "lock", "ab")  # noqa: SIM115 (held until the end)
    except OSError as error:
        raise InputError(f"cannot write {work}: {reason(error)}") from None
    with lock:
        if not _locked(lock.fileno()):
            raise InputError(f"{work}: another fetch of {name} is at work; wait for it")
        _clean(work, keep | {"lock"})
        try:
            yield work
        except OSError as error:
            raise InputError(f"cannot write {error.filename or work}: {reason(error)}") from None
        finally:
            _clean(work, keep)
            with contextlib.suppress(OSError):
                work.rmdir()


def _locked(descriptor: int) -> bool:
    """Take the lock, which the system frees when this process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # a system without it: two fetches at a time are then the user's to avoid
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _clean(folder: Path, keep: set[str]) -> None:
    for path in [*folder.iterdir()]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in keep:
            path.unlink(missing_ok=True)


class _Meter:
    """What pooch takes for a progress bar: passes on how much has come, and stops what has no end."""

    def __init__(self, name: str, report: Report) -> None:
        self.name, self.report, self.total, self.done = name, report, 0, 0

    def update(self, count: int) -> None:
        """So many bytes more."""
        self.done += count
        if max(self.done, self.total) > MOST_BYTES:
            raise InputError(f"{self.name}: is longer than {MOST_BYTES} bytes, which no official file is")
        self.report(self.name, self.done, self.total)

    def reset(self) -> None:
        """From the beginning."""
        self.done = 0

    def close(self) -> None:
        """The end."""


def _download(address: str, resource: Resource, work: Path, report: Report) -> Path:
    """Fetch a file, unless it is in `work` already, and compare its checksum.

    Raises:
        InputError: if it cannot be had, or is another; nothing of it is kept then.
    """
    import pooch

    pooch.get_logger().setLevel(logging.ERROR)
    downloader = pooch.HTTPDownloader(
        progressbar=_Meter(resource.file, report),
        chunk_size=2**16,
        timeout=_TIMEOUT,
        headers={"Accept-Encoding": "identity"},  # a .gz is wanted as it is, not unpacked on the way
    )
    mirror = "try again, or a mirror with --url"
    try:
        return Path(pooch.retrieve(address, resource.checksum, resource.file, work, downloader=downloader))
    except InputError:
        raise
    except OSError as error:  # requests' are too
        response = getattr(error, "response", None)
        if response is not None:
            said = f"{response.status_code} {response.reason}"
            raise InputError(f"{address}: the server answers {said}; {mirror}") from None
        if not type(error).__module__.startswith(("requests", "urllib3")):
            raise
        inner = getattr(error.args[0], "reason", None) if error.args else None
        text = reason(error) if inner is None else str(inner).rpartition(": ")[2][:160]
        raise InputError(f"{address}: cannot be fetched ({text}); {mirror}") from None
    except ValueError as error:
        if "hash" not in str(error):
            raise InputError(f"{address}: cannot be fetched ({reason(error)}); {mirror}") from None
        algorithm, _, value = str(resource.checksum).partition(":")
        raise InputError(
            f"{address}: what came is not the official file, whose {algorithm.upper()} is {value}; nothing of it "
            f"was kept; {mirror}"
        ) from None


def _place(path: Path, resource: Resource, work: Path, root: Path) -> None:
    """Move a whole file, or what an archive holds, to its place."""
    target = root / resource.place
    target.parent.mkdir(parents=True, exist_ok=True)
    if resource.member is None:
        os.replace(path, target)
        return
    unpacked = work / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir()
    unpack(path, unpacked)
    inner = unpacked / resource.member
    if not inner.exists():
        raise InputError(f"{path}: holds no {resource.member}; it is not the official archive")
    os.rename(inner, target)
    shutil.rmtree(unpacked, ignore_errors=True)
    path.unlink()
