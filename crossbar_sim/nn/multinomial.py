"""Dropout of three values: each is kept, halved or set to 0."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_sim.errors import InputError
from crossbar_sim.nn.dropout_sites import OWN
from crossbar_sim.validate import is_rate


class MultinomialDropout(OWN):
    """Multiply every value by 0, 1/2 or 1, with probabilities p, (1 - p)/2 and (1 - p)/2; the mean is kept.

    In evaluation mode it does nothing. Values are drawn one by one, of images too. Source: the noise of BayesMulti (Sun
    et al., arXiv:2412.02779) in its authors' release.

    Args:
        p: in [0, 1).
        before: the dropout layer in whose place it stands.

    Raises:
        InputError: if p is no rate.

    >>> MultinomialDropout(0.2).eval()(torch.ones(3))
    tensor([1., 1., 1.])
    """

    def __init__(self, p: float = 0.5, before: nn.Module | None = None) -> None:
        if not is_rate(p):
            raise InputError(f"dropout rate {p!r}: a number in [0, 1) is needed")
        super().__init__(p)
        self.before = () if before is None else (before,)  # in a tuple it is no layer of the model

    def forward(self, x: Tensor) -> Tensor:
        """Values (...) in training mode: 0, 2/3 x / (1 - p) or 4/3 x / (1 - p)."""
        if not self.training:
            return x
        u = torch.rand_like(x)
        kept = (u >= self.p).to(x.dtype) + (u >= (1 + self.p) / 2).to(x.dtype)  # 0, 1 or 2 halves
        return x * kept * (2 / (3 * (1 - self.p)))


def to_multinomial(model: nn.Module) -> nn.Module:
    """Replace every dropout layer of the model by a multinomial one of its rate, in place, and return the model.

    Raises:
        InputError: if it has none of its own.
    """
    replaced = _replace(model, OWN, lambda old: MultinomialDropout(old.p, old))
    if not replaced:
        raise InputError(
            f"{type(model).__name__} has no dropout layer of its own that multinomial dropout could replace: add an "
            "nn.Dropout where values may be dropped"
        )
    return model


def from_multinomial(model: nn.Module) -> None:
    """Put the dropout layers back, with the rates of those that stand in their places."""

    def before(now: Any) -> nn.Module:
        old = now.before[0] if now.before else nn.Dropout()
        old.p = now.p
        return old  # type: ignore[no-any-return]

    _replace(model, MultinomialDropout, before)


def _replace(model: nn.Module, kind: type[nn.Module], made: Callable[[Any], nn.Module]) -> int:
    """Replace layers of a kind; a layer in several places stays one layer."""
    known: dict[int, nn.Module] = {}
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if isinstance(child, kind):
                new = known.setdefault(id(child), made(child).train(child.training))
                module._modules[name] = new
    return len(known)
