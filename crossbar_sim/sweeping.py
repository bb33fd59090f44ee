"""What the commands sweep, sensitivity and run do, between options and printing."""

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from crossbar_sim.calibrating import calibrated_for
from crossbar_sim.crossbar import threads as pool
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs, write_json
from crossbar_sim.nn.detection_task import detects
from crossbar_sim.nn.loading import LoadedModel
from crossbar_sim.robustness.benchmark import robustness
from crossbar_sim.robustness.cluster import check_cluster
from crossbar_sim.robustness.examples import find_examples
from crossbar_sim.robustness.page.numbers import check_threshold
from crossbar_sim.robustness.plans import EveryImage
from crossbar_sim.robustness.runner import naming
from crossbar_sim.robustness.sensitivity import sensitivity
from crossbar_sim.robustness.subjects import Model, metric_of, model_of_file, prepare
from crossbar_sim.robustness.sweep_view import show_notes, show_sensitivity, show_sweep
from crossbar_sim.robustness.view import progress
from crossbar_sim.robustness.wording import MEASURES, say, terminal
from crossbar_sim.store.results import MEMORY, Results

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
    sign = MEASURES[sweep.metric].sign
    write_json(json_path, sweep.as_dict(None if threshold is None else sign * threshold))
    if plot is not None:
        sweep.plot(plot)
    if boxes is not None:
        from crossbar_sim.robustness.detection_figure import draw_models

        draw_models(models, hardware, sigmas, boxes, seed=seed, only=only or None, skip=skip)
    show_sweep(sweep, console, threshold)
    for warning in warnings:
        say(console, f"warning: {warning}", "yellow")
    for written in (json_path, plot, boxes):
        if written is not None and written != "-":
            say(console, f"wrote {written}")
    if results is not None:
        say(console, f"results are in {results}: crossbar-sim report {results} -o report.html")


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


def _check_requests(
    chips: range | None,
    half_width: float | None,
    results: str | None,
    few: int | None,
    figures: tuple[str | None, ...],
) -> None:
    """Refuse, before any work, requests that exclude each other or could not act."""
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
        from crossbar_sim.robustness.figure import METADATA

        if os.path.splitext(plot)[1].lower() not in METADATA:
            raise InputError(f"{plot}: a figure is written as {', '.join(METADATA)}, chosen by the suffix")
