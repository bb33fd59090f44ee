"""`crossbar-sim search`: dropout rates with which a network survives its hardware."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from crossbar_sim.commands.options import build_hardware, hardware_options, split_options
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs, write_text

if TYPE_CHECKING:
    from rich.console import Console

    from crossbar_sim.baselines.method import Trained
    from crossbar_sim.crossbar.hardware import Hardware
    from crossbar_sim.experiments.networks import Named
    from crossbar_sim.nn.training.settings import Training
    from crossbar_sim.search import BayesFT, Study, Tried


@click.command(no_args_is_help=True)
@click.option("--network", required=True, help="A network's name: mlp, lenet5, ...")
@click.option("--network-arguments", help="Its arguments as JSON, e.g. '{\"hidden\": [64, 32]}'.")
@click.option("--data", required=True, help="A data set's name or a path (see `data list`).")
@click.option("--data-dir", type=click.Path(), help="Where data sets are.  [default: $CROSSBAR_SIM_DATA]")
@hardware_options()
@click.option(
    "--output", "-o", type=click.Path(), required=True, help="Write the found network here (a checkpoint)."
)
@click.option(
    "--study", type=click.Path(),
    help="Keep every trial in this file (SQLite); run again to go on after a kill, or for more trials.",
)  # fmt: skip
@click.option("--trials", default=20, show_default=True, help="How many; made up to whole batches.")
@click.option(
    "--algorithm", type=click.Choice(["literal", "clean", "restart"]), default="literal", show_default=True,
    help="Algorithm 1 with drift in the gradient; without it, as the released code; a fresh network per trial.",
)  # fmt: skip
@click.option(
    "--acquisition", type=click.Choice(["lognei", "mean"]), default="lognei", show_default=True,
    help="Where to try next: log noisy expected improvement, or the paper's largest posterior mean.",
)  # fmt: skip
@click.option(
    "--training-sigma",
    help="Drift in the gradient: a sigma, or low:high to search it too.  [default: --sigma]",
)
@click.option("--training-chips", type=int, help="Chips drawn for each gradient step.  [default: 8]")
@click.option("--rates", help="Bounds of every dropout rate.  [default: 0:0.8]")
@click.option(
    "--width", help="Search a factor on the hidden widths too, e.g. 0.5:2 (with --algorithm restart)."
)
@click.option("--chips", default=20, show_default=True, help="Chips of a trial's measurement.")
@click.option(
    "--images", default=2000, show_default=True, help="Validation examples of a trial's measurement."
)
@click.option(
    "--fresh-chips", default=100, show_default=True, help="Chips on which the winner is measured again."
)
@click.option("--epochs", type=int, help="Of each trial.  [default: 1; 10 with --algorithm restart]")
@click.option("--polish", type=int, help="Epochs with the winner's rates at the end; 0: none.  [default: 10]")
@click.option("--lr", type=float, help="The highest learning rate.  [default: 0.003]")
@click.option("--batch", type=int, help="Examples per training step.  [default: 256]")
@click.option(
    "--clip-gradient", type=float,
    help="Hold every component of the gradient in -VALUE .. VALUE (--clip is of the design).  [default: 0.1]",
)  # fmt: skip
@click.option("--parallel", type=int, help="Trials proposed together.  [default: the number of workers]")
@click.option("--workers", type=int, help="Processes on this machine (Dask), for the trials of a batch.")
@click.option("--scheduler", help="A Dask cluster, e.g. tcp://head:8786; give --parallel.")
@click.option("--threads", type=int, help="Threads to use; results do not depend on it.")
@click.option("--seed", default=0, show_default=True, help="Of all random numbers.")
@click.option(
    "--json", "json_path", type=click.Path(), help="Write what was found as JSON (- for standard output)."
)
def search(**options: Any) -> None:
    """Search for the dropout rates with which a network keeps most on chips that drift by --sigma.

    Only training and validation examples are seen. The winner is measured again on chips that decided nothing.

    \b
    Examples:
      crossbar-sim search --network mlp --data digits --sigma 0.6 --trials 10 -o best.pt
      crossbar-sim search --network lenet5 --data mnist --sigma 0.6 --study study.db -o best.pt
      crossbar-sim search --network mlp --data mnist --sigma 0.6 --algorithm restart --workers 4 -o best.pt
    """

    design, rest = split_options(options)
    hardware, told = build_hardware(design)
    run_search(hardware, told, inputs=(design["hardware_file"],), **rest)


def run_search(
    hardware: Hardware,
    warnings: tuple[str, ...],
    *,
    inputs: tuple[str | None, ...],
    network: str,
    network_arguments: str | None,
    data: str,
    data_dir: str | None,
    output: str,
    study: str | None,
    trials: int,
    algorithm: Any,
    acquisition: Any,
    training_sigma: str | None,
    training_chips: int | None,
    rates: str | None,
    width: str | None,
    chips: int,
    images: int,
    fresh_chips: int,
    epochs: int | None,
    polish: int | None,
    lr: float | None,
    batch: int | None,
    clip_gradient: float | None,
    parallel: int | None,
    workers: int | None,
    scheduler: str | None,
    threads: int | None,
    seed: int,
    json_path: str | None,
) -> None:
    """Search, write the winner, print; see `crossbar-sim search --help`.

    Raises:
        InputError: for anything that cannot be used; outputs are checked before the long work.
    """
    from crossbar_sim.crossbar import threads as pool
    from crossbar_sim.data import load_data
    from crossbar_sim.experiments.networks import DETECTION_SEARCH, Named, parsed_arguments
    from crossbar_sim.nn import save_checkpoint
    from crossbar_sim.nn.detection import detects
    from crossbar_sim.nn.networks import NETWORKS
    from crossbar_sim.report.console import say, terminal
    from crossbar_sim.rng import Key
    from crossbar_sim.search import BayesFT
    from crossbar_sim.search.bayesft import TRIAL
    from crossbar_sim.search.trial import as_text

    beside = (None if study is None else f"{study}.theta",)
    check_outputs((output, json_path), (*inputs, data, study, *beside), stream=json_path)
    if threads is not None:
        pool.set_threads(threads)
    if detects(NETWORKS.get(network)):
        epochs, batch, training_chips = (
            DETECTION_SEARCH[name] if value is None else value
            for name, value in (("epochs", epochs), ("batch", batch), ("training_chips", training_chips))
        )
    settings: dict[str, Any] = {}
    if training_chips is not None:
        settings["training_chips"] = training_chips
    if rates is not None:
        settings["rates"] = _pair("--rates", rates)
    if width is not None:
        settings["width"] = _pair("--width", width)
    if training_sigma is not None:
        settings["training_sigma"] = _pair("--training-sigma", training_sigma, alone=True)
    given = {"lr": lr, "batch": batch, "clip": clip_gradient}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    base = replace(TRIAL, **changes)
    method = BayesFT(
        sigma=_sigma(hardware), trials=trials, algorithm=algorithm, acquisition=acquisition, chips=chips,
        images=images, fresh_chips=fresh_chips, hardware=hardware, batch=_batch(parallel, workers, scheduler),
        training=replace(base, epochs=_epochs(epochs, algorithm, base)), polish=_polish(polish, algorithm, base),
        **settings,
    )  # fmt: skip
    splits = load_data(data, data_dir)
    made = Named.of(network, parsed_arguments(network_arguments), splits)
    console = terminal(stderr=json_path == "-")

    def told(trial: Tried, opened: Study) -> None:
        best = opened.best()
        say(
            console,
            f"trial {trial.number + 1:>3} of {method.trials}: {_point(trial.point)}  "
            f"{as_text(trial.notes['scores'])}  best so far: {100 * best.mean:.2f} % (trial {best.trial.number + 1})",
        )

    found = method.fit(
        made, splits.development, Key(seed), study=study, workers=workers, scheduler=scheduler, on_trial=told
    )
    save_checkpoint(output, found.model, network, _found(made, found), data, found.notes)
    report = json.dumps(dict(found.notes), indent=2, allow_nan=False) + "\n"
    if json_path == "-":
        sys.stdout.write(report)
        sys.stdout.flush()  # a full disk is seen here, not when Python ends
    elif json_path is not None:
        write_text(json_path, report)
    _show(found, method, console)
    for warning in warnings:
        say(console, f"warning: {warning}", "yellow")
    say(console, f"wrote {output}: crossbar-sim sweep {output} --data {data}")
    if study is not None:
        say(console, f"the trials are in {study}")


def _found(made: Named, found: Trained) -> dict[str, Any]:
    """The winner's arguments, with its rates where the network takes them."""
    arguments = made.at(found.notes["width"])
    own = getattr(found.model, "arguments", {}).get("dropout")
    rates = list(found.notes["rates"].values())
    return {**arguments, "dropout": rates} if own is not None and len(own) == len(rates) else arguments


def _sigma(hardware: Hardware) -> float:
    """Of the objective: of the design's drift law.

    Raises:
        InputError: if it has none.
    """
    drift: Any = hardware.drift
    sigma = getattr(drift, "sigma", None)
    if sigma is None:
        law = "no drift" if drift is None else f"{drift.kind} drift, which has no sigma"
        raise InputError(f"the design has {law}: say with --sigma what drift the network shall survive")
    return float(sigma)


def _batch(parallel: int | None, workers: int | None, scheduler: str | None) -> int:
    """Trials proposed together."""
    if parallel is None and scheduler is not None:
        raise InputError("--scheduler needs --parallel: how many trials are proposed together")
    return max(workers or 1, 1) if parallel is None else parallel


def _epochs(epochs: int | None, algorithm: str, base: Training) -> int:
    from crossbar_sim.search.by_name import RESTART_EPOCHS

    if epochs is not None:
        return epochs
    return RESTART_EPOCHS if algorithm == "restart" else base.epochs


def _polish(polish: int | None, algorithm: str, base: Training) -> Training | None:
    from crossbar_sim.search.bayesft import POLISH

    if algorithm == "restart":
        if polish is not None:
            raise InputError(
                "--polish would do nothing: with --algorithm restart each trial is trained to its end"
            )
        return None
    epochs = POLISH.epochs if polish is None else polish
    return replace(base, epochs=epochs) if epochs else None


def _pair(flag: str, text: str, alone: bool = False) -> Any:
    """`0:0.8` as (0.0, 0.8); where `alone`, `1.0` as 1.0 too."""
    try:
        numbers = tuple(float(part) for part in text.split(":"))
    except ValueError:
        numbers = ()
    if len(numbers) == 1 and alone and math.isfinite(numbers[0]):
        return numbers[0]
    if len(numbers) != 2 or not all(map(math.isfinite, numbers)):
        raise InputError(
            f"{flag} {text!r}: expected {'a number, or ' if alone else ''}low:high such as 0.2:0.8"
        )
    return numbers


def _point(point: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.2f}" for name, value in point.items())


def _show(found: Trained, method: BayesFT, console: Console) -> None:
    """The trials as a table, best first, and the winner."""
    from rich.table import Table

    from crossbar_sim.report.console import say
    from crossbar_sim.robustness.statistics import half_width

    notes = found.notes
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("trial", *notes["history"][0]["point"], "score"):
        table.add_column(name, justify="right")
    chips = notes["searched"]["chips"]
    for row in sorted(notes["history"], key=lambda row: -row["value"])[:10]:
        mark = "*" if row["number"] == notes["trial"] else ""
        numbers = (f"{value:.3f}" for value in row["point"].values())
        sure = half_width(math.sqrt(row["variance"]), chips) if chips > 1 else 0.0
        score = f"{100 * row['value']:.2f} % ± {100 * sure:.2f}"
        table.add_row(f"{mark}{row['number'] + 1}", *numbers, score)
    console.print()
    console.print(table)
    console.print()
    searched, fresh = notes["searched"], notes["fresh"]
    say(console, f"winner: trial {notes['trial'] + 1}, {_point(notes['rates'])}", "bold")
    say(console, f"  in the search: {_measured(searched)}")
    after = "" if method.algorithm == "restart" or method.polish is None else ", after its last training"
    say(
        console,
        f"  on chips that decided nothing{after}: {_measured(fresh)}, sigma {method.sigma:g}, validation examples",
    )


def _measured(found: Mapping[str, Any]) -> str:
    sure = (
        ""
        if found["ci95"] is None
        else f" (95 % {100 * found['ci95'][0]:.2f} to {100 * found['ci95'][1]:.2f})"
    )
    return f"{100 * found['mean']:.2f} %{sure} over {found['chips']} chips"
