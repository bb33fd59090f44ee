"""Checkpoints of a training: all that it takes to go on as if nothing had happened.

The file is a `torch.save` of one dict of tensors and plain values, loadable with `weights_only=True`. It holds what
the training was told (as text and digests) and where it is: weights, moments of the optimiser, states of torch's
generators, the history, the best weights so far. Shuffling and augmentation are drawn by name and need no state.
"""

import hashlib
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_sim.errors import InputError
from crossbar_sim.files import check_writable
from crossbar_sim.nn.checkpoint import write_tensors
from crossbar_sim.nn.optimiser import Optimiser
from crossbar_sim.text import check_depth

FORMAT = "crossbar-sim training"
FORMAT_VERSION = 1

# What torch raises for files that it did not write, or that end too early, or that hold more than plain values.
_NO_CHECKPOINT = (
    pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError, TypeError
)  # fmt: skip


@dataclass
class State:
    """Where a training is.

    Args:
        history: (number, loss, validation accuracy or None) of the epochs done.
        best: (epoch, accuracy, state_dict) of the best weights so far, where they are kept.
        seconds: spent so far.
    """

    history: list[tuple[int, float, float | None]] = field(default_factory=list)
    best: tuple[int, float, dict[str, Tensor]] | None = None
    seconds: float = 0.0


class TrainingFile:
    """A training's checkpoint at `path`, of a run that `identity` describes, in words.

    Args:
        path: the file; it need not be there.
        identity: what the run is made of: name of a part -> what it is.
    """

    def __init__(self, path: str | os.PathLike[str], identity: Mapping[str, str]) -> None:
        self.path, self.identity = path, dict(identity)

    def write(self, model: nn.Module, optimiser: Optimiser, state: State) -> None:
        """Replace the file once the new one is complete on disk.

        Raises:
            InputError: with the system's reason; the file is as it was.
        """
        content = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "identity": self.identity,
            "model": snapshot(model),
            "optimiser": optimiser.torch.state_dict(),
            "generators": _generators(),
            "history": state.history,
            "best": state.best,
            "seconds": state.seconds,
        }
        write_tensors(self.path, content)

    def read(self, model: nn.Module, optimiser: Optimiser) -> State:
        """Put model, optimiser and generators where the file says; where there is no file, leave them.

        Raises:
            InputError: if it is no checkpoint of a training, or of another one, or could not be replaced.
        """
        check_writable(self.path)  # now rather than after an epoch
        if not Path(self.path).exists():
            return State()
        content = _load(self.path)
        for part, ours in self.identity.items():
            if content["identity"].get(part) != ours:
                raise InputError(
                    f"{self.path} is the checkpoint of a training with another {part}: continue that one, or name "
                    "another file; nothing was overwritten"
                )
        try:
            put_back(model, content["model"])
            optimiser.torch.load_state_dict(content["optimiser"])
            state = State(content["history"], content["best"], content["seconds"])
            _set_generators(content["generators"])
        except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
            raise InputError(f"{self.path} is damaged: remove it and train anew") from error
        return state


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in _tensors(model)}


def put_back(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Write a snapshot into the parameters and buffers, in place."""
    with torch.no_grad():
        for name, tensor in _tensors(model):
            tensor.copy_(tensors[name])


def _tensors(model: nn.Module) -> list[tuple[str, Tensor]]:
    # Buffers that a state_dict leaves out matter as much to going on.
    return [*model.named_parameters(), *((f"buffer {name}", b) for name, b in model.named_buffers())]


def identity(model: nn.Module, told: Mapping[str, object], examples: Mapping[str, Any]) -> dict[str, str]:
    """What a training is made of, as text and digests: compared part by part.

    Args:
        model: as it begins.
        told: name -> anything with a telling repr: settings, key, method.
        examples: name -> (x, y) tensors, or None.
    """
    shapes = [f"{name} {tuple(t.shape)} {t.dtype}" for name, t in _tensors(model)]
    parts = {"network": _digest([f"{model}", *shapes])}
    parts |= {name: repr(value) for name, value in told.items()}
    for name, tensors in examples.items():
        parts[name] = "none" if tensors is None else _digest(tensors)
    parts["initial weights"] = _digest([t for _, t in _tensors(model)])
    return parts


def _digest(parts: Any) -> str:
    state = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            raw = part.detach().cpu().contiguous().reshape(-1)
            state.update(f"{part.dtype} {tuple(part.shape)}".encode())
            state.update(raw.view(torch.uint8).numpy().data if raw.numel() else b"")
        else:
            state.update(str(part).encode())
    return state.hexdigest()


def _load(path: str | os.PathLike[str]) -> dict[str, Any]:
    refusal = f"{path} is no checkpoint of a training: name another file; nothing was overwritten"
    try:
        with open(path, "rb") as file:
            try:
                content = torch.load(file, map_location="cpu", weights_only=True)
                check_depth(content)
            except _NO_CHECKPOINT as error:
                raise InputError(refusal) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(refusal)
    if content.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{path}: format_version {content.get('format_version')!r} of a training's checkpoint is not the one that "
            f"this crossbar-sim reads ({FORMAT_VERSION}): use the version that wrote it"
        )
    if not isinstance(content.get("identity"), dict):
        raise InputError(refusal)
    return content


def _generators() -> list[Tensor]:
    return [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]


def _set_generators(states: list[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states[1:])
