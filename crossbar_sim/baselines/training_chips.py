"""Chips to train on: fresh in every step, and none that an evaluation meets.

A chip multiplies every parameter by exp(sigma z), z standard normal (Eq. (1) of BayesFT, DAC 2021). On the CPU z
comes from the counter stream, under a key of its own and with a number that the step draws from torch's generator:
the loop seeds that generator, and its checkpoints keep it. On GPUs z comes from the device's generator.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from crossbar_sim.crossbar import kernels, threads
from crossbar_sim.crossbar.drift import LogNormalDrift
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.nn.seeding import normals
from crossbar_sim.rng import Key


def numbers(n: int) -> list[int]:
    """Numbers below 2**31 from torch's generator on the CPU."""
    return torch.randint(2**31, (n,)).tolist()


class TrainingChips:
    """Drift factors of all parameters of a model, in memory that is used again.

    Args:
        model: whose parameters drift, tied ones once, frozen ones too.
        chips: how many there are at a time.
        key: of the training.
        copies: cells per weight: its factor is the mean of so many.
    """

    def __init__(self, model: nn.Module, chips: int, key: Key, copies: int = 1) -> None:
        self.parameters = list(model.parameters())
        self.key, self.chips, self.copies = key.fold("training chips"), chips, copies
        self.count = sum(p.numel() for p in self.parameters)
        first = self.parameters[0]
        self.device = first.device
        self.all = torch.empty(chips, self.count, device=self.device)
        # One view per parameter: (chips, *shape).
        self.factors: list[Tensor] = []
        start = 0
        for p in self.parameters:
            self.factors.append(self.all[:, start : start + p.numel()].view(chips, *p.shape))
            start += p.numel()
        self.ones = np.ones(min(self.count, threads.CHUNK), np.float32)

    def draw(self, sigmas: Sequence[float]) -> None:
        """Fill `all` and so `factors` for as many chips as there are sigmas; the rows behind them mean nothing."""
        if self.device.type != "cpu":
            sigma = torch.ones(self.chips, 1, device=self.device)
            sigma[: len(sigmas), 0] = torch.tensor(sigmas, device=self.device)
            self._mean(
                lambda out: torch.exp(normals(out.numel(), self.device).view_as(out).mul_(sigma), out=out)
            )
            return
        self._mean(lambda out: self._draw_on_cpu(out, sigmas))

    def _mean(self, draw: Callable[[Tensor], object]) -> None:
        """The mean of as many draws as there are copies, into the first rows of `all`."""
        draw(self.all)
        if self.copies > 1:
            more = torch.empty_like(self.all)
            for _ in range(self.copies - 1):
                draw(more)
                self.all.add_(more)
            self.all.div_(self.copies)

    def _draw_on_cpu(self, target: Tensor, sigmas: Sequence[float]) -> None:
        out = target.numpy()
        plane, event = numbers(2)
        for chip, sigma in enumerate(sigmas):
            rates = LogNormalDrift(sigma).rates
            name = Stream.of(self.key, chip, plane, event).name
            for part in threads.chunks(self.count):
                row = out[chip, part]
                kernels.lognormal(self.ones[: row.size], row, *rates, part.start, *name)
