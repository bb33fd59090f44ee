"""The optimiser of the training loop: Adam or SGD, on one flat buffer where that is safe."""

import math

import torch
from torch import Tensor, nn

from crossbar_sim.errors import InputError
from crossbar_sim.nn.training import Training

WARM_UP = 0.3
"""The share of the steps in which the learning rate rises."""

MOMENTUM = 0.9
"""Of SGD."""


def one_cycle(step: int, steps: int) -> float:
    """The learning rate of `step` (0 .. steps - 1) as a share of the highest.

    One cycle in the manner of Smith and Topin (arXiv:1708.07120): linear from 1/25 up over the
    first 30 % of the steps, then half a cosine down, never quite to 0.

    >>> one_cycle(3, 10), round(one_cycle(9, 10), 3)
    (1.0, 0.05)
    """
    top = int(WARM_UP * steps)
    if step < top:
        return 0.04 + 0.96 * step / top
    return 0.5 * (1 + math.cos(math.pi * (step - top) / (steps - top)))


class Optimiser:
    """Adam (decoupled weight decay) or SGD for the parameters of a model that require a gradient.

    On the CPU, small networks spend more time on calls per parameter than on the arithmetic: there the parameters
    are views of one buffer while they are trained, and so are their gradients. `close` gives them their own memory
    back. GPUs have kernels for lists of parameters, and changes through a view raise no version of a parameter.

    Args:
        model: on its device.
        training: rates, decay, clipping.
        steps: how many there will be.

    Raises:
        InputError: if nothing requires a gradient.
    """

    def __init__(self, model: nn.Module, training: Training, steps: int) -> None:
        self.training, self.steps = training, steps
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        if not self.parameters:
            raise InputError("the model has no parameter that requires a gradient: nothing to train")
        self.own = [p.data for p in self.parameters]
        self.flat: nn.Parameter | None = None
        self.views: list[Tensor] = []
        last = training.channels_last
        if _flattens(self.parameters):
            self.flat = nn.Parameter(
                torch.cat([_memory(p.detach(), last).reshape(-1) for p in self.parameters])
            )
            self.flat.grad = torch.zeros_like(self.flat)
            sizes = [p.numel() for p in self.parameters]
            values, gradients = self.flat.detach().split(sizes), self.flat.grad.split(sizes)
            self.views = [_shaped(g, p, last) for g, p in zip(gradients, self.parameters, strict=True)]
            for p, value in zip(self.parameters, values, strict=True):
                p.data = _shaped(value, p, last)
        elif last and not _share_memory(self.parameters):
            for p in self.parameters:
                if p.dim() == 4:
                    p.data = p.data.contiguous(memory_format=torch.channels_last)
        self.optimised = self.parameters if self.flat is None else [self.flat]
        self.torch = _torch_optimiser(self.optimised, training)
        self.zero()

    def zero(self) -> None:
        """Begin a step: gradients are None, or zeros of the buffer."""
        if self.flat is None:
            for p in self.parameters:
                p.grad = None
            return
        assert self.flat.grad is not None
        self.flat.grad.zero_()
        for p, view in zip(self.parameters, self.views, strict=True):
            p.grad = view

    def step(self, done: int) -> None:
        """Take step number `done` (from 0) along what is in the gradients."""
        self._gather()
        training = self.training
        share = one_cycle(done, self.steps) if training.schedule == "one-cycle" else 1.0
        self.torch.param_groups[0]["lr"] = training.lr * share
        if training.clip is not None:
            for p in self.optimised:
                if p.grad is not None:
                    p.grad.clamp_(-training.clip, training.clip)
        self.torch.step()

    def _gather(self) -> None:
        """Copy gradients that a method has put in place of the buffer's (None: there is none)."""
        for p, view in zip(self.parameters, self.views, strict=False):
            if p.grad is not view:
                if p.grad is None:
                    view.zero_()
                else:
                    view.copy_(p.grad)

    def close(self) -> None:
        """Give the parameters their own memory back, with what they have learnt, and drop the gradients."""
        for p, own in zip(self.parameters, self.own, strict=True):
            if p.data_ptr() != own.data_ptr():  # it has moved
                own.copy_(p.data)
                p.data = own
            p.grad = None


def _memory(p: Tensor, channels_last: bool) -> Tensor:
    """In the order in which it is to lie in memory."""
    return p.permute(0, 2, 3, 1) if channels_last and p.dim() == 4 else p


def _shaped(part: Tensor, like: Tensor, channels_last: bool) -> Tensor:
    """A flat part of memory in that order, as a tensor of the shape of `like`."""
    if channels_last and like.dim() == 4:
        rows, channels, height, width = like.shape
        return part.view(rows, height, width, channels).permute(0, 3, 1, 2)
    return part.view_as(like)


def _share_memory(parameters: list[nn.Parameter]) -> bool:
    return len({p.untyped_storage().data_ptr() for p in parameters}) < len(parameters)


def _flattens(parameters: list[nn.Parameter]) -> bool:
    """Whether they can be views of one buffer: plain float32 on the CPU, none sharing memory with another."""
    return not _share_memory(parameters) and all(
        p.dtype == torch.float32 and p.device.type == "cpu" and p.is_contiguous() and p.numel()
        for p in parameters
    )


def _torch_optimiser(parameters: list[nn.Parameter], training: Training) -> torch.optim.Optimizer:
    # No foreach and no plain loop over parameters: the fused kernels are one pass over memory.
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    if training.optimiser == "sgd":
        return torch.optim.SGD(
            parameters, training.lr, momentum=MOMENTUM, weight_decay=training.weight_decay, fused=fused
        )
    return torch.optim.AdamW(parameters, training.lr, weight_decay=training.weight_decay, fused=fused)
