"""How a worker measures chips: any model chip by chip, chains of linear layers by a shorter way."""

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossbar_sim.crossbar import threads
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.errors import InputError
from crossbar_sim.nn import chips as handle
from crossbar_sim.nn.chain import Chain
from crossbar_sim.nn.evaluate import one_thread
from crossbar_sim.rng import Key
from crossbar_sim.robustness.drawn_images import draw, estimate
from crossbar_sim.robustness.score import hits
from crossbar_sim.store.records import Trial

if TYPE_CHECKING:
    from crossbar_sim.robustness.evaluator import Subject


class Measurer(Protocol):
    """One thread's memory for programmed weights, and what to do with it."""

    size: int
    """Chips that are programmed at a time."""

    def trials(
        self, hardware: Hardware, sigma: float, chips: Sequence[int], images: int | None
    ) -> list[Trial]:
        """The trials of at most `size` chips on so many images of each chip's own, or on all (None)."""


class AnyModel:
    """Chip by chip, by the model's own forward."""

    size = 1

    def __init__(self, subject: "Subject", analog: nn.Module) -> None:
        self.subject, self.analog, self.key = subject, analog, Key(subject.seed)
        self.design = handle.design(analog)
        self.design.frozen = True  # nobody trains it: clean values are looked at once

    def trials(
        self, hardware: Hardware, sigma: float, chips: Sequence[int], images: int | None
    ) -> list[Trial]:
        """See `Measurer`.

        Raises:
            InputError: if a chip's score does not exist.
        """
        return [self._trial(hardware, sigma, chip, images) for chip in chips]

    def _trial(self, hardware: Hardware, sigma: float, chip: int, images: int | None) -> Trial:
        began = time.perf_counter()
        self.design.set_hardware(hardware)  # differs in its drift alone
        self.design.set_chip(chip)
        subject, reference = self.subject, self.subject.reference
        if images is None:
            value, variance = reference.score(self.analog).value(subject.metric), 0.0
        else:
            drawn = draw(subject.strata, images, self.key, chip)
            right = reference.right(self.analog, torch.from_numpy(drawn), subject.metric)
            value, variance = estimate(right, drawn, subject.strata)
        if math.isnan(value):
            raise InputError(
                f"sigma {sigma:g}, chip {chip}: the outputs are not finite, so an output error does not exist: lower "
                "sigma"
            )
        seconds = time.perf_counter() - began
        return Trial(sigma, chip, value, images or len(reference.x), variance, seconds)


class OfChain:
    """A few chips of a `Chain` at a time, for accuracy and agreement."""

    def __init__(self, subject: "Subject", chain: Chain) -> None:
        self.subject, self.chain, self.key, self.size = subject, chain, Key(subject.seed), chain.size
        reference = subject.reference
        labels = reference.y if subject.metric == "accuracy" else reference.predicted
        assert labels is not None
        self.labels, self.x = labels, reference.x
        self.pixels = reference.x.flatten(1).numpy()
        self.parts = threads.chunks(len(reference.x), reference.block)
        self.gathered = np.empty_like(self.pixels[: reference.block])

    def trials(
        self, hardware: Hardware, sigma: float, chips: Sequence[int], images: int | None
    ) -> list[Trial]:
        """See `Measurer`."""
        began = time.perf_counter()
        one_thread()
        self.chain.program(hardware, chips)
        with torch.inference_mode():
            if images is None:
                found = [(share, 0.0) for share in self._shares(len(chips))]
            else:
                found = [self._estimate(place, chip, images) for place, chip in enumerate(chips)]
        seconds = (time.perf_counter() - began) / len(chips)
        n = images or len(self.subject.reference.x)
        return [
            Trial(sigma, c, value, n, variance, seconds)
            for c, (value, variance) in zip(chips, found, strict=True)
        ]

    def _shares(self, count: int) -> list[float]:
        """Of the chips at places 0 .. count - 1, compared together: calling a comparison costs more than making it."""
        rights = torch.zeros(count, dtype=torch.int64)
        for part in self.parts:
            x, labels = self.x[part], self.labels[part]
            y = torch.stack([self.chain(place, x) for place in range(count)])
            found = hits(y.flatten(0, 1), labels.expand(count, -1).reshape(-1))
            rights += found.view(count, len(x)).sum(1)
        return [right / len(self.x) for right in rights.tolist()]

    def _estimate(self, place: int, chip: int, images: int) -> tuple[float, float]:
        strata = self.subject.strata
        drawn = draw(strata, images, self.key, chip)
        parts = threads.chunks(len(drawn), len(self.gathered))
        right = torch.cat([self._hits(place, drawn[part]) for part in parts])
        return estimate(right.numpy(), drawn, strata)

    def _hits(self, place: int, images: NDArray[np.int64]) -> Tensor:
        # NumPy gathers rows twice as fast as torch, and memory that is used again is in the cache.
        x = self.pixels.take(images, 0, self.gathered[: len(images)], "clip")
        return hits(self.chain(place, torch.from_numpy(x)), self.labels[torch.from_numpy(images)])
