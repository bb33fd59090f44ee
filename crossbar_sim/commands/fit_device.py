"""`crossbar-sim fit-device`: a measured device as a design for --hardware."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from crossbar_sim import __version__
from crossbar_sim.commands.options import PATH, JsonOptions, argument, command, option
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs, sha256_of, write_json, write_text
from crossbar_sim.report.figure_formats import check_format
from crossbar_sim.text import visible

if TYPE_CHECKING:
    from rich.console import Console

    from crossbar_sim.crossbar.device_fit import DeviceFit


@dataclass(frozen=True)
class FitRequest(JsonOptions):
    """What `fit-device` is to do."""

    measured: str = argument(type=PATH)
    law: Literal["auto", "none", "relaxation", "retention", "measured_relaxation"] = option(
        "The drift law; auto takes the one that describes the measurements best.",
        heading="Measurements", default="auto",
    )  # fmt: skip
    unit: str | None = option(
        "Unit of the conductances, if the column names do not give one: S, mS, uS or nS.",
        heading="Measurements",
    )
    output: str = option(
        "Write the device to this file (TOML), for --hardware.",
        "-o",
        "--output",
        type=PATH,
        default="device.toml",
    )
    plot: str | None = option(
        "Draw errors, fitted law and residuals in this file: .png, .pdf or .svg.", type=PATH
    )


@command(FitRequest)
def fit_device(request: FitRequest) -> None:
    """Fit a device model to your own measurements, and write it as a design that the other commands take.

    MEASURED is a CSV file with the columns target_S, measured_S and time_s. Each row is one reading of a cell: the
    conductance it was programmed to, the conductance that was read, and the time since programming. Columns may be in
    other units, with names such as target_uS or time_ms, and be separated by semicolons, tabs or spaces. An optional
    column `cell` says which readings are of the same cell (docs/devices.md).

    \b
    Examples:
      crossbar-sim fit-device measured.csv -o device.toml --plot residuals.png
      crossbar-sim fit-device measured.csv --law retention --json -
    """
    from crossbar_sim.crossbar.device_fit import fit_device, read_measurements
    from crossbar_sim.report.console import say, say_end, terminal

    measured, output, plot, json_path = request.measured, request.output, request.plot, request.json_path
    check_outputs((output, plot, json_path), (measured,), stream=json_path)
    if os.path.splitext(output)[1].lower() != ".toml":
        raise InputError(f"-o {visible(output)}: a device is written as .toml, which --hardware reads")
    check_format(plot)
    data = read_measurements(measured, request.unit)
    try:
        with warnings.catch_warnings():  # shown below, without a line of source
            warnings.simplefilter("ignore", UserWarning)
            fit = fit_device(data, request.law)
    except InputError as error:
        raise InputError(f"{visible(measured)}: {error}") from None
    digest = sha256_of(measured)
    source = f"{visible(os.path.basename(measured))}, sha256 {digest}, by crossbar-sim {__version__}"
    write_text(output, fit.to_toml(source))
    write_json(json_path, {"source": {"file": os.path.basename(measured), "sha256": digest}, **fit.as_dict()})
    if plot is not None:
        from crossbar_sim.report.device_figure import draw

        draw(fit, plot)
    console = terminal(stderr=json_path == "-")
    _show(fit, console)
    say_end(console, (), output, plot, json_path)
    say(console, f"use it: crossbar-sim deploy model.pt --hardware {output}")


def _show(fit: DeviceFit, console: Console) -> None:
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
