"""Export: a model as a torch.export archive (.pt2), which every command reads without the model's code."""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_sim.errors import InputError, warn
from crossbar_sim.files import check_outputs, replacing
from crossbar_sim.nn.analog.layers import arrays_of
from crossbar_sim.nn.analog.matrices import DIGITAL_BY_TRAINING


def export_model(model: nn.Module, x: Any, path: str | os.PathLike[str]) -> Path:
    """Write a model as a torch.export archive for batches of any size.

    Args:
        model: a digital one, in any mode; it is exported in evaluation mode. Of an analog model, export
            `to_digital(model)`.
        x: example inputs with a batch axis: a tensor, a tuple of tensors, or a mapping of keyword inputs.
        path: ends in .pt2; an existing file is replaced once the new one is complete.

    Returns:
        The path, for `deploy(path, ...)` on the command line.

    Raises:
        InputError: if torch cannot export the model (with its reason), or the file cannot be written.

    >>> import tempfile
    >>> from crossbar_sim.nn import load_model
    >>> folder = tempfile.TemporaryDirectory()
    >>> file = export_model(nn.Linear(4, 2), torch.ones(1, 4), folder.name + "/net.pt2")
    >>> load_model(file).module(torch.ones(7, 4)).shape
    torch.Size([7, 2])
    """
    path = Path(path)
    check_outputs((str(path),), ())
    if path.suffix != ".pt2":
        raise InputError(f"{path}: a torch.export archive ends in .pt2: name it {path.stem}.pt2")
    if not isinstance(model, nn.Module):
        raise InputError(f"model is {type(model).__name__}: expected a torch.nn.Module (an instance)")
    if any(arrays_of(module) is not None for module in model.modules()):
        raise InputError(
            "the model is analog, and an archive holds digital weights: export to_digital(model)"
        )
    kept = [name for name, module in model.named_modules() if DIGITAL_BY_TRAINING in vars(module)]
    if kept:
        also = f" and {len(kept) - 4} more" if len(kept) > 4 else ""
        options = " ".join(f"--layer '{name}:digital'" for name in dict.fromkeys(kept))
        warn(
            [
                f"{', '.join(kept[:4])}{also}: trained to stay digital, which an archive does not say: deploy it with "
                f"{options}, or deploy the checkpoint"
            ]
        )
    positional, keywords = _inputs(x)
    training = {name: module.training for name, module in model.named_modules()}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            exported = torch.export.export(
                model.eval(),
                positional,
                keywords,
                dynamic_shapes=(*map(_any_batch, positional), *map(_any_batch, keywords.values())),
            )
        with replacing(path) as temporary, open(temporary, "wb") as file:
            torch.export.save(exported, file)
    except InputError:
        raise
    except OSError:
        raise
    except Exception as error:  # of torch's compiler, in many classes
        line = (str(error).strip().splitlines() or ["no reason given"])[0]
        raise InputError(
            f"torch.export cannot export {type(model).__name__} ({type(error).__name__}: {line[:200]}): save its "
            "state_dict, and give --arch package.module:factory on the command line"
        ) from error
    finally:
        for name, module in model.named_modules():
            module.training = training[name]
    return path


def _inputs(x: Any) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    """Positional and keyword inputs, each with a batch of at least two: torch would fix a batch of one."""
    positional = tuple(x) if isinstance(x, tuple | list) else () if isinstance(x, Mapping) else (x,)
    keywords = dict(x) if isinstance(x, Mapping) else {}
    for value in (*positional, *keywords.values()):
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) == 0:
            shown = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise InputError(
                f"x holds {shown}: expected tensors with a batch axis, such as one batch of a DataLoader"
            )
    return tuple(map(_two, positional)), {name: _two(value) for name, value in keywords.items()}


def _two(x: Tensor) -> Tensor:
    return torch.cat([x, x]) if len(x) == 1 else x


def _any_batch(x: Tensor) -> dict[int, Any]:
    return {0: torch.export.Dim.AUTO}
