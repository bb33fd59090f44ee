"""The network of a state_dict: one of this package, of torchvision, or a user's factory."""

import difflib
import functools
import importlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_sim.errors import InputError
from crossbar_sim.nn.files.weight_tables import prefix_of
from crossbar_sim.nn.networks import NETWORKS, build
from crossbar_sim.nn.networks.feedforward import last_side
from crossbar_sim.user_code import import_module, in_standard_library

WAYS = (
    f"--arch takes a built-in network ({', '.join(NETWORKS)}), a torchvision name such as resnet18, "
    "or package.module:factory in your code"
)

_FIRST = {"mlp": ("fc1.weight",), "lenet5": ("conv1.weight",)}


def build_architecture(
    arch: str, arguments: Mapping[str, Any] | None, state: Mapping[str, Tensor]
) -> nn.Module:
    """Build the network called `arch`, untrained.

    Args:
        arch: see `WAYS`.
        arguments: passed to the network; they take precedence over what the weights' shapes tell.
        state: the weights that will be put in.

    Raises:
        InputError: no such network, or it refuses the arguments.
    """
    given = dict(arguments or {})
    # Initial weights are replaced at once: drawing them must not move the caller's generator.
    with torch.random.fork_rng(devices=[]):
        if arch in NETWORKS:
            return build(arch, **{**_infer(arch, state), **given})
        if ":" in arch:
            return user_network(arch, given)
        return _from_torchvision(arch, given, state)


def _infer(arch: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of built-in networks from the shapes of their weights; empty where these do not determine them."""
    # A training framework may have put its own name before every weight's.
    prefix = prefix_of(_FIRST.get(arch, ()), state)
    state = {name.removeprefix(prefix): value for name, value in state.items()}
    if arch == "mlp":
        weights = [state[f"fc{i}.weight"] for i in _consecutive(state)]
        if weights and all(weight.ndim == 2 for weight in weights):
            widths = [int(weight.shape[0]) for weight in weights]
            return {
                "inputs": int(weights[0].shape[1]),
                "hidden": tuple(widths[:-1]),
                "classes": widths[-1],
            }
    if arch == "lenet5":
        first, third, last = (state.get(f"{name}.weight") for name in ("conv1", "conv3", "fc2"))
        if first is not None and third is not None and last is not None:
            if first.ndim != 4 or third.ndim != 4 or last.ndim != 2:
                return {}
            # Several sides leave the same kernel; 28 comes first, then the smallest.
            side = next((s for s in (28, *range(8, 513)) if last_side(s) == third.shape[-1]), 28)
            return {"channels": int(first.shape[1]), "size": side, "classes": int(last.shape[0])}
    return {}


def _consecutive(state: Mapping[str, Tensor]) -> list[int]:
    found: list[int] = []
    while f"fc{len(found) + 1}.weight" in state:
        found.append(len(found) + 1)
    return found


def _from_torchvision(arch: str, given: dict[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    try:
        models = importlib.import_module("torchvision.models")
    except ImportError:
        raise InputError(
            f"network {arch!r} is not a built-in one ({', '.join(NETWORKS)}); if it is torchvision's, "
            "install that with: pip install '.[vision]' in a clone"
        ) from None
    names = models.list_models()
    if arch not in names:
        close = difflib.get_close_matches(arch, [*names, *NETWORKS], n=3)
        hint = f" (did you mean {', '.join(close)}?)" if close else ""
        raise InputError(f"network {arch!r} is unknown{hint}: {WAYS}")
    loaded = [name for name in given if name.startswith(("weights", "pretrained"))]
    if loaded:
        raise InputError(
            f"{loaded[0]} of {arch!r} would load other weights than those of the file: leave it out"
        )
    # The last matrix of a classifier has one row per class.
    matrices = [value for name, value in state.items() if name.endswith("weight") and value.ndim >= 2]
    if matrices and "num_classes" not in given:
        given["num_classes"] = int(matrices[-1].shape[0])
    try:
        takes = inspect.signature(models.get_model_builder(arch)).parameters
        none = {name: None for name in ("weights", "weights_backbone") if name in takes}
        return models.get_model(arch, **none, **given)
    except Exception as error:
        raise InputError(f"torchvision cannot build {arch!r} with {given}: {_reason(error)}") from error


def names_code(arch: str | None) -> bool:
    """Whether `arch` is "package.module:factory", which imports and runs code of the user's own."""
    return arch is not None and arch not in NETWORKS and ":" in arch


def user_factory(path: str, option: str = "--arch") -> Any:
    """The class or function `package.module:factory` that makes a network; importing its module runs its code.

    Raises:
        InputError: beginning with the option, if there is none, or it obviously makes no network.
    """
    module_name, _, factory_name = path.partition(":")
    found: Any = import_module(module_name, f"{option} {path}")
    try:
        for part in factory_name.split("."):
            found = _attribute(found, part)
    except Exception as error:
        # The user's own code: any error is about what they named.
        raise _unbuildable(path, option, error) from error
    _check_factory(f"{option} {path}", found)
    return found


def user_network(path: str, arguments: Mapping[str, Any], option: str = "--arch") -> nn.Module:
    """The network that a user's factory makes with these arguments.

    Raises:
        InputError: beginning with the option, if it makes none.
    """
    factory = user_factory(path, option)
    try:
        model = factory(**arguments)
    except Exception as error:
        raise _unbuildable(path, option, error) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"{option} {path} returned a {type(model).__name__}, not a torch.nn.Module")
    return model


def _unbuildable(path: str, option: str, error: Exception) -> InputError:
    return InputError(
        f"{option} {path} cannot be built ({_reason(error)}): it must be an importable module "
        "and a class or function in it that returns a torch.nn.Module"
    )


def _attribute(holder: Any, name: str) -> Any:
    """An attribute of a module, or a class or method of a class, without running a property.

    Raises:
        AttributeError: if there is none.
        TypeError: if the holder is neither a module nor a class.
    """
    if isinstance(holder, ModuleType):
        return getattr(holder, name)  # a package may import what it names only now
    if not isinstance(holder, type):
        raise TypeError(
            f"{name} is looked for in a {type(holder).__name__}, which is neither a module nor a class"
        )
    found = inspect.getattr_static(holder, name)
    if not isinstance(found, type | FunctionType | classmethod | staticmethod):
        raise TypeError(f"{name} of {holder.__name__} is a {type(found).__name__}")
    return found.__get__(None, holder) if isinstance(found, classmethod | staticmethod) else found


def _check_factory(what: str, factory: Any) -> None:
    """Refuse, before the call, an object that obviously does not make a module.

    Raises:
        InputError: saying what it is.
    """
    if isinstance(factory, type):
        if issubclass(factory, nn.Module):
            return
        raise InputError(f"{what} is a class, but not one of torch.nn.Module: {WAYS}")
    function = factory
    while True:  # to what a method, a partial, a cache or a decorator was put around
        if isinstance(function, MethodType):
            function = function.__func__
        elif isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, _WRAPPERS) and isinstance(vars(function).get("__wrapped__"), _WRAPPERS):
            function = vars(function)["__wrapped__"]
        else:
            break
    if isinstance(function, type) and issubclass(function, nn.Module):
        return
    if not isinstance(function, FunctionType):
        raise InputError(
            f"{what} is a {type(factory).__name__}, neither a class nor a function written in Python: {WAYS}"
        )
    home = (function.__module__ or "").partition(".")[0]
    file = function.__code__.co_filename
    if home in sys.stdlib_module_names and (file.startswith("<frozen") or in_standard_library(Path(file))):
        raise InputError(f"{what} is a function of Python's module {home}, which makes no network: {WAYS}")
    if home in _NO_NETWORKS:
        raise InputError(f"{what} is a function of {home}, which makes no network: {WAYS}")
    returned = function.__annotations__.get("return", nn.Module)
    returned = type(None) if returned is None else returned
    if (
        isinstance(returned, type)
        and not issubclass(returned, nn.Module)
        and not issubclass(nn.Module, returned)
    ):
        raise InputError(f"{what} returns a {returned.__name__}, not a torch.nn.Module: {WAYS}")


_WRAPPERS = (FunctionType, type(functools.lru_cache(int)))

_NO_NETWORKS = frozenset(("torch", "numpy", "scipy", "h5py"))
"""Packages whose functions make no network of a state_dict, but can load pickles and write files."""


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
