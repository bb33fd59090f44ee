"""`crossbar-sim run`: an experiment as one file."""

from typing import Any

import click


@click.command(no_args_is_help=True)
@click.argument("experiment", type=click.Path())
@click.option(
    "-o", "--output", default=".", show_default=True, help="The folder for results, models and page."
)
@click.option(
    "--budget", type=click.Choice(["full", "quick"]), default="full", show_default=True,
    help="quick: with the file's table [quick] over it; what is written is called NAME-quick.",
)  # fmt: skip
@click.option("--data-dir", type=click.Path(), help="Where data sets are.  [default: $CROSSBAR_SIM_DATA]")
@click.option("--workers", type=int, help="Processes on this machine (Dask) in place of threads.")
@click.option("--scheduler", help="A Dask cluster, e.g. tcp://head:8786.")
@click.option("--threads", type=int, help="Threads to use; results do not depend on it.")
@click.option("--page/--no-page", default=True, show_default=True, help="Write the report page.")
@click.option(
    "--trust-code", is_flag=True,
    help="Let the file name code: arch = \"package.module:factory\" is imported and called.",
)  # fmt: skip
def run(experiment: str, **options: Any) -> None:
    """Run EXPERIMENT, a TOML file (docs/experiments.md); run again, it goes on where it stopped.

    Writes NAME.db (all trials), NAME.json (the curves, groups of training seeds and their tests), NAME.png and
    NAME.html. Trained networks are kept in NAME.models.

    \b
    Examples:
      crossbar-sim run benchmarks/bayesft/mnist_mlp.toml -o runs
      crossbar-sim run benchmarks/bayesft/fig3a_mnist_mlp.toml -o runs --budget quick
    """
    from crossbar_sim.experiments.run import run_experiment

    run_experiment(experiment, **options)
