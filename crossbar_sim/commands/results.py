"""Results files: merge, and results."""

import os
import sys
from typing import TYPE_CHECKING

import click

from crossbar_sim.errors import InputError

if TYPE_CHECKING:
    from crossbar_sim.store.results import Results

FORMATS = ("csv", "json", "parquet")


@click.command(no_args_is_help=True)
@click.argument("sources", nargs=-1, required=True, type=click.Path())
@click.option("-o", "--output", required=True, type=click.Path(), help="The file to write, or to add to.")
def merge(sources: tuple[str, ...], output: str) -> None:
    """Combine several results files into one.

    If SOURCES contradict each other, nothing is written.

    \b
    Example:
      crossbar-sim merge a.db b.db -o all.db
    """
    from crossbar_sim.store.results import merge as unite

    report = unite(sources, output)
    tasks, trials = _number(report.tasks, "task"), _number(report.trials, "trial")
    _say(f"{output}: {tasks} ({report.new_tasks} new), {trials} ({report.new_trials} new)")


@click.command(no_args_is_help=True)
@click.argument("path", type=click.Path())
@click.option(
    "--format", "form", type=click.Choice(FORMATS), help="Write all trials as a table in this format."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="Write the table to this file; - means standard output, as CSV.  [default: standard output]",
)
def results(path: str, form: str | None, output: str | None) -> None:
    """List the contents of a results file, or export its trials as a table.

    \b
    Examples:
      crossbar-sim results runs.db
      crossbar-sim results runs.db --format csv -o runs.csv
    """
    from crossbar_sim.store.results import Results, listing

    form = form or _format_of(output)
    to_file = output not in (None, "-")
    if form == "parquet" and not to_file:
        raise InputError("a Parquet file is not text and cannot be printed: name a file with -o FILE")
    if output is not None and to_file and _same(output, path):
        raise InputError(f"{output} is the results file itself: name another file for the table")
    with Results.open(path, readonly=True) as opened:
        if form is None:
            for line in listing(opened):
                _say(line)
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
    if end not in FORMATS:
        raise InputError(f"the format of {output} is unknown: give --format csv, json or parquet")
    return end


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):
        return False


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _say(line: str) -> None:
    """Print one line, in the terminal's encoding and without control characters."""
    from crossbar_sim.text import visible

    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    click.echo(visible(line).encode(encoding, "backslashreplace").decode(encoding))
