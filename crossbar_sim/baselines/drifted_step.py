"""Gradient steps through drift: several chips per step, each with its own part of the batch.

The loss of a step is the mean over examples, each computed with the parameters theta exp(sigma z) of one chip. Its
gradient is exact for the draws made (reparametrisation): d/dtheta = exp(sigma z) d/d(theta exp(sigma z)).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crossbar_sim.baselines import sequences
from crossbar_sim.baselines.analog_step import AnalogStep, as_deployed
from crossbar_sim.baselines.training_chips import TrainingChips
from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.crossbar.overrides import at_sigma
from crossbar_sim.errors import InputError, held
from crossbar_sim.nn.chips import slots
from crossbar_sim.nn.detection_task import task_loss
from crossbar_sim.rng import Key

Sigmas = Callable[[float, int], Sequence[float]]
"""(share of the training done, chips) -> a sigma for each chip."""


class DriftedStep:
    """A `Step` on fresh chips; the parameters are afterwards as they were, to the bit.

    Args:
        sigmas: gives each chip's sigma.
        chips: per step, at most as many as there are examples.
        layers: weight layers in a row: logits are multiplied by exp(-layers sigma^2 / 2), which undoes the growth
            that drift of mean exp(sigma^2 / 2) per layer gives them; 0: not.
        key: names the chips.
        batched: whether a plain sequence of linear layers runs by batched products; otherwise, and for all other
            networks, chip by chip.
        copies: cells per weight.
        hardware: the design that the factors are of, on whose arrays a network trains that takes parameters past
            their cells (a copy kept in a cache, `functional_call`); None: the factors are all there is.
    """

    def __init__(
        self,
        sigmas: Sigmas,
        chips: int,
        layers: int,
        key: Key,
        batched: bool = True,
        copies: int = 1,
        hardware: Hardware | None = None,
    ) -> None:
        self.sigmas, self.chips, self.layers, self.key = sigmas, chips, layers, key
        self.batched, self.copies, self.hardware = batched, copies, hardware
        self._of: tuple[nn.Module, TrainingChips, sequences.Sequence | None, AnalogStep | None] | None = None

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, share: float) -> Tensor:
        """See `Step`."""
        drawn, sequence, arrays = self._prepared(model, x)
        if arrays is not None:
            return arrays(model, x, y, share)
        chips = min(self.chips, len(x))
        sigmas = self.sigmas(share, chips)
        drawn.draw(sigmas)
        temperatures = [math.exp(-self.layers * sigma**2 / 2) for sigma in sigmas]
        if sequence is not None and sequence.takes(x):
            return batched(sequence, drawn, x, y, temperatures)
        return chip_by_chip(model, drawn, x, y, temperatures)

    def _prepared(
        self, model: nn.Module, x: Tensor
    ) -> tuple[TrainingChips, sequences.Sequence | None, AnalogStep | None]:
        """Memory for the draws, what the model is, and the step on arrays where factors would be another thing.

        Looked up once.
        """
        known = self._of
        device = next(model.parameters()).device
        if known is None or known[0] is not model or known[1].device != device:
            sequence = sequences.Sequence.of(model) if self.batched else None
            arrays = None
            if sequence is None and self.hardware is not None and not _all_drift(model, self.hardware, x):
                arrays = AnalogStep(self.hardware, self.sigmas, self.chips, self.layers, self.key)
            known = self._of = (
                model,
                TrainingChips(model, self.chips, self.key, self.copies),
                sequence,
                arrays,
            )
        return known[1:]


def _all_drift(model: nn.Module, hardware: Hardware, x: Tensor) -> bool:
    """Whether every parameter that an evaluation on the design reads drifts there, wherever it is read.

    Where the network cannot be mapped at all, so that no evaluation says more, every parameter drifts.
    """
    try:
        with held():  # the step on arrays will say it
            analog, seen = as_deployed(model, at_sigma(hardware, 0.0), x, 0)
    except InputError:
        return True
    if seen is None:
        return True
    drifting = {
        id(module._parameters.get(name))
        for slot, module in slots(analog)
        if not slot.ideal
        for name in slot.names
    }
    unused = {name for name, operand in seen.found.items() if operand.way == "unused"}
    past = any(operand.also_past for operand in seen.found.values())
    return not past and all(id(p) in drifting for name, p in model.named_parameters() if name not in unused)


def batched(
    sequence: sequences.Sequence, drawn: TrainingChips, x: Tensor, y: Tensor, temperatures: Sequence[float]
) -> Tensor:
    """One product for all chips. Leaves the gradient, returns the loss."""
    chips, n = len(temperatures), len(x)
    rows = -(-n // chips)
    x = x.flatten(1)
    if rows * chips != n:  # the parts of `tensor_split`, the shorter ones filled up with their first example
        starts = [part[0] for part in torch.arange(n).tensor_split(chips)]
        first = torch.stack(starts).to(x.device)
        ends = torch.cat([first[1:], first.new_tensor([n])])
        index = first[:, None] + torch.arange(rows, device=x.device)
        real = index < ends[:, None]
        index = torch.where(real, index, first[:, None])
        x, y = x[index], y[index]
    else:
        real = None
        x, y = x.view(chips, rows, -1), y.view(chips, rows)
    factor = {id(p): f[:chips] for p, f in zip(drawn.parameters, drawn.factors, strict=True)}
    logits = sequence(x, lambda p: _Drifted.apply(p, factor[id(p)]))
    logits = logits * logits.new_tensor(temperatures)[:, None, None]
    if real is None:
        loss = functional.cross_entropy(logits.flatten(0, 1), y.flatten())
    else:
        each = functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none")
        loss = each.view_as(real).mul(real).sum() / n
    loss.backward()
    return loss.detach()


class _Drifted(torch.autograd.Function):
    """p (shape) and factors (chips, shape) -> p times each; the backward sums over the chips as it multiplies."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, factors: Tensor) -> Tensor:
        ctx.factors = factors  # constants, and memory that outlives the step
        return factors * p

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        total = grads[0][0] * ctx.factors[0]
        for grad, factor in zip(grads[0][1:], ctx.factors[1:], strict=True):
            total.addcmul_(grad, factor)
        return total, None


def chip_by_chip(
    model: nn.Module, drawn: TrainingChips, x: Tensor, y: Tensor, temperatures: Sequence[float]
) -> Tensor:
    """For any model: its parameters become those of one chip after the other. Leaves the gradient, returns the loss."""
    chips = len(temperatures)
    parameters = drawn.parameters
    clean = [p.detach().clone() for p in parameters]
    gradients = [torch.zeros_like(p) for p in parameters]
    total = torch.zeros((), device=x.device)
    try:
        parts = zip(x.tensor_split(chips), y.tensor_split(chips), temperatures, strict=True)
        for chip, (images, labels, temperature) in enumerate(parts):
            with torch.no_grad():
                for p, before, factors in zip(parameters, clean, drawn.factors, strict=True):
                    torch.mul(before, factors[chip], out=p.detach())
            loss = task_loss(model, images, labels, temperature) * (len(images) / len(x))
            loss.backward()
            total += loss.detach()
            for p, gradient, factors in zip(parameters, gradients, drawn.factors, strict=True):
                if p.grad is not None:
                    gradient.addcmul_(p.grad, factors[chip])
                    p.grad.zero_()
    finally:
        with torch.no_grad():
            for p, before in zip(parameters, clean, strict=True):
                p.copy_(before)
    for p, gradient in zip(parameters, gradients, strict=True):
        if p.grad is not None:
            p.grad.copy_(gradient)
    return total
