"""AlexNet and VGG-11 for small images: convolutions one after another, then linear layers."""

from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from crossbar_sim.nn.networks.base import Network
from crossbar_sim.nn.networks.initialisation import he
from crossbar_sim.nn.networks.normalisation import normalisation_name, of_images, of_values
from crossbar_sim.nn.networks.sites import activation_type, count, dropout_rates, layer_widths


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
