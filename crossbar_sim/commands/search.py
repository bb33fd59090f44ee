"""`crossbar-sim search`: dropout rates that make a network robust to its hardware."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from crossbar_sim.commands.options import (
    PATH,
    ClusterOptions,
    DeviceOptions,
    HardwareOptions,
    JsonOptions,
    NetworkOptions,
    SeedOptions,
    command,
    interval,
    option,
)
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from crossbar_sim.baselines.method import Trained
    from crossbar_sim.crossbar.layer_designs import Design
    from crossbar_sim.experiments.networks import Named
    from crossbar_sim.robustness.metrics import Metric
    from crossbar_sim.search import BayesFT, Study, Trial


@dataclass(frozen=True)
class SearchRequest(NetworkOptions, HardwareOptions, SeedOptions, ClusterOptions, DeviceOptions, JsonOptions):
    """What `search` is to do."""

    HEADING: ClassVar = "Search"

    trials: int = option("Number of trials; rounded up to whole batches.", default=20)
    algorithm: Literal["literal", "clean", "restart"] = option(
        "literal: Algorithm 1 of the paper, with drift in the gradient; clean: without it, as the released code does; "
        "restart: a new network for each trial.",
        default="literal",
    )
    acquisition: Literal["lognei", "mean"] = option(
        "How the next trial is chosen: log noisy expected improvement, or the largest posterior mean as in the paper.",
        default="lognei",
    )
    rates: Any = option("Bounds of all dropout rates.  [default: 0:0.8]", type=interval("--rates"))
    width: Any = option(
        "Also search a factor on the hidden widths, e.g. 0.5:2 (with --algorithm restart).",
        type=interval("--width"),
    )
    metric: str | None = option(
        "What chips are judged by: perplexity, rmse, f1, ... (docs/metrics.md), or package.module:function.  "
        "[default: accuracy, of real targets rmse]"
    )
    chips: int = option("Number of chips on which a trial is scored.", default=20)
    images: int = option("Number of validation examples on which a trial is scored.", default=2000)
    fresh_chips: int = option("Number of held-out chips on which the winner is evaluated again.", default=100)
    parallel: int | None = option("Number of trials proposed together.  [default: the number of workers]")
    training_sigma: Any = option(
        "Drift in the gradient: a sigma, or low:high to search it too.  [default: --sigma]",
        heading="Training", type=interval("--training-sigma", alone=True),
    )  # fmt: skip
    training_chips: int | None = option(
        "Number of chips drawn for each gradient step.  [default: 8]", heading="Training"
    )
    parameters: Literal["plain", "square"] = option(
        "square: train weight matrices as w = u|u| (docs/methods.md).", heading="Training", default="plain"
    )
    calibrated: bool = option(
        "Train for chips that are calibrated: digital normalisation by each chip's own statistics behind every array, "
        "and a digital last layer. Trials are scored so. Evaluate with --calibrate statistics.", heading="Training",
    )  # fmt: skip
    settings: tuple[str, ...] = option(
        "A setting of the training, e.g. optimiser=muon or label_smoothing=0.2 (docs/methods.md; may be repeated).",
        "--set", metavar="NAME=VALUE", heading="Training",
    )  # fmt: skip
    noise: Literal["dropout", "multinomial"] = option(
        "multinomial: dropout that also halves values, as BayesMulti does (docs/methods.md).",
        heading="Training",
        default="dropout",
    )
    epochs: int | None = option(
        "Epochs of each trial.  [default: 1; 10 with --algorithm restart]", heading="Training"
    )
    polish: int | None = option(
        "Epochs of the final training with the winner's rates; 0 turns this off.  [default: 10]",
        heading="Training",
    )
    lr: float | None = option("Peak learning rate.  [default: 0.003, or the recipe's]", heading="Training")
    loss: str | None = option(
        "What is minimised: cross-entropy, mse, l1, huber or package.module:function.  [default: cross-entropy, of "
        "real targets mse]",
        heading="Training",
    )
    batch: int | None = option(
        "Examples per training step.  [default: 256, or the recipe's]", heading="Training"
    )
    clip_gradient: float | None = option(
        "Clip each component of the gradient to the interval from -VALUE to VALUE.  [default: 0.1]",
        heading="Training", metavar="VALUE",
    )  # fmt: skip
    output: str = option(
        "Write the best network to this file (a checkpoint).", "--output", "-o",
        heading="Output", type=PATH, required=True,
    )  # fmt: skip
    study: str | None = option(
        "Store all trials in this file (SQLite); run again to resume, or to add trials.",
        heading="Output", type=PATH,
    )  # fmt: skip


@command(SearchRequest)
def search(request: SearchRequest) -> None:
    """Find the dropout rates that make a network most robust to drift (BayesFT).

    Bayesian optimisation of the score on simulated chips that drift by --sigma. Only training and validation examples
    are used, and the winner is evaluated again on held-out chips.

    \b
    Examples:
      crossbar-sim search --network mlp --data digits --sigma 0.6 --trials 10 -o best.pt
      crossbar-sim search --network lenet5 --data mnist --sigma 0.6 --study study.db -o best.pt
      crossbar-sim search --network mlp --data mnist --sigma 0.6 --algorithm restart --workers 4 -o best.pt
    """
    from crossbar_sim.data import load_data
    from crossbar_sim.experiments.networks import Named, started
    from crossbar_sim.nn import save_checkpoint
    from crossbar_sim.report.console import say, say_end, terminal
    from crossbar_sim.rng import Key
    from crossbar_sim.search.trial import as_text, score_text

    hardware, warnings = request.hardware()
    output, study, data = request.output, request.study, request.data
    beside = None if study is None else f"{study}.theta"
    inputs = (request.hardware_file, data, study, beside, request.start)
    check_outputs((output, request.json_path), inputs, stream=request.json_path)
    request.set_threads()
    method = _method(request, hardware)
    splits = load_data(data, request.data_dir)
    made = Named.of(request.network, request.network_arguments or {}, splits)
    judge = method.judge(splits.development)
    console = terminal(stderr=request.json_path == "-")

    def say_trial(trial: Trial, opened: Study) -> None:
        best = opened.best()
        say(
            console,
            f"trial {trial.number + 1:>3} of {method.trials}: {_point(trial.point)}  "
            f"{as_text(trial.notes['scores'], judge)}  best so far: {score_text(best.mean, None, judge)} "
            f"(trial {best.trial.number + 1})",
        )

    begun = None if request.start is None else started(made, request.start)
    found = method.fit(
        begun or made, splits.development, Key(request.seed),
        study=study, workers=request.workers, scheduler=request.scheduler, on_trial=say_trial,
    )  # fmt: skip
    arch = f" --arch {request.network}" if ":" in request.network else ""
    notes = dict(found.notes) if begun is None else {**found.notes, "from": begun.sha256}
    save_checkpoint(output, found.model, request.network, _arguments(made, found), data, notes)
    write_json(request.json_path, notes)
    _show(found, method, judge, console)
    say_end(console, warnings)
    then = " --calibrate statistics" if request.calibrated else ""
    say(console, f"wrote {output}: crossbar-sim sweep {output}{arch} --data {data}{then}")
    if study is not None:
        say(console, f"the trials are in {study}")


def _method(request: SearchRequest, hardware: Design) -> BayesFT:
    """BayesFT with the settings that are given.

    Raises:
        InputError: for settings that are impossible or have no effect.
    """
    from crossbar_sim.baselines.settings import TRAINING, setting
    from crossbar_sim.experiments.recipes import given_training, with_recipe
    from crossbar_sim.search import BayesFT
    from crossbar_sim.search.by_name import bayesft_of
    from crossbar_sim.validate import unknown

    if request.algorithm == "restart" and request.polish is not None:
        raise InputError("--polish has no effect: with --algorithm restart each trial is trained to its end")
    settings = {
        name: getattr(request, name) for name in ("trials", "algorithm", "acquisition", "chips", "images")
    }
    settings |= {"fresh_chips": request.fresh_chips, "sigma": _sigma(hardware), "batch": _batch(request)}
    settings |= {"parameters": request.parameters, "calibrated": request.calibrated, "noise": request.noise}
    given = {
        name: getattr(request, name)
        for name in ("rates", "width", "training_sigma", "training_chips", "polish", "metric")
    }
    for name, _ in map(setting, request.settings):
        if name not in TRAINING:
            raise InputError(unknown("--set: the training setting", name, TRAINING))
    training = {
        "lr": request.lr,
        "batch": request.batch,
        "clip": request.clip_gradient,
        "epochs": request.epochs,
        "loss": request.loss,
        "device": None if request.device is None else request.chosen_device().name,
    }
    settings |= {name: value for name, value in given.items() if value is not None}
    found = with_recipe(request.network, BayesFT.kind, settings, given_training(training, request.settings))
    return bayesft_of(*found, hardware)


def _arguments(made: Named, found: Trained) -> dict[str, Any]:
    """The winner's arguments, with its rates where the network takes them."""
    arguments = made.at(found.notes["width"])
    own = getattr(found.model, "arguments", {}).get("dropout")
    rates = list(found.notes["rates"].values())
    return {**arguments, "dropout": rates} if own is not None and len(own) == len(rates) else arguments


def _sigma(hardware: Design) -> float:
    """The sigma of the design's drift, for the objective.

    Raises:
        InputError: if it has none.
    """
    from crossbar_sim.crossbar.layer_designs import designs_of

    drift: Any = designs_of(hardware)[0].drift
    sigma = getattr(drift, "sigma", None)
    if sigma is None:
        law = "no drift" if drift is None else f"{drift.kind} drift, which has no sigma"
        raise InputError(f"the design has {law}: give --sigma, the drift that the network is to be robust to")
    return float(sigma)


def _batch(request: SearchRequest) -> int:
    """The number of trials proposed together."""
    if request.parallel is not None:
        return request.parallel
    if request.scheduler is not None:
        raise InputError("--scheduler needs --parallel, the number of trials that are proposed together")
    return max(request.workers or 1, 1)


def _point(point: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.2f}" for name, value in point.items())


def _show(found: Trained, method: BayesFT, judge: Metric, console: Console) -> None:
    """The trials as a table, best first, and the winner."""
    from rich.table import Table

    from crossbar_sim.report.console import say
    from crossbar_sim.robustness.statistics import half_width
    from crossbar_sim.search.trial import score_text

    notes = found.notes
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("trial", *notes["history"][0]["point"], "score"):
        table.add_column(name, justify="right")
    chips = notes["searched"]["chips"]
    for row in sorted(notes["history"], key=lambda row: -row["value"])[:10]:
        mark = "*" if row["number"] == notes["trial"] else ""
        numbers = (f"{value:.3f}" for value in row["point"].values())
        sure = half_width(math.sqrt(row["variance"]), chips) if chips > 1 else 0.0
        table.add_row(f"{mark}{row['number'] + 1}", *numbers, score_text(row["value"], sure, judge))
    console.print()
    console.print(table)
    console.print()
    searched, fresh = notes["searched"], notes["fresh"]
    say(console, f"winner: trial {notes['trial'] + 1}, {_point(notes['rates'])}", "bold")
    say(console, f"  in the search: {_measured(searched, judge)}")
    after = "" if method.algorithm == "restart" or method.polish is None else ", after its last training"
    say(
        console,
        f"  on held-out chips{after}: {_measured(fresh, judge)}, sigma {method.sigma:g}, validation examples",
    )


def _measured(found: Mapping[str, Any], judge: Metric) -> str:
    from crossbar_sim.robustness.metrics import PER_CENT
    from crossbar_sim.search.trial import score_text

    sure = ""
    if found["ci95"] is not None:
        low, high = sorted(map(judge.shown, found["ci95"]))
        ends = (
            f"{100 * low:.2f} to {100 * high:.2f}" if judge.unit == PER_CENT else f"{low:.4g} to {high:.4g}"
        )
        sure = f" (95 % {ends})"
    of = "" if judge.name == "accuracy" else f"{judge.title or judge.name} "
    return f"{of}{score_text(found['mean'], None, judge)}{sure} over {found['chips']} chips"
