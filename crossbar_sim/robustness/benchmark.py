"""`robustness`: models x sigmas x chips, in one call."""

import functools
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor, nn

import crossbar_sim
from crossbar_sim import __version__
from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.layer_designs import Design, as_design, at_sigma
from crossbar_sim.data.load import FORMS, to_examples
from crossbar_sim.errors import InputError, silenced_warnings, warn
from crossbar_sim.nn.analog import chips as analog_chips
from crossbar_sim.nn.analog.conversion import patterns
from crossbar_sim.nn.device import Device, on_device
from crossbar_sim.robustness import sensitivity
from crossbar_sim.robustness.calibration import Calibration, calibration_of
from crossbar_sim.robustness.cluster import check_cluster, cluster, leave_if_importing
from crossbar_sim.robustness.evaluator import Subject, layers_on_arrays
from crossbar_sim.robustness.examples import Examples
from crossbar_sim.robustness.metrics import find_metric
from crossbar_sim.robustness.plans import PROTOCOL, EveryImage, HalfWidth, Plan, chip_numbers
from crossbar_sim.robustness.runner import Executor, InProcess, Progress, naming, run_plan
from crossbar_sim.robustness.sweep import Sweep, warnings_of
from crossbar_sim.robustness.tasks import Model, fingerprint, prepare
from crossbar_sim.store.records import Task
from crossbar_sim.store.results import MEMORY, Results
from crossbar_sim.validate import as_typed

# The arguments of `robustness`: checked, and converted to one form.


CHIPS = 20
"""The number of chips of the protocol."""


def plan_from(
    chips: SupportsIndex | Iterable[SupportsIndex] | None, half_width: float | None, plan: Plan | None
) -> Plan:
    """The plan from the three arguments that describe one.

    Raises:
        InputError: if two are given, or chips are not integers.
    """
    given = {"chips": chips, "half_width": half_width, "plan": plan}
    two = [name for name, value in given.items() if value is not None]
    if len(two) > 1:
        raise InputError(
            f"{' and '.join(two)} are two budgets: give chips (all images on these), or half_width (as many chips and "
            "images as that takes)"
        )
    if plan is not None:
        return plan
    if half_width is not None:
        return HalfWidth(half_width)
    chips = CHIPS if chips is None else chips
    return EveryImage(chip_numbers(chips))


def check_sensitivity_chips(chips: SupportsIndex) -> int:
    """How many chips per-layer sensitivity is measured on.

    Raises:
        InputError: if that is not an integer >= 0.
    """
    try:
        few = operator.index(chips)
    except TypeError:
        few = -1
    if few < 0:
        raise InputError(f"sensitivity_chips={chips!r}: expected 0 (none) or more chips")
    return few


def models_from(
    models: Mapping[str, nn.Module] | Iterable[Model] | nn.Module,
    data: Any,
) -> list[Model]:
    """The models to be evaluated, with their examples.

    Raises:
        InputError: if the models or the data have none of the types that `robustness` accepts.
    """
    if not isinstance(models, Mapping):
        if isinstance(models, nn.Module):
            return models_from({type(models).__name__: models}, data)
        if isinstance(models, str | type) or not isinstance(models, Iterable):
            raise InputError('models: expected label -> module, such as {"erm": network}')
        listed = list(models)
        if not all(isinstance(model, Model) for model in listed):
            raise InputError('models without labels: expected label -> module, such as {"erm": network}')
        return listed
    for label, module in models.items():
        if not isinstance(module, nn.Module):
            kind = f"the class {module.__name__}" if isinstance(module, type) else type(module).__name__
            raise InputError(f"models: {label!r} is {kind}, expected a torch.nn.Module (an instance)")
    if data is None:
        raise InputError(f"data is missing: give {FORMS}")
    examples = to_examples(data)
    known = examples.identity()
    return [
        Model(
            str(label), module, Examples(examples.x, examples.y, known, examples.notes),
            {"fingerprint": fingerprint(module)},
            about={"version": __version__, "torch": torch.__version__},
        )
        for label, module in models.items()
    ]  # fmt: skip


# What the conductances of a model look like on one chip, before and after drift.


BINS = 60

WINDOW = 1.5
"""Bins reach from 0 to this many g_max; the last one holds everything above."""


def conductance_histograms(analog: nn.Module) -> list[dict[str, Any]]:
    """One histogram per matrix on arrays, of the chip that the model is programmed to.

    Cells that are meant to be at g_min (one of each pair) would hide the others and are only counted.

    Returns:
        For each matrix: name, edges (BINS + 1, S), target and drifted (BINS counts of cells), idle (cells at g_min).
    """
    design = analog_chips.analog_state(analog)
    found = []
    for slot, module in analog_chips.slots(analog):
        if slot.ideal or slot.layout.order == "vector":
            continue
        hardware, mapping = design.of(slot.layer), design.of(slot.layer).mapping
        edges = np.linspace(0.0, WINDOW * mapping.g_max, BINS + 1)
        columns = slot.columns(module).detach().float().cpu().contiguous().numpy()
        scale, key = mapping.scale(columns), design.key(slot.name)
        counts, idle = np.zeros((2, BINS), np.int64), 0
        for plane in range(mapping.planes):
            for part in threads.chunks(columns.size):
                stages = hardware.stages(columns, scale, key, design.chip, plane, part)
                busy = stages.target > np.float32(mapping.g_min)
                idle += int(busy.size - np.count_nonzero(busy))
                for row, cells in zip(counts, (stages.target, stages.drifted), strict=True):
                    inside = np.minimum(cells[busy], edges[-1])
                    row += np.histogram(inside, edges)[0]
        found.append(
            {
                "name": slot.name,
                "edges": [float(edge) for edge in edges],
                "target": counts[0].tolist(),
                "drifted": counts[1].tolist(),
                "idle": idle,
            }
        )
    return found


def robustness(
    models: Mapping[str, nn.Module] | Iterable[Model] | nn.Module,
    data: Any = None,
    hardware: Design | str | os.PathLike[str] | Mapping[str, Any] | None = None,
    sigmas: Iterable[float] = PROTOCOL,
    *,
    chips: SupportsIndex | Iterable[SupportsIndex] | None = None,
    half_width: float | None = None,
    seed: int = 0,
    metric: str | Callable[[Tensor, Tensor], Any] | None = None,
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    results: Results | str | os.PathLike[str] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    plan: Plan | None = None,
    sensitivity_chips: int = 0,
    class_axis: int | None = None,
    calibrate: str | Calibration | None = None,
    calibration_data: Any = None,
    device: str | torch.device | Device | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """Score models over sigmas and chips.

    Chip i draws the same random numbers for every model and sigma, whatever else is swept with them: a number does
    not depend on threads, workers, order, or on what the results file held before.

    Args:
        models: label -> trained module, left in evaluation mode; or `Model`s with examples of their own.
        data: what they are tried on: a split, data whose test split counts, (x, y), a torch Dataset or DataLoader, a
            dictionary with x and y, or a data set's name or path. Integers are given unchanged to models of tokens.
        hardware: the design, a preset's name or a hardware file; its drift law takes each sigma in turn (log-normal
            where it has none). None: the preset "bayesft".
        sigmas: the points of the curves, in what the drift law's sigma is measured in.
        chips: how many (0, 1, ...), or which: all images are scored on each of them. None: 20 where there is no
            half-width, which takes as many as it needs and excludes `chips`.
        half_width: instead of all images on given chips: sample chips and images until the 95 % interval of every
            mean reaches this far to either side (0.005: half a point), see docs/statistics.md.
        seed: of all chips.
        metric: "accuracy", "agreement" or "output_error"; or a function of outputs and targets, or its import path
            "package.module:function" (docs/extending.md). None: the first that labels and outputs allow.
        only, skip: see `to_analog`.
        results: an open results file or the path of one (made if it is not there), where each block of chips is kept
            and nothing that is there is measured again; None: in memory.
        workers, scheduler: Dask, with so many processes or at this address, instead of this process. A script that
            asks for workers needs `if __name__ == "__main__":`, because they import it.
        plan: a `Plan` instead of chips and half_width.
        sensitivity_chips: also measure, at the middle sigma, what each layer costs alone on so many chips, and
            take histograms of the conductances, for `Sweep.details`; 0: not.
        class_axis: of models' outputs (n, ...), where the classes lie, -1 for the last; None: found from labels,
            operations and shapes (docs/model.md), or refused.
        calibrate: a digital correction of each chip, such as "lora:rank=4" (docs/methods.md); None: none.
        calibration_data: what it is fitted to: `Development`, {"train": ..., "validation": ...}, or a data set's name
            or path; None: the training images of a data set that `data` names.
        device: where to compute: "cpu", "cuda", "cuda:1", "auto", ... (docs/gpu.md); None: where each model is.
        progress: called with (done, total, what); None: a line in notebooks, nothing elsewhere.

    Returns:
        The requested chips and sigmas only, where a results file holds more. Effects that were requested and
        do not act, and scores that say little, are in `about["warnings"]` of its tasks; they are issued as
        `CrossbarWarning`s.

    Raises:
        InputError: if models, data and design do not go together (naming the model, where there are several), the
            results file cannot be used, or workers and scheduler are lost.

    >>> from crossbar_sim.nn.networks import build
    >>> sweep = robustness({"mlp": build("mlp", inputs=64, hidden=(8,), classes=10)}, "digits", sigmas=[0.5], chips=3)
    >>> [len(point.values) for point in sweep.curve("mlp")]
    [3]
    """
    check_workers(workers, scheduler, metric)
    if device is not None:
        device = Device.of(device)
    progress = progress or crossbar_sim.notebook_progress()
    numbers = check_sigmas(sigmas)
    design = as_design(hardware)
    for sigma in numbers:
        at_sigma(design, sigma)  # an impossible one is refused before the work
    plan = plan_from(chips, half_width, plan)
    few = check_sensitivity_chips(sensitivity_chips)
    given = models_from(models, data)
    calibration = calibration_of(calibrate, calibration_data, data)
    if calibration is not None:
        given = [replace(model, calibration=calibration) for model in given]
    selected, left_out = None if only is None else patterns(only), patterns(skip)
    with opened(results) as file, executors(file, workers, scheduler, progress) as executor:
        return measured(
            given, design, numbers, plan, file, executor,
            seed=seed, metric=metric, only=selected, skip=left_out, axis=class_axis, few=few, device=device,
            progress=progress,
        )  # fmt: skip


def check_workers(
    workers: int | None, scheduler: str | None, metric: str | Callable[..., Any] | None
) -> None:
    """Refuse, before any work, workers that cannot be, or that could not import the metric.

    Raises:
        InputError: if there would be no worker, or the metric is a function that no other process finds.
    """
    check_cluster(workers, scheduler)
    if workers is not None:
        leave_if_importing()
    judge = None if metric is None else find_metric(metric)
    if judge is not None and (workers is not None or scheduler is not None):
        judge.check_importable()


@contextmanager
def opened(results: Results | str | os.PathLike[str] | None) -> Iterator[Results]:
    """An open results file as it is, the file at a path, or one in memory (None)."""
    if isinstance(results, Results):
        yield results
        return
    with Results.open(MEMORY if results is None else results) as file:
        yield file


@contextmanager
def executors(
    results: Results, workers: int | None, scheduler: str | None, progress: Progress | None
) -> Iterator[Callable[[], Executor]]:
    """What gives the executor: this process, or Dask workers, which are started when it is first called."""
    with ExitStack() as stack:

        @functools.cache
        def executor() -> Executor:
            if workers is None and scheduler is None:
                return InProcess(results)
            return stack.enter_context(cluster(workers, scheduler, progress))

        yield executor


def measured(
    models: Iterable[Model],
    design: Design,
    sigmas: tuple[float, ...],
    plan: Plan,
    results: Results,
    executor: Callable[[], Executor],
    *,
    seed: int,
    metric: str | Callable[[Tensor, Tensor], Any] | None,
    only: tuple[str, ...] | None,
    skip: tuple[str, ...],
    axis: int | None,
    few: int = 0,
    device: str | torch.device | Device | None = None,
    progress: Progress | None = None,
) -> Sweep:
    """The sweep of these models, with what is missing of it measured first; arguments as checked by `robustness`.

    Raises:
        InputError: as `robustness`.
    """
    given, tasks = list(models), []
    with on_device(device, *(model.module for model in given)) as where:
        for model in given:
            with (
                naming(model.label, len(given) > 1),
                silenced_warnings(),
            ):  # said below, with the model's name
                way = seed, metric, only, skip, plan.images, sigmas[-1], axis
                own = Device.of_model(model.module) if device is None else where
                tasks.append(prepare(model, design, *way, own))
        for task, _ in tasks:
            label = f"{task.label}: " if len(tasks) > 1 else ""
            warn(f"{label}{sentence}" for sentence in warnings_of(task))
        _check_distinct([task for task, _ in tasks])
        chosen = executor()
        with silenced_warnings():
            run_plan(tasks, sigmas, plan, results, chosen, progress)
        if few:
            for task, subject in tasks:
                with naming(task.label, len(tasks) > 1), silenced_warnings():
                    add_details(task, subject, results, sigmas, few, progress)
    return Sweep.read(results, {task.id: task.label for task, _ in tasks}, plan.chips, sigmas)


def check_sigmas(sigmas: Iterable[float]) -> tuple[float, ...]:
    """Sigmas in ascending order, each once, without what floats add to them (see `as_typed`).

    Raises:
        InputError: if there is none, one is given twice, or one is not a number.
    """
    try:
        numbers = sorted(as_typed(float(sigma)) for sigma in sigmas)
    except (TypeError, ValueError):
        raise InputError(f"sigmas={sigmas!r}: expected a list of numbers such as [0.0, 0.3, 0.6]") from None
    if not numbers or len(set(numbers)) != len(numbers):
        raise InputError(f"sigmas={numbers[:5]}: at least one sigma is needed, and none twice")
    return tuple(numbers)


def _check_distinct(tasks: list[Task]) -> None:
    """Refuse an empty list, and two models that are the same or are called the same."""
    if not tasks:
        raise InputError("there is no model to sweep: give at least one")
    by_id: dict[str, str] = {}
    labels: set[str] = set()
    for task in tasks:
        if not task.label.strip():
            raise InputError(f"a model has the label {task.label!r}: give it a name")
        if task.label in labels:
            raise InputError(f"two models are called {task.label!r}: give each a label of its own")
        if task.id in by_id:
            raise InputError(f"{by_id[task.id]} and {task.label} are the same model: give it once")
        labels.add(task.label)
        by_id[task.id] = task.label


def add_details(
    task: Task,
    subject: Subject,
    results: Results,
    sigmas: tuple[float, ...],
    chips: int,
    progress: Progress | None = None,
) -> None:
    """Keep per-layer sensitivity and conductance histograms at the middle sigma, unless they are there."""
    sigma = sigmas[len(sigmas) // 2]
    # named by all that decides them: files of other sigmas or chips go together
    histogram_name, drops_name = f"conductances sigma={sigma!r}", f"sensitivity sigma={sigma!r} chips={chips}"
    if {histogram_name, drops_name} <= set(results.details(task.id)):
        return
    hardware = at_sigma(subject.hardware, sigma)
    analog = subject.analog(hardware)
    analog_chips.program(analog)
    histograms = {"sigma": sigma, "chip": 0, "layers": conductance_histograms(analog)}
    results.set_detail(task.id, histogram_name, histograms)
    few = subject.reference.part(sensitivity.some(len(subject.reference.x), sensitivity.IMAGES, subject.seed))
    numbers = range(chips)
    countdown = sensitivity.Countdown(chips * len(layers_on_arrays(analog)))

    def step(what: str) -> None:
        what = countdown(what)
        if progress is not None:
            progress(countdown.done, countdown.total, what)

    drops = sensitivity.layer_drops(subject.evaluator, few, sigma, numbers, step)
    results.set_detail(task.id, drops_name, sensitivity.as_detail(drops, sigma, numbers, len(few.x)))
