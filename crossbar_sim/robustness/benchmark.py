"""`robustness`: models x sigmas x chips, in one call."""

import os
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_sim import __version__
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.overrides import at_sigma
from crossbar_sim.data import Split, Splits, load_data
from crossbar_sim.errors import InputError
from crossbar_sim.nn import chips as handle
from crossbar_sim.nn.convert import to_analog
from crossbar_sim.robustness import sensitivity
from crossbar_sim.robustness.cluster import cluster
from crossbar_sim.robustness.evaluator import Subject
from crossbar_sim.robustness.examples import Examples
from crossbar_sim.robustness.experiment import PROTOCOL
from crossbar_sim.robustness.histograms import conductance_histograms
from crossbar_sim.robustness.plans import EveryImage, HalfWidth, Plan
from crossbar_sim.robustness.runner import Executor, InProcess, Progress, run_plan
from crossbar_sim.robustness.subjects import Model, fingerprint, prepare
from crossbar_sim.robustness.sweep import Sweep
from crossbar_sim.store.records import Task
from crossbar_sim.store.results import Results


def robustness(
    models: Mapping[str, nn.Module] | Iterable[Model],
    data: Split | Splits | tuple[Tensor, Tensor | None] | str | None = None,
    hardware: Hardware | None = None,
    sigmas: Iterable[float] = PROTOCOL,
    *,
    chips: int | Iterable[int] = 20,
    half_width: float | None = None,
    seed: int = 0,
    metric: str | None = None,
    only: Iterable[str] | None = None,
    skip: Iterable[str] = (),
    results: Results | str | os.PathLike[str] | None = None,
    workers: int | None = None,
    scheduler: str | None = None,
    plan: Plan | None = None,
    sensitivity_chips: int = 0,
    progress: Progress | None = None,
) -> Sweep:
    """Score models over sigmas and chips.

    Args:
        models: label -> trained module, left in evaluation mode; or `Model`s with examples of their own.
        data: what they are tried on: a split, data whose test split counts, (x, y), or a data set's name.
        hardware: the design; its drift law takes each sigma in turn (log-normal where it has none). None: the
            preset "bayesft".
        sigmas: the points of the curves.
        chips: how many, or which; with a half-width, the most that may be spent on a point.
        half_width: instead of `chips` x all images: sample chips and images until the 95 % interval of every mean
            is at most this wide to either side, see docs/statistics.md.
        seed: of all chips.
        metric: "accuracy", "agreement" or "output_error"; None: the first that labels and outputs allow.
        only, skip: see `to_analog`.
        results: a results file, where each block of chips is kept and nothing that is there is measured again;
            None: in memory.
        workers, scheduler: Dask, with so many processes or at this address, instead of this process.
        plan: a plan of one's own in place of chips and half_width.
        sensitivity_chips: also measure, at the middle sigma, what each layer costs alone on so many chips, and
            take histograms of the conductances; 0: not.
        progress: called with (done, total, what).

    Raises:
        InputError: if models, data and design do not go together, or the results file cannot be used.

    >>> from crossbar_sim.nn.networks import build
    >>> sweep = robustness({"mlp": build("mlp", inputs=64, hidden=(8,), classes=10)}, "digits", sigmas=[0.5], chips=3)
    >>> [len(point.values) for point in sweep.curve("mlp")]
    [3]
    """
    numbers = check_sigmas(sigmas)
    design = Hardware.preset("bayesft") if hardware is None else hardware
    for sigma in numbers:
        at_sigma(design, sigma)  # an impossible one is refused before the work
    plan = _plan(chips, half_width) if plan is None else plan
    given = _models(models, data)
    selected, left_out = None if only is None else tuple(only), tuple(skip)
    with ExitStack() as stack:
        file = (
            results
            if isinstance(results, Results)
            else stack.enter_context(Results.open(results or ":memory:"))
        )
        tasks = [prepare(model, design, seed, metric, selected, left_out, plan.images) for model in given]
        _check_distinct([task for task, _ in tasks])
        executor: Executor = InProcess(file)
        if workers is not None or scheduler is not None:
            executor = stack.enter_context(cluster(workers, scheduler))
        run_plan(tasks, numbers, plan, file, executor, progress)
        if sensitivity_chips:
            for task, subject in tasks:
                add_details(task, subject, file, numbers, sensitivity_chips)
        return Sweep.read(file, {task.id: task.label for task, _ in tasks}, plan.chips, numbers)


def check_sigmas(sigmas: Iterable[float]) -> tuple[float, ...]:
    """Sigmas in ascending order, each once.

    Raises:
        InputError: if there is none, or one twice.
    """
    numbers = sorted(float(sigma) for sigma in sigmas)
    if not numbers or len(set(numbers)) != len(numbers):
        raise InputError(f"sigmas={numbers[:5]}: at least one sigma is needed, and none twice")
    return tuple(numbers)


def _plan(chips: int | Iterable[int], half_width: float | None) -> Plan:
    numbers = tuple(range(chips)) if isinstance(chips, int) else tuple(chips)
    if half_width is None:
        return EveryImage(numbers)
    return HalfWidth(half_width)


def _models(
    models: Mapping[str, nn.Module] | Iterable[Model],
    data: Split | Splits | tuple[Tensor, Tensor | None] | str | None,
) -> list[Model]:
    """Models with their examples."""
    if not isinstance(models, Mapping):
        return list(models)
    if data is None:
        raise InputError("data is missing: give a split, a data set's name or (x, y)")
    examples = _examples(data)
    return [
        Model(
            label, module, examples, {"fingerprint": fingerprint(module)},
            about={"version": __version__, "torch": torch.__version__},
        )
        for label, module in models.items()
    ]  # fmt: skip


def _examples(data: Split | Splits | tuple[Tensor, Tensor | None] | str) -> Examples:
    if isinstance(data, str):
        data = load_data(data)
    if isinstance(data, Splits):
        identity = {"name": data.name, "fingerprint": data.fingerprint}
        x, y, notes = data.test.x, data.test.y, data.notes
    else:
        split = data if isinstance(data, Split) else Split(*data)
        alone = Splits("data", None, None, split, None)
        identity, x, y, notes = {"name": "data", "fingerprint": alone.fingerprint}, split.x, split.y, ()
    known: dict[str, Any] = {**identity, "images": len(x), "labelled": y is not None}
    return Examples(x, y, known, notes)


def _check_distinct(tasks: list[Task]) -> None:
    """Refuse an empty list, and two models that are the same or are called the same."""
    if not tasks:
        raise InputError("there is no model to sweep: give at least one")
    by_id: dict[str, str] = {}
    labels: set[str] = set()
    for task in tasks:
        if task.label in labels:
            raise InputError(f"two models are called {task.label!r}: give each a label of its own")
        if task.id in by_id:
            raise InputError(f"{by_id[task.id]} and {task.label} are the same model: give it once")
        labels.add(task.label)
        by_id[task.id] = task.label


def add_details(
    task: Task, subject: Subject, results: Results, sigmas: tuple[float, ...], chips: int
) -> None:
    """Keep per-layer sensitivity and conductance histograms at the middle sigma, unless they are there."""
    sigma = sigmas[len(sigmas) // 2]
    # named by all that decides them: files of other sigmas or chips go together
    histogram_name, drops_name = f"conductances sigma={sigma!r}", f"sensitivity sigma={sigma!r} chips={chips}"
    if {histogram_name, drops_name} <= set(results.details(task.id)):
        return
    hardware = at_sigma(subject.hardware, sigma)
    analog = to_analog(subject.module, hardware, subject.seed, 0, subject.only, subject.skip)
    handle.program(analog)
    histograms = {"sigma": sigma, "chip": 0, "layers": conductance_histograms(analog)}
    results.set_detail(task.id, histogram_name, histograms)
    few = subject.reference.part(sensitivity.some(len(subject.reference.x), sensitivity.IMAGES, subject.seed))
    numbers = range(chips)
    drops = sensitivity.layer_drops(analog, few, subject.metric, numbers)
    results.set_detail(task.id, drops_name, sensitivity.as_detail(drops, sigma, numbers, len(few.x)))
