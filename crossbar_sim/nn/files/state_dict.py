"""State dicts: loaded into a network by torch's own strict loader, completed where possible, refused where wrong."""

import inspect
import traceback
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from crossbar_sim.errors import InputError
from crossbar_sim.nn.files.weight_tables import EXTRA_STATE, Table, is_extra, readings

_SHOWN = 3

_LARGEST_RATIO = 20
_SMALL = 64 * 2**20


ARCH = "check --arch and its arguments"


def fill(
    model: nn.Module, state: Mapping[Any, Any], whose: str, trusted: bool = False, remedy: str = ARCH
) -> tuple[str, ...]:
    """Load `state` into `model` by the model's own `load_state_dict(strict=True)`, with its hooks and versions.

    If torch refuses a table, missing weights are computed and it is tried again: tied weights are copied, and weights
    that pruning, weight_norm or spectral_norm store in parts are put together.

    Args:
        model: changed in place.
        state: tensors by name; other floating types are converted to the model's, and a prefix that all names
            have before the model's ("model.") is taken off.
        whose: names the model in errors.
        trusted: whether extra state of bytes, which may be code, is handed to its module.
        remedy: the end of the sentence where the weights do not fit.

    Returns:
        Sentences on what was converted.

    Raises:
        InputError: names or shapes differ (the first few are given), a parameter is not real-valued
        and finite, a buffer has NaN, or the model has tensors without shape or values.
    """
    network = _network(model, whose)
    _check_entries(state)
    first: _Misfit | None = None
    for table, renaming in readings(state, network, whose):
        held, kept = _extra_states(table, model, trusted)
        complete, about = _completed(held, network, model)
        exact = held.keys() == network.keys()
        fault: _Misfit | None = None
        for entries, changes in ((held, ()), (complete, about)):
            if entries is complete and (exact or not about):
                continue
            try:
                left = _load(model, entries, network, whose, copies=not exact, remedy=remedy)
            except _Misfit as error:
                fault = error
                continue
            notes = (
                renaming,
                *changes,
                *kept,
                *_torn(entries, model),
                *_conversions(entries, network),
                *left,
            )
            return tuple(note for note in notes if note)
        first = first or fault
    assert first is not None
    raise InputError(str(first)) from first


class _Misfit(InputError):
    """A table's names or shapes, or a hook of the model, do not fit; another reading of the table may."""


def _load(
    model: nn.Module, table: Table, network: Table, whose: str, copies: bool, remedy: str
) -> tuple[str, ...]:
    """Load the table as torch does; return sentences on what was not loaded.

    Args:
        copies: give tensors to the model's hooks that these may change.

    Raises:
        _Misfit: the model does not take it.
        InputError: a weight is not a real, finite number.
    """
    for name, value in table.items():
        if isinstance(value, Tensor):
            own = network.get(name)
            real = isinstance(own, nn.Parameter) and (own.is_floating_point() or own.is_complex())
            check_weight(name, value, parameter=real, values=False)
            if isinstance(own, Tensor) and value.is_complex() and not own.is_complex():
                raise InputError(f"{name} is complex in the file and real in {whose}: check --arch")
    given: OrderedDict[str, Any] = OrderedDict(
        (name, value.clone() if copies and isinstance(value, Tensor) else value)
        for name, value in table.items()
    )
    given._metadata = _versions(table)  # type: ignore[attr-defined]
    before = _marks(model)
    takes = inspect.signature(model.load_state_dict).parameters
    strict = {"strict": True} if "strict" in takes else {}
    try:
        with torch.no_grad():
            model.load_state_dict(given, **strict)
    except Exception as error:  # of the user's own code too: of any kind
        faults = _faults(table, network)
        frames = {frame.name for frame in traceback.extract_tb(error.__traceback__)}
        if "set_extra_state" in frames:
            faults = f"set_extra_state refuses what the file has ({_first_line(error)})"
        faults = faults or f"its load_state_dict refuses them ({_first_line(error)})"
        raise _Misfit(f"the weights do not fit {whose}: {faults}; {remedy}") from error
    _finish_lazy(model)
    model.float()
    for name, parameter in model.named_parameters():
        check_weight(name, parameter, parameter.is_floating_point() or parameter.is_complex())
    for name, buffer in model.named_buffers():
        check_weight(name, buffer, parameter=False)
    return _untouched(model, before)


def _network(model: nn.Module, whose: str) -> dict[str, Any]:
    """The model's own state dict: parameters and buffers under all their names, and the extra state of its modules."""
    network = dict(nn.Module.state_dict(model, keep_vars=True))
    for name, value in network.items():
        if isinstance(value, Tensor) and not is_lazy(value) and value.is_meta:
            raise InputError(
                f"{name} of {whose} is on the meta device, without values: make the model on the CPU"
            )
    return network


def _versions(table: Table) -> dict[str, dict[str, Any]]:
    """The versions of the modules that torch saved with a table, for their hooks."""
    versions = getattr(table, "_metadata", None)
    if not isinstance(versions, Mapping):
        return {}
    return {
        module: {key: value for key, value in about.items() if key != "assign_to_params_buffers"}
        for module, about in versions.items()
        if isinstance(module, str) and isinstance(about, Mapping)
    }


def check_fit(model: nn.Module, state: Mapping[str, Any], whose: str) -> None:
    """Refuse a table whose names or shapes are not the model's, which may be on the meta device.

    Raises:
        InputError: with the first few names.
    """
    _check_entries(state)
    faults = _faults(state, nn.Module.state_dict(model))
    if faults:
        raise InputError(f"the weights do not fit {whose}: {faults}; {ARCH}")


def _check_entries(state: Mapping[Any, Any]) -> None:
    for name, value in state.items():
        if not isinstance(name, str) or not (isinstance(value, Tensor) or is_extra(name)):
            raise InputError(
                f"entry {str(name)[:60]!r} of the weights is a {type(value).__name__}, not a tensor"
            )


def _faults(state: Mapping[str, Any], network: Table) -> str:
    """Names and shapes in which a table differs from the network's own; empty if in none."""
    missing = [name for name in network if name not in state]
    unexpected = [name for name in state if name not in network]
    shapes = [
        f"{name} {tuple(state[name].shape)} instead of {tuple(value.shape)}"
        for name, value in network.items()
        if isinstance(value, Tensor)
        and isinstance(state.get(name), Tensor)
        and not (is_lazy(value) or is_lazy(state[name]))
        and state[name].shape != value.shape
    ]
    what = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    return ", ".join(f"{len(found)} {kind} ({_few(found)})" for kind, found in what if found)


def check_size(tables: Mapping[str, Table]) -> None:
    """Refuse tensors that claim far more values than the file holds, by strides of 0 or by sharing.

    Raises:
        InputError: with both numbers.
    """
    claimed, storages = 0, {}
    for table in tables.values():
        for value in table.values():
            if (
                isinstance(value, Tensor)
                and value.layout == torch.strided
                and not (value.is_meta or is_lazy(value))
            ):
                claimed += value.numel() * value.element_size()
                storages[value.untyped_storage()._cdata] = value.untyped_storage().nbytes()
    stored = sum(storages.values())
    if claimed > max(_SMALL, _LARGEST_RATIO * stored):
        raise InputError(
            f"the tensors of the file claim {claimed} bytes and it has {stored}: it is damaged or made to fill memory"
        )


def _extra_states(table: Table, model: nn.Module, trusted: bool) -> tuple[Table, tuple[str, ...]]:
    """The table in which extra state that may be code is replaced by the model's own, and a sentence on each."""
    modules = {
        f"{name}.{EXTRA_STATE}" if name else EXTRA_STATE: module
        for name, module in model.named_modules(remove_duplicate=False)
        if type(module).get_extra_state is not nn.Module.get_extra_state
    }
    held, notes = OrderedDict(table), []
    held._metadata = _versions(table)  # type: ignore[attr-defined]
    for name, module in modules.items():
        if name not in table:
            continue
        own = module.get_extra_state()
        if not trusted and (_may_be_code(table[name]) or _may_be_code(own)):
            # Some modules keep a pickle in it, and reading that would run a file's code.
            held[name] = own
            notes.append(
                f"{name} holds bytes, which may be code: it was left as the network makes it (--trust-pickle loads it)"
            )
        else:
            notes.append(f"{name} was given to {type(module).__name__}.set_extra_state")
    return held, tuple(notes)


def _may_be_code(value: object, depth: int = 8) -> bool:
    if isinstance(value, Tensor):
        return value.dtype == torch.uint8
    if isinstance(value, Mapping):
        return depth == 0 or any(_may_be_code(v, depth - 1) for item in value.items() for v in item)
    if isinstance(value, list | tuple | set):
        return depth == 0 or any(_may_be_code(v, depth - 1) for v in value)
    return value is not None and not isinstance(value, bool | int | float | complex | str)


# What a table lacks, and torch's loader does not know to make


def _completed(table: Table, network: Table, model: nn.Module) -> tuple[Table, tuple[str, ...]]:
    """The table with missing weights computed from the others, and a sentence on each that was computed."""
    new: OrderedDict[str, Any] = OrderedDict(table)
    new._metadata = _versions(table)  # type: ignore[attr-defined]
    notes: list[str] = []
    for name in network:
        if name not in new:
            parts = _parts(name, new, model)
            if parts is not None:
                how, value, used = parts
                new[name] = value
                for part in used:
                    del new[part]
                notes.append(f"{name} was computed from the parts that {how} keeps in the file")
    for names in _aliases(model):
        known = [name for name in names if name in new]
        for name in names if known else ():
            if name in network and name not in new:
                new[name] = new[known[0]]
                notes.append(f"{name} is not in the file: in the network it is the same tensor as {known[0]}")
    for name, own in model.named_buffers(remove_duplicate=False):
        there = new.get(name)
        if name not in network and isinstance(there, Tensor) and _equal(there, own):
            del new[name]
            notes.append(f"{name} of the file is what the network computes itself, and was left out")
    if len(notes) > _SHOWN:
        notes = [*notes[:_SHOWN], f"and {len(notes) - _SHOWN} more of these changes to the file's weights"]
    return new, tuple(notes)


def _parts(name: str, table: Table, model: nn.Module) -> tuple[str, Tensor, list[str]] | None:
    """A weight that is stored in parts: (what stores it so, its value, the names of the parts); None if it is not."""
    holder, _, weight = name.rpartition(".")
    dot = f"{holder}." * bool(holder)
    new = f"{dot}parametrizations.{weight}"

    def tensors(*names: str) -> list[Tensor] | None:
        found = [table.get(each) for each in names]
        plain = [
            t for t in found if isinstance(t, Tensor) and t.is_floating_point() and t.layout == torch.strided
        ]
        return plain if len(plain) == len(names) else None

    for names in ([f"{name}_g", f"{name}_v"], [f"{new}.original0", f"{new}.original1"]):
        pair = tensors(*names)
        if pair and _normed(*pair):
            g, v = pair
            across = [d for d in range(g.ndim) if g.shape[d] != 1]
            whole = g.ndim == 0
            return "weight_norm", torch._weight_norm(v, g, -1 if whole else (across or [0])[0]), names
    for names in (
        [f"{name}_orig", f"{name}_u", f"{name}_v"],
        [f"{new}.original", f"{new}.0._u", f"{new}.0._v"],
    ):
        three = tensors(*names)
        if three:
            w, u, v = three
            kind = type(dict(model.named_modules()).get(holder)).__name__
            for dim in (1, 0) if "ConvTranspose" in kind else (0, 1):
                if w.ndim > dim and u.shape == (w.shape[dim],) and u.numel() * v.numel() == w.numel():
                    flat = w.movedim(dim, 0).reshape(len(u), -1)
                    return "spectral_norm", w / torch.dot(u, torch.mv(flat, v)), names
    original, mask = table.get(f"{name}_orig"), table.get(f"{name}_mask")
    if isinstance(original, Tensor) and isinstance(mask, Tensor) and original.shape == mask.shape:
        return "pruning", original * mask.to(original.dtype), [f"{name}_orig", f"{name}_mask"]
    return None


def _normed(g: Tensor, v: Tensor) -> bool:
    """Whether g can be the norms of v along all dimensions but one, or of all of it."""
    if g.ndim == 0:
        return True
    along = [d for d in range(g.ndim) if g.shape[d] != 1]
    return g.ndim == v.ndim and len(along) <= 1 and all(g.shape[d] == v.shape[d] for d in along)


def _aliases(model: nn.Module) -> list[list[str]]:
    """Groups of names that belong to one tensor of the model: the same object, or the same memory."""
    groups: dict[object, list[str]] = {}
    named = chain(model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    for name, value in named:
        key: object = id(value)
        if not is_lazy(value) and value.layout == torch.strided and value.numel():
            place = value.untyped_storage()._cdata, value.storage_offset()
            key = (*place, value.shape, value.stride(), value.dtype)
        groups.setdefault(key, []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _torn(table: Table, model: nn.Module) -> Iterator[str]:
    """Sentences on names that are one tensor in the network and differ in the file."""
    for names in _aliases(model):
        there = [name for name in names if isinstance(table.get(name), Tensor)]
        other = next((name for name in there[1:] if not _equal(table[name], table[there[0]])), None)
        if other is not None:
            yield (
                f"{there[0]} and {other} differ in the file and are one tensor in the network: the last of them was "
                "loaded, as torch does; check that --arch is the network that was saved"
            )


def _equal(one: Tensor, other: Tensor) -> bool:
    plain = one.layout == other.layout == torch.strided and not (one.is_quantized or other.is_quantized)
    return plain and not (one.is_meta or other.is_meta) and torch.equal(one, other.to(one.dtype))


# Models whose loading is their own


def _marks(model: nn.Module) -> dict[str, tuple[object, ...]]:
    """Marks that show whether a parameter was written to, for models with their own way of loading."""
    own = [type(model).load_state_dict is not nn.Module.load_state_dict]
    own += [type(m)._load_from_state_dict is not nn.Module._load_from_state_dict for m in model.modules()]
    norms = nn.modules.batchnorm._NormBase
    if not own[0] and not any(
        o and not isinstance(m, norms) for o, m in zip(own[1:], model.modules(), strict=True)
    ):
        return {}
    return {name: _mark(value) for name, value in model.named_parameters() if not is_lazy(value)}


def _mark(value: Tensor) -> tuple[object, ...]:
    return id(value), value._version, value.data_ptr(), float(value.detach().real.double().sum())


def _untouched(model: nn.Module, before: dict[str, tuple[object, ...]]) -> tuple[str, ...]:
    """A sentence on parameters that a model's own way of loading has left as they were."""
    left = [n for n, value in model.named_parameters() if n in before and before[n] == _mark(value)]
    if not left:
        return ()
    return (
        f"the network's own load_state_dict accepts the file but leaves {len(left)} parameters as the network "
        f"initialises them ({_few(left)}): their values are not those of the file",
    )


def _finish_lazy(model: nn.Module) -> None:
    """Make lazy layers ordinary ones where the file gave their shapes, as their first input would."""
    for module in model.modules():
        if not isinstance(module, LazyModuleMixin) or module.has_uninitialized_params():  # type: ignore[misc]
            continue
        weight: Any = getattr(module, "weight", None)
        if weight is None:
            weight = getattr(module, "running_mean", None)
        if weight is None or not hasattr(module, "_initialize_hook"):
            continue
        if isinstance(module, nn.Linear):
            x = weight.new_zeros(1, weight.shape[1])
        elif isinstance(module, nn.modules.conv._ConvNd):
            module.in_channels = int(
                weight.shape[0] if module.transposed else weight.shape[1] * module.groups
            )
            x = weight.new_zeros(1, module.in_channels, *[1] * (weight.ndim - 2))
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            module.num_features = len(weight)
            x = weight.new_zeros(1, len(weight))
        else:
            continue
        module._infer_parameters(module, (x,))  # type: ignore[misc]


def check_weight(name: str, value: Tensor, parameter: bool = True, values: bool = True) -> None:
    """Raise InputError for a parameter that is not real, dense and finite, or a buffer with NaN.

    Args:
        name: for errors.
        value: of a parameter or buffer.
        parameter: whether it is one whose numbers must be finite.
        values: whether the numbers are looked at; else the type alone.
    """
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
    if values and (value.is_floating_point() or value.is_complex()):
        # A buffer may be a mask of -inf, which is no work of training; a normalisation's statistics are.
        finite = parameter or name.endswith(("running_mean", "running_var"))
        if _sound(value.detach(), finite):
            return
        # In float32, where a weight will live: a float64 may be too large for it.
        plain = value.detach().float() if value.is_floating_point() else value.detach()
        bad = int((~torch.isfinite(plain) if finite else torch.isnan(plain)).sum())
        if bad:
            raise InputError(
                f"{name} has {bad} of {plain.numel()} values that are {'NaN or infinite' if finite else 'NaN'}: "
                "training diverged or the file is damaged; save a healthy model"
            )


def _sound(value: Tensor, finite: bool) -> bool:
    """Whether the extremes show, without a copy of what may be large, that all values are finite, or none is NaN."""
    if value.dtype not in (torch.float32, torch.bfloat16, torch.float16) or value.numel() == 0:
        return False
    extremes = torch.stack(torch.aminmax(value))  # NaN if one value is
    return bool(extremes.isfinite().all() if finite else ~extremes.isnan().any())


def check_model(model: nn.Module) -> None:
    """Check every parameter and buffer of a model as `check_weight` does."""
    for name, weight in model.named_parameters():
        check_weight(name, weight)
    for name, buffer in model.named_buffers():
        check_weight(name, buffer, parameter=False)


def _conversions(table: Table, network: Table) -> tuple[str, ...]:
    """`conversion_notes` on the weights of a table that are numbers in the network, too."""
    found = {
        name: value
        for name, value in table.items()
        if isinstance(value, Tensor)
        and not is_extra(name)
        and (name not in network or (isinstance(network[name], Tensor) and network[name].is_floating_point()))
    }
    return conversion_notes(found)


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


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    line = lines[1] if len(lines) > 1 and lines[0].startswith("Error(s) in loading") else (lines or [""])[0]
    return f"{type(error).__name__}: {line[:200]}"
