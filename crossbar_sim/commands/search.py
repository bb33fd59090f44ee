"""`crossbar-sim search`: dropout rates with which a network survives its hardware."""

from typing import Any

import click

from crossbar_sim.cli_options import build_hardware, hardware_options, split_options


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
    from crossbar_sim.searching import run_search

    design, rest = split_options(options)
    hardware, told = build_hardware(design)
    run_search(hardware, told, inputs=(design["hardware_file"],), **rest)
