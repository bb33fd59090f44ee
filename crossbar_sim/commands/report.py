"""`crossbar-sim report`: a results file as a page to read and figures to print."""

import os
from collections.abc import Sequence

import click


@click.command(no_args_is_help=True)
@click.argument("results", type=click.Path())
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    default="report.html",
    show_default=True,
    help="Write the page here (HTML).",
)
@click.option(
    "--figures",
    type=click.Path(),
    help="Also write figures for a paper into this directory (.pdf, .png, .svg).",
)
@click.option(
    "--threshold",
    type=float,
    help="A chip passes at this score.  [default: the lowest clean score less 0.05, in whole per cent]",
)
@click.option("--title", help="Of the page.")
@click.option(
    "--models",
    help="Only these, in this order: labels, or groups of training seeds, with commas between them.  [default: all]",
)
def report(
    results: str,
    output: str,
    figures: str | None,
    threshold: float | None,
    title: str | None,
    models: str | None,
) -> None:
    """Make one page of RESULTS that opens without a network: curves, differences, yield, layers, tables.

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
    from crossbar_sim.report.rows import narrowed
    from crossbar_sim.report.sweep_figures import draw_figures
    from crossbar_sim.robustness.sweep import Sweep
    from crossbar_sim.store.results import Results

    check_outputs((output,), (results,))
    if figures is not None and os.path.exists(figures) and not os.path.isdir(figures):
        raise InputError(f"--figures {figures}: this is a file; name a directory")
    with Results.open(results, create=False, readonly=True) as opened:
        sweep = Sweep.read(opened)
    labels = None
    if models is not None:
        labels = _named(models, sweep.labels)
    sweep = narrowed(sweep, labels)
    write_page(sweep, output, threshold=threshold, title=title)
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
