"""`crossbar-sim sensitivity`: what each layer costs when it alone is on its arrays."""

from typing import Any

import click

from crossbar_sim.cli_options import (
    build_hardware,
    chip_numbers,
    hardware_options,
    model_options,
    model_ways,
    read_model,
    shape,
    sigma_numbers,
    split_options,
)


@click.command(no_args_is_help=True)
@click.argument("model", type=click.Path())
@hardware_options(points="0.6")
@click.option("--data", help="A data set's name or a path (see `data list`).  [default: the model's own]")
@click.option("--data-dir", type=click.Path(), help="Where data sets are.  [default: $CROSSBAR_SIM_DATA]")
@click.option("--images", type=int, help="Use only this many examples, drawn by the seed.")
@click.option("--input-shape", help="Without data: the shape of one random input, e.g. 3,32,32.")
@click.option("--chips", help="How many chips, or which: 50:100.  [default: 20]")
@click.option("--seed", default=0, show_default=True, help="Of all random numbers.")
@click.option(
    "--metric",
    type=click.Choice(["accuracy", "agreement", "output_error"]),
    help="What chips are judged by.  [default: the first that labels and outputs allow]",
)
@click.option(
    "--class-axis", type=int, help="Axis of the classes in the outputs, -1: the last.  [default: found]"
)
@click.option("--only", multiple=True, help="Only these layers (name or pattern; repeatable).")
@click.option("--skip", multiple=True, help="Not these layers (name or pattern; repeatable).")
@click.option("--threads", type=int, help="Threads to use; results do not depend on it.")
@click.option(
    "--json", "json_path", type=click.Path(), help="Write the drops as JSON (- for standard output)."
)
@model_options
def sensitivity(**options: Any) -> None:
    """Say what each layer of MODEL costs when it alone is on its arrays.

    \b
    Examples:
      crossbar-sim sensitivity model.pt --sigma 0.6
      crossbar-sim sensitivity model.pt --data mnist --sigma 0.3,0.6,0.9 --chips 50 --json drops.json
    """
    from crossbar_sim.sweeping import run_sensitivity

    sigmas = sigma_numbers(options.pop("sigma"))
    design, rest = split_options(options)
    chips, sides = chip_numbers(rest.pop("chips")), shape(rest.pop("input_shape"))
    hardware, told = build_hardware(design)
    path = rest.pop("model")
    loaded = read_model(path, **model_ways(rest))
    inputs = (path, design["hardware_file"], rest["data"])
    run_sensitivity(
        loaded, hardware, told, sigmas=sigmas, chips=chips, input_shape=sides, inputs=inputs, **rest
    )
