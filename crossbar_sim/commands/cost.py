"""`crossbar-sim cost`: energy, latency and area of a network on a design, to first order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from crossbar_sim.commands.options import (
    build_hardware,
    hardware_options,
    model_options,
    model_ways,
    read_model,
    shape,
    split_options,
)
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from crossbar_sim.crossbar import cost as costs
    from crossbar_sim.crossbar.hardware import Hardware
    from crossbar_sim.nn.files.loading import LoadedModel


@click.command(no_args_is_help=True)
@click.argument("model", type=click.Path())
@hardware_options()
@click.option(
    "--technology",
    help="Whose components: isaac or prime.  [default: the preset's, else isaac]",
)
@click.option("--node-nm", type=float, help="Process of converters that are taken from the survey, in nm.")
@click.option("--cycle-ns", type=float, help="Time of one read of an array, in ns.  [default: 100]")
@click.option("--data", help="A data set's name or a path (see `data list`), for the input's shape.")
@click.option("--data-dir", type=click.Path(), help="Where data sets are.  [default: $CROSSBAR_SIM_DATA]")
@click.option("--input-shape", help="The shape of one input, e.g. 3,32,32.  [default: the model's own]")
@click.option("--only", multiple=True, help="Only these layers (name or pattern; repeatable).")
@click.option("--skip", multiple=True, help="Not these layers (name or pattern; repeatable).")
@click.option(
    "--json", "json_path", type=click.Path(), help="Write the estimate as JSON (- for standard output)."
)
@model_options
def cost(**options: Any) -> None:
    """Estimate what one inference of MODEL costs: energy, latency, area, and the converters' share.

    To first order, from counts of reads and published components, each with its source (docs/cost.md).

    \b
    Examples:
      crossbar-sim cost model.pt --preset isaac
      crossbar-sim cost model.pt --adc-bits 6 --dac-bits 8 --tile 64x64 --json cost.json
    """

    design, rest = split_options(options)
    sides = shape(rest.pop("input_shape"))
    hardware, told = build_hardware(design)
    path = rest.pop("model")
    loaded = read_model(path, **model_ways(rest))
    inputs = (path, design["hardware_file"], rest["data"])
    run_cost(loaded, hardware, told, preset=design["preset"], input_shape=sides, inputs=inputs, **rest)


ESTIMATE = (
    "An estimate to first order, from published components and counts: good for comparing designs, to a factor "
    "of two or so, not for signing one off."
)


def run_cost(
    loaded: LoadedModel,
    hardware: Hardware,
    warnings: tuple[str, ...],
    *,
    preset: str | None,
    technology: str | None,
    node_nm: float | None,
    cycle_ns: float | None,
    inputs: tuple[str | None, ...],
    data: str | None,
    data_dir: str | None,
    input_shape: tuple[int, ...] | None,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    json_path: str | None,
) -> None:
    """Count, estimate, print, and write what was asked for; see `crossbar-sim cost --help`.

    Raises:
        InputError: for anything that cannot be used; outputs are checked before the work.
    """
    from crossbar_sim.crossbar import cost as costs
    from crossbar_sim.report.console import say, terminal
    from crossbar_sim.robustness.array_work import count

    check_outputs((json_path,), inputs, stream=json_path)
    chosen = _technology(technology, preset, node_nm, cycle_ns)
    works, notes = count(loaded, hardware, data, data_dir, input_shape, only, skip)
    each = [costs.cost_of(work, hardware, chosen) for work in works]
    whole = costs.total(each)
    converters = costs.Converters.of(hardware)
    energy, area, rate, source = costs.adc_of(converters, hardware.tile[1], chosen)
    notes += converters.notes
    report = {
        "note": ESTIMATE,
        "technology": {"name": chosen.name, "title": chosen.title},
        "total": whole.as_dict(),
        "layers": [cost.as_dict() for cost in each],
        "adc": {
            "bits": converters.adc_bits, "energy_J": energy, "area_m2": area, "rate_per_s": rate, "source": source
        },
        "constants": [
            {"name": c.name, "value": c.value, "unit": c.unit, "source": c.source} for c in chosen.constants
        ],
        "notes": list(notes),
        "warnings": list(warnings),
    }  # fmt: skip
    write_json(json_path, report)
    console = terminal(stderr=json_path == "-")
    _show(each, whole, console)
    say(
        console,
        f"ADC: {converters.adc_bits} bits, {energy * 1e12:.3g} pJ a conversion, {area * 1e12:.0f} um2; {source}",
    )
    for constant in chosen.constants:
        if not constant.name.startswith("adc_"):
            say(
                console, f"  {constant.name:<18} {constant.value:>10.4g} {constant.unit:<5} {constant.source}"
            )
    for note in notes:
        say(console, f"note: {note}")
    for warning in warnings:
        say(console, f"warning: {warning}", "yellow")
    if json_path is not None and json_path != "-":
        say(console, f"wrote {json_path}")


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


def _show(each: list[costs.Cost], whole: costs.Cost, console: Console) -> None:
    from rich.table import Table

    from crossbar_sim.report.console import say

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
    for cost in (*each, whole):
        shares = [f"{cost.energy[part] / cost.joules:.0%}" if cost.joules else "" for part in ("adc", "dac")]
        table.add_row(
            cost.name, f"{cost.work.arrays:,}", f"{cost.work.cycles:,}", _metric(cost.joules, "J"),
            _metric(cost.latency, "s"), f"{cost.square_metres * 1e6:.3g}", *shares,
        )  # fmt: skip
    console.print(table)


def _metric(value: float, unit: str) -> str:
    """Three digits with a prefix."""
    for factor, prefix in ((1.0, ""), (1e-3, "m"), (1e-6, "u"), (1e-9, "n"), (1e-12, "p")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"
