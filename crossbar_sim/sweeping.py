"""What the commands sweep, sensitivity and run do, between options and printing."""

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from crossbar_sim.crossbar import threads as pool
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.files import check_outputs, write_text
from crossbar_sim.nn.loading import LoadedModel
from crossbar_sim.robustness.benchmark import robustness
from crossbar_sim.robustness.examples import find_examples
from crossbar_sim.robustness.plans import EveryImage
from crossbar_sim.robustness.sensitivity import sensitivity
from crossbar_sim.robustness.subjects import Model, model_of_file, prepare
from crossbar_sim.robustness.sweep_view import show_sensitivity, show_sweep
from crossbar_sim.robustness.view import progress
from crossbar_sim.robustness.wording import say
from crossbar_sim.store.results import Results


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
    only: tuple[str, ...],
    skip: tuple[str, ...],
    results: str | None,
    workers: int | None,
    scheduler: str | None,
    threads: int | None,
    sensitivity_chips: int,
    json_path: str | None,
    plot: str | None,
) -> None:
    """Sweep, keep, print, and write what was asked for; see `crossbar-sim sweep --help`.

    Args:
        loaded: (label, path, model) of each.
        ways: how model files were read: part of the models' identity.

    Raises:
        InputError: for anything that cannot be used; outputs are checked before the long work.
    """
    check_outputs((json_path, plot), (*inputs, results), stream=json_path)
    if threads is not None:
        pool.set_threads(threads)
    models = [
        model_of_file(
            label, path, model, find_examples(model, data, data_dir, images, input_shape, seed), ways
        )
        for label, path, model in loaded
    ]
    console = Console(stderr=json_path == "-", highlight=False)
    with Results.open(results or ":memory:") as file, progress(Console(stderr=True)) as step:
        sweep = robustness(
            models, None, hardware, sigmas, chips=20 if chips is None else chips, half_width=half_width,
            seed=seed, metric=metric, only=only or None, skip=skip, results=file, workers=workers,
            scheduler=scheduler, sensitivity_chips=sensitivity_chips, progress=step,
        )  # fmt: skip
    _write_json(json_path, sweep.as_dict(threshold))
    if plot is not None:
        sweep.plot(plot)
    show_sweep(sweep, console, threshold)
    for warning in warnings:
        say(console, f"warning: {warning}", "yellow")
    for written in (json_path, plot):
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
    model = Model(loaded.name, loaded.module, examples, {"sha256": loaded.sha256}, loaded.batch)
    numbers = range(20) if chips is None else chips
    plan = EveryImage(tuple(numbers))
    task, subject = prepare(model, hardware, seed, metric, only or None, skip, plan.images)
    console = Console(stderr=json_path == "-", highlight=False)
    with progress(Console(stderr=True)) as step:
        drops = sensitivity(subject, sigmas, numbers, step)
    report = {
        "metric": subject.metric,
        "clean": task.clean,
        "identity": task.identity,
        "chips": list(numbers),
        "layers": [drop.as_dict() for drop in drops],
    }
    _write_json(json_path, report)
    show_sensitivity(drops, subject.metric, task.clean, len(examples.x), console)
    for warning in warnings:
        say(console, f"warning: {warning}", "yellow")
    if json_path is not None and json_path != "-":
        say(console, f"wrote {json_path}")


def _write_json(path: str | None, report: dict[str, Any]) -> None:
    if path is None:
        return
    text = json.dumps(report, indent=2, allow_nan=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
        sys.stdout.flush()  # a full disk is seen here, not when Python ends
    else:
        write_text(path, text)
