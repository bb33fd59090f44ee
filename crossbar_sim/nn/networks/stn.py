"""A traffic-sign network that looks where the sign is: a spatial transformer before convolutions."""

from collections.abc import Iterator, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from crossbar_sim.nn.networks.base import Network
from crossbar_sim.nn.networks.initialisation import he
from crossbar_sim.nn.networks.normalisation import normalisation_name, of_images, of_values
from crossbar_sim.nn.networks.sites import activation_type, count, dropout_rates

_MAPS, _WIDTH = (8, 10), 32
"""Of the localisation: a small network, since it says six numbers."""


class SpatialTransformerNet(Network):
    """A localisation that says how to crop and turn the image (Jaderberg et al., 2015), and a classifier of the result.

    The classifier is one column of the committee that won the German Traffic Sign Recognition Benchmark (Cireşan et
    al., 2012), with the sizes of kernels that suit 32 pixels too: convolutions of 100, 150 and 250 maps with pooling by
    2 after each, 300 hidden values. The localisation is two convolutions (7x7, 5x5) and 32 hidden values.

    The localisation gives the difference from the identity map, which is added outside: a chip whose weights drift
    then still looks at the image, and its output layer starts from 0.

    Sites: `localisation.dropout1` to `3` after its hidden layers, `features.dropout1` to `3` before the poolings, and
    `classifier.dropout`. He initialisation.

    Args:
        channels: colour planes of an image.
        size: its side in pixels, at least 32.
        classes: outputs.
        width: half the maps of the first convolution, 50; the others are multiples of it.
        dropout: one rate in [0, 1) for all sites, or one for each.
        normalisation: None, or a name in `NORMALISATIONS`; it stands before every hidden activation.
        activation: a name in `ACTIVATIONS`.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self,
        channels: int = 3,
        size: int = 32,
        classes: int = 43,
        width: int = 50,
        dropout: float | Sequence[float] = 0.0,
        normalisation: str | None = None,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        channels, classes = count("channels", channels), count("classes", classes)
        size, width = count("size", size, low=32), count("width", width)
        normalisation = normalisation_name(normalisation)
        activation_type(activation)
        rates = iter(dropout_rates(dropout, 7))
        maps = (2 * width, 3 * width, 5 * width)
        self.localisation, side = _convolutions(
            channels, size, _MAPS, (7, 5), rates, normalisation, activation
        )
        self.localisation.add_module("flatten", nn.Flatten())
        self.localisation.add_module("fc", nn.Linear(_MAPS[-1] * side * side, _WIDTH))
        _finish(self.localisation, 3, _WIDTH, next(rates), normalisation, activation)
        six = nn.Linear(_WIDTH, 6)
        self.localisation.add_module("output", six)
        self.features, side = _convolutions(channels, size, maps, (7, 4, 4), rates, normalisation, activation)
        self.classifier = nn.Sequential()
        self.classifier.add_module("flatten", nn.Flatten())
        self.classifier.add_module("fc", nn.Linear(maps[-1] * side * side, 6 * width))
        _finish(self.classifier, 1, 6 * width, next(rates), normalisation, activation)
        output = nn.Linear(6 * width, classes)
        self.classifier.add_module("output", output)
        he(self, output)
        nn.init.zeros_(six.weight)  # its bias is 0 by now
        self._given = {
            "channels": channels, "size": size, "classes": classes, "width": width,
            "normalisation": normalisation, "activation": activation,
        }  # fmt: skip

    def maps(self, x: Tensor) -> Tensor:
        """The affine maps (b, 2, 3), from places in the cropped image to places in the image, that x gets."""
        difference = self.localisation(x).reshape(-1, 2, 3)
        return difference + difference.new_tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(b, channels, size, size)` to logits `(b, classes)`."""
        # torch's stub wants a list, which a traced model could not give
        grid = F.affine_grid(self.maps(x), x.shape, align_corners=False)  # type: ignore[arg-type]
        seen = F.grid_sample(x, grid, align_corners=False)
        return self.classifier(self.features(seen))


def _convolutions(
    channels: int, side: int, maps: Sequence[int], kernels: Sequence[int], rates: Iterator[float],
    normalisation: str | None, activation: str,
) -> tuple[nn.Sequential, int]:  # fmt: skip
    """Convolutions without padding, each with a site and a pooling by 2; and the side of what comes out."""
    layers = nn.Sequential()
    for i, (m, kernel) in enumerate(zip(maps, kernels, strict=True), start=1):
        layers.add_module(f"conv{i}", nn.Conv2d(channels, m, kernel))
        layers.add_module(f"norm{i}", of_images(normalisation, m))
        layers.add_module(f"activation{i}", activation_type(activation)())
        layers.add_module(f"dropout{i}", nn.Dropout2d(next(rates)))
        layers.add_module(f"pool{i}", nn.MaxPool2d(2))
        channels, side = m, (side - kernel + 1) // 2
    return layers, side


def _finish(
    layers: nn.Sequential, i: int, features: int, rate: float, normalisation: str | None, activation: str
) -> None:
    """What follows a hidden linear layer."""
    layers.add_module(f"norm{i}", of_values(normalisation, features))
    layers.add_module(f"activation{i}", activation_type(activation)())
    layers.add_module(f"dropout{i}", nn.Dropout(rate))
