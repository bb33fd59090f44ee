"""Residual networks: ResNet-18, and PreAct-ResNet-18, -50 and -152."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

from torch import Tensor, nn

from crossbar_sim.errors import InputError
from crossbar_sim.nn.networks.base import (
    Network,
    activation_type,
    count,
    dropout_rates,
    he,
    normalisation_name,
    of_images,
    quiet_branches,
)

STEMS = ("cifar", "imagenet")


class Block(nn.Module):
    """A branch of convolutions and a shortcut around it: what the two kinds of block share.

    Args:
        maps: at the input, in the middle and at the output.
        stride: of the block; its first 3x3 convolution has it.
        normalisation, activation: names.
        rate: of the site at the end of the branch.
    """

    norm1: nn.Module
    norm2: nn.Module
    norm3: nn.Module
    conv1: nn.Conv2d
    conv2: nn.Conv2d
    conv3: nn.Conv2d
    activation1: nn.Module
    activation2: nn.Module
    activation3: nn.Module

    kernels: ClassVar[tuple[int, ...]] = (3, 3)
    preactivated: ClassVar[bool] = False

    def __init__(
        self,
        maps: tuple[int, int, int],
        stride: int,
        normalisation: str | None,
        activation: str,
        rate: float,
    ) -> None:
        super().__init__()
        first, middle, last = maps
        kind, bias = activation_type(activation), normalisation is None
        outputs = [middle] * (len(self.kernels) - 1) + [last]
        inputs = [first, *outputs[:-1]]
        for i, (kernel, n, m) in enumerate(zip(self.kernels, inputs, outputs, strict=True), start=1):
            step = stride if i == self.kernels.index(3) + 1 else 1
            self.add_module(f"conv{i}", nn.Conv2d(n, m, kernel, step, kernel // 2, bias=bias))
            self.add_module(f"norm{i}", of_images(normalisation, n if self.preactivated else m))
            self.add_module(f"activation{i}", kind())
        self.dropout = nn.Dropout2d(rate)
        self.shortcut = nn.Sequential()
        if stride != 1 or first != last:
            self.shortcut.add_module("conv", nn.Conv2d(first, last, 1, stride, bias=bias))
            if not self.preactivated:
                self.shortcut.add_module("norm", of_images(normalisation, last))

    def convolutions(self) -> list[nn.Conv2d]:
        """Those of the branch, in order."""
        return [module for module in self.children() if isinstance(module, nn.Conv2d)]


class PostBlock(Block):
    """He et al. (2016a): conv, norm, activation, conv, norm, dropout, + shortcut, activation."""

    def forward(self, x: Tensor) -> Tensor:
        """Map `(b, n, h, w)` to `(b, m, h / stride, w / stride)`."""
        y = self.activation1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return self.activation2(self.dropout(y) + self.shortcut(x))


class PreBlock(Block):
    """He et al. (2016b): norm, activation, conv, twice; then dropout, + shortcut."""

    preactivated = True

    def forward(self, x: Tensor) -> Tensor:
        """Map `(b, n, h, w)` to `(b, m, h / stride, w / stride)`."""
        active = self.activation1(self.norm1(x))
        y = self.conv1(active)
        y = self.conv2(self.activation2(self.norm2(y)))
        # a projection takes the activated input, an identity the input itself
        return self.dropout(y) + (self.shortcut(active) if len(self.shortcut) else x)


class PreBottleneck(Block):
    """The same with convolutions of 1, 3 and 1 pixels, for the deep networks."""

    kernels = (1, 3, 1)
    preactivated = True

    def forward(self, x: Tensor) -> Tensor:
        """Map `(b, n, h, w)` to `(b, m, h / stride, w / stride)`."""
        active = self.activation1(self.norm1(x))
        y = self.conv1(active)
        y = self.conv2(self.activation2(self.norm2(y)))
        y = self.conv3(self.activation3(self.norm3(y)))
        return self.dropout(y) + (self.shortcut(active) if len(self.shortcut) else x)


class Residual(Network):
    """A stem, four stages of blocks, the mean over pixels, an output layer.

    Sites: `dropout` after the stem, then `layer1.0.dropout`, ... at the end of each block's branch, before the
    addition: the shortcut, on which a deep network's signal lives, keeps all of it. Convolutions have biases where
    there is no normalisation. He initialisation; without normalisation the branches start quiet
    (`initialisation.py`).

    Args:
        channels: colour planes of an image.
        classes: outputs.
        width: maps of the first stage; the others have 2, 4 and 8 times as many.
        stem: "cifar", a 3x3 convolution, for images of 32 pixels; "imagenet", 7x7 with stride 2 and a pooling by 2.
        dropout: one rate in [0, 1) for all sites, or one for each.
        normalisation: None, or a name in `NORMALISATIONS`.
        activation: a name in `ACTIVATIONS`.

    Raises:
        InputError: an argument is out of range.
    """

    layer1: nn.Module
    layer2: nn.Module
    layer3: nn.Module
    layer4: nn.Module

    block: ClassVar[type[Block]] = PreBlock
    stages: ClassVar[tuple[int, ...]] = (2, 2, 2, 2)

    def __init__(
        self,
        channels: int = 3,
        classes: int = 10,
        width: int = 64,
        stem: str = "cifar",
        dropout: float | Sequence[float] = 0.0,
        normalisation: str | None = None,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        channels, classes, width = (
            count("channels", channels),
            count("classes", classes),
            count("width", width),
        )
        if not isinstance(stem, str) or stem not in STEMS:
            raise InputError(f"stem={stem!r} is unknown: choose from {', '.join(STEMS)}")
        normalisation, kind = normalisation_name(normalisation), activation_type(activation)
        rates = iter(dropout_rates(dropout, 1 + sum(self.stages)))
        large, post = stem == "imagenet", not self.block.preactivated
        kernel, stride = (7, 2) if large else (3, 1)
        bias = normalisation is None
        self.conv1 = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=bias)
        # Pre-activated blocks bring their own.
        self.norm1 = of_images(normalisation if post else None, width)
        self.activation1 = kind() if post else nn.Identity()
        self.dropout = nn.Dropout2d(next(rates))
        self.pool = nn.MaxPool2d(3, 2, 1) if large else nn.Identity()
        expansion, before = (4 if len(self.block.kernels) == 3 else 1), width
        for i, blocks in enumerate(self.stages):
            middle = width << i
            stage = nn.Sequential()
            for j in range(blocks):
                step = 2 if i and not j else 1
                maps = (before, middle, middle * expansion)
                stage.append(self.block(maps, step, normalisation, activation, next(rates)))
                before = middle * expansion
            self.add_module(f"layer{i + 1}", stage)
        # After an affine-free instance norm every channel has mean 0, and the means are what is read next.
        last = None if post or normalisation == "instance" else normalisation
        self.norm2 = of_images(last, before)
        self.activation2 = nn.Identity() if post else kind()
        self.fc = nn.Linear(before, classes)
        he(self, self.fc)
        if normalisation is None:
            quiet_branches(block.convolutions() for block in self.blocks())
        self._given = {
            "channels": channels, "classes": classes, "width": width, "stem": stem,
            "normalisation": normalisation, "activation": activation,
        }  # fmt: skip

    def blocks(self) -> Iterator[Block]:
        """All blocks, in the order of computation."""
        return (module for module in self.modules() if isinstance(module, Block))

    def forward(self, x: Tensor) -> Tensor:
        """Map images `(b, channels, h, w)` to logits `(b, classes)`."""
        x = self.pool(self.dropout(self.activation1(self.norm1(self.conv1(x)))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.activation2(self.norm2(x)).mean((2, 3)))


class ResNet18(Residual):
    """ResNet-18 (He et al., 2016a, arXiv:1512.03385)."""

    block = PostBlock


class PreActResNet18(Residual):
    """PreAct-ResNet-18 (He et al., 2016b, arXiv:1603.05027), with its last normalisation and activation."""


class PreActResNet50(Residual):
    """PreAct-ResNet-50: bottleneck blocks, 3 + 4 + 6 + 3 of them."""

    block = PreBottleneck
    stages = (3, 4, 6, 3)


class PreActResNet152(Residual):
    """PreAct-ResNet-152: bottleneck blocks, 3 + 8 + 36 + 3 of them."""

    block = PreBottleneck
    stages = (3, 8, 36, 3)
