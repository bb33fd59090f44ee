"""`crossbar-sim train`: a network by one of the methods."""

from typing import Any

import click

from crossbar_sim.cli_options import build_hardware, hardware_options, split_options


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
    from crossbar_sim.fitting import run_train

    design, rest = split_options(options)
    sigma = design["sigma"]
    others = any(value is not None for name, value in design.items() if name != "sigma")
    hardware, told = build_hardware(design) if others or sigma is not None else (None, ())
    run_train(hardware, told, sigma=sigma, designed=others, inputs=(design["hardware_file"],), **rest)
