"""Yield: the share of chips that reach a threshold, against the threshold."""

from collections.abc import Iterator
from typing import Any

import altair as alt

from crossbar_sim.robustness.page.drawing import (
    SHARE,
    Chart,
    Subject,
    finish,
    joined,
    models,
    only,
    several,
    short,
    spread_evenly,
    table,
)
from crossbar_sim.robustness.page.look import sigma_text
from crossbar_sim.robustness.page.numbers import telling, thresholds, yield_curve
from crossbar_sim.robustness.point import Point

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
