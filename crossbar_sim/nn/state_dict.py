"""A table of weights put into a network, and what weights may be."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from crossbar_sim.errors import InputError
from crossbar_sim.nn.weight_table import prefix_of

_SHOWN = 3
_EXTRA = "_extra_state"


def fill(model: nn.Module, state: Mapping[Any, Any], whose: str) -> tuple[str, ...]:
    """Copy `state` into `model`, all of it and nothing else.

    Args:
        model: changed in place.
        state: tensors by name; other floating types are converted to the model's, and a prefix that all names
            have before the model's ("model.") is taken off.
        whose: names the model in errors.

    Returns:
        Sentences on what was converted.

    Raises:
        InputError: names or shapes differ (the first few are given), a parameter is not real-valued
        and finite, a buffer has NaN, or the model has tensors without shape or values.
    """
    expected = {
        name: value
        for name, value in nn.Module.state_dict(model).items()
        # Modules may keep extra state of other types.
        if isinstance(value, Tensor)
    }
    for name, value in expected.items():
        _check_made(name, value, whose)
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise InputError(
                f"entry {str(name)[:60]!r} of the weights is a {type(value).__name__}, not a tensor"
            )
    notes: tuple[str, ...] = ()
    prefix = prefix_of(expected, state)
    if prefix and len(state) == len(expected):
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        notes = (f"the names of the weights begin with {prefix[:60]!r}: it was taken off",)
    extra = _extra_states(model)
    plain = {name: value for name, value in expected.items() if name not in extra}
    _check_fit(expected, plain, state, whose, prefix)
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name, own in plain.items():
        real = own.is_floating_point() or own.is_complex()
        check_weight(name, state[name], parameter=name in parameters and real)
        if state[name].is_complex() and not own.is_complex():
            raise InputError(f"{name} is complex in the file and real in {whose}: check --arch")
    notes += conversion_notes({name: state[name] for name in plain if plain[name].is_floating_point()})
    with torch.no_grad():
        for name, own in plain.items():
            own.copy_(state[name])
    return notes + tuple(
        _set_extra(name, module, expected[name], state[name])
        for name, module in extra.items()
        if name in expected
    )


def _check_fit(
    expected: Mapping[str, Tensor],
    plain: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    whose: str,
    prefix: str,
) -> None:
    """Raise InputError where names differ from `expected`, or shapes from those of `plain`."""
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in plain.items()
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
    if missing and prefix:
        raise InputError(
            f"the weights do not fit {whose}: of their {len(state)} names {len(expected)} begin with {prefix[:60]!r} "
            "and fit without it: save those alone, without it"
        )
    if faults:
        raise InputError(
            f"the weights do not fit {whose}: {', '.join(faults)}; check --arch and its arguments"
        )


def _check_made(name: str, own: Tensor, whose: str) -> None:
    """Raise InputError for a tensor of the model that nothing can be copied into."""
    if is_lazy(own):
        raise InputError(
            f"{name} of {whose} has no shape yet: run the lazy model once on an input, in the factory too"
        )
    if own.is_meta:
        raise InputError(
            f"{name} of {whose} is on the meta device, without values: make the model on the CPU"
        )


def _extra_states(model: nn.Module) -> dict[str, nn.Module]:
    """The modules that keep state beside parameters and buffers, by its name in a state_dict."""
    return {
        f"{name}.{_EXTRA}" if name else _EXTRA: module
        for name, module in model.named_modules(remove_duplicate=False)
        if type(module).get_extra_state is not nn.Module.get_extra_state
    }


def _set_extra(name: str, module: nn.Module, own: Tensor, value: Tensor) -> str:
    """Hand a module its extra state, in the type that it gives itself; a sentence on that."""
    if torch.uint8 in (own.dtype, value.dtype):
        # Some modules keep a pickle in it, and reading that would run a file's code.
        return f"{name} holds bytes, which may be code: it was left as the network makes it"
    try:
        module.set_extra_state(value.to(own.dtype))
    except Exception as error:  # of the user's own code: of any kind
        raise InputError(
            f"{name}: set_extra_state refuses what the file has ({type(error).__name__}): check --arch"
        ) from error
    return f"{name} was given to {type(module).__name__}.set_extra_state"


def check_weight(name: str, value: Tensor, parameter: bool = True) -> None:
    """Raise InputError for what no conductance can hold (not real, dense and finite), or no buffer should (NaN)."""
    if is_lazy(value):
        raise InputError(f"{name} has no shape yet: run the lazy model once on an input, and save it then")
    if value.is_quantized or (parameter and not value.is_floating_point() and not value.is_complex()):
        raise InputError(
            f"{name} is stored as {_type(value)} integers: save the network before quantisation, "
            "in float32, and let the hardware's levels quantise it"
        )
    if parameter and value.is_complex():
        raise InputError(
            f"{name} is complex ({_type(value)}): a conductance is a real number; store real and "
            "imaginary parts as two weights"
        )
    if value.layout != torch.strided or value.is_meta:
        kind = "without values" if value.is_meta else "sparse"
        raise InputError(f"{name} is {kind}: save it as an ordinary dense tensor")
    if value.is_floating_point() or value.is_complex():
        # In float32, where a weight will live: a float64 may be too large for it.
        plain = value.detach().float() if value.is_floating_point() else value.detach()
        # A buffer may be a mask of -inf, which is no work of training; a normalisation's statistics are.
        finite = parameter or name.endswith(("running_mean", "running_var"))
        bad = int((~torch.isfinite(plain) if finite else torch.isnan(plain)).sum())
        if bad:
            raise InputError(
                f"{name} has {bad} of {plain.numel()} values that are {'NaN or infinite' if finite else 'NaN'}: "
                "training diverged or the file is damaged; save a healthy model"
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
