"""`crossbar-sim sweep`: models over sigmas and chips."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from crossbar_sim.commands.options import (
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
from crossbar_sim.files import check_outputs, write_json

if TYPE_CHECKING:
    from crossbar_sim.crossbar.hardware import Hardware
    from crossbar_sim.nn.files.loading import LoadedModel


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
    help="What chips are judged by; detectors by map or map50; or package.module:function.  "
    "[default: the first that labels and outputs allow]",
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

    label, equals, path = text.partition("=")
    if equals and not (label.strip() and path) and not os.path.exists(text):
        raise InputError(f"{text!r}: expected a path, or LABEL=PATH with both")
    if equals and label and path and os.sep not in label and not os.path.exists(text):
        return label, path
    return os.path.splitext(os.path.basename(text))[0] or text, text


SENSITIVITY_CHIPS = 5
"""Chips for per-layer sensitivity in a results file, unless told otherwise."""


def run_sweep(
    loaded: Sequence[tuple[str, str, LoadedModel]],
    hardware: Hardware,
    warnings: tuple[str, ...],
    *,
    sigmas: tuple[float, ...],
    chips: range | None,
    inputs: tuple[str | None, ...],
    ways: dict[str, Any],
    input_shape: tuple[int, ...] | None,
    data: str | None,
    data_dir: str | None,
    images: int | None,
    half_width: float | None,
    seed: int,
    threshold: float | None,
    metric: str | None,
    class_axis: int | None,
    calibration_data: str | None,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    results: str | None,
    workers: int | None,
    scheduler: str | None,
    threads: int | None,
    sensitivity_chips: int | None,
    json_path: str | None,
    plot: str | None,
    boxes: str | None,
) -> None:
    """Sweep, keep, print, and write what was asked for; see `crossbar-sim sweep --help`.

    Args:
        loaded: (label, path, model) of each.
        ways: how model files were read: part of the models' identity.

    Raises:
        InputError: for anything that cannot be used; outputs are checked before the long work.
    """
    from crossbar_sim.crossbar import threads as pool
    from crossbar_sim.nn.detection import detects
    from crossbar_sim.report.console import progress, say, terminal
    from crossbar_sim.report.rows import check_threshold
    from crossbar_sim.report.terminal import show_sweep
    from crossbar_sim.robustness.benchmark import robustness
    from crossbar_sim.robustness.cluster import check_cluster
    from crossbar_sim.robustness.examples import find_examples
    from crossbar_sim.robustness.metrics import sign_of
    from crossbar_sim.robustness.range_data import calibrated_for
    from crossbar_sim.robustness.runner import naming
    from crossbar_sim.robustness.tasks import metric_of, model_of_file
    from crossbar_sim.store.results import MEMORY, Results

    check_outputs((json_path, plot, boxes), (*inputs, results), stream=json_path)
    _check_requests(chips, half_width, results, sensitivity_chips, (plot, boxes))
    if boxes is not None and not all(detects(model.module) for _, _, model in loaded):
        raise InputError("--boxes draws what detectors find, and not all of these models are detectors")
    check_cluster(workers, scheduler)
    if threads is not None:
        pool.set_threads(threads)
    models = []
    for label, path, model in loaded:
        with naming(label, len(loaded) > 1):
            examples = find_examples(model, data, data_dir, images, input_shape, seed)
            design, told = calibrated_for(
                model, hardware,
                data=data, data_dir=data_dir, input_shape=input_shape, seed=seed, only=only, skip=skip,
                own=calibration_data,
            )  # fmt: skip
            found = model_of_file(label, path, model, examples, ways)
            about = {**found.about, "loading": [*model.notes, *told]}
            models.append(replace(found, ranges=design.ranges, about=about))
            if threshold is not None:
                check_threshold(metric_of(model.module, examples, metric, model.batch, class_axis), threshold)
    few = 0 if results is None else SENSITIVITY_CHIPS if sensitivity_chips is None else sensitivity_chips
    console = terminal(stderr=json_path == "-")
    with (
        Results.open(MEMORY if results is None else results) as file,
        progress(terminal(stderr=True)) as step,
    ):
        sweep = robustness(
            models, None, hardware, sigmas, chips=chips, half_width=half_width, seed=seed, metric=metric,
            only=only or None, skip=skip, results=file, workers=workers, scheduler=scheduler, sensitivity_chips=few,
            class_axis=class_axis, progress=step,
        )  # fmt: skip
    sign = sign_of(sweep.metric)
    write_json(json_path, sweep.as_dict(None if threshold is None else sign * threshold))
    if plot is not None:
        sweep.plot(plot)
    if boxes is not None:
        from crossbar_sim.report.detection_figure import draw_models

        draw_models(models, hardware, sigmas, boxes, seed=seed, only=only or None, skip=skip)
    show_sweep(sweep, console, threshold)
    for warning in warnings:
        say(console, f"warning: {warning}", "yellow")
    for written in (json_path, plot, boxes):
        if written is not None and written != "-":
            say(console, f"wrote {written}")
    if results is not None:
        say(console, f"results are in {results}: crossbar-sim report {results} -o report.html")


def _check_requests(
    chips: range | None,
    half_width: float | None,
    results: str | None,
    few: int | None,
    figures: tuple[str | None, ...],
) -> None:
    """Refuse, before any work, requests that exclude each other or could not act."""
    from crossbar_sim.store.results import MEMORY

    if chips is not None and half_width is not None:
        raise InputError(
            "--chips and --half-width are two budgets: give --chips (all images on these), or --half-width (as many "
            "chips and images as that takes)"
        )
    if results == "" or results == MEMORY:
        raise InputError(f"--results {results!r}: name a file; without --results they are kept in memory")
    if few is not None and few < 0:
        raise InputError(f"--sensitivity-chips {few}: expected 0 (none) or more")
    if few and results is None:
        raise InputError(
            "--sensitivity-chips measures for the results file, from which report shows it: give --results (or see "
            "crossbar-sim sensitivity)"
        )
    for plot in filter(None, figures):
        # matplotlib takes a while to import: only who wants a figure waits
        from crossbar_sim.report.figure import check_format

        check_format(plot)
