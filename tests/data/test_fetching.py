"""Fetching, from a server of this machine that behaves well or badly. Nothing leaves the machine."""

import functools
import gzip
import hashlib
import http.server
import io
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crossbar_sim.data import load_data, load_pennfudan, make_pedestrians
from crossbar_sim.data.fetch import SOURCES, Resource, Source, fetch
from crossbar_sim.errors import InputError

MNIST = [resource.file for resource in SOURCES["mnist"].resources]


class Server(http.server.ThreadingHTTPServer):
    """Serves bytes by name; a name in `cut` ends after half of what was promised, one in `slow` waits."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.files: dict[str, bytes] = {}
        self.cut: set[str] = set()
        self.slow: set[str] = set()
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/sets/"


class _Answers(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        self.server.asked.append(self.path)
        content = self.server.files.get(name)
        if content is None or not self.path.startswith("/sets/"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        half = len(content) // 2 if name in self.server.cut | self.server.slow else len(content)
        self.wfile.write(content[:half])
        self.wfile.flush()
        if name in self.server.slow:
            time.sleep(20)
        if name in self.server.cut:
            self.connection.close()

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "*")
    made = Server()
    thread = threading.Thread(target=functools.partial(made.serve_forever, 0.05), daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def md5(content: bytes) -> str:
    return f"md5:{hashlib.md5(content).hexdigest()}"


@pytest.fixture
def small(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    write_mnist: Callable, write_cifar10: Callable, write_gtsrb: Callable,
) -> Server:  # fmt: skip
    """Small mnist, cifar10, gtsrb and pennfudan on the server, with checksums to match."""
    origin = tmp_path / "origin"
    write_mnist(origin / "raw", packed=True)
    server.files = {name: (origin / "raw" / name).read_bytes() for name in MNIST}
    write_cifar10(origin / "cifar-10-batches-py")
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.add(origin / "cifar-10-batches-py", "cifar-10-batches-py")
    server.files["cifar-10-python.tar.gz"] = stream.getvalue()
    write_gtsrb(origin)
    table = "GTSRB/Final_Test/Images/GT-final_test.csv"
    server.files["GTSRB_Final_Training_Images.zip"] = packed(origin, "GTSRB/Final_Training")
    content = (origin / table).read_bytes()
    (origin / table).unlink()
    server.files["GTSRB_Final_Test_Images.zip"] = packed(origin, "GTSRB/Final_Test")
    (origin / "GT-final_test.csv").write_bytes(content)
    server.files["GTSRB_Final_Test_GT.zip"] = packed(origin, "GT-final_test.csv")
    make_pedestrians(origin, 8, height=32)
    server.files["PennFudanPed.zip"] = packed(origin, "PennFudanPed")
    for name in ("mnist", "cifar10", "gtsrb", "pennfudan"):
        point(monkeypatch, server, name)
    return server


def point(monkeypatch: pytest.MonkeyPatch, server: Server, name: str) -> None:
    """Let the registry know the server's files and not the official ones."""
    resources = tuple(
        Resource(r.file, None if r.checksum is None else md5(server.files[r.file]), r.place, r.member)
        for r in SOURCES[name].resources
    )
    monkeypatch.setitem(SOURCES, name, Source(server.url, resources, "none"))


def packed(root: Path, below: str) -> bytes:
    stream = io.BytesIO()
    start = root / below
    with zipfile.ZipFile(stream, "w") as archive:
        for path in [start] if start.is_file() else sorted(start.rglob("*")):
            archive.write(path, path.relative_to(root))
    return stream.getvalue()


def refused(name: str, root: Path, says: str, **options: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        fetch(name, root, **options)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", ["mnist", "cifar10", "gtsrb"])
def test_what_is_fetched_can_be_loaded_and_is_fetched_once(small: Server, tmp_path: Path, name: str) -> None:
    root = tmp_path / "new" / "data"
    seen: dict[str, tuple[int, int]] = {}
    assert fetch(name, root, report=lambda file, done, total: seen.update({file: (done, total)}))
    assert load_data(name, root).name == name
    asked = len(small.asked)
    assert (
        {path.rsplit("/", 1)[-1] for path in small.asked}
        == {*seen}
        == {r.file for r in SOURCES[name].resources}
    )
    for file, (done, total) in seen.items():
        assert done == total == len(small.files[file])
    assert not [path for path in root.rglob("*") if path.name.startswith(".") or path.suffix == ".zip"]
    assert fetch(name, root) is False
    assert len(small.asked) == asked


def test_the_official_layouts_are_written(small: Server, tmp_path: Path) -> None:
    for name in ("mnist", "cifar10", "gtsrb"):
        fetch(name, tmp_path / "d")
    assert sorted(path.name for path in (tmp_path / "d").iterdir()) == [
        "GTSRB",
        "MNIST",
        "cifar-10-batches-py",
    ]
    assert sorted(path.name for path in (tmp_path / "d/GTSRB").iterdir()) == [
        "Final_Test",
        "Final_Training",
        "GT-final_test.csv",
    ]
    assert sorted(path.name for path in (tmp_path / "d/MNIST/raw").iterdir()) == sorted(MNIST)


def test_another_file_than_the_official_one_is_not_kept(small: Server, tmp_path: Path) -> None:
    good = small.files[MNIST[1]]
    small.files[MNIST[1]] = gzip.compress(b"something else")
    refused("mnist", tmp_path / "d", r"train-labels.*not the official one, whose MD5 is [0-9a-f]{32}.*--url")
    assert [path.name for path in (tmp_path / "d").rglob("*") if path.is_file()] == [MNIST[0]]
    small.files[MNIST[1]] = good
    small.asked.clear()
    assert fetch("mnist", tmp_path / "d")
    assert len(small.asked) == 3  # the first file was kept: it was whole


def test_a_missing_file_is_one_sentence(small: Server, tmp_path: Path) -> None:
    del small.files["cifar-10-python.tar.gz"]
    refused("cifar10", tmp_path, r"http://127.*cifar-10-python.tar.gz: the server answers 404")
    refused("cifar10", tmp_path, r"404", url=small.url.replace("sets", "nowhere"))


def test_a_connection_that_breaks_leaves_nothing(small: Server, tmp_path: Path) -> None:
    small.cut = {"cifar-10-python.tar.gz"}
    refused("cifar10", tmp_path / "d", "cannot be fetched|not the official one")
    assert not list((tmp_path / "d").rglob("*"))
    small.cut = set()
    assert fetch("cifar10", tmp_path / "d")


def test_no_server_and_no_address_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    for url in ("http://127.0.0.1:9/", "ftp://127.0.0.1/", "nonsense", "", "http://", "http://[::1/"):
        refused("mnist", tmp_path / "d", "cannot be fetched.*--url", url=url)
    assert not [path for path in (tmp_path / "d").rglob("*") if path.is_file()]


def test_a_mirror_is_asked_and_held_to_the_checksums(small: Server, tmp_path: Path) -> None:
    fetch("mnist", tmp_path / "d", url=small.url.rstrip("/"))
    assert small.asked[0] == f"/sets/{MNIST[0]}"
    small.files[MNIST[0]] = b"x"
    refused("mnist", tmp_path / "e", "not the official one", url=small.url)


def test_a_set_without_a_published_checksum_needs_one(small: Server, tmp_path: Path) -> None:
    refused("pennfudan", tmp_path / "d", "no checksum of PennFudanPed.zip is published.*--sha256")
    refused("pennfudan", tmp_path / "d", "64 hexadecimal", sha256="abc")
    refused("pennfudan", tmp_path / "d", "whose SHA256 is 0000", sha256="0" * 64)
    right = hashlib.sha256(small.files["PennFudanPed.zip"]).hexdigest().upper()
    assert fetch("pennfudan", tmp_path / "d", sha256=right)
    assert len(load_pennfudan(tmp_path / "d").test) == 2
    refused("mnist", tmp_path / "d", "built in: leave --sha256 out", sha256=right)


def test_hostile_archives_write_nothing_outside(
    small: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for member, link in (("../../x", ""), ("/tmp/x_of_a_fetch", ""), ("cifar-10-batches-py", "/etc")):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as archive:
            info = tarfile.TarInfo(member)
            info.type, info.linkname = (tarfile.SYMTYPE, link) if link else (tarfile.REGTYPE, "")
            archive.addfile(info)
        small.files["cifar-10-python.tar.gz"] = stream.getvalue()
        point(monkeypatch, small, "cifar10")
        refused("cifar10", tmp_path / "d", "it is refused")
        left = [path.name for path in (tmp_path / "d").rglob("*")]
        assert left in ([".fetch-cifar10", "cifar-10-python.tar.gz"], [])
    assert not Path("/tmp/x_of_a_fetch").exists()
    small.files["cifar-10-python.tar.gz"] = b"no archive"
    point(monkeypatch, small, "cifar10")
    refused("cifar10", tmp_path / "d", "cannot be unpacked")


def test_an_archive_of_something_else_is_refused(
    small: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("other.txt", "x")
    small.files["GTSRB_Final_Training_Images.zip"] = stream.getvalue()
    point(monkeypatch, small, "gtsrb")
    refused("gtsrb", tmp_path / "d", "holds no GTSRB/Final_Training")


def test_names_that_cannot_be_fetched_are_refused(tmp_path: Path) -> None:
    refused("digits", tmp_path, "needs no fetching: it comes with scikit-learn")
    refused("minst", tmp_path, r"did you mean mnist\?.*can be fetched")
    refused("x" * 5000, tmp_path, "unknown data set")


def test_without_a_folder_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CROSSBAR_SIM_DATA", raising=False)
    with pytest.raises(InputError, match="give --data-dir"):
        fetch("mnist")


def test_a_folder_that_cannot_be_written_is_one_sentence(small: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused("mnist", tmp_path / "file" / "d", "cannot write")
    refused("mnist", Path("/proc/nowhere"), "cannot write")


def test_an_endless_file_is_stopped(small: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crossbar_sim.data.fetch.MOST_BYTES", 100)
    refused("cifar10", tmp_path / "d", "longer than 100 bytes")
    assert not [path for path in (tmp_path / "d").rglob("*") if path.is_file()]


def script(server: Server, root: Path, name: str) -> list[str]:
    """A process that fetches from this server."""
    checksums = {r.file: r.checksum for r in SOURCES[name].resources}
    code = textwrap.dedent(f"""
        from pathlib import Path
        from crossbar_sim.data.fetch import SOURCES, Resource, Source, fetch
        checksums = {checksums!r}
        resources = tuple(Resource(r.file, checksums[r.file], r.place, r.member) for r in SOURCES[{name!r}].resources)
        SOURCES[{name!r}] = Source({server.url!r}, resources, "none")
        fetch({name!r}, Path({str(root)!r}))
        """)
    return [sys.executable, "-c", code]


def test_a_killed_fetch_leaves_no_half_set_and_the_next_one_finishes(small: Server, tmp_path: Path) -> None:
    root = tmp_path / "d"
    small.slow = {"GTSRB_Final_Test_Images.zip"}
    process = subprocess.Popen(script(small, root, "gtsrb"), env={**os.environ, "NO_PROXY": "*"})
    deadline = time.monotonic() + 60
    while "/sets/GTSRB_Final_Test_Images.zip" not in small.asked and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    refused("gtsrb", root, "another process is fetching gtsrb")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (root / ".fetch-gtsrb").is_dir()
    assert not (root / "GTSRB" / "Final_Test").exists()
    with pytest.raises(InputError, match="no Final_Test/Images"):
        load_data("gtsrb", root)
    small.slow = set()
    small.asked.clear()
    assert fetch("gtsrb", root)
    assert "/sets/GTSRB_Final_Training_Images.zip" not in small.asked  # was whole already
    assert len(load_data("gtsrb", root).test) == 6
    assert not (root / ".fetch-gtsrb").exists()


def test_no_torch_is_needed_to_fetch() -> None:
    code = (
        "import sys; import crossbar_sim.data.fetch, crossbar_sim.data.catalogue, crossbar_sim.commands.data;"
        "sys.exit('torch' in sys.modules or 'pooch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_checksum_is_one_and_every_place_is_below_the_folder() -> None:
    for source in SOURCES.values():
        assert source.base.startswith(("http://", "https://"))
        for resource in source.resources:
            if resource.checksum is not None:
                algorithm, _, value = resource.checksum.partition(":")
                assert len(value) == {"md5": 32, "sha256": 64}[algorithm]
                assert int(value, 16) >= 0
            assert not Path(resource.place).is_absolute()
            assert ".." not in Path(resource.place).parts


def test_the_checksums_of_mnist_are_those_of_the_real_files_where_they_are_at_hand() -> None:
    folder = Path(os.environ.get("CROSSBAR_SIM_DATA", "/nowhere")) / "MNIST" / "raw"
    checked = 0
    for resource in SOURCES["mnist"].resources:
        path = folder / resource.file
        if path.is_file() and md5(path.read_bytes()) == resource.checksum:
            checked += 1
    if checked == 0:
        pytest.skip("the official gzipped MNIST files are not at hand")
    # One of the four may have been packed again, with the same content and another header.
    assert checked >= 3
