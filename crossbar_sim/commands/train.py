"""`crossbar-sim train`: a network by one of the methods."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import click

from crossbar_sim.commands.options import build_hardware, hardware_options, split_options
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs
from crossbar_sim.validate import show

if TYPE_CHECKING:
    from crossbar_sim.crossbar.hardware import Hardware
    from crossbar_sim.nn.training.loop import Epoch


@click.command(no_args_is_help=True)
@click.option("--network", required=True, help="A network's name: mlp, lenet5, ... (docs/networks.md).")
@click.option("--network-arguments", help="Its arguments as JSON, e.g. '{\"hidden\": [64, 32]}'.")
@click.option("--data", required=True, help="A data set's name or a path (see `data list`).")
@click.option("--data-dir", type=click.Path(), help="Where data sets are.  [default: $CROSSBAR_SIM_DATA]")
@click.option(
    "--method", default="erm", show_default=True, help="erm, dropout, awp, ftna, reram-v, drift-aware."
)
@click.option(
    "--set", "settings", multiple=True, metavar="NAME=VALUE",
    help="A setting of the method, e.g. rate=0.3 or gamma=0.02 (docs/methods.md; repeatable).",
)  # fmt: skip
@hardware_options()
@click.option("--epochs", type=int, help="Passes over the training examples.  [default: the method's]")
@click.option("--batch", type=int, help="Examples per step.  [default: the method's]")
@click.option("--lr", type=float, help="The highest learning rate.  [default: the method's]")
@click.option("--optimiser", help="adam or sgd.  [default: adam]")
@click.option("--schedule", type=click.Choice(["one-cycle", "constant"]), help="[default: one-cycle]")
@click.option("--weight-decay", type=float, help="[default: 0]")
@click.option(
    "--clip-gradient", type=float,
    help="Hold every component of the gradient in -VALUE .. VALUE (--clip is of the design).",
)  # fmt: skip
@click.option(
    "--patience", type=int,
    help="Stop after so many epochs without a better validation accuracy (of clean weights: not with drift-aware).",
)  # fmt: skip
@click.option("--crop", type=int, help="Shift training images at random by so many pixels at most, e.g. 4.")
@click.option("--flip", is_flag=True, help="Mirror half of the training images.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), help="[default: float32]")
@click.option(
    "--channels-last", is_flag=True,
    help="Lay images out with the channels last in memory: faster for most convolutional networks.",
)  # fmt: skip
@click.option("--device", help="Where to train, e.g. cuda.  [default: the CPU]")
@click.option(
    "--seed", default=0, show_default=True, help="Of initialisation, shuffling, dropout and training noise."
)
@click.option("--checkpoint", type=click.Path(), help="A file that a killed training goes on from.")
@click.option("--threads", type=int, help="Threads of the simulation; results do not depend on it.")
@click.option("--output", "-o", type=click.Path(), required=True, help="Write the trained network here.")
def train(**options: Any) -> None:
    """Train a network on the training examples of a data set; its test examples are not read.

    \b
    Examples:
      crossbar-sim train --network mlp --data mnist --method erm -o erm.pt
      crossbar-sim train --network mlp --data mnist --method drift-aware --sigma 1.0 -o aware.pt
      crossbar-sim train --network lenet5 --data mnist --method dropout --set rate=0.3 --epochs 20 -o net.pt
    """

    design, rest = split_options(options)
    sigma = design["sigma"]
    others = any(value is not None for name, value in design.items() if name != "sigma")
    hardware, told = build_hardware(design) if others or sigma is not None else (None, ())
    run_train(hardware, told, sigma=sigma, designed=others, inputs=(design["hardware_file"],), **rest)


def run_train(
    hardware: Hardware | None,
    warnings: tuple[str, ...],
    *,
    sigma: float | None,
    designed: bool,
    inputs: tuple[str | None, ...],
    network: str,
    network_arguments: str | None,
    data: str,
    data_dir: str | None,
    method: str,
    settings: tuple[str, ...],
    seed: int,
    checkpoint: str | None,
    threads: int | None,
    output: str,
    **training: Any,
) -> None:
    """Train, say how well it went on the validation examples, save; see `crossbar-sim train --help`.

    Args:
        hardware: the design, if the command names one.
        sigma: what --sigma gave: also a setting of methods that have a sigma.
        designed: whether anything but --sigma describes the design.
        training: settings that all methods share; None where not given.

    Raises:
        InputError: for anything that cannot be used; outputs are checked before the long work.
    """
    from crossbar_sim.baselines.drift_aware import DriftAware
    from crossbar_sim.baselines.settings import METHODS, setting
    from crossbar_sim.crossbar import threads as pool
    from crossbar_sim.data import load_data
    from crossbar_sim.experiments.networks import (
        DETECTION,
        Named,
        parsed_arguments,
        save_network,
        validation_in_words,
    )
    from crossbar_sim.nn.detection import detects
    from crossbar_sim.nn.networks import NETWORKS
    from crossbar_sim.nn.training.augment import Augment
    from crossbar_sim.report.console import say, terminal
    from crossbar_sim.rng import Key
    from crossbar_sim.search import BayesFT
    from crossbar_sim.search.by_name import any_method

    check_outputs((output, checkpoint), (*inputs, data))
    if threads is not None:
        pool.set_threads(threads)
    if method == BayesFT.kind:
        raise InputError("bayesft is a search: use crossbar-sim search, whose options are its settings")
    own = dict(map(setting, settings))
    kind = METHODS.get(method)
    takes = {f.name for f in fields(kind)} if kind is not None else set()  # type: ignore[arg-type]
    if sigma is not None and "sigma" in takes:
        if "sigma" in own:
            raise InputError(
                f"--sigma {sigma:g} and --set sigma={show(own['sigma'])} are one setting: give one of them"
            )
        own["sigma"] = sigma
    if method == DriftAware.kind and designed and hardware is not None and "sigma" not in own:
        _ask_for_sigma(hardware)
    given = {name: value for name, value in training.items() if value is not None}
    if given.get("crop") is not None or given.get("flip"):
        given["augment"] = Augment(given.pop("crop", 0), bool(given.pop("flip", False)))
    given.pop("flip", None)
    if "clip_gradient" in given:
        given["clip"] = given.pop("clip_gradient")
    if detects(NETWORKS.get(network)):
        given = {**DETECTION, **given}
    needs = designed or (sigma is not None and "sigma" not in takes)
    way = any_method(method, own, given, hardware if needs else None)
    splits = load_data(data, data_dir)
    made = Named.of(network, parsed_arguments(network_arguments), splits)
    console = terminal()

    def tell(epoch: Epoch) -> None:
        score = epoch.validation_accuracy
        held = "" if score is None else f", {validation_in_words(NETWORKS[network], score)}"
        say(console, f"epoch {epoch.number}: loss {epoch.loss:.4g}{held}")

    say(console, f"{method}: {way.citation}", "dim")
    done = way.fit(made, splits.development, Key(seed), progress=tell, checkpoint=checkpoint)
    for warning in warnings if needs else ():
        say(console, f"warning: {warning}", "yellow")
    for name, value in done.notes.items():
        text = json.dumps(value, default=str)
        say(console, f"{name}: {text if len(text) <= 120 else text[:117] + '...'}")
    save_network(output, done.model, data)
    then = f"sweep {output}" if detects(done.model) else f"deploy {output} --sigma 0.6"
    say(console, f"wrote {output}: crossbar-sim {then}")


def _ask_for_sigma(hardware: Hardware) -> None:
    """Refuse to train for a design without log-normal drift at the method's own sigma, which nobody asked for.

    Raises:
        InputError: saying how to ask for it, or for the design alone.
    """
    from crossbar_sim.crossbar.drift import LogNormalDrift

    if not isinstance(hardware.drift, LogNormalDrift):
        law = "no drift" if hardware.drift is None else f"{hardware.drift.kind} drift"
        raise InputError(
            f"the design has {law}: say with --sigma what drift to train for, or train on the design as it is with "
            "--set sigma=null --set ramp=0 --set temperature=false"
        )
