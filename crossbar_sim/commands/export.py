"""`crossbar-sim export`: one chip's conductance maps."""

import os
from dataclasses import dataclass

from crossbar_sim import __version__
from crossbar_sim.commands.options import (
    PATH,
    HardwareOptions,
    LayerOptions,
    ModelOptions,
    SeedOptions,
    argument,
    command,
    option,
)
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs


@dataclass(frozen=True)
class ExportRequest(ModelOptions, HardwareOptions, LayerOptions, SeedOptions):
    """What `export` is to do."""

    output: str = argument(type=PATH)
    chip: int = option("Number of the chip.", heading="Statistics", default=0)


@command(ExportRequest)
def export(request: ExportRequest) -> None:
    """Write the conductance of every cell of one simulated chip to a file.

    The weights of MODEL are mapped and programmed; OUTPUT is an HDF5 file (docs/format.md).

    \b
    Example:
      crossbar-sim export model.pt chip.h5 --sigma 0.6 --chip 3
    """
    from crossbar_sim.nn import to_analog
    from crossbar_sim.nn.analog.chips import slots
    from crossbar_sim.report.console import say, say_end, terminal
    from crossbar_sim.robustness.examples import seen_in
    from crossbar_sim.store import export_chip

    hardware, warnings = request.hardware()
    loaded = request.read(request.model)
    output, chip, seed, only = request.output, request.chip, request.seed, request.only or None
    check_outputs((output,), (request.model, request.hardware_file))
    suffix = os.path.splitext(output)[1].lower()
    if suffix not in ("", ".h5", ".hdf5", ".he5", ".hdf"):
        raise InputError(
            f"{output}: conductance maps are written as HDF5 (.h5), not as {suffix}: name it NAME.h5"
        )
    operands, sentences = seen_in(loaded, hardware, None, only, request.skip)
    analog = to_analog(loaded.module, hardware, seed, chip, only, request.skip, operands)
    written = sum(1 for slot, _ in slots(analog) if not slot.ideal)
    if not written:
        raise InputError("no layer is on an array, so there is nothing to write: " + "; ".join(sentences))
    export_chip(
        analog, output, hardware=hardware, seed=seed, chip=chip, model_sha256=loaded.sha256, version=__version__
    )  # fmt: skip
    console = terminal()
    say_end(console, (*warnings, *sentences))
    say(console, f"wrote {output}: chip {chip}, {written} arrays")
