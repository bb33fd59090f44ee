"""`crossbar-sim cost`: energy, latency and area of a network on a design, to first order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crossbar_sim.commands.options import (
    DataOptions,
    HardwareOptions,
    JsonOptions,
    LayerOptions,
    ModelOptions,
    Parsed,
    TechnologyOptions,
    command,
    option,
    shape,
)
from crossbar_sim.files import check_outputs, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from crossbar_sim.crossbar import cost as costs


@dataclass(frozen=True)
class CostRequest(ModelOptions, HardwareOptions, TechnologyOptions, LayerOptions, DataOptions, JsonOptions):
    """What `cost` is to do."""

    data: str | None = option(
        "Name or path of a data set (see `crossbar-sim data list`), for the shape of the inputs."
    )
    input_shape: tuple[int, ...] | None = option(
        "Shape of one input, e.g. 3,32,32.  [default: the one stored in the model file]",
        type=Parsed(shape, "SHAPE"),
    )


@command(CostRequest)
def cost(request: CostRequest) -> None:
    """Estimate the energy, latency and chip area that one inference of a model takes.

    This is a first-order estimate: the number of array reads of MODEL times published component figures, each with its
    source (docs/cost.md).

    \b
    Examples:
      crossbar-sim cost model.pt --preset isaac
      crossbar-sim cost model.pt --adc-bits 6 --dac-bits 8 --tile 64x64 --json cost.json
    """
    from crossbar_sim.crossbar import cost as costs
    from crossbar_sim.report.console import say, say_end, terminal
    from crossbar_sim.robustness.array_work import count

    hardware, warnings = request.hardware()
    loaded = request.read(request.model)
    inputs = (request.model, request.hardware_file, request.data)
    check_outputs((request.json_path,), inputs, stream=request.json_path)
    chosen = request.chosen_technology(request.preset)
    works, notes = count(
        loaded, hardware, request.data, request.data_dir, request.input_shape, request.only, request.skip
    )
    estimate = costs.Estimate.of(works, chosen, notes)
    write_json(request.json_path, estimate.as_dict() | {"warnings": list(warnings)})
    console = terminal(stderr=request.json_path == "-")
    _show(estimate, console)
    for constant in chosen.constants:
        if not constant.name.startswith("adc_"):
            say(
                console, f"  {constant.name:<18} {constant.value:>10.4g} {constant.unit:<5} {constant.source}"
            )
    for note in estimate.notes:
        say(console, f"note: {note}")
    say_end(console, warnings, request.json_path)


def _show(estimate: costs.Estimate, console: Console) -> None:
    from rich.table import Table

    from crossbar_sim.crossbar.cost import ESTIMATE
    from crossbar_sim.report.console import say
    from crossbar_sim.report.formatting import metric_prefix

    whole = estimate.total
    say(
        console,
        f"One inference takes about {metric_prefix(whole.joules, 'J')} and {metric_prefix(whole.latency, 's')} on "
        f"{whole.work.arrays} arrays of {whole.square_metres * 1e6:.3g} mm2; converters take "
        f"{whole.converter_share:.0%} of the energy.",
    )
    say(console, ESTIMATE)
    table = Table(box=None, pad_edge=False)
    for column in ("layer", "arrays", "cycles", "energy", "latency", "area mm2", "ADC", "DAC"):
        table.add_column(column, justify="left" if column == "layer" else "right", overflow="fold")
    for cost in (*estimate.layers, whole):
        shares = [f"{cost.energy[part] / cost.joules:.0%}" if cost.joules else "" for part in ("adc", "dac")]
        table.add_row(
            cost.name, f"{cost.work.arrays:,}", f"{cost.work.cycles:,}", metric_prefix(cost.joules, "J"),
            metric_prefix(cost.latency, "s"), f"{cost.square_metres * 1e6:.3g}", *shares,
        )  # fmt: skip
    console.print(table)
    for names, bits, (energy, area, _, source) in estimate.adcs:
        of = f" of {', '.join(names)}" if len(estimate.adcs) > 1 else ""
        say(
            console,
            f"ADC{of}: {bits} bits, {energy * 1e12:.3g} pJ a conversion, {area * 1e12:.0f} um2; {source}",
        )
