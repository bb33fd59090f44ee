"""What the page's charts share: tables of data, one scale of models, widths, formats."""

import csv
import functools
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from crossbar_sim.robustness.page.look import Names, Scale, Style, sigma_axis
from crossbar_sim.robustness.sweep import Sweep
from crossbar_sim.text import spreadsheet_cell

SHARE = ".2~%"
"""d3's format of a share: as many of two decimals as it needs."""

FEW = 12
"""So many sigmas are the ticks of their axis."""

CONFIG: dict[str, Any] = {
    "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', sans-serif",
    "background": "transparent",
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": 12, "titleFontSize": 12.5, "titleFontWeight": "normal", "labelColor": "#333",
        "titleColor": "#222", "gridColor": "#e7e7e4", "domainColor": "#777", "tickColor": "#777",
        "titlePadding": 8,
    },
    "legend": {"labelFontSize": 12.5, "labelColor": "#222", "symbolSize": 80, "rowPadding": 3},
    "point": {"strokeWidth": 1.5},
}  # fmt: skip


@dataclass(frozen=True)
class Chart:
    """A chart of the page.

    Args:
        name: of its place on the page.
        spec: Vega-Lite.
        caption: what there is to see, for people who see and who do not.
    """

    name: str
    spec: dict[str, Any]
    caption: str


@dataclass(frozen=True)
class Subject:
    """What is drawn."""

    sweep: Sweep
    names: Names
    scale: Scale

    def style(self, label: str) -> Style:
        """The marks of a model: its place among all decides."""
        return Style.of(self.sweep.labels.index(label))


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> alt.InlineData:
    """Rows as data of a chart, without their names in every row; `finish` and the page's script know the form.

    CSV would do as well, but Vega reads it by making code of it, which the page's policy forbids.
    """
    content = {"columns": list(header), "rows": [list(row) for row in rows]}
    return alt.InlineData(values=json.dumps(content, allow_nan=False))


def csv_text(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A CSV file; numbers in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([spreadsheet_cell(value) for value in row] for row in rows)
    return out.getvalue()


def finish(chart: Any, caption: str, height: int) -> dict[str, Any]:
    """The specification: as wide as the page lets it, free of the user's own altair theme, each table once."""
    with alt.theme.enable("none"), alt.data_transformers.enable("default", consolidate_datasets=False):
        spec: dict[str, Any] = chart.properties(width="container", height=height).to_dict()
    names: dict[str, str] = {}
    for part in _parts(spec):
        text = part.get("data", {}).get("values")
        if text is not None:
            part["data"] = {"name": names.setdefault(text, f"table-{len(names)}")}
    tables = {name: json.loads(text) for text, name in names.items()}
    return spec | {"description": caption, "datasets": tables}


def _parts(spec: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield spec
    for layer in spec.get("layer", ()):
        yield from _parts(layer)


def models(subject: Subject, legend: bool = True) -> dict[str, Any]:
    """Encodings that tell models apart by colour, shape and dashes, in one legend."""
    labels = subject.sweep.labels
    names = [subject.names.short[label] for label in labels]
    styles = [subject.style(label) for label in labels]
    longest = max(map(len, names))
    key: Any = None
    if legend and len(names) > 1:
        columns = max(1, min(len(names), 340 // (7 * longest + 34)))
        key = alt.Legend(
            title=None, orient="top", columns=columns, labelLimit=330, symbolOpacity=1, symbolDash=[1, 0]
        )
    return {
        "color": alt.Color(
            "M:N", scale=alt.Scale(domain=names, range=[s.colour for s in styles]), legend=key
        ),
        "shape": alt.Shape("M:N", scale=alt.Scale(domain=names, range=[s.shape for s in styles]), legend=key),
        "strokeDash": alt.StrokeDash(
            "M:N", scale=alt.Scale(domain=names, range=[list(s.dash) or [1, 0] for s in styles]), legend=key
        ),
    }


def sigma_x(subject: Subject, field: str, sigmas: Sequence[float], padding: int) -> alt.X:
    """The axis of sigma; a single one stands in the middle."""
    first, last = (sigmas[0], sigmas[-1]) if len(sigmas) > 1 else (sigmas[0] - 0.5, sigmas[0] + 0.5)
    title = sigma_axis(subject.sweep)
    # In siemens with a prefix: 5µ for 0.000005.
    axis: dict[str, Any] = {"format": ".4~s" if title.endswith("(S)") else ".4~g"}
    if len(sigmas) <= FEW:
        axis |= {"values": list(sigmas), "labelOverlap": True}
    scale = alt.Scale(domain=[first, last], nice=False, padding=padding)
    return alt.X(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(**axis))


def only(encodings: dict[str, Any], *channels: str) -> dict[str, Any]:
    """These of the encodings: an area has no shape."""
    return {channel: encodings[channel] for channel in channels}


def several(subject: Subject) -> bool:
    """Whether any point has more than one chip, and so an interval."""
    return any(len(p.trials) > 1 for points in subject.sweep.curves.values() for p in points)


def short(value: float | None, digits: int = 6) -> Any:
    """Enough digits for a chart."""
    return None if value is None else float(f"{value:.{digits}g}")


def joined(*lines: str) -> str:
    """Sentences in one caption."""
    return " ".join(line for line in lines if line)


def spread_evenly(count: int, most: int) -> list[int]:
    """At most `most` of 0 .. count - 1, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return sorted({round(i * (count - 1) / (most - 1)) for i in range(most)})


@functools.cache
def library() -> str:
    """Vega, Vega-Lite and vega-embed as one script, of the version that altair writes for or the newest."""
    import vl_convert

    wanted = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    known = vl_convert.get_vegalite_versions()
    return vl_convert.javascript_bundle(
        "window.vegaEmbed = vegaEmbed;", wanted if wanted in known else known[-1]
    )
