"""Results as flat tables: CSV, JSON, Parquet, and a short listing for people (docs/results-file.md)."""

import csv
import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from crossbar_sim.errors import InputError
from crossbar_sim.files import replacing
from crossbar_sim.store.records import Task
from crossbar_sim.store.results import Results
from crossbar_sim.text import spreadsheet_cell, visible

COLUMNS = (
    "label", "task", "model_sha256", "metric", "sigma", "chip", "value", "images", "variance", "seconds",
)  # fmt: skip
"""Of every table, in this order."""


GROUP = 100_000
"""Rows of a Parquet file that are in memory at a time."""


def rows(results: Results) -> Iterator[dict[str, Any]]:
    """One flat row per trial: by task in order of insertion, then by (sigma, chip, images)."""
    for task in results.tasks():
        named = (task.label, task.id, _model(task), task.metric)
        for t in results.each_trial(task.id):
            values = (t.sigma, t.chip, t.value, t.images, t.variance, t.seconds)
            yield dict(zip(COLUMNS, named + values, strict=True))


def csv_lines(table: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """CSV with a header, a row at a time; floats have the digits that they need to read back equal.

    In text, characters that a terminal might obey are written out, and what a spreadsheet would run as a formula
    begins with an apostrophe.
    """
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")
    for cells in itertools.chain(
        [COLUMNS], ([spreadsheet_cell(row[name]) for name in COLUMNS] for row in table)
    ):
        writer.writerow(cells)
        yield line.getvalue()
        line.seek(0)
        line.truncate()


def json_lines(table: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A JSON array with one object per line, an object at a time."""
    before = "[\n"
    for row in table:
        yield before + json.dumps(dict(row), allow_nan=False)
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def write_parquet(table: Iterable[Mapping[str, Any]], path: str | os.PathLike[str]) -> None:
    """Write a Parquet file, whole or not at all.

    Raises:
        InputError: if pyarrow is not installed, or the file cannot be written.
    """
    try:
        import pyarrow  # type: ignore[import-untyped]
        from pyarrow import parquet
    except ImportError:
        raise InputError(
            "Parquet files need the tables extra: pip install '.[tables]' in a clone (csv and json do without)"
        ) from None
    kinds = {"chip": pyarrow.int64(), "images": pyarrow.int64()}
    texts = COLUMNS[: COLUMNS.index("sigma")]
    schema = pyarrow.schema(
        [
            (name, pyarrow.string() if name in texts else kinds.get(name, pyarrow.float64()))
            for name in COLUMNS
        ]
    )
    waiting = iter(table)
    with replacing(path) as temporary, parquet.ParquetWriter(str(temporary), schema) as file:
        while block := list(itertools.islice(waiting, GROUP)):
            columns = {name: [row[name] for row in block] for name in COLUMNS}
            file.write_table(pyarrow.table(columns, schema=schema))


def listing(results: Results) -> list[str]:
    """What a file holds, a line per task."""
    head = ("label", "metric", "sigmas", "chips", "images", "clean", "mean over chips")
    lines = [head]
    total = 0
    for task in results.tasks():
        points = results.counts(task.id)
        total += sum(p.chips for p in points)
        sigmas = sorted({p.sigma for p in points})
        # The mean of the images that most chips saw: a pilot's few images say less.
        told = [max((p for p in points if p.sigma == s), key=lambda p: (p.chips, p.images)) for s in sigmas]
        span = f" ({_range(sigmas, 'g')})" if len(sigmas) > 1 else f" ({sigmas[0]:g})" if sigmas else ""
        lines.append(
            (
                visible(task.label), visible(task.metric), f"{len(sigmas)}{span}",
                _range([p.chips for p in told], "d"), _range([p.images for p in told], "d"),
                f"{task.clean:.4f}", _range([p.mean for p in told], ".4f"),
            )
        )  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    count = len(lines) - 1
    told_file = f"{results.path}: {count} task{'s' * (count != 1)}, {total} trial{'s' * (total != 1)}"
    if count == 0:
        return [told_file]
    table = [
        "  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    return [told_file, "", *table]


def _range(values: Iterable[float], form: str) -> str:
    known = sorted(values)
    if not known:
        return "-"
    low, high = (format(v, form) for v in (known[0], known[-1]))
    return low if low == high else f"{low} to {high}"


def _model(task: Task) -> str:
    """The SHA-256 of the model, as far as its identity tells one."""
    model = task.identity.get("model")
    found = model.get("sha256", model.get("fingerprint")) if isinstance(model, Mapping) else model
    return found if isinstance(found, str) else ""
