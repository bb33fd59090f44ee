"""The report of `deploy` on a terminal."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.layer_designs import LayerDesigns, designs_of
from crossbar_sim.nn.analog.effects import MAPS
from crossbar_sim.report.console import Pen, filled
from crossbar_sim.report.deployment_rows import DeploymentView, loss
from crossbar_sim.report.formatting import (
    Scale,
    counted,
    cut_words,
    digits_of,
    few_digits,
    fixed,
    measure_of,
    shorten,
)
from crossbar_sim.report.headline import sentence
from crossbar_sim.robustness.calibration import Calibrator
from crossbar_sim.robustness.deploy import Deployment, LayerReport
from crossbar_sim.robustness.statistics import Percentile, Summary
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
    digits = [0 if d is None else few_digits(scale, scale.digits_of(d)) for d in drops]
    means = _aligned([scale.fixed(d.mean, n) if d else "" for d, n in zip(drops, digits, strict=True)])
    halves = [
        d and d.ci95 and scale.fixed((d.ci95[1] - d.ci95[0]) / 2, n)
        for d, n in zip(drops, digits, strict=True)
    ]
    if not any(halves):
        return means
    ends = _aligned([half or "" for half in halves])
    return [f"{m} {'±' if half else ' '} {end}" for m, half, end in zip(means, halves, ends, strict=True)]


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
                f"the interval is {cut_words(scale)}: too few or too unequal chips for a Student t interval",
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
