"""The charts of single layers: what each costs alone, and its conductances before and after drift."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from crossbar_sim.robustness.page.drawing import Chart, Subject, finish, joined, models, only, table
from crossbar_sim.robustness.page.layers import drops, layer_names, layers_of, most_sensitive, told
from crossbar_sim.robustness.page.look import number, span_text
from crossbar_sim.robustness.wording import visible

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
