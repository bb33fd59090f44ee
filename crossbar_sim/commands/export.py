"""`crossbar-sim export`: one chip's conductance maps."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from crossbar_sim import __version__
from crossbar_sim.commands.options import (
    build_hardware,
    hardware_options,
    model_options,
    model_ways,
    read_model,
    split_options,
)
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs

if TYPE_CHECKING:
    from crossbar_sim.crossbar.hardware import Hardware
    from crossbar_sim.nn.files.loading import LoadedModel


@click.command(no_args_is_help=True)
@click.argument("model", type=click.Path())
@click.argument("output", type=click.Path())
@hardware_options()
@click.option("--chip", default=0, show_default=True, help="Which chip.")
@click.option("--seed", default=0, show_default=True, help="Of all random numbers.")
@click.option("--only", multiple=True, help="Only these layers (name or pattern; repeatable).")
@click.option("--skip", multiple=True, help="Not these layers (name or pattern; repeatable).")
@model_options
def export(**options: Any) -> None:
    """Write one chip's conductance maps of MODEL to OUTPUT (HDF5, docs/format.md).

    \b
    Example:
      crossbar-sim export model.pt chip.h5 --sigma 0.6 --chip 3
    """

    design, rest = split_options(options)
    hardware, told = build_hardware(design)
    path = rest.pop("model")
    loaded = read_model(path, **model_ways(rest))
    run_export(loaded, hardware, told, inputs=(path, design["hardware_file"]), **rest)


def run_export(
    loaded: LoadedModel,
    hardware: Hardware,
    warnings: tuple[str, ...],
    *,
    inputs: tuple[str | None, ...],
    output: str,
    chip: int,
    seed: int,
    only: tuple[str, ...],
    skip: tuple[str, ...],
) -> None:
    """Write one chip's conductance maps; see `crossbar-sim export --help`."""
    from crossbar_sim.nn import to_analog
    from crossbar_sim.nn.analog.chips import slots
    from crossbar_sim.report.console import say, terminal
    from crossbar_sim.robustness.examples import seen_in
    from crossbar_sim.store import export_chip

    check_outputs((output,), inputs)
    suffix = os.path.splitext(output)[1].lower()
    if suffix not in ("", ".h5", ".hdf5", ".he5", ".hdf"):
        raise InputError(
            f"{output}: conductance maps are written as HDF5 (.h5), not as {suffix}: name it NAME.h5"
        )
    seen, said = seen_in(loaded, hardware, None, only or None, skip)
    analog = to_analog(loaded.module, hardware, seed, chip, only or None, skip, seen)
    written = sum(1 for slot, _ in slots(analog) if not slot.ideal)
    if not written:
        raise InputError("no layer is on an array, so there is nothing to write: " + "; ".join(said))
    export_chip(
        analog,
        output,
        hardware=hardware,
        seed=seed,
        chip=chip,
        model_sha256=loaded.sha256,
        version=__version__,
    )
    console = terminal()
    for warning in (*warnings, *said):
        say(console, f"warning: {warning}", "yellow")
    say(console, f"wrote {output}: chip {chip}, {written} arrays")
