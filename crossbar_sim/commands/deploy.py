"""`crossbar-sim deploy`: a model evaluated on simulated chips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crossbar_sim import __version__
from crossbar_sim.commands.options import (
    PATH,
    CalibrationOptions,
    DeviceOptions,
    HardwareOptions,
    ModelOptions,
    command,
    option,
    percentile_option,
)
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs, write_json
from crossbar_sim.report.figure_formats import check_format

if TYPE_CHECKING:
    from torch import nn

    from crossbar_sim.crossbar.layer_designs import Design
    from crossbar_sim.nn.files.loading import LoadedModel
    from crossbar_sim.robustness.deploy import Deployment
    from crossbar_sim.store import ChipFile


@dataclass(frozen=True)
class DeployRequest(ModelOptions, HardwareOptions, CalibrationOptions, DeviceOptions):
    """What `deploy` is to do."""

    conductances: str | None = option(
        "Use the measured or exported conductances of this chip file instead of simulated ones.",
        heading="Hardware", type=PATH,
    )  # fmt: skip
    remap: bool = option(
        "Choose the cells of each weight so that stuck cells do least harm (docs/devices.md).",
        heading="Hardware",
    )
    threshold: float | None = option(
        "Score that a chip needs to pass, for the yield.  [default: the clean score minus 0.05]",
        heading="Statistics",
    )
    percentile: float | None = percentile_option()
    sensitivity_chips: int = option(
        "Number of chips on which the sensitivity to each layer is measured; 0 turns this off.",
        heading="Statistics", default=5,
    )  # fmt: skip
    plot: str | None = option(
        "Draw the report in this file: .png, .pdf or .svg.", heading="Output", type=PATH
    )
    maps: str | None = option(
        "Write the conductances of the first chip to this file (HDF5).", heading="Output", type=PATH
    )


@command(DeployRequest)
def deploy(request: DeployRequest) -> None:
    """Evaluate a trained model on simulated chips, and show how much of its accuracy is left.

    MODEL is a torch.export archive (.pt2), a checkpoint written by `crossbar-sim train`, a Hugging Face folder, or a
    state_dict or safetensors file with --arch (docs/models.md).
    Scores come with 95 % confidence intervals over chips; the report also shows which layers lose most.

    \b
    Examples:
      crossbar-sim deploy model.pt --sigma 0.6
      crossbar-sim deploy resnet18.pt2 --sigma 0.6 --data mine.npz --chips 50 --threshold 0.9 --plot out.png
      crossbar-sim deploy model.pt --preset reram_wan2022 --bias row --copies 4
    """
    from crossbar_sim.nn import to_analog
    from crossbar_sim.report.console import progress, say_end, terminal
    from crossbar_sim.report.deployment_terminal import show
    from crossbar_sim.robustness.deploy import deploy, identity_of
    from crossbar_sim.robustness.examples import seen_in
    from crossbar_sim.store import export_chip, read_chip

    hardware, warnings = request.hardware()
    loaded = request.read(request.model)
    _check(request)
    request.set_threads()
    request.set_memory()
    device = request.chosen_device()
    chips = request.chips or range(20)
    chip_file = None if request.conductances is None else read_chip(request.conductances)
    if chip_file is not None:
        warnings = () if chip_file.hardware is not None else warnings
        hardware, about_file = _design_of(chip_file, hardware, bool(request.design()), loaded)
        warnings += about_file
        chips = range(chip_file.chip or 0, (chip_file.chip or 0) + 1)
    examples = request.examples(loaded)
    hardware, calibrated = request.calibrated(loaded, hardware, request.calibration_data)
    calibration = request.calibration(loaded)
    model, only, operands = loaded.module, request.only or None, None
    if chip_file is not None or request.plot is not None or request.maps is not None:
        operands, _ = seen_in(
            loaded, hardware, examples.x, only, request.skip
        )  # the evaluation says the same

    def analog_model() -> nn.Module:
        return to_analog(model, hardware, request.seed, chips[0], only, request.skip, operands)

    if chip_file is not None:
        warnings += _misfits(chip_file, analog_model(), hardware, bool(request.design()))
    with progress(terminal(stderr=True)) as step:
        deployment = deploy(
            model, examples.x, examples.y, hardware,
            seed=request.seed, chips=chips, threshold=request.threshold, metric=request.metric,
            class_axis=request.class_axis, device=device, only=only, skip=request.skip,
            sensitivity_chips=request.sensitivity_chips, remap=request.remap, calibration=calibration,
            maps=None if chip_file is None else chip_file.maps(hardware), fixed=loaded.batch,
            identity=identity_of(loaded, examples.identity, chip_file),
            notes=(*loaded.notes, *examples.notes, *calibrated), warnings=warnings, progress=step,
        )  # fmt: skip
    percent = request.percentile
    more = {} if percent is None else {"percentile": deployment.percentile(percent).as_dict()}
    write_json(request.json_path, deployment.as_dict() | more)
    if request.plot is not None:
        from crossbar_sim.report.deploy_figure import conductance_maps, draw

        simulated = chip_file is None and not request.remap
        maps = conductance_maps(analog_model(), _worst(deployment)) if simulated else None
        draw(deployment, request.plot, maps)
    if request.maps is not None:
        export_chip(
            analog_model(), request.maps, hardware=hardware, seed=request.seed, chip=chips[0],
            model_sha256=loaded.sha256, version=__version__,
        )  # fmt: skip
    console = terminal(stderr=request.json_path == "-")
    show(deployment, console, percent)  # last: a reader that has gone away must not cost the files
    say_end(console, (), request.json_path, request.plot, request.maps)


def _check(request: DeployRequest) -> None:
    """Refuse, before the work, what could not be written, and options that exclude each other."""
    check_outputs(
        (request.json_path, request.plot, request.maps),
        (request.model, request.hardware_file, request.data, request.conductances),
        stream=request.json_path,
    )
    check_format(request.plot)
    if request.remap and (request.conductances is not None or request.maps is not None):
        flag = "--maps" if request.maps is not None else "--conductances"
        raise InputError(
            f"--remap moves weights to other cells, and {flag} needs them in place: leave out one of the two"
        )
    if request.conductances is not None and (request.chips is not None or request.maps is not None):
        flag = "--chips" if request.chips is not None else "--maps"
        raise InputError(f"--conductances is one chip, which is not simulated: leave out {flag}")


def _design_of(
    chip: ChipFile, hardware: Design, designed: bool, loaded: LoadedModel
) -> tuple[Design, tuple[str, ...]]:
    """The design to map the model with so that a chip file fits, and what to warn of.

    Raises:
        InputError: if options describe another design than the file's, which they could not change.
    """
    from crossbar_sim.store.chip_file import hardware_in_words

    if chip.hardware is None:
        return hardware, ()
    if designed and chip.hardware != hardware:
        raise InputError(
            f"{chip.path} was simulated with another design ({hardware_in_words(chip.hardware)}): "
            "leave out the options that describe the design, which have no effect here"
        )
    if chip.model_sha256 not in (None, loaded.sha256):
        return chip.hardware, ("the chip file was made from another model file than this one",)
    return chip.hardware, ()


def _misfits(chip: ChipFile, analog: nn.Module, hardware: Design, designed: bool) -> tuple[str, ...]:
    """What a chip file lacks for this model."""
    from crossbar_sim.crossbar.layer_designs import designs_of
    from crossbar_sim.nn.analog.chips import slots

    missing, _ = chip.check_against([slot.name for slot, _ in slots(analog) if not slot.ideal])
    found = tuple(f"the chip file has no map of {name}: it computes with clean weights" for name in missing)
    assumed = chip.without_scale()
    if not assumed:
        return found
    windows = dict.fromkeys((own.mapping.g_min, own.mapping.g_max) for own in designs_of(hardware))
    spans = " or ".join(f"{low * 1e6:g} .. {high * 1e6:g}" for low, high in windows)
    return (
        *found,
        f"the chip file has no attribute scale for {', '.join(assumed)}: the weights are assumed to have been "
        f"mapped to {spans} uS ({'the design given' if designed else 'of preset bayesft'}); add scale, "
        "in S per weight unit, or give the design with --hardware",
    )


def _worst(deployment: Deployment) -> str | None:
    """The mapped layer with the largest drop, if that was measured."""
    drops = {
        r.layer.name: r.sensitivity.drop.mean for r in deployment.layers if r.sensitivity and r.layer.analog
    }
    return max(drops, key=lambda name: drops[name]) if drops else None
