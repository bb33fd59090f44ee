"""A small convolutional network that trains fast on images of 32 pixels, behind a fixed whitening convolution."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crossbar_sim.data.inputs import Batch
from crossbar_sim.errors import InputError
from crossbar_sim.nn.networks.base import (
    Network,
    activation_type,
    count,
    dropout_rates,
    normalisation_name,
    of_images,
)

IMAGES = 2000
"""Training images, at most, whose patches the whitening is computed from."""

_EPSILON = 5e-4
"""Added to the variances of patches before they are inverted: directions of less are noise."""

_SCALE = 1 / 9
"""Of the outputs, as in arXiv:2404.00498: the logits start small beside the step of the output layer."""


def shift_norm(maps: int) -> nn.BatchNorm2d:
    """Batch normalisation of `maps` channels with a learnable shift and without a learnable scale."""
    norm = nn.BatchNorm2d(maps, affine=False, momentum=0.4)  # few, large batches
    norm.bias = nn.Parameter(torch.zeros(maps))
    return norm


class Stage(nn.Sequential):
    """Two 3x3 convolutions, the first followed by a max pooling by 2.

    Args:
        inputs, maps: channels.
        normalisation, activation: names.
        rate: of the dropout site at the end.
    """

    def __init__(
        self, inputs: int, maps: int, normalisation: str | None, activation: str, rate: float
    ) -> None:
        super().__init__()
        kind = activation_type(activation)
        for i, before in enumerate((inputs, maps), start=1):
            conv = nn.Conv2d(before, maps, 3, padding=1, bias=normalisation is None)
            nn.init.dirac_(conv.weight[:before].detach())
            self.add_module(f"conv{i}", conv)
            norm = shift_norm(maps) if normalisation == "batch" else of_images(normalisation, maps)
            self.add_module(f"norm{i}", norm)
            if i == 1:
                self.add_module("pool", nn.MaxPool2d(2))
            self.add_module(f"activation{i}", kind())
        self.add_module("dropout", nn.Dropout2d(rate))


class FastConv(Network):
    """Whitening by a fixed 2x2 convolution, three stages of two convolutions, the largest value of each map, outputs.

    After the CIFAR-10 speed records of Jordan (2024, arXiv:2404.00498), whose network it follows in the whitening, the
    stages, the identity in the first filters, batch normalisation without a learnable scale and the scaled outputs.
    The whitening's filters are the principal components of 2x2 patches of the training images, divided by their
    standard deviations, and the same with the other sign. `fit` computes them when a training begins; until then they
    are 0. They are weights like others: they are saved, go on arrays and drift, but no gradient moves them.

    Sites: `stage1.dropout` to `stage3.dropout`, at the ends of the stages.

    Args:
        channels: colour planes of an image, whose side is 9 pixels at least.
        classes: outputs.
        width: maps of the first stage; the other two have four times as many.
        dropout: one rate in [0, 1) for all sites, or one for each.
        normalisation: None, or a name in `NORMALISATIONS`; "batch" has a learnable shift and no learnable scale.
        activation: a name in `ACTIVATIONS`.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self,
        channels: int = 3,
        classes: int = 10,
        width: int = 32,
        dropout: float | Sequence[float] = 0.0,
        normalisation: str | None = "batch",
        activation: str = "relu",
    ) -> None:
        super().__init__()
        channels, classes, width = (
            count("channels", channels),
            count("classes", classes),
            count("width", width),
        )
        normalisation, kind = normalisation_name(normalisation), activation_type(activation)
        rates = dropout_rates(dropout, 3)
        patch = 4 * channels
        self.whitening = nn.Conv2d(channels, 2 * patch, 2)
        self.whitening.weight.requires_grad_(False)
        nn.init.zeros_(self.whitening.weight)
        nn.init.zeros_(self.whitening.bias)  # type: ignore[arg-type]
        self.activation = kind()
        self.stage1 = Stage(2 * patch, width, normalisation, activation, rates[0])
        self.stage2 = Stage(width, 4 * width, normalisation, activation, rates[1])
        self.stage3 = Stage(4 * width, 4 * width, normalisation, activation, rates[2])
        self.output = nn.Linear(4 * width, classes, bias=False)
        self._given = {
            "channels": channels, "classes": classes, "width": width,
            "normalisation": normalisation, "activation": activation,
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(b, channels, h, w)` to logits `(b, classes)`."""
        x = self.stage3(self.stage2(self.stage1(self.activation(self.whitening(x)))))
        return self.output(x.amax((2, 3))) * _SCALE


def whiten(model: nn.Module, x: Batch) -> None:
    """Compute the whitening of every `FastConv` in a model whose filters are still 0, in place.

    Args:
        model: any; without a `FastConv` nothing is done.
        x: training images (n, channels, h, w).

    Raises:
        InputError: if x is not such images.
    """
    for module in model.modules():
        if isinstance(module, FastConv) and not bool(module.whitening.weight.any()):
            filters = module.whitening.weight
            if not isinstance(x, Tensor) or x.dim() != 4 or x.shape[1] != filters.shape[1]:
                raise InputError(
                    f"the whitening of FastConv is computed from training images of {filters.shape[1]} channels: give "
                    "images (n, channels, h, w)"
                )
            with torch.no_grad():
                filters.copy_(whitening(x[:: max(1, len(x) // IMAGES)][:IMAGES]))


def whitening(images: Tensor) -> Tensor:
    """Filters (8 c, c, 2, 2) that make the 2x2 patches of images (n, c, h, w) uncorrelated, of variance 1.

    The first half are the principal components of the patches over their standard deviations, the largest first, each
    with its largest weight positive; the second half are their negatives.
    """
    c = images.shape[1]
    patches = images.double().unfold(2, 2, 1).unfold(3, 2, 1).permute(0, 2, 3, 1, 4, 5).reshape(-1, 4 * c)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T, correction=0))
    components = vectors.flip(1).T / (values.flip(0).clamp_min(0) + _EPSILON).sqrt()[:, None]
    top = components.gather(1, components.abs().argmax(1, keepdim=True))
    components = (components * top.sign()).view(-1, c, 2, 2)
    return torch.cat([components, -components]).to(images.dtype)
