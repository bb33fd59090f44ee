"""What the commands deploy, export and info do, between options and printing."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from crossbar_sim import __version__
from crossbar_sim.crossbar import threads as pool
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.errors import InputError
from crossbar_sim.files import write_text
from crossbar_sim.nn import layers as layers_of
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.chips import slots
from crossbar_sim.nn.loading import LoadedModel, load_model
from crossbar_sim.robustness.deploy import deploy
from crossbar_sim.robustness.examples import find_examples
from crossbar_sim.robustness.figure import conductance_maps, draw
from crossbar_sim.robustness.view import progress, show
from crossbar_sim.store import describe_chip, export_chip, read_chip


def run_deploy(
    loaded: LoadedModel,
    hardware: Hardware,
    warnings: tuple[str, ...],
    *,
    chips: range,
    input_shape: tuple[int, ...] | None,
    data: str | None,
    data_dir: str | None,
    images: int | None,
    seed: int,
    threshold: float | None,
    only: tuple[str, ...],
    skip: tuple[str, ...],
    sensitivity_chips: int,
    conductances: str | None,
    json_path: str | None,
    plot: str | None,
    maps: str | None,
    device: str,
    threads: int | None,
) -> None:
    """Evaluate, print, and write what was asked for; see `crossbar-sim deploy --help`.

    Raises:
        InputError: for anything that cannot be used; outputs are checked before the long work.
    """
    for path in (json_path, plot, maps):
        check_writable(path)
    if threads is not None:
        pool.set_threads(threads)
    examples = find_examples(loaded, data, data_dir, images, input_shape, seed)
    model = loaded.module.to(_device(device))
    selected = only or None
    measured = None
    if conductances is not None:
        chips = chips[:1]  # a file is one chip
        chip_file = read_chip(conductances)
        analog = to_analog(model, hardware, seed, chips[0], selected, skip)
        missing, _ = chip_file.check_against([slot.name for slot, _ in slots(analog)])
        warnings += tuple(f"{conductances} has no map of {name}: it computes with clean weights" for name in missing)
        measured = chip_file.maps(hardware)
    console = Console(stderr=json_path == "-", highlight=False)
    with progress(Console(stderr=True)) as step:
        deployment = deploy(
            model, examples.x, examples.y, hardware,
            seed=seed, chips=chips, threshold=threshold, only=selected, skip=skip,
            sensitivity_chips=sensitivity_chips, maps=measured, fixed=loaded.batch,
            identity=_identity(loaded, examples.identity),
            notes=(*loaded.notes, *examples.notes), warnings=warnings, progress=step,
        )  # fmt: skip
    show(deployment, console)
    report = json.dumps(deployment.as_dict(), indent=2, allow_nan=False) + "\n"
    if json_path == "-":
        sys.stdout.write(report)
    elif json_path is not None:
        write_text(json_path, report)
    if plot is not None or maps is not None:
        analog = to_analog(model.cpu(), hardware, seed, chips[0], selected, skip)
    if plot is not None:
        draw(deployment, plot, None if measured is not None else conductance_maps(analog, _worst(deployment)))
    if maps is not None:
        export_chip(
            analog, maps, hardware=hardware, seed=seed, chip=chips[0],
            model_sha256=loaded.sha256, version=__version__,
        )  # fmt: skip
    for path in (json_path, plot, maps):
        if path is not None and path != "-":
            console.print(f"wrote {path}")


def run_export(
    loaded: LoadedModel,
    hardware: Hardware,
    warnings: tuple[str, ...],
    *,
    output: str,
    chip: int,
    seed: int,
    only: tuple[str, ...],
    skip: tuple[str, ...],
) -> None:
    """Write one chip's conductance maps; see `crossbar-sim export --help`."""
    check_writable(output)
    analog = to_analog(loaded.module, hardware, seed, chip, only or None, skip)
    export_chip(
        analog, output, hardware=hardware, seed=seed, chip=chip, model_sha256=loaded.sha256, version=__version__
    )
    console = Console(highlight=False)
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow", markup=False)
    console.print(f"wrote {output}: chip {chip}, {sum(1 for s, _ in slots(analog) if not s.ideal)} arrays")


def describe(
    path: str, arch: str | None, arch_arguments: str | None, trust_pickle: bool
) -> Iterator[tuple[str, str]]:
    """What a chip file or a model file holds, as (name, text) lines."""
    if _is_hdf5(path):
        yield from describe_chip(path)
        return
    arguments = json.loads(arch_arguments) if arch_arguments else None
    loaded = load_model(path, arch, arguments, trust_pickle)
    yield "file", f"{loaded.source}, network {loaded.name}"
    yield "parameters", f"{sum(p.numel() for p in loaded.module.parameters()):,}"
    yield "input", "x".join(map(str, loaded.input_shape)) if loaded.input_shape else "not told by the file"
    if loaded.batch is not None:
        yield "batch", f"exactly {loaded.batch}: exported without a dynamic batch size"
    yield "trained on", loaded.data or "not told by the file"
    yield "sha256", loaded.sha256
    for note in loaded.notes:
        yield "note", note
    hardware = Hardware()
    for layer in layers_of(to_analog(loaded.module, hardware)):
        sizes = ", ".join(f"{s.rows} x {s.layout.cols}" for s in layer.matrices)
        tiles = sum(g.tiles for g in layer.geometries(hardware))
        yield "layer", f"{layer.name} ({layer.kind}): " + (
            f"{sizes} on {tiles} tiles of 128x128" if layer.analog else f"digital, {layer.reason}"
        )


def check_writable(path: str | None) -> None:
    """Refuse before the long work what would fail after it.

    Raises:
        InputError: if the directory is missing or cannot be written to.
    """
    if path is None or path == "-":
        return
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise InputError(f"cannot write {path}: {folder} is no directory")
    if Path(path).is_dir():
        raise InputError(f"cannot write {path}: it is a directory")


def _is_hdf5(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(8) == b"\x89HDF\r\n\x1a\n"
    except OSError:
        return False  # load_model says why, in its words


def _identity(loaded: LoadedModel, data: dict[str, Any]) -> dict[str, Any]:
    parameters = sum(p.numel() for p in loaded.module.parameters())
    model = {"name": loaded.name, "source": loaded.source, "sha256": loaded.sha256, "parameters": parameters}
    return {"model": model, "data": data, "version": __version__}


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"--device {name!r}: expected cpu or cuda, or cuda:1") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: torch sees no GPU here; crossbar-sim doctor says more")
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device {name!r}: expected cpu or cuda, or cuda:1")
    return device


def _worst(deployment: Any) -> str | None:
    """The mapped layer with the largest drop, if that was measured."""
    measured = [layer for layer in deployment.layers if layer.sensitivity and layer.layer.analog]
    return max(measured, key=lambda r: r.sensitivity.drop.mean).layer.name if measured else None
