"""Groups of training seeds for a terminal: their curves, and their tests against the reference."""

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from crossbar_sim.robustness.groups import (
    GroupPoint,
    GroupTest,
    group_curve,
    group_tests,
    groups_in,
    seeded,
    unlike_groups,
)
from crossbar_sim.robustness.sweep import Sweep
from crossbar_sim.robustness.wording import MEASURES, Pen, decimals, filled, fixed

ALPHA = 0.05


def show_groups(sweep: Sweep, console: Console, reference: str, threshold: float | None = None) -> None:
    """Print every group's curve, and the tests; nothing where no way to train has several seeds.

    Args:
        sweep: what was found.
        console: where to.
        reference: the group that the others are tested against.
        threshold: for the yield, as shown.
    """
    if not seeded(sweep):
        return
    pen, measure = Pen(console.encoding), MEASURES[sweep.metric]
    stored = None if threshold is None else measure.sign * threshold
    console.print()
    console.print(Text(pen("Training seeds as the random unit"), "bold"))
    for group, members in groups_in(sweep).items():
        points = group_curve(sweep, group, stored)
        console.print()
        count = f"{len(members)} training seeds" if len(members) > 1 else "1 network: no interval"
        console.print(Text(pen(f"{group} ({count})")))
        console.print(_table(points, measure.sign, threshold, pen))
    console.print()
    for line in _footnotes(sweep, measure.sign > 0, threshold):
        console.print(Text(filled(pen(line), console.width), "dim"))
    for group in groups_in(sweep):
        if differ := unlike_groups(sweep, group, reference):
            line = f"{group} and {reference} are not tested: they were not measured alike, {', '.join(differ)} differ"
            console.print(Text(filled(pen(line), console.width), "dim"))
    tests = group_tests(sweep, reference)
    if any(test.p_value is not None for test in tests):
        console.print()
        console.print(Text(filled(pen(_title(tests, reference, measure.name)), console.width), "bold"))
        console.print(_tests(tests, measure.sign, pen))


def _table(points: Sequence[GroupPoint], sign: int, threshold: float | None, pen: Pen) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    headers = ["sigma", pen("mean ± 95 %"), "range over seeds", "sd of chips", "worst"]
    for header in headers if threshold is None else [*headers, "yield"]:
        table.add_column(header, justify="right", no_wrap=True)
    for point in points:
        half = None if point.ci95 is None else (point.ci95[1] - point.ci95[0]) / 2
        digits = min(max(decimals(half), 1), 2)
        low, high = sorted((sign * point.lowest, sign * point.highest))
        cells = [
            f"{fixed(sign * point.mean, digits)} %" + ("" if half is None else f" ± {fixed(half, digits)}"),
            f"{fixed(low, digits)} to {fixed(high, digits)}" if point.networks > 1 else "",
            "" if point.spread is None else fixed(point.spread, 2),
            fixed(sign * point.worst, 1),
        ]
        if point.passing is not None:
            cells.append(f"{fixed(point.passing, 0)} %")
        table.add_row(f"{point.sigma:g}", *map(pen, cells))
    return table


def _footnotes(sweep: Sweep, more_is_better: bool, threshold: float | None) -> Iterator[str]:
    sizes = sorted({len(members) for members in groups_in(sweep).values()})
    n = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    yield (
        f"± is the half-width of the 95 % Student-t interval over networks, n = {n} training seeds (n - 1 degrees of "
        f"freedom: with few seeds it is wide). A network counts by its mean over chips. Sd of chips: the standard "
        f"deviation between the chips of one network."
    )
    if not more_is_better:
        yield "the worst chip is the one with the largest error"
    if threshold is not None:
        yield "yield: the share of chips of all networks that pass the threshold"


def _title(tests: Sequence[GroupTest], reference: str, what: str) -> str:
    made = sum(test.p_value is not None for test in tests)
    return (
        f"Difference of mean {what} from {reference}, in points: Welch's t over networks, p after Holm's correction "
        f"over all {made} tests (* below {ALPHA:g})"
    )


def _tests(tests: Sequence[GroupTest], sign: int, pen: Pen) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for header in ("group", "sigma", "difference", "95 % interval", "p, corrected"):
        table.add_column(header, justify="left" if header == "group" else "right", no_wrap=True)
    before = ""
    for test in tests:
        ends = sorted(sign * end for end in test.ci95) if test.ci95 else []
        p = test.adjusted
        cells = [
            f"{100 * sign * test.difference:+.2f}",
            f"{100 * ends[0]:+.2f} to {100 * ends[1]:+.2f}" if ends else "no test",
            "" if p is None else f"{p:.2g} {'*' if p < ALPHA else ' '}",
        ]
        table.add_row(pen(test.group if test.group != before else ""), f"{test.sigma:g}", *map(pen, cells))
        before = test.group
    return table
