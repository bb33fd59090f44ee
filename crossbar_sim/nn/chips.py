"""Handling an analog model: its layers, its chip, its design, which layers take part."""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

from torch import nn

from crossbar_sim.crossbar.hardware import Hardware
from crossbar_sim.errors import InputError
from crossbar_sim.nn.analog import arrays_of
from crossbar_sim.nn.design import Design
from crossbar_sim.nn.layer import Layer
from crossbar_sim.nn.slot import Slot


def design(model: nn.Module) -> Design:
    """What the analog layers of the model share.

    Raises:
        InputError: if the model is not analog, or was put together from several analog models.
    """
    found = _designs(model)
    if len(found) > 1:
        raise InputError(
            f"{type(model).__name__} holds layers of {len(found)} analog models: handle each by itself, or put "
            "the clean models together and call to_analog once"
        )
    for shared in found:
        return shared
    raise InputError(f"{type(model).__name__} is not analog: make it so with to_analog(model, hardware)")


def _designs(model: nn.Module) -> list[Design]:
    found = (arrays_of(module) for module in model.modules())
    return list({id(arrays.design): arrays.design for arrays in found if arrays is not None}.values())


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
        arrays = arrays_of(module)
        for slot in () if arrays is None else dict.fromkeys(arrays.slots.values()):
            yield slot, module


def program(model: nn.Module) -> None:
    """Program every array that takes part now rather than at its first reading."""
    for slot, module in slots(model):
        arrays = arrays_of(module)
        assert arrays is not None
        if not slot.ideal and arrays.design.runs(slot.layer):
            arrays.refresh(module, slot)


@contextmanager
def _setting(found: list[Design], field: str, value: object) -> Iterator[None]:
    """Inside, `field` of every design is `value`."""
    before = [getattr(shared, field) for shared in found]
    for shared in found:
        setattr(shared, field, value)
    try:
        yield
    finally:
        for shared, old in zip(found, before, strict=True):
            setattr(shared, field, old)


def only_layers(model: nn.Module, names: Iterable[str] | None) -> AbstractContextManager[None]:
    """Inside, the named layers alone are on their arrays (None: all); nothing is reprogrammed."""
    return _setting([design(model)], "active", None if names is None else frozenset(names))


def frozen(model: nn.Module) -> AbstractContextManager[None]:
    """Promise that the clean parameters stay as they are inside: going from chip to chip checks them once."""
    program(model)
    return _setting([design(model)], "frozen", True)


def locked(model: nn.Module) -> AbstractContextManager[None]:
    """Program a model, if it is analog, and hold it like that: inside, threads may share it for inference."""
    program(model)
    return _setting(_designs(model), "locked", True)
