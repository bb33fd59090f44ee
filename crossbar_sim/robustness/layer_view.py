"""The table of layers: what became of each, what effects did to it, what it costs alone."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from crossbar_sim.robustness.deploy import Deployment, LayerReport
from crossbar_sim.robustness.wording import MEASURES, Pen, digits_of, fixed, loss, shorten, visible

NAME = 28
"""Columns that a name may be shortened to before the table is divided."""

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
        columns.append(_Column(2, f"{MEASURES[deployment.metric].loss} alone\n(points)", _losses(reports)))
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


def _losses(reports: Sequence[LayerReport]) -> list[str]:
    """Losses with the half-width of their interval, decimal points one below the other."""
    drops = [r.sensitivity.drop if r.sensitivity else None for r in reports]
    means = _aligned([fixed(d.mean, min(digits_of(d), 2)) if d else "" for d in drops])
    halves = [d and d.ci95 and fixed((d.ci95[1] - d.ci95[0]) / 2, min(digits_of(d), 2)) for d in drops]
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
