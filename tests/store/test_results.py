"""Results files: what is added is there, once, unchanged, and in order."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.results_files import content, made, task, trials, value

from crossbar_sim import InputError
from crossbar_sim.store.records import Task, Trial, canonical
from crossbar_sim.store.results import Results


def test_what_is_added_is_there(tmp_path: Path) -> None:
    path = tmp_path / "runs.db"
    first, second = task("z"), task("a", seed=1)
    with Results.open(path) as results:
        assert results.tasks() == ()
        for one in (first, second):
            results.add_task(one)
        results.add(first.id, reversed(trials()))
        assert results.path == str(path)
        assert results.trials(second.id) == ()
    assert [p.name for p in tmp_path.iterdir()] == ["runs.db"]  # one file, when a run has ended
    with Results.open(path, readonly=True) as results:
        read = results.tasks()
        assert [t.id for t in read] == [first.id, second.id]
        assert read[0].identity == first.identity
        assert (read[0].label, read[0].clean, read[0].about) == (first.label, first.clean, first.about)
        assert results.trials(first.id) == tuple(trials())
        assert results.trials(first.id)[0].seconds == 0.01
        assert results.places(first.id) == {t.place for t in trials()}
        counts = results.counts(first.id)
        assert [(c.sigma, c.images, c.chips) for c in counts] == [(s, 10000, 4) for s in (0.0, 0.1, 0.6)]
        assert counts[0].mean == pytest.approx(np.mean([value(0.0, c) for c in range(4)]))


def test_the_same_again_changes_nothing(tmp_path: Path) -> None:
    path = made(tmp_path / "runs.db")
    before = content(path)
    with Results.open(path) as results:
        again = Task("renamed", task().identity, task().clean, {"other": 1})
        results.add_task(again)
        results.add(again.id, [Trial(t.sigma, t.chip, t.value, t.images, seconds=9.0) for t in trials()])
    assert content(path) == before


def test_order_of_adding_does_not_matter(tmp_path: Path) -> None:
    rows, one = trials(), task()
    for name, order in (("a.db", rows), ("b.db", rows[::-1]), ("c.db", rows[5:] + rows[:5])):
        with Results.open(tmp_path / name) as results:
            results.add_task(one)
            for trial in order:
                results.add(one.id, [trial])
    assert content(tmp_path / "a.db") == content(tmp_path / "b.db") == content(tmp_path / "c.db")


@pytest.mark.parametrize("other", [Trial(0.1, 2, 0.25, 10000), Trial(0.1, 2, value(0.1, 2), 10000, 1e-5)])
def test_a_disagreement_names_the_row_and_both_values(tmp_path: Path, other: Trial) -> None:
    path = made(tmp_path / "runs.db")
    one, new = task(), Trial(0.1, 99, 0.5, 10000)
    with Results.open(path) as results:
        with pytest.raises(InputError) as caught:
            results.add(one.id, [new, other])
        for part in ("'erm'", one.id[:12], "sigma 0.1", "chip 2", "10000 images", repr(value(0.1, 2))):
            assert part in str(caught.value)
        assert (repr(other.value) if other.value == 0.25 else "variance 1e-05") in str(caught.value)
        assert new.place not in results.places(one.id)  # all or nothing
        results.add(one.id, [new])  # and it goes on


def test_another_clean_score_is_a_disagreement(tmp_path: Path) -> None:
    words = r"has the clean score 0\.9703 and now 0\.9704"
    with Results.open(made(tmp_path / "runs.db")) as results, pytest.raises(InputError, match=words):
        results.add_task(task(clean=0.9704))


def test_details(tmp_path: Path) -> None:
    path, one = made(tmp_path / "runs.db"), task()
    given = {"fc1": [0.1, 1e-300, 3], "µ": None}
    with Results.open(path) as results:
        for _ in range(2):
            results.set_detail(one.id, "sensitivity", given)
        results.set_detail(one.id, "conductances", [])
        with pytest.raises(InputError, match=r"'erm' .*: sensitivity is \{.* and now \[1\]"):
            results.set_detail(one.id, "sensitivity", [1])
        with pytest.raises(InputError, match="cannot be written as JSON"):
            results.set_detail(one.id, "more", float("nan"))
        with pytest.raises(InputError, match="more than 16 MiB"):
            results.set_detail(one.id, "more", "x" * (1 << 24))
    with Results.open(path, readonly=True) as results:
        assert results.details(one.id) == {"sensitivity": given, "conductances": []}


def test_numbers_read_back_to_the_last_bit(tmp_path: Path) -> None:
    one = task()
    hard = [
        5e-324,
        1.7976931348623157e308,
        -1.7976931348623157e308,
        0.1 + 0.2,
        1 / 3,
        -0.0,
        2.0**53 + 2,
        1e22,
    ]
    given = [Trial(v if v >= 0 else 0.0, i, v, 1 + i, abs(v)) for i, v in enumerate(hard)]
    given.append(Trial(0.5, 2**32 - 1, 0.5, 2**63 - 1))
    with Results.open(tmp_path / "runs.db") as results:
        results.add_task(one)
        results.add(one.id, given)
        results.add(one.id, given)
    with Results.open(tmp_path / "runs.db", readonly=True) as results:
        assert set(results.trials(one.id)) == set(given)


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    one = task(clean=np.float64(0.5))
    given = Trial(np.float32(0.1), np.int64(3), np.float32(0.7), np.int32(50), np.float64(0.25))  # type: ignore[arg-type]
    with Results.open(tmp_path / "runs.db") as results:
        results.add_task(one)
        results.add(one.id, [given])
        (read,) = results.trials(one.id)
    assert read == given
    assert [type(v) for v in (read.sigma, read.chip, read.images)] == [float, int, int]


@pytest.mark.parametrize(
    "label", ["", "a\nb\x1b[31m", "µ 模型", "\udcff.pt", "'; DROP TABLE tasks; --", "=1+1"]
)
def test_labels_of_any_kind(tmp_path: Path, label: str) -> None:
    one = Task(label, task().identity, 0.5, {"file": label})
    with Results.open(tmp_path / "runs.db") as results:
        results.add_task(one)
    (read,) = Results.open(tmp_path / "runs.db", readonly=True).tasks()
    assert read.label == label.replace("\udcff", "\\udcff")
    assert read.about == {"file": label}


@pytest.mark.parametrize("name", ["a?b#c%20.db", "µ.db", "file:x.db", "'.db", "a b.db", "x" * 200 + ".db"])
def test_files_of_any_name(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made(Path(name))
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert len(content(Path(name))) == 1


def test_in_memory() -> None:
    with Results.open(":memory:") as results:
        results.add_task(task())
        results.add(task().id, trials())
        assert len(results.trials(task().id)) == 12
    with pytest.raises(InputError, match="is closed"):
        results.tasks()
    results.close()


def test_the_folder_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    with Results.open("runs.db") as results:
        monkeypatch.chdir("sub")
        results.add_task(task())
        results.add(task().id, trials())
    assert [p.name for p in tmp_path.glob("*.db*")] == ["runs.db"]
    assert len(content(tmp_path / "runs.db")) == 1


def test_a_transaction_is_all_or_nothing(tmp_path: Path) -> None:
    path = made(tmp_path / "runs.db")
    before, two = content(path), task("two", seed=2)

    def fail(results: Results) -> None:
        with results.transaction():
            results.add_task(two)
            results.add(two.id, trials())
            raise ZeroDivisionError

    with Results.open(path) as results:
        with pytest.raises(ZeroDivisionError):
            fail(results)
        with pytest.raises(InputError, match="has no task"):
            results.add(two.id, trials())
    assert content(path) == before


def test_what_cannot_be_added(tmp_path: Path) -> None:
    one = task()
    with Results.open(made(tmp_path / "runs.db")) as results:
        with pytest.raises(InputError, match="has no task abc: add it first"):
            results.add("abc", [])
        with pytest.raises(InputError, match="cannot hold this value"):
            results.add(one.id, [Trial(0.0, 2**63, 0.5, 1)])
        with pytest.raises(InputError, match="cannot hold this value"):
            results.add(one.id, [Trial(0.0, 0, 0.5, 1, seconds=float("nan"))])
    with (
        Results.open(tmp_path / "runs.db", readonly=True) as results,
        pytest.raises(InputError, match="reading only"),
    ):
        results.add(one.id, trials())
    for identity in ({}, {"metric": "accuracy"}, {"metric": 3, "images": {"count": 1, "drawn": False}}, []):
        with pytest.raises(InputError, match="the identity of task 'x' has metric"):
            Task("x", identity, 0.5)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="clean score nan"):
        task(clean=float("nan"))


def test_canonical_json() -> None:
    assert canonical({"b": 1, "a": [True, None, 0.1], "µ": "\n"}) == '{"a":[true,null,0.1],"b":1,"µ":"\\n"}'
    assert canonical("\udc80") == '"\\udc80"'
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    for bad in (float("inf"), {1, 2}, {1: 2, "a": 3}, deep):
        with pytest.raises(InputError, match="cannot be written as JSON"):
            canonical(bad)


def test_reading_results_is_light() -> None:
    code = (
        "import sys, crossbar_sim.commands.results\n"
        "import crossbar_sim.store.results\n"
        "print([m for m in ('torch', 'h5py', 'numpy', 'pandas', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"\[\]\s*", done.stdout)
