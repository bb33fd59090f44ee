"""`crossbar-sim results`: what a results file holds."""

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import click

from crossbar_sim.commands.options import PATH, argument, command, option
from crossbar_sim.errors import InputError
from crossbar_sim.text import visible

if TYPE_CHECKING:
    from crossbar_sim.store.results import Results

Format = Literal["csv", "json", "parquet"]


@dataclass(frozen=True)
class ResultsRequest:
    """What `results` is to do."""

    path: str = argument(type=PATH)
    form: Format | None = option("Write all trials as a table in this format.", "--format")
    output: str | None = option(
        "Write the table to this file; - means standard output, as CSV.  [default: standard output]",
        "-o", "--output", type=PATH,
    )  # fmt: skip


@command(ResultsRequest)
def results(request: ResultsRequest) -> None:
    """List the contents of a results file, or export its trials as a table.

    \b
    Examples:
      crossbar-sim results runs.db
      crossbar-sim results runs.db --format csv -o runs.csv
    """
    from crossbar_sim.store.results import Results, listing

    path, output = request.path, request.output
    form = request.form or _format_of(output)
    to_file = output not in (None, "-")
    if form == "parquet" and not to_file:
        raise InputError("a Parquet file is not text and cannot be printed: name a file with -o FILE")
    if output is not None and to_file and _same(output, path):
        raise InputError(f"{output} is the results file itself: name another file for the table")
    with Results.open(path, readonly=True) as opened:
        if form is None:
            for line in listing(opened):
                click.echo(visible(line))
        else:
            _write(opened, form, output if to_file else None)


def _write(opened: "Results", form: str, output: str | None) -> None:
    from crossbar_sim.files import check_writable, write_text
    from crossbar_sim.store import results as tables

    if output is not None:
        check_writable(output, stream=form != "parquet")
    if form == "parquet":
        assert output is not None
        tables.write_parquet(tables.rows(opened), output)
        return
    rows = tables.rows(opened)
    lines = tables.csv_lines(rows) if form == "csv" else tables.json_lines(rows)
    if output is not None:
        write_text(output, lines)
        return
    for line in lines:
        sys.stdout.buffer.write(line.encode())  # UTF-8, whatever the terminal's encoding is
    sys.stdout.buffer.flush()


def _format_of(output: str | None) -> str | None:
    if output is None:
        return None
    if output == "-":
        return "csv"
    end = os.path.splitext(output)[1].lstrip(".").lower()
    if end not in get_args(Format):
        raise InputError(f"the format of {output} is unknown: give --format csv, json or parquet")
    return end


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False
