"""Redundancy: more cells for the same network, with its price beside its gain.

Two kinds. `Mapping.copies` puts k cells in parallel for every weight, which then averages k draws; it is a matter of
the design (`Hardware.preset("bayesft", copies=4)`). `AveragedOutputs` gives every class several outputs, each with
cells of its own, and averages them: the output layer, which has the fewest inputs to average over, is then the one
that is made more reliable, at a small part of the price.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.data import Split
from crossbar_sim.errors import InputError
from crossbar_sim.nn.chips import layers
from crossbar_sim.nn.convert import to_analog
from crossbar_sim.robustness import robustness


class AveragedOutputs(nn.Module):
    """A network of copies x classes outputs as one of `classes`: the mean of each class's copies.

    Outputs i copies .. (i + 1) copies - 1 of the network are those of class i. The mean is digital.

    Args:
        network: maps (b, ...) to (b, classes copies).
        copies: outputs per class.

    Raises:
        InputError: if copies is no integer >= 2.
    """

    def __init__(self, network: nn.Module, copies: int) -> None:
        super().__init__()
        if isinstance(copies, bool) or not isinstance(copies, int) or copies < 2:
            raise InputError(
                f"copies={copies!r}: an integer >= 2 is needed, one output per class needs no average"
            )
        self.network, self.copies = network, copies

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, classes).

        Raises:
            InputError: if the network's outputs are no multiple of the copies.
        """
        outputs: Tensor = self.network(x)
        if outputs.ndim != 2 or outputs.shape[1] % self.copies:
            raise InputError(
                f"the network gives {tuple(outputs.shape[1:])} outputs per example: a multiple of {self.copies}, "
                "one group per class, is needed"
            )
        return outputs.unflatten(1, (-1, self.copies)).mean(2)


@dataclass(frozen=True)
class Redundancy:
    """What one way of spending cells costs and brings.

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


def cells(model: nn.Module, hardware: Hardware) -> int:
    """Cells that the weight matrices of a model take on a design; vectors that drift by themselves have none."""
    analog = to_analog(model, hardware)
    return sum(g.cells for layer in layers(analog) for g in layer.geometries(hardware))


def compare(
    ways: Mapping[str, tuple[nn.Module, Hardware]],
    data: Split,
    *,
    sigmas: Sequence[float],
    chips: int = 20,
    seed: int = 0,
) -> tuple[Redundancy, ...]:
    """Cost and accuracy of several ways to spend cells; the first is what the others are compared with.

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
        number = cells(model, hardware)
        gain = {
            sigma: value - (first.accuracy if first else accuracy)[sigma] for sigma, value in accuracy.items()
        }
        rows.append(Redundancy(label, number, number / (first.cells if first else number), accuracy, gain))
    return tuple(rows)
