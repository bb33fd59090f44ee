"""The report page: one file that opens anywhere and asks nothing of any network."""

import os
from importlib import resources

from crossbar_sim import __version__
from crossbar_sim.files import write_text
from crossbar_sim.robustness.groups import groups_in, seeded
from crossbar_sim.robustness.page import group_tables, identity, markup, tables
from crossbar_sim.robustness.page.curve_chart import curves
from crossbar_sim.robustness.page.downloads import downloads, told_of_trials
from crossbar_sim.robustness.page.drawing import CONFIG, Chart, Subject, library
from crossbar_sim.robustness.page.headline import headline, mixed_words
from crossbar_sim.robustness.page.layer_charts import Panel, histograms, sensitivity
from crossbar_sim.robustness.page.look import Names, Scale, sigma_text
from crossbar_sim.robustness.page.methods import notes
from crossbar_sim.robustness.page.numbers import check_threshold, default_threshold, differing, narrowed
from crossbar_sim.robustness.page.pair_chart import differences
from crossbar_sim.robustness.page.yield_chart import yields
from crossbar_sim.robustness.sweep import Sweep

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
            _part("Robustness", _figure(charts["curves"]), tables.of_models(subject, threshold)),
            _part("Ways to train", *_ways(subject, threshold, reference)) if grouped and reference else "",
            _part("Differences on the same chips", _figure(charts["differences"])),
            _part("Yield", _figure(charts["yield"])),
            _part("Layer by layer", _figure(charts["sensitivity"]), _panels(panels, told)),
            _part("All numbers", _all_numbers(subject, threshold, files)),
            _part("How the numbers were made", notes(subject)),
            _part("What was measured", identity.section(subject)),
            "</main>\n",
            markup.tag("footer", f"Made by crossbar-sim {markup.text(__version__)}."),
        )
    )
    blocks = markup.data_block("charts", {chart.name: chart.spec for chart in drawn})
    blocks += markup.data_block("config", CONFIG) + markup.data_block("downloads", files)
    (vega, vega_hash), (ours, our_hash) = markup.script(library()), markup.script(_resource("page.js"))
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        + markup.policy((vega_hash, our_hash))
        + '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        + '<meta name="referrer" content="no-referrer">\n'
        + markup.tag("title", markup.text(title))
        + f"\n<style>\n{_resource('page.css')}</style>\n</head>\n<body>\n{body}\n{blocks}{vega}{ours}</body>\n</html>\n"
    )


def _title(subject: Subject) -> str:
    names = [subject.names.short[label] for label in subject.sweep.labels]
    listed = " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
    return f"Robustness of {listed if len(listed) < 60 else f'{len(names)} models'}"


def _header(subject: Subject, title: str, threshold: float | None) -> str:
    sweep = subject.sweep
    lead = [
        markup.tag("p", markup.prose(sentence), class_="lead")
        for sentence in headline(sweep, subject.names, subject.scale, threshold)
    ]
    parts = [
        markup.tag("h1", markup.text(title)),
        *lead,
        markup.tag("p", markup.prose(_scope(subject)), class_="sub"),
        *(markup.tag("p", markup.text(warn), class_="warn") for warn in mixed_words(sweep)),
    ]
    return markup.tag("header", *parts) + "\n"


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
    design = identity.design_words(next(iter(sweep.tasks.values())).identity)
    return f"{', '.join(parts)}. {design[:1].upper()}{design[1:]}."


def _count(numbers: list[int], what: str) -> str:
    if len(numbers) == 1:
        return f"{numbers[0]:,} {what}{'s'[: numbers[0] != 1]}"
    return f"{numbers[0]:,} to {numbers[-1]:,} {what}s"


def _part(title: str, *inside: str) -> str:
    """A section; none where there is nothing in it."""
    if not any(inside):
        return ""
    return markup.tag("section", markup.tag("h2", markup.text(title)), *inside) + "\n"


def _figure(chart: Chart | None) -> str:
    if chart is None:
        return ""
    place = markup.tag("div", id=chart.name, class_="chart")
    return markup.tag("figure", place, markup.tag("figcaption", markup.prose(chart.caption)))


def _panels(panels: list[Panel], told: str) -> str:
    """Histograms side by side, as many as the screen takes, under the name of their model."""
    parts = []
    for model in dict.fromkeys(panel.model for panel in panels):
        figures = [
            markup.tag(
                "figure",
                markup.tag("figcaption", markup.text(panel.layer)),
                markup.tag("div", id=panel.chart.name, class_="chart small"),
            )
            for panel in panels
            if panel.model == model
        ]
        parts += [
            markup.tag("h3", f"Conductances of {markup.text(model)}"),
            markup.tag("div", *figures, class_="panels"),
        ]
    return "".join(parts) + markup.tag("p", markup.prose(told), class_="note") if parts else ""


def _all_numbers(subject: Subject, threshold: float | None, files: dict[str, str]) -> str:
    buttons = [markup.tag("button", markup.text(name), type="button", data_file=name) for name in files]
    told = told_of_trials(subject)
    note = "As CSV, scores as stored: shares of 1" + (
        "" if subject.scale.more_is_better else ", errors negative"
    )
    parts = [
        markup.tag("p", *buttons, class_="downloads"),
        markup.tag("p", markup.text(f"{note}. {told}".strip()), class_="note"),
    ]
    pairs = "" if seeded(subject.sweep) else tables.of_pairs(subject)
    parts += map(_scrolled, (tables.of_points(subject, threshold), pairs, tables.of_layers(subject)))
    return "".join(parts)


def _ways(subject: Subject, threshold: float | None, reference: str) -> tuple[str, ...]:
    """Tables of groups of training seeds, which answer for ways to train; those of single networks do not."""
    return (
        _scrolled(group_tables.of_groups(subject, threshold)),
        _scrolled(group_tables.of_group_tests(subject, reference)),
    )


def _scrolled(made: str) -> str:
    """A table, scrolling by itself if it is long."""
    return made.replace('class="scroll"', 'class="scroll long"', 1) if made.count("<tr>") > LONG else made


def _noscript() -> str:
    return (
        markup.tag(
            "noscript", markup.tag("p", "Charts need JavaScript; the tables below do not.", class_="warn")
        )
        + "\n"
    )


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
