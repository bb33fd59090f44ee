"""`crossbar-sim fit-device`: a measured device as a design for --hardware."""

import click


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
    from crossbar_sim.device_fitting import run_fit_device

    run_fit_device(measured, output, law, plot, json_path, unit)
