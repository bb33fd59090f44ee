import io
import shutil
import tarfile
import zipfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crossbar_sim.data.fetch import unpack
from crossbar_sim.errors import InputError

Make = Callable[..., Path]


def tarred(path: Path, *members: Any) -> Path:
    """A .tar.gz of (name, content) and TarInfos."""
    with tarfile.open(path, "w:gz") as opened:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                opened.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            opened.addfile(info, io.BytesIO(member[1]))
    return path


def zipped(path: Path, *members: Any) -> Path:
    """A .zip of (name or ZipInfo, content)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members:
            opened.writestr(name, content)
    return path


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (tmp_path / "deep" / "into").mkdir(parents=True)
    return tmp_path / "deep" / "into"


def refused(archive: Path, into: Path, says: str) -> None:
    def outside() -> set[Path]:
        return {path for path in archive.parent.rglob("*") if into not in path.parents}

    before = outside()
    with pytest.raises(InputError, match=says) as caught:
        unpack(archive, into)
    assert "\n" not in str(caught.value)
    assert outside() == before
    assert not any(path.is_symlink() for path in into.rglob("*"))


@pytest.mark.parametrize(("make", "name"), [(tarred, "a.tar.gz"), (zipped, "a.zip")])
def test_files_and_folders_are_written(tmp_path: Path, into: Path, make: Make, name: str) -> None:
    unpack(make(tmp_path / name, ("a/b/c.txt", b"one"), ("./d.txt", b""), ("a/e", b"x" * 100_000)), into)
    assert {str(path.relative_to(into)): path.read_bytes() for path in into.rglob("*") if path.is_file()} == {
        "a/b/c.txt": b"one",
        "d.txt": b"",
        "a/e": b"x" * 100_000,
    }


OUT = ["../x", "../../x", "a/../../x", "/tmp/x_of_a_test", "..", "a\\..\\..\\x", "C:/x", "/"]


@pytest.mark.parametrize(("make", "suffix"), [(tarred, ".tar.gz"), (zipped, ".zip")])
@pytest.mark.parametrize("name", OUT)
def test_names_that_lead_out_are_refused(
    tmp_path: Path, into: Path, make: Make, suffix: str, name: str
) -> None:
    refused(
        make(tmp_path / f"a{suffix}", ("fine", b"1"), (name, b"2")), into, "leads out|is refused|cannot be"
    )
    assert not Path("/tmp/x_of_a_test").exists()


def test_links_and_devices_are_refused(tmp_path: Path, into: Path) -> None:
    for kind, target in (
        (tarfile.SYMTYPE, "/etc"), (tarfile.SYMTYPE, "../../x"), (tarfile.SYMTYPE, "fine"),
        (tarfile.LNKTYPE, "/etc/passwd"), (tarfile.FIFOTYPE, ""), (tarfile.CHRTYPE, ""),
    ):  # fmt: skip
        info = tarfile.TarInfo("member")
        info.type, info.linkname = kind, target
        refused(tarred(tmp_path / "a.tar.gz", info, ("member/x", b"1")), into, "link or device.*refused")
    link = zipfile.ZipInfo("member")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    refused(zipped(tmp_path / "a.zip", (link, "/etc")), into, "link or device.*refused")


def test_a_name_given_twice_is_refused(tmp_path: Path, into: Path) -> None:
    refused(tarred(tmp_path / "a.tar.gz", ("a", b"1"), ("a", b"2")), into, "twice")
    refused(tarred(tmp_path / "a.tar.gz", ("b", b"1"), ("b/c", b"2")), into, "twice|cannot write|cannot be")


def test_bombs_are_refused_before_they_fill_the_disk(
    tmp_path: Path, into: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zipped(tmp_path / "a.zip", ("a", b"\0" * 1_000_000))
    raw = bytearray(archive.read_bytes())
    at = raw.index(b"PK\x01\x02") + 24  # uncompressed size in the central directory
    raw[at : at + 4] = (2**31).to_bytes(4, "little")
    archive.write_bytes(raw)
    refused(archive, into, "more than the disk or its own")
    info = tarfile.TarInfo("a")
    info.size = 2**45
    refused(tarred(tmp_path / "a.tar.gz", info), into, "more than the disk or its own")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1, 1, 999))
    refused(zipped(tmp_path / "b.zip", ("a", b"x" * 1000)), into, "more than the disk")


def test_damaged_archives_are_refused(tmp_path: Path, into: Path) -> None:
    for name, make in (("a.zip", zipped), ("a.tar.gz", tarred)):
        good = make(tmp_path / name, ("a/b", bytes(range(256)) * 40)).read_bytes()
        for content in (b"", b"hello", good[: len(good) // 2], good[: len(good) * 3 // 4]):
            (tmp_path / name).write_bytes(content)
            shutil.rmtree(into / "a", ignore_errors=True)
            refused(tmp_path / name, into, "cannot be unpacked|ends early|twice")
    refused(tmp_path / "none.zip", into, "no such file")
