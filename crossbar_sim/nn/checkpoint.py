"""Our checkpoint: a network's name, arguments, weights and the name of its data, as plain values.

The file is a `torch.save` of one dict, loadable with `weights_only=True`: no class of ours or of
the user is in it, so reading it runs no code.

    {"format": "crossbar-sim checkpoint", "format_version": 1, "network": "mlp",
     "arguments": {...}, "data": "digits", "state_dict": {...}, "notes": {...}}
"""

import os
from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from torch import nn

from crossbar_sim.errors import InputError
from crossbar_sim.files import replacing
from crossbar_sim.nn.networks import build
from crossbar_sim.nn.state_dict import fill

FORMAT = "crossbar-sim checkpoint"
FORMAT_VERSION = 1

_PLAIN = (bool, int, float, str)


def save_checkpoint(
    path: str | os.PathLike[str],
    model: nn.Module,
    network: str,
    arguments: Mapping[str, Any],
    data: str,
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint, or leave what is at `path` as it was.

    Args:
        path: the file; an existing one is replaced once the new one is complete on disk.
        model: a network whose `state_dict` fits `build(network, **arguments)`.
        network: its name in `NETWORKS`.
        arguments: its plain arguments, such as `model.arguments`.
        data: the name of the data set that it was trained on.
        notes: plain values for people (method, epochs, accuracy); never read by the loader.

    Raises:
        InputError: the network cannot be rebuilt from its description, a value is not plain, or
            the file cannot be written.
    """
    state = {name: value.detach().cpu() for name, value in nn.Module.state_dict(model).items()}
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "network": network,
        "arguments": _plain("arguments", dict(arguments)),
        "data": data,
        "state_dict": state,
        "notes": _plain("notes", dict(notes or {})),
    }
    # Refuse now what could not be loaded later.
    restore(content)
    with replacing(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # so torch reports a failed write
            raise OSError(str(error).splitlines()[0]) from error


def is_checkpoint(content: object) -> TypeGuard[dict[str, Any]]:
    """Say whether a loaded object claims to be a checkpoint of ours."""
    return isinstance(content, dict) and content.get("format") == FORMAT


def restore(content: Mapping[str, Any]) -> tuple[nn.Module, str, str | None, tuple[str, ...]]:
    """Rebuild the model from a checkpoint's content.

    Returns:
        The model with its weights, the network's name, the data set's name or None, and sentences
        on what was converted.

    Raises:
        InputError: the version is another, a field is missing or wrong, or the weights do not fit.
    """
    version = content.get("format_version")
    if version != FORMAT_VERSION:
        raise InputError(
            f"checkpoint format_version {version!r} is not the one this crossbar-sim reads "
            f"({FORMAT_VERSION}): use the version that wrote it, or save it again"
        )
    for field, kind in (("network", str), ("arguments", dict), ("state_dict", dict)):
        if not isinstance(content.get(field), kind):
            raise InputError(f"checkpoint field {field!r} is missing or not a {kind.__name__}")
    name = content["network"]
    # Drawing initial weights that are replaced at once must not move the caller's generator.
    with torch.random.fork_rng(devices=[]):
        model = build(name, **{str(k): v for k, v in content["arguments"].items()})
    converted = fill(model, content["state_dict"], f"network {name!r} of this checkpoint")
    data = content.get("data")
    return model, name, data if isinstance(data, str) else None, converted


def _plain(field: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(f"{field}.{key}", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(field, item) for item in value)
    for kind in _PLAIN:
        if isinstance(value, kind):
            # numpy's float64 is a float, but would pickle as numpy's.
            return kind(value)
    if value is None:
        return None
    raise InputError(
        f"{field} is a {type(value).__name__}: a checkpoint holds only numbers, text, lists and dicts"
    )
