"""Merging is a union, all or nothing, and leaves its sources alone."""

import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.results_files import changed, content, made, sound, task, trials, value
from helpers.results_worker import block

from crossbar_sim import InputError
from crossbar_sim.store.records import Task, Trial
from crossbar_sim.store.results import MergeReport, Results, merge


def part(path: Path, one: Task, rows: list[Trial], **details: object) -> Path:
    with Results.open(path) as results:
        results.add_task(one)
        results.add(one.id, rows)
        for name, what in details.items():
            results.set_detail(one.id, name, what)
    return path


def everything(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_the_union_of_parts_is_the_whole(tmp_path: Path) -> None:
    rows, one, two = trials(chips=6), task("one"), task("two", seed=2)
    a = part(tmp_path / "a.db", one, rows[:8], sensitivity=[1])
    b = part(tmp_path / "b.db", one, rows[5:], sensitivity=[1], conductances={"x": 2})
    part(b, two, rows)
    before = everything(tmp_path)
    report = merge([a, b], tmp_path / "all.db")
    assert report == MergeReport(tasks=2, trials=36, new_tasks=2, new_trials=36)
    whole = part(tmp_path / "whole.db", one, rows, sensitivity=[1], conductances={"x": 2})
    part(whole, two, rows)
    assert content(tmp_path / "all.db") == content(whole)
    after = everything(tmp_path)
    assert {name: after[name] for name in before} == before
    assert set(after) == {"a.db", "b.db", "all.db", "whole.db"}
    assert sound(tmp_path / "all.db")


def test_order_and_repetition_do_not_matter(tmp_path: Path) -> None:
    rows = trials(chips=6)
    names = [part(tmp_path / f"{i}.db", task(), rows[3 * i : 3 * i + 5]) for i in range(5)]
    merge(names, tmp_path / "a.db")
    merge([*names[::-1], *names, tmp_path / "a.db"], tmp_path / "b.db")
    assert merge(names, tmp_path / "a.db") == MergeReport(1, 17, 0, 0)
    assert content(tmp_path / "a.db") == content(tmp_path / "b.db")


def test_an_output_that_is_there_takes_part(tmp_path: Path) -> None:
    rows = trials(chips=6)
    a, b = part(tmp_path / "a.db", task(), rows[:8]), part(tmp_path / "b.db", task(), rows[5:])
    mode = b.chmod(0o600) or b.stat().st_mode
    assert merge([a, b], b) == MergeReport(1, 18, 0, 5)
    assert b.stat().st_mode == mode
    assert len(content(a)[task().id][4]) == 8


@pytest.mark.parametrize("there", [False, True])
def test_a_disagreement_names_the_row_and_both_files(tmp_path: Path, there: bool) -> None:
    rows, output = trials(), tmp_path / "all.db"
    a = part(tmp_path / "a.db", task(), rows[:3])
    b = part(tmp_path / "b.db", task(), rows[3:])
    c = part(tmp_path / "c.db", task(), [*rows[:6], Trial(0.1, 2, 0.25, 10000)])
    if there:
        part(output, task(), rows[9:])
    before = everything(tmp_path)
    with pytest.raises(InputError) as caught:
        merge([a, b, c], output)
    said = str(caught.value)
    for word in (
        str(b),
        str(c),
        "'erm'",
        "sigma 0.1",
        "chip 2",
        repr(value(0.1, 2)),
        "0.25",
        "nothing was written",
    ):
        assert word in said
    assert str(a) not in said
    after = everything(tmp_path)
    assert after.pop("all.db", b"")[100:] == before.pop("all.db", b"")[100:]  # less SQLite's own counters
    assert after == before


def test_a_disagreement_with_the_output_names_it(tmp_path: Path) -> None:
    a, output = part(tmp_path / "a.db", task(), trials()), tmp_path / "all.db"
    part(output, task(), [Trial(0.1, 2, 0.25, 10000)])
    with pytest.raises(InputError, match=rf"{output} and {a} disagree"):
        merge([a], output)


def test_clean_scores_and_details_that_disagree(tmp_path: Path) -> None:
    a = part(tmp_path / "a.db", task(), trials(), sensitivity=[1])
    b = part(tmp_path / "b.db", task(), trials(), sensitivity=[2])
    c = part(tmp_path / "c.db", task(clean=0.5), trials())
    with pytest.raises(InputError, match=r"a\.db and .*b\.db disagree: .*sensitivity is \[1\] and now \[2\]"):
        merge([a, b], tmp_path / "all.db")
    with pytest.raises(InputError, match=r"b\.db and .*c\.db disagree: .*clean score 0\.9703 and now 0\.5"):
        merge([b, c], tmp_path / "all.db")
    assert not (tmp_path / "all.db").exists()


def test_files_that_cannot_be_merged(tmp_path: Path) -> None:
    a = part(tmp_path / "a.db", task(), trials())
    other = changed(tmp_path / "other.db", "CREATE TABLE x (y)")
    (tmp_path / "text.db").write_text("no results\n" * 100)
    (tmp_path / "gone.db-wal").write_bytes(b"x" * 5000)
    before = everything(tmp_path)
    for sources, output, words in (
        ([], "all.db", "nothing to merge"),
        ([a, "none.db"], "all.db", "none.db: there is no such file"),
        ([a, other], "all.db", "not of crossbar-sim results"),
        ([a], "other.db", "not of crossbar-sim results"),
        ([a], "text.db", "not an SQLite file"),
        ([a], "", "is a directory"),
        ([a], "no/all.db", "cannot write"),
        ([a], "gone.db", "gone.db-wal of it is"),
    ):
        with pytest.raises(InputError, match=words):
            merge([tmp_path / s for s in sources], tmp_path / output)
    with pytest.raises(InputError, match="is no file"):
        merge([a], ":memory:")
    assert everything(tmp_path) == before


def test_what_a_killed_run_left_is_merged_whole(tmp_path: Path) -> None:
    live = made(tmp_path / "live.db")
    with Results.open(live) as results:
        results.add(task().id, block(0))
        for end in ("", "-wal"):
            shutil.copyfile(f"{live}{end}", tmp_path / f"killed.db{end}")
    before = {end: Path(f"{tmp_path / 'killed.db'}{end}").read_bytes() for end in ("", "-wal")}
    merge([tmp_path / "killed.db"], tmp_path / "all.db")
    assert content(tmp_path / "all.db") == content(live)
    assert {end: Path(f"{tmp_path / 'killed.db'}{end}").read_bytes() for end in ("", "-wal")} == before


@pytest.mark.parametrize("there", [False, True])
def test_a_full_disk(tmp_path: Path, there: bool) -> None:
    a, output = made(tmp_path / "a.db", chips=500), tmp_path / "all.db"
    if there:
        made(output)
    before = content(output) if there else {}

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    code = "import sys; from crossbar_sim.cli import run; sys.exit(run(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "merge", str(a), "-o", str(output)],
        capture_output=True, text=True, preexec_fn=limit, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: cannot use {output}: ")
    assert sorted(os.listdir(tmp_path)) == ["a.db", "all.db"][: 1 + there]
    assert (content(output) if there else {}) == before
