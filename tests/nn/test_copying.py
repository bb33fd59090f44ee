"""Copies of models: what refers to a module of the model refers to the copy's; what cannot be copied is shared."""

import copy
import functools
import io
import socket
import sys
import threading
import types
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict, defaultdict, deque, namedtuple
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from helpers.analog_models import PLAIN, made, numbers
from torch import Tensor, nn

from crossbar_sim import Hardware, InputError
from crossbar_sim.nn import layers, to_analog
from crossbar_sim.nn.analog.copying import copy_module
from crossbar_sim.robustness import deploy

Pair = namedtuple("Pair", ["h", "c"])


@dataclass
class State:
    h: Tensor | None = None
    past: list[Tensor] = field(default_factory=list)


class Plain:
    """An object that is no module and holds what a forward leaves."""

    h: Any = None


KEPT = {
    "tuple": lambda h: (h, h * 2),
    "list": lambda h: [h, [h * 2]],
    "dict": lambda h: {"a": h, "b": {"c": (h,)}},
    "dataclass": lambda h: State(h, [h]),
    "named tuple": lambda h: Pair(h, h),
    "deque": lambda h: deque([h, h], maxlen=2),
    "ordered dict": lambda h: OrderedDict(a=h),
    "default dict": lambda h: defaultdict(list, a=[h]),
    "namespace": lambda h: types.SimpleNamespace(h=h),
    "set": lambda h: {h},
    "object": lambda h: setattr(p := Plain(), "h", h) or p,
}


class Keeps(nn.Module):
    def __init__(self, keep: Any) -> None:
        super().__init__()
        self.a, self.o, self.keep, self.kept = nn.Linear(4, 5), nn.Linear(5, 3), keep, None

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        self.kept = self.keep(h)
        return self.o(h)


X = numbers(6, 4)


@pytest.mark.parametrize("kind", KEPT)
def test_a_trained_model_that_keeps_tensors_is_deployed(kind: str) -> None:
    model = made(lambda: Keeps(KEPT[kind]))
    model(X).sum().backward()
    expected = to_analog(made(lambda: Keeps(KEPT[kind])), PLAIN)(X)
    assert torch.equal(to_analog(model, PLAIN)(X), expected)
    assert torch.equal(copy_module(model)(X), model(X))
    found = deploy(model, X, None, PLAIN, chips=1, sensitivity_chips=0, metric="output_error")
    assert found.scores[0].output_error > 0.01


class Refers(nn.Module):
    """A model whose forward reaches its layer by way of something that `copy.deepcopy` keeps."""

    def __init__(self, how: Any) -> None:
        super().__init__()
        self.a, self.o = nn.Linear(4, 5), nn.Linear(5, 3)
        self.seen: list[Tensor] = []
        self.how = how(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.o(self.how(x))

    def through(self, x: Tensor) -> Tensor:
        return self.a(x)

    @staticmethod
    def static(model: nn.Module, x: Tensor) -> Tensor:
        return model.a(x)


def _decorated(model: Refers) -> Any:
    @functools.wraps(model.through)
    def outer(x: Tensor, *, factor: float = 1.0) -> Tensor:
        return model.through(x) * factor

    return outer


def _mutual(model: Refers) -> Any:
    def even(x: Tensor, n: int) -> Tensor:
        return model.a(x) if n == 0 else odd(x, n - 1)

    def odd(x: Tensor, n: int) -> Tensor:
        return even(x, n - 1)

    return lambda x: even(x, 2)


def _hooked(model: Refers) -> Any:
    found: dict[str, Tensor] = {}
    model.found = found
    model.a.register_forward_hook(lambda module, args, y: found.update(y=y))

    def run(x: Tensor) -> Tensor:
        model.a(x)
        return found["y"]

    return run


def _appended(model: Refers) -> Any:
    append = model.seen.append
    return lambda x: append(model.a(x)) or model.seen.pop()


def _by_proxy(model: Refers) -> Any:
    object.__setattr__(model, "near", weakref.proxy(model.a))  # torch takes none as a layer
    return lambda x: model.near(x)


REFERS = {
    "lambda": lambda m: lambda x: m.a(x),
    "default argument": lambda m: lambda x, a=m.a: a(x),
    "keyword default": lambda m: _keyword(m.a),
    "bound method": lambda m: m.through,
    "partial": lambda m: functools.partial(Refers.static, m),
    "partial of a lambda": lambda m: functools.partial(lambda n, x: m.a(x), 1),
    "list of lambdas": lambda m: (lambda fs: lambda x: fs[0](x))([lambda x: m.a(x)]),
    "decorated": _decorated,
    "mutual": _mutual,
    "weak reference": lambda m: (lambda r: lambda x: r().a(x))(weakref.ref(m)),
    "weak proxy": lambda m: functools.partial(Refers.static, weakref.proxy(m)),
    "weak proxy of a layer": _by_proxy,
    "weak proxy in a closure": lambda m: (lambda p: lambda x: p.through(x))(weakref.proxy(m)),
    "weak values": lambda m: (lambda d: lambda x: d["a"](x))(_weak_values(m)),
    "lru_cache": lambda m: functools.lru_cache(maxsize=1)(lambda x: m.a(x)),
    "hook": _hooked,
    "append": _appended,
    "callable object": lambda m: _Callable(m),
}


def _keyword(a: nn.Module) -> Any:
    def run(x: Tensor, *, layer: nn.Module = a) -> Tensor:
        return layer(x)

    return run


def _weak_values(model: Refers) -> Any:
    model.by_name = weakref.WeakValueDictionary(a=model.a)
    return model.by_name


class _Callable:
    def __init__(self, model: nn.Module) -> None:
        self.layers = [model.a]

    def __call__(self, x: Tensor) -> Tensor:
        return self.layers[0](x)


@pytest.mark.parametrize("how", REFERS)
def test_what_refers_to_a_module_refers_to_the_copy(how: str) -> None:
    model, plain = made(lambda: Refers(REFERS[how])), made(lambda: Refers(lambda m: m.through))
    if "lru" in how:
        model(X)
    analog = to_analog(model, PLAIN)
    expected = to_analog(plain, PLAIN)(X)
    assert torch.equal(analog(X), expected)
    assert not torch.allclose(expected, plain(X), rtol=0.01)
    assert torch.equal(model(X), plain(X))
    copied = copy_module(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.zero_()
    assert torch.equal(model(X), plain(X))
    assert float(copied(X).abs().max()) == 0


def test_functions_over_nothing_of_the_model_are_kept() -> None:
    count = [0]
    model = made(lambda: nn.Linear(4, 3))
    model.act = lambda x: count.append(1)
    assert copy_module(model).act is model.act


UNCOPYABLE = {
    "lock": threading.Lock,
    "condition": threading.Condition,
    "thread local": threading.local,
    "file": lambda: open(__file__),  # noqa: SIM115
    "module": lambda: sys,
    "generator": lambda: (i for i in range(3)),
    "socket": socket.socket,
    "pool": lambda: ThreadPoolExecutor(1),
    "memory view": lambda: memoryview(b"abc"),
    "refuses": lambda: _Refuses(),
    "in a list": lambda: [threading.Lock(), {"a": threading.RLock()}],
    "in an object": lambda: types.SimpleNamespace(lock=threading.Lock()),
    "text buffer": lambda: io.StringIO("a"),
}


class _Refuses:
    def __reduce_ex__(self, protocol: Any) -> Any:
        raise RuntimeError("a handle of a device")


@pytest.mark.parametrize("kind", UNCOPYABLE)
def test_what_cannot_be_copied_is_shared(kind: str) -> None:
    class Net(nn.Linear):
        def __init__(self) -> None:
            super().__init__(4, 3)
            self.handle = UNCOPYABLE[kind]()

    model = made(Net)
    assert torch.equal(to_analog(model, PLAIN)(X), to_analog(made(lambda: nn.Linear(4, 3)), PLAIN)(X))
    for held in (model.handle, getattr(model.handle, "_sock", None)):
        if hasattr(held, "close"):
            held.close()


def test_a_module_that_returns_itself_as_its_copy_is_copied() -> None:
    class Single(nn.Linear):
        def __deepcopy__(self, memo: Any) -> Any:
            return self

    model = made(lambda: nn.Sequential(Single(4, 3)))
    analog = to_analog(model, PLAIN)
    assert analog[0] is not model[0]
    assert type(model[0]) is Single
    assert not torch.allclose(analog(X), model(X), rtol=0.01)


def test_a_module_that_is_pickled_without_its_weights_is_copied_with_them() -> None:
    class Bare(nn.Linear):
        def __reduce__(self) -> Any:
            return Bare, (self.in_features, self.out_features)

    model = made(lambda: nn.Sequential(Bare(4, 3)))
    assert torch.equal(to_analog(model, Hardware())(X), to_analog(nn.Sequential(*model), Hardware())(X))
    assert copy_module(model, share=True)[0].weight is model[0].weight


def test_a_module_that_cannot_be_pickled_is_copied() -> None:
    class Shy(nn.Linear):
        def __getstate__(self) -> Any:
            raise RuntimeError("not for files")

    analog = to_analog(made(lambda: nn.Sequential(Shy(4, 3))), PLAIN)
    assert torch.equal(analog(X), to_analog(made(lambda: nn.Sequential(nn.Linear(4, 3))), PLAIN)(X))
    assert torch.equal(copy_module(analog)(X), analog(X))


class Meta(type):
    """A registry that wants an argument of every class."""

    known: dict[str, type] = {}  # noqa: RUF012

    def __new__(cls, name: str, bases: Any, members: Any, *, key: str) -> Any:
        return super().__new__(cls, name, bases, members)

    def __init__(cls, name: str, bases: Any, members: Any, *, key: str) -> None:
        super().__init__(name, bases, members)
        Meta.known[key] = cls


class Keyed(nn.Linear, metaclass=Meta, key="keyed"):
    pass


class Registered(nn.Linear):
    known: list[type] = []  # noqa: RUF012

    def __init_subclass__(cls, key: str, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        Registered.known.append(cls)


class Final(nn.Linear):
    def __init_subclass__(cls) -> None:
        raise TypeError("final")


class Abstract(nn.Linear, ABC):
    @abstractmethod
    def name(self) -> str: ...


class Concrete(Abstract):
    def name(self) -> str:
        return "concrete"


class Slotted(nn.Linear):
    __slots__ = ("scale",)

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        object.__setattr__(self, "scale", 2.0)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale / 2.0


class Locked(nn.Linear):
    """Attributes are set in the constructor alone."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__class__":
            raise AttributeError("this class cannot be changed")
        super().__setattr__(name, value)


class Old(nn.Linear):
    """Calls its base as many do, which loops for ever where the class is another."""

    def forward(self, x: Tensor) -> Tensor:
        return super(self.__class__, self).forward(x)


class Names(nn.Linear):
    """Own attributes and methods of all kinds of names."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self._tags, self._slots, self._design, self._graphs, self._tiled = {}, 1, None, [], 2.0
        self._base, self._rank, self._programmed, self.arrays, self.slots, self.design = 1, 2, 3, 4, 5, 6

    def read(self, x: Tensor) -> Tensor:
        assert (self._slots, self._base, self._rank, self.arrays, self.slots) == (1, 1, 2, 4, 5)
        return super().forward(x)

    def refresh(self) -> None:
        self._tags.clear()

    def _tag(self) -> int:
        return self._tiled

    _on_tiles = _converted = _state_to_keep = _with_own_memory = None

    def forward(self, x: Tensor) -> Tensor:
        self.refresh()
        return self.read(x) * self._tag() / 2


class Named(nn.Linear):
    """Dispatches on names and `__class__`."""

    def forward(self, x: Tensor) -> Tensor:
        same = self.__class__ is Named and self.__class__.__name__ == "Named" and self._get_name() == "Named"
        return super().forward(x) if same else x * 0


CLASSES = {
    "metaclass": Keyed,
    "init_subclass": type("Plug", (Registered,), {}, key="plug"),
    "final": Final,
    "abstract": Concrete,
    "slots": Slotted,
    "setattr": Locked,
    "super of __class__": Old,
    "names": Names,
    "__class__": Named,
}


@pytest.mark.parametrize("kind", CLASSES)
def test_classes_of_every_kind_are_made_analog(kind: str) -> None:
    known = len(Meta.known), len(Registered.known)
    model = made(lambda: nn.Sequential(CLASSES[kind](4, 3)))
    expected = to_analog(made(lambda: nn.Sequential(nn.Linear(4, 3))), PLAIN)(X)
    analog = to_analog(model, PLAIN)
    assert torch.equal(analog(X), expected)
    assert (len(Meta.known), len(Registered.known)) == known  # the user's registries have no analog classes
    assert torch.equal(copy_module(analog)(X), expected)
    if kind != "slots":  # which torch itself cannot copy
        assert torch.equal(copy.deepcopy(analog)(X), expected)
    assert type(model[0]) is CLASSES[kind]


def test_a_normalisation_of_such_a_class_is_folded() -> None:
    class Norm(nn.BatchNorm1d):
        def __init_subclass__(cls) -> None:
            raise TypeError("final")

        _rank = "mine"

    Norm.__module__ = "torch.nn"  # or torch.fx would trace into it

    model = made(lambda: nn.Sequential(nn.Linear(4, 3), Norm(3)))
    folded = to_analog(model, Hardware(normalisation="folded"))
    torch.testing.assert_close(folded(X), model(X))
    assert folded[1]._rank == "mine"


def test_an_unflattened_export_is_deployed() -> None:
    model = made(lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3)))
    unflattened = torch.export.unflatten(torch.export.export(model, (X,)))
    analog = to_analog(unflattened, PLAIN)
    assert torch.equal(analog(X), to_analog(model, PLAIN)(X))
    assert [layer.analog for layer in layers(analog)] == [True, False, True]
    with pytest.raises(InputError, match="no layer to map"):
        to_analog(unflattened, PLAIN, only=["1"])
