"""A table of weights, found in what torch.load returned, and the names that it has in a network."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from crossbar_sim.errors import InputError

_NESTED = ("state_dict", "model_state_dict", "model")
# DistributedDataParallel and torch.compile wrap the model and so prefix its keys.
_PREFIXES = ("module.", "_orig_mod.")
# torch.optim.swa_utils.AveragedModel wraps the model too, and counts beside it.
_COUNTER = "n_averaged"


def unwrap(content: object) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The table of tensors in `content`, without wrapping keys and prefixes, and sentences on where it was.

    Raises:
        InputError: there is none, or more than one.
    """
    table, notes = _nested(content) if isinstance(content, Mapping) else (content, ())
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
    if len(state) > 1 and all(name.startswith(_PREFIXES[0]) for name in state if name != _COUNTER):
        state.pop(_COUNTER, None)
    for _ in _PREFIXES:
        for prefix in _PREFIXES:
            if all(name.startswith(prefix) for name in state):
                state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state, notes


def _nested(content: Mapping[Any, Any]) -> tuple[Any, tuple[str, ...]]:
    """The table among the file's entries, or all of them where they are one, or none is."""
    usual = [key for key in _NESTED if isinstance(content.get(key), Mapping)]
    for key in usual:
        if _is_table(content[key]):
            return content[key], ()
    tables = [key for key, value in content.items() if _is_table(value)]
    if len(tables) > 1:
        shown = ", ".join(str(key)[:60] for key in tables[:3])
        raise InputError(
            f"the file holds {len(tables)} tables of weights ({shown}): save the one that is meant with "
            "torch.save(model.state_dict(), ...)"
        )
    if tables:
        return content[tables[0]], (f"the weights are those under {str(tables[0])[:60]!r} in the file",)
    return content[usual[0]] if usual else content, ()


def _is_table(value: object) -> bool:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(v, Tensor) for name, v in value.items())
    )


def prefix_of(names: Collection[str], state: Mapping[str, Any]) -> str:
    """What stands before every one of `names` in `state`, such as "model."; empty if it is nothing, or not the same."""
    first = next(iter(names), None)
    if first is None or first in state:
        return ""
    found = (name.removesuffix(first) for name in state if name.endswith(f".{first}"))
    return next((prefix for prefix in found if all(prefix + name in state for name in names)), "")
