"""The report of `sweep` on a terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from crossbar_sim.report.console import Pen, filled, say
from crossbar_sim.report.formatting import (
    counted,
    decimals,
    fixed,
    limit_text,
    measure_of,
    range_text,
    shorten,
)
from crossbar_sim.report.headline import crossing_words, listed_sigmas
from crossbar_sim.report.rows import (
    ALPHA,
    Costs,
    DifferenceRow,
    Estimate,
    GroupRow,
    PointRow,
    View,
    check_threshold,
)
from crossbar_sim.robustness.drawn_scores import MOST_CHIPS
from crossbar_sim.robustness.groups import seeded, unlike_groups
from crossbar_sim.robustness.sensitivity import LayerDrop
from crossbar_sim.robustness.statistics import Summary
from crossbar_sim.robustness.sweep import Sweep, notes_and_warnings, tails
from crossbar_sim.store.records import Task

# Groups of training seeds for a terminal: their curves, and their tests against the reference.


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
    pen, view = Pen(console.encoding), View(sweep, threshold, reference=reference)

    def footnote(text: str) -> None:
        console.print(Text(filled(pen(text), console.width), "dim"))

    console.print()
    console.print(Text(pen("Training seeds as the random unit"), "bold"))
    for group, members in view.groups.items():
        console.print()
        count = f"{len(members)} training seeds" if len(members) > 1 else "1 network: no interval"
        console.print(Text(pen(f"{group} ({count})")))
        console.print(_group_table(view.group_curves[group], threshold, pen))
    console.print()
    for line in _group_footnotes(view):
        footnote(line)
    for group in view.groups:
        if differ := unlike_groups(sweep, group, reference):
            footnote(
                f"{group} and {reference} are not tested: they were not measured alike, {', '.join(differ)} differ"
            )
    made = sum(test.p_value is not None for test in view.tests)
    if made:
        console.print()
        title = (
            f"Difference of mean {view.scale.name} from {reference}, in points: Welch's t over networks, p after "
            f"Holm's correction over all {made} tests (* below {ALPHA:g})"
        )
        console.print(Text(filled(pen(title), console.width), "bold"))
        console.print(_tests(view.tests, pen))


def _table(*headers: str | Text, **first: Any) -> Table:
    """A table without lines; `first` are options of its first column."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, header in enumerate(headers):
        options: dict[str, Any] = {"justify": "right", "no_wrap": True} | (first if i == 0 else {})
        table.add_column(header, **options)
    return table


def _group_table(rows: Sequence[GroupRow], threshold: float | None, pen: Pen) -> Table:
    headers = ["sigma", pen("mean ± 95 %"), "range over seeds", "sd of chips", "worst"]
    table = _table(*headers, *([] if threshold is None else ["yield"]))
    for row in rows:
        digits = min(max(decimals(row.mean.half), 1), 2)
        cells = [
            _half(row.mean, digits, " %"),
            f"{fixed(row.lowest, digits)} to {fixed(row.highest, digits)}" if row.networks > 1 else "",
            "" if row.spread is None else fixed(row.spread, 2),
            fixed(row.worst, 1),
        ]
        if row.passing is not None:
            cells.append(f"{fixed(row.passing, 0)} %")
        table.add_row(f"{row.sigma:g}", *map(pen, cells))
    return table


def _half(found: Estimate, digits: int, unit: str = "") -> str:
    """`86.66 % ± 0.42`."""
    text = f"{fixed(found.value, digits)}{unit}"
    return text if found.half is None else f"{text} ± {fixed(found.half, digits)}"


def _group_footnotes(view: View) -> Iterator[str]:
    n = range_text(sorted({len(members) for members in view.groups.values()}))
    yield (
        f"± is the half-width of the 95 % Student-t interval over networks, n = {n} training seeds (n - 1 degrees of "
        f"freedom: with few seeds it is wide). A network counts by its mean over chips. Sd of chips: the standard "
        f"deviation between the chips of one network."
    )
    if not view.scale.more_is_better:
        yield "the worst chip is the one with the largest error"
    if view.threshold is not None:
        yield "yield: the share of chips of all networks that pass the threshold"


def _tests(rows: Sequence[DifferenceRow], pen: Pen) -> Table:
    table = _table("group", "sigma", "difference", "95 % interval", "p, corrected", justify="left")
    before = ""
    for row in rows:
        span = row.difference.span
        cells = [
            f"{100 * row.difference.value:+.2f}",
            f"{100 * span[0]:+.2f} to {100 * span[1]:+.2f}" if span else "no test",
            "" if row.adjusted is None else f"{row.adjusted:.2g} {'*' if row.significant else ' '}",
        ]
        table.add_row(pen(row.name if row.name != before else ""), f"{row.sigma:g}", *map(pen, cells))
        before = row.name
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
    pen, view = Pen(console.encoding), View(sweep, threshold)
    for line in _headlines(view):
        console.print(Text(filled(pen(line), console.width)))
    console.print()
    width = COLUMN if threshold is None else COLUMN + YIELD
    labels, side = () if grouped else sweep.labels, max(1, (console.width - 7) // width)
    for start in range(0, len(labels), side):
        console.print(_sweep_table(view, labels[start : start + side], pen))
        console.print()
    for line in _footnotes(view, grouped):
        console.print(Text(filled(pen(line), console.width), "dim"))
    show_notes(sweep.tasks, console)
    for line in tails(sweep.curves):
        say(console, f"warning: {line}", "yellow")


def show_notes(tasks: Mapping[str, Task], console: Console) -> None:
    """Print what tasks tell beside their numbers, warnings last."""
    for kind, line in notes_and_warnings(tasks):
        say(console, f"{kind}: {line}", "yellow" if kind == "warning" else "")


def _headlines(view: View) -> Iterator[str]:
    for label, rows in view.curves.items():
        text = f"{label}: {view.scale.name} {_percent(rows[0].clean)} clean"
        area, crossing = view.areas[label], view.crossings[label]
        if area is not None and area.span is not None:
            text += f"; mean over sigma {rows[0].sigma:g} to {rows[-1].sigma:g} "
            text += f"{_percent(area.value)} (95 % {_percent(area.span[0])} to {_percent(area.span[1])})"
        if view.threshold is not None and crossing is not None:
            verb = "falls below" if view.scale.more_is_better else "rises above"
            text += f"; it {verb} {limit_text(view.threshold, 1)} {crossing_words(crossing)}"
        yield text


def _sweep_table(view: View, labels: Sequence[str], pen: Pen) -> Table:
    table = _table("sigma", style="cyan")
    for name in shorten(labels, COLUMN - 2):
        table.add_column(Text(pen(name)), no_wrap=True, min_width=COLUMN - 4)
    by_sigma = [{row.sigma: row for row in view.curves.get(label, ())} for label in labels]
    for sigma in sorted({sigma for column in by_sigma for sigma in column}):
        cells = [pen(_cell(column[sigma])) if sigma in column else "" for column in by_sigma]
        table.add_row(f"{sigma:g}", *cells)
    return table


def _cell(row: PointRow) -> str:
    """`86.66 % ± 0.42`, and with a threshold the yield with its interval: `70 % (48 to 85)`."""
    text = _half(row.mean, decimals(row.mean.half), " %")
    if row.passing is not None:
        ends = " to ".join(fixed(end, 0) for end in row.passing.span or ())
        text += f"  {fixed(row.passing.value, 0)} % ({ends})"
    return text


def _footnotes(view: View, grouped: bool) -> Iterator[str]:
    rows = list(view.points)
    if not rows:
        return
    chips, images = sorted({row.chips for row in rows}), sorted({row.images for row in rows})
    any_drawn = any(row.drawn for row in rows)
    on = f"{_plain_range(images)} {'images drawn for each chip' if any_drawn else 'images'}"
    if chips == [1]:
        yield f"one chip has no interval; it was measured on {on}"
    elif grouped:
        yield f"each network was measured on {_plain_range(chips)} chips, each on {on}"
    else:
        yield f"± is the half-width of the 95 % t interval of the mean over {_plain_range(chips)} chips, each on {on}"
    if view.threshold is not None and not grouped:
        kind = "approximate" if any_drawn else "Wilson's"
        yield (
            f"after that, the yield: the share of chips that {view.scale.measure.passing} "
            f"{limit_text(view.threshold, 1)}, and its 95 % interval ({kind})"
        )
    yield from _costs(view.costs)
    if not grouped:
        yield from _comparisons(view)


def _plain_range(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _comparisons(view: View) -> Iterator[str]:
    """Each model against the first, on the same chips."""
    sweep = view.sweep
    first, *others = sweep.labels
    for other in others:
        if differ := sweep.not_paired(first, other):
            alike = "they were not measured alike, " if sweep.unlike(first, other) else ""
            yield f"{first} and {other} are not compared chip by chip: {alike}{' and '.join(differ)} differ"
            continue
        tested = [row for row in view.pair(first, other) if row.adjusted is not None]
        apart = [row.sigma for row in tested if row.significant]
        if apart:
            where = f"at {len(apart)} of {counted(len(tested), 'sigma')} ({listed_sigmas(apart)})"
        elif tested:
            where = f"at none of {counted(len(tested), 'sigma')}"
        else:  # one chip, or nothing random
            continue
        yield f"{first} and {other} differ on the same chips {where}: paired t, Holm-corrected, 5 %"


def _costs(costs: Costs) -> Iterator[str]:
    """What an interval budget was spent on, beside what all images would have taken; what is not complete."""
    if costs.ended:
        spent = (
            f"spent: {costs.images:,} image evaluations on {counted(costs.chips, 'chip')}; "
            "all images on as many chips as these intervals need"
        )
        if costs.plain is None:
            yield f"{spent} would be more than {MOST_CHIPS:,} chips"
        else:
            chips, images = costs.plain
            times = images / costs.images
            many = f"{times:.0f}" if times >= 10 else f"{times:.2g}"
            yield f"{spent}: {images:,} on {chips:,} ({many} times as many)"
    if costs.missed:
        yield f"the half-width was not reached at {counted(costs.missed, 'point')} with the most chips that are tried"
    if costs.unfinished:
        yield f"{counted(costs.unfinished, 'point')} not finished: run the sweep again to go on"


def show_sensitivity(
    drops: Sequence[LayerDrop], metric: str, clean: float, images: int, console: Console
) -> None:
    """Print what each layer costs alone: a row per layer, a column per sigma, in points."""
    pen, measure = Pen(console.encoding), measure_of(metric)
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
        shown = sigmas[start : start + side]
        table = _table("layer", *(f"sigma {sigma:g}" for sigma in shown), justify="left", no_wrap=False)
        for name, short in zip(names, shorten(names, 40), strict=True):
            cells = [_drop(by_place[name, sigma]) for sigma in shown]
            table.add_row(Text(pen(short)), *map(pen, cells))
        console.print(table)
        console.print()
    on = counted(images, "example")
    note = f"± is the half-width of the 95 % t interval of the mean over {chips} chips, each on {on}"
    if chips == 1:
        note = f"one chip has no interval; it was measured on {on}"
    console.print(Text(filled(pen(note), console.width), "dim"))


def _drop(summary: Summary) -> str:
    found = Estimate(summary.mean, *(summary.ci95 or (None, None)))
    return _half(found, min(decimals(found.half), 2))


def _percent(share: float) -> str:
    return f"{fixed(share, 1)} %"
