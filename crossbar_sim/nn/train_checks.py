"""What a training looks at before it begins: examples that have labels and fit the model."""

from typing import Protocol

import torch
from torch import nn

from crossbar_sim.errors import InputError


class Examples(Protocol):
    """Labelled examples, e.g. a `Split`: x (n, ...) float32, y (n,) int64."""

    @property
    def x(self) -> torch.Tensor: ...  # noqa: D102
    @property
    def y(self) -> torch.Tensor | None: ...  # noqa: D102


def labelled(what: str, examples: Examples, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """x and y on the device, or one sentence."""
    if examples.y is None:
        raise InputError(f"the {what} examples have no labels: training needs y")
    if len(examples.x) == 0 or len(examples.x) != len(examples.y):
        raise InputError(
            f"the {what} examples are {len(examples.x)} and their labels {len(examples.y)}: "
            "as many of both are needed, and at least one"
        )
    return examples.x.to(device), examples.y.to(device)


def check_fits(model: nn.Module, x: torch.Tensor, top: int) -> None:
    """Try one example, so that data which does not fit is one sentence and not a failed step."""
    model.eval()
    try:
        with torch.no_grad():
            logits = model(x[:1].clone())
    except RuntimeError as error:
        line = (str(error).splitlines() or ["no reason given"])[0]
        raise InputError(
            f"the model does not take examples of shape {tuple(x.shape[1:])}: {line[:160]}"
        ) from error
    if logits.ndim != 2 or logits.shape[1] <= top:
        raise InputError(
            f"the model gives {tuple(logits.shape)} for one example and the largest label is "
            f"{top}: logits of shape (1, classes) with classes >= {top + 1} are needed"
        )
