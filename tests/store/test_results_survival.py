"""Nothing that was written is lost: kills, two writers, full disks, folders that cannot be written."""

import os
import random
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from helpers.results_files import content, made, sound, task, trials
from helpers.results_worker import BLOCK, block

from crossbar_sim import InputError
from crossbar_sim.search.study_file import StudyFile
from crossbar_sim.store import sqlite
from crossbar_sim.store.results import Results

WORKER = str(Path(__file__).parents[1] / "helpers" / "results_worker.py")
KILLS = 8
"""Of each file."""


def start(path: Path, blocks: int, limit: int = 0, first: int = 0) -> subprocess.Popen[str]:
    arguments = [sys.executable, WORKER, str(path), str(blocks), str(limit), str(first)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def said(process: subprocess.Popen[str], earlier: str = "") -> tuple[set[int], str]:
    """The blocks that it acknowledged, and its last line."""
    assert process.stdout is not None
    lines = (earlier + process.stdout.read()).split("\n")
    process.stdout.close()
    process.wait()
    whole = lines[:-1]  # a line without its end may be half a number
    return {int(line) for line in whole if line.isdigit()}, whole[-1] if whole else ""


def killed(path: Path, draw: random.Random) -> set[int]:
    """Kill a worker while it opens the file or writes; the blocks that it acknowledged."""
    process = start(path, 100_000)
    assert process.stdout is not None
    heard = process.stdout.readline()  # "opening"
    if draw.random() < 0.6:
        heard += process.stdout.readline()  # the first block
    time.sleep(0.02 * draw.random())
    process.send_signal(signal.SIGKILL)
    return said(process, heard)[0]


def blocks_in(path: Path) -> set[int]:
    """The blocks in the file, each of them whole."""
    with Results.open(path, readonly=True) as results:
        rows = {trial.place: trial for trial in results.trials(task().id)} if results.tasks() else {}
    found = {chip // BLOCK for _, chip, _ in rows}
    assert len(rows) == BLOCK * len(found)
    assert all(rows[trial.place] == trial for number in found for trial in block(number))
    return found


@pytest.mark.parametrize("seed", range(5))
def test_kills_at_random_moments_lose_nothing(tmp_path: Path, seed: int) -> None:
    """A file lives through several, some of them while it is being made or opened."""
    path, draw, acknowledged = tmp_path / "runs.db", random.Random(seed), set()
    for _ in range(KILLS):
        acknowledged |= killed(path, draw)
        if not path.exists() or not path.stat().st_size:
            assert not acknowledged
            continue
        with suppress(InputError):  # killed before there were tables; a writer takes it as new
            found = set()
            found = blocks_in(path)
        assert acknowledged <= found
        assert sound(
            shutil.copytree(tmp_path, tmp_path.parent / f"copy{seed}", dirs_exist_ok=True) / "runs.db"
        )
        shutil.rmtree(tmp_path.parent / f"copy{seed}")
    assert len(acknowledged) > KILLS // 2
    last = max(found) + 3
    assert said(start(path, last))[1] == "done"  # and in the end it is as if nothing had been
    made_at_once = tmp_path.parent / f"whole{seed}.db"
    assert said(start(made_at_once, last))[1] == "done"
    assert content(path) == content(made_at_once)
    assert sound(path)
    assert os.listdir(tmp_path) == ["runs.db"]


def test_two_processes_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    both = [start(path, 150), start(path, 150, first=100)]  # 50 blocks are written by both
    assert [said(process)[1] for process in both] == ["done", "done"]
    assert blocks_in(path) == set(range(250))
    assert sound(path)


def test_opening_and_closing_at_once(tmp_path: Path) -> None:
    """Each close tries to leave one file, while others are about to write."""
    path = tmp_path / "runs.db"
    code = (
        "import sys; from helpers.results_worker import work\n"
        "for i in range(15): work(sys.argv[1], 1, 15 * int(sys.argv[2]) + i)"
    )
    everywhere = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(WORKER).parent)])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path), str(i)], stdout=subprocess.PIPE, env=everywhere
        )
        for i in range(3)
    ]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    assert blocks_in(path) == set(range(45))
    assert sound(path)
    assert os.listdir(tmp_path) == ["runs.db"]


def test_several_processes_make_one_file(tmp_path: Path) -> None:
    """Whoever comes while another is making the tables waits for them."""
    code = (
        "import sys; from crossbar_sim.store.results import Results\n"
        "for i in range(60):\n    with Results.open(f'{sys.argv[1]}/{i}.db'): pass"
    )
    everywhere = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], env=everywhere) for _ in range(3)
    ]
    assert [process.wait(120) for process in processes] == [0, 0, 0]


def test_a_second_writer_waits_and_then_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = made(tmp_path / "runs.db")
    monkeypatch.setattr(sqlite, "BUSY", 0.2)
    with Results.open(path) as one, Results.open(path) as two, one.transaction():
        with pytest.raises(InputError, match="being written by another process"):
            two.add(task().id, trials(chips=9))
        assert len(two.trials(task().id)) == 12  # reading never waits
    assert len(content(path)) == 1


@pytest.mark.parametrize("limit", [60_000, 150_000, 400_000])
def test_a_full_disk_keeps_what_was_written(tmp_path: Path, limit: int) -> None:
    """No file may grow beyond a size: a write fails as on a full disk, at any place of any file."""
    path = tmp_path / "runs.db"
    process = start(path, 100_000, limit)
    acknowledged, last = said(process)
    assert process.returncode == 2
    assert last.startswith(f"refused: cannot use {path}: disk I/O error")
    assert last.endswith("what was written before is kept")
    assert acknowledged
    assert blocks_in(path) == acknowledged
    more = start(path, max(acknowledged) + 2)  # with room again it goes on
    assert said(more)[1] == "done"
    assert blocks_in(path) == set(range(max(acknowledged) + 2))


def test_a_full_disk_is_told_by_its_name(tmp_path: Path) -> None:
    path = made(tmp_path / "runs.db")
    before = content(path)
    with Results.open(path) as results:
        results._connection.execute("PRAGMA max_page_count = 1")  # SQLite's own way to be full
        with pytest.raises(
            InputError, match=r"cannot write .*: the disk is full; what was written before is kept"
        ):
            results.add(task().id, trials(chips=2000))
        assert results.trials(task().id) == tuple(trials())
    assert content(path) == before


def test_a_file_that_is_removed_or_replaced_is_not_written(tmp_path: Path) -> None:
    path, other = made(tmp_path / "runs.db"), made(tmp_path / "other.db", task("other", seed=3))
    with Results.open(path) as results:
        path.unlink()
        with pytest.raises(InputError, match="was removed or replaced while it was open"):
            results.add(task().id, trials(chips=9))
        other.rename(path)
        with pytest.raises(InputError, match="was removed or replaced while it was open"):
            results.add(task().id, trials(chips=9))


def interrupted(folder: Path) -> Path:
    """A file as a killed run leaves it: most of it in its -wal."""
    live = made(folder / "live.db")
    with Results.open(live) as results:
        results.add(task().id, trials(chips=50))
        for end in ("", "-wal"):
            shutil.copyfile(f"{live}{end}", folder / f"runs.db{end}")
    live.unlink()
    return folder / "runs.db"


def unprivileged(path: Path) -> subprocess.CompletedProcess[str]:
    """Read the file as a user who may not write its folder."""
    code = (
        "import os, sys; from crossbar_sim.store.results import Results\n"
        "if os.getuid() == 0: os.setuid(65534)\n"
        "with Results.open(sys.argv[1], readonly=True) as results:\n"
        "    print(len(results.trials(results.tasks()[0].id)))\n"
        "try: Results.open(sys.argv[1])\n"
        "except ValueError as error: print(error)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("kind", ["finished", "in WAL mode", "interrupted"])
def test_a_folder_that_cannot_be_written_can_be_read(kind: str) -> None:
    folder = Path(tempfile.mkdtemp(prefix="crossbar-results-"))  # tmp_path is closed to other users
    try:
        path = interrupted(folder) if kind == "interrupted" else made(folder / "runs.db")
        if kind == "in WAL mode":
            connection = sqlite3.connect(path)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.close()
        names = {p.name: p.read_bytes() for p in folder.iterdir()}
        folder.chmod(0o555)
        done = unprivileged(path)
        assert done.stderr == ""
        trials_read, refused = done.stdout.splitlines()
        assert trials_read == ("150" if kind == "interrupted" else "12")
        assert "write-protected" in refused
        assert {p.name: p.read_bytes() for p in folder.iterdir()} == names
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_where_memory_cannot_be_shared_there_is_a_rollback_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's dot-file VFS has no shared memory, as some network file systems."""
    uri = sqlite._uri
    monkeypatch.setattr(sqlite, "_uri", lambda path, mode: f"{uri(path, mode)}&vfs=unix-dotfile")
    path = made(tmp_path / "runs.db")
    with Results.open(path) as results:
        assert results._connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
        assert results._connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        results.add(task().id, trials(chips=5))
    assert len(content(path)[task().id][4]) == 15


def test_a_write_ahead_log_without_its_file_is_not_thrown_away(tmp_path: Path) -> None:
    path = interrupted(tmp_path)
    path.unlink()
    with pytest.raises(InputError, match=r"runs\.db is not there, but .*runs\.db-wal of it is"):
        Results.open(path)
    assert Path(f"{path}-wal").stat().st_size > 0


def half_done(path: Path) -> Path:
    """A copy of a file in the middle of a transaction that a rollback journal keeps, as kill -9 leaves it."""
    live = path.with_name("live.db")
    path.rename(live)
    connection = sqlite3.connect(live, isolation_level=None)
    for statement in ("PRAGMA journal_mode = DELETE", "PRAGMA cache_size = 1", "BEGIN IMMEDIATE"):
        connection.execute(statement)
    connection.execute("CREATE TABLE half (a)")
    for _ in range(200):  # more than the cache takes: pages of the file are overwritten
        connection.execute("INSERT INTO half VALUES (zeroblob(500))")
    for end in ("", "-journal"):
        shutil.copyfile(f"{live}{end}", f"{path}{end}")
    connection.execute("ROLLBACK")
    connection.close()
    live.unlink()
    return path


def names_a_file(path: Path, victim: Path) -> None:
    """Make a journal one of a transaction over several files, which SQLite deletes the record of."""
    name = os.fsencode(victim)
    journal = Path(f"{path}-journal")
    super_journal = name + struct.pack(">II", len(name), sum(name)) + journal.read_bytes()[:8]
    journal.write_bytes(journal.read_bytes() + struct.pack(">I", (1 << 30) // 4096 + 1) + super_journal)


def asks_for_pages(path: Path, victim: Path) -> None:
    journal = Path(f"{path}-journal")
    content = bytearray(journal.read_bytes())
    content[16:20] = struct.pack(">I", 1 << 30)
    journal.write_bytes(content)


def is_no_journal(path: Path, victim: Path) -> None:
    Path(f"{path}-journal").write_text("my notes about runs.db")


def links(end: str) -> Callable[[Path, Path], None]:
    def link(path: Path, victim: Path) -> None:
        Path(f"{path}{end}").unlink(missing_ok=True)
        Path(f"{path}{end}").symlink_to(victim)

    return link


def open_results(path: Path) -> None:
    Results.open(path).close()


def read_results(path: Path) -> None:
    Results.open(path, readonly=True).close()


def open_study(path: Path) -> None:
    StudyFile(path, {"a": 1}).close()


OPENERS = pytest.mark.parametrize("opener", [open_results, read_results, open_study])


@OPENERS
@pytest.mark.parametrize(
    ("hostile", "words"),
    [
        (names_a_file, "runs.db-journal names another file, which SQLite would delete"),
        (asks_for_pages, "runs.db-journal asks for 1073741824 pages"),
        (is_no_journal, "runs.db-journal is not a journal of SQLite"),
        (links("-journal"), "runs.db-journal is not a regular file"),
        (links("-wal"), "runs.db-wal is not a regular file"),
        (links("-shm"), "runs.db-shm is not a regular file"),
    ],
)
@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_journal_from_elsewhere_is_refused_before_sqlite_acts_on_it(
    tmp_path: Path,
    opener: Callable[[Path], None],
    hostile: Callable[[Path, Path], None],
    words: str,
    through_a_link: bool,
) -> None:
    path, victim = tmp_path / "runs.db", tmp_path / "victim"
    opener(path) if opener is open_study else made(path)
    half_done(path)
    victim.write_text("precious")
    hostile(path, victim)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    if through_a_link:
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "other.db").symlink_to(path)
    with pytest.raises(InputError, match=words):
        opener(tmp_path / "folder" / "other.db" if through_a_link else path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


@OPENERS
def test_a_journal_that_a_killed_writer_left_is_rolled_back(
    tmp_path: Path, opener: Callable[[Path], None]
) -> None:
    """The negative control of the test above: our own journals pass, and the half transaction is gone."""
    path = tmp_path / "runs.db"
    opener(path) if opener is open_study else made(path)
    half_done(path)
    opener(path)  # which refuses tables that are not ours
    if opener is not open_study:
        assert len(content(path)[task().id][4]) == 12
    assert Path(f"{path}-journal").exists() == (opener is read_results)
