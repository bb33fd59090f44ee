"""The numbers in the page's charts, its CSV files and the figures are those of `Sweep`; altered ones are noticed."""

import copy
import csv
import functools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.made_sweeps import sweep
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossbar_sim.report import page_text, sweep_figures
from crossbar_sim.robustness.groups import boundless, group_curve, group_tests, groups_in, seeded
from crossbar_sim.robustness.point import Point
from crossbar_sim.robustness.statistics import summarise
from crossbar_sim.robustness.sweep import Sweep
from crossbar_sim.store.results import Results

Rows = list[dict[str, Any]]
KEPT = Path(__file__).parents[1] / "data" / "v0.1.0" / "sweep.db"


def kept() -> Sweep:
    """A sweep with exact sigmas, drawn images and details of layers."""
    with Results.open(KEPT, readonly=True) as results:
        return Sweep.read(results)


SWEEPS: dict[str, Callable[[], Sweep]] = {
    "two models": sweep,
    "three models, an error": lambda: sweep(("a", "b", "c"), metric="output_error"),
    "one sigma": lambda: sweep(sigmas=(0.6,)),
    "one chip": lambda: sweep(chips=1),
    "sigma in siemens": lambda: sweep(sigmas=(0.0, 1e-5, 2e-5), law="normal_shift", known=False),
    "groups": lambda: sweep(("plain, seed 0", "plain, seed 1", "aware, seed 0", "aware, seed 1", "alone")),
    "kept, drawn images": kept,
}
THRESHOLD = 0.5


def sign(made: Sweep) -> int:
    return -1 if made.metric == "output_error" else 1


def ends(
    made: Sweep, span: tuple[float, float] | None, least: float = 0.0
) -> tuple[float | None, float | None]:
    """An interval as shown: cut at the least score (of a difference -1), and at 1 unless it is an error."""
    if span is None:
        return None, None
    low, high = sorted(sign(made) * end for end in span)
    return max(low, least), high if sign(made) < 0 else min(high, 1.0)


def near(found: Any, wanted: Any, digits: int = 5) -> bool:
    """Equal but for the rounding of charts to six (yields: four) digits."""
    if found is None or wanted is None:
        return found is wanted
    return found == pytest.approx(wanted, rel=2 * 10.0**-digits, abs=1e-12)


def said(text: str, *numbers: float) -> bool:
    """Whether a tooltip has these numbers in per cent, rounded to the digits that it shows."""
    words = re.findall(r"-?\d+(?:\.\d+)?", text)
    return len(words) >= len(numbers) and all(
        abs(float(word) - 100 * number) <= 0.5000001 * 10.0 ** -len(word.partition(".")[2])
        for word, number in zip(words, numbers, strict=False)
    )


def noticed(check: Callable[[Any], None], altered: Any) -> bool:
    try:
        check(altered)
    except AssertionError:
        return True
    return False


# The page.


def tables(spec: dict[str, Any]) -> list[Rows]:
    """The tables of one chart, as the page's script reads them."""
    return [
        [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
        for table in spec["datasets"].values()
    ]


def table_with(found: list[Rows], *columns: str) -> Rows:
    (table,) = [rows for rows in found if rows and {*columns} <= {*rows[0]}]
    return table


def check_curves(made: Sweep, found: list[Rows]) -> None:
    rows = iter(table_with(found, "mean", "low"))
    sigmas = {p.sigma for points in made.curves.values() for p in points}
    if seeded(made):
        wide = boundless({name: group_curve(made, name) for name in groups_in(made)})
        for name in groups_in(made):
            points = group_curve(made, name)
            for p, row in zip(points, rows, strict=False):
                low, high = ends(made, p.ci95)
                assert (row["M"], row["x"], row["sigma"]) == (name, p.sigma, p.sigma)
                assert near(row["mean"], sign(made) * p.mean)
                assert near(row["low"], low)
                assert near(row["high"], high)
                assert said(row["Mean"], sign(made) * p.mean)
                assert row["Interval"].startswith("none") if low is None else said(row["Interval"], low, high)
                assert said(row["Range"], *sorted(sign(made) * m for m in (p.lowest, p.highest)))
                assert row["Networks"] == p.networks
                assert (row["drawn"], row["alone"]) == (name not in wide, len(points) == 1)
        thin = iter(table_with(found, "N"))
        for name, members in groups_in(made).items():
            for label in members if len(members) > 1 else ():
                for p, row in zip(made.curve(label), thin, strict=False):
                    assert (row["M"], row["N"], row["x"]) == (name, label, p.sigma)
                    assert near(row["mean"], sign(made) * p.summary.mean)
        assert next(thin, None) is None
    else:
        for label in made.labels:
            for i, (p, row) in enumerate(zip(made.curve(label), rows, strict=False)):
                low, high = ends(made, p.summary.ci95)
                assert (row["M"], row["sigma"], row["Chips"]) == (label, p.sigma, len(p.chips))
                assert abs(row["x"] - p.sigma) < (0.25 if len(sigmas) == 1 else 1e-12)
                assert near(row["mean"], sign(made) * p.summary.mean)
                assert near(row["low"], low)
                assert near(row["high"], high)
                assert near(row["clean"], sign(made) * p.clean if i == 0 else None)
                assert said(row["Mean"], sign(made) * p.summary.mean)
                assert row["Interval"].startswith("none") if low is None else said(row["Interval"], low, high)
                assert row["Images"].startswith(str(p.images))
                assert row["alone"] == (len(made.curve(label)) == 1)
        if len(sigmas) == 1:
            offsets = [row["x"] - row["sigma"] for row in table_with(found, "mean", "low")]
            assert offsets == sorted(offsets)
            assert sum(offsets) == pytest.approx(0, abs=1e-6)
        check_cloud(made, table_with(found, "value"))
    assert next(rows, None) is None
    assert table_with(found, "limit") == [{"limit": THRESHOLD}]


def check_cloud(made: Sweep, rows: Rows) -> None:
    """Every chip; models stand side by side, in their order and evenly about the sigma."""
    wanted = [(label, p.sigma, t.value) for label in made.labels for p in made.curve(label) for t in p.trials]
    assert len(rows) == len(wanted)
    aside: dict[str, float] = {}
    for (label, sigma, value), row in zip(wanted, rows, strict=True):
        assert row["M"] == label
        assert near(row["value"], sign(made) * value)
        offset = aside.setdefault(label, row["x"] - sigma)
        assert row["x"] - sigma == pytest.approx(offset, rel=1e-4, abs=1e-5 * sigma)
    assert sorted(aside.values()) == [aside[label] for label in made.labels]
    assert sum(aside.values()) == pytest.approx(0, abs=1e-6)


def check_differences(made: Sweep, found: list[Rows]) -> None:
    rows = iter(table_with(found, "diff"))
    labels = made.labels
    place = 0
    for a, b in [(b, a) for i, a in enumerate(labels) for b in labels[i + 1 :]]:
        if made.not_paired(a, b):
            continue
        for (sigma, pair), row in zip(made.paired(a, b), rows, strict=False):
            low, high = ends(made, pair.interval and (pair.interval.low, pair.interval.high), -1.0)
            shown = sign(made) * pair.difference
            assert (row["place"], row["sigma"], row["Chips"]) == (place, sigma, pair.chips)
            assert near(row["diff"], 100 * shown)
            assert near(row["low"], low and 100 * low)
            assert near(row["high"], high and 100 * high)
            assert said(row["Diff"], shown)
            assert (
                row["Interval"].startswith("none")
                if low is None or high is None
                else said(row["Interval"], low, high)
            )
            verdict = "exact" if pair.exact else "no test"
            if pair.adjusted is not None:
                verdict = "p < 0.05 after Holm" if pair.adjusted < 0.05 else "not significant"
                assert row["P"] == ("< 0.0001" if pair.adjusted < 1e-4 else f"{pair.adjusted:.2g}")
            assert row["VERDICT"] == verdict
        place += 1
    assert next(rows, None) is None
    assert table_with(found, "zero") == [{"zero": 0}]


def check_yield(made: Sweep, found: list[Rows]) -> None:
    rows = table_with(found, "value", "limit")
    points = {(label, f"{p.sigma:.6g}"): p for label in made.labels for p in made.curve(label)}
    seen = set()
    for place, group in groupby(rows, key=lambda row: (row["M"], row["SIGMA"])):
        curve = list(group)
        seen.add(place)
        check_yield_curve(made, points[place], curve)
    assert seen == {*points}
    assert [rows for rows in found if rows and [*rows[0]] == ["limit"]] == [[{"limit": THRESHOLD}]]


def check_yield_curve(made: Sweep, point: Point, rows: Rows) -> None:
    limits = [row["limit"] for row in rows]
    assert limits == sorted(limits)
    scores = [
        sign(made) * v
        for label in made.labels
        for p in made.curve(label)
        if p.sigma == point.sigma
        for v in p.values
    ]
    margin = max(max(scores) - min(scores), 0.02)
    assert min(scores) - margin <= limits[0] <= min(scores) + 1e-6
    assert max(scores) - 1e-6 <= limits[-1] <= max(scores) + margin
    for row in rows:
        assert row["smooth"] == point.drawn
        # Thresholds are rounded: the share is that of one of the two sides.
        sides = [point.passing(sign(made) * row["limit"] * factor) for factor in (1 - 1e-5, 1, 1 + 1e-5)]
        assert any(
            near(row["value"], y.value, 3)
            and near(row["low"], y.ci95[0], 3)
            and near(row["high"], y.ci95[1], 3)
            for y in sides
        )
    if point.drawn:
        return
    for value in point.values:  # the step at the score of every chip
        shown = sign(made) * value
        at = [
            row
            for row in rows
            if (row["limit"] >= shown * (1 - 1e-5) if sign(made) > 0 else row["limit"] <= shown * (1 + 1e-5))
        ]
        assert near(at[0 if sign(made) > 0 else -1]["value"], point.passing(value).value, 3)


def check_sensitivity(made: Sweep, found: list[Rows]) -> None:
    rows = iter(table_with(found, "drop"))
    for label in made.labels:
        for layer in made.details[label].get("sensitivity", {}).get("layers", []):
            s, row = summarise(layer["drops"]), next(rows)
            low, high = s.ci95 or (None, None)
            assert (row["M"], row["LAYER"], row["Chips"]) == (label, layer["name"], len(layer["drops"]))
            assert near(row["drop"], 100 * s.mean)
            assert near(row["low"], low and 100 * low)
            assert near(row["high"], high and 100 * high)
            assert said(row["Drop"], s.mean)
            assert low is None or high is None or said(row["Interval"], low, high)
    assert next(rows, None) is None


def check_histogram(layer: dict[str, Any], found: list[Rows]) -> None:
    rows = table_with(found, "drifted")
    for i, row in enumerate(rows):
        assert near(row["left"], 1e6 * layer["edges"][i])
        assert near(row["right"], 1e6 * layer["edges"][i + 1])
        assert (row["target"], row["drifted"]) == (layer["target"][i], layer["drifted"][i])
    rest = sum(layer["target"][len(rows) :]) + sum(layer["drifted"][len(rows) :])
    assert rest <= 0.005 * (sum(layer["target"]) + sum(layer["drifted"]))


def checks(made: Sweep) -> dict[str, Callable[[Any], None]]:
    """Chart that the page must have -> check of its tables against the sweep's own numbers."""
    found: dict[str, Callable[[Any], None]] = {"chart-curves": lambda t: check_curves(made, t)}
    if any(len(p.trials) > 1 for points in made.curves.values() for p in points):
        found["chart-yield"] = lambda t: check_yield(made, t)
    if not seeded(made) and len(made.labels) > 1:
        found["chart-differences"] = lambda t: check_differences(made, t)
    if any(made.details[label].get("sensitivity") for label in made.labels):
        found["chart-sensitivity"] = lambda t: check_sensitivity(made, t)
    known = [label for label in made.labels if made.details[label].get("conductances")]
    for i, label in enumerate(known):
        for j, layer in enumerate(made.details[label]["conductances"]["layers"]):
            found[f"chart-conductances-{i}-{j}"] = functools.partial(check_histogram, layer)
    return found


def data_of(page: str, name: str) -> Any:
    found = re.search(f'<script type="application/json" id="{name}">(.*?)</script>', page)
    assert found is not None
    return json.loads(found[1])


@pytest.mark.parametrize("name", SWEEPS)
def test_the_page_shows_the_numbers_of_the_sweep_and_an_altered_one_is_noticed(name: str) -> None:
    made = SWEEPS[name]()
    page = page_text(made, threshold=THRESHOLD)
    charts = data_of(page, "charts")
    every = checks(made)
    assert {*every} == {*charts}
    for chart, check in every.items():
        check(tables(charts[chart]))
    check_files(made, data_of(page, "downloads"))
    altered = 0
    for chart, place, column in list(numeric_columns(charts)):
        wrong = copy.deepcopy(charts[chart])
        rows = wrong["datasets"][place]["rows"]
        # of the rows with a number there, the middle one
        numbers = [row for row in rows if isinstance(row[column], int | float)]
        row = numbers[len(numbers) // 2]
        row[column] = row[column] * 1.02 + 3e-3 * (1 + abs(row[column]))
        if chart == "chart-yield":
            row[column] += 3.0
        column_name = charts[chart]["datasets"][place]["columns"][column]
        assert noticed(every[chart], tables(wrong)), f"{chart}: a wrong {column_name} passes"
        altered += 1
    assert altered >= 9


def numeric_columns(charts: dict[str, Any]) -> Iterator[tuple[str, str, int]]:
    for chart, spec in charts.items():
        for name, table in spec["datasets"].items():
            for column in range(len(table["columns"])):
                if any(isinstance(row[column], int | float) for row in table["rows"]):
                    yield chart, name, column


def check_files(made: Sweep, files: dict[str, str]) -> None:
    """The CSV files have the stored numbers in full."""

    def lines(name: str) -> list[list[str]]:
        return list(csv.reader(files[name].splitlines()))[1:]

    def text(*values: Any) -> list[str]:
        return ["" if value is None else str(value) for value in values]

    limit = sign(made) * THRESHOLD
    points = [p for label in made.labels for p in made.curve(label)]
    assert [row[4:11] for row in lines("curves.csv")] == [
        text(s.mean, *(s.ci95 or (None, None)), p.spread, s.median, s.min, s.max)
        for p in points
        for s in [p.summary]
    ]
    assert [row[12:15] for row in lines("curves.csv")] == [
        text(y.value, *y.ci95) for p in points for y in [p.passing(limit)]
    ]
    assert [row[2:] for row in lines("chips.csv")] == [
        text(t.sigma, t.chip, t.value, t.images, t.variance) for p in points for t in p.trials
    ]
    if seeded(made):
        groups = groups_in(made)
        assert [row[2:10] for row in lines("groups.csv")] == [
            text(p.networks, p.mean, *(p.ci95 or (None, None)), p.lowest, p.highest, p.spread, p.worst)
            for group in groups
            for p in group_curve(made, group, limit)
        ]
        assert [row[3:] for row in lines("tests.csv")] == [
            text(t.difference, *(t.ci95 or (None, None)), t.p_value, t.adjusted, *t.networks)
            for t in group_tests(made, next(iter(groups)))
        ]
        return
    first, *others = made.labels
    assert [row[3:] for row in lines("differences.csv")] == [
        text(p.difference, *((None, None) if p.interval is None else (p.interval.low, p.interval.high)))
        + text(p.p_value, p.adjusted, p.chips)
        for other in others
        if not made.not_paired(other, first)
        for _, p in made.paired(other, first)
    ]


# The figures.


def drawn(made: Sweep, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Axes]:
    """The axes of `draw_figures`, and of `draw_groups` where there are groups, without writing them."""
    kept: dict[str, Axes] = {}

    def keep(figure: Figure, path: Any, **_: Any) -> None:
        kept[Path(path).name.removeprefix(".").partition(".")[0]] = figure.axes[0]
        Path(path).write_bytes(b"")

    monkeypatch.setattr(Figure, "savefig", keep)
    monkeypatch.setattr(sweep_figures, "FORMATS", (".svg",))
    sweep_figures.draw_figures(made, folder, threshold=THRESHOLD)
    if seeded(made):
        sweep_figures.draw_groups(made, folder / "groups.png", threshold=THRESHOLD)
    return kept


def xy(line: Any) -> np.ndarray:
    return np.column_stack([line.get_xdata(), line.get_ydata()])


def spans(axes: Axes) -> list[np.ndarray]:
    """For each collection: rows (place, low, high) of a band or of vertical lines."""
    found = []
    for part in axes.collections:
        vertices = np.concatenate([path.vertices for path in part.get_paths()])
        places = np.unique(vertices[:, 0])
        of_place = [vertices[vertices[:, 0] == x, 1] for x in places]
        found.append(np.array([(x, y.min(), y.max()) for x, y in zip(places, of_place, strict=True)]))
    return found


def same(found: Sequence[Any] | np.ndarray, wanted: Sequence[Any]) -> None:
    np.testing.assert_allclose(np.asarray(found, float), np.asarray(wanted, float), rtol=1e-9, atol=1e-9)


def check_curve_figure(made: Sweep, axes: Axes, curves: list[list[tuple[float, float, Any]]]) -> None:
    """Lines (sigma, mean, interval) and their bands, in the order of the curves, then the threshold."""
    *lines, rule = axes.get_lines()
    for line, points in zip(lines, curves, strict=True):
        same(xy(line), [(x, 100 * mean) for x, mean, _ in points])
    same(rule.get_ydata(), [100 * THRESHOLD] * 2)
    bands = [[(x, *span) for x, _, span in points if span != (None, None)] for points in curves]
    for found, band in zip(spans(axes), [band for band in bands if band], strict=True):
        same(found, [(x, 100 * low, 100 * high) for x, low, high in band])


def check_figures(made: Sweep, figures: dict[str, Axes]) -> None:
    unit = 1e6 if "(µS)" in figures["curves"].get_xlabel() else 1.0
    check_curve_figure(
        made,
        figures["curves"],
        [
            [
                (p.sigma * unit, sign(made) * p.summary.mean, ends(made, p.summary.ci95))
                for p in made.curve(label)
            ]
            for label in made.labels
        ],
    )
    if "groups" in figures:
        curves = {group: group_curve(made, group) for group in groups_in(made)}
        wide, lines = boundless(curves), []
        for group, curve in curves.items():
            spans_ = [None if group in wide else p.ci95 if p.networks > 1 else p.ci95_chips for p in curve]
            lines.append(
                [
                    (p.sigma, sign(made) * p.mean, ends(made, span))
                    for p, span in zip(curve, spans_, strict=True)
                ]
            )
            for label in groups_in(made)[group] if group in wide else ():
                lines.append(
                    [(p.sigma, sign(made) * p.summary.mean, (None, None)) for p in made.curve(label)]
                )
        check_curve_figure(made, figures["groups"], lines)
    if "differences" in figures:
        check_difference_figure(made, figures["differences"], unit)
    if "yield" in figures:
        check_yield_figure(made, figures["yield"], unit)
    if "sensitivity" in figures:
        check_sensitivity_figure(made, figures["sensitivity"])


def check_difference_figure(made: Sweep, axes: Axes, unit: float) -> None:
    zero, *marks = [line for line in axes.get_lines() if len(xy(line))]
    same(zero.get_ydata(), [0, 0])
    first, *others = made.labels
    found = [
        pair for other in others if not made.not_paired(other, first) for pair in made.paired(other, first)
    ]
    same([xy(mark)[0, 1] for mark in marks], [100 * sign(made) * pair.difference for _, pair in found])
    step = unit * (max(s for s, _ in found) - min(s for s, _ in found) or 1.0) / 2
    assert all(abs(xy(m)[0, 0] - s * unit) < step for m, (s, _) in zip(marks, found, strict=True))
    lines = [ends(made, (p.interval.low, p.interval.high), -1.0) for _, p in found if p.interval]
    same([span[0, 1:] for span in spans(axes)], [[100 * (e or 0) for e in line] for line in lines] or [])
    places = [xy(m)[0, 0] for m, (_, p) in zip(marks, found, strict=True) if p.interval]
    same([span[0, 0] for span in spans(axes)], places)


def check_yield_figure(made: Sweep, axes: Axes, unit: float) -> None:
    sigma = float(axes.get_title(loc="left").split()[-1])
    points = [p for label in made.labels for p in made.curve(label) if p.sigma == pytest.approx(sigma)]
    *lines, rule = axes.get_lines()
    same(rule.get_xdata(), [100 * THRESHOLD] * 2)
    for line, band, p in zip(lines, spans(axes), points, strict=True):
        for x, y in xy(line):
            limit = sign(made) * x / 100
            sides = [p.passing(limit * factor) for factor in (1 - 1e-12, 1, 1 + 1e-12)]
            assert any(y == pytest.approx(100 * side.value) for side in sides)
        shares = [p.passing(sign(made) * x / 100 * (1 - 1e-12 * sign(made))) for x in xy(line)[:, 0]]
        same(np.unique(band[:, 0]), np.unique(xy(line)[:, 0]))
        assert band[:, 1].min() == pytest.approx(min(100 * s.ci95[0] for s in shares))
        assert band[:, 2].max() == pytest.approx(max(100 * s.ci95[1] for s in shares))
        if not p.drawn:
            assert {*np.round([100 * sign(made) * v for v in p.values], 9)} <= {*np.round(xy(line)[:, 0], 9)}


def check_sensitivity_figure(made: Sweep, axes: Axes) -> None:
    layers = [
        summarise(layer["drops"])
        for label in made.labels
        for layer in made.details[label].get("sensitivity", {}).get("layers", [])
    ]
    same([bar.get_width() for bar in axes.patches], [100 * s.mean for s in layers])
    same([bar.get_height() for bar in axes.patches], [axes.patches[0].get_height()] * len(layers))
    lines = [part.get_paths()[0].vertices[:, 0] for part in axes.collections]
    same(lines, [[100 * end for end in s.ci95] for s in layers if s.ci95])
    dots = [line for line in axes.get_lines() if len(xy(line)) == 1]
    (zero,) = [line for line in axes.get_lines() if len(xy(line)) == 2]
    same(zero.get_xdata(), [0, 0])
    same([xy(dot)[0, 0] for dot in dots], [100 * s.mean for s in layers] if dots else [])


@pytest.mark.parametrize("name", SWEEPS)
def test_figures_show_the_numbers_of_the_sweep_and_an_altered_one_is_noticed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = SWEEPS[name]()
    figures = drawn(made, tmp_path, monkeypatch)
    check = functools.partial(check_figures, made)
    check(figures)
    altered = 0
    for figure, axes in figures.items():
        for line in [line for line in axes.get_lines() if len(xy(line))]:
            x, y = xy(line).T
            rule = len(x) == 2 and (x[0] == x[1] or y[0] == y[1])
            wrong_x = rule or figure == "sensitivity"  # there the numbers are horizontal
            line.set_data(x * 1.01 + 0.1 if wrong_x else x, y * 1.01 + 0.1 if rule or not wrong_x else y)
            assert noticed(check, figures), f"{figure}: wrong numbers of mark {altered} pass"
            line.set_data(x, y)
            altered += 1
        for part in axes.collections:
            vertices = part.get_paths()[0].vertices
            before = vertices.copy()
            vertices[:] = before * 1.01 + 0.1
            assert noticed(check, figures), f"{figure}: wrong numbers of mark {altered} pass"
            vertices[:] = before
            altered += 1
        for bar in axes.patches:
            width = bar.get_width()
            bar.set_width(width * 1.01 + 0.1)
            assert noticed(check, figures), f"{figure}: wrong numbers of mark {altered} pass"
            bar.set_width(width)
            altered += 1
    check_figures(made, figures)
    assert altered >= len(figures)
