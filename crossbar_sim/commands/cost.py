"""`crossbar-sim cost`: energy, latency and area of a network on a design, to first order."""

from typing import Any

import click

from crossbar_sim.cli_options import (
    build_hardware,
    hardware_options,
    model_options,
    model_ways,
    read_model,
    shape,
    split_options,
)


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
    from crossbar_sim.costing import run_cost

    design, rest = split_options(options)
    sides = shape(rest.pop("input_shape"))
    hardware, told = build_hardware(design)
    path = rest.pop("model")
    loaded = read_model(path, **model_ways(rest))
    inputs = (path, design["hardware_file"], rest["data"])
    run_cost(loaded, hardware, told, preset=design["preset"], input_shape=sides, inputs=inputs, **rest)
