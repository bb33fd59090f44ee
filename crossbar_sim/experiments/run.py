"""Running an experiment: trainings, sweeps, figures, records; it resumes where it stopped."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from crossbar_sim.crossbar.layer_designs import at_sigma
from crossbar_sim.data import DATASETS, Splits, load_data
from crossbar_sim.data.catalogue import CATALOGUE
from crossbar_sim.data.dataset import subsample
from crossbar_sim.errors import InputError
from crossbar_sim.experiments.record import record_of
from crossbar_sim.experiments.schema import Experiment, ModelFile, ToTrain, load_experiment
from crossbar_sim.experiments.trainings import (
    PlannedTraining,
    check_calibrated,
    check_judged,
    named,
    plan_trainings,
    train,
)
from crossbar_sim.files import write_text
from crossbar_sim.nn.detection import detects
from crossbar_sim.nn.files.architectures import names_code
from crossbar_sim.nn.files.loading import load_model
from crossbar_sim.report import write_page
from crossbar_sim.report.boundary_figure import SIGMAS as BOUNDARY_SIGMAS
from crossbar_sim.report.boundary_figure import check_boundaries, draw_boundaries
from crossbar_sim.report.console import progress, say, terminal
from crossbar_sim.report.detection_figure import draw_models
from crossbar_sim.report.sweep_figures import draw_groups
from crossbar_sim.report.terminal import show_groups, show_sweep
from crossbar_sim.robustness.benchmark import check_sigmas, robustness
from crossbar_sim.robustness.cluster import check_cluster
from crossbar_sim.robustness.examples import find_examples
from crossbar_sim.robustness.groups import groups_of, seeded
from crossbar_sim.robustness.metrics import names_code as is_function
from crossbar_sim.robustness.tasks import Model, model_of_file
from crossbar_sim.store.records import canonical
from crossbar_sim.store.results import Results
from crossbar_sim.validate import show


def run_experiment(
    path: str,
    *,
    output: str,
    budget: str,
    data_dir: str | None,
    workers: int | None,
    scheduler: str | None,
    page: bool,
    trust_code: bool = False,
    device: str | None = None,
) -> None:
    """Run what is missing of an experiment, print the results, and write the files; see `crossbar-sim run --help`.

    Raises:
        InputError: for anything that cannot be used; whatever can be seen before the first training is.
    """
    check_cluster(workers, scheduler)
    experiment = load_experiment(Path(path), budget, trust_code, device)
    if not trust_code:
        _refuse_code(experiment)
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error
    for sigma in check_sigmas((*experiment.sigmas,)):
        at_sigma(experiment.hardware, sigma)
    console = terminal()
    say(console, experiment.title, "bold")
    data = _data_name(experiment)
    whole = load_data(data, data_dir)
    taught = subsample(whole, experiment.train_limit, None, validation=experiment.validation_limit)
    tried = subsample(taught, None, experiment.test_limit)
    for note in tried.notes[len(whole.notes) :]:
        say(console, f"of {tried.name}: {note}")
    flat = check_boundaries(tried.test.x, experiment.boundaries is not None)
    for sigma in experiment.boundaries or ():
        at_sigma(experiment.hardware, sigma)
    models, planned = _models(experiment, data, taught, tried, folder, console)
    database = folder / f"{experiment.name}.db"
    with Results.open(database) as results, progress(terminal(stderr=True)) as step:
        sweep = robustness(
            models, None, experiment.hardware, experiment.sigmas, plan=experiment.plan, seed=experiment.seed,
            metric=experiment.metric, results=results, workers=workers, scheduler=scheduler,
            sensitivity_chips=experiment.sensitivity_chips, device=experiment.device, progress=step,
        )  # fmt: skip
    percent = experiment.percentile
    show_sweep(sweep, console, experiment.threshold, grouped=seeded(sweep.labels), percent=percent)
    show_groups(sweep, console, experiment.reference, experiment.threshold, percent)
    for warning in experiment.warnings:
        say(console, f"warning: {warning}", "yellow")
    say(console, f"results are in {database}")
    written = [folder / f"{experiment.name}.json", folder / f"{experiment.name}.png"]
    write_text(written[0], record_of(experiment, sweep, tried, planned))
    draw_groups(sweep, written[1], title=experiment.title, threshold=experiment.threshold)
    if all(detects(model.module) for model in models):
        written.append(folder / f"{experiment.name}-boxes.png")
        draw_models(models, experiment.hardware, experiment.sigmas, written[-1], seed=experiment.seed)
    if experiment.calibration is not None and (flat or all(detects(model.module) for model in models)):
        say(console, "note: pictures of single chips are drawn without the correction of calibrate")
    if flat:
        written.append(folder / f"{experiment.name}-boundaries.png")
        _draw_boundaries(experiment, models, written[-1])
    if page:
        written.append(folder / f"{experiment.name}.html")
        write_page(
            sweep, written[-1],
            title=experiment.title, threshold=experiment.threshold, reference=experiment.reference,
            percentile=percent,
        )  # fmt: skip
    for file in written:
        say(console, f"wrote {file}")


def _refuse_code(experiment: Experiment) -> None:
    """An experiment file is data: it may not choose code that is then imported and called.

    Raises:
        InputError: if it names code.
    """
    named = {
        f"models.{label}.arch": given.arch
        for label, given in experiment.models.items()
        if isinstance(given, ModelFile) and names_code(given.arch)
    }
    named |= {
        f"train.{label}.network": given.network
        for label, given in experiment.models.items()
        if isinstance(given, ToTrain) and names_code(given.network)
    }
    for label, given in experiment.models.items():
        if isinstance(given, ToTrain):
            chosen = {name: given.training.get(name) for name in ("loss", "metric")}
            chosen["settings.metric"] = given.settings.get("metric")
            named |= {f"train.{label}.{key}": path for key, path in chosen.items() if is_function(path)}
    if is_function(experiment.metric):
        named["metric"] = experiment.metric
    for key, path in named.items():
        raise InputError(
            f"{key}={show(path)} names code, which would be imported and run: read that code, and run again with "
            "--trust-code if you trust it"
        )


def _draw_boundaries(experiment: Experiment, models: list[Model], path: Path) -> None:
    """Draw the decision boundaries of the first network of each group."""
    labels = [model.label for model in models]
    firsts = {group: members[0] for group, members in groups_of(labels).items()}
    by_label = {model.label: model for model in models}
    draw_boundaries(
        {label: by_label[label].module for label in firsts.values()}, experiment.hardware, models[0].examples, path,
        sigmas=experiment.boundaries or BOUNDARY_SIGMAS, seed=experiment.seed,
        chips=experiment.plan.chips or tuple(range(20)), title=experiment.title,
    )  # fmt: skip


def _data_name(experiment: Experiment) -> str:
    """The name of a known data set unchanged; else a path relative to the folder of the experiment."""
    data = experiment.data
    if data in DATASETS or data in CATALOGUE or not (experiment.folder / data).exists():
        return data
    return str(experiment.folder / data)


def _models(
    experiment: Experiment, data: str, taught: Splits, tried: Splits, folder: Path, console: Console
) -> tuple[list[Model], dict[str, PlannedTraining]]:
    """All models, in the order of the file: files are read and trainings checked before the first training."""
    read = _files(experiment, taught, tried)
    planned = plan_trainings(experiment, taught, tried.test, folder / f"{experiment.name}.models")
    models = []
    for label in experiment.models:
        if label in read:
            models.append(read[label])
            continue
        path = train(planned[label], taught, data, console)
        network = planned[label].given.network
        arch = network if names_code(network) else None
        models.append(_of_file(experiment, label, path, tried, arch))
    if experiment.calibration is not None:
        correction = experiment.calibration, taught.development
        models = [replace(model, calibration=correction) for model in models]
    return models, planned


def _files(experiment: Experiment, taught: Splits, tried: Splits) -> dict[str, Model]:
    """The models of [models]: all different, and each can be scored by the metric of the file."""
    read: dict[str, Model] = {}
    by_identity: dict[str, str] = {}
    for label, given in experiment.models.items():
        if not isinstance(given, ModelFile):
            continue
        with named(f"models.{label}"):
            path = experiment.folder / given.path
            model = _of_file(experiment, label, path, tried, given.arch, given.arch_arguments, given.weights)
            check_judged(experiment, model.module, model.examples, model.fixed)
            if experiment.calibration is not None:
                check_calibrated(experiment, model.module, model.examples.x, taught.development, model.fixed)
        same = by_identity.setdefault(canonical(model.identity), label)
        if same != label:
            raise InputError(f"models.{same} and models.{label} are the same model: give it once")
        read[label] = model
    return read


def _of_file(
    experiment: Experiment, label: str, path: Path, tried: Splits,
    arch: str | None = None, arch_arguments: Mapping[str, Any] | None = None, weights: str | None = None,
) -> Model:  # fmt: skip
    loaded = load_model(path, arch, arch_arguments, weights=weights)
    examples = find_examples(loaded, tried, None, None, None, experiment.seed)
    ways = {"arch": arch, "arch_arguments": arch_arguments, "weights": weights}
    return model_of_file(label, str(path), loaded, examples, ways)
