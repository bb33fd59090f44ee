"""MLP, LeNet-5, plain convolutional networks, and the spatial transformer network."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from crossbar_sim.nn.networks.base import (
    Network,
    activation_type,
    count,
    dropout_rates,
    he,
    layer_widths,
    normalisation_name,
    of_images,
    of_values,
)

# A multilayer perceptron of any depth, with a named dropout site after each hidden layer.


class MLP(Network):
    """Linear layers `fc1`, `fc2`, ... with an activation and a dropout site between them.

    The default, 784-192-32-10, is the MLP of the BayesFT paper (section IV) in our reading. The
    sites are `dropout1` (after `fc1`), `dropout2`, ...; they exist at rate 0 too, so that a search
    can set them. `arguments` rebuilds the network: `MLP(**network.arguments)`.

    Args:
        inputs: values per image after flattening.
        hidden: widths of the hidden layers; empty gives a linear classifier.
        classes: outputs.
        dropout: one rate in [0, 1) for all sites, or one per site.
        activation: a name in `ACTIVATIONS`.
        normalisation: None, or a name in `NORMALISATIONS`; `norm1`, ... stand before the activations.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self,
        inputs: int = 784,
        hidden: Sequence[int] = (192, 32),
        classes: int = 10,
        dropout: float | Sequence[float] = 0.0,
        activation: str = "relu",
        normalisation: str | None = None,
    ) -> None:
        super().__init__()
        widths = layer_widths(hidden)
        sizes = (count("inputs", inputs), *widths, count("classes", classes))
        rates = dropout_rates(dropout, len(widths))
        kind, normalisation = activation_type(activation), normalisation_name(normalisation)
        for i, (rows, columns) in enumerate(pairwise(sizes), start=1):
            self.add_module(f"fc{i}", nn.Linear(rows, columns))
            if i <= len(widths):
                if normalisation is not None:
                    self.add_module(f"norm{i}", of_values(normalisation, columns))
                self.add_module(f"activation{i}", kind())
                self.add_module(f"dropout{i}", nn.Dropout(rates[i - 1]))
        self._given = {
            "inputs": sizes[0], "hidden": widths, "classes": sizes[-1], "activation": activation,
            "normalisation": normalisation,
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(b, ...)` of `inputs` values each to logits `(b, classes)`."""
        x = x.flatten(1)
        # Children are registered in the order of computation.
        for layer in self.children():
            x = layer(x)
        return x


# LeNet-5 for square images of 8 pixels and more, with named dropout sites.


# Below this side, conv2 without padding leaves too little to pool.
_PADDED_BELOW = 20


class LeNet5(Network):
    """Three convolutions and two linear layers (LeCun et al., 1998), with ReLU and max pooling.

    `conv1` (6 maps, 5x5, padding 2), pool 2, `conv2` (16 maps, 5x5), pool 2, `conv3` (120 maps,
    whose kernel is whatever is left, so that its result is 1x1), `fc1` (84), `fc2` (classes).
    At `size=28` that is the network of the paper. Images smaller than 20 pixels keep their
    side through `conv2` (padding 2): at `size=8` the sides are 8, 4, 4, 2, and conv3 is 2x2.

    Sites: `dropout1` and `dropout2` after the pools, `dropout3` after conv3, `dropout4` after fc1.

    Args:
        channels: colour planes of an image.
        size: its side in pixels, at least 8.
        classes: outputs.
        dropout: one rate in [0, 1) for all four sites, or four rates.
        activation: a name in `ACTIVATIONS`.
        normalisation: None, or a name in `NORMALISATIONS`; `norm1` to `norm4` stand before the
            activations, the last two over values, since conv3 leaves one pixel.

    Raises:
        InputError: an argument is out of range.
    """

    def __init__(
        self,
        channels: int = 1,
        size: int = 28,
        classes: int = 10,
        dropout: float | Sequence[float] = 0.0,
        activation: str = "relu",
        normalisation: str | None = None,
    ) -> None:
        super().__init__()
        channels, classes = count("channels", channels), count("classes", classes)
        size = count("size", size, low=8)
        rates = dropout_rates(dropout, 4)
        kind, normalisation = activation_type(activation), normalisation_name(normalisation)
        self.conv1 = nn.Conv2d(channels, 6, 5, padding=2)
        self.conv2 = nn.Conv2d(6, 16, 5, padding=2 if size < _PADDED_BELOW else 0)
        self.conv3 = nn.Conv2d(16, 120, last_side(size))
        self.fc1 = nn.Linear(120, 84)
        self.fc2 = nn.Linear(84, classes)
        self.norm1, self.norm2 = of_images(normalisation, 6), of_images(normalisation, 16)
        self.norm3, self.norm4 = of_values(normalisation, 120), of_values(normalisation, 84)
        self.pool = nn.MaxPool2d(2)
        self.activation = kind()
        self.dropout1, self.dropout2, self.dropout3, self.dropout4 = map(nn.Dropout, rates)
        self._given = {
            "channels": channels, "size": size, "classes": classes, "activation": activation,
            "normalisation": normalisation,
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(b, channels, size, size)` to logits `(b, classes)`."""
        x = self.dropout1(self.pool(self.activation(self.norm1(self.conv1(x)))))
        x = self.dropout2(self.pool(self.activation(self.norm2(self.conv2(x)))))
        x = self.dropout3(self.activation(self.norm3(self.conv3(x).flatten(1))))
        x = self.dropout4(self.activation(self.norm4(self.fc1(x))))
        return self.fc2(x)


def last_side(size: int) -> int:
    """Side of the feature map that conv3 sees, which is its kernel: 5 at 28 pixels, 2 at 8."""
    half = size // 2
    return (half if size < _PADDED_BELOW else half - 4) // 2


# AlexNet and VGG-11 for small images: convolutions one after another, then linear layers.


class Step(NamedTuple):
    """A convolution of a plan, and whether a dropout site and a max pooling by 2 follow its activation."""

    widths: int
    kernel: int = 3
    stride: int = 1
    site: bool = True
    pool: bool = False


class Plain(Network):
    """Convolutions as a plan says, hidden linear layers, an output layer; He initialisation.

    Modules: `features.conv1`, `.norm1`, `.activation1`, `.dropout1`, `.pool1`, ..., then `classifier.fc1`, ... and
    `classifier.output`. Where there is no normalisation, its place is an identity.

    Args:
        channels: colour planes of an image.
        size: its side in pixels, at least 32.
        classes: outputs.
        width: maps of the first convolution; the others are multiples of it.
        hidden: widths of the hidden linear layers; may be empty.
        dropout: one rate in [0, 1) for all sites, or one for each.
        normalisation: None, or a name in `NORMALISATIONS`; it stands before every hidden activation.
        activation: a name in `ACTIVATIONS`.

    Raises:
        InputError: an argument is out of range.
    """

    plan: ClassVar[tuple[Step, ...]]

    def __init__(
        self,
        channels: int = 3,
        size: int = 32,
        classes: int = 10,
        width: int = 64,
        hidden: Sequence[int] = (512,),
        dropout: float | Sequence[float] = 0.0,
        normalisation: str | None = None,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        channels, classes = count("channels", channels), count("classes", classes)
        size, width = count("size", size, low=32), count("width", width)
        widths = layer_widths(hidden)
        normalisation, kind = normalisation_name(normalisation), activation_type(activation)
        sites = sum(step.site for step in self.plan) + len(widths)
        rates = iter(dropout_rates(dropout, sites))
        self.features = nn.Sequential()
        before, side = channels, size
        for i, step in enumerate(self.plan, start=1):
            maps = step.widths * width
            conv = nn.Conv2d(before, maps, step.kernel, step.stride, step.kernel // 2)
            self.features.add_module(f"conv{i}", conv)
            self.features.add_module(f"norm{i}", of_images(normalisation, maps))
            self.features.add_module(f"activation{i}", kind())
            if step.site:
                self.features.add_module(f"dropout{i}", nn.Dropout2d(next(rates)))
            if step.pool:
                self.features.add_module(f"pool{i}", nn.MaxPool2d(2))
            before, side = maps, ((side - 1) // step.stride + 1) // (2 if step.pool else 1)
        self.classifier = nn.Sequential()
        inputs = before * side * side
        for i, (n, m) in enumerate(pairwise((inputs, *widths)), start=1):
            self.classifier.add_module(f"fc{i}", nn.Linear(n, m))
            self.classifier.add_module(f"norm{i}", of_values(normalisation, m))
            self.classifier.add_module(f"activation{i}", kind())
            self.classifier.add_module(f"dropout{i}", nn.Dropout(next(rates)))
        output = nn.Linear((inputs, *widths)[-1], classes)
        self.classifier.add_module("output", output)
        he(self, output)
        self._given = {
            "channels": channels, "size": size, "classes": classes, "width": width, "hidden": widths,
            "normalisation": normalisation, "activation": activation,
        }  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(b, channels, size, size)` to logits `(b, classes)`."""
        return self.classifier(self.features(x).flatten(1))


class AlexNet(Plain):
    """The five convolutions of AlexNet (Krizhevsky, arXiv:1404.5997) on images of 32 pixels, every one with a site.

    Poolings are by 2 without overlap, so that at 32 pixels the maps end in one pixel, and one hidden layer of 512 takes
    the place of two of 4096, which would hold 90 % of the weights.
    """

    plan = (Step(1, 11, 4, pool=True), Step(3, 5, pool=True), Step(6), Step(4), Step(4, pool=True))


class VGG11(Plain):
    """Configuration A of Simonyan and Zisserman (arXiv:1409.1556): eight 3x3 convolutions in five blocks.

    A site ends each block, before its pooling, and one the hidden layer, as in the BayesFT paper.
    """

    plan = (
        Step(1, pool=True), Step(2, pool=True), Step(4, site=False), Step(4, pool=True),
        Step(8, site=False), Step(8, pool=True), Step(8, site=False), Step(8, pool=True),
    )  # fmt: skip


# A traffic-sign network that looks where the sign is: a spatial transformer before convolutions.


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
    """The layers that follow a hidden linear layer."""
    layers.add_module(f"norm{i}", of_values(normalisation, features))
    layers.add_module(f"activation{i}", activation_type(activation)())
    layers.add_module(f"dropout{i}", nn.Dropout(rate))
