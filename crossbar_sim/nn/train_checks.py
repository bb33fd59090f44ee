"""What a training looks at before it begins: examples that have labels and fit the model."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import nn

from crossbar_sim.errors import InputError
from crossbar_sim.nn.training import Training


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
    scenes = examples.y.dim() == 3 and examples.y.dtype == torch.uint8
    if not (scenes or examples.y.dim() == 1) or int(examples.y.min()) < 0:
        raise InputError(
            f"the {what} labels have shape {tuple(examples.y.shape)}: training takes one class number per example; "
            "train a model of tokens in your own loop, and deploy it"
        )
    return examples.x.to(device), examples.y.to(device)


def near_chance(score: float | None, y: torch.Tensor, x: torch.Tensor) -> Iterator[str]:
    """A sentence with likely causes where a clean model is hardly better than the most frequent class.

    Args:
        score: its accuracy.
        y: labels (n,) or (n, places...); negative ones are not judged.
        x: the inputs, whose range is a likely cause.
    """
    labels = y[y >= 0]
    counts = torch.bincount(labels)
    classes, n = int((counts > 0).sum()), int(labels.numel())
    if score is None or classes < 2 or n < 50:
        return
    chance = max(float(counts.max()) / n, 1 / classes)
    if score > chance + 3 * (chance * (1 - chance) / n) ** 0.5 + 0.02:
        return
    causes = []
    if x.is_floating_point():
        low, high = (float(v) for v in torch.aminmax(x))
        if high > 2:
            causes.append(
                f"the inputs lie in {low:.4g} .. {high:.4g}: a model that was trained on pixels in 0 .. 1 needs them "
                "divided by 255 (save x as uint8, or divide)"
            )
    causes.append(
        "another normalisation or order of the channels than in training, other class numbers, or no training"
    )
    yield (
        f"the clean model is right on {score:.1%}, and the most frequent class is {chance:.1%} of the labels: it is "
        f"near chance before any chip; likely causes: {'; '.join(causes)}"
    )


def check_training(training: object) -> None:
    """Refuse what does not say how to train.

    Raises:
        InputError: naming what was given.
    """
    if not isinstance(training, Training):
        shown = f"the class {training.__name__}" if isinstance(training, type) else type(training).__name__
        raise InputError(f"training={shown}: expected an instance such as Training(epochs=10)")


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
