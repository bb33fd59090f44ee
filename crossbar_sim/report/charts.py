"""Charts of the report page, as Vega-Lite specifications."""

import csv
import functools
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from crossbar_sim.errors import InputError
from crossbar_sim.report.look import Names, Scale, Style, number, percent, sigma_axis, sigma_text, span_text
from crossbar_sim.report.rows import (
    drops,
    layer_names,
    layers_of,
    most_sensitive,
    pairs,
    telling,
    thresholds,
    told,
    yield_curve,
)
from crossbar_sim.report.wording import visible
from crossbar_sim.robustness.groups import GroupPoint, boundless, group_curve, groups_in, seeded
from crossbar_sim.robustness.point import Point
from crossbar_sim.robustness.sweep import Sweep
from crossbar_sim.text import spreadsheet_cell

# What the page's charts share: tables of data, one scale of models, widths, formats.


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


# Robustness curves of groups of training seeds: a line and a band for each group, thin lines for its networks.


def group_curves(subject: Subject, threshold: float | None, y_scale: alt.Scale, logarithmic: bool) -> Chart:
    """Mean score of groups over sigma.

    Args:
        subject: of a sweep with several training seeds of a group.
        threshold: drawn as a dotted line, as shown.
        y_scale, logarithmic: the axis of the score.
    """
    sweep, scale = subject.sweep, subject.scale
    groups = groups_in(sweep)
    names = Names.of(list(groups)).short
    curves = {group: group_curve(sweep, group) for group in groups}
    wide = boundless(curves)
    sigmas = sorted({point.sigma for points in curves.values() for point in points})
    data = table(
        ("M", "x", "sigma", "mean", "low", "high", "drawn", "alone", "Mean", "Interval", "Networks", "Range"),
        [
            row
            for group, points in curves.items()
            for row in _group_rows(subject, names[group], points, int(group not in wide))
        ],
    )
    marks = _encodings(list(names.values()))
    x = sigma_x(subject, "x", sigmas, 10)
    y = alt.Y("mean:Q", title=scale.name, scale=y_scale, axis=alt.Axis(format=SHARE, tickCount=6))
    picked = alt.selection_point(name="picked", fields=["M"], bind="legend")
    clear = alt.condition(picked, alt.value(1.0), alt.value(0.1))
    base = alt.Chart(data).encode(x=x)
    banded = base.transform_filter("datum.alone == 0 && datum.drawn == 1 && isValid(datum.low)")
    band = banded.mark_area(strokeWidth=0, clip=True).encode(
        y=alt.Y("low:Q", title=scale.name, scale=y_scale), y2="high:Q",
        opacity=alt.condition(picked, alt.value(0.16), alt.value(0.02)), **only(marks, "color"),
    )  # fmt: skip
    lone = base.transform_filter("datum.alone == 1 && isValid(datum.low)").mark_rule(strokeWidth=1.6).encode(
        y=alt.Y("low:Q", title=scale.name), y2="high:Q", opacity=clear, **only(marks, "color")
    )  # fmt: skip
    line = base.mark_line(strokeWidth=2).encode(y=y, opacity=clear, **only(marks, "color", "strokeDash"))
    dots = base.mark_point(filled=True, size=34 if len(sigmas) < 41 else 18).encode(
        y=y, opacity=clear, **only(marks, "color", "shape")
    )
    thin = alt.Chart(_networks(subject, groups, names)).mark_line(strokeWidth=0.7).encode(
        x=x, y=alt.Y("mean:Q", title=scale.name), detail="N:N",
        opacity=alt.condition(picked, alt.value(0.45), alt.value(0.03)), **only(marks, "color"),
    )  # fmt: skip
    touch = base.mark_point(filled=True, size=170).encode(
        y=y, opacity=alt.value(0.0), tooltip=_group_tooltips(scale.name), **only(marks, "color")
    )
    layers = [band, lone, thin, line, dots, touch]
    if threshold is not None:
        limit = alt.Chart(table(("limit",), [(threshold,)])).mark_rule(strokeDash=[2, 3], color="#555")
        layers.insert(0, limit.encode(y=alt.Y("limit:Q", title=scale.name)))
    sizes = sorted({len(members) for members in groups.values()})
    n = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    caption = joined(
        f"Mean {scale.name} against {sigma_axis(sweep)}, for each way to train; thin lines are its networks, each the "
        f"mean over its chips.",
        f"Bands are 95 % Student-t intervals over n = {n} training seeds; one network has none.",
        f"{', '.join(sorted(names[group] for group in wide))}: without a band, which would cover the chart."
        if wide
        else "",
        f"Dotted line: the threshold, {percent(threshold, 0.1)}." if threshold is not None else "",
        "The axis is logarithmic; zero lies at its lower end." if logarithmic else "",
        "Further down, networks stand one by one, in colours of their own.",
        "A click on a name brings it forward, a double click all of them." if len(groups) > 1 else "",
    )
    chart = alt.layer(*layers).add_params(picked)
    return Chart("chart-curves", finish(chart, caption, 360), caption)


def _group_rows(
    subject: Subject, name: str, points: tuple[GroupPoint, ...], drawn: int
) -> Iterator[tuple[Any, ...]]:
    scale = subject.scale
    for point in points:
        low, high = scale.span(*point.ci95) if point.ci95 else (None, None)
        half = None if low is None or high is None else (high - low) / 2
        worst, best = scale.span(point.lowest, point.highest)
        yield (
            name, point.sigma, point.sigma, short(scale.shown(point.mean)), short(low), short(high),
            drawn, int(len(points) == 1), percent(scale.shown(point.mean), half),
            "none: one network" if low is None or high is None else f"{span_text(low, high)} %",
            point.networks, f"{span_text(worst, best)} %",
        )  # fmt: skip


def _networks(subject: Subject, groups: dict[str, tuple[str, ...]], names: Any) -> alt.InlineData:
    """The curves of the networks of groups that have several."""
    return table(
        ("M", "N", "x", "mean"),
        [
            (
                names[group],
                subject.names.short[label],
                point.sigma,
                short(subject.scale.shown(point.summary.mean)),
            )
            for group, members in groups.items()
            if len(members) > 1
            for label in members
            for point in subject.sweep.curve(label)
        ],
    )


def _encodings(names: list[str]) -> dict[str, Any]:
    """Colour, shape and dashes of groups, in one legend; as `drawing.models` has those of models."""
    styles = [Style.of(place) for place in range(len(names))]
    key: Any = None
    if len(names) > 1:
        columns = max(1, min(len(names), 340 // (7 * max(map(len, names)) + 34)))
        key = alt.Legend(
            title=None, orient="top", columns=columns, labelLimit=330, symbolOpacity=1, symbolDash=[1, 0]
        )
    ranges: dict[str, list[Any]] = {
        "color": [s.colour for s in styles],
        "shape": [s.shape for s in styles],
        "strokeDash": [list(s.dash) or [1, 0] for s in styles],
    }
    kinds: dict[str, Any] = {"color": alt.Color, "shape": alt.Shape, "strokeDash": alt.StrokeDash}
    return {
        channel: kinds[channel]("M:N", scale=alt.Scale(domain=names, range=found), legend=key)
        for channel, found in ranges.items()
    }


def _group_tooltips(name: str) -> list[Any]:
    fields = (
        ("M", "trained"), ("sigma", "sigma"), ("Mean", f"mean {name}"), ("Interval", "95 % over seeds"),
        ("Networks", "training seeds"), ("Range", "range over seeds"),
    )  # fmt: skip
    return [alt.Tooltip(f"{field}:N", title=title) for field, title in fields]


# Robustness curves: the mean over chips against sigma, with its band and every chip on demand.


MOST_POINTS = 6000
"""Chips drawn as points, over all models and sigmas."""


def curves(subject: Subject, threshold: float | None) -> Chart:
    """Mean score over sigma with its 95 % band, and every chip on demand; by groups where there are training seeds."""
    sweep, scale = subject.sweep, subject.scale
    logarithmic, y_scale = _score_scale(subject)
    if seeded(sweep):
        return group_curves(subject, threshold, y_scale, logarithmic)
    sigmas = sorted({p.sigma for points in sweep.curves.values() for p in points})
    step = 0.5 * (sigmas[-1] - sigmas[0] or 1.0) / max(len(sigmas), 2)
    data = table(
        ("M", "x", "sigma", "mean", "low", "high", "alone", "clean", "Mean", "Interval", "Chips", "Images"),
        [
            row
            for label in sweep.labels
            for row in _curve_rows(subject, label, step if len(sigmas) == 1 else 0.0)
        ],
    )
    x = sigma_x(subject, "x", sigmas, 10)
    y = alt.Y("mean:Q", title=scale.name, scale=y_scale, axis=alt.Axis(format=SHARE, tickCount=6))
    marks = models(subject)
    picked = alt.selection_point(name="picked", fields=["M"], bind="legend")
    chips = alt.param(name="every_chip", bind=alt.binding_checkbox(name="show every chip "), value=False)
    clear = alt.condition(picked, alt.value(1.0), alt.value(0.1))
    base = alt.Chart(data).encode(x=x)
    band = base.transform_filter("datum.alone == 0 && isValid(datum.low)").mark_area(strokeWidth=0).encode(
        y=alt.Y("low:Q", title=scale.name, scale=y_scale), y2="high:Q",
        opacity=alt.condition(picked, alt.value(0.2), alt.value(0.03)), **only(marks, "color"),
    )  # fmt: skip
    lone = base.transform_filter("datum.alone == 1 && isValid(datum.low)").mark_rule(strokeWidth=1.6).encode(
        y=alt.Y("low:Q", title=scale.name), y2="high:Q", opacity=clear, **only(marks, "color")
    )  # fmt: skip
    line = base.mark_line(strokeWidth=1.8).encode(y=y, opacity=clear, **only(marks, "color", "strokeDash"))
    dots = base.mark_point(filled=True, size=34 if len(sigmas) < 41 else 18).encode(
        y=y, opacity=clear, **only(marks, "color", "shape")
    )
    edge = sigmas[0] - 0.5 * (len(sigmas) == 1)
    clean = base.transform_filter("isValid(datum.clean)").mark_tick(
        orient="horizontal", size=16, thickness=2.2
    ).encode(x=alt.XDatum(edge), y="clean:Q", opacity=clear, **only(marks, "color"))  # fmt: skip
    shown, cloud = _cloud(subject, step)
    every = alt.Chart(cloud).transform_filter("every_chip").mark_point(filled=True, size=14).encode(
        x=x, y=alt.Y("value:Q", title=scale.name), opacity=alt.condition(picked, alt.value(0.4), alt.value(0.03)),
        **only(marks, "color", "shape"),
    )  # fmt: skip
    touch = base.mark_point(filled=True, size=170).encode(
        y=y, opacity=alt.value(0.0), tooltip=_tooltips(scale.name), **only(marks, "color")
    )
    layers = [band, lone, every, line, dots, clean, touch]
    if threshold is not None:
        limit = alt.Chart(table(("limit",), [(threshold,)])).mark_rule(strokeDash=[2, 3], color="#555")
        layers.insert(0, limit.encode(y=alt.Y("limit:Q", title=scale.name)))
    caption = joined(
        f"Mean {scale.name} over chips against {sigma_axis(sweep)};",
        f"{'bands' if len(sigmas) > 1 else 'lines'} are 95 % intervals of the mean."
        if several(subject)
        else "one chip has no interval.",
        "Short dashes at the left edge: the clean score.",
        f"Dotted line: the threshold, {percent(threshold, 0.1)}." if threshold is not None else "",
        "The axis is logarithmic; zero lies at its lower end." if logarithmic else "",
        shown,
        "A click on a model's name brings it forward, a double click all of them."
        if len(sweep.labels) > 1
        else "",
    )
    chart = alt.layer(*layers).add_params(picked, chips)
    return Chart("chart-curves", finish(chart, caption, 340), caption)


def _curve_rows(subject: Subject, label: str, step: float) -> Iterator[tuple[Any, ...]]:
    points, scale = subject.sweep.curve(label), subject.scale
    for i, point in enumerate(points):
        summary = point.summary
        low, high = scale.span(*summary.ci95) if summary.ci95 else (None, None)
        half = None if low is None or high is None else (high - low) / 2
        yield (
            subject.names.short[label], point.sigma + _aside(subject, label, step), point.sigma,
            short(scale.shown(summary.mean)), short(low), short(high),
            int(len(points) == 1), short(scale.shown(point.clean)) if i == 0 else None,
            percent(scale.shown(summary.mean), half),
            "none: one chip" if low is None or high is None else f"{span_text(low, high)} %",
            len(point.chips), f"{point.images} {'drawn ' if point.drawn else ''}each",
        )  # fmt: skip


def _tooltips(name: str) -> list[Any]:
    fields = (("M", "model"), ("sigma", "sigma"), ("Mean", f"mean {name}"), ("Interval", "95 % interval"))
    more = (("Chips", "chips"), ("Images", "examples"))
    return [alt.Tooltip(f"{field}:N", title=title) for field, title in (*fields, *more)]


def _cloud(subject: Subject, step: float) -> tuple[str, alt.InlineData]:
    """(what is left out, in words; points of the chips): models stand side by side, the first chips of many."""
    labels, places = subject.sweep.labels, sum(map(len, subject.sweep.curves.values()))
    most = max(MOST_POINTS // places, 1)
    rows, cut = [], 0
    for label in labels:
        aside = _aside(subject, label, step)
        for point in subject.sweep.curve(label):
            cut = max(cut, len(point.trials) - most)
            for trial in point.trials[:most]:
                rows.append(
                    (
                        subject.names.short[label],
                        short(point.sigma + aside),
                        short(subject.scale.shown(trial.value)),
                    )
                )
    told = f"Of the chips, the first {most} of each point can be shown here." if cut > 0 else ""
    return told, table(("M", "x", "value"), rows)


def _score_scale(subject: Subject) -> tuple[bool, alt.Scale]:
    """(whether it is logarithmic, the scale): only errors grow without bound."""
    shown = [subject.scale.shown(p.summary.mean) for points in subject.sweep.curves.values() for p in points]
    positive = sorted(v for v in shown if v > 0)
    if not subject.scale.more_is_better and positive and positive[-1] > max(2, 300 * positive[0]):
        return True, alt.Scale(type="log", domain=[positive[0], positive[-1]], clamp=True)
    return False, alt.Scale(zero=False, nice=True)


def _aside(subject: Subject, label: str, step: float) -> float:
    """How far a model's marks stand beside the sigma, where all models within `step` stand side by side."""
    labels = subject.sweep.labels
    return step * ((labels.index(label) + 0.5) / len(labels) - 0.5)


# Differences of two models on the same chips.


VERDICTS = (
    ("p < 0.05 after Holm", "circle", "#0072b2"),
    ("not significant", "diamond", "#ffffff"),
    ("exact", "square", "#222222"),
    ("no test", "cross", "#ffffff"),
)
"""Names of the outcomes of a test, with their marks."""

MOST_PAIRS = 28
"""All pairs of eight models; of more, each is compared with the first."""


def differences(subject: Subject) -> Chart | None:
    """The mean difference of two models on the same chips, over sigma; None where no two can be compared."""
    rows: list[tuple[Any, ...]] = []
    titles: list[str] = []
    asked, every = pairs(subject.sweep, MOST_PAIRS), len(pairs(subject.sweep, 10**9))
    for a, b in asked:
        found = list(_pair_rows(subject, a, b, len(titles)))
        if found:
            rows += found
            titles.append(f"{subject.names.short[a]} − {subject.names.short[b]}")
    if not rows:
        return None
    header = ("place", "sigma", "diff", "low", "high", "VERDICT", "Diff", "Interval", "P", "Chips")
    x = sigma_x(subject, "sigma", sorted({row[1] for row in rows}), 14)
    title = f"difference in {subject.scale.name} (points)"
    known = {row[5] for row in rows}
    verdicts, shapes, fills = zip(*(look for look in VERDICTS if look[0] in known), strict=True)
    chart = alt.Chart(table(header, rows))
    params = []
    if len(titles) > 1:
        chosen = alt.param(
            name="pair",
            value=0,
            bind=alt.binding_select(options=list(range(len(titles))), labels=titles, name="compare "),
        )
        chart, params = chart.transform_filter("datum.place == pair"), [chosen]
    key = alt.Legend(title=None, orient="top", columns=2, labelLimit=330)
    dots = chart.mark_point(size=58, opacity=1, color="#222").encode(
        x=x, y=alt.Y("diff:Q", title=title, axis=alt.Axis(tickCount=6)),
        shape=alt.Shape("VERDICT:N", scale=alt.Scale(domain=verdicts, range=shapes), legend=key),
        fill=alt.Fill("VERDICT:N", scale=alt.Scale(domain=verdicts, range=fills), legend=key),
        tooltip=[
            alt.Tooltip(f"{field}:N", title=told)
            for field, told in (
                ("sigma", "sigma"), ("Diff", "difference"), ("Interval", "95 % interval"),
                ("P", "p after Holm"), ("Chips", "chips"),
            )
        ],
    )  # fmt: skip
    bars = chart.transform_filter("isValid(datum.low)").mark_rule(color="#222", strokeWidth=1.3).encode(
        x=x, y=alt.Y("low:Q", title=title), y2="high:Q"
    )  # fmt: skip
    zero = alt.Chart(table(("zero",), [(0,)])).mark_rule(color="#777").encode(y=alt.Y("zero:Q", title=title))
    caption = joined(
        f"{titles[0]}:" if len(titles) == 1 else "First model less second:",
        f"mean difference in {subject.scale.name} over the chips that both models were measured on, with its 95 %",
        f"interval; above zero the first has more{'' if subject.scale.more_is_better else ', so is worse'}.",
        "Filled circles differ from zero at 5 % after Holm's correction over the sigmas; open diamonds do not."
        if known & {VERDICTS[0][0], VERDICTS[1][0]}
        else "",
        "Squares are exact: nothing is random there, and so there is no test." if "exact" in known else "",
        "Crosses: no test, for there is one chip." if "no test" in known else "",
        "Each model is compared with the first one only: there are many." if len(asked) < every else "",
    )
    layered = alt.layer(zero, bars, dots)
    return Chart(
        "chart-differences", finish(layered.add_params(*params) if params else layered, caption, 260), caption
    )


def _pair_rows(subject: Subject, a: str, b: str, place: int) -> Iterator[tuple[Any, ...]]:
    try:
        found = subject.sweep.paired(a, b)
    except InputError:  # no chip in common
        return
    for sigma, pair in found:
        verdict, shown = "no test", subject.scale.shown(pair.difference)
        low, high = (None, None)
        if pair.interval is not None:
            low, high = subject.scale.span(pair.interval.low, pair.interval.high)
        if pair.adjusted is not None:
            verdict = "p < 0.05 after Holm" if pair.adjusted < 0.05 else "not significant"
        elif pair.exact:
            verdict = "exact"
        half = None if low is None or high is None else (high - low) / 2
        yield (
            place, sigma, in_points(shown), in_points(low), in_points(high), verdict,
            f"{number(shown, half)} points",
            "none: one chip" if low is None or high is None else span_text(low, high),
            "" if pair.adjusted is None else p_text(pair.adjusted), pair.chips,
        )  # fmt: skip


def p_text(p: float) -> str:
    """A p-value with two digits that count."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def in_points(value: float | None) -> Any:
    """A difference of shares in points, short; None stays None."""
    return None if value is None else short(100 * value)


# Yield: the share of chips that reach a threshold, against the threshold.


MOST_STEPS, MOST_SIGMAS, MOST_CELLS = 60, 61, 15000
"""Of the yield: thresholds, sigmas to choose from, and places over all models, sigmas and thresholds."""


def yields(subject: Subject, threshold: float | None) -> Chart | None:
    """The share of chips that reach a threshold, for a sigma that can be chosen; None if there is one chip."""
    if not several(subject):
        return None
    sweep, scale = subject.sweep, subject.scale
    every = sorted({p.sigma for points in sweep.curves.values() for p in points})
    sigmas = [every[i] for i in spread_evenly(len(every), MOST_SIGMAS)]
    points = [(label, p) for label in sweep.labels for p in sweep.curve(label) if p.sigma in set(sigmas)]
    drawn = any(p.drawn for _, p in points)
    most = max(min(MOST_CELLS // len(points), MOST_STEPS), 12)
    options = [sigma_text(sigma) for sigma in sigmas]
    rows = [
        row for sigma in sigmas for row in _rows(subject, [p for p in points if p[1].sigma == sigma], most)
    ]
    chart = alt.Chart(table(("M", "SIGMA", "smooth", "limit", "value", "low", "high"), rows))
    first = telling(sweep, sigmas, None if threshold is None else scale.shown(threshold))
    chosen = alt.param(
        name="sigma", value=sigma_text(first), bind=alt.binding_select(options=options, name="sigma ")
    )
    word = "least" if scale.more_is_better else "largest"
    x = alt.X(
        "limit:Q", title=f"threshold ({word} {scale.name})", axis=alt.Axis(format=SHARE, tickCount=7),
        scale=alt.Scale(zero=False, nice=False),
    )  # fmt: skip
    y = alt.Y("value:Q", title="yield", axis=alt.Axis(format=SHARE), scale=alt.Scale(domain=[0, 1]))
    marks = models(subject)
    picked = alt.selection_point(name="picked", fields=["M"], bind="legend")
    clear = alt.condition(picked, alt.value(1.0), alt.value(0.1))
    now = chart.transform_filter("datum.SIGMA == sigma").encode(x=x)
    step = "step-before" if scale.more_is_better else "step-after"
    curves: list[
        alt.Chart
    ] = []  # bands, then lines: smooth ones of drawn images, steps of scores on all images
    for smooth in sorted({int(p.drawn) for _, p in points}):
        shape: dict[str, Any] = {} if smooth else {"interpolate": step}
        part = now if not drawn else now.transform_filter(f"datum.smooth == {smooth}")
        band = part.mark_area(strokeWidth=0, **shape).encode(
            y=alt.Y("low:Q", title="yield"), y2="high:Q",
            opacity=alt.condition(picked, alt.value(0.16), alt.value(0.02)), **only(marks, "color"),
        )  # fmt: skip
        line = part.mark_line(strokeWidth=1.8, **shape).encode(
            y=y, opacity=clear, **only(marks, "color", "strokeDash")
        )
        curves = [band, *curves, line]
    tips = [alt.Tooltip("M:N", title="model"), alt.Tooltip("limit:Q", title="threshold", format=SHARE)]
    tips += [
        alt.Tooltip(f"{field}:Q", title=title, format=".3~p")
        for field, title in (("value", "yield"), ("low", "from (95 %)"), ("high", "to (95 %)"))
    ]
    # An area under the finger: shapes only for the legend, where models are told apart without colour.
    touch = now.mark_point(filled=True, size=90).encode(
        y=y, opacity=alt.value(0.0), tooltip=tips, **only(marks, "color", "shape")
    )
    layers = [*curves, touch]
    if threshold is not None:
        rule = alt.Chart(table(("limit",), [(threshold,)])).mark_rule(strokeDash=[2, 3], color="#555")
        layers.insert(0, rule.encode(x=x))
    caption = joined(
        f"Share of chips with {'at least' if scale.more_is_better else 'at most'} the {scale.name} on the axis,",
        f"with {'approximate 95 %' if drawn else '95 % Wilson'} bands, at the sigma chosen above.",
        "Drawn images: corrected for the scatter that drawing adds." if drawn else "",
        f"{len(sigmas)} of {len(every)} sigmas can be chosen." if len(sigmas) < len(every) else "",
    )
    return Chart("chart-yield", finish(alt.layer(*layers).add_params(picked, chosen), caption, 260), caption)


def _rows(subject: Subject, points: list[tuple[str, Point]], most: int) -> Iterator[tuple[Any, ...]]:
    """The curves at one sigma, over the thresholds that its chips span."""
    limits = thresholds([value for _, point in points for value in point.values], subject.scale, most)
    for label, point in points:
        found = yield_curve(point, limits, subject.scale, most)
        told = [(short(f.value, 4), short(f.ci95[0], 4), short(f.ci95[1], 4)) for _, f in found]
        for i, ((limit, _), now) in enumerate(zip(found, told, strict=True)):
            # A line does without the inside of a run of equal yields.
            if not 0 < i < len(told) - 1 or not told[i - 1] == now == told[i + 1]:
                yield (
                    subject.names.short[label],
                    sigma_text(point.sigma),
                    int(point.drawn),
                    short(limit),
                    *now,
                )


# The charts of single layers: what each costs alone, and its conductances before and after drift.


GREY, BLUE = "#c4c4c0", "#0072b2"

MOST_LAYERS = 24
"""Layers in the chart of sensitivity, the most sensitive ones of any model."""

TAIL = 0.005
"""Of the cells, so many may lie beyond the right end of a histogram."""

MOST_PANELS = 24
"""Histograms on the page, divided among the models."""


def sensitivity(subject: Subject) -> Chart | None:
    """Bars of what each layer costs alone; None where it was not measured."""
    found = drops(subject.sweep)
    if not found:
        return None
    order = most_sensitive(found)
    kept = order[:MOST_LAYERS]
    names = dict(zip(kept, layer_names(kept), strict=True))
    rows = [
        (
            subject.names.short[d.label], names[d.layer], 100 * d.mean,
            *((None, None) if d.span is None else (100 * d.span[0], 100 * d.span[1])),
            f"{number(d.mean, d.half)} points",
            "none: one chip" if d.span is None else span_text(*d.span), d.chips,
        )
        for d in found
        if d.layer in names
    ]  # fmt: skip
    marks = models(subject)
    measure = subject.scale
    what = f"drop in {measure.name} (points)" if measure.more_is_better else f"{measure.name} (points)"
    chart = alt.Chart(table(("M", "LAYER", "drop", "low", "high", "Drop", "Interval", "Chips"), rows))
    domain = [
        subject.names.short[label] for label in subject.sweep.labels if any(d.label == label for d in found)
    ]
    y: dict[str, Any] = {
        "y": alt.Y("LAYER:N", title=None, sort=list(names.values()), axis=alt.Axis(labelLimit=150))
    }
    if len(domain) > 1:
        y["yOffset"] = alt.YOffset("M:N", sort=domain, scale=alt.Scale(paddingInner=0.08))
    tips = [
        alt.Tooltip(f"{field}:N", title=title)
        for field, title in (
            ("M", "model"), ("LAYER", "layer"), ("Drop", what.removesuffix(" (points)")),
            ("Interval", "95 % interval"), ("Chips", "chips"),
        )
    ]  # fmt: skip
    bars = chart.mark_bar(opacity=0.75).encode(
        x=alt.X("drop:Q", title=what, axis=alt.Axis(tickCount=6)), tooltip=tips, **y, **only(marks, "color")
    )
    spans = chart.transform_filter("isValid(datum.low)").mark_rule(color="#111", strokeWidth=1.2).encode(
        x="low:Q", x2="high:Q", **y
    )  # fmt: skip
    dots = chart.mark_point(filled=True, size=40, color="#111").encode(
        x="drop:Q", **y, **only(marks, "shape")
    )
    layers = [bars, spans, dots] if len(domain) > 1 else [bars, spans]
    caption = joined(
        "What each layer costs when it alone is on its arrays and all others compute clean:",
        "bars are means over chips, lines 95 % intervals.",
        *told(subject.sweep, "sensitivity"),
        f"The {len(kept)} most sensitive of {len(order)} layers." if len(kept) < len(order) else "",
    )
    height = max(len(kept) * (8 + 15 * max(len(domain), 1)), 90)
    return Chart("chart-sensitivity", finish(alt.layer(*layers), caption, height), caption)


@dataclass(frozen=True)
class Panel:
    """The conductances of one matrix of one model."""

    model: str
    layer: str
    chart: Chart


def histograms(subject: Subject) -> tuple[list[Panel], str]:
    """(panels, caption): conductances of the cells before and after drift; no panels where none are known."""
    labels = [label for label in subject.sweep.labels if layers_of(subject.sweep, label, "conductances")]
    each = max(MOST_PANELS // len(labels), 1) if labels else 0
    panels, left = [], 0
    for i, label in enumerate(labels):
        layers = layers_of(subject.sweep, label, "conductances")
        left += max(len(layers) - each, 0)
        for j, layer in enumerate(layers[:each]):
            chart = _histogram(layer, f"chart-conductances-{i}-{j}")
            panels.append(Panel(subject.names.whole[label], visible(str(layer["name"])), chart))
    caption = joined(
        "Cells by conductance: grey as mapped, blue after drift on one chip.",
        "Cells that are meant to be at the lowest conductance are left out, and up to 0.5 % beyond the right end; "
        "where more lie there, the last bin holds them.",
        *told(subject.sweep, "conductances"),
        f"{left} more layers are not drawn." if left else "",
    )
    return panels, caption


def _histogram(layer: Mapping[str, Any], name: str) -> Chart:
    edges = [1e6 * float(edge) for edge in layer["edges"]]
    target, drifted = ([int(n) for n in layer[which]] for which in ("target", "drifted"))
    used = _used(target, drifted)
    rows = [
        (float(f"{edges[i]:.6g}"), float(f"{edges[i + 1]:.6g}"), target[i], drifted[i]) for i in range(used)
    ]
    chart = alt.Chart(table(("left", "right", "target", "drifted"), rows))
    x = alt.X("left:Q", title="conductance (µS)", scale=alt.Scale(nice=False), axis=alt.Axis(tickCount=4))
    tips = [
        alt.Tooltip("left:Q", title="from (µS)", format=".4~g"),
        alt.Tooltip("right:Q", title="to (µS)", format=".4~g"),
        alt.Tooltip("target:Q", title="as mapped", format=","),
        alt.Tooltip("drifted:Q", title="after drift", format=","),
    ]
    axis = alt.Axis(format="~s", tickCount=3)
    bars = chart.mark_rect(color=GREY, stroke=GREY, strokeWidth=0.6).encode(
        x=x, x2="right:Q", y=alt.Y("target:Q", title="cells", axis=axis), y2=alt.Y2Datum(0), tooltip=tips
    )  # fmt: skip
    line = chart.mark_line(color=BLUE, strokeWidth=1.6, interpolate="step-after").encode(
        x=x, y=alt.Y("drifted:Q", title="cells")
    )
    caption = f"Conductances of {visible(str(layer['name']))} before and after drift"
    return Chart(name, finish(alt.layer(bars, line), caption, 120), caption)


def _used(target: Sequence[int], drifted: Sequence[int]) -> int:
    """How many bins to draw: all but those at the end that hold less than TAIL of the cells."""
    beyond, least = 0, TAIL * (sum(target) + sum(drifted))
    for i in range(len(target) - 1, 0, -1):
        beyond += target[i] + drifted[i]
        if beyond > least:
            return i + 1
    return 1
