"""`crossbar-sim fit-device`: a measured device as a design for --hardware."""

from __future__ import annotations

import hashlib
import os
import warnings
from typing import TYPE_CHECKING

import click

from crossbar_sim import __version__
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs, write_json, write_text
from crossbar_sim.text import visible

if TYPE_CHECKING:
    from rich.console import Console

    from crossbar_sim.crossbar.device_fit import DeviceFit


@click.command("fit-device", no_args_is_help=True)
@click.argument("measured", type=click.Path())
@click.option(
    "-o", "--output", type=click.Path(), default="device.toml", show_default=True,
    help="Write the device here (TOML), for --hardware.",
)  # fmt: skip
@click.option(
    "--law",
    type=click.Choice(["auto", "none", "relaxation", "retention", "measured_relaxation"]),
    default="auto",
    show_default=True,
    help="The drift law; auto takes the one that describes the measurements best.",
)
@click.option("--unit", help="Unit of the conductances, where the columns' names give none: S, mS, uS or nS.")
@click.option("--plot", type=click.Path(), help="Draw errors, law and residuals: .png, .pdf or .svg.")
@click.option("--json", "json_path", type=click.Path(), help="Write the fit as JSON (- for standard output).")
def fit_device(
    measured: str, output: str, law: str, unit: str | None, plot: str | None, json_path: str | None
) -> None:
    """Fit programming and drift laws to MEASURED, a CSV file with the columns target_S, measured_S, time_s.

    Each row is one reading of a cell: what it was programmed to, what was read, and how long after programming.
    The columns may be in other units, named so (target_uS, time_ms), and separated by semicolons, tabs or spaces.
    A column `cell` says which readings are of one cell (docs/devices.md).

    \b
    Examples:
      crossbar-sim fit-device measured.csv -o device.toml --plot residuals.png
      crossbar-sim fit-device measured.csv --law retention --json -
    """

    run_fit_device(measured, output, law, plot, json_path, unit)


def run_fit_device(
    measured: str, output: str, law: str, plot: str | None, json_path: str | None, unit: str | None = None
) -> None:
    """Fit, print, and write what was asked for; see `crossbar-sim fit-device --help`.

    Raises:
        InputError: for anything that cannot be used; outputs are checked before the work.
    """
    from crossbar_sim.crossbar.device_fit import fit_device, read_measurements
    from crossbar_sim.report.console import say, terminal

    check_outputs((output, plot, json_path), (measured,), stream=json_path)
    if os.path.splitext(output)[1].lower() != ".toml":
        raise InputError(f"-o {visible(output)}: a device is written as .toml, which --hardware reads")
    if plot is not None:
        from crossbar_sim.report.figure import check_format

        check_format(plot)
    data = read_measurements(measured, unit)
    try:
        with warnings.catch_warnings():  # shown below, without a line of source
            warnings.simplefilter("ignore", UserWarning)
            fit = fit_device(data, law)
    except InputError as error:
        raise InputError(f"{visible(measured)}: {error}") from None
    with open(measured, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    source = f"{visible(os.path.basename(measured))}, sha256 {digest}, by crossbar-sim {__version__}"
    write_text(output, fit.to_toml(source))
    report = {"source": {"file": os.path.basename(measured), "sha256": digest}, **fit.as_dict()}
    write_json(json_path, report)
    if plot is not None:
        from crossbar_sim.report.device_figure import draw

        draw(fit, plot)
    console = terminal(stderr=json_path == "-")
    show(fit, console)
    for path in (output, plot, json_path):
        if path is not None and path != "-":
            say(console, f"wrote {path}")
    say(console, f"use it: crossbar-sim deploy model.pt --hardware {output}")


def show(fit: DeviceFit, console: Console) -> None:
    """Print the law, its parameters with intervals, and how good it is."""
    import numpy as np

    from crossbar_sim.report.console import say

    drift = {"none": "no drift", "relaxation": "a shift linear in ln t", "retention": "a power law of t"}
    drift["measured_relaxation"] = "a shift linear in ln t whose mean and spread depend on g"
    say(console, f"{fit.notes[0]}; {drift[fit.law]}")
    for p in fit.parameters:
        unit, factor = ("uS", 1e6) if p.unit == "S" else ("", 1.0)
        bounded = np.isfinite(p.low) and np.isfinite(p.high)
        interval = f"[{p.low * factor:.4g}, {p.high * factor:.4g}]" if bounded else "not determined"
        say(console, f"  {p.name:<28} {p.value * factor:>10.4g} {unit:<3} {interval}")
    for sentence in fit.warnings:
        say(console, f"warning: {sentence}", "yellow")
    say(console, fit.quality.sentence, "" if fit.quality.grade == "good" else "yellow")
