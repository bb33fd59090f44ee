"""A table of weights: found in what torch.load returned, and put into a network."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from crossbar_sim.errors import InputError

_NESTED = ("state_dict", "model_state_dict", "model")
# DistributedDataParallel and torch.compile wrap the model and so prefix its keys.
_PREFIXES = ("module.", "_orig_mod.")
_SHOWN = 3


def unwrap(content: object) -> dict[str, Tensor]:
    """Return the table of tensors in `content`, without wrapping keys and prefixes.

    Raises:
        InputError: there is none.
    """
    table = content
    if isinstance(content, Mapping):
        for key in _NESTED:
            if isinstance(content.get(key), Mapping):
                table = content[key]
                break
    if not isinstance(table, Mapping):
        raise InputError(
            f"the file holds a {type(content).__name__}, not a table of weights: save one with "
            "torch.save(model.state_dict(), ...)"
        )
    if not table:
        raise InputError("the file holds an empty table of weights: save the trained model's state_dict()")
    for name, value in table.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(
                f"the file's entry {str(name)[:60]!r} ({type(value).__name__}) is not a tensor "
                "with a name: save the weights alone with torch.save(model.state_dict(), ...), or "
                "under the key "
                "'state_dict'"
            )
    state = dict(table)
    for _ in _PREFIXES:
        for prefix in _PREFIXES:
            if all(name.startswith(prefix) for name in state):
                state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def fill(model: nn.Module, state: Mapping[Any, Any], whose: str) -> tuple[str, ...]:
    """Copy `state` into `model`, all of it and nothing else.

    Args:
        model: changed in place.
        state: tensors by name; other floating types are converted to the model's.
        whose: names the model in errors.

    Returns:
        Sentences on what was converted.

    Raises:
        InputError: names or shapes differ (the first few are given), or a weight is not
        real-valued and finite.
    """
    expected = {
        name: value
        for name, value in nn.Module.state_dict(model).items()
        # Modules may keep extra state of other types.
        if isinstance(value, Tensor)
    }
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(
                f"entry {str(name)[:60]!r} of the weights is a {type(value).__name__}, not a tensor"
            )
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in state and state[name].shape != value.shape
    ]
    faults = [
        f"{len(found)} {what} ({_few(found)})"
        for what, found in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", shapes),
        )
        if found
    ]
    if faults:
        raise InputError(
            f"the weights do not fit {whose}: {', '.join(faults)}; check --arch and its arguments"
        )
    for name, value in state.items():
        check_weight(name, value, parameter=expected[name].is_floating_point())
    notes = conversion_notes({name: state[name] for name in expected if expected[name].is_floating_point()})
    with torch.no_grad():
        for name, value in expected.items():
            value.copy_(state[name])
    return notes


def check_weight(name: str, value: Tensor, parameter: bool = True) -> None:
    """Raise InputError for a weight that no conductance can hold: not real, dense and finite."""
    if value.is_quantized or (parameter and not value.is_floating_point() and not value.is_complex()):
        raise InputError(
            f"{name} is stored as {_type(value)} integers: save the network before quantisation, "
            "in float32, and let the hardware's levels quantise it"
        )
    if value.is_complex():
        raise InputError(
            f"{name} is complex ({_type(value)}): a conductance is a real number; store real and "
            "imaginary parts as two weights"
        )
    if value.layout != torch.strided or value.is_meta:
        kind = "without values" if value.is_meta else "sparse"
        raise InputError(f"{name} is {kind}: save it as an ordinary dense tensor")
    if value.is_floating_point():
        # In float32, where it will live: a float64 may be too large for it.
        plain = value.detach().float()
        bad = plain.numel() - int(torch.isfinite(plain).sum())
        if bad:
            raise InputError(
                f"{name} has {bad} of {plain.numel()} values that are NaN or infinite: training "
                "diverged or the file is damaged; save a healthy model"
            )


def check_model(model: nn.Module) -> None:
    """Check every parameter and buffer of a model as `check_weight` does."""
    for name, weight in model.named_parameters():
        check_weight(name, weight)
    for name, buffer in model.named_buffers():
        check_weight(name, buffer, parameter=False)


def conversion_notes(weights: Mapping[str, Tensor]) -> tuple[str, ...]:
    """One sentence per floating type other than float32: these are computed with in float32."""
    counts: dict[str, int] = {}
    for value in weights.values():
        if value.is_floating_point() and value.dtype != torch.float32:
            counts[_type(value)] = counts.get(_type(value), 0) + 1
    return tuple(
        f"{number} {kind} tensors were converted to float32" for kind, number in sorted(counts.items())
    )


def _few(names: list[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return ", ".join(name[:120] for name in names[:_SHOWN]) + more


def _type(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
