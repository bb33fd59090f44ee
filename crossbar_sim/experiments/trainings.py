"""The trainings of an experiment: all checked before the first begins, each done once."""

import copy
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from crossbar_sim.baselines.calibrated import calibrated
from crossbar_sim.baselines.drift_aware import DriftAware
from crossbar_sim.baselines.ftna import Ftna
from crossbar_sim.baselines.method import Build, Method, Trained, check_keeps
from crossbar_sim.baselines.reram_v import ReramV
from crossbar_sim.baselines.settings import METHODS, TRAINING
from crossbar_sim.crossbar.layer_designs import Design, as_design
from crossbar_sim.data import Development, Split, Splits
from crossbar_sim.data.inputs import Batch, one_tensor
from crossbar_sim.data.load import load_data, to_development
from crossbar_sim.errors import InputError
from crossbar_sim.experiments.networks import (
    Named,
    Start,
    outputs_for,
    save_network,
    started,
    validation_in_words,
)
from crossbar_sim.experiments.recipes import with_recipe
from crossbar_sim.experiments.schema import Experiment, ModelFile, ToTrain
from crossbar_sim.nn.detection import check_task
from crossbar_sim.nn.dropout_sites import set_rates
from crossbar_sim.nn.evaluate import inputs_for
from crossbar_sim.nn.seeding import seeded
from crossbar_sim.nn.training.loop import Epoch
from crossbar_sim.nn.training.losses import Loss, task_of
from crossbar_sim.nn.training.settings import check_fits
from crossbar_sim.report.console import say
from crossbar_sim.rng import Key
from crossbar_sim.robustness.calibration import Calibrator
from crossbar_sim.robustness.evaluator import Subject
from crossbar_sim.robustness.examples import Examples
from crossbar_sim.robustness.plans import HalfWidth
from crossbar_sim.robustness.tasks import metric_of
from crossbar_sim.robustness.validation import Validation
from crossbar_sim.search import BayesFT
from crossbar_sim.search.by_name import any_method, needed_hardware
from crossbar_sim.search.network import SearchedNetwork
from crossbar_sim.search.surrogate import check_installed
from crossbar_sim.store.records import canonical
from crossbar_sim.validate import unknown


@dataclass(frozen=True, eq=False)
class PlannedTraining:
    """One training whose settings have been checked.

    Args:
        label: of the model.
        given: what the file says.
        made: builds its network.
        method: trains it.
        path: where the trained network is kept, under a name that holds all that decides it.
        start: the file of the weights that it begins with; None: random ones.
    """

    label: str
    given: ToTrain
    made: Named
    method: Method
    path: Path
    start: Path | None = None


@contextmanager
def named(label: str) -> Iterator[None]:
    """Put the label of a model before the message of an error."""
    try:
        yield
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(label) else f"{label}: {text}") from error


def check_judged(
    experiment: Experiment, model: nn.Module, examples: Examples, fixed: int | None = None
) -> None:
    """Refuse a model that cannot be scored by the metric of the file, whether it is trained or not.

    Raises:
        InputError: if its metric is none of it, or the half-width is none of its metric.
    """
    metric = metric_of(model, examples, experiment.metric, fixed)
    if isinstance(experiment.plan, HalfWidth):
        experiment.plan.check_metric(metric)


def check_calibrated(
    experiment: Experiment, model: nn.Module, x: Batch, development: Development, fixed: int | None = None
) -> None:
    """Refuse a model whose chips cannot be corrected as the file says, whether it is trained or not.

    Raises:
        InputError: if there are too few training images, or the model has nothing that is corrected like this.
    """
    how = experiment.calibration
    if how is None:
        return
    how.draw(development)
    few = replace(how, images=min(how.images, 50))  # enough to see what the model has
    subject, analog = Subject.prepared(model, experiment.hardware, x[: fixed or 2], None, fixed=fixed)
    axis = subject.reference.axis if subject.reference.classes else None
    with named("calibrate"):
        Calibrator.of(analog, few, development, 0, fixed, axis)


def plan_trainings(
    experiment: Experiment, splits: Splits, test: Split, folder: Path
) -> dict[str, PlannedTraining]:
    """Every training of the file, with all its settings checked.

    Args:
        experiment: the file.
        splits: the data, with its training examples limited; limits of test examples decide no training.
        test: the examples that all are tried on.
        folder: where trained networks are kept.

    Raises:
        InputError: naming the model, if its method, settings or network are impossible, or do not fit the data, or
            if it cannot be judged as the file says.
    """
    planned: dict[str, PlannedTraining] = {}
    built: dict[str, nn.Module] = {}
    for label, given in experiment.models.items():
        if not isinstance(given, ToTrain):
            continue
        with named(label):
            if given.method == ReramV.kind:
                raise InputError(
                    "reram-v retrains a network for one chip, and an experiment would sweep it over others: use "
                    "crossbar-sim train --method reram-v; benchmarks/bayesft/own_chips.py compares own and other chips"
                )
            method = any_method(
                given.method,
                given.settings,
                given.training
                if experiment.device
                in (None, "cpu")  # which is where they are trained anyway, and named as before
                else {"device": experiment.device, **given.training},
                needed_hardware(given.method, experiment.hardware),
            )
            made = Named.of(given.network, given.arguments, splits)
            made.check_method(given.method)
            changed = _calibrated(method)
            start, identity, kept = _start(experiment, label, given, planned, made)
            if kept:
                check_keeps(changed)
            with seeded(Key(0)):
                name = canonical([made.network, dict(made.arguments), changed])
                new = name not in built
                if new:
                    built[name] = made()
                _check_data(built[name], method, splits.development)
                if new and changed:
                    calibrated(built[name], splits.development.train.x)
                if new:
                    check_judged(experiment, built[name], Examples(test.x, test.y, {}))
                    check_calibrated(experiment, built[name], test.x, splits.development)
                _check_rates(method, built[name], made)
            what = [given.network, dict(given.arguments), repr(method), given.seed, splits.fingerprint]
            what += [] if identity is None else [{"from": identity}]
            digest = hashlib.sha256(canonical(what).encode()).hexdigest()
        planned[label] = PlannedTraining(
            label, given, made, method, folder / f"{_plain(label)}-{digest[:12]}.pt", start
        )
    return planned


def _start(
    experiment: Experiment, label: str, given: ToTrain, planned: Mapping[str, PlannedTraining], made: Named
) -> tuple[Path | None, str | None, bool]:
    """The file of the weights that a training begins with, what tells them from others, and whether it is calibrated.

    A label, or the group of networks of several seeds of which that of the same seed is taken, goes before a path.

    Raises:
        InputError: if there is no such file or model, it is trained later, or its weights do not fit.
    """
    if given.start is None:
        return None, None, False
    names = (f"{given.start}, seed {given.seed}", given.start)
    name = next((name for name in names if name in experiment.models and name != label), None)
    if name is None:
        path = experiment.folder / given.start
        if not path.exists():
            raise InputError(
                f"from={given.start!r} is neither a file beside the experiment nor a model of it: "
                f"{', '.join(each for each in experiment.models if each != label) or 'it has no other'}"
            )
        return _of_file(made, path)
    model = experiment.models[name]
    if isinstance(model, ModelFile):
        return _of_file(made, experiment.folder / model.path)
    if name not in planned:
        raise InputError(
            f"from={given.start!r} is trained after it: put [train.{given.start}] before it in the file"
        )
    before = planned[name]
    if before.given.method == Ftna.kind:
        raise InputError(
            f"from={given.start!r}: ftna gives a network another last layer, so that nothing can start from it"
        )
    with seeded(Key(0)):
        started(made, before.made())
    return before.path, before.path.stem.rpartition("-")[2], _calibrated(before.method)


def _of_file(made: Named, path: Path) -> tuple[Path, str, bool]:
    begun = started(made, path)
    return path, begun.sha256, begun.standardised is not None


def _calibrated(method: Method) -> bool:
    """Whether it trains for chips that are calibrated."""
    return isinstance(method, DriftAware | BayesFT) and method.calibrated


def train(planned: PlannedTraining, splits: Splits, data: str, console: Console) -> Path:
    """The checkpoint of a training; the network is trained if the file does not exist. A killed training resumes.

    Raises:
        InputError: naming the model, if it cannot be trained or saved.
    """
    path, given = planned.path, planned.given
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path.parent}: {error.strerror}") from error
    say(console, f"training {planned.label}: {given.network} by {given.method} on {splits.name}")
    searched = isinstance(planned.method, BayesFT)
    state = path.with_suffix(".study.db" if searched else ".state")
    with named(planned.label):
        begun = None if planned.start is None else started(planned.made, planned.start)
        done = planned.method.fit(
            begun or planned.made, splits.development, Key(given.seed), checkpoint=state
        )
        notes: dict[str, Any] = {**done.report.noted, **done.notes}
        if begun is not None:
            notes["from"] = begun.sha256
        save_network(path, done.model, data, json.loads(json.dumps(notes, default=str)), planned.made)
    if searched:
        rates = ", ".join(f"{name} {rate:.2f}" for name, rate in done.notes["rates"].items())
        say(console, f"  found {rates}; the trials are in {state}")
    elif (
        held := validation_in_words(done.model, done.report, judge=planned.method.training.metric)
    ) is not None:
        say(console, f"  {held}")
    if not searched:
        state.unlink(missing_ok=True)
    return path


def train_network(
    network: str | Build,
    data: Any,
    method: str | Method = "erm",
    *,
    hardware: Design | str | os.PathLike[str] | Mapping[str, Any] | None = None,
    seed: int = 0,
    arguments: Mapping[str, Any] | None = None,
    start: Start | None = None,
    progress: Callable[[Epoch], None] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> Trained:
    """Train a network by one of the methods, as `crossbar-sim train` and `search` do.

    Args:
        network: a built-in network's name, the import path `package.module:factory` of one of yours, or a class or
            function that makes a fresh one.
        data: a data set's name or path, `Splits`, `Development`, or {"train": ..., "validation": ...}; test examples
            are never read.
        method: a name ("erm", "dropout", "awp", "ftna", "reram-v", "drift-aware", "correctnet", "neft", "bayesft"), or
            a `Method` with its settings.
        hardware: the design to train for, a preset's name, a hardware file, or a design per layer (see `deploy`); for
            methods that have one.
        seed: of initialisation, shuffling, dropout and training noise.
        arguments: of the network; its inputs and classes follow from the data.
        start: what its weights begin with, in place of random ones: a model file, a network, the result of another
            training, or weights by name; `notes["from"]` of the result is their SHA-256.
        progress: called after every epoch.
        checkpoint: a file from which an interrupted training resumes, with the same final weights.
        settings: of the method (rate=0.3, sigma=0.6, ...) and of `Training` (epochs=20, lr=1e-3, ...); `loss` is a
            name, a function of outputs and targets, or a torch loss. `metric`, a name or a function of outputs and
            targets, judges the validation examples after every epoch, and by it `patience` keeps the best weights; of
            "bayesft" it judges the chips of a trial. What is not given is the recipe's of a built-in network that has
            one (docs/methods.md), else the method's own.

    Returns:
        The network in evaluation mode with the report of its training.

    Raises:
        InputError: for an unknown name or setting (with the nearest), or what does not go together.

    >>> done = train_network("mlp", "digits", epochs=1, arguments={"hidden": (8,)})
    >>> done.report.epochs
    1
    """
    if not isinstance(method, str | Method):
        raise InputError(
            f"method is {type(method).__name__}: the arguments are network, data, method, and a method is a name "
            "such as 'drift-aware' or a Method"
        )
    design = None if hardware is None else as_design(hardware)
    if isinstance(method, Method):
        given = [*settings, *(["hardware"] if hardware is not None else [])]
        if given:
            raise InputError(
                f"{given[0]} is given beside a {type(method).__name__} that has its own: give it there"
            )
    else:
        kind: Any = BayesFT if method == BayesFT.kind else METHODS.get(method)
        # the metric of BayesFT judges chips, and its batch is, here, one of examples
        own = {"metric"} if kind is BayesFT else set()
        training = {n: settings.pop(n) for n in [*settings] if n in TRAINING and n not in own}
        known = (
            [*TRAINING, *(f.name for f in fields(kind) if f.name != "training")] if kind is not None else []
        )
        for name in settings:
            if known and name not in known:
                raise InputError(unknown(f"the setting of {method}", name, known))
        settings, training = with_recipe(network, method, settings, training)
        method = any_method(method, settings, training, design)
    if isinstance(data, str | os.PathLike):
        data = load_data(data)
    development = data.development if isinstance(data, Splits) else to_development(data)
    if isinstance(network, str):
        if isinstance(data, Splits):
            network = Named.of(network, arguments or {}, data)
        else:
            y = development.train.y
            classes = outputs_for(development.train, None if y is None else int(y.max()) + 1)
            shape = one_tensor(development.train.x, f"network {network!r}").shape[1:]
            network = Named.for_examples(network, arguments or {}, shape, classes)
    elif arguments is not None:
        network = functools.partial(network, **arguments)
    if start is None:
        return method.fit(network, development, Key(seed), progress=progress, checkpoint=checkpoint)
    begun = started(network, start)
    done = method.fit(begun, development, Key(seed), progress=progress, checkpoint=checkpoint)
    return replace(done, notes={**done.notes, "from": begun.sha256})


def _check_data(model: nn.Module, method: Method, development: Development) -> None:
    """Refuse a network that the examples, or the method's loss or metric, do not fit."""
    splits = (development.train, development.validation)
    if any(split.y is None for split in splits):
        raise InputError("the training or validation examples have no labels: training needs y")
    (x, y), held = ((split.x, split.y) for split in splits if split.y is not None)
    loss = method.training.loss
    assert loss is None or isinstance(loss, Loss)
    if check_task(model, y):
        return
    if loss is None and y.dim() == 1 and not y.is_floating_point():
        check_fits(model, x, int(max(y.max(), held[1].max())))
    else:
        model.eval()
        task_of(model, loss, (inputs_for(model, x, y=y)[0], y), None)
    judge = method.training.metric
    if isinstance(judge, Validation):
        metric_of(model, Examples(*held, {}), judge.metric)


def _check_rates(method: Method, model: nn.Module, made: Named) -> None:
    """Refuse dropout rates that the network has no sites for."""
    if isinstance(method, BayesFT):
        check_installed()
        sigmas = method.training_sigma if isinstance(method.training_sigma, tuple) else None
        SearchedNetwork.of(made, Key(0), method.rates, sigmas, method.width)
        return
    rates = getattr(method, "rate", None)
    if rates is None:
        rates = getattr(method, "dropout", None)
    if rates is not None:
        set_rates(copy.deepcopy(model), rates)


def _plain(label: str) -> str:
    """A label as part of a file's name."""
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in label)[:40]
