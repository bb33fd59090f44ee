"""Redundancy: more cells for the same network, with its cost and its gain.

Two kinds. `Mapping.copies` puts k cells in parallel for every weight, which then averages k draws; it is a matter of
the design (`Hardware.preset("bayesft", copies=4)`). `AveragedOutputs` gives every class several outputs, each with
cells of its own, and averages them: the output layer, which has the fewest inputs to average over, is then the one
that is made more reliable, at a small part of the price.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from crossbar_sim.crossbar.layer_designs import Design
from crossbar_sim.data import Split
from crossbar_sim.data.inputs import Batch
from crossbar_sim.errors import InputError
from crossbar_sim.nn.analog.chips import analog_state, layers
from crossbar_sim.nn.analog.conversion import map_model, to_analog
from crossbar_sim.nn.networks import AveragedOutputs as AveragedOutputs
from crossbar_sim.robustness import robustness


@dataclass(frozen=True)
class Redundancy:
    """Cost and accuracy of one way of using more cells.

    Args:
        label: of the network and its design.
        cells: of all weight matrices.
        price: cells as a multiple of the first row's.
        accuracy: sigma -> mean over chips.
        gain: sigma -> accuracy above the first row's.
    """

    label: str
    cells: int
    price: float
    accuracy: Mapping[float, float]
    gain: Mapping[float, float]


def cells(model: nn.Module, hardware: Design, x: Batch | None = None) -> int:
    """Number of cells of a model's weight matrices on a design; separately drifting vectors have none.

    Args:
        model: clean, in evaluation mode.
        hardware: the design.
        x: inputs (n, ...): layers whose weights the forward does not multiply them with are not counted. None: every
            layer counts.
    """
    analog = to_analog(model, hardware) if x is None else map_model(model, hardware, x)[0]
    of = analog_state(analog).of
    return sum(g.cells for layer in layers(analog) if layer.slots for g in layer.geometries(of(layer.name)))


def compare(
    ways: Mapping[str, tuple[nn.Module, Design]],
    data: Split,
    *,
    sigmas: Sequence[float],
    chips: int = 20,
    seed: int = 0,
) -> tuple[Redundancy, ...]:
    """Cost and accuracy of several ways to use more cells; the first is the reference.

    Args:
        ways: label -> trained network and design.
        data: what accuracy is measured on.
        sigmas: of drift.
        chips, seed: see `robustness`.

    Raises:
        InputError: as `robustness`, and if there is no way.
    """
    if not ways:
        raise InputError("there is nothing to compare: give at least one network with its design")
    rows: list[Redundancy] = []
    for label, (model, hardware) in ways.items():
        sweep = robustness(
            {label: model}, data, hardware, sigmas=sigmas, chips=chips, seed=seed, metric="accuracy"
        )
        accuracy = {
            point.sigma: float(torch.tensor(point.values, dtype=torch.float64).mean())
            for point in sweep.curve(label)
        }
        first = rows[0] if rows else None
        number = cells(model, hardware, data.x)
        gain = {
            sigma: value - (first.accuracy if first else accuracy)[sigma] for sigma, value in accuracy.items()
        }
        rows.append(Redundancy(label, number, number / (first.cells if first else number), accuracy, gain))
    return tuple(rows)
