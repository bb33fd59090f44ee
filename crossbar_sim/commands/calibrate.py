"""`crossbar-sim calibrate`: converter ranges from data."""

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
@click.option("--data", help="A data set's name or a path (see `data list`).  [default: the model's own]")
@click.option("--data-dir", type=click.Path(), help="Where data sets are.  [default: $CROSSBAR_SIM_DATA]")
@click.option("--images", default=512, show_default=True, help="Training examples to use, drawn by the seed.")
@click.option("--input-shape", help="Without data: the shape of one random input, e.g. 3,32,32.")
@click.option("--chip", type=int, help="Calibrate on this chip rather than on the conductances aimed at.")
@click.option("--seed", default=0, show_default=True, help="Of all random numbers.")
@click.option("--only", multiple=True, help="Only these layers (name or pattern; repeatable).")
@click.option("--skip", multiple=True, help="Not these layers (name or pattern; repeatable).")
@click.option(
    "--json", "json_path", type=click.Path(), help="Write the report as JSON (- for standard output)."
)
@click.option("--threads", type=int, help="Threads to use; results do not depend on it.")
@click.option(
    "--output", "-o", type=click.Path(), required=True, help="Write the design here: .toml or .json."
)
@model_options
def calibrate(**options: Any) -> None:
    """Choose the ranges of MODEL's DACs and ADCs from data, and say how well they fit.

    Test examples are not read. Ranges are those of the design's converters with range "calibrated"; the file
    written is the design with them (docs/periphery.md).

    \b
    Examples:
      crossbar-sim calibrate model.pt --data mnist --hardware mine.toml -o mine-calibrated.toml
      crossbar-sim calibrate model.pt --adc-bits 6 --dac-bits 8 --dac-range calibrated -o design.toml
    """
    from crossbar_sim.calibrating import run_calibrate

    design, rest = split_options(options)
    sides = shape(rest.pop("input_shape"))
    hardware, told = build_hardware(design)
    path = rest.pop("model")
    loaded = read_model(path, **model_ways(rest))
    run_calibrate(
        loaded,
        hardware,
        told,
        inputs=(path, design["hardware_file"], rest["data"]),
        input_shape=sides,
        **rest,
    )
