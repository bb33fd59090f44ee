"""LeNet-5 for square images of 8 pixels and more, with named dropout sites."""

from collections.abc import Sequence

from torch import Tensor, nn

from crossbar_sim.nn.networks.base import Network
from crossbar_sim.nn.networks.normalisation import normalisation_name, of_images, of_values
from crossbar_sim.nn.networks.sites import activation_type, count, dropout_rates

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
