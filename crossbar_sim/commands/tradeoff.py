"""`crossbar-sim tradeoff`: score against energy, latency and area over the parameters of a design."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from crossbar_sim.commands.options import (
    PATH,
    DeviceOptions,
    HardwareOptions,
    ModelOptions,
    SweepOptions,
    TechnologyOptions,
    command,
    option,
    percentile_option,
)
from crossbar_sim.files import check_outputs, write_json, write_text

if TYPE_CHECKING:
    from crossbar_sim.crossbar.layer_designs import Design


@dataclass(frozen=True)
class TradeoffRequest(ModelOptions, HardwareOptions, TechnologyOptions, SweepOptions, DeviceOptions):
    """What `tradeoff` is to do."""

    vary: tuple[str, ...] = option(
        "A parameter of the design and its values: adc_bits=4:8, sigma=0:0.4:5, tile=64x64,128x128 (may be repeated: "
        "every combination is evaluated).",
        heading="Hardware",
    )
    percentile: float | None = percentile_option()
    against: Literal["energy", "latency", "area"] = option(
        "Cost that the front and the figure are of.", heading="Output", default="energy"
    )
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
    from crossbar_sim.nn.analog.range_calibration import needs_calibration
    from crossbar_sim.report.console import progress, say_end, terminal
    from crossbar_sim.report.figure_formats import check_format
    from crossbar_sim.report.tables import trade_off_csv
    from crossbar_sim.report.terminal import show_trade_off
    from crossbar_sim.report.tradeoff_rows import TradeOffView
    from crossbar_sim.robustness.benchmark import plan_from
    from crossbar_sim.robustness.tasks import model_of_file
    from crossbar_sim.robustness.tradeoff import Choice, candidates, measure_candidates
    from crossbar_sim.store.results import MEMORY, Results

    hardware, warnings = request.hardware()
    found = candidates(hardware, [Choice.of(text) for text in request.vary])
    technology = request.chosen_technology(request.preset)
    request.check_budget()
    device = request.chosen_device()
    check_outputs(
        (request.json_path, request.csv, request.plot),
        (request.model, request.hardware_file, request.data, request.technology, request.results),
        stream=request.json_path,
    )
    check_format(request.plot)
    loaded = request.read(request.model)
    request.set_threads()
    request.set_memory()
    examples = request.examples(loaded)
    own = request.calibration_data
    if own is not None and not any(
        needs_calibration(each.design) for each in found if each.design is not None
    ):
        request.calibrated(loaded, hardware, own)  # refuses it
    ways = {"arch": request.arch, "arch_arguments": request.arch_arguments, "weights": request.weights}
    model = model_of_file(loaded.name, request.model, loaded, examples, ways)
    about = {**model.about, "loading": list(loaded.notes)}
    model = replace(model, about=about, calibration=request.calibration(loaded))

    def ranged(design: Design) -> Design:
        return request.calibrated(loaded, design, own if needs_calibration(design) else None)[0]

    with Results.open(request.results or MEMORY) as file, progress(terminal(stderr=True)) as step:
        result = measure_candidates(
            loaded, model, found, technology, ranged,
            against=request.against, plan=plan_from(request.chips, request.half_width, None), seed=request.seed,
            metric=request.metric, only=request.only or None, skip=request.skip, axis=request.class_axis,
            results=file, workers=request.processes(request.device), scheduler=request.scheduler, device=device,
            progress=step,
        )  # fmt: skip
    view = TradeOffView(result, request.percentile)
    write_json(request.json_path, view.as_dict())
    if request.csv is not None:
        write_text(request.csv, trade_off_csv(view))
    if request.plot is not None:
        result.plot(request.plot)
    console = terminal(stderr=request.json_path == "-")
    show_trade_off(result, console, request.percentile)
    say_end(console, warnings, request.json_path, request.csv, request.plot)
