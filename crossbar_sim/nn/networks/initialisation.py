"""First weights for deep networks, such that they train without normalisation too."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import nn


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
