"""`crossbar-sim report`: a results file as a page to read and figures to print."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from crossbar_sim.commands.options import PATH, argument, command, option, percentile_option


@dataclass(frozen=True)
class ReportRequest:
    """What `report` is to do."""

    results: str = argument(type=PATH)
    models: str | None = option(
        "Show only these models, in this order: labels, or groups of training seeds, separated by commas."
        "  [default: all]"
    )
    threshold: float | None = option(
        "Score that a chip needs to pass.  [default: the lowest clean score minus 0.05, in whole per cent]"
    )
    percentile: float | None = percentile_option()
    title: str | None = option("Title of the page.")
    output: str = option(
        "Write the page to this file (HTML).", "-o", "--output", type=PATH, default="report.html"
    )
    figures: str | None = option(
        "Also write figures for a publication into this folder (.pdf, .png, .svg).", type=PATH
    )


@command(ReportRequest)
def report(request: ReportRequest) -> None:
    """Make a report page of the results of a sweep: curves, differences, yield, layers and tables.

    RESULTS is a results file. The page is one HTML file that can be read offline.

    \b
    Examples:
      crossbar-sim report runs.db -o report.html
      crossbar-sim report runs.db --threshold 0.9 --figures figures --models erm,bayesft
      crossbar-sim report runs/two.db --models "plain,aware, seed 0"
    """

    from crossbar_sim.errors import InputError
    from crossbar_sim.files import check_outputs
    from crossbar_sim.report import write_page
    from crossbar_sim.report.console import say, terminal
    from crossbar_sim.report.headline import answer
    from crossbar_sim.report.ranking import narrowed
    from crossbar_sim.report.sweep_figures import draw_figures
    from crossbar_sim.robustness.sweep import Sweep
    from crossbar_sim.store.results import Results

    results, output, figures, threshold = request.results, request.output, request.figures, request.threshold
    check_outputs((output,), (results,))
    if figures is not None and os.path.exists(figures) and not os.path.isdir(figures):
        raise InputError(f"--figures {figures}: this is a file; name a folder")
    with Results.open(results, create=False, readonly=True) as opened:
        sweep = Sweep.read(opened)
    sweep = narrowed(sweep, None if request.models is None else _named(request.models, sweep.labels))
    write_page(sweep, output, threshold=threshold, title=request.title, percentile=request.percentile)
    written = [] if figures is None else draw_figures(sweep, figures, threshold=threshold)
    console = terminal()
    for sentence in answer(sweep, threshold):
        say(console, sentence)
    say(console, f"wrote {output} ({os.path.getsize(output) / 1e6:.1f} MB)")
    if written:
        say(console, f"wrote {', '.join(path.name for path in written)} in {figures}")


def _named(text: str, labels: Sequence[str]) -> list[str]:
    """The labels that `text` names, a group of training seeds by all of its own.

    Labels may hold commas themselves ("plain, seed 0"): of all names that begin at a place, the longest is meant.
    What is no name stays as it is, to be refused.
    """
    from crossbar_sim.robustness.groups import groups_of

    known = groups_of(labels) | {label: (label,) for label in labels}
    parts, found, start = text.split(","), list[str](), 0
    while start < len(parts):
        for end in range(len(parts), start, -1):
            name = ",".join(parts[start:end])
            name = name if name in known else name.strip()
            if name in known or end == start + 1:
                found += known.get(name, (name,))
                start = end
                break
    return found
