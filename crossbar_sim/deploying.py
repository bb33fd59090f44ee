"""What the commands deploy, export and info do, between options and printing."""

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from crossbar_sim import __version__
from crossbar_sim.calibrating import calibrated_for
from crossbar_sim.cli_options import read_model
from crossbar_sim.crossbar import threads as pool
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.data import Development, load_data
from crossbar_sim.errors import InputError
from crossbar_sim.files import check_outputs, write_text
from crossbar_sim.nn import layers as layers_of
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.chips import slots
from crossbar_sim.nn.loading import LoadedModel
from crossbar_sim.robustness.calibration import Calibration
from crossbar_sim.robustness.deploy import deploy
from crossbar_sim.robustness.examples import find_examples, seen_in
from crossbar_sim.robustness.view import progress, show
from crossbar_sim.robustness.wording import say, terminal
from crossbar_sim.store import ChipFile, describe_chip, export_chip, read_chip
from crossbar_sim.store.describe import hardware_in_words
from crossbar_sim.store.guard import is_hdf5


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
    check_outputs((json_path, plot, maps), (*inputs, conductances), stream=json_path)
    if plot is not None:
        # matplotlib takes a while to import: only who wants a figure waits
        from crossbar_sim.robustness.figure import METADATA, conductance_maps, draw

        if os.path.splitext(plot)[1].lower() not in METADATA:
            raise InputError(f"{plot}: a figure is written as {', '.join(METADATA)}, chosen by the suffix")
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
    if kind is None:
        if images is not None:
            raise InputError("--calibration-images has nothing to act on: give --calibrate readout")
        return None
    if data is None:
        raise InputError("--calibrate fits each chip to training images: give --data")
    wanted: Any = {"kind": kind} if images is None else {"kind": kind, "images": images}
    return Calibration(**wanted), load_data(data, data_dir).development


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


def describe(
    path: str, arch: str | None, arch_arguments: str | None, trust_pickle: bool, weights: str | None = None
) -> Iterator[tuple[str, str]]:
    """What a chip file or a model file holds, as (name, text) lines."""
    if is_hdf5(path):
        yield from describe_chip(path)
        return
    loaded = read_model(path, arch, arch_arguments, trust_pickle, weights)
    yield "file", f"{loaded.source}, network {loaded.name}"
    yield "parameters", f"{sum(p.numel() for p in loaded.module.parameters()):,}"
    yield "input", "x".join(map(str, loaded.input_shape)) if loaded.input_shape else "not told by the file"
    if loaded.limits is not None:
        low, high = loaded.limits
        yield (
            "batch",
            f"{loaded.batch} at a time: exported for {low} to {high}"
            if high is not None
            else (f"{loaded.batch} at a time: exported for at least {low}"),
        )
    elif loaded.batch is not None:
        yield "batch", f"exactly {loaded.batch}: exported without a dynamic batch size"
    yield "trained on", loaded.data or "not told by the file"
    yield "sha256", loaded.sha256
    for note in loaded.notes:
        yield "note", note
    hardware = Hardware()
    try:
        seen, said = seen_in(loaded, hardware)
        analog = to_analog(loaded.module, hardware, seen=seen)
    except InputError as error:  # worth saying, but no reason to say nothing else
        yield "layers", f"cannot be deployed: {error}"
        return
    for sentence in said:
        yield "warning", sentence
    for layer in layers_of(analog):
        sizes = ", ".join(f"{s.rows} x {s.layout.cols}" for s in layer.matrices)
        tiles = sum(g.tiles for g in layer.geometries(hardware))
        left = layer.reason.removeprefix("on arrays")
        yield (
            "layer",
            f"{layer.name} ({layer.kind}): "
            + (f"{sizes} on {tiles} tiles of 128x128{left}" if layer.analog else f"digital, {layer.reason}"),
        )


def _design_of(
    chip: ChipFile, hardware: Hardware, designed: bool, loaded: LoadedModel
) -> tuple[Hardware, tuple[str, ...]]:
    """The design to map the model with so that a chip file fits, and what to warn of.

    Raises:
        InputError: if flags ask for another design than the file's: they would do nothing.
    """
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
