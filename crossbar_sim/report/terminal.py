"""The reports of `deploy`, `sweep` and `sensitivity` on a terminal."""

import io
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.layer_designs import LayerDesigns, designs_of
from crossbar_sim.nn.analog.effects import MAPS
from crossbar_sim.report.console import Pen, filled, say
from crossbar_sim.report.deployment_rows import DeploymentView, loss
from crossbar_sim.report.formatting import (
    Scale,
    counted,
    digits_of,
    fixed,
    measure_of,
    metric_prefix,
    range_text,
    shorten,
)
from crossbar_sim.report.headline import crossing_words, listed_sigmas, percentile_words, sentence, shares
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
from crossbar_sim.robustness.calibration import Calibrator
from crossbar_sim.robustness.deploy import Deployment, LayerReport
from crossbar_sim.robustness.drawn_scores import MOST_CHIPS
from crossbar_sim.robustness.groups import seeded, unlike_groups
from crossbar_sim.robustness.sensitivity import LayerDrop
from crossbar_sim.robustness.statistics import Percentile, Summary
from crossbar_sim.robustness.sweep import Sweep, notes_and_warnings, share_on_arrays, tails
from crossbar_sim.robustness.tradeoff import TradeOff
from crossbar_sim.store.records import Task
from crossbar_sim.text import visible

# The table of layers: size, effects, and what each costs alone.


NAME = 28
"""Width to which a name may be shortened before the table is divided."""

BAR = 10


@dataclass(frozen=True)
class _Column:
    """A column of the layers' table; those of one group stay together."""

    group: int
    header: str
    cells: list[str]
    right: bool = True

    @property
    def width(self) -> int:
        return max(cell_len(line) for text in (self.header, *self.cells) for line in text.split("\n"))


def _columns(deployment: Deployment, reports: Sequence[LayerReport]) -> list[_Column]:
    found = [r.as_dict() for r in reports]
    columns = [
        _Column(0, "\nkind", [d["kind"] for d in found], False),
        _Column(0, "rows ×\ncolumns", [_size(r) for r in reports]),
        _Column(0, "\ntiles", [f"{d['tiles']:,}" if d["tiles"] else "" for d in found]),
        _Column(0, "\ncells", [f"{d['cells']:,}" if d["cells"] else "" for d in found]),
        _Column(0, "in\nuse", [used(d["utilisation"]) if d["cells"] else "" for d in found]),
    ]
    for effect in dict.fromkeys(effect for r in reports for effect in r.effects):
        cells = [_relative(r.effects[effect]) if effect in r.effects else "" for r in reports]
        columns.append(_Column(1, f"changed\nby {effect}", cells))
    if any(r.sensitivity for r in reports):
        largest = max(max(loss(r) for r in reports), 1e-12)
        scale = Scale.of(deployment.judge)
        step = f"({scale.step})" if scale.step else ""
        columns.append(_Column(2, f"{scale.measure.loss} alone\n{step}", _losses(reports, scale)))
        columns.append(_Column(2, "\n", [_bar(max(loss(r), 0) / largest) for r in reports], False))
    return columns


def _size(report: LayerReport) -> str:
    """Rows and columns of its matrices; equal ones are counted."""
    counts: dict[str, int] = {}
    for g in report.layer.geometries(report.hardware):
        text = f"{g.rows}×{g.cols}" + (f" (×{g.groups})" if g.groups > 1 else "")
        counts[text] = counts.get(text, 0) + 1
    texts = [f"{n} of {text}" if n > 1 else text for text, n in counts.items()]
    return "\n".join(texts) or "digital"


def _relative(change: float) -> str:
    """A relative change in per cent with two digits."""
    if not 1e-6 <= change < 1e4:
        return "none" if change < 1e-6 else f"{change:.0e} times"
    digits = max(1 - math.floor(math.log10(100 * change)), 0)
    return f"{100 * change:.{digits}f} %"


def used(part: float) -> str:
    """A share of cells in per cent."""
    return "<0.1 %" if 0 < part < 5e-4 else f"{100 * part:.{int(part < 0.0995)}f} %"


def _losses(reports: Sequence[LayerReport], scale: Scale) -> list[str]:
    """Losses with the half-width of their interval, decimal points one below the other."""
    drops = [r.sensitivity.drop if r.sensitivity else None for r in reports]
    digits = [0 if d is None else _few(scale, scale.digits_of(d)) for d in drops]
    means = _aligned([scale.fixed(d.mean, n) if d else "" for d, n in zip(drops, digits, strict=True)])
    halves = [
        d and d.ci95 and scale.fixed((d.ci95[1] - d.ci95[0]) / 2, n)
        for d, n in zip(drops, digits, strict=True)
    ]
    if not any(halves):
        return means
    ends = _aligned([half or "" for half in halves])
    return [f"{m} {'±' if half else ' '} {end}" for m, half, end in zip(means, halves, ends, strict=True)]


def _few(scale: Scale, digits: int) -> int:
    """The decimals of a table: two at most of per cent."""
    return min(digits, 2) if scale.per_cent else digits


def _aligned(numbers: list[str]) -> list[str]:
    behind = [len(n) - n.index(".") if "." in n else 0 for n in numbers]
    padded = [n + " " * (max(behind) - b) for n, b in zip(numbers, behind, strict=True)]
    return [n.rjust(max(map(len, padded))) for n in padded]


def _bar(part: float) -> str:
    eighths = round(8 * BAR * min(part, 1.0))
    return "█" * (eighths // 8) + ("", *"▏▎▍▌▋▊▉")[eighths % 8]


def tables(deployment: Deployment, reports: Sequence[LayerReport], width: int, pen: Pen) -> Iterator[Table]:
    """One table if all columns fit into the width, else several, each with the names."""
    names = [visible(r.layer.name) for r in reports]
    longest = max(map(cell_len, ("layer", *names)))
    columns = [
        _Column(c.group, pen(c.header), [pen(t) for t in c.cells], c.right)
        for c in _columns(deployment, reports)
    ]
    parts: list[list[_Column]] = [[]]
    for group in sorted({c.group for c in columns}):
        new = [c for c in columns if c.group == group]
        if parts[-1] and min(longest, NAME) + sum(c.width + 2 for c in parts[-1] + new) > width:
            parts.append([])
        parts[-1] += new
    for part in parts if reports else []:
        room = max(width - sum(c.width + 2 for c in part), 12)
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        table.add_column("\nlayer", overflow="fold", width=min(longest, room))
        for column in part:
            table.add_column(column.header, justify="right" if column.right else "left", overflow="fold")
        for i, name in enumerate(shorten(names, room)):
            table.add_row(
                Text(pen(name)), *(Text(c.cells[i], "cyan" if c.header == "\n" else "") for c in part)
            )
        yield table


# The report of `deploy`: the answer, its uncertainty, and the layers.


ALL_LAYERS, FEW_LAYERS = 24, 12
"""A table has every layer up to the first number; beyond it the most sensitive, so many."""


def show(deployment: Deployment, console: Console, percent: float | None = None) -> None:
    """Print the report.

    Args:
        deployment: what `deploy` found.
        console: where to; its width and encoding decide the layout.
        percent: also show the score that all but so many per cent of the chips reach.
    """
    pen = Pen(console.encoding)

    view = DeploymentView(deployment)

    def show_line(text: str, style: str = "") -> None:
        console.print(Text(filled(pen(text), console.width), style))

    show_line(_answer(view), "bold")
    console.print()
    facts = list(_facts(view, percent))
    label = max(len(name) for name, _ in facts) + 2
    for name, text in facts:
        console.print(Text.assemble((name.ljust(label), "cyan"), filled(pen(text), console.width, label)))
    console.print()
    reports = [r for r in deployment.layers if r.layer.slots]
    chosen = reports
    if len(reports) > ALL_LAYERS:
        chosen = sorted(reports, key=loss, reverse=True)[:FEW_LAYERS]
    for table in tables(deployment, chosen, console.width, pen):
        console.print(table)
        console.print()
    for line in _deployment_footnotes(deployment, len(reports) - len(chosen)):
        show_line(line, "dim")
    for note in deployment.notes:
        show_line(f"note: {note}", "dim")
    for warning in deployment.warnings:
        show_line(f"warning: {warning}", "yellow")


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


def _judged(deployment: Deployment) -> str:
    """What the main score is a share of: examples, or their tokens or pixels where each has a class."""
    unit = (deployment.judged or {}).get("unit")
    return f"{unit}s" if unit and deployment.metric in ("accuracy", "agreement") else _what(deployment)


def _what(deployment: Deployment) -> str:
    name = str((deployment.identity.get("data") or {}).get("name"))
    return {"digits": "images", "mnist": "images", "random inputs": "inputs"}.get(name, "examples")


def _from_file(deployment: Deployment) -> bool:
    return any(MAPS in report.effects for report in deployment.layers)


def _answer(view: DeploymentView) -> str:
    deployment, total = view.deployment, view.total
    n = len(deployment.scores)
    one = "the chip of the file" if _from_file(deployment) else f"chip {deployment.chips[0]}"
    scale = view.scale
    digits = scale.digits_of(total)
    answer = scale.measure.answer.format(
        chips=f"{n} chips" if n > 1 else one,
        mean=f"{scale.fixed(total.mean, digits)}{scale.unit}",
        what=_judged(deployment),
        ci=_interval(total, scale) or " (one chip: no interval)",
        clean=f"{scale.fixed(view.clean, max(digits, 1))}{scale.unit}",
    )
    return answer if deployment.work is None else f"{answer} {sentence(deployment.work.share)}"


def _interval(found: Summary, scale: Scale) -> str:
    """The interval in brackets; empty where there is none."""
    if found.ci95 is None:
        return ""
    low, high = (scale.fixed(end, scale.digits_of(found)) for end in found.ci95)
    return f" (95 % interval {low} to {high}{scale.unit})"


def _calibrated(view: DeploymentView, calibrator: Calibrator, scale: Scale) -> str:
    """The score without the digital correction of each chip, what the correction gains, and what it costs."""
    without, gain = view.uncalibrated, view.deployment.gain
    mean = f"{scale.fixed(without.mean, scale.digits_of(without))}{scale.unit}"
    text = f"{calibrator.calibration.kind}; without it {mean}{_interval(without, scale)}; {calibrator.cost}"
    if calibrator.share is None or gain is None:
        return text
    unit = f" {scale.step}" if scale.step else ""
    mean, *ends = (scale.fixed(value, scale.digits_of(gain)) for value in (gain.mean, *(gain.ci95 or ())))
    interval = f" (95 % interval {' to '.join(ends)}, paired over chips)" if ends else ""
    share = f"{calibrator.share:.2%}".replace("%", " %")
    return f"{text}, {share} of the model's parameters; the gain is {mean}{unit}{interval}"


def _percentile(found: Percentile, scale: Scale, digits: int) -> str:
    """ "all but 5 % of chips reach 79.8 % (95 % interval up to 83.2 %, both ends need 72 chips)" """
    low, high = (None if end is None else scale.shown(end) for end in found.ci95)
    ends = scale.open_span_text(*((low, high) if scale.more_is_better else (high, low)), digits)
    both = (
        ""
        if None not in found.ci95
        else f"{', ' if ends != 'none' else ': '}both ends need {found.needed:,} chips"
    )
    unit = scale.unit if ends != "none" else ""
    verb = "reach" if scale.more_is_better else "have at most"
    value = f"{scale.fixed(scale.shown(found.value), digits)}{scale.unit}"
    return f"all but {found.percent:g} % of chips {verb} {value} (95 % interval {ends}{unit}{both})"


def _facts(view: DeploymentView, percent: float | None = None) -> Iterator[tuple[str, str]]:
    """The block under the answer: (name, text)."""
    deployment, total, n = view.deployment, view.total, len(view.deployment.scores)
    scale, digits, spread = view.scale, view.scale.digits_of(total), view.spread
    measure = scale.measure
    if spread == 0:
        yield "spread", f"none: all {n} chips score the same"
    elif spread is not None and total.ci95 is not None:
        words = " ".join(part for part in (scale.fixed(spread, scale.decimals(spread)), scale.step) if part)
        of = f" of {scale.compared}" if scale.judge.logarithm else ""
        yield "spread", f"{words} between chips (standard deviation{of})"
        for name, (score, chip) in zip(("worst", "best"), view.extremes, strict=True):
            yield name, f"{scale.fixed(score, digits)}{scale.unit} (chip {chip})"
        quantiles = [f"{100 * float(q):.0f} %: {scale.fixed(v, digits)}" for q, v in total.quantiles.items()]
        yield "quantiles", "   ".join(quantiles) + (f"  (in{scale.unit})" if scale.unit else "")
        if view.is_cut:
            yield (
                "note",
                f"the interval is {_cut_words(scale)}: too few or too unequal chips for a Student t interval",
            )
    if percent is not None:
        yield "percentile", _percentile(deployment.percentile(percent), scale, digits)
    if deployment.calibrator is not None:
        yield "calibrated", _calibrated(view, deployment.calibrator, scale)
    passing, limit = deployment.passing, view.limit
    if passing is not None and limit is not None:
        share, low, high = (fixed(v, 0 if n < 400 else 1) for v in (passing.value, *passing.ci95))
        yield (
            "yield",
            f"{view.reached} of {n} chips {measure.passing} {scale.limit_text(limit, digits)}: "
            f"yield {share} % ({low} to {high} %)",
        )
    others = [f"{measure_of(name).name} {fixed(s.mean, digits_of(s))} %" for name, s in view.others]
    if others:
        yield "also", ", ".join(others) + (" (means)" if n > 1 else "")
    yield from _hardware(deployment)
    if not _from_file(deployment):
        first, last = deployment.chips[0], deployment.chips[-1]
        run = f"{first} to {last}" if deployment.chips == tuple(range(first, last + 1)) else "as chosen"
        yield "chips", f"{run if n > 1 else first} of seed {deployment.seed}"
    layers, tiles, cells, share_used = view.arrays
    used_tiles = dict.fromkeys(r.hardware.tile for r in deployment.layers if r.layer.analog)
    sizes = " and ".join(
        f"{tall}×{wide}" for tall, wide in used_tiles or [designs_of(deployment.hardware)[0].tile]
    )
    yield (
        "arrays",
        f"{counted(layers, 'layer')} on {tiles:,} tiles of {sizes}, {cells:,} cells, {used(share_used)} in use",
    )
    if deployment.work is not None and deployment.work.sentence is not None:
        yield "", deployment.work.sentence
    yield from _not_on_arrays(deployment)


def _hardware(deployment: Deployment) -> Iterator[tuple[str, str]]:
    """The design, or the default one and then each pattern's."""
    design = deployment.hardware
    yield "hardware", _in_words(designs_of(design)[0], deployment)
    if isinstance(design, LayerDesigns):
        for i, (pattern, words) in enumerate(design.in_words()):
            yield "" if i else "layers", f"{pattern}: {words}"


def _in_words(hardware: Hardware, deployment: Deployment) -> str:
    mapping = hardware.mapping
    window = f"{mapping.kind} {1e6 * mapping.g_min:g} to {1e6 * mapping.g_max:g} µS"
    if _from_file(deployment):
        return f"{window}; conductances from a file"
    around = (hardware.wires, hardware.dac, hardware.read_noise, hardware.adc)
    parts = [repr(part) for part in (hardware.programming, hardware.stuck) if part is not None]
    parts += [f"{hardware.drift!r} per {hardware.drift_per}"] * (hardware.drift is not None)
    parts += [repr(part) for part in around if part is not None]
    parts += [f"{mapping.levels} levels"] * (mapping.levels is not None)
    parts += [f"{mapping.cell_bits} bits a cell"] * (mapping.cell_bits is not None)
    parts += [f"{mapping.copies} cells in parallel"] * (mapping.copies > 1)
    return f"{window}; {'; '.join(parts) or 'no imperfections'}"


def _not_on_arrays(deployment: Deployment) -> Iterator[tuple[str, str]]:
    """Layers, and matrices of layers, that stayed digital, by reason."""
    reasons: dict[str, list[str]] = {}
    for layer in (r.layer for r in deployment.layers if not r.layer.analog):
        reason = "folded into the layer before" if layer.reason.startswith("folded into") else layer.reason
        reasons.setdefault(reason, []).append(layer.name)
    for layer in (r.layer for r in deployment.layers):
        for parameter, why in layer.left:
            reasons.setdefault(why, []).append(f"{layer.name}.{parameter}")
    for i, (reason, names) in enumerate(reasons.items()):
        more = f" and {len(names) - 4} more" if len(names) > 5 else ""
        yield ("" if i else "digital"), f"{', '.join(shorten(names, 32)[: 4 if more else 5])}{more}: {reason}"


def _deployment_footnotes(deployment: Deployment, hidden: int) -> Iterator[str]:
    if hidden:
        yield f"{hidden} more layers, less sensitive or not measured, are in the report of --json."
    measured = next((r.sensitivity for r in deployment.layers if r.sensitivity), None)
    if measured is not None:
        n = len(measured.drop.per_chip)
        yield (
            f"Alone: only this layer is on the chip, the others are clean; {n} chip{'s'[: n > 1]}, "
            f"{measured.images:,} {_what(deployment)}{'' if n > 1 else '; one chip: no interval'}."
        )
    if len(deployment.scores) > 1:
        judge = deployment.judge
        of = f" of ln {judge.title} (the mean is geometric)" if judge.logarithm else ""
        yield f"Intervals are 95 %: Student t over chips for means{of}, Wilson for the yield."
    elif deployment.passing is not None:
        yield "The interval of the yield is Wilson's, 95 %."


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
        console.print(_group_table(view.group_curves[group], threshold, pen, view.scale))
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


def _group_table(rows: Sequence[GroupRow], threshold: float | None, pen: Pen, scale: Scale) -> Table:
    headers = ["sigma", pen("mean ± 95 %"), "range over seeds", "sd of chips", "worst"]
    table = _table(*headers, *([] if threshold is None else ["yield"]))
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


def _cut_words(scale: Scale) -> str:
    """ "cut at 0 and 100 %" """
    ends = [
        scale.limit_text(end, 0).removesuffix(scale.unit) for end in scale.judge.bounds if math.isfinite(end)
    ]
    return f"cut at {' and '.join(ends)}{scale.unit}"


def _cut_footnote(estimates: Iterable[Estimate], scale: Scale) -> Iterator[str]:
    """What brackets are, where an interval has them in place of a half-width."""
    if not scale.judge.logarithm and any(found.is_cut for found in estimates):
        yield f"in brackets: an interval that is {_cut_words(scale)}, for too few or too unequal chips"


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
        digits = scale.decimals(row.mean.half, row.mean.value)
        ends = scale.open_span_text(row.percentile.low, row.percentile.high, digits)
        text += f"  {scale.fixed(row.percentile.value, digits)} ({ends})"
    return text


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
        words = percentile_words(view)
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
    digits = _few(scale, scale.decimals(found.half, found.value))
    text = scale.fixed(found.value, digits)
    return text if found.half is None else f"{text} ± {scale.fixed(found.half, digits)}"


def _level(scale: Scale, value: float, half: float | None = None) -> str:
    """A score with its unit, of per cent with one decimal."""
    return f"{fixed(value, 1)} %" if scale.per_cent else scale.text(value, half)


def show_trade_off(result: TradeOff, console: Console) -> None:
    """Print a trade-off: one line per combination, those on the front with a star."""
    view = TradeOffView(result)
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
    table = _table(*result.names, scale.name, "energy", "latency", "area mm2", "")
    for row in there:
        assert row.score is not None
        digits = scale.decimals(row.score.half, row.score.value)
        table.add_row(
            *row.values.values(), pen(_half(row.score, digits, scale, scale.unit)),
            metric_prefix(row.energy, "J"), metric_prefix(row.latency, "s"), f"{row.cost('area'):.3g}",
            "*" if row.front else "",
        )  # fmt: skip
    console.print(table)
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
