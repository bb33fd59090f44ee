"""Fetching the named data sets: over HTTP by pooch, against checksums, into their official folders.

Everything is fetched and unpacked in a folder of its own, `.fetch-NAME`, and moved to its place when it is
whole: an interrupted fetch leaves no partial data set, and the next one resumes from the complete files.
"""

import contextlib
import difflib
import logging
import os
import re
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from crossbar_sim.data.catalogue import (
    CATALOGUE,
    CIFAR10_ARCHIVE,
    CIFAR10_FOLDER,
    GTSRB_TABLE,
    IDX_FOLDERS,
    PENNFUDAN_FOLDER,
    data_folder,
)
from crossbar_sim.data.images import DEFLATE_LIMIT, check_file
from crossbar_sim.errors import InputError
from crossbar_sim.files import reason

# Where the named data sets are published, and the checksums that their files must have.
#
# MD5 where that is what publishers and the common loaders have pinned for years: MNIST, Fashion-MNIST, CIFAR-10
# and GTSRB's test files are those that torchvision checks; the one of GTSRB's training images is the same
# in six unrelated public projects. It detects a damaged or different file. For Penn-Fudan none is published:
# it is fetched only against a SHA-256 that the user brings.


@dataclass(frozen=True)
class Resource:
    """One file to fetch.

    Args:
        file: its name below the base address.
        checksum: "md5:..." or "sha256:..."; None: not known.
        place: where it goes below the folder of data sets, or, for an archive, where `member` goes.
        member: what to take out of the archive, a folder or a file; None: the file is kept as it is.
    """

    file: str
    checksum: str | None
    place: str
    member: str | None = None


@dataclass(frozen=True)
class Source:
    """Where a data set is published.

    Args:
        base: the address that file names are put behind.
        resources: its files, in the order of fetching.
        terms: what to know before using it.
    """

    base: str
    resources: tuple[Resource, ...]
    terms: str


def _idx(name: str, checksums: dict[str, str]) -> tuple[Resource, ...]:
    return tuple(
        Resource(f"{file}.gz", f"md5:{md5}", f"{IDX_FOLDERS[name]}/raw/{file}.gz")
        for file, md5 in checksums.items()
    )


_MNIST = {
    "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
}
_FASHION = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
_GTSRB = (
    Resource(
        "GTSRB_Final_Training_Images.zip",
        "md5:f33fd80ac59bff73c82d25ab499e03a3",
        "GTSRB/Final_Training",
        "GTSRB/Final_Training",
    ),
    Resource(
        "GTSRB_Final_Test_Images.zip",
        "md5:c7e4e6327067d32654124b0fe9e82185",
        "GTSRB/Final_Test",
        "GTSRB/Final_Test",
    ),
    Resource(
        "GTSRB_Final_Test_GT.zip",
        "md5:fe31e9c9270bbcd7b84b7f21a9d9d9e5",
        f"GTSRB/{GTSRB_TABLE}",
        GTSRB_TABLE,
    ),
)

SOURCES = {
    "mnist": Source(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        _idx("mnist", _MNIST),
        "LeCun, Cortes and Burges, The MNIST database of handwritten digits",
    ),
    "fashion-mnist": Source(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        _idx("fashion-mnist", _FASHION),
        "Xiao, Rasul and Vollgraf, Fashion-MNIST, 2017; MIT licence",
    ),
    "cifar10": Source(
        "https://www.cs.toronto.edu/~kriz/",
        (Resource(CIFAR10_ARCHIVE, "md5:c58f30108f718f92721af3b95e74349a", CIFAR10_FOLDER, CIFAR10_FOLDER),),
        "cite Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    ),
    "gtsrb": Source(
        "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/",
        _GTSRB,
        "cite Stallkamp et al., Man vs. computer, Neural Networks 32, 2012",
    ),
    "pennfudan": Source(
        "https://www.cis.upenn.edu/~jshi/ped_html/",
        (Resource("PennFudanPed.zip", None, PENNFUDAN_FOLDER, PENNFUDAN_FOLDER),),
        "cite Wang et al., Object detection combining recognition and segmentation, ACCV 2007",
    ),
}


_MOST_MEMBERS = 500_000


def unpack(archive: Path, into: Path) -> None:
    """Write the files of a `.zip` or `.tar.gz` below a folder.

    Only plain files and folders whose names stay inside are written; an archive with anything else, a
    link, a device, an absolute name or one with `..`, is refused. What was written until then stays in
    `into`, so that should be a folder of its own.

    Args:
        archive: the file; a `.zip` by its name, else a tar, compressed or not.
        into: the folder; it must exist.

    Raises:
        InputError: if it is damaged or hostile, unpacks to more than the disk or its bytes can hold, or
            cannot be written.
    """
    size = check_file(archive)
    available = min(shutil.disk_usage(into).free, DEFLATE_LIMIT * size)
    try:
        with (
            zipfile.ZipFile(archive) if archive.suffix.lower() == ".zip" else tarfile.open(archive) as opened
        ):
            if isinstance(opened, tarfile.TarFile):  # older releases of Python 3.11 have no filters
                opened.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
            members: Any = opened.infolist() if isinstance(opened, zipfile.ZipFile) else opened
            for count, member in enumerate(members):
                name, length, folder = _member(archive, member)
                available -= length
                if available < 0 or count >= _MOST_MEMBERS:
                    raise InputError(
                        f"{archive}: unpacks to more than the disk or its own {size} bytes can hold; free some "
                        "space, or fetch it again"
                    )
                if not folder and os.path.lexists(into / name):
                    raise InputError(f"{archive}: holds {name[-80:]!r} twice; fetch it again")
                opened.extract(member, into)
    except InputError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename is not None:
            raise InputError(f"cannot write {error.filename}: {reason(error)}") from None
        # zipfile, tarfile and zlib raise a dozen kinds on hostile bytes.
        raise InputError(f"{archive}: cannot be unpacked ({reason(error)}); fetch it again") from None


def _member(archive: Path, member: zipfile.ZipInfo | tarfile.TarInfo) -> tuple[str, int, bool]:
    """The name of a member, its bytes, and whether it is a folder.

    Raises:
        InputError: if the name leads out of the folder, or the member is neither file nor folder.
    """
    if isinstance(member, tarfile.TarInfo):
        name, length, folder = member.name, max(member.size, 0), member.isdir()
        plain = folder or (member.isreg() and not member.issparse())
    else:
        name, length, folder = member.filename, member.file_size, member.is_dir()
        kind = stat.S_IFMT(member.external_attr >> 16)
        plain = folder or kind in (0, stat.S_IFREG)  # 0: written by a system without such kinds
    if not plain:
        raise InputError(
            f"{archive}: holds {name[:80]!r}, a link or device, which data sets do not need: it is refused"
        )
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or set(name) & {"\\", "\0", ":"}:
        raise InputError(
            f"{archive}: holds the name {name[:80]!r}, which leads out of its folder: it is refused"
        )
    return name, length, folder


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
        data_dir: the folder of data sets, made if it is not there; `None`: $CROSSBAR_SIM_DATA.
        url: a mirror: the address that holds the official files. Checksums hold for it too.
        sha256: for a set without a published checksum: the one its file must have.
        report: called with the progress.

    Returns:
        Whether anything was fetched.

    Raises:
        InputError: if the name is unknown, or the file cannot be fetched, has another checksum or cannot be written.
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
            f"{name}: no checksum of {wanted} is published, so the file could not be checked: give --sha256 of a "
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
        lock = open(work / "lock", "ab")  # noqa: SIM115 (open until the end)
    except OSError as error:
        raise InputError(f"cannot write {work}: {reason(error)}") from None
    with lock:
        if not _locked(lock.fileno()):
            raise InputError(f"{work}: another process is fetching {name}; wait for it")
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
    """A progress bar for pooch: reports how much has arrived, and stops an endless download."""

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
        InputError: if it cannot be fetched, or has another checksum; nothing of it is kept then.
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
            answer = f"{response.status_code} {response.reason}"
            raise InputError(f"{address}: the server answers {answer}; {mirror}") from None
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
            f"{address}: the file is not the official one, whose {algorithm.upper()} is {value}; nothing of it "
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
