"""Tables of the report page and its CSV files: rows as text."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from crossbar_sim.report.formatting import Names, Scale, fixed, p_text, sigma_text
from crossbar_sim.report.headline import crossing_words
from crossbar_sim.report.rows import DifferenceRow, Estimate, GroupRow, PointRow, View
from crossbar_sim.report.tradeoff_rows import TradeOffView
from crossbar_sim.robustness.groups import seeded
from crossbar_sim.text import spreadsheet_cell


@dataclass(frozen=True)
class Table:
    """A table of text; the first cell of a row is its heading.

    Args:
        caption: above it.
        header: one cell per column.
        groups: (heading of the group or None, rows).
    """

    caption: str
    header: Sequence[str]
    groups: Sequence[tuple[str | None, Sequence[Sequence[str]]]]

    @property
    def lines(self) -> int:
        """How many lines it has, with its header and the headings of groups."""
        return 1 + sum(len(rows) + (title is not None) for title, rows in self.groups)


def of_models(view: View) -> Table:
    """One row per model: clean score, mean over the sigmas, difference to the first, crossing."""
    scale, first, grouped = view.scale, view.sweep.labels[0], seeded(view.sweep)
    where = "over the sigmas" if len(view.sigmas) > 1 else f"at sigma {sigma_text(view.sigmas[0])}"
    over = "95 % interval over chips" if grouped else "95 % interval"
    unit = f" ({scale.judge.axis or scale.judge.unit})" if scale.axis != scale.name else ""
    header = ["model", f"clean{unit}", f"mean {scale.name} {where}{unit}", over]
    several = len(view.sweep.labels) > 1 and not grouped
    if several:
        header.append(f"difference to {view.names.short[first]}, same chips{scale.steps}")
    if view.threshold is not None:
        header.append(f"mean crosses {view.scale.limit_text(view.threshold, 0)}")
    rows = []
    for found in view.models:
        score = found.score
        row = [
            view.names.whole[found.label],
            scale.number(found.clean),
            scale.number(score.value, score.half),
            _span(score, scale),
        ]
        if several and found.label == first:
            row.append("")
        elif several:
            row.append("no chip in common" if found.lead is None else _difference(found.lead, scale))
        if view.threshold is not None:
            row.append("one sigma only" if found.crossing is None else crossing_words(found.crossing))
        rows.append(row)
    return Table("Models", header, [(None, rows)])


def of_points(view: View) -> Table:
    """One row per model and sigma."""
    header = ["sigma", "mean", "95 % interval", "spread", "median", "worst chip", "best chip"]
    if view.threshold is not None:
        header.append(f"yield at {view.scale.limit_text(view.threshold, 0)} (95 %)")
    if view.percent is not None:
        header.append(f"all but {view.percent:g} % of chips reach (95 %)")
    header.append("chips × examples")
    groups = [
        (view.names.whole[label], [_point(row, view.scale, view.percent is not None) for row in rows])
        for label, rows in view.curves.items()
    ]
    return Table(
        f"{view.scale.name} at each sigma{_units(view.scale, 'the spread between chips')}", header, groups
    )


def _units(scale: Scale, spread: str) -> str:
    """The units of a table: ", in %; the spread between chips in points"."""
    unit = scale.judge.axis or scale.judge.unit
    parts = [f", in {'the ' if scale.judge.axis else ''}{unit}"] if unit else []
    if scale.step and scale.step != unit:
        parts.append(f"{spread} in {scale.step}")
    if scale.judge.logarithm:
        parts[-1] += f" of {scale.compared}"
        return "; " + "; ".join(parts)
    return "; ".join(parts)


def _point(row: PointRow, scale: Scale, percent: bool) -> list[str]:
    half = row.mean.half
    cells = [
        sigma_text(row.sigma), scale.number(row.mean.value, half), _span(row.mean, scale),
        "" if row.spread is None else scale.number(row.spread, row.spread),
        scale.number(row.median, half), scale.number(row.worst, half), scale.number(row.best, half),
    ]  # fmt: skip
    if row.passing is not None:
        cells.append(f"{fixed(row.passing.value, 0)} ({_whole_span(row.passing)})")
    if row.percentile is not None:
        digits = scale.decimals(half, row.mean.value)
        found = row.percentile
        ends = scale.open_span_text(found.low, found.high, digits)
        cells.append(f"{scale.fixed(found.value, digits)} ({ends})")
    elif percent:
        cells.append("")
    return [*cells, f"{row.chips} × {row.images:,}{' drawn' if row.drawn else ''}"]


def _whole_span(found: Estimate) -> str:
    """The interval of a yield in whole per cent."""
    return " to ".join(fixed(end, 0) for end in found.span or ())


def of_pairs(view: View) -> Table | None:
    """Every model against the first, at each sigma; None where nothing can be compared."""
    first = view.names.whole[view.sweep.labels[0]]
    groups = [
        (
            f"{view.names.whole[label]} minus {first}",
            [
                [
                    sigma_text(row.sigma), _difference(row.difference, view.scale), p_text(row.p_value),
                    p_text(row.adjusted), str(row.counts[0]),
                ]
                for row in rows
            ],
        )
        for label, rows in view.differences.items()
    ]  # fmt: skip
    header = ["sigma", f"difference in {view.scale.compared}{view.scale.steps}", "p", "p after Holm", "chips"]
    return Table("Differences on the same chips", header, groups) if groups else None


def of_groups(view: View) -> Table:
    """One row per way to train and sigma; a network counts by its mean over chips."""
    names = Names.of(list(view.groups)).whole
    header = [
        "sigma", "mean over networks", "95 % interval over seeds", "range over seeds", "spread of chips", "worst chip"
    ]  # fmt: skip
    if view.threshold is not None:
        header.append(f"yield at {view.scale.limit_text(view.threshold, 0)}")
    if view.percent is not None:
        header.append(f"all but {view.percent:g} % of chips reach (95 %, over seeds)")
    groups = [
        (f"{names[group]} ({_count(len(view.groups[group]))})", [_group(row, view.scale) for row in rows])
        for group, rows in view.group_curves.items()
    ]
    return Table(
        f"{view.scale.name} of each way to train"
        f"{_units(view.scale, 'the spread between the chips of one network')}",
        header,
        groups,
    )


def _group(row: GroupRow, scale: Scale) -> list[str]:
    cells = [
        sigma_text(row.sigma), scale.number(row.mean.value, row.mean.half),
        _span(row.mean, scale, "one network: none"),
        scale.span_text(row.lowest, row.highest) if row.networks > 1 else "",
        "" if row.spread is None else scale.number(row.spread, row.spread), scale.number(row.worst),
    ]  # fmt: skip
    if row.passing is not None:
        cells.append(fixed(row.passing, 0))
    if row.percentile is not None:
        found = row.percentile
        cells.append(f"{scale.number(found.value, found.half)} ({_span(found, scale, 'one network')})")
    return cells


def of_group_tests(view: View) -> Table | None:
    """Every other way to train against the reference, at each sigma; None where there is only one way.

    Raises:
        InputError: if the sweep has no such group.
    """
    names = Names.of(list(view.groups)).whole
    groups: dict[str, list[list[str]]] = {}
    for row in view.tests:
        d = row.difference
        groups.setdefault(f"{names[row.name]} minus {names[row.less]}", []).append(
            [
                sigma_text(row.sigma), view.scale.number(d.value, d.half), _span(d, view.scale, "no test"),
                p_text(row.p_value), p_text(row.adjusted), f"{row.counts[0]} and {row.counts[1]}",
            ]
        )  # fmt: skip
    header = [
        "sigma", f"difference in {view.scale.compared}{view.scale.steps}", "95 % interval", "p", "p after Holm",
        "networks",
    ]  # fmt: skip
    return Table("Differences between ways to train", header, list(groups.items())) if groups else None


def of_layers(view: View) -> Table | None:
    """What each layer costs alone; None where that was not measured."""
    groups: dict[str, list[list[str]]] = {}
    scale = view.scale
    for row in view.layers:
        cells = [
            row.layer,
            scale.number(row.drop.value, row.drop.half),
            _span(row.drop, scale),
            str(row.chips),
        ]
        groups.setdefault(view.names.whole[row.label], []).append(cells)
    header = ["layer", f"{scale.loss}{scale.steps}", "95 % interval", "chips"]
    return Table("Each layer alone", header, list(groups.items())) if groups else None


def _span(found: Estimate, scale: Scale, none: str = "one chip: none") -> str:
    return none if found.span is None else scale.span_text(*found.span)


def _difference(found: Estimate, scale: Scale) -> str:
    return f"{scale.number(found.value, found.half)} ({_span(found, scale, 'one chip')})"


def _count(networks: int) -> str:
    return "one network" if networks == 1 else f"{networks} training seeds"


# The CSV files that the page holds for download: rows with scores as stored.


MOST_TRIALS = 20_000
"""Trials in the file of chips; `crossbar-sim results` writes all of them."""

_CURVES = (
    "model", "metric", "sigma", "clean", "mean", "low95", "high95", "spread", "median", "min", "max", "threshold",
    "yield", "yield_low95", "yield_high95", "chips", "examples",
)  # fmt: skip
_DIFFERENCES = ("model", "less", "sigma", "difference", "low95", "high95", "p", "p_holm", "chips")
_GROUPS = (
    "group", "sigma", "networks", "mean", "low95", "high95", "lowest", "highest", "spread", "worst", "threshold",
    "yield", "chips",
)  # fmt: skip
_TESTS = (
    "group", "less", "sigma", "difference", "low95", "high95", "p", "p_holm", "networks", "networks_less",
)  # fmt: skip
_CHIPS = ("model", "metric", "sigma", "chip", "value", "examples", "variance")


def downloads(view: View) -> dict[str, str]:
    """File name -> CSV: curves, differences to the first model (of groups: their curves and tests), scores of chips."""
    shown, view = view, view.as_stored
    logarithm = view.scale.judge.logarithm
    means = {(r.label, r.sigma): _triple(r.mean) for r in shown.points} if logarithm else {}
    files: dict[str, tuple[Sequence[str], Iterable[Sequence[Any]]]] = {
        "curves.csv": (
            (
                *_CURVES,
                *(("shown_mean", "shown_low95", "shown_high95") if logarithm else ()),
                *(() if view.percent is None else ("percentile", "percentile_low95", "percentile_high95")),
            ),
            (
                (
                    r.label, r.metric, r.sigma, r.clean, *_triple(r.mean), r.spread, r.median, r.worst, r.best,
                    view.limit, *_triple(r.passing), r.chips, r.images,
                    *means.get((r.label, r.sigma), ()),
                    *(() if view.percent is None else _triple(r.percentile)),
                )
                for r in view.points
            ),
        )
    }  # fmt: skip
    if seeded(view.sweep):
        files["groups.csv"] = (
            (
                *_GROUPS,
                *(() if view.percent is None else ("percentile", "percentile_low95", "percentile_high95")),
            ),
            (
                (
                    r.group, r.sigma, r.networks, *_triple(r.mean), r.lowest, r.highest, r.spread, r.worst,
                    view.limit, r.passing, r.chips,
                    *(() if view.percent is None else _triple(r.percentile)),
                )
                for rows in view.group_curves.values()
                for r in rows
            ),
        )  # fmt: skip
        files["tests.csv"] = (_TESTS, map(_difference_line, view.tests))
    elif len(view.sweep.labels) > 1:
        lines = (_difference_line(row) for rows in view.differences.values() for row in rows)
        files["differences.csv"] = (_DIFFERENCES, lines)
    files["chips.csv"] = (
        _CHIPS,
        (
            (r.label, r.metric, r.sigma, r.chip, r.value, r.images, r.variance)
            for r in view.chips(_chips_of_a_point(view))
        ),
    )
    return {name: _csv_text(header, lines) for name, (header, lines) in files.items()}


def left_out(view: View) -> str:
    """A sentence on what the file of chips leaves out; empty where it is complete."""
    most = _chips_of_a_point(view)
    if most is None:
        return ""
    return f"chips.csv holds the first {most} chips of each point; crossbar-sim results writes all of them."


def _chips_of_a_point(view: View) -> int | None:
    """How many chips of each point the file of chips holds; None: all."""
    rows = list(view.points)
    return None if sum(row.chips for row in rows) <= MOST_TRIALS else max(MOST_TRIALS // len(rows), 1)


def _triple(found: Estimate | None) -> tuple[float | None, float | None, float | None]:
    return (None, None, None) if found is None else (found.value, found.low, found.high)


def _difference_line(row: DifferenceRow) -> tuple[Any, ...]:
    return (row.name, row.less, row.sigma, *_triple(row.difference), row.p_value, row.adjusted, *row.counts)


def _csv_text(header: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A CSV file; numbers in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([spreadsheet_cell(value) for value in line] for line in lines)
    return out.getvalue()


def trade_off_csv(view: TradeOffView) -> str:
    """The rows of a trade-off as CSV; costs in SI units."""
    names = view.result.names
    header = (
        *names,
        view.scale.name,
        "low",
        "high",
        *(() if view.percent is None else ("percentile", "percentile_low95", "percentile_high95")),
        "energy_J",
        "latency_s",
        "area_m2",
        "front",
        "impossible",
    )
    lines = [
        (
            *row.values.values(), *(_triple(row.computed) if row.computed is not None else ("", "", "")),
            *(() if view.percent is None else _triple(row.percentile)),
            *(("", "", "") if row.impossible else (row.energy, row.latency, row.area)), int(row.front), row.impossible,
        )
        for row in view.rows
    ]  # fmt: skip
    return _csv_text(header, lines)
