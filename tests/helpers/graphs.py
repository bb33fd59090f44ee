"""Models exported by torch."""

import torch
from torch import nn


def export(model: nn.Module, inputs, dynamic=None, decomposed: bool = False) -> nn.Module:
    program = torch.export.export(model, tuple(inputs), dynamic_shapes=dynamic)
    return (program.run_decompositions() if decomposed else program).module()
