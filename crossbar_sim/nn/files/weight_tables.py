"""Tables of weights in a loaded file: finding them, choosing the one of a network, and matching its names."""

import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from crossbar_sim.errors import InputError

Table = Mapping[str, Any]

_USUAL = ("state_dict", "model_state_dict", "model")
# Wrappers of a module put these into its names: torch.compile, FSDP, checkpointed activations; and DDP, in front.
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_SILENT = ("module", *_WRAPPERS)
# torch.optim.swa_utils.AveragedModel wraps the model too, and counts beside it.
_COUNTER = "n_averaged"
EXTRA_STATE = "_extra_state"
_OPTIMISER = re.compile(r"optim|sched|scaler", re.IGNORECASE)
_AVERAGED = re.compile(
    r"(?<![a-z])(ema|swa|avg|averaged?|averages|averaging|shadow|polyak|teacher)(?![a-z])", re.I
)
_DEPTH, _ENTRIES = 4, 1000
_NAMES_SHOWN = 6
TOP = "."
"""What `--weights` calls the tensors at the top of a file that holds tables too."""


def tables(content: object) -> dict[str, Table]:
    """Every table of tensors in a file, by its place there: "", "state_dict", "ema.module".

    Raises:
        InputError: there is none.
    """
    found: dict[str, Table] = {}
    if isinstance(content, Mapping):
        _collect(content, "", _DEPTH, found)
        if found and "" not in found:
            loose = {
                n: v for n, v in content.items() if isinstance(n, str) and isinstance(v, Tensor) and v.ndim
            }
            if loose:
                found[TOP] = loose
    if not found:
        _refuse(content)
    return found


def _collect(value: Mapping[Any, Any], path: str, depth: int, found: dict[str, Table]) -> None:
    if _is_table(value):
        found[path] = value
    elif depth and len(value) <= _ENTRIES:
        for key, item in value.items():
            if isinstance(item, Mapping) and not _OPTIMISER.search(str(key)):
                _collect(item, f"{path}.{key}" if path else str(key), depth - 1, found)


def _is_table(value: Mapping[Any, Any]) -> bool:
    named = all(
        isinstance(name, str) and (isinstance(v, Tensor) or is_extra(name)) for name, v in value.items()
    )
    return named and any(isinstance(v, Tensor) for v in value.values())


def is_extra(name: str) -> bool:
    """Whether a name is one of a module's extra state, which may be of any type."""
    return name == EXTRA_STATE or name.endswith(f".{EXTRA_STATE}")


def _refuse(content: object) -> None:
    """Raise the InputError for a file without any table of weights."""
    if not isinstance(content, Mapping):
        raise InputError(
            f"the file holds a {type(content).__name__}, not a table of weights: save one with "
            "torch.save(model.state_dict(), ...)"
        )
    usual = next((content[key] for key in _USUAL if isinstance(content.get(key), Mapping)), content)
    if not usual:
        raise InputError("the file holds an empty table of weights: save the trained model's state_dict()")
    name, value = next((n, v) for n, v in usual.items() if not (isinstance(n, str) and isinstance(v, Tensor)))
    raise InputError(
        f"the file's entry {str(name)[:60]!r} ({type(value).__name__}) is not a tensor with a name: save the weights "
        "alone with torch.save(model.state_dict(), ...), or under the key 'state_dict'"
    )


def likely(found: Mapping[str, Table]) -> str:
    """Where the weights of a file most probably are, before their network is known."""
    return next((key for key in ("", *_USUAL) if key in found), next(iter(found)))


def selected(found: Mapping[str, Table], key: str) -> Table:
    """The table that `--weights` selects: by its place in the file, or by the prefix of its names.

    Raises:
        InputError: there is none.
    """
    if key in found:
        return found[key]
    begins = key.rstrip(".") + "."
    for table in found.values():
        part = renamed(table, lambda name: name.removeprefix(begins) if name.startswith(begins) else None)
        if part:
            return part
    below = [path for path in found if path.startswith(begins)]
    if len(below) == 1:
        return found[below[0]]
    there = ", ".join(path[:60] or "one table without a name" for path in list(found)[:_NAMES_SHOWN])
    raise InputError(f"the file has no weights under {key[:60]!r}: it holds {there}")


def chosen(content: object, found: Mapping[str, Table], network: Table) -> tuple[str, tuple[str, ...]]:
    """The place of the table that fits a network, and sentences for the user.

    Args:
        content: what the file holds.
        found: its tables, see `tables`.
        network: the network's own table.

    Raises:
        InputError: two tables that differ fit, such as raw and averaged weights.
    """
    fitting = [path for path, table in found.items() if _fits(table, network)]
    best = likely({path: found[path] for path in fitting} or found)
    if not fitting:  # hooks of the network may give it other names: then what looks like the best one
        fitting = [path for path in found if path == best or _fits(found[path], found[best])]
        usual = best in ("", *_USUAL)
        fitting = fitting if usual else [path for path in found if "." not in path]
    rivals = [path for path in fitting if path != best and not _same(found[path], found[best])]
    if rivals:
        names = [best, *rivals]
        raise InputError(
            f"the file holds {len(names)} tables of weights ({_listed(names)}), which are not the same: "
            f"choose one with --weights, such as --weights {rivals[0][:60]}"
        )
    notes = [] if best in ("", *_USUAL) else [f"the weights are those under {best[:60]!r} in the file"]
    left = [key for key in _averaged(content) if key not in found]
    if left:
        notes.append(
            f"the file also has {_listed(left)}, which may be averaged weights but is no table of named tensors: the "
            f"weights that were loaded are {f'those under {best[:60]!r}' if best else 'the others'}"
        )
    return best, tuple(notes)


def _listed(names: Collection[str]) -> str:
    shown = [name[:60] for name in names][:_NAMES_SHOWN]
    return ", ".join(shown) + (", ..." if len(names) > _NAMES_SHOWN else "")


def _averaged(content: object) -> Iterator[str]:
    """The entries of a file that hold tensors and whose names say that they are averaged weights."""
    if not isinstance(content, Mapping) or len(content) > _ENTRIES:
        return
    for key, value in content.items():
        parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
        deeper = any(
            isinstance(v, Tensor) or (isinstance(v, list) and v and isinstance(v[0], Tensor)) for v in parts
        )
        if _AVERAGED.search(str(key).replace("_", " ")) and deeper:
            yield str(key)


def _fits(table: Table, network: Table) -> bool:
    """Whether at least half of the network's names are in the table, unchanged or with a prefix."""
    return any(2 * count >= len(network) for count in _prefixes(table, network).values())


def _same(one: Table, other: Table) -> bool:
    """Whether two tables hold the same numbers under the same names."""
    if one.keys() != other.keys():
        return False
    pairs = ((one[name], other[name]) for name in one)
    return all(
        isinstance(a, Tensor)
        and isinstance(b, Tensor)
        and a.layout == b.layout == torch.strided
        and not (a.is_quantized or b.is_quantized)
        and a.dtype == b.dtype
        and torch.equal(a, b)
        for a, b in pairs
    )


def _prefixes(table: Iterable[str], network: Collection[str]) -> dict[str, int]:
    """The prefixes of the network's names in the table, and how many names have each."""
    counts: dict[str, int] = {}
    for name in table:
        parts = [part for part in name.split(".") if part not in _WRAPPERS]
        for k in range(len(parts)):
            if ".".join(parts[k:]) in network:
                before = "".join(f"{part}." for part in parts[:k])
                counts[before] = counts.get(before, 0) + 1
    return counts


def renamed(table: Table, name_of: Callable[[str], str | None]) -> Table:
    """The table with other names (an entry whose name is None is left out), and torch's versions of its modules."""
    new: OrderedDict[str, Any] = OrderedDict()
    for name, value in table.items():
        other = name_of(name)
        if other is not None:
            new[other] = value
    versions = getattr(table, "_metadata", None)
    if isinstance(versions, Mapping):
        kept = ((name_of(f"{module}.x" if module else "x"), about) for module, about in versions.items())
        new._metadata = {  # type: ignore[attr-defined]
            other.removesuffix("x").removesuffix("."): about for other, about in kept if other is not None
        }
    return new


def readings(table: Table, network: Table, whose: str) -> list[tuple[Table, str]]:
    """The table with prefixes of its names removed or added, likeliest form first; each with a sentence on the change.

    Args:
        table: of the file.
        network: the network's own.
        whose: names the network in errors.

    Raises:
        InputError: the network's names are there twice, behind different prefixes.
    """
    found = [(table, "")]
    plain = renamed(table, _unwrapped)
    if plain.keys() != table.keys() and len(plain) == len(table):
        found.append((plain, ""))
    bare = plain
    while bare and all(name.startswith(f"{_SILENT[0]}.") for name in bare if name != _COUNTER):
        bare = renamed(bare, lambda name: None if name == _COUNTER else name.removeprefix(f"{_SILENT[0]}."))
        found.append((bare, ""))
    prefixes = {p: n for p, n in _prefixes(table, network).items() if 2 * n >= len(network)}
    best = max(prefixes.values(), default=0)
    # A name of the network may end as another one does ("body.weight", "weight"): the most names decide.
    fitting = [prefix for prefix, count in prefixes.items() if count == best]
    for prefix in () if "" in fitting else fitting:
        inside = renamed(plain, lambda n, p=prefix: n.removeprefix(p) if n.startswith(p) else None)  # type: ignore[misc]
        # Names of other shapes under the prefix are those of another network.
        if len(fitting) > 1 and not _shaped(inside, network):
            continue
        left = [name for name in plain if not name.startswith(prefix) and name != _COUNTER]
        if left:
            rivals = [p for p in fitting if p != prefix and any(n.startswith(p) for n in left)]
            what = f"names of {whose} begin with {prefix[:60]!r}" + "".join(
                f" and with {p[:60]!r}" for p in rivals[:3]
            )
            raise InputError(
                f"the weights do not fit {whose} unchanged: {len(left)} of the {len(table)} names are others "
                f"({_listed(left)}), and the {what}: choose with --weights {prefix.rstrip('.')[:60]}"
                + "".join(f" or --weights {p.rstrip('.')[:60]}" for p in rivals[:3])
            )
        silent = all(part in _SILENT for part in prefix.rstrip(".").split("."))
        note = "" if silent else f"the names of the weights begin with {prefix[:60]!r}: it was taken off"
        found.append((inside, note))
    for wrapper in _SILENT:
        # The factory wraps its network, and the file is of the network alone.
        if network and all(name.startswith(f"{wrapper}.") for name in network):
            found.append((renamed(table, lambda name, w=wrapper: f"{w}.{name}"), ""))  # type: ignore[misc]
    return sorted(found, key=lambda reading: (-len(reading[0].keys() & network.keys()), len(reading[0])))


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _shaped(table: Table, network: Table) -> bool:
    """Whether tensors of the same name have the same shape."""
    pairs = ((table[name], network[name]) for name in table.keys() & network.keys())
    return all(
        a.shape == b.shape
        for a, b in pairs
        if isinstance(a, Tensor) and isinstance(b, Tensor) and not (is_lazy(a) or is_lazy(b))
    )


def prefix_of(names: Collection[str], state: Mapping[str, Any]) -> str:
    """The common prefix of all `names` in `state`, such as "model."; empty if there is none."""
    first = next(iter(names), None)
    if first is None or first in state:
        return ""
    found = (name.removesuffix(first) for name in state if name.endswith(f".{first}"))
    return next((prefix for prefix in found if all(prefix + name in state for name in names)), "")
