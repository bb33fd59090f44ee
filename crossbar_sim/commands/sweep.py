"""`crossbar-sim sweep`: models over sigmas and chips."""

from typing import Any

import click

from crossbar_sim.cli_options import (
    build_hardware,
    chip_numbers,
    hardware_options,
    model_options,
    model_ways,
    parsed_arch_arguments,
    read_model,
    shape,
    sigma_numbers,
    split_options,
)
from crossbar_sim.errors import InputError


@click.command(no_args_is_help=True)
@click.argument("models", nargs=-1, required=True)
@hardware_options(points="0:1.5:31")
@click.option(
    "--data", help="A data set's name or a path (see `data list`).  [default: that of the models' files]"
)
@click.option("--data-dir", type=click.Path(), help="Where data sets are.  [default: $CROSSBAR_SIM_DATA]")
@click.option("--images", type=int, help="Use only this many examples, drawn by the seed.")
@click.option("--input-shape", help="Without data: the shape of one random input, e.g. 3,32,32.")
@click.option("--chips", help="How many chips, or which: 50:100; not with --half-width.  [default: 20]")
@click.option(
    "--half-width", type=float,
    help="Instead of all images on --chips chips: spend until every mean is known to +- this (0.005: half a point).",
)  # fmt: skip
@click.option("--seed", default=0, show_default=True, help="Of all random numbers.")
@click.option(
    "--threshold", type=float,
    help="Also print yield, and the sigma where the mean falls below this (an output error: rises above it).",
)  # fmt: skip
@click.option(
    "--metric",
    type=click.Choice(["accuracy", "agreement", "output_error", "map", "map50"]),
    help="What chips are judged by; detectors by map or map50.  [default: the first that labels and outputs allow]",
)
@click.option(
    "--class-axis", type=int, help="Axis of the classes in the outputs, -1: the last.  [default: found]"
)
@click.option(
    "--only", multiple=True, help="Put only these layers on arrays (names or patterns, with commas)."
)
@click.option("--skip", multiple=True, help="Leave these layers digital (names or patterns, with commas).")
@click.option(
    "--calibration-data", help="Data that converter ranges are chosen on.  [default: --data's training split]"
)
@click.option(
    "--results", type=click.Path(),
    help="Keep every block of chips in this file (SQLite); run again to go on, or to add models, sigmas, chips.",
)  # fmt: skip
@click.option("--workers", type=int, help="Processes on this machine (Dask) in place of threads.")
@click.option("--scheduler", help="A Dask cluster, e.g. tcp://head:8786.")
@click.option("--threads", type=int, help="Threads to use; results do not depend on it.")
@click.option(
    "--sensitivity-chips", type=int,
    help="Chips for per-layer sensitivity, kept with --results for the report; 0: none.  [default: 5]",
)  # fmt: skip
@click.option(
    "--json", "json_path", type=click.Path(), help="Write the summary as JSON (- for standard output)."
)
@click.option("--plot", type=click.Path(), help="Draw the curves: .png, .pdf or .svg.")
@click.option("--boxes", type=click.Path(), help="Of detectors: draw what chip 0 finds, over images.")
@model_options
def sweep(**options: Any) -> None:
    """Score MODELS on simulated chips over a range of sigmas.

    A model is given as a path, or as LABEL=PATH. --sigma takes first:last:points or a list.

    \b
    Examples:
      crossbar-sim sweep erm.pt bayesft.pt --data mnist --sigma 0:1.5:31 --chips 20 --results runs.db
      crossbar-sim sweep erm.pt --data mnist --sigma 0.6,1.2 --half-width 0.005
      crossbar-sim report runs.db -o report.html
    """
    from crossbar_sim.sweeping import run_sweep

    sigmas = sigma_numbers(options.pop("sigma"))
    design, rest = split_options(options)
    chips, sides = chip_numbers(rest.pop("chips")), shape(rest.pop("input_shape"))
    hardware, told = build_hardware(design)
    ways = model_ways(rest)
    named = [label_and_path(text) for text in rest.pop("models")]
    loaded = [(label, path, read_model(path, **ways)) for label, path in named]
    ways["arch_arguments"] = parsed_arch_arguments(ways["arch_arguments"])
    inputs = (*(path for _, path in named), design["hardware_file"], rest["data"])
    run_sweep(
        loaded,
        hardware,
        told,
        sigmas=sigmas,
        chips=chips,
        input_shape=sides,
        inputs=inputs,
        ways=ways,
        **rest,
    )


def label_and_path(text: str) -> tuple[str, str]:
    """`erm=runs/a.pt` as ("erm", "runs/a.pt"); a path alone is called by its name without the suffix.

    Raises:
        InputError: for an empty label, or no path after it.
    """
    import os

    label, equals, path = text.partition("=")
    if equals and not (label.strip() and path) and not os.path.exists(text):
        raise InputError(f"{text!r}: expected a path, or LABEL=PATH with both")
    if equals and label and path and os.sep not in label and not os.path.exists(text):
        return label, path
    return os.path.splitext(os.path.basename(text))[0] or text, text
