"""Gradient steps of drift-aware training: each runs a network on several newly drawn chips."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _NormBase

from crossbar_sim.baselines.calibrated import standardised_by_chip
from crossbar_sim.crossbar import kernels, threads
from crossbar_sim.crossbar.drift import LogNormalDrift
from crossbar_sim.crossbar.layer_designs import Design, at_sigma
from crossbar_sim.crossbar.stream import Stream
from crossbar_sim.data.inputs import Batch, call, first_of, split
from crossbar_sim.errors import InputError, silenced_warnings, warn
from crossbar_sim.nn.analog.chips import analog_state, layers, set_chip, set_hardware, slots
from crossbar_sim.nn.analog.conversion import map_model
from crossbar_sim.nn.analog.matrices import DIGITAL_BY_TRAINING, matrices
from crossbar_sim.nn.analog.operands import Operands
from crossbar_sim.nn.analog.sequential import TracedStep, flatten, trace_sequential
from crossbar_sim.nn.standardised import digital_parameters
from crossbar_sim.nn.tensor_cells.laws import drift
from crossbar_sim.nn.training.losses import PLAIN, TaskLoss
from crossbar_sim.rng import Key
from crossbar_sim.robustness.score import of_operands


def normalisations(model: nn.Module) -> list[_NormBase]:
    """Normalisations with running statistics, each once."""
    return [m for m in model.modules() if isinstance(m, _NormBase) and m.running_mean is not None]


@contextmanager
def _averaging(model: nn.Module) -> Iterator[None]:
    """Context in which the model evaluates, and its normalisations average the statistics of all batches equally."""
    norms = [(norm, norm.momentum) for norm in normalisations(model)]
    model.eval()
    try:
        for norm, _ in norms:
            norm.momentum = None
            norm.train()
        with torch.no_grad():
            yield
    finally:
        for norm, momentum in norms:
            norm.momentum = momentum
        model.eval()


class BatchedSequence:
    """A network as its linear layers, activations and dropout in order; `of` recognises one.

    Args:
        parts: linear layers, activations (modules or functions), dropout modules, and the digital normalisations of
            calibrated training.
        flattens: whether images are flattened before the first of them.
    """

    def __init__(self, parts: list[TracedStep], flattens: bool) -> None:
        self.parts, self.flattens = parts, flattens

    @classmethod
    def of(cls, model: nn.Module) -> "BatchedSequence | None":
        """The sequence of a sequential model that flattens its inputs first, if at all; None for any other model."""
        steps = trace_sequential(model, nn.BatchNorm1d)
        if steps is None:
            return None
        if any(DIGITAL_BY_TRAINING not in vars(step) for step in steps if isinstance(step, nn.BatchNorm1d)):
            return None
        parts = [step for step in steps if step is not flatten]
        flattens = len(steps) - len(parts)
        return None if flatten in steps[flattens:] else cls(parts, flattens > 0)

    def takes(self, x: Tensor) -> bool:
        """Whether images (b, ...), once flattened, have the size that the first layer needs."""
        first = next(part for part in self.parts if isinstance(part, nn.Linear))
        flat = x.dim() == 2 or (x.dim() > 2 and self.flattens)
        return flat and x[:1].numel() == first.in_features

    def __call__(self, x: Tensor, drifted: Callable[[Tensor], Tensor], weights: Tensor) -> Tensor:
        """Outputs (chips, b, classes) for inputs (chips, b, features).

        Args:
            x: each chip's own inputs.
            drifted: gives a parameter as the chips have it, (chips, *shape).
            weights: (chips, 1, b), of the inputs in a chip's statistics.
        """
        for part in self.parts:
            if isinstance(part, nn.BatchNorm1d):
                x = standardised_by_chip(x, part, weights)
            elif isinstance(part, nn.Linear) and DIGITAL_BY_TRAINING not in vars(part):
                weight = drifted(part.weight).transpose(1, 2)
                x = (
                    torch.bmm(x, weight)
                    if part.bias is None
                    else torch.baddbmm(drifted(part.bias)[:, None, :], x, weight)
                )
            else:
                x = part(x)
        return x


# Training chips: newly drawn in every step, and different from those of every evaluation.
#
# A chip multiplies every parameter by exp(sigma z), z standard normal (Eq. (1) of BayesFT, DAC 2021). z comes from the
# counter stream, under a key of its own and with a number that the step draws from torch's generator on the CPU: the
# loop seeds that generator, and its checkpoints keep it. A GPU draws the same numbers itself (docs/randomness.md).


def numbers(n: int) -> list[int]:
    """Numbers below 2**31 from torch's generator on the CPU."""
    return torch.randint(2**31, (n,)).tolist()


class TrainingChips:
    """Drift factors of all parameters of a model, in reused memory.

    Args:
        model: whose parameters drift, tied ones once, frozen ones too; those of layers that were made to stay digital
            do not.
        chips: how many there are at a time.
        key: of the training.
        copies: cells per weight: its factor is the mean of so many.
        censor: of `DriftAware`; of each cell.
        tensors: whether they are drawn by operations on tensors on the CPU too.
    """

    def __init__(
        self,
        model: nn.Module,
        chips: int,
        key: Key,
        copies: int = 1,
        censor: float | None = None,
        tensors: bool = False,
    ) -> None:
        digital = digital_parameters(model)
        self.parameters: list[Tensor] = [p for p in model.parameters() if id(p) not in digital]
        self.censor = censor
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
        on_tensors = tensors or self.device.type != "cpu"
        self.draws = self._draw_on_tensors if on_tensors else self._draw_by_kernels
        self.ones = torch.ones(
            self.count if on_tensors else min(self.count, threads.CHUNK), device=self.device
        )

    def draw(self, sigmas: Sequence[float]) -> None:
        """Fill `all`, and so `factors`, for one chip per sigma; the remaining rows are undefined.

        The mean of as many draws as there are copies.
        """
        self.draws(self.all, sigmas)
        self._cut(self.all, sigmas)
        if self.copies > 1:
            more = torch.empty_like(self.all)
            for _ in range(self.copies - 1):
                self.draws(more, sigmas)
                self._cut(more, sigmas)
                self.all.add_(more)
            self.all.div_(self.copies)

    def _cut(self, factors: Tensor, sigmas: Sequence[float]) -> None:
        """Censor the factors of one cell each."""
        if self.censor is not None:
            for row, sigma in zip(factors, sigmas, strict=False):  # the remaining rows are undefined
                row.clamp_(max=math.exp(sigma * self.censor))

    def _draw_on_tensors(self, target: Tensor, sigmas: Sequence[float]) -> None:
        plane, event = numbers(2)
        for chip, sigma in enumerate(sigmas):
            stream = Stream.of(self.key, chip, plane, event)
            target[chip] = drift(LogNormalDrift(sigma), self.ones, stream)

    def _draw_by_kernels(self, target: Tensor, sigmas: Sequence[float]) -> None:
        out, ones = target.numpy(), self.ones.numpy()
        plane, event = numbers(2)
        for chip, sigma in enumerate(sigmas):
            rates = LogNormalDrift(sigma).rates
            name = Stream.of(self.key, chip, plane, event).name
            for part in threads.chunks(self.count):
                row = out[chip, part]
                kernels.lognormal(ones[: row.size], row, *rates, part.start, *name)


# Gradient steps through simulated arrays: hardware-aware training for any design.


def as_deployed(
    model: nn.Module, hardware: Design, x: Batch, seed: int, chip: int = 0
) -> tuple[nn.Module, Operands | None]:
    """Map a model for training exactly as an evaluation maps it: the same layers are on arrays.

    The model runs in evaluation mode and keeps its mode, and no random number of the training is used.

    Args:
        model: clean; its parameters are shared.
        hardware, seed, chip: see `to_analog`.
        x: inputs (n, ...), of which the first few are run.

    Returns:
        The analog model, and what its forward does with its parameters, as `map_model` returns them.

    Warns:
        CrossbarWarning: of what the design asks for and cannot act, and of weights that stay digital although
            their kind of layer multiplies with them.

    Raises:
        InputError: as `map_model`.
    """
    modes = [(module, module.training) for module in model.modules()]
    device = first_of(x).device
    cuda = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices=cuda), torch.autocast(device.type, enabled=False):
            analog, seen = map_model(model.eval(), hardware, x, seed, chip)
    finally:
        for module, training in modes:
            module.training = training
    warn(of_operands(layers(analog), seen))
    return analog, seen


class AnalogStep:
    """A `Step` on newly drawn chips of a design, one after another; `to_analog` describes the gradient.

    Args:
        hardware: the design.
        sigmas: gives each chip's sigma, as in `DriftedStep`; None: the design as it is.
        chips: per step.
        layers: as in `DriftedStep`.
        key: its seed and names tell training chips from all others.
        loss: of the model's outputs.
        tensors: whether arrays are computed by operations on tensors on the CPU too.
    """

    def __init__(
        self,
        hardware: Design,
        sigmas: Callable[[float, int], Sequence[float]] | None,
        chips: int,
        layers: int,
        key: Key,
        loss: TaskLoss = PLAIN,
        tensors: bool = False,
    ) -> None:
        self.hardware, self.sigmas, self.chips, self.layers = hardware, sigmas, chips, layers
        self.loss, self.tensors = loss, tensors
        self.seed = key.fold("training chips").integer()
        self._of: tuple[nn.Module, torch.device, nn.Module, int] | None = None

    def __call__(self, model: nn.Module, x: Batch, y: Tensor, share: float) -> Tensor:
        """See `Step`."""
        analog, layers = self._analog(model, x)
        analog.train()
        chips = min(self.chips, len(x))
        sigmas = None if self.sigmas is None else self.sigmas(share, chips)
        total = torch.zeros((), device=y.device)
        parts = zip(split(x, chips), y.tensor_split(chips), numbers(chips), strict=True)
        for i, (images, labels, chip) in enumerate(parts):
            temperature = 1.0
            if sigmas is not None:
                set_hardware(analog, at_sigma(self.hardware, sigmas[i]))
                temperature = math.exp(-layers * sigmas[i] ** 2 / 2)
            set_chip(analog, chip)
            share = self.loss.weight(labels) / self.loss.weight(y)
            loss = self.loss(analog, images, labels, temperature) * share
            loss.backward()
            total += loss.detach()
        return total

    def forward(self, model: nn.Module, parts: Sequence[Batch]) -> None:
        """Run the normalisations' statistics over new chips of the last sigma, one for each part of the inputs."""
        analog, _ = self._analog(model, parts[0])
        chips = len(parts)
        sigmas = None if self.sigmas is None else self.sigmas(1.0, chips)
        with _averaging(analog):
            for i, (x, chip) in enumerate(zip(parts, numbers(chips), strict=True)):
                if sigmas is not None:
                    set_hardware(analog, at_sigma(self.hardware, sigmas[i]))
                set_chip(analog, chip)
                call(analog, x)

    def _analog(self, model: nn.Module, x: Batch) -> tuple[nn.Module, int]:
        """The analog model, which shares parameters and buffers, and the number of its weight layers in series.

        Made once per model and device.
        """
        device = next(model.parameters()).device
        if self._of is None or self._of[0] is not model or self._of[1] != device:
            hardware = self.hardware if self.sigmas is None else at_sigma(self.hardware, 0.0)
            analog, _ = as_deployed(model, hardware, x, self.seed)
            analog_state(analog).tensors = self.tensors
            self._of = (model, device, analog, max(0, self.layers - _digital(model, analog)))
        return self._of[2:]


def _digital(model: nn.Module, analog: nn.Module) -> int:
    """Number of layers that have a weight matrix by their class but are on no array."""
    holders = dict(model.named_modules())
    found = [holders.get(layer.name, model) for layer in layers(analog) if not layer.analog]
    return sum(1 for module in found if matrices(module))


# Gradient steps through drift: several chips per step, each with its own part of the batch.
#
# The loss of a step is the mean over examples, each computed with the parameters theta exp(sigma z) of one chip. Its
# gradient is exact for the draws made (reparametrisation): d/dtheta = exp(sigma z) d/d(theta exp(sigma z)).


Sigmas = Callable[[float, int], Sequence[float]]
"""(share of the training done, chips) -> a sigma for each chip."""


class DriftedStep:
    """A `Step` on newly drawn chips; the parameters are restored bit for bit afterwards.

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
        loss: of the model's outputs.
        censor: of `DriftAware`.
        tensors: whether chips are drawn by operations on tensors on the CPU too.
    """

    def __init__(
        self,
        sigmas: Sigmas,
        chips: int,
        layers: int,
        key: Key,
        batched: bool = True,
        copies: int = 1,
        hardware: Design | None = None,
        loss: TaskLoss = PLAIN,
        censor: float | None = None,
        tensors: bool = False,
    ) -> None:
        self.censor, self.tensors = censor, tensors
        self.sigmas, self.chips, self.layers, self.key, self.loss = sigmas, chips, layers, key, loss
        self.batched, self.copies, self.hardware = batched, copies, hardware
        self._of: tuple[nn.Module, TrainingChips, BatchedSequence | None, AnalogStep | None] | None = None

    def __call__(self, model: nn.Module, x: Batch, y: Tensor, share: float) -> Tensor:
        """See `Step`."""
        drawn, sequence, arrays = self._prepared(model, x)
        if arrays is not None:
            return arrays(model, x, y, share)
        chips = min(self.chips, len(x))
        sigmas = self.sigmas(share, chips)
        drawn.draw(sigmas)
        temperatures = [math.exp(-self.layers * sigma**2 / 2) for sigma in sigmas]
        even = self.loss.loss is None or (self.loss.batched and len(x) % chips == 0)
        if sequence is not None and even and isinstance(x, Tensor) and sequence.takes(x):
            return batched(sequence, drawn, x, y, temperatures, self.loss)
        return chip_by_chip(model, drawn, x, y, temperatures, self.loss)

    def forward(self, model: nn.Module, parts: Sequence[Batch]) -> None:
        """Run the normalisations' statistics over new chips of the last sigma, one for each part of the inputs."""
        drawn, _, arrays = self._prepared(model, parts[0])
        if arrays is not None:
            arrays.forward(model, parts)
            return
        drawn.draw(self.sigmas(1.0, len(parts)))
        with _averaging(model), ChipByChip(drawn) as each:
            for chip, x in enumerate(parts):
                each.program(chip)
                call(model, x)

    def _prepared(
        self, model: nn.Module, x: Batch
    ) -> tuple[TrainingChips, BatchedSequence | None, AnalogStep | None]:
        """Memory for the draws, the batched sequence (if any), and the step on arrays where factors do not suffice.

        Looked up once.
        """
        known = self._of
        device = next(model.parameters()).device
        if known is None or known[0] is not model or known[1].device != device:
            sequence = BatchedSequence.of(model) if self.batched else None
            arrays = None
            if sequence is None and self.hardware is not None and not _all_drift(model, self.hardware, x):
                if self.censor is not None:
                    raise InputError(
                        "censor cuts the factors of parameters, and this network takes some of its parameters past "
                        "their cells, so that it is trained on arrays: leave it out"
                    )
                how = self.sigmas, self.chips, self.layers, self.key, self.loss, self.tensors
                arrays = AnalogStep(self.hardware, *how)
            known = self._of = (
                model,
                TrainingChips(model, self.chips, self.key, self.copies, self.censor, self.tensors),
                sequence,
                arrays,
            )
        return known[1:]


def _all_drift(model: nn.Module, hardware: Design, x: Batch) -> bool:
    """Whether every parameter that an evaluation on the design reads is read with drift, everywhere.

    Where the network cannot be mapped at all, so that no evaluation says more, every parameter drifts.
    """
    try:
        with silenced_warnings():  # the step on arrays will say it
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
    unused = {name for name, operand in seen.by_name.items() if operand.way == "unused"}
    digital = digital_parameters(model)
    past = any(operand.also_bypassed for operand in seen.by_name.values())
    return not past and all(
        id(p) in drifting or id(p) in digital for name, p in model.named_parameters() if name not in unused
    )


def batched(
    sequence: BatchedSequence,
    drawn: TrainingChips,
    x: Tensor,
    y: Tensor,
    temperatures: Sequence[float],
    task: TaskLoss = PLAIN,
) -> Tensor:
    """Run all chips by batched products. Sets the gradients and returns the loss.

    A loss other than the plain one needs parts of one size.
    """
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
        x, y = x.view(chips, rows, -1), y.view(chips, rows, *y.shape[1:])
    factor = {id(p): f[:chips] for p, f in zip(drawn.parameters, drawn.factors, strict=True)}
    judged = x.new_ones(chips, 1, rows) if real is None else real[:, None].to(x.dtype)
    logits = sequence(x, lambda p: _Drifted.apply(p, factor[id(p)]), judged / judged.sum(2, keepdim=True))
    logits = logits * logits.new_tensor(temperatures)[:, None, None]
    if task.loss is not None:
        loss = task.loss(logits.flatten(0, 1), y.flatten(0, 1))
    elif real is None:
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


class ChipByChip:
    """Context in which parameters have the values of one chip after another; they are restored bit for bit.

    Args:
        drawn: the factors of the chips.
    """

    def __init__(self, drawn: TrainingChips) -> None:
        self.drawn = drawn
        self.clean = [p.detach().clone() for p in drawn.parameters]
        self.gradients = [torch.zeros_like(p) for p in drawn.parameters]

    def __enter__(self) -> "ChipByChip":
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self.drawn.parameters, self.clean)
        if error is None:
            for p, gradient in zip(self.drawn.parameters, self.gradients, strict=True):
                if p.grad is not None:
                    p.grad.copy_(gradient)

    def program(self, chip: int) -> None:
        """Give the parameters the values of a chip."""
        with torch.no_grad():
            torch._foreach_copy_(self.drawn.parameters, self.clean)
            torch._foreach_mul_(self.drawn.parameters, [factors[chip] for factors in self.drawn.factors])

    def gather(self, chip: int) -> None:
        """Add the gradients of the chip's values, each times its factor, to those that the parameters will have."""
        each = zip(self.drawn.parameters, self.gradients, self.drawn.factors, strict=True)
        found = [(gradient, p.grad, factors[chip]) for p, gradient, factors in each if p.grad is not None]
        if found:
            sums, gradients, factors = ([*column] for column in zip(*found, strict=True))
            torch._foreach_addcmul_(sums, gradients, factors)
            torch._foreach_zero_(gradients)


def chip_by_chip(
    model: nn.Module,
    drawn: TrainingChips,
    x: Batch,
    y: Tensor,
    temperatures: Sequence[float],
    task: TaskLoss = PLAIN,
) -> Tensor:
    """Run any model with the parameters of one chip after another. Sets the gradients and returns the loss."""
    chips = len(temperatures)
    total = torch.zeros((), device=y.device)
    with ChipByChip(drawn) as each:
        parts = zip(split(x, chips), y.tensor_split(chips), temperatures, strict=True)
        for chip, (images, labels, temperature) in enumerate(parts):
            each.program(chip)
            share = task.weight(labels) / task.weight(y)
            loss = task(model, images, labels, temperature) * share
            loss.backward()
            total += loss.detach()
            each.gather(chip)
    return total
