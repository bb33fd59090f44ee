"""`crossbar-sim tradeoff`: score against energy, latency and area over the parameters of a design."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from crossbar_sim.commands.options import (
    PATH,
    EvaluationOptions,
    HardwareOptions,
    ModelOptions,
    TechnologyOptions,
    command,
    option,
)
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs, write_json, write_text


@dataclass(frozen=True)
class TradeoffRequest(ModelOptions, HardwareOptions, TechnologyOptions, EvaluationOptions):
    """What `tradeoff` is to do."""

    vary: tuple[str, ...] = option(
        "A parameter of the design and its values: adc_bits=4:8, sigma=0:0.4:5, tile=64x64,128x128 (may be repeated: "
        "every combination is evaluated).",
        heading="Hardware",
    )
    against: Literal["energy", "latency", "area"] = option(
        "Cost that the front and the figure are of.", heading="Output", default="energy"
    )
    half_width: float | None = option(
        "Instead of a fixed number of chips: evaluate until the 95 % confidence interval of every mean is at most +- "
        "this.",
        heading="Statistics",
    )
    results: str | None = option(
        "Store all results in this file (SQLite); run again to resume, or to add combinations or chips.",
        heading="Output", type=PATH,
    )  # fmt: skip
    csv: str | None = option("Write the table to this file (CSV).", heading="Output", type=PATH)
    plot: str | None = option("Draw the front in this file: .png, .pdf or .svg.", heading="Output", type=PATH)


@command(TradeoffRequest)
def tradeoff(request: TradeoffRequest) -> None:
    """Compare designs: the score of MODEL against the energy, latency and area that one inference takes.

    Every combination of the values of --vary is evaluated on simulated chips at the sigma of its design, with converter
    ranges of its own, and its cost is estimated as `crossbar-sim cost` does. The front has the combinations that no
    other beats in both.

    \b
    Examples:
      crossbar-sim tradeoff model.pt --preset isaac --vary adc_bits=4:8 --vary tile=64x64,128x128 --plot front.pdf
      crossbar-sim tradeoff model.pt --sigma 0.3 --dac-bits 8 --adc-bits 8 --vary levels=4,16,none --results t.db
    """
    from crossbar_sim.report.console import progress, say, say_end, terminal
    from crossbar_sim.report.figure_formats import check_format
    from crossbar_sim.report.rows import TradeOffView
    from crossbar_sim.report.tables import trade_off_csv
    from crossbar_sim.report.terminal import show_trade_off
    from crossbar_sim.robustness.tasks import model_of_file
    from crossbar_sim.robustness.tradeoff import Choice, candidates, trade_off
    from crossbar_sim.store.results import MEMORY, Results

    hardware, warnings = request.hardware()
    found = candidates(hardware, [Choice.of(text) for text in request.vary])
    technology = request.chosen_technology(request.preset)
    if request.chips is not None and request.half_width is not None:
        raise InputError("--chips and --half-width exclude each other: give one of them")
    if request.results in ("", MEMORY):
        raise InputError(f"--results {request.results!r}: name a file; without it results are kept in memory")
    check_outputs(
        (request.json_path, request.csv, request.plot),
        (request.model, request.hardware_file, request.data, request.technology, request.results),
        stream=request.json_path,
    )
    if request.plot is not None:
        check_format(request.plot)
    loaded = request.read(request.model)
    request.set_threads()
    request.set_memory()
    examples = request.examples(loaded)
    ways = {"arch": request.arch, "arch_arguments": request.arch_arguments, "weights": request.weights}
    model = model_of_file(loaded.name, request.model, loaded, examples, ways)
    model = replace(model, about={**model.about, "loading": list(loaded.notes)})
    with Results.open(request.results or MEMORY) as file, progress(terminal(stderr=True)) as step:
        result = trade_off(
            loaded, model, found, technology, lambda design: request.calibrated(loaded, design)[0],
            only=request.only or None, skip=request.skip, results=file, progress=step,
            chips=request.chips, half_width=request.half_width, seed=request.seed, metric=request.metric,
            class_axis=request.class_axis,
        )  # fmt: skip
    view = TradeOffView(result, request.against)
    write_json(request.json_path, view.as_dict())
    if request.csv is not None:
        write_text(request.csv, trade_off_csv(view))
    if request.plot is not None:
        from crossbar_sim.report.tradeoff_figure import draw

        draw(view, request.plot)
    console = terminal(stderr=request.json_path == "-")
    show_trade_off(view, console)
    say(console, f"costs: {technology.title}; a first-order estimate (docs/cost.md)")
    say_end(console, (*warnings, *result.cautions), request.json_path, request.csv, request.plot)
