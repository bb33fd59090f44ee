"""Exported tables read back equal, in the readers that people have."""

import csv
import io
import json
import math
import sys
import tracemalloc
from pathlib import Path

import pytest
from helpers.results_files import SHA, task, trials

from crossbar_sim import InputError
from crossbar_sim.files import write_text
from crossbar_sim.robustness.metrics import METRICS, described
from crossbar_sim.store import results as results_merge
from crossbar_sim.store.records import Task, Trial, is_stored_otherwise, shown
from crossbar_sim.store.results import (
    COLUMNS,
    Results,
    csv_lines,
    json_lines,
    listing,
    merge,
    rows,
    write_parquet,
)

HARD = [5e-324, 1.7976931348623157e308, -2 / 3, 0.1 + 0.2, 1e22, 123456789.12345679]


@pytest.fixture
def results(tmp_path: Path):
    with Results.open(tmp_path / "runs.db") as opened:
        for one in (task("erm"), task('µ, "x"\nb', seed=1, model={"text": 1})):
            opened.add_task(one)
            opened.add(one.id, [Trial(abs(v), 2**32 - 1, v, 2**62, abs(v), abs(v)) for v in HARD])
        yield opened


def table(opened: Results) -> list[dict[str, object]]:
    return list(rows(opened))


def test_rows(results: Results) -> None:
    found = table(results)
    assert all(tuple(row) == COLUMNS for row in found)
    assert [row["value"] for row in found[:6]] == sorted(HARD, key=abs)
    assert [row["model_sha256"] for row in found] == [SHA] * 6 + [""] * 6
    assert found[0]["task"] == task("erm").id


def test_csv_reads_back_equal(results: Results) -> None:
    text = "".join(csv_lines(rows(results)))
    assert text.startswith("label,task,model_sha256,metric,sigma,chip,value,images,variance,seconds\n")
    for row, expected in zip(csv.DictReader(io.StringIO(text)), table(results), strict=True):
        assert row["label"] == str(expected["label"]).replace("\n", "\\n")
        assert all(float(row[n]) == expected[n] for n in ("sigma", "value", "variance", "seconds"))
        assert all(int(row[n]) == expected[n] for n in ("chip", "images"))
    assert text.count("\n") == 13


def test_csv_reads_back_equal_in_pandas(results: Results) -> None:
    pandas = pytest.importorskip("pandas")
    exact = {"float_precision": "round_trip"} if pandas.__version__ < "3" else {}
    frame = pandas.read_csv(io.StringIO("".join(csv_lines(rows(results)))), **exact)
    for name in ("sigma", "value", "images", "chip", "variance", "seconds"):
        assert frame[name].tolist() == [row[name] for row in table(results)]


def test_json_reads_back_equal(results: Results) -> None:
    text = "".join(json_lines(rows(results)))
    assert json.loads(text) == table(results)
    assert text.isascii()
    assert len(text.splitlines()) == 14
    assert "".join(json_lines([])) == "[]\n"


def test_parquet_reads_back_equal(results: Results, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import parquet

    write_parquet(rows(results), tmp_path / "runs.parquet")
    read = parquet.read_table(tmp_path / "runs.parquet")
    assert read.to_pylist() == table(results)
    assert [str(kind) for kind in read.schema.types] == ["string"] * 4 + [
        "double",
        "int64",
        "double",
        "int64",
    ] + ["double"] * 2
    write_parquet([], tmp_path / "none.parquet")
    assert parquet.read_table(tmp_path / "none.parquet").schema == read.schema


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 12,000 trials, which take some 8 MB as objects of Python."""
    path = tmp_path_factory.mktemp("many") / "many.db"
    with Results.open(path) as opened:
        opened.add_task(task("erm"))
        opened.add(
            task("erm").id, (Trial(i % 3 / 10, i // 3, 0.5 + i % 97 / 200, 450) for i in range(12_000))
        )
    return path


WAYS = {
    "csv": lambda opened, out: write_text(out, csv_lines(rows(opened))),
    "json": lambda opened, out: write_text(out, json_lines(rows(opened))),
    "merge": lambda opened, out: merge([opened.path], out),
}


@pytest.mark.parametrize("way", WAYS)
def test_tables_and_merged_files_are_written_as_they_are_read(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(results_merge, "BLOCK", 500)
    with Results.open(many, readonly=True) as opened:
        tracemalloc.start()
        try:
            WAYS[way](opened, tmp_path / "out")
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 2e6
    if way == "merge":
        with Results.open(tmp_path / "out") as merged, Results.open(many) as whole:
            assert merged.trials(task().id) == whole.trials(task().id)
    else:
        assert len((tmp_path / "out").read_text().splitlines()) == 12_001 + (way == "json")


def test_parquet_without_its_extra(results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"pip install '\.\[tables\]'"):
        write_parquet(rows(results), tmp_path / "runs.parquet")
    assert not (tmp_path / "runs.parquet").exists()


@pytest.mark.parametrize("label", ["=1+1", "+1", "-1", "@x", "|calc", "%x", " =1", "\t=1", "\r=1"])
def test_no_label_is_a_formula(label: str) -> None:
    with Results.open(":memory:") as results:
        one = Task(label, task(metric=label).identity, 0.5)
        results.add_task(one)
        results.add(one.id, trials(chips=1, sigmas=(0.0,)))
        (row,) = csv.DictReader(io.StringIO("".join(csv_lines(rows(results)))))
        assert row["label"][0] not in "=+-@|%\t\r "
        assert row["metric"][0] not in "=+-@|%\t\r "
        assert json.loads("".join(json_lines(rows(results))))[0]["label"] == label


SCORES = {
    "perplexity": (-math.log(12.5), 12.5, "12.5000", {}),
    "output_error": (-0.25, 0.25, "0.2500", {}),
    "mae": (-0.00125, 0.00125, "0.00125", {}),
    "cross-entropy": (0.0, 0.0, "0.0000", {}),
    "-mine:error": (-300.0, 300.0, "300.0000 K", {"metric": {"unit": "K"}}),
    "mine:share": (0.5, 0.5, "0.5000", {"metric": {"unit": "%"}}),
    "r2": (-0.5, -0.5, "-0.5000", {}),
}


@pytest.mark.parametrize("metric", SCORES)
def test_scores_are_listed_and_exported_as_reports_show_them(metric: str, tmp_path: Path) -> None:
    stored, value, text, about = SCORES[metric]
    with Results.open(":memory:") as results:
        one = Task("m", task(metric=metric).identity, stored, about)
        results.add_task(one)
        results.add(one.id, [Trial(0.1, 0, stored, 10), Trial(0.2, 0, stored, 10)])
        line = " ".join(listing(results)[-1].split())
        assert line == f"m {metric.removeprefix('-')} 2 (0.1 to 0.2) 1 10 {text} {text}"
        found = json.loads("".join(json_lines(rows(results))))
        (row, _) = csv.DictReader(io.StringIO("".join(csv_lines(rows(results)))))
        if pytest.importorskip("pyarrow"):
            from pyarrow import parquet

            write_parquet(rows(results), tmp_path / "t.parquet")
            assert parquet.read_table(tmp_path / "t.parquet").to_pylist() == found
    assert found[0]["value"] == stored
    assert found[0].get("shown", stored) == pytest.approx(value)
    assert ("shown" in found[0]) == ("shown" in row) == (metric not in ("mine:share", "r2"))
    assert float(row.get("shown", stored)) == pytest.approx(value)


def test_scores_are_shown_as_their_metric_shows_them() -> None:
    for name in (*METRICS, "top3", "-mine:error", "mine:share"):
        for score in (-800.0, -0.5, 0.0, 0.75):
            assert shown(name, score) == described(name).shown(score)
            assert is_stored_otherwise(name) == (described(name).sign < 0)


def test_a_perplexity_beyond_all_numbers_is_none_in_json() -> None:
    row = {"shown": math.inf, "value": -800.0}
    assert json.loads("".join(json_lines([row]))) == [{"shown": None, "value": -800.0}]


def test_the_listing() -> None:
    with Results.open(":memory:") as results:
        assert listing(results) == [":memory:: 0 tasks, 0 trials"]
        for one in (task("erm"), task("a\x1b[31m", seed=1), task("none", seed=2)):
            results.add_task(one)
        results.add(
            task("erm").id, [Trial(s, c, 0.9 - s / 2, 100) for s in (0.0, 0.6, 1.5) for c in range(20)]
        )
        drawn = task("a\x1b[31m", seed=1)
        results.add(
            drawn.id, [Trial(0.6, c, 0.5, 64) for c in range(8)] + [Trial(0.6, c, 0.75, 90) for c in range(8)]
        )
        lines = listing(results)
    assert lines[0] == ":memory:: 3 tasks, 76 trials"
    assert [" ".join(line.split()) for line in lines[2:]] == [
        "label metric sigmas chips images clean mean over chips",
        "erm accuracy 3 (0 to 1.5) 20 100 0.9703 0.1500 to 0.9000",
        r"a\x1b[31m accuracy 1 (0.6) 8 90 0.9703 0.7500",
        "none accuracy 0 - - 0.9703 -",
    ]
