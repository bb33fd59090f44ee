"""Where a model is computed: on the CPU by Numba kernels, or by operations on tensors, on any device of torch."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from crossbar_sim.errors import InputError

KINDS = {"cuda": "GPU", "xpu": "Intel GPU", "mps": "Apple GPU"}
"""The types of torch devices that have memory of their own, and what they are called."""

EXPECTED = "cpu, cuda, cuda:1, xpu, mps, auto or torch:cpu"


@dataclass(frozen=True)
class Device:
    """Where tensors lie, and which code computes the arrays.

    Args:
        where: the torch device of model and data.
        tensors: whether arrays are computed by operations on tensors; False: by Numba kernels, on the CPU alone.
        tf32: whether products may round their float32 inputs to 10 bits, as the matrix units of NVIDIA's GPUs do.
    """

    where: torch.device
    tensors: bool
    tf32: bool = False

    @classmethod
    def of(cls, given: "str | torch.device | Device | None", flag: str = "") -> "Device":
        """The device of that name.

        Args:
            given: `cpu` (Numba kernels), `cuda`, `cuda:1`, `xpu` or `mps`; `auto`: the first CUDA or Intel GPU, else
                `cpu`; `torch:cpu`: operations on tensors, in the CPU's memory; `cuda+tf32`: products in TF32.
                None: `cpu`.
            flag: the option that named it, for messages; "": the argument `device` of a function.

        Raises:
            InputError: if there is no such device on this machine.
        """
        if isinstance(given, Device):
            return given
        if given is None or given == "cpu":
            return CPU
        shown = f"{flag} {given}" if flag else f"device={given!r}"
        name = str(given).strip() if isinstance(given, str | torch.device) else ""
        name, plus, products = name.partition("+")
        if plus:
            found = cls.of(name, flag) if name else CPU
            if products != "tf32" or found.where.type != "cuda":
                raise InputError(
                    f"{shown}: products are changed by +tf32 on a CUDA device: expected cuda+tf32"
                )
            return replace(found, tf32=True)
        if name == "auto":
            return next((cls.of(kind) for kind in ("cuda", "xpu") if count(kind)), CPU)
        if name == "torch:cpu":
            return cls(torch.device("cpu"), True)
        try:
            where = torch.device(name)
        except RuntimeError:
            where = torch.device("meta")
        if where.type == "cpu":
            return CPU
        if where.type not in KINDS:
            raise InputError(f"{shown}: expected {EXPECTED}")
        kind, number = KINDS[where.type], count(where.type)
        if not number:
            raise InputError(f"{shown}: torch sees no {kind} on this machine (see crossbar-sim doctor)")
        if (where.index or 0) >= number:
            raise InputError(f"{shown}: torch sees {number} {kind}s here, numbered from 0")
        return cls(torch.device(where.type, where.index or 0), True)

    @property
    def name(self) -> str:
        """As `of` takes it."""
        if self.where.type == "cpu":
            return "torch:cpu" if self.tensors else "cpu"
        return str(self.where).removesuffix(":0") + "+tf32" * self.tf32

    @property
    def described(self) -> str:
        """The name with that of the GPU, for results: "cuda: NVIDIA H200"."""
        if self.where.type not in KINDS:
            return self.name
        return describe(self) + (", products in TF32" if self.tf32 else "")

    @contextmanager
    def arithmetic(self) -> Iterator[None]:
        """Context in which float32 products on NVIDIA's GPUs are exact to rounding, or in TF32 if the device says so.

        torch's own default is TF32 for convolutions and recurrent layers (see `in_float32`).

        Raises:
            InputError: for TF32, if the script has set torch's precision by its newer names.
        """
        if not self.tf32:
            with in_float32(self.where):
                yield
            return
        precision = matmul_precision()
        if precision is None:
            raise InputError(
                f"device {self.name} beside torch.backends.fp32_precision, which the script has set: name the device "
                "without +tf32, or leave that setting out"
            )
        before = precision, torch.backends.cudnn.allow_tf32
        try:
            torch.set_float32_matmul_precision("high")
            torch.backends.cudnn.allow_tf32 = True
            yield
        finally:
            torch.set_float32_matmul_precision(before[0])
            torch.backends.cudnn.allow_tf32 = before[1]

    @classmethod
    def of_model(cls, model: nn.Module) -> "Device":
        """Where the parameters of a model are."""
        first = next((t.device for t in (*model.parameters(), *model.buffers())), CPU.where)
        return CPU if first.type == "cpu" else cls(first, True)

    def put(self, model: nn.Module) -> None:
        """Move a model there, in place.

        Raises:
            InputError: if it cannot be moved.
        """
        if all(t.device == self.where for t in (*model.parameters(), *model.buffers())):
            return
        try:
            model.to(self.where)
        except (RuntimeError, TypeError) as error:  # no memory, or a type that the device does not have
            why = str(error).split("\n", 1)[0]
            raise InputError(f"device {self.name}: the model cannot be moved there ({why})") from error


CPU = Device(torch.device("cpu"), False)


@contextmanager
def on_device(given: str | torch.device | Device | None, *models: nn.Module) -> Iterator[Device]:
    """Context in which models are on a device, with exact products; afterwards they are where they were.

    Args:
        given: as `Device.of` takes it; None: where the first model is, and nothing is moved.
        models: whose parameters and buffers are moved, in place.

    Raises:
        InputError: if there is no such device, or a model cannot be moved there.
    """
    device = Device.of_model(models[0]) if given is None and models else Device.of(given)
    moved: list[tuple[nn.Module, Device]] = []
    try:
        for model in models if given is not None else ():
            moved.append((model, Device.of_model(model)))
            device.put(model)
        with replace(device, tf32=False).arithmetic():
            yield device
    finally:
        for model, before in reversed(moved):
            before.put(model)


def describe(device: Device) -> str:
    """Type and product name of a GPU."""
    module: Any = torch.get_device_module(device.where.type)
    name = module.get_device_name(device.where) if hasattr(module, "get_device_name") else ""
    return f"{device.where.type}: {name}" if name else device.where.type


def count(kind: str) -> int:
    """How many devices of a type torch can use here."""
    with suppress(RuntimeError, AttributeError):  # of a torch that was built without that type
        module: Any = torch.get_device_module(kind)
        return int(module.device_count()) if module.is_available() else 0
    return 0


def numbers(values: torch.Tensor) -> list[Any]:
    """Numbers of a tensor on any device, as Python has them: the one place where scores come back from a device."""
    found: list[Any] = values.cpu().tolist()
    return found


def matmul_precision() -> str | None:
    """torch's precision of float32 products; None: set by its newer names (`torch.backends.fp32_precision`)."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # torch does not tell one name's setting by the other
        return None


@contextmanager
def in_float32(device: torch.device) -> Iterator[None]:
    """Context in which a CUDA GPU multiplies float32 as such: torch's convolutions round it to TF32 by default.

    `torch.set_float32_matmul_precision("high")` asks torch for TF32: then nothing is changed, nor where a script has
    set `torch.backends.fp32_precision`.
    """
    cudnn = torch.backends.cudnn
    if device.type != "cuda" or matmul_precision() != "highest":
        yield
        return
    before = cudnn.allow_tf32
    cudnn.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32 = before


LARGEST = 8192
"""Examples of a block at most: a GPU is at full speed by then."""


def block_size(block: int, each: float, free: int | None) -> int:
    """Examples of a block on a device with memory of its own: a multiple of `block`.

    Args:
        block: what the first block had.
        each: bytes that an example took there at its peak.
        free: bytes that are free; None: not known.

    Returns:
        So many that a quarter of the free memory stays untouched, at most `LARGEST`; `block` if nothing is known.
    """
    if free is None or each <= 0:
        return block
    most = min(0.75 * free / each, max(LARGEST, block))
    return max(int(most) // block, 1) * block


def peak_memory(device: torch.device, reset: bool = False) -> int | None:
    """Bytes that tensors on a device took at most since the last reset; None: not known."""
    if device.type not in ("cuda", "xpu"):
        return None
    module: Any = torch.get_device_module(device.type)
    if reset:
        module.reset_peak_memory_stats(device)
        return int(module.memory_allocated(device))
    return int(module.max_memory_allocated(device))


def release_memory(device: torch.device) -> None:
    """Give back what torch keeps for later, after a lack of memory."""
    if device.type in KINDS:
        torch.get_device_module(device.type).empty_cache()


def free_memory(device: torch.device) -> int | None:
    """Bytes that tensors on a device may still take; None: not known, or of the CPU (see `crossbar_sim.memory`)."""
    module: Any = torch.get_device_module(device.type) if device.type in KINDS else None
    if not hasattr(module, "mem_get_info"):  # Apple's GPUs share the memory of the CPU
        return None
    # what torch keeps for itself
    unused = module.memory_reserved(device) - module.memory_allocated(device)
    return int(module.mem_get_info(device)[0] + unused)
