"""Subclasses made at run time from the class of a user's layer, and exchanging a layer's class for one.

The user's class must not notice: neither its `__init_subclass__` nor its metaclass runs (they may require arguments,
refuse, or enter the new class into a registry), `layer.__class__` still gives the user's class, and no name of the
user's is shadowed. `type(layer)` is the one thing that differs; see `nn.exact`.
"""

from abc import ABCMeta
from typing import Any

from torch import fx, nn

_BASES: dict[type, type[nn.Module]] = {}
"""From each derived class to the class of the user's."""


class Silent:
    """First base of every derived class: the user's `__init_subclass__` is not called for it."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Do nothing."""


def derive(mixins: tuple[type, ...], base: type[nn.Module], prefix: str, members: dict[str, Any]) -> type:
    """A subclass of `base` with `mixins` (of which the first is `Silent`'s child) before it.

    Args:
        mixins: bases that come first.
        base: the class of a user's layer.
        prefix: of the new class's name.
        members: of the new class.
    """
    members = {"__module__": base.__module__, "__qualname__": f"{prefix}{base.__qualname__}", **members}
    if not issubclass(base, fx.GraphModule):  # each of which has a class of its own, and changes it
        members["__class__"] = property(lambda self: base)
    meta = type(base)
    # not meta(...): a metaclass of the user's is not to run
    make: Any = ABCMeta.__new__ if issubclass(meta, ABCMeta) else type.__new__
    made: type = make(meta, f"{prefix}{base.__name__}", (*mixins, base), members)
    _BASES[made] = base
    return made


def base_of(module: nn.Module) -> type[nn.Module]:
    """The user's class of a layer, whether or not its class has been exchanged."""
    return _BASES.get(type(module), type(module))


def exchange(module: nn.Module, cls: type) -> None:
    """Make `cls` the class of the module, past a `__setattr__` of the user's.

    Raises:
        TypeError: if Python cannot, since objects of the two classes lie differently in memory.
    """
    object.__dict__["__class__"].__set__(module, cls)


def restore(module: nn.Module) -> None:
    """Give the module back the user's class."""
    exchange(module, base_of(module))
