"""Networks whose normalisation is folded into their weights."""

from torch import nn

from crossbar_sim import Differential, Hardware
from crossbar_sim.nn.analog import chips
from helpers.analog_models import numbers

IMAGE = numbers(2, 2, 8, 8)


def folded(bias: str = "digital", **kw) -> Hardware:
    return Hardware(Differential(1e-6), bias=bias, normalisation="folded", **kw)


def with_statistics(model: nn.Module) -> nn.Module:
    """Running statistics and affine parameters that do something."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            n = module.num_features
            if module.running_mean is not None:
                module.running_mean.copy_(numbers(n) * 0.3)
                module.running_var.copy_(1.5 + numbers(n))
            if module.affine:
                module.weight.data.copy_(1.2 + 0.7 * numbers(n))
                module.bias.data.copy_(0.5 * numbers(n))
    return model.eval()


def count(analog: nn.Module) -> int:
    return sum(layer.reason.startswith("folded into") for layer in chips.layers(analog))
