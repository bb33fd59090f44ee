"""`crossbar-sim info`: what a model file or a chip file holds."""

from collections.abc import Iterator
from dataclasses import dataclass

import click

from crossbar_sim.commands.options import PATH, ReadOptions, argument, command
from crossbar_sim.errors import InputError
from crossbar_sim.text import visible


@dataclass(frozen=True)
class InfoRequest(ReadOptions):
    """What `info` is to do."""

    path: str = argument(type=PATH)


@command(InfoRequest)
def info(request: InfoRequest) -> None:
    """Show what a model file or a chip file contains.

    For a model, this includes which layers would be placed on arrays, and how many tiles they take.

    \b
    Examples:
      crossbar-sim info model.pt
      crossbar-sim info chip.h5
    """
    for name, text in _describe(request):
        click.echo(visible(f"{name:<16} {text}" if name else text))


def _describe(request: InfoRequest) -> Iterator[tuple[str, str]]:
    """What a chip file or a model file holds, as (name, text) lines."""
    from crossbar_sim.crossbar.hardware import Hardware
    from crossbar_sim.nn import layers as layers_of
    from crossbar_sim.nn import to_analog
    from crossbar_sim.nn.analog.multiply_adds import ArrayShare
    from crossbar_sim.robustness.examples import seen_in
    from crossbar_sim.store import describe_chip
    from crossbar_sim.store.hdf5 import is_hdf5

    if is_hdf5(request.path):
        yield from describe_chip(request.path)
        return
    loaded = request.read(request.path)
    yield "file", f"{loaded.source}, network {loaded.name}"
    yield "parameters", f"{sum(p.numel() for p in loaded.module.parameters()):,}"
    yield "input", "x".join(map(str, loaded.input_shape)) if loaded.input_shape else "not stated in the file"
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
    yield "trained on", loaded.data or "not stated in the file"
    yield "sha256", loaded.sha256
    for note in loaded.notes:
        yield "note", note
    hardware = Hardware()
    try:
        operands, sentences = seen_in(loaded, hardware)
        analog = to_analog(loaded.module, hardware, operands=operands)
    except InputError as error:  # worth saying, but no reason to say nothing else
        yield "layers", f"cannot be deployed: {error}"
        return
    for sentence in sentences:
        yield "warning", sentence
    share = None if operands is None else ArrayShare.of(layers_of(analog), operands.work)
    if share is not None:
        yield "arrays", share.sentence or f"{share.text} run on arrays"
    for layer in layers_of(analog):
        sizes = ", ".join(f"{s.rows} x {s.layout.cols}" for s in layer.matrices)
        tiles = sum(g.tiles for g in layer.geometries(hardware))
        left = layer.reason.removeprefix("on arrays")
        yield (
            "layer",
            f"{layer.name} ({layer.kind}): "
            + (f"{sizes} on {tiles} tiles of 128x128{left}" if layer.analog else f"digital, {layer.reason}"),
        )
