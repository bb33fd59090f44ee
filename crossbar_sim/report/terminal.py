"""The reports of `sweep`, `sensitivity` and `tradeoff` on a terminal, and of all commands in a notebook."""

import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from crossbar_sim.report.console import Pen, filled, say
from crossbar_sim.report.deployment_terminal import show
from crossbar_sim.report.formatting import (
    Scale,
    counted,
    cut_words,
    few_digits,
    fixed,
    metric_prefix,
    range_text,
    shorten,
)
from crossbar_sim.report.headline import (
    crossing_words,
    group_percentile_words,
    listed_sigmas,
    percentile_words,
    sentence,
    shares,
)
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
from crossbar_sim.report.tradeoff_rows import TradeOffView
from crossbar_sim.robustness.deploy import Deployment
from crossbar_sim.robustness.drawn_scores import MOST_CHIPS
from crossbar_sim.robustness.groups import seeded, unlike_groups
from crossbar_sim.robustness.sensitivity import LayerDrop
from crossbar_sim.robustness.statistics import Summary
from crossbar_sim.robustness.sweep import Sweep, notes_and_warnings, share_on_arrays, tails
from crossbar_sim.robustness.tradeoff import TradeOff
from crossbar_sim.store.records import Task


def notebook_html(result: Deployment | Sweep | TradeOff) -> str:
    """The report of the terminal as HTML, for the output of a notebook's cell."""
    console = Console(
        file=io.StringIO(), record=True, width=NOTEBOOK, highlight=False, markup=False, emoji=False,
        force_jupyter=False,
    )  # fmt: skip
    if isinstance(result, Sweep):
        show_sweep(result, console)
    elif isinstance(result, Deployment):
        show(result, console)
    else:
        show_trade_off(result, console)
    style = "white-space:pre;overflow-x:auto;line-height:normal;font-family:monospace"
    return console.export_html(inline_styles=True, code_format=f'<pre style="{style}">{{code}}</pre>')


NOTEBOOK = 100
"""Characters in a line of a notebook's cell."""


# Groups of training seeds for a terminal: their curves, and their tests against the reference.


def show_groups(
    sweep: Sweep,
    console: Console,
    reference: str,
    threshold: float | None = None,
    percent: float | None = None,
) -> None:
    """Print every group's curve, and the tests; nothing where no way to train has several seeds.

    Args:
        sweep: what was found.
        console: where to.
        reference: the group that the others are tested against.
        threshold: for the yield, as shown.
        percent: of a percentile of the chips' scores beside the mean; None: none.
    """
    if not seeded(sweep):
        return
    pen, view = Pen(console.encoding), View(sweep, threshold, reference=reference, percent=percent)

    def footnote(text: str) -> None:
        console.print(Text(filled(pen(text), console.width), "dim"))

    console.print()
    console.print(Text(pen("Training seeds as the random unit"), "bold"))
    for group, members in view.groups.items():
        console.print()
        count = f"{len(members)} training seeds" if len(members) > 1 else "1 network: no interval"
        console.print(Text(pen(f"{group} ({count})")))
        console.print(_group_table(view.group_curves[group], threshold, pen, view.scale, percent))
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
        in_step = f"in {view.scale.step}: " if view.scale.step else ""
        title = (
            f"Difference of mean {view.scale.compared} from {reference}, {in_step}Welch's t over networks, p after "
            f"Holm's correction over all {made} tests (* below {ALPHA:g})"
        )
        console.print(Text(filled(pen(title), console.width), "bold"))
        console.print(_tests(view.tests, pen, view.scale))


def _table(*headers: str | Text, **first: Any) -> Table:
    """A table without lines; `first` are options of its first column."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, header in enumerate(headers):
        options: dict[str, Any] = {"justify": "right", "no_wrap": True} | (first if i == 0 else {})
        table.add_column(header, **options)
    return table


def _group_table(
    rows: Sequence[GroupRow], threshold: float | None, pen: Pen, scale: Scale, percent: float | None = None
) -> Table:
    headers = ["sigma", pen("mean ± 95 %"), "range over seeds", "sd of chips", "worst"]
    table = _table(
        *headers,
        *([] if threshold is None else ["yield"]),
        *([] if percent is None else [f"all but {percent:g} %"]),
    )
    for row in rows:
        digits, spread = scale.decimals(row.mean.half, row.mean.value), 2
        if scale.per_cent:
            digits = min(max(digits, 1), 2)
        elif row.spread is not None:
            spread = scale.decimals(row.spread, row.spread)
        cells = [
            _half(row.mean, digits, scale, scale.unit),
            f"{scale.fixed(row.lowest, digits)} to {scale.fixed(row.highest, digits)}"
            if row.networks > 1
            else "",
            "" if row.spread is None else scale.fixed(row.spread, spread),
            scale.fixed(row.worst, 1 if scale.per_cent else digits),
        ]
        if row.passing is not None:
            cells.append(f"{fixed(row.passing, 0)} %")
        if percent is not None:
            cells.append("" if row.percentile is None else _half(row.percentile, digits, scale, scale.unit))
        table.add_row(f"{row.sigma:g}", *map(pen, cells))
    return table


def _half(found: Estimate, digits: int, scale: Scale, unit: str = "") -> str:
    """`86.66 % ± 0.42`; of an interval that is not symmetric `64.1 (60.2 to 68.3)`."""
    text = f"{scale.fixed(found.value, digits)}{unit}"
    if found.half is None or found.span is None:
        return text
    if scale.judge.logarithm or found.is_cut:
        return f"{text} ({' to '.join(scale.fixed(end, digits) for end in found.span)})"
    return f"{text} ± {scale.fixed(found.half, digits)}"


def _cut_footnote(estimates: Iterable[Estimate], scale: Scale) -> Iterator[str]:
    """What brackets are, where an interval has them in place of a half-width."""
    if not scale.judge.logarithm and any(found.is_cut for found in estimates):
        yield f"in brackets: an interval that is {cut_words(scale)}, for too few or too unequal chips"


def _group_footnotes(view: View) -> Iterator[str]:
    n = range_text(sorted({len(members) for members in view.groups.values()}))
    yield (
        f"± is the half-width of the 95 % Student-t interval over networks, n = {n} training seeds (n - 1 degrees of "
        f"freedom: with few seeds it is wide). A network counts by its mean over chips. Sd of chips: the standard "
        f"deviation between the chips of one network."
    )
    yield from _cut_footnote((row.mean for rows in view.group_curves.values() for row in rows), view.scale)
    if not view.scale.more_is_better:
        yield "the worst chip is the one with the largest error"
    if view.threshold is not None:
        yield "yield: the share of chips of all networks that pass the threshold"
    if view.percent is not None:
        yield group_percentile_words(view.percent)


def _tests(rows: Sequence[DifferenceRow], pen: Pen, scale: Scale) -> Table:
    table = _table("group", "sigma", "difference", "95 % interval", "p, corrected", justify="left")
    before = ""

    def signed(value: float) -> str:
        return f"{100 * value:+.2f}" if scale.per_cent else f"{value:+.4g}"

    for row in rows:
        span = row.difference.span
        cells = [
            signed(row.difference.value),
            f"{signed(span[0])} to {signed(span[1])}" if span else "no test",
            "" if row.adjusted is None else f"{row.adjusted:.2g} {'*' if row.significant else ' '}",
        ]
        table.add_row(pen(row.name if row.name != before else ""), f"{row.sigma:g}", *map(pen, cells))
        before = row.name
    return table


# The report of a sweep for a terminal: a line per model, then a table of sigmas.


COLUMN, YIELD, PERCENTILE = 22, 17, 20
"""Characters that a model's column takes, and how many more with a yield, and with a percentile."""


def show_sweep(
    sweep: Sweep,
    console: Console,
    threshold: float | None = None,
    grouped: bool = False,
    percent: float | None = None,
) -> None:
    """Print a sweep.

    Args:
        sweep: what was found.
        console: where to; its width decides how many models stand side by side.
        threshold: also say at which sigma the mean falls below it (an error: rises above it), and the yield.
        grouped: the networks are those of groups that are shown after this: tables of single ones and their tests
            are left to the page and the JSON.
        percent: also show the score that all but so many per cent of the chips reach.

    Raises:
        InputError: if the threshold is none that a score can have, or the sweep is of several metrics.
    """
    if threshold is not None:
        check_threshold(sweep.metric, threshold)
    pen, view = Pen(console.encoding), View(sweep, threshold, percent=percent)
    for line in (*_headlines(view), *itertools.chain(*shares(sweep))):
        console.print(Text(filled(pen(line), console.width)))
    console.print()
    width = COLUMN + (threshold is not None) * YIELD + (percent is not None) * PERCENTILE
    labels, side = () if grouped else sweep.labels, max(1, (console.width - 7) // width)
    for start in range(0, len(labels), side):
        console.print(_sweep_table(view, labels[start : start + side], pen))
        console.print()
    for line in _sweep_footnotes(view, grouped):
        console.print(Text(filled(pen(line), console.width), "dim"))
    show_notes(sweep.tasks, console)
    for line in tails(sweep.curves):
        say(console, f"warning: {line}", "yellow")


def show_notes(tasks: Mapping[str, Task], console: Console) -> None:
    """Print the notes and warnings of tasks, warnings last."""
    for kind, line in notes_and_warnings(tasks):
        say(console, f"{kind}: {line}", "yellow" if kind == "warning" else "")


def _headlines(view: View) -> Iterator[str]:
    for label, rows in view.curves.items():
        text = f"{label}: {view.scale.name} {_level(view.scale, rows[0].clean)} clean"
        area, crossing = view.areas[label], view.crossings[label]
        if area is not None and area.span is not None:
            text += f"; mean over sigma {rows[0].sigma:g} to {rows[-1].sigma:g} "
            mean, low, high = (_level(view.scale, value, area.half) for value in (area.value, *area.span))
            text += f"{mean} (95 % {low} to {high})"
        if view.threshold is not None and crossing is not None:
            verb = "falls below" if view.scale.more_is_better else "rises above"
            text += f"; it {verb} {view.scale.limit_text(view.threshold, 1)} {crossing_words(crossing)}"
        yield text


def _sweep_table(view: View, labels: Sequence[str], pen: Pen) -> Table:
    table = _table("sigma", style="cyan")
    for name in shorten(labels, COLUMN - 2):
        table.add_column(Text(pen(name)), no_wrap=True, min_width=COLUMN - 4)
    by_sigma = [{row.sigma: row for row in view.curves.get(label, ())} for label in labels]
    for sigma in sorted({sigma for column in by_sigma for sigma in column}):
        cells = [pen(_cell(column[sigma], view.scale)) if sigma in column else "" for column in by_sigma]
        table.add_row(f"{sigma:g}", *cells)
    return table


def _cell(row: PointRow, scale: Scale) -> str:
    """`86.66 % ± 0.42`, and with a threshold the yield with its interval: `70 % (48 to 85)`."""
    text = _half(row.mean, scale.decimals(row.mean.half, row.mean.value), scale, scale.unit)
    if row.passing is not None:
        ends = " to ".join(fixed(end, 0) for end in row.passing.span or ())
        text += f"  {fixed(row.passing.value, 0)} % ({ends})"
    if row.percentile is not None:
        text += f"  {_percentile(row.percentile, scale, scale.decimals(row.mean.half, row.mean.value))}"
    return text


def _percentile(found: Estimate | None, scale: Scale, digits: int) -> str:
    """`81.20 (79.10 to 84.00)`; an end for which there are too few chips is open."""
    if found is None:
        return "-"
    return f"{scale.fixed(found.value, digits)} ({scale.open_span_text(found.low, found.high, digits)})"


def _sweep_footnotes(view: View, grouped: bool) -> Iterator[str]:
    rows = list(view.points)
    if not rows:
        return
    chips, images = sorted({row.chips for row in rows}), sorted({row.images for row in rows})
    any_drawn = any(row.drawn for row in rows)
    on = f"{range_text(images)} {'images drawn for each chip' if any_drawn else 'images'}"
    if chips == [1]:
        yield f"one chip has no interval; it was measured on {on}"
    elif grouped:
        yield f"each network was measured on {range_text(chips)} chips, each on {on}"
    else:
        if view.scale.judge.logarithm:
            yield (
                f"in brackets the 95 % interval of the geometric mean over {range_text(chips)} chips (Student t of "
                f"{view.scale.compared}), each on {on}"
            )
        else:
            yield f"± is the half-width of the 95 % t interval of the mean over {range_text(chips)} chips, each on {on}"
            yield from _cut_footnote((row.mean for row in rows), view.scale)
    if view.threshold is not None and not grouped:
        kind = "approximate" if any_drawn else "Wilson's"
        yield (
            f"then the yield: the share of chips that {view.scale.measure.passing} "
            f"{view.scale.limit_text(view.threshold, 1)}, and its 95 % interval ({kind})"
        )
    if view.percent is not None and not grouped:
        words = percentile_words(view.percent, view.scale, any(row.drawn for row in view.points))
        yield f"then {words[:1].lower()}{words[1:].rstrip('.')}"
    yield from _costs(view.costs)
    if not grouped:
        yield from _comparisons(view)


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
    """The cost of an interval budget, that of all images for the same intervals, and what is not complete."""
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
        missed = counted(costs.missed, "point")
        yield f"the half-width was not reached at {missed} with the largest number of chips that is tried"
    if costs.unfinished:
        yield f"{counted(costs.unfinished, 'point')} not finished: run the sweep again to go on"


def show_sensitivity(
    drops: Sequence[LayerDrop], metric: str, clean: float, images: int, console: Console
) -> None:
    """Print what each layer costs alone: a row per layer, a column per sigma, in points."""
    pen, scale = Pen(console.encoding), Scale.of(metric)
    names, sigmas = list(dict.fromkeys(d.layer for d in drops)), sorted({d.sigma for d in drops})
    by_place = {(d.layer, d.sigma): d.drop for d in drops}
    chips = len(drops[0].drop.per_chip) if drops else 0
    headline = (
        f"What each layer costs when only this layer is on arrays: {scale.measure.loss} of {scale.compared}"
    )
    if scale.step:
        headline += f" in {scale.step}"
    console.print(
        Text(
            filled(pen(f"{headline}, from {_level(scale, scale.shown(clean))} clean."), console.width), "bold"
        )
    )
    console.print()
    side = max(1, (console.width - 20) // 16)
    for start in range(0, len(sigmas), side):
        shown = sigmas[start : start + side]
        table = _table("layer", *(f"sigma {sigma:g}" for sigma in shown), justify="left", no_wrap=False)
        for name, short in zip(names, shorten(names, 40), strict=True):
            cells = [_drop(by_place[name, sigma], scale) for sigma in shown]
            table.add_row(Text(pen(short)), *map(pen, cells))
        console.print(table)
        console.print()
    on = counted(images, "example")
    note = f"± is the half-width of the 95 % t interval of the mean over {chips} chips, each on {on}"
    if chips == 1:
        note = f"one chip has no interval; it was measured on {on}"
    console.print(Text(filled(pen(note), console.width), "dim"))


def _drop(summary: Summary, scale: Scale) -> str:
    found = Estimate(summary.mean, *(summary.ci95 or (None, None)))
    digits = few_digits(scale, scale.decimals(found.half, found.value))
    text = scale.fixed(found.value, digits)
    return text if found.half is None else f"{text} ± {scale.fixed(found.half, digits)}"


def _level(scale: Scale, value: float, half: float | None = None) -> str:
    """A score with its unit, of per cent with one decimal."""
    return f"{fixed(value, 1)} %" if scale.per_cent else scale.text(value, half)


def show_trade_off(result: TradeOff, console: Console, percent: float | None = None) -> None:
    """Print a trade-off: one line per combination, those on the front with a star.

    Args:
        result, console: what is printed, and where.
        percent: also print the score that all but so many per cent of the chips reach.
    """
    view = TradeOffView(result, percent)
    pen, scale, rows = Pen(console.encoding), view.scale, view.rows
    there = [row for row in rows if row.score is not None]
    front = [row for row in there if row.front]
    text = (
        f"Combinations on the front of {scale.name} against {view.against} (*): {len(front)} of {len(there)}. No other "
        "one is better in one of the two and not worse in the other."
    )
    found = (
        share_on_arrays(task) for each in result.measured if each.sweep for task in each.sweep.tasks.values()
    )
    known = sorted({share for share in found if share is not None})
    if known:
        text += f" {sentence(known[0])}"
    if len(known) > 1:
        text = f"{text[:-1]} (of other combinations up to {100 * known[-1]:.1f} %)."
    console.print(Text(filled(pen(text), console.width)))
    console.print()
    low = [] if percent is None else [f"all but {percent:g} %"]
    table = _table(*result.names, scale.name, *low, "energy", "latency", "area mm2", "")
    for row in there:
        assert row.score is not None
        digits = scale.decimals(row.score.half, row.score.value)
        table.add_row(
            *row.values.values(), pen(_half(row.score, digits, scale, scale.unit)),
            *([] if percent is None else [pen(_percentile(row.percentile, scale, digits))]),
            metric_prefix(row.energy, "J"), metric_prefix(row.latency, "s"), f"{row.cost('area'):.3g}",
            "*" if row.front else "",
        )  # fmt: skip
    console.print(table)
    if percent is not None:
        any_drawn = any(each.point is not None and each.point.drawn for each in result.measured)
        console.print(Text(filled(pen(percentile_words(percent, scale, any_drawn)), console.width), "dim"))
    for line in _cut_footnote((row.score for row in there if row.score is not None), scale):
        console.print(Text(filled(pen(line), console.width), "dim"))
    for row in rows:
        if row.impossible:
            label = " ".join(f"{name}={value}" for name, value in row.values.items())
            say(console, f"impossible: {label}: {row.impossible}")
    for note in result.notes:
        say(console, f"note: {note}")
    say(console, f"costs: {result.technology.title}; a first-order estimate (docs/cost.md)")
    for warning in result.cautions:
        say(console, f"warning: {warning}", "yellow")
