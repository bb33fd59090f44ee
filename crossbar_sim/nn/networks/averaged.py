"""A network with several outputs per class, which are averaged."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from crossbar_sim.errors import InputError
from crossbar_sim.nn.networks.sites import count


class AveragedOutputs(nn.Module):
    """A network of copies x classes outputs as one of `classes`: the mean of each class's copies.

    Outputs i copies .. (i + 1) copies - 1 of the network are those of class i. The mean is digital. The output layer
    has the fewest inputs to average over and errs most; its copies are a small part of all cells.

    Args:
        network: maps (b, ...) to (b, classes copies), or the name of one of ours that does.
        copies: outputs per class.
        classes: of a named network.
        arguments: of a named network, but its classes.

    Raises:
        InputError: if copies is no integer >= 2, or the named network cannot be built.
    """

    def __init__(
        self,
        network: str | nn.Module = "mlp",
        copies: int = 8,
        classes: int = 10,
        arguments: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(copies, bool) or not isinstance(copies, int) or copies < 2:
            raise InputError(
                f"copies={copies!r}: an integer >= 2 is needed, one output per class needs no average"
            )
        self.copies, self.name, self.classes = copies, None, None
        if isinstance(network, str):
            self.name, self.classes = network, count("classes", classes)
            network = _named(network, dict(arguments or {}), copies * self.classes)
        elif arguments is not None:
            raise InputError("arguments are for a network given by its name, not for a module")
        self.network = network

    @property
    def arguments(self) -> dict[str, Any] | None:
        """What rebuilds it, dropout rates as they are now; None around a module of the user's."""
        if self.name is None:
            return None
        own: dict[str, Any] = dict(self.network.arguments)  # type: ignore[arg-type]
        del own["classes"]
        return {"network": self.name, "copies": self.copies, "classes": self.classes, "arguments": own}

    def forward(self, x: Tensor) -> Tensor:
        """Logits (b, classes).

        Raises:
            InputError: if the network's outputs are no multiple of the copies.
        """
        outputs: Tensor = self.network(x)
        if outputs.ndim != 2 or outputs.shape[1] % self.copies:
            raise InputError(
                f"the network gives {tuple(outputs.shape[1:])} outputs per example: a multiple of {self.copies}, "
                "one group per class, is needed"
            )
        return outputs.unflatten(1, (-1, self.copies)).mean(2)


def _named(name: str, arguments: dict[str, Any], outputs: int) -> nn.Module:
    from crossbar_sim.nn.networks import build  # which lists this class too

    if name in ("averaged", "coded"):
        raise InputError(f"network 'averaged' takes a network of single outputs, not {name!r}")
    if "classes" in arguments:
        raise InputError("classes go beside the network's arguments: it has copies x classes outputs")
    return build(name, **arguments, classes=outputs)
