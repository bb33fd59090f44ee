"""`crossbar-sim sensitivity`: what each layer costs when it alone is on its arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from crossbar_sim.commands.options import (
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
from crossbar_sim.files import check_outputs, write_json

if TYPE_CHECKING:
    from crossbar_sim.crossbar.hardware import Hardware
    from crossbar_sim.nn.files.loading import LoadedModel


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
    help="What chips are judged by, or package.module:function.  [default: the first that labels and outputs allow]",
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


def run_sensitivity(
    loaded: LoadedModel,
    hardware: Hardware,
    warnings: tuple[str, ...],
    *,
    sigmas: tuple[float, ...],
    chips: range | None,
    inputs: tuple[str | None, ...],
    input_shape: tuple[int, ...] | None,
    data: str | None,
    data_dir: str | None,
    images: int | None,
    seed: int,
    metric: str | None,
    class_axis: int | None,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    threads: int | None,
    json_path: str | None,
) -> None:
    """Measure and print what each layer costs alone; see `crossbar-sim sensitivity --help`."""
    from crossbar_sim.crossbar import threads as pool
    from crossbar_sim.report.console import progress, say, terminal
    from crossbar_sim.report.terminal import show_notes, show_sensitivity
    from crossbar_sim.robustness.examples import find_examples
    from crossbar_sim.robustness.plans import EveryImage
    from crossbar_sim.robustness.range_data import calibrated_for
    from crossbar_sim.robustness.sensitivity import sensitivity
    from crossbar_sim.robustness.tasks import Model, prepare

    check_outputs((json_path,), inputs, stream=json_path)
    if threads is not None:
        pool.set_threads(threads)
    examples = find_examples(loaded, data, data_dir, images, input_shape, seed)
    hardware, told = calibrated_for(
        loaded, hardware,
        data=data, data_dir=data_dir, input_shape=input_shape, seed=seed, only=only, skip=skip,
    )  # fmt: skip
    about = {"loading": [*loaded.notes, *told]}
    model = Model(loaded.name, loaded.module, examples, {"sha256": loaded.sha256}, loaded.batch, about)
    numbers = range(20) if chips is None else chips
    plan = EveryImage(tuple(numbers))
    task, subject = prepare(
        model, hardware, seed, metric, only or None, skip, plan.images, max(sigmas), class_axis
    )
    console = terminal(stderr=json_path == "-")
    with progress(terminal(stderr=True)) as step:
        drops = sensitivity(subject, sigmas, numbers, step)
    report = {
        "metric": subject.metric,
        "clean": task.clean,
        "identity": task.identity,
        "chips": list(numbers),
        "layers": [drop.as_dict() for drop in drops],
    }
    write_json(json_path, report)
    show_sensitivity(drops, subject.metric, task.clean, len(examples.x), console)
    show_notes({task.label: task}, console)
    for warning in warnings:
        say(console, f"warning: {warning}", "yellow")
    if json_path is not None and json_path != "-":
        say(console, f"wrote {json_path}")
