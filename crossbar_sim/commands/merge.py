"""`crossbar-sim merge`: results files in one."""

from dataclasses import dataclass

import click

from crossbar_sim.commands.options import PATH, argument, command, option
from crossbar_sim.text import visible


@dataclass(frozen=True)
class MergeRequest:
    """What `merge` is to do."""

    sources: tuple[str, ...] = argument(nargs=-1, required=True, type=PATH)
    output: str = option("The file to write, or to add to.", "-o", "--output", type=PATH, required=True)


@command(MergeRequest)
def merge(request: MergeRequest) -> None:
    """Combine several results files into one.

    If SOURCES contradict each other, nothing is written.

    \b
    Example:
      crossbar-sim merge a.db b.db -o all.db
    """
    from crossbar_sim.store.results import merge

    report = merge(request.sources, request.output)
    tasks, trials = _number(report.tasks, "task"), _number(report.trials, "trial")
    line = f"{request.output}: {tasks} ({report.new_tasks} new), {trials} ({report.new_trials} new)"
    click.echo(visible(line))


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"
