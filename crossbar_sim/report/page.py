"""The report page: one HTML file that opens without a network."""

import json
import os
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

from crossbar_sim import __version__
from crossbar_sim.files import write_text
from crossbar_sim.report import page_tables, wording
from crossbar_sim.report.charts import (
    CONFIG,
    Chart,
    Panel,
    Subject,
    curves,
    differences,
    histograms,
    library,
    sensitivity,
    yields,
)
from crossbar_sim.report.headline import headline, mixed_words
from crossbar_sim.report.look import Names, Scale, law_of, sigma_text
from crossbar_sim.report.page_tables import downloads, told_of_trials
from crossbar_sim.report.rows import check_threshold, default_threshold, differing, narrowed
from crossbar_sim.robustness.drawn_scores import MOST_CHIPS
from crossbar_sim.robustness.groups import groups_in, seeded
from crossbar_sim.robustness.sweep import Sweep, tails
from crossbar_sim.store.records import Task, canonical

# What was measured, on what, with what: the part of the page that makes a number repeatable.


FIRST = (
    "file",
    "command",
    "network",
    "parameters",
    "source",
    "data",
    "version",
    "torch",
    "notes",
    "warnings",
)
"""Keys of `Task.about` in the order in which they are shown; others follow by name."""

_LAWS = {
    "lognormal": "log-normal drift g exp(lambda), lambda ~ N(0, sigma²)",
    "gamma": "gamma drift",
    "relaxation": "relaxation",
    "measured_relaxation": "relaxation that depends on g",
}


_PARTS = {
    "programming": "programming noise",
    "stuck": "stuck cells",
    "wires": "wires",
    "dac": "DAC",
    "read_noise": "read noise",
    "adc": "ADC",
}
"""What a design may have beside its mapping and drift, in words."""


def design_words(identity: Mapping[str, Any]) -> str:
    """A task's design in one line; what a key means is in the full JSON."""
    hardware = identity.get("hardware")
    if not isinstance(hardware, Mapping):
        return "unknown"
    parts = []
    mapping = hardware.get("mapping")
    if isinstance(mapping, Mapping):
        parts.append(f"{mapping.get('kind')} mapping, {_microsiemens(mapping)}")
        if mapping.get("levels"):
            parts.append(f"{mapping['levels']} levels")
        if mapping.get("cell_bits"):
            parts.append(f"{mapping['cell_bits']} bits a cell")
        if mapping.get("copies") not in (None, 1):
            parts.append(f"{mapping['copies']} cells in parallel")
    kind, _ = law_of(identity)
    parts.append(f"{_LAWS.get(kind, f'{kind} drift')} per {hardware.get('drift_per', 'cell')}")
    for name, what in _PARTS.items():
        if hardware.get(name):
            parts.append(f"{what} {_inline(hardware[name])}")
    drifting = [name for name in ("bias", "normalisation", "other") if hardware.get(name) == "drifting"]
    if drifting:
        named = {"bias": "biases", "normalisation": "normalisation", "other": "all other parameters"}
        words = [named[name] for name in drifting]
        listed = " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]
        parts.append(f"{listed} drift as well")
    return "; ".join(parts)


def images_words(identity: Mapping[str, Any]) -> str:
    """How examples were taken."""
    images = identity.get("images")
    if not isinstance(images, Mapping):
        return "unknown"
    count = images.get("count")
    shown = f"{count:,}" if isinstance(count, int) else str(count)
    if not images.get("drawn"):
        return f"the same {shown} examples on every chip"
    half = images.get("half")
    asked = f", until the mean is known to ± {100 * half:g} points" if isinstance(half, int | float) else ""
    return f"drawn for each chip by itself from {shown}{asked}"


def section(subject: Subject) -> str:
    """Everything that the results file says about the tasks."""
    tasks = subject.sweep.tasks
    shared = [(name, value) for name, value in _facts(subject) if value is not None]
    parts = [wording.tag("dl", *(_entry(name, value) for name, value in shared), class_="facts")]
    for label, task in tasks.items():
        rows = [_entry("task", task.id, code=True)]
        rows += [_entry(name, _plain(task.about[name]), code=name == "command") for name in _order(task)]
        own = [] if _same(subject, "hardware") else [_entry("design", design_words(task.identity))]
        full = wording.tag(
            "pre", wording.text(json.dumps(task.identity, indent=2, sort_keys=True, ensure_ascii=False))
        )
        parts += [
            wording.tag("h3", wording.text(subject.names.whole[label])),
            wording.tag("dl", *rows, *own, class_="facts"),
            wording.tag("details", wording.tag("summary", "Identity, as hashed (JSON)"), full),
        ]
    return "".join(parts)


def _facts(subject: Subject) -> Iterator[tuple[str, str | None]]:
    """What all tasks share, and where they differ."""
    identity = next(iter(subject.sweep.tasks.values())).identity
    for name, words in (("hardware", design_words), ("images", images_words)):
        title = {"hardware": "design", "images": "examples"}[name]
        yield title, words(identity) if _same(subject, name) else "differs between the models"
    data = identity.get("data")
    if isinstance(data, Mapping):
        known = ", ".join(f"{key} {_plain(data[key])}" for key in sorted(data) if data[key] is not None)
        yield "data", known if _same(subject, "data") else "differ between the models"
    for name, title in (
        ("seed", "seed of the chips"),
        ("stream", "random stream version"),
        ("metric", "metric"),
    ):
        if name in identity:
            yield title, _plain(identity[name]) if _same(subject, name) else "differs between the models"
    for name in ("only", "skip"):
        value = identity.get(name)
        yield f"layers: {name}", _plain(value) if value and _same(subject, name) else None


def _same(subject: Subject, key: str) -> bool:
    return len({canonical(task.identity.get(key)) for task in subject.sweep.tasks.values()}) == 1


def _order(task: Task) -> list[str]:
    known = [name for name in task.about if task.about[name] not in (None, "", [], {})]
    return sorted(known, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))


def _entry(name: str, value: str, code: bool = False) -> str:
    inside = wording.text(value)
    return wording.tag("dt", wording.text(name)) + wording.tag(
        "dd", wording.tag("code", inside) if code else inside
    )


def _plain(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str | int | float) for item in value):
        return "; ".join(map(str, value))
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _inline(part: object) -> str:
    if not isinstance(part, Mapping):
        return _plain(part)
    return ", ".join(f"{key} {_plain(value)}" for key, value in part.items() if value is not None)


def _microsiemens(mapping: Mapping[str, Any]) -> str:
    try:
        return f"{1e6 * float(mapping['g_min']):g} to {1e6 * float(mapping['g_max']):g} µS"
    except (KeyError, TypeError, ValueError):
        return _inline(mapping)


# How each kind of number is made, in a line each; docs/statistics.md has the derivations.


_CHIP = "The random unit is the chip: intervals tell what other chips of the same design would do, not other images."


def notes(subject: Subject) -> str:
    """The notes that this sweep needs, as a list."""
    points = [p for label in subject.sweep.labels for p in subject.sweep.curve(label)]
    several, drawn = any(len(p.chips) > 1 for p in points), any(p.drawn for p in points)
    compared, swept = len(subject.sweep.labels) > 1, len({p.sigma for p in points}) > 1
    lines = list(_of_seeds(subject.sweep)) if seeded(subject.sweep) else [_CHIP]
    lines.append("Chip i draws the same random numbers at every sigma and for every model.")
    if several and seeded(subject.sweep):
        lines.append(
            "Mean of a single network: over its chips, with a 95 % Student t interval: what other chips of the same "
            "design would do with that network. Spread: the standard deviation between chips."
        )
    elif several:
        lines.append(
            "Mean: over chips, with a 95 % Student t interval. Spread: the standard deviation between chips."
        )
    else:
        lines.append("One chip tells nothing about others: there is no interval.")
    lines += [f"Caution: {line}." for line in tails(subject.sweep.curves)]
    if drawn:
        lines.append(
            "Each chip saw images of its own, drawn by the seed: spread and yield are corrected for the scatter that "
            "drawing adds, median, worst and best chip are of the scores as measured."
        )
        spent = _spent(subject)
        if spent:
            lines.append(spent)
    kind = "an approximate 95 % interval" if drawn else "a 95 % Wilson interval"
    lines.append(f"Yield: the share of chips at the threshold or better, with {kind}.")
    if swept:
        lines.append(
            "Mean over the sigmas: the area under a chip's curve (trapezoids) over its width, then a t interval over "
            "chips. It depends on the sigmas: compare it over the same ones only."
        )
        lines.append(
            "Crossing: where the mean, linear between sigmas, first passes the threshold; its interval is where the "
            "band of the mean does."
        )
    if compared and not seeded(subject.sweep):
        lines.append(
            "Differences: Student's paired t on the chips that both models have, p-values corrected over the sigmas of "
            "a pair after Holm; the intervals shown are of each sigma by itself."
        )
    return wording.tag("ul", *(wording.tag("li", wording.prose(line)) for line in lines), class_="notes")


def _of_seeds(sweep: Sweep) -> Iterator[str]:
    """What is random where ways to train are compared."""
    yield (
        "The random unit of a way to train is the training seed: a network counts by its mean over chips, and "
        "intervals are Student's t over networks, for the chips at hand, which all networks share."
    )
    if len(groups_in(sweep)) > 1:
        yield (
            "Differences between ways to train: Welch's t over networks, p-values corrected over all sigmas and groups "
            "after Holm; the intervals shown are of each sigma by itself. Single networks are not tested against each "
            "other: their chips say nothing of what another training would have given."
        )


def _spent(subject: Subject) -> str:
    """What an interval budget took, where the plans came to their ends."""
    done = [
        p.done for label in subject.sweep.labels for p in subject.sweep.curve(label) if p.done is not None
    ]
    if not done:
        return ""
    spent, plain = (
        sum(cost.images for cost in costs) for costs in ([d.spent for d in done], [d.plain for d in done])
    )
    missed = sum(not d.reached for d in done)
    short = f" {missed} of {len(done)} points did not reach the precision asked for." if missed else ""
    if any(d.plain.chips >= MOST_CHIPS for d in done):  # where counting them stops
        return f"Spent: {spent:,} evaluations of an image; all images would need over {MOST_CHIPS:,} chips.{short}"
    return f"Spent: {spent:,} evaluations of an image, where all images on every chip needed would be {plain:,}.{short}"


# The report page: one file that opens anywhere and asks nothing of any network.


LONG = 24
"""Rows of a table beyond which it scrolls by itself."""


def write_page(
    sweep: Sweep,
    path: str | os.PathLike[str],
    *,
    threshold: float | None = None,
    title: str | None = None,
    models: list[str] | None = None,
    reference: str | None = None,
) -> None:
    """Write the page, whole or not at all; see `page_text`.

    Raises:
        InputError: as `page_text`, or if the file cannot be written.
    """
    write_text(path, page_text(sweep, threshold=threshold, title=title, models=models, reference=reference))


def page_text(
    sweep: Sweep,
    *,
    threshold: float | None = None,
    title: str | None = None,
    models: list[str] | None = None,
    reference: str | None = None,
) -> str:
    """The page as HTML: the same sweep gives the same text.

    Args:
        sweep: of one metric.
        threshold: the least accuracy or agreement, or the largest output error, that a chip passes with. None: the
            lowest clean score less 5 points, in whole per cent; an output error has none.
        title: of the page.
        models: only these, in this order.
        reference: the group of training seeds that the others are tested against; None: the first. Without such
            groups it does nothing.

    Raises:
        InputError: if models, threshold or reference are impossible.
    """
    sweep = narrowed(sweep, models)
    if threshold is None:
        threshold = default_threshold(sweep)
    else:
        check_threshold(sweep.metric, threshold)
    subject = Subject(sweep, Names.of(sweep.labels), Scale.of(sweep.metric))
    grouped = seeded(sweep)
    if grouped and reference is None:
        reference = next(iter(groups_in(sweep)))
    panels, told = histograms(subject)
    charts = {
        "curves": curves(subject, threshold),
        "differences": None if grouped else differences(subject),
        "yield": yields(subject, threshold),
        "sensitivity": sensitivity(subject),
    }
    drawn = [chart for chart in charts.values() if chart is not None] + [panel.chart for panel in panels]
    title = title or _title(subject)
    files = downloads(subject, threshold, reference if grouped else None)
    body = "".join(
        (
            _header(subject, title, threshold),
            "<main>\n",
            _noscript(),
            _part("Robustness", _figure(charts["curves"]), page_tables.of_models(subject, threshold)),
            _part("Ways to train", *_ways(subject, threshold, reference)) if grouped and reference else "",
            _part("Differences on the same chips", _figure(charts["differences"])),
            _part("Yield", _figure(charts["yield"])),
            _part("Layer by layer", _figure(charts["sensitivity"]), _panels(panels, told)),
            _part("All numbers", _all_numbers(subject, threshold, files)),
            _part("How the numbers were made", notes(subject)),
            _part("What was measured", section(subject)),
            "</main>\n",
            wording.tag("footer", f"Made by crossbar-sim {wording.text(__version__)}."),
        )
    )
    blocks = wording.data_block("charts", {chart.name: chart.spec for chart in drawn})
    blocks += wording.data_block("config", CONFIG) + wording.data_block("downloads", files)
    (vega, vega_hash), (ours, our_hash) = wording.script(library()), wording.script(_resource("page.js"))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        + wording.policy((vega_hash, our_hash))
        + '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        + '<meta name="referrer" content="no-referrer">\n'
        + wording.tag("title", wording.text(title))
        + f"\n<style>\n{_resource('page.css')}</style>\n</head>\n<body>\n{body}\n{blocks}{vega}{ours}</body>\n</html>\n"
    )


def _title(subject: Subject) -> str:
    names = [subject.names.short[label] for label in subject.sweep.labels]
    listed = " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
    return f"Robustness of {listed if len(listed) < 60 else f'{len(names)} models'}"


def _header(subject: Subject, title: str, threshold: float | None) -> str:
    sweep = subject.sweep
    lead = [
        wording.tag("p", wording.prose(sentence), class_="lead")
        for sentence in headline(sweep, subject.names, subject.scale, threshold)
    ]
    parts = [
        wording.tag("h1", wording.text(title)),
        *lead,
        wording.tag("p", wording.prose(_scope(subject)), class_="sub"),
        *(wording.tag("p", wording.text(warn), class_="warn") for warn in mixed_words(sweep)),
    ]
    return wording.tag("header", *parts) + "\n"


def _scope(subject: Subject) -> str:
    """What was measured, in one line."""
    sweep = subject.sweep
    points = [point for label in sweep.labels for point in sweep.curve(label)]
    sigmas = sorted({p.sigma for p in points})
    chips, images = sorted({len(p.chips) for p in points}), sorted({p.images for p in points})
    places = f"{len(sigmas)} sigmas from {sigma_text(sigmas[0])} to {sigma_text(sigmas[-1])}"
    parts = [
        f"{len(sweep.labels)} model{'s'[: len(sweep.labels) > 1]}",
        places if len(sigmas) > 1 else f"sigma {sigma_text(sigmas[0])}",
        _count(chips, "chip"),
        _count(images, "example") + (" drawn for each" if any(p.drawn for p in points) else " each"),
    ]
    if "hardware" in differing(sweep):
        return f"{', '.join(parts)}."
    design = design_words(next(iter(sweep.tasks.values())).identity)
    return f"{', '.join(parts)}. {design[:1].upper()}{design[1:]}."


def _count(numbers: list[int], what: str) -> str:
    if len(numbers) == 1:
        return f"{numbers[0]:,} {what}{'s'[: numbers[0] != 1]}"
    return f"{numbers[0]:,} to {numbers[-1]:,} {what}s"


def _part(title: str, *inside: str) -> str:
    """A section; none where there is nothing in it."""
    if not any(inside):
        return ""
    return wording.tag("section", wording.tag("h2", wording.text(title)), *inside) + "\n"


def _figure(chart: Chart | None) -> str:
    if chart is None:
        return ""
    place = wording.tag("div", id=chart.name, class_="chart")
    return wording.tag("figure", place, wording.tag("figcaption", wording.prose(chart.caption)))


def _panels(panels: list[Panel], told: str) -> str:
    """Histograms side by side, as many as the screen takes, under the name of their model."""
    parts = []
    for model in dict.fromkeys(panel.model for panel in panels):
        figures = [
            wording.tag(
                "figure",
                wording.tag("figcaption", wording.text(panel.layer)),
                wording.tag("div", id=panel.chart.name, class_="chart small"),
            )
            for panel in panels
            if panel.model == model
        ]
        parts += [
            wording.tag("h3", f"Conductances of {wording.text(model)}"),
            wording.tag("div", *figures, class_="panels"),
        ]
    return "".join(parts) + wording.tag("p", wording.prose(told), class_="note") if parts else ""


def _all_numbers(subject: Subject, threshold: float | None, files: dict[str, str]) -> str:
    buttons = [wording.tag("button", wording.text(name), type="button", data_file=name) for name in files]
    told = told_of_trials(subject)
    note = "As CSV, scores as stored: shares of 1" + (
        "" if subject.scale.more_is_better else ", errors negative"
    )
    parts = [
        wording.tag("p", *buttons, class_="downloads"),
        wording.tag("p", wording.text(f"{note}. {told}".strip()), class_="note"),
    ]
    pairs = "" if seeded(subject.sweep) else page_tables.of_pairs(subject)
    parts += map(
        _scrolled, (page_tables.of_points(subject, threshold), pairs, page_tables.of_layers(subject))
    )
    return "".join(parts)


def _ways(subject: Subject, threshold: float | None, reference: str) -> tuple[str, ...]:
    """Tables of groups of training seeds, which answer for ways to train; those of single networks do not."""
    return (
        _scrolled(page_tables.of_groups(subject, threshold)),
        _scrolled(page_tables.of_group_tests(subject, reference)),
    )


def _scrolled(made: str) -> str:
    """A table, scrolling by itself if it is long."""
    return made.replace('class="scroll"', 'class="scroll long"', 1) if made.count("<tr>") > LONG else made


def _noscript() -> str:
    return (
        wording.tag(
            "noscript", wording.tag("p", "Charts need JavaScript; the tables below do not.", class_="warn")
        )
        + "\n"
    )


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
