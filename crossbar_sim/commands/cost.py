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
    command,
    option,
    shape,
)
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from crossbar_sim.crossbar import cost as costs


@dataclass(frozen=True)
class CostRequest(ModelOptions, HardwareOptions, LayerOptions, DataOptions, JsonOptions):
    """What `cost` is to do."""

    technology: str | None = option(
        "Source of the component figures: isaac or prime.  [default: that of the preset, else isaac]",
        heading="Hardware",
    )
    node_nm: float | None = option(
        "Process node of ADCs whose figures come from the ADC survey, in nm.", heading="Hardware"
    )
    cycle_ns: float | None = option("Time of one array read, in ns.  [default: 100]", heading="Hardware")
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
    chosen = _technology(request.technology, request.preset, request.node_nm, request.cycle_ns)
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


def _technology(
    name: str | None, preset: str | None, node_nm: float | None, cycle_ns: float | None
) -> costs.Technology:
    from crossbar_sim.crossbar import cost as costs

    known = costs.technology_names()
    chosen = costs.technology(name or (preset if preset in known else "isaac"))
    for flag, value, key, rule in (
        ("--node-nm", node_nm, "node", "5 .. 500 nm"),
        ("--cycle-ns", cycle_ns, "cycle", "0.1 .. 1e6 ns"),
    ):
        if value is None:
            continue
        low, high = (5, 500) if key == "node" else (0.1, 1e6)
        if not low <= value <= high:
            raise InputError(f"{flag} {value:g}: expected {rule}")
        chosen = chosen.replaced(key, value * 1e-9, f"given with {flag}")
    return chosen


def _show(estimate: costs.Estimate, console: Console) -> None:
    from rich.table import Table

    from crossbar_sim.crossbar.cost import ESTIMATE
    from crossbar_sim.report.console import say

    whole = estimate.total
    say(
        console,
        f"One inference takes about {_metric(whole.joules, 'J')} and {_metric(whole.latency, 's')} on "
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
            cost.name, f"{cost.work.arrays:,}", f"{cost.work.cycles:,}", _metric(cost.joules, "J"),
            _metric(cost.latency, "s"), f"{cost.square_metres * 1e6:.3g}", *shares,
        )  # fmt: skip
    console.print(table)
    for names, bits, (energy, area, _, source) in estimate.adcs:
        of = f" of {', '.join(names)}" if len(estimate.adcs) > 1 else ""
        say(
            console,
            f"ADC{of}: {bits} bits, {energy * 1e12:.3g} pJ a conversion, {area * 1e12:.0f} um2; {source}",
        )


def _metric(value: float, unit: str) -> str:
    """Three digits with a prefix."""
    for factor, prefix in ((1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"), (1e-12, "p")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"
