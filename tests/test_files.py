import errno
import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from crossbar_sim.errors import InputError
from crossbar_sim.files import check_writable, opened_table, replacing, write_json, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_is_written_and_replaced(tmp_path: Path):
    path = tmp_path / "report.json"
    write_text(path, "eins µ")
    assert path.read_bytes() == "eins µ".encode()
    write_text(path, "two")
    assert path.read_text() == "two"
    assert names(tmp_path) == ["report.json"]


def test_until_the_end_the_old_file_is_there_whole(tmp_path: Path):
    path = tmp_path / "out.txt"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("ne")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path
        assert temporary.name.startswith(".")
    assert path.read_text() == "ne"


@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), OSError(28, "No space left on device"), KeyboardInterrupt()]
)
def test_any_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException):
    path = tmp_path / "out.txt"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("new")
            raise error

    expected = InputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:
        fail()
    if expected is InputError:
        assert "No space left on device" in str(caught.value)
        assert str(path) in str(caught.value)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["out.txt"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_an_error_over_the_error_of_a_full_disk_says_that_it_is_full(tmp_path: Path, number: int):
    def stumble() -> None:
        with replacing(tmp_path / "out.pdf"):
            try:
                raise OSError(number, os.strerror(number))
            finally:
                None.pos  # type: ignore[attr-defined]  # noqa: B018

    with pytest.raises(InputError, match=os.strerror(number)):
        stumble()
    with pytest.raises(AttributeError), replacing(tmp_path / "out.pdf"):  # any other is a defect
        None.pos  # type: ignore[attr-defined]  # noqa: B018
    assert names(tmp_path) == []


WRITER = """
import sys
from crossbar_sim.files import replacing
with replacing(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print(temporary.name, flush=True)
    sys.stdin.read()
"""


def writing(path: Path) -> tuple[subprocess.Popen[str], str]:
    """A process that has begun to write a file, and the name of its temporary one."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path):
    path, other = tmp_path / "chip.h5", tmp_path / "chip.h5.h5"
    (dead, left), (alive, its), (stranger, strange) = writing(path), writing(path), writing(other)
    try:
        for process in (dead, stranger):
            process.kill()
            process.wait()
        (tmp_path / f"{left}-wal").touch()  # what SQLite has beside a file
        for mine in (".chip.h5.notes", ".chip.h5.abcdefgh.h5", its.replace(its.split(".")[3][:8], "0" * 8)):
            (tmp_path / mine).touch()  # no temporary file, or that of another machine
        write_text(path, "whole")
        expected = {".chip.h5.notes", ".chip.h5.abcdefgh.h5", its, strange, "chip.h5"}
        assert expected < {*names(tmp_path)}
        assert left not in names(tmp_path)
        assert f"{left}-wal" not in names(tmp_path)
        alive.communicate("")
        assert (path.read_text(), its in names(tmp_path)) == ("half", False)
        write_text(other, "whole")
        assert strange not in names(tmp_path)
    finally:
        for process in (dead, alive, stranger):
            process.kill()
            process.communicate()


def test_the_number_of_a_dead_process_that_another_has_now(tmp_path: Path):
    """This process is alive, but it did not start when that one did."""
    path = tmp_path / "chip.h5"
    with replacing(path) as temporary:
        mine = temporary.name
    started = mine.split("-")[2]
    if not started:
        pytest.skip("no /proc here")
    (tmp_path / mine).touch()
    (tmp_path / mine.replace(f"-{started}-", f"-{'0' * len(started)}-")).touch()
    write_text(path, "whole")
    assert names(tmp_path) == [mine, "chip.h5"]


def test_a_new_file_has_the_rights_that_the_umask_gives(tmp_path: Path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "new", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640


def test_a_replaced_file_keeps_its_rights(tmp_path: Path):
    path = tmp_path / "shared"
    path.write_text("old")
    path.chmod(0o664)
    write_text(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o664


def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_text("old")
    link.symlink_to(real)
    write_text(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"


def test_the_longest_name_that_the_file_system_takes(tmp_path: Path):
    path = tmp_path / ("ä" * 100 + "b" * 50 + ".json")
    check_writable(path)
    write_text(path, "x")
    assert path.read_text() == "x"


def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path):
    path, heard = tmp_path / "pipe", []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: heard.append(path.read_text()))
    reader.start()
    check_writable(path, stream=True)
    write_text(path, "hello")
    reader.join(10)
    assert heard == ["hello"]
    assert stat.S_ISFIFO(path.stat().st_mode)


def test_a_device_is_written_to_and_not_replaced():
    write_text("/dev/null", "x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(InputError, match="No space left"):
        write_text("/dev/full", "x")
    check_writable("/dev/null", stream=True)
    with pytest.raises(InputError, match="not a regular file"):
        check_writable("/dev/null")
    with pytest.raises(InputError, match="not a regular file"), replacing("/dev/null"):
        pass


@pytest.mark.parametrize(
    "write", [check_writable, lambda path: write_text(path, "x")], ids=["check", "write"]
)
def test_what_cannot_be_written_to(tmp_path: Path, write):
    (tmp_path / "file").write_text("old")
    for path, why in (
        (tmp_path, "is a directory"),
        ("", "is a directory"),
        (tmp_path / "file" / "out", "director"),
        (tmp_path / "missing" / "out", "director"),
        (tmp_path / ("a" * 300), "too long"),
        ("/proc/out.json", "cannot write"),
        ("a\0b", "null byte"),
    ):
        with pytest.raises(InputError, match=why) as caught:
            write(path)
        assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "old"


def test_checking_leaves_no_trace(tmp_path: Path):
    check_writable(tmp_path / "out")
    assert names(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_protected_files_and_folders_are_refused(tmp_path: Path):
    path = tmp_path / "out"
    path.write_text("old")
    path.chmod(0o444)
    with pytest.raises(InputError, match="write-protected"):
        check_writable(path)
    tmp_path.chmod(0o555)
    with pytest.raises(InputError, match="Permission denied"):
        check_writable(tmp_path / "other")
    tmp_path.chmod(0o755)


def test_json_goes_to_a_file_to_standard_output_or_nowhere(tmp_path: Path, capsys):
    path = tmp_path / "report.json"
    write_json(str(path), {"a": [1, 0.5]})
    write_json("-", {"a": [1, 0.5]})
    assert capsys.readouterr().out == path.read_text()
    assert json.loads(path.read_text()) == {"a": [1, 0.5]}
    write_json(None, {"a": 2})
    assert (names(tmp_path), capsys.readouterr().out) == (["report.json"], "")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(str(path), {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": [1, 0.5]}


@pytest.mark.parametrize(
    ("make", "piece"),
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.mkdir(), "not a regular file"),
        (lambda path: path.write_bytes(b"1,\xff\n"), "is not UTF-8 text"),
        (lambda path: path.write_bytes(b"1" * (2**20 + 1)), "has 1 MiB: a table has at most 1 MiB"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_sentence(tmp_path: Path, make, piece):
    make(path := tmp_path / "table.csv")
    with pytest.raises(InputError, match=piece) as refused, opened_table(path, 2**20) as file:
        file.read()
    assert "\n" not in str(refused.value)


def test_a_table_is_read_with_its_lines_as_they_end(tmp_path: Path):
    (path := tmp_path / "table.csv").write_bytes(b"\xef\xbb\xbf1,2\r\n3,4\n")
    with opened_table(path, 2**20) as file:
        assert file.read() == "1,2\r\n3,4\n"
