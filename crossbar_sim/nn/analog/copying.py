"""Copies of models, and subclasses of a user's layer that are made at run time."""

import copy
import copyreg
import functools
import sys
import types
import weakref
from abc import ABCMeta
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from torch import Tensor, fx, nn

# Subclasses made at run time from the class of a user's layer, and exchanging a layer's class for one.
#
# The user's class is not affected: neither its `__init_subclass__` nor its metaclass runs (they may require
# arguments, refuse, or register the new class), `layer.__class__` still returns the user's class, and no name of
# the user's class is shadowed. Only `type(layer)` differs; see `layers.keep_class`.


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
    """Set the class of the module to `cls`, bypassing a user-defined `__setattr__`.

    Raises:
        TypeError: if Python cannot, since objects of the two classes lie differently in memory.
    """
    object.__dict__["__class__"].__set__(module, cls)


def restore(module: nn.Module) -> None:
    """Restore the user's class of the module."""
    exchange(module, base_of(module))


# Copies of models: of every module, and of every object that refers to one.
#
# `copy.deepcopy` is not enough, for three reasons. It does not copy functions, so a hook or an activation that is a
# lambda over the model would use the layers of the original. It raises on objects that cannot be copied (a lock, an
# open file), which the copy and the original share here. And it raises on tensors with a gradient that a forward has
# stored in some container.


_ATOMIC = (
    type(None), type(...), type(NotImplemented), int, float, bool, complex, str, bytes, type, range, slice, property,
    types.ModuleType, types.CodeType, types.GeneratorType,
)  # fmt: skip
"""What is kept: it cannot change, or not be copied."""

_FUNCTIONS = (types.FunctionType, functools._lru_cache_wrapper)


def copy_module(model: nn.Module, memo: dict[int, Any] | None = None, share: bool = False) -> nn.Module:
    """A copy of a model in which every reference to a module of the model points to the copied module.

    Only what is reached through global names or attributes of classes still refers to the original
    (`fidelity.ensure_equivalent` detects this).

    Args:
        model: of any class.
        memo: {id: object} to be taken for the object of that id: tensors that the copy is to share.
        share: share every tensor, wherever it is; else those that are not in `memo` are copied, without gradients.
    """
    memo = {} if memo is None else memo
    copied: nn.Module = _Copier(memo, share, set(_owned(model))).copy(model)
    return copied


def copy_graph(model: fx.GraphModule, memo: dict[int, Any], share: bool = False) -> fx.GraphModule:
    """A copy of a graph with everything in it, as the class that the graph had before it was analog.

    torch's own copy is built up from bare modules: classes of layers and unused parameters get lost.
    """
    return _Copier(memo, share, set(_owned(model))).graph(model)


class _Copier:
    """One copy of one model.

    Args:
        memo, share: see `copy_module`.
        owned: ids of all that belongs to the model and can change.
    """

    def __init__(self, memo: dict[int, Any], share: bool, owned: set[int]) -> None:
        self.memo, self.share, self.owned = memo, share, owned

    def copy(self, x: Any) -> Any:
        """The copy of anything."""
        if id(x) in self.memo:
            return self.memo[id(x)]
        if type(x) in weakref.ProxyTypes:  # first: isinstance takes it for what it stands for
            return self._proxy(x)
        if isinstance(x, _ATOMIC) and type(x).__module__ in ("builtins", "types"):
            return x
        copied = self._copied(x)
        if copied is not x:
            self.memo[id(x)] = copied
            self.memo.setdefault(id(self.memo), []).append(x)  # alive, so that nothing else gets its id
        return copied

    def _copied(self, x: Any) -> Any:
        if isinstance(x, type):
            return x
        rule = _RULES.get(type(x))
        if rule is not None:
            return rule(self, x)
        if isinstance(x, Tensor):
            return self._tensor(x)
        if isinstance(x, nn.Module):
            return self._module(x)
        if isinstance(x, _FUNCTIONS):
            return self._function(x) if self._reaches(x) else x
        return self._object(x)

    def _tensor(self, x: Tensor) -> Tensor:
        if self.share:
            return x
        if x.is_leaf or not x.requires_grad:
            with suppress(RuntimeError, TypeError, NotImplementedError):
                return copy.deepcopy(x, self.memo)
        return x.detach().clone()

    def _module(self, x: nn.Module) -> nn.Module:
        """Always a new object, even if its class returns itself when copied: the copy is changed later."""
        if isinstance(x, fx.GraphModule):
            return self.graph(x) if base_of(x) is type(x) else x.__deepcopy__(self.memo)  # type: ignore
        if hasattr(type(x), "__deepcopy__"):
            with suppress(Exception):  # of the user's own code
                own: nn.Module = x.__deepcopy__(self.memo)  # type: ignore[operator]
                if own is not x and type(own) is type(x):
                    return own
        made = self._unslotted(x)
        for base in type(x).__mro__:  # which torch leaves behind
            names = vars(base).get("__slots__", ())
            for name in (names,) if isinstance(names, str) else names:
                if hasattr(x, name) and name not in ("__dict__", "__weakref__"):
                    object.__setattr__(made, name, self.copy(getattr(x, name)))
        return made

    def _unslotted(self, x: nn.Module) -> nn.Module:
        cls = type(x)
        own = cls.__reduce__ is not object.__reduce__ or (
            cls.__reduce_ex__ is not object.__reduce_ex__ and base_of(x) is cls
        )
        if not own:  # which is for files, and may make a layer with other weights
            with suppress(Exception):  # of a user's __getstate__
                rebuilt: nn.Module = self._rebuilt(x, x.__reduce_ex__(4))
                return rebuilt
        bare = nn.Module.__new__(type(x))
        self.memo[id(x)] = bare
        bare.__dict__.update({name: self.copy(value) for name, value in vars(x).items()})
        return bare

    def graph(self, x: fx.GraphModule) -> fx.GraphModule:
        """See `copy_graph`."""
        base = base_of(x)
        # of a class of its own, which takes the code of its forward
        copied: Any = base.__new__(base)
        self.memo[id(x)] = copied
        nodes = copy.deepcopy(x._graph, self.memo)
        state = {name: self.copy(value) for name, value in vars(x).items() if name != "_graph"}
        copied.__dict__.update(state)
        copied.graph = nodes
        made: fx.GraphModule = copied
        return made

    def _object(self, x: Any) -> Any:
        """A copy by the object's own copy or pickle method; the object itself if it has none (a lock, an open file)."""
        try:
            if hasattr(type(x), "__deepcopy__"):
                return x.__deepcopy__(self.memo)
            registered: Any = copyreg.dispatch_table.get(type(x))
            return self._rebuilt(x, registered(x) if registered else x.__reduce_ex__(4))
        except Exception:  # of whatever kind: what an object says to being copied is its own affair
            self.memo.pop(id(x), None)
            return x

    def _rebuilt(self, x: Any, recipe: Any) -> Any:
        """What `__reduce_ex__` describes: (function, arguments, state, items, pairs, setter)."""
        if isinstance(recipe, str):
            return x
        make, arguments, state, items, pairs, setter = (*recipe, None, None, None, None)[:6]
        made = make(*(self.copy(argument) for argument in arguments))
        self.memo[id(x)] = made
        if state is not None:
            self._set_state(made, self.copy(state), setter)
        for item in items or ():
            made.append(self.copy(item))
        for key, value in pairs or ():
            made[self.copy(key)] = self.copy(value)
        return made

    def _set_state(self, made: Any, state: Any, setter: Any) -> None:
        slots: dict[str, Any] = {}
        own = hasattr(made, "__setstate__") and not isinstance(made, nn.Module)
        if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict) and not own:
            state, slots = state  # of a class with __slots__
        if setter is not None:
            setter(made, state)
        elif hasattr(made, "__setstate__"):
            made.__setstate__(state or {})
        elif state:
            made.__dict__.update(state)
        for name, value in slots.items():
            object.__setattr__(made, name, value)

    def _dict(self, x: dict[Any, Any]) -> dict[Any, Any]:
        made: dict[Any, Any] = {}
        self.memo[id(x)] = made
        for key, value in x.items():
            made[self.copy(key)] = self.copy(value)
        return made

    def _list(self, x: list[Any]) -> list[Any]:
        made: list[Any] = []
        self.memo[id(x)] = made
        made.extend(map(self.copy, x))
        return made

    def _tuple(self, x: tuple[Any, ...]) -> tuple[Any, ...]:
        items = tuple(map(self.copy, x))
        if id(x) in self.memo:  # it holds itself, by way of something that it holds
            known: tuple[Any, ...] = self.memo[id(x)]
            return known
        return x if all(a is b for a, b in zip(items, x, strict=True)) else items

    def _method(self, x: types.MethodType) -> Any:
        return types.MethodType(self.copy(x.__func__), self.copy(x.__self__))

    def _builtin(self, x: Any) -> Any:
        """A method such as `self.seen.append`."""
        holder = x.__self__
        if id(holder) not in self.owned and not isinstance(holder, nn.Module):
            return x
        return getattr(self.copy(holder), x.__name__)

    def _weakref(self, x: "weakref.ref[Any]") -> Any:
        held = x()
        return x if id(held) not in self.owned else weakref.ref(self.copy(held))

    def _proxy(self, x: Any) -> Any:
        try:
            held = x.forward.__self__
        except (AttributeError, ReferenceError):  # of no module, or of nothing any more
            return x
        return x if id(held) not in self.owned else weakref.proxy(self.copy(held))

    def _weak_values(self, x: Any) -> Any:
        made = type(x)()
        for key, value in x.items():
            made[key] = self.copy(value) if id(value) in self.owned else value
        return made

    def _weak_keys(self, x: Any) -> Any:
        made = type(x)()
        for key, value in x.items():
            made[self.copy(key) if id(key) in self.owned else key] = self.copy(value)
        return made

    def _cell(self, x: types.CellType) -> types.CellType:
        made = types.CellType()
        self.memo[id(x)] = made
        made.cell_contents = self.copy(x.cell_contents)
        return made

    def _function(self, x: Any) -> Any:
        """The same code, referring to the copied objects."""
        if not isinstance(x, types.FunctionType):
            return functools.lru_cache(**x.cache_parameters())(self.copy(x.__wrapped__))  # type: ignore[attr-defined]
        made = types.FunctionType(x.__code__, x.__globals__, x.__name__, None, x.__closure__ and tuple(
            self.copy(cell) if self._reaches(cell) else cell for cell in x.__closure__
        ))  # fmt: skip
        self.memo[id(x)] = made
        made.__defaults__ = self.copy(x.__defaults__)
        made.__kwdefaults__ = self.copy(x.__kwdefaults__)  # type: ignore[assignment]
        made.__dict__.update({name: self.copy(value) for name, value in vars(x).items()})
        for name in ("__qualname__", "__module__", "__doc__", "__annotations__"):
            setattr(made, name, getattr(x, name))
        return made

    def _reaches(self, x: Any) -> bool:
        """Whether a function or cell refers to a part of the model, through functions and containers."""
        seen: set[int] = set()
        stack = [x]
        while stack:
            item = stack.pop()
            if id(item) in self.owned:
                return True
            if id(item) not in seen:
                seen.add(id(item))
                stack.extend(_held(item))
        return False


def _held(x: Any) -> Iterator[Any]:
    """What a container, a cell or a function holds."""
    if type(x) in weakref.ProxyTypes:
        with suppress(AttributeError, ReferenceError):
            yield x.forward.__self__
    elif isinstance(x, (dict, *_WEAK)):
        yield from list(x.values())
    elif isinstance(x, list | tuple | set | frozenset):
        yield from x
    elif isinstance(x, types.CellType):
        with suppress(ValueError):  # it is empty
            yield x.cell_contents
    elif isinstance(x, types.FunctionType):
        yield from x.__closure__ or ()
        yield from (x.__defaults__, x.__kwdefaults__, vars(x))
    elif isinstance(x, functools.partial):
        yield from (x.func, x.args, x.keywords)
    elif isinstance(x, types.MethodType):
        yield from (x.__self__, x.__func__)
    elif isinstance(x, types.BuiltinMethodType | types.MethodWrapperType):
        yield x.__self__
    elif isinstance(x, weakref.ref):
        yield x()
    elif isinstance(x, functools._lru_cache_wrapper):
        yield x.__wrapped__


def _owned(model: nn.Module) -> Iterator[int]:
    """The ids of the model's modules, and of the containers and objects in their attributes."""
    seen: set[int] = set()
    stack: list[Any] = [model]
    while stack:
        item = stack.pop()
        if type(item) in weakref.ProxyTypes or id(item) in seen or isinstance(item, (*_ATOMIC, Tensor)):
            continue
        seen.add(id(item))
        if isinstance(item, nn.Module):
            yield id(item)
            stack.extend(value for name, value in vars(item).items() if name not in _TENSORS)
        elif isinstance(item, (dict, list, set, *_WEAK)):
            yield id(item)
            stack.extend(_held(item))
        elif is_plain(item):
            yield id(item)
            stack.extend(vars(item).values())
        elif isinstance(item, tuple):
            stack.extend(item)


_WEAK = (weakref.WeakValueDictionary, weakref.WeakKeyDictionary)


def is_plain(x: Any) -> bool:
    """Whether something is an instance of a class outside Python's standard library.

    What hangs on those (loggers, threads, executors) is no part of a model.
    """
    if isinstance(x, types.SimpleNamespace):
        return True
    return hasattr(x, "__dict__") and type(x).__module__.partition(".")[0] not in sys.stdlib_module_names


_TENSORS = ("_parameters", "_buffers")

_RULES: dict[type, Callable[[_Copier, Any], Any]] = {
    dict: _Copier._dict,
    list: _Copier._list,
    tuple: _Copier._tuple,
    types.MethodType: _Copier._method,
    types.BuiltinMethodType: _Copier._builtin,
    types.MethodWrapperType: _Copier._builtin,
    types.CellType: _Copier._cell,
    weakref.ref: _Copier._weakref,
    weakref.WeakValueDictionary: _Copier._weak_values,
    weakref.WeakKeyDictionary: _Copier._weak_keys,
}


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside a DataParallel or compiled wrapper, whose layers have their own names."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif type(model).__module__.startswith("torch._dynamo") and hasattr(model, "_orig_mod"):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model
