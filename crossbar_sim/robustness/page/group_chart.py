"""Robustness curves of groups of training seeds: a line and a band for each group, thin lines for its networks."""

from collections.abc import Iterator
from typing import Any

import altair as alt

from crossbar_sim.robustness.groups import GroupPoint, boundless, group_curve, groups_in
from crossbar_sim.robustness.page.drawing import (
    SHARE,
    Chart,
    Subject,
    finish,
    joined,
    only,
    short,
    sigma_x,
    table,
)
from crossbar_sim.robustness.page.look import Names, Style, percent, sigma_axis, span_text


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
            for row in _rows(subject, names[group], points, int(group not in wide))
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
        y=y, opacity=alt.value(0.0), tooltip=_tooltips(scale.name), **only(marks, "color")
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


def _rows(
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


def _tooltips(name: str) -> list[Any]:
    fields = (
        ("M", "trained"), ("sigma", "sigma"), ("Mean", f"mean {name}"), ("Interval", "95 % over seeds"),
        ("Networks", "training seeds"), ("Range", "range over seeds"),
    )  # fmt: skip
    return [alt.Tooltip(f"{field}:N", title=title) for field, title in fields]
