"""AWP: adversarial weight perturbation, a step towards the worst weights nearby before each gradient."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import ClassVar

import torch
from torch import Tensor, nn

from crossbar_sim.baselines.method import (
    Build,
    Method,
    Trained,
    check_development,
    check_switch,
    fresh,
    trained,
)
from crossbar_sim.data import Development
from crossbar_sim.data.inputs import Batch, one_tensor
from crossbar_sim.errors import InputError
from crossbar_sim.nn.training.loop import Epoch
from crossbar_sim.nn.training.losses import PLAIN, TaskLoss
from crossbar_sim.nn.training.settings import Step, Training, check_training
from crossbar_sim.rng import Key, as_key
from crossbar_sim.validate import check_integer, is_real

Range = tuple[Tensor, Tensor]
"""The least and the largest value of the training images, per channel or of all: shapes that broadcast with x."""


@dataclass(frozen=True)
class Awp(Method):
    """Follow the gradient at w + v, where v is the worst small perturbation of the weights (Wu et al., Eq. 8-11).

    For each matrix or kernel w_l, `v_l = gamma |w_l| g_l / |g_l|` (Euclidean norms) with g the gradient of the
    loss on the batch: one step of ascent, scaled layer by layer, which fills the ball |v_l| <= gamma |w_l| that the
    paper allows. Biases and normalisation are not perturbed, as in the authors' code: only parameters with "weight" in
    their name and more than one dimension are. Before the optimiser's step the weights are what they were, to the bit.

    Args:
        gamma: size of the perturbation as a share of each layer's norm.
        input_attack: also perturb the images, by at most so much in each value (in the data's units) and within the
            data's range; None: weights only, which is what the BayesFT paper compares with.
        attack_steps: of that attack: 1 is FGSM, more are PGD from a random start with steps of a quarter of it.
        as_published: never take the perturbation back, as the released BayesFT code does: it accumulates. For
            comparison only.
        training: how to train.

    Raises:
        InputError: if a number is out of range.
    """

    kind: ClassVar[str] = "awp"
    citation: ClassVar[str] = (
        "Wu, Xia, Wang: Adversarial Weight Perturbation Helps Robust Generalization, NeurIPS 2020, arXiv:2004.05884"
    )

    gamma: float = 0.01
    input_attack: float | None = None
    attack_steps: int = 10
    as_published: bool = False
    training: Training = Training()  # noqa: RUF009 - frozen

    def __post_init__(self) -> None:
        check_training(self.training)
        for what, value in (("gamma", self.gamma), ("input_attack", self.input_attack)):
            if what == "input_attack" and value is None:
                continue
            if not (is_real(value) and 0 < value < float("inf")):  # type: ignore[operator]
                raise InputError(f"{what}={value!r}: a finite number > 0 is needed")
        check_integer("attack_steps", self.attack_steps, 1)
        check_switch("as_published", self.as_published)

    def fit(
        self,
        build: Build,
        development: Development,
        key: Key,
        *,
        progress: Callable[[Epoch], None] | None = None,
        checkpoint: str | PathLike[str] | None = None,
    ) -> Trained:
        """See `Method.fit`."""
        development = check_development(development)
        key = as_key(key)
        model = fresh(build, key)
        names = [name for name, _ in perturbed(model)]
        within = (
            None
            if self.input_attack is None
            else value_range(one_tensor(development.train.x, "input_attack"))
        )

        def steps(loss: TaskLoss) -> Step:
            return lambda model, x, y, share: self.step(model, x, y, within, loss)

        notes = {"gamma": self.gamma, "perturbed": names}
        return trained(
            self, model, development, key, steps=steps, progress=progress, checkpoint=checkpoint, notes=notes
        )

    def step(
        self, model: nn.Module, x: Batch, y: Tensor, within: Range | None = None, loss: TaskLoss = PLAIN
    ) -> Tensor:
        """One gradient at the perturbed weights, which are then put back; see `nn.training.settings.Step`."""
        if self.input_attack is not None:
            images = one_tensor(x, "input_attack")
            x = attack(model, images, y, self.input_attack, self.attack_steps, within, loss)
        weights = [weight for _, weight in perturbed(model)]
        with statistics_kept(model):
            value = loss(model, x.clone(), y)  # x is needed again, whatever the forward writes
            # by autograd.grad, so that .grad holds the second gradient alone
            ascent = torch.autograd.grad(value, weights, allow_unused=True)
        kept = [weight.detach().clone() for weight in weights]
        with torch.no_grad():
            for weight, gradient in zip(weights, ascent, strict=True):
                if gradient is not None:
                    length = gradient.norm().clamp_min(torch.finfo(gradient.dtype).tiny)
                    weight.add_(gradient * (self.gamma * weight.norm() / length))
        found = loss(model, x, y)
        found.backward()
        if not self.as_published:
            with torch.no_grad():
                for weight, value in zip(weights, kept, strict=True):
                    weight.copy_(value)
        return found.detach()


def perturbed(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The parameters that AWP perturbs: trained, "weight" in the name, more than one dimension; tied ones once.

    Raises:
        InputError: if there are none.
    """
    found = [
        (name, p)
        for name, p in model.named_parameters()
        if p.requires_grad and p.dim() > 1 and "weight" in name
    ]
    if not found:
        raise InputError(
            f"{type(model).__name__} has no trained parameter with 'weight' in its name and more than one dimension: "
            "AWP has nothing to perturb"
        )
    return found


def value_range(x: Tensor) -> Range:
    """The range of images: per channel (c, 1, ...) where they have channels, else of all values (1,)."""
    dims = [0, *range(2, x.dim())] if x.dim() > 2 else [0, 1]
    shape = (-1, *[1] * (x.dim() - 2)) if x.dim() > 2 else (1,)
    return x.amin(dims).reshape(shape), x.amax(dims).reshape(shape)


def attack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    steps: int,
    within: Range | None,
    loss: TaskLoss = PLAIN,
) -> Tensor:
    """Adversarial images by FGSM (one step) or PGD, with the model in evaluation mode.

    Args:
        model: its modes, statistics and gradients are left unchanged.
        x, y: (b, ...) and (b,).
        epsilon: the most that a value may change by.
        steps: of ascent along the sign of the gradient (Goodfellow et al., arXiv:1412.6572; Madry et al.,
            arXiv:1706.06083).
        within: the data's range.
        loss: whose ascent it is.

    Returns:
        (b, ...) without a gradient.
    """
    low, high = (x - epsilon, x + epsilon)
    if within is not None:
        low, high = torch.maximum(low, within[0].to(x)), torch.minimum(high, within[1].to(x))
    stride = epsilon if steps == 1 else epsilon / 4
    found = x.detach().clone()
    if steps > 1:
        found = torch.clamp(found + torch.empty_like(x).uniform_(-epsilon, epsilon), low, high)
    with evaluating(model):
        for _ in range(steps):
            found.requires_grad_(True)
            (gradient,) = torch.autograd.grad(loss(model, found, y), found)
            found = torch.clamp(found.detach() + stride * gradient.sign(), low, high)
    return found.detach()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Context in which the model is in evaluation mode; each module's own mode is restored afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """Restore buffers such as running means afterwards: the first forward of a step must not update them."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
