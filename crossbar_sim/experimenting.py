"""What the command run does: models trained or loaded, swept, and the page of it."""

import hashlib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from rich.console import Console

from crossbar_sim.baselines.settings import METHODS, method_of
from crossbar_sim.crossbar import threads as pool
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.data import load_data
from crossbar_sim.errors import InputError
from crossbar_sim.fitting import save_network
from crossbar_sim.nn.loading import load_model
from crossbar_sim.nn.networks import build
from crossbar_sim.rng import Key
from crossbar_sim.robustness.benchmark import robustness
from crossbar_sim.robustness.examples import find_examples
from crossbar_sim.robustness.experiment import Experiment, ModelFile, ToTrain, load_experiment
from crossbar_sim.robustness.page import write_page
from crossbar_sim.robustness.subjects import Model, model_of_file
from crossbar_sim.robustness.sweep_view import show_sweep
from crossbar_sim.robustness.view import progress
from crossbar_sim.robustness.wording import say
from crossbar_sim.store.records import canonical
from crossbar_sim.store.results import Results


def run_experiment(
    path: str,
    *,
    output: str,
    data_dir: str | None,
    workers: int | None,
    scheduler: str | None,
    threads: int | None,
    page: bool,
) -> None:
    """Do what is missing of an experiment, print it, and write its page; see `crossbar-sim run --help`.

    Raises:
        InputError: for anything that cannot be used.
    """
    experiment = load_experiment(Path(path))
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from error
    if threads is not None:
        pool.set_threads(threads)
    console = Console(highlight=False)
    say(console, experiment.title, "bold")
    for given in experiment.models.values():
        if isinstance(given, ToTrain):  # a setting that is wrong is refused before any work
            method_of(
                given.method, given.settings, given.training, _needed(given.method, experiment.hardware)
            )
    models = [
        _model(experiment, label, given, folder, data_dir, console)
        for label, given in experiment.models.items()
    ]
    database = folder / f"{experiment.name}.db"
    with Results.open(database) as results, progress(Console(stderr=True)) as step:
        sweep = robustness(
            models, None, experiment.hardware, experiment.sigmas, plan=experiment.plan, seed=experiment.seed,
            metric=experiment.metric, results=results, workers=workers, scheduler=scheduler,
            sensitivity_chips=experiment.sensitivity_chips, progress=step,
        )  # fmt: skip
    show_sweep(sweep, console, experiment.threshold)
    for warning in experiment.warnings:
        say(console, f"warning: {warning}", "yellow")
    say(console, f"results are in {database}")
    if page:
        html = folder / f"{experiment.name}.html"
        write_page(sweep, html, title=experiment.title, threshold=experiment.threshold)
        say(console, f"wrote {html}")


def _model(
    experiment: Experiment,
    label: str,
    given: ModelFile | ToTrain,
    folder: Path,
    data_dir: str | None,
    console: Console,
) -> Model:
    ways: dict[str, Any] = {"arch": None, "arch_arguments": None}
    data = experiment.data
    if (experiment.folder / data).exists() and data not in ("digits",):
        data = str(experiment.folder / data)
    if isinstance(given, ModelFile):
        path = experiment.folder / given.path
        ways = {"arch": given.arch, "arch_arguments": given.arch_arguments}
        loaded = load_model(path, given.arch, given.arch_arguments)
    else:
        models = folder / f"{experiment.name}.models"
        path = _trained(given, label, data, data_dir, models, experiment.hardware, console)
        loaded = load_model(path)
    examples = find_examples(loaded, data, data_dir, None, None, experiment.seed)
    return model_of_file(label, str(path), loaded, examples, ways)


def _trained(
    given: ToTrain,
    label: str,
    data: str,
    data_dir: str | None,
    folder: Path,
    hardware: Hardware,
    console: Console,
) -> Path:
    """The checkpoint of a training; made unless it is there, under a name that holds all that decides it."""
    method = method_of(given.method, given.settings, given.training, _needed(given.method, hardware))
    splits = load_data(data, data_dir)
    known = [given.network, dict(given.arguments), repr(method), given.seed, splits.fingerprint]
    digest = hashlib.sha256(canonical(known).encode()).hexdigest()
    path = folder / f"{_plain(label)}-{digest[:12]}.pt"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    say(console, f"training {label}: {given.network} by {given.method} on {splits.name}")
    state = path.with_suffix(".state")
    done = method.fit(
        lambda: build(given.network, **given.arguments), splits.development, Key(given.seed), checkpoint=state
    )
    if done.report.validation_accuracy is not None:
        say(console, f"  {done.report.validation_accuracy:.1%} of the validation examples right")
    save_network(path, done.model, data)
    state.unlink(missing_ok=True)
    return path


def _needed(method: str, hardware: Hardware) -> Hardware | None:
    """The experiment's design, for a method that cannot do without one."""
    kind: Any = METHODS.get(method)
    required = kind is not None and any(f.name == "hardware" and f.default is MISSING for f in fields(kind))
    return hardware if required else None


def _plain(label: str) -> str:
    """A label as part of a file's name."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in label)[:40]
