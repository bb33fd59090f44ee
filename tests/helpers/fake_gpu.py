"""A GPU that is not there: tensors without values on "cuda", which no operation may mix with those of the CPU.

Everything runs as on a machine with one GPU, only that tensors have shapes, types and devices alone. An operation on
tensors of two devices raises an error, as it would there. Where the code looks at a number, it finds 1.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode

from crossbar_sim.nn import device as devices
from crossbar_sim.nn.device import Device

_NUMBER: dict[bool, Any] = {True: True, False: 1}


@dataclass
class Bus:
    """What went between CPU and GPU: bytes of every tensor."""

    to_gpu: list[int] = field(default_factory=list)
    to_cpu: list[int] = field(default_factory=list)

    def clear(self) -> None:
        """Begin again."""
        self.to_gpu.clear()
        self.to_cpu.clear()


class _Numbers(TorchDispatchMode):
    """Context in which a number of a tensor is 1, and copies between devices are noted."""

    def __init__(self, bus: Bus) -> None:
        super().__init__()
        self.bus = bus

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense":
            dtype = args[0].dtype
            return True if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1
        if name in ("equal", "allclose"):
            return args[0].shape == args[1].shape
        if (
            name == "index" and getattr(args[1][0], "dtype", None) == torch.bool
        ):  # how many there are is a value: half of them
            assert args[1][0].device == args[0].device
            return args[0][: max(len(args[0]) // 2, 1)].clone()
        found = func(*args, **kwargs)
        if name in ("_to_copy", "copy_") and isinstance(found, Tensor):
            source = args[1] if name == "copy_" else args[0]
            ends = source.device.type, found.device.type
            size = found.numel() * found.element_size()
            if ends == ("cpu", "cuda"):
                self.bus.to_gpu.append(size)
            if ends == ("cuda", "cpu"):
                self.bus.to_cpu.append(size)
        return found


def _without_values(tensor: Tensor, device: torch.device | str) -> Tensor:
    made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made


def _put(device: Device, model: nn.Module) -> None:
    """As `Device.put`, which cannot move tensors without values."""
    known: dict[int, Tensor] = {}
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None and tensor.device != device.where:
                    if id(tensor) not in known:
                        known[id(tensor)] = _without_values(tensor, device.where)
                    held[name] = known[id(tensor)]  # type: ignore[assignment]
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()


def _array(tensor: Tensor, *_: Any, **__: Any) -> Any:
    """`Tensor.numpy`: ones."""
    if not isinstance(tensor, FakeTensor):
        return _NUMPY(tensor)
    assert tensor.device.type == "cpu", "numpy() of a tensor on the GPU"
    return np.ones(tuple(tensor.shape), np.dtype(str(tensor.dtype).removeprefix("torch.")))


def _list(tensor: Tensor) -> Any:
    return _array(tensor.cpu()).tolist() if isinstance(tensor, FakeTensor) else _LIST(tensor)


_NUMPY: Callable[..., Any] = Tensor.numpy
_LIST: Callable[..., Any] = Tensor.tolist
_FROM: Callable[..., Tensor] = torch.from_numpy


@contextmanager
def fake_gpu() -> Iterator[Bus]:
    """Context with one GPU of 8 GiB: pass device="cuda", and tensors of the context."""
    bus = Bus()
    with ExitStack() as stack:
        for where, name, value in (
            (devices, "count", lambda kind: 1 if kind == "cuda" else 0),
            (devices, "free_memory", lambda device: 8 * 2**30 if device.type == "cuda" else None),
            (devices, "peak_memory", lambda device, reset=False: None),
            (devices, "describe", lambda device: "cuda: none"),
            (devices, "release_memory", lambda device: None),
            (Device, "put", _put),
            (Tensor, "numpy", _array),
            (Tensor, "tolist", _list),
        ):
            stack.enter_context(mock.patch.object(where, name, value))
        mode = stack.enter_context(FakeTensorMode(allow_non_fake_inputs=False))
        stack.enter_context(
            mock.patch.object(torch, "from_numpy", lambda array: mode.from_tensor(_FROM(array)))
        )
        stack.enter_context(_Numbers(bus))
        yield bus
