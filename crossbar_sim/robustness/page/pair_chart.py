"""Differences of two models on the same chips."""

from collections.abc import Iterator
from typing import Any

import altair as alt

from crossbar_sim.errors import InputError
from crossbar_sim.robustness.page.drawing import Chart, Subject, finish, joined, short, sigma_x, table
from crossbar_sim.robustness.page.look import number, span_text
from crossbar_sim.robustness.page.numbers import pairs

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
