"""Charts of the report page, as Vega-Lite specifications of rows."""

import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from crossbar_sim.report.formatting import Names, Scale, Style, fit, p_text, percent, sigma_text
from crossbar_sim.report.ranking import pairs
from crossbar_sim.report.rows import (
    DifferenceRow,
    Estimate,
    Histogram,
    View,
    YieldRow,
    conditions,
    spread_evenly,
)
from crossbar_sim.robustness.groups import seeded
from crossbar_sim.text import visible

SHARE = ".2~%"
"""d3's format of a share: up to two decimals."""

PLAIN = ".6~g"
"""d3's format of other scores: up to six digits."""

FEW_SIGMAS = 12
"""Up to this many sigmas are the ticks of their axis."""

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
        name: the id of its element.
        spec: Vega-Lite.
        caption: also read aloud by screen readers.
    """

    name: str
    spec: dict[str, Any]
    caption: str


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> alt.InlineData:
    """Rows as the data of a chart, with the column names once; `finish` and the page's script know this form.

    CSV is no alternative: Vega reads it by compiling code, which the content security policy of the page forbids.
    """
    content = {"columns": list(header), "rows": [list(row) for row in rows]}
    return alt.InlineData(values=json.dumps(content, allow_nan=False))


def finish(chart: Any, caption: str, height: int) -> dict[str, Any]:
    """The specification: as wide as its element, without the user's own altair theme, each table once."""
    with alt.theme.enable("none"), alt.data_transformers.enable("default", consolidate_datasets=False):
        spec: dict[str, Any] = chart.properties(width="container", height=height).to_dict()
    names: dict[str, str] = {}
    for part in [spec, *spec.get("layer", ())]:
        text = part.get("data", {}).get("values")
        if text is not None:
            part["data"] = {"name": names.setdefault(text, f"table-{len(names)}")}
    tables = {name: json.loads(text) for text, name in names.items()}
    return spec | {"description": caption, "datasets": tables}


def encodings(names: Sequence[str]) -> dict[str, Any]:
    """Encodings that distinguish models by colour, shape and dashes, in one legend."""
    styles = [Style.of(place) for place in range(len(names))]
    legend: Any = None
    if len(names) > 1:
        columns = max(1, min(len(names), 340 // (7 * max(map(len, names)) + 34)))
        legend = alt.Legend(
            title=None, orient="top", columns=columns, labelLimit=330, symbolOpacity=1, symbolDash=[1, 0]
        )
    channels: dict[str, tuple[Any, list[Any]]] = {
        "color": (alt.Color, [s.colour for s in styles]),
        "shape": (alt.Shape, [s.shape for s in styles]),
        "strokeDash": (alt.StrokeDash, [list(s.dash) or [1, 0] for s in styles]),
    }
    return {
        name: channel("M:N", scale=alt.Scale(domain=list(names), range=values), legend=legend)
        for name, (channel, values) in channels.items()
    }


def only(channels: dict[str, Any], *kept: str) -> dict[str, Any]:
    """These of the encodings: an area has no shape."""
    return {channel: channels[channel] for channel in kept}


def short_names(view: View) -> list[str]:
    """Names of the models for a chart."""
    return [view.names.short[label] for label in view.sweep.labels]


def sigma_x(view: View, field: str, sigmas: Sequence[float], padding: int) -> alt.X:
    """The axis of sigma; a single sigma is in the middle."""
    first, last = (sigmas[0], sigmas[-1]) if len(sigmas) > 1 else (sigmas[0] - 0.5, sigmas[0] + 0.5)
    title = view.sigma_axis
    # In siemens with a prefix: 5µ for 0.000005.
    axis: dict[str, Any] = {"format": ".4~s" if title.endswith("(S)") else ".4~g"}
    if len(sigmas) <= FEW_SIGMAS:
        axis |= {"values": list(sigmas), "labelOverlap": True}
    scale = alt.Scale(domain=[first, last], nice=False, padding=padding)
    return alt.X(f"{field}:Q", title=title, scale=scale, axis=alt.Axis(**axis))


def tooltips(*fields: tuple[str, str]) -> list[alt.Tooltip]:
    """(column, title) as tooltips of text."""
    return [alt.Tooltip(f"{field}:N", title=title) for field, title in fields]


def highlight() -> tuple[alt.Parameter, Any]:
    """(selection of models by their legend, function of two opacities: of selected and of other models)."""
    picked = alt.selection_point(name="picked", fields=["M"], bind="legend")
    return picked, lambda selected, other: alt.condition(picked, alt.value(selected), alt.value(other))


def threshold_rule(threshold: float, **encoding: Any) -> alt.Chart:
    """The dotted line at the threshold."""
    rule = alt.Chart(table(("limit",), [(threshold,)])).mark_rule(strokeDash=[2, 3], color="#555")
    return rule.encode(**encoding)


def short(value: float | None, digits: int = 6) -> Any:
    """A number with enough digits for a chart."""
    return None if value is None else float(f"{value:.{digits}g}")


def in_points(value: float | None, scale: Scale) -> Any:
    """A difference of scores, of shares in percentage points."""
    return None if value is None else short(scale.factor * value)


def interval_words(found: Estimate, scale: Scale, unit: str = "", none: str = "none: one chip") -> str:
    """The interval for a tooltip."""
    return none if found.span is None else f"{scale.span_text(*found.span)}{unit}"


def in_steps(value: float, half: float | None, scale: Scale) -> str:
    """A difference with its unit."""
    return f"{scale.number(value, half)} {scale.step}".strip()


def score_title(scale: Scale) -> str:
    """The title of an axis of scores; per cent signs are on its labels."""
    return scale.name if scale.per_cent else scale.axis


def score_format(scale: Scale) -> str:
    """d3's format of scores."""
    return SHARE if scale.per_cent else PLAIN


def joined(*lines: str) -> str:
    """The sentences of a caption that are not empty."""
    return " ".join(line for line in lines if line)


@functools.cache
def library() -> str:
    """Vega, Vega-Lite and vega-embed as one script, of the version that altair writes for or the newest."""
    import vl_convert

    wanted = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
    known = vl_convert.get_vegalite_versions()
    return vl_convert.javascript_bundle(
        "window.vegaEmbed = vegaEmbed;", wanted if wanted in known else known[-1]
    )


# Robustness curves: the mean over chips against sigma, with its band; or the mean over the networks of a group.


MOST_POINTS = 6000
"""Largest number of chips drawn as points, over all models and sigmas."""


def curves(view: View) -> Chart:
    """Mean score over sigma with its 95 % band, and every chip on demand; of groups where there are training seeds."""
    sweep, scale, sigmas = view.sweep, view.scale, view.sigmas
    grouped = seeded(sweep)
    if grouped:  # at the sigmas that all networks of a group have
        sigmas = tuple(sorted({row.sigma for rows in view.group_curves.values() for row in rows}))
        names = list(Names.of(list(view.groups)).short.values())
        data, banded = _group_table(view, names), "datum.alone == 0 && datum.drawn == 1 && isValid(datum.low)"
        about = tooltips(
            ("M", "way to train"), ("sigma", "sigma"), ("Mean", f"mean {scale.name}"), ("Interval", "95 % over seeds"),
            ("Networks", "training seeds"), ("Range", "range over seeds"),
        )  # fmt: skip
    else:
        names = short_names(view)
        data, banded = _curve_table(view), "datum.alone == 0 && isValid(datum.low)"
        about = tooltips(
            ("M", "model"), ("sigma", "sigma"), ("Mean", f"mean {scale.name}"), ("Interval", "95 % interval"),
            ("Chips", "chips"), ("Images", "examples"),
        )  # fmt: skip
    logarithmic, y_scale = _score_scale(view)
    marks = encodings(names)
    x = sigma_x(view, "x", sigmas, 10)
    title = score_title(scale)
    y = alt.Y("mean:Q", title=title, scale=y_scale, axis=alt.Axis(format=score_format(scale), tickCount=6))
    picked, opacity = highlight()
    clear = opacity(1.0, 0.1)
    base = alt.Chart(data).encode(x=x)
    band = base.transform_filter(banded).mark_area(strokeWidth=0, clip=True if grouped else alt.Undefined).encode(
        y=alt.Y("low:Q", title=title, scale=y_scale), y2="high:Q",
        opacity=opacity(0.16, 0.02) if grouped else opacity(0.2, 0.03), **only(marks, "color"),
    )  # fmt: skip
    lone = base.transform_filter("datum.alone == 1 && isValid(datum.low)").mark_rule(strokeWidth=1.6).encode(
        y=alt.Y("low:Q", title=title), y2="high:Q", opacity=clear, **only(marks, "color")
    )  # fmt: skip
    line = base.mark_line(strokeWidth=2 if grouped else 1.8).encode(
        y=y, opacity=clear, **only(marks, "color", "strokeDash")
    )
    dots = base.mark_point(filled=True, size=34 if len(sigmas) < 41 else 18).encode(
        y=y, opacity=clear, **only(marks, "color", "shape")
    )
    touch = base.mark_point(filled=True, size=170).encode(
        y=y, opacity=alt.value(0.0), tooltip=about, **only(marks, "color")
    )
    params = [picked]
    if grouped:
        thin = alt.Chart(_network_table(view, names)).mark_line(strokeWidth=0.7).encode(
            x=x, y=alt.Y("mean:Q", title=title), detail="N:N", opacity=opacity(0.45, 0.03), **only(marks, "color"),
        )  # fmt: skip
        layers = [band, lone, thin, line, dots, touch]
        sentences = _group_caption(view, names)
    else:
        edge = sigmas[0] - 0.5 * (len(sigmas) == 1)
        clean = base.transform_filter("isValid(datum.clean)").mark_tick(
            orient="horizontal", size=16, thickness=2.2
        ).encode(x=alt.XDatum(edge), y="clean:Q", opacity=clear, **only(marks, "color"))  # fmt: skip
        cut, cloud = _cloud_table(view)
        every = alt.Chart(cloud).transform_filter("every_chip").mark_point(filled=True, size=14).encode(
            x=x, y=alt.Y("value:Q", title=title), opacity=opacity(0.4, 0.03), **only(marks, "color", "shape")
        )  # fmt: skip
        layers = [band, lone, every, line, dots, clean, touch]
        params.append(
            alt.param(name="every_chip", bind=alt.binding_checkbox(name="show every chip "), value=False)
        )
        sentences = [
            f"Mean {scale.name} over chips against {view.sigma_axis}.",
            f"{'Bands' if len(sigmas) > 1 else 'Lines'} are 95 % intervals of the mean."
            if view.several_chips
            else "One chip has no interval.",
            "Short dashes at the left edge are the clean scores.",
        ]
    if view.threshold is not None:
        layers.insert(0, threshold_rule(view.threshold, y=alt.Y("limit:Q", title=title)))
        sentences.append(f"Dotted line: the threshold, {_limit(view.threshold, scale)}.")
    if logarithmic:
        end = "" if scale.judge.logarithm else "; zero lies at its lower end"
        sentences.append(f"The axis is logarithmic{end}.")
    else:
        sentences.append("")
    what = "name" if grouped else "model's name"
    sentences += [
        "The charts below show each network separately, in its own colour." if grouped else cut,
        f"Click a {what} to highlight it; double-click to show all." if len(names) > 1 else "",
    ]
    caption = joined(*sentences)
    chart = alt.layer(*layers).add_params(*params)
    return Chart("chart-curves", finish(chart, caption, 360 if grouped else 340), caption)


def _limit(threshold: float, scale: Scale) -> str:
    return percent(threshold, 0.1) if scale.per_cent else scale.limit_text(threshold, 0)


def _curve_table(view: View) -> alt.InlineData:
    step = _step(view) if len(view.sigmas) == 1 else 0.0
    return table(
        ("M", "x", "sigma", "mean", "low", "high", "alone", "clean", "Mean", "Interval", "Chips", "Images"),
        (
            (
                view.names.short[label], row.sigma + _aside(view, label, step), row.sigma,
                short(row.mean.value), short(row.mean.low), short(row.mean.high),
                int(len(rows) == 1), short(row.clean) if i == 0 else None,
                view.scale.text(row.mean.value, row.mean.half), interval_words(row.mean, view.scale, view.scale.unit),
                row.chips, f"{row.images} {'drawn ' if row.drawn else ''}each",
            )
            for label, rows in view.curves.items()
            for i, row in enumerate(rows)
        ),
    )  # fmt: skip


def _cloud_table(view: View) -> tuple[str, alt.InlineData]:
    """(a sentence on what is left out, every chip): models side by side, the first chips of many."""
    most = max(MOST_POINTS // sum(map(len, view.curves.values())), 1)
    step = _step(view)
    cut = any(row.chips > most for row in view.points)
    rows = (
        (view.names.short[c.label], short(c.sigma + _aside(view, c.label, step)), short(c.value))
        for c in view.chips(most)
    )
    sentence = f"The first {most} chips of each point can be shown here." if cut else ""
    return sentence, table(("M", "x", "value"), rows)


def _step(view: View) -> float:
    """Half the distance between sigmas."""
    return 0.5 * (view.sigmas[-1] - view.sigmas[0] or 1.0) / max(len(view.sigmas), 2)


def _aside(view: View, label: str, step: float) -> float:
    """The horizontal offset of a model's marks where all models stand side by side within `step`."""
    labels = view.sweep.labels
    return step * ((labels.index(label) + 0.5) / len(labels) - 0.5)


def _score_scale(view: View) -> tuple[bool, alt.Scale]:
    """(whether it is logarithmic, the scale of the score): only errors are unbounded."""
    positive = sorted(row.mean.value for row in view.points if row.mean.value > 0)
    if not view.scale.more_is_better and positive and positive[-1] > max(2, 300 * positive[0]):
        return True, alt.Scale(type="log", domain=[positive[0], positive[-1]], clamp=True)
    return False, alt.Scale(zero=False, nice=True)


def _group_table(view: View, names: Sequence[str]) -> alt.InlineData:
    return table(
        ("M", "x", "sigma", "mean", "low", "high", "drawn", "alone", "Mean", "Interval", "Networks", "Range"),
        (
            (
                name, row.sigma, row.sigma, short(row.mean.value), short(row.mean.low), short(row.mean.high),
                int(group not in view.wide), int(len(rows) == 1), view.scale.text(row.mean.value, row.mean.half),
                interval_words(row.mean, view.scale, view.scale.unit, "none: one network"), row.networks,
                f"{view.scale.span_text(row.lowest, row.highest)}{view.scale.unit}",
            )
            for name, (group, rows) in zip(names, view.group_curves.items(), strict=True)
            for row in rows
        ),
    )  # fmt: skip


def _network_table(view: View, names: Sequence[str]) -> alt.InlineData:
    """The curves of the networks of groups that have several."""
    return table(
        ("M", "N", "x", "mean"),
        (
            (name, view.names.short[label], row.sigma, short(row.mean.value))
            for name, members in zip(names, view.groups.values(), strict=True)
            if len(members) > 1
            for label in members
            for row in view.curves[label]
        ),
    )


def _group_caption(view: View, names: Sequence[str]) -> list[str]:
    sizes = sorted({len(members) for members in view.groups.values()})
    n = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    wide = sorted(name for name, group in zip(names, view.groups, strict=True) if group in view.wide)
    return [
        f"Mean {view.scale.name} against {view.sigma_axis}, for each way to train; thin lines are its networks, each "
        "the mean over its chips.",
        f"Bands are 95 % Student-t intervals over n = {n} training seeds; a single network has none.",
        f"{', '.join(wide)}: no band, because it would cover the chart." if wide else "",
    ]


# Differences of two models on the same chips.


VERDICTS = (
    ("p < 0.05 after Holm", "circle", "#0072b2"),
    ("not significant", "diamond", "#ffffff"),
    ("exact", "square", "#222222"),
    ("no test", "cross", "#ffffff"),
)
"""Outcomes of a test, with their marks."""

MOST_PAIRS = 28
"""All pairs of eight models; of more, each is compared with the first."""


def differences(view: View) -> Chart | None:
    """The mean difference of two models on the same chips, over sigma; None where no two can be compared."""
    rows: list[tuple[Any, ...]] = []
    titles: list[str] = []
    labels = view.sweep.labels
    compared, every = pairs(labels, MOST_PAIRS), len(pairs(labels, 10**9))
    for a, b in compared:
        found = view.pair(a, b)
        if found:
            rows += [_pair_row(row, len(titles), view.scale) for row in found]
            titles.append(f"{view.names.short[a]} − {view.names.short[b]}")
    if not rows:
        return None
    header = ("place", "sigma", "diff", "low", "high", "VERDICT", "Diff", "Interval", "P", "Chips")
    x = sigma_x(view, "sigma", sorted({row[1] for row in rows}), 14)
    title = f"difference in {view.scale.compared}{view.scale.steps}"
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
        tooltip=tooltips(
            ("sigma", "sigma"), ("Diff", "difference"), ("Interval", "95 % interval"), ("P", "p after Holm"),
            ("Chips", "chips"),
        ),
    )  # fmt: skip
    bars = chart.transform_filter("isValid(datum.low)").mark_rule(color="#222", strokeWidth=1.3).encode(
        x=x, y=alt.Y("low:Q", title=title), y2="high:Q"
    )  # fmt: skip
    zero = alt.Chart(table(("zero",), [(0,)])).mark_rule(color="#777").encode(y=alt.Y("zero:Q", title=title))
    caption = joined(
        f"{titles[0]}:" if len(titles) == 1 else "First model minus second:",
        f"mean difference in {view.scale.compared} over the chips that both models were measured on, with its 95 %",
        f"interval; above zero the first model is {'better' if view.scale.more_is_better else 'worse'}.",
        "Filled circles differ from zero at 5 % after Holm's correction over the sigmas; open diamonds do not."
        if known & {VERDICTS[0][0], VERDICTS[1][0]}
        else "",
        "Squares are exact: nothing is random there, so there is no test." if "exact" in known else "",
        "Crosses: no test, because there is one chip." if "no test" in known else "",
        "There are many models: each is compared with the first one only." if len(compared) < every else "",
    )
    layered = alt.layer(zero, bars, dots)
    return Chart(
        "chart-differences", finish(layered.add_params(*params) if params else layered, caption, 260), caption
    )


def _pair_row(row: DifferenceRow, place: int, scale: Scale) -> tuple[Any, ...]:
    verdict = "exact" if row.exact else "no test"
    if row.adjusted is not None:
        verdict = "p < 0.05 after Holm" if row.significant else "not significant"
    d = row.difference
    return (
        place, row.sigma, *(in_points(value, scale) for value in (d.value, d.low, d.high)), verdict,
        in_steps(d.value, d.half, scale), interval_words(d, scale), p_text(row.adjusted), row.counts[0],
    )  # fmt: skip


# Yield: the share of chips that reach a threshold, against the threshold.


MOST_STEPS, MOST_SIGMAS, MOST_CELLS = 60, 61, 15000
"""Limits of the yield chart: thresholds, sigmas to choose from, and rows over all models, sigmas and thresholds."""


def yields(view: View) -> Chart | None:
    """The share of chips that reach a threshold, at a sigma that the reader chooses; None for one chip."""
    if not view.several_chips:
        return None
    every, scale = view.sigmas, view.scale
    sigmas = [every[i] for i in spread_evenly(len(every), MOST_SIGMAS)]
    points = [row for row in view.points if row.sigma in set(sigmas)]
    drawn = any(p.drawn for p in points)
    most = max(min(MOST_CELLS // len(points), MOST_STEPS), 12)
    options = [sigma_text(sigma) for sigma in sigmas]
    rows = [
        (view.names.short[label], sigma_text(sigma), *row)
        for sigma in sigmas
        for label, found in view.yields(sigma, most, most).items()
        for row in _without_runs(found)
    ]
    chart = alt.Chart(table(("M", "SIGMA", "smooth", "limit", "value", "low", "high"), rows))
    chosen = alt.param(
        name="sigma", value=sigma_text(view.telling_sigma(sigmas)),
        bind=alt.binding_select(options=options, name="sigma "),
    )  # fmt: skip
    word = "least" if scale.more_is_better else "largest"
    x = alt.X(
        "limit:Q", title=f"threshold ({word} {score_title(scale)})",
        axis=alt.Axis(format=score_format(scale), tickCount=7),
        scale=alt.Scale(zero=False, nice=False),
    )  # fmt: skip
    y = alt.Y("value:Q", title="yield", axis=alt.Axis(format=SHARE), scale=alt.Scale(domain=[0, 1]))
    marks = encodings(short_names(view))
    picked, opacity = highlight()
    now = chart.transform_filter("datum.SIGMA == sigma").encode(x=x)
    step = "step-before" if scale.more_is_better else "step-after"
    layers: list[alt.Chart] = []  # bands, then lines: smooth for drawn images, steps for scores on all images
    for smooth in sorted({int(p.drawn) for p in points}):
        shape: dict[str, Any] = {} if smooth else {"interpolate": step}
        part = now if not drawn else now.transform_filter(f"datum.smooth == {smooth}")
        band = part.mark_area(strokeWidth=0, **shape).encode(
            y=alt.Y("low:Q", title="yield"), y2="high:Q", opacity=opacity(0.16, 0.02), **only(marks, "color")
        )  # fmt: skip
        line = part.mark_line(strokeWidth=1.8, **shape).encode(
            y=y, opacity=opacity(1.0, 0.1), **only(marks, "color", "strokeDash")
        )
        layers = [band, *layers, line]
    tips = [
        alt.Tooltip("M:N", title="model"),
        alt.Tooltip("limit:Q", title="threshold", format=score_format(scale)),
    ]
    tips += [
        alt.Tooltip(f"{field}:Q", title=title, format=".3~p")
        for field, title in (("value", "yield"), ("low", "from (95 %)"), ("high", "to (95 %)"))
    ]
    # Transparent marks for the tooltips; their shapes appear in the legend only.
    layers.append(
        now.mark_point(filled=True, size=90).encode(
            y=y, opacity=alt.value(0.0), tooltip=tips, **only(marks, "color", "shape")
        )
    )
    if view.threshold is not None:
        layers.insert(0, threshold_rule(view.threshold, x=x))
    caption = joined(
        f"Share of chips with {'at least' if scale.more_is_better else 'at most'} the {scale.name} on the axis,",
        f"with {'approximate 95 %' if drawn else '95 % Wilson'} bands, at the sigma chosen above.",
        "Images are drawn: yields are corrected for the variance that drawing adds." if drawn else "",
        f"{len(sigmas)} of {len(every)} sigmas can be chosen." if len(sigmas) < len(every) else "",
    )
    return Chart("chart-yield", finish(alt.layer(*layers).add_params(picked, chosen), caption, 260), caption)


def _without_runs(found: Sequence[YieldRow]) -> Iterator[tuple[Any, ...]]:
    """The rows of one curve without the inside of a run of equal yields, which a line does not need."""
    shares = [tuple(short(v, 4) for v in (f.passing.value, f.passing.low, f.passing.high)) for f in found]
    for i, (row, now) in enumerate(zip(found, shares, strict=True)):
        if not 0 < i < len(shares) - 1 or not shares[i - 1] == now == shares[i + 1]:
            yield int(row.drawn), short(row.limit), *now


# The charts of single layers: what each costs alone, and its conductances before and after drift.


GREY, BLUE = "#c4c4c0", "#0072b2"

MOST_LAYERS = 24
"""Layers in the chart of sensitivity, the most sensitive ones of any model."""

TAIL = 0.005
"""Largest share of the cells beyond the right end of a histogram."""

MOST_PANELS = 24
"""Histograms on the page, divided among the models."""


def sensitivity(view: View) -> Chart | None:
    """Bars of what each layer costs alone; None where that was not measured."""
    if not view.layers:
        return None
    order, scale = view.most_sensitive, view.scale
    kept = order[:MOST_LAYERS]
    names = dict(zip(kept, fit([visible(layer) for layer in kept], 24), strict=True))
    rows = [
        (
            view.names.short[row.label], names[row.layer], *(
                None if v is None else scale.factor * v for v in (row.drop.value, row.drop.low, row.drop.high)
            ),
            in_steps(row.drop.value, row.drop.half, scale), interval_words(row.drop, scale), row.chips,
        )
        for row in view.layers
        if row.layer in names
    ]  # fmt: skip
    marks = encodings(short_names(view))
    measured = {row.label for row in view.layers}
    domain = [view.names.short[label] for label in view.sweep.labels if label in measured]
    chart = alt.Chart(table(("M", "LAYER", "drop", "low", "high", "Drop", "Interval", "Chips"), rows))
    y: dict[str, Any] = {
        "y": alt.Y("LAYER:N", title=None, sort=list(names.values()), axis=alt.Axis(labelLimit=150))
    }
    if len(domain) > 1:
        y["yOffset"] = alt.YOffset("M:N", sort=domain, scale=alt.Scale(paddingInner=0.08))
    tips = tooltips(
        ("M", "model"), ("LAYER", "layer"), ("Drop", scale.loss), ("Interval", "95 % interval"), ("Chips", "chips")
    )  # fmt: skip
    bars = chart.mark_bar(opacity=0.75).encode(
        x=alt.X("drop:Q", title=f"{scale.loss}{scale.steps}", axis=alt.Axis(tickCount=6)), tooltip=tips, **y,
        **only(marks, "color"),
    )  # fmt: skip
    spans = chart.transform_filter("isValid(datum.low)").mark_rule(color="#111", strokeWidth=1.2).encode(
        x="low:Q", x2="high:Q", **y
    )  # fmt: skip
    dots = chart.mark_point(filled=True, size=40, color="#111").encode(
        x="drop:Q", **y, **only(marks, "shape")
    )
    layers = [bars, spans, dots] if len(domain) > 1 else [bars, spans]
    caption = joined(
        "What each layer costs when only this layer is on arrays and all others are clean.",
        "Bars are means over chips, lines are 95 % intervals.",
        *conditions(view.sweep, "sensitivity"),
        f"The {len(kept)} most sensitive of {len(order)} layers." if len(kept) < len(order) else "",
    )
    height = max(len(kept) * (8 + 15 * max(len(domain), 1)), 90)
    return Chart("chart-sensitivity", finish(alt.layer(*layers), caption, height), caption)


def histograms(view: View) -> tuple[dict[str, list[tuple[str, Chart]]], str]:
    """(model -> (layer, chart) of each, caption): conductances before and after drift; empty where not counted."""
    found: dict[str, list[Histogram]] = {}
    for histogram in view.histograms:
        found.setdefault(histogram.label, []).append(histogram)
    each = max(MOST_PANELS // len(found), 1) if found else 0
    panels: Mapping[str, list[tuple[str, Chart]]] = {
        view.names.whole[label]: [
            (visible(h.layer), _histogram(h, f"chart-conductances-{i}-{j}"))
            for j, h in enumerate(layers[:each])
        ]
        for i, (label, layers) in enumerate(found.items())
    }
    left = sum(max(len(layers) - each, 0) for layers in found.values())
    caption = joined(
        "Cells by conductance: grey as mapped, blue after drift on one chip.",
        "Cells with the lowest conductance as their target are left out, and up to 0.5 % of the cells beyond the right "
        "end; where there are more, the last bin holds them.",
        *conditions(view.sweep, "conductances"),
        f"{left} more layers are not drawn." if left else "",
    )
    return dict(panels), caption


def _histogram(found: Histogram, name: str) -> Chart:
    edges = [float(f"{1e6 * edge:.6g}") for edge in found.edges]
    used = _used(found)
    rows = list(zip(edges[:used], edges[1 : used + 1], found.target, found.drifted, strict=False))
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
    caption = f"Conductances of {visible(found.layer)} before and after drift"
    return Chart(name, finish(alt.layer(bars, line), caption, 120), caption)


def _used(found: Histogram) -> int:
    """How many bins to draw: all but those at the end that hold less than TAIL of the cells."""
    beyond, least = 0, TAIL * (sum(found.target) + sum(found.drifted))
    for i in range(len(found.target) - 1, 0, -1):
        beyond += found.target[i] + found.drifted[i]
        if beyond > least:
            return i + 1
    return 1
