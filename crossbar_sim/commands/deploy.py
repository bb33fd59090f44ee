"""`crossbar-sim deploy`: what a model still does on simulated chips."""

from __future__ import annotations

import hashlib
import json
import sys
from typing import TYPE_CHECKING, Any

import click

from crossbar_sim import __version__
from crossbar_sim.commands.options import (
    build_hardware,
    chip_numbers,
    hardware_options,
    model_options,
    model_ways,
    read_model,
    shape,
    split_options,
)
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs, write_text

if TYPE_CHECKING:
    import torch
    from torch import nn

    from crossbar_sim.crossbar.hardware import Hardware
    from crossbar_sim.data import Development
    from crossbar_sim.nn.files.loading import LoadedModel
    from crossbar_sim.robustness.calibration import Calibration
    from crossbar_sim.store import ChipFile


@click.command(no_args_is_help=True)
@click.argument("model", type=click.Path())
@hardware_options()
@click.option("--data", help="A data set's name or a path (see `data list`).  [default: the model's own]")
@click.option("--data-dir", type=click.Path(), help="Where data sets are.  [default: $CROSSBAR_SIM_DATA]")
@click.option("--images", type=int, help="Use only this many examples, drawn by the seed.")
@click.option("--input-shape", help="Without data: the shape of one random input, e.g. 3,32,32.")
@click.option("--chips", help="How many chips, or which: 50:100.  [default: 20]")
@click.option("--seed", default=0, show_default=True, help="Of all random numbers.")
@click.option(
    "--threshold", type=float, help="A chip passes at this score.  [default: clean score less 0.05]"
)
@click.option(
    "--metric",
    help="What chips are judged by, or package.module:function.  [default: the first that labels and outputs allow]",
)
@click.option(
    "--class-axis", type=int, help="Axis of the classes in the outputs, -1: the last.  [default: found]"
)
@click.option(
    "--only", multiple=True, help="Put only these layers on arrays (names or patterns, with commas)."
)
@click.option("--skip", multiple=True, help="Leave these layers digital (names or patterns, with commas).")
@click.option(
    "--calibration-data", help="Data that converter ranges are chosen on.  [default: --data's training split]"
)
@click.option(
    "--sensitivity-chips", default=5, show_default=True, help="Chips for per-layer sensitivity; 0: none."
)
@click.option(
    "--calibrate",
    type=click.Choice(["readout", "affine", "both"]),
    help="Fit a digital correction to each chip, on training images that are run on it (docs/methods.md).",
)
@click.option("--calibration-images", type=int, help="How many training images that takes.  [default: 500]")
@click.option("--conductances", type=click.Path(), help="Compute with the conductances of this chip file.")
@click.option("--remap", is_flag=True, help="Place weights by each chip's stuck cells (docs/devices.md).")
@click.option(
    "--json", "json_path", type=click.Path(), help="Write the report as JSON (- for standard output)."
)
@click.option("--plot", type=click.Path(), help="Draw the report: .png, .pdf or .svg.")
@click.option("--maps", type=click.Path(), help="Write the first chip's conductance maps (HDF5).")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--threads", type=int, help="Threads to use; results do not depend on it.")
@model_options
def deploy(**options: Any) -> None:
    """Say what MODEL still does on simulated chips, with intervals.

    MODEL is a torch.export archive (.pt2), a checkpoint of ours, or a state_dict with --arch.

    \b
    Examples:
      crossbar-sim deploy model.pt --sigma 0.6
      crossbar-sim deploy resnet18.pt2 --sigma 0.6 --data mine.npz --chips 50 --threshold 0.9 --plot out.png
      crossbar-sim deploy model.pt --preset reram_wan2022 --bias row --copies 4
    """

    design, rest = split_options(options)
    chips, sides = chip_numbers(rest.pop("chips")), shape(rest.pop("input_shape"))
    hardware, told = build_hardware(design)
    path, designed = rest.pop("model"), any(value is not None for value in design.values())
    loaded = read_model(path, **model_ways(rest))
    inputs = (path, design["hardware_file"], rest["data"])
    run_deploy(
        loaded, hardware, told, chips=chips, designed=designed, inputs=inputs, input_shape=sides, **rest
    )


def run_deploy(
    loaded: LoadedModel,
    hardware: Hardware,
    warnings: tuple[str, ...],
    *,
    chips: range | None,
    designed: bool,
    inputs: tuple[str | None, ...],
    input_shape: tuple[int, ...] | None,
    data: str | None,
    data_dir: str | None,
    images: int | None,
    seed: int,
    threshold: float | None,
    metric: str | None,
    class_axis: int | None,
    calibration_data: str | None,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    sensitivity_chips: int,
    conductances: str | None,
    remap: bool,
    calibrate: str | None,
    calibration_images: int | None,
    json_path: str | None,
    plot: str | None,
    maps: str | None,
    device: str,
    threads: int | None,
) -> None:
    """Evaluate, print, and write what was asked for; see `crossbar-sim deploy --help`.

    Args:
        chips: None: 20, or the one of the file of conductances.
        designed: whether flags describe the design.
        inputs: the paths that are read, which no output may replace.

    Raises:
        InputError: for anything that cannot be used; outputs are checked before the long work.
    """
    from crossbar_sim.crossbar import threads as pool
    from crossbar_sim.nn import to_analog
    from crossbar_sim.nn.analog.chips import slots
    from crossbar_sim.report.console import progress, say, terminal
    from crossbar_sim.report.terminal import show
    from crossbar_sim.robustness.deploy import deploy
    from crossbar_sim.robustness.examples import find_examples, seen_in
    from crossbar_sim.robustness.range_data import calibrated_for
    from crossbar_sim.store import export_chip, read_chip

    check_outputs((json_path, plot, maps), (*inputs, conductances), stream=json_path)
    if plot is not None:
        # matplotlib takes a while to import: only who wants a figure waits
        from crossbar_sim.report.deploy_figure import conductance_maps, draw
        from crossbar_sim.report.figure import check_format

        check_format(plot)
    if threads is not None:
        pool.set_threads(threads)
    place = _device(device)
    measured = None
    if remap and (conductances is not None or maps is not None):
        flag = "--maps writes" if maps is not None else "--conductances gives"
        raise InputError(f"{flag} arrays that lie as they are: leave out --remap")
    if conductances is not None:
        if chips is not None or maps is not None:
            flag = "--chips" if chips is not None else "--maps"
            raise InputError(f"--conductances is one chip, which is not simulated: leave out {flag}")
        chip_file = read_chip(conductances)
        hardware, told = _design_of(chip_file, hardware, designed, loaded)
        warnings = told if chip_file.hardware is not None else warnings
        chips, measured = range(chip_file.chip or 0, (chip_file.chip or 0) + 1), chip_file
    chips = range(20) if chips is None else chips
    examples = find_examples(loaded, data, data_dir, images, input_shape, seed)
    hardware, calibrated = calibrated_for(
        loaded, hardware,
        data=data, data_dir=data_dir, input_shape=input_shape, seed=seed, only=only, skip=skip, own=calibration_data,
    )  # fmt: skip
    model = _moved(loaded.module, place)
    selected = only or None
    given = None
    seen = None
    if measured is not None or plot is not None or maps is not None:
        seen, _ = seen_in(loaded, hardware, examples.x, selected, skip)  # the evaluation says the same
    if measured is not None:
        analog = to_analog(model, hardware, seed, chips[0], selected, skip, seen)
        missing, _ = measured.check_against([slot.name for slot, _ in slots(analog) if not slot.ideal])
        warnings += tuple(
            f"the chip file has no map of {name}: it computes with clean weights" for name in missing
        )
        given = measured.maps(hardware)
        assumed = measured.without_scale()
        if assumed:
            low, high = (f"{g * 1e6:g}" for g in (hardware.mapping.g_min, hardware.mapping.g_max))
            warnings += (
                f"the chip file has no attribute scale for {', '.join(assumed)}: the weights are assumed to have been "
                f"mapped to {low} .. {high} uS ({'the design given' if designed else 'of preset bayesft'}); add scale, "
                "in S per weight unit, or give the design with --hardware",
            )
    calibration = _calibration(calibrate, calibration_images, data or loaded.data, data_dir)
    console = terminal(stderr=json_path == "-")
    with progress(terminal(stderr=True)) as step:
        deployment = deploy(
            model, examples.x, examples.y, hardware,
            seed=seed, chips=chips, threshold=threshold, metric=metric, class_axis=class_axis, only=selected, skip=skip,
            sensitivity_chips=sensitivity_chips, maps=given, remap=remap, calibration=calibration, fixed=loaded.batch,
            identity=_identity(loaded, examples.identity, measured),
            notes=(*loaded.notes, *examples.notes, *calibrated), warnings=warnings, progress=step,
        )  # fmt: skip
    report = json.dumps(deployment.as_dict(), indent=2, allow_nan=False) + "\n"
    if json_path == "-":
        sys.stdout.write(report)
        sys.stdout.flush()  # a full disk is seen here, not when Python ends
    elif json_path is not None:
        write_text(json_path, report)
    if plot is not None or maps is not None:
        analog = to_analog(model.cpu(), hardware, seed, chips[0], selected, skip, seen)
    if plot is not None:
        draw(
            deployment,
            plot,
            None if given is not None or remap else conductance_maps(analog, _worst(deployment)),
        )
    if maps is not None:
        export_chip(
            analog, maps, hardware=hardware, seed=seed, chip=chips[0],
            model_sha256=loaded.sha256, version=__version__,
        )  # fmt: skip
    show(deployment, console)  # last: a reader that has gone away must not cost the files
    for path in (json_path, plot, maps):
        if path is not None and path != "-":
            say(console, f"wrote {path}")


def _calibration(
    kind: str | None, images: int | None, data: str | None, data_dir: str | None
) -> tuple[Calibration, Development] | None:
    """The digital fix asked for, with the data whose training images it is fitted to."""
    from crossbar_sim.data import load_data
    from crossbar_sim.robustness.calibration import Calibration

    if kind is None:
        if images is not None:
            raise InputError("--calibration-images has nothing to act on: give --calibrate readout")
        return None
    if data is None:
        raise InputError("--calibrate fits each chip to training images: give --data")
    wanted: Any = {"kind": kind} if images is None else {"kind": kind, "images": images}
    return Calibration(**wanted), load_data(data, data_dir).development


def _design_of(
    chip: ChipFile, hardware: Hardware, designed: bool, loaded: LoadedModel
) -> tuple[Hardware, tuple[str, ...]]:
    """The design to map the model with so that a chip file fits, and what to warn of.

    Raises:
        InputError: if flags ask for another design than the file's: they would do nothing.
    """
    from crossbar_sim.store.chip_file import hardware_in_words

    if chip.hardware is None:
        return hardware, ()
    if designed and chip.hardware != hardware:
        raise InputError(
            f"{chip.path} was simulated with another design ({hardware_in_words(chip.hardware)}): "
            "leave out the flags of the design, which would do nothing"
        )
    if chip.model_sha256 not in (None, loaded.sha256):
        return chip.hardware, ("the chip file was made from another model file than this one",)
    return chip.hardware, ()


def _moved(module: nn.Module, device: torch.device) -> nn.Module:
    try:
        return module.to(device)
    except RuntimeError as error:
        why = str(error).split("\n", 1)[0]
        raise InputError(f"--device {device}: the model cannot be moved there ({why})") from error


def _identity(loaded: LoadedModel, data: dict[str, Any], chip_file: ChipFile | None) -> dict[str, Any]:
    """What decides the numbers beside design and seed, for the report."""
    conductances = None
    if chip_file is not None:
        with open(chip_file.path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        conductances = {"sha256": digest, "chip": chip_file.chip, "seed": chip_file.seed}
    parameters = sum(p.numel() for p in loaded.module.parameters())
    model = {"name": loaded.name, "source": loaded.source, "sha256": loaded.sha256, "parameters": parameters}
    return {"model": model, "data": data, "conductances": conductances, "version": __version__}


def _device(name: str) -> torch.device:
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name!r}: expected cpu or cuda, or cuda:1") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"--device {name}: torch sees no GPU here; crossbar-sim doctor says more")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"--device {name}: torch sees {torch.cuda.device_count()} GPUs here, numbered from 0"
        )
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name!r}: expected cpu or cuda, or cuda:1")
    return device


def _worst(deployment: Any) -> str | None:
    """The mapped layer with the largest drop, if that was measured."""
    measured = [layer for layer in deployment.layers if layer.sensitivity and layer.layer.analog]
    return max(measured, key=lambda r: r.sensitivity.drop.mean).layer.name if measured else None
