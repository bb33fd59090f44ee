"""Small chips for the tests of this folder."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from crossbar_sim import Hardware
from crossbar_sim.nn import to_analog
from crossbar_sim.nn.analog.chips import analog_state, slots
from crossbar_sim.nn.analog.layers import arrays_of
from crossbar_sim.store import export_chip, read_chip


def fill(model: nn.Module) -> nn.Module:
    """Weights that are the same on every machine."""
    start = 1.0
    with torch.no_grad():
        for parameter in model.parameters():
            n = parameter.numel()
            values = torch.sin(torch.arange(n, dtype=torch.float64) * 1.7 + start)
            parameter.copy_(values.reshape(parameter.shape) * 0.5)
            start += 1
    return model.eval()


def two_layers() -> nn.Module:
    return fill(nn.Sequential(nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 3)))


def export(
    analog: nn.Module, path: Path, hardware: Hardware, seed: int = 0, chip: int = 0, **more: Any
) -> Path:
    what = {"hardware": hardware, "seed": seed, "chip": chip, "model_sha256": "ab" * 32, "version": "0.1.0"}
    export_chip(analog, path, **what | more)
    return path


def names(analog: nn.Module) -> list[str]:
    return [slot.name for slot, _ in slots(analog) if not slot.ideal]


def simulated_and_read(
    model: nn.Module, hardware: Hardware, path: Path, *inputs: torch.Tensor, seed: int = 5, chip: int = 3
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The programmed parameters and the output: of the simulated chip, and of its file."""
    analog = to_analog(model, hardware, seed, chip)
    export(analog, path, hardware, seed, chip)
    found = read_chip(path)
    assert found.check_against(names(analog)) == ((), ())
    results = []
    for maps in (None, found.maps()):
        analog_state(analog).set_maps(maps)
        with torch.no_grad():
            outputs = analog(*inputs)
            first = outputs[0] if isinstance(outputs, tuple) else outputs
            read = [arrays_of(m).read(m, slot.weight).clone() for slot, m in slots(analog)]
            results.append([first.clone(), *read])
    return results[0], results[1]
