"""Handling an analog model: its layers, its chip, its design, which layers take part."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn

from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.errors import InputError
from crossbar_sim.nn.analog import Analog, Slot
from crossbar_sim.nn.design import Design
from crossbar_sim.nn.layer import Layer


def design(model: nn.Module) -> Design:
    """What the analog layers of the model share.

    Raises:
        InputError: if the model is not analog.
    """
    for module in model.modules():
        if isinstance(module, Analog):
            return module._design
    raise InputError(f"{type(model).__name__} is not analog: make it so with to_analog(model, hardware)")


def layers(model: nn.Module) -> tuple[Layer, ...]:
    """What became of every layer with parameters, in the model's order."""
    return design(model).layers


def set_chip(model: nn.Module, chip: int) -> None:
    """Reprogram the model to another chip; the buffers of its arrays are reused."""
    design(model).set_chip(chip)


def set_hardware(model: nn.Module, hardware: Hardware) -> None:
    """Reprogram the model with another design of the same bias, normalisation and other.

    Raises:
        InputError: if those differ: they decide which parameters have arrays at all.
    """
    shared = design(model)
    for name in ("bias", "normalisation", "other"):
        old, new = getattr(shared.hardware, name), getattr(hardware, name)
        if old != new:
            raise InputError(f"{name}={new!r} where the model was mapped with {old!r}: call to_analog again")
    shared.set_hardware(hardware)


def slots(model: nn.Module) -> Iterator[tuple[Slot, nn.Module]]:
    """Every array of the model with the layer that holds it."""
    for module in model.modules():
        if isinstance(module, Analog):
            for slot in dict.fromkeys(module._slots.values()):
                yield slot, module


def program(model: nn.Module) -> None:
    """Program every array now rather than at its first reading; needed before threads share the model."""
    for slot, module in slots(model):
        if not slot.ideal:
            assert isinstance(module, Analog)
            module.refresh(slot)


@contextmanager
def only_layers(model: nn.Module, names: Iterable[str] | None) -> Iterator[None]:
    """Inside, the named layers alone are on their arrays (None: all); nothing is reprogrammed."""
    shared = design(model)
    before = shared.active
    shared.active = None if names is None else frozenset(names)
    try:
        yield
    finally:
        shared.active = before
