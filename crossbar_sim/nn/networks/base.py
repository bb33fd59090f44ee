"""What our networks have in common: they know the arguments that rebuild them."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from crossbar_sim.nn.dropout_flow import OWN


class Network(nn.Module):
    """A network with named dropout sites; `arguments` rebuilds it: `type(network)(**network.arguments)`."""

    _given: dict[str, Any]

    @property
    def arguments(self) -> dict[str, Any]:
        """Plain values for a checkpoint; "dropout" is what the sites' rates are now."""
        return {**self._given, "dropout": tuple(float(site.p) for site in self.dropout_sites())}

    def dropout_sites(self) -> Iterator[nn.modules.dropout._DropoutNd]:
        """The dropout layers in the order of their rates, which is that of their registration."""
        return (module for module in self.modules() if isinstance(module, OWN))
