"""The base class of the networks, which keeps the arguments that rebuild it, and their shared building blocks."""

import inspect
import math
from collections.abc import Iterable, Iterator, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import nn

from crossbar_sim.errors import InputError
from crossbar_sim.nn.dropout_sites import OWN
from crossbar_sim.validate import is_rate

# First weights for deep networks, such that they train without normalisation too.


def he(model: nn.Module, output: nn.Linear) -> None:
    """Draw all convolutions and linear layers as He et al. (2015, arXiv:1502.01852) do; biases are 0.

    The variance 2 / fan_in keeps the mean square of the values from layer to layer with ReLU between; the output layer,
    which no ReLU follows, gets half of it.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if module is output else "relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def quiet_branches(branches: Iterable[Sequence[nn.Conv2d]]) -> None:
    """Scale the branches of residual blocks without normalisation so that their sum does not grow with their number.

    The rule of Fixup (Zhang et al., 2019, arXiv:1901.09321), after `he`: in each of the `L` branches of `m` layers the
    last starts from 0, so that every block starts as its shortcut, and the others are scaled by L^(-1/(2m - 2)).

    Args:
        branches: of each block its convolutions in order, two or more.
    """
    every = list(branches)
    with torch.no_grad():
        for *before, last in every:
            nn.init.zeros_(last.weight)
            for layer in before:
                layer.weight.mul_(math.pow(len(every), -1 / (2 * len(before))))


# The normalisation layers that the networks take, by name; None is none, as in the BayesFT paper.
#
# | name | of images (b, c, h, w), over | of values (b, n), over | parameters |
# |---|---|---|---|
# | batch | batch and pixels, each channel by itself | the batch, each value by itself | scale and shift of each |
# | layer | channels and pixels: one group | the values | scale and shift of each |
# | instance | pixels, each channel by itself | the values | none |
# | group | pixels of a group of channels | a group of values | scale and shift of each |
#
# Without parameters (instance) there is none that could drift; docs/networks.md.


NORMALISATIONS = ("batch", "layer", "instance", "group")


def normalisation_name(name: object) -> str | None:
    """Return the name of a normalisation, or None for none; raises InputError naming the known ones."""
    if name is None or (isinstance(name, str) and name in NORMALISATIONS):
        return name
    raise InputError(f"normalisation={name!r} is unknown: choose from None, {', '.join(NORMALISATIONS)}")


def of_images(name: str | None, channels: int) -> nn.Module:
    """The layer for images (b, channels, h, w); it does nothing where `name` is None."""
    if name is None:
        return nn.Identity()
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "instance":
        return nn.InstanceNorm2d(channels)
    if name == "layer":
        return nn.GroupNorm(1, channels)
    # 32 groups are the default of Wu and He (arXiv:1803.08494), whose networks begin with 64 channels.
    most = 32 if channels >= 64 and channels % 32 == 0 else 4
    return nn.GroupNorm(_groups(channels, most, 1), channels)


def of_values(name: str | None, features: int) -> nn.Module:
    """The layer for values (b, features); it does nothing where `name` is None.

    Raises:
        InputError: one value is to be normalised by itself, which would leave nothing of it.
    """
    if name is None:
        return nn.Identity()
    if name == "batch":
        return nn.BatchNorm1d(features)
    if features < 2:
        raise InputError(
            f"normalisation={name!r} of a layer of {features} value leaves nothing of it: "
            "make the layer wider, or choose 'batch' or None"
        )
    if name == "group":
        return nn.GroupNorm(_groups(features, 4, 2), features)
    return nn.LayerNorm(features, elementwise_affine=name == "layer")


def _groups(n: int, most: int, smallest: int) -> int:
    """The largest number of equal groups up to `most`, of at least `smallest` members."""
    return max(g for g in range(1, most + 1) if n % g == 0 and n // g >= smallest)


# Argument checks that the networks share: counts, dropout sites, activations.


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def count(name: str, value: object, low: int = 1) -> int:
    """Return `value` as an int of at least `low`; raises InputError otherwise."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise InputError(f"{name}={value!r} must be an integer of at least {low}")
    return int(value)


def layer_widths(hidden: object) -> tuple[int, ...]:
    """Return the widths of hidden layers; raises InputError unless they are integers of at least 1."""
    if isinstance(hidden, str) or not isinstance(hidden, Iterable):
        raise InputError(f"hidden={hidden!r} must be a sequence of layer widths")
    return tuple(count("hidden width", width) for width in hidden)


def dropout_rates(dropout: Any, sites: int) -> tuple[float, ...]:
    """Return one rate per site from a single rate or a sequence of `sites` rates.

    Raises InputError for a rate outside [0, 1) or a sequence of another length: 1 would silence
    the network, and a rate that fits no site would silently do nothing.
    """
    several = isinstance(dropout, Iterable)
    given: list[Any] = list(dropout) if several else [dropout] * sites
    if len(given) != sites:
        raise InputError(
            f"dropout={dropout!r} has {len(given)} rates but the network has {sites} sites: "
            "give one rate for all or one per site"
        )
    for rate in given if several else [dropout]:
        if not is_rate(rate):
            raise InputError(f"dropout={dropout!r}: every rate must be a number in [0, 1)")
    return tuple(float(rate) for rate in given)


def activation_type(name: object) -> type[nn.Module]:
    """Return the activation's class; raises InputError naming the known ones."""
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise InputError(f"activation={name!r} is unknown: choose from {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


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


NETWORKS: dict[str, type[nn.Module]] = {}
"""Every network class by its name; `crossbar_sim.nn.networks` fills it."""


def build(name: str, **arguments: Any) -> nn.Module:
    """Build the network called `name`; its class documents the arguments.

    Raises:
        InputError: the name is not in `NETWORKS`, or an argument is unknown or out of range.
    """
    if not isinstance(name, str) or name not in NETWORKS:
        raise InputError(f"network {name!r} is unknown: choose from {', '.join(NETWORKS)}")
    allowed = inspect.signature(NETWORKS[name]).parameters
    for argument in arguments:
        if argument not in allowed:
            raise InputError(
                f"network {name!r} takes no argument {argument!r}: its arguments are {', '.join(allowed)}"
            )
    return NETWORKS[name](**arguments)
