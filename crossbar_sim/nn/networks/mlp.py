"""A multilayer perceptron of any depth, with a named dropout site after each hidden layer."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from crossbar_sim.nn.networks.base import Network
from crossbar_sim.nn.networks.normalisation import normalisation_name, of_values
from crossbar_sim.nn.networks.sites import activation_type, count, dropout_rates, layer_widths


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
