"""Serialising models for other processes.

Pickling an exported graph the way that torch does it makes the receiver trace the graph's code again. Tracing
replaces methods of `nn.Module` for the whole process, so it fails at random where another thread runs a model at
that moment (a Dask worker receives in one thread and computes in another), and it cannot follow every graph. Here
the nodes of a graph are sent unchanged.
"""

import importlib
import importlib.util
import io
import pickle
import sys
import sysconfig
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import fx, nn

from crossbar_sim.errors import InputError

_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_LEFT = ("_graph", "train", "eval", "range_constraints", "shape_env")
"""Attributes of a graph module that are made again, or that only torch's own check of the inputs reads."""


@dataclass(frozen=True)
class _Node:
    """A node of a graph, where it is an argument of another one."""

    name: str


def packed(value: Any) -> bytes:
    """A model, or anything that holds models, as bytes for `unpacked` in another process.

    Classes of the user's own files are sent by name, with the folder of their file.

    Raises:
        InputError: if something in it cannot be pickled.
    """
    buffer = io.BytesIO()
    folders: dict[str, str] = {}
    try:
        pickler = _pickler()(buffer, protocol=pickle.HIGHEST_PROTOCOL)
        pickler.folders = folders
        pickler.dump(value)
    except Exception as error:  # of whatever the user's own code holds
        raise InputError(
            f"this model cannot be sent to other processes ({_first(error)}): keep what cannot be pickled (open files, "
            "locks, generators) out of it, or run it without workers (threads use all cores of a machine)"
        ) from error
    return pickle.dumps((folders, buffer.getvalue()), protocol=pickle.HIGHEST_PROTOCOL)


def unpacked(data: bytes) -> Any:
    """The object that `packed` serialised, rebuilt in this process.

    Raises:
        InputError: if a file of the user's own that it needs is not on this machine, or is another one here.
    """
    folders, content = pickle.loads(data)
    for name, folder in folders.items():
        # The user may have named `mycode:make` in the current directory, which is on no path of a worker.
        if name not in sys.modules and importlib.util.find_spec(name) is None and Path(folder).is_dir():
            sys.path.append(folder)
            importlib.invalidate_caches()
    try:
        return pickle.loads(content)
    except (ImportError, AttributeError) as error:
        where = ", ".join(f"{name} from {folder}" for name, folder in folders.items())
        raise InputError(
            f"a worker cannot make the model again ({_first(error)}): it needs {where or 'the same packages'}, as on "
            "the machine that sent it; install them there, or run without workers"
        ) from error


def _pickler() -> type[Any]:
    """A pickler for graphs; if possible, also for classes and functions that cannot be imported by name."""
    base: Any = pickle.Pickler
    with suppress(ImportError):
        import cloudpickle  # type: ignore[import-untyped]  # comes with Dask

        base = cloudpickle.Pickler

    class Pickler(base):  # type: ignore[misc]
        folders: dict[str, str]

        def reducer_override(self, value: Any) -> Any:
            """See `pickle.Pickler`."""
            if _checks_alone(value):
                return _Unchecked, ()
            if isinstance(value, fx.GraphModule):
                return _rebuilt, (_class_of(value), *_parts(value))
            if isinstance(value, torch._ops.OpOverload):
                return _overload, (*value._schema.name.split("::"), value._overloadname)
            if isinstance(value, torch._ops.HigherOrderOperator):
                return _higher_order, (value.name(),)
            if _has_context(value) and (place := _place_of(value)) is not None:
                return _global, place
            if isinstance(value, type) or callable(value):
                self._note(getattr(value, "__module__", None))
            inherited: Callable[[Any], Any] = getattr(super(), "reducer_override", lambda _: NotImplemented)
            return inherited(value)

        def _note(self, module: object) -> None:
            """Remember the folder of a module that no installed package brings."""
            name = module.partition(".")[0] if isinstance(module, str) else "__main__"
            if name in self.folders or name in ("__main__", "crossbar_sim"):
                return
            file = getattr(sys.modules.get(name), "__file__", None)
            if file is None:
                return
            place = Path(file).resolve()
            if any(place.is_relative_to(folder) for folder in _INSTALLED):
                return
            self.folders[name] = str(place.parent.parent if place.name == "__init__.py" else place.parent)

    return Pickler


def _has_context(value: object) -> bool:
    """Whether something is a context variable or holds one, as what the hooks of transformers refer to does."""
    held = () if isinstance(value, type | ModuleType) else getattr(value, "__dict__", {}).values()
    return isinstance(value, ContextVar) or any(isinstance(each, ContextVar) for each in held)


def _place_of(value: object) -> tuple[str, str] | None:
    """The module that an object is a global of, and its name there; None if there is none."""
    for module, held in list(sys.modules.items()):
        for name, found in list(getattr(held, "__dict__", {}).items()):
            if found is value and module != "__main__":
                return module, name
    return None


def _global(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


_INSTALLED = tuple(
    {Path(sysconfig.get_path(kind)).resolve() for kind in ("stdlib", "platstdlib", "purelib", "platlib")}
)


def _class_of(module: fx.GraphModule) -> type[fx.GraphModule]:
    """The class of a graph module, not the subclass that torch creates for each instance."""
    return next(c for c in type(module).__mro__ if "<locals>" not in c.__qualname__)


def _parts(module: fx.GraphModule) -> tuple[dict[str, Any], list[tuple[Any, ...]], Any]:
    """Attributes, nodes and the form of inputs and outputs of a graph module."""
    state = {name: value for name, value in module.__dict__.items() if name not in _LEFT}
    for hooks in _HOOKS:
        # torch.export's own functions, which check the shapes of inputs and cannot be pickled.
        state[hooks] = OrderedDict((key, hook) for key, hook in state[hooks].items() if not _of_torch(hook))
    nodes = [
        (node.op, node.name, node.target, _named(node.args), _named(node.kwargs), node.type)
        for node in module.graph.nodes
    ]
    return state, nodes, module.graph._codegen


def _of_torch(hook: object) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("torch.")


def _named(arguments: Any) -> Any:
    def named(value: Any) -> Any:
        return _Node(value.name) if isinstance(value, fx.Node) else value

    return fx.node.map_aggregate(arguments, named)


def _rebuilt(
    kind: type[fx.GraphModule], state: dict[str, Any], nodes: list[tuple[Any, ...]], codegen: Any
) -> fx.GraphModule:
    """A graph module from its parts."""
    graph, made = fx.Graph(), dict[str, fx.Node]()

    def found(value: Any) -> Any:
        return made[value.name] if isinstance(value, _Node) else value

    for op, name, target, args, kwargs, type_ in nodes:
        args, kwargs = (fx.node.map_aggregate(arguments, found) for arguments in (args, kwargs))
        made[name] = graph.create_node(op, target, args, kwargs, name, type_)
    graph.set_codegen(codegen)
    module = kind.__new__(kind)
    module.__dict__.update(state)
    module.graph = graph
    return module


class _Unchecked(nn.Module):
    """Replaces a module in which torch.export only checks the inputs."""

    def forward(self, *_: Any) -> None:
        """Nothing."""


def _checks_alone(value: object) -> bool:
    return isinstance(value, nn.Module) and type(value).__name__ == "GuardsFn" and _of_torch(type(value))


def _overload(namespace: str, packet: str, name: str) -> Any:
    if namespace == "torchvision":
        importlib.import_module("torchvision")  # which registers its operators
    return getattr(getattr(getattr(torch.ops, namespace), packet), name or "default")


def _higher_order(name: str) -> Any:
    return getattr(torch.ops.higher_order, name)


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:160]}" if lines else type(error).__name__
