"""The report of `sweep` on a terminal."""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from crossbar_sim.report.headline import crossing_words, listed_sigmas
from crossbar_sim.report.rows import check_threshold
from crossbar_sim.report.wording import (
    MEASURES,
    Pen,
    counted,
    decimals,
    filled,
    fixed,
    limit_text,
    say,
    shorten,
)
from crossbar_sim.robustness.drawn_scores import MOST_CHIPS
from crossbar_sim.robustness.groups import (
    GroupPoint,
    GroupTest,
    group_curve,
    group_tests,
    groups_in,
    seeded,
    unlike_groups,
)
from crossbar_sim.robustness.point import Point
from crossbar_sim.robustness.sensitivity import LayerDrop
from crossbar_sim.robustness.statistics import Summary
from crossbar_sim.robustness.sweep import Sweep, tails, told
from crossbar_sim.store.records import Task

# Groups of training seeds for a terminal: their curves, and their tests against the reference.


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
        console.print(_group_table(points, measure.sign, threshold, pen))
    console.print()
    for line in _group_footnotes(sweep, measure.sign > 0, threshold):
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


def _group_table(points: Sequence[GroupPoint], sign: int, threshold: float | None, pen: Pen) -> Table:
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


def _group_footnotes(sweep: Sweep, more_is_better: bool, threshold: float | None) -> Iterator[str]:
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


# The report of a sweep for a terminal: a line per model, then a table of sigmas.


COLUMN, YIELD = 22, 17
"""Characters that a model's column takes, and how many more with a yield."""


def show_sweep(sweep: Sweep, console: Console, threshold: float | None = None, grouped: bool = False) -> None:
    """Print a sweep.

    Args:
        sweep: what was found.
        console: where to; its width decides how many models stand side by side.
        threshold: also say at which sigma the mean falls below it (an error: rises above it), and the yield.
        grouped: the networks are those of groups that are shown after this: tables of single ones and their tests
            are left to the page and the JSON.

    Raises:
        InputError: if the threshold is none that a score can have, or the sweep is of several metrics.
    """
    if threshold is not None:
        check_threshold(sweep.metric, threshold)
    pen = Pen(console.encoding)
    for line in _headlines(sweep, threshold):
        console.print(Text(filled(pen(line), console.width)))
    console.print()
    width = COLUMN if threshold is None else COLUMN + YIELD
    labels, side = () if grouped else sweep.labels, max(1, (console.width - 7) // width)
    for start in range(0, len(labels), side):
        console.print(_table(sweep, labels[start : start + side], pen, threshold))
        console.print()
    for line in _footnotes(sweep, threshold, grouped):
        console.print(Text(filled(pen(line), console.width), "dim"))
    show_notes(sweep.tasks, console)
    for line in tails(sweep.curves):
        say(console, f"warning: {line}", "yellow")


def show_notes(tasks: Mapping[str, Task], console: Console) -> None:
    """Print what tasks tell beside their numbers, warnings last."""
    for kind, line in told(tasks):
        say(console, f"{kind}: {line}", "yellow" if kind == "warning" else "")


def _headlines(sweep: Sweep, threshold: float | None) -> Iterator[str]:
    measure = MEASURES[sweep.metric]
    for label in sweep.labels:
        points = sweep.curve(label)
        if not points:
            continue
        text = f"{label}: {measure.name} {_percent(measure.sign * points[0].clean)} clean"
        area = sweep.area(label)
        if area is not None:
            low, high = sorted((measure.sign * area.low, measure.sign * area.high))
            text += f"; mean over sigma {points[0].sigma:g} to {points[-1].sigma:g} "
            text += f"{_percent(measure.sign * area.estimate)} (95 % {_percent(low)} to {_percent(high)})"
        if threshold is not None and len(points) > 1:
            found = sweep.crossing(label, measure.sign * threshold)
            verb = "falls below" if measure.sign > 0 else "rises above"
            if found is not None:
                text += f"; it {verb} {limit_text(threshold, 1)} {crossing_words(found)}"
        yield text


def _table(sweep: Sweep, labels: tuple[str, ...], pen: Pen, threshold: float | None) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("sigma", justify="right", style="cyan", no_wrap=True)
    for name in shorten(labels, COLUMN - 2):
        table.add_column(Text(pen(name)), no_wrap=True, min_width=COLUMN - 4)
    by_sigma = [{point.sigma: point for point in sweep.curve(label)} for label in labels]
    for sigma in sorted({sigma for column in by_sigma for sigma in column}):
        cells = [pen(_cell(column[sigma], threshold)) if sigma in column else "" for column in by_sigma]
        table.add_row(f"{sigma:g}", *cells)
    return table


def _cell(point: Point, threshold: float | None) -> str:
    """`86.66 % ± 0.42`, and where one is asked for the yield with its interval: `70 % (48 to 85)`."""
    summary, sign = point.summary, MEASURES[point.metric].sign
    half = (summary.ci95[1] - summary.ci95[0]) / 2 if summary.ci95 else None
    digits = decimals(half)
    text = f"{fixed(sign * summary.mean, digits)} %"
    if half is not None:
        text += f" ± {fixed(half, digits)}"
    if threshold is not None:
        passed = point.passing(sign * threshold)
        share, low, high = (fixed(value, 0) for value in (passed.value, *passed.ci95))
        text += f"  {share} % ({low} to {high})"
    return text


def _footnotes(sweep: Sweep, threshold: float | None, grouped: bool) -> Iterator[str]:
    points = [point for label in sweep.labels for point in sweep.curve(label)]
    if not points:
        return
    chips = sorted({len(point.chips) for point in points})
    images = sorted({point.images for point in points})
    spans = [str(n[0]) if len(n) == 1 else f"{n[0]} to {n[-1]}" for n in (chips, images)]
    any_drawn = any(point.drawn for point in points)
    drawn = "images drawn for each chip" if any_drawn else "images"
    if chips == [1]:
        yield f"one chip has no interval; it was measured on {spans[1]} {drawn}"
    elif grouped:
        yield f"each network was measured on {spans[0]} chips, each on {spans[1]} {drawn}"
    else:
        yield (
            f"± is the half-width of the 95 % t interval of the mean over {spans[0]} chips, each on {spans[1]} {drawn}"
        )
    if threshold is not None and not grouped:
        verb, kind = MEASURES[sweep.metric].passing, "approximate" if any_drawn else "Wilson's"
        yield (
            f"after that, the yield: the share of chips that {verb} {limit_text(threshold, 1)}, and its 95 % interval "
            f"({kind})"
        )
    yield from _costs(points)
    if not grouped:
        yield from _comparisons(sweep)


def _comparisons(sweep: Sweep) -> Iterator[str]:
    """Each model against the first, on the same chips."""
    if len(sweep.labels) > 1:
        first, *others = sweep.labels
        for other in others:
            differ = sweep.not_paired(first, other)
            if differ:
                alike = "they were not measured alike, " if sweep.unlike(first, other) else ""
                yield f"{first} and {other} are not compared chip by chip: {alike}{' and '.join(differ)} differ"
                continue
            found = [(sigma, pair) for sigma, pair in sweep.paired(first, other) if pair.adjusted is not None]
            apart = [sigma for sigma, pair in found if pair.adjusted is not None and pair.adjusted < 0.05]
            if apart:
                where = f"at {len(apart)} of {counted(len(found), 'sigma')} ({listed_sigmas(apart)})"
            elif found:
                where = f"at none of {counted(len(found), 'sigma')}"
            else:  # one chip, or nothing random
                continue
            yield f"{first} and {other} differ on the same chips {where}: paired t, Holm-corrected, 5 %"


def _costs(points: list[Point]) -> Iterator[str]:
    """What an interval budget was spent on, beside what all images would have taken; what is not at its end."""
    ended = [point.done for point in points if point.done is not None]
    open_ = [point for point in points if point.drawn and point.done is None]
    if ended:
        chips, images = (sum(getattr(d.spent, name) for d in ended) for name in ("chips", "images"))
        spent = f"spent: {images:,} image evaluations on {counted(chips, 'chip')}; all images on as many chips as these"
        if any(done.plain.chips >= MOST_CHIPS for done in ended):  # where counting them stops
            yield f"{spent} intervals need would be more than {MOST_CHIPS:,} chips"
        else:
            plain_chips, plain = (sum(getattr(d.plain, name) for d in ended) for name in ("chips", "images"))
            times = plain / images
            yield (
                f"{spent} intervals need: {plain:,} on {plain_chips:,} "
                f"({f'{times:.0f}' if times >= 10 else f'{times:.2g}'} times as many)"
            )
    short = [point for point, done in ((p, p.done) for p in points) if done is not None and not done.reached]
    if short:
        yield f"the half-width was not reached at {counted(len(short), 'point')} with the most chips that are tried"
    if open_:
        yield f"{counted(len(open_), 'point')} not finished: run the sweep again to go on"


def show_sensitivity(
    drops: Sequence[LayerDrop], metric: str, clean: float, images: int, console: Console
) -> None:
    """Print what each layer costs alone: a row per layer, a column per sigma, in points."""
    pen, measure = Pen(console.encoding), MEASURES[metric]
    names, sigmas = list(dict.fromkeys(d.layer for d in drops)), sorted({d.sigma for d in drops})
    by_place = {(d.layer, d.sigma): d.drop for d in drops}
    chips = len(drops[0].drop.per_chip) if drops else 0
    headline = (
        f"What each layer costs when it alone is on its arrays: {measure.loss} of {measure.name} in points"
    )
    console.print(
        Text(filled(pen(f"{headline}, from {_percent(measure.sign * clean)} clean."), console.width), "bold")
    )
    console.print()
    side = max(1, (console.width - 20) // 16)
    for start in range(0, len(sigmas), side):
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("layer")
        for sigma in sigmas[start : start + side]:
            table.add_column(f"sigma {sigma:g}", justify="right", no_wrap=True)
        for name, short in zip(names, shorten(names, 40), strict=True):
            cells = [_drop(by_place[name, sigma]) for sigma in sigmas[start : start + side]]
            table.add_row(Text(pen(short)), *map(pen, cells))
        console.print(table)
        console.print()
    on = counted(images, "example")
    note = f"± is the half-width of the 95 % t interval of the mean over {chips} chips, each on {on}"
    if chips == 1:
        note = f"one chip has no interval; it was measured on {on}"
    console.print(Text(filled(pen(note), console.width), "dim"))


def _drop(summary: Summary) -> str:
    half = (summary.ci95[1] - summary.ci95[0]) / 2 if summary.ci95 else None
    digits = min(decimals(half), 2)
    return fixed(summary.mean, digits) + ("" if half is None else f" ± {fixed(half, digits)}")


def _percent(share: float) -> str:
    return f"{fixed(share, 1)} %"
