"""The report page: one HTML file that opens without a network."""

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup, escape

from crossbar_sim import __version__
from crossbar_sim.files import write_text
from crossbar_sim.nn.analog.multiply_adds import share_words
from crossbar_sim.report import tables
from crossbar_sim.report.charts import CONFIG, curves, differences, histograms, library, sensitivity, yields
from crossbar_sim.report.formatting import Scale, counted, law_of, range_text, sigma_text
from crossbar_sim.report.headline import (
    group_percentile_words,
    headline,
    mixed_words,
    percentile_words,
    shares,
)
from crossbar_sim.report.ranking import differing, narrowed
from crossbar_sim.report.rows import Costs, View, check_threshold, default_threshold
from crossbar_sim.robustness.drawn_scores import MOST_CHIPS
from crossbar_sim.robustness.groups import seeded
from crossbar_sim.robustness.sweep import WORK, Sweep, share_on_arrays, tails
from crossbar_sim.store.records import Task, canonical
from crossbar_sim.text import visible_lines

LONG = 24
"""Tables with more lines scroll by themselves."""


def write_page(
    sweep: Sweep,
    path: str | os.PathLike[str],
    *,
    threshold: float | None = None,
    title: str | None = None,
    models: list[str] | None = None,
    reference: str | None = None,
    percentile: float | None = None,
) -> None:
    """Write the page, whole or not at all; see `page_text`.

    Raises:
        InputError: as `page_text`, or if the file cannot be written.
    """
    text = page_text(
        sweep, threshold=threshold, title=title, models=models, reference=reference, percentile=percentile
    )
    write_text(path, text)


def page_text(
    sweep: Sweep,
    *,
    threshold: float | None = None,
    title: str | None = None,
    models: list[str] | None = None,
    reference: str | None = None,
    percentile: float | None = None,
) -> str:
    """The page as HTML: the same sweep gives the same text.

    Args:
        sweep: of one metric.
        threshold: the least accuracy or agreement, or the largest output error, with which a chip passes. None: the
            lowest clean score minus 5 points, in whole per cent; none for an output error.
        title: of the page.
        models: only these, in this order.
        reference: the group of training seeds that the others are tested against; None: the first. It has no effect
            without such groups.
        percentile: percent of the chips that may be worse than a score, which tables then have too; None: none.

    Raises:
        InputError: if models, threshold or reference are impossible.
    """
    sweep = narrowed(sweep, models)
    if threshold is None:
        threshold = default_threshold(sweep)
    else:
        check_threshold(sweep.metric, threshold)
    view = View(sweep, threshold, reference=reference, percent=percentile)
    grouped = seeded(sweep)
    panels, panels_caption = histograms(view)
    charts = {
        "curves": curves(view),
        "differences": None if grouped else differences(view),
        "yield": yields(view),
        "sensitivity": sensitivity(view),
    }
    drawn = [chart for chart in charts.values() if chart is not None]
    drawn += [chart for layers in panels.values() for _, chart in layers]
    files = tables.downloads(view)
    on_arrays, little = shares(sweep)
    (vega, vega_hash), (own, own_hash) = _script(library()), _script(_resource("page.js"))
    blocks = {"charts": {chart.name: chart.spec for chart in drawn}, "config": CONFIG, "downloads": files}
    return _template().render(
        title=title or _title(view),
        policy=_policy((vega_hash, own_hash)),
        style=Markup(_resource("page.css")),
        headline=[*headline(view), *on_arrays],
        scope=_scope(view),
        warnings=[*little, *mixed_words(sweep)],
        charts=charts,
        panels=panels,
        panels_caption=panels_caption,
        models=tables.of_models(view),
        ways=[tables.of_groups(view), tables.of_group_tests(view)] if grouped else [],
        numbers=[tables.of_points(view), None if grouped else tables.of_pairs(view), tables.of_layers(view)],
        long=LONG,
        files=list(files),
        files_note=_files_note(view),
        notes=list(notes(view)),
        shared=[(name, value) for name, value in _facts(view) if value is not None],
        tasks=[_task(view, label, task) for label, task in sweep.tasks.items()],
        version=__version__,
        blocks=[_data_block(name, value) for name, value in blocks.items()],
        scripts=[vega, own],
    )


# Text that files may set to anything (labels, file names) is made harmless here and nowhere else: the template
# escapes every value that is not Markup, and control characters are written as escapes.


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("crossbar_sim.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else visible_lines(str(value)),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["prose"] = _prose
    return environment.get_template("page.html")


def _prose(value: object) -> Markup:
    """Text in which a number and its per cent sign stay on one line."""
    return Markup(str(escape(visible_lines(str(value)))).replace(" %", "&nbsp;%"))


def _data_block(name: str, value: Any) -> Markup:
    """JSON for the page's scripts, which cannot end its own element: every <, > and & in it is escaped."""
    plain = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        plain = plain.replace(character, f"\\u{ord(character):04x}")
    return Markup(f'<script type="application/json" id="{escape(name)}">{plain}</script>')


def _script(source: str) -> tuple[Markup, str]:
    """(a script of this package, its hash for the policy). Line ends are those that the browser hashes."""
    source = source.replace("\r\n", "\n").replace("\r", "\n")
    # In strings and regular expressions, the only places where a script can hold these, they mean the same.
    source = source.replace("</script", "<\\/script").replace("<!--", "\\x3c!--")
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return Markup(f"<script>{source}</script>"), f"'sha256-{digest}'"


def _policy(hashes: Sequence[str]) -> Markup:
    """The content security policy: these scripts, the page's own styles, and no network."""
    parts = (
        "default-src 'none'",
        f"script-src {' '.join(hashes)}",
        "style-src 'unsafe-inline'",  # Vega sets style attributes on the marks and menus of charts
        "img-src data: blob:",
        "base-uri 'none'",
        "form-action 'none'",
    )
    return Markup("; ".join(parts))


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


def _title(view: View) -> str:
    names = [view.names.short[label] for label in view.sweep.labels]
    listed = " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
    return f"Robustness of {listed if len(listed) < 60 else f'{len(names)} models'}"


def _scope(view: View) -> str:
    """What was measured, in one line."""
    sweep, points, sigmas = view.sweep, list(view.points), view.sigmas
    chips, images = sorted({p.chips for p in points}), sorted({p.images for p in points})
    drawn = any(p.drawn for p in points)
    places = f"{len(sigmas)} sigmas from {sigma_text(sigmas[0])} to {sigma_text(sigmas[-1])}"
    parts = [
        counted(len(sweep.labels), "model"),
        places if len(sigmas) > 1 else f"sigma {sigma_text(sigmas[0])}",
        f"{range_text(chips)} chip{'s' * (chips != [1])}",
        f"{range_text(images)} example{'s' * (images != [1])} {'drawn for each' if drawn else 'each'}",
    ]
    if "hardware" in differing(sweep):
        return f"{', '.join(parts)}."
    design = design_words(next(iter(sweep.tasks.values())).identity)
    return f"{', '.join(parts)}. {design[:1].upper()}{design[1:]}."


def _files_note(view: View) -> str:
    """How to read the CSV files, and what they leave out."""
    scale = view.scale
    errors = "" if scale.more_is_better else ", errors negative"
    unit = f" in {scale.judge.axis or scale.judge.unit}" if scale.axis != scale.name else ""
    what = "shares of 1" if scale.per_cent else f"{scale.compared}{unit}"
    return f"As CSV, scores as stored: {what}{errors}. {tables.left_out(view)}".strip()


# What was measured and on what: the part of the page that makes its numbers reproducible.


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
"""Names of the parts that a design may have besides its mapping and drift."""


def design_words(identity: Mapping[str, Any]) -> str:
    """The design of a task in one line; the full JSON has all keys."""
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
    layers = hardware.get("layers")
    for pair in layers if isinstance(layers, list) else ():
        if isinstance(pair, list) and len(pair) == 2 and isinstance(pair[1], Mapping):
            parts.append(f"layer {pair[0]}: {_layer_words(pair[1])}")
    return "; ".join(parts)


def _layer_words(table: Mapping[str, Any]) -> str:
    if "hardware" in table:
        return f"a design of its own ({design_words(table)})"
    if table.get("digital") is True:
        return "digital"
    return ", ".join(f"{name} {_inline(value)}" for name, value in table.items())


def images_words(identity: Mapping[str, Any]) -> str:
    """Which examples each chip was evaluated on."""
    images = identity.get("images")
    if not isinstance(images, Mapping):
        return "unknown"
    count = images.get("count")
    shown = f"{count:,}" if isinstance(count, int) else str(count)
    if not images.get("drawn"):
        return f"the same {shown} examples on every chip"
    half = images.get("half")
    until = ""
    if isinstance(half, int | float):
        scale = Scale.of(str(identity.get("metric")))
        shown = f"{100 * half:g} points" if scale.per_cent else f"{half:g} of {scale.compared}"
        until = f", until the mean is known to ± {shown}"
    if images.get("minimum") == count:
        return f"the same {shown} examples on every chip{until}"
    return f"drawn separately for each chip from {shown}{until}"


def _facts(view: View) -> Iterator[tuple[str, str | None]]:
    """What all tasks share, and where they differ."""
    identity = next(iter(view.sweep.tasks.values())).identity
    for name, words in (("hardware", design_words), ("images", images_words)):
        title = {"hardware": "design", "images": "examples"}[name]
        yield title, words(identity) if _same(view, name) else "differs between the models"
    data = identity.get("data")
    if isinstance(data, Mapping):
        known = ", ".join(f"{key} {_plain(data[key])}" for key in sorted(data) if data[key] is not None)
        yield "data", known if _same(view, "data") else "differ between the models"
    for name, title in (
        ("seed", "seed of the chips"),
        ("stream", "random stream version"),
        ("metric", "metric"),
    ):
        if name in identity:
            yield title, _plain(identity[name]) if _same(view, name) else "differs between the models"
    for name in ("only", "skip"):
        value = identity.get(name)
        yield f"layers: {name}", _plain(value) if value and _same(view, name) else None


def _same(view: View, key: str) -> bool:
    return len({canonical(task.identity.get(key)) for task in view.sweep.tasks.values()}) == 1


def _order(task: Task) -> list[str]:
    known = [name for name in task.about if task.about[name] not in (None, "", [], {})]
    return sorted(known, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))


def _task(view: View, label: str, task: Task) -> dict[str, Any]:
    """What the results file says about one task."""
    share = share_on_arrays(task)
    known = [name for name in task.about if task.about[name] not in (None, "", [], {})]
    order = sorted(known, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    entries = [("task", task.id), *((name, _plain(task.about[name])) for name in order if name != WORK)]
    if share is not None:
        entries.append((WORK.replace("_", "-"), share_words(share)))
    if not _same(view, "hardware"):
        entries.append(("design", design_words(task.identity)))
    identity = json.dumps(task.identity, indent=2, sort_keys=True, ensure_ascii=False)
    return {"name": view.names.whole[label], "entries": entries, "identity": identity}


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


def notes(view: View) -> Iterator[str]:
    """How the numbers of this sweep were computed, one sentence or two each."""
    several, drawn, grouped = view.several_chips, any(row.drawn for row in view.points), seeded(view.sweep)
    if grouped:
        yield (
            "The random unit of a way to train is the training seed: a network counts by its mean over chips, and "
            "intervals are Student's t over networks, for these chips, which all networks share."
        )
    else:
        yield (
            "The random unit is the chip: intervals are for other chips of the same design, not for other images."
        )
    if len(view.groups) > 1 and grouped:
        yield (
            "Differences between ways to train: Welch's t over networks, p-values corrected over all sigmas and groups "
            "after Holm; the intervals shown are for each sigma separately. Single networks are not tested against "
            "each other: their chips do not show how much the result of another training would differ."
        )
    yield "Chip i draws the same random numbers at every sigma and for every model."
    if several and grouped:
        yield (
            "Mean of a single network: over its chips, with a 95 % Student t interval for other chips of the same "
            "design with this network. Spread: the standard deviation between chips."
        )
    elif several:
        if view.scale.judge.logarithm:
            yield (
                f"Mean: the geometric one over chips, with a 95 % Student t interval of {view.scale.compared}. "
                f"Spread: the standard deviation of {view.scale.compared} between chips."
            )
        else:
            yield "Mean: over chips, with a 95 % Student t interval. Spread: the standard deviation between chips."
    else:
        yield "A single chip gives no interval."
    if any(row.mean.is_cut for row in view.points) and not view.scale.judge.logarithm:
        yield (
            "Intervals end where scores end: a Student t interval of few or unequal chips that reaches farther is cut. "
            "The CSV files have it as computed."
        )
    for line in tails(view.sweep.curves):
        yield f"Caution: {line}."
    if drawn:
        yield (
            "Each chip was evaluated on its own images, drawn with the seed: spread and yield are corrected for the "
            "variance that drawing adds; median, worst and best chip are of the scores as measured."
        )
        if view.costs.ended:
            yield _spent(view.costs)
    if view.percent is not None:
        yield percentile_words(view.percent, view.scale, any(row.drawn for row in view.points))
        if grouped:
            yield f"Of ways to train: {group_percentile_words(view.percent)}."
    kind = "an approximate 95 % interval" if drawn else "a 95 % Wilson interval"
    yield f"Yield: the share of chips at the threshold or better, with {kind}."
    if len(view.sigmas) > 1:
        yield (
            "Mean over the sigmas: the area under a chip's curve (trapezoids) over its width, then a t interval over "
            "chips. It depends on the sigmas: compare it over the same ones only."
        )
        yield (
            "Crossing: where the mean, linear between sigmas, first passes the threshold; its interval is where the "
            "95 % band of the mean does."
        )
    if len(view.sweep.labels) > 1 and not grouped:
        yield (
            "Differences: Student's paired t on the chips that both models have, p-values corrected over the sigmas of "
            "a pair after Holm; the intervals shown are for each sigma separately."
        )


def _spent(costs: Costs) -> str:
    """What the interval budget cost, over the points whose plans are complete."""
    short = ""
    if costs.missed:
        short = f" {costs.missed} of {costs.ended} points did not reach the requested precision."
    if costs.plain is None:
        most = f"all images would need over {MOST_CHIPS:,} chips"
        return f"Spent: {costs.images:,} evaluations of an image; {most}.{short}"
    plain = f"all images on every chip needed would be {costs.plain[1]:,}"
    return f"Spent: {costs.images:,} evaluations of an image, where {plain}.{short}"
