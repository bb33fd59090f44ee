"""`crossbar-sim run`: an experiment as one file."""

from dataclasses import dataclass
from typing import Literal

from crossbar_sim.commands.options import (
    PATH,
    ClusterOptions,
    DeviceOptions,
    argument,
    command,
    data_dir_option,
    option,
)


@dataclass(frozen=True)
class RunRequest(ClusterOptions, DeviceOptions):
    """What `run` is to do."""

    experiment: str = argument(type=PATH)
    data_dir: str | None = data_dir_option()
    trust_code: bool = option(
        "Allow the file to name code, as package.module:name for a network, drift law or metric: it is imported and "
        "run.",
        heading="Model",
    )
    budget: Literal["full", "quick", "cpu"] = option(
        "quick: apply the changes of the file's [quick] table; output files are then called NAME-quick. cpu: the same "
        "with [cpu], hours on a few cores.",
        heading="Statistics", default="full",
    )  # fmt: skip
    output: str = option("Folder for all output files.", "-o", "--output", heading="Output", default=".")
    page: bool = option("Write the report page.", "--page/--no-page", heading="Output", default=True)


@command(RunRequest)
def run(request: RunRequest) -> None:
    """Run a whole experiment (training, sweep, report) that is described in one file.

    EXPERIMENT is a TOML file (docs/experiments.md). It writes NAME.db (all results), NAME.json (the curves, groups of
    training seeds and their tests), NAME.png and NAME.html; trained networks are kept in NAME.models. Run it again to
    resume where it stopped.

    \b
    Examples:
      crossbar-sim run benchmarks/bayesft/mnist_mlp.toml -o runs
      crossbar-sim run benchmarks/bayesft/fig3a_mnist_mlp.toml -o runs --budget quick
    """
    from crossbar_sim.experiments.run import run_experiment

    request.set_threads()
    run_experiment(
        request.experiment,
        output=request.output,
        budget=request.budget,
        data_dir=request.data_dir,
        workers=request.processes(request.device),
        scheduler=request.scheduler,
        page=request.page,
        trust_code=request.trust_code,
        device=None if request.device is None else request.chosen_device().name,
    )
