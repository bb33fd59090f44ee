"""The checkpoint format: a network's name, arguments, weights and the name of its data, as plain values.

The file is a `torch.save` of one dict, loadable with `weights_only=True`: it contains no class of this package or
of the user, so reading it runs no code.

    {"format": "crossbar-sim checkpoint", "format_version": 1, "network": "mlp",
     "arguments": {...}, "data": "digits", "state_dict": {...}, "notes": {...}}

A network that was trained for calibration has "standardised" as well: what `nn.standardised` inserts into it.
"""

import io
import os
from collections.abc import Mapping
from sys import intern
from typing import Any, BinaryIO, TypeGuard

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from crossbar_sim.errors import InputError
from crossbar_sim.files import replacing
from crossbar_sim.nn.files.architectures import names_code, user_network
from crossbar_sim.nn.files.state_dict import check_fit, check_size, fill
from crossbar_sim.nn.networks import build
from crossbar_sim.nn.standardised import Standardisation, standardisation_of
from crossbar_sim.validate import show

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
    """Write a checkpoint; if that fails, the file at `path` is unchanged.

    Args:
        path: the file; an existing one is replaced once the new one is complete on disk.
        model: a network whose `state_dict` fits `build(network, **arguments)`.
        network: its name in `NETWORKS`, or the import path `package.module:factory` of what makes it.
        arguments: its plain arguments, such as `model.arguments`.
        data: the name of the data set that it was trained on.
        notes: plain values for people (method, epochs, accuracy); never read by the loader.

    Raises:
        InputError: the network cannot be rebuilt from its description, a value is not plain, or
            the file cannot be written.
    """
    # A pickle refers to a text that it has already, if it is the same object: interned, equal ones always are.
    state = {intern(name): value.detach().cpu() for name, value in nn.Module.state_dict(model).items()}
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "network": intern(str(network)),
        "arguments": _plain("arguments", dict(arguments)),
        "data": intern(str(data)),
        "state_dict": state,
        "notes": _plain("notes", dict(notes or {})),
    }
    standardised = standardisation_of(model)
    if standardised is not None:
        content["standardised"] = _plain("standardised", standardised.as_dict())
    # Refuse now what could not be loaded later.
    restore(content, str(network))
    write_tensors(path, content)


def write_tensors(path: str | os.PathLike[str], content: object) -> None:
    """`torch.save` to a file, whole or not at all; equal contents give equal bytes, whatever the file is called.

    `torch.save` writes the name of the file that it opens into the archive. Here it gets a stream, which has no name.

    Raises:
        InputError: with the system's reason, if the file cannot be written; what was at `path` is as it was.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        stream: Any = _Stream(file)
        try:
            torch.save(content, stream)
            file.flush()
        except RuntimeError as error:  # torch's own, which says nothing about the cause
            raise stream.error or OSError(str(error).splitlines()[0]) from error


class _Stream(io.RawIOBase):
    """Passes bytes on to a file, and keeps the error if it does not take them."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, data: Any) -> int:
        """See `io.RawIOBase`."""
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise


def is_checkpoint(content: object) -> TypeGuard[dict[str, Any]]:
    """Say whether a loaded object claims to be a crossbar-sim checkpoint."""
    return isinstance(content, dict) and content.get("format") == FORMAT


def state_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """The weights in a checkpoint's content, by name.

    Raises:
        InputError: the version is another, or a field is missing or wrong.
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
    state: dict[str, Any] = content["state_dict"]
    return state


def restore(
    content: Mapping[str, Any], trusted: str | None = None
) -> tuple[nn.Module, str, str | None, tuple[str, ...]]:
    """Rebuild the model from a checkpoint's content.

    Args:
        content: of the file.
        trusted: the import path of a user's factory that may be imported and called; a file alone runs no code.

    Returns:
        The model with its weights, the network's name, the data set's name or None, and sentences
        on what was converted.

    Raises:
        InputError: the version is another, a field is missing or wrong, the weights do not fit, or the network is
            made by a factory that is not trusted.
    """
    state_of(content)
    name, state, whose = (
        content["network"],
        content["state_dict"],
        f"network {content['network']!r} of this checkpoint",
    )
    arguments = {str(key): value for key, value in content["arguments"].items()}
    data = content.get("data")
    data = data if isinstance(data, str) else None
    if names_code(name):
        if trusted != name:
            raise InputError(
                f"this checkpoint holds the weights of {show(name)}, a network of your own"
                f"{'' if trusted is None else f', and not of {trusted}'}: read that code, and give --arch {name} to "
                "import and run it"
            )
        check_size({"": state})
        with torch.random.fork_rng(devices=[]):
            model = _standardised(user_network(name, arguments, "network"), content)
        check_fit(model, state, whose)
        return model, name, data, fill(model, state, whose)
    # What a file claims is allocated only when the weights have been found to be as large.
    check_size({"": state})
    with torch.device("meta"), _Undrawn():
        check_fit(_standardised(_built(name, arguments), content), state, whose)
    # Drawing initial weights that are replaced at once must not move the caller's generator.
    with torch.random.fork_rng(devices=[]):
        model = _standardised(_built(name, arguments), content)
    converted = fill(model, state, whose)
    return model, name, data, converted


def _standardised(model: nn.Module, content: Mapping[str, Any]) -> nn.Module:
    """The network with the normalisations that the checkpoint says it has."""
    found = inserted(content)
    if found is not None:
        found.insert(model)
    return model


def inserted(content: Mapping[str, Any]) -> Standardisation | None:
    """What calibrated training inserted into the network of a checkpoint; None: nothing.

    Raises:
        InputError: if the field is damaged.
    """
    return Standardisation.from_dict(content["standardised"]) if "standardised" in content else None


class _Undrawn(TorchFunctionMode):
    """No initial weights are drawn: on the meta device there are none, and asking for them loads torch's compiler."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init" or func in (Tensor.normal_, Tensor.uniform_):
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _built(name: str, arguments: dict[str, Any]) -> nn.Module:
    try:
        return build(name, **arguments)
    except InputError:
        raise
    except Exception as error:
        # Arguments of a file may be of any type and size, which constructors and torch refuse in many ways.
        raise InputError(
            f"the arguments of this checkpoint make no network {name[:60]!r} ({type(error).__name__}: "
            f"{(str(error).splitlines() or [''])[0][:120]}): the file is damaged; save it again"
        ) from error


def _plain(field: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {intern(str(key)): _plain(f"{field}.{key}", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(field, item) for item in value)
    for kind in _PLAIN:
        if isinstance(value, kind):
            # numpy's float64 is a float, but would pickle as numpy's.
            return intern(str(value)) if kind is str else kind(value)
    if value is None:
        return None
    raise InputError(
        f"{field} is a {type(value).__name__}: a checkpoint holds only numbers, text, lists and dicts"
    )
