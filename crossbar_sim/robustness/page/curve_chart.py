"""Robustness curves: the mean over chips against sigma, with its band and every chip on demand."""

from collections.abc import Iterator
from typing import Any

import altair as alt

from crossbar_sim.robustness.groups import seeded
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
    sigma_x,
    table,
)
from crossbar_sim.robustness.page.group_chart import group_curves
from crossbar_sim.robustness.page.look import percent, sigma_axis, span_text

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
