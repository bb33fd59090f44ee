"""State that a forward leaves on its model: detected once, and restored after every evaluation.

A forward may keep a skip connection on `self`, a cache in a list of dictionaries, a running mean in a buffer.
Threads that share such a model would take each other's tensors, and one chip would be read with what the chip
before it has left.
"""

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crossbar_sim.nn.analog.copying import is_plain
from crossbar_sim.nn.analog.layers import ATTRIBUTE

_OURS = frozenset(nn.Module().__dict__) | {ATTRIBUTE}
"""Attributes that are torch's and ours, and no state of the user's forward."""

_HOOKS = (
    "_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_forward_hooks", "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
)  # fmt: skip
"""Of these torch's attributes, which a forward may add to: transformers does, and notes on `self` that it has."""

_CONTAINERS = (list, dict, set, deque)

_PLAIN = (type(None), bool, int, float, complex, str, bytes, type, nn.Parameter)

_LARGEST = 1 << 24
"""Elements of a tensor or array inside a container beyond which it is taken for data, and not for state."""

_found: "weakref.WeakKeyDictionary[nn.Module, tuple[str, ...]]" = weakref.WeakKeyDictionary()


@dataclass
class _Tensor:
    """A tensor and its former values: fused operators, such as observers, do not raise its version."""

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


@dataclass
class _Array:
    """A NumPy array and its former values."""

    array: NDArray[Any]
    values: NDArray[Any]

    def changed(self) -> bool:
        return not np.array_equal(self.array, self.values, equal_nan=self.array.dtype.kind in "fc")

    def put_back(self) -> None:
        if self.changed():
            self.array[...] = self.values


@dataclass
class _Holder:
    """A container, or the attributes of an object, and its former contents."""

    holder: Any
    contents: Any

    def changed(self) -> bool:
        return not _alike(self.holder, self.contents)

    def put_back(self) -> None:
        if self.changed():
            self.holder.clear()
            extends = isinstance(self.holder, list | deque)
            self.holder.extend(self.contents) if extends else self.holder.update(self.contents)


class _Kept:
    """The state of one module: attributes, what is in them at any depth, buffers, hooks of its forward.

    Args:
        name, module: of the model.
        registered: ids of the model's modules, each of which is kept by itself.
    """

    def __init__(self, name: str, module: nn.Module, registered: set[int]) -> None:
        self.name, self.module = name, module
        self.attributes = _attributes(module)
        self.buffers = dict(module._buffers)
        own = vars(module)
        self.hooks = {n: _Holder(own[n], dict(own[n])) for n in _HOOKS if n in own}
        self.parts = {
            name: list(_parts(value, registered))
            for name, value in {**self.attributes, **self.buffers}.items()
        }

    def changed(self) -> Iterator[str]:
        now = {**_attributes(self.module), **self.module._buffers}
        before = {**self.attributes, **self.buffers}
        for name in {**before, **now}:
            gone = name not in now or name not in before
            if gone or not _same(now[name], before[name]) or any(p.changed() for p in self.parts[name]):
                yield name
        yield from (name for name, hooks in self.hooks.items() if hooks.changed())

    def put_back(self) -> None:
        own = vars(self.module)
        for name in _attributes(self.module).keys() - self.attributes.keys():
            del own[name]
        own.update(self.attributes)
        for name in self.module._buffers.keys() - self.buffers.keys():
            del self.module._buffers[name]
        self.module._buffers.update(self.buffers)
        for parts in (*self.parts.values(), self.hooks.values()):
            for part in parts:
                part.put_back()


def _parts(value: object, registered: set[int]) -> Iterator[_Tensor | _Array | _Holder]:
    """All parts of an attribute that can change: its tensors, arrays, containers and objects."""
    seen: set[int] = set()
    stack: list[Any] = [value]
    while stack:
        item = stack.pop()
        if id(item) in seen or id(item) in registered or isinstance(item, _PLAIN):
            continue
        seen.add(id(item))
        small = item is value or _size(item) <= _LARGEST
        if isinstance(item, Tensor):
            if not item.is_meta and item.layout == torch.strided and small:
                yield _Tensor(item, item.detach().clone())
        elif isinstance(item, np.ndarray):
            if item.dtype != object and item.flags.writeable and small:
                yield _Array(item, item.copy())
        elif isinstance(item, tuple):
            stack.extend(item)
        elif isinstance(item, _CONTAINERS):
            contents = (
                dict(item) if isinstance(item, dict) else set(item) if isinstance(item, set) else list(item)
            )
            yield _Holder(item, contents)
            stack.extend(contents.values() if isinstance(contents, dict) else contents)
        elif isinstance(item, nn.Module):  # in a plain list, say
            stack.extend((_Own(item), item._buffers, item._modules))
        elif isinstance(item, _Own):
            attributes = vars(item.module)
            yield _Holder(attributes, dict(attributes))
            stack.extend(_attributes(item.module).values())
        elif is_plain(item):
            stack.append(vars(item))


@dataclass(frozen=True)
class _Own:
    """The attributes of a module that is not registered in the model."""

    module: nn.Module


def _size(item: Any) -> int:
    if isinstance(item, Tensor):
        return item.numel()
    return item.size if isinstance(item, np.ndarray) else 0


class Watch:
    """One evaluation of a model; made by `watched`."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        known = _found.get(model)
        modules = [] if known == () else list(model.named_modules())
        registered = {id(module) for _, module in modules}
        self.modules = [_Kept(name, module, registered) for name, module in modules]
        self.known = known is not None

    def first(self, run: Callable[[], object]) -> None:
        """Run the first forward, and record the state that it leaves on the model."""
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
    """Context in which the model runs; state that its forwards leave on it is restored afterwards."""
    watch = Watch(model)
    try:
        yield watch
    finally:
        if _found.get(model) != ():
            with torch.no_grad():
                for kept in watch.modules:
                    kept.put_back()


def left_on(model: nn.Module) -> tuple[str, ...]:
    """Names of the state that a forward was found to leave on the model; empty for most models."""
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
