"""`crossbar-sim calibrate`: converter ranges from data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from crossbar_sim.commands.options import (
    build_hardware,
    hardware_options,
    model_options,
    model_ways,
    read_model,
    shape,
    split_options,
)
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs, write_json, write_text
from crossbar_sim.text import visible

if TYPE_CHECKING:
    from rich.table import Table

    from crossbar_sim.crossbar.hardware import Hardware
    from crossbar_sim.nn.analog.range_calibration import RangeReport
    from crossbar_sim.nn.files.loading import LoadedModel


@click.command(no_args_is_help=True)
@click.argument("model", type=click.Path())
@hardware_options()
@click.option("--data", help="A data set's name or a path (see `data list`).  [default: the model's own]")
@click.option("--data-dir", type=click.Path(), help="Where data sets are.  [default: $CROSSBAR_SIM_DATA]")
@click.option("--images", default=512, show_default=True, help="Training examples to use, drawn by the seed.")
@click.option("--input-shape", help="Without data: the shape of one random input, e.g. 3,32,32.")
@click.option("--chip", type=int, help="Calibrate on this chip rather than on the conductances aimed at.")
@click.option("--seed", default=0, show_default=True, help="Of all random numbers.")
@click.option("--only", multiple=True, help="Only these layers (name or pattern; repeatable).")
@click.option("--skip", multiple=True, help="Not these layers (name or pattern; repeatable).")
@click.option(
    "--json", "json_path", type=click.Path(), help="Write the report as JSON (- for standard output)."
)
@click.option("--threads", type=int, help="Threads to use; results do not depend on it.")
@click.option(
    "--output", "-o", type=click.Path(), required=True, help="Write the design here: .toml or .json."
)
@model_options
def calibrate(**options: Any) -> None:
    """Choose the ranges of MODEL's DACs and ADCs from data, and say how well they fit.

    Test examples are not read. Ranges are those of the design's converters with range "calibrated"; the file
    written is the design with them (docs/periphery.md).

    \b
    Examples:
      crossbar-sim calibrate model.pt --data mnist --hardware mine.toml -o mine-calibrated.toml
      crossbar-sim calibrate model.pt --adc-bits 6 --dac-bits 8 --dac-range calibrated -o design.toml
    """

    design, rest = split_options(options)
    sides = shape(rest.pop("input_shape"))
    hardware, told = build_hardware(design)
    path = rest.pop("model")
    loaded = read_model(path, **model_ways(rest))
    run_calibrate(
        loaded,
        hardware,
        told,
        inputs=(path, design["hardware_file"], rest["data"]),
        input_shape=sides,
        **rest,
    )


def run_calibrate(
    loaded: LoadedModel,
    hardware: Hardware,
    warnings: tuple[str, ...],
    *,
    inputs: tuple[str | None, ...],
    output: str,
    data: str | None,
    data_dir: str | None,
    images: int,
    input_shape: tuple[int, ...] | None,
    chip: int | None,
    seed: int,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    json_path: str | None,
    threads: int | None,
) -> None:
    """Choose converter ranges, say how well they fit, and write the design with them.

    Raises:
        InputError: for anything that cannot be used; outputs are checked before the long work.
    """
    from crossbar_sim.crossbar import threads as pool
    from crossbar_sim.crossbar.configuration import to_json, to_toml
    from crossbar_sim.nn.analog.range_calibration import calibrate_ranges
    from crossbar_sim.report.console import say, terminal
    from crossbar_sim.robustness.range_data import calibration_inputs

    check_outputs((output, json_path), inputs, stream=json_path)
    if not output.lower().endswith((".toml", ".json")):
        raise InputError(f"{output}: a hardware file ends in .toml or .json")
    if threads is not None:
        pool.set_threads(threads)
    x, told = calibration_inputs(loaded, data, data_dir, images, input_shape, seed)
    loaded.module.eval()
    calibrated, reports = calibrate_ranges(
        loaded.module, hardware, x, only=only or None, skip=skip, seed=seed, chip=chip, fixed=loaded.batch
    )
    write_text(
        output, to_toml(calibrated) if output.lower().endswith(".toml") else to_json(calibrated) + "\n"
    )
    console = terminal(stderr=json_path == "-")
    write_json(json_path, {"data": told, "arrays": [asdict(r) for r in reports]})
    for warning in warnings:
        say(console, f"warning: {warning}", "yellow")
    say(console, f"converters calibrated on {told}")
    console.print(_table(reports))
    if not any(part is not None and part.range == "calibrated" for part in (hardware.dac, hardware.adc)):
        say(
            console,
            "warning: no converter of this design has the range 'calibrated': these are its own ranges, and nothing "
            "was chosen; give --adc-range calibrated or --dac-range calibrated",
            "yellow",
        )
    for sentence in cautions(reports):
        say(console, f"warning: {sentence}", "yellow")
    say(console, f"wrote {output}")


def cautions(reports: tuple[RangeReport, ...]) -> Iterator[str]:
    """What is wrong with ranges."""
    for r in reports:
        for what, clipped in (("inputs", r.input_clipped), ("conversions", r.output_clipped)):
            if clipped is not None and clipped > 1:
                yield f"{r.name}: {clipped:.3g} % of the {what} are clipped: give a wider range or percentile"
        if r.output_used is not None and r.output_used < 5:
            yield (
                f"{r.name}: {r.output_used:.2g} % of the ADC's codes came up: its range is far too wide, calibrate it "
                "or give a smaller one"
            )


def _table(reports: tuple[RangeReport, ...]) -> Table:
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for name in ("array", "DAC range", "clipped %", "used %", "ADC range uA", "clipped %", "used %"):
        table.add_column(name, justify="left" if name == "array" else "right")
    for r in reports:
        table.add_row(
            visible(r.name), "-" if r.input is None else f"{r.input:.4g}", _percent(r.input_clipped),
            _percent(r.input_used), _amperes(r.output),
            _percent(r.output_clipped), _percent(r.output_used),
        )  # fmt: skip
    return table


def _amperes(output: tuple[float, ...]) -> str:
    """In uA, for each weight slice; once where all are the same."""
    shown = [f"{full * 1e6:.4g}" for full in output]
    return " ".join(shown[:1] if len(set(shown)) == 1 else shown) or "-"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
