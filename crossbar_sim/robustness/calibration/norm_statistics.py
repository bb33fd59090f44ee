"""The statistics of normalisations: means and variances that the clean network had, estimated again on the chip.

A batch normalisation divides by the spread that its inputs had in training. On a chip they have another, and all
layers behind take what is too large or too small. The statistics are digital numbers: a chip can have its own.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from crossbar_sim.data.inputs import Batch
from crossbar_sim.errors import InputError
from crossbar_sim.nn.analog.chips import locked
from crossbar_sim.nn.analog.copying import base_of
from crossbar_sim.nn.evaluate import one_thread, run_over, torch_threads_kept

_STATISTICS: dict[Any, bool] = {
    **dict.fromkeys(
        (F.batch_norm, torch.batch_norm, torch.ops.aten.batch_norm.default,
         torch.ops.aten._native_batch_norm_legit_no_training.default),
        False,
    ),
    **dict.fromkeys((F.instance_norm, torch.instance_norm, torch.ops.aten.instance_norm.default), True),
}  # fmt: skip
"""Normalisations with running statistics, by what calls them; whether the statistics are those of single examples."""

_SCHEMA = ("input", "weight", "bias", "running_mean", "running_var")
_FUNCTIONAL = ("input", "running_mean", "running_var", "weight", "bias")

NORM_BATCH = 100
"""Images of a batch at most: the estimate is the mean over batches of nearly equal size."""


class _Norms(TorchFunctionMode):
    """Context in which normalisations use the statistics of their batch, and their mean over batches is kept.

    Args:
        known: ids of the model's buffers.
    """

    def __init__(self, known: set[int]) -> None:
        super().__init__()
        self.known = known
        self.sums: dict[int, Tensor] = {}
        self.counts: dict[int, int] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call `func`, with the statistics of its inputs where it has running ones."""
        alone = _STATISTICS.get(func)
        if alone is None:
            return func(*args, **(kwargs or {}))
        names = _FUNCTIONAL if func in (F.batch_norm, F.instance_norm) else _SCHEMA
        named = dict(zip(names, args, strict=False)) | (kwargs or {})
        if not {id(named.get("running_mean")), id(named.get("running_var"))} <= self.known:
            return func(*args, **(kwargs or {}))
        rest = {key: value for key, value in (kwargs or {}).items() if key not in names}
        x = named["input"].float()
        n = math.prod(x.shape[2:]) * (1 if alone else len(x))
        if n < 2:
            raise InputError(
                "statistics: a normalisation sees one value per channel at a time, which has no variance: calibrate "
                "with affine"
            )
        inner = tuple(range(2, x.dim()))
        var, mean = torch.var_mean(x, inner if alone else (0, *inner), correction=0)
        if alone:
            var, mean = var.mean(0), mean.mean(0)
        for name, value in (("running_mean", mean), ("running_var", var)):
            place = id(named[name])
            own = value.double() * (n / (n - 1) if name == "running_var" else 1.0)
            self.sums[place] = self.sums.get(place, torch.zeros_like(own)) + len(x) * own
            self.counts[place] = self.counts.get(place, 0) + len(x)
            named[name] = value.to(named[name].dtype)
        return func(*(named.get(name) for name in names), *args[len(names) :], **rest)


@dataclass(frozen=True)
class NormStatistics:
    """Running statistics of normalisations, estimated for each chip without labels.

    Args:
        words: how many numbers they are.
        fixed: the one batch size that the model accepts, if there is one.
    """

    words: int
    fixed: int | None = None

    @classmethod
    def of(cls, analog: nn.Module, x: Batch, fixed: int | None = None) -> "NormStatistics":
        """Find the statistics that a forward uses.

        Args:
            analog: on some chip.
            x: images.
            fixed: see the class.

        Raises:
            InputError: if it uses none.
        """
        found = estimated(analog, x[: fixed or 4], fixed)
        if not found:
            raise InputError(
                f"{base_of(analog).__name__} has no batch or instance normalisation with running statistics beside its "
                "arrays (a folded one is part of its layer's weights): calibrate with affine or readout"
            )
        return cls(sum(t.numel() for t in found.values()), fixed)

    @contextmanager
    def fitted(self, analog: nn.Module, x: Batch) -> Iterator[nn.Module]:
        """Context in which the model has the statistics of its current chip, estimated on x."""
        found = estimated(analog, x, self.fixed)
        changed = [
            (module, name, buffer)
            for module in analog.modules()
            for name, buffer in module._buffers.items()
            if id(buffer) in found
        ]
        try:
            for module, name, buffer in changed:  # the buffer itself is the clean model's too
                module._buffers[name] = found[id(buffer)]
            yield analog
        finally:
            for module, name, buffer in changed:
                module._buffers[name] = buffer


FEW = 64
"""Examples on which statistics are compared."""

_STALE = 0.25
"""Distance of statistics in standard deviations, from which scores suffer."""


def stale(clean: nn.Module, analog: nn.Module, x: Batch, fixed: int | None = None) -> Iterator[str]:
    """A sentence where running statistics are those of the clean weights, and a chip's features have others.

    Of every channel the distance of two estimates is |difference of means| / standard deviation plus half the |log of
    the ratio of variances|; the median over channels counts. Statistics of training through drift are not nearer to
    the clean network than to a chip, and those of other data than these are near to neither: both pass.

    Args:
        clean: the model.
        analog: the same on a chip, which shares its buffers.
        x: examples (n, ...), of which a few are run.
        fixed: the one batch size that the model accepts, if there is one.
    """
    buffers = dict(clean.named_buffers())
    pairs = [
        (mean, buffers.get(f"{name[:-4]}var")) for name, mean in buffers.items() if name.endswith("mean")
    ]
    if len(x) < 8 or all(var is None for _, var in pairs):
        return
    few = x[torch.linspace(0, len(x) - 1, min(len(x), fixed or FEW)).long()]
    try:
        with torch_threads_kept():
            one_thread()
            own = _sums(clean, few, fixed)
        found = estimated(analog, few, fixed)
    except InputError:  # one value per channel
        return
    near, far, moved = [], [], []
    for mean, var in pairs:
        if var is not None and {id(mean), id(var)} <= own.keys() & found.keys():
            clear, chip = ((of[id(mean)], of[id(var)]) for of in (own, found))
            near.append(_distance(clear, (mean, var)))
            far.append(_distance(chip, (mean, var)))
            moved.append(_distance(chip, clear))
    if not far:
        return
    off, drifted, by_chip = (float(torch.cat(each).median()) for each in (near, far, moved))
    if drifted > _STALE and by_chip > _STALE and drifted > 2 * off:
        yield (
            f"{len(far)} normalisations divide by running statistics that fit the clean weights, and on this hardware "
            f"features have others (by {drifted:.2g} standard deviations in the median of channels), which alone can "
            "cost most of the score: --calibrate statistics estimates them on each chip, without labels "
            "(docs/methods.md)"
        )


def _distance(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> Tensor:
    """Of two (means, variances), channel by channel, in standard deviations of the second."""
    (m, v), (mean, var) = ((m.double(), v.double() + 1e-12) for m, v in (one, other))
    return (m - mean).abs() / var.sqrt() + (v / var).log().abs() / 2


def estimated(analog: nn.Module, x: Batch, fixed: int | None = None) -> dict[int, Tensor]:
    """The statistics of the model's normalisations on x, on its current chip if it has one, by the ids of the buffers.

    Args:
        analog: a model in evaluation mode.
        x: examples, run in batches of at most `NORM_BATCH`.
        fixed: the one batch size that the model accepts, if there is one.
    """
    with locked(analog), torch_threads_kept():
        one_thread()
        return _sums(analog, x, fixed)


def _sums(model: nn.Module, x: Batch, fixed: int | None) -> dict[int, Tensor]:
    buffers = {id(b): b for b in model.buffers()}
    block = -(-len(x) // -(-len(x) // NORM_BATCH))
    with _Norms(set(buffers)) as norms:
        run_over(model, x, block, fixed)
    return {place: (total / norms.counts[place]).to(buffers[place]) for place, total in norms.sums.items()}
