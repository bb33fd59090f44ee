"""`crossbar-sim calibrate`: converter ranges from data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from crossbar_sim.commands.options import (
    PATH,
    DataOptions,
    DeviceOptions,
    HardwareOptions,
    JsonOptions,
    LayerOptions,
    ModelOptions,
    SeedOptions,
    ThreadOptions,
    command,
    option,
)
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs, write_json, write_text
from crossbar_sim.text import visible

if TYPE_CHECKING:
    from rich.table import Table

    from crossbar_sim.nn.analog.range_calibration import RangeReport


@dataclass(frozen=True)
class CalibrateRequest(
    ModelOptions,
    HardwareOptions,
    LayerOptions,
    DataOptions,
    SeedOptions,
    ThreadOptions,
    DeviceOptions,
    JsonOptions,
):
    """What `calibrate` is to do."""

    images: int = option(
        "Number of training examples to use, drawn at random with --seed.", heading="Data", default=512
    )
    chip: int | None = option(
        "Calibrate on this chip, instead of on the target conductances.", heading="Statistics"
    )
    output: str = option(
        "Write the calibrated design to this file: .toml or .json.", "--output", "-o",
        heading="Output", type=PATH, required=True,
    )  # fmt: skip


@command(CalibrateRequest)
def calibrate(request: CalibrateRequest) -> None:
    """Choose the input and output ranges of DACs and ADCs from data, and report how well they fit.

    Only training examples of MODEL's data are used. Converters of the design whose range is "calibrated" get their
    range; the design is then written with these ranges (docs/periphery.md).

    \b
    Examples:
      crossbar-sim calibrate model.pt --data mnist --hardware mine.toml -o mine-calibrated.toml
      crossbar-sim calibrate model.pt --adc-bits 6 --dac-bits 8 --dac-range calibrated -o design.toml
    """
    from crossbar_sim.crossbar.layer_designs import designs_of, to_json, to_toml
    from crossbar_sim.nn.analog.range_calibration import calibrate_ranges
    from crossbar_sim.report.console import say, say_end, terminal
    from crossbar_sim.robustness.range_data import calibration_inputs

    hardware, warnings = request.hardware()
    loaded = request.read(request.model)
    output = request.output
    inputs = (request.model, request.hardware_file, request.data)
    check_outputs((output, request.json_path), inputs, stream=request.json_path)
    if not output.lower().endswith((".toml", ".json")):
        raise InputError(f"{output}: a design file ends in .toml or .json")
    request.set_threads()
    device = request.chosen_device()
    x, source = calibration_inputs(
        loaded, request.data, request.data_dir, request.images, request.input_shape, request.seed
    )
    loaded.module.eval()
    calibrated, reports = calibrate_ranges(
        loaded.module, hardware, x,
        only=request.only or None, skip=request.skip, seed=request.seed, chip=request.chip, fixed=loaded.batch,
    )  # fmt: skip
    write_text(
        output, to_toml(calibrated) if output.lower().endswith(".toml") else to_json(calibrated) + "\n"
    )
    write_json(request.json_path, {"data": source, "arrays": [asdict(r) for r in reports]})
    console = terminal(stderr=request.json_path == "-")
    say_end(console, warnings)
    if device.tensors:
        say(console, f"note: {_ON_CPU}")
    say(console, f"converters calibrated on {source}")
    console.print(_table(reports))
    converters = [part for own in designs_of(hardware) for part in (own.dac, own.adc)]
    unused = not any(part is not None and part.range == "calibrated" for part in converters)
    say_end(console, (*([_UNUSED] if unused else []), *cautions(reports)), output)


_ON_CPU = (
    "converter ranges are chosen on the CPU, whatever --device says: they are part of the design, which is to be the "
    "same on every machine"
)

_UNUSED = (
    "no converter of this design has the range 'calibrated': these are its own ranges, and nothing was chosen; give "
    "--adc-range calibrated or --dac-range calibrated"
)


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
