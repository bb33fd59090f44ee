"""What a forward leaves on its model: seen once, and put back after every evaluation.

A forward may keep a skip connection on `self`, a running mean in a buffer, a weight computed once. Threads that share
such a model would take each other's tensors, and one chip would be read with what the chip before it has left.
"""

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_sim.nn.analog import ATTRIBUTE

_OURS = frozenset(nn.Module().__dict__) | {ATTRIBUTE}
"""Attributes that are torch's and ours, and no state of the user's forward."""

_CONTAINERS = (list, dict, set, deque)

_found: "weakref.WeakKeyDictionary[nn.Module, tuple[str, ...]]" = weakref.WeakKeyDictionary()


@dataclass
class _Tensor:
    """A tensor as it was. By its values: fused operators, as of observers, raise no version."""

    tensor: Tensor
    values: Tensor

    def changed(self) -> bool:
        now, before = self.tensor.detach(), self.values
        if now.shape != before.shape:
            return True
        return not (torch.equal(now, before) or bool(torch.isclose(now, before, 0, 0, equal_nan=True).all()))

    def put_back(self) -> None:
        if self.changed():
            held = self.tensor.detach()
            held.resize_(self.values.shape).copy_(self.values)


class _Kept:
    """The state of one module: attributes, what containers among them hold, buffers."""

    def __init__(self, name: str, module: nn.Module) -> None:
        self.name, self.module = name, module
        self.attributes = _attributes(module)
        self.contents = {k: type(v)(v) for k, v in self.attributes.items() if type(v) in _CONTAINERS}
        self.buffers = dict(module._buffers)
        tensors = {**self.attributes, **self.buffers}
        self.tensors = {
            name: _Tensor(t, t.detach().clone())
            for name, t in tensors.items()
            if isinstance(t, Tensor) and not t.is_meta
        }

    def changed(self) -> Iterator[str]:
        now = {**_attributes(self.module), **self.module._buffers}
        before = {**self.attributes, **self.buffers}
        for name in {**before, **now}:
            if name not in now or name not in before or self._differs(name, now[name], before[name]):
                yield name

    def _differs(self, name: str, now: object, before: object) -> bool:
        """Another object, or the same one with other contents."""
        if not _same(now, before):
            return True
        if name in self.contents:
            return not _alike(now, self.contents[name])
        return name in self.tensors and self.tensors[name].changed()

    def put_back(self) -> None:
        own = vars(self.module)
        for name in _attributes(self.module).keys() - self.attributes.keys():
            del own[name]
        own.update(self.attributes)
        for name, held in self.contents.items():
            value = self.attributes[name]
            value.clear()
            value.extend(held) if isinstance(value, list | deque) else value.update(held)
        for name in self.module._buffers.keys() - self.buffers.keys():
            del self.module._buffers[name]
        self.module._buffers.update(self.buffers)
        for tensor in self.tensors.values():
            tensor.put_back()


class Watch:
    """One evaluation of a model; made by `watched`."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        known = _found.get(model)
        self.modules = [] if known == () else [_Kept(*each) for each in model.named_modules()]
        self.known = known is not None

    def first(self, run: Callable[[], object]) -> None:
        """Run the first forward, and see what it leaves."""
        run()
        if not self.known:
            changed = (
                f"{kept.name}.{name}" if kept.name else name
                for kept in self.modules
                for name in kept.changed()
            )
            _found[self.model], self.known = tuple(changed), True

    @property
    def alone(self) -> bool:
        """Whether forwards must run one after the other."""
        return bool(_found.get(self.model))


@contextmanager
def watched(model: nn.Module) -> Iterator[Watch]:
    """Inside, the model runs; afterwards what its forwards have left on it is as it was."""
    watch = Watch(model)
    try:
        yield watch
    finally:
        if _found.get(model) != ():
            with torch.no_grad():
                for kept in watch.modules:
                    kept.put_back()


def left_on(model: nn.Module) -> tuple[str, ...]:
    """Names of what a forward has been seen to leave on a model that has been run; empty for most."""
    return _found.get(model, ())


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(module).items() if name not in _OURS}


def _same(a: object, b: object) -> bool:
    """The same object, or numbers and words that are equal."""
    return a is b or (isinstance(a, int | float | str | bool | None) and type(a) is type(b) and a == b)


def _alike(a: Any, b: Any) -> bool:
    """Containers of the same objects."""
    if len(a) != len(b):
        return False
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return a == b if isinstance(a, set) else all(map(_same, a, b))
