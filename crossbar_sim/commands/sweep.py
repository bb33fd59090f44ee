"""`crossbar-sim sweep`: models over sigmas and chips."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from crossbar_sim.commands.options import (
    PATH,
    DeviceOptions,
    ReadOptions,
    SigmasOptions,
    SweepOptions,
    argument,
    command,
    option,
    percentile_option,
)
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs, write_json
from crossbar_sim.report.figure_formats import check_format

if TYPE_CHECKING:
    from crossbar_sim.crossbar.layer_designs import Design
    from crossbar_sim.robustness.tasks import Model

SENSITIVITY_CHIPS = 5
"""Default number of chips for the per-layer sensitivity in a results file."""


@dataclass(frozen=True)
class SweepRequest(ReadOptions, SigmasOptions, SweepOptions, DeviceOptions):
    """What `sweep` is to do."""

    models: tuple[str, ...] = argument(nargs=-1, required=True)
    threshold: float | None = option(
        "Score that a chip needs to pass: also print the yield, and the sigma at which the mean falls below this "
        "score (an output error: rises above it).",
        heading="Statistics",
    )
    metric: str | None = option(
        "How chips are scored: accuracy, top5, f1, miou, perplexity, cross-entropy, rmse, mae, r2, agreement, "
        "output_error, map or map50 (detectors; docs/metrics.md), or a function of yours as package.module:function "
        "(docs/extending.md).  [default: the first of accuracy, agreement, output_error and map that labels and "
        "outputs allow; rmse for real targets]"
    )
    percentile: float | None = percentile_option()
    sensitivity_chips: int | None = option(
        "Number of chips on which the sensitivity to each layer is measured, for the report on --results; 0 turns "
        "this off.  [default: 5]",
        heading="Statistics",
    )
    plot: str | None = option(
        "Draw the curves in this file: .png, .pdf or .svg.", heading="Output", type=PATH
    )
    boxes: str | None = option(
        "For detectors: draw the boxes that chip 0 finds into images, in this file.",
        heading="Output",
        type=PATH,
    )


@command(SweepRequest)
def sweep(request: SweepRequest) -> None:
    """Evaluate models on simulated chips over a range of drift strengths, and compare them.

    Each of MODELS is a path, or LABEL=PATH. --sigma takes first:last:points or a list.

    \b
    Examples:
      crossbar-sim sweep erm.pt bayesft.pt --data mnist --sigma 0:1.5:31 --chips 20 --results runs.db
      crossbar-sim sweep erm.pt --data mnist --sigma 0.6,1.2 --half-width 0.005
      crossbar-sim report runs.db -o report.html
    """
    from crossbar_sim.report.console import progress, say, say_end, terminal
    from crossbar_sim.report.terminal import show_sweep
    from crossbar_sim.robustness.benchmark import robustness
    from crossbar_sim.robustness.metrics import described
    from crossbar_sim.store.results import MEMORY, Results

    hardware, warnings = request.hardware()
    device = request.chosen_device()
    models = _models(request, hardware)
    chips = request.sensitivity_chips
    console = terminal(stderr=request.json_path == "-")
    with Results.open(request.results or MEMORY) as file, progress(terminal(stderr=True)) as step:
        sweep = robustness(
            models, None, hardware, request.sigma,
            chips=request.chips, half_width=request.half_width, seed=request.seed, metric=request.metric,
            class_axis=request.class_axis, only=request.only or None, skip=request.skip, results=file,
            workers=request.processes(request.device), scheduler=request.scheduler, device=device, progress=step,
            sensitivity_chips=0 if request.results is None else SENSITIVITY_CHIPS if chips is None else chips,
        )  # fmt: skip
    threshold = request.threshold
    write_json(
        request.json_path,
        sweep.as_dict(
            None if threshold is None else described(sweep.metric).stored(threshold), request.percentile
        ),
    )
    if request.plot is not None:
        sweep.plot(request.plot)
    if request.boxes is not None:
        from crossbar_sim.report.detection_figure import draw_models

        draw_models(
            models, hardware, request.sigma, request.boxes,
            seed=request.seed, only=request.only or None, skip=request.skip,
        )  # fmt: skip
    show_sweep(sweep, console, threshold, percent=request.percentile)
    say_end(console, warnings, request.json_path, request.plot, request.boxes)
    if request.results is not None:
        say(
            console, f"results are in {request.results}: crossbar-sim report {request.results} -o report.html"
        )


def _models(request: SweepRequest, hardware: Design) -> list[Model]:
    """The models with their examples and converter ranges; all that can be refused before the sweep is."""
    from crossbar_sim.nn.detection import detects
    from crossbar_sim.report.rows import check_threshold
    from crossbar_sim.robustness.runner import naming
    from crossbar_sim.robustness.tasks import metric_of, model_of_file

    named = [label_and_path(text) for text in request.models]
    loaded = [(label, path, request.read(path)) for label, path in named]
    _check(request, tuple(path for _, path in named))
    if request.boxes is not None and not all(detects(model.module) for _, _, model in loaded):
        raise InputError("--boxes draws the boxes of detectors, and not all of these models are detectors")
    request.set_threads()
    request.set_memory()
    ways = {"arch": request.arch, "arch_arguments": request.arch_arguments, "weights": request.weights}
    models = []
    for label, path, model in loaded:
        with naming(label, len(loaded) > 1):
            examples = request.examples(model)
            design, sentences = request.calibrated(model, hardware, request.calibration_data)
            found = model_of_file(label, path, model, examples, ways)
            about = {**found.about, "loading": [*model.notes, *sentences]}
            correction = request.calibration(model)
            models.append(replace(found, ranges=design.ranges, about=about, calibration=correction))
            if request.threshold is not None:
                metric = metric_of(model.module, examples, request.metric, model.batch, request.class_axis)
                check_threshold(metric, request.threshold)
    return models


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
    if os.path.isdir(text):  # whose name may hold a dot, as in tiny-1.3b
        return os.path.basename(os.path.realpath(text)) or text, text
    return os.path.splitext(os.path.basename(text))[0] or text, text


def _check(request: SweepRequest, models: tuple[str, ...]) -> None:
    """Refuse what could not be written, and options that exclude each other or have no effect."""
    results, chips = request.results, request.sensitivity_chips
    check_outputs(
        (request.json_path, request.plot, request.boxes),
        (*models, request.hardware_file, request.data, results),
        stream=request.json_path,
    )
    request.check_budget()
    if request.percentile is not None and request.half_width is not None:
        raise InputError(
            "--percentile needs all images on every chip, and --half-width draws some: give --chips instead"
        )
    if chips is not None and chips < 0:
        raise InputError(f"--sensitivity-chips {chips}: expected 0 (none) or more")
    if chips and results is None:
        raise InputError(
            "--sensitivity-chips has no effect without --results, from which the report shows it: give --results (or "
            "use crossbar-sim sensitivity)"
        )
    check_format(request.plot)
    check_format(request.boxes)
