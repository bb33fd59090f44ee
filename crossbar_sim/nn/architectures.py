"""The network that a state_dict belongs to: ours, torchvision's, or a factory of the user's."""

import contextlib
import difflib
import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_sim.errors import InputError
from crossbar_sim.nn.networks import NETWORKS, build
from crossbar_sim.nn.networks.lenet5 import last_side
from crossbar_sim.nn.weight_table import prefix_of

WAYS = (
    f"--arch takes a network of ours ({', '.join(NETWORKS)}), a torchvision name such as resnet18, "
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
            return _from_user(arch, given)
        return _from_torchvision(arch, given, state)


def _infer(arch: str, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """Arguments of our networks from the shapes of their weights; empty where these do not tell."""
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
            f"network {arch!r} is not one of ours ({', '.join(NETWORKS)}); if it is torchvision's, "
            "install that with: pip install 'crossbar-sim[vision]'"
        ) from None
    names = models.list_models()
    if arch not in names:
        close = difflib.get_close_matches(arch, [*names, *NETWORKS], n=3)
        hint = f" (did you mean {', '.join(close)}?)" if close else ""
        raise InputError(f"network {arch!r} is unknown{hint}: {WAYS}")
    # The last matrix of a classifier has one row per class.
    matrices = [value for name, value in state.items() if name.endswith("weight") and value.ndim >= 2]
    if matrices and "num_classes" not in given:
        given["num_classes"] = int(matrices[-1].shape[0])
    try:
        return models.get_model(arch, weights=None, **given)
    except Exception as error:
        raise InputError(f"torchvision cannot build {arch!r} with {given}: {_reason(error)}") from error


def _from_user(arch: str, given: dict[str, Any]) -> nn.Module:
    module_name, _, factory_name = arch.partition(":")
    try:
        with _current_directory_importable():
            factory: Any = importlib.import_module(module_name)
            for part in factory_name.split("."):
                factory = getattr(factory, part)
            model = factory(**given)
    except Exception as error:
        # The user's own code: any error is about what they named.
        raise InputError(
            f"--arch {arch} cannot be built ({_reason(error)}): it must be an importable module "
            "and a callable in it that returns a torch.nn.Module"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"--arch {arch} returned a {type(model).__name__}, not a torch.nn.Module")
    return model


@contextlib.contextmanager
def _current_directory_importable() -> Iterator[None]:
    """Let `mycode:factory` find mycode.py beside the user, as `python -m` would."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
